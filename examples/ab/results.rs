//! `results.json`: what a comparison measured, raw, and on what.
//!
//! Times are in seconds, memory in bytes, rates in tokens per second. What was not measured is
//! null, never 0. Values of single repetitions are kept: means and deviations are worked out by
//! who reads them. Every type that is not here is described with `llama_moe::measure`.

use llama_moe::measure::quality::{
    Divergence, EmbeddingSimilarity, OutputDifference, Perplexity, TaskResults,
};
use llama_moe::measure::{
    Delivered, DeviceUse, HostMemory, KindUse, MemorySplit, Provenance, Run, TransferRate,
};
use serde::{Deserialize, Serialize};

/// The version of the form of these files. Another one is refused.
pub const SCHEMA: u32 = 1;

/// A comparison of variants of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What it was measured on.
    pub provenance: Provenance,
    /// What was asked for.
    pub settings: Settings,
    /// Whether it ran to its end: all repetitions of all variants were tried, but for variants
    /// that were given up. Not so if it was stopped before.
    pub is_complete: bool,
    /// When these results were written: UTC, by RFC 3339.
    pub finished: String,
    /// What a reader has to know before the numbers: each a sentence.
    pub notes: Vec<String>,
    /// How fast memory delivers here.
    pub bandwidth: Bandwidth,
    /// The variants, in the order of the command line. The first is the base that the others
    /// are compared with.
    pub variants: Vec<VariantResults>,
}

/// What was asked for: the same for all variants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// How often each variant was to be measured; 0 for a dry run, which loads nothing.
    pub repetitions: usize,
    /// Whether fewer than three repetitions were allowed: such numbers have no error bars.
    pub is_quick: bool,
    /// Prompt lengths, in tokens of the model's tokenizer.
    pub prompt_tokens: Vec<usize>,
    /// Tokens that are generated after each prompt, exactly.
    pub generate: usize,
    /// The seed of what is random.
    pub seed: u32,
    /// Tokens that the context has room for.
    pub n_ctx: u32,
    /// Tokens that are computed at once in a prompt; null for llama.cpp's default.
    pub n_ubatch: Option<u32>,
    /// CPU threads; null for the physical cores.
    pub n_threads: Option<u32>,
    /// Workers whose devices were used.
    pub rpc: Vec<String>,
    /// SHA-256 of the text that prompts were cut from and that quality was measured on.
    pub text_sha256: String,
    /// Tokens of one chunk for the perplexity; null where quality was not measured.
    pub quality_n_ctx: Option<u32>,
    /// Chunks of the text that were scored, at most; null as above.
    pub quality_chunks: Option<usize>,
    /// What the tasks for pass@k were read from; null where there were none.
    pub tasks: Option<String>,
}

/// How fast memory delivers on the machine of the comparison, measured before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Bytes per second that all cores together read from system memory.
    pub host: f64,
    /// For each GPU and worker, how fast system memory gets to it.
    pub devices: Vec<TransferRate>,
}

/// A variant: one set of rules.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VariantResults {
    /// Its name.
    pub name: String,
    /// Its rules, as the command line has them: `cpu-moe`, `last=4`, `cpu-moe+cache=2GiB`.
    pub rules: String,
    /// What each rule takes, in words: `experts of blocks 0..4 → CPU: 12 tensors, 2.39 MiB`.
    pub placement: Vec<String>,
    /// The equal options of llama.cpp's own programs, where there are some.
    pub command_line: Option<String>,
    /// The most that reading its weights from system memory allows; null where it was not worked
    /// out.
    pub ceiling: Option<Ceiling>,
    /// The cache of experts; null without one.
    #[serde(default)]
    pub moe_cache: Option<MoeCache>,
    /// What llama.cpp's dry run counts of each buffer type, before anything is loaded; null where
    /// there was none.
    pub dry_run: Option<Vec<MemorySplit>>,
    /// Its trials, by repetition.
    pub trials: Vec<Trial>,
    /// Its quality against the base; null where it was not measured.
    pub quality: Option<Outcome<Quality>>,
}

