//! The tokens and times of a request.

use llama_moe::engine::{Timings, Usage};
use serde::Serialize;

/// Tokens, as the API has them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ApiUsage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct PromptDetails {
    /// Tokens that were not computed, because the memory held them.
    cached_tokens: usize,
}

impl ApiUsage {
    /// The sum of this and another request's.
    pub fn add(&mut self, usage: &Usage) {
        self.prompt_tokens += usage.prompt_tokens;
        self.completion_tokens += usage.completion_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
        self.prompt_tokens_details.cached_tokens += usage.cached_tokens;
    }

    /// Tokens that were only read.
    pub fn of_prompt(prompt_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            total_tokens: prompt_tokens,
            ..Self::default()
        }
    }
}

/// Times, which the API does not have, in milliseconds; and what a draft did to them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ApiTimings {
    queued_ms: f64,
    prefill_ms: f64,
    /// From the request to the first token; null if there was none.
    ttft_ms: Option<f64>,
    decode_ms: f64,
    total_ms: f64,
    /// After the first token; null with fewer than two.
    tokens_per_second: Option<f64>,
    /// Tokens that the draft guessed; left out where it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    draft_n: Option<usize>,
    /// Those of them that it guessed rightly.
    #[serde(skip_serializing_if = "Option::is_none")]
    draft_n_accepted: Option<usize>,
}

impl ApiTimings {
    /// The times of a request.
    pub fn of(timings: &Timings, usage: &Usage) -> Self {
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
        let is_drafted = usage.drafted_tokens > 0;
        Self {
            queued_ms: ms(timings.queued),
            prefill_ms: ms(timings.prefill),
            ttft_ms: timings.ttft.map(ms),
            decode_ms: ms(timings.decode),
            total_ms: ms(timings.total),
            tokens_per_second: timings.tokens_per_second(usage),
            draft_n: is_drafted.then_some(usage.drafted_tokens),
            draft_n_accepted: is_drafted.then_some(usage.accepted_tokens),
        }
    }
}
