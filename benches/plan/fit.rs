//! llama.cpp's own `common_fit_params`, and the clock that both sides are measured with.

use std::ffi::{CStr, CString, c_char};
use std::mem;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use llama_moe::{ModelParams, Pattern, Target};
use llama_sys as sys;

/// The parameters that a fit found; `None` where it found none.
pub type Fitted = Option<ModelParams>;

/// Fits a model to what its only device has free, less `margin`, with a context of `n_ctx`.
pub fn fit(path: &Path, n_ctx: u32, margin: u64) -> Result<Fitted, String> {
    let path = path.to_str().ok_or("a path that is not UTF-8")?;
    let path = CString::new(path).map_err(|error| error.to_string())?;
    // SAFETY: plain functions without arguments.
    let (mut model, mut context, n_devices, n_overrides) = unsafe {
        (
            sys::llama_model_default_params(),
            sys::llama_context_default_params(),
            sys::llama_max_devices(),
            sys::llama_max_tensor_buft_overrides(),
        )
    };
    context.n_ctx = n_ctx;
    let mut split = vec![0.0; n_devices];
    // SAFETY: an entry of null pointers is the one that ends a list.
    let end: sys::llama_model_tensor_buft_override = unsafe { mem::zeroed() };
    let mut overrides = vec![end; n_overrides];
    let margins = vec![usize::try_from(margin).map_err(|error| error.to_string())?; n_devices];
    let mut result = sys::LLAMA_SHIM_FIT_SUCCESS;
    let mut error: *mut c_char = ptr::null_mut();
    // SAFETY: every array is given with its length, and outlives the parameters.
    let status = unsafe {
        sys::llama_shim_fit_params(
            path.as_ptr(),
            &mut model,
            &mut context,
            split.as_mut_ptr(),
            split.len(),
            overrides.as_mut_ptr(),
            overrides.len(),
            margins.as_ptr(),
            margins.len(),
            n_ctx,
            sys::GGML_LOG_LEVEL_ERROR,
            &mut result,
            &mut error,
        )
    };
    if status != sys::LLAMA_SHIM_OK {
        // SAFETY: a failure comes with a text that ends in a NUL.
        let text = unsafe { CStr::from_ptr(error) }
            .to_string_lossy()
            .into_owned();
        // SAFETY: it is ours to free, and not used any more.
        unsafe { sys::llama_shim_string_free(error) };
        if result == sys::LLAMA_SHIM_FIT_TOO_BIG {
            return Ok(None);
        }
        return Err(text);
    }
    let mut params = ModelParams::default().allow_unmatched_overrides();
    if let Ok(n) = u32::try_from(model.n_gpu_layers) {
        params = params.with_n_gpu_layers(n);
    }
    for entry in overrides
        .iter()
        .take_while(|entry| !entry.pattern.is_null())
    {
        // SAFETY: patterns that a fit writes are static texts that end in a NUL.
        let pattern = unsafe { CStr::from_ptr(entry.pattern) };
        let pattern = Pattern::new(pattern.to_string_lossy().into_owned());
        let pattern = pattern.map_err(|error| error.to_string())?;
        // On one device there is nowhere else to go.
        params = params.with_override(pattern, Target::Cpu);
    }
    Ok(Some(params))
}

/// Time that all threads of this process have computed, their time in the system included.
pub fn cpu_time() -> Duration {
    // SAFETY: a structure of plain numbers.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: it points to a structure of that type.
    let status = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    assert_eq!(status, 0, "getrusage");
    [usage.ru_utime, usage.ru_stime]
        .into_iter()
        .map(|time| {
            Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
        })
        .sum()
}
