//! What can go wrong in an engine.

/// Why an engine does not take a request, or does not finish it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine has been stopped or shut down, or has failed as a whole.
    #[error("the engine has stopped; make another one")]
    Stopped,

    /// As many requests wait as may.
    #[error(
        "the queue is full: {queue} requests wait already; try again later, or use submit_wait"
    )]
    QueueFull {
        /// Requests that may wait.
        queue: usize,
    },

    /// The prompt has no token.
    #[error("the prompt is empty: it takes one token at least")]
    EmptyPrompt,

    /// The prompt leaves no room for a single token of an answer.
    #[error(
        "the prompt has {n_prompt} tokens, but a request has room for {n_ctx}, its answer \
         included; shorten it, or make an engine with a larger context"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Tokens that a request has room for.
        n_ctx: usize,
    },

    /// A request asks for more answers than there are slots.
    #[error("{n} answers are asked for, but there are {slots} slots")]
    TooManyChoices {
        /// Answers asked for.
        n: u32,
        /// Slots of the engine.
        slots: u32,
    },

    /// The model can only embed.
    #[error("this model encodes only: it can embed texts, but not answer")]
    EncodesOnly,

    /// The model needs an encoder's pass before each answer.
    #[error("an engine does not run models that have an encoder and a decoder")]
    EncoderDecoder,

    /// A token of the draft means something else than the same token of the model.
    #[error(
        "the draft has another vocabulary than the model: {difference}; take one of the same \
         family"
    )]
    DraftVocabulary {
        /// The first difference.
        difference: String,
    },

    /// The draft does not go on with a text token by token.
    #[error("the draft has an encoder, or no memory; take one that decodes only")]
    DraftEncodes,

    /// What was guessed wrongly has to be taken out of the memory again.
    #[error(
        "the {whose}'s memory is a state that cannot go back to an earlier token, as it has to \
         where a draft is wrong; leave out the draft, or take another {whose}"
    )]
    DraftNotTakenBack {
        /// "model" or "draft".
        whose: &'static str,
    },

    /// A text to embed has no token.
    #[error("text {index} is empty: it takes one token at least")]
    EmptyText {
        /// The text's index.
        index: usize,
    },

    /// A text to embed does not fit into one batch.
    #[error("text {index} has {n_tokens} tokens, but {limit} can be embedded at once")]
    TextTooLong {
        /// The text's index.
        index: usize,
        /// Its tokens.
        n_tokens: usize,
        /// Tokens that can be embedded at once.
        limit: usize,
    },

    /// The deadline of an [`EmbedRequest`](super::EmbedRequest) passed. An answer that is late
    /// ends without an error, with
    /// [`FinishReason::Deadline`](crate::FinishReason::Deadline).
    #[error("the deadline passed before all texts were embedded")]
    Deadline,

    /// The computation failed for this request: for an answer also when it was computed alone
    /// and anew, for texts to embed at once.
    #[error("the request could not be computed: {reason}")]
    Compute {
        /// The error of the computation.
        reason: String,
    },
}
