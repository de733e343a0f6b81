//! Who is answered when: continuous batching.

mod beginnings;
mod drafts;
mod ends;
mod failures;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::answer::{Answer, RequestId, State};
use super::clock::Stopwatch;
use super::drafter::{Drafter, Drafts};
use super::error::EngineError;
use super::event::Event;
use super::logprobs::Likelihoods;
use super::memory::{Part, SlotMemory};
use super::params::Settings;
use super::reply::Reply;
use super::schedule::{self, Room, Share};
use super::shared::Shared;
use super::stats::EngineStats;
use crate::chat::FinishReason;
use crate::context::{Context, DecodeError};
use crate::error::{Error, Result};
use crate::model::{Token, Vocab};

/// The answers that are being generated, and the memory that they share.
pub(super) struct Scheduler {
    shared: Arc<Shared>,
    vocab: Vocab,
    memory: SlotMemory,
    drafter: Option<Drafter>,
    /// One place for each slot.
    answers: Vec<Option<Answer>>,
    /// The step in which each slot was last used.
    last_used: Vec<u64>,
    replies: HashMap<RequestId, Reply>,
    /// Replies that are over, and their last items: who reads them finds the numbers of
    /// [`EngineStats`] up to date.
    over: Vec<(Reply, Result<Event>)>,
    /// The memory has no room for the request that comes next, whatever slots are free.
    is_short: bool,
    n_requests: RequestId,
    n_steps: u64,
    /// Positions that an answer can have.
    n_ctx: usize,
    prefill_chunk: Option<usize>,
    prefix_cache: bool,
    kv_unified: bool,
}

impl Scheduler {
    pub(super) fn new(
        shared: Arc<Shared>,
        settings: &Settings,
        context: Context,
        drafter: Option<Drafter>,
    ) -> Self {
        let n_slots = settings.slots as usize;
        Self {
            vocab: shared.model.vocab(),
            memory: SlotMemory::new(context, settings.context.clone(), settings.kv_unified),
            drafter,
            answers: (0..n_slots).map(|_| None).collect(),
            last_used: vec![0; n_slots],
            replies: HashMap::new(),
            over: Vec::new(),
            is_short: false,
            n_requests: 0,
            n_steps: 0,
            n_ctx: shared.n_ctx_per_request.unwrap_or(0),
            prefill_chunk: settings.prefill_chunk.map(|n| n as usize),
            prefix_cache: settings.prefix_cache,
            kv_unified: settings.kv_unified,
            shared,
        }
    }

    /// Whether nothing is being answered.
    pub(super) fn is_idle(&self) -> bool {
        self.replies.is_empty()
    }

    /// Requests that are being answered.
    pub(super) fn n_running(&self) -> usize {
        self.replies.len()
    }

    /// Slots that the requests that come next can have.
    pub(super) fn open_slots(&self) -> usize {
        if self.is_short { 0 } else { self.n_free() }
    }

    fn n_free(&self) -> usize {
        self.answers.iter().filter(|slot| slot.is_none()).count()
    }

    /// What there is now.
    pub(super) fn count(&mut self, stats: &mut EngineStats) {
        stats.slots_busy = self.answers.iter().flatten().count();
        stats.n_ctx = self.memory.n_ctx();
        stats.kv_used = self.memory.used();
        stats.moe_cache = self.memory.moe_cache_stats();
    }

    /// Ends the streams of the requests that are over.
    pub(super) fn tell(&mut self) {
        for (reply, last) in self.over.drain(..) {
            reply.end(last);
        }
    }

    /// Slots and their answers.
    fn running(&self) -> impl Iterator<Item = (usize, &Answer)> {
        let answers = self.answers.iter().enumerate();
        answers.filter_map(|(slot, answer)| Some((slot, answer.as_ref()?)))
    }
}

/// Steps.
impl Scheduler {
    /// Computes one batch, and chooses the tokens that come next.
    ///
    /// # Errors
    /// If there is no context to go on with.
    pub(super) fn step(&mut self, stats: &mut EngineStats) -> Result<()> {
        self.unpark()?;
        let shares = self.shares()?;
        if shares.is_empty() {
            return Ok(());
        }
        self.n_steps += 1;
        stats.steps += 1;
        let watch = Stopwatch::start();
        let mut drafts = self.draft(&shares, stats);
        let mut computed = self.compute(&shares, &drafts);
        if !drafts.is_empty() && matches!(computed, Err(Error::Decode(DecodeError::NoRoom { .. })))
        {
            // What is only guessed needs no room.
            let slots: Vec<usize> = drafts.drain().map(|(slot, _)| slot).collect();
            self.refuse_drafts(&slots);
            computed = self.compute(&shares, &drafts);
        }
        stats.count_computing(&watch);
        match computed {
            Ok(outputs) => {
                for share in &shares {
                    if let Some(answer) = &mut self.answers[share.slot] {
                        answer.is_suspect = false;
                        answer.is_restarted = false;
                    }
                }
                let n_rebuilt = self.memory.n_rebuilt();
                for (slot, output) in outputs {
                    match drafts.get(&slot) {
                        Some(draft) => self.choose_drafted(slot, output, draft, stats)?,
                        None => self.choose(slot, output, stats)?,
                    }
                    if self.memory.n_rebuilt() != n_rebuilt {
                        // The other outputs are lost with the context, and computed anew.
                        break;
                    }
                }
                Ok(())
            }
            Err(error) => self.recover(&shares, error, stats),
        }
    }

