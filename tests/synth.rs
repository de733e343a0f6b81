//! Files of a model's shape: what llama.cpp makes of them, and what is refused.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use llama_moe::gguf::Header;
use llama_moe::gguf::synth::{NamedShape, Shape, Synth, WeightType};
use llama_moe::{DryRun, Error, EvalCallback, EvalTensor, LoadMode, Model, ModelParams, Token};

mod support;
use support::decode::{batch, context, decode, distance, small};
use support::gguf;
use support::layouts::Layout;
use support::{backend, file, on_cpu};

/// A path in a folder that lives as long as the returned guard.
fn path() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("synth.gguf");
    (dir, path)
}

fn load(path: &Path, params: ModelParams) -> Model {
    Model::load(&backend(), path, params).expect("a model")
}

/// The shape with few of everything, but all kinds of layers that it has.
fn scaled(shape: NamedShape) -> Shape {
    let (layers, width, experts) = match shape {
        NamedShape::GptOss20b | NamedShape::GptOss120b => (2, 576, 16),
        NamedShape::DeepSeekV3 => (4, 512, 16),
        NamedShape::Mixtral8x7b => (2, 512, 8),
        _ => (3, 512, 16),
    };
    Shape::from(shape)
        .with_layers(layers)
        .and_then(|shape| shape.with_width(width))
        .and_then(|shape| shape.with_experts(experts))
        .and_then(|shape| shape.with_vocab(1024))
        .expect("a shape")
}

/// Parameters in units of ten millions, as published with the models or shown by llama.cpp
/// for their files, and the gigabytes of their published files.
const PUBLISHED: [(NamedShape, u64, f64); 9] = [
    (NamedShape::GptOss20b, 2091, 12.1),
    (NamedShape::GptOss120b, 11_683, 63.4),
    (NamedShape::Qwen3_30bA3b, 3053, 18.6),
    (NamedShape::Qwen3_235bA22b, 23_509, 142.1),
    (NamedShape::Phi35Moe, 4187, 25.3),
    (NamedShape::DeepSeekV2Lite, 1571, 10.4),
    (NamedShape::DeepSeekV3, 67_103, 404.5),
    (NamedShape::Glm45Air, 11_047, 72.8),
    (NamedShape::Mixtral8x7b, 4670, 28.4),
];

#[test]
fn shapes_are_as_large_as_the_models() {
    assert_eq!(PUBLISHED.map(|(shape, ..)| shape), NamedShape::ALL);
    for (name, params, gigabytes) in PUBLISHED {
        let shape = Shape::from(name);
        let rounded = (shape.n_params() + 5_000_000) / 10_000_000;
        assert_eq!(rounded, params, "{name}: {}", shape.n_params());
        let difference = shape.bytes() as f64 / 1e9 - gigabytes;
        assert!(difference.abs() < 0.06, "{name}: {}", shape.bytes());
    }
}

/// Layers, experts, used ones, and layers with experts.
const COUNTS: [(NamedShape, u32, u32, u32, usize); 9] = [
    (NamedShape::GptOss20b, 24, 32, 4, 24),
    (NamedShape::GptOss120b, 36, 128, 4, 36),
    (NamedShape::Qwen3_30bA3b, 48, 128, 8, 48),
    (NamedShape::Qwen3_235bA22b, 94, 128, 8, 94),
    (NamedShape::Phi35Moe, 32, 16, 2, 32),
    (NamedShape::DeepSeekV2Lite, 27, 64, 6, 26),
    (NamedShape::DeepSeekV3, 61, 256, 8, 58),
    (NamedShape::Glm45Air, 46, 128, 8, 45),
    (NamedShape::Mixtral8x7b, 32, 8, 2, 32),
];

#[test]
fn a_sparse_file_is_the_model_for_llama_cpp() {
    assert_eq!(COUNTS.map(|(name, ..)| name), NamedShape::ALL);
    for (name, layers, experts, used, moe_layers) in COUNTS {
        let (_dir, path) = path();
        let shape = Shape::from(name);
        Synth::new(name).sparse().write(&path).unwrap();
        let model = load(&path, on_cpu().with_no_alloc(true));
        assert_eq!(model.n_params(), shape.n_params(), "{name}");
        assert_eq!(model.size(), shape.bytes(), "{name}");
        assert_eq!(model.architecture().as_deref(), Some(shape.architecture()));
        assert_eq!(model.n_layer(), layers, "{name}");
        assert_eq!(model.n_expert().unwrap(), experts, "{name}");
        assert_eq!(model.n_expert_used(), used, "{name}");

        let header = Header::read(&path).unwrap();
        assert_eq!(header.bytes(), shape.bytes(), "{name}");
        assert_eq!(header.moe().unwrap().moe_layers.len(), moe_layers, "{name}");
        assert!(header.name().ends_with(" (synthetic)"), "{name}");

        let length = fs::metadata(&path).unwrap().len();
        assert!(length >= shape.bytes(), "{name}: {length}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let on_disk = fs::metadata(&path).unwrap().blocks() * 512;
            assert!(on_disk < 16 << 20, "{name}: {on_disk} bytes on the disk");
        }
    }
}

