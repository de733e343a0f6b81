//! Loading: split files, progress, and everything that is no model.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use llama_moe::{Error, KvOverride, LoadMode, Model, ModelParams};

mod support;
use support::gguf;
use support::layouts::{Layout, vocabulary_only};
use support::{backend, file, load, on_cpu};

fn fails(path: &Path) -> Error {
    Model::load(&backend(), path, on_cpu()).expect_err("not a model")
}

#[test]
fn what_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    for path in [
        dir.path().join("missing.gguf"),
        dir.path().to_owned(),
        Path::new("").to_owned(),
    ] {
        let error = fails(&path);
        assert!(matches!(error, Error::File { .. }), "{error:?}");
        assert!(error.to_string().contains(&*path.to_string_lossy()));
    }
    let error = fails(Path::new("a\0b"));
    assert!(
        error.to_string().contains("a\\0b") || matches!(error, Error::File { .. }),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn what_may_not_be_read() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, path) = file(Layout::Qwen3Moe);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything.
    if fs::File::open(&path).is_ok() {
        assert!(Model::load(&backend(), &path, on_cpu()).is_ok());
        return;
    }
    assert!(matches!(fails(&path), Error::File { .. }));
}

#[test]
fn what_is_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for contents in [
        &b""[..],
        b"G",
        b"GGUF",
        b"just a text, long enough for a header\n",
        &[0; 4096],
    ] {
        fs::write(&path, contents).unwrap();
        let error = fails(&path);
        assert!(
            matches!(&error, Error::Load { path: at, reason } if *at == path && !reason.is_empty()),
            "{contents:?}: {error:?}"
        );
    }
}

#[test]
fn what_was_cut_off() {
    let (_dir, path) = file(Layout::Mixtral);
    let size = fs::metadata(&path).unwrap().len();
    let whole = fs::read(&path).unwrap();
    for keep in [10, 100, 2000, size / 2, size - 64] {
        fs::write(&path, &whole).unwrap();
        gguf::truncate(&path, keep);
        let error = fails(&path);
        assert!(
            matches!(error, Error::Load { .. }),
            "{keep} bytes: {error:?}"
        );
    }
    fs::write(&path, &whole).unwrap();
    assert!(Model::load(&backend(), &path, on_cpu()).is_ok());
}

#[test]
fn a_key_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut writer = Layout::Qwen3Moe.writer();
    writer.remove("qwen3moe.block_count");
    writer.write(&path);
    assert!(fails(&path).to_string().contains("block_count"));
}

