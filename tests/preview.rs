//! What is said before a load is what the load does, tensor by tensor and byte by byte, on
//! every MoE layout.

use std::collections::BTreeMap;
use std::path::Path;

use llama_moe::gguf::synth::{NamedShape, Shape, Synth};
use llama_moe::{
    Budget, ContextParams, Device, LazyMode, LoadMode, Model, ModelParams, Pattern, Planner,
    Preview, SplitMode, Target,
};

mod support;
use support::gguf::{GgufWriter, TensorType};
use support::layouts::Layout;
use support::{backend, file, on_cpu, sparse};
#[cfg(feature = "rpc")]
use support::{others, peculiar};

#[cfg(feature = "rpc")]
#[test]
fn worker_process() {
    support::worker::serve_if_asked();
}

/// Rules of all kinds for a layout, none that matches nothing.
fn rules(layout: Layout, params: &ModelParams) -> Vec<(&'static str, ModelParams)> {
    let params = || params.clone();
    let n_blocks = layout.n_layer();
    let n_moe = layout.moe_layers().len() as u32;
    let attention = Pattern::new(r"blk\.(0|2)\.attn_").unwrap();
    let embedding = Pattern::new("^token_embd").unwrap();
    let mut rules = vec![
        ("none", params()),
        ("no layers", params().with_n_gpu_layers(0)),
        ("output only", params().with_n_gpu_layers(1)),
        (
            "half of the layers",
            params().with_n_gpu_layers(n_blocks / 2),
        ),
        (
            "more layers than there are",
            params().with_n_gpu_layers(999),
        ),
        ("attention", params().with_override(attention, Target::Cpu)),
        ("embeddings", params().with_override(embedding, Target::Cpu)),
    ];
    if layout.is_moe() {
        let first_moe = layout.moe_layers()[0];
        let half = params().with_n_gpu_layers(n_blocks / 2 + 1);
        rules.extend([
            ("cpu_moe_all", params().with_cpu_moe_all()),
            ("n_cpu_moe, one", params().with_n_cpu_moe(first_moe + 1)),
            ("n_cpu_moe, all", params().with_n_cpu_moe(n_blocks)),
            ("the last", params().with_cpu_moe_last(1)),
            (
                "the first half",
                params().with_cpu_moe_first(n_moe.div_ceil(2)),
            ),
            ("half of the layers, no experts", half.with_cpu_moe_all()),
        ]);
    } else {
        rules.push(("cpu_ffn", params().with_cpu_ffn(2)));
    }
    rules
}

/// Holds a preview against the model loaded with the same parameters: every tensor, and the
/// buffers' sizes.
fn check(path: &Path, params: &ModelParams, what: &str) {
    let (preview, model) = check_tensors(path, params, what);
    for (index, rule) in preview.rules().iter().enumerate() {
        let tensors = preview.tensors().iter();
        let by_rule = tensors.filter(|tensor| tensor.rule == Some(index) && !tensor.duplicate);
        assert_eq!(by_rule.count(), rule.tensors.len(), "{what}: {}", rule.rule);
    }
    let params = ContextParams::default().with_n_ctx(256).with_n_threads(1);
    let mut context = model
        .context(params.with_n_threads_batch(1))
        .expect("a context");
    let mut allocated: BTreeMap<String, u64> = BTreeMap::new();
    for entry in context.memory_breakdown().expect("a breakdown") {
        *allocated.entry(entry.buffer).or_default() += entry.model;
    }
    for sum in preview.sums() {
        // Of a mapped file llama.cpp counts the span, not the tensors.
        if sum.buffer.ends_with("_Mapped") {
            continue;
        }
        let (said, is) = (preview.allocated(&sum.buffer), allocated[&sum.buffer]);
        // Vulkan's host memory is as much longer as a pointer may have to be moved.
        let slack = if sum.buffer == "Vulkan_Host" { 32 } else { 0 };
        assert_eq!(said + slack, is, "{what}: {}", sum.buffer);
    }
}

/// The part of [`check`] that needs no context.
fn check_tensors(path: &Path, params: &ModelParams, what: &str) -> (Preview, Model) {
    let backend = backend();
    let preview = Preview::new(&backend, path, params).unwrap_or_else(|e| panic!("{what}: {e}"));
    let model = Model::load(&backend, path, params.clone())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let placement = model.placement().expect("a placement");
    placement
        .verify(&preview)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(placement.sums(), preview.sums(), "{what}");
    let matches: Vec<_> = model.rule_matches().cloned().collect();
    assert_eq!(preview.rules(), matches, "{what}");
    (preview, model)
}

#[test]
fn on_the_cpu() {
    for layout in Layout::ALL {
        let (_dir, path) = file(layout);
        for (rule, params) in rules(layout, &on_cpu()) {
            for mode in [LoadMode::None, LoadMode::Mmap, LoadMode::Auto] {
                for no_host in [false, true] {
                    let params = params.clone().with_load_mode(mode).with_no_host(no_host);
                    check(
                        &path,
                        &params,
                        &format!("{layout:?}, {rule}, {mode}, {no_host}"),
                    );
                }
            }
            let plain = params.with_extra_buffer_types(false);
            check(&path, &plain, &format!("{layout:?}, {rule}, not repacked"));
        }
    }
}

