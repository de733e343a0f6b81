//! A conversation with a model.

use std::time::{Instant, SystemTime};

use super::error::ChatError;
use super::held::Held;
use super::message::{Message, Role};
use super::params::{ChatParams, Overflow, default_sampler};
use super::reply::Reply;
use super::stats::ReplyStats;
use super::template::{ChatTemplate, RenderOptions};
use crate::context::Context;
use crate::error::Result;
use crate::model::{Detokenizer, Model, Token, Vocab};
use crate::sampler::{Sampler, SamplerChain, Seed};

/// A conversation with a model.
///
/// Holds its own context, and the model with it. What a turn adds is computed on top of
/// what the memory holds of the turns before: of the newly written prompt, the longest
/// beginning that is the same is kept.
pub struct Chat {
    pub(super) held: Held,
    pub(super) vocab: Vocab,
    pub(super) sampler: Sampler,
    pub(super) stops: Vec<String>,
    pub(super) max_tokens: Option<u32>,
    pub(super) overflow: Overflow,
    pub(super) stats: Option<ReplyStats>,
    special: bool,
    template: ChatTemplate,
    render: RenderOptions,
    messages: Vec<Message>,
    system: Option<String>,
    /// Messages after the instructions at the head that [`Overflow::Shift`] leaves out.
    n_left_out: usize,
}

/// The tokens of a conversation.
pub(super) struct Prompt {
    pub(super) tokens: Vec<Token>,
    /// Tokens that were left out for it to fit.
    pub(super) n_dropped: usize,
}

impl Model {
    /// Begins a chat.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`] if neither the model nor `params` have a template,
    /// [`ChatError::EmptyStopString`], [`ChatError::CannotShift`];
    /// [`Error::Parameter`](crate::Error::Parameter); and what
    /// [`context`](Self::context) returns.
    pub fn chat(&self, params: ChatParams) -> Result<Chat> {
        params.check()?;
        let context_params = params.context_for(self);
        let abort = context_params.abort_token().cloned();
        let template = match params.template {
            Some(template) => template,
            None => ChatTemplate::of(self)?,
        };
        let sampler = match params.sampler {
            Some(sampler) => sampler,
            None => default_sampler(SamplerChain::new(), Seed::Random)?,
        };
        let mut context = self.context(context_params)?;
        if params.overflow == Overflow::Shift && !context.memory().can_shift() {
            return Err(ChatError::CannotShift.into());
        }
        let mut chat = Chat {
            held: Held::new(context, abort),
            vocab: self.vocab(),
            sampler,
            stops: params.stops,
            max_tokens: params.max_tokens,
            overflow: params.overflow,
            special: params.special,
            stats: None,
            template,
            render: params.render.or_now(SystemTime::now()),
            messages: Vec::new(),
            system: params.system,
            n_left_out: 0,
        };
        chat.reset();
        Ok(chat)
    }
}