/// Each of these ends the process in llama.cpp's own loader.
#[test]
fn metadata_that_llama_cpp_asserts_on_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let arch = |key: &str| format!("qwen3moe.{key}");
    let u32 = |value| {
        move |w: &mut gguf::GgufWriter, key: &str| {
            w.u32(key, value);
        }
    };
    type Change = Box<dyn Fn(&mut gguf::GgufWriter, &str)>;
    let cases: [(&str, Change); 14] = [
        ("block_count", Box::new(u32(0))),
        ("block_count", Box::new(u32(100_000))),
        ("nextn_predict_layers", Box::new(u32(100))),
        ("expert_count", Box::new(u32(0))),
        ("expert_count", Box::new(u32(5000))),
        (
            "expert_count",
            Box::new(|w, key| {
                w.remove(key);
            }),
        ),
        (
            "expert_used_count",
            Box::new(|w, key| {
                w.remove(key);
            }),
        ),
        ("expert_used_count", Box::new(u32(0))),
        ("expert_used_count", Box::new(u32(9))),
        (
            "expert_used_count",
            Box::new(|w, key| {
                w.u32s(key, &[2, 2, 2, 9]);
            }),
        ),
        ("pooling_type", Box::new(u32(99))),
        ("expert_group_count", Box::new(u32(8))),
        ("expert_group_count", Box::new(u32(2))),
        (
            "rope.scaling.type",
            Box::new(|w, key| {
                w.string(key, "cubic");
            }),
        ),
    ];
    for (key, change) in &cases {
        let mut writer = Layout::Qwen3Moe.writer();
        change(&mut writer, &arch(key));
        writer.write(&path);
        let error = fails(&path);
        assert!(
            matches!(&error, Error::Load { reason, .. } if reason.contains(key)),
            "{key}: {error:?}"
        );
    }

    let mut writer = Layout::Qwen3Moe.writer();
    let mut tokens: Vec<String> = support::layouts::vocabulary()
        .into_iter()
        .map(|token| token.text)
        .collect();
    tokens[7] = tokens[300].clone();
    writer.strings("tokenizer.ggml.tokens", &tokens);
    writer.write(&path);
    assert!(fails(&path).to_string().contains(&tokens[7]));

    let mut writer = Layout::Qwen3Moe.writer();
    writer.string("tokenizer.ggml.model", "bert");
    writer.write(&path);
    assert!(fails(&path).to_string().contains("token_type"));

    let paths = Layout::Qwen3Moe.writer().write_split(dir.path(), "m", 2);
    let mut other = gguf::GgufWriter::new("qwen3moe");
    other.u32("split.no", 1);
    other.write(&paths[1]);
    assert!(fails(&paths[0]).to_string().contains("split.no"));

    let many = dir.path().join(format!("m-00001-of-{}.gguf", u64::MAX));
    let mut writer = Layout::Qwen3Moe.writer();
    writer.u64("split.count", u64::MAX);
    writer.write(&many);
    assert!(fails(&many).to_string().contains("split.count"));

    // Rules that are worked out without a load need sound numbers too.
    let mut writer = Layout::Qwen3Moe.writer();
    writer.u32("qwen3moe.block_count", u32::MAX);
    writer.write(&path);
    let params = on_cpu().with_cpu_moe_layers(..);
    let error = params.overrides().lower(&backend(), &path, &params);
    assert!(error.unwrap_err().to_string().contains("block_count"));

    // What is replaced while loading counts too.
    let cubic = KvOverride::Text("cubic".to_owned());
    let params = on_cpu().with_kv_override(arch("rope.scaling.type"), cubic);
    let error = load(Layout::Qwen3Moe, params).unwrap_err();
    assert!(error.to_string().contains("cubic"), "{error}");
    for (key, value) in [
        ("expert_used_count", 9),
        ("expert_count", -1),
        ("block_count", 0),
    ] {
        let params = on_cpu().with_kv_override(arch(key), KvOverride::Int(value));
        let error = load(Layout::Qwen3Moe, params).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn parts_of_a_model_are_found_by_the_first_ones_name() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Layout::Qwen3Moe.writer().write_split(dir.path(), "m", 3);
    let params = || on_cpu().with_cpu_moe_all();
    let by_name = Model::load(&backend(), &paths[0], params()).unwrap();
    let by_list = Model::load(&backend(), paths.clone(), params()).unwrap();
    for model in [by_name, by_list] {
        let taken: u64 = model.rule_matches().map(|found| found.bytes).sum();
        let expected: u64 = Layout::Qwen3Moe.expert_tensors().iter().map(|t| t.1).sum();
        assert_eq!(taken, expected);
        assert_eq!(model.path(), paths[0]);
    }
    let error = fails(&paths[1]);
    assert!(error.to_string().contains("00001-of-00003"), "{error}");
    fs::remove_file(&paths[2]).unwrap();
    let error = fails(&paths[0]);
    assert!(
        matches!(&error, Error::File { path, .. } if *path == paths[2]),
        "{error:?}"
    );
    let error = Model::load(&backend(), Vec::<std::path::PathBuf>::new(), on_cpu());
    assert!(matches!(error, Err(Error::Parameter { .. })));
}

#[test]
fn progress_is_told_and_can_end_the_load() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let mut shares = Vec::new();
    Model::load_with_progress(&backend(), &path, on_cpu(), |share| {
        shares.push(share);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(
        shares.is_sorted() && shares.last() == Some(&1.0),
        "{shares:?}"
    );

    let error = Model::load_with_progress(&backend(), &path, on_cpu(), |_| ControlFlow::Break(()));
    assert!(
        matches!(error, Err(Error::LoadCancelled { .. })),
        "{error:?}"
    );

    let error = Model::load_with_progress(&backend(), &path, on_cpu(), |_| panic!("not my day"));
    assert!(
        matches!(&error, Err(Error::CallbackPanicked { message, .. }) if message == "not my day"),
        "{error:?}"
    );
    struct PanicsAgain;
    impl Drop for PanicsAgain {
        fn drop(&mut self) {
            panic!("and again");
        }
    }
    let error = Model::load_with_progress(&backend(), &path, on_cpu(), |_| {
        std::panic::panic_any(PanicsAgain)
    });
    assert!(
        matches!(error, Err(Error::CallbackPanicked { .. })),
        "{error:?}"
    );
    assert!(Model::load(&backend(), &path, on_cpu()).is_ok());
}

#[test]
fn numa_is_chosen_before_the_first_model() {
    load(Layout::Qwen3Moe, on_cpu()).unwrap();
    let error = backend().numa_init(llama_moe::NumaStrategy::Isolate);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("loaded before"), "{error}");
}

