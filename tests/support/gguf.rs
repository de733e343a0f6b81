//! A small writer of GGUF files (version 3), in safe Rust on `std` alone.
//!
//! Tests build a file with [`GgufWriter`], spoil it on purpose where they want
//! to ([`GgufWriter::set`] with a wrong type, [`GgufWriter::remove`],
//! [`truncate`], [`bad_magic`]) and hand its path to llama.cpp.
//!
//! Weights are pseudo-random and depend only on the architecture's name and on
//! the tensor's, so a file is the same byte for byte on every machine, and a
//! tensor is the same whatever stands before it. Quantised tensors are drawn
//! as random blocks, which needs no quantiser: every block has the same scale,
//! chosen for the standard deviation asked for.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Tensor data begin at multiples of this, GGUF's default.
const ALIGNMENT: usize = 32;

/// A metadata value with its GGUF type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    U64(u64),
    I64(i64),
    F64(f64),
    Strings(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
    U32s(Vec<u32>),
    Bools(Vec<bool>),
    U64s(Vec<u64>),
}

/// GGUF's number for an array; the elements' own number follows it.
const ARRAY: u32 = 9;

impl Value {
    /// The type's number in the file (`gguf_type`), of the elements for an array.
    fn id(&self) -> u32 {
        match self {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) | Value::U32s(_) => 4,
            Value::I32(_) | Value::I32s(_) => 5,
            Value::F32(_) | Value::F32s(_) => 6,
            Value::Bool(_) | Value::Bools(_) => 7,
            Value::String(_) | Value::Strings(_) => 8,
            Value::U64(_) | Value::U64s(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, len: usize| {
            out.extend(ARRAY.to_le_bytes());
            out.extend(self.id().to_le_bytes());
            out.extend((len as u64).to_le_bytes());
        };
        match self {
            Value::Strings(values) => {
                array(out, values.len());
                values.iter().for_each(|value| encode_string(out, value));
            }
            Value::F32s(values) => {
                array(out, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Value::I32s(values) => {
                array(out, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Value::U32s(values) => {
                array(out, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Value::U64s(values) => {
                array(out, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Value::Bools(values) => {
                array(out, values.len());
                out.extend(values.iter().map(|value| u8::from(*value)));
            }
            _ => {
                out.extend(self.id().to_le_bytes());
                self.encode_scalar(out);
            }
        }
    }

    fn encode_scalar(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(value) => out.push(*value),
            Value::I8(value) => out.extend(value.to_le_bytes()),
            Value::U16(value) => out.extend(value.to_le_bytes()),
            Value::I16(value) => out.extend(value.to_le_bytes()),
            Value::U32(value) => out.extend(value.to_le_bytes()),
            Value::I32(value) => out.extend(value.to_le_bytes()),
            Value::F32(value) => out.extend(value.to_le_bytes()),
            Value::Bool(value) => out.push(u8::from(*value)),
            Value::String(value) => encode_string(out, value),
            Value::U64(value) => out.extend(value.to_le_bytes()),
            Value::I64(value) => out.extend(value.to_le_bytes()),
            Value::F64(value) => out.extend(value.to_le_bytes()),
            Value::Strings(_)
            | Value::F32s(_)
            | Value::I32s(_)
            | Value::U32s(_)
            | Value::Bools(_)
            | Value::U64s(_) => {
                unreachable!("an array is no scalar")
            }
        }
    }
}

fn encode_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// How a tensor's elements are stored (`ggml_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorType {
    F32,
    F16,
    /// 32 elements of 4 bits with an F16 scale.
    Q4_0,
    /// 32 elements of 8 bits with an F16 scale.
    Q8_0,
    /// 32 elements of E2M1 with a power of two as their scale.
    Mxfp4,
    /// Whole numbers.
    I64,
}

impl TensorType {
    fn id(self) -> u32 {
        match self {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q4_0 => 2,
            TensorType::Q8_0 => 8,
            TensorType::I64 => 27,
            TensorType::Mxfp4 => 39,
        }
    }

    /// Elements and bytes of one block.
    fn block(self) -> (u64, u64) {
        match self {
            TensorType::F32 => (1, 4),
            TensorType::F16 => (1, 2),
            TensorType::Q4_0 => (32, 2 + 16),
            TensorType::Q8_0 => (32, 2 + 32),
            TensorType::Mxfp4 => (32, 1 + 16),
            TensorType::I64 => (1, 8),
        }
    }

    /// Bytes of a tensor of this type and shape, without padding.
    ///
    /// # Panics
    /// When a row is no whole number of blocks.
    pub fn bytes(self, shape: &[u64]) -> u64 {
        let (elements, bytes) = self.block();
        assert_eq!(shape[0] % elements, 0, "{self:?} of shape {shape:?}");
        shape.iter().product::<u64>() / elements * bytes
    }
}

#[derive(Clone)]
struct Tensor {
    name: String,
    shape: Vec<u64>,
    kind: TensorType,
    data: Vec<u8>,
}

/// A GGUF file under construction: metadata in the order of their first setting,
/// tensors in the order they were added.
#[derive(Clone)]
pub struct GgufWriter {
    arch: String,
    keys: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

impl GgufWriter {
    /// An empty file that names its architecture.
    pub fn new(arch: &str) -> Self {
        let mut file = Self {
            arch: arch.to_owned(),
            keys: Vec::new(),
            tensors: Vec::new(),
        };
        file.string("general.architecture", arch);
        file
    }

    /// Sets a key, in place of an earlier value of whatever type.
    pub fn set(&mut self, key: &str, value: Value) -> &mut Self {
        match self.keys.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
        self
    }

    pub fn u16(&mut self, key: &str, value: u16) -> &mut Self {
        self.set(key, Value::U16(value))
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.set(key, Value::U32(value))
    }

    pub fn i32(&mut self, key: &str, value: i32) -> &mut Self {
        self.set(key, Value::I32(value))
    }

    pub fn u64(&mut self, key: &str, value: u64) -> &mut Self {
        self.set(key, Value::U64(value))
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.set(key, Value::F32(value))
    }

    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.set(key, Value::Bool(value))
    }

    pub fn string(&mut self, key: &str, value: &str) -> &mut Self {
        self.set(key, Value::String(value.to_owned()))
    }

    pub fn strings<T: AsRef<str>>(&mut self, key: &str, values: &[T]) -> &mut Self {
        let values = values.iter().map(|value| value.as_ref().to_owned());
        self.set(key, Value::Strings(values.collect()))
    }

    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        self.set(key, Value::F32s(values.to_vec()))
    }

    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        self.set(key, Value::I32s(values.to_vec()))
    }

    pub fn u32s(&mut self, key: &str, values: &[u32]) -> &mut Self {
        self.set(key, Value::U32s(values.to_vec()))
    }

    /// Sets a key of the file's own architecture: `block_count` is
    /// `qwen3moe.block_count` in a qwen3moe file.
    pub fn arch(&mut self, key: &str, value: Value) -> &mut Self {
        let key = format!("{}.{key}", self.arch);
        self.set(&key, value)
    }

    /// Takes a key out.
    ///
    /// # Panics
    /// When there is none: a test that removes nothing would prove nothing.
    pub fn remove(&mut self, key: &str) -> &mut Self {
        let before = self.keys.len();
        self.keys.retain(|(name, _)| name != key);
        assert!(self.keys.len() < before, "no key {key}");
        self
    }

    /// Takes a tensor out.
    ///
    /// # Panics
    /// When there is none.
    pub fn remove_tensor(&mut self, name: &str) -> &mut Self {
        let before = self.tensors.len();
        self.tensors.retain(|tensor| tensor.name != name);
        assert!(self.tensors.len() < before, "no tensor {name}");
        self
    }

    /// Adds a tensor of random values of this standard deviation around zero.
    /// `shape` begins with the row's length, as ggml's `ne`.
    pub fn random(
        &mut self,
        name: &str,
        shape: &[u64],
        kind: TensorType,
        deviation: f32,
    ) -> &mut Self {
        let mut random = Random::new(&self.arch, name);
        let elements = shape.iter().product::<u64>();
        let blocks = elements / kind.block().0;
        let data = match kind {
            TensorType::F32 | TensorType::F16 | TensorType::I64 => {
                let values: Vec<f32> = (0..elements).map(|_| random.noise(deviation)).collect();
                encode(kind, &values)
            }
            TensorType::Q4_0 => random.q4_0(blocks, deviation),
            TensorType::Q8_0 => random.q8_0(blocks, deviation),
            TensorType::Mxfp4 => random.mxfp4(blocks, deviation),
        };
        self.push(name, shape, kind, data)
    }

    /// Adds a tensor of the given values, as F32, F16 or I64.
    pub fn values(
        &mut self,
        name: &str,
        shape: &[u64],
        kind: TensorType,
        values: &[f32],
    ) -> &mut Self {
        let data = encode(kind, values);
        self.push(name, shape, kind, data)
    }

    /// As many random values as asked for, those that `random` would give the
    /// tensor of this name.
    pub fn noise(&self, name: &str, elements: u64, deviation: f32) -> Vec<f32> {
        let mut random = Random::new(&self.arch, name);
        (0..elements).map(|_| random.noise(deviation)).collect()
    }

    fn push(&mut self, name: &str, shape: &[u64], kind: TensorType, data: Vec<u8>) -> &mut Self {
        assert_eq!(data.len() as u64, kind.bytes(shape), "{name} {shape:?}");
        self.tensors.push(Tensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            kind,
            data,
        });
        self
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode_file(&self.keys, &self.tensors)
    }

    /// The same file for another architecture, with its keys renamed.
    pub fn renamed(&self, arch: &str) -> Self {
        let mut file = self.clone();
        let (old, new) = (format!("{}.", self.arch), format!("{arch}."));
        for (key, _) in &mut file.keys {
            if let Some(rest) = key.strip_prefix(&old) {
                *key = format!("{new}{rest}");
            }
        }
        file.arch = arch.to_owned();
        file.string("general.architecture", arch);
        file
    }

    /// The header's bytes, up to where the data start, and the length of the whole file.
    pub fn to_header(&self) -> (Vec<u8>, u64) {
        let header = encode_header(&self.keys, &self.tensors);
        let data = self.tensors.iter().map(|tensor| tensor.data.len());
        let data: usize = data.map(|bytes| bytes.next_multiple_of(ALIGNMENT)).sum();
        let length = header.len().next_multiple_of(ALIGNMENT) + data;
        (header, length as u64)
    }

    /// The keys with their values.
    pub fn keys(&self) -> &[(String, Value)] {
        &self.keys
    }

    /// Writes one file.
    pub fn write(&self, path: &Path) {
        fs::write(path, self.to_bytes()).expect("a written GGUF file");
    }

    /// Writes `n` files named as llama.cpp wants them, `PREFIX-00001-of-0000N.gguf`,
    /// with the tensors in equal shares; the first has all metadata. Returns their
    /// paths; the first is the one to load.
    pub fn write_split(&self, dir: &Path, prefix: &str, n: u16) -> Vec<PathBuf> {
        let count = self.tensors.len();
        let part = |index: usize| index * count / usize::from(n);
        (0..n)
            .map(|index| {
                let mut file = Self {
                    arch: self.arch.clone(),
                    keys: if index == 0 {
                        self.keys.clone()
                    } else {
                        Vec::new()
                    },
                    tensors: Vec::new(),
                };
                let total = i32::try_from(count).expect("few tensors");
                file.u16("split.no", index)
                    .u16("split.count", n)
                    .i32("split.tensors.count", total);
                let path = dir.join(format!("{prefix}-{:05}-of-{n:05}.gguf", index + 1));
                let index = usize::from(index);
                let tensors = &self.tensors[part(index)..part(index + 1)];
                fs::write(&path, encode_file(&file.keys, tensors)).expect("a written split file");
                path
            })
            .collect()
    }
}

fn encode_header(keys: &[(String, Value)], tensors: &[Tensor]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(b"GGUF");
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        encode_string(&mut out, key);
        value.encode(&mut out);
    }
    let mut offset = 0;
    for tensor in tensors {
        encode_string(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        out.extend(tensor.shape.iter().flat_map(|extent| extent.to_le_bytes()));
        out.extend(tensor.kind.id().to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += tensor.data.len().next_multiple_of(ALIGNMENT);
    }
    out
}

fn encode_file(keys: &[(String, Value)], tensors: &[Tensor]) -> Vec<u8> {
    let mut out = encode_header(keys, tensors);
    for tensor in tensors {
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out.extend(&tensor.data);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

/// Cuts a file down to its first `bytes`.
///
/// # Panics
/// When it is not longer than that.
pub fn truncate(path: &Path, bytes: u64) {
    let file = open(path);
    let length = file.metadata().expect("a file's length").len();
    assert!(bytes < length, "{} has {length} bytes", path.display());
    file.set_len(bytes).expect("a truncated file");
}

/// Overwrites bytes of a file in place.
pub fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = open(path);
    file.seek(SeekFrom::Start(offset)).expect("an offset");
    file.write_all(bytes).expect("overwritten bytes");
}

/// Gives a file a magic number that is not GGUF's.
pub fn bad_magic(path: &Path) {
    overwrite(path, 0, b"FUGG");
}

fn open(path: &Path) -> File {
    let file = OpenOptions::new().write(true).open(path);
    file.expect("a file that was just written")
}

fn encode(kind: TensorType, values: &[f32]) -> Vec<u8> {
    match kind {
        TensorType::F32 => values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        TensorType::F16 => {
            let halves = values.iter().map(|value| half(*value));
            halves.flat_map(u16::to_le_bytes).collect()
        }
        TensorType::I64 => values
            .iter()
            .flat_map(|value| (*value as i64).to_le_bytes())
            .collect(),
        _ => panic!("{kind:?} is written from random blocks only"),
    }
}

/// The bits of the nearest IEEE half, ties to even.
fn half(value: f32) -> u16 {
    /// 2^-14, the smallest normal half, and 2^16, beyond the greatest, as F32 bits.
    const NORMAL: u32 = 0x3880_0000;
    const OVERFLOW: u32 = 0x4780_0000;
    let sign = (value.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = value.to_bits() & 0x7fff_ffff;
    assert!(magnitude < OVERFLOW, "{value} is no half");
    if magnitude < NORMAL {
        // In steps of 2^-24; a value rounded up to 1024 steps is the smallest normal.
        return sign | (value.abs() * 16_777_216.0).round_ties_even() as u16;
    }
    // The exponent's bias is 15 instead of 127, the mantissa 13 bits shorter.
    let rebiased = magnitude - ((127 - 15) << 23);
    let rounded = rebiased + 0x0fff + ((rebiased >> 13) & 1);
    sign | (rounded >> 13) as u16
}

/// SplitMix64, seeded by names.
struct Random(u64);

impl Random {
    fn new(arch: &str, name: &str) -> Self {
        // FNV-1a.
        let bytes = arch.bytes().chain([0]).chain(name.bytes());
        Self(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in `0..bound`.
    fn below(&mut self, bound: u64) -> u64 {
        // The bias of the remainder is below 2^-50 for the bounds in use.
        self.next() % bound
    }

    /// Uniform around zero, with this standard deviation.
    fn noise(&mut self, deviation: f32) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        unit * deviation * 3f32.sqrt()
    }

    fn q4_0(&mut self, blocks: u64, deviation: f32) -> Vec<u8> {
        // Quants -7..=7 (8 is added to each), so that the mean is zero.
        let scale = half(deviation / (224f32 / 12.0).sqrt()).to_le_bytes();
        let block = |random: &mut Self| {
            let quants =
                (0..16).map(|_| (1 + random.below(15) as u8) | ((1 + random.below(15) as u8) << 4));
            scale.into_iter().chain(quants.collect::<Vec<_>>())
        };
        (0..blocks).flat_map(|_| block(self)).collect()
    }

    fn q8_0(&mut self, blocks: u64, deviation: f32) -> Vec<u8> {
        // Quants -127..=127.
        let scale = half(deviation / (65_024f32 / 12.0).sqrt()).to_le_bytes();
        let block = |random: &mut Self| {
            let quants = (0..32).map(|_| (random.below(255) as i16 - 127) as i8 as u8);
            scale.into_iter().chain(quants.collect::<Vec<_>>())
        };
        (0..blocks).flat_map(|_| block(self)).collect()
    }

    fn mxfp4(&mut self, blocks: u64, deviation: f32) -> Vec<u8> {
        // The magnitudes are 0, 0.5, 1, 1.5, 2, 3, 4 and 6: 2.93 at root mean square.
        let exponent = 127 + (deviation / 2.93).log2().round() as i32;
        let exponent = u8::try_from(exponent).expect("a power of two in range");
        let block = |random: &mut Self| {
            let quants = (0..16).map(|_| random.below(256) as u8);
            [exponent].into_iter().chain(quants.collect::<Vec<_>>())
        };
        (0..blocks).flat_map(|_| block(self)).collect()
    }
}
