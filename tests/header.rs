//! Headers: what a file says of itself, and files that say what cannot be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use llama_moe::gguf::{Header, Role, TensorInfo, Value};
use llama_moe::{Error, KvOverride, Model, Preview};

mod support;
use support::gguf::{self, GgufWriter, TensorType};
use support::layouts::{self, Layout, N_EMBD, N_EXPERT, N_EXPERT_USED};
use support::raw::{self, Raw};
use support::{backend, on_cpu, peculiar, sparse};

fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn read(bytes: &[u8]) -> llama_moe::Result<Header> {
    let (_dir, path) = written(bytes);
    Header::read(&path)
}

fn header(layout: Layout) -> Header {
    read(&layout.writer().to_bytes()).unwrap()
}

/// The reason for which a file is refused, by the header's reader and by a load.
#[track_caller]
fn refused(bytes: &[u8]) -> String {
    let (_dir, path) = written(bytes);
    let reason = |error| match error {
        Error::Load { path: at, reason } if at == path => reason,
        error => panic!("{error:?}"),
    };
    let read = reason(Header::read(&path).expect_err("a header that is refused"));
    let loaded = Model::load(&backend(), &path, on_cpu().with_vocab_only(true));
    assert_eq!(reason(loaded.expect_err("a model that is refused")), read);
    read
}

// ---- what a file says ------------------------------------------------------------------

/// The part that a layout gives a tensor, in the words of the header.
fn expected_role(layout: Layout, tensor: &layouts::Tensor) -> Role {
    let name = tensor.name.as_str();
    if tensor.layer >= Some(layout.n_layer()) {
        return Role::Mtp;
    }
    match tensor.role {
        layouts::Role::Expert => Role::RoutedExpert,
        layouts::Role::Router => Role::Router,
        layouts::Role::SharedExpert => Role::SharedExpert,
        layouts::Role::DenseFfn => Role::DenseFfn,
        layouts::Role::Other => match name {
            "token_embd.weight" => Role::Embedding,
            "output.weight" => Role::Output,
            "output_norm.weight" => Role::Norm,
            _ => match name.split('.').nth(2).unwrap() {
                "attn_norm" | "ffn_norm" | "post_attention_norm" => Role::Norm,
                _ => Role::Attention,
            },
        },
    }
}

#[test]
fn tensors_are_those_of_the_layout() {
    for layout in Layout::ALL {
        let header = header(layout);
        let expected = layout.tensors();
        assert_eq!(header.tensors().len(), expected.len(), "{layout:?}");
        let mut end = None;
        for (tensor, expected) in header.tensors().iter().zip(&expected) {
            let TensorInfo {
                name, shape, bytes, ..
            } = tensor;
            assert_eq!(*name, expected.name, "{layout:?}");
            assert_eq!(*shape, expected.shape, "{layout:?} {name}");
            assert_eq!(*bytes, expected.bytes(), "{layout:?} {name}");
            assert_eq!(tensor.n_elements(), shape.iter().product::<u64>());
            assert_eq!(tensor.block, expected.layer, "{layout:?} {name}");
            assert_eq!(tensor.role, expected_role(layout, expected), "{name}");
            let kind = match expected.kind {
                TensorType::F32 => "f32",
                TensorType::F16 => "f16",
                TensorType::Q4_0 => "q4_0",
                TensorType::Q8_0 => "q8_0",
                TensorType::Mxfp4 => "mxfp4",
                TensorType::I64 => "i64",
            };
            assert_eq!(tensor.kind, kind, "{layout:?} {name}");
            assert_eq!(tensor.file, 0);
            assert_eq!(end.unwrap_or(tensor.offset), tensor.offset, "{name}");
            end = Some((tensor.offset + bytes).next_multiple_of(32));
            assert_eq!(header.tensor(name), Some(tensor));
        }
        assert_eq!(header.architecture(), layout.arch());
        assert_eq!(header.n_blocks(), layout.n_block());
        assert_eq!(header.n_mtp_blocks(), layout.n_layer_nextn());
        assert_eq!(header.name(), format!("{layout:?}"));
        let bytes: u64 = expected.iter().map(|tensor| tensor.bytes()).sum();
        assert_eq!(header.bytes(), bytes);
        assert_eq!(header.tensor("no.such.tensor"), None);
    }
}

