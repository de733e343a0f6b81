//! Machines whose memory is nearer to some cores than to others.

use once_cell::sync::OnceCell;

use super::{Backend, read_registry};
use crate::error::{Error, Result};
use crate::ffi::{self, sys};

/// `None`: nobody chose before something was computed.
static CHOSEN: OnceCell<Option<NumaStrategy>> = OnceCell::new();

/// From here on llama.cpp's threads may read the strategy, so it stays as it is.
pub(crate) fn settle_numa() {
    CHOSEN.get_or_init(|| None);
}

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
    /// Chooses how llama.cpp uses a machine with several NUMA nodes, before the first model
    /// is loaded; on a machine with one node it has no effect.
    ///
    /// Rests on `llama_numa_init`.
    ///
    /// # Errors
    /// [`Error::Parameter`] if another strategy was chosen before, which llama.cpp keeps, or
    /// if a model was loaded before.
    #[doc(alias = "--numa")]
    pub fn numa_init(&self, strategy: NumaStrategy) -> Result<()> {
        let chosen = *CHOSEN.get_or_init(|| {
            let _registry = read_registry();
            ffi::numa_init(match strategy {
                NumaStrategy::Distribute => sys::GGML_NUMA_STRATEGY_DISTRIBUTE,
                NumaStrategy::Isolate => sys::GGML_NUMA_STRATEGY_ISOLATE,
                NumaStrategy::Numactl => sys::GGML_NUMA_STRATEGY_NUMACTL,
            });
            Some(strategy)
        });
        let reason = match chosen {
            Some(chosen) if chosen == strategy => return Ok(()),
            Some(chosen) => {
                format!("this process already uses {chosen:?}, and llama.cpp keeps the first")
            }
            None => "a model was loaded before, or devices were lent; choose at the start of the program".to_owned(),
        };
        Err(Error::Parameter {
            parameter: "numa_init",
            value: format!("{strategy:?}"),
            reason,
        })
    }
}