#[test]
fn types_are_those_that_llama_quantize_chooses() {
    for (name, tensor, kind) in [
        (NamedShape::GptOss20b, "blk.3.ffn_down_exps.weight", "mxfp4"),
        (NamedShape::GptOss20b, "blk.3.ffn_down_exps.bias", "f32"),
        (NamedShape::GptOss20b, "blk.3.attn_v.weight", "q8_0"),
        (NamedShape::GptOss20b, "token_embd.weight", "q8_0"),
        (NamedShape::Qwen3_30bA3b, "output.weight", "q6_K"),
        (NamedShape::Qwen3_30bA3b, "token_embd.weight", "q4_K"),
        (
            NamedShape::Qwen3_30bA3b,
            "blk.0.ffn_down_exps.weight",
            "q6_K",
        ),
        (
            NamedShape::Qwen3_30bA3b,
            "blk.6.ffn_down_exps.weight",
            "q4_K",
        ),
        (NamedShape::Qwen3_30bA3b, "blk.8.attn_v.weight", "q6_K"),
        (NamedShape::Qwen3_30bA3b, "blk.8.ffn_gate_inp.weight", "f32"),
        (NamedShape::Mixtral8x7b, "blk.9.attn_k.weight", "q8_0"),
        (NamedShape::Mixtral8x7b, "blk.9.attn_output.weight", "q5_K"),
        // Rows of 1408 and 128.
        (
            NamedShape::DeepSeekV2Lite,
            "blk.4.ffn_down_exps.weight",
            "q5_0",
        ),
        (
            NamedShape::DeepSeekV2Lite,
            "blk.1.ffn_down_exps.weight",
            "q8_0",
        ),
        (NamedShape::DeepSeekV3, "blk.9.attn_k_b.weight", "q5_0"),
        (NamedShape::DeepSeekV3, "blk.9.attn_v_b.weight", "q4_K"),
    ] {
        let (_dir, path) = path();
        Synth::new(name).sparse().write(&path).unwrap();
        let header = Header::read(&path).unwrap();
        let found = header.tensor(tensor).expect(tensor);
        assert_eq!(found.kind, kind, "{name}: {tensor}");
    }
}

#[test]
fn all_matrices_can_have_one_type() {
    for kind in WeightType::ALL {
        let (_dir, path) = path();
        let shape = scaled(NamedShape::GptOss20b)
            .with_weight_type(kind)
            .unwrap();
        Synth::new(shape).write(&path).unwrap();
        let header = Header::read(&path).unwrap();
        for tensor in header.tensors() {
            let is_matrix = tensor.shape.len() >= 2 && tensor.name.ends_with("weight");
            let is_shrunk = is_matrix && !tensor.name.contains("ffn_gate_inp");
            let expected = if is_shrunk { kind.name() } else { "f32" };
            assert_eq!(tensor.kind, expected, "{}", tensor.name);
        }
        let model = load(&path, on_cpu().with_check_tensors(true));
        let description = model.description().to_lowercase();
        assert!(description.contains(kind.name()), "{description}");
        let tokens: Vec<Token> = (40..56).map(Token).collect();
        let logits = decode(&mut context(&model), &tokens, 0, 0);
        assert!(logits.iter().all(|logit| logit.is_finite()), "{kind}");
    }
}