#[test]
fn experts_are_counted_by_hand() {
    // Gate, up and down of 64 x 96 for each of eight experts, in the layout's type.
    const MATRICES: u64 = 3 * 64 * 96 * 8;
    let f16 = |elements: u64| elements * 2;
    for (layout, layers, per_layer, shared) in [
        (Layout::Qwen3Moe, vec![0, 1, 2, 3], f16(MATRICES), 0),
        (Layout::Mixtral, vec![0, 1, 2, 3], MATRICES / 32 * 18, 0),
        (
            Layout::GptOss,
            vec![0, 1, 2, 3],
            MATRICES / 32 * 17 + (96 + 96 + 64) * 8 * 4,
            0,
        ),
        (Layout::DeepSeek2, vec![2, 3, 4, 5], MATRICES / 32 * 34, 1),
        (Layout::Glm4Moe, vec![1, 2, 3], f16(MATRICES), 1),
        (Layout::FusedGateUp, vec![1, 2, 3], f16(MATRICES) + 8 * 4, 0),
        (
            Layout::GroveMoe,
            vec![0, 1, 2, 3],
            f16(MATRICES) + f16(3 * 64 * 32 * 4),
            0,
        ),
        (Layout::GraniteMoe, vec![0, 1, 2, 3], MATRICES * 4, 0),
    ] {
        let header = header(layout);
        let moe = header.moe().expect("experts");
        assert_eq!(moe.moe_layers, layers, "{layout:?}");
        assert_eq!(
            moe.expert_bytes,
            vec![per_layer; layers.len()],
            "{layout:?}"
        );
        assert_eq!(u64::from(moe.n_expert), N_EXPERT);
        assert_eq!(u64::from(moe.n_expert_used), N_EXPERT_USED);
        // The key, where the architecture has one.
        assert_eq!(moe.n_expert_shared, shared, "{layout:?}");
        assert_eq!(moe.expert_bytes_total(), per_layer * layers.len() as u64);
        assert_eq!(moe.used_of(per_layer), per_layer / 4);
        let used = per_layer / 4 * layers.len() as u64;
        assert_eq!(moe.expert_bytes_per_token, used, "{layout:?}");

        let row = f16(N_EMBD);
        let rest: u64 = layout
            .loaded_tensors()
            .iter()
            .filter(|tensor| tensor.role != layouts::Role::Expert)
            .map(|tensor| match tensor.name.as_str() {
                "token_embd.weight" => row,
                _ => tensor.bytes(),
            })
            .sum();
        assert_eq!(moe.bytes_per_token, rest + used, "{layout:?}");
    }
    assert_eq!(header(Layout::Dense).moe(), None);
}

#[test]
fn tied_embeddings_are_read_whole() {
    let separate = header(Layout::Qwen3Moe).moe().unwrap().bytes_per_token;
    let mut writer = Layout::Qwen3Moe.writer();
    writer.remove_tensor("output.weight");
    let tied = read(&writer.to_bytes()).unwrap().moe().unwrap();
    // Output and embeddings are of the same size here.
    assert_eq!(tied.bytes_per_token, separate);
}

#[test]
fn value_experts_are_read_as_they_are_used() {
    let header = read(&peculiar::value_experts().to_bytes()).unwrap();
    let moe = header.moe().expect("experts");
    assert_eq!(moe.moe_layers, [1]);
    // Gate, up and down of 64 x 32 for each of four experts, of which two are used.
    assert_eq!(moe.expert_bytes, [3 * 64 * 32 * 4 * 4]);
    assert_eq!(moe.expert_bytes_per_token, moe.expert_bytes[0] / 2);
    let bytes = |name: &str| header.tensor(name).expect("a tensor").bytes;
    // Tied embeddings are read whole, and one row of them again.
    let row = 64 * 4;
    let unused = (moe.expert_bytes[0] + bytes("blk.1.attn_v_exps.weight")) / 2;
    assert_eq!(moe.bytes_per_token, header.bytes() + row - unused);
}

#[test]
fn split_files_are_one_header() {
    let dir = tempfile::tempdir().unwrap();
    let whole = header(Layout::DeepSeek2);
    let paths = Layout::DeepSeek2.writer().write_split(dir.path(), "m", 3);
    for header in [
        Header::read(&paths[0]).unwrap(),
        Header::read(paths.clone()).unwrap(),
    ] {
        assert_eq!(header.paths(), paths);
        assert_eq!(header.architecture(), "deepseek2");
        assert_eq!(header.moe(), whole.moe());
        assert_eq!(header.bytes(), whole.bytes());
        let files: Vec<_> = header.tensors().iter().map(|tensor| tensor.file).collect();
        assert!(files.is_sorted() && files.first() == Some(&0) && files.last() == Some(&2));
        for (split, whole) in header.tensors().iter().zip(whole.tensors()) {
            assert_eq!((&split.name, split.role), (&whole.name, whole.role));
            assert_eq!((split.block, split.bytes), (whole.block, whole.bytes));
        }
    }
}

