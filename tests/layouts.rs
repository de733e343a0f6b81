//! The test models themselves: what is in the files is what `Layout` says of them,
//! read back by a reader that shares nothing with the writer, and the roles stated
//! there are what llama.cpp's own expert pattern would find.

mod support;
use support::gguf::{self, GgufWriter, TensorType, Value};
use support::layouts::{self, Layout, Role, Tensor};

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// A GGUF file read back: keys with the number of their type, tensors with what
/// the file says of them.
struct Gguf {
    keys: BTreeMap<String, u32>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, bytes: usize) -> &[u8] {
        let (head, tail) = self.0.split_at(bytes);
        self.0 = tail;
        head
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        String::from_utf8(self.take(length).to_vec()).expect("UTF-8")
    }

    fn skip_value(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => drop(self.take(1)),
            2 | 3 => drop(self.take(2)),
            4..=6 => drop(self.take(4)),
            8 => drop(self.text()),
            9 => {
                let (kind, length) = (self.u32(), self.u64());
                (0..length).for_each(|_| self.skip_value(kind));
            }
            10..=12 => drop(self.take(8)),
            _ => panic!("no such type: {kind}"),
        }
    }
}

fn read(bytes: &[u8]) -> Gguf {
    let mut reader = Reader(bytes);
    assert_eq!(reader.take(4), b"GGUF");
    assert_eq!(reader.u32(), 3);
    let (n_tensors, n_keys) = (reader.u64(), reader.u64());
    let mut keys = BTreeMap::new();
    for _ in 0..n_keys {
        let key = reader.text();
        let kind = reader.u32();
        reader.skip_value(kind);
        assert_eq!(keys.insert(key, kind), None, "a key twice");
    }
    let tensors = (0..n_tensors).map(|_| {
        let name = reader.text();
        let shape = (0..reader.u32()).map(|_| reader.u64()).collect();
        (name, shape, reader.u32(), reader.u64())
    });
    let tensors = tensors.collect();
    let start = bytes.len() - reader.0.len();
    Gguf {
        keys,
        tensors,
        data: bytes[start.next_multiple_of(32)..].to_vec(),
    }
}

/// What `\.ffn_(up|down|gate|gate_up)_(ch|)exps` finds, without a regex.
fn is_expert(name: &str) -> bool {
    ["up", "down", "gate", "gate_up"].iter().any(|part| {
        ["ch", ""]
            .iter()
            .any(|chunk| name.contains(&format!(".ffn_{part}_{chunk}exps")))
    })
}

#[test]
fn a_file_has_the_tensors_that_the_layout_lists() {
    for layout in Layout::ALL {
        let file = read(&layout.writer().to_bytes());
        let expected = layout.tensors();
        assert_eq!(file.tensors.len(), expected.len(), "{layout:?}");
        let mut end = 0;
        for ((name, shape, _, offset), tensor) in file.tensors.iter().zip(&expected) {
            assert_eq!((name, shape), (&tensor.name, &tensor.shape), "{layout:?}");
            assert_eq!(*offset, end, "{layout:?} {name}");
            assert!(name.len() < 64, "{name} is too long for ggml");
            end = (offset + tensor.bytes()).next_multiple_of(32);
        }
        assert_eq!(file.data.len() as u64, end, "{layout:?}");
    }
}

#[test]
fn roles_agree_with_the_expert_pattern() {
    for layout in Layout::ALL {
        for Tensor { name, role, .. } in layout.tensors() {
            assert_eq!(is_expert(&name), role == Role::Expert, "{layout:?} {name}");
        }
        let experts: BTreeSet<String> = layout
            .expert_tensors()
            .into_iter()
            .unzip::<_, _, _, Vec<_>>()
            .0;
        let stay = layout.stay();
        assert!(
            stay.iter().all(|name| !experts.contains(name)),
            "{layout:?}"
        );
        let routers = stay
            .iter()
            .filter(|name| name.ends_with("ffn_gate_inp.weight"));
        assert_eq!(routers.count(), layout.moe_layers().len(), "{layout:?}");
        assert_eq!(experts.is_empty(), !layout.is_moe(), "{layout:?}");
        for layer in 0..layout.n_layer() {
            let prefix = format!("blk.{layer}.");
            assert_eq!(
                experts.iter().any(|name| name.starts_with(&prefix)),
                layout.moe_layers().contains(&layer),
                "{layout:?} {layer}"
            );
        }
    }
}

