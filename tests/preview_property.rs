//! For random models and rules, what is previewed is what the loader counts without loading,
//! and where the loaded model's tensors are.
#![cfg(feature = "rpc")]

use std::collections::BTreeMap;
use std::path::Path;

use llama_moe::gguf::synth::{NamedShape, Shape, Synth};
use llama_moe::{
    ContextParams, Device, DryRun, LoadMode, Model, ModelParams, Pattern, Preview, Target,
    TensorOverrides,
};
use proptest::prelude::*;

mod support;
use support::backend;
use support::gguf::GgufWriter;
use support::layouts::Layout;
use support::worker::{second_device, serve_if_asked, worker};

#[test]
fn worker_process() {
    serve_if_asked();
}

/// A model's file, not written yet.
#[derive(Clone, Debug)]
enum File {
    /// One of the layouts; the output may be the embeddings.
    Layout { layout: Layout, tied: bool },
    /// A published shape, made small: dense leading layers, biases, rows of many lengths.
    Shape(Shape),
}

impl File {
    fn write(&self, path: &Path) {
        match self {
            Self::Layout { layout, tied } => {
                let mut file: GgufWriter = layout.writer();
                if *tied {
                    file.remove_tensor("output.weight");
                }
                file.write(path);
            }
            Self::Shape(shape) => Synth::new(shape.clone()).sparse().write(path).unwrap(),
        }
    }
}

fn layout() -> impl Strategy<Value = File> {
    let layouts = prop::sample::select(&Layout::ALL[..]);
    // gpt-oss is the one that always has an output of its own.
    (layouts, any::<bool>()).prop_map(|(layout, tied)| File::Layout {
        layout,
        tied: tied && layout != Layout::GptOss,
    })
}

fn shape() -> impl Strategy<Value = File> {
    let named = prop::sample::select(&NamedShape::ALL[..]);
    // What a shape cannot have is left out, not drawn again.
    (named, 1u32..6, 4u32..20, 1u32..5, 291u32..2000).prop_map(
        |(named, layers, width, experts, vocab)| {
            let small = |shape: Shape| {
                let shape = shape.with_layers(layers)?;
                let shape = shape.with_vocab(vocab)?;
                match named {
                    NamedShape::Phi35Moe => shape.with_width(512),
                    _ => shape.with_width(32 * width),
                }
            };
            let shape = small(Shape::from(named)).expect("a small shape");
            let fewer = shape.clone().with_experts(16 * experts);
            File::Shape(fewer.unwrap_or(shape))
        },
    )
}

