//! Where requests wait for the engine's thread.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::channel::wake;
use super::error::EngineError;
use super::job::{EmbedJob, Job};

/// How an engine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closing {
    /// Nothing new is taken, and what was taken is done.
    Drain,
    /// Everything ends now.
    Stop,
}

/// Requests that wait, as many as may.
pub(super) struct Inbox {
    state: Mutex<State>,
    /// There is something to do.
    work: Condvar,
    /// There is room again.
    room: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Slots that they find free, as the engine's thread has said last.
    free_slots: usize,
    embeds: VecDeque<EmbedJob>,
    /// Requests to embed that can take turns with those that do, said by that thread too.
    free_turns: usize,
    closing: Option<Closing>,
    /// Tasks that wait for room.
    waiting: Vec<Waker>,
}

impl Inbox {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            capacity,
        }
    }

    /// No code of others runs under the lock, so a panic leaves nothing half done. Wakers and
    /// jobs, with the samplers in them, are code of others where they are cloned or dropped: that
    /// is before the lock is taken, or after it is released.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Requests that have to wait for slots. Those before them will have one as soon as the
    /// engine's thread looks.
    fn n_waiting(&self) -> usize {
        let mut free = self.free_slots;
        let begins = self.jobs.iter().take_while(|job| {
            let left = free.checked_sub(job.samplers.len());
            free = left.unwrap_or(free);
            left.is_some()
        });
        self.jobs.len() - begins.count()
    }
}

/// For those who submit.
impl Inbox {
    /// Adds a request, if there is room.
    pub(super) fn try_push(&self, job: Job) -> Result<(), EngineError> {
        let mut job = Some(job);
        let mut state = self.lock();
        self.push_if(&mut state, &mut job)
    }

    /// Adds a request, after waiting for room if there is none.
    pub(super) fn push(&self, job: Job) -> Result<(), EngineError> {
        let mut job = Some(job);
        let mut state = self.lock();
        loop {
            match self.push_if(&mut state, &mut job) {
                Err(EngineError::QueueFull { .. }) => {}
                result => return result,
            }
            let waited = self.room.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As [`push`](Self::push), for an executor.
    pub(super) fn poll_push(
        &self,
        context: &Context<'_>,
        job: &mut Option<Job>,
    ) -> Poll<Result<(), EngineError>> {
        let waker = context.waker().clone();
        let mut state = self.lock();
        match self.push_if(&mut state, job) {
            Err(EngineError::QueueFull { .. }) => {}
            result => return Poll::Ready(result),
        }
        if !state.waiting.iter().any(|known| known.will_wake(&waker)) {
            state.waiting.push(waker);
        }
        Poll::Pending
    }

    /// Takes the job out of its place, unless there is no room. It is left there on an error, for
    /// it to be dropped without the lock.
    fn push_if(&self, state: &mut State, job: &mut Option<Job>) -> Result<(), EngineError> {
        if state.closing.is_some() {
            return Err(EngineError::Stopped);
        }
        if state.n_waiting() >= self.capacity {
            return Err(EngineError::QueueFull {
                queue: self.capacity,
            });
        }
        state.jobs.extend(job.take());
        self.work.notify_one();
        Ok(())
    }

    /// Adds texts to embed.
    pub(super) fn push_embed(&self, job: EmbedJob) -> Result<(), EngineError> {
        let mut state = self.lock();
        if state.closing.is_some() {
            return Err(EngineError::Stopped);
        }
        if state.embeds.len().saturating_sub(state.free_turns) >= self.capacity {
            return Err(EngineError::QueueFull {
                queue: self.capacity,
            });
        }
        state.embeds.push_back(job);
        self.work.notify_one();
        Ok(())
    }

    /// Takes nothing more. The stricter of two orders holds.
    pub(super) fn close(&self, closing: Closing) {
        let mut state = self.lock();
        state.closing = state.closing.max(Some(closing));
        self.work.notify_one();
        self.wake_waiting(state);
    }

    /// Requests that are here.
    pub(super) fn len(&self) -> usize {
        let state = self.lock();
        state.jobs.len() + state.embeds.len()
    }

    /// Wakes everybody who waits for room, with the lock released.
    fn wake_waiting(&self, mut state: MutexGuard<'_, State>) {
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.room.notify_all();
        for waker in waiting {
            wake(waker);
        }
    }
}

/// For the engine's thread.
impl Inbox {
    /// Waits until there is a request, or an order to end.
    pub(super) fn wait_for_work(&self) {
        let mut state = self.lock();
        while state.jobs.is_empty() && state.embeds.is_empty() && state.closing.is_none() {
            let waited = self.work.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn closing(&self) -> Option<Closing> {
        self.lock().closing
    }

    /// Takes out the requests that are not to be begun any more: cancelled, or too late.
    pub(super) fn sweep(&self, now: Instant) -> (VecDeque<Job>, VecDeque<EmbedJob>) {
        let mut state = self.lock();
        let jobs = take_out(&mut state.jobs, |job| {
            job.is_cancelled() || job.is_late(now)
        });
        let embeds = take_out(&mut state.embeds, |job| job.is_over(now));
        if !jobs.is_empty() {
            self.wake_waiting(state);
        }
        (jobs, embeds)
    }

    /// Takes the request that has waited longest, if it can begin. Its slots are not free any
    /// more.
    pub(super) fn take_if(&self, can_begin: impl FnOnce(&Job) -> bool) -> Option<Job> {
        let mut state = self.lock();
        let first = state.jobs.front()?;
        if !can_begin(first) {
            return None;
        }
        let job = state.jobs.pop_front()?;
        state.free_slots = state.free_slots.saturating_sub(job.samplers.len());
        self.wake_waiting(state);
        Some(job)
    }

    /// Says how many slots the requests find free, and how many of those to embed can begin.
    pub(super) fn set_free(&self, slots: usize, turns: usize) {
        let mut state = self.lock();
        let are_more = slots > state.free_slots;
        state.free_slots = slots;
        state.free_turns = turns;
        if are_more {
            self.wake_waiting(state);
        }
    }

    /// Takes the texts that have waited longest to be embedded.
    pub(super) fn take_embed(&self) -> Option<EmbedJob> {
        let mut state = self.lock();
        let job = state.embeds.pop_front()?;
        state.free_turns = state.free_turns.saturating_sub(1);
        Some(job)
    }

    pub(super) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.jobs.is_empty() && state.embeds.is_empty()
    }

    /// Drops everything, and takes nothing more.
    pub(super) fn empty(&self) {
        let mut state = self.lock();
        state.closing = Some(Closing::Stop);
        let jobs = std::mem::take(&mut state.jobs);
        let embeds = std::mem::take(&mut state.embeds);
        self.wake_waiting(state);
        drop((jobs, embeds));
    }
}

/// Takes out of a queue what is over.
fn take_out<T>(queue: &mut VecDeque<T>, is_over: impl Fn(&T) -> bool) -> VecDeque<T> {
    if !queue.iter().any(&is_over) {
        return VecDeque::new();
    }
    let (over, rest) = std::mem::take(queue).into_iter().partition(is_over);
    *queue = rest;
    over
}
