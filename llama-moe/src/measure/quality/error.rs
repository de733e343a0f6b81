//! What can be wrong with a comparison.

use std::path::PathBuf;

use crate::model::Token;

/// A quality that cannot be measured.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QualityError {
    /// A chunk is too short to be scored.
    #[error("chunks of {n_ctx} tokens are too short: {min} at least")]
    ChunkTooShort {
        /// Tokens per chunk that were asked for.
        n_ctx: u32,
        /// The least there can be.
        min: u32,
    },

    /// A text does not fill one chunk.
    #[error(
        "the text has {n_tokens} tokens, less than one chunk of {n_ctx}: take a longer text or shorter chunks"
    )]
    TextTooShort {
        /// Tokens of the text.
        n_tokens: usize,
        /// Tokens per chunk.
        n_ctx: u32,
    },

    /// A sequence of the context has no room for a chunk.
    #[error(
        "a chunk has {chunk} tokens, but a sequence of the context has room for {n_ctx_seq}: make the context with_n_ctx({chunk}) or more"
    )]
    ContextTooSmall {
        /// Tokens per chunk.
        chunk: u32,
        /// Positions per sequence of the context.
        n_ctx_seq: u32,
    },

    /// Two vocabularies differ in size.
    #[error(
        "one side has {base} logits per token, the other {variant}: they are not variants of one model"
    )]
    Vocabulary {
        /// Logits per token of the base.
        base: usize,
        /// Logits per token of the variant.
        variant: usize,
    },

    /// There is nothing to make probabilities of.
    #[error("there are no logits")]
    NoLogits,

    /// A model computed something that is no finite number.
    #[error("{what} {index} is {value}: the model or its computation is broken")]
    NotFinite {
        /// What it is: "logit", "element".
        what: &'static str,
        /// Its index.
        index: usize,
        /// Its value.
        value: f32,
    },

    /// A token has no logit.
    #[error("there is no logit of token {token}: there are {n_logits}")]
    NoLogit {
        /// The token.
        token: Token,
        /// Logits that there are.
        n_logits: usize,
    },

    /// The perplexity is larger than can be written.
    #[error("the perplexity is larger than any number: {mean_nll} nats per token")]
    Overflow {
        /// The mean of the negative log-likelihoods, in nats.
        mean_nll: f64,
    },

    /// A file of logits cannot be used.
    #[error("'{}' is no usable file of logits: {reason}; record the base again", path.display())]
    LogitsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// There is nothing to compare.
    #[error("there are no texts to compare")]
    NoTexts,

    /// Not as many texts on one side as on the other.
    #[error(
        "one side has the embeddings of {base} texts, the other of {variant}: embed the same texts"
    )]
    TextCount {
        /// Texts of the base.
        base: usize,
        /// Texts of the variant.
        variant: usize,
    },

    /// Embeddings of different lengths.
    #[error(
        "one embedding has {base} elements, the other {variant}: they are not of variants of one model"
    )]
    Width {
        /// Elements of the base's.
        base: usize,
        /// Elements of the variant's.
        variant: usize,
    },

    /// An embedding without a direction.
    #[error("an embedding of zeros has no direction to compare")]
    ZeroEmbedding,

    /// A file of tasks cannot be used.
    #[error("'{}' is no usable file of tasks: {reason}", path.display())]
    TaskFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A task's check would run a command.
    #[error(
        "the task '{task}' is checked by a command, which may run what the model writes: allow commands, or leave the task out"
    )]
    CommandsNotAllowed {
        /// The task.
        task: String,
    },

    /// A command that checks replies cannot be run.
    #[error("the command '{program}' that checks a reply cannot be run: {reason}")]
    Command {
        /// The program.
        program: String,
        /// The operating system's reason.
        reason: String,
    },
}
