//! What a model and its context take of each memory.

use super::super::dry_run::DryRun;
use super::super::moe_cache::MoeCacheLayout;
use super::super::preview::Preview;
use crate::backend::Device;

/// What a model and its context take of one memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryUse {
    /// Weights, with what their buffers add for alignment.
    pub weights: u64,
    /// The part of them that routed experts are.
    pub experts: u64,
    /// The KV cache.
    pub context: u64,
    /// The cache of experts; of the system's memory the tables that say where each expert is.
    pub moe_cache: u64,
    /// Buffers to compute in.
    pub compute: u64,
}

impl MemoryUse {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.context + self.moe_cache + self.compute
    }
}

/// What is used of each device, and of the system's memory.
#[derive(Clone, Debug)]
pub(super) struct Usage {
    pub(super) devices: Vec<MemoryUse>,
    pub(super) host: MemoryUse,
}

impl Usage {
    /// From a dry run on these devices.
    pub(super) fn of(preview: &Preview, run: &DryRun, devices: &[Device]) -> Self {
        let mut usage = Self::weights(preview, devices.len());
        for entry in run.entries() {
            let device = devices.iter().position(|device| {
                entry.device == Some(*device)
                    && device.buffer_type_name().as_ref() == Some(&entry.buffer)
            });
            let memory = usage.memory(device);
            memory.context += entry.context;
            memory.moe_cache += entry.moe_cache;
            memory.compute += entry.compute;
        }
        usage
    }

    /// From a dry run on the CPU: the KV cache goes with the layers, and every device computes
    /// with buffers as large as the CPU's. The cache of experts is added apart.
    pub(super) fn estimated(
        preview: &Preview,
        run: &DryRun,
        blocks_per_device: &[u32],
        n_blocks: u32,
    ) -> Self {
        let mut usage = Self::weights(preview, blocks_per_device.len());
        let context: u64 = run.entries().iter().map(|entry| entry.context).sum();
        let compute: u64 = run.entries().iter().map(|entry| entry.compute).sum();
        let mut rest = context;
        for (memory, n_on) in usage.devices.iter_mut().zip(blocks_per_device) {
            let share = u128::from(context) * u128::from(*n_on) / u128::from(n_blocks.max(1));
            memory.context = u64::try_from(share).unwrap_or(u64::MAX).min(rest);
            rest -= memory.context;
            memory.compute = compute;
        }
        usage.host.context = rest;
        usage.host.compute = compute;
        usage
    }

    /// Adds a cache of experts on these devices, as it is worked out for them.
    pub(super) fn add_moe_cache<'a>(
        &mut self,
        layout: &MoeCacheLayout,
        names: impl Iterator<Item = &'a str>,
    ) {
        for (memory, name) in self.devices.iter_mut().zip(names) {
            memory.moe_cache = layout.bytes_on(name);
        }
        self.host.moe_cache = layout.host_bytes();
    }

    /// What the weights alone take.
    pub(super) fn weights(preview: &Preview, n_devices: usize) -> Self {
        let mut usage = Self {
            devices: vec![MemoryUse::default(); n_devices],
            host: MemoryUse::default(),
        };
        for tensor in preview.tensors() {
            let memory = usage.memory(tensor.index);
            memory.weights += tensor.allocated;
            if tensor.role == crate::gguf::Role::RoutedExpert {
                memory.experts += tensor.allocated;
            }
        }
        usage
    }

    fn memory(&mut self, device: Option<usize>) -> &mut MemoryUse {
        match device {
            Some(index) if index < self.devices.len() => &mut self.devices[index],
            _ => &mut self.host,
        }
    }

    pub(super) fn devices_total(&self) -> u64 {
        self.devices.iter().map(MemoryUse::total).sum()
    }
}
