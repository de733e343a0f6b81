//! What a model and its context would take, measured by llama.cpp itself.

use crate::backend::Backend;
use crate::context::{ContextError, ContextParams, ContextSizes, MemoryEntry};
use crate::error::Result;
use crate::gguf::Header;
use crate::model::{ModelParams, ModelSource, load_to_measure};

/// What a model and its context would take of each kind of memory: llama.cpp's own loader,
/// KV cache and scheduler, run without weights.
///
/// Nothing is read but the header, and no memory is taken for weights, for the KV cache or
/// for computing, but for the table of a context's positions (about 50 bytes each). What a
/// device takes for being used at all, such as a CUDA context, is taken, and so are the small
/// states of recurrent layers. The vocabulary is counted, not loaded: a mistake in it is found
/// by [`Model::load`](crate::Model::load) alone.
///
/// On the CPU and with one device the figures are those of a real load. With layers on several
/// devices, llama.cpp's own measure of a device's compute buffer is off by up to one hidden
/// state: micro-batch × width × 4 bytes, and 4 times that where it works on several batches at
/// once. Weights and KV cache are exact.
///
/// ```no_run
/// use llama_moe::{Backend, ContextParams, DryRun, ModelParams};
///
/// let backend = Backend::init()?;
/// let model = ModelParams::default().with_cpu_moe_all();
/// let context = ContextParams::default().with_n_ctx(8192);
/// let dry_run = DryRun::new(&backend, "gpt-oss-20b.gguf", &model, &context)?;
/// for entry in dry_run.entries() {
///     println!("{}: {} MiB", entry.buffer, entry.total() >> 20);
/// }
/// # Ok::<(), llama_moe::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DryRun {
    sizes: ContextSizes,
}

impl DryRun {
    /// Measures what loading a model with these parameters, and making this context of it,
    /// would take. The parameters stay as they are, and may be used by several threads at
    /// once; loads take turns.
    ///
    /// Weights are placed as [`LoadMode::None`](crate::LoadMode::None) does, whatever load
    /// mode the parameters have: mapped weights on the CPU are neither page-locked nor repacked,
    /// and take the file's own pages.
    ///
    /// Rests on `llama_model_params::no_alloc` and `llama_get_memory_breakdown`.
    ///
    /// # Errors
    /// As [`Model::load`](crate::Model::load) and [`Model::context`](crate::Model::context).
    pub fn new(
        backend: &Backend,
        source: impl Into<ModelSource>,
        model: &ModelParams,
        context: &ContextParams,
    ) -> Result<Self> {
        Self::of_header(backend, &Header::read(source)?, model, context)
    }

    /// As [`new`](Self::new), for a header that has been read.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_header(
        backend: &Backend,
        header: &Header,
        model: &ModelParams,
        context: &ContextParams,
    ) -> Result<Self> {
        if model.is_vocab_only() {
            return Err(ContextError::VocabOnly.into());
        }
        let model = load_to_measure(backend, header, model)?;
        let sizes = model.context_sizes(context.clone())?;
        Ok(Self { sizes })
    }

    /// What is taken of each buffer type, by its name.
    #[must_use]
    pub fn entries(&self) -> &[MemoryEntry] {
        &self.sizes.entries
    }

    /// Positions that the context would have room for, in all sequences together: what was
    /// asked for, rounded up, or what the model was trained for.
    #[must_use]
    pub fn n_ctx(&self) -> u32 {
        self.sizes.n_ctx
    }

    /// Positions that it would have room for in one sequence.
    #[must_use]
    pub fn n_ctx_seq(&self) -> u32 {
        self.sizes.n_ctx_seq
    }

    /// Tokens that a batch would have at most.
    #[must_use]
    pub fn n_batch(&self) -> u32 {
        self.sizes.n_batch
    }

    /// Tokens that would be computed at once.
    #[must_use]
    pub fn n_ubatch(&self) -> u32 {
        self.sizes.n_ubatch
    }

    /// Sequences that there would be.
    #[must_use]
    pub fn n_seq_max(&self) -> u32 {
        self.sizes.n_seq_max
    }
}
