//! Many requests for a long time: nothing is lost, and memory does not grow. Some seconds unless
//! `LLAMA_MOE_SOAK_SECONDS` says how many; ten minutes are 600.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use llama_moe::engine::Engine;

use crate::rig::{check_free, engine, greedy, prompt};

const SECONDS: u64 = 6;
const CLIENTS: usize = 8;
/// Bytes of memory that the second half may take more than the first: of what the allocator
/// keeps, not of a request, of which there are hundreds a second.
const MAX_GROWTH: u64 = 8 << 20;
/// From so many seconds on, there are so many requests, and of each in the second half no more
/// than so many bytes may be left.
const LONG_SECONDS: u64 = 600;
const LONG_REQUESTS: u64 = 10_000;
const MAX_LEFT: u64 = 512;

/// Set for the process that is measured.
const ALONE: &str = "LLAMA_MOE_SOAK_ALONE";

/// In a process of its own: the memory of other tests, which run beside this one, is not its.
#[test]
fn memory_is_flat_and_no_slot_is_lost() {
    if env::var_os(ALONE).is_some() {
        return soak();
    }
    let run = Command::new(env::current_exe().unwrap())
        .args(["--exact", "soak::memory_is_flat_and_no_slot_is_lost"])
        .arg("--nocapture")
        .env(ALONE, "1")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&run.stdout);
    let stderr = String::from_utf8_lossy(&run.stderr);
    println!("{stdout}{stderr}");
    assert!(run.status.success(), "the soak failed: see above");
    assert!(stdout.contains("1 passed"), "the soak did not run");
}

fn soak() {
    let seconds = match env::var("LLAMA_MOE_SOAK_SECONDS") {
        Ok(seconds) => seconds.parse().expect("a number of seconds"),
        Err(_) => SECONDS,
    };
    let engine = engine(4);
    let end = Instant::now() + Duration::from_secs(seconds);
    let memory = thread::scope(|scope| {
        let engine = &engine;
        for client in 0..CLIENTS {
            scope.spawn(move || submit_until(engine, end, client));
        }
        let mut memory = Vec::new();
        while Instant::now() < end {
            memory.extend(resident());
            thread::sleep(Duration::from_millis(50));
        }
        memory
    });

    check_free(&engine);
    let stats = engine.stats();
    assert!(
        stats.requests_done > 20 && stats.requests_cancelled > 0 && stats.embedded_texts > 0,
        "{stats:?}"
    );
    assert_eq!(stats.requests_failed, 0);
    // Empty where the system does not tell.
    let (first, second) = memory.split_at(memory.len() / 2);
    let most = |half: &[u64]| half.iter().copied().max().unwrap_or(0);
    let (first, second) = (most(first), most(second));
    println!("memory: {first} bytes at most in the first half, {second} in the second; {stats:?}");
    let mut most_growth = MAX_GROWTH;
    if seconds >= LONG_SECONDS {
        let n_requests = stats.requests_done + stats.requests_cancelled;
        assert!(n_requests >= LONG_REQUESTS, "{n_requests} requests");
        most_growth = most_growth.min(n_requests / 2 * MAX_LEFT);
    }
    assert!(
        second <= first + most_growth,
        "{first} bytes at most in the first half, {second} in the second"
    );
}

/// Submits requests of all kinds, one after the other, of which some are dropped midway.
fn submit_until(engine: &Engine, end: Instant, client: usize) {
    for round in (client..).step_by(7) {
        if Instant::now() > end {
            return;
        }
        let n_prompt = 1 + (round * 37) % 150;
        if round % 5 == 0 {
            let texts = vec![prompt(n_prompt, 1); 1 + round % 3];
            let embeddings = engine.embed(texts).unwrap();
            if round % 2 == 0 {
                embeddings.wait().unwrap();
            }
            continue;
        }
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

/// Bytes that this process has in memory of its own, if the system tells.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}
