//! Arguments that llama.cpp answers with an abort or with undefined behaviour: the shim refuses
//! them before, or passes on what means the same.

use std::ptr;

use llama_sys as sys;

mod support;
use support::{Context, Failure, Model, context_params, gguf, guarded, model_params};

#[track_caller]
fn assert_refused(outcome: Result<(), Failure>, word: &str) {
    let failure = outcome.expect_err("it is let through");
    assert_eq!(
        failure.status,
        sys::LLAMA_SHIM_INVALID_ARGUMENT,
        "{}",
        failure.text
    );
    assert!(failure.text.contains(word), "{}", failure.text);
}

fn model() -> (tempfile::TempDir, Model) {
    let (dir, path) = support::moe_model();
    let model = Model::load(&path, &model_params()).expect("the test model loads");
    (dir, model)
}

#[test]
fn a_decoder_cannot_encode() {
    let (_dir, model) = model();
    let context = Context::new(&model, &context_params()).expect("a context");
    let mut tokens = [1, 5];
    let mut result = 0;
    // SAFETY: a live context, a batch that points into `tokens`.
    let outcome = unsafe {
        let batch = sys::llama_batch_get_one(tokens.as_mut_ptr(), 2);
        guarded(|error| sys::llama_shim_encode(context.0, &batch, &mut result, error))
    };
    assert_refused(outcome, "encoder");
}

#[test]
#[cfg(not(feature = "system"))]
fn a_batch_needs_contents_and_positions() {
    let (_dir, model) = model();
    let context = Context::new(&model, &context_params()).expect("a context");
    // SAFETY: live handles, arrays of this frame as long as the batch says.
    unsafe {
        let mut result = 0;
        let empty = sys::llama_batch {
            n_tokens: 1,
            ..sys::llama_batch_get_one(ptr::null_mut(), 0)
        };
        let outcome =
            guarded(|error| sys::llama_shim_decode(context.0, &empty, &mut result, error));
        assert_refused(outcome, "neither");

        let mut batch = ptr::null_mut();
        guarded(|error| sys::llama_shim_batch_ext_init(context.0, &mut batch, error))
            .expect("an extended batch");
        let mut index = -1;
        guarded(|error| sys::llama_shim_batch_ext_add_token(batch, 0, 1, &mut index, error))
            .expect("an entry");
        let mut process = |position: sys::llama_pos| {
            assert!(sys::llama_batch_ext_set_pos(batch, index, &position));
            guarded(|error| {
                let decode = sys::LLAMA_PROCESS_TYPE_DECODE;
                sys::llama_shim_process(context.0, decode, batch, &mut result, error)
            })
        };
        assert_refused(process(-5), "position");
        process(0).expect("a decoded batch");
        guarded(|error| sys::llama_shim_batch_ext_free(batch, error)).expect("freed");
    }
}

#[test]
fn the_greatest_position_is_the_end_of_a_sequence() {
    let (_dir, model) = model();
    let params = sys::llama_context_params {
        n_seq_max: 2,
        kv_unified: false,
        ..context_params()
    };
    let context = Context::new(&model, &params).expect("a context");
    support::greedy(&context, &[1, 5, 6]);
    let (mut min, mut max) = (0, 0);
    // SAFETY: a live context, out-parameters of this frame.
    unsafe {
        guarded(|error| sys::llama_shim_seq_cp(context.0, 0, 1, 0, i32::MAX, error))
            .expect("a copy");
        guarded(|error| sys::llama_shim_seq_pos(context.0, 1, &mut min, &mut max, error))
            .expect("positions");
        assert_eq!((min, max), (0, 2));
        // And no position goes beyond it.
        let outcome =
            guarded(|error| sys::llama_shim_seq_add(context.0, 0, 0, -1, i32::MAX - 1, error));
        assert_refused(outcome, "beyond");
        guarded(|error| sys::llama_shim_seq_add(context.0, 0, 0, -1, 7, error)).expect("moved");
        guarded(|error| sys::llama_shim_seq_pos(context.0, 0, &mut min, &mut max, error))
            .expect("positions");
        assert_eq!((min, max), (7, 9));
    }
}

