//! Loading, and what a loaded model tells of its memory.

use std::ffi::CString;
use std::fs;
use std::ptr;

use llama_sys as sys;

mod support;
use support::{Context, Failure, Model, context_params, gguf, guarded, model_params, text};

fn load_failure(bytes: &[u8]) -> Failure {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).expect("a scratch file");
    match Model::load(&path, &model_params()) {
        Ok(_) => panic!("the file loads"),
        Err(failure) => failure,
    }
}

/// The test model's header with `change` applied, as bytes of a file without data.
fn header(change: impl FnOnce(&mut gguf::Writer)) -> Vec<u8> {
    let mut writer = gguf::Writer::moe();
    change(&mut writer);
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("header.gguf");
    writer.write(&path);
    fs::read(&path).expect("the file just written")
}

#[test]
fn a_missing_file_says_which() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("there-is-no-such.gguf");
    let Err(failure) = Model::load(&path, &model_params()) else {
        panic!("it loads")
    };
    assert_eq!(failure.status, sys::LLAMA_SHIM_FAILED);
    assert!(
        failure.text.contains("there-is-no-such.gguf"),
        "{}",
        failure.text
    );
}

#[test]
fn the_exception_text_of_a_failed_load_arrives() {
    // The loader throws this inside; llama.cpp's API returns NULL and logs it.
    let failure = load_failure(&header(|file| file.remove("qwen3moe.block_count")));
    assert_eq!(failure.status, sys::LLAMA_SHIM_FAILED);
    assert!(
        failure
            .text
            .contains("key not found in model: qwen3moe.block_count"),
        "{}",
        failure.text
    );
}

#[test]
fn hostile_headers_are_errors() {
    let good = header(|_| ());

    let mut bad_magic = good.clone();
    bad_magic[..4].copy_from_slice(b"GGML");
    assert!(load_failure(&bad_magic).text.contains("magic"));

    // Cut inside the header, at the tensor data, and down to nothing.
    for length in [good.len() - 1, good.len() / 2, 4096, 100, 24, 23, 3, 0] {
        let failure = load_failure(&good[..length]);
        assert_eq!(
            failure.status,
            sys::LLAMA_SHIM_FAILED,
            "{length} bytes: {}",
            failure.text
        );
    }

    // Wrong-typed and unknown values.
    let wrong_type = header(|file| {
        file.remove("qwen3moe.block_count");
        file.string("qwen3moe.block_count", "four");
    });
    assert!(
        load_failure(&wrong_type)
            .text
            .contains("qwen3moe.block_count")
    );
    let unknown = header(|file| file.string("general.architecture", "no-such-architecture"));
    assert!(load_failure(&unknown).text.contains("no-such-architecture"));

    // Counts past the end of the file: tensors at byte 8, pairs at byte 16, and the
    // length of the first key at byte 24.
    for offset in [8, 16, 24] {
        for count in [1 << 20, i64::MAX as u64, u64::MAX] {
            let mut hostile = good.clone();
            hostile[offset..offset + 8].copy_from_slice(&count.to_le_bytes());
            let failure = load_failure(&hostile);
            assert_eq!(
                failure.status,
                sys::LLAMA_SHIM_FAILED,
                "{count:#x} at {offset}"
            );
        }
    }
}

#[test]
fn a_bad_override_pattern_is_the_exception_of_std_regex() {
    let (_dir, path) = support::moe_model();
    let pattern = CString::new("blk\\.(0|1").expect("no NUL");
    // SAFETY: the CPU device and its buffer type live as long as the process.
    let buft = unsafe { sys::ggml_backend_dev_buffer_type(support::cpu_device()) };
    let overrides = [
        sys::llama_model_tensor_buft_override {
            pattern: pattern.as_ptr(),
            buft,
        },
        sys::llama_model_tensor_buft_override {
            pattern: ptr::null(),
            buft: ptr::null_mut(),
        },
    ];
    let params = sys::llama_model_params {
        tensor_buft_overrides: overrides.as_ptr(),
        ..model_params()
    };
    let Err(failure) = Model::load(&path, &params) else {
        panic!("it loads")
    };
    // In the words of the C++ library: "Mismatched '(' and ')' in regular expression".
    assert!(
        failure.text.to_lowercase().contains("mismatched"),
        "{}",
        failure.text
    );
}

