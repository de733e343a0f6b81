//! For random models and rules, what is previewed is what the loader counts without loading,
//! and where the loaded model's tensors are.
#![cfg(feature = "rpc")]

use std::collections::BTreeMap;
use std::path::Path;

use llama_moe::gguf::synth::{NamedShape, Shape, Synth};
use llama_moe::{ContextParams, DryRun, LoadMode, Model, Preview};
use proptest::prelude::*;

#[path = "support/random_rules.rs"]
mod random_rules;
mod support;
use random_rules::{Place, RandomRule, overrides, place, rule};
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

    let params = place.params(devices, overrides(rules, n_blocks, n_moe, devices));
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
