//! Threads that stay with a context.

use std::ptr;

use llama_sys as sys;

mod support;
use support::{Context, Model, context_params, guarded, model_params};

fn attach(
    context: *mut sys::llama_context,
    n_threads: i32,
    poll: u32,
) -> Result<*mut sys::llama_shim_threadpool, support::Failure> {
    let mut pool = ptr::dangling_mut();
    let outcome = guarded(|error| {
        // SAFETY: a live context or NULL, which is refused; an out-parameter of this frame.
        unsafe { sys::llama_shim_threadpool_attach(context, n_threads, poll, &mut pool, error) }
    });
    match outcome {
        Ok(()) => Ok(pool),
        Err(failure) => {
            assert!(pool.is_null());
            Err(failure)
        }
    }
}

#[test]
fn a_context_computes_on_its_threads_and_on_others_after_them() {
    let (_dir, path) = support::moe_model();
    let model = Model::load(&path, &model_params()).expect("the test model loads");
    let tokens = support::tokenize(&model, "the expert");
    let alone = Context::new(&model, &context_params()).expect("a context");
    let expected = support::greedy(&alone, &tokens);

    let context = Context::new(&model, &context_params()).expect("a context");
    let mut pools = Vec::new();
    for n_threads in [1, 3, 2] {
        let pool = attach(context.0, n_threads, 0).expect("a pool");
        // SAFETY: a live context, used by this thread alone.
        unsafe { sys::llama_set_n_threads(context.0, n_threads, n_threads) };
        pools.push(pool);
        // SAFETY: as above.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(context.0), true) };
        assert_eq!(support::greedy(&context, &tokens), expected);
    }
    drop(context);
    for pool in pools {
        // SAFETY: made above, freed once, after its context.
        unsafe { sys::llama_shim_threadpool_free(pool) };
    }
    // SAFETY: NULL is fine.
    unsafe { sys::llama_shim_threadpool_free(ptr::null_mut()) };
}

#[test]
fn what_cannot_be_attached_is_refused() {
    let (_dir, path) = support::moe_model();
    let model = Model::load(&path, &model_params()).expect("the test model loads");
    let context = Context::new(&model, &context_params()).expect("a context");
    let too_many = i32::try_from(sys::GGML_MAX_N_THREADS).expect("a small number") + 1;
    for (context, n_threads, poll) in [
        (ptr::null_mut(), 1, 0),
        (context.0, 0, 0),
        (context.0, -1, 0),
        (context.0, too_many, 0),
        (context.0, 1, 101),
    ] {
        let failure = attach(context, n_threads, poll).expect_err("a refusal");
        assert_eq!(failure.status, sys::LLAMA_SHIM_INVALID_ARGUMENT);
    }
}
