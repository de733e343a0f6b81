//! What is measured, and on what: worked out before anything is loaded, in a process that then
//! ends, since a worker serves one client at a time.

use std::fs;

use common::{Result, add_rpc_servers};
use llama_moe::gguf::Header;
use llama_moe::measure::quality::{Check, Chunks, Task};
use llama_moe::measure::{FileRecord, HashCache, MemorySplit, Provenance, prompt, sha256};
use llama_moe::{Backend, ChatTemplate, DryRun, Model, ModelParams, MoeCacheLayout, Preview};

use crate::bandwidth::{bandwidth, ceiling};
use crate::job::{PrepareJob, Prepared, PreparedVariant};
use crate::notes::notes;
use crate::options::{cache_options, options};
use crate::results::{Bandwidth, Ceiling, MoeCache, Settings};
use crate::settings::settle;
use crate::variant::{Choice, Loading, Variant};
use crate::worker::Stages;

/// What is said of a plan that needs no cache.
const CACHE_LEFT_OUT: &str = "no cache of experts: all experts that could be cached are on devices";

/// Checks everything that can be checked, and works out the rest.
pub fn prepare(backend: &Backend, job: PrepareJob, stages: &mut Stages) -> Result<Prepared> {
    stages.begin("reading the model's header")?;
    let header = Header::read(job.model.as_path())?;
    let mut about = job.notes.clone();
    let settings = settle(&job, &header, &mut about)?;
    check_text(backend, &job, &settings)?;

    stages.begin("asking the workers")?;
    add_rpc_servers(backend, &job.rpc)?;
    let bandwidth = bandwidth(backend, &mut about, stages)?;
    stages.begin("working out the rules")?;
    let variants = job
        .variants
        .iter()
        .map(|variant| {
            prepare_variant(backend, &header, &job, &settings, &bandwidth, variant)
                .map_err(|error| format!("--variant {}: {error}", variant.name).into())
        })
        .collect::<Result<Vec<_>>>()?;

    stages.begin("hashing the model")?;
    let mut known = HashCache::open(&job.hashes)?;
    let mut provenance = Provenance::of(backend, job.model.as_path(), Some(&mut known))?;
    if let Some(commit) = &job.commit {
        provenance = provenance.with_commit(commit);
    }
    let sources = job.sources.iter();
    let sources: Vec<FileRecord> = sources
        .map(|path| FileRecord::of(path, Some(&mut known)))
        .collect::<Result<_, _>>()?;
    provenance = provenance.with_sources(sources);

    about.extend(notes(backend, &variants));
    let quality = job
        .quality
        .as_ref()
        .filter(|quality| quality.tasks.is_some());
    let tasks = quality.and_then(|quality| quality.tasks.as_deref());
    Ok(Prepared {
        samples: quality.map(|quality| quality.samples),
        tasks_sha256: tasks.map(sha256).transpose()?,
        provenance,
        settings,
        bandwidth,
        notes: about,
        variants,
    })
}

/// Whether the text has the tokens that are needed, and the tasks can be run: with the vocabulary
/// alone.
fn check_text(backend: &Backend, job: &PrepareJob, settings: &Settings) -> Result<()> {
    let text = fs::read_to_string(&job.text)?;
    let params = ModelParams::default().with_vocab_only(true);
    let model = Model::load(backend, job.model.as_path(), params)?;
    let vocab = model.vocab();
    prompt(&vocab, &text, 1)?;
    if let Some(n_ctx) = settings.quality_n_ctx {
        Chunks::new(&vocab, &text, n_ctx)
            .map_err(|error| format!("{error}; --text, --quality-ctx or --no-quality"))?;
    }
    let Some(quality) = &job.quality else {
        return Ok(());
    };
    if let Some(path) = &quality.tasks {
        let tasks = Task::read_all(path)?;
        let is_command = |task: &&Task| matches!(task.check, Check::Command { .. });
        if let Some(task) = tasks.iter().find(is_command)
            && !quality.allow_commands
        {
            return Err(format!(
                "--tasks {}: '{}' runs a command on what the model wrote, which can do anything \
                 that you can; --allow-commands lets it",
                path.display(),
                task.name
            )
            .into());
        }
        ChatTemplate::of(&model)?;
    }
    Ok(())
}

fn prepare_variant(
    backend: &Backend,
    header: &Header,
    job: &PrepareJob,
    settings: &Settings,
    bandwidth: &Bandwidth,
    variant: &Variant,
) -> Result<PreparedVariant> {
    let size = variant.moe_cache_size();
    let context = settings.context(settings.n_ctx).with_moe_cache_size(size);
    let (preview, cache, command_line, n_gpu_layers, tensor_split) =
        match variant.choose(backend, header, context.clone())? {
            Choice::Rules(params, n_gpu_layers) => {
                let preview = Preview::of_header(backend, header, &params)?;
                let n_blocks = header.n_blocks();
                let mut options = options(backend, job, settings, &preview, n_blocks, n_gpu_layers);
                options += &cache_options(size);
                let cache = match size {
                    0 => None,
                    size => Some(preview.moe_cache(size)?),
                };
                (preview, cache, options, n_gpu_layers, Vec::new())
            }
            Choice::Plan(plan) => (
                plan.preview().clone(),
                plan.moe_cache().cloned(),
                plan.command_line(),
                Some(plan.n_gpu_layers()),
                plan.tensor_split().to_vec(),
            ),
        };
    let loading = Loading {
        n_gpu_layers,
        tensor_split,
        overrides: overrides(&preview),
        moe_cache: cache.as_ref().map_or(0, MoeCacheLayout::size),
    };
    let mut placement = placement(&preview);
    if size > 0 && cache.is_none() {
        placement.push(CACHE_LEFT_OUT.to_owned());
    }
    let context = loading.context(context);
    let dry_run = DryRun::of_header(backend, header, &loading.params()?, &context)?;
    let entries = dry_run.entries().iter();
    Ok(PreparedVariant {
        variant: variant.clone(),
        placement,
        command_line: Some(command_line),
        ceiling: Some(match cache {
            None => ceiling(backend, &preview, settings, bandwidth),
            // Hits are not read from system memory, and how many there are is not known before.
            Some(_) => Ceiling::none(settings),
        }),
        moe_cache: cache.as_ref().map(MoeCache::of),
        dry_run: Some(entries.map(MemorySplit::from).collect()),
        loading,
    })
}

impl MoeCache {
    fn of(layout: &MoeCacheLayout) -> Self {
        let groups = layout.groups().iter();
        Self {
            size: layout.size(),
            bytes: layout.bytes(),
            n_slots: groups.clone().map(|group| u64::from(group.n_slots)).sum(),
            n_experts: groups.map(|group| group.n_experts_total()).sum(),
            not_cached: layout.obstacles().iter().map(ToString::to_string).collect(),
        }
    }
}

impl Ceiling {
    /// No bound at all.
    fn none(settings: &Settings) -> Self {
        Self {
            decode: None,
            prefill: vec![None; settings.prompt_tokens.len()],
        }
    }
}

/// Patterns with their buffer types, as the loader is given them.
pub fn overrides(preview: &Preview) -> Vec<(String, String)> {
    let rules = preview.rules().iter();
    rules
        .map(|rule| (rule.pattern.clone(), rule.target.clone()))
        .collect()
}

fn placement(preview: &Preview) -> Vec<String> {
    let rules = preview.rules().iter();
    rules
        .map(|rule| {
            format!(
                "{}: {} tensors, {:.2} MiB",
                rule.rule,
                rule.tensors.len(),
                rule.bytes as f64 / f64::from(1 << 20)
            )
        })
        .collect()
}
