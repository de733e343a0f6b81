//! llama.cpp's cache of experts, on a worker's device: sizes, answers, statistics, refusals.
#![cfg(feature = "rpc")]

use llama_moe::gguf::synth::{NamedShape, Shape, Synth};
use llama_moe::{
    CacheType, Context, ContextError, ContextParams, Device, DryRun, Error, LoadMode, Model,
    ModelParams, MoeCacheError, MoeCacheObstacle, MoeCacheStats, Pattern, Preview, SplitMode,
    Target, Token,
};

#[path = "support/log.rs"]
mod log;
mod support;
use log::logged;
use support::decode::{batch, decode, distance, greedy, prompt, small};
use support::layouts::{Layout, N_EXPERT, N_EXPERT_USED};
use support::peculiar::uneven_experts;
#[cfg(target_os = "linux")]
use support::worker::small_worker;
use support::worker::{second_device, serve_if_asked, worker};
use support::{backend, file, load};

#[test]
fn worker_process() {
    serve_if_asked();
}

/// A size that holds every expert of every layout.
const ALL: u64 = 64 << 20;

fn on(devices: impl IntoIterator<Item = Device>) -> ModelParams {
    ModelParams::default()
        .with_devices(devices)
        .with_cpu_moe_all()
        .for_moe_cache()
}

fn cached(size: u64) -> ContextParams {
    small().with_moe_cache_size(size)
}

fn moe_layouts() -> impl Iterator<Item = Layout> {
    Layout::ALL.into_iter().filter(|l| *l != Layout::Dense)
}

/// Decodes a prompt, then greedily so many tokens, and returns the logits of each.
fn generate(context: &mut Context, n: usize) -> Vec<Vec<f32>> {
    let prompt = prompt(12);
    let mut rows = vec![decode(context, &prompt, 0, 0)];
    for at in (prompt.len() as u32..).take(n) {
        let token = greedy(rows.last().expect("logits"));
        rows.push(decode(context, &[token], at, 0));
    }
    rows
}

/// Decodes a text in micro-batches of one token and returns the logits of each.
fn token_by_token(context: &mut Context) -> Vec<Vec<f32>> {
    let tokens = (0..).zip(prompt(12));
    tokens
        .map(|(at, token)| decode(context, &[token], at, 0))
        .collect()
}

fn stats(context: &mut Context) -> MoeCacheStats {
    context
        .moe_cache_stats()
        .expect("statistics")
        .expect("a cache")
}

fn refused(result: llama_moe::Result<impl std::fmt::Debug>) -> MoeCacheError {
    match result.expect_err("a cache that is refused") {
        Error::MoeCache(error) => error,
        error => panic!("{error:?}"),
    }
}

/// The smallest size that works.
fn least(model: &Model) -> u64 {
    match refused(model.moe_cache(1)) {
        MoeCacheError::TooSmall {
            needed: Some(needed),
            ..
        } => needed,
        error => panic!("{error:?}"),
    }
}

#[test]
fn every_layout_answers_the_same_with_a_cache() {
    let worker = worker();
    for layout in moe_layouts() {
        let model = load(layout, on([worker.device])).expect("a model");
        let expected = generate(&mut model.context(small()).expect("a context"), 16);
        let least = least(&model);
        for size in [least, 2 * least, ALL] {
            let mut context = model.context(cached(size)).expect("a context");
            let rows = generate(&mut context, 16);
            for (at, (row, expected)) in rows.iter().zip(&expected).enumerate() {
                // The worker has the kernels of this process: every bit is equal.
                assert_eq!(row, expected, "{layout:?}, {size}, token {at}");
            }
            let stats = stats(&mut context);
            let counts = stats.small;
            // The prompt is the only larger micro-batch.
            let selected = counts.hits + counts.misses;
            assert!(selected > 0, "{layout:?}, {size}: {stats:?}");
            let layout_of = context.moe_cache().expect("a layout");
            let per_expert = layout_of.groups()[0].bytes_per_expert;
            assert_eq!(
                stats.total().uploaded_bytes,
                stats.total().misses * per_expert,
                "{layout:?}"
            );
            assert_eq!(layout_of.holds_all(), size == ALL, "{layout:?}, {size}");
        }
    }
}

