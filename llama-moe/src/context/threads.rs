//! How many threads to compute with.

use std::thread;

use crate::error::{Error, Result};
use crate::ffi::sys;

/// ggml's highest level of polling.
const MAX_POLL: u32 = 100;

/// The number of physical cores that this process may use: more threads than that slow
/// generation down.
pub(super) fn physical_cores() -> u32 {
    let allowed = thread::available_parallelism().map_or(1, usize::from);
    let physical = num_cpus::get_physical().max(1);
    u32::try_from(physical.min(allowed))
        .unwrap_or(1)
        .clamp(1, sys::GGML_MAX_N_THREADS)
}

/// A number of threads that ggml can start.
pub(super) fn check(parameter: &'static str, n: u32) -> Result<i32> {
    let max = sys::GGML_MAX_N_THREADS;
    match i32::try_from(n) {
        Ok(threads) if (1..=max).contains(&n) => Ok(threads),
        _ => Err(Error::Parameter {
            parameter,
            value: n.to_string(),
            reason: format!("it is a number from 1 to {max}"),
        }),
    }
}

/// A level of polling that ggml knows.
pub(super) fn check_poll(level: u32) -> Result<()> {
    if level <= MAX_POLL {
        return Ok(());
    }
    Err(Error::Parameter {
        parameter: "with_poll",
        value: level.to_string(),
        reason: format!("it is a level from 0 to {MAX_POLL}"),
    })
}
