//! States in memory and in files, of all sequences and of one.

use std::ptr;

use llama_sys as sys;

mod support;
use support::{Context, Model, context_params, gguf, guarded, model_params};

#[test]
fn files_bring_back_the_state_and_the_tokens() {
    let (dir, path) = support::moe_model();
    let model = Model::load(&path, &model_params()).expect("the test model loads");
    let context = Context::new(&model, &context_params()).expect("a context");
    let tokens = support::tokenize(&model, "the expert");
    let prompt = support::greedy(&context, &tokens);

    let all = gguf::c_string(dir.path().join("all").to_str().expect("UTF-8"));
    let one = gguf::c_string(dir.path().join("one").to_str().expect("UTF-8"));
    let bare = gguf::c_string(dir.path().join("bare").to_str().expect("UTF-8"));
    let mut size = 0;
    // SAFETY: live contexts, NUL-terminated paths, slices given with their lengths.
    unsafe {
        let (list, n) = (tokens.as_ptr(), tokens.len());
        guarded(|error| sys::llama_shim_state_save_file(context.0, all.as_ptr(), list, n, error))
            .expect("a file");
        guarded(|error| {
            let path = one.as_ptr();
            sys::llama_shim_state_seq_save_file(context.0, path, 0, list, n, &mut size, error)
        })
        .expect("a file");
        guarded(|error| {
            sys::llama_shim_state_save_file(context.0, bare.as_ptr(), ptr::null(), 0, error)
        })
        .expect("a file without tokens");
    }
    assert!(size > 0);
    let next = support::greedy(&context, &[prompt]);

    let mut buffer = vec![0; tokens.len()];
    let mut n_tokens = 0;
    // SAFETY: as above.
    unsafe {
        let fresh = Context::new(&model, &context_params()).expect("a context");
        let (list, n) = (buffer.as_mut_ptr(), buffer.len());
        guarded(|error| {
            let path = all.as_ptr();
            sys::llama_shim_state_load_file(fresh.0, path, list, n, &mut n_tokens, error)
        })
        .expect("a state");
        assert_eq!((n_tokens, &buffer), (tokens.len(), &tokens));
        assert_eq!(support::greedy(&fresh, &[prompt]), next);

        let fresh = Context::new(&model, &context_params()).expect("a context");
        buffer.fill(0);
        let (list, n) = (buffer.as_mut_ptr(), buffer.len());
        let mut read = 0;
        guarded(|error| {
            let path = one.as_ptr();
            let tokens = &mut n_tokens;
            sys::llama_shim_state_seq_load_file(fresh.0, path, 0, list, n, tokens, &mut read, error)
        })
        .expect("a state");
        assert_eq!((n_tokens, read, &buffer), (tokens.len(), size, &tokens));
        assert_eq!(support::greedy(&fresh, &[prompt]), next);

        let fresh = Context::new(&model, &context_params()).expect("a context");
        guarded(|error| {
            let path = bare.as_ptr();
            let none = ptr::null_mut();
            sys::llama_shim_state_load_file(fresh.0, path, none, 0, &mut n_tokens, error)
        })
        .expect("a state without tokens");
        assert_eq!(n_tokens, 0);
        assert_eq!(support::greedy(&fresh, &[prompt]), next);

        // Too little room, and the other kind of file.
        for path in [&all, &one] {
            let failure = guarded(|error| {
                let path = path.as_ptr();
                sys::llama_shim_state_load_file(fresh.0, path, list, n - 1, &mut n_tokens, error)
            })
            .expect_err("it does not fit");
            assert_eq!(failure.status, sys::LLAMA_SHIM_FAILED);
            assert_eq!(n_tokens, 0);
        }
    }
}
