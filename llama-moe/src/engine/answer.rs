//! One answer that is being generated.

use super::event::{Event, TokenLogprobs};
use super::job::Job;
use super::pace::Pace;
use super::reasoning::Piece;
use super::reply::Reply;
use super::text::Text;
use crate::chat::{FinishReason, Overflow};
use crate::error::Result;
use crate::model::{Token, Vocab};
use crate::sampler::Sampler;

/// Requests in the order in which they began.
pub(super) type RequestId = u64;

/// One answer that is being generated, in a slot of its own.
pub(super) struct Answer {
    pub(super) request: RequestId,
    pub(super) choice: u32,
    /// The prompt and what was generated after it, less what was left out. What the memory does
    /// not hold of it is to be computed; when that is done, the next token is chosen.
    pub(super) tokens: Vec<Token>,
    pub(super) n_prompt: usize,
    pub(super) state: State,
    /// A computation that it was part of failed: it is computed alone.
    pub(super) is_suspect: bool,
    /// It was alone and found no room: its memory was emptied.
    pub(super) is_restarted: bool,
    /// The likeliest tokens that are told of, if any.
    pub(super) n_top: Option<usize>,
    pub(super) sampler: Sampler,
    /// How much is guessed of it.
    pub(super) pace: Pace,
    n_generated: usize,
    max_tokens: usize,
    overflow: Overflow,
    text: Text,
    /// Tokens since the last piece of text.
    unsent: Vec<Token>,
    unsent_logprobs: Vec<TokenLogprobs>,
}

/// What an answer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is computed.
    Runs,
    /// Another slot computes the prompt of both.
    Follows {
        /// The other slot.
        slot: usize,
    },
    /// It had to give up its memory, and waits for room.
    Parked,
}

impl Answer {
    pub(super) fn new(
        request: RequestId,
        choice: u32,
        sampler: Sampler,
        job: &Job,
        vocab: &Vocab,
        state: State,
    ) -> Self {
        Self {
            request,
            choice,
            tokens: job.prompt.clone(),
            n_prompt: job.prompt.len(),
            state,
            is_suspect: false,
            is_restarted: false,
            n_top: job.logprobs,
            sampler,
            pace: Pace::new(),
            n_generated: 0,
            max_tokens: job.max_tokens,
            overflow: job.overflow,
            text: Text::new(vocab, job),
            unsent: Vec::new(),
            unsent_logprobs: Vec::new(),
        }
    }

    /// Tokens that may be guessed of what comes next, so that what follows the last of them is still
    /// within what the answer may have.
    pub(super) fn n_guessable(&self, n_ctx: usize) -> usize {
        // Others may wait for the prompt.
        if self.tokens.len() <= self.n_prompt || self.is_suspect {
            return 0;
        }
        let n_left = self.max_tokens.saturating_sub(self.n_generated + 1);
        n_left.min(n_ctx.saturating_sub(self.tokens.len()))
    }

    /// Takes the next token, and tells what ends the answer, if something does.
    pub(super) fn take(
        &mut self,
        token: Token,
        logprobs: Option<TokenLogprobs>,
        n_ctx: usize,
        vocab: &Vocab,
        reply: &mut Reply,
    ) -> Result<Option<FinishReason>> {
        reply.count_token();
        self.n_generated += 1;
        if vocab.is_eog(token) {
            return self.close(FinishReason::EndOfGeneration, reply).map(Some);
        }
        self.tokens.push(token);
        self.unsent.push(token);
        self.unsent_logprobs.extend(logprobs);
        let mut pieces = Vec::new();
        let stop = self.text.push(token, &mut pieces)?;
        if let Some(stop) = stop {
            self.send_last(pieces, reply);
            return Ok(Some(FinishReason::Stop(stop)));
        }
        self.send(pieces, reply);
        if self.n_generated >= self.max_tokens {
            return self.close(FinishReason::Length, reply).map(Some);
        }
        if self.tokens.len() > n_ctx && !self.make_room(n_ctx) {
            return self.close(FinishReason::ContextFull, reply).map(Some);
        }
        Ok(None)
    }

    /// Sends what was held back of the text. A stop string can be complete only now, and then is
    /// the reason.
    pub(super) fn close(&mut self, reason: FinishReason, reply: &Reply) -> Result<FinishReason> {
        let mut pieces = Vec::new();
        let stop = self.text.finish(&mut pieces)?;
        self.send_last(pieces, reply);
        Ok(stop.map_or(reason, FinishReason::Stop))
    }

    /// Leaves out the older half of what was generated. `false` if that may not be, or would
    /// make too little room.
    fn make_room(&mut self, n_ctx: usize) -> bool {
        let n_dropped = (self.tokens.len() - self.n_prompt) / 2;
        if self.overflow != Overflow::Shift || n_dropped < n_ctx / 16 || n_dropped == 0 {
            return false;
        }
        self.tokens.drain(self.n_prompt..self.n_prompt + n_dropped);
        true
    }

    /// Sends the last pieces, and the tokens that have led to none.
    fn send_last(&mut self, mut pieces: Vec<Piece>, reply: &Reply) {
        if pieces.is_empty() && !self.unsent.is_empty() {
            pieces.push(Piece {
                text: String::new(),
                is_reasoning: false,
            });
        }
        self.send(pieces, reply);
    }

    /// Sends pieces of text, with the first of them the tokens that have led to them.
    fn send(&mut self, pieces: Vec<Piece>, reply: &Reply) {
        for Piece { text, is_reasoning } in pieces {
            reply.send(Event::Text {
                choice: self.choice,
                text,
                is_reasoning,
                tokens: std::mem::take(&mut self.unsent),
                logprobs: std::mem::take(&mut self.unsent_logprobs),
            });
        }
    }
}
