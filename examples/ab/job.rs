//! What a process is told to do, and what it answers: each a line of JSON.

use std::path::PathBuf;

use llama_moe::measure::MemorySplit;
use serde::{Deserialize, Serialize};

use crate::results::{Bandwidth, Ceiling, Failure, MoeCache, Settings};
use crate::variant::{Loading, Variant};

/// What one process does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Job {
    /// Works out what is measured, and on what. Nothing is loaded.
    Prepare(PrepareJob),
    /// Loads a variant and lets it compute, for files to be read once.
    WarmUp(Load),
    /// Measures a variant.
    Trial(Load),
    /// Holds a variant against the base.
    Quality(QualityJob),
}

/// A process's own words on its standard output, until `Done` or `Failed`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// What it is doing now.
    Stage(String),
    /// What came of it.
    Done(serde_json::Value),
    /// Why there is no result.
    Failed(Failure),
}

/// What was asked for, with what the model decides still open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrepareJob {
    /// The model's file.
    pub model: PathBuf,
    /// The file that prompts are cut from.
    pub text: PathBuf,
    /// What a reader has to know that is known already.
    pub notes: Vec<String>,
    /// The variants, the base first.
    pub variants: Vec<Variant>,
    /// Workers.
    pub rpc: Vec<String>,
    /// Repetitions of each variant; 0 for a dry run.
    pub repetitions: usize,
    /// Whether fewer than three were allowed.
    pub is_quick: bool,
    /// Prompt lengths; empty for those by default.
    pub prompt_tokens: Vec<usize>,
    /// Tokens to generate.
    pub generate: usize,
    /// The seed.
    pub seed: u32,
    /// Tokens in the context.
    pub n_ctx: Option<u32>,
    /// Tokens computed at once.
    pub n_ubatch: Option<u32>,
    /// Threads.
    pub n_threads: Option<u32>,
    /// How quality is measured; null for not at all.
    pub quality: Option<QualityAsked>,
    /// Files that the model was made from.
    pub sources: Vec<PathBuf>,
    /// The commit of this program.
    pub commit: Option<String>,
    /// The file with known hashes.
    pub hashes: PathBuf,
}

/// How quality is to be measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QualityAsked {
    /// Tokens of a chunk.
    pub n_ctx: Option<u32>,
    /// Chunks, at most.
    pub chunks: usize,
    /// The file with tasks.
    pub tasks: Option<PathBuf>,
    /// Replies to each task.
    pub samples: usize,
    /// Whether the tasks' commands may be run.
    pub allow_commands: bool,
}

/// What a comparison is of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prepared {
    /// The machine, the model, the program.
    pub provenance: llama_moe::measure::Provenance,
    /// What is measured.
    pub settings: Settings,
    /// How fast memory is.
    pub bandwidth: Bandwidth,
    /// What a reader has to know.
    pub notes: Vec<String>,
    /// Replies to each task; null where there are none.
    pub samples: Option<usize>,
    /// SHA-256 of the file with tasks.
    pub tasks_sha256: Option<String>,
    /// The variants, in the order of the command line.
    pub variants: Vec<PreparedVariant>,
}

/// What a variant is for this model, on this machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PreparedVariant {
    /// The variant.
    pub variant: Variant,
    /// How it is loaded.
    pub loading: Loading,
    /// What each rule takes.
    pub placement: Vec<String>,
    /// The cache of experts; null without one.
    #[serde(default)]
    pub moe_cache: Option<MoeCache>,
    /// llama.cpp's options for the same.
    pub command_line: Option<String>,
    /// The limit model's bounds.
    pub ceiling: Option<Ceiling>,
    /// What it would take of each buffer type.
    pub dry_run: Option<Vec<MemorySplit>>,
}

/// A variant to be loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// The model's file.
    pub model: PathBuf,
    /// The file that prompts are cut from.
    pub text: PathBuf,
    /// How it is loaded.
    pub loading: Loading,
    /// What is measured.
    pub settings: Settings,
    /// Whether this is the first, third, fifth repetition: what a trial does in two ways, it
    /// does in turns.
    pub is_even: bool,
}

/// A variant whose quality is measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QualityJob {
    /// The variant.
    pub load: Load,
    /// Whether it is the base: it writes what the others read.
    pub is_base: bool,
    /// The base's logits.
    pub logits: PathBuf,
    /// The base's outputs and embeddings.
    pub outputs: PathBuf,
    /// Replies to each task.
    pub samples: usize,
    /// Whether the tasks' commands may be run.
    pub allow_commands: bool,
}