#[test]
fn statistics_grow_with_the_slots_and_a_full_cache_misses_each_expert_once() {
    let worker = worker();
    let model = load(Layout::Qwen3Moe, on([worker.device])).expect("a model");
    let n_layer = u64::from(model.n_layer());
    let mut context = model.context(cached(ALL)).expect("a context");
    let before = stats(&mut context);
    assert_eq!(before, MoeCacheStats::default());
    assert_eq!(before.small.hit_rate(), None);
    let _ = generate(&mut context, 32);
    let all = stats(&mut context);
    assert!(all.total().misses <= n_layer * N_EXPERT, "{all:?}");
    // Of 32 tokens, each layer selected two experts; of the prompt, the last layer computes the
    // last token only.
    assert_eq!(
        all.small.hits + all.small.misses,
        (32 * n_layer + 1) * N_EXPERT_USED
    );
    assert!(all.large.hits + all.large.misses > 0);
    assert_eq!(all.since(&all), MoeCacheStats::default());

    let mut few = model.context(cached(least(&model))).expect("a context");
    let _ = generate(&mut few, 32);
    let few = stats(&mut few);
    assert!(few.small.hit_rate() < all.small.hit_rate(), "{few:?}");
}

/// The statistics are read from the inside of llama.cpp: they are those that it logs itself.
#[test]
fn statistics_are_those_that_llama_cpp_logs() {
    let worker = worker();
    for layout in [Layout::Mixtral, Layout::GptOss, Layout::DeepSeek2] {
        let model = load(layout, on([worker.device])).expect("a model");
        let params = cached(6 * least(&model)).with_n_ubatch(16);
        let mut context = model.context(params).expect("a context");
        let _ = decode(&mut context, &prompt(60), 0, 0);
        context.memory().clear().expect("a memory");
        let _ = generate(&mut context, 20);
        let stats = stats(&mut context);
        let lines = logged(move || drop(context));
        for (kind, counts) in [("<= 8", stats.small), (" > 8", stats.large)] {
            let line = format!(
                "ubatch {kind}: hits = {}, misses = {}, hit rate = {:.2}%, uploaded = {:.2} MiB",
                counts.hits,
                counts.misses,
                100.0 * counts.hit_rate().expect("a hit rate"),
                counts.uploaded_bytes as f64 / f64::from(1 << 20)
            );
            assert!(
                lines.iter().any(|logged| logged.contains(&line)),
                "{layout:?}: {line}: {lines:?}"
            );
        }
    }
}

#[test]
fn layouts_before_and_after_agree_with_llama_cpp() {
    let worker = worker();
    let devices = [worker.device, second_device(&worker)];
    for layout in moe_layouts() {
        let (_dir, path) = file(layout);
        for n_devices in [1, 2] {
            let mut params = on(devices[..n_devices].iter().copied());
            if n_devices == 2 {
                params = params.with_tensor_split([2.0, 1.0]);
            }
            let preview = Preview::new(&backend(), &path, &params).expect("a preview");
            let model = Model::load(&backend(), &path, params.clone()).expect("a model");
            let least = least(&model);
            assert_eq!(refused(preview.moe_cache(1)), refused(model.moe_cache(1)));
            assert!(matches!(
                refused(model.context(cached(least - 1)).map(drop)),
                MoeCacheError::TooSmall { needed: Some(needed), .. } if needed == least
            ));
            for size in [least, least + least / 3, ALL, u64::MAX] {
                let what = format!("{layout:?}, {n_devices} devices, {size}");
                let predicted = preview.moe_cache(size).expect("a layout");
                assert_eq!(
                    model.moe_cache(size).expect("a layout"),
                    predicted,
                    "{what}"
                );
                let mut context = model.context(cached(size)).expect("a context");
                assert_eq!(context.moe_cache(), Some(&predicted), "{what}");
                let dry_run = DryRun::new(&backend(), &path, &params, &cached(size));
                let dry_run = dry_run.expect("a dry run");
                let entries = context.memory_breakdown().expect("a breakdown");
                for entry in &entries {
                    let same = |other: &&llama_moe::MemoryEntry| other.buffer == entry.buffer;
                    let measured = dry_run.entries().iter().find(same).map(|e| e.moe_cache);
                    assert_eq!(measured.unwrap_or(0), entry.moe_cache, "{what}: {entry:?}");
                    if let Some(device) = entry.device.filter(|_| !entry.is_host) {
                        let bytes = predicted.bytes_on(&device.name());
                        assert_eq!(entry.moe_cache, bytes, "{what}: {entry:?}");
                    }
                }
                let without = model
                    .context(small())
                    .expect("a context")
                    .memory_breakdown();
                let kv = |entries: &[llama_moe::MemoryEntry]| -> u64 {
                    entries.iter().map(|entry| entry.context).sum()
                };
                assert_eq!(kv(&entries), kv(&without.expect("a breakdown")), "{what}");
            }
        }
    }
}

