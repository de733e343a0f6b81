//! Tokens.

use std::fmt;

/// The number of a token in a model's vocabulary.
///
/// Any number can be written here: whatever takes a token checks it against the
/// vocabulary, whose tokens are those from 0 to one below its size.
///
/// Rests on `llama_token`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Token(pub i32);

/// The number.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
