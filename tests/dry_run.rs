//! A dry run says what a real load and its context take: weights and KV cache to the byte,
//! compute buffers within 1 %.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::{env, fs, thread};

use llama_moe::{
    CacheType, ContextError, ContextParams, DryRun, Error, FlashAttention, KvOverride, LoadMode,
    MemoryEntry, Model, ModelParams,
};

mod support;
use support::gguf::GgufWriter;
use support::layouts::{Layout, N_CTX_TRAIN};
use support::{backend, file, on_cpu, others};

/// Model, context and compute bytes of each buffer type that has any.
fn by_buffer(entries: &[MemoryEntry]) -> BTreeMap<String, [u64; 3]> {
    entries
        .iter()
        .map(|entry| {
            let bytes = [entry.model, entry.context, entry.compute];
            (entry.buffer.clone(), bytes)
        })
        .filter(|(_, bytes)| bytes.iter().any(|&bytes| bytes > 0))
        .collect()
}

/// Compares a dry run with the model and context that are made after it.
#[track_caller]
fn compare(path: &Path, model: &ModelParams, context: &ContextParams, what: &str) {
    compare_with_slack(path, model, context, what, 0);
}

/// As [`compare`], where the buffers for computing may differ by so many bytes.
#[track_caller]
fn compare_with_slack(
    path: &Path,
    model: &ModelParams,
    context: &ContextParams,
    what: &str,
    slack: u64,
) {
    let dry = DryRun::new(&backend(), path, model, context);
    let dry = dry.unwrap_or_else(|error| panic!("{what}: {error}"));
    let real = model.clone().with_load_mode(LoadMode::None);
    let real = Model::load(&backend(), path, real).expect("a loaded model");
    let mut real = real.context(context.clone()).expect("a context");

    assert_eq!(dry.n_ctx(), real.n_ctx(), "{what}");
    assert_eq!(dry.n_ctx_seq(), real.n_ctx_seq(), "{what}");
    assert_eq!(dry.n_batch(), real.n_batch(), "{what}");
    assert_eq!(dry.n_ubatch(), real.n_ubatch(), "{what}");
    assert_eq!(dry.n_seq_max(), real.n_seq_max(), "{what}");

    let told = by_buffer(dry.entries());
    let taken = by_buffer(&real.memory_breakdown().expect("a breakdown"));
    let names = |map: &BTreeMap<String, [u64; 3]>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&told), names(&taken), "{what}");
    for (buffer, [model, context, compute]) in told {
        let [real_model, real_context, real_compute] = taken[&buffer];
        assert_eq!(model, real_model, "{what}: weights in {buffer}");
        assert_eq!(context, real_context, "{what}: KV cache in {buffer}");
        let off = compute.abs_diff(real_compute);
        assert!(
            off <= slack.max(real_compute / 100),
            "{what}: {compute} bytes for computing in {buffer}, {real_compute} in the end"
        );
    }
}

/// Contexts for a model of this layout.
fn contexts(layout: Layout) -> [(&'static str, ContextParams); 3] {
    // Latent attention has no heads that blocks of a quantised type divide.
    let cache = if layout == Layout::DeepSeek2 {
        CacheType::F32
    } else {
        CacheType::Q8_0
    };
    [
        ("default", ContextParams::default()),
        (
            "sequences",
            ContextParams::default()
                .with_n_ctx(1024)
                .with_n_seq_max(4)
                .with_n_ubatch(64)
                .with_n_batch(128),
        ),
        (
            "another cache",
            ContextParams::default()
                .with_n_ctx(768)
                .with_flash_attention(FlashAttention::Enabled)
                .with_type_k(cache)
                .with_type_v(cache),
        ),
    ]
}

#[test]
fn every_layout_on_the_cpu() {
    for layout in Layout::ALL {
        let (_dir, path) = file(layout);
        for (context_name, context) in contexts(layout) {
            for repack in [true, false] {
                let params = on_cpu().with_extra_buffer_types(repack);
                let what = format!("{layout:?}, {context_name}, repack {repack}");
                compare(&path, &params, &context, &what);
            }
        }
    }
}

#[test]
fn prediction_blocks_count_when_they_are_loaded() {
    let (_dir, path) = file(Layout::Glm4Moe);
    let context = ContextParams::default();
    let model_bytes = |mtp| {
        let params = on_cpu().with_mtp(mtp);
        compare(&path, &params, &context, &format!("MTP {mtp}"));
        let dry = DryRun::new(&backend(), &path, &params, &context).expect("a dry run");
        dry.entries().iter().map(|entry| entry.model).sum::<u64>()
    };
    assert!(model_bytes(true) > model_bytes(false));
}

#[test]
fn models_that_are_no_decoders_with_a_kv_cache() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("model.gguf");
    for writer in [
        others::encoder(),
        others::encoder_decoder(),
        others::recurrent(),
    ] {
        writer.write(&path);
        compare(&path, &on_cpu(), &ContextParams::default(), "no decoder");
    }
}

