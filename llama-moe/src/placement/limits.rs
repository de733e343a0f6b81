//! The physical limit of a placement: how fast its weights can be read.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{MoeCacheLayout, Plan, Preview};
use crate::gguf::Role;

/// Tokens in a batch from which on llama.cpp has a GPU compute with weights in system memory.
const STREAMED_FROM: u32 = 32;

/// Tokens in the largest micro-batch that a cache of experts serves.
const MOST_CACHED: u32 = 32;

/// Upper bounds of a placement's speed, from how fast the weights that are in system memory can
/// be read. What is measured later is lower: published figures reach 0.3 to 0.5 of the decode
/// bound.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Limits {
    /// Bytes per second that system memory delivers.
    pub host_bandwidth: f64,
    /// Tokens of a prompt that are computed at once, 1 at least.
    pub n_ubatch: u32,
    /// Tokens per second of one sequence: each reads the experts it uses, and whatever else is
    /// in system memory. `None` where nothing is. Experts of layers with a cache count as cached
    /// all: how many are is not known.
    pub decode: Option<f64>,
    /// Tokens per second of a prompt in pieces of `n_ubatch` tokens, which together read most
    /// experts once if all are used alike: a router with favourites reads fewer. `None` as above.
    ///
    /// This is so where the CPU computes with them: without a GPU, with one of another machine
    /// (RPC), and without [`op_offload`](crate::ContextParams::with_op_offload). Otherwise see
    /// [`prefill_streamed`](Self::prefill_streamed).
    pub prefill: Option<f64>,
}

impl Limits {
    /// Tokens per second of a prompt where what is in system memory is copied to a GPU that
    /// computes with it, at so many bytes per second. llama.cpp does so for 32 tokens or more at
    /// once (`GGML_OP_OFFLOAD_MIN_BATCH`), copies only the experts that are used, and copies and
    /// computes by turns. So the bound is that of the same bytes at another rate.
    ///
    /// `None` for fewer tokens at once, where nothing is in system memory, and for a rate that is
    /// no positive number.
    #[must_use]
    pub fn prefill_streamed(&self, host_to_device: f64) -> Option<f64> {
        let is_streamed = self.n_ubatch >= STREAMED_FROM;
        let is_rate = host_to_device > 0.0 && host_to_device.is_finite();
        let prefill = self.prefill.filter(|_| is_streamed && is_rate)?;
        Some(prefill / self.host_bandwidth * host_to_device)
    }
}

impl Preview {
    /// The bounds for prompts in pieces of `n_ubatch` tokens (0 counts as 1) and for a bandwidth,
    /// in bytes per second, such as [`host_bandwidth`] measures. For one that is no positive
    /// number there are none.
    #[must_use]
    pub fn limits(&self, n_ubatch: u32, host_bandwidth: f64) -> Limits {
        self.limits_beside(None, n_ubatch, host_bandwidth)
    }

    fn limits_beside(
        &self,
        cache: Option<&MoeCacheLayout>,
        n_ubatch: u32,
        host_bandwidth: f64,
    ) -> Limits {
        let n_ubatch = n_ubatch.max(1);
        let used = self.share_used();
        let others = self.host_bytes_of_layers() as f64;
        let not_cached = self.host_bytes_of_experts(cache) as f64;
        // Pieces that are too large for the cache take from it what it holds.
        let experts = self.host_bytes_of_experts(None) as f64;
        let held = cache.map_or(0, MoeCacheLayout::bytes) as f64;
        let per_second = |tokens: f64, time: f64| {
            let is_bound = host_bandwidth > 0.0 && time > 0.0 && time.is_finite();
            is_bound.then(|| tokens / time)
        };
        let n_tokens = f64::from(n_ubatch);
        let in_pieces = if n_ubatch <= MOST_CACHED {
            not_cached
        } else {
            (experts - held).max(not_cached)
        };
        let time = |experts: f64, share: f64| (experts * share + others) / host_bandwidth;
        let seen = 1.0 - (1.0 - used).powf(n_tokens);
        Limits {
            host_bandwidth,
            n_ubatch,
            decode: per_second(1.0, time(not_cached, used)),
            prefill: per_second(n_tokens, time(in_pieces, seen)),
        }
    }