/// A load holds the devices for reading; waiting for oneself would never end.
#[cfg(feature = "rpc")]
#[test]
fn a_progress_callback_may_use_the_backend() {
    use std::time::Duration;
    use std::{sync::mpsc, thread};

    let (_dir, path) = file(Layout::Qwen3Moe);
    let (finished, told) = mpsc::channel();
    thread::spawn(move || {
        let backend = backend();
        let mut others = None;
        let params = on_cpu;
        let outer = Model::load_with_progress(&backend, &path, params(), |_| {
            others.get_or_insert_with(|| {
                // A writer that waits makes a second reader wait for it.
                thread::spawn(move || backend.add_rpc_server("127.0.0.1:1").map(drop));
                thread::sleep(Duration::from_millis(200));
                let added = backend.add_rpc_server("127.0.0.1:1");
                let inner = Model::load(&backend, &path, params());
                (backend.devices().len(), added, inner)
            });
            ControlFlow::Continue(())
        });
        finished.send((outer, others)).unwrap();
    });
    let (outer, others) = told
        .recv_timeout(Duration::from_secs(60))
        .expect("a load that ends");
    let (n_devices, added, inner) = others.expect("a callback that was called");
    assert!(outer.is_ok() && inner.is_ok() && n_devices > 0);
    assert!(matches!(added, Err(Error::Parameter { .. })), "{added:?}");
}

#[test]
fn a_model_says_what_it_is() {
    let layout = Layout::DeepSeek2;
    let model = load(layout, on_cpu()).unwrap();
    assert_eq!(model.architecture().as_deref(), Some(layout.arch()));
    assert_eq!(model.n_layer(), layout.n_layer());
    assert_eq!(u64::from(model.n_embd()), support::layouts::N_EMBD);
    assert_eq!(
        u64::from(model.n_expert().unwrap()),
        support::layouts::N_EXPERT
    );
    assert_eq!(
        u64::from(model.n_expert_used()),
        support::layouts::N_EXPERT_USED
    );
    assert_eq!(model.n_ctx_train(), support::layouts::N_CTX_TRAIN);
    let bytes: u64 = layout.loaded_tensors().iter().map(|t| t.bytes()).sum();
    assert_eq!(model.size(), bytes);
    assert!(!model.description().is_empty());
    assert!(
        model
            .metadata()
            .iter()
            .any(|(key, _)| key == "general.architecture")
    );
    assert_eq!(model.meta("no.such.key"), None);
    assert!(!model.is_recurrent() && model.has_decoder() && !model.has_encoder());
    assert_eq!(model.chat_template(None), None);

    let dense = load(Layout::Dense, on_cpu()).unwrap();
    assert_eq!((dense.n_expert().unwrap(), dense.n_expert_used()), (0, 0));
    let mtp = load(Layout::Glm4Moe, on_cpu()).unwrap();
    assert_eq!(mtp.n_layer_nextn(), Layout::Glm4Moe.n_layer_nextn());
}

#[test]
fn metadata_can_be_replaced() {
    let key = "qwen3moe.expert_used_count";
    let params = on_cpu().with_kv_override(key, KvOverride::Int(3));
    let model = load(Layout::Qwen3Moe, params).unwrap();
    assert_eq!(
        model.meta(key).as_deref(),
        Some("2"),
        "the file's own value"
    );
    for params in [
        on_cpu().with_kv_override("k".repeat(128), KvOverride::Bool(true)),
        on_cpu().with_kv_override("k", KvOverride::Text("v".repeat(128))),
    ] {
        let error = load(Layout::Qwen3Moe, params).unwrap_err();
        assert!(matches!(error, Error::Parameter { .. }), "{error}");
    }
    // An empty key would end llama.cpp's list; the others are only asserted on, some of them
    // once the model computes.
    for (key, value) in [
        ("", KvOverride::Int(1)),
        ("general.architecture", KvOverride::Text("llama".into())),
        ("tokenizer.ggml.model", KvOverride::Text("bert".into())),
        ("split.count", KvOverride::Int(3)),
        ("qwen3moe.rope.dimension_count", KvOverride::Int(0)),
    ] {
        let params = on_cpu().with_kv_override(key, value);
        let error = load(Layout::Qwen3Moe, params).unwrap_err();
        assert!(
            matches!(&error, Error::Parameter { parameter, .. } if *parameter == "with_kv_override"),
            "{key}: {error:?}"
        );
    }
    // llama.cpp does not look for this one where the file has none, and then asserts.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut writer = Layout::Qwen3Moe.writer();
    writer.remove(key);
    writer.write(&path);
    let params = on_cpu().with_kv_override(key, KvOverride::Int(2));
    let error = Model::load(&backend(), &path, params).unwrap_err();
    assert!(error.to_string().contains("no expert is used"), "{error}");

    let nul = on_cpu().with_kv_override("k\0", KvOverride::Float(0.5));
    assert!(matches!(
        load(Layout::Qwen3Moe, nul),
        Err(Error::Nul { .. })
    ));
}

