//! The only place where `unsafe` is allowed: everything below speaks to
//! [`llama_sys`], everything above is safe Rust.
#![allow(unsafe_code)]

use std::ffi::CStr;

/// `llama_version`.
pub(crate) fn llama_version() -> &'static str {
    // SAFETY: llama.cpp returns a NUL-terminated string literal.
    let version = unsafe { CStr::from_ptr(llama_sys::llama_version()) };
    version.to_str().unwrap_or("unknown")
}