/// Weights that the CPU repacks are in its memory, and counted there: as loaded, and before.
#[test]
fn repacked_weights_are_in_system_memory() {
    let (_dir, path) = path();
    let shape = scaled(NamedShape::Mixtral8x7b).with_weight_type(WeightType::Q4_0);
    Synth::new(shape.unwrap()).write(&path).unwrap();
    let params = || on_cpu().with_load_mode(LoadMode::None);
    let dry_run = DryRun::new(&backend(), &path, &params(), &small()).unwrap();
    let model = load(&path, params());
    let mut context = model.context(small()).unwrap();
    for entries in [dry_run.entries(), &context.memory_breakdown().unwrap()] {
        assert!(entries.iter().all(|entry| entry.is_host), "{entries:?}");
        // Of these types every CPU with AVX2 makes another layout.
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            let mut entries = entries.iter();
            assert!(entries.any(|entry| entry.buffer == "CPU_REPACK" && entry.model > 0));
        }
    }
    let placement = model.placement().unwrap();
    assert!(placement.tensors().iter().all(|tensor| tensor.is_host));
}

#[test]
fn random_weights_are_loaded_and_decoded() {
    for name in NamedShape::ALL {
        let (_dir, path) = path();
        let shape = scaled(name);
        Synth::new(shape.clone()).write(&path).unwrap();
        // llama.cpp looks for infinities and for what is no number in every block.
        let model = load(&path, on_cpu().with_check_tensors(true));
        assert_eq!(model.n_params(), shape.n_params(), "{name}");
        let mut context = context(&model);
        let tokens: Vec<Token> = (40..56).map(Token).collect();
        let logits = decode(&mut context, &tokens, 0, 0);
        assert_eq!(logits.len(), 1024, "{name}");
        assert!(logits.iter().all(|logit| logit.is_finite()), "{name}");
        let spread = distance(&logits, &vec![0.0; logits.len()]);
        assert!((0.5..50.0).contains(&spread), "{name}: {spread}");
        context.memory().clear().unwrap();
        let others: Vec<Token> = (60..76).map(Token).collect();
        let other = decode(&mut context, &others, 0, 0);
        assert!(distance(&logits, &other) > 0.1, "{name}");
    }
}

#[test]
fn the_vocabulary_spells_every_text() {
    let (_dir, path) = path();
    Synth::new(NamedShape::Qwen3_30bA3b)
        .sparse()
        .write(&path)
        .unwrap();
    let model = load(&path, on_cpu().with_no_alloc(true));
    let vocab = model.vocab();
    assert_eq!(vocab.n_tokens(), 151_936);
    for text in ["The router chooses two experts.", "Größe: 12 µm\n\t✓", ""] {
        let tokens = vocab.tokenize(text, false, false).unwrap();
        assert!(tokens.len() <= text.len());
        let bytes = vocab.detokenize(&tokens, false, false).unwrap();
        assert_eq!(bytes, text.as_bytes());
    }
    let english = "the weather in the north is warmer than in the south";
    let tokens = vocab.tokenize(english, false, false).unwrap();
    assert!(tokens.len() * 3 < english.len() * 2, "{}", tokens.len());
    let marks = vocab.tokenize("<|im_start|><|im_end|>", false, true);
    assert_eq!(marks.unwrap().len(), 2);
}

#[test]
fn a_seed_makes_the_same_file_again() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, seed| {
        let path = dir.path().join(name);
        let synth = Synth::new(scaled(NamedShape::Mixtral8x7b)).with_seed(seed);
        synth.write(&path).unwrap();
        fs::read(path).unwrap()
    };
    let first = write("a", 1);
    assert!(first == write("b", 1));
    let other = write("c", 2);
    assert_eq!(first.len(), other.len());
    assert!(first != other);
}

#[test]
fn progress_ends_at_the_file_length() {
    let (_dir, path) = path();
    let mut seen = Vec::new();
    Synth::new(scaled(NamedShape::Phi35Moe))
        .write_with_progress(&path, |written, total| seen.push((written, total)))
        .unwrap();
    let length = fs::metadata(&path).unwrap().len();
    assert!(seen.len() > 10);
    assert!(seen.is_sorted());
    assert!(seen.iter().all(|(_, total)| *total == length));
    let (written, total) = seen[seen.len() - 1];
    // What may follow is padding.
    assert!(total - written < 32, "{written} of {total}");
}

/// Counts which experts the routers choose.
#[derive(Clone, Default)]
struct Chosen(Arc<Mutex<HashMap<(String, i32), usize>>>);