/// What a rule takes. Layers are parts of a hundred of those that there are.
#[derive(Clone, Debug)]
enum Tensors {
    All,
    Blocks(u32),
    First(u32),
    Last(u32),
    Range(u32, u32),
    Pattern(&'static str),
}

#[derive(Clone, Debug)]
struct RandomRule {
    tensors: Tensors,
    /// 0 is the CPU, others are devices.
    target: usize,
}

fn rule() -> impl Strategy<Value = RandomRule> {
    let patterns = [
        "attn",
        "ffn_down",
        "exps.bias",
        "norm",
        "^token_embd",
        "^output",
        r"ffn_(gate|up)_(ch)?exps",
        r"blk\.\d*[02468]\.",
        "ffn_gate_inp",
        "shexp",
    ];
    let tensors = prop_oneof![
        Just(Tensors::All),
        (1u32..=100).prop_map(Tensors::Blocks),
        (1u32..=100).prop_map(Tensors::First),
        (1u32..=100).prop_map(Tensors::Last),
        (0u32..100, 1u32..=100).prop_map(|(start, length)| Tensors::Range(start, length)),
        prop::sample::select(patterns.to_vec()).prop_map(Tensors::Pattern),
    ];
    (tensors, 0usize..3).prop_map(|(tensors, target)| RandomRule { tensors, target })
}

/// Where a model is loaded and how.
#[derive(Clone, Debug)]
struct Place {
    n_devices: usize,
    split: Option<(u8, u8)>,
    n_gpu_layers: Option<u32>,
    mode: LoadMode,
    no_host: bool,
    extra_buffer_types: bool,
}

fn place() -> impl Strategy<Value = Place> {
    let split = prop::option::of((0u8..5, 1u8..5));
    let modes = [LoadMode::None, LoadMode::Mmap, LoadMode::Auto];
    (
        0usize..3,
        split,
        prop::option::of(0u32..8),
        prop::sample::select(modes.to_vec()),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(n_devices, split, n_gpu_layers, mode, no_host, extra)| Place {
                n_devices,
                split,
                n_gpu_layers,
                mode,
                no_host,
                extra_buffer_types: extra,
            },
        )
}

/// The rules for a model of so many blocks and MoE layers.
fn overrides(
    rules: &[RandomRule],
    n_blocks: u32,
    n_moe: u32,
    devices: &[Device],
) -> TensorOverrides {
    let mut overrides = TensorOverrides::new().allow_unmatched();
    let part = |percent: &u32, of: u32| (percent * of).div_ceil(100).clamp(1, of);
    for RandomRule { tensors, target } in rules {
        let device = target.checked_sub(1).and_then(|index| devices.get(index));
        let target = device.map_or(Target::Cpu, |device| Target::Device(*device));
        let everywhere = 0..n_blocks;
        overrides = match tensors {
            Tensors::Pattern(pattern) => {
                overrides.with_override(Pattern::new(*pattern).unwrap(), target)
            }
            Tensors::All => overrides.with_moe_layers_on(everywhere, target),
            Tensors::Blocks(n) => overrides.with_n_cpu_moe(part(n, n_blocks)),
            Tensors::Range(start, length) => {
                let start = start * n_blocks / 100;
                let end = (start + part(length, n_blocks)).min(n_blocks);
                overrides.with_moe_layers_on(start..end, target)
            }
            Tensors::First(_) | Tensors::Last(_) if n_moe == 0 => overrides,
            Tensors::First(n) => overrides.with_cpu_moe_first(part(n, n_moe)),
            Tensors::Last(n) => overrides.with_cpu_moe_last(part(n, n_moe)),
        };
    }
    overrides
}

fn check(file: &File, rules: &[RandomRule], place: &Place) -> Result<(), TestCaseError> {
    let backend = backend();
    let worker = worker();
    let devices = [worker.device, second_device(&worker)];
    let devices = &devices[..place.n_devices];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    file.write(&path);
    let header = llama_moe::gguf::Header::read(&path).unwrap();
    let n_blocks = header.n_blocks() - header.n_mtp_blocks();
    let n_moe = header.moe().map_or(0, |moe| moe.moe_layers.len() as u32);

    let mut params = ModelParams::default()
        .with_devices(devices.to_vec())
        .with_overrides(overrides(rules, n_blocks, n_moe, devices))
        .with_load_mode(place.mode)
        .with_no_host(place.no_host)
        .with_extra_buffer_types(place.extra_buffer_types);
    if let Some(n) = place.n_gpu_layers {
        params = params.with_n_gpu_layers(n);
    }
    if let (2, Some((first, second))) = (devices.len(), place.split) {
        params = params.with_tensor_split([f32::from(first), f32::from(second)]);
    }
    let context = ContextParams::default().with_n_ctx(256).with_n_threads(1);
    let context = context.with_n_threads_batch(1);

    // Without weights: as files are read, not mapped.
    let read = params.clone().with_load_mode(LoadMode::None);
    let preview = Preview::of_header(&backend, &header, &read).unwrap();
    let run = DryRun::of_header(&backend, &header, &read, &context).unwrap();
    check_bytes(&preview, run.entries())?;

    let preview = Preview::of_header(&backend, &header, &params).unwrap();
    let model = Model::load(&backend, &path, params).unwrap();
    let placement = model.placement().unwrap();
    placement
        .verify(&preview)
        .map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(placement.sums(), preview.sums());
    let mut context = model.context(context).unwrap();
    check_bytes(&preview, &context.memory_breakdown().unwrap())
}

fn check_bytes(preview: &Preview, entries: &[llama_moe::MemoryEntry]) -> Result<(), TestCaseError> {
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for entry in entries {
        *counted.entry(entry.buffer.clone()).or_default() += entry.model;
    }
    for sum in preview.sums() {
        counted.entry(sum.buffer).or_default();
    }
    // Of a mapped file llama.cpp counts the span, not the tensors.
    counted.retain(|buffer, _| !buffer.ends_with("_Mapped"));
    for (buffer, is) in counted {
        prop_assert_eq!(preview.allocated(&buffer), is, "{}", buffer);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_preview_is_the_load(
        file in prop_oneof![layout(), shape()],
        rules in prop::collection::vec(rule(), 0..4),
        place in place(),
    ) {
        check(&file, &rules, &place)?;
    }
}
