//! A LoRA adapter, from its file to the logits.

use std::ptr;

use llama_sys as sys;

mod support;
use support::{Context, Failure, Model, context_params, gguf, guarded, model_params};

fn load(model: &Model, path: &std::path::Path) -> Result<*mut sys::llama_adapter_lora, Failure> {
    let path = gguf::c_string(path.to_str().expect("UTF-8"));
    let mut adapter = ptr::null_mut();
    guarded(|error| {
        // SAFETY: a live model, a NUL-terminated path.
        unsafe { sys::llama_shim_lora_init(model.0, path.as_ptr(), &mut adapter, error) }
    })?;
    assert!(!adapter.is_null());
    Ok(adapter)
}

fn set(
    context: &Context,
    adapters: &[*mut sys::llama_adapter_lora],
    scale: f32,
) -> Result<(), Failure> {
    let scales = vec![scale; adapters.len()];
    guarded(|error| {
        // SAFETY: a live context and adapters, as many scales as adapters.
        unsafe {
            sys::llama_shim_set_adapters_lora(
                context.0,
                adapters.as_ptr(),
                adapters.len(),
                scales.as_ptr(),
                error,
            )
        }
    })
}

/// The logits after a short text in an emptied memory.
fn logits(model: &Model, context: &Context) -> Vec<f32> {
    guarded(|error| {
        // SAFETY: a live context.
        unsafe { sys::llama_shim_seq_clear(context.0, true, error) }
    })
    .expect("an emptied memory");
    support::greedy(context, &support::tokenize(model, "the expert"));
    // SAFETY: the last batch had one output, of one value per token.
    unsafe {
        let n_vocab = sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(model.0));
        let logits = sys::llama_get_logits_ith(context.0, -1);
        assert!(!logits.is_null());
        std::slice::from_raw_parts(logits, n_vocab as usize).to_vec()
    }
}

#[test]
fn an_adapter_changes_the_logits_while_it_is_set() {
    let (dir, path) = support::moe_model();
    let mut params = model_params();
    if cfg!(feature = "vulkan") {
        // Mesa 22.3's CPU driver corrupts its heap with the layers on it.
        params.n_gpu_layers = 0;
    }
    let model = Model::load(&path, &params).expect("the test model loads");
    let context = Context::new(&model, &context_params()).expect("a context");
    let before = logits(&model, &context);
    assert_eq!(logits(&model, &context), before, "not repeatable");

    let lora = dir.path().join("lora.gguf");
    gguf::Writer::lora().write(&lora);
    let adapter = load(&model, &lora).expect("the adapter loads");
    set(&context, &[adapter], 1.0).expect("set");
    assert_ne!(logits(&model, &context), before);
    set(&context, &[], 1.0).expect("removed");
    assert_eq!(logits(&model, &context), before);

    guarded(|error| {
        // SAFETY: owned, and no longer set.
        unsafe { sys::llama_shim_lora_free(adapter, error) }
    })
    .expect("freed");
    assert_eq!(logits(&model, &context), before);
}

#[test]
fn an_adapter_belongs_to_its_model() {
    let (dir, path) = support::moe_model();
    let model = Model::load(&path, &model_params()).expect("the test model loads");
    let other = Model::load(&path, &model_params()).expect("the test model loads");
    let lora = dir.path().join("lora.gguf");
    gguf::Writer::lora().write(&lora);
    // Never freed by itself: it goes with its model.
    let adapter = load(&model, &lora).expect("the adapter loads");

    let context = Context::new(&other, &context_params()).expect("a context");
    if cfg!(not(feature = "system")) {
        let failure = set(&context, &[adapter], 1.0).expect_err("it is another model's");
        assert_eq!(failure.status, sys::LLAMA_SHIM_INVALID_ARGUMENT);
    }
    let failure = set(&context, &[ptr::null_mut()], 1.0).expect_err("it is none");
    assert_eq!(failure.status, sys::LLAMA_SHIM_INVALID_ARGUMENT);
}

#[test]
fn an_adapter_for_other_tensors_says_which() {
    let (dir, path) = support::moe_model();
    let model = Model::load(&path, &model_params()).expect("the test model loads");
    let lora = dir.path().join("lora.gguf");
    let mut writer = gguf::Writer::lora();
    writer.tensor("blk.99.attn_q.weight.lora_a", &[64, 4]);
    writer.tensor("blk.99.attn_q.weight.lora_b", &[4, 64]);
    writer.write(&lora);
    let failure = load(&model, &lora).expect_err("there is no such layer");
    assert_eq!(failure.status, sys::LLAMA_SHIM_FAILED);
    assert!(
        failure.text.contains("blk.99.attn_q.weight"),
        "{}",
        failure.text
    );
}
