//! A reply as it is generated.

use std::time::Instant;

use super::message::Message;
use super::params::Overflow;
use super::session::{Chat, Prompt};
use super::stats::{FinishReason, ReplyStats};
use super::stop::StopFilter;
use crate::error::Result;
use crate::model::{Detokenizer, Token};

/// A reply as it is generated: an iterator over pieces of its text.
///
/// Nothing is computed before the first piece is asked for. A reply may be dropped midway:
/// what was returned of it becomes the assistant's message then, as it does at the
/// end and after an error. If not even one token was generated, there is no message, and
/// what [`Chat::say`] had added is taken back, so that it can be said again.
#[must_use = "a reply is computed as it is iterated"]
pub struct Reply<'a> {
    chat: &'a mut Chat,
    started: Instant,
    stats: ReplyStats,
    /// The prompt, shorter after turns were left out.
    prompt: Vec<Token>,
    /// What was generated after it, less what was dropped. The last token is not in the
    /// memory before another one is asked for.
    generated: Vec<Token>,
    text: Detokenizer,
    filter: StopFilter,
    /// What has been returned.
    said: String,
    /// Whether the last message was added by the call that began the reply.
    asked: bool,
    prepared: bool,
    over: bool,
}

/// What came of one step.
enum Step {
    Token(Token),
    End(FinishReason),
}

impl<'a> Reply<'a> {
    pub(super) fn new(chat: &'a mut Chat, prompt: Prompt, started: Instant, asked: bool) -> Self {
        Self {
            stats: ReplyStats::new(prompt.tokens.len(), prompt.n_dropped),
            prompt: prompt.tokens,
            generated: Vec::new(),
            text: chat.detokenizer(),
            filter: StopFilter::new(&chat.stops),
            said: String::new(),
            prepared: false,
            over: false,
            chat,
            started,
            asked,
        }
    }

    /// What the reply took so far. When it is over, this is [`Chat::stats`].
    #[must_use]
    pub fn stats(&self) -> &ReplyStats {
        &self.stats
    }

    /// The text, as far as it has not been returned yet.
    ///
    /// # Errors
    /// The first error of the iteration.
    pub fn text(self) -> Result<String> {
        self.collect()
    }

    /// Computes until there is text to return; nothing at the end.
    fn advance(&mut self) -> Result<String> {
        loop {
            let (text, finish) = match self.step()? {
                Step::Token(token) => self.take(token)?,
                Step::End(reason) => self.last_text(reason)?,
            };
            self.said.push_str(&text);
            let ends = finish.is_some();
            if ends {
                self.close(finish);
            }
            if ends || !text.is_empty() {
                return Ok(text);
            }
        }
    }

    /// Computes what is not in the memory yet, and samples the next token.
    fn step(&mut self) -> Result<Step> {
        if !self.prepared {
            let shift = self.stats.n_dropped > 0;
            self.stats.n_reused = self.chat.held.prepare(&self.prompt, shift)?;
            self.prepared = true;
        }
        if self.len() > self.chat.held.capacity() && !self.make_room()? {
            return Ok(Step::End(FinishReason::ContextFull));
        }
        let all = self.prompt.iter().chain(&self.generated);
        let new: Vec<Token> = all.skip(self.chat.held.len()).copied().collect();
        if !self.chat.held.decode(&new)? {
            return Ok(Step::End(FinishReason::Aborted));
        }
        let token = self
            .chat
            .sampler
            .sample(&mut self.chat.held.context, None)?;
        self.stats.count_token(self.started);
        if self.chat.vocab.is_eog(token) {
            return Ok(Step::End(FinishReason::EndOfGeneration));
        }
        self.generated.push(token);
        Ok(Step::Token(token))
    }

    /// The text that a token leads to, and whether it ends the reply.
    fn take(&mut self, token: Token) -> Result<(String, Option<FinishReason>)> {
        let piece = self.text.push(token)?;
        let filtered = self.filter.push(&piece);
        if let Some(stop) = filtered.stop {
            return Ok((filtered.text, Some(FinishReason::Stop(stop))));
        }
        let max = self.chat.max_tokens.map_or(usize::MAX, |max| max as usize);
        if self.stats.n_generated() < max {
            return Ok((filtered.text, None));
        }
        let (rest, finish) = self.last_text(FinishReason::Length)?;
        Ok((filtered.text + &rest, finish))
    }

    /// What was held back until now.
    fn last_text(&mut self, reason: FinishReason) -> Result<(String, Option<FinishReason>)> {
        let text = std::mem::replace(&mut self.text, self.chat.detokenizer());
        let filtered = self.filter.push(&text.finish()?);
        Ok(match filtered.stop {
            Some(stop) => (filtered.text, Some(FinishReason::Stop(stop))),
            None => (filtered.text + &self.filter.finish(), Some(reason)),
        })
    }

    /// Drops what can be dropped when the context is full. `false` if nothing can.
    fn make_room(&mut self) -> Result<bool> {
        if self.chat.overflow != Overflow::Shift {
            return Ok(false);
        }
        let capacity = self.chat.held.capacity();
        let before = self.len();
        while self.len() > capacity - capacity / 4 {
            match self.chat.shorter_prompt()? {
                Some(prompt) => self.prompt = prompt,
                None => break,
            }
        }
        if self.len() > capacity {
            let half = self.generated.len() / 2;
            self.generated.drain(..half);
        }
        self.stats.n_dropped += before.saturating_sub(self.len());
        if self.len() > capacity {
            return Ok(false);
        }
        let target = [self.prompt.as_slice(), &self.generated].concat();
        self.chat.held.prepare(&target, true)?;
        Ok(true)
    }

    /// Tokens of the prompt and after it.
    fn len(&self) -> usize {
        self.prompt.len() + self.generated.len()
    }

    /// Ends the reply, and puts it into the conversation.
    fn close(&mut self, finish: Option<FinishReason>) {
        self.over = true;
        self.stats.finish = finish;
        self.chat.stats = Some(self.stats.clone());
        if self.stats.n_generated() > 0 {
            self.chat.push(Message::assistant(self.said.as_str()));
        } else if self.asked {
            self.chat.take_back();
        }
    }
}

impl Iterator for Reply<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        match self.advance() {
            Ok(text) if text.is_empty() => None,
            Ok(text) => Some(Ok(text)),
            Err(error) => {
                self.close(None);
                Some(Err(error))
            }
        }
    }
}

impl std::iter::FusedIterator for Reply<'_> {}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.close(None);
        }
    }
}

impl std::fmt::Debug for Reply<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply")
            .field("said", &self.said)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
