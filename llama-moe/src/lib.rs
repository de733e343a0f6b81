//! Mixture-of-Experts models bigger than the GPU, on llama.cpp.
//!
//! This version is the ground floor: it builds and links the pinned llama.cpp
//! through [`llama_sys`] and tells which one it is. Typed rules for where each
//! tensor lives, models, contexts and chat are built on it.
//!
//! ```
//! assert!(llama_moe::llama_cpp_version().starts_with("0.6.0"));
//! ```
#![deny(unsafe_code)]

mod ffi;

/// The version of the llama.cpp that is linked, for example `0.6.0-dev` (`-dev`
/// where it was not built from a release tag).
///
/// Rests on `llama_version`.
#[must_use]
pub fn llama_cpp_version() -> &'static str {
    ffi::llama_version()
}
