//! Regular expressions for tensor names.

use std::ffi::{CStr, CString};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use crate::ffi::Regex;

/// The routed experts of a block, as llama.cpp's `--cpu-moe` finds them: gate, up, down
/// and the fused gate-and-up, with their biases and scales, and GroveMoE's chunk experts. The
/// router (`ffn_gate_inp`) and shared experts (`_shexp`) do not match.
const EXPERTS: &str = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps";

/// The feed-forward tensors of a dense block.
const DENSE_FFN: &str = r"\.ffn_(up|down|gate)\.";

/// A regular expression that finds tensors by name: what llama.cpp's loader takes,
/// checked when it is made.
///
/// The grammar is `std::regex`'s ECMAScript, searched for anywhere in a name, so
/// `output` also finds `blk.0.attn_output.weight`; anchor with `^` where that matters. A pattern
/// that means one thing there and another in Rust's `regex` crate is refused, so that
/// nobody has to know both.
#[derive(Clone)]
pub struct Pattern {
    text: CString,
    regex: Arc<Regex>,
}

/// Why a pattern for tensor names is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// An empty pattern would match every tensor.
    #[error("the pattern is empty: it would match every tensor; use '.' if you mean that")]
    Empty,
    /// C strings end at the first NUL.
    #[error("the pattern {pattern:?} has a NUL character at byte {position}")]
    Nul {
        /// The pattern.
        pattern: String,
        /// Byte offset of the NUL.
        position: usize,
    },
    /// A pattern longer than std::regex can safely compile.
    #[error("the pattern is {length} bytes long, more than {max}: {pattern:.60}…")]
    TooLong {
        /// The pattern.
        pattern: String,
        /// Its length in bytes.
        length: usize,
        /// The most there can be.
        max: usize,
    },
    /// Tensor names are ASCII.
    #[error(
        "the pattern {pattern:?} has the character {character:?} at byte {position}, but tensor names are ASCII"
    )]
    NotAscii {
        /// The pattern.
        pattern: String,
        /// The character.
        character: char,
        /// Its byte offset.
        position: usize,
    },
    /// Not a regular expression of the loader's grammar.
    #[error("the pattern {pattern:?} is no ECMAScript regular expression: {reason}")]
    Invalid {
        /// The pattern.
        pattern: String,
        /// std::regex's own words.
        reason: String,
    },
    /// Valid, but with two meanings.
    #[error("the pattern {pattern:?} is ambiguous at byte {position}: {reason}")]
    Ambiguous {
        /// The pattern.
        pattern: String,
        /// Byte offset of the construct.
        position: usize,
        /// What it would mean, and what to write instead.
        reason: &'static str,
    },
}

impl Pattern {
    /// Bytes that a pattern has at most.
    pub(crate) const MAX_LENGTH: usize = Regex::MAX_LENGTH;

    /// Checks and compiles a pattern.
    ///
    /// # Errors
    /// [`PatternError`], which says where and why.
    pub fn new(pattern: impl Into<String>) -> Result<Self, PatternError> {
        let pattern = pattern.into();
        if pattern.is_empty() {
            return Err(PatternError::Empty);
        }
        if pattern.len() > Self::MAX_LENGTH {
            return Err(PatternError::TooLong {
                length: pattern.len(),
                max: Self::MAX_LENGTH,
                pattern,
            });
        }
        if let Some((position, character)) = pattern.char_indices().find(|(_, c)| !c.is_ascii()) {
            return Err(PatternError::NotAscii {
                pattern,
                character,
                position,
            });
        }
        let text = CString::new(pattern.as_str()).map_err(|error| PatternError::Nul {
            position: error.nul_position(),
            pattern: pattern.clone(),
        })?;
        if let Some((position, reason)) = ambiguity(pattern.as_bytes()) {
            return Err(PatternError::Ambiguous {
                pattern,
                position,
                reason,
            });
        }
        let regex = Regex::new(&text).map_err(|failure| PatternError::Invalid {
            pattern,
            reason: failure.reason,
        })?;
        Ok(Self {
            text,
            regex: Arc::new(regex),
        })
    }

    /// All routed experts: what llama.cpp's `--cpu-moe` moves.
    ///
    /// # Errors
    /// None in practice: the pattern is ours, and compiling it is tested.
    pub fn experts() -> Result<Self, PatternError> {
        Self::new(EXPERTS)
    }

    /// The routed experts of these blocks.
    ///
    /// # Errors
    /// [`PatternError::Empty`] without blocks, [`PatternError::TooLong`] with some
    /// thousand.
    pub fn experts_of(blocks: &[u32]) -> Result<Self, PatternError> {
        Self::of_blocks(blocks, EXPERTS)
    }

