//! Contexts: how they are made, what they are made with, and what they share.

use std::thread;
use std::time::Duration;

use llama_moe::{
    AbortToken, Batch, CacheType, Context, ContextError, ContextParams, Error, FlashAttention,
    ModelParams, PoolingType,
};

mod support;
use support::decode::{answer, context, decode, distance, model, prompt, small};
use support::layouts::{self, Layout};
use support::{load, on_cpu};

#[test]
fn contexts_and_all_that_belongs_to_them_can_be_sent_to_other_threads() {
    fn is_send<T: Send>() {}
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send::<Context>();
    is_send_and_sync::<Batch>();
    is_send_and_sync::<ContextParams>();
    is_send_and_sync::<AbortToken>();
    is_send_and_sync::<llama_moe::LoraAdapter>();
    is_send_and_sync::<Error>();
}

#[test]
fn defaults_are_those_of_llama_cpp_but_for_the_threads() {
    let model = model(Layout::Dense);
    let context = model.context(ContextParams::default()).unwrap();
    // n_ctx 512, n_batch 2048 limited by it, n_ubatch 512, n_seq_max 1.
    assert_eq!((context.n_ctx(), context.n_ctx_seq()), (512, 512));
    assert_eq!((context.n_batch(), context.n_ubatch()), (512, 512));
    assert_eq!((context.n_seq_max(), context.n_outputs_max()), (1, 512));
    assert_eq!(context.pooling_type(), PoolingType::None);
    assert!(context.causal_attn());
    let (single, batch) = context.n_threads();
    let allowed = thread::available_parallelism().unwrap().get() as u32;
    assert_eq!(single, batch);
    assert!((1..=allowed).contains(&single), "{single} of {allowed}");
}

#[test]
fn sizes_are_what_was_asked_for() {
    let model = model(Layout::Dense);
    let params = ContextParams::default()
        .with_n_ctx(1024)
        .with_n_batch(64)
        .with_n_ubatch(16)
        .with_n_seq_max(2)
        .with_n_outputs_max(8)
        .with_n_threads(1)
        .with_n_threads_batch(2);
    let mut context = model.context(params).unwrap();
    assert_eq!((context.n_ctx(), context.n_ctx_seq()), (1024, 512));
    assert_eq!((context.n_batch(), context.n_ubatch()), (64, 16));
    assert_eq!((context.n_seq_max(), context.n_outputs_max()), (2, 8));
    assert_eq!(context.n_threads(), (1, 2));
    context.set_n_threads(2, 1).unwrap();
    assert_eq!(context.n_threads(), (2, 1));
    // 0 asks for what the model was trained with.
    let context = model
        .context(ContextParams::default().with_n_ctx(0))
        .unwrap();
    assert_eq!(context.n_ctx(), layouts::N_CTX_TRAIN);
}

#[test]
fn parameters_that_cannot_work_are_named() {
    let model = model(Layout::Dense);
    let params = ContextParams::default;
    for (name, params) in [
        ("with_n_threads", params().with_n_threads(0)),
        ("with_n_threads", params().with_n_threads(513)),
        (
            "with_n_threads_batch",
            params().with_n_threads_batch(u32::MAX),
        ),
        ("with_poll", params().with_poll(101)),
        ("with_n_seq_max", params().with_n_seq_max(0)),
        ("with_n_seq_max", params().with_n_seq_max(257)),
        ("with_n_ctx", params().with_n_ctx(u32::MAX)),
        ("with_n_batch", params().with_n_batch(u32::MAX)),
        ("with_n_batch", params().with_n_batch(0)),
        ("with_n_ubatch", params().with_n_ubatch(u32::MAX)),
        ("with_n_batch", params().with_n_batch(3).with_n_seq_max(4)),
        (
            "with_n_outputs_max",
            params().with_n_outputs_max(3).with_n_seq_max(4),
        ),
        (
            "with_rope_freq_base",
            params().with_rope_freq_base(f32::NAN),
        ),
        ("with_rope_freq_base", params().with_rope_freq_base(-1.0)),
        (
            "with_rope_freq_scale",
            params().with_rope_freq_scale(f32::INFINITY),
        ),
        ("with_rope_freq_scale", params().with_rope_freq_scale(1e-30)),
        (
            "with_yarn_ext_factor",
            params().with_yarn_ext_factor(f32::NAN),
        ),
        (
            "with_yarn_attn_factor",
            params().with_yarn_attn_factor(f32::INFINITY),
        ),
        (
            "with_yarn_beta_fast",
            params().with_yarn_beta_fast(f32::NAN),
        ),
        (
            "with_yarn_beta_slow",
            params().with_yarn_beta_slow(f32::NAN),
        ),
    ] {
        let error = model.context(params).expect_err(name);
        assert!(
            matches!(&error, Error::Parameter { parameter, .. } if *parameter == name),
            "{name}: {error:?}"
        );
    }
    let mut context = context(&model);
    for (single, batch) in [(0, 1), (1, 0), (513, 1)] {
        let error = context.set_n_threads(single, batch).unwrap_err();
        assert!(matches!(error, Error::Parameter { .. }), "{error:?}");
    }
    assert_eq!(context.n_threads(), (1, 1));
}