    /// Computes a batch. Returned are the slots of those whose next token can be chosen, and the
    /// first output of each.
    fn compute(&mut self, shares: &[Share], drafts: &Drafts) -> Result<Vec<(usize, usize)>> {
        let parts: Vec<Part<'_>> = shares
            .iter()
            .filter_map(|share| {
                let slot = share.slot;
                let answer = self.answers[slot].as_ref()?;
                let missing = answer.tokens.get(self.memory.held(slot).len()..)?;
                let tokens = missing.get(..share.n_tokens)?;
                Some(if tokens.len() == missing.len() {
                    let drafted = drafts.get(&slot).map_or(&[][..], Vec::as_slice);
                    Part::with_output(slot, tokens).with_drafted(drafted)
                } else {
                    Part::without_output(slot, tokens)
                })
            })
            .collect();
        self.memory.compute(&parts)
    }

    /// What the next batch computes.
    fn shares(&mut self) -> Result<Vec<Share>> {
        for slot in 0..self.answers.len() {
            self.reconcile(slot)?;
        }
        let mut running: Vec<(usize, &Answer)> = self
            .running()
            .filter(|(_, answer)| answer.state == State::Runs)
            .collect();
        running.sort_by_key(|(_, answer)| answer.request);
        let todo: Vec<Share> = running
            .into_iter()
            .map(|(slot, answer)| Share {
                slot,
                n_tokens: answer.tokens.len() - self.memory.held(slot).len(),
            })
            .collect();
        let n_batch = self.memory.n_batch();
        let is_suspect = |share: &&Share| {
            let answer = self.answers[share.slot].as_ref();
            answer.is_some_and(|answer| answer.is_suspect)
        };
        if let Some(share) = todo.iter().find(is_suspect) {
            let n_tokens = share.n_tokens.min(n_batch);
            return Ok(vec![Share { n_tokens, ..*share }]);
        }
        let room = Room {
            n_batch,
            n_ubatch: self.memory.n_ubatch(),
            prefill_chunk: self.prefill_chunk,
            kv_unified: self.kv_unified,
        };
        Ok(schedule::divide(&todo, room, self.n_steps))
    }

    /// After tokens were left out of an answer that had used up its room: the memory keeps what
    /// comes before. It is the only time that the memory holds as much as the answer has.
    fn reconcile(&mut self, slot: usize) -> Result<()> {
        let Some(answer) = &self.answers[slot] else {
            return Ok(());
        };
        if answer.state != State::Runs || self.memory.held(slot).len() < answer.tokens.len() {
            return Ok(());
        }
        let n_prompt = answer.n_prompt;
        let cut = self.memory.cut(slot, n_prompt);
        let cut = match cut {
            Ok(false) => self.memory.clear(slot),
            result => result.map(|_| ()),
        };
        match cut {
            Ok(()) => Ok(()),
            Err(error) => self.rebuild(&error),
        }
    }

    /// Chooses the next token of an answer, and of those that follow it, from an output.
    fn choose(&mut self, slot: usize, output: usize, stats: &mut EngineStats) -> Result<()> {
        let followers: Vec<usize> = self
            .running()
            .filter(|(_, answer)| answer.state == State::Follows { slot })
            .map(|(follower, _)| follower)
            .collect();
        let n_rebuilt = self.memory.n_rebuilt();
        let n_tokens = self.memory.held(slot).len();
        let is_copied = n_tokens >= self.memory.least_copied();
        for &follower in &followers {
            if !is_copied {
                // It computes the prompt itself.
                self.forget(follower)?;
            } else if let Err(error) = self.memory.copy(slot, follower, n_tokens) {
                return self.rebuild(&error);
            }
            if let Some(answer) = &mut self.answers[follower] {
                answer.state = State::Runs;
            }
        }
        let followers = followers.into_iter().filter(|_| is_copied);
        for slot in std::iter::once(slot).chain(followers) {
            if self.memory.n_rebuilt() != n_rebuilt {
                break;
            }
            let end = self
                .choose_one(slot, output, stats)
                .map(|chosen| chosen.and_then(|chosen| chosen.end));
            self.conclude(slot, end, stats)?;
        }
        Ok(())
    }

    /// Ends an answer if something does.
    fn conclude(
        &mut self,
        slot: usize,
        end: Result<Option<FinishReason>>,
        stats: &mut EngineStats,
    ) -> Result<()> {
        match end {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => self.finish(slot, reason, stats),
            Err(error) => self.fail(slot, error, stats),
        }
    }

    /// Chooses the next token of an answer; `None` if there is no such answer any more.
    fn choose_one(
        &mut self,
        slot: usize,
        output: usize,
        stats: &mut EngineStats,
    ) -> Result<Option<Chosen>> {
        let Some(answer) = &mut self.answers[slot] else {
            return Ok(None);
        };
        let Some(reply) = self.replies.get_mut(&answer.request) else {
            return Ok(None);
        };
        let started = Instant::now();
        let context = self.memory.context()?;
        let token = answer.sampler.sample(context, Some(output));
        stats.time_sampling += started.elapsed();
        let token = token?;
        stats.completion_tokens += 1;
        let logprobs = match answer.n_top {
            None => None,
            Some(n_top) => {
                let logits = context.logits(output)?;
                let logit = logits.get(token.0 as usize).copied();
                let logit = logit.unwrap_or(f32::NEG_INFINITY);
                Some(Likelihoods::new(logits, n_top).of(&self.vocab, token, logit)?)
            }
        };
        let end = answer.take(token, logprobs, self.n_ctx, &self.vocab, reply)?;
        Ok(Some(Chosen { token, end }))
    }
}

/// A token that was chosen.
struct Chosen {
    token: Token,
    /// What ends the answer, if it ends with this token.
    end: Option<FinishReason>,
}

fn compute_error(error: &Error) -> EngineError {
    EngineError::Compute {
        reason: error.to_string(),
    }
}
