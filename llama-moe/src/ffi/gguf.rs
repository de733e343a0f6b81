//! GGUF headers, read by ggml's own reader.

use std::ffi::CString;
use std::path::Path;
use std::ptr::{self, NonNull};

use llama_sys as sys;

use super::call::{Failure, guarded};
use super::text;
use crate::error::Result;

/// The header of one GGUF file.
pub(crate) struct GgufHeader(NonNull<sys::gguf_context>);

/// A number or a text of a header; what else there is counts as absent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GgufValue {
    Unsigned(u64),
    Text(String),
}

impl GgufHeader {
    /// Reads the header at `path`, none of its data.
    pub(crate) fn read(path: &Path) -> Result<Result<Self, Failure>> {
        let path = text::c_path(path)?;
        let params = sys::gguf_init_params {
            no_alloc: true,
            ctx: ptr::null_mut(),
        };
        let mut gguf = ptr::null_mut();
        let read = guarded(|error| {
            // SAFETY: a NUL-terminated path, parameters that ask for no tensors, and
            // out-parameters of this frame.
            unsafe { sys::llama_shim_gguf_init_from_file(path.as_ptr(), &params, &mut gguf, error) }
        });
        Ok(read.and_then(|()| {
            NonNull::new(gguf).map(Self).ok_or_else(|| Failure {
                kind: crate::error::FailureKind::Failed,
                reason: "no header was returned".to_owned(),
            })
        }))
    }

    /// The value of `key`, if it is there and of a kind that [`GgufValue`] knows.
    pub(crate) fn value(&self, key: &str) -> Option<GgufValue> {
        let key = CString::new(key).ok()?;
        // SAFETY: a live header and a NUL-terminated key.
        let id = unsafe { sys::gguf_find_key(self.0.as_ptr(), key.as_ptr()) };
        let kv = self.pair(id)?;
        if !kv.string.is_null() {
            return Some(GgufValue::Text(text::owned(kv.string)));
        }
        if kv.type_ == sys::GGUF_TYPE_ARRAY || kv.data.is_null() {
            return None;
        }
        let unsigned = |signed: i64| u64::try_from(signed).ok();
        let number = match kv.type_ {
            // SAFETY: the shim says that `data` leads to one number of this type, aligned.
            sys::GGUF_TYPE_UINT8 => u64::from(unsafe { kv.data.cast::<u8>().read() }),
            // SAFETY: as above.
            sys::GGUF_TYPE_UINT16 => u64::from(unsafe { kv.data.cast::<u16>().read() }),
            // SAFETY: as above.
            sys::GGUF_TYPE_UINT32 => u64::from(unsafe { kv.data.cast::<u32>().read() }),
            // SAFETY: as above.
            sys::GGUF_TYPE_UINT64 => unsafe { kv.data.cast::<u64>().read() },
            // SAFETY: as above.
            sys::GGUF_TYPE_INT32 => unsigned(i64::from(unsafe { kv.data.cast::<i32>().read() }))?,
            // SAFETY: as above.
            sys::GGUF_TYPE_INT64 => unsigned(unsafe { kv.data.cast::<i64>().read() })?,
            _ => return None,
        };
        Some(GgufValue::Unsigned(number))
    }

    fn pair(&self, id: i64) -> Option<sys::llama_shim_gguf_kv> {
        // SAFETY: zero is a valid value of this plain struct, which the call fills.
        let mut kv = unsafe { std::mem::zeroed::<sys::llama_shim_gguf_kv>() };
        guarded(|error| {
            // SAFETY: a live header; the shim refuses an id out of range.
            unsafe { sys::llama_shim_gguf_get_kv(self.0.as_ptr(), id, &mut kv, error) }
        })
        .ok()?;
        Some(kv)
    }

    /// Names and sizes in bytes of the file's tensors, in the file's order.
    pub(crate) fn tensors(&self) -> Vec<(String, u64)> {
        // SAFETY: a live header.
        let count = unsafe { sys::gguf_get_n_tensors(self.0.as_ptr()) };
        (0..count)
            .filter_map(|id| {
                // SAFETY: zero is a valid value of this plain struct, which the call fills.
                let mut tensor = unsafe { std::mem::zeroed::<sys::llama_shim_gguf_tensor>() };
                guarded(|error| {
                    // SAFETY: a live header; the shim refuses an id out of range.
                    unsafe {
                        sys::llama_shim_gguf_get_tensor(self.0.as_ptr(), id, &mut tensor, error)
                    }
                })
                .ok()?;
                Some((text::owned(tensor.name), tensor.size as u64))
            })
            .collect()
    }
}

impl Drop for GgufHeader {
    fn drop(&mut self) {
        // SAFETY: owned, freed once; freeing memory does not fail.
        unsafe { sys::llama_shim_gguf_free(self.0.as_ptr(), ptr::null_mut()) };
    }
}