#[test]
fn what_llama_cpp_cannot_make_comes_with_its_reason() {
    let model = model(Layout::Dense);
    // More sequences than n_ctx has positions, which limit the outputs.
    let params = small().with_n_ctx(4).with_n_seq_max(8);
    // Quantised values need flash attention.
    let quantised = small()
        .with_type_v(CacheType::Q8_0)
        .with_flash_attention(FlashAttention::Disabled);
    for params in [params, quantised] {
        let error = model.context(params).unwrap_err();
        assert!(
            matches!(&error, Error::Context(ContextError::Creation { reason }) if !reason.is_empty()),
            "{error:?}"
        );
    }
    answer(&mut context(&model));
}

#[test]
fn a_context_needs_weights() {
    let error = |params: ModelParams| {
        let model = load(Layout::Dense, params).expect("a model");
        model.context(ContextParams::default()).unwrap_err()
    };
    assert!(matches!(
        error(on_cpu().with_vocab_only(true)),
        Error::Context(ContextError::VocabOnly)
    ));
    assert!(matches!(
        error(on_cpu().with_no_alloc(true)),
        Error::Context(ContextError::NoAlloc)
    ));
    answer(&mut context(&model(Layout::Dense)));
}

#[test]
fn a_context_outlives_every_other_handle_to_its_model() {
    let model = model(Layout::Qwen3Moe);
    let mut context = context(&model);
    let before = answer(&mut context);
    drop(model);
    assert_eq!(answer(&mut context), before);
    assert_eq!(context.model().n_layer(), Layout::Qwen3Moe.n_layer());
}

