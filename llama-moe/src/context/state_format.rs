//! The frame around a saved state.
//!
//! llama.cpp's own format says little of where a state comes from, and llama.cpp aborts on
//! some contents that it did not write. So a state is kept in a frame that tells which
//! llama.cpp and which model it is of, how long it is, and a checksum: what is not whole
//! is refused before llama.cpp sees it.

use super::state::StateError;
use crate::model::{Model, Token};

/// The frame's fixed part, in bytes.
pub(super) const HEADER: usize = 8 + 4 + 4 + 5 * 8;

const MAGIC: [u8; 8] = *b"LLMOE\x1aST";
const VERSION: u32 = 1;

/// What a state is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Context,
    Sequence,
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::Context => 0,
            Self::Sequence => 1,
        }
    }
}

/// What llama.cpp and which model a state is of, as hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    llama: u64,
    model: u64,
}

impl Origin {
    pub(super) fn of(model: &Model) -> Self {
        let mut llama = Hash::new();
        llama.add(crate::llama_cpp_version().as_bytes());
        llama.add(std::env::consts::ARCH.as_bytes());
        let mut hash = Hash::new();
        for (key, value) in model.metadata() {
            hash.add(key.as_bytes());
            hash.add(value.as_bytes());
        }
        hash.add(&model.n_params().to_le_bytes());
        hash.add(&model.size().to_le_bytes());
        Self {
            llama: llama.finish(),
            model: hash.finish(),
        }
    }
}

/// The lengths that a frame states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    n_tokens: u64,
    n_bytes: u64,
    checksum: u64,
}

impl Lengths {
    /// The bytes that follow the frame's fixed part.
    pub(super) fn rest(&self) -> Option<u64> {
        self.n_tokens.checked_mul(4)?.checked_add(self.n_bytes)
    }
}

/// A state in its frame, as parts that follow one another.
pub(super) fn frame(kind: Kind, origin: Origin, tokens: &[Token], state: &[u8]) -> [Vec<u8>; 2] {
    let tokens: Vec<u8> = tokens.iter().flat_map(|t| t.0.to_le_bytes()).collect();
    let mut header = Vec::with_capacity(HEADER + tokens.len());
    header.extend(MAGIC);
    header.extend(VERSION.to_le_bytes());
    header.extend(kind.number().to_le_bytes());
    header.extend(origin.llama.to_le_bytes());
    header.extend(origin.model.to_le_bytes());
    header.extend((tokens.len() as u64 / 4).to_le_bytes());
    header.extend((state.len() as u64).to_le_bytes());
    let checksum = checksum(&header, &tokens, state);
    header.extend(checksum.to_le_bytes());
    [header, tokens]
}

/// Reads a frame's fixed part, which the slice must hold at least.
pub(super) fn read_header(bytes: &[u8], kind: Kind, origin: Origin) -> Result<Lengths, StateError> {
    let mut fields = Fields(bytes);
    if fields.take::<8>()? != MAGIC {
        return Err(StateError::NotAState);
    }
    let version = u32::from_le_bytes(fields.take()?);
    if version != VERSION {
        return Err(StateError::Version { version });
    }
    if u32::from_le_bytes(fields.take()?) != kind.number() {
        return Err(match kind {
            Kind::Context => StateError::OfSequence,
            Kind::Sequence => StateError::OfContext,
        });
    }
    if u64::from_le_bytes(fields.take()?) != origin.llama {
        return Err(StateError::OtherLlama);
    }
    if u64::from_le_bytes(fields.take()?) != origin.model {
        return Err(StateError::OtherModel);
    }
    Ok(Lengths {
        n_tokens: u64::from_le_bytes(fields.take()?),
        n_bytes: u64::from_le_bytes(fields.take()?),
        checksum: u64::from_le_bytes(fields.take()?),
    })
}

