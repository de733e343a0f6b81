//! The loader's own regular expressions: `std::regex`.

use std::ffi::{CStr, CString};
use std::ptr::{self, NonNull};

use llama_sys as sys;

use super::call::{Failure, guarded};

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Regex(NonNull<sys::llama_shim_regex>);

// SAFETY: the shim's header: a pattern can be searched for by many threads at once, and
// nothing changes it.
unsafe impl Send for Regex {}
// SAFETY: as above.
unsafe impl Sync for Regex {}

impl Regex {
    /// Longest pattern, in bytes.
    pub(crate) const MAX_LENGTH: usize = sys::LLAMA_SHIM_REGEX_MAX_LENGTH as usize;

    pub(crate) fn new(pattern: &CStr) -> Result<Self, Failure> {
        let mut regex = ptr::null_mut();
        guarded(|error| {
            // SAFETY: a NUL-terminated pattern, out-parameters of this frame.
            unsafe { sys::llama_shim_regex_new(pattern.as_ptr(), &mut regex, error) }
        })?;
        NonNull::new(regex).map(Self).ok_or_else(|| Failure {
            kind: crate::error::FailureKind::Failed,
            reason: "no pattern was returned".to_owned(),
        })
    }

    /// Whether the loader would find the pattern in a tensor's name. A name that no
    /// tensor can have (a NUL, or too long) matches nothing.
    pub(crate) fn is_match(&self, name: &str) -> bool {
        let Ok(name) = CString::new(name) else {
            return false;
        };
        let mut matched = false;
        let (begin, end) = (ptr::null_mut(), ptr::null_mut());
        let searched = guarded(|error| {
            // SAFETY: a live pattern, a NUL-terminated text, and out-parameters of which
            // the last two may be NULL.
            unsafe {
                sys::llama_shim_regex_search(
                    self.0.as_ptr(),
                    name.as_ptr(),
                    &mut matched,
                    begin,
                    end,
                    error,
                )
            }
        });
        searched.is_ok() && matched
    }
}

impl Drop for Regex {
    fn drop(&mut self) {
        // SAFETY: owned, freed once.
        unsafe { sys::llama_shim_regex_free(self.0.as_ptr()) }
    }
}
