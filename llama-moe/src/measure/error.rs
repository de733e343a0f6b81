//! What cannot be measured.

use std::path::PathBuf;

/// Something cannot be measured, or was measured wrongly.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// A series has no values.
    #[error("a series has one value at least")]
    NoValues,

    /// A value of a series is no finite number.
    #[error("value {index} of the series is {value}: not a finite number")]
    NotFinite {
        /// The value's index.
        index: usize,
        /// The value.
        value: f64,
    },

    /// There is no prompt.
    #[error("the prompt has no tokens: a run starts from one at least")]
    NoPrompt,

    /// The text for a prompt has no tokens.
    #[error("the text has no tokens of its own: it takes some to fill a prompt")]
    NoText,

    /// No tokens are to be generated.
    #[error("a run generates one token at least")]
    NothingToGenerate,

    /// The prompt and what is to be generated do not fit into the context.
    #[error(
        "a prompt of {n_prompt} tokens and {n_generate} to generate take {} positions, but the \
         context has {n_ctx_seq} for a sequence: shorten them, or make a larger context",
        .n_prompt.saturating_add(n_generate.saturating_sub(1))
    )]
    NoRoom {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Tokens to generate. The last one takes no position.
        n_generate: usize,
        /// Positions that a sequence has.
        n_ctx_seq: u32,
    },

    /// The model has an encoder, or no decoder: it does not go on from a prompt.
    #[error("this model does not go on from a prompt with a decoder alone: nothing to measure")]
    NotADecoder,

    /// The operating system gave no thread to watch the memory with.
    #[error("no thread to watch the memory with: {reason}")]
    NoThread {
        /// Its reason.
        reason: String,
    },

    /// A reply could not be sent to its reader on this machine.
    #[error("no reply is delivered over a connection of this machine to itself: {reason}")]
    Delivery {
        /// The operating system's reason.
        reason: String,
    },

    /// The file with known hashes is not one.
    #[error(
        "'{}' is no file of known hashes ({reason}): delete it, or name another",
        path.display()
    )]
    HashCache {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A file was written to while its hash was worked out.
    #[error("'{}' changed while it was hashed: wait until it is complete", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}
