//! A request that is being answered.

use std::time::Instant;

use super::channel::Sender;
use super::event::{Event, Timings, Usage};
use super::job::Job;
use crate::chat::FinishReason;
use crate::error::Result;

/// What all answers to a request have in common.
pub(super) struct Reply {
    events: Sender<Result<Event>>,
    deadline: Option<Instant>,
    submitted: Instant,
    begun: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    pub(super) usage: Usage,
    /// Answers that are not over.
    n_open: usize,
}

impl Reply {
    /// For a job whose answers have not begun.
    pub(super) fn new(job: Job, n_answers: usize) -> Self {
        Self {
            events: job.events,
            deadline: job.deadline,
            submitted: job.submitted,
            begun: None,
            first_token: None,
            last_token: None,
            usage: Usage {
                prompt_tokens: job.prompt.len(),
                ..Usage::default()
            },
            n_open: n_answers,
        }
    }

    /// Its answers begin, with so much of the prompt in the memory.
    pub(super) fn begin(&mut self, cached_tokens: usize) {
        self.begun = Some(Instant::now());
        self.usage.cached_tokens = cached_tokens;
    }

    /// Whether nobody reads any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    pub(super) fn count_token(&mut self) {
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        self.usage.completion_tokens += 1;
    }

    pub(super) fn count_draft(&mut self, n_drafted: usize, n_accepted: usize) {
        self.usage.drafted_tokens += n_drafted;
        self.usage.accepted_tokens += n_accepted;
    }

    pub(super) fn send(&self, event: Event) {
        self.events.send(Ok(event));
    }

    /// Ends one answer, and tells whether it was the last one.
    pub(super) fn finish(&mut self, choice: u32, reason: FinishReason) -> bool {
        self.send(Event::Finish { choice, reason });
        self.n_open = self.n_open.saturating_sub(1);
        self.n_open == 0
    }

    /// The last word, once all answers are over.
    pub(super) fn done(&self) -> Event {
        Event::Done {
            usage: self.usage,
            timings: self.timings(),
        }
    }

    /// Ends the stream.
    pub(super) fn end(self, last: Result<Event>) {
        self.events.send(last);
    }

    fn timings(&self) -> Timings {
        let now = Instant::now();
        let since = |end: Instant, start: Instant| end.saturating_duration_since(start);
        let begun = self.begun.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        Timings {
            queued: since(begun, self.submitted),
            prefill: since(first, begun),
            ttft: self.first_token.map(|first| since(first, self.submitted)),
            decode: since(self.last_token.unwrap_or(first), first),
            total: since(now, self.submitted),
        }
    }
}