#[test]
fn values_have_the_type_of_the_file() {
    let single: [(u32, &[u8], Value); 12] = [
        (raw::U8, &[200], Value::U8(200)),
        (raw::I8, &[0xfe], Value::I8(-2)),
        (raw::U16, &[0x34, 0x12], Value::U16(0x1234)),
        (raw::I16, &[0xff, 0xff], Value::I16(-1)),
        (raw::U32, &u32::MAX.to_le_bytes(), Value::U32(u32::MAX)),
        (raw::I32, &i32::MIN.to_le_bytes(), Value::I32(i32::MIN)),
        (raw::F32, &1.5f32.to_le_bytes(), Value::F32(1.5)),
        (raw::BOOL, &[1], Value::Bool(true)),
        (
            raw::STRING,
            &raw::string("naïve".as_bytes()),
            Value::Text("naïve".to_owned()),
        ),
        (raw::U64, &u64::MAX.to_le_bytes(), Value::U64(u64::MAX)),
        (raw::I64, &i64::MIN.to_le_bytes(), Value::I64(i64::MIN)),
        (raw::F64, &(-0.25f64).to_le_bytes(), Value::F64(-0.25)),
    ];
    let mut file = Raw::new("llama");
    for (kind, bytes, value) in &single {
        let key = |what: &str| format!("{what}.{}", value.type_name());
        file.pair(key("single").as_bytes(), *kind, bytes);
        let twice = raw::array(*kind, 2, &bytes.repeat(2));
        file.pair(key("array").as_bytes(), raw::ARRAY, &twice);
        let none = raw::array(*kind, 0, &[]);
        file.pair(key("empty").as_bytes(), raw::ARRAY, &none);
    }
    let header = read(&file.to_bytes()).unwrap();
    for (_, _, value) in &single {
        let key = |what: &str| format!("{what}.{}", value.type_name());
        assert_eq!(header.value(&key("single")).as_ref(), Some(value));
        assert_eq!(header.n_values(&key("single")), Some(1));
        let twice = Value::Array(vec![value.clone(), value.clone()]);
        assert_eq!(header.value(&key("array")), Some(twice));
        assert_eq!(header.n_values(&key("array")), Some(2));
        assert_eq!(header.value(&key("empty")), Some(Value::Array(Vec::new())));
        assert_eq!(header.n_values(&key("empty")), Some(0));
    }
    assert_eq!(header.keys().len(), 1 + 3 * single.len());
    let all: Vec<String> = header.metadata().map(|(key, _)| key).collect();
    assert_eq!(all, header.keys());
    assert_eq!(header.value("no.such.key"), None);
    assert_eq!(header.n_values("no.such.key"), None);
}

#[test]
fn a_value_is_read_as_what_it_is() {
    assert_eq!(Value::I8(-1).as_u64(), None);
    assert_eq!(Value::U8(7).as_u64(), Some(7));
    assert_eq!(Value::F32(0.5).as_f64(), Some(0.5));
    assert_eq!(Value::U64(3).as_f64(), Some(3.0));
    assert_eq!(Value::Bool(true).as_bool(), Some(true));
    assert_eq!(Value::Text("a".to_owned()).as_str(), Some("a"));
    assert_eq!(Value::Bool(true).as_u64(), None);
    let array = Value::Array(vec![Value::U32(1), Value::U32(2)]);
    assert_eq!(array.to_string(), "[1, 2]");
    assert_eq!(array.elements().len(), 2);
    assert_eq!(Value::U32(1).elements(), [Value::U32(1)]);
}

#[test]
fn the_bundled_model_is_a_moe() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/model/moe-guide-q8_0.gguf");
    let header = Header::read(&path).unwrap();
    let model = Model::load(&backend(), &path, on_cpu()).unwrap();
    assert_eq!(Some(header.architecture().to_owned()), model.architecture());
    let moe = header.moe().unwrap();
    assert_eq!(moe.n_expert, model.n_expert().unwrap());
    assert_eq!(moe.n_expert_used, model.n_expert_used());
    assert_eq!(moe.moe_layers.len() as u32, model.n_layer());
    assert_eq!(header.bytes(), model.size());
    let by_role = header
        .tensors()
        .iter()
        .fold(BTreeMap::<Role, u64>::new(), |mut sums, tensor| {
            *sums.entry(tensor.role).or_default() += tensor.bytes;
            sums
        });
    assert_eq!(by_role[&Role::RoutedExpert], moe.expert_bytes_total());
    assert!(!by_role.contains_key(&Role::Other), "{by_role:?}");
}

#[test]
fn a_vocabulary_has_a_header_without_tensors() {
    let header = read(&layouts::vocabulary_only().to_bytes()).unwrap();
    assert!(header.tensors().is_empty() && header.moe().is_none());
    assert_eq!((header.bytes(), header.n_blocks()), (0, 4));
    let tokens = header.value("tokenizer.ggml.tokens").unwrap();
    let expected = layouts::vocabulary();
    for (token, expected) in tokens.elements().iter().zip(&expected) {
        assert_eq!(token.as_str(), Some(expected.text.as_str()));
    }
    assert_eq!(tokens.elements().len(), expected.len());
}

#[test]
fn blocks_that_the_file_does_not_count() {
    let mut file = Layout::Glm4Moe.writer();
    file.remove("glm4moe.block_count");
    let header = read(&file.to_bytes()).unwrap();
    assert_eq!(header.n_blocks(), 0);
    assert!(
        header
            .tensors()
            .iter()
            .all(|t| !t.name.starts_with("blk.3") || t.role != Role::Mtp)
    );

    let file = |count| {
        let mut file = Layout::Glm4Moe.writer();
        file.set("glm4moe.block_count", count);
        read(&file.to_bytes()).unwrap()
    };
    let huge = file(gguf::Value::U64(u64::MAX));
    assert_eq!(huge.n_blocks(), u32::MAX);
    assert_eq!(huge.moe().unwrap().moe_layers, [1, 2, 3, 4]);
    // Fewer blocks than there are: the rest is not loaded either.
    let few = file(gguf::Value::U32(2));
    assert_eq!(few.moe(), None);
    let mut none = GgufWriter::new("llama");
    none.random("blk.99999999999.ffn_up.weight", &[32], TensorType::F32, 1.0);
    let header = read(&none.to_bytes()).unwrap();
    assert_eq!(header.tensors()[0].block, None);
}

