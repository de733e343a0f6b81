//! LoRA adapters.

use std::ffi::c_char;
use std::path::Path;
use std::ptr::{self, NonNull};

use llama_sys as sys;

use super::call::{Failure, guarded};
use super::model::{ModelHandle, written};
use super::text;
use crate::error::Result;
use crate::model::Token;

/// An adapter, freed on drop. Whoever holds it holds its model too, and drops it first.
#[derive(Debug)]
pub(crate) struct LoraHandle(NonNull<sys::llama_adapter_lora>);

// SAFETY: an adapter is not tied to the thread that loaded it.
unsafe impl Send for LoraHandle {}
// SAFETY: nothing changes an adapter once it is loaded; loading and freeing, which write
// to its model, take turns inside the shim.
unsafe impl Sync for LoraHandle {}

impl LoraHandle {
    pub(crate) fn load(model: &ModelHandle, path: &Path) -> Result<Result<Self, Failure>> {
        let path = text::c_path(path)?;
        let mut adapter = ptr::null_mut();
        let loaded = guarded(|error| {
            // SAFETY: a live model, a NUL-terminated path, out-parameters of this frame.
            unsafe { sys::llama_shim_lora_init(model.as_ptr(), path.as_ptr(), &mut adapter, error) }
        });
        Ok(loaded.and_then(|()| {
            NonNull::new(adapter).map(Self).ok_or_else(|| Failure {
                kind: crate::error::FailureKind::Failed,
                reason: "no adapter was returned".to_owned(),
            })
        }))
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_adapter_lora {
        self.0.as_ptr()
    }

    pub(crate) fn meta_count(&self) -> i32 {
        // SAFETY: a live adapter.
        unsafe { sys::llama_adapter_meta_count(self.as_ptr()) }
    }

    /// Key and value of the entry with this index.
    pub(crate) fn meta_pair(&self, index: i32) -> Option<(String, String)> {
        let adapter = self.as_ptr();
        let key = written(|buffer: *mut c_char, size| {
            // SAFETY: a live adapter and a buffer given with its size; an index out of range
            // is answered with -1.
            unsafe { sys::llama_adapter_meta_key_by_index(adapter, index, buffer, size) }
        })?;
        let value = written(|buffer: *mut c_char, size| {
            // SAFETY: as above.
            unsafe { sys::llama_adapter_meta_val_str_by_index(adapter, index, buffer, size) }
        })?;
        Some((key, value))
    }

    /// The tokens that turn an activated adapter on.
    pub(crate) fn invocation_tokens(&self) -> Vec<Token> {
        // SAFETY: a live adapter.
        let n = unsafe { sys::llama_adapter_get_alora_n_invocation_tokens(self.as_ptr()) };
        // SAFETY: as above.
        let tokens = unsafe { sys::llama_adapter_get_alora_invocation_tokens(self.as_ptr()) };
        if n == 0 || tokens.is_null() {
            return Vec::new();
        }
        // SAFETY: not NULL; llama.cpp keeps `n` tokens there for as long as the adapter lives,
        // and `Token` is a transparent wrapper of them.
        unsafe { std::slice::from_raw_parts(tokens.cast::<Token>(), n as usize) }.to_vec()
    }
}

impl Drop for LoraHandle {
    fn drop(&mut self) {
        // SAFETY: owned, freed once. Contexts that use the adapter hold it, so none is left;
        // its model is still alive.
        let _ = guarded(|error| unsafe { sys::llama_shim_lora_free(self.as_ptr(), error) });
    }
}
