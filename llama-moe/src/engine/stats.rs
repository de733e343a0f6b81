//! What an engine has done, and does.

use std::time::Duration;

use super::clock::Stopwatch;
use crate::context::MoeCacheStats;

/// What an engine has done since it was made, and what it does now.
///
/// Taken between two steps of the engine. Requests to embed are requests too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Requests that came to all their answers' ends, or whose texts were all embedded.
    pub requests_done: u64,
    /// Requests that were cancelled by dropping their stream, or their embeddings.
    pub requests_cancelled: u64,
    /// Requests that ended with an error, but for those that ended with the engine.
    pub requests_failed: u64,
    /// Requests that were refused because the queue was full.
    pub requests_refused: u64,
    /// Requests that have a slot, or whose texts are being embedded.
    pub requests_running: usize,
    /// Requests that wait for a slot, or for their turn to be embedded.
    pub requests_queued: usize,
    /// Slots.
    pub slots: usize,
    /// Slots that an answer is generated in.
    pub slots_busy: usize,
    /// Tokens of the prompts that were given a slot.
    pub prompt_tokens: u64,
    /// Those of them that were not computed, because the memory held them.
    pub cached_tokens: u64,
    /// Tokens that were generated.
    pub completion_tokens: u64,
    /// Tokens that a draft guessed, and that were computed to see whether they are right.
    pub drafted_tokens: u64,
    /// Those of them that were what the sampler chose.
    pub accepted_tokens: u64,
    /// Times that the draft's own computation failed, and answers went on without it.
    pub drafts_failed: u64,
    /// Texts that were embedded.
    pub embedded_texts: u64,
    /// Tokens of these texts.
    pub embedded_tokens: u64,
    /// Positions of the context.
    pub n_ctx: usize,
    /// Positions that hold something: of answers that are being generated, and of earlier
    /// ones that the next prompt may begin as. A position that several share is counted for
    /// each, so this can be more than `n_ctx`.
    pub kv_used: usize,
    /// Batches that were to be computed, those that failed included, those of a draft left out.
    pub steps: u64,
    /// Times that an answer had to give up its place in the memory to others, and was
    /// computed anew later.
    pub preempted: u64,
    /// Statistics of the cache of experts; `None` without a cache. A context that is made anew goes on
    /// with the counts of the one before.
    pub moe_cache: Option<MoeCacheStats>,
    /// Time spent in computations, those of a draft included.
    pub time_computing: Duration,
    /// Time spent choosing tokens: in llama.cpp's samplers, and in those of the requests.
    pub time_sampling: Duration,
    /// Time spent on everything else, waiting for requests left out.
    pub time_other: Duration,
    /// CPU time of the engine's thread outside of computations: of sampling, and of everything
    /// else. Less than these take by the clock, where the thread has to wait for a core. `None`
    /// where the system does not tell: on Linux and Apple's systems it does.
    pub cpu_outside: Option<Duration>,
    /// CPU time of the engine's thread in computations.
    pub(super) cpu_computing: Duration,
}

impl EngineStats {
    /// Counts a computation that has just ended.
    pub(super) fn count_computing(&mut self, watch: &Stopwatch) {
        self.time_computing += watch.elapsed();
        self.cpu_computing += watch.cpu().unwrap_or_default();
    }

    /// Counts what was done since `watch` was started and the numbers were `before`, but is not
    /// counted yet.
    pub(super) fn count_other(&mut self, watch: &Stopwatch, before: &Self) {
        let known = self.time_computing + self.time_sampling;
        let known = known.saturating_sub(before.time_computing + before.time_sampling);
        self.time_other += watch.elapsed().saturating_sub(known);
        if let Some(cpu) = watch.cpu() {
            let computing = self.cpu_computing.saturating_sub(before.cpu_computing);
            *self.cpu_outside.get_or_insert_default() += cpu.saturating_sub(computing);
        }
    }
}