#[test]
fn what_cannot_be_cached_is_refused_and_the_model_stays_usable() {
    let worker = worker();
    let device = worker.device;
    let context = |params: ModelParams, layout| {
        let model = load(layout, params).expect("a model");
        let result = model.context(cached(ALL)).map(drop);
        let _ = generate(&mut model.context(small()).expect("a context"), 2);
        result
    };
    let on_cpu = ModelParams::default().with_devices([]);
    assert_eq!(
        refused(context(on_cpu, Layout::Qwen3Moe)),
        MoeCacheError::NoDevice
    );
    let dense = ModelParams::default().with_devices([device]);
    assert_eq!(
        refused(context(dense.clone(), Layout::Dense)),
        MoeCacheError::NotMoe
    );
    // Without rules the experts are on the device.
    let error = refused(context(dense, Layout::Qwen3Moe));
    let MoeCacheError::NoLayer { obstacles } = &error else {
        panic!("{error:?}");
    };
    assert!(
        matches!(&obstacles[0], MoeCacheObstacle::OnDevice { rule: None, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("with_cpu_moe_all"), "{error}");
    // The layers are on the CPU.
    let few = on([device]).with_n_gpu_layers(0);
    let error = refused(context(few, Layout::Qwen3Moe));
    assert!(error.to_string().contains("with_n_gpu_layers"), "{error}");
    // Embeddings.
    let model = load(Layout::Qwen3Moe, on([device])).expect("a model");
    let embedding = cached(ALL).with_embeddings(true);
    assert_eq!(
        refused(model.context(embedding).map(drop)),
        MoeCacheError::Embeddings
    );
    // Tensors that are cut across devices.
    let merged = on([device]).with_split_mode(SplitMode::Tensor);
    assert_eq!(
        refused(context(merged, Layout::Mixtral)),
        MoeCacheError::SplitMode
    );
    // No cache, no layout and no statistics.
    let mut none = model.context(cached(0)).expect("a context");
    assert_eq!(none.moe_cache(), None);
    assert_eq!(none.moe_cache_stats().expect("an answer"), None);
}

#[test]
fn repacked_experts_are_named() {
    let worker = worker();
    let params = ModelParams::default()
        .with_devices([worker.device])
        .with_cpu_moe_all()
        .with_no_host(true);
    let model = load(Layout::Mixtral, params.clone()).expect("a model");
    let placement = model.placement().expect("a placement");
    let is_repacked = |tensor: &llama_moe::TensorPlacement| tensor.buffer.contains("REPACK");
    if !placement.tensors().iter().any(is_repacked) {
        // This CPU has no kernels for it.
        return;
    }
    let error = refused(model.moe_cache(ALL));
    assert!(error.to_string().contains("for_moe_cache"), "{error}");
    let model = load(Layout::Mixtral, params.for_moe_cache()).expect("a model");
    assert!(model.moe_cache(ALL).is_ok());
}

#[test]
fn a_layer_that_a_rule_splits_is_left_out_and_reported() {
    let worker = worker();
    let up = Pattern::new(r"blk\.1\.ffn_up_exps").expect("a pattern");
    let params = ModelParams::default()
        .with_devices([worker.device])
        .with_override(up, Target::Device(worker.device))
        .with_cpu_moe_all()
        .for_moe_cache();
    let (_dir, path) = file(Layout::Qwen3Moe);
    let preview = Preview::new(&backend(), &path, &params).expect("a preview");
    let model = Model::load(&backend(), &path, params).expect("a model");
    let expected = generate(&mut model.context(small()).expect("a context"), 8);
    let mut context = model.context(cached(ALL)).expect("a context");
    let layout = context.moe_cache().expect("a layout").clone();
    assert_eq!(layout, preview.moe_cache(ALL).expect("a layout"));
    let [obstacle] = layout.obstacles() else {
        panic!("{layout:?}");
    };
    assert_eq!(obstacle.layer(), 1);
    assert!(obstacle.to_string().contains("ffn_up_exps"), "{obstacle}");
    assert!(!layout.groups()[0].layers.contains(&1), "{layout:?}");
    for (row, expected) in generate(&mut context, 8).iter().zip(&expected) {
        assert_eq!(row, expected);
    }
}

/// Layers with experts of three forms, and with different numbers of experts per token.
#[test]
fn layers_of_different_forms_have_slots_of_their_own() {
    let worker = worker();
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("model.gguf");
    uneven_experts().write(&path);
    let params = on([worker.device]);
    let preview = Preview::new(&backend(), &path, &params).expect("a preview");
    let model = Model::load(&backend(), &path, params).expect("a model");
    assert_eq!(model.n_expert_used(), 3);
    let expected = generate(&mut model.context(small()).expect("a context"), 8);
    for size in [least(&model), ALL] {
        let mut context = model.context(cached(size)).expect("a context");
        let layout = context.moe_cache().expect("a layout").clone();
        assert_eq!(layout, preview.moe_cache(size).expect("a layout"));
        let layers: Vec<&[u32]> = layout.groups().iter().map(|g| &*g.layers).collect();
        assert_eq!(layers, [&[0, 2][..], &[1], &[3]]);
        assert!(layout.groups().iter().all(|group| group.n_slots >= 3));
        assert_eq!(generate(&mut context, 8), expected);
        let before = stats(&mut context);
        decode(&mut context, &[Token(300)], 20, 0);
        let counts = stats(&mut context).since(&before).small;
        assert_eq!(counts.hits + counts.misses, 1 + 3 + 2 + 3);
    }
}

#[test]
fn two_contexts_have_a_cache_each() {
    let worker = worker();
    let model = load(Layout::GptOss, on([worker.device])).expect("a model");
    let mut first = model.context(cached(ALL)).expect("a context");
    let mut second = model.context(cached(least(&model))).expect("a context");
    let expected = generate(&mut first, 8);
    let rows = generate(&mut second, 8);
    let both = [stats(&mut first), stats(&mut second)];
    drop(first);
    assert_eq!(stats(&mut second), both[1]);
    assert!(both[0].small.misses < both[1].small.misses, "{both:?}");
    for (row, expected) in rows.iter().zip(&expected) {
        assert_eq!(row, expected);
    }
}

#[test]
fn micro_batches_of_all_sizes_and_caches_of_all_kv_types() {
    let worker = worker();
    let model = load(Layout::Qwen3Moe, on([worker.device])).expect("a model");
    let tokens = prompt(64);
    for n_ubatch in [1, 8, 32, 33, 64] {
        let plain = model.context(small().with_n_ubatch(n_ubatch));
        let expected = decode(&mut plain.expect("a context"), &tokens, 0, 0);
        let params = cached(ALL).with_n_ubatch(n_ubatch);
        let mut context = model.context(params).expect("a context");
        let row = decode(&mut context, &tokens, 0, 0);
        assert_eq!(row, expected, "{n_ubatch}");
        let stats = stats(&mut context);
        let served = stats.total().hits + stats.total().misses;
        match n_ubatch {
            1 | 8 => assert!(
                stats.small.misses > 0 && stats.large.misses == 0,
                "{stats:?}"
            ),
            // Of 64 tokens, the second micro-batch of 33 has 31.
            32 | 33 => assert!(stats.large.misses > 0, "{n_ubatch}: {stats:?}"),
            // The last layer computes one token.
            _ => assert_eq!(served, N_EXPERT_USED, "{n_ubatch}: {stats:?}"),
        }
    }
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
        let params = |size| cached(size).with_type_k(kind).with_type_v(kind);
        let (Ok(mut with), Ok(mut without)) =
            (model.context(params(ALL)), model.context(params(0)))
        else {
            // Not every build has kernels for each pair.
            continue;
        };
        let (with, without) = (generate(&mut with, 8), generate(&mut without, 8));
        for (row, expected) in with.iter().zip(&without) {
            assert_eq!(row, expected, "{kind:?}");
        }
    }
}

#[test]
fn states_are_saved_and_loaded_beside_a_cache() {
    let worker = worker();
    let model = load(Layout::DeepSeek2, on([worker.device])).expect("a model");
    let mut context = model.context(cached(least(&model))).expect("a context");
    let rows = generate(&mut context, 4);
    let state = context.save_state().expect("a state");
    let next = greedy(rows.last().expect("logits"));
    let at = 12 + 4;
    let expected = decode(&mut context, &[next], at, 0);
    let mut other = model.context(cached(ALL)).expect("a context");
    other.load_state(&state).expect("a loaded state");
    let row = decode(&mut other, &[next], at, 0);
    assert_eq!(row, expected);
}

#[test]
fn a_batch_of_many_sequences_uses_the_cache() {
    let worker = worker();
    let model = load(Layout::Qwen3Moe, on([worker.device])).expect("a model");
    let params = cached(ALL).with_n_seq_max(4).with_n_ctx(1024);
    let mut context = model.context(params).expect("a context");
    for seq in 0..4 {
        context
            .decode(&batch(&prompt(40), 0, seq))
            .expect("a prompt");
    }
    let before = stats(&mut context);
    let mut together = llama_moe::Batch::new(4, 4);
    for seq in 0..4 {
        together
            .add_sequence(&[Token(300 + seq as i32)], 40, seq)
            .expect("a token");
    }
    context.decode(&together).expect("a batch");
    let counts = stats(&mut context).since(&before).small;
    let n_layer = u64::from(model.n_layer());
    let selected = counts.hits + counts.misses;
    assert!(selected >= n_layer * N_EXPERT_USED, "{counts:?}");
    assert!(selected <= n_layer * N_EXPERT, "{counts:?}");
}

/// A cached expert is computed by the same kernel as a resident one, so one token at a time gives
/// the logits of a model whose experts are on the device.
#[test]
fn on_the_gpus_of_this_machine() {
    let gpus = backend().gpus().into_iter();
    for device in gpus.filter(|device| device.backend_name() != "RPC") {
        for layout in moe_layouts() {
            let (_dir, path) = file(layout);
            let resident = ModelParams::default().with_devices([device]);
            let resident = Model::load(&backend(), &path, resident).expect("a model");
            let expected = token_by_token(&mut resident.context(small()).expect("a context"));
            // Page-locked memory and mapped files are both plain.
            for mode in [LoadMode::None, LoadMode::Mmap] {
                let params = on([device]).with_load_mode(mode);
                let preview = Preview::new(&backend(), &path, &params).expect("a preview");
                let model = Model::load(&backend(), &path, params).expect("a model");
                for size in [least(&model), ALL] {
                    let what = format!("{device}, {layout:?}, {mode}, {size}");
                    let mut context = model.context(cached(size)).expect("a context");
                    let predicted = preview.moe_cache(size).expect("a layout");
                    assert_eq!(context.moe_cache(), Some(&predicted), "{what}");
                    let entries = context.memory_breakdown().expect("a breakdown");
                    let on_device = entries.iter().filter(|entry| !entry.is_host);
                    let bytes: u64 = on_device.map(|entry| entry.moe_cache).sum();
                    assert_eq!(bytes, predicted.bytes(), "{what}");
                    let rows = token_by_token(&mut context);
                    assert!(stats(&mut context).small.hits > 0 || size < ALL, "{what}");
                    for (at, (row, expected)) in rows.iter().zip(&expected).enumerate() {
                        let off = distance(row, expected);
                        // Chunk experts are not cached: the CPU computes them.
                        let bound = if layout == Layout::GroveMoe {
                            0.05
                        } else {
                            1e-3
                        };
                        assert!(off < bound, "{what}: token {at} is off by {off}");
                    }
                }
            }
        }
        for kind in [
            CacheType::Q8_0,
            CacheType::Q4_0,
            CacheType::Bf16,
            CacheType::F32,
        ] {
            let model = load(Layout::Qwen3Moe, on([device])).expect("a model");
            let params = cached(ALL).with_type_k(kind).with_type_v(kind);
            // Not every device has kernels for each type.
            if let Ok(mut context) = model.context(params) {
                let rows = generate(&mut context, 4);
                assert!(
                    rows.iter().flatten().all(|logit| logit.is_finite()),
                    "{kind:?}"
                );
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_without_room_is_an_error_and_the_model_stays_usable() {
    let _turn = worker();
    let small_worker = small_worker(768 << 20);
    // More experts than the worker has memory, in a file without data.
    let shape = Shape::from(NamedShape::Qwen3_30bA3b).with_layers(10);
    let shape = shape.and_then(|shape| shape.with_width(1024));
    let shape = shape
        .and_then(|shape| shape.with_vocab(512))
        .expect("a shape");
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("model.gguf");
    let synth = Synth::new(shape).sparse();
    synth.write(&path).expect("a file");
    let params = on([small_worker.device]).with_load_mode(LoadMode::Mmap);
    let model = Model::load(&backend(), &path, params).expect("a model");
    let size = 4 << 30;
    let bytes = model.moe_cache(size).expect("a layout").bytes();
    assert!(bytes > 768 << 20, "{bytes}");
    let error = model.context(cached(size)).map(drop);
    let error = error.expect_err("no room");
    assert!(
        matches!(error, Error::Context(ContextError::Creation { .. })),
        "{error:?}"
    );
    let small = cached(least(&model));
    for params in [support::decode::small(), small] {
        let mut context = model.context(params).expect("a context");
        decode(&mut context, &[Token(1)], 0, 0);
    }
}
