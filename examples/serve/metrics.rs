//! `/metrics`, in the text format of Prometheus.

use std::fmt::{Display, Write};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use llama_moe::MoeCacheStats;

use crate::state::{App, Ready, Served};

/// What the engine has done and does.
pub async fn metrics(State(app): State<Arc<App>>, Ready(served): Ready) -> Response {
    let stats = served.engine.stats();
    let mut text = Text::default();
    let uptime = app.started.elapsed().as_secs_f64();
    text.gauge("uptime_seconds", "Time since the server started", uptime);

    text.family("requests_total", "counter", "Requests by how they ended");
    for (outcome, n) in [
        ("done", stats.requests_done),
        ("cancelled", stats.requests_cancelled),
        ("failed", stats.requests_failed),
        ("refused", stats.requests_refused),
    ] {
        text.sample("requests_total", &format!("{{outcome=\"{outcome}\"}}"), n);
    }
    text.gauge(
        "requests_running",
        "Requests that have a slot, or are being embedded",
        stats.requests_running,
    );
    text.gauge(
        "requests_queued",
        "Requests that wait",
        stats.requests_queued,
    );
    text.gauge(
        "slots",
        "Answers that can be generated at a time",
        stats.slots,
    );
    text.gauge(
        "slots_busy",
        "Answers that are being generated",
        stats.slots_busy,
    );
    text.counter(
        "prompt_tokens_total",
        "Tokens of prompts",
        stats.prompt_tokens,
    );
    text.counter(
        "prompt_tokens_cached_total",
        "Tokens of prompts that the memory held already",
        stats.cached_tokens,
    );
    text.counter(
        "completion_tokens_total",
        "Tokens generated",
        stats.completion_tokens,
    );
    text.counter(
        "draft_tokens_total",
        "Tokens that the draft guessed",
        stats.drafted_tokens,
    );
    text.counter(
        "draft_tokens_accepted_total",
        "Tokens that it guessed rightly",
        stats.accepted_tokens,
    );
    text.counter(
        "drafts_failed_total",
        "Computations of the draft that failed",
        stats.drafts_failed,
    );
    text.counter(
        "embedded_texts_total",
        "Texts embedded",
        stats.embedded_texts,
    );
    text.counter(
        "embedded_tokens_total",
        "Tokens of texts embedded",
        stats.embedded_tokens,
    );
    text.gauge(
        "context_tokens",
        "Tokens that the context has room for",
        stats.n_ctx,
    );
    text.gauge("context_tokens_used", "Tokens that it holds", stats.kv_used);
    text.counter("steps_total", "Batches computed", stats.steps);
    text.counter(
        "preempted_total",
        "Answers that had to make room for others",
        stats.preempted,
    );

    text.family(
        "time_seconds_total",
        "counter",
        "What the engine's thread spent its time on",
    );
    for (what, time) in [
        ("computing", stats.time_computing),
        ("sampling", stats.time_sampling),
        ("other", stats.time_other),
    ] {
        let label = format!("{{on=\"{what}\"}}");
        text.sample("time_seconds_total", &label, time.as_secs_f64());
    }
    if let Some(stats) = &stats.moe_cache {
        moe_cache(&mut text, &served, stats);
    }
    if let Some(time) = stats.cpu_outside {
        text.counter(
            "engine_cpu_seconds_total",
            "CPU time of the engine's thread outside of computations",
            time.as_secs_f64(),
        );
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text.0).into_response()
}

/// The cache of experts. Without one there is nothing.
fn moe_cache(text: &mut Text, served: &Served, stats: &MoeCacheStats) {
    let counts = stats.total();
    text.counter(
        "moe_cache_hits_total",
        "Experts of a layer that a micro-batch found in the cache",
        counts.hits,
    );
    text.counter(
        "moe_cache_misses_total",
        "Experts of a layer that were uploaded into the cache",
        counts.misses,
    );
    text.counter(
        "moe_cache_uploaded_bytes_total",
        "Bytes that were uploaded into the cache",
        counts.uploaded_bytes,
    );
    if let Some(layout) = &served.moe_cache {
        text.gauge(
            "moe_cache_bytes",
            "Bytes that the cache takes of the devices",
            layout.bytes,
        );
        text.gauge(
            "moe_cache_slots",
            "Experts that the cache has room for",
            layout.n_slots(),
        );
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, "", value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, "", value);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP llama_moe_{name} {help}"));
        self.line(format_args!("# TYPE llama_moe_{name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        self.line(format_args!("llama_moe_{name}{labels} {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "{line}");
    }
}
