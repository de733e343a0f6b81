//! LoRA adapters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Model, Token};
use crate::error::{Error, Result};
use crate::ffi::LoraHandle;
use crate::gguf::check_adapter;

/// An adapter that cannot be loaded or used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// The file is no adapter that fits the model.
    #[error("cannot load the adapter '{}': {reason}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// llama.cpp's own words.
        reason: String,
    },

    /// An adapter was loaded for another model than the context's.
    #[error("the adapter '{}' was loaded for another model", path.display())]
    OtherModel {
        /// The adapter's file.
        path: PathBuf,
    },

    /// An adapter is given twice.
    #[error("the adapter '{}' is given twice", path.display())]
    Twice {
        /// The adapter's file.
        path: PathBuf,
    },

    /// A scale is no finite number.
    #[error("the scale of the adapter '{}' is {scale}", path.display())]
    Scale {
        /// The adapter's file.
        path: PathBuf,
        /// The scale.
        scale: f32,
    },
}

/// A LoRA adapter, loaded for one model.
///
/// Clones share it. It holds its model. Contexts of that model use it through
/// [`Context::set_lora_adapters`](crate::Context::set_lora_adapters), each with a scale of
/// its own.
///
/// Rests on `llama_adapter_lora`.
#[derive(Clone)]
pub struct LoraAdapter(Arc<Inner>);

// The order of the fields is the order in which they are dropped.
struct Inner {
    handle: LoraHandle,
    model: Model,
    path: PathBuf,
}

impl Model {
    /// Loads a LoRA adapter for this model.
    ///
    /// Rests on `llama_adapter_lora_init`.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, [`LoraError::Load`] if it is no adapter
    /// for this model.
    pub fn lora_adapter(&self, path: impl AsRef<Path>) -> Result<LoraAdapter> {
        let path = path.as_ref();
        let refused = |reason| LoraError::Load {
            path: path.to_owned(),
            reason,
        };
        check_adapter(path)
            .map_err(|error| match error {
                Error::Load { reason, .. } => refused(reason).into(),
                error => error,
            })?
            .map_err(refused)?;
        let loaded = LoraHandle::load(self.handle(), path)?;
        let handle = loaded.map_err(|failure| refused(failure.reason))?;
        Ok(LoraAdapter(Arc::new(Inner {
            handle,
            model: self.clone(),
            path: path.to_owned(),
        })))
    }
}

impl LoraAdapter {
    /// The model it was loaded for.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.0.model
    }

    /// The file it was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// All metadata of its file as text, keys and values.
    ///
    /// Rests on `llama_adapter_meta_key_by_index` and
    /// `llama_adapter_meta_val_str_by_index`.
    #[must_use]
    pub fn metadata(&self) -> Vec<(String, String)> {
        (0..self.0.handle.meta_count())
            .filter_map(|index| self.0.handle.meta_pair(index))
            .collect()
    }

    /// The tokens after which an activated adapter (aLoRA) is to be used; none for an
    /// ordinary one. It is the caller's part to set the adapter from there on.
    ///
    /// Rests on `llama_adapter_get_alora_invocation_tokens`.
    #[must_use]
    pub fn invocation_tokens(&self) -> Vec<Token> {
        self.0.handle.invocation_tokens()
    }

    /// Whether both are handles to the same loaded adapter.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn handle(&self) -> &LoraHandle {
        &self.0.handle
    }
}

impl std::fmt::Debug for LoraAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoraAdapter")
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}
