//! Giving slots to the requests that wait.

use std::sync::Arc;

use super::Scheduler;
use crate::engine::answer::{Answer, State};
use crate::engine::job::Job;
use crate::engine::prefix::{self, Place};
use crate::engine::reply::Reply;
use crate::engine::stats::EngineStats;
use crate::error::Result;
use crate::model::Token;

impl Scheduler {
    /// Gives slots to the requests that wait, in their order, as long as there are slots and
    /// room in the memory.
    pub(in crate::engine) fn admit(&mut self, stats: &mut EngineStats) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        loop {
            // Those who had to give up their place come first.
            let is_parked = |(_, answer): (usize, &Answer)| answer.state == State::Parked;
            let has_parked = self.running().any(is_parked);
            self.is_short = has_parked;
            if has_parked {
                return Ok(());
            }
            let n_free = self.n_free();
            let mut found = None;
            let job = shared.inbox.take_if(|job| {
                if job.samplers.len() > n_free {
                    return false;
                }
                found = self.find(&job.prompt, None);
                let has_room = found.is_some_and(|place| self.has_room_for(job, place));
                self.is_short = !has_room;
                has_room
            });
            let (Some(job), Some(place)) = (job, found) else {
                return Ok(());
            };
            self.begin(job, place, stats)?;
        }
    }

    /// Finds a place for tokens in a slot that is free, or in `only` this one.
    pub(super) fn find(&mut self, tokens: &[Token], only: Option<usize>) -> Option<Place> {
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
                is_busy: match only {
                    Some(only) => slot != only,
                    None => self.answers[slot].is_some(),
                },
                last_used: self.last_used[slot],
                cut_from: cuts[slot],
            })
            .collect();
        prefix::find(&candidates, tokens, self.memory.least_copied())
    }

    /// Whether the prompt fits beside the answers that are being generated. What is held of
    /// earlier ones makes room.
    fn has_room_for(&self, job: &Job, place: Place) -> bool {
        // A slot with a buffer of its own has room for whatever is accepted.
        if self.is_idle() || !self.kv_unified {
            return true;
        }
        let n_new = job.prompt.len() - self.n_shared(place) + job.samplers.len();
        self.needed() + n_new <= self.memory.n_ctx()
    }

    /// How much of what was found for a slot is shared with those that are computed.
    pub(super) fn n_shared(&self, place: Place) -> usize {
        let running = self.running();
        let running = running.filter(|(_, answer)| answer.state == State::Runs);
        let shared = running.map(|(slot, _)| {
            if slot == place.source {
                place.n_tokens
            } else {
                let n_shared = self.memory.n_shared(place.source, slot);
                n_shared.min(place.n_tokens)
            }
        });
        shared.max().unwrap_or(0)
    }

    /// Positions that the answers need, what is still to be computed of them included. Those
    /// that several share count once; what is shared with a slot that is free is needed all the
    /// same. Who waits for room needs none yet.
    pub(super) fn needed(&self) -> usize {
        let mut earlier: Vec<usize> = Vec::new();
        let mut needed = 0;
        for (slot, answer) in self.running() {
            let n_shared = match answer.state {
                State::Parked => continue,
                // It comes to share the prompt with the slot that computes it.
                State::Follows { .. } => answer.n_prompt,
                State::Runs => {
                    let shared = earlier
                        .iter()
                        .map(|&other| self.memory.n_shared(slot, other));
                    shared.max().unwrap_or(0)
                }
            };
            // After tokens were left out, the memory can hold more than the answer has.
            needed += answer.tokens.len().saturating_sub(n_shared);
            earlier.push(slot);
        }
        needed
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
            let answer = Answer::new(request, choice, sampler, &job, &self.vocab, state);
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