#[test]
fn each_layout_has_what_it_stands_for() {
    let has = |layout: Layout, name: &str| {
        let tensors = layout.expert_tensors().into_iter();
        tensors.filter(|(tensor, _)| tensor.ends_with(name)).count()
    };
    assert_eq!(has(Layout::Qwen3Moe, ".ffn_up_exps.weight"), 4);
    assert_eq!(has(Layout::GptOss, "_exps.bias"), 12);
    assert_eq!(has(Layout::DeepSeek2, ".ffn_down_exps.weight"), 4);
    assert_eq!(has(Layout::FusedGateUp, ".ffn_gate_up_exps.weight"), 3);
    assert_eq!(has(Layout::FusedGateUp, ".ffn_up_exps.weight"), 0);
    assert_eq!(has(Layout::FusedGateUp, ".ffn_down_exps.scale"), 3);
    assert_eq!(has(Layout::GroveMoe, "_chexps.weight"), 12);
    assert_eq!(Layout::DeepSeek2.moe_layers(), [2, 3, 4, 5]);
    assert_eq!(Layout::Glm4Moe.moe_layers(), [1, 2, 3]);
    let mtp = Layout::Glm4Moe.mtp_expert_tensors();
    assert_eq!(mtp.len(), 3);
    assert!(mtp.iter().all(|(name, _)| name.starts_with("blk.4.ffn_")));
    assert_eq!(Layout::Dense.dense_ffn_tensors().len(), 12);
    assert_eq!(Layout::DeepSeek2.dense_ffn_tensors().len(), 6);
}

#[test]
fn sizes_are_those_of_the_types() {
    // One expert matrix: 64 x 96 x 8 elements.
    let first = |layout: Layout| layout.expert_tensors()[0].1;
    assert_eq!(first(Layout::Qwen3Moe), 49_152 * 2);
    assert_eq!(first(Layout::Mixtral), 49_152 / 32 * 18);
    assert_eq!(first(Layout::GptOss), 49_152 / 32 * 17);
    assert_eq!(first(Layout::DeepSeek2), 49_152 / 32 * 34);
    assert_eq!(first(Layout::GraniteMoe), 49_152 * 4);
}

#[test]
fn a_file_is_the_same_every_time_and_unlike_the_others() {
    let files: BTreeSet<Vec<u8>> = Layout::ALL
        .iter()
        .map(|layout| layout.writer().to_bytes())
        .collect();
    assert_eq!(files.len(), Layout::ALL.len());
    for layout in Layout::ALL {
        assert!(files.contains(&layout.writer().to_bytes()), "{layout:?}");
    }
}

#[test]
fn splits_hold_the_same_tensors() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let whole = read(&Layout::Qwen3Moe.writer().to_bytes());
    let paths = Layout::Qwen3Moe
        .writer()
        .write_split(dir.path(), "model", 3);
    let names: Vec<_> = paths
        .iter()
        .map(|path| path.file_name().expect("a name"))
        .collect();
    assert_eq!(
        names,
        [
            "model-00001-of-00003.gguf",
            "model-00002-of-00003.gguf",
            "model-00003-of-00003.gguf"
        ]
    );
    let parts: Vec<Gguf> = paths
        .iter()
        .map(|path| read(&fs::read(path).expect("a split")))
        .collect();
    for part in &parts {
        // 16 bits unsigned and 32 signed, as the loader reads them.
        assert_eq!(part.keys["split.no"], 2);
        assert_eq!(part.keys["split.count"], 2);
        assert_eq!(part.keys["split.tensors.count"], 5);
        assert!(!part.tensors.is_empty());
    }
    assert!(parts[0].keys.contains_key("qwen3moe.block_count"));
    let together: Vec<&String> = parts
        .iter()
        .flat_map(|part| &part.tensors)
        .map(|t| &t.0)
        .collect();
    let alone: Vec<&String> = whole.tensors.iter().map(|t| &t.0).collect();
    assert_eq!(together, alone);
    let data: Vec<u8> = parts.into_iter().flat_map(|part| part.data).collect();
    assert_eq!(data, whole.data);
}