#[test]
#[cfg(not(feature = "system"))]
fn a_model_without_weights_is_for_measuring_only() {
    let (_dir, path) = support::moe_model();
    let params = sys::llama_model_params {
        no_alloc: true,
        load_mode: sys::LLAMA_LOAD_MODE_NONE,
        ..model_params()
    };
    let empty = Model::load(&path, &params).expect("the test model loads");
    let real = Model::load(&path, &model_params()).expect("the test model loads");
    let context = Context::new(&empty, &context_params()).expect("a context to measure");

    // Where the tensors would be is known.
    let tensors = support::placement(&empty);
    assert!(!tensors.is_empty());
    assert!(
        tensors.iter().all(|t| !t.buffer.is_empty()),
        "a tensor without a place: {tensors:?}"
    );

    // A state has nowhere to go.
    let other = Context::new(&real, &context_params()).expect("a context");
    support::greedy(&other, &[1, 5, 6]);
    let state = support::save_state(&other);
    let mut read = 0;
    // SAFETY: a live context and a slice given with its length.
    let outcome = guarded(|error| unsafe {
        sys::llama_shim_state_set_data(context.0, state.as_ptr(), state.len(), &mut read, error)
    });
    assert_refused(outcome, "without weights");
}

#[test]
#[cfg(not(feature = "system"))]
fn more_devices_than_ggml_schedules_are_refused() {
    let (_dir, path) = support::moe_model();
    let load = |n_devices: usize, tensor_split: *const f32| {
        let mut devices = vec![support::cpu_device(); n_devices];
        devices.push(ptr::null_mut());
        let params = sys::llama_model_params {
            devices: devices.as_mut_ptr(),
            tensor_split,
            ..model_params()
        };
        Model::load(&path, &params)
    };
    let model = load(16, ptr::null()).expect("a load alone does not care");
    assert_refused(Context::new(&model, &context_params()).map(drop), "devices");
    let model = load(3, ptr::null()).expect("the test model loads");
    Context::new(&model, &context_params()).expect("a context on few devices");

    // A tensor split has sixteen elements, however many devices there are.
    let split = [1.0; 16];
    assert_refused(load(17, split.as_ptr()).map(drop), "tensor split");
}

#[test]
#[cfg(not(feature = "system"))]
fn a_chain_is_attached_once_even_within_another() {
    let (_dir, model) = model();
    let context = Context::new(&model, &context_params()).expect("a context");
    // SAFETY: live handles; the outer chain owns the inner one, and both are detached before
    // they are freed.
    unsafe {
        let inner = sys::llama_sampler_chain_init(sys::llama_sampler_chain_default_params());
        sys::llama_sampler_chain_add(inner, sys::llama_sampler_init_greedy());
        let mut offloaded = false;
        let mut attach = |chain| {
            guarded(|error| sys::llama_shim_set_sampler(context.0, 0, chain, &mut offloaded, error))
        };
        attach(inner).expect("a first time");
        attach(ptr::null_mut()).expect("detached");
        assert_refused(attach(inner), "attached");

        let outer = sys::llama_sampler_chain_init(sys::llama_sampler_chain_default_params());
        guarded(|error| sys::llama_shim_sampler_chain_add(outer, inner, error)).expect("added");
        assert_refused(attach(outer), "attached");
        guarded(|error| sys::llama_shim_sampler_free(outer, error)).expect("freed");
    }
}

#[test]
fn filling_in_the_middle_needs_a_token_to_end_with() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("vocabulary.gguf");
    let params = sys::llama_model_params {
        vocab_only: true,
        ..model_params()
    };
    // Byte-level BPE has an end of text by default, llama.cpp's vocabulary for tests has none.
    for (kind, has_end) in [("gpt2", true), ("test", false)] {
        let mut writer = gguf::Writer::bpe("default");
        writer.string("tokenizer.ggml.model", kind);
        writer.write(&path);
        let model = Model::load(&path, &params).expect("a vocabulary");
        let mut sampler = ptr::null_mut();
        // SAFETY: a live vocabulary, which outlives the sampler.
        let outcome = unsafe {
            let vocab = sys::llama_model_get_vocab(model.0);
            let outcome =
                guarded(|error| sys::llama_shim_sampler_init_infill(vocab, &mut sampler, error));
            sys::llama_sampler_free(sampler);
            outcome
        };
        if has_end {
            outcome.expect("a sampler");
        } else {
            assert_refused(outcome, "ends");
        }
    }
}

#[test]
fn numbers_that_are_no_mode_are_refused() {
    let (_dir, path) = support::moe_model();
    for params in [
        sys::llama_model_params {
            load_mode: 99,
            ..model_params()
        },
        sys::llama_model_params {
            split_mode: 99,
            ..model_params()
        },
    ] {
        assert_refused(Model::load(&path, &params).map(drop), "mode");
    }
    let model = Model::load(&path, &model_params()).expect("the test model loads");
    for params in [
        sys::llama_context_params {
            flash_attn_type: 99,
            ..context_params()
        },
        sys::llama_context_params {
            pooling_type: 99,
            embeddings: true,
            ..context_params()
        },
        sys::llama_context_params {
            type_k: sys::GGML_TYPE_COUNT,
            ..context_params()
        },
    ] {
        assert_refused(Context::new(&model, &params).map(drop), "type");
    }
}
