//! What is asked of an engine.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::chat::{ChatTemplate, Message, Overflow, RenderOptions};
use crate::error::Result;
use crate::model::{Token, Vocab};
use crate::sampler::{Sampler, SamplerChain, Seed};

/// Makes the sampler of one answer.
pub(super) type MakeSampler = dyn Fn(SamplerChain, Seed) -> Result<Sampler> + Send + Sync;

/// What is asked of an engine: a prompt, and how to answer it.
///
/// ```
/// use std::time::Duration;
/// use llama_moe::engine::Request;
/// use llama_moe::Token;
///
/// let request = Request::new(vec![Token(1), Token(17)])
///     .with_max_tokens(100)
///     .with_sampler(|chain, seed| chain.top_k(40).temp(0.7).dist(seed))
///     .with_seed(42)
///     .with_stop_strings(["\n\n"])
///     .with_deadline(Duration::from_secs(30));
/// ```
#[derive(Clone)]
#[must_use]
pub struct Request {
    pub(super) prompt: Vec<Token>,
    pub(super) max_tokens: Option<u32>,
    pub(super) sampler: Arc<MakeSampler>,
    pub(super) seed: Seed,
    pub(super) stops: Vec<String>,
    pub(super) logit_bias: Vec<(Token, f32)>,
    pub(super) grammar: Option<Grammar>,
    pub(super) deadline: Option<Duration>,
    pub(super) logprobs: Option<usize>,
    pub(super) n: u32,
    pub(super) overflow: Overflow,
    pub(super) special: bool,
    pub(super) reasoning: Option<ReasoningTags>,
}

/// What the text of an answer has to keep to.
#[derive(Clone, Debug)]
pub(super) enum Grammar {
    /// A grammar in GBNF, and its first rule.
    Gbnf { grammar: String, root: String },
    /// A JSON schema.
    #[cfg(feature = "llguidance")]
    JsonSchema(serde_json::Value),
}

/// Between which texts a model thinks before it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReasoningTags {
    pub(super) open: String,
    pub(super) close: String,
    /// The prompt ends with the first of them.
    pub(super) is_open: bool,
}

impl Request {
    /// A prompt of tokens.
    pub fn new(prompt: Vec<Token>) -> Self {
        Self {
            prompt,
            max_tokens: None,
            sampler: Arc::new(crate::chat::default_sampler),
            seed: Seed::Random,
            stops: Vec::new(),
            logit_bias: Vec::new(),
            grammar: None,
            deadline: None,
            logprobs: None,
            n: 1,
            overflow: Overflow::Error,
            special: false,
            reasoning: None,
        }
    }

    /// A text to be continued, with the special tokens around it that the model wants.
    /// Nothing in it is read as a special token.
    ///
    /// # Errors
    /// As [`Vocab::tokenize`].
    pub fn text(vocab: &Vocab, text: &str) -> Result<Self> {
        // What ends a text would end it before it is continued.
        let adds_end = vocab.adds_eos() || vocab.adds_sep();
        if !adds_end {
            return Ok(Self::new(vocab.tokenize(text, true, false)?));
        }
        let mut tokens = vocab.tokenize(text, false, false)?;
        if vocab.adds_bos() {
            tokens.splice(0..0, vocab.bos());
        }
        Ok(Self::new(tokens))
    }