#[test]
fn a_model_in_several_files() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let paths = Layout::DeepSeek2
        .writer()
        .write_split(dir.path(), "model", 3);
    compare(&paths[0], &on_cpu(), &ContextParams::default(), "split");
    let context = ContextParams::default();
    let by_first = DryRun::new(&backend(), &paths[0], &on_cpu(), &context).expect("a dry run");
    let by_list = DryRun::new(&backend(), &paths, &on_cpu(), &context).expect("a dry run");
    assert_eq!(by_first, by_list);
}

/// A vocabulary that is counted instead of loaded: by a key of its own, which the file may have
/// with another number.
#[test]
fn the_vocabulary_has_the_size_of_its_list() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("model.gguf");
    let mut writer = Layout::Mixtral.writer();
    writer.u32("llama.vocab_size", 7).write(&path);
    compare(&path, &on_cpu(), &ContextParams::default(), "another size");
    let replaced = on_cpu().with_kv_override("llama.vocab_size", KvOverride::Int(9));
    compare(&path, &replaced, &ContextParams::default(), "replaced size");
}

#[test]
fn embeddings_and_replaced_metadata() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let context = ContextParams::default().with_embeddings(true);
    compare(&path, &on_cpu(), &context, "embeddings");
    let fewer = on_cpu().with_kv_override("qwen3moe.expert_used_count", KvOverride::Int(1));
    compare(&path, &fewer, &ContextParams::default(), "fewer experts");
}

/// In a process that may not have the memory that it measures.
#[test]
#[cfg(unix)]
fn nothing_is_allocated() {
    const LIMITED: &str = "LLAMA_MOE_TEST_LIMITED";
    if env::var_os(LIMITED).is_none() {
        let output = Command::new("sh")
            .args(["-c", "ulimit -v 6000000 && exec \"$0\" \"$@\""])
            .arg(env::current_exe().expect("this binary"))
            .args(["--exact", "nothing_is_allocated", "--nocapture"])
            .env(LIMITED, "1")
            .output()
            .expect("a process");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("8 GiB could not be had"), "{text}");
        return;
    }
    let (_dir, path) = file(Layout::Qwen3Moe);
    let context = ContextParams::default()
        .with_n_ctx(1 << 22)
        .with_type_k(CacheType::F32)
        .with_type_v(CacheType::F32);
    let dry = DryRun::new(&backend(), &path, &on_cpu(), &context).expect("a dry run");
    assert_eq!(dry.n_ctx(), 1 << 22);
    let kv: u64 = dry.entries().iter().map(|entry| entry.context).sum();
    assert_eq!(kv, 8 << 30);
    let model = Model::load(&backend(), &path, on_cpu()).expect("a loaded model");
    let error = model.context(context).map(drop).expect_err("no memory");
    println!("8 GiB could not be had: {error}");
}

#[test]
fn no_context_size_is_the_training_size() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let context = ContextParams::default().with_n_ctx(0);
    let dry = DryRun::new(&backend(), &path, &on_cpu(), &context).expect("a dry run");
    assert_eq!(dry.n_ctx(), N_CTX_TRAIN);
    compare(&path, &on_cpu(), &context, "n_ctx 0");
}

#[test]
fn inputs_stay_as_they_are_and_load_modes_make_no_difference() {
    let (_dir, path) = file(Layout::GptOss);
    let before = fs::read(&path).expect("the file");
    let context = ContextParams::default();
    let run = |params: &ModelParams| {
        let copy = params.clone();
        let dry = DryRun::new(&backend(), &path, params, &context).expect("a dry run");
        assert_eq!(*params, copy);
        dry
    };
    let dry = run(&on_cpu());
    for mode in [
        LoadMode::Auto,
        LoadMode::Mmap,
        LoadMode::Mlock,
        LoadMode::MmapMlock,
        LoadMode::DirectIo,
    ] {
        assert_eq!(run(&on_cpu().with_load_mode(mode)), dry, "{mode:?}");
    }
    assert_eq!(run(&on_cpu().with_no_alloc(true)), dry);
    assert_eq!(fs::read(&path).expect("the file"), before);
}

