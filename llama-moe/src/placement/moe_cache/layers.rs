//! The parts of a model that decide what a cache holds: each layer's experts, and the devices.

use super::error::{MoeCacheError, MoeCacheObstacle};
use crate::backend::Device;
use crate::error::Result;
use crate::ffi::{self, BufferType, TensorRecord, WeightShape};

/// How devices that are not at hand align tensors, as CUDA does.
const ASSUMED_ALIGNMENT: u64 = 128;

/// The MoE layers of a model, and the devices it is spread over.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExpertLayers {
    pub(crate) layers: Vec<ExpertLayer>,
    pub(crate) devices: Vec<CacheDevice>,
    /// The most experts that a token uses in any layer.
    pub(crate) n_expert_used: u32,
    pub(crate) cuts_tensors: bool,
}

/// A layer with routed experts.
#[derive(Clone, Debug)]
pub(crate) struct ExpertLayer {
    pub(crate) layer: u32,
    /// The index of the device that the layer is on; `None` for the CPU.
    pub(crate) device: Option<usize>,
    /// In the order in which llama.cpp compares them.
    pub(crate) tensors: Vec<ExpertTensor>,
}

/// The experts of one layer in one matrix: gate, up or down.
#[derive(Clone, Debug)]
pub(crate) struct ExpertTensor {
    pub(crate) name: String,
    pub(crate) shape: WeightShape,
    pub(crate) bytes: u64,
    pub(crate) buffer: String,
    /// Whether it is in plain system memory, from which experts can be copied.
    pub(crate) is_plain_host: bool,
    pub(crate) is_system_memory: bool,
    pub(crate) rule: Option<String>,
}

/// A device that a model uses.
#[derive(Clone, Debug)]
pub(crate) struct CacheDevice {
    pub(crate) name: String,
    /// `None` for one that is not at hand.
    pub(crate) device: Option<Device>,
    pub(crate) buffer: Option<BufferType>,
    /// Whether llama.cpp puts a cache there: GPUs only.
    pub(crate) is_gpu: bool,
    /// Its part of a cache's size, in proportion.
    pub(crate) share: f64,
}

/// The place of a part in llama.cpp's order; `None` for what is not cached, such as biases,
/// which stay where they are.
fn order_of(name: &str) -> Option<usize> {
    let (_, part) = name.strip_prefix("blk.")?.split_once('.')?;
    ["gate_up", "gate", "up", "down"]
        .iter()
        .position(|kind| part.strip_prefix("ffn_") == Some(&format!("{kind}_exps.weight")))
}

/// Whether llama.cpp caches the experts of a tensor with this name.
pub(crate) fn is_cached_part(name: &str) -> bool {
    order_of(name).is_some()
}

impl ExpertLayers {
    /// Adds a tensor to its layer.
    pub(crate) fn add(&mut self, layer: u32, device: Option<usize>, tensor: ExpertTensor) {
        let found = self.layers.binary_search_by_key(&layer, |of| of.layer);
        let index = found.unwrap_or_else(|index| {
            let tensors = Vec::new();
            self.layers.insert(
                index,
                ExpertLayer {
                    layer,
                    device,
                    tensors,
                },
            );
            index
        });
        let tensors = &mut self.layers[index].tensors;
        tensors.push(tensor);
        tensors.sort_by_key(|tensor| order_of(&tensor.name));
    }

    /// Refuses what llama.cpp would refuse for a cache of any size.
    pub(super) fn check(&self) -> Result<(), MoeCacheError> {
        if !self.devices.iter().any(|device| device.is_gpu) {
            return Err(MoeCacheError::NoDevice);
        }
        if self.cuts_tensors {
            return Err(MoeCacheError::SplitMode);
        }
        if self.layers.is_empty() || self.n_expert_used == 0 {
            return Err(MoeCacheError::NotMoe);
        }
        Ok(())
    }

    /// The device that caches a layer, or what is in the way.
    pub(super) fn device_of(&self, layer: &ExpertLayer) -> Result<usize, MoeCacheObstacle> {
        let number = layer.layer;
        if let Some(tensor) = layer.tensors.iter().find(|tensor| !tensor.is_plain_host) {
            let (tensor_name, buffer) = (tensor.name.clone(), tensor.buffer.clone());
            return Err(if tensor.is_system_memory {
                MoeCacheObstacle::Repacked {
                    layer: number,
                    tensor: tensor_name,
                    buffer,
                }
            } else {
                MoeCacheObstacle::OnDevice {
                    layer: number,
                    tensor: tensor_name,
                    buffer,
                    rule: tensor.rule.clone(),
                }
            });
        }
        let is_gpu = |index: &usize| self.devices.get(*index).is_some_and(|of| of.is_gpu);
        layer
            .device
            .filter(is_gpu)
            .ok_or(MoeCacheObstacle::LayerOnCpu { layer: number })
    }
}

impl ExpertLayer {
    /// Whether llama.cpp lets both share slots.
    pub(super) fn has_form_of(&self, other: &Self) -> bool {
        let forms = |layer: &Self| -> Vec<WeightShape> {
            layer.tensors.iter().map(|tensor| tensor.shape).collect()
        };
        forms(self) == forms(other)
    }

    /// Bytes of the layer's experts.
    pub(super) fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    pub(super) fn n_expert(&self) -> u32 {
        let n = self.tensors.first().map_or(0, |tensor| tensor.shape.ne[2]);
        u32::try_from(n).unwrap_or(0)
    }

    /// Bytes of one expert in all of the layer's matrices.
    pub(super) fn bytes_per_expert(&self) -> u64 {
        self.tensors
            .iter()
            .map(ExpertTensor::bytes_per_expert)
            .sum()
    }
}

impl ExpertTensor {
    /// A tensor of a loaded model.
    pub(crate) fn new(record: TensorRecord, rule: Option<String>) -> Self {
        let device = record.device.and_then(Device::of_buffer);
        Self {
            shape: record.weight_shape(),
            name: record.name,
            bytes: record.bytes,
            buffer: record.buffer_name,
            is_plain_host: record.is_host,
            is_system_memory: Device::is_system_memory(device, record.is_host),
            rule,
        }
    }

    pub(super) fn bytes_per_expert(&self) -> u64 {
        let n = u64::try_from(self.shape.ne[2]).unwrap_or(0);
        self.bytes.checked_div(n).unwrap_or(0)
    }
}

impl CacheDevice {
    pub(crate) fn new(device: Device, share: f64) -> Self {
        Self {
            name: device.name(),
            device: Some(device),
            buffer: device.handle().buffer_type(),
            is_gpu: device.device_type().is_gpu(),
            share,
        }
    }

    /// A device that is not at hand.
    pub(crate) fn assumed(name: &str, share: f64) -> Self {
        Self {
            name: name.to_owned(),
            device: None,
            buffer: None,
            is_gpu: true,
            share,
        }
    }

    pub(super) fn alignment(&self) -> u64 {
        self.buffer.map_or(ASSUMED_ALIGNMENT, BufferType::alignment)
    }

    /// Bytes that the device allocates for so many experts of a matrix.
    pub(super) fn allocated(&self, tensor: &ExpertTensor, n_experts: u64) -> Result<u64> {
        let Some(buffer) = self.buffer else {
            let bytes = tensor.bytes_per_expert().saturating_mul(n_experts);
            return Ok(bytes.next_multiple_of(ASSUMED_ALIGNMENT));
        };
        let mut shape = tensor.shape;
        shape.ne[2] = i64::try_from(n_experts).unwrap_or(i64::MAX);
        ffi::weight_size(buffer, shape)
    }
}