    /// Bytes in system memory that every token reads, routed experts apart. Embeddings are there
    /// always, but only a row of them is read, unless they are the output too. Blocks that
    /// predict further tokens are read when somebody asks for those.
    pub(super) fn host_bytes_of_layers(&self) -> u64 {
        let tensors = self.tensors();
        let is_output = |name: &str| name == "output.weight";
        let has_output = tensors.iter().any(|tensor| is_output(&tensor.name));
        let tied = tensors
            .iter()
            .rev()
            .find(|tensor| tensor.name == "token_embd.weight");
        let tied = tied.filter(|tensor| !has_output && tensor.is_host);
        let others = tensors
            .iter()
            .filter(|tensor| tensor.is_host)
            .filter(|tensor| {
                let apart = [Role::RoutedExpert, Role::Embedding, Role::Mtp];
                !apart.contains(&tensor.role)
            });
        others.chain(tied).map(|tensor| tensor.bytes).sum()
    }
}

impl Plan {
    /// The bounds of its [preview](Self::preview), for prompts in the pieces that the plan has
    /// room for, with its cache of experts: see [`Preview::limits`].
    #[must_use]
    pub fn limits(&self, host_bandwidth: f64) -> Limits {
        let (preview, n_ubatch) = (self.preview(), self.n_ubatch());
        preview.limits_beside(self.moe_cache(), n_ubatch, host_bandwidth)
    }
}

/// Measures how many bytes per second all cores together read from system memory, in about a
/// fifth of a second: the best of five moments while each core reads memory of its own, 256 MiB
/// together or 16 MiB each, whichever is more. 0 where neither memory nor threads can be had.
///
/// Cores in use by others make it less; read it as of this moment, and of a program that is
/// built with optimisation.
#[must_use]
pub fn host_bandwidth() -> f64 {
    const ALL: usize = 256 << 20;
    const EACH: usize = 16 << 20;
    const MOMENT: Duration = Duration::from_millis(25);
    const MOMENTS: usize = 5;

    let n_threads = num_cpus::get_physical().max(1);
    let n_words = (ALL / n_threads).max(EACH) / size_of::<u64>();
    let (n_read, n_ready) = (AtomicU64::new(0), AtomicUsize::new(0));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let start = || {
            let reader = thread::Builder::new();
            reader.spawn_scoped(scope, || read(n_words, &n_read, &n_ready, &done))
        };
        let readers: Vec<_> = (0..n_threads).map_while(|_| start().ok()).collect();
        while n_ready.load(Ordering::Relaxed) < readers.len() {
            thread::sleep(Duration::from_millis(1));
        }
        let moment = || {
            let (begin, before) = (Instant::now(), n_read.load(Ordering::Relaxed));
            thread::sleep(MOMENT);
            let bytes = n_read.load(Ordering::Relaxed) - before;
            bytes as f64 / begin.elapsed().as_secs_f64()
        };
        let best = (0..MOMENTS).map(|_| moment()).fold(0.0, f64::max);
        done.store(true, Ordering::Relaxed);
        best
    })
}

/// Reads so many words over and over until all is done, and counts the bytes.
fn read(n_words: usize, n_read: &AtomicU64, n_ready: &AtomicUsize, done: &AtomicBool) {
    const PIECE: usize = (256 << 10) / size_of::<u64>();

    let mut words: Vec<u64> = Vec::new();
    if words.try_reserve_exact(n_words).is_ok() {
        // Written by the thread that reads it, it is in the memory next to its core.
        words.extend(0..n_words as u64);
    }
    n_ready.fetch_add(1, Ordering::Relaxed);
    while !words.is_empty() && !done.load(Ordering::Relaxed) {
        for piece in words.chunks(PIECE) {
            let sum = piece.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
            black_box(sum);
            n_read.fetch_add(size_of_val(piece) as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_memory_is_neither_a_disk_nor_a_register() {
        let bandwidth = host_bandwidth();
        assert!((1e8..1e13).contains(&bandwidth), "{bandwidth}");
    }
}