/// The tokens and the state of a frame.
pub(super) fn open(
    bytes: &[u8],
    kind: Kind,
    origin: Origin,
) -> Result<(Vec<Token>, &[u8]), StateError> {
    let lengths = read_header(bytes, kind, origin)?;
    let (header, rest) = bytes.split_at(HEADER);
    let expected = lengths.rest().and_then(|n| n.checked_add(HEADER as u64));
    if expected != Some(bytes.len() as u64) {
        return Err(StateError::Length {
            len: bytes.len() as u64,
            expected: expected.unwrap_or(u64::MAX),
        });
    }
    let (tokens, state) = rest.split_at(lengths.n_tokens as usize * 4);
    if checksum(&header[..HEADER - 8], tokens, state) != lengths.checksum {
        return Err(StateError::Checksum);
    }
    let (tokens, _) = tokens.as_chunks::<4>();
    let tokens = tokens.iter().map(|&bytes| Token(i32::from_le_bytes(bytes)));
    Ok((tokens.collect(), state))
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let (field, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(StateError::NotAState)?;
        self.0 = rest;
        Ok(*field)
    }
}

fn checksum(header: &[u8], tokens: &[u8], state: &[u8]) -> u64 {
    let mut hash = Hash::new();
    hash.add(header);
    hash.add(tokens);
    hash.add(state);
    hash.finish()
}

/// A hash against accidents, not against ill will: eight bytes at a time, each step
/// reversible, so that no single change goes unnoticed.
struct Hash(u64);

impl Hash {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

    fn new() -> Self {
        Self(Self::FACTOR)
    }

    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(Self::FACTOR).rotate_left(29);
    }

    fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for &word in words {
            self.word(u64::from_le_bytes(word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
        self.word(bytes.len() as u64);
    }

    fn finish(self) -> u64 {
        (self.0 ^ (self.0 >> 32)).wrapping_mul(Self::FACTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::{HEADER, Kind, Origin, frame, open};
    use crate::context::StateError;
    use crate::model::Token;

    const ORIGIN: Origin = Origin { llama: 1, model: 2 };

    fn framed() -> Vec<u8> {
        let state: Vec<u8> = (0..100).collect();
        let tokens = [Token(7), Token(-1), Token(i32::MAX)];
        let mut bytes = frame(Kind::Context, ORIGIN, &tokens, &state).concat();
        bytes.extend(state);
        bytes
    }

    #[test]
    fn a_frame_gives_back_what_was_put_in() {
        let bytes = framed();
        let (tokens, state) = open(&bytes, Kind::Context, ORIGIN).unwrap();
        assert_eq!(tokens, [Token(7), Token(-1), Token(i32::MAX)]);
        assert_eq!(state, (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn no_changed_byte_and_no_lost_byte_goes_unnoticed() {
        let bytes = framed();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(open(&changed, Kind::Context, ORIGIN).is_err(), "byte {at}");
            assert!(
                open(&bytes[..at], Kind::Context, ORIGIN).is_err(),
                "{at} bytes"
            );
        }
        let mut longer = bytes.clone();
        longer.push(0);
        let expected = bytes.len() as u64;
        let len = expected + 1;
        assert_eq!(
            open(&longer, Kind::Context, ORIGIN),
            Err(StateError::Length { len, expected })
        );
    }

    #[test]
    fn a_frame_tells_where_it_comes_from() {
        let bytes = framed();
        let other = |llama, model| open(&bytes, Kind::Context, Origin { llama, model });
        assert_eq!(other(3, 2), Err(StateError::OtherLlama));
        assert_eq!(other(1, 3), Err(StateError::OtherModel));
        assert_eq!(
            open(&bytes, Kind::Sequence, ORIGIN),
            Err(StateError::OfContext)
        );
        assert_eq!(
            open(&bytes[..HEADER - 1], Kind::Context, ORIGIN),
            Err(StateError::NotAState)
        );
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        let mut bytes = framed();
        let n_tokens = 8 + 4 + 4 + 8 + 8;
        bytes[n_tokens..n_tokens + 16].fill(0xFF);
        assert!(matches!(
            open(&bytes, Kind::Context, ORIGIN),
            Err(StateError::Length { .. })
        ));
    }
}