#[cfg(feature = "rpc")]
#[test]
fn with_a_worker() {
    let worker = support::worker::worker();
    let params = ModelParams::default().with_devices([worker.device]);
    for layout in Layout::ALL {
        let (_dir, path) = file(layout);
        for (rule, params) in rules(layout, &params) {
            check(&path, &params, &format!("{layout:?}, {rule}"));
            let mapped = params.with_load_mode(LoadMode::Mmap);
            check(&path, &mapped, &format!("{layout:?}, {rule}, mapped"));
        }
    }
}

/// Blocks by another name, blocks of a head, a draft without an output of its own, experts that
/// are no feed-forward's, and rows that a weight names.
#[cfg(feature = "rpc")]
#[test]
fn models_of_a_kind_of_their_own() {
    let worker = support::worker::worker();
    let on_worker = ModelParams::default().with_devices([worker.device]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut draft_without_output = peculiar::draft();
    draft_without_output.remove_tensor("output.weight");
    draft_without_output.remove_tensor("d2t");
    for (name, file) in [
        ("encoder-decoder", others::encoder_decoder()),
        ("value experts", peculiar::value_experts()),
        ("taps", peculiar::taps()),
        ("shared keys", peculiar::shared_keys()),
        ("convolution", peculiar::convolution()),
        ("draft", peculiar::draft()),
        ("engram", sparse::engram()),
        ("latent", sparse::latent()),
        ("draft without output", draft_without_output),
    ] {
        file.write(&path);
        for params in [on_cpu(), on_worker.clone()] {
            for n in 0..5 {
                let params = params.clone().with_n_gpu_layers(n);
                check_tensors(&path, &params, &format!("{name}, {n} layers"));
            }
        }
    }
    peculiar::value_experts().write(&path);
    let params = on_worker.with_cpu_moe_all();
    check(&path, &params, "value experts stay");
    let preview = Preview::new(&backend(), &path, &params).unwrap();
    let values = preview.tensors().iter();
    let mut values = values.filter(|tensor| tensor.name.contains("attn_v_exps"));
    assert!(values.all(|tensor| !tensor.is_host));
}

#[test]
fn what_stays_in_the_file_is_mapped_and_asks_no_rule() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    sparse::engram().write(&path);
    let params = on_cpu()
        .with_load_mode(LoadMode::None)
        .with_override(Pattern::new("token_embd").unwrap(), Target::Cpu);
    for (mode, buffer) in [(LazyMode::On, "CPU_Mapped"), (LazyMode::Auto, "CPU")] {
        let params = params.clone().with_lazy_mode(mode);
        let (preview, _) = check_tensors(&path, &params, &format!("{mode:?}"));
        let mut tensors = preview.tensors().iter();
        let words = tensors.find(|tensor| tensor.name.starts_with("per_layer"));
        let words = words.expect("the words");
        assert_eq!(words.buffer, buffer);
        assert_eq!(words.rule.is_none(), mode == LazyMode::On);
    }
}

#[cfg(feature = "rpc")]
#[test]
fn with_two_workers() {
    let worker = support::worker::worker();
    let devices = [worker.device, support::worker::second_device(&worker)];
    for layout in Layout::ALL {
        let (_dir, path) = file(layout);
        for split in [vec![], vec![3.0, 1.0], vec![0.2]] {
            let params = ModelParams::default()
                .with_devices(devices)
                .with_tensor_split(split.clone());
            // All rules once; what else differs with the shares are the layers' devices.
            let n_rules = if split.len() == 2 { 20 } else { 5 };
            for (rule, params) in rules(layout, &params).into_iter().take(n_rules) {
                check(&path, &params, &format!("{layout:?}, {rule}, {split:?}"));
            }
            let one = params.with_split_mode(SplitMode::None).with_main_gpu(1);
            check(&path, &one, &format!("{layout:?}, main GPU 1, {split:?}"));
        }
        if let [first, .., last] = layout.moe_layers()[..] {
            let params = ModelParams::default()
                .with_devices(devices)
                .with_tensor_split([1.0, 1.0])
                .with_moe_layers_on(first..=first, devices[1])
                .with_moe_layers_on(last..=last, Target::Cpu);
            check(
                &path,
                &params,
                &format!("{layout:?}, experts on the other device"),
            );
        }
    }
}

