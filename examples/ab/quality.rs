//! What a variant says, against the base.

use std::fs;

use common::{Result, add_rpc_servers};
use llama_moe::measure::quality::{
    Chunks, Embeddings, GreedyOutput, Task, TaskResults, compare, record, run_tasks,
};
use llama_moe::measure::{Length, generate};
use llama_moe::{Backend, ChatParams, ContextParams, Error, Model, PoolingType, Sampler};
use serde::{Deserialize, Serialize};

use crate::job::QualityJob;
use crate::prompts::PROMPTS;
use crate::results::Quality;
use crate::trial::prompts;
use crate::worker::Stages;

/// Tokens that a task and its reply have at most.
const TASK_N_CTX: u32 = 4096;
/// Tokens of a reply to a task, at most.
const LONGEST_REPLY: u32 = 1024;

/// What the base said, for the others to be held against.
#[derive(Serialize, Deserialize)]
struct Outputs {
    greedy: Vec<GreedyOutput>,
    embeddings: Option<Embeddings>,
}

/// Measures the quality of a variant.
pub fn measure(backend: &Backend, job: &QualityJob, stages: &mut Stages) -> Result<Quality> {
    let (load, settings) = (&job.load, &job.load.settings);
    add_rpc_servers(backend, &settings.rpc)?;
    let model = load.model(backend, stages)?;

    stages.begin("measuring the perplexity")?;
    let n_ctx = settings.quality_n_ctx.ok_or("quality is not asked for")?;
    let mut context = model.context(load.loading.context(settings.context(n_ctx)))?;
    let (perplexity, divergence) = if job.is_base {
        let chunks = Chunks::new(&model.vocab(), &load.text()?, n_ctx)?;
        let chunks = chunks.truncated(settings.quality_chunks.unwrap_or(usize::MAX));
        (record(&mut context, &chunks, &job.logits)?, None)
    } else {
        let divergence = compare(&mut context, &job.logits)?;
        (divergence.variant.clone(), Some(divergence))
    };
    drop(context);

    stages.begin("generating greedily")?;
    let params = settings.context(settings.n_ctx);
    let mut context = model.context(load.loading.context(params))?;
    let mut sampler = Sampler::greedy()?;
    let mut greedy = Vec::with_capacity(settings.prompt_tokens.len());
    for prompt in prompts(load, &model)? {
        let length = Length::UpTo(settings.generate);
        let run = generate(&mut context, &mut sampler, &prompt, length)?;
        greedy.push(GreedyOutput::new(&model.vocab(), &run.tokens)?);
    }
    drop(context);

    stages.begin("computing embeddings")?;
    let ours = Outputs {
        greedy,
        embeddings: embeddings(&model, settings.context(0))?,
    };
    let (greedy, embeddings) = if job.is_base {
        fs::write(&job.outputs, serde_json::to_vec(&ours)?)
            .map_err(|error| format!("'{}': {error}", job.outputs.display()))?;
        (Vec::new(), None)
    } else {
        let base: Outputs = serde_json::from_slice(&fs::read(&job.outputs)?)?;
        let pairs = base.greedy.iter().zip(&ours.greedy);
        let greedy = pairs.map(|(base, ours)| base.compare(ours)).collect();
        let embeddings = match (base.embeddings, ours.embeddings) {
            (Some(base), Some(ours)) => Some(base.compare(&ours)?),
            _ => None,
        };
        (greedy, embeddings)
    };
    Ok(Quality {
        perplexity,
        divergence,
        greedy,
        embeddings,
        tasks: tasks(&model, job, stages)?,
    })
}

/// How many of the tasks the model solves; `None` where there are none.
fn tasks(model: &Model, job: &QualityJob, stages: &mut Stages) -> Result<Option<TaskResults>> {
    let settings = &job.load.settings;
    let Some(path) = &settings.tasks else {
        return Ok(None);
    };
    stages.begin("solving tasks")?;
    let n_ctx = match model.n_ctx_train() {
        0 => TASK_N_CTX,
        trained => trained.min(TASK_N_CTX),
    };
    let params = ChatParams::default()
        .with_context(job.load.loading.context(settings.context(n_ctx)))
        .with_max_tokens(LONGEST_REPLY);
    let results = run_tasks(
        &mut model.chat(params)?,
        &Task::read_all(path)?,
        job.samples,
        settings.seed,
        job.allow_commands,
    )?;
    Ok(Some(results))
}

/// The prompts' embeddings; `None` for a model whose context gives none.
fn embeddings(model: &Model, params: ContextParams) -> Result<Option<Embeddings>> {
    let vocab = model.vocab();
    let lengths = PROMPTS
        .iter()
        .map(|text| Ok(vocab.tokenize(text, true, false)?.len()));
    let longest = lengths.collect::<Result<Vec<_>>>()?.into_iter().max();
    let n = u32::try_from(longest.unwrap_or(1))?;
    let params = params
        .with_n_ctx(n)
        .with_n_batch(n)
        .with_n_ubatch(n)
        .with_embeddings(true)
        .with_pooling_type(PoolingType::Mean);
    let mut context = match model.context(params) {
        Ok(context) => context,
        Err(Error::Context(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(Embeddings::new(&mut context, &PROMPTS)?))
}