    /// A conversation to be answered, as the template writes it down. A text between `<think>`
    /// and `</think>` at the beginning of the answer, or before `</think>` where the prompt
    /// ends with `<think>`, is [reasoning](Self::with_reasoning_tags).
    ///
    /// gpt-oss has no such tags but channels, whose marks are tokens that are left out of the text
    /// unless [asked for](Self::with_special_tokens): then they can be told apart, as the example
    /// `serve` does it.
    ///
    /// # Errors
    /// As [`ChatTemplate::tokenize`].
    pub fn chat(
        template: &ChatTemplate,
        vocab: &Vocab,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Self> {
        const OPEN: &str = "<think>";
        const CLOSE: &str = "</think>";
        let text = template.render(messages, options)?;
        let tokens = template.tokenize_rendered(vocab, &text)?;
        let is_open = text.trim_end().ends_with(OPEN);
        Ok(Self::new(tokens).with_reasoning_tags(OPEN, CLOSE, is_open))
    }

    /// Tokens of an answer at most, at least 1. Unless set, and at most: what the request has
    /// room for. With [`Overflow::Shift`] there is always room: such an answer goes on until the
    /// model ends it, or whoever reads it does, and what is not read of it takes more and more
    /// memory.
    #[doc(alias = "--predict")]
    pub fn with_max_tokens(mut self, n: u32) -> Self {
        self.max_tokens = Some(n);
        self
    }

    /// How tokens are chosen. The closure is given a chain that begins with the request's bias
    /// and grammar, and ends it; it is called once for each answer, when the request is
    /// submitted. Unless set: as [`ChatParams::with_sampler`](crate::ChatParams::with_sampler)
    /// says.
    ///
    /// A sampler is told the tokens that are generated, and not those of the prompt. One that is
    /// written in Rust runs on the engine's thread: while it takes its time, everybody waits, and
    /// it cannot wait for the engine itself.
    pub fn with_sampler(
        mut self,
        sampler: impl Fn(SamplerChain, Seed) -> Result<Sampler> + Send + Sync + 'static,
    ) -> Self {
        self.sampler = Arc::new(sampler);
        self
    }

    /// The most likely token, always.
    pub fn with_greedy(self) -> Self {
        self.with_sampler(|chain, _| chain.greedy())
    }

    /// Where the randomness of the sampler starts. Of several answers, each has the number
    /// after that of the one before.
    #[doc(alias = "--seed")]
    pub fn with_seed(mut self, seed: impl Into<Seed>) -> Self {
        self.seed = seed.into();
        self
    }

    /// Texts that end an answer, and are no part of it.
    #[doc(alias = "--reverse-prompt")]
    pub fn with_stop_strings(mut self, stops: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.stops = stops.into_iter().map(Into::into).collect();
        self
    }

    /// Adds to the logits of these tokens before any sampler; -infinity rules a token out.
    #[doc(alias = "--logit-bias")]
    pub fn with_logit_bias(mut self, biases: impl IntoIterator<Item = (Token, f32)>) -> Self {
        self.logit_bias = biases.into_iter().collect();
        self
    }

    /// The text keeps to a grammar in GBNF that begins with the rule `root`: see
    /// [`SamplerChain::grammar`], and there what some grammars cost, which all requests pay for:
    /// they are computed in turns. In place of a JSON schema, if there is one.
    #[doc(alias = "--grammar")]
    pub fn with_grammar(mut self, grammar: impl Into<String>, root: impl Into<String>) -> Self {
        self.grammar = Some(Grammar::Gbnf {
            grammar: grammar.into(),
            root: root.into(),
        });
        self
    }

    /// The text is JSON of this schema: see
    /// [`SamplerChain::json_schema`]. In place of a grammar, if there is one.
    #[cfg(feature = "llguidance")]
    #[doc(alias = "--json-schema")]
    pub fn with_json_schema(mut self, schema: serde_json::Value) -> Self {
        self.grammar = Some(Grammar::JsonSchema(schema));
        self
    }

    /// How long the request may take, from when it is submitted, waiting included. An answer
    /// that is not over then ends with
    /// [`FinishReason::Deadline`](crate::FinishReason::Deadline).
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Tells how likely each generated token was, and as many of the likeliest tokens.
    pub fn with_logprobs(mut self, top: usize) -> Self {
        self.logprobs = Some(top);
        self
    }

    /// How many answers, at least 1, and at most the engine's slots; 1 unless set. The prompt
    /// is computed once, unless it is not worth
    /// [copying](super::EngineParams::with_kv_unified). They begin together, so such a request
    /// waits until there are as many slots.
    pub fn with_n(mut self, n: u32) -> Self {
        self.n = n;
        self
    }

    /// What happens when an answer has used up its room.
    ///
    /// [`Overflow::Error`]: it ends with
    /// [`FinishReason::ContextFull`](crate::FinishReason::ContextFull).
    /// [`Overflow::Shift`]: the older half of what was generated is left out, and what remains
    /// is computed anew, which takes a prefill of so many tokens. A prompt that does not leave
    /// room for this ends as before. [Set a limit](Self::with_max_tokens), or there is none.
    #[doc(alias = "--context-shift")]
    pub fn with_overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Whether control tokens that are generated are part of the text, such as those that
    /// some models begin a tool call or a channel with.
    #[doc(alias = "--special")]
    pub fn with_special_tokens(mut self, special: bool) -> Self {
        self.special = special;
        self
    }

    /// The texts between which a model thinks before it answers. What is between them is
    /// [marked](super::Event::Text), and they themselves are no part of the text. Reasoning is
    /// only looked for at the beginning of an answer; with `is_open` it is open from the
    /// start, since the prompt ends with `open`. Empty tags: nothing is looked for.
    pub fn with_reasoning_tags(
        mut self,
        open: impl Into<String>,
        close: impl Into<String>,
        is_open: bool,
    ) -> Self {
        let (open, close) = (open.into(), close.into());
        let none = open.is_empty() || close.is_empty();
        self.reasoning = (!none).then_some(ReasoningTags {
            open,
            close,
            is_open,
        });
        self
    }

    /// The tokens of the prompt.
    #[must_use]
    pub fn prompt(&self) -> &[Token] {
        &self.prompt
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt_tokens", &self.prompt.len())
            .field("max_tokens", &self.max_tokens)
            .field("seed", &self.seed)
            .field("stops", &self.stops)
            .field("n", &self.n)
            .field("overflow", &self.overflow)
            .finish_non_exhaustive()
    }
}
