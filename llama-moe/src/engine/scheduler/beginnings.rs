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
        prefix::find(&candidates, prompt, self.memory.least_copied())
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