#[test]
#[cfg(not(feature = "system"))]
fn placement_and_memory_account_for_every_byte() {
    let (_dir, path) = support::moe_model();
    // Not mapped: the breakdown of a mapped file counts its whole span.
    let params = sys::llama_model_params {
        load_mode: sys::LLAMA_LOAD_MODE_NONE,
        ..model_params()
    };
    let model = Model::load(&path, &params).expect("the test model loads");

    let tensors = support::placement(&model);
    let expert_bytes: u64 = tensors
        .iter()
        .filter(|t| t.name.contains("_exps"))
        .map(|t| t.bytes)
        .sum();
    assert_eq!(expert_bytes, gguf::EXPERT_BYTES);
    assert_eq!(
        tensors.iter().filter(|t| t.name.contains("_exps")).count(),
        3 * gguf::LAYERS
    );
    let gate = tensors
        .iter()
        .find(|t| t.name == "blk.0.ffn_gate_exps.weight")
        .expect("a tensor");
    assert_eq!(gate.shape, [64, 96, gguf::EXPERTS as i64]);
    assert_eq!(gate.kind, sys::GGML_TYPE_F32 as i32);
    assert!(
        tensors.iter().all(|t| !t.buffer.is_empty()),
        "a tensor without a buffer"
    );

    let context = Context::new(&model, &context_params()).expect("a context");
    let memory = support::memory(&context);
    let total = |part: fn(&support::Memory) -> u64| memory.iter().map(part).sum::<u64>();
    let tensor_bytes: u64 = tensors
        .iter()
        .filter(|t| !t.duplicate)
        .map(|t| t.bytes)
        .sum();
    let model_bytes = total(|m| m.model);
    // Buffers are padded per tensor, never smaller than what they hold.
    assert!(
        model_bytes >= tensor_bytes && model_bytes < tensor_bytes + (1 << 20),
        "{memory:?}"
    );
    assert!(total(|m| m.context) > 0, "{memory:?}");
    assert!(total(|m| m.compute) > 0, "{memory:?}");
}

#[test]
#[cfg(feature = "system")]
fn placement_says_that_it_is_unsupported() {
    let (_dir, path) = support::moe_model();
    let model = Model::load(&path, &model_params()).expect("the test model loads");
    let mut list = ptr::null_mut();
    let failure = guarded(|error| {
        // SAFETY: a live model and out-parameters of this frame.
        unsafe { sys::llama_shim_placement_new(model.0, &mut list, error) }
    })
    .expect_err("without internal headers there is no placement");
    assert_eq!(failure.status, sys::LLAMA_SHIM_UNSUPPORTED);
    assert!(failure.text.contains("internal"), "{}", failure.text);
}

#[test]
fn a_model_computes_and_its_state_comes_back() {
    let (_dir, path) = support::moe_model();
    let model = Model::load(&path, &model_params()).expect("the test model loads");
    let context = Context::new(&model, &context_params()).expect("a context");
    let tokens = support::tokenize(&model, "the expert");
    assert!(tokens.len() > 2, "{tokens:?}");

    let prompt = support::greedy(&context, &tokens);
    let state = support::save_state(&context);
    let next = support::greedy(&context, &[prompt]);

    let other = Context::new(&model, &context_params()).expect("a second context");
    support::restore_state(&other, &state);
    assert_eq!(support::greedy(&other, &[prompt]), next);

    // Half a state is a failure, not an abort.
    let failure = guarded(|error| {
        let mut read = 0;
        let half = &state[..state.len() / 2];
        // SAFETY: a live context and a slice of this frame.
        unsafe {
            sys::llama_shim_state_set_data(other.0, half.as_ptr(), half.len(), &mut read, error)
        }
    });
    assert!(failure.is_err());
}

#[test]
fn text_becomes_tokens_and_text_again() {
    let (_dir, path) = support::moe_model();
    let model = Model::load(&path, &model_params()).expect("the test model loads");
    // Pieces of the vocabulary, single characters, and bytes of what is in neither.
    for text in ["the expert", "x", "a{b}~", "Grüße 😀", ""] {
        let tokens = support::tokenize(&model, text);
        // SentencePiece puts a space before a text, and after BOS it stays.
        let expected = if text.is_empty() {
            String::new()
        } else {
            format!(" {text}")
        };
        assert_eq!(support::detokenize(&model, &tokens), expected, "{tokens:?}");
    }

    // A count alone, for want of room, is no failure and nothing is written.
    let mut n_tokens = 0;
    guarded(|error| {
        // SAFETY: a live vocabulary, a text with its length, no room for tokens.
        unsafe {
            sys::llama_shim_tokenize(
                sys::llama_model_get_vocab(model.0),
                c"the expert".as_ptr(),
                10,
                ptr::null_mut(),
                0,
                true,
                false,
                &mut n_tokens,
                error,
            )
        }
    })
    .expect("a count");
    assert_eq!(
        n_tokens as usize,
        support::tokenize(&model, "the expert").len()
    );
}

