//! What a request is answered with.

use std::time::Duration;

use crate::chat::FinishReason;
use crate::model::Token;

/// One thing that happens to a request, in the order in which it happens.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The next piece of an answer's text.
    Text {
        /// Which answer, from 0: with [`Request::with_n`](super::Request::with_n) there are
        /// several.
        choice: u32,
        /// The piece: whole characters, and nothing of a stop string. Only the last one can be
        /// empty, where there are tokens without text to tell of.
        text: String,
        /// Whether it is what the model tells itself before it answers, between the request's
        /// [reasoning tags](super::Request::with_reasoning_tags).
        is_reasoning: bool,
        /// The tokens that were generated since the last piece. Those whose text is held back,
        /// as the beginning of a stop string for example, come with the piece that settles it.
        /// Tokens of a stop string are told too, and only the one that ends a generation is not.
        tokens: Vec<Token>,
        /// For each of these tokens how likely it was; empty unless
        /// [asked for](super::Request::with_logprobs).
        logprobs: Vec<TokenLogprobs>,
    },

    /// An answer is over.
    Finish {
        /// Which answer.
        choice: u32,
        /// What ended it.
        reason: FinishReason,
    },

    /// All answers are over. This is the last event.
    Done {
        /// Tokens.
        usage: Usage,
        /// Times.
        timings: Timings,
    },
}

/// How likely a generated token was, and which others were likely.
///
/// These are the model's own probabilities: logits as the context computed them, before
/// temperature, bias, grammar or any other sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was chosen.
    pub chosen: TokenLogprob,
    /// The likeliest tokens, the likeliest first.
    pub top: Vec<TokenLogprob>,
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: Token,
    /// The bytes of its text, which need not be UTF-8; control tokens are written out.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability.
    pub logprob: f32,
}

/// The tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were not computed, because the memory held them.
    pub cached_tokens: usize,
    /// Tokens that were generated, in all answers; one that ends a generation is counted.
    pub completion_tokens: usize,
    /// Tokens that a [draft](super::DraftParams) guessed, and that were computed to see whether
    /// they are right.
    pub drafted_tokens: usize,
    /// Those of them that were what the sampler chose: each one saved a step.
    pub accepted_tokens: usize,
}

/// The times of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// From [`submit`](super::Engine::submit) until there was a slot.
    pub queued: Duration,
    /// From then to the first token.
    pub prefill: Duration,
    /// From submit to the first token (TTFT); `None` if there was none.
    pub ttft: Option<Duration>,
    /// From the first token to the last.
    pub decode: Duration,
    /// From submit to the end.
    pub total: Duration,
}

impl Timings {
    /// Generated tokens per second after the first, over all answers of the request; `None`
    /// with fewer than two tokens.
    #[must_use]
    pub fn tokens_per_second(&self, usage: &Usage) -> Option<f64> {
        let n = usage.completion_tokens.checked_sub(1)?;
        let seconds = self.decode.as_secs_f64();
        (n > 0 && seconds > 0.0).then(|| n as f64 / seconds)
    }
}