/// With the feature of a GPU's backend, and a GPU: Vulkan's on the CPU counts.
#[test]
fn on_the_gpus_of_this_machine() {
    for device in local_gpus() {
        let params = ModelParams::default().with_devices([device]);
        for layout in Layout::ALL {
            let (_dir, path) = file(layout);
            for (rule, params) in rules(layout, &params) {
                for mode in [LoadMode::None, LoadMode::Mmap] {
                    for no_host in [false, true] {
                        let params = params.clone().with_load_mode(mode).with_no_host(no_host);
                        let what = format!("{device}, {layout:?}, {rule}, {mode}, {no_host}");
                        check(&path, &params, &what);
                    }
                }
            }
        }
    }
}

fn local_gpus() -> impl Iterator<Item = Device> {
    let gpus = backend().gpus().into_iter();
    gpus.filter(|device| device.backend_name() != "RPC")
}

/// Buffers of a real size: more than 200 MB of weights.
#[test]
fn a_file_of_two_hundred_megabytes() {
    let shape = Shape::from(NamedShape::Qwen3_30bA3b);
    let shape = shape.with_layers(8).and_then(|shape| shape.with_width(512));
    let shape = shape.and_then(|shape| shape.with_vocab(8192)).unwrap();
    assert!(shape.bytes() > 200_000_000);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    Synth::new(shape).write(&path).unwrap();
    let check = |params: ModelParams, what: &str| {
        let half = params.clone().with_n_gpu_layers(4).with_cpu_moe_last(2);
        check(&path, &half, what);
        check(&path, &params.with_cpu_moe_first(4), what);
    };
    check(on_cpu(), "on the CPU");
    for device in local_gpus() {
        check(
            ModelParams::default().with_devices([device]),
            &device.name(),
        );
    }
    #[cfg(feature = "rpc")]
    {
        let worker = support::worker::worker();
        check(
            ModelParams::default().with_devices([worker.device]),
            "with a worker",
        );
    }
}

#[test]
fn multi_token_prediction_is_counted_when_it_is_loaded() {
    let (_dir, path) = file(Layout::Glm4Moe);
    check(&path, &on_cpu().with_mtp(true), "with MTP");
    let bytes = |params: &ModelParams| -> u64 {
        let preview = Preview::new(&backend(), &path, params).expect("a preview");
        preview.sums().iter().map(|sum| sum.bytes).sum()
    };
    assert!(bytes(&on_cpu().with_mtp(true)) > bytes(&on_cpu()));
}

#[test]
fn the_bundled_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/model/moe-guide-q8_0.gguf");
    check(&path, &on_cpu().with_cpu_moe_all(), "the bundled model");
}

#[test]
fn a_mismatch_is_told() {
    let backend = backend();
    let (_dir, path) = file(Layout::Qwen3Moe);
    let plain = on_cpu().with_extra_buffer_types(false);
    let mapped = plain.clone().with_load_mode(LoadMode::Mmap);
    let preview = Preview::new(&backend, &path, &plain.with_load_mode(LoadMode::None)).unwrap();
    let model = Model::load(&backend, &path, mapped).unwrap();
    let placement = model.placement().unwrap();
    let error = placement.verify(&preview).expect_err("another load mode");
    assert_eq!(error.differences.len(), placement.tensors().len());
    let first = &error.differences[0];
    assert_eq!(first.predicted, ["CPU"]);
    assert_eq!(first.got, ["CPU_Mapped"]);
    assert!(
        error.to_string().contains("predicted CPU, got CPU_Mapped"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_previewed_is_an_error() {
    let backend = backend();
    let (_dir, path) = file(Layout::Qwen3Moe);
    let refused = [
        on_cpu().with_vocab_only(true),
        on_cpu().with_split_mode(SplitMode::Row),
        on_cpu().with_split_mode(SplitMode::Tensor),
        on_cpu().with_cpu_moe_layers(9..12),
        on_cpu().with_override(Pattern::new("nothing_like_it").unwrap(), Target::Cpu),
        on_cpu().with_cpu_moe_all().with_cpu_moe_last(1),
    ];
    for params in refused {
        Preview::new(&backend, &path, &params).expect_err("a refusal");
    }
    Preview::new(&backend, "no such file.gguf", &on_cpu()).expect_err("no file");
}

#[test]
fn files_without_a_model_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let refused = |file: &GgufWriter, part: &str| {
        file.write(&path);
        let error = Preview::new(&backend(), &path, &on_cpu()).expect_err(part);
        assert!(error.to_string().contains(part), "{error}");
        let planner = Planner::new(&backend(), &path).unwrap();
        planner.fit(&Budget::assumed([1 << 30])).expect_err(part);
    };
    // Blocks that would take a day to go through, and one more than can be counted.
    let mut projector = GgufWriter::new("clip");
    projector.u32("clip.block_count", u32::MAX);
    projector.random("rope_freqs.weight", &[32], TensorType::F32, 1.0);
    refused(&projector, "projector");
    let mut no_layers = Layout::Qwen3Moe.writer();
    no_layers.remove("qwen3moe.block_count");
    refused(&no_layers, "qwen3moe.block_count");
    refused(&support::layouts::vocabulary_only(), "no tensors");
}