/// The size and slots of a cache of experts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoeCache {
    /// The size that was asked for, in bytes.
    pub size: u64,
    /// Bytes that it takes of all devices.
    pub bytes: u64,
    /// Experts that it has room for.
    pub n_slots: u64,
    /// Experts of all layers that it serves.
    pub n_experts: u64,
    /// Why a layer is not cached: a sentence for each such layer.
    pub not_cached: Vec<String>,
}

/// Hits and misses of the cache of experts in one run, in micro-batches of at most 32 tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheUse {
    /// Experts of a layer that a micro-batch found in the cache.
    pub hits: u64,
    /// Experts that were uploaded.
    pub misses: u64,
    /// Hits of both together, 0 to 1; null where the cache was not used.
    pub hit_rate: Option<f64>,
    /// Bytes that were uploaded.
    pub uploaded_bytes: u64,
}

/// The limit model's bounds. Null where nothing of the model is in system memory, and with a cache
/// of experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Tokens per second of one sequence.
    pub decode: Option<f64>,
    /// Tokens per second of each prompt length, in the order of [`Settings::prompt_tokens`].
    pub prefill: Vec<Option<f64>>,
}

impl Ceiling {
    /// The bound for prompts of this length.
    pub fn prefill_of(&self, n_prompt: usize, results: &Results) -> Option<f64> {
        let mut lengths = results.settings.prompt_tokens.iter();
        let index = lengths.position(|length| *length == n_prompt)?;
        *self.prefill.get(index)?
    }
}

/// One process that loaded one variant, warmed up, and measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Which repetition, from 0.
    pub repetition: usize,
    /// When it began: UTC, by RFC 3339.
    pub date: String,
    /// What it found.
    pub outcome: Outcome<Measured>,
}

/// What became of a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<T> {
    /// It ended well.
    Done(T),
    /// It did not.
    Failed(Failure),
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What it was doing.
    pub stage: String,
    /// What it said, or what ended it.
    pub message: String,
    /// Whether memory was what it lacked, as far as can be told.
    pub is_out_of_memory: bool,
}

/// What one trial measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Seconds from the beginning of the load to its end.
    pub load: f64,
    /// How each device's free memory changed, from before the load to after the last run.
    pub devices: Vec<DeviceUse>,
    /// What llama.cpp counts of each buffer type.
    pub breakdown: Vec<MemorySplit>,
    /// The weights by kind of memory: a device's, page-locked, pageable, mapped, repacked.
    pub kinds: Vec<KindUse>,
    /// The process's system memory before the load; null but on Linux.
    pub host_before: Option<HostMemory>,
    /// And after the last run.
    pub host_after: Option<HostMemory>,
    /// A run for each prompt length, in their order.
    pub runs: Vec<Run>,
    /// Hits and misses of the cache of experts in each of `runs`; null without one.
    #[serde(default)]
    pub moe_cache: Option<Vec<CacheUse>>,
    /// The last prompt's reply once more, as a stream and as a whole; null where it was left out.
    pub delivery: Option<Delivery>,
}

/// One request, delivered in two ways, over a connection to a reader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    /// Each token's text as soon as it is there.
    pub streaming: Delivered,
    /// All of the text when it is complete.
    pub whole: Delivered,
}

/// What a variant says, against the base.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Quality {
    /// Its own perplexity on the text.
    pub perplexity: Perplexity,
    /// How far its logits are from the base's; null for the base itself.
    pub divergence: Option<Divergence>,
    /// Greedy outputs for each prompt length against the base's; empty for the base.
    pub greedy: Vec<OutputDifference>,
    /// Embeddings of twenty prompts against the base's; null for the base, and for models that
    /// give none.
    pub embeddings: Option<EmbeddingSimilarity>,
    /// pass@k over tasks; null where there were none.
    pub tasks: Option<TaskResults>,
}
