//! What is measured, and on what: worked out before anything is loaded, in a process that then
//! ends, since a worker serves one client at a time.

use std::fs;

use common::{Result, add_rpc_servers};
use llama_moe::gguf::Header;
use llama_moe::measure::quality::{Check, Chunks, Task};
use llama_moe::measure::{FileRecord, HashCache, Provenance, prompt, sha256, transfer_rates};
use llama_moe::{Backend, ChatTemplate, Model, ModelParams, Plan, Preview, host_bandwidth};

use crate::job::{PrepareJob, Prepared, PreparedVariant};
use crate::results::{Bandwidth, Ceiling, Settings};
use crate::settings::settle;
use crate::variant::{Choice, Loading, Variant};
use crate::worker::Stages;

/// Tokens that llama.cpp computes at once by default.
const N_UBATCH: u32 = 512;

/// Checks everything that can be checked, and works out the rest.
pub fn prepare(backend: &Backend, job: PrepareJob, stages: &mut Stages) -> Result<Prepared> {
    stages.begin("reading the model's header")?;
    let header = Header::read(job.model.as_path())?;
    let mut notes = job.notes.clone();
    let settings = settle(&job, &header, &mut notes)?;
    check_text(backend, &job, &settings)?;

    stages.begin("asking the workers")?;
    add_rpc_servers(backend, &job.rpc)?;
    let bandwidth = bandwidth(backend, &mut notes, stages)?;
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

    add_notes(&mut notes, backend, &job, &provenance, &variants);
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
        notes,
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

fn bandwidth(backend: &Backend, notes: &mut Vec<String>, stages: &mut Stages) -> Result<Bandwidth> {
    stages.begin("measuring the bandwidth of memory")?;
    let host = host_bandwidth();
    let mut devices = Vec::new();
    for device in backend.gpus() {
        let name = device.name();
        stages.begin(format!("measuring how fast memory gets to {name}"))?;
        match transfer_rates(&[device]) {
            Ok(rates) => devices.extend(rates),
            Err(error) => notes.push(format!(
                "How fast memory gets to {name} was not measured: {error}."
            )),
        }
    }
    Ok(Bandwidth { host, devices })
}

/// The bounds for one sequence, and for prompts as long as the longest.
fn ceiling(
    backend: &Backend,
    preview: &Preview,
    settings: &Settings,
    bandwidth: &Bandwidth,
) -> Ceiling {
    let longest = settings.prompt_tokens.iter().max().copied();
    let longest = u32::try_from(longest.unwrap_or(1)).unwrap_or(u32::MAX);
    let n_ubatch = settings.n_ubatch.unwrap_or(N_UBATCH).min(longest);
    let limits = preview.limits(n_ubatch, bandwidth.host);
    // Experts go to a GPU of this machine, which computes with them; to a worker they do not.
    let local = backend.gpus().into_iter();
    let local = local.filter(|device| device.backend_name() != "RPC");
    let rates = local.filter_map(|device| {
        let name = device.name();
        let rate = bandwidth.devices.iter().find(|rate| rate.device == name)?;
        Some(rate.page_locked.unwrap_or(rate.pageable))
    });
    let streamed = rates
        .reduce(f64::max)
        .and_then(|rate| limits.prefill_streamed(rate));
    Ceiling {
        decode: limits.decode,
        prefill: streamed.or(limits.prefill),
    }
}

fn prepare_variant(
    backend: &Backend,
    header: &Header,
    job: &PrepareJob,
    settings: &Settings,
    bandwidth: &Bandwidth,
    variant: &Variant,
) -> Result<PreparedVariant> {
    let context = settings.context(settings.n_ctx);
    Ok(match variant.rules.choose(backend, header, context)? {
        Choice::Rules(params, n_gpu_layers) => {
            let preview = Preview::of_header(backend, header, &params)?;
            PreparedVariant {
                variant: variant.clone(),
                placement: placement(&preview),
                command_line: Some(command_line(
                    backend,
                    header,
                    job,
                    settings,
                    &preview,
                    n_gpu_layers,
                )),
                ceiling: Some(ceiling(backend, &preview, settings, bandwidth)),
                loading: Loading {
                    n_gpu_layers,
                    tensor_split: Vec::new(),
                    overrides: overrides(&preview),
                },
            }
        }
        Choice::Plan(plan) => {
            let plan: &Plan = &plan;
            PreparedVariant {
                variant: variant.clone(),
                placement: placement(plan.preview()),
                command_line: Some(plan.command_line()),
                ceiling: Some(ceiling(backend, plan.preview(), settings, bandwidth)),
                loading: Loading {
                    n_gpu_layers: Some(plan.n_gpu_layers()),
                    tensor_split: plan.tensor_split().to_vec(),
                    overrides: overrides(plan.preview()),
                },
            }
        }
    })
}

fn overrides(preview: &Preview) -> Vec<(String, String)> {
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

/// The options of llama.cpp's own programs for the same, for a POSIX shell.
fn command_line(
    backend: &Backend,
    header: &Header,
    job: &PrepareJob,
    settings: &Settings,
    preview: &Preview,
    n_gpu_layers: Option<u32>,
) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let mut options = vec![
        format!("-m {}", quoted(&job.model.to_string_lossy())),
        "-fit off".to_owned(),
    ];
    if !job.rpc.is_empty() {
        options.push(format!("--rpc {}", job.rpc.join(",")));
    }
    let all = header.n_blocks() + 1;
    if backend.gpus().is_empty() {
        options.push("-dev none".to_owned());
    } else {
        options.push(format!("-ngl {}", n_gpu_layers.map_or(all, |n| n.min(all))));
    }
    let rules: Vec<String> = overrides(preview)
        .iter()
        .map(|(pattern, buffer)| format!("{}={buffer}", pattern.replace(',', r"\,")))
        .collect();
    if !rules.is_empty() {
        options.push(format!("-ot {}", quoted(&rules.join(","))));
    }
    options.push(format!("-c {}", settings.n_ctx));
    if let Some(n) = settings.n_ubatch {
        options.push(format!("-ub {n}"));
    }
    if let Some(n) = settings.n_threads {
        options.push(format!("-t {n}"));
    }
    options.push(format!("-lm {}", preview.load_mode()));
    options.join(" ")
}

/// What a reader has to know before the numbers.
fn add_notes(
    notes: &mut Vec<String>,
    backend: &Backend,
    job: &PrepareJob,
    provenance: &Provenance,
    variants: &[PreparedVariant],
) {
    if job.repetitions < 3 {
        notes.push(format!(
            "Quick: {} of each variant says little or nothing about how its numbers scatter.",
            match job.repetitions {
                1 => "one repetition".to_owned(),
                n => format!("{n} repetitions"),
            }
        ));
    }
    if provenance.debug_build {
        notes.push("This program was compiled without optimisation; llama.cpp was not.".to_owned());
    }
    if provenance.model.name.contains("(synthetic)") {
        notes.push(
            "The weights are synthetic: memory and speed are those of a model of this shape, but \
             its router spreads tokens over the experts more evenly than a trained one, and what \
             it says means nothing."
                .to_owned(),
        );
    }
    if backend.gpus().is_empty() {
        notes.push(
            "There is no device beside the CPU: rules that keep experts in system memory change \
             nothing but how the file is read."
                .to_owned(),
        );
    }
    if backend
        .gpus()
        .iter()
        .any(|device| device.backend_name() == "RPC")
    {
        notes.push(
            "Devices of workers are used: their transfers go over a network, and their memory is \
             not watched while the model runs."
                .to_owned(),
        );
    }
    for (index, variant) in variants.iter().enumerate() {
        let mut others = variants[..index].iter();
        if let Some(other) = others.find(|other| other.loading == variant.loading) {
            notes.push(format!(
                "{} and {} are loaded in the same way: between them nothing but chance differs.",
                other.variant.name, variant.variant.name
            ));
        }
    }
    notes.push(
        "Tokens are those of the model's own tokenizer. After each prompt as many are generated \
         as asked for, past a token that would end the reply."
            .to_owned(),
    );
    if job.quality.is_none() {
        notes.push("Quality was not measured.".to_owned());
    }
}
