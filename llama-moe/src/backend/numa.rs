//! Machines whose memory is nearer to some cores than to others.

use once_cell::sync::OnceCell;

use super::Backend;
use crate::error::{Error, Result};
use crate::ffi::{self, sys};

static CHOSEN: OnceCell<NumaStrategy> = OnceCell::new();

/// How threads and memory are spread over NUMA nodes (`enum ggml_numa_strategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NumaStrategy {
    /// Threads are spread over all nodes.
    Distribute,
    /// Threads stay on the node that the program was started on.
    Isolate,
    /// As `numactl` has it set.
    Numactl,
}

impl Backend {
    /// Chooses how llama.cpp uses a machine with several NUMA nodes. To be called before
    /// the first model is loaded; on a machine with one node it has no effect.
    ///
    /// Rests on `llama_numa_init`.
    ///
    /// # Errors
    /// [`Error::Parameter`] if another strategy was chosen before: llama.cpp keeps the
    /// first.
    #[doc(alias = "--numa")]
    pub fn numa_init(&self, strategy: NumaStrategy) -> Result<()> {
        let chosen = *CHOSEN.get_or_init(|| {
            ffi::numa_init(match strategy {
                NumaStrategy::Distribute => sys::GGML_NUMA_STRATEGY_DISTRIBUTE,
                NumaStrategy::Isolate => sys::GGML_NUMA_STRATEGY_ISOLATE,
                NumaStrategy::Numactl => sys::GGML_NUMA_STRATEGY_NUMACTL,
            });
            strategy
        });
        if chosen == strategy {
            return Ok(());
        }
        Err(Error::Parameter {
            parameter: "numa_init",
            value: format!("{strategy:?}"),
            reason: format!("this process already uses {chosen:?}, and llama.cpp keeps the first"),
        })
    }
}
