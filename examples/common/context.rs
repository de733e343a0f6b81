//! The context's size, and the threads it computes with.

use clap::{Args, value_parser};
use llama_moe::gguf::Header;
use llama_moe::{ContextParams, Model};

/// Tokens that a context has room for when nobody says: models that were trained for a
/// hundred thousand would need gigabytes.
const DEFAULT_N_CTX: u32 = 4096;

/// Tokens of a batch when nobody says: llama.cpp's own default.
const DEFAULT_N_BATCH: u32 = 2048;

/// How the context is made.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Context")]
pub struct ContextArgs {
    /// Tokens that the conversation may have; 0 for all that the model was trained for
    /// [default: 4096, or less if the model was trained for less]
    #[arg(short, long, value_name = "N")]
    ctx: Option<u32>,

    /// CPU threads [default: the physical cores]
    #[arg(short, long, value_name = "N")]
    threads: Option<u32>,

    /// Tokens of prompts that are computed at once: where a GPU computes with experts in system
    /// memory, larger pieces read these more seldom, and need more of the GPU's memory
    /// [default: 512]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    ubatch: Option<u32>,

    /// How long a CPU thread looks for work before it sleeps, from 0, at once, to 100
    /// [default: 0; for a server 1, some milliseconds]
    #[arg(long, value_name = "LEVEL")]
    poll: Option<u32>,

    /// Conversations at a time.
    #[arg(skip = 1u32)]
    n_seq: u32,

    /// How long threads look for work when nobody says.
    #[arg(skip)]
    default_poll: u32,

    /// Whether they share one buffer.
    #[arg(skip)]
    kv_unified: bool,
}

impl ContextArgs {
    /// The same for so many conversations at a time, each with this room, in one buffer
    /// (`kv_unified`) or in buffers of their own.
    #[must_use]
    pub fn shared_by(mut self, n_seq: u32, kv_unified: bool) -> Self {
        self.n_seq = n_seq;
        self.kv_unified = kv_unified;
        // As long as tokens are chosen and given out between two batches.
        self.default_poll = 1;
        self
    }

    /// Tokens that one conversation with this model may have.
    #[must_use]
    pub fn n_ctx(&self, model: &Model) -> u32 {
        self.n_ctx_for(model.n_ctx_train())
    }

    /// Parameters for a context of this model.
    #[must_use]
    pub fn params(&self, model: &Model) -> ContextParams {
        self.params_for(model.n_ctx_train())
    }

    /// Parameters for a context of a model that is not loaded.
    #[must_use]
    pub fn params_before(&self, header: &Header) -> ContextParams {
        let key = format!("{}.context_length", header.architecture());
        let trained = header.value(&key).and_then(|value| value.as_u64());
        self.params_for(trained.and_then(|n| u32::try_from(n).ok()).unwrap_or(0))
    }

    fn params_for(&self, n_ctx_train: u32) -> ContextParams {
        let n_ctx = self.n_ctx_for(n_ctx_train).saturating_mul(self.n_seq);
        let params = ContextParams::default()
            .with_n_ctx(n_ctx)
            .with_n_seq_max(self.n_seq)
            .with_kv_unified(self.kv_unified)
            .with_poll(self.poll.unwrap_or(self.default_poll));
        let params = match self.threads {
            Some(n) => params.with_n_threads(n).with_n_threads_batch(n),
            None => params,
        };
        match self.ubatch {
            // A batch holds at least one piece.
            Some(n) => params.with_n_ubatch(n).with_n_batch(n.max(DEFAULT_N_BATCH)),
            None => params,
        }
    }

    fn n_ctx_for(&self, n_ctx_train: u32) -> u32 {
        match (self.ctx, n_ctx_train) {
            (Some(0), trained) => trained,
            (Some(n), _) => n,
            (None, 0) => DEFAULT_N_CTX,
            (None, trained) => trained.min(DEFAULT_N_CTX),
        }
    }
}
