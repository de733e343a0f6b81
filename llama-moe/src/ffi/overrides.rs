//! The array that llama.cpp's loader reads.

use std::ffi::CStr;
use std::fmt;
use std::marker::PhantomData;
use std::ptr;

use llama_sys as sys;

use super::device::BufferType;

/// `tensor_buft_overrides` as llama.cpp's loader reads it: pairs of pattern and buffer
/// type, ended by a NULL pattern.
///
/// The array points into the patterns of the
/// [`LoweredOverrides`](crate::LoweredOverrides) it was made from, and borrows them: it
/// cannot outlive them.
pub struct RawOverrides<'a> {
    entries: Vec<sys::llama_model_tensor_buft_override>,
    patterns: PhantomData<&'a CStr>,
}

impl<'a> RawOverrides<'a> {
    pub(crate) fn new(rules: impl Iterator<Item = (&'a CStr, BufferType)>) -> Self {
        let mut entries: Vec<_> = rules
            .map(|(pattern, buft)| sys::llama_model_tensor_buft_override {
                pattern: pattern.as_ptr(),
                buft: buft.as_ptr(),
            })
            .collect();
        entries.push(sys::llama_model_tensor_buft_override {
            pattern: ptr::null(),
            buft: ptr::null_mut(),
        });
        Self {
            entries,
            patterns: PhantomData,
        }
    }

    /// The number of rules, without the terminator.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - 1
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For the loader; NULL without rules, since an empty list switches pipeline
    /// parallelism off just as a full one does.
    pub(super) fn as_ptr(&self) -> *const sys::llama_model_tensor_buft_override {
        if self.is_empty() {
            ptr::null()
        } else {
            self.entries.as_ptr()
        }
    }
}

impl fmt::Debug for RawOverrides<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawOverrides")
            .field("len", &self.len())
            .finish()
    }
}
