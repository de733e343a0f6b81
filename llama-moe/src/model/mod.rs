//! Models: loading them, and what they say of themselves.
//!
//! A [`Model`] is a handle to weights in memory: cheap to clone, shared between threads
//! and contexts, and freed when the last handle and the last context are gone.
//!
//! ```no_run
//! use llama_moe::{Backend, Model, ModelParams};
//!
//! let backend = Backend::init()?;
//! let params = ModelParams::default().with_cpu_moe_all();
//! let model = Model::load(&backend, "gpt-oss-20b.gguf", params)?;
//! println!("{}: {} experts per layer", model.description(), model.n_expert()?);
//! println!("{}", model.placement()?);
//! # Ok::<(), llama_moe::Error>(())
//! ```

mod detokenizer;
mod huge_pages;
mod info;
mod load;
mod lora;
mod moe_cache;
mod params;
mod source;
mod token;
mod vocab;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use detokenizer::Detokenizer;
pub use huge_pages::HugePages;
pub use info::RopeType;
pub(crate) use load::{checked_header, checked_without_vocab, load_to_measure};
pub use lora::{LoraAdapter, LoraError};
pub use params::{KvOverride, LazyMode, LoadMode, ModelParams, SplitMode};
pub use source::ModelSource;
pub use token::Token;
pub use vocab::{TokenAttr, TokenInfo, Vocab, VocabError, VocabType};

use crate::backend::Device;
use crate::error::{Error, Result};
use crate::ffi::ModelHandle;
use crate::placement::{LoweredOverrides, Placement, RuleMatch};

/// A loaded model.
///
/// Clones share the weights. Contexts, adapters and samplers that need the model hold
/// a clone, so it lives as long as they do, whatever the order in which a program drops
/// them.
///
/// Rests on `llama_model`.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    handle: ModelHandle,
    path: PathBuf,
    overrides: LoweredOverrides,
    load_mode: LoadMode,
    /// The devices that it was loaded on, in llama.cpp's order.
    devices: Vec<Device>,
    /// Their parts of the layers; empty for parts by free memory.
    tensor_split: Vec<f32>,
    /// Tensors are cut across all devices (`SplitMode::Tensor`).
    merged: bool,
    vocab_only: bool,
    no_alloc: bool,
    /// Read once: making a context with another scale of positions changes it in llama.cpp.
    n_ctx_train: u32,
    learned_positions: bool,
}

impl Model {
    pub(crate) fn handle(&self) -> &ModelHandle {
        &self.0.handle
    }

    /// How many positions there are, for a model that looks each one up in a table.
    pub(crate) fn n_learned_positions(&self) -> Option<u32> {
        self.0.learned_positions.then_some(self.0.n_ctx_train)
    }

    /// Whether both are handles to the same loaded model.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The file it was loaded from, the first of several.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// How the file was read. Where the parameters left it open, this is the choice that
    /// [`ModelParams::with_load_mode`] describes.
    #[must_use]
    pub fn load_mode(&self) -> LoadMode {
        self.0.load_mode
    }

    /// Whether only the vocabulary was loaded: no context can be made of such a model.
    #[must_use]
    pub fn is_vocab_only(&self) -> bool {
        self.0.vocab_only
    }

    /// Whether it was loaded without weights: no context can be made of such a model.
    #[must_use]
    pub fn is_no_alloc(&self) -> bool {
        self.0.no_alloc
    }

    /// What each rule took, worked out from the header before the model was loaded.
    pub fn rule_matches(&self) -> impl ExactSizeIterator<Item = &RuleMatch> {
        self.0.overrides.matches()
    }

    /// Where every tensor is, as llama.cpp has it now.
    ///
    /// # Errors
    /// [`Error::Llama`] with the feature `system`: an installed
    /// llama.cpp does not tell.
    pub fn placement(&self) -> Result<Placement> {
        Placement::of(&self.0.handle, &self.0.overrides, self.0.load_mode)
    }

    /// Writes the model as a GGUF file. It is written beside `path` and then takes its place,
    /// so that a file that is there, this model's own included, is replaced as a whole or not
    /// at all.
    ///
    /// Rests on `llama_model_save_to_file`.
    ///
    /// # Errors
    /// [`Error::Llama`] if the architecture cannot be saved, or the file cannot be written;
    /// [`Error::File`] if it cannot take its place.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        static N_SAVED: AtomicU64 = AtomicU64::new(0);

        let path = path.as_ref();
        // Weights may be mapped from the file at `path`, by this model or another: cut short, it
        // would end the process at the next look at them.
        let mut partial = path.as_os_str().to_owned();
        let n = N_SAVED.fetch_add(1, Ordering::Relaxed);
        partial.push(format!(".{}-{n}.partial", std::process::id()));
        let partial = PathBuf::from(partial);
        let saved = self.0.handle.save(&partial).and_then(|()| {
            fs::rename(&partial, path).map_err(|source| Error::File {
                path: path.to_owned(),
                source,
            })
        });
        if saved.is_err() {
            let _ = fs::remove_file(&partial);
        }
        saved
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.0.path)
            .field("description", &self.description())
            .finish_non_exhaustive()
    }
}
