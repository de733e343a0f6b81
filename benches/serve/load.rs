//! Clients at work, and what they and the server have seen.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;
use crate::client::{Answer, metric};
use crate::report::percentile;
use crate::server::Server;

/// What a load showed.
pub struct Load {
    /// Tokens generated, in a second.
    pub throughput: f64,
    /// Times to the first token, in milliseconds.
    pub ttft_p50: f64,
    pub ttft_p95: f64,
    /// Tokens of the prompts, and those of them that were not computed.
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    /// The share of the server's CPU time that was not llama.cpp's; `None` if nobody tells.
    pub outside: Option<Outside>,
}

/// Shares of a server's CPU time that were not llama.cpp's.
#[derive(Clone, Copy)]
pub struct Outside {
    /// Of the threads for connections and the like.
    pub connections: f64,
    /// Of the engine's thread.
    pub engine: f64,
}

impl Outside {
    pub fn sum(self) -> f64 {
        self.connections + self.engine
    }
}

/// Sends all requests from so many clients. Each sends its next one when it has its answer.
pub fn run(server: &Server, requests: &[Value], clients: usize) -> Result<Load> {
    let before = Spent::of(server)?;
    let start = Instant::now();
    let answers = answers(server, requests, clients)?;
    let time = start.elapsed();
    let after = Spent::of(server)?;

    let sum = |count: fn(&Answer) -> u64| answers.iter().map(count).sum::<u64>();
    let asked: u64 = requests
        .iter()
        .filter_map(|request| request["max_tokens"].as_u64())
        .sum();
    let got = sum(|answer| answer.completion_tokens);
    if got != asked {
        return Err(format!("{asked} tokens were asked for and {got} came").into());
    }
    let ttft = answers
        .iter()
        .map(|answer| 1e3 * answer.ttft.as_secs_f64())
        .collect::<Vec<f64>>();
    Ok(Load {
        throughput: got as f64 / time.as_secs_f64(),
        ttft_p50: percentile(&ttft, 0.50),
        ttft_p95: percentile(&ttft, 0.95),
        prompt_tokens: sum(|answer| answer.prompt_tokens),
        cached_tokens: sum(|answer| answer.cached_tokens),
        outside: before
            .zip(after)
            .map(|(before, after)| after.outside(&before))
            .transpose()?,
    })
}

/// The answers to all requests, in any order.
pub fn answers(server: &Server, requests: &[Value], clients: usize) -> Result<Vec<Answer>> {
    let next = AtomicUsize::new(0);
    let client = || -> Result<Vec<Answer>> {
        let client = server.client();
        let mut answers = Vec::new();
        while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
            answers.push(client.complete(request)?);
        }
        Ok(answers)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| "a client panicked")??);
        }
        Ok(all)
    })
}

/// What a server has spent since its start.
struct Spent {
    /// CPU time of all its threads.
    all: Duration,
    /// CPU time of each of the threads for connections and the like. The server keeps them.
    beside_engine: BTreeMap<u32, Duration>,
    /// CPU time of the engine's thread outside of `llama_decode`, in seconds. That of samplers, of
    /// which most is llama.cpp's, is all in it.
    in_engine: f64,
}

impl Spent {
    fn of(server: &Server) -> Result<Option<Self>> {
        if !server.has_engine {
            return Ok(None);
        }
        let (_, metrics) = server.client().get("/metrics")?;
        let process = server.process();
        // Where the system tells of its threads, the engine tells of its own.
        process
            .cpu()
            .zip(process.cpu_beside_engine())
            .map(|(all, beside_engine)| {
                Ok(Self {
                    all,
                    beside_engine,
                    in_engine: metric(&metrics, "llama_moe_engine_cpu_seconds_total")?,
                })
            })
            .transpose()
    }

    /// The shares of what was spent since `before`.
    ///
    /// # Errors
    /// If a thread has ended since, and its time with it.
    fn outside(&self, before: &Self) -> Result<Outside> {
        let threads = &self.beside_engine;
        if let Some(ended) = before
            .beside_engine
            .keys()
            .find(|id| !threads.contains_key(id))
        {
            let message =
                format!("thread {ended} of the server has ended, and took its time along");
            return Err(message.into());
        }
        let beside = threads.iter().map(|(id, &time)| {
            let before = before.beside_engine.get(id).copied().unwrap_or_default();
            time.saturating_sub(before)
        });
        let beside: Duration = beside.sum();
        let all = self.all.saturating_sub(before.all).as_secs_f64();
        Ok(Outside {
            connections: beside.as_secs_f64() / all,
            engine: (self.in_engine - before.in_engine) / all,
        })
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} tokens/s, TTFT p50 {:.0} ms, p95 {:.0} ms, {} tokens of prompts, {} cached",
            self.throughput, self.ttft_p50, self.ttft_p95, self.prompt_tokens, self.cached_tokens,
        )?;
        match self.outside {
            Some(share) => write!(
                f,
                ", CPU outside of llama.cpp: connections {:.2} %, engine {:.2} %",
                100.0 * share.connections,
                100.0 * share.engine
            ),
            None => Ok(()),
        }
    }
}
