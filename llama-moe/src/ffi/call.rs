//! How a guarded call of the shim becomes a `Result`.

use std::ffi::c_char;
use std::ptr;

use llama_sys as sys;

use super::text;
use crate::error::{Error, FailureKind, Result};

/// How a guarded call failed, before it is known what the caller was doing.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) reason: String,
}

impl Failure {
    /// The failure as an error of `call`, a function's name in llama.cpp's API.
    pub(crate) fn of(self, call: &'static str) -> Error {
        Error::Llama {
            call,
            kind: self.kind,
            reason: self.reason,
        }
    }
}

/// Runs `call` with a place for its error text and takes that text over.
pub(crate) fn guarded(
    call: impl FnOnce(*mut *mut c_char) -> sys::llama_shim_status,
) -> Result<(), Failure> {
    let mut error = ptr::null_mut();
    let status = call(&mut error);
    if status == sys::LLAMA_SHIM_OK {
        return Ok(());
    }
    let kind = match status {
        sys::LLAMA_SHIM_EXCEPTION => FailureKind::Exception,
        sys::LLAMA_SHIM_OUT_OF_MEMORY => FailureKind::OutOfMemory,
        sys::LLAMA_SHIM_INVALID_ARGUMENT => FailureKind::InvalidArgument,
        sys::LLAMA_SHIM_UNSUPPORTED => FailureKind::Unsupported,
        _ => FailureKind::Failed,
    };
    let reason = text::optional(error).unwrap_or_else(|| "no reason given".to_owned());
    // SAFETY: NULL or a text that the shim handed to this call alone, freed once.
    unsafe { sys::llama_shim_string_free(error) }
    Err(Failure { kind, reason })
}
