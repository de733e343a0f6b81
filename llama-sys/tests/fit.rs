//! llama.cpp's own `--fit`, guarded.

use std::path::Path;

use llama_sys as sys;

mod support;
use support::{Failure, context_params, gguf, guarded, model_params};

/// The result and the parameters after a fit of the model at `path`.
fn fit(
    path: &Path,
    n_margins: usize,
) -> (
    Result<(), Failure>,
    sys::llama_shim_fit_result,
    sys::llama_context_params,
) {
    support::init();
    let path = gguf::c_string(path.to_str().expect("a UTF-8 path"));
    // -1 layers is llama.cpp's own default: a value that was chosen is not changed.
    let mut model = sys::llama_model_params {
        n_gpu_layers: -1,
        ..model_params()
    };
    let mut context = sys::llama_context_params {
        n_ctx: 0,
        ..context_params()
    };
    // SAFETY: plain limits.
    let (n_devices, n_overrides) = unsafe {
        (
            sys::llama_max_devices(),
            sys::llama_max_tensor_buft_overrides(),
        )
    };
    let mut split = vec![0.0; n_devices];
    // SAFETY: zeros end the list.
    let mut overrides = vec![unsafe { std::mem::zeroed() }; n_overrides];
    let margins = vec![0; n_margins];
    let mut result = sys::LLAMA_SHIM_FIT_SUCCESS;
    let outcome = guarded(|error| {
        // SAFETY: every array is given with its length and outlives the parameters.
        unsafe {
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
                256,
                sys::GGML_LOG_LEVEL_ERROR,
                &mut result,
                error,
            )
        }
    });
    (outcome, result, context)
}

#[test]
#[cfg(not(feature = "system"))]
fn a_small_model_fits_and_a_missing_one_is_an_error() {
    let (_dir, path) = support::moe_model();
    let (outcome, result, context) = fit(&path, 16);
    outcome.expect("the test model fits");
    assert_eq!(result, sys::LLAMA_SHIM_FIT_SUCCESS);
    // 0 still means the model's own context size: nothing had to be reduced.
    assert!(
        context.n_ctx == 0 || context.n_ctx == 512,
        "{}",
        context.n_ctx
    );

    let (outcome, result, _) = fit(Path::new("no-such-model.gguf"), 16);
    let failure = outcome.expect_err("there is no such file");
    assert_eq!(failure.status, sys::LLAMA_SHIM_FAILED);
    assert_eq!(result, sys::LLAMA_SHIM_FIT_ERROR);
    assert!(
        failure.text.contains("no-such-model.gguf"),
        "{}",
        failure.text
    );

    // llama.cpp reads a margin per device, however long the array is.
    let (outcome, _, _) = fit(&path, 0);
    assert_eq!(
        outcome.expect_err("no margins").status,
        sys::LLAMA_SHIM_INVALID_ARGUMENT
    );
}

#[test]
#[cfg(feature = "system")]
fn fit_says_that_it_is_unsupported() {
    let (_dir, path) = support::moe_model();
    let (outcome, _, _) = fit(&path, 16);
    let failure = outcome.expect_err("without llama.cpp's sources there is no fit");
    assert_eq!(failure.status, sys::LLAMA_SHIM_UNSUPPORTED);
}