// ---- what is no file, or no part of a model --------------------------------------------

#[test]
fn what_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    for path in [
        dir.path().join("missing.gguf"),
        dir.path().to_owned(),
        PathBuf::new(),
        PathBuf::from("a\0b"),
    ] {
        let error = Header::read(&path).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
    }
    let error = Header::read(Vec::<PathBuf>::new()).unwrap_err();
    assert!(matches!(error, Error::Parameter { .. }), "{error:?}");
}

/// Opening a pipe waits for somebody who writes; a device has no end.
#[cfg(unix)]
#[test]
fn what_is_no_file_but_can_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for path in [&pipe, Path::new("/dev/null"), Path::new("/dev/zero")] {
        let error = Header::read(path).unwrap_err();
        let Error::File { path: at, source } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(at, path);
        assert!(source.to_string().contains("pipe or a device"), "{source}");
        let error = Model::load(&backend(), path, on_cpu()).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
    }
    // A link to a file is a file.
    let (_dir, file) = written(&Layout::Dense.writer().to_bytes());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(Header::read(&link).is_ok());
}

#[test]
fn parts_that_do_not_belong_together() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Layout::Qwen3Moe.writer().write_split(dir.path(), "m", 3);
    let bytes: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let restore = || {
        for (path, bytes) in paths.iter().zip(&bytes) {
            fs::write(path, bytes).unwrap();
        }
    };
    let both = |source: llama_moe::ModelSource| {
        let error = Header::read(source.clone()).unwrap_err().to_string();
        let loaded = Model::load(&backend(), source, on_cpu()).unwrap_err();
        assert_eq!(loaded.to_string(), error);
        error
    };
    let first = || llama_moe::ModelSource::from(paths[0].clone());

    fs::remove_file(&paths[2]).unwrap();
    assert!(both(first()).contains("m-00003-of-00003"));
    restore();
    for given in [&paths[..2], &paths[..1]] {
        let error = both(given.to_vec().into());
        assert!(
            error.contains("first of 3 files") && error.contains("are given"),
            "{error}"
        );
    }
    // In the wrong order; a part alone.
    let swapped = vec![paths[0].clone(), paths[2].clone(), paths[1].clone()];
    assert!(both(swapped.into()).contains("split.no = 2"));
    assert!(both(paths[1].clone().into()).contains("name the first"));
    let started = vec![paths[1].clone(), paths[0].clone(), paths[2].clone()];
    assert!(both(started.into()).contains("split.no = 1"));
    // A file that is no part, given as one.
    let (_dir, alone) = support::file(Layout::Qwen3Moe);
    assert!(both(vec![alone, paths[1].clone()].into()).contains("first of 1 files"));
    // The same tensors twice.
    let mut again = Layout::Qwen3Moe.writer();
    again.u16("split.no", 1).write(&paths[1]);
    assert!(both(first()).contains("twice"));
    restore();

    for (key, value, expected) in [
        (
            "split.count",
            gguf::Value::U32(3),
            "split.count is no 16-bit number, but u32",
        ),
        (
            "split.count",
            gguf::Value::String("3".to_owned()),
            "but str",
        ),
        (
            "split.no",
            gguf::Value::I32(0),
            "split.no is no 16-bit number, but i32",
        ),
        (
            "split.tensors.count",
            gguf::Value::I32(7),
            "split.tensors.count = 7",
        ),
    ] {
        let whole = Layout::Qwen3Moe.writer();
        let parts = whole.write_split(dir.path(), "n", 2);
        let mut first = GgufWriter::new("qwen3moe");
        first
            .u16("split.no", 0)
            .u16("split.count", 2)
            .i32(
                "split.tensors.count",
                Layout::Qwen3Moe.tensors().len() as i32,
            )
            .set(key, value);
        first.write(&parts[0]);
        let error = both(parts[0].clone().into());
        assert!(error.contains(expected), "{error}");
    }
}

// ---- headers that cannot be ------------------------------------------------------------

fn one_tensor(name: &[u8], shape: &[i64], kind: u32, offset: u64) -> Vec<u8> {
    let mut file = Raw::new("llama");
    file.tensor(name, shape, kind, offset).data(64);
    file.to_bytes()
}

fn with_pair(key: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    Raw::new("llama").pair(key, kind, value).to_bytes()
}

#[test]
fn counts_that_no_model_has() {
    for n in [1_000_000_000, 1 << 40, 1 << 63, u64::MAX] {
        let mut file = Raw::new("llama");
        file.n_tensors = Some(n);
        let reason = refused(&file.to_bytes());
        assert!(reason.contains(&format!("{n} tensors")), "{reason}");
        let mut file = Raw::new("llama");
        file.n_keys = Some(n);
        let reason = refused(&file.to_bytes());
        assert!(reason.contains(&format!("{n} metadata keys")), "{reason}");
    }
    // As many as possible, but not there.
    let mut file = Raw::new("llama");
    file.n_tensors = Some(100_000);
    refused(&file.to_bytes());
    let mut file = Raw::new("llama");
    file.n_keys = Some(60_000);
    refused(&file.to_bytes());
}

