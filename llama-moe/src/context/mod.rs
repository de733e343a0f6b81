//! Contexts: computing with a model.
//!
//! A [`Context`] is a memory for sequences of tokens, the KV cache, and what it takes to
//! compute with it. It is given a [`Batch`] of tokens and returns, for those whose output
//! was asked for, logits or embeddings.
//!
//! A context holds its [`Model`], so it can be kept in a struct without a lifetime. It
//! can be sent to another thread, but not used by two at once: almost everything takes
//! `&mut self`, and outputs borrow the context, because the next batch overwrites them.
//! Any number of contexts can use one model, on as many threads. When a context is dropped,
//! llama.cpp's context goes first, then the adapters in use, then the model.
//!
//! ```no_run
//! use llama_moe::{Backend, Batch, ContextParams, Model, ModelParams, Token};
//!
//! let backend = Backend::init()?;
//! let model = Model::load(&backend, "gpt-oss-20b.gguf", ModelParams::default())?;
//! let mut context = model.context(ContextParams::default().with_n_ctx(4096))?;
//!
//! let mut batch = Batch::new(512, 1);
//! batch.add_sequence(&[Token(1), Token(2), Token(3)], 0, 0)?;
//! context.decode(&batch)?;
//! let logits = context.logits_last()?;
//! let likeliest = (0..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1));
//! println!("{likeliest:?}");
//! # Ok::<(), llama_moe::Error>(())
//! ```

mod abort;
mod adapters;
mod batch;
mod breakdown;
mod decode;
mod eval;
mod memory;
mod moe_cache;
mod outputs;
mod params;
mod perf;
mod state;
mod state_format;
mod threads;

use std::fmt;
use std::sync::{Mutex, PoisonError};

pub use abort::AbortToken;
pub use adapters::ControlVectorError;
pub use batch::{Batch, BatchError, POS_MAX, Pos, SeqId};
pub use breakdown::MemoryEntry;
pub use decode::DecodeError;
pub use eval::{EvalCallback, EvalTensor};
pub use memory::{Memory, MemoryError};
pub use moe_cache::{MoeCacheCounts, MoeCacheStats};
pub use outputs::OutputError;
pub use params::{
    AttentionType, CacheType, ContextParams, FlashAttention, PoolingType, RopeScaling,
};
pub use perf::ContextPerf;
pub use state::StateError;

use self::memory::Unapplied;
use self::outputs::Outputs;
use crate::backend::read_registry;
use crate::error::{FailureKind, Result};
use crate::ffi::{ContextHandle, ContextNumber, EvalHook, Failure};
use crate::model::{LoraAdapter, Model};
use crate::placement::{MoeCacheError, MoeCacheLayout};

/// Held while a context is made, which can change numbers of its model.
static CREATION: Mutex<()> = Mutex::new(());

/// A context that cannot be made or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The model was loaded for its vocabulary only.
    #[error("the model was loaded with_vocab_only(true): there is nothing to compute with")]
    VocabOnly,

    /// The model was loaded without weights.
    #[error("the model was loaded with_no_alloc(true): there is nothing to compute with")]
    NoAlloc,

    /// llama.cpp could not make the context.
    #[error("cannot make a context: {reason}")]
    Creation {
        /// llama.cpp's own words.
        reason: String,
    },

    /// The context's sizes do not allow for pooled embeddings.
    #[error(
        "to pool embeddings ({pooling:?}), n_ubatch ({n_ubatch}) is a multiple of n_seq_max \
         ({n_seq_max}) and not larger than n_outputs_max ({n_outputs_max})"
    )]
    Pooling {
        /// How embeddings are pooled.
        pooling: PoolingType,
        /// Tokens that are computed at once.
        n_ubatch: u32,
        /// Sequences that there are.
        n_seq_max: u32,
        /// Outputs that a batch asks for at most.
        n_outputs_max: u32,
    },

    /// A computation ended with a C++ exception, which leaves the context in no state that
    /// can be relied on.
    #[error("an earlier computation failed with an exception: drop this context and make another")]
    Poisoned,
}

/// A memory for sequences of tokens, and the means to compute with it.
///
/// Rests on `llama_context`.
// The order of the fields is the order in which they are dropped.
pub struct Context {
    handle: ContextHandle,
    adapters: Vec<LoraAdapter>,
    model: Model,
    outputs: Outputs,
    n_vocab: u32,
    n_outputs_max: u32,
    has_memory: bool,
    kv_unified: bool,
    moe_cache: Option<MoeCacheLayout>,
    embeddings: bool,
    /// An encoder-decoder model has something to decode from.
    encoded: bool,
    unapplied: Unapplied,
    poisoned: bool,
}

