//! GGUF headers, read by ggml's own reader.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::{self, NonNull};

use llama_sys as sys;

use super::call::{Failure, guarded};
use super::text;
use crate::error::Result;

/// The header of one GGUF file.
pub(crate) struct GgufHeader(NonNull<sys::gguf_context>);

/// A value of a header: whole numbers that are not negative, one or an array of them,
/// or a text; what else there is counts as absent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GgufValue {
    Unsigned(Vec<u64>),
    Text(String),
}

/// The types of single values that llama.cpp asserts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GgufKind {
    Text,
    U16,
    F32,
    Other,
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
        let kv = self.find(key)?;
        if !kv.string.is_null() {
            return Some(GgufValue::Text(text::owned(kv.string)));
        }
        if kv.data.is_null() {
            return None;
        }
        let numbers: Option<Vec<u64>> = match kv.element_type {
            sys::GGUF_TYPE_UINT8 => unsigned::<u8>(&kv),
            sys::GGUF_TYPE_UINT16 => unsigned::<u16>(&kv),
            sys::GGUF_TYPE_UINT32 => unsigned::<u32>(&kv),
            sys::GGUF_TYPE_UINT64 => unsigned::<u64>(&kv),
            sys::GGUF_TYPE_INT8 => unsigned::<i8>(&kv),
            sys::GGUF_TYPE_INT16 => unsigned::<i16>(&kv),
            sys::GGUF_TYPE_INT32 => unsigned::<i32>(&kv),
            sys::GGUF_TYPE_INT64 => unsigned::<i64>(&kv),
            _ => None,
        };
        numbers.map(GgufValue::Unsigned)
    }

    /// The type that `key` has; `None` if it is not there.
    pub(crate) fn kind(&self, key: &str) -> Option<GgufKind> {
        Some(match self.find(key)?.type_ {
            sys::GGUF_TYPE_STRING => GgufKind::Text,
            sys::GGUF_TYPE_UINT16 => GgufKind::U16,
            sys::GGUF_TYPE_FLOAT32 => GgufKind::F32,
            _ => GgufKind::Other,
        })
    }

    /// The first text that occurs twice in an array of texts; empty ones do not count.
    pub(crate) fn repeated_text(&self, key: &str) -> Option<String> {
        let id = self.id(key)?;
        let n = self.pair(id)?.n;
        let mut seen = HashSet::with_capacity(n.min(1 << 20));
        for index in 0..n {
            let mut text = ptr::null();
            guarded(|error| {
                // SAFETY: a live header; anything but an array of texts is refused, and an
                // index out of range too.
                unsafe {
                    sys::llama_shim_gguf_get_arr_str(self.0.as_ptr(), id, index, &mut text, error)
                }
            })
            .ok()?;
            // SAFETY: a NUL-terminated text of the header, which lives as long as `self`.
            let text = unsafe { CStr::from_ptr(text) };
            if !text.is_empty() && !seen.insert(text) {
                return Some(text.to_string_lossy().into_owned());
            }
        }
        None
    }

    fn find(&self, key: &str) -> Option<sys::llama_shim_gguf_kv> {
        self.pair(self.id(key)?)
    }

    /// The index of a key; -1, which names no pair, if it is not there.
    fn id(&self, key: &str) -> Option<i64> {
        let key = CString::new(key).ok()?;
        // SAFETY: a live header and a NUL-terminated key.
        Some(unsafe { sys::gguf_find_key(self.0.as_ptr(), key.as_ptr()) })
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

/// The numbers of a pair, if none of them is negative; `T` is the type the pair has.
fn unsigned<T: Copy + TryInto<u64>>(kv: &sys::llama_shim_gguf_kv) -> Option<Vec<u64>> {
    // SAFETY: not NULL; the shim says that `data` leads to `n` numbers of the pair's type,
    // aligned, which live as long as the header.
    let numbers = unsafe { std::slice::from_raw_parts(kv.data.cast::<T>(), kv.n) };
    numbers
        .iter()
        .map(|&number| number.try_into().ok())
        .collect()
}
