//! GGUF headers byte by byte, for what no writer would write.

/// Numbers of `enum gguf_type`.
pub const U8: u32 = 0;
pub const I8: u32 = 1;
pub const U16: u32 = 2;
pub const I16: u32 = 3;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;
pub const I64: u32 = 11;
pub const F64: u32 = 12;

/// A header under construction. What it says of itself need not be so.
#[derive(Clone)]
pub struct Raw {
    pub magic: [u8; 4],
    pub version: u32,
    /// In place of the number of pairs and tensors that were added.
    pub n_keys: Option<u64>,
    pub n_tensors: Option<u64>,
    pairs: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: usize,
}

pub fn string(text: &[u8]) -> Vec<u8> {
    let length = (text.len() as u64).to_le_bytes();
    length.iter().chain(text).copied().collect()
}

/// An array of `n` elements, which `elements` may contradict.
pub fn array(kind: u32, n: u64, elements: &[u8]) -> Vec<u8> {
    let head = kind.to_le_bytes().into_iter().chain(n.to_le_bytes());
    head.chain(elements.iter().copied()).collect()
}

impl Raw {
    /// An empty header of an architecture.
    pub fn new(architecture: &str) -> Self {
        let mut raw = Self {
            magic: *b"GGUF",
            version: 3,
            n_keys: None,
            n_tensors: None,
            pairs: Vec::new(),
            tensors: Vec::new(),
            data: 0,
        };
        raw.pair(
            b"general.architecture",
            STRING,
            &string(architecture.as_bytes()),
        );
        raw
    }

    pub fn pair(&mut self, key: &[u8], kind: u32, value: &[u8]) -> &mut Self {
        let kind = kind.to_le_bytes();
        self.pairs.push([&string(key)[..], &kind, value].concat());
        self
    }

    pub fn tensor(&mut self, name: &[u8], shape: &[i64], kind: u32, offset: u64) -> &mut Self {
        let mut bytes = string(name);
        bytes.extend((shape.len() as u32).to_le_bytes());
        bytes.extend(shape.iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        self.tensors.push(bytes);
        self
    }

    /// Puts so many bytes of data behind the header.
    pub fn data(&mut self, bytes: usize) -> &mut Self {
        self.data = bytes;
        self
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        let count = |said: Option<u64>, parts: &[Vec<u8>]| said.unwrap_or(parts.len() as u64);
        out.extend(count(self.n_tensors, &self.tensors).to_le_bytes());
        out.extend(count(self.n_keys, &self.pairs).to_le_bytes());
        out.extend(self.pairs.concat());
        out.extend(self.tensors.concat());
        out.resize(out.len().next_multiple_of(32) + self.data, 0);
        out
    }
}