#[test]
fn what_is_no_gguf_of_ours() {
    assert!(!refused(b"").is_empty());
    assert!(!refused(b"GGUF").is_empty());
    let mut file = Raw::new("llama");
    file.magic = *b"GGML";
    assert!(refused(&file.to_bytes()).contains("magic"));
    for (version, expected) in [
        (0, "version"),
        (1, "GGUFv1"),
        (4, "version 4"),
        (999, "version 999"),
        (3u32.swap_bytes(), "endian"),
    ] {
        let mut file = Raw::new("llama");
        file.version = version;
        let reason = refused(&file.to_bytes());
        assert!(reason.contains(expected), "{version}: {reason}");
    }
    let mut file = Raw::new("llama");
    file.version = 2;
    assert!(read(&file.to_bytes()).is_ok());
}

#[test]
fn metadata_that_cannot_be() {
    let cut = |n: u64| {
        raw::string(&[])
            .iter()
            .map(|_| 0)
            .chain(n.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    for (key, kind, value) in [
        (&b"a"[..], raw::ARRAY, raw::array(raw::U8, 1 << 60, &[])),
        (b"a", raw::ARRAY, raw::array(raw::STRING, 1 << 60, &[])),
        (b"a", raw::ARRAY, raw::array(raw::U64, u64::MAX, &[])),
        (b"a", raw::ARRAY, raw::array(raw::F64, 1 << 29, &[0; 64])),
        // Nested.
        (
            b"a",
            raw::ARRAY,
            raw::array(raw::ARRAY, 1, &raw::array(raw::U8, 1, &[1])),
        ),
        (b"a", raw::STRING, (1u64 << 62).to_le_bytes().to_vec()),
        (b"a", raw::STRING, u64::MAX.to_le_bytes().to_vec()),
        (b"a", raw::ARRAY, raw::array(raw::STRING, 2, &cut(1 << 62))),
        (b"", raw::U8, vec![1]),
        (b"general.architecture", raw::STRING, raw::string(b"llama")),
        (b"general.alignment", raw::U32, vec![3, 0, 0, 0]),
        (b"general.alignment", raw::U32, vec![0; 4]),
        (b"general.alignment", raw::U16, vec![32, 0]),
        (b"a", 13, vec![0; 8]),
        (b"a", 9999, vec![0; 8]),
        (b"a", u32::MAX, vec![0; 8]),
        (b"a", raw::ARRAY, raw::array(77, 1, &[0; 8])),
    ] {
        let reason = refused(&with_pair(key, kind, &value));
        assert!(!reason.is_empty());
    }
    let reason = refused(&with_pair(
        b"general.architecture",
        raw::STRING,
        &raw::string(b"x"),
    ));
    assert!(reason.contains("duplicate"), "{reason}");
}

#[test]
fn tensors_that_cannot_be() {
    const F32: u32 = 0;
    const Q4_0: u32 = 2;
    for (what, bytes, expected) in [
        (
            "no elements",
            one_tensor(b"t", &[0, 4], F32, 0),
            "no elements",
        ),
        ("negative", one_tensor(b"t", &[-4, 4], F32, 0), "-4"),
        (
            "overflow",
            one_tensor(b"t", &[1 << 31, 1 << 31, 4, 1], F32, 0),
            "overflow",
        ),
        ("bytes overflow", one_tensor(b"t", &[1 << 62], F32, 0), "t"),
        (
            "near the end",
            one_tensor(b"t", &[(1 << 61) - 1], F32, 0),
            "t",
        ),
        (
            "a row's blocks",
            one_tensor(b"t", &[31], Q4_0, 0),
            "block size",
        ),
        (
            "five dimensions",
            one_tensor(b"t", &[1; 5], F32, 0),
            "dimensions",
        ),
        (
            "many dimensions",
            one_tensor(b"t", &[1; 64], F32, 0),
            "dimensions",
        ),
        (
            "past the end",
            one_tensor(b"t", &[17], F32, 0),
            "incomplete",
        ),
        ("an offset", one_tensor(b"t", &[4], F32, 1 << 40), "offset"),
        ("a type", one_tensor(b"t", &[32], 250, 0), "type"),
        ("an old type", one_tensor(b"t", &[32], 4, 0), "t"),
        (
            "a negative type",
            one_tensor(b"t", &[32], u32::MAX, 0),
            "type",
        ),
        (
            "a long name",
            one_tensor(&[b'x'; 64], &[4], F32, 0),
            "too long",
        ),
        ("no UTF-8", one_tensor(b"t\xff", &[4], F32, 0), "UTF-8"),
    ] {
        let reason = refused(&bytes);
        assert!(reason.contains(expected), "{what}: {reason}");
    }
    // Two at one place, with a hole between them, twice the same name, and once more behind
    // a NUL, where the name ends for llama.cpp.
    for (names, offset, expected) in [
        ([&b"a"[..], b"b"], 0, "offset"),
        ([b"a", b"b"], 64, "offset"),
        ([b"a", b"a"], 32, "a"),
        ([b"a", b"a\0b"], 32, "twice"),
    ] {
        let mut file = Raw::new("llama");
        file.tensor(names[0], &[4], F32, 0);
        file.tensor(names[1], &[4], F32, offset).data(128);
        let reason = refused(&file.to_bytes());
        assert!(reason.contains(expected), "{names:?}: {reason}");
    }
}

#[test]
fn names_with_a_nul_end_there() {
    let mut file = Raw::new("llama");
    file.pair(b"a\0b", raw::U8, &[1])
        .pair(b"c\xff", raw::U8, &[2]);
    file.pair(b"text", raw::STRING, &raw::string(b"x\0y"));
    file.tensor(b"t\0u", &[4], 0, 0).data(64);
    let header = read(&file.to_bytes()).unwrap();
    assert_eq!(header.value("a"), Some(Value::U8(1)));
    assert_eq!(header.value("text"), Some(Value::Text("x".to_owned())));
    assert_eq!(header.tensors()[0].name, "t");
    // A key that is no UTF-8 is listed with its value, though nobody can ask for it.
    let all: Vec<_> = header.metadata().collect();
    assert_eq!(all[2], ("c\u{fffd}".to_owned(), Value::U8(2)));
}

#[test]
fn data_that_was_cut_off() {
    let whole = Layout::GptOss.writer().to_bytes();
    let header = read(&whole).unwrap();
    let last = header.tensors().last().unwrap();
    let end = (last.offset + last.bytes) as usize;
    assert!(read(&whole[..end]).is_ok(), "nothing needs the padding");
    for keep in [end - 1, end / 2, last.offset as usize] {
        let reason = refused(&whole[..keep]);
        assert!(reason.contains("incomplete"), "{reason}");
    }
    let first = header.tensors()[0].offset as usize;
    for keep in [1, 4, 8, 16, 20, 24, 100, first / 2, first - 33] {
        refused(&whole[..keep]);
    }
}

// ---- what llama.cpp's loader would end the process over -------------------------------

/// A header of this architecture with these numbers, and what a load says of it.
fn refused_load(architecture: &str, change: impl FnOnce(&mut GgufWriter)) -> String {
    let mut file = layouts::vocabulary_only().renamed(architecture);
    change(&mut file);
    let (_dir, path) = written(&file.to_bytes());
    assert!(Header::read(&path).is_ok(), "{architecture}");
    match Model::load(&backend(), &path, on_cpu()).unwrap_err() {
        Error::Load { reason, .. } => reason,
        error => panic!("{error:?}"),
    }
}

#[test]
fn numbers_that_an_architecture_asserts_on() {
    /// The architecture, its numbers, and what is said of them.
    type Case<'a> = (&'a str, &'a [(&'a str, u32)], &'a str);
    let cases: [Case<'_>; 44] = [
        ("bailingmoe2", &[], "expert_count = 0"),
        (
            "deepseek2",
            &[("rope.dimension_count", 32)],
            "rope.dimension_count = 32",
        ),
        (
            "mistral4",
            &[("rope.dimension_count", 99)],
            "rope.dimension_count = 99",
        ),
        ("deepseek4", &[], "attention.output_group_count = 0"),
        ("deepseek41", &[], "attention.output_group_count = 0"),
        (
            "dflash",
            &[("hyper_connection.count", 1)],
            "output_group_count = 0",
        ),
        (
            "falcon-h1",
            &[("ssm.group_count", 0)],
            "ssm.group_count = 0",
        ),
        (
            "gemma-embedding",
            &[("dense_2_feat_in", 65)],
            "dense_2_feat_in = 65",
        ),
        (
            "gemma-embedding",
            &[("dense_3_feat_out", 65)],
            "dense_3_feat_out = 65",
        ),
        (
            "gemma2",
            &[("attention.head_count", 0)],
            "attention.head_count = 0",
        ),
        (
            "gemma4",
            &[("attention.shared_kv_layers", 3)],
            "attention.shared_kv_layers = 3",
        ),
        (
            "gemma4",
            &[("block_count", 1)],
            "attention.shared_kv_layers = 0: two of the 1 blocks",
        ),
        ("glm4moe", &[], "expert_count = 0"),
        (
            "glm5-next",
            &[("attention.indexer.kpool", 0)],
            "indexer.kpool = 0",
        ),
        (
            "glm5-next",
            &[
                ("attention.indexer.kpool", 2),
                ("hyper_connection.count", 3),
            ],
            "hyper_connection.count = 3",
        ),
        (
            "granitehybrid",
            &[("ssm.group_count", 1)],
            "ssm.inner_size = 0",
        ),
        (
            "grovemoe",
            &[("expert_count", 4), ("expert_used_count", 2)],
            "experts_per_group = 0",
        ),
        (
            "hrm_text",
            &[("hrm.layers_per_stack", 1)],
            "hrm.h_cycles = 0",
        ),
        (
            "hrm_text",
            &[
                ("hrm.layers_per_stack", 1),
                ("hrm.h_cycles", 1),
                ("hrm.l_cycles", 1),
            ],
            "block_count = 4: the cycles need 2",
        ),
        ("hy_v4", &[], "attention.key_length_mla = 0"),
        ("jamba", &[("ssm.inner_size", 64)], "ssm.inner_size = 64"),
        (
            "lfm2",
            &[("attention.value_length", 7)],
            "attention.value_length = 7",
        ),
        ("lfm2moe", &[], "expert_count = 0"),
        (
            "k2-horizon",
            &[("attention.value_expert_count", 1025)],
            "value_expert_count = 1025",
        ),
        (
            "k2-horizon",
            &[("attention.value_expert_count", 4)],
            "value_expert_used_count = 0: there are 4",
        ),
        (
            "k2-horizon",
            &[
                ("attention.value_expert_count", 4),
                ("attention.value_expert_used_count", 5),
            ],
            "value_expert_used_count = 5",
        ),
        (
            "k2-horizon",
            &[("attention.value_expert_used_count", 1)],
            "value_expert_used_count = 1: there are 0",
        ),
        (
            "k2-horizon",
            &[("attention.group_norm_groups", 3)],
            "group_norm_groups = 3: a divisor of embedding_length = 64",
        ),
        (
            "limite",
            &[("mudd.tap_count", 129)],
            "mudd.tap_count = 129: 512 are possible in all 4 layers",
        ),
        (
            "limite",
            &[("mudd.tap_count", u32::MAX)],
            "mudd.tap_count = 4294967295",
        ),
        ("llada-moe", &[], "expert_count = 0"),
        ("mamba2", &[], "ssm.group_count = 0"),
        ("minimax-m3", &[], "attention.indexer.block_size = 0"),
        ("nanbeige", &[("num_loops", 0)], "num_loops = 0"),
        ("nanbeige", &[("num_loops", 129)], "num_loops = 129"),
        ("nemotron_h", &[], "ssm.group_count = 0"),
        (
            "olmo2",
            &[("attention.head_count", 0)],
            "attention.head_count = 0",
        ),
        (
            "qwen3next",
            &[("full_attention_interval", 0)],
            "full_attention_interval = 0",
        ),
        ("rwkv6", &[], "wkv.head_size = 0"),
        ("rwkv6", &[("wkv.head_size", 8)], "time_mix_lerp_fused"),
        ("smallthinker", &[], "expert_count = 0"),
        (
            "wavtokenizer-dec",
            &[("posnet.block_count", 7), ("block_count", 9)],
            "posnet.block_count = 7",
        ),
        (
            "wavtokenizer-dec",
            &[("posnet.embedding_length", 7)],
            "posnet.embedding_length = 7",
        ),
        (
            "llama",
            &[("nextn_predict_layers", 4)],
            "nextn_predict_layers = 4",
        ),
    ];
    for (architecture, numbers, expected) in cases {
        let reason = refused_load(architecture, |file| {
            for (key, number) in numbers {
                file.arch(key, gguf::Value::U32(*number));
            }
        });
        assert!(reason.contains(expected), "{architecture}: {reason}");
    }
    for architecture in ["deepseek4", "deepseek41"] {
        let reason = refused_load(architecture, |file| {
            file.arch("attention.output_group_count", gguf::Value::U32(1));
            file.arch("attention.compress_ratios", gguf::Value::U32s(vec![1; 513]));
        });
        assert!(reason.contains("513 elements"), "{reason}");
    }
    // Layers that are none, or come later; and lists that end too soon.
    for (indices, said) in [
        (vec![1, 0], "layer 0 cannot read layer 1"),
        (vec![-1, 9, 0, -2], "layer 1 cannot read layer -2"),
        (vec![0, 0, 1, 2], "layer 1 cannot read layer 2"),
        (vec![0], "layer 0 cannot read layer -1"),
    ] {
        let reason = refused_load("limite", |file| {
            file.arch("mudd.tap_count", gguf::Value::U32(2));
            file.arch("mudd.tap_indices", gguf::Value::I32s(indices));
        });
        assert!(reason.contains(said), "{reason}");
    }
    let reason = refused_load("limite", |file| {
        file.arch("mudd.tap_count", gguf::Value::U32(1));
        file.arch("mudd.tap_indices", gguf::Value::Bools(vec![true]));
    });
    assert!(reason.contains("layer 0 cannot read layer 1"), "{reason}");
    // A list of truth values is one of numbers.
    let reason = refused_load("llama", |file| {
        file.arch("expert_used_count", gguf::Value::Bools(vec![true; 4]));
    });
    assert!(reason.contains("expert_used_count = 1"), "{reason}");
    for activation in ["", "relu"] {
        let reason = refused_load("llama", |file| {
            file.remove("llama.block_count");
            let activation = gguf::Value::String(activation.to_owned());
            file.arch("classifier.activation", activation);
        });
        let said = format!("llama.classifier.activation = {activation:?}");
        assert!(reason.contains(&said), "{reason}");
    }
    let reason = refused_load("bailingmoe3", |file| {
        file.arch("kda.safe_gate", gguf::Value::Bool(false));
    });
    assert!(reason.contains("kda.safe_gate = false"), "{reason}");
    let reason = refused_load("bailingmoe3", |file| {
        file.arch("kda.gate_lower_bound", gguf::Value::F32(0.5));
    });
    assert!(reason.contains("kda.gate_lower_bound = 0.5"), "{reason}");
    let reason = refused_load("llama", |file| {
        file.u32("prism.hadamard.block_size", 1 << 15);
    });
    assert!(reason.contains("block_size = 32768: at most"), "{reason}");
    // The first layer's number counts, where others divide by it.
    let reason = refused_load("qwen3moe", |file| {
        file.arch("expert_count", gguf::Value::U32(4));
        file.arch("expert_used_count", gguf::Value::I32s(vec![0, 2, 2, 2]));
    });
    assert!(
        reason.contains("the first layer uses no expert"),
        "{reason}"
    );
    let reason = refused_load("nemotron_h_moe", |file| {
        file.arch("ssm.group_count", gguf::Value::U32(1));
        file.arch("expert_count", gguf::Value::U32(4));
        file.arch("expert_used_count", gguf::Value::I32s(vec![2, 2, 0, 2]));
    });
    assert!(reason.contains("layer 2"), "{reason}");
    // A count below zero is a large one for llama.cpp.
    let reason = refused_load("qwen3moe", |file| {
        file.arch("expert_count", gguf::Value::U32(4));
        file.arch("expert_used_count", gguf::Value::I32s(vec![-1; 4]));
    });
    assert!(
        reason.contains("expert_used_count = 4294967295"),
        "{reason}"
    );
}