#[test]
fn several_threads_at_once() {
    let (_dir, path) = file(Layout::DeepSeek2);
    let context = ContextParams::default();
    let run = |n| {
        let params = on_cpu().with_cpu_moe_first(n);
        DryRun::new(&backend(), &path, &params, &context).expect("a dry run")
    };
    let alone = [run(1), run(2), run(3)];
    thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|n| scope.spawn(move || (n, run(n % 3 + 1))))
            .collect();
        for thread in threads {
            let (n, dry) = thread.join().expect("no panic");
            assert_eq!(dry, alone[n as usize % 3]);
        }
    });
}

#[track_caller]
fn error(path: &Path, model: &ModelParams, context: &ContextParams) -> Error {
    match DryRun::new(&backend(), path, model, context) {
        Ok(dry) => panic!("it is accepted: {dry:?}"),
        Err(error) => error,
    }
}

#[test]
fn bad_files_are_errors() {
    let context = ContextParams::default();
    let dir = tempfile::tempdir().expect("a scratch folder");
    let missing = dir.path().join("missing.gguf");
    assert!(matches!(
        error(&missing, &on_cpu(), &context),
        Error::File { .. }
    ));
    assert!(matches!(
        error(dir.path(), &on_cpu(), &context),
        Error::File { .. }
    ));

    let path = dir.path().join("model.gguf");
    let refused = |what: &str, change: &dyn Fn(&mut GgufWriter)| {
        let mut writer = Layout::Qwen3Moe.writer();
        change(&mut writer);
        writer.write(&path);
        let error = error(&path, &on_cpu(), &context);
        println!("{what}: {error}");
        assert!(matches!(error, Error::Load { .. }), "{what}: {error}");
    };
    refused("too many blocks", &|file| {
        file.u32("qwen3moe.block_count", 513);
    });
    refused("no blocks", &|file| {
        file.u32("qwen3moe.block_count", 0);
    });
    refused("more experts used than there are", &|file| {
        file.u32("qwen3moe.expert_used_count", 9);
    });
    refused("no such architecture", &|file| {
        file.string("general.architecture", "no-such");
    });
    refused("an architecture with a long name", &|file| {
        file.string("general.architecture", &"x".repeat(200));
    });
    refused("a missing tensor", &|file| {
        file.remove_tensor("blk.1.ffn_up_exps.weight");
    });
    refused("one token less than rows", &|file| {
        let tokens: Vec<String> = (0..7).map(|token| format!("token {token}")).collect();
        file.strings("tokenizer.ggml.tokens", &tokens);
    });
    refused("no tokens", &|file| {
        file.strings("tokenizer.ggml.tokens", &[] as &[&str]);
    });
    refused("tokens that are numbers", &|file| {
        file.i32s("tokenizer.ggml.tokens", &[1, 2, 3]);
    });
    refused("no tokenizer", &|file| {
        file.remove("tokenizer.ggml.model");
    });
    refused("a tokenizer that is a number", &|file| {
        file.u32("tokenizer.ggml.model", 1);
    });

    // A vocabulary and nothing else.
    let mut vocabulary = GgufWriter::new("qwen3moe");
    support::layouts::write_vocabulary(&mut vocabulary);
    vocabulary.write(&path);
    let error = error(&path, &on_cpu(), &context);
    assert!(matches!(error, Error::Load { .. }), "{error}");
    println!("a vocabulary: {error}");

    // Cut short, and no GGUF.
    let whole = Layout::Qwen3Moe.writer().to_bytes();
    for length in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).expect("a scratch file");
        let error = self::error(&path, &on_cpu(), &context);
        assert!(matches!(error, Error::Load { .. }), "{length}: {error}");
    }
}

