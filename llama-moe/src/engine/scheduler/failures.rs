//! What happens after a batch that was not computed.

use super::{Scheduler, compute_error};
use crate::context::DecodeError;
use crate::engine::answer::{Answer, RequestId, State};
use crate::engine::schedule::Share;
use crate::engine::stats::EngineStats;
use crate::error::{Error, Result};

impl Scheduler {
    /// After a batch that was not computed.
    pub(super) fn recover(
        &mut self,
        shares: &[Share],
        error: Error,
        stats: &mut EngineStats,
    ) -> Result<()> {
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

    /// Empties a slot.
    pub(super) fn forget(&mut self, slot: usize) -> Result<()> {
        match self.memory.clear(slot) {
            Ok(()) => Ok(()),
            Err(error) => self.rebuild(&error),
        }
    }

    /// Lets answers that had to wait go on, in their order, once there is room or nobody else
    /// is computed.
    pub(super) fn unpark(&mut self) {
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
    pub(super) fn rebuild(&mut self, error: &Error) -> Result<()> {
        tracing::warn!("the context is made anew: {error}");
        self.memory.rebuild(&self.shared.model)
    }
}
