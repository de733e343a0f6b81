//! Models from elsewhere than a path: an open file, a list of splits, a program's memory; and
//! loads that a program ends.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use llama_sys as sys;

mod support;
use support::{Context, Failure, Model, context_params, gguf, guarded, model_params};

unsafe extern "C" {
    fn fopen(path: *const c_char, mode: *const c_char) -> *mut sys::FILE;
    fn fclose(file: *mut sys::FILE) -> c_int;
}

/// The likeliest tokens after a short text.
fn answer(model: &Model) -> Vec<sys::llama_token> {
    let context = Context::new(model, &context_params()).expect("a context");
    let mut token = support::greedy(&context, &support::tokenize(model, "the expert"));
    let mut answer = vec![token];
    for _ in 0..4 {
        token = support::greedy(&context, &[token]);
        answer.push(token);
    }
    answer
}

fn answer_of_file(path: &Path) -> Vec<sys::llama_token> {
    answer(&Model::load(path, &model_params()).expect("the test model loads"))
}

#[test]
fn an_open_file_is_a_model() {
    let (_dir, path) = support::moe_model();
    support::init();
    let c_path = gguf::c_string(path.to_str().expect("UTF-8"));
    let mut model = ptr::null_mut();
    // SAFETY: NUL-terminated strings; the file is open during the call and closed once.
    unsafe {
        let file = fopen(c_path.as_ptr(), c"rb".as_ptr());
        assert!(!file.is_null());
        let outcome = guarded(|error| {
            sys::llama_shim_model_load_from_file_ptr(file, &model_params(), &mut model, error)
        });
        fclose(file);
        outcome.expect("the test model loads");
    }
    assert_eq!(answer(&Model(model)), answer_of_file(&path));
}

#[test]
fn a_list_of_one_split_is_a_model() {
    let (_dir, path) = support::moe_model();
    support::init();
    let load = |paths: &[*const c_char]| -> Result<Model, Failure> {
        let mut model = ptr::null_mut();
        guarded(|error| {
            // SAFETY: NUL-terminated paths, as many as are said.
            unsafe {
                sys::llama_shim_model_load_from_splits(
                    paths.as_ptr(),
                    paths.len(),
                    &model_params(),
                    &mut model,
                    error,
                )
            }
        })?;
        Ok(Model(model))
    };
    let c_path = gguf::c_string(path.to_str().expect("UTF-8"));
    let model = load(&[c_path.as_ptr()]).expect("the test model loads");
    assert_eq!(answer(&model), answer_of_file(&path));
    for paths in [&[][..], &[ptr::null()], &[c_path.as_ptr(), ptr::null()]] {
        let Err(failure) = load(paths) else {
            panic!("it loads")
        };
        assert_eq!(failure.status, sys::LLAMA_SHIM_INVALID_ARGUMENT);
    }
}

/// Fills a tensor from the `gguf::Writer` behind `writer`.
unsafe extern "C" fn fill(tensor: *mut sys::ggml_tensor, writer: *mut c_void) {
    // SAFETY: what the test passes, and a tensor that llama.cpp has allocated.
    unsafe {
        let writer = &*writer.cast::<gguf::Writer>();
        let name = CStr::from_ptr(sys::ggml_get_name(tensor));
        let size = sys::ggml_nbytes(tensor);
        // llama.cpp asks for the tensors that a model may lack, too. Those that this one lacks
        // are biases, which are nothing, and frequency factors, which are one.
        let neutral = if name.to_bytes().ends_with(b".bias") {
            0.0
        } else {
            1.0
        };
        let lacking = vec![neutral; size / size_of::<f32>()];
        let values = writer.data(name).unwrap_or(&lacking);
        assert_eq!(size_of_val(values), size, "{name:?}");
        sys::ggml_backend_tensor_set(tensor, values.as_ptr().cast(), 0, size);
    }
}

#[test]
fn a_program_can_bring_its_own_tensors() {
    let (_dir, path) = support::moe_model();
    support::init();
    let mut writer = gguf::Writer::moe();
    let header = writer.header();
    let mut model = ptr::null_mut();
    guarded(|error| {
        // SAFETY: a live header; the function is given the writer, during the call only.
        unsafe {
            sys::llama_shim_model_init_from_user(
                header,
                Some(fill),
                ptr::from_mut(&mut writer).cast(),
                &model_params(),
                &mut model,
                error,
            )
        }
    })
    .expect("a model");
    assert_eq!(answer(&Model(model)), answer_of_file(&path));

    let mut model = ptr::null_mut();
    let failure = guarded(|error| {
        // SAFETY: a live header; no function is what is refused.
        unsafe {
            sys::llama_shim_model_init_from_user(
                header,
                None,
                ptr::null_mut(),
                &model_params(),
                &mut model,
                error,
            )
        }
    })
    .expect_err("nobody brings tensors");
    assert_eq!(failure.status, sys::LLAMA_SHIM_INVALID_ARGUMENT);
}

/// Counts its calls, and ends the load at the second.
unsafe extern "C" fn stop(progress: f32, calls: *mut c_void) -> bool {
    assert!((0.0..=1.0).contains(&progress));
    // SAFETY: what the test passes.
    let calls = unsafe { &mut *calls.cast::<u32>() };
    *calls += 1;
    *calls < 2
}

#[test]
fn a_load_that_its_caller_ends_says_so() {
    let (_dir, path) = support::moe_model();
    let mut calls = 0u32;
    let params = sys::llama_model_params {
        progress_callback: Some(stop),
        progress_callback_user_data: ptr::from_mut(&mut calls).cast(),
        ..model_params()
    };
    let Err(failure) = Model::load(&path, &params) else {
        panic!("it loads")
    };
    assert_eq!(calls, 2);
    assert_eq!(failure.status, sys::LLAMA_SHIM_FAILED);
    assert!(failure.text.contains("cancelled"), "{}", failure.text);
}