#[test]
fn halves_are_the_nearest() {
    let values = [
        0.0,
        1.0,
        -2.0,
        65_504.0,
        6.103_515_6e-5,
        5.960_464_5e-8,
        0.1,
        1.000_488_3,
        1.001_464_8,
    ];
    // The last two lie half way between two halves: to the even one, down and up.
    let bits = [
        0, 0x3c00, 0xc000, 0x7bff, 0x0400, 0x0001, 0x2e66, 0x3c00, 0x3c02,
    ];
    let mut file = GgufWriter::new("llama");
    file.values("values", &[9], TensorType::F16, &values);
    let data = read(&file.to_bytes()).data;
    let halves: Vec<u16> = data
        .chunks(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    assert_eq!(halves[..9], bits);
}

#[test]
fn every_block_type_has_the_deviation_asked_for() {
    const ELEMENTS: u64 = 1 << 16;
    for kind in [
        TensorType::F32,
        TensorType::F16,
        TensorType::Q4_0,
        TensorType::Q8_0,
        TensorType::Mxfp4,
    ] {
        let mut file = GgufWriter::new("llama");
        // A power of two times MXFP4's own deviation, which it can only approach.
        file.random("values", &[ELEMENTS], kind, 2.93 / 16.0);
        let values = dequantise(kind, &read(&file.to_bytes()).data);
        assert_eq!(values.len() as u64, ELEMENTS);
        let mean = values.iter().sum::<f64>() / ELEMENTS as f64;
        let variance = values.iter().map(|value| value * value).sum::<f64>() / ELEMENTS as f64;
        assert!(mean.abs() < 0.005, "{kind:?}: mean {mean}");
        assert!(
            (variance.sqrt() - 0.183).abs() < 0.003,
            "{kind:?}: {}",
            variance.sqrt()
        );
    }
}

fn dequantise(kind: TensorType, data: &[u8]) -> Vec<f64> {
    // Normal numbers and zero are enough here.
    let half = |bytes: &[u8]| {
        let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
        let magnitude = match bits & 0x7fff {
            0 => 0.0,
            bits => f64::from(f32::from_bits((u32::from(bits) << 13) + (112 << 23))),
        };
        if bits >> 15 == 0 {
            magnitude
        } else {
            -magnitude
        }
    };
    let nibbles = |bytes: &[u8]| -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|byte| [byte & 15, byte >> 4])
            .collect()
    };
    match kind {
        TensorType::F32 => data
            .chunks(4)
            .map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().expect("four bytes"))))
            .collect(),
        TensorType::F16 => data.chunks(2).map(half).collect(),
        TensorType::Q4_0 => data
            .chunks(18)
            .flat_map(|block| {
                let quants = nibbles(&block[2..]).into_iter();
                quants
                    .map(move |quant| half(block) * (f64::from(quant) - 8.0))
                    .collect::<Vec<_>>()
            })
            .collect(),
        TensorType::Q8_0 => data
            .chunks(34)
            .flat_map(|block| {
                let quants = block[2..].iter();
                quants
                    .map(move |quant| half(block) * f64::from(*quant as i8))
                    .collect::<Vec<_>>()
            })
            .collect(),
        TensorType::I64 => panic!("no weights"),
        TensorType::Mxfp4 => data
            .chunks(17)
            .flat_map(|block| {
                let scale = f64::from(i32::from(block[0]) - 127).exp2();
                let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
                let value = move |quant: u8| {
                    let magnitude = magnitudes[usize::from(quant & 7)];
                    scale
                        * if quant & 8 == 0 {
                            magnitude
                        } else {
                            -magnitude
                        }
                };
                nibbles(&block[1..])
                    .into_iter()
                    .map(value)
                    .collect::<Vec<_>>()
            })
            .collect(),
    }
}

#[test]
fn a_file_can_be_spoilt() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("model.gguf");
    let mut writer = Layout::Dense.writer();
    writer
        .set("llama.block_count", Value::String("four".to_owned()))
        .remove("llama.context_length")
        .remove_tensor("output_norm.weight");
    writer.write(&path);
    let file = read(&fs::read(&path).expect("a file"));
    assert_eq!(file.keys["llama.block_count"], 8);
    assert!(!file.keys.contains_key("llama.context_length"));
    assert!(
        file.tensors
            .iter()
            .all(|tensor| tensor.0 != "output_norm.weight")
    );
    gguf::bad_magic(&path);
    gguf::truncate(&path, 100);
    let bytes = fs::read(&path).expect("a file");
    assert_eq!(bytes.len(), 100);
    assert_ne!(&bytes[..4], b"GGUF");
}

#[test]
fn the_vocabulary_has_its_specials_in_place() {
    let tokens = layouts::vocabulary();
    for (id, text) in [
        (layouts::TOKEN_UNKNOWN, "<unk>"),
        (layouts::TOKEN_BOS, "<s>"),
        (layouts::TOKEN_EOS, "</s>"),
        (layouts::TOKEN_IM_START, "<|im_start|>"),
        (layouts::TOKEN_IM_END, "<|im_end|>"),
        (layouts::TOKEN_BYTE, "<0x00>"),
        (layouts::TOKEN_BYTE + 255, "<0xFF>"),
    ] {
        assert_eq!(tokens[id as usize].text, text);
    }
    let texts: BTreeSet<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    assert_eq!(
        texts.len(),
        tokens.len(),
        "llama.cpp aborts on a text twice"
    );
    let file = read(&layouts::vocabulary_only().to_bytes());
    assert!(file.tensors.is_empty() && file.data.is_empty());
    assert!(file.keys.contains_key("tokenizer.ggml.tokens"));
}
