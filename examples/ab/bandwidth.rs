//! How fast memory is, and what that allows for.

use common::Result;
use llama_moe::measure::transfer_rates;
use llama_moe::{Backend, Preview, host_bandwidth};

use crate::results::{Bandwidth, Ceiling, Settings};
use crate::worker::Stages;

/// Tokens that llama.cpp computes at once by default.
const N_UBATCH: u32 = 512;

/// Measures it. What of it cannot be measured is a note.
pub fn bandwidth(
    backend: &Backend,
    notes: &mut Vec<String>,
    stages: &mut Stages,
) -> Result<Bandwidth> {
    stages.begin("measuring the bandwidth of memory")?;
    let host = host_bandwidth();
    let mut devices = Vec::new();
    for device in backend.gpus() {
        let name = device.name();
        stages.begin(format!("measuring how fast memory gets to {name}"))?;
        match transfer_rates(&[device]) {
            Ok(rates) => devices.extend(rates),
            Err(error) => notes.push(format!(
                "How fast memory gets to {name} was not measured: {error}."
            )),
        }
    }
    Ok(Bandwidth { host, devices })
}

/// The bounds for one sequence, and for prompts as long as the longest.
pub fn ceiling(
    backend: &Backend,
    preview: &Preview,
    settings: &Settings,
    bandwidth: &Bandwidth,
) -> Ceiling {
    let longest = settings.prompt_tokens.iter().max().copied();
    let longest = u32::try_from(longest.unwrap_or(1)).unwrap_or(u32::MAX);
    let n_ubatch = settings.n_ubatch.unwrap_or(N_UBATCH).min(longest);
    let limits = preview.limits(n_ubatch, bandwidth.host);
    // Experts go to a GPU of this machine, which computes with them; to a worker they do not.
    let local = backend.gpus().into_iter();
    let local = local.filter(|device| device.backend_name() != "RPC");
    let rates = local.filter_map(|device| {
        let name = device.name();
        let rate = bandwidth.devices.iter().find(|rate| rate.device == name)?;
        Some(rate.page_locked.unwrap_or(rate.pageable))
    });
    let streamed = rates
        .reduce(f64::max)
        .and_then(|rate| limits.prefill_streamed(rate));
    Ceiling {
        decode: limits.decode,
        prefill: streamed.or(limits.prefill),
    }
}
