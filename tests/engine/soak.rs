//! Many requests for a long time: nothing is lost, and memory does not grow. Some seconds unless
//! `SOAK_SECONDS` says how many.

use std::thread;
use std::time::{Duration, Instant};

use llama_moe::engine::Engine;

use crate::rig::{MODEL, check_free, engine, greedy, prompt};

fn duration() -> Duration {
    let seconds = std::env::var("SOAK_SECONDS").ok();
    Duration::from_secs(seconds.map_or(4, |seconds| seconds.parse().expect("a number of seconds")))
}

/// Submits requests of all kinds, one after the other, of which some are dropped midway.
fn submit_until(engine: &Engine, end: Instant, client: usize) {
    for round in (client..).step_by(7) {
        if Instant::now() > end {
            return;
        }
        let n_prompt = 1 + (round * 37) % 150;
        let request = greedy(prompt(n_prompt, round % 5), 1 + (round % 30) as u32)
            .with_n(1 + u32::from(round % 6 == 0))
            .with_stop_strings(["the"])
            .with_deadline(Duration::from_millis(1 + (round as u64 * 13) % 400));
        let stream = engine.submit_wait(request).unwrap();
        if round % 4 == 0 {
            drop(stream.take(round % 9).collect::<Vec<_>>());
        } else {
            stream.wait().unwrap();
        }
    }
}

fn run(engine: &Engine, duration: Duration) {
    let end = Instant::now() + duration;
    thread::scope(|scope| {
        for client in 0..8 {
            scope.spawn(move || submit_until(engine, end, client));
        }
    });
}

#[test]
fn memory_is_flat_and_no_slot_is_lost() {
    let engine = engine(4);
    run(&engine, duration() / 2);
    let before = resident();
    run(&engine, duration() / 2);
    let grown = resident().saturating_sub(before);
    // Other tests run beside this one, each with a model and a context of its own.
    assert!(grown < 256 << 20, "{grown} bytes more");
    check_free(&engine);
    assert!(engine.model().is_same(&MODEL));
    let stats = engine.stats();
    assert!(
        stats.requests_done > 20 && stats.requests_cancelled > 0,
        "{stats:?}"
    );
    assert_eq!(stats.requests_failed, 0);
}

/// Bytes of this process that are in memory; 0 where that is not known.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1);
    pages
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or(0)
        * 4096
}