/// What a context is and takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContextSizes {
    pub(crate) n_ctx: u32,
    pub(crate) n_ctx_seq: u32,
    pub(crate) n_batch: u32,
    pub(crate) n_ubatch: u32,
    pub(crate) n_seq_max: u32,
    pub(crate) entries: Vec<MemoryEntry>,
}

impl Model {
    /// Makes a context.
    ///
    /// Rests on `llama_init_from_model`.
    ///
    /// # Errors
    /// [`ContextError`] if the model was loaded without weights or llama.cpp fails, such as for
    /// want of memory; [`MoeCacheError`] if experts cannot be cached as asked;
    /// [`Error::Parameter`](crate::Error::Parameter) for a parameter that cannot work.
    pub fn context(&self, params: ContextParams) -> Result<Context> {
        if self.is_no_alloc() {
            return Err(ContextError::NoAlloc.into());
        }
        self.create_context(params)
    }

    /// What a context would be and take. The context is gone when this returns, so that
    /// nobody computes with it, whatever the model.
    ///
    /// # Errors
    /// As [`context`](Self::context), but for a model without weights.
    pub(crate) fn context_sizes(&self, params: ContextParams) -> Result<ContextSizes> {
        let mut context = self.create_context(params)?;
        let mut entries = context.memory_breakdown()?;
        if let Some(layout) = &context.moe_cache {
            // Without weights llama.cpp leaves out what a device adds to each tensor.
            for entry in entries.iter_mut().filter(|entry| !entry.is_host) {
                let device = entry.device.map(|device| device.name());
                entry.moe_cache = device.map_or(0, |device| layout.bytes_on(&device));
            }
        }
        Ok(ContextSizes {
            n_ctx: context.n_ctx(),
            n_ctx_seq: context.n_ctx_seq(),
            n_batch: context.n_batch(),
            n_ubatch: context.n_ubatch(),
            n_seq_max: context.n_seq_max(),
            entries,
        })
    }

    fn create_context(&self, params: ContextParams) -> Result<Context> {
        if self.is_vocab_only() {
            return Err(ContextError::VocabOnly.into());
        }
        let mut settings = params.settings_for(self)?;
        let embeddings = settings.embeddings;
        let moe_cache = match params.moe_cache_size() {
            0 => None,
            _ if embeddings => return Err(MoeCacheError::Embeddings.into()),
            size => Some(self.moe_cache(size)?),
        };
        if settings.n_seq_max > 1 || settings.n_outputs_max != 0 {
            // Turned on once it is known that llama.cpp can reserve memory for it.
            settings.embeddings = false;
        }
        let abort = params.abort_token().map(AbortToken::flag);
        let eval = params.eval_callback().map(EvalHook::new);
        let made = {
            let _registry = read_registry();
            // The shim takes turns too, but looks at the model before its turn has come.
            let _turn = CREATION.lock().unwrap_or_else(PoisonError::into_inner);
            ContextHandle::new(self.handle(), &settings, abort, eval.map(Into::into))
        };
        let handle = made.map_err(|Failure { kind, reason }| match kind {
            FailureKind::Failed | FailureKind::OutOfMemory | FailureKind::InvalidArgument => {
                ContextError::Creation { reason }.into()
            }
            kind => Failure { kind, reason }.of("llama_init_from_model"),
        })?;
        // As llama.cpp works it out.
        let n_outputs_max = if settings.n_outputs_max == 0 || self.has_encoder() {
            handle.number(ContextNumber::Batch)
        } else {
            settings.n_outputs_max
        };
        let mut context = Context {
            has_memory: handle.has_memory(),
            adapters: Vec::new(),
            n_vocab: self.n_vocab(),
            n_outputs_max,
            kv_unified: settings.kv_unified,
            moe_cache: None,
            embeddings: settings.embeddings,
            outputs: Outputs::default(),
            encoded: false,
            unapplied: Unapplied::default(),
            poisoned: false,
            model: self.clone(),
            handle,
        };
        context.set_embeddings(embeddings)?;
        if let Some(layout) = moe_cache {
            context.settle_moe_cache(layout)?;
        }
        Ok(context)
    }
}

/// What it was made with.
impl Context {
    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Positions that the memory has room for, in all sequences together.
    ///
    /// Rests on `llama_n_ctx`.
    #[must_use]
    pub fn n_ctx(&self) -> u32 {
        self.handle.number(ContextNumber::Ctx)
    }

    /// Positions that the memory has room for in one sequence.
    ///
    /// Rests on `llama_n_ctx_seq`.
    #[must_use]
    pub fn n_ctx_seq(&self) -> u32 {
        self.handle.number(ContextNumber::CtxSeq)
    }

    /// Tokens that a batch has at most.
    ///
    /// Rests on `llama_n_batch`.
    #[must_use]
    pub fn n_batch(&self) -> u32 {
        self.handle.number(ContextNumber::Batch)
    }