#[test]
fn tensors_that_the_loader_asserts_on() {
    let f16 = TensorType::F16;
    for (architecture, name, shape, expected) in [
        (
            "llama",
            "rope_freqs.weight",
            vec![16],
            "rope_freqs.weight is of type f16",
        ),
        (
            "llama",
            "blk.1.rope_factors_long.weight",
            vec![16],
            "type f16",
        ),
        (
            "jina-bert-v2",
            "blk.1.ffn_up.weight",
            vec![64, 161],
            "161 rows",
        ),
        ("laguna", "blk.1.attn_gate.weight", vec![64, 5], "5 rows"),
        ("eagle3", "d2t", vec![8], "d2t is of type f16"),
    ] {
        let reason = refused_load(architecture, |file| {
            file.random(name, &shape, f16, 1.0);
        });
        assert!(reason.contains(expected), "{reason}");
    }
}

/// Each rule lets the numbers through that its architecture can do with.
#[test]
fn numbers_that_an_architecture_can_do_with() {
    let models = [
        peculiar::value_experts(),
        peculiar::taps(),
        peculiar::shared_keys(),
        peculiar::convolution(),
        peculiar::draft(),
        sparse::engram(),
        sparse::latent(),
    ];
    for mut file in models {
        file.arch(
            "classifier.activation",
            gguf::Value::String("gelu".to_owned()),
        );
        let (_dir, path) = written(&file.to_bytes());
        if let Err(error) = Model::load(&backend(), &path, on_cpu()) {
            panic!("{error}");
        }
    }
}

