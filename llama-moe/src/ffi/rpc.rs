//! Devices of other machines, and lending this machine's.

use std::convert::Infallible;
use std::path::Path;
use std::ptr;

use llama_sys as sys;

use super::call::{Failure, guarded};
use super::device::DeviceHandle;
use super::text;
use crate::error::{FailureKind, Result};

/// Adds the devices of a server to the registry and returns them. The caller sees to it
/// that nobody uses the registry meanwhile.
pub(crate) fn add_server(endpoint: &str, timeout_ms: i32) -> Result<Vec<DeviceHandle>> {
    let endpoint = text::c_string("RPC endpoint", endpoint)?;
    let mut reg = ptr::null_mut();
    guarded(|error| {
        // SAFETY: a NUL-terminated endpoint, out-parameters of this frame; the caller
        // keeps others from the registry.
        unsafe { sys::llama_shim_rpc_add_server(endpoint.as_ptr(), timeout_ms, &mut reg, error) }
    })
    .map_err(|failure| failure.of("ggml_backend_rpc_add_server"))?;
    if reg.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: a registry entry just returned, which lives as long as the process.
    let count = unsafe { sys::ggml_backend_reg_dev_count(reg) };
    Ok((0..count)
        .filter_map(|index| {
            // SAFETY: an index below the count just read.
            DeviceHandle::new(unsafe { sys::ggml_backend_reg_dev_get(reg, index) })
        })
        .collect())
}

/// Serves `devices` at `endpoint`; returns only with an error.
pub(crate) fn serve(
    endpoint: &str,
    cache: Option<&Path>,
    n_threads: usize,
    devices: &[DeviceHandle],
) -> Result<Infallible> {
    let endpoint = text::c_string("RPC endpoint", endpoint)?;
    let cache = cache.map(text::c_path).transpose()?;
    let devices: Vec<_> = devices.iter().map(|device| device.as_ptr()).collect();
    let served = guarded(|error| {
        // SAFETY: NUL-terminated texts, the folder's may be NULL, and an array of live
        // devices given with its length.
        unsafe {
            sys::llama_shim_rpc_serve(
                endpoint.as_ptr(),
                cache.as_ref().map_or(ptr::null(), |cache| cache.as_ptr()),
                n_threads,
                devices.as_ptr(),
                devices.len(),
                error,
            )
        }
    });
    let failure = served.err().unwrap_or_else(|| Failure {
        kind: FailureKind::Failed,
        reason: "the server stopped".to_owned(),
    });
    Err(failure.of("ggml_backend_rpc_start_server"))
}