#[test]
fn calls_that_would_abort_are_refused() {
    let (_dir, path) = support::moe_model();
    let model = Model::load(&path, &model_params()).expect("the test model loads");

    // No batch size; more sequences than outputs.
    for params in [
        sys::llama_context_params {
            n_batch: 0,
            ..context_params()
        },
        sys::llama_context_params {
            n_seq_max: 8,
            n_outputs_max: 2,
            ..context_params()
        },
    ] {
        let Err(failure) = Context::new(&model, &params) else {
            panic!("it is created")
        };
        assert_eq!(
            failure.status,
            sys::LLAMA_SHIM_INVALID_ARGUMENT,
            "{}",
            failure.text
        );
    }

    let context = Context::new(&model, &context_params()).expect("a context");
    // SAFETY: each call gets live handles and pointers of this frame.
    unsafe {
        // A token that the vocabulary does not have.
        let vocab = sys::llama_model_get_vocab(model.0);
        for token in [-1, sys::llama_vocab_n_tokens(vocab), i32::MAX] {
            let mut description = std::mem::zeroed();
            let failure =
                guarded(|error| sys::llama_shim_vocab_get(vocab, token, &mut description, error));
            assert_eq!(
                failure.unwrap_err().status,
                sys::LLAMA_SHIM_INVALID_ARGUMENT
            );
        }

        // More tokens than a batch holds; a sequence that does not exist.
        let capacity = sys::llama_n_batch(context.0) as usize;
        let mut many = vec![1; capacity + 1];
        let batch = sys::llama_batch_get_one(many.as_mut_ptr(), many.len() as i32);
        let mut result = 0;
        let failure =
            guarded(|error| sys::llama_shim_decode(context.0, &batch, &mut result, error));
        assert_eq!(
            failure.unwrap_err().status,
            sys::LLAMA_SHIM_INVALID_ARGUMENT
        );
        let failure =
            guarded(|error| sys::llama_shim_seq_rm(context.0, 1 << 20, 0, 1, &mut false, error));
        assert_eq!(
            failure.unwrap_err().status,
            sys::LLAMA_SHIM_INVALID_ARGUMENT
        );

        // A chain that selects nothing, and an output that does not exist.
        support::greedy(&context, &[1]);
        let chain = sys::llama_sampler_chain_init(sys::llama_sampler_chain_default_params());
        sys::llama_sampler_chain_add(chain, sys::llama_sampler_init_top_k(4));
        for output in [-1, 1000] {
            let mut token = 0;
            let failure = guarded(|error| {
                sys::llama_shim_sampler_sample(chain, context.0, output, &mut token, error)
            });
            assert!(failure.is_err(), "output {output} gave token {token}");
        }
        sys::llama_sampler_free(chain);

        // Grammars: an error has a place, a disallowed end of generation is refused.
        let mut sampler = ptr::null_mut();
        let failure = guarded(|error| {
            let (grammar, root) = (c"root ::= (", c"root");
            sys::llama_shim_sampler_init_grammar(
                vocab,
                grammar.as_ptr(),
                root.as_ptr(),
                &mut sampler,
                error,
            )
        });
        assert!(failure.is_err() && sampler.is_null());
        guarded(|error| {
            let (grammar, root) = (c"root ::= \"expert\"", c"root");
            sys::llama_shim_sampler_init_grammar(
                vocab,
                grammar.as_ptr(),
                root.as_ptr(),
                &mut sampler,
                error,
            )
        })
        .expect("a grammar that parses");
        let end = sys::llama_vocab_eos(vocab);
        let failure = guarded(|error| sys::llama_shim_sampler_accept(sampler, end, error));
        assert_eq!(
            failure.unwrap_err().status,
            sys::LLAMA_SHIM_INVALID_ARGUMENT
        );
        sys::llama_sampler_free(sampler);
    }
}

#[test]
fn a_lora_that_is_none_says_why() {
    let (_dir, path) = support::moe_model();
    let model = Model::load(&path, &model_params()).expect("the test model loads");
    let mut adapter = ptr::null_mut();
    let path = gguf::c_string(path.to_str().expect("UTF-8"));
    let failure = guarded(|error| {
        // SAFETY: a live model, a NUL-terminated path.
        unsafe { sys::llama_shim_lora_init(model.0, path.as_ptr(), &mut adapter, error) }
    })
    .expect_err("a model is no adapter");
    assert!(adapter.is_null());
    assert!(failure.text.contains("adapter"), "{}", failure.text);
}

#[test]
fn pairs_and_tensors_of_a_header_are_checked() {
    let bytes = header(|_| ());
    // SAFETY: the buffer outlives the calls; handles are freed at the end; names are
    // owned by the header.
    unsafe {
        let params = sys::gguf_init_params {
            no_alloc: true,
            ctx: ptr::null_mut(),
        };
        let mut file = ptr::null_mut();
        guarded(|error| {
            sys::llama_shim_gguf_init_from_buffer(
                bytes.as_ptr().cast(),
                bytes.len(),
                &params,
                &mut file,
                error,
            )
        })
        .expect("a header");
        for id in [-1, sys::gguf_get_n_kv(file), i64::MAX] {
            let mut pair = std::mem::zeroed();
            let failure = guarded(|error| sys::llama_shim_gguf_get_kv(file, id, &mut pair, error));
            assert_eq!(
                failure.unwrap_err().status,
                sys::LLAMA_SHIM_INVALID_ARGUMENT
            );
        }
        let key = sys::gguf_find_key(file, c"qwen3moe.expert_count".as_ptr());
        let mut pair = std::mem::zeroed();
        guarded(|error| sys::llama_shim_gguf_get_kv(file, key, &mut pair, error)).expect("a pair");
        assert_eq!(text(pair.key), "qwen3moe.expert_count");
        assert_eq!(pair.type_, sys::GGUF_TYPE_UINT32);
        assert_eq!(*pair.data.cast::<u32>(), gguf::EXPERTS as u32);
        guarded(|error| sys::llama_shim_gguf_free(file, error)).expect("freed");
    }
}