#[test]
fn rotated_weights_are_loaded() {
    let mut file = Layout::Qwen3Moe.writer();
    file.u32("prism.hadamard.version", 1)
        .u32("prism.hadamard.block_size", 32)
        .string(
            "prism.hadamard.transform",
            "normalized-sylvester-walsh-hadamard",
        )
        .string("prism.hadamard.axis", "input-last-dimension")
        .string("prism.hadamard.sign_mode", "identity")
        .strings("prism.hadamard.weight_names", &["blk.0.attn_q.weight"]);
    let (_dir, path) = written(&file.to_bytes());
    let model = Model::load(&backend(), &path, on_cpu()).unwrap();
    // The rotation is the loader's own, and no tensor of the file.
    let preview = Preview::new(&backend(), &path, &on_cpu()).unwrap();
    model.placement().unwrap().verify(&preview).unwrap();
}

#[test]
fn replaced_numbers_are_checked_too() {
    for (file, key, number) in [
        (
            peculiar::shared_keys(),
            "gemma4.attention.shared_kv_layers",
            2,
        ),
        (peculiar::taps(), "limite.mudd.tap_count", 300),
        (
            peculiar::value_experts(),
            "k2-horizon.attention.value_expert_used_count",
            0,
        ),
    ] {
        let (_dir, path) = written(&file.to_bytes());
        let params = on_cpu().with_kv_override(key, KvOverride::Int(number));
        let error = Model::load(&backend(), &path, params).expect_err(key);
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn vocabularies_that_the_loader_asserts_on() {
    let mut file = layouts::vocabulary_only();
    file.strings("tokenizer.ggml.tokens", &["a", "", "[EMPTY_1]"]);
    assert!(refused_vocabulary(&file).contains("[EMPTY_1]"));
    let mut file = layouts::vocabulary_only();
    file.string("tokenizer.ggml.model", "test");
    file.strings::<&str>("tokenizer.ggml.tokens", &[]);
    assert!(refused_vocabulary(&file).contains("tokenizer.ggml.tokens is empty"));
    for model in ["none", "no_vocab"] {
        let mut file = layouts::vocabulary_only();
        file.string("tokenizer.ggml.model", model);
        file.arch("vocab_size", gguf::Value::U32(1 << 30));
        assert!(refused_vocabulary(&file).contains("vocab_size = 1073741824"));
    }
}

fn refused_vocabulary(file: &GgufWriter) -> String {
    let (_dir, path) = written(&file.to_bytes());
    let error = Model::load(&backend(), &path, on_cpu().with_vocab_only(true)).unwrap_err();
    error.to_string()
}