impl EvalCallback for Chosen {
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
        tensor.name.starts_with("ffn_moe_topk")
    }

    fn data(&mut self, tensor: &EvalTensor<'_>, bytes: &[u8]) {
        let [used, tokens, ..] = tensor.shape.map(|n| n as usize);
        let mut counts = self.0.lock().unwrap();
        for token in 0..tokens {
            let row = &bytes[token * tensor.strides[1] as usize..];
            for expert in row[..used * 4].chunks_exact(4) {
                let expert = i32::from_le_bytes(expert.try_into().unwrap());
                *counts.entry((tensor.name.to_string(), expert)).or_default() += 1;
            }
        }
    }
}

/// The share of all choices that fall on the most chosen quarter of a layer's experts.
fn favourites(name: NamedShape, skew: f32) -> f64 {
    let (_dir, path) = path();
    // All experts: where half of them are used there is little to choose.
    let width = if name == NamedShape::GptOss20b {
        288
    } else {
        256
    };
    let shape = Shape::from(name)
        .with_layers(3)
        .and_then(|shape| shape.with_width(width))
        .and_then(|shape| shape.with_vocab(1024));
    let synth = Synth::new(shape.unwrap()).with_router_skew(skew);
    synth.write(&path).unwrap();
    let chosen = Chosen::default();
    let model = load(&path, on_cpu());
    let params = small().with_eval_callback(chosen.clone());
    let mut context = model.context(params).unwrap();
    let tokens: Vec<Token> = (0..200).map(|i| Token(i * 37 % 1000)).collect();
    context.decode(&batch(&tokens, 0, 0)).unwrap();

    let mut layers: HashMap<String, Vec<usize>> = HashMap::new();
    for ((layer, _), count) in chosen.0.lock().unwrap().iter() {
        layers.entry(layer.clone()).or_default().push(*count);
    }
    let n_expert = model.n_expert().unwrap() as usize;
    assert!(!layers.is_empty());
    let mut most = 0;
    let mut all = 0;
    for counts in layers.values_mut() {
        counts.sort_unstable_by(|a, b| b.cmp(a));
        most += counts.iter().take(n_expert / 4).sum::<usize>();
        all += counts.iter().sum::<usize>();
    }
    most as f64 / all as f64
}

#[test]
fn a_skewed_router_has_favourites() {
    for name in [
        NamedShape::Mixtral8x7b,
        NamedShape::GptOss20b,
        NamedShape::Qwen3_30bA3b,
    ] {
        let [none, some, strong] = [0.0, 1.0, 3.0].map(|skew| favourites(name, skew));
        assert!(none + 0.05 < some, "{name}: {none} {some}");
        assert!(some + 0.03 < strong, "{name}: {some} {strong}");
    }
}

