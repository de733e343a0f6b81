//! Where requests wait for the engine's thread.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::channel::{Receiver, Sender, channel};
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
    /// Those who wait for room. There are none while there is room.
    outside: VecDeque<Outside>,
}

/// A request that waits for room.
struct Outside {
    job: Job,
    /// Hears that it has come in.
    entry: Sender<()>,
}

impl Inbox {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
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
        let mut state = self.lock();
        if state.closing.is_some() {
            return Err(EngineError::Stopped);
        }
        if state.n_waiting() >= self.capacity {
            return Err(EngineError::QueueFull {
                queue: self.capacity,
            });
        }
        state.jobs.push_back(job);
        self.work.notify_one();
        Ok(())
    }

    /// Adds a request as soon as there is room, after those who came before. The receiver hears of
    /// it; its channel ends if that is never.
    pub(super) fn push(&self, job: Job) -> Result<Receiver<()>, EngineError> {
        let (entry, entered) = channel();
        let mut state = self.lock();
        if state.closing.is_some() {
            return Err(EngineError::Stopped);
        }
        state.outside.push_back(Outside { job, entry });
        self.let_in(state);
        Ok(entered)
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
        let outside = std::mem::take(&mut state.outside);
        drop(state);
        drop(outside);
    }

    /// Requests that are here.
    pub(super) fn len(&self) -> usize {
        let state = self.lock();
        state.jobs.len() + state.embeds.len()
    }

    /// Lets those in who wait for room, as far as there is room, and tells them with the lock
    /// released.
    fn let_in(&self, mut state: MutexGuard<'_, State>) {
        let mut entries = Vec::new();
        let mut gone = Vec::new();
        while state.n_waiting() < self.capacity
            && let Some(Outside { job, entry }) = state.outside.pop_front()
        {
            // Who does not wait any more has asked for nothing.
            if job.is_cancelled() {
                gone.push(job);
            } else {
                state.jobs.push_back(job);
                entries.push(entry);
            }
        }
        drop(state);
        drop(gone);
        if !entries.is_empty() {
            self.work.notify_one();
        }
        for entry in entries {
            entry.send(());
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
        let is_over = |job: &Job| job.is_cancelled() || job.is_late(now);
        let mut state = self.lock();
        let mut jobs = take_out(&mut state.jobs, is_over);
        let embeds = take_out(&mut state.embeds, |job| job.is_over(now));
        let outside = take_out(&mut state.outside, |outside| is_over(&outside.job));
        self.let_in(state);
        for Outside { job, entry } in outside {
            if !job.is_cancelled() {
                entry.send(());
                jobs.push_back(job);
            }
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
        self.let_in(state);
        Some(job)
    }

    /// Says how many slots the requests find free, and how many of those to embed can begin.
    pub(super) fn set_free(&self, slots: usize, turns: usize) {
        let mut state = self.lock();
        state.free_slots = slots;
        state.free_turns = turns;
        self.let_in(state);
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
        let outside = std::mem::take(&mut state.outside);
        drop(state);
        drop((jobs, embeds, outside));
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
