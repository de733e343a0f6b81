//! Ending answers and requests.

use std::collections::hash_map::Entry;
use std::time::Instant;

use super::{Scheduler, compute_error};
use crate::chat::FinishReason;
use crate::engine::answer::RequestId;
use crate::engine::reply::Reply;
use crate::engine::stats::EngineStats;
use crate::error::{Error, Result};

impl Scheduler {
    /// Ends the answers that nobody reads any more, and those that are too late.
    pub(in crate::engine) fn sweep(&mut self, now: Instant, stats: &mut EngineStats) -> Result<()> {
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
    pub(super) fn of_request(&self, request: RequestId) -> Vec<usize> {
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
    pub(super) fn finish(
        &mut self,
        slot: usize,
        reason: FinishReason,
        stats: &mut EngineStats,
    ) -> Result<()> {
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
    pub(super) fn fail(
        &mut self,
        slot: usize,
        error: Error,
        stats: &mut EngineStats,
    ) -> Result<()> {
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
    pub(in crate::engine) fn fail_all(&mut self, error: &Error, stats: &mut EngineStats) {
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
        if self.prefix_cache {
            return Ok(());
        }
        self.forget_draft(slot);
        self.forget(slot)
    }
}