#[test]
fn a_header_is_a_shape() {
    for layout in Layout::ALL {
        let (_of, original) = file(layout);
        let header = Header::read(&original).unwrap();
        let shape = Shape::of_header(&header);
        assert_eq!(shape.architecture(), layout.arch());
        assert_eq!(shape.bytes(), header.bytes());

        let (_dir, path) = path();
        Synth::new(shape.clone()).write(&path).unwrap();
        let copy = Header::read(&path).unwrap();
        let tensors = |header: &Header| {
            let tensors = header.tensors().iter();
            tensors
                .map(|tensor| {
                    (
                        tensor.name.clone(),
                        tensor.kind.clone(),
                        tensor.shape.clone(),
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(tensors(&copy), tensors(&header), "{layout:?}");
        let metadata = |header: &Header| {
            let keys = header.metadata().filter(|(key, _)| key != "general.name");
            keys.collect::<HashMap<_, _>>()
        };
        assert_eq!(metadata(&copy), metadata(&header), "{layout:?}");

        let model = load(&path, on_cpu().with_check_tensors(true));
        let logits = decode(&mut context(&model), &[Token(1), Token(300)], 0, 0);
        assert!(logits.iter().all(|logit| logit.is_finite()), "{layout:?}");
    }
}

#[test]
fn a_split_model_becomes_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let parts = Layout::DeepSeek2
        .writer()
        .write_split(dir.path(), "part", 3);
    let header = Header::read(&parts[0]).unwrap();
    let path = dir.path().join("whole.gguf");
    Synth::new(&header).sparse().write(&path).unwrap();
    let model = load(&path, on_cpu().with_no_alloc(true));
    assert_eq!(model.size(), header.bytes());
    assert!(model.meta("split.count").is_none());

    // A copy of a copy says no more than the copy.
    let header = Header::read(&path).unwrap();
    let again = dir.path().join("again.gguf");
    Synth::new(&header).sparse().write(&again).unwrap();
    assert_eq!(Header::read(&again).unwrap().name(), header.name());
}

#[test]
fn nothing_is_overwritten_or_left_behind() {
    let (dir, path) = path();
    fs::write(&path, "a real model").unwrap();
    let synth = Synth::new(scaled(NamedShape::Mixtral8x7b));
    for synth in [synth.clone(), synth.clone().sparse()] {
        let error = synth.write(&path).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
        assert!(error.to_string().contains("synth.gguf"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"a real model");
    }
    let nowhere = dir.path().join("no/such/folder.gguf");
    for path in [&nowhere, dir.path(), Path::new("")] {
        let error = synth.write(path).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
    }
}

#[test]
fn what_is_no_shape_is_refused() {
    let unknown = "gpt-5".parse::<NamedShape>().unwrap_err().to_string();
    for name in NamedShape::ALL {
        assert!(unknown.contains(name.name()), "{unknown}");
        assert_eq!(name.name().parse::<NamedShape>().unwrap(), name);
    }
    assert!(unknown.contains("gpt-5"), "{unknown}");

    let shape = || Shape::from(NamedShape::DeepSeekV3);
    for (result, expected) in [
        (shape().with_layers(0), "1 to 61"),
        (shape().with_layers(62), "1 to 61"),
        (shape().with_layers(27), "lite"),
        (shape().with_experts(0), "16 to 256"),
        (shape().with_experts(8), "16 to 256"),
        (shape().with_experts(257), "16 to 256"),
        (shape().with_experts(33), "multiple of 8"),
        (shape().with_vocab(0), "to 129280"),
        (shape().with_vocab(290), "291 to"),
        (shape().with_vocab(u32::MAX), "to 129280"),
        (shape().with_width(0), "32 to 7168"),
        (shape().with_width(100), "multiple of 32"),
        (shape().with_width(8192), "32 to 7168"),
        (
            Shape::from(NamedShape::Phi35Moe).with_width(544),
            "multiple of 512",
        ),
    ] {
        let error = result.expect_err("a shape that is refused");
        assert!(matches!(error, Error::Parameter { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }

    let (_of, original) = file(Layout::Qwen3Moe);
    let header = Header::read(&original).unwrap();
    let of_header = Shape::of_header(&header);
    for error in [
        of_header.clone().with_layers(1).unwrap_err(),
        of_header.with_weight_type(WeightType::F16).unwrap_err(),
    ] {
        assert!(error.to_string().contains("named"), "{error}");
    }
    let unknown = "q9".parse::<WeightType>().unwrap_err().to_string();
    assert!(
        unknown.contains("q9") && unknown.contains("q5_0"),
        "{unknown}"
    );
}

#[test]
fn weights_of_an_unknown_kind_are_left_out_or_refused() {
    let (dir, original) = file(Layout::Qwen3Moe);
    // The output's norm in whole numbers: as many bytes, and nothing that could be drawn.
    let name = b"output_norm.weight";
    let bytes = fs::read(&original).unwrap();
    let at = bytes.windows(name.len()).position(|window| window == name);
    let type_at = at.unwrap() + name.len() + 4 + 8;
    const I32: u32 = 26;
    gguf::overwrite(&original, type_at as u64, &I32.to_le_bytes());

    let header = Header::read(&original).unwrap();
    let path = dir.path().join("synth.gguf");
    let synth = Synth::new(&header);
    let error = synth.write(&path).unwrap_err();
    assert!(error.to_string().contains("output_norm.weight"), "{error}");
    assert!(!path.exists());
    synth.sparse().write(&path).unwrap();
    assert_eq!(Header::read(&path).unwrap().bytes(), header.bytes());
}

#[test]
fn a_skew_that_cannot_be_is_refused() {
    let (_of, dense) = file(Layout::Dense);
    let dense = Header::read(&dense).unwrap();
    let (_dir, path) = path();
    let moe = Synth::new(scaled(NamedShape::Mixtral8x7b));
    for (synth, expected) in [
        (moe.clone().with_router_skew(-1.0), "from 0 on"),
        (moe.clone().with_router_skew(f32::NAN), "from 0 on"),
        (moe.clone().with_router_skew(f32::INFINITY), "from 0 on"),
        (moe.sparse().with_router_skew(1.0), "no weights"),
        (Synth::new(&dense).with_router_skew(1.0), "no routers"),
    ] {
        let error = synth.write(&path).unwrap_err();
        assert!(matches!(error, Error::Parameter { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!path.exists());
    }
}
