//! What a reply took.

use std::time::{Duration, Instant};

/// Why a reply ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended it.
    EndOfGeneration,
    /// This stop string came.
    Stop(String),
    /// It has as many tokens as it may have.
    Length,
    /// The context is full.
    ContextFull,
    /// The context's [`AbortToken`](crate::AbortToken) was pulled.
    Aborted,
    /// Its deadline has passed, which requests to an engine can have.
    Deadline,
}

/// What a reply took. Times count from the call that asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplyStats {
    /// Tokens of the prompt: the conversation so far, as the model reads it.
    pub n_prompt: usize,
    /// Tokens of the prompt that the memory held from earlier turns.
    pub n_reused: usize,
    /// Tokens that were left out for the conversation to fit into the context.
    pub n_dropped: usize,
    /// Why it ended; `None` while it goes on, and if it was dropped or failed midway.
    pub finish: Option<FinishReason>,
    token_times: Vec<Duration>,
}

impl ReplyStats {
    pub(super) fn new(n_prompt: usize, n_dropped: usize) -> Self {
        Self {
            n_prompt,
            n_reused: 0,
            n_dropped,
            finish: None,
            token_times: Vec::new(),
        }
    }

    pub(super) fn count_token(&mut self, started: Instant) {
        self.token_times.push(started.elapsed());
    }

    /// Tokens that were generated, the one that ends the generation included.
    #[must_use]
    pub fn n_generated(&self) -> usize {
        self.token_times.len()
    }

    /// When each of them was there.
    #[must_use]
    pub fn token_times(&self) -> &[Duration] {
        &self.token_times
    }

    /// The time to the first token (TTFT).
    #[must_use]
    pub fn ttft(&self) -> Option<Duration> {
        self.token_times.first().copied()
    }

    /// The time to the last token.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.token_times.last().copied()
    }

    /// The time per output token after the first (TPOT): latency less TTFT, divided by the
    /// number of tokens less one. `None` with fewer than two tokens.
    #[must_use]
    pub fn time_per_output_token(&self) -> Option<Duration> {
        time_per_output_token(&self.token_times)
    }
}

/// The time per token after the first, of when each token was there.
pub(crate) fn time_per_output_token(token_times: &[Duration]) -> Option<Duration> {
    let (first, last) = (token_times.first()?, token_times.last()?);
    let n = u32::try_from(token_times.len() - 1).ok()?;
    last.checked_sub(*first)?.checked_div(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_per_token_is_that_after_the_first() {
        let mut stats = ReplyStats::new(0, 0);
        assert_eq!((stats.ttft(), stats.time_per_output_token()), (None, None));
        stats.token_times.push(Duration::from_millis(500));
        assert_eq!(stats.ttft(), Some(Duration::from_millis(500)));
        assert_eq!(stats.time_per_output_token(), None);
        for at in [520, 560, 590] {
            stats.token_times.push(Duration::from_millis(at));
        }
        assert_eq!(stats.n_generated(), 4);
        assert_eq!(stats.latency(), Some(Duration::from_millis(590)));
        assert_eq!(
            stats.time_per_output_token(),
            Some(Duration::from_millis(30))
        );
    }
}