impl Chat {
    /// Says something as the user, and begins the reply: see [`reply`](Self::reply).
    ///
    /// If there is an error before the reply's first token, the message is taken back.
    ///
    /// # Errors
    /// As `reply`.
    pub fn say(&mut self, text: impl Into<String>) -> Result<Reply<'_>> {
        self.say_as(Role::User, text)
    }

    /// As [`say`](Self::say), in any role.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn say_as(&mut self, role: impl Into<Role>, text: impl Into<String>) -> Result<Reply<'_>> {
        self.push(Message::new(role, text));
        match self.begin() {
            Ok((prompt, started)) => Ok(Reply::new(self, prompt, started, true)),
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    /// Adds a message without asking for a reply: the result of a tool, or a conversation
    /// from elsewhere.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Begins the model's reply to the messages so far. Nothing is computed before the
    /// reply is iterated.
    ///
    /// ```no_run
    /// # use llama_moe::{Chat, Message, Result, ToolCall};
    /// # fn weather(chat: &mut Chat, city: &str) -> Result<()> {
    /// let call = ToolCall::new("weather", serde_json::json!({ "city": city }));
    /// chat.push(Message::assistant("").with_tool_call(call));
    /// chat.push(Message::tool("sunny, 12 degrees").with_name("weather"));
    /// for piece in chat.reply()? {
    ///     print!("{}", piece?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What [`ChatTemplate::render`] returns; [`ChatError::PromptTooLong`] if the
    /// conversation does not fit; [`ChatError::EmptyPrompt`]; what
    /// [`Sampler::reset`] returns. The chat is as before then.
    pub fn reply(&mut self) -> Result<Reply<'_>> {
        let (prompt, started) = self.begin()?;
        Ok(Reply::new(self, prompt, started, false))
    }

    fn begin(&mut self) -> Result<(Prompt, Instant)> {
        let started = Instant::now();
        let prompt = self.fitting_prompt()?;
        self.sampler.reset()?;
        Ok((prompt, started))
    }

    /// The messages so far, the system's included.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Puts another conversation in place of this one: to go back to an earlier message, or
    /// to go on with one that was saved.
    pub fn set_messages(&mut self, messages: impl IntoIterator<Item = Message>) {
        self.messages = messages.into_iter().collect();
        self.n_left_out = 0;
    }

    /// Begins anew, with the system's message if there was one. What the memory holds
    /// stays until it is known how the next conversation begins.
    pub fn reset(&mut self) {
        let system = self.system.as_deref().map(Message::system);
        self.set_messages(system);
        self.stats = None;
    }

    /// What the last reply took; `None` before the first.
    #[must_use]
    pub fn stats(&self) -> Option<&ReplyStats> {
        self.stats.as_ref()
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        self.vocab.model()
    }

    /// Another sampler from the next reply on.
    pub fn set_sampler(&mut self, sampler: Sampler) {
        self.sampler = sampler;
    }

    /// The context.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.held.context
    }

    /// The context, for what changes it: performance counters, threads, adapters. The chat
    /// counts on sequence 0 of the memory: after changing that, or what is computed into it
    /// (LoRA adapters, control vectors), call [`forget`](Self::forget).
    #[must_use]
    pub fn context_mut(&mut self) -> &mut Context {
        &mut self.held.context
    }

    /// Empties the memory: the next reply computes the whole conversation.
    ///
    /// # Errors
    /// As [`Memory::clear`](crate::Memory::clear).
    pub fn forget(&mut self) -> Result<()> {
        self.held.clear()
    }

    /// For a reply's text. Spaces are kept, so that it becomes the same tokens again in the
    /// next prompt.
    pub(super) fn detokenizer(&self) -> Detokenizer {
        self.vocab
            .detokenizer()
            .with_special(self.special)
            .with_spaces_kept(true)
    }

    /// Takes back the last message.
    pub(super) fn take_back(&mut self) {
        self.messages.pop();
    }

    /// The prompt, with turns left out if it has to be and may be.
    fn fitting_prompt(&mut self) -> Result<Prompt> {
        let n_left_out = self.n_left_out;
        let prompt = self.fit();
        if prompt.is_err() {
            self.n_left_out = n_left_out;
        }
        prompt
    }

    fn fit(&mut self) -> Result<Prompt> {
        let n_ctx = self.held.capacity();
        let mut tokens = self.prompt()?;
        let n_all = tokens.len();
        if self.overflow == Overflow::Shift && n_all >= n_ctx {
            while tokens.len() > n_ctx - n_ctx / 4 && self.leave_out_turn() {
                tokens = self.prompt()?;
            }
        }
        if tokens.len() > n_ctx {
            return Err(ChatError::PromptTooLong {
                n_prompt: tokens.len(),
                n_ctx,
            }
            .into());
        }
        Ok(Prompt {
            n_dropped: n_all.saturating_sub(tokens.len()),
            tokens,
        })
    }

    /// The prompt without the oldest turn; `None` if there is only one.
    pub(super) fn shorter_prompt(&mut self) -> Result<Option<Vec<Token>>> {
        if !self.leave_out_turn() {
            return Ok(None);
        }
        self.prompt().map(Some)
    }

    /// The tokens of the messages that are not left out.
    fn prompt(&self) -> Result<Vec<Token>> {
        let (head, rest) = self.messages.split_at(self.head_len());
        let rest = rest.get(self.n_left_out..).unwrap_or_default();
        self.template
            .tokenize(&self.vocab, &[head, rest].concat(), &self.render)
    }

    /// Instructions at the beginning.
    fn head_len(&self) -> usize {
        let is_instruction =
            |message: &&Message| matches!(message.role, Role::System | Role::Developer);
        self.messages.iter().take_while(is_instruction).count()
    }

    /// Leaves out the messages up to the next one of the user, unless there is none.
    fn leave_out_turn(&mut self) -> bool {
        let first = self.head_len() + self.n_left_out;
        let later = self.messages.iter().skip(first + 1);
        match later
            .take_while(|message| message.role != Role::User)
            .count()
        {
            n if first + 1 + n < self.messages.len() => {
                self.n_left_out += n + 1;
                true
            }
            _ => false,
        }
    }
}

impl std::fmt::Debug for Chat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chat")
            .field("messages", &self.messages)
            .field("n_held", &self.held.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
