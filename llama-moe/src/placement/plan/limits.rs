//! The physical limit of a plan: how fast its weights can be read.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use super::Plan;

/// Upper bounds of a plan's speed, from how fast the weights that are in system memory can be
/// read. What is measured later is lower: published figures reach 0.3 to 0.5 of the decode bound.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Limits {
    /// Bytes per second that system memory delivers.
    pub host_bandwidth: f64,
    /// Tokens per second of one sequence: each reads the experts it uses, and whatever else is
    /// in system memory. `None` where nothing is.
    pub decode: Option<f64>,
    /// Tokens per second of a prompt in pieces of `n_ubatch` tokens, which together read most
    /// experts once. `None` as above.
    pub prefill: Option<f64>,
}

impl Plan {
    /// The bounds for a bandwidth, in bytes per second, such as [`host_bandwidth`] measures.
    /// For one that is no positive number there are none.
    #[must_use]
    pub fn limits(&self, host_bandwidth: f64) -> Limits {
        let (used, n_expert) = match &self.moe {
            Some(moe) => (f64::from(moe.n_expert_used), f64::from(moe.n_expert.max(1))),
            None => (1.0, 1.0),
        };
        let experts = self.host.used.experts as f64;
        // Embeddings are in system memory always, but only a row of them is read.
        let others = self.host_bytes_of_layers() as f64;
        let time = |share: f64| (experts * share + others) / host_bandwidth;
        let per_second = |tokens: f64, time: f64| {
            let is_bound = host_bandwidth > 0.0 && time > 0.0 && time.is_finite();
            is_bound.then(|| tokens / time)
        };
        let n_ubatch = f64::from(self.n_ubatch.max(1));
        let seen = 1.0 - (1.0 - (used / n_expert).min(1.0)).powf(n_ubatch);
        Limits {
            host_bandwidth,
            decode: per_second(1.0, time((used / n_expert).min(1.0))),
            prefill: per_second(n_ubatch, time(seen)),
        }
    }
}

/// Measures how many bytes per second all cores together read from system memory: the best of
/// five readings of 256 MiB, in about a fifth of a second.
///
/// Cores in use by others make it less; read it as of this moment.
#[must_use]
pub fn host_bandwidth() -> f64 {
    const WORDS: usize = (256 << 20) / size_of::<u64>();
    const REPETITIONS: usize = 5;

    let n_threads = num_cpus::get_physical().max(1);
    let words: Vec<u64> = (0..WORDS as u64).collect();
    let part = WORDS.div_ceil(n_threads);
    let best = (0..REPETITIONS)
        .map(|_| {
            let start = Instant::now();
            thread::scope(|scope| {
                for part in words.chunks(part) {
                    scope.spawn(|| {
                        let sum = part.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
                        black_box(sum);
                    });
                }
            });
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    (WORDS * size_of::<u64>()) as f64 / best.max(f64::MIN_POSITIVE)
}