#[test]
fn parameters_that_cannot_work() {
    let cpu = backend().cpu().unwrap();
    for params in [
        ModelParams::default().with_devices([cpu]),
        on_cpu().with_tensor_split([f32::NAN]),
        on_cpu().with_tensor_split([-1.0, 2.0]),
        on_cpu().with_tensor_split([0.0, 0.0]),
        on_cpu().with_tensor_split(vec![1.0; 1000]),
        on_cpu().with_tensor_split([f32::MAX, f32::MAX]),
    ] {
        let error = load(Layout::Qwen3Moe, params).unwrap_err();
        assert!(matches!(error, Error::Parameter { .. }), "{error:?}");
    }
    let mapped = on_cpu().with_no_alloc(true).with_load_mode(LoadMode::Mmap);
    assert!(load(Layout::Qwen3Moe, mapped).is_err());
}

#[test]
fn without_weights_there_is_a_placement_of_nothing() {
    let model = load(Layout::Qwen3Moe, on_cpu().with_no_alloc(true)).unwrap();
    assert_eq!(model.load_mode(), LoadMode::None);
    assert!(model.size() > 0);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocab.gguf");
    vocabulary_only().write(&path);
    let params = on_cpu().with_vocab_only(true).with_cpu_moe_all();
    let model = Model::load(&backend(), &path, params).unwrap();
    assert!(model.is_vocab_only());
    assert!(model.placement().unwrap().tensors().is_empty());
    // llama.cpp aborts when it is asked for the heads of a layer that is not there.
    assert_eq!(
        (model.n_layer(), model.n_head(), model.n_head_kv()),
        (0, 0, 0)
    );
}

#[test]
fn a_model_is_saved_and_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved.gguf");
    let model = load(Layout::Qwen3Moe, on_cpu()).unwrap();
    model.save(&path).unwrap();
    let saved = Model::load(&backend(), &path, on_cpu()).unwrap();
    assert_eq!(saved.size(), model.size());
    assert!(model.save(dir.path().join("no/such/folder.gguf")).is_err());
    assert!(model.save(dir.path()).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no remains");
}

#[test]
fn a_model_is_saved_over_the_file_it_is_mapped_from() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let mapped = || on_cpu().with_load_mode(LoadMode::Mmap);
    let model = Model::load(&backend(), &path, mapped()).unwrap();
    let before = support::decode::answer(&mut support::decode::context(&model));
    model.save(&path).unwrap();
    for model in [model, Model::load(&backend(), &path, mapped()).unwrap()] {
        let after = support::decode::answer(&mut support::decode::context(&model));
        assert_eq!(after, before);
    }
}

#[test]
fn repacked_weights_cannot_be_saved_but_plain_ones_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved.gguf");
    // Q4_0 experts are repacked where the CPU has kernels for that.
    let model = load(Layout::Mixtral, on_cpu().with_load_mode(LoadMode::None)).unwrap();
    let placement = model.placement().unwrap();
    let repacked = placement.tensors().iter().any(|t| t.buffer == "CPU_REPACK");
    match model.save(&path) {
        Err(Error::Llama { kind, reason, .. }) => {
            assert_eq!(kind, llama_moe::FailureKind::InvalidArgument);
            assert!(repacked && reason.contains("repacked"), "{reason}");
        }
        other => assert!(other.is_ok() && !repacked, "{other:?}"),
    }
    let plain = on_cpu().with_extra_buffer_types(false);
    load(Layout::Mixtral, plain).unwrap().save(&path).unwrap();
    assert_eq!(
        Model::load(&backend(), &path, on_cpu()).unwrap().size(),
        model.size()
    );
}

#[test]
fn handles_are_shared_between_threads() {
    fn assert_shared<T: Send + Sync + Clone + 'static>() {}
    assert_shared::<Model>();
    let model = load(Layout::Qwen3Moe, on_cpu()).unwrap();
    let clone = model.clone();
    assert!(model.is_same(&clone));
    drop(model);
    let size = std::thread::spawn(move || clone.size()).join().unwrap();
    assert!(size > 0);
}
