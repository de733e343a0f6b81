//! GGUF headers, read by ggml's own reader.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::{self, NonNull};

use llama_sys as sys;

use super::call::{Failure, guarded};
use super::text;
use crate::error::Result;
use crate::gguf::Value;

/// The header of one GGUF file.
#[derive(Debug)]
pub(crate) struct GgufHeader(NonNull<sys::gguf_context>);

// SAFETY: nothing here changes a header after it was read, and ggml's getters only read it.
unsafe impl Send for GgufHeader {}
// SAFETY: as above.
unsafe impl Sync for GgufHeader {}

/// One tensor of a file.
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    pub(crate) type_id: u32,
    /// ggml's name of the element type.
    pub(crate) kind: String,
    /// Without the dimensions of 1 at the end.
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: u64,
    /// From the start of the file.
    pub(crate) offset: u64,
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

    /// The value of `key`, if it is there.
    pub(crate) fn value(&self, key: &str) -> Option<Value> {
        let id = self.id(key)?;
        let kv = self.pair(id)?;
        if kv.type_ != sys::GGUF_TYPE_ARRAY {
            return if kv.type_ == sys::GGUF_TYPE_STRING {
                Some(Value::Text(text::owned(kv.string)))
            } else {
                self.numbers(&kv)?.pop()
            };
        }
        Some(Value::Array(match kv.element_type {
            sys::GGUF_TYPE_STRING => {
                let texts = (0..kv.n).map(|index| self.text(id, index));
                texts
                    .map(|text| Some(Value::Text(text?.to_string_lossy().into_owned())))
                    .collect::<Option<_>>()?
            }
            _ => self.numbers(&kv)?,
        }))
    }

    /// The keys in the file's order.
    pub(crate) fn keys(&self) -> Vec<String> {
        // SAFETY: a live header.
        let count = unsafe { sys::gguf_get_n_kv(self.0.as_ptr()) };
        (0..count)
            .filter_map(|id| Some(text::owned(self.pair(id)?.key)))
            .collect()
    }

    /// The number of elements of an array, 1 for a single value.
    pub(crate) fn n_values(&self, key: &str) -> Option<usize> {
        Some(self.find(key)?.n)
    }

    /// The number of elements of an array of texts; `None` for anything else.
    pub(crate) fn n_texts(&self, key: &str) -> Option<usize> {
        let kv = self.find(key)?;
        let is_texts = kv.type_ == sys::GGUF_TYPE_ARRAY && kv.element_type == sys::GGUF_TYPE_STRING;
        is_texts.then_some(kv.n)
    }

    /// The numbers, or truth values, of a pair.
    fn numbers(&self, kv: &sys::llama_shim_gguf_kv) -> Option<Vec<Value>> {
        if kv.n == 0 {
            return Some(Vec::new());
        }
        if kv.data.is_null() {
            return None;
        }
        Some(match kv.element_type {
            sys::GGUF_TYPE_UINT8 => values(kv, Value::U8),
            sys::GGUF_TYPE_INT8 => values(kv, Value::I8),
            sys::GGUF_TYPE_UINT16 => values(kv, Value::U16),
            sys::GGUF_TYPE_INT16 => values(kv, Value::I16),
            sys::GGUF_TYPE_UINT32 => values(kv, Value::U32),
            sys::GGUF_TYPE_INT32 => values(kv, Value::I32),
            sys::GGUF_TYPE_UINT64 => values(kv, Value::U64),
            sys::GGUF_TYPE_INT64 => values(kv, Value::I64),
            sys::GGUF_TYPE_FLOAT32 => values(kv, Value::F32),
            sys::GGUF_TYPE_FLOAT64 => values(kv, Value::F64),
            sys::GGUF_TYPE_BOOL => values(kv, |byte: u8| Value::Bool(byte != 0)),
            _ => return None,
        })
    }

    /// One text of an array of texts.
    fn text(&self, id: i64, index: usize) -> Option<&CStr> {
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
        Some(unsafe { CStr::from_ptr(text) })
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
            let text = self.text(id, index)?;
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

    /// The file's tensors, in the file's order.
    pub(crate) fn tensors(&self) -> Vec<GgufTensor> {
        // SAFETY: a live header.
        let count = unsafe { sys::gguf_get_n_tensors(self.0.as_ptr()) };
        // SAFETY: a live header.
        let data = unsafe { sys::gguf_get_data_offset(self.0.as_ptr()) } as u64;
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
                // SAFETY: the reader refuses types that ggml has no name for.
                let kind = unsafe { sys::ggml_type_name(tensor.type_) };
                let n_dims = 1 + tensor.ne.iter().rposition(|&n| n != 1).unwrap_or(0);
                let shape = tensor.ne.iter().take(n_dims);
                Some(GgufTensor {
                    name: text::owned(tensor.name),
                    type_id: tensor.type_,
                    kind: text::owned(kind),
                    shape: shape.map(|&n| u64::try_from(n).unwrap_or(0)).collect(),
                    bytes: tensor.size as u64,
                    offset: data.saturating_add(tensor.offset as u64),
                })
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

/// The numbers of a pair; `T` is the type the pair has.
fn values<T: Copy>(kv: &sys::llama_shim_gguf_kv, of: impl Fn(T) -> Value) -> Vec<Value> {
    // SAFETY: not NULL; the shim says that `data` leads to `n` numbers of the pair's type,
    // aligned, which live as long as the header.
    let numbers = unsafe { std::slice::from_raw_parts(kv.data.cast::<T>(), kv.n) };
    numbers.iter().map(|&number| of(number)).collect()
}
