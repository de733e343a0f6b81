//! Who is answered when: continuous batching.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use super::answer::{Answer, RequestId, State};
use super::error::EngineError;
use super::event::Event;
use super::job::Job;
use super::logprobs::Likelihoods;
use super::memory::SlotMemory;
use super::params::Settings;
use super::prefix::{self, Place};
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
    /// One place for each slot.
    answers: Vec<Option<Answer>>,
    /// The step in which each slot was last used.
    last_used: Vec<u64>,
    replies: HashMap<RequestId, Reply>,
    /// Replies that are over, and their last items: who reads them finds the numbers of
    /// [`EngineStats`] up to date.
    over: Vec<(Reply, Result<Event>)>,
    n_requests: RequestId,
    n_steps: u64,
    /// Positions that an answer can have.
    n_ctx: usize,
    prefill_chunk: Option<usize>,
    prefix_cache: bool,
    kv_unified: bool,
}

impl Scheduler {
    pub(super) fn new(shared: Arc<Shared>, settings: &Settings, context: Context) -> Self {
        let n_slots = settings.slots as usize;
        Self {
            vocab: shared.model.vocab(),
            memory: SlotMemory::new(context, settings.context.clone(), settings.kv_unified),
            answers: (0..n_slots).map(|_| None).collect(),
            last_used: vec![0; n_slots],
            replies: HashMap::new(),
            over: Vec::new(),
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

    /// What there is now.
    pub(super) fn count(&self, stats: &mut EngineStats) {
        stats.requests_running = self.replies.len();
        stats.slots_busy = self.answers.iter().flatten().count();
        stats.n_ctx = self.memory.n_ctx();
        stats.kv_used = self.memory.used();
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

/// Beginnings.
impl Scheduler {
    /// Gives slots to the requests that wait, in their order, as long as there are slots and
    /// room in the memory.
    pub(super) fn admit(&mut self, stats: &mut EngineStats) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        loop {
            // Those who had to give up their place come first.
            if self
                .running()
                .any(|(_, answer)| answer.state == State::Parked)
            {
                return Ok(());
            }
            let n_free = self
                .answers
                .iter()
                .filter(|answer| answer.is_none())
                .count();
            let mut found = None;
            let job = shared.inbox.take_if(|job| {
                if job.samplers.len() > n_free {
                    return false;
                }
                found = self.find(&job.prompt);
                found.is_some_and(|place| self.has_room_for(job, place))
            });
            let (Some(job), Some(place)) = (job, found) else {
                return Ok(());
            };
            self.begin(job, place, stats)?;
        }
    }

    fn find(&mut self, prompt: &[Token]) -> Option<Place> {
        let n_slots = self.answers.len();
        let cuts: Vec<Option<usize>> = (0..n_slots)
            .map(|slot| self.memory.cut_from(slot))
            .collect();
        let candidates: Vec<prefix::Candidate<'_>> = (0..n_slots)
            .map(|slot| prefix::Candidate {
                held: if self.prefix_cache {
                    self.memory.held(slot)
                } else {
                    &[]
                },
                is_busy: self.answers[slot].is_some(),
                last_used: self.last_used[slot],
                cut_from: cuts[slot],
            })
            .collect();
        prefix::find(&candidates, prompt)
    }

    /// Whether the prompt fits beside the answers that are being generated. What is held of
    /// earlier ones makes room.
    fn has_room_for(&self, job: &Job, place: Place) -> bool {
        // A slot with a buffer of its own has room for whatever is accepted.
        if self.is_idle() || !self.kv_unified {
            return true;
        }
        let own = |(_, answer): (_, &Answer)| answer.tokens.len() - answer.n_shared;
        let used: usize = self.running().map(own).sum();
        let is_shared = place.source != place.slot;
        let n_shared = if is_shared { place.n_tokens } else { 0 };
        let n_new = job.prompt.len() - n_shared + job.samplers.len();
        used + n_new <= self.memory.n_ctx()
    }

    fn begin(&mut self, mut job: Job, place: Place, stats: &mut EngineStats) -> Result<()> {
        let n_cached = match self.memory.take_place(place) {
            Ok(n_cached) => n_cached,
            Err(error) => {
                self.rebuild(&error)?;
                0
            }
        };
        let request = self.n_requests;
        self.n_requests += 1;
        let slot = place.slot;
        let samplers = std::mem::take(&mut job.samplers);
        for (choice, sampler) in (0..).zip(samplers) {
            let (slot, state) = if choice == 0 {
                (slot, State::Runs)
            } else {
                let Some(free) = self.oldest_free() else {
                    break;
                };
                (free, State::Follows { slot })
            };
            let mut answer = Answer::new(request, choice, sampler, &job, &self.vocab, state);
            if choice > 0 {
                answer.n_shared = answer.n_prompt;
            } else if place.source != place.slot {
                answer.n_shared = n_cached;
            }
            self.answers[slot] = Some(answer);
            self.last_used[slot] = self.n_steps;
        }
        self.last_used[place.source] = self.n_steps;
        stats.prompt_tokens += job.prompt.len() as u64;
        stats.cached_tokens += n_cached as u64;
        let n_answers = self.of_request(request).len();
        let mut reply = Reply::new(job, n_answers);
        reply.begin(n_cached);
        self.replies.insert(request, reply);
        Ok(())
    }

    /// The free slot that has been used least recently, an empty one first.
    fn oldest_free(&self) -> Option<usize> {
        let free = (0..self.answers.len()).filter(|&slot| self.answers[slot].is_none());
        free.min_by_key(|&slot| (!self.memory.held(slot).is_empty(), self.last_used[slot]))
    }
}

/// Ends.
impl Scheduler {
    /// Ends the answers that nobody reads any more, and those that are too late.
    pub(super) fn sweep(&mut self, now: Instant, stats: &mut EngineStats) -> Result<()> {
        let cancelled: Vec<RequestId> = self.requests(Reply::is_cancelled);
        for request in cancelled {
            self.replies.remove(&request);
            self.release(request)?;
            stats.requests_cancelled += 1;
        }
        for request in self.requests(|reply| reply.is_late(now)) {
            for slot in self.of_request(request) {
                self.close(slot, FinishReason::Deadline, stats)?;
            }
        }
        Ok(())
    }

    fn requests(&self, is_meant: impl Fn(&Reply) -> bool) -> Vec<RequestId> {
        let replies = self.replies.iter();
        let meant = replies.filter(|(_, reply)| is_meant(reply));
        meant.map(|(&request, _)| request).collect()
    }

    /// The slots of a request's answers.
    fn of_request(&self, request: RequestId) -> Vec<usize> {
        let slots = self.running();
        let slots = slots.filter(|(_, answer)| answer.request == request);
        slots.map(|(slot, _)| slot).collect()
    }

    /// Ends an answer after sending what was held back of its text.
    fn close(&mut self, slot: usize, reason: FinishReason, stats: &mut EngineStats) -> Result<()> {
        let Some(answer) = &mut self.answers[slot] else {
            return Ok(());
        };
        let Some(reply) = self.replies.get(&answer.request) else {
            return Ok(());
        };
        match answer.close(reason, reply) {
            Ok(reason) => self.finish(slot, reason, stats),
            Err(error) => self.fail(slot, error, stats),
        }
    }

    /// Ends an answer.
    fn finish(&mut self, slot: usize, reason: FinishReason, stats: &mut EngineStats) -> Result<()> {
        let Some(answer) = self.answers[slot].take() else {
            return Ok(());
        };
        if let Entry::Occupied(mut reply) = self.replies.entry(answer.request)
            && reply.get_mut().finish(answer.choice, reason)
        {
            let reply = reply.remove();
            let done = reply.done();
            self.over.push((reply, Ok(done)));
            stats.requests_done += 1;
        }
        self.leave(slot)
    }

    /// Ends all answers of the request that has this slot.
    fn fail(&mut self, slot: usize, error: Error, stats: &mut EngineStats) -> Result<()> {
        let Some(request) = self.answers[slot].as_ref().map(|answer| answer.request) else {
            return Ok(());
        };
        if let Some(reply) = self.replies.remove(&request) {
            self.over.push((reply, Err(error)));
            stats.requests_failed += 1;
        }
        self.release(request)
    }

    /// Ends everything.
    pub(super) fn fail_all(&mut self, error: &Error, stats: &mut EngineStats) {
        self.answers.iter_mut().for_each(|answer| *answer = None);
        for (_, reply) in self.replies.drain() {
            self.over.push((reply, Err(compute_error(error).into())));
            stats.requests_failed += 1;
        }
    }

    /// Frees the slots of a request.
    fn release(&mut self, request: RequestId) -> Result<()> {
        for slot in self.of_request(request) {
            self.answers[slot] = None;
            self.leave(slot)?;
        }
        Ok(())
    }

    /// What a slot holds stays for the next prompt that begins so.
    fn leave(&mut self, slot: usize) -> Result<()> {
        self.last_used[slot] = self.n_steps;
        if !self.prefix_cache
            && let Err(error) = self.memory.clear(slot)
        {
            self.rebuild(&error)?;
        }
        Ok(())
    }
}

/// Steps.
impl Scheduler {
    /// Computes one batch, and chooses the tokens that come next.
    ///
    /// # Errors
    /// If there is no context to go on with.
    pub(super) fn step(&mut self, stats: &mut EngineStats) -> Result<()> {
        self.unpark();
        let shares = self.shares()?;
        if shares.is_empty() {
            return Ok(());
        }
        self.n_steps += 1;
        stats.steps += 1;
        let started = Instant::now();
        let answers = &self.answers;
        let parts = shares.iter().filter_map(|&Share { slot, n_tokens }| {
            let answer = answers[slot].as_ref()?;
            Some((slot, answer, n_tokens))
        });
        let held: Vec<usize> = (0..answers.len())
            .map(|slot| self.memory.held(slot).len())
            .collect();
        let computed = self.memory.compute(parts.map(|(slot, answer, n_tokens)| {
            let end = held[slot] + n_tokens;
            let is_last = end == answer.tokens.len();
            (slot, &answer.tokens[held[slot]..end], is_last)
        }));
        stats.time_computing += started.elapsed();
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
                    self.choose(slot, output, stats)?;
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

    /// What the next batch computes.
    fn shares(&mut self) -> Result<Vec<Share>> {
        for slot in 0..self.answers.len() {
            self.reconcile(slot)?;
        }
        let todo: Vec<Share> = self
            .running()
            .filter(|(_, answer)| answer.state == State::Runs)
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
        };
        Ok(schedule::divide(&todo, room, self.n_steps as usize))
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
        for &follower in &followers {
            let n_tokens = self.memory.held(slot).len();
            if let Err(error) = self.memory.copy(slot, follower, n_tokens) {
                return self.rebuild(&error);
            }
            if let Some(answer) = &mut self.answers[follower] {
                answer.state = State::Runs;
            }
        }
        for slot in std::iter::once(slot).chain(followers) {
            if self.memory.n_rebuilt() != n_rebuilt {
                break;
            }
            match self.choose_one(slot, output, stats) {
                Ok(None) => {}
                Ok(Some(reason)) => self.finish(slot, reason, stats)?,
                Err(error) => self.fail(slot, error, stats)?,
            }
        }
        Ok(())
    }

    fn choose_one(
        &mut self,
        slot: usize,
        output: usize,
        stats: &mut EngineStats,
    ) -> Result<Option<FinishReason>> {
        let Some(answer) = &mut self.answers[slot] else {
            return Ok(None);
        };
        let (Some(reply), Some(sampler)) =
            (self.replies.get_mut(&answer.request), answer.sampler.get())
        else {
            return Ok(None);
        };
        let started = Instant::now();
        let context = self.memory.context();
        let token = sampler.sample(context, Some(output));
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
        answer.take(token, logprobs, self.n_ctx, &self.vocab, reply)
    }
}

/// Failures.
impl Scheduler {
    /// After a batch that was not computed.
    fn recover(&mut self, shares: &[Share], error: Error, stats: &mut EngineStats) -> Result<()> {
        match error {
            // It is only aborted when everything ends.
            Error::Decode(DecodeError::Aborted) => Ok(()),
            Error::Decode(DecodeError::NoRoom { .. }) => self.make_room(shares, error, stats),
            error => self.find_culprit(shares, error, stats),
        }
    }

    /// Finds out whose fault it was: everybody is computed alone, and who fails again is out.
    fn find_culprit(
        &mut self,
        shares: &[Share],
        error: Error,
        stats: &mut EngineStats,
    ) -> Result<()> {
        for share in shares {
            if let Err(error) = self.memory.settle(share.slot) {
                self.rebuild(&error)?;
                break;
            }
        }
        if let [share] = shares
            && self.answers[share.slot]
                .as_ref()
                .is_some_and(|answer| answer.is_suspect)
        {
            return self.fail(share.slot, compute_error(&error).into(), stats);
        }
        tracing::warn!("a batch failed, and its answers are computed one by one: {error}");
        for share in shares {
            if let Some(answer) = &mut self.answers[share.slot] {
                answer.is_suspect = true;
            }
        }
        Ok(())
    }

    /// Makes room in the memory: first what is held of earlier answers goes, then the answer
    /// that began last waits.
    fn make_room(&mut self, shares: &[Share], error: Error, stats: &mut EngineStats) -> Result<()> {
        let idle = (0..self.answers.len())
            .filter(|&slot| self.may_forget(slot))
            .min_by_key(|&slot| self.last_used[slot]);
        if let Some(slot) = idle {
            return self.forget(slot);
        }
        let mut active: Vec<(RequestId, u32, usize)> = self
            .running()
            .filter(|(_, answer)| answer.state == State::Runs)
            .map(|(slot, answer)| (answer.request, answer.choice, slot))
            .collect();
        active.sort_unstable();
        match active[..] {
            [.., _, (_, _, last)] => {
                if let Some(answer) = &mut self.answers[last] {
                    answer.state = State::Parked;
                }
                stats.preempted += 1;
                self.forget(last)
            }
            [(_, _, slot)] => match &mut self.answers[slot] {
                Some(answer) if !answer.is_restarted => {
                    answer.is_restarted = true;
                    self.forget(slot)
                }
                _ => self.fail(slot, compute_error(&error).into(), stats),
            },
            [] => self.find_culprit(shares, error, stats),
        }
    }

    /// Whether a slot holds what no running answer needs.
    fn may_forget(&self, slot: usize) -> bool {
        let is_needed = |answer: &Answer| answer.state == State::Runs;
        !self.memory.held(slot).is_empty() && !self.answers[slot].as_ref().is_some_and(is_needed)
    }

    fn forget(&mut self, slot: usize) -> Result<()> {
        if let Some(answer) = &mut self.answers[slot] {
            answer.n_shared = 0;
        }
        match self.memory.clear(slot) {
            Ok(()) => Ok(()),
            Err(error) => self.rebuild(&error),
        }
    }

    /// Lets answers that had to wait go on, in their order, once there is room or nobody else
    /// is computed.
    fn unpark(&mut self) {
        let mut parked: Vec<(RequestId, u32, usize)> = Vec::new();
        let (mut used, mut n_active) = (0, 0);
        for (slot, answer) in self.running() {
            match answer.state {
                State::Parked => parked.push((answer.request, answer.choice, slot)),
                State::Runs => {
                    used += answer.tokens.len();
                    n_active += 1;
                }
                State::Follows { .. } => {}
            }
        }
        parked.sort_unstable();
        let n_ctx = self.memory.n_ctx();
        for (_, _, slot) in parked {
            let Some(answer) = &mut self.answers[slot] else {
                continue;
            };
            // Room for all to grow, so that nobody has to wait again at once.
            used += answer.tokens.len() + n_ctx / 16;
            if n_active > 0 && used > n_ctx {
                return;
            }
            answer.state = State::Runs;
            n_active += 1;
        }
    }

    /// Another context in place of one that failed. Everything is computed anew.
    fn rebuild(&mut self, error: &Error) -> Result<()> {
        tracing::warn!("the context is made anew: {error}");
        for answer in self.answers.iter_mut().flatten() {
            answer.n_shared = 0;
        }
        self.memory.rebuild(&self.shared.model)
    }
}

fn compute_error(error: &Error) -> EngineError {
    EngineError::Compute {
        reason: error.to_string(),
    }
}