    /// The feed-forward tensors of these dense blocks: what llama.cpp's `--n-cpu-ffn`
    /// moves.
    ///
    /// # Errors
    /// As [`experts_of`](Self::experts_of).
    pub fn dense_ffn_of(blocks: &[u32]) -> Result<Self, PatternError> {
        Self::of_blocks(blocks, DENSE_FFN)
    }

    /// One alternation instead of one pattern per block: the loader compiles every pattern
    /// anew for every tensor.
    fn of_blocks(blocks: &[u32], tail: &str) -> Result<Self, PatternError> {
        match blocks {
            [] => Err(PatternError::Empty),
            [block] => Self::new(format!(r"blk\.{block}{tail}")),
            _ => {
                let blocks: Vec<String> = blocks.iter().map(u32::to_string).collect();
                Self::new(format!(r"blk\.({}){tail}", blocks.join("|")))
            }
        }
    }

    /// Exactly the tensor with this name.
    ///
    /// # Errors
    /// If the name is empty or none that a tensor can have.
    pub fn tensor(name: &str) -> Result<Self, PatternError> {
        if name.is_empty() {
            return Err(PatternError::Empty);
        }
        Self::new(format!("^{}$", escaped(name)))
    }

    /// The regular expression.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // ASCII, as `new` has checked.
        self.text.to_str().unwrap_or_default()
    }

    /// Whether the loader finds the pattern in this tensor name.
    #[must_use]
    pub fn is_match(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        &self.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.as_str()).finish()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(pattern: &str) -> Result<Self, PatternError> {
        Self::new(pattern)
    }
}

impl TryFrom<&str> for Pattern {
    type Error = PatternError;

    fn try_from(pattern: &str) -> Result<Self, PatternError> {
        Self::new(pattern)
    }
}

/// A text as a regular expression that finds just it.
pub(super) fn escaped(text: &str) -> String {
    let mut pattern = String::new();
    for character in text.chars() {
        if r"^$\.*+?()[]{}|/-".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// Finds the first construct that ECMAScript and Rust's `regex` both accept but read
/// differently. What only one of them accepts needs no mention: the loader's grammar
/// decides, and it is compiled anyway.
fn ambiguity(pattern: &[u8]) -> Option<(usize, &'static str)> {
    let mut class: Option<Range<usize>> = None;
    let mut at = 0;
    while at < pattern.len() {
        let next = pattern.get(at + 1).copied();
        match (pattern[at], &class) {
            (b'\\', _) => {
                if let Some(reason) =
                    next.and_then(|escaped| ambiguous_escape(escaped, class.is_some()))
                {
                    return Some((at, reason));
                }
                at += 1;
            }
            (b'[', None) => {
                let start = at + 1 + usize::from(next == Some(b'^'));
                if pattern.get(start) == Some(&b']') {
                    return Some((
                        at,
                        "an empty class in ECMAScript, a class with ']' in Rust; write '\\]' in it",
                    ));
                }
                class = Some(start..start);
                at = start - 1;
            }
            (b'[', Some(_)) if !matches!(next, Some(b':' | b'.' | b'=')) => {
                return Some((
                    at,
                    "a '[' in a class is itself in ECMAScript and a nested class in Rust; write '\\['",
                ));
            }
            (b'[', Some(_)) => {
                // A named class such as [:digit:]: its own brackets end before ours.
                let tail = &pattern[at + 2..];
                let end = [next.unwrap_or(b':'), b']'];
                let length = tail.windows(2).position(|pair| pair == end)?;
                at += length + 3;
            }
            (b']', Some(_)) => class = None,
            (b'&' | b'~' | b'-', Some(range)) if next == Some(pattern[at]) && at > range.start => {
                return Some((
                    at,
                    "'&&', '--' and '~~' in a class are set operations in Rust; write the character once",
                ));
            }
            _ => {}
        }
        at += 1;
    }
    None
}

fn ambiguous_escape(escaped: u8, in_class: bool) -> Option<&'static str> {
    match escaped {
        b'A' | b'z' => Some("'\\A' and '\\z' are anchors in Rust only; write '^' or '$'"),
        b'a' | b'U' | b'p' | b'P' | b'<' | b'>' => {
            Some("this escape has a special meaning in Rust only; write the character itself")
        }
        b'b' if in_class => Some("'\\b' in a class is a backspace in ECMAScript; leave it out"),
        _ => None,
    }
}
