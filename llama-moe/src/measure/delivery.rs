//! A reply on its way to a reader, as a stream or as a whole.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::seconds;
use crate::model::Token;

/// A reply as its reader got it. Times count from when the prompt was handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Delivered {
    /// The tokens that were generated.
    pub tokens: Vec<Token>,
    /// The text that arrived.
    pub text: String,
    /// How many pieces it was sent in.
    pub n_pieces: usize,
    /// When the first piece was there, in seconds.
    #[serde(with = "seconds")]
    pub first: Duration,
    /// When the last was, in seconds.
    #[serde(with = "seconds")]
    pub last: Duration,
}
