//! How fast memory is, and what that allows for.

use common::Result;
use llama_moe::measure::transfer_rates;
use llama_moe::{Backend, Preview, host_bandwidth};

use crate::results::{Bandwidth, Ceiling, Settings};
use crate::worker::Stages;

/// Tokens that llama.cpp computes at once by default.
const N_UBATCH: u32 = 512;
/// From so many tokens on a GPU of this machine computes with experts in system memory.
const STREAMED: u32 = 32;

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

/// The bounds for one sequence, and for each prompt length.
pub fn ceiling(
    backend: &Backend,
    preview: &Preview,
    settings: &Settings,
    bandwidth: &Bandwidth,
) -> Ceiling {
    let n_ubatch = settings.n_ubatch.unwrap_or(N_UBATCH);
    // Experts go to a GPU of this machine, which computes with them; to a worker they do not.
    let local: Vec<_> = backend
        .gpus()
        .into_iter()
        .filter(|device| device.backend_name() != "RPC")
        .collect();
    let rates = local.iter().filter_map(|device| {
        let name = device.name();
        let rate = bandwidth.devices.iter().find(|rate| rate.device == name)?;
        Some(rate.page_locked.unwrap_or(rate.pageable))
    });
    let rate = rates.reduce(f64::max);
    let prefill = |n_prompt: &usize| {
        let n_prompt = u32::try_from(*n_prompt).unwrap_or(u32::MAX);
        let limits = preview.limits(n_ubatch.min(n_prompt), bandwidth.host);
        match rate {
            _ if local.is_empty() || n_ubatch.min(n_prompt) < STREAMED => limits.prefill,
            Some(rate) => limits.prefill_streamed(rate),
            // What the bus allows for is not known, and the CPU's bound is not that.
            None => None,
        }
    };
    Ceiling {
        decode: preview.limits(n_ubatch, bandwidth.host).decode,
        prefill: settings.prompt_tokens.iter().map(prefill).collect(),
    }
}