#[test]
fn bad_parameters_are_errors() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let context = ContextParams::default();
    let of_context = |context: &ContextParams| error(&path, &on_cpu(), context);
    assert!(matches!(
        error(&path, &on_cpu().with_vocab_only(true), &context),
        Error::Context(ContextError::VocabOnly)
    ));
    assert!(matches!(
        error(&path, &on_cpu().with_cpu_moe_layers(9..10), &context),
        Error::Override(_)
    ));
    let tokenizer = KvOverride::Text("no_vocab".to_owned());
    for params in [
        on_cpu().with_kv_override("tokenizer.ggml.model", tokenizer),
        on_cpu().with_tensor_split([f32::NAN]),
    ] {
        let error = error(&path, &params, &context);
        assert!(matches!(error, Error::Parameter { .. }), "{error}");
    }
    let blocks = on_cpu().with_kv_override("qwen3moe.block_count", KvOverride::Int(600));
    assert!(matches!(
        error(&path, &blocks, &context),
        Error::Load { .. }
    ));
    // llama.cpp would abort on most of these.
    for refused in [
        context.clone().with_n_batch(0),
        context.clone().with_n_seq_max(0),
        context.clone().with_n_seq_max(100_000),
        context.clone().with_n_batch(4).with_n_seq_max(8),
        context.clone().with_n_outputs_max(2).with_n_seq_max(8),
        context.clone().with_n_ctx(u32::MAX),
        context.clone().with_rope_freq_scale(f32::NAN),
        context.clone().with_n_threads(0),
    ] {
        let error = of_context(&refused);
        assert!(matches!(error, Error::Parameter { .. }), "{error}");
    }
    // A quantised V needs flash attention.
    let quantised = context
        .clone()
        .with_flash_attention(FlashAttention::Disabled)
        .with_type_v(CacheType::Q8_0);
    assert!(matches!(
        of_context(&quantised),
        Error::Context(ContextError::Creation { .. })
    ));
}

/// Nothing is left that one could compute with.
#[test]
fn a_model_without_weights_has_no_context() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let model = Model::load(&backend(), &path, on_cpu().with_no_alloc(true)).expect("a model");
    let refused = model.context(ContextParams::default()).map(drop);
    assert!(matches!(
        refused,
        Err(Error::Context(ContextError::NoAlloc))
    ));
}

#[cfg(feature = "rpc")]
mod on_workers {
    use super::*;
    use support::layouts::N_EMBD;
    use support::worker::{second_device, worker};

    /// Rules that have something to move in every layout with experts.
    fn rules(layout: Layout, params: &ModelParams) -> Vec<(&'static str, ModelParams)> {
        let mut all = vec![("no rules", params.clone())];
        if layout.is_moe() {
            all.push(("all experts", params.clone().with_cpu_moe_all()));
            all.push(("the first", params.clone().with_cpu_moe_first(1)));
            all.push(("the last", params.clone().with_cpu_moe_last(1)));
            let half = layout.n_layer() / 2 + 1;
            all.push(("half the blocks", params.clone().with_n_cpu_moe(half)));
        }
        all
    }

    #[test]
    fn every_layout_with_every_rule() {
        let worker = worker();
        for layout in Layout::ALL {
            let (_dir, path) = file(layout);
            let params = ModelParams::default().with_devices([worker.device]);
            for (rule, params) in rules(layout, &params) {
                for (context_name, context) in contexts(layout) {
                    let what = format!("{layout:?}, {rule}, {context_name}");
                    compare(&path, &params, &context, &what);
                }
            }
        }
    }

    #[test]
    fn some_layers_some_caches() {
        let worker = worker();
        let params = ModelParams::default().with_devices([worker.device]);
        for layout in [Layout::Qwen3Moe, Layout::DeepSeek2] {
            let (_dir, path) = file(layout);
            for n in [0, 1, 3, 99] {
                let params = params.clone().with_n_gpu_layers(n);
                for offload in [true, false] {
                    let context = ContextParams::default().with_offload_kqv(offload);
                    let what = format!("{layout:?}, {n} layers, KV offload {offload}");
                    compare(&path, &params, &context, &what);
                }
            }
        }
    }

    /// llama.cpp's own measure forgets which device it wants the first norm of a layer on, and
    /// counts one hidden state more or less, in as many copies as there are, where a device's
    /// layers begin.
    const SLACK: u64 = 4 * N_EMBD * 512 * 4;

    #[test]
    fn two_devices() {
        let worker = worker();
        let second = second_device(&worker);
        let params = ModelParams::default().with_devices([worker.device, second]);
        for layout in [Layout::Qwen3Moe, Layout::Glm4Moe] {
            let (_dir, path) = file(layout);
            for split in [[1.0, 1.0], [3.0, 1.0], [0.0, 1.0]] {
                let params = params.clone().with_tensor_split(split);
                for (rule, params) in rules(layout, &params) {
                    let what = format!("{layout:?}, {split:?}, {rule}");
                    let context = ContextParams::default();
                    compare_with_slack(&path, &params, &context, &what, SLACK);
                }
            }
        }
    }
}

#[cfg(feature = "rpc")]
#[test]
fn worker_process() {
    support::worker::serve_if_asked();
}
