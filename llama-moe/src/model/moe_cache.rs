//! The layout of a cache of experts for a loaded model.

use super::Model;
use crate::backend::read_registry;
use crate::error::Result;
use crate::ffi::{self, DeviceHandle, TensorRecord};
use crate::gguf::block_of;
use crate::placement::{CacheDevice, ExpertLayers, ExpertTensor, MoeCacheLayout, is_cached_part};

impl Model {
    /// Works out the layout of a cache of `size` bytes, without making one. With a size of 0: which
    /// layers could be cached.
    ///
    /// # Errors
    /// [`MoeCacheError`](crate::MoeCacheError) as [`context`](Self::context) returns it;
    /// [`Error::Llama`](crate::Error::Llama) with the feature `system`: an installed llama.cpp
    /// does not report where experts are.
    pub fn moe_cache(&self, size: u64) -> Result<MoeCacheLayout> {
        MoeCacheLayout::new(&self.expert_layers()?, size)
    }

    fn expert_layers(&self) -> Result<ExpertLayers> {
        let model = &self.0;
        let _registry = read_registry();
        let by_free_memory = model.tensor_split.iter().all(|part| *part == 0.0);
        let devices = (0..).zip(&model.devices).map(|(index, device)| {
            let share = if by_free_memory && model.devices.len() > 1 {
                device.memory().free as f64
            } else if by_free_memory {
                1.0
            } else {
                let part = model.tensor_split.get(index).copied();
                f64::from(part.unwrap_or(0.0))
            };
            CacheDevice::new(*device, share)
        });
        let mut layers = ExpertLayers {
            devices: devices.collect(),
            n_expert_used: self.handle().n_expert_used()?,
            cuts_tensors: model.merged,
            ..ExpertLayers::default()
        };
        let index_of = |handle: DeviceHandle| {
            let mut devices = model.devices.iter();
            devices.position(|device| device.handle() == handle)
        };
        for record in ffi::placement(self.handle())? {
            let Some(layer) = block_of(&record.name).filter(|_| is_cached_part(&record.name))
            else {
                continue;
            };
            let device = self.handle().layer_device(layer)?.and_then(index_of);
            layers.add(layer, device, self.expert_tensor(record));
        }
        Ok(layers)
    }

    fn expert_tensor(&self, record: TensorRecord) -> ExpertTensor {
        let rule = self.0.overrides.rule_for(&record.name);
        let rule = rule.and_then(|rule| Some(self.0.overrides.matches().nth(rule)?.rule.clone()));
        ExpertTensor::new(record, rule)
    }
}
