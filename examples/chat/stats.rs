//! What a reply took, for `/stats`.

use std::time::Duration;

use common::describe_moe_cache_use;
use llama_moe::{FinishReason, MoeCacheStats, ReplyStats};

/// Why a reply ended, in a word.
pub fn finish(stats: &ReplyStats) -> &'static str {
    match &stats.finish {
        Some(FinishReason::EndOfGeneration) => "end",
        Some(FinishReason::Stop(_)) => "stop",
        Some(FinishReason::Length) => "length",
        Some(FinishReason::ContextFull) => "context full",
        Some(FinishReason::Aborted) => "aborted",
        // It failed, and the error has been said.
        _ => "failed",
    }
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The numbers for a person.
pub fn table(stats: &ReplyStats) -> String {
    let mut lines = vec![
        format!(
            "prompt               {} tokens, {} of them reused",
            stats.n_prompt, stats.n_reused
        ),
        format!(
            "reply                {} tokens, ended by: {}",
            stats.n_generated(),
            finish(stats)
        ),
    ];
    if let Some(time) = stats.ttft() {
        let ms = milliseconds(time);
        lines.push(format!("time to first token  {ms:.1} ms"));
    }
    if let Some(time) = stats.time_per_output_token() {
        let (ms, rate) = (milliseconds(time), time.as_secs_f64().recip());
        lines.push(format!(
            "time per token       {ms:.2} ms ({rate:.1} per second)"
        ));
    }
    lines.join("\n")
}

/// Hits and misses of the cache of experts in the last reply, and since the start.
pub fn moe_cache(now: &MoeCacheStats, before: &MoeCacheStats) -> String {
    format!(
        "cache, this reply    {}\ncache, since start   {}",
        describe_moe_cache_use(&now.since(before).total()),
        describe_moe_cache_use(&now.total())
    )
}
