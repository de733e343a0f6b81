//! Requests that begin alike, as all of those do that have one system prompt.

use crate::Result;
use crate::client::Answer;
use crate::prompts::Prompts;
use crate::server::Server;

/// Tokens that two requests begin with.
const N_SHARED: usize = 1000;
const N_QUESTION: usize = 16;
const N_ANSWER: u32 = 4;
/// Pairs of requests in one turn.
const PAIRS: u64 = 5;

/// The second request's time to the first token as a share of the first's, where both begin
/// with the same [`N_SHARED`] tokens. The mean of a few pairs.
pub fn share(server: &Server, prompts: &Prompts, seed: u64) -> Result<f64> {
    let client = server.client();
    let ask = |shared: &str, seed: u64| -> Result<Answer> {
        let prompt = format!("{shared} {}", prompts.text(seed, N_QUESTION));
        client.complete(&prompts.request(&prompt, N_ANSWER))
    };
    let mut sum = 0.0;
    for pair in 0..PAIRS {
        let seed = (1 << 40) + (seed * PAIRS + pair) * 4;
        let shared = prompts.text(seed, N_SHARED);
        let first = ask(&shared, seed + 1)?;
        let second = ask(&shared, seed + 2)?;
        sum += second.ttft.as_secs_f64() / first.ttft.as_secs_f64();
    }
    Ok(sum / PAIRS as f64)
}