    /// Tokens that are computed at once.
    ///
    /// Rests on `llama_n_ubatch`.
    #[must_use]
    pub fn n_ubatch(&self) -> u32 {
        self.handle.number(ContextNumber::Ubatch)
    }

    /// Sequences that there are.
    ///
    /// Rests on `llama_n_seq_max`.
    #[must_use]
    pub fn n_seq_max(&self) -> u32 {
        self.handle.number(ContextNumber::SeqMax)
    }

    /// Outputs that a batch asks for at most.
    #[must_use]
    pub fn n_outputs_max(&self) -> u32 {
        self.n_outputs_max
    }

    /// How the embeddings of a sequence become one.
    ///
    /// Rests on `llama_pooling_type`.
    #[must_use]
    pub fn pooling_type(&self) -> PoolingType {
        PoolingType::of_raw(self.handle.pooling_type())
    }

    /// Whether a token attends only to what comes before it.
    ///
    /// Rests on `llama_get_causal_attn`.
    #[must_use]
    pub fn causal_attn(&self) -> bool {
        self.handle.causal_attn()
    }
}

/// What can be changed.
impl Context {
    /// Whether a token attends only to what comes before it. Without, a batch has to fit a
    /// micro-batch.
    ///
    /// Rests on `llama_set_causal_attn`.
    pub fn set_causal_attn(&mut self, causal: bool) {
        self.handle.set_causal_attn(causal);
    }

    /// Whether the batches to come return embeddings, of all their tokens.
    ///
    /// Rests on `llama_set_embeddings`.
    ///
    /// # Errors
    /// [`ContextError::Pooling`] if the context's sizes do not allow for pooled embeddings.
    pub fn set_embeddings(&mut self, embeddings: bool) -> Result<()> {
        if embeddings && embeddings != self.embeddings {
            self.check_can_pool()?;
        }
        if embeddings != self.embeddings {
            self.handle.set_embeddings(embeddings);
            self.embeddings = embeddings;
        }
        Ok(())
    }

    /// llama.cpp reserves memory for a micro-batch that it rounds up to a multiple of the
    /// sequences, and aborts if pooling then has other numbers of tokens and outputs.
    fn check_can_pool(&self) -> Result<(), ContextError> {
        let pooling = self.pooling_type();
        if !matches!(pooling, PoolingType::Mean | PoolingType::Rank) {
            return Ok(());
        }
        let n_tokens = self.n_ctx().min(self.n_ubatch());
        let (n_seq_max, n_outputs_max) = (self.n_seq_max(), self.n_outputs_max);
        if !n_tokens.is_multiple_of(n_seq_max) || n_outputs_max < n_tokens {
            return Err(ContextError::Pooling {
                pooling,
                n_ubatch: n_tokens,
                n_seq_max,
                n_outputs_max,
            });
        }
        Ok(())
    }

    /// Threads to compute single tokens and batches with, each from 1 to 512.
    ///
    /// Rests on `llama_set_n_threads`.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) for any other number.
    pub fn set_n_threads(&mut self, n_threads: u32, n_threads_batch: u32) -> Result<()> {
        let single = threads::check("n_threads", n_threads)?;
        let batch = threads::check("n_threads_batch", n_threads_batch)?;
        self.handle.set_n_threads(single, batch);
        Ok(())
    }

    /// Threads to compute single tokens and batches with.
    ///
    /// Rests on `llama_n_threads` and `llama_n_threads_batch`.
    #[must_use]
    pub fn n_threads(&self) -> (u32, u32) {
        let (single, batch) = self.handle.n_threads();
        (single.unsigned_abs(), batch.unsigned_abs())
    }

    /// Waits until everything that was started has been computed. What reads an output
    /// does so by itself.
    ///
    /// Rests on `llama_synchronize`.
    ///
    /// # Errors
    /// [`Error::Llama`](crate::Error::Llama) if llama.cpp fails.
    pub fn synchronize(&mut self) -> Result<()> {
        self.check_usable()?;
        let done = self.handle.synchronize();
        self.watch(done, "llama_synchronize")
    }

    /// Takes over the result of a call: after an exception the context is not used again.
    fn watch<T>(&mut self, result: Result<T, Failure>, call: &'static str) -> Result<T> {
        result.map_err(|failure| {
            self.poisoned |= matches!(
                failure.kind,
                FailureKind::Exception | FailureKind::OutOfMemory
            );
            failure.of(call)
        })
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("model", &self.model)
            .field("n_ctx", &self.n_ctx())
            .field("n_batch", &self.n_batch())
            .field("n_seq_max", &self.n_seq_max())
            .finish_non_exhaustive()
    }
}
