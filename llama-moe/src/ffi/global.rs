//! What there is once in a process.

#[cfg(feature = "measure")]
use std::sync::{Mutex, PoisonError};

use llama_sys as sys;

use super::{log, text};
use crate::error::Result;

/// Prepares llama.cpp: its log goes to `tracing`, its backends are in the registry.
/// To be called once.
pub(crate) fn init(modules: Option<&std::path::Path>) -> Result<()> {
    log::install();
    if let Some(folder) = modules {
        let folder = text::c_path(folder)?;
        // SAFETY: a NUL-terminated path. The registry is not synchronised: this is called
        // once, before any other call that uses it.
        unsafe { sys::ggml_backend_load_all_from_path(folder.as_ptr()) }
    }
    // SAFETY: no arguments; sets up ggml's tables, and is called once.
    unsafe { sys::llama_backend_init() }
    Ok(())
}

pub(crate) fn numa_init(strategy: sys::ggml_numa_strategy) {
    // SAFETY: one of the strategies of the header; called once, before any graph runs.
    unsafe { sys::llama_numa_init(strategy) }
}

pub(crate) fn llama_version() -> &'static str {
    // SAFETY: llama.cpp returns a NUL-terminated string literal.
    let version = unsafe { std::ffi::CStr::from_ptr(sys::llama_version()) };
    version.to_str().unwrap_or("unknown")
}

/// How the backends are compiled, and what they use of this machine: `CPU : AVX2 = 1 | …`.
/// The registry is held meanwhile.
#[cfg(feature = "measure")]
pub(crate) fn system_info() -> String {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: no arguments. The text is one static, which nobody writes to before it is
    // copied: this is the only caller, and takes turns.
    let info = unsafe { sys::llama_print_system_info() };
    text::owned(info)
}

/// `llama_max_devices`: the length that `tensor_split` is read for.
pub(crate) fn max_devices() -> usize {
    // SAFETY: no arguments, a constant.
    unsafe { sys::llama_max_devices() }
}

/// `llama_max_parallel_sequences`: the most sequences that a context can have.
pub(crate) fn max_sequences() -> usize {
    // SAFETY: no arguments, a constant.
    unsafe { sys::llama_max_parallel_sequences() }
}

/// Whether files can be mapped on this system.
pub(crate) fn supports_mmap() -> bool {
    // SAFETY: no arguments, returns a constant.
    unsafe { sys::llama_supports_mmap() }
}
