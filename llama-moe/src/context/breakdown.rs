//! What a context and its model take of each kind of memory.

use super::Context;
use crate::backend::Device;
use crate::error::Result;

/// What a context and its model take of one buffer type, in bytes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryEntry {
    /// The buffer type's name: `CPU`, `CUDA0`, `CUDA_Host`.
    pub buffer: String,
    /// The device that it belongs to; `None` for the CPU's plain memory, and where tensors are cut
    /// across several.
    pub device: Option<Device>,
    /// Whether it is system memory; repacked weights are.
    pub is_host: bool,
    /// The model's weights. A mapped file counts from its first to its last weight that is
    /// used in place, with everything between; [`Model::placement`](crate::Model::placement)
    /// tells each weight apart.
    pub model: u64,
    /// The context's memory: the KV cache.
    pub context: u64,
    /// The cache of experts; on the CPU the tables that say where each expert is.
    pub moe_cache: u64,
    /// Buffers for computing.
    pub compute: u64,
}

impl MemoryEntry {
    /// All of it, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.model + self.context + self.moe_cache + self.compute
    }
}

impl Context {
    /// What the context and its model take of each kind of memory, by its name.
    ///
    /// Rests on `llama_get_memory_breakdown`, through the shim.
    ///
    /// # Errors
    /// [`Error::Llama`](crate::Error::Llama) with the feature `system`: an installed
    /// llama.cpp does not tell.
    pub fn memory_breakdown(&mut self) -> Result<Vec<MemoryEntry>> {
        self.check_usable()?;
        let records = self.handle.memory_breakdown();
        let records = self.watch(records, "llama_get_memory_breakdown")?;
        Ok(records
            .into_iter()
            .map(|record| {
                let device = record.device.and_then(Device::of_buffer);
                MemoryEntry {
                    buffer: record.buffer,
                    device,
                    is_host: Device::is_system_memory(device, record.is_host),
                    model: record.model,
                    context: record.context.saturating_sub(record.moe_cache),
                    moe_cache: record.moe_cache,
                    compute: record.compute,
                }
            })
            .collect())
    }
}
