//! How a chat is held.

use super::stop;
use super::template::{ChatTemplate, RenderOptions};
use crate::context::ContextParams;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::sampler::{Sampler, SamplerChain, Seed};

/// Tokens of a chat's context unless a context is given, or what the model was trained
/// with, if that is less.
const DEFAULT_N_CTX: u32 = 4096;

/// How a chat is held.
///
/// ```no_run
/// # use llama_moe::{Backend, ChatParams, ContextParams, Model, ModelParams, SamplerChain};
/// # let backend = Backend::init()?;
/// # let model = Model::load(&backend, "gpt-oss-20b.gguf", ModelParams::default())?;
/// let params = ChatParams::default()
///     .with_context(ContextParams::default().with_n_ctx(16384))
///     .with_sampler(SamplerChain::new().temp(0.7).dist(42)?)
///     .with_system("Answer in one sentence.")
///     .with_max_tokens(256);
/// let mut chat = model.chat(params)?;
/// # Ok::<(), llama_moe::Error>(())
/// ```
#[derive(Default)]
#[must_use]
pub struct ChatParams {
    pub(super) context: Option<ContextParams>,
    pub(super) template: Option<ChatTemplate>,
    pub(super) render: RenderOptions,
    pub(super) sampler: Option<Sampler>,
    pub(super) system: Option<String>,
    pub(super) stops: Vec<String>,
    pub(super) max_tokens: Option<u32>,
    pub(super) overflow: Overflow,
    pub(super) special: bool,
}

/// What happens when a conversation becomes longer than the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// A prompt that does not fit is
    /// [`ChatError::PromptTooLong`](crate::ChatError::PromptTooLong), told before anything is
    /// computed; a reply that reaches the end of the context ends with
    /// [`FinishReason::ContextFull`](crate::FinishReason::ContextFull).
    #[default]
    Error,
    /// The oldest turns are left out of the prompt, whole and no more than needed to have a
    /// quarter of the context free; instructions at the head of the conversation stay. In the
    /// middle of a reply to the only turn that is left, the older half of what was generated
    /// goes. What remains is moved up in the memory instead of being computed again, as
    /// llama.cpp's `--context-shift` does. [`ReplyStats::n_dropped`](crate::ReplyStats::n_dropped)
    /// tells how many tokens went; [`Chat::messages`](crate::Chat::messages) keeps them all.
    ///
    /// Not every memory can do this: [`ChatError::CannotShift`](crate::ChatError::CannotShift).
    Shift,
}

impl ChatParams {
    /// The context that the chat makes for itself; it uses sequence 0. Unless set: the
    /// defaults, with 4096 tokens, or less if the model was trained with less.
    pub fn with_context(mut self, context: ContextParams) -> Self {
        self.context = Some(context);
        self
    }

    /// How messages become a prompt; [`ChatTemplate::of`] the model unless set.
    #[doc(alias = "--chat-template")]
    pub fn with_template(mut self, template: ChatTemplate) -> Self {
        self.template = Some(template);
        self
    }

    /// What the template is told beside the messages: tools, variables. A time that is not
    /// set is that of the chat's beginning, so that the prompt of later turns begins as
    /// before.
    pub fn with_render_options(mut self, options: RenderOptions) -> Self {
        self.render = options;
        self
    }

    /// Chooses the tokens. Unless set: of the 40 most likely tokens (`top_k`), those that
    /// make up 0.95 of the probability (`top_p`) and have at least 0.05 times that of the
    /// likeliest (`min_p`), one is drawn at temperature 0.8, as llama.cpp's programs do by
    /// default.
    ///
    /// A reply begins with the sampler [reset](Sampler::reset): a grammar is at its start,
    /// penalties go by the reply alone, and a seed gives the same reply to the same
    /// conversation.
    pub fn with_sampler(mut self, sampler: Sampler) -> Self {
        self.sampler = Some(sampler);
        self
    }

    /// Standing instructions, the first message of the conversation.
    #[doc(alias = "--system-prompt")]
    pub fn with_system(mut self, content: impl Into<String>) -> Self {
        self.system = Some(content.into());
        self
    }

    /// Texts that end a reply, and are no part of it.
    #[doc(alias = "--reverse-prompt")]
    pub fn with_stop_strings(mut self, stops: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.stops = stops.into_iter().map(Into::into).collect();
        self
    }

    /// The most tokens that a reply may have, at least 1; no limit unless set.
    #[doc(alias = "--predict")]
    pub fn with_max_tokens(mut self, n: u32) -> Self {
        self.max_tokens = Some(n);
        self
    }

    /// What happens when the conversation becomes longer than the context.
    #[doc(alias = "--context-shift")]
    pub fn with_overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Whether control tokens that the model generates are part of the text, such as those
    /// that some models begin a tool call or a channel with.
    #[doc(alias = "--special")]
    pub fn with_special_tokens(mut self, special: bool) -> Self {
        self.special = special;
        self
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<()> {
        stop::check(&self.stops)?;
        if self.max_tokens == Some(0) {
            return Err(Error::Parameter {
                parameter: "with_max_tokens",
                value: "0".to_owned(),
                reason: "a reply has at least one token; leave it out for no limit".to_owned(),
            });
        }
        Ok(())
    }

    /// The parameters of the context.
    pub(super) fn context_for(&self, model: &Model) -> ContextParams {
        self.context.clone().unwrap_or_else(|| {
            let n_ctx = match model.n_ctx_train() {
                0 => DEFAULT_N_CTX,
                trained => trained.min(DEFAULT_N_CTX),
            };
            ContextParams::default().with_n_ctx(n_ctx)
        })
    }
}

/// Ends a chain as llama.cpp's programs do.
pub(crate) fn default_sampler(chain: SamplerChain, seed: Seed) -> Result<Sampler> {
    chain
        .top_k(40)
        .top_p(0.95, 1)
        .min_p(0.05, 1)
        .temp(0.8)
        .dist(seed)
}

impl std::fmt::Debug for ChatParams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatParams")
            .field("system", &self.system)
            .field("stops", &self.stops)
            .field("max_tokens", &self.max_tokens)
            .field("overflow", &self.overflow)
            .finish_non_exhaustive()
    }
}
