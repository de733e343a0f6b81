//! The OpenAI API: the parts of it that a model of text can answer.
//!
//! Fields that are not known are left alone, as clients send many; a known field that has a
//! value that cannot be honoured is an error that names it.

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod error;
mod generation;
mod input;
mod logprobs;
mod message;
pub mod models;
mod reply;
mod response_format;
mod stream;
mod tool;
mod usage;

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

pub use error::{ApiError, ApiResult};
use input::Input;

/// A name for an object that no other has: the prefix and 16 hexadecimal digits.
fn new_id(prefix: &str) -> String {
    // The standard library's hash keys come from the operating system.
    format!("{prefix}{:016x}", RandomState::new().hash_one(prefix))
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// One value or several.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(value) => vec![value],
            Self::Many(values) => values,
        }
    }
}
