//! The engine's thread.

use std::sync::Arc;
use std::time::Instant;

use super::clock::Stopwatch;
use super::drafter::Drafter;
use super::embedder::Embedder;
use super::event::Event;
use super::inbox::Closing;
use super::job::Job;
use super::params::Settings;
use super::reply::Reply;
use super::scheduler::Scheduler;
use super::shared::Shared;
use super::stats::EngineStats;
use crate::chat::FinishReason;
use crate::context::Context;
use crate::error::Result;
use crate::ffi::catch_panic;

/// What the engine's thread works with.
pub(super) struct Worker {
    shared: Arc<Shared>,
    /// None for a model that only encodes.
    scheduler: Option<Scheduler>,
    embedder: Embedder,
    /// Replies to requests that never had a slot, and their last items: who reads them finds the
    /// numbers up to date.
    unbegun: Vec<(Reply, Event)>,
    stats: EngineStats,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        settings: &Settings,
        context: Option<Context>,
        drafter: Option<Drafter>,
    ) -> Self {
        let scheduler =
            context.map(|context| Scheduler::new(Arc::clone(&shared), settings, context, drafter));
        let mut worker = Self {
            embedder: Embedder::new(&shared.model, settings),
            scheduler,
            unbegun: Vec::new(),
            stats: EngineStats {
                slots: settings.slots as usize,
                ..EngineStats::default()
            },
            shared,
        };
        worker.publish();
        worker
    }

    /// Works until the engine is to end. Streams whose sender is gone then have ended with
    /// [`EngineError::Stopped`](super::EngineError::Stopped).
    pub(super) fn run(mut self) {
        let mut panic = None;
        catch_panic(&mut panic, || while self.turn() {});
        if let Some(message) = panic {
            tracing::error!("the engine's thread panicked: {message}");
        }
        self.shared.inbox.empty();
        let shared = Arc::clone(&self.shared);
        let mut stats = self.stats;
        catch_panic(&mut None, || drop(self));
        stats.requests_running = 0;
        stats.slots_busy = 0;
        shared.set_stats(&stats);
    }

    /// Does what there is to do between two looks at the clock. `false` if that was all.
    fn turn(&mut self) -> bool {
        let closing = self.shared.inbox.closing();
        if closing == Some(Closing::Stop) {
            return false;
        }
        let watch = Stopwatch::start();
        let before = self.stats;
        if let Err(error) = self.work(watch.started()) {
            tracing::error!("the engine cannot go on: {error}");
            if let Some(scheduler) = &mut self.scheduler {
                scheduler.fail_all(&error, &mut self.stats);
            }
            self.publish();
            return false;
        }
        self.stats.count_other(&watch, &before);
        self.publish();
        if self.is_idle() && self.shared.inbox.is_empty() {
            if closing.is_some() {
                return false;
            }
            self.shared.inbox.wait_for_work();
        }
        true
    }

    fn work(&mut self, now: Instant) -> Result<()> {
        let (jobs, embed_jobs) = self.shared.inbox.sweep(now);
        for job in jobs {
            self.end_unbegun(job);
        }
        for job in embed_jobs {
            self.embedder.give_up(job, &mut self.stats);
        }
        self.begin_to_embed(now);
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.sweep(now, &mut self.stats)?;
            scheduler.admit(&mut self.stats)?;
        }
        // Who has left the queue is running from now on.
        self.count();
        let is_alone = self.scheduler.as_ref().is_none_or(Scheduler::is_idle);
        self.embedder.step(is_alone, &mut self.stats);
        match &mut self.scheduler {
            Some(scheduler) => scheduler.step(&mut self.stats),
            None => Ok(()),
        }
    }

    /// Ends a request that was cancelled, or became too late, before it had a slot.
    fn end_unbegun(&mut self, job: Job) {
        if job.is_cancelled() {
            self.stats.requests_cancelled += 1;
            return;
        }
        let n_answers = job.samplers.len();
        let mut reply = Reply::new(job, n_answers);
        for (choice, _) in (0..).zip(0..n_answers) {
            reply.finish(choice, FinishReason::Deadline);
        }
        self.stats.requests_done += 1;
        let done = reply.done();
        self.unbegun.push((reply, done));
    }

    fn begin_to_embed(&mut self, now: Instant) {
        self.embedder.sweep(now, &mut self.stats);
        while self.embedder.free_turns() > 0
            && let Some(job) = self.shared.inbox.take_embed()
        {
            self.embedder.begin(job);
        }
    }

    fn is_idle(&self) -> bool {
        self.embedder.is_idle() && self.scheduler.as_ref().is_none_or(Scheduler::is_idle)
    }

    /// Tells what there is now.
    fn count(&mut self) {
        let mut n_running = self.embedder.n_running();
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.count(&mut self.stats);
            n_running += scheduler.n_running();
        }
        self.stats.requests_running = n_running;
        self.shared.set_stats(&self.stats);
    }

    fn publish(&mut self) {
        let scheduler = self.scheduler.as_ref();
        let free_slots = scheduler.map_or(0, Scheduler::open_slots);
        let free_turns = self.embedder.free_turns();
        self.shared.inbox.set_free(free_slots, free_turns);
        self.count();
        for (reply, done) in self.unbegun.drain(..) {
            reply.end(Ok(done));
        }
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.tell();
        }
        self.embedder.tell();
    }
}