#[test]
fn two_contexts_on_two_threads_share_a_model() {
    let model = model(Layout::Qwen3Moe);
    let expected = answer(&mut context(&model));
    let answers = thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let model = model.clone();
                scope.spawn(move || {
                    let mut context = context(&model);
                    (0..5).map(|_| answer(&mut context)).collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(answers.len(), 10);
    assert!(answers.iter().all(|answer| *answer == expected));
}

#[test]
fn a_context_goes_on_on_another_thread() {
    let model = model(Layout::Mixtral);
    let mut context = context(&model);
    let tokens = prompt(13);
    decode(&mut context, &tokens[..12], 0, 0);
    let here = decode(&mut context, &tokens[12..], 12, 0);
    assert!(context.memory().remove(Some(0), 12..).unwrap());
    let there = thread::spawn(move || decode(&mut context, &tokens[12..], 12, 0))
        .join()
        .unwrap();
    assert_eq!(here, there);
}

#[test]
fn every_cache_type_works() {
    let model = model(Layout::Qwen3Moe);
    let reference = answer(&mut context(&model));
    for kind in [
        CacheType::F32,
        CacheType::F16,
        CacheType::Bf16,
        CacheType::Q8_0,
        CacheType::Q4_0,
        CacheType::Q4_1,
        CacheType::Iq4Nl,
        CacheType::Q5_0,
        CacheType::Q5_1,
    ] {
        let both = small().with_type_k(kind).with_type_v(kind);
        let keys = small()
            .with_type_k(kind)
            .with_flash_attention(FlashAttention::Disabled);
        for params in [both, keys] {
            let mut context = model.context(params).unwrap();
            let difference = distance(&answer(&mut context), &reference);
            assert!(difference < 6.0, "{kind:?}: {difference}");
        }
    }
}

#[test]
fn blocks_of_a_quantised_cache_must_divide_the_keys() {
    // Keys of 80 elements.
    let model = model(Layout::DeepSeek2);
    let params = small()
        .with_type_k(CacheType::Q8_0)
        .with_type_v(CacheType::Q8_0);
    let error = model.context(params.clone()).unwrap_err();
    assert!(
        matches!(&error, Error::Context(ContextError::Creation { reason }) if reason.contains("80")),
        "{error:?}"
    );
    let params = params.with_flash_attention(FlashAttention::Disabled);
    let error = model.context(params).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Parameter {
                parameter: "with_type_k",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn what_was_computed_is_counted() {
    let model = model(Layout::Qwen3Moe);
    let mut context = model.context(small().with_no_perf(false)).unwrap();
    decode(&mut context, &prompt(12), 0, 0);
    for pos in 12..20 {
        decode(&mut context, &prompt(1), pos, 0);
    }
    let perf = context.perf().unwrap();
    assert_eq!((perf.n_prompt_eval, perf.n_eval), (12, 8));
    // The first single token builds its graph, the others use it again.
    assert_eq!(perf.n_reused, 7);
    assert!(perf.prompt_eval > Duration::ZERO && perf.eval > Duration::ZERO);
    assert!(perf.load > Duration::ZERO);
    context.reset_perf().unwrap();
    decode(&mut context, &prompt(3), 20, 0);
    let perf = context.perf().unwrap();
    assert_eq!(perf.n_prompt_eval, 3);
    assert_eq!((perf.n_reused, perf.eval), (0, Duration::ZERO));
    // By default nothing is timed.
    let mut context = support::decode::context(&model);
    decode(&mut context, &prompt(12), 0, 0);
    let perf = context.perf().unwrap();
    assert_eq!((perf.n_prompt_eval, perf.prompt_eval), (12, Duration::ZERO));
}

#[test]
fn memory_is_broken_down() {
    let model = model(Layout::Qwen3Moe);
    let sums = |n_ctx| {
        let mut context = model.context(small().with_n_ctx(n_ctx)).unwrap();
        let entries = context.memory_breakdown().unwrap();
        assert!(
            entries
                .iter()
                .all(|entry| entry.is_host && !entry.buffer.is_empty())
        );
        let sum = |of: fn(&llama_moe::MemoryEntry) -> u64| entries.iter().map(of).sum::<u64>();
        (sum(|e| e.model), sum(|e| e.context), sum(|e| e.compute))
    };
    let (small, large) = (sums(256), sums(1024));
    assert!(small.0 > 0 && small.2 > 0);
    assert_eq!(small.0, large.0);
    // Keys and values of two heads of 32 elements in 16 bits, for each layer and position.
    let per_position = 2 * 2 * 32 * 2 * u64::from(Layout::Qwen3Moe.n_layer());
    assert_eq!(small.1, 256 * per_position);
    assert_eq!(large.1, 1024 * per_position);
}

#[test]
fn the_number_of_threads_can_change_between_any_two_computations() {
    let model = model(Layout::Qwen3Moe);
    let params = small().with_n_threads(1).with_n_threads_batch(1);
    let expected = answer(&mut model.context(params.clone()).unwrap());
    for poll in [0, 1] {
        let mut context = model.context(params.clone().with_poll(poll)).unwrap();
        // More threads than before, fewer, and more than twice as many.
        for (single, batch) in [(1, 1), (2, 1), (1, 3), (3, 3), (1, 1), (6, 6), (2, 2)] {
            context.set_n_threads(single, batch).unwrap();
            let answer = answer(&mut context);
            let distance = distance(&answer, &expected);
            assert!(distance < 1e-4, "{single}, {batch}: {distance}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn threads_stay_from_one_computation_to_the_next_and_end_with_the_context() {
    let started_here = |before: &[String]| -> Vec<String> {
        let mut now = threads_of_this_process();
        now.retain(|thread| !before.contains(thread));
        now
    };
    // The tests beside this one have threads of their own: a process of its own has none.
    let name = "threads_stay_from_one_computation_to_the_next_and_end_with_the_context";
    if std::env::var_os("ALONE").is_none() {
        let program = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new(program);
        let status = command.args([name, "--exact"]).env("ALONE", "1").status();
        assert!(status.unwrap().success());
        return;
    }
    let model = model(Layout::Dense);
    let before = threads_of_this_process();
    let params = small().with_n_threads(3).with_n_threads_batch(3);
    let mut context = model.context(params).unwrap();
    assert_eq!(started_here(&before), [""; 0]);
    answer(&mut context);
    let started = started_here(&before);
    assert_eq!(started.len(), 2);
    answer(&mut context);
    assert_eq!(started_here(&before), started);
    drop(context);
    assert_eq!(started_here(&before), [""; 0]);
}

#[cfg(target_os = "linux")]
fn threads_of_this_process() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| task.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
