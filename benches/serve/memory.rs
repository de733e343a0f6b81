//! Memory over many short requests.

use std::path::Path;

use crate::Result;
use crate::load::answers;
use crate::prompts::{Prompts, Random};
use crate::report::verdict;
use crate::server::{Program, Server, Setup};

const CLIENTS: usize = 8;
const SLOTS: u32 = 4;
const N_CTX: u32 = 256;
/// Requests between two looks at the memory.
const AT_A_TIME: usize = 100;
/// Bytes that the second half of the requests may add.
const MAX_GROWTH: u64 = 1 << 20;

/// Sends so many short requests, and says whether the server's memory stays flat: in the first
/// half pools and caches fill, and the second half adds nothing.
pub fn stays_flat(program: &Program, model: &Path, requests: usize) -> Result<bool> {
    let prompts = Prompts::of(model)?;
    let setup = Setup {
        model: model.to_owned(),
        slots: SLOTS,
        n_ctx: N_CTX,
        threads: 1,
        huge_pages: false,
    };
    let server = Server::start(program, &setup)?;
    let process = server.process();
    if process.resident().is_none() {
        println!("skipped: memory, which this system does not tell of");
        return Ok(true);
    }
    let mut random = Random(1);
    let mut seen = Vec::new();
    while seen.len() * AT_A_TIME < requests {
        let mut request = || {
            let length = 4 + random.next() % 60;
            let text = prompts.text(random.next(), length as usize);
            prompts.request(&text, 1 + (random.next() % 8) as u32)
        };
        let batch: Vec<_> = (0..AT_A_TIME).map(|_| request()).collect();
        answers(&server, &batch, CLIENTS)?;
        seen.extend(process.resident());
    }
    let (first, second) = seen.split_at(seen.len() / 2);
    let most = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
    let growth = most(second).saturating_sub(most(first));
    let met = growth <= MAX_GROWTH;
    println!(
        "memory over {} short requests from {CLIENTS} clients: {:.1} MiB at most in the first \
         half, {:.1} in the second: {} KiB more, bound {}: {}",
        seen.len() * AT_A_TIME,
        mib(most(first)),
        mib(most(second)),
        growth >> 10,
        MAX_GROWTH >> 10,
        verdict(met)
    );
    Ok(met)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
