//! Caches of a model whose experts are all in system memory.

use crate::error::Result;
use crate::ffi;
use crate::gguf::block_of;
use crate::model::Model;
use crate::placement::{
    CacheDevice, ExpertLayers, ExpertTensor, MoeCacheError, MoeCacheLayout, is_cached_part,
    smallest_size,
};

/// The layouts of caches if all of its routed experts were in system memory and one device
/// computed every layer, wherever they are now. No device is needed.
///
/// [`layout`](Self::layout) divides a size as llama.cpp does. A real device may align tensors
/// otherwise, which changes a slot at most.
#[derive(Clone, Debug)]
pub struct OneDevice {
    layers: ExpertLayers,
    expert_bytes: u64,
}

impl OneDevice {
    /// For a loaded model.
    ///
    /// # Errors
    /// [`MoeCacheError::NotMoe`] for a model without routed experts;
    /// [`Error::Llama`](crate::Error::Llama) with the feature `system`: an installed llama.cpp
    /// does not report where experts are.
    pub fn new(model: &Model) -> Result<Self> {
        let mut layers = ExpertLayers {
            devices: vec![CacheDevice::assumed("one device", 1.0)],
            n_expert_used: model.handle().n_expert_used()?,
            ..ExpertLayers::default()
        };
        let mut expert_bytes = 0u64;
        for record in ffi::placement(model.handle())? {
            let Some(layer) = block_of(&record.name).filter(|_| is_cached_part(&record.name))
            else {
                continue;
            };
            let mut tensor = ExpertTensor::new(record, None);
            tensor.is_plain_host = true;
            expert_bytes = expert_bytes.saturating_add(tensor.bytes);
            layers.add(layer, Some(0), tensor);
        }
        if layers.n_expert_used == 0 || layers.layers.is_empty() {
            return Err(MoeCacheError::NotMoe.into());
        }
        Ok(Self {
            layers,
            expert_bytes,
        })
    }

    /// The layout of a cache of `size` bytes.
    ///
    /// # Errors
    /// [`MoeCacheError::TooSmall`] below [`least`](Self::least).
    pub fn layout(&self, size: u64) -> Result<MoeCacheLayout> {
        MoeCacheLayout::new(&self.layers, size)
    }

    /// Bytes of all routed experts.
    #[must_use]
    pub fn expert_bytes(&self) -> u64 {
        self.expert_bytes
    }

    /// The smallest size that holds the experts of one token in every layer.
    #[must_use]
    pub fn least(&self) -> u64 {
        smallest_size(|size| self.layout(size).is_ok())
    }

    /// The smallest size that holds all experts.
    #[must_use]
    pub fn all(&self) -> u64 {
        smallest_size(|size| self.layout(size).is_ok_and(|layout| layout.holds_all()))
    }

    /// Sizes in even steps, from the least to the one that holds all experts.
    #[must_use]
    pub fn sizes(&self, n: usize) -> Vec<u64> {
        let (least, all) = (self.least(), self.all());
        let steps = n.max(2) as u64 - 1;
        let step = (all - least.min(all)) as f64 / steps as f64;
        let mut sizes: Vec<u64> = (0..steps)
            .map(|index| least.saturating_add((step * index as f64) as u64))
            .collect();
        sizes.push(all);
        sizes.dedup();
        sizes
    }
}
