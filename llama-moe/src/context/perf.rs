//! What a context counts and times.

use std::time::Duration;

use super::Context;
use crate::error::Result;

/// What a context has computed since it was made, or since
/// [`Context::reset_perf`].
///
/// A batch of several tokens counts as prompt, a batch of one as generation. llama.cpp
/// reports a number of tokens that is 0 as 1.
///
/// Rests on `llama_perf_context_data`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ContextPerf {
    /// From the start of loading the model to the first computation.
    pub load: Duration,
    /// Spent on batches of several tokens; 0 unless times are measured:
    /// [`ContextParams::with_no_perf`](crate::ContextParams::with_no_perf).
    pub prompt_eval: Duration,
    /// Spent on batches of one token; 0 unless times are measured.
    pub eval: Duration,
    /// Tokens in batches of several.
    pub n_prompt_eval: u32,
    /// Batches of one token.
    pub n_eval: u32,
    /// How many times a compute graph could be used again instead of being built.
    pub n_reused: u32,
}

impl Context {
    /// What has been counted and timed, once everything that was started is computed.
    ///
    /// Rests on `llama_perf_context`.
    ///
    /// # Errors
    /// [`Error::Llama`](crate::Error::Llama) if llama.cpp fails while it computes the rest.
    pub fn perf(&mut self) -> Result<ContextPerf> {
        self.synchronize()?;
        let numbers = self.handle.perf();
        let time = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default();
        let count = |n: i32| u32::try_from(n).unwrap_or(0);
        Ok(ContextPerf {
            load: time(numbers.load_ms),
            prompt_eval: time(numbers.prompt_eval_ms),
            eval: time(numbers.eval_ms),
            n_prompt_eval: count(numbers.n_prompt_eval),
            n_eval: count(numbers.n_eval),
            n_reused: count(numbers.n_reused),
        })
    }

    /// Sets counts and times to 0, the time of loading excepted.
    ///
    /// Rests on `llama_perf_context_reset`.
    ///
    /// # Errors
    /// As [`perf`](Self::perf).
    pub fn reset_perf(&mut self) -> Result<()> {
        self.synchronize()?;
        self.handle.reset_perf();
        Ok(())
    }
}
