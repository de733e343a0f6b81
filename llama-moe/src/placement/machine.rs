//! The memories that a model's weights can go to, and which of them the loader takes.
//!
//! This follows the loader's steps: the layer that a weight belongs to has a list of places,
//! and the first in which the device can compute with the weight is taken.

use std::cell::RefCell;
use std::collections::HashMap;

use super::lower::DevicesInUse;
use super::moe_cache::{CacheDevice, ExpertTensor};
use crate::backend::{Device, read_registry};
use crate::error::Result;
use crate::ffi::{
    self, BufferType, DeviceHandle, WeightHparams, WeightLayer, WeightOp, WeightPlace, WeightShape,
};
use crate::gguf::{Header, TensorInfo};
use crate::model::{LoadMode, ModelParams};

/// How devices that are not at hand pad a weight, as CUDA does: the estimate for them.
const ASSUMED_ALIGNMENT: u64 = 128;
const ASSUMED_ROW_PADDING: u64 = 512;

/// A device that is not at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AssumedDevice {
    pub(super) name: String,
}

/// Where weights go in a process with certain devices and parameters.
pub(super) struct Machine {
    cpu: Vec<WeightPlace>,
    devices: Devices,
    use_mmap: bool,
    /// What stays in the file is mapped, however the rest is read; a dry run maps nothing.
    is_dry: bool,
    /// Bytes above which tensors stay in the file that can.
    stay_in_file_above: Option<u64>,
    hparams: WeightHparams,
    /// Asked once for all weights of a kind: an RPC worker answers over the network.
    known: RefCell<HashMap<Question, Answer>>,
}

enum Devices {
    Real(Vec<RealDevice>),
    Assumed(Vec<AssumedDevice>),
}

struct RealDevice {
    handle: DeviceHandle,
    /// Its own, then those of the CPU.
    places: Vec<WeightPlace>,
}

/// The places that a weight can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// System memory.
    Cpu,
    /// The device of this index.
    Device(usize),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    side: Side,
    /// A rule named the device: it is not asked whether it can compute with the weight.
    verbatim: bool,
    op: WeightOp,
    shape: WeightShape,
}

/// Where a weight goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The buffer's name, as [`Placement`](super::Placement) has it.
    pub(super) buffer: String,
    pub(super) device: Option<Device>,
    /// The index among the devices that the model uses.
    pub(super) index: Option<usize>,
    pub(super) is_host: bool,
    /// Whether the CPU can address it as it is: repacked weights are not plain.
    pub(super) is_plain_host: bool,
    /// Bytes with what the buffer type adds for alignment.
    pub(super) allocated: u64,
}

impl Machine {
    /// The devices of this process that a model uses.
    pub(super) fn real(
        header: &Header,
        params: &ModelParams,
        in_use: &DevicesInUse,
        load_mode: LoadMode,
        is_dry: bool,
    ) -> Result<Self> {
        let _registry = read_registry();
        let handles: Vec<DeviceHandle> = in_use.devices.iter().map(|d| d.handle()).collect();
        let (no_host, use_extra_bufts) = params.host_choices();
        let cpu = ffi::cpu_places(&handles, no_host, use_extra_bufts)?;
        let devices = handles
            .iter()
            .map(|&handle| {
                let mut places = ffi::device_places(handle, None)?;
                places.extend_from_slice(&cpu);
                Ok(RealDevice { handle, places })
            })
            .collect::<Result<Vec<_>>>()?;
        let use_mmap = match load_mode {
            LoadMode::Mmap | LoadMode::MmapMlock => true,
            LoadMode::Auto => handles.iter().all(|device| device.caps().mmap_support),
            _ => false,
        };
        Ok(Self {
            cpu,
            devices: Devices::Real(devices),
            use_mmap: use_mmap && ffi::supports_mmap(),
            is_dry,
            stay_in_file_above: params.stay_in_file_above(in_use),
            hparams: hparams(header),
            known: RefCell::default(),
        })
    }

    /// Devices that are not at hand, beside this machine's CPU.
    pub(super) fn assumed(header: &Header, devices: Vec<AssumedDevice>) -> Result<Self> {
        let _registry = read_registry();
        Ok(Self {
            cpu: ffi::cpu_places(&[], true, false)?,
            devices: Devices::Assumed(devices),
            use_mmap: false,
            is_dry: true,
            stay_in_file_above: None,
            hparams: hparams(header),
            known: RefCell::default(),
        })
    }

    /// The device whose own memory this is.
    pub(super) fn device_of(&self, buffer_type: BufferType) -> Option<usize> {
        match &self.devices {
            Devices::Real(devices) => devices
                .iter()
                .position(|device| device.handle.buffer_type() == Some(buffer_type)),
            Devices::Assumed(_) => None,
        }
    }

    /// The devices, as a cache of experts sees them.
    pub(super) fn cache_devices(&self, shares: &[f32]) -> Vec<CacheDevice> {
        let share = |index: usize| f64::from(shares.get(index).copied().unwrap_or(0.0));
        match &self.devices {
            Devices::Real(devices) => (0..)
                .zip(devices)
                .map(|(index, real)| CacheDevice::new(Device::new(real.handle), share(index)))
                .collect(),
            Devices::Assumed(devices) => (0..)
                .zip(devices)
                .map(|(index, assumed)| CacheDevice::assumed(&assumed.name, share(index)))
                .collect(),
        }
    }

    /// Where the loader puts a weight of a layer on this side.
    pub(super) fn place(&self, side: Side, op: WeightOp, tensor: &TensorInfo) -> Result<Answer> {
        self.answer(side, false, op, tensor)
    }

    /// Where a rule puts a weight: on the CPU in the best of its memories, on a device in its
    /// own.
    pub(super) fn place_by_rule(
        &self,
        side: Side,
        op: WeightOp,
        tensor: &TensorInfo,
    ) -> Result<Answer> {
        self.answer(side, side != Side::Cpu, op, tensor)
    }

    /// Where a weight is that stays in the file; `None` if it does not, though it could.
    pub(super) fn place_in_file(&self, tensor: &TensorInfo) -> Result<Option<Answer>> {
        let stays = self.stay_in_file_above.is_some_and(|n| tensor.bytes > n);
        let Some(place) = self.cpu.last().filter(|_| stays) else {
            return Ok(None);
        };
        let is_mapped = !self.is_dry && place.device.caps().buffer_from_host_ptr;
        let shape = tensor.weight_shape();
        self.answer_at(*place, is_mapped, shape).map(Some)
    }

    fn answer(
        &self,
        side: Side,
        verbatim: bool,
        op: WeightOp,
        tensor: &TensorInfo,
    ) -> Result<Answer> {
        let question = Question {
            side,
            verbatim,
            op,
            shape: tensor.weight_shape(),
        };
        if let Some(answer) = self.known.borrow().get(&question) {
            return Ok(answer.clone());
        }
        let answer = match (&self.devices, side) {
            (Devices::Assumed(devices), Side::Device(index)) => Answer {
                buffer: devices[index].name.clone(),
                device: None,
                index: Some(index),
                is_host: false,
                is_plain_host: false,
                allocated: assumed_size(tensor),
            },
            (Devices::Real(devices), Side::Device(index)) => {
                let device = &devices[index];
                let places = if verbatim {
                    &device.places[..1]
                } else {
                    &device.places
                };
                self.first_of(places, verbatim, op, tensor)?
            }
            (_, Side::Cpu) => self.first_of(&self.cpu, verbatim, op, tensor)?,
        };
        self.known.borrow_mut().insert(question, answer.clone());
        Ok(answer)
    }

    fn first_of(
        &self,
        places: &[WeightPlace],
        verbatim: bool,
        op: WeightOp,
        tensor: &TensorInfo,
    ) -> Result<Answer> {
        let shape = tensor.weight_shape();
        let mut chosen = None;
        for place in places {
            if verbatim || ffi::weight_supported(*place, op, shape, &self.hparams)? {
                chosen = Some(*place);
                break;
            }
        }
        let Some(mut place) = chosen else {
            return Err(crate::Error::Load {
                path: Default::default(),
                reason: format!("no memory here can hold {} ({})", tensor.name, tensor.kind),
            });
        };
        // A mapped file takes the place of page-locked memory.
        if self.use_mmap
            && place.device.host_buffer_type() == Some(place.buffer)
            && let Some(cpu) = self.cpu.last()
        {
            place = *cpu;
        }
        let device = place.device;
        let is_mapped = self.use_mmap
            && device.buffer_type() == Some(place.buffer)
            && device.caps().buffer_from_host_ptr;
        self.answer_at(place, is_mapped, shape)
    }

    fn answer_at(&self, place: WeightPlace, is_mapped: bool, shape: WeightShape) -> Result<Answer> {
        let device = place.device;
        let name = place.buffer.name();
        let index = match &self.devices {
            Devices::Real(devices) => devices.iter().position(|real| {
                real.handle == device && device.buffer_type() == Some(place.buffer)
            }),
            Devices::Assumed(_) => None,
        };
        let owner = place.buffer.device().or(Some(device));
        Ok(Answer {
            buffer: if is_mapped {
                format!("{name}_Mapped")
            } else {
                name
            },
            device: owner.and_then(Device::of_buffer),
            index,
            is_host: index.is_none(),
            is_plain_host: place.buffer.is_host(),
            allocated: ffi::weight_size(place.buffer, shape)?,
        })
    }
}

/// The layers' devices, as the loader assigns them.
pub(super) struct Layers {
    n_devices: usize,
    start: i64,
    n_on_devices: i64,
    /// The shares of the devices, added up, from 0 to 1.
    splits: Vec<f32>,
}

impl Layers {
    /// For `n_blocks` blocks and an output layer. `shares` are in proportion, one per device;
    /// llama.cpp takes 32-bit floats, so it is done in them here.
    pub(super) fn new(n_blocks: u32, n_gpu_layers: i32, shares: &[f32]) -> Self {
        let n_layers = i64::from(n_blocks) + 1;
        let n_gpu_layers = match n_gpu_layers {
            n if n < 0 => n_layers,
            n => i64::from(n),
        };
        let n_devices = shares.len();
        let mut sum = 0.0f32;
        let mut splits: Vec<f32> = shares
            .iter()
            .map(|share| {
                sum += share;
                sum
            })
            .collect();
        // Devices without any share have equal ones.
        for (at, split) in (1u16..).zip(&mut splits) {
            *split = if sum == 0.0 {
                f32::from(at) / n_devices as f32
            } else {
                *split / sum
            };
        }
        Self {
            n_devices,
            start: (n_layers - n_gpu_layers).max(0),
            n_on_devices: if n_devices == 0 {
                0
            } else {
                n_gpu_layers.min(n_layers)
            },
            splits,
        }
    }

    /// Where a layer is; the output is the layer after the last block.
    pub(super) fn side(&self, layer: u32) -> Side {
        let at = i64::from(layer) - self.start;
        if at < 0 || at >= self.n_on_devices {
            return Side::Cpu;
        }
        let share = at as f32 / self.n_on_devices as f32;
        let device = self
            .splits
            .iter()
            .take_while(|split| **split <= share)
            .count();
        Side::Device(device.min(self.n_devices - 1))
    }

    /// How many of the first `n_blocks` layers are on each device.
    pub(super) fn blocks_per_device(&self, n_blocks: u32) -> Vec<u32> {
        let mut blocks = vec![0; self.n_devices];
        for block in 0..n_blocks {
            if let Side::Device(index) = self.side(block) {
                blocks[index] += 1;
            }
        }
        blocks
    }
}

impl Answer {
    /// The same for a cache of experts.
    pub(super) fn expert_tensor(&self, tensor: &TensorInfo, rule: Option<String>) -> ExpertTensor {
        ExpertTensor {
            name: tensor.name.clone(),
            shape: tensor.weight_shape(),
            bytes: tensor.bytes,
            buffer: self.buffer.clone(),
            is_plain_host: self.is_plain_host,
            is_system_memory: self.is_host,
            rule,
        }
    }
}

impl TensorInfo {
    pub(super) fn weight_shape(&self) -> WeightShape {
        WeightShape::new(self.type_id, &self.shape)
    }
}

/// Which layers' place a weight takes.
pub(super) fn side_of(layers: &Layers, n_blocks: u32, layer: WeightLayer, block: u32) -> Side {
    match layer {
        WeightLayer::Input => Side::Cpu,
        WeightLayer::Repeating => layers.side(block.min(n_blocks)),
        WeightLayer::Output => layers.side(n_blocks),
    }
}

fn assumed_size(tensor: &TensorInfo) -> u64 {
    let row = tensor.shape.first().copied().unwrap_or(1).max(1);
    let rows = (tensor.n_elements() / row).max(1);
    let padding = match row % ASSUMED_ROW_PADDING {
        0 => 0,
        _ if matches!(tensor.kind.as_str(), "f32" | "f16" | "bf16" | "f8_e4m3") => 0,
        rest => {
            let row_bytes = tensor.bytes / rows;
            row_bytes.saturating_mul(ASSUMED_ROW_PADDING - rest) / row
        }
    };
    let bytes = tensor.bytes.saturating_add(padding);
    bytes
        .checked_next_multiple_of(ASSUMED_ALIGNMENT)
        .unwrap_or(bytes)
}

/// What of a model's hyper-parameters decides whether a device can compute with a weight.
fn hparams(header: &Header) -> WeightHparams {
    let number = |key: &str| {
        let value = header.hyper_parameter(key).unwrap_or(0);
        i64::try_from(value).unwrap_or(i64::MAX)
    };
    let n_head = number("attention.head_count").max(1);
    let n_embd = number("embedding_length");
    WeightHparams {
        n_expert_used: number("expert_used_count"),
        n_embd_head: match number("attention.value_length") {
            0 => n_embd / n_head,
            n => n,
        },
        n_head,
        n_embd_inp: n_embd,
        ssm_d_state: number("ssm.state_size"),
        ssm_d_inner: number("ssm.inner_size"),
        ssm_n_group: number("ssm.group_count"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_fill_devices_from_the_back() {
        let all = Layers::new(4, -1, &[1.0]);
        assert!((0..=4).all(|layer| all.side(layer) == Side::Device(0)));
        // Three layers: the output and the last two blocks.
        let some = Layers::new(4, 3, &[1.0]);
        let sides: Vec<Side> = (0..=4).map(|layer| some.side(layer)).collect();
        assert_eq!(sides[..2], [Side::Cpu; 2]);
        assert_eq!(sides[2..], [Side::Device(0); 3]);
        assert!((0..=4).all(|layer| Layers::new(4, 0, &[1.0]).side(layer) == Side::Cpu));
        assert!((0..=4).all(|layer| Layers::new(4, -1, &[]).side(layer) == Side::Cpu));
    }

    #[test]
    fn shares_split_the_layers() {
        let layers = Layers::new(3, -1, &[1.0, 1.0]);
        let sides: Vec<Side> = (0..=3).map(|layer| layers.side(layer)).collect();
        assert_eq!(sides[..2], [Side::Device(0); 2]);
        assert_eq!(sides[2..], [Side::Device(1); 2]);
        assert_eq!(layers.blocks_per_device(3), [2, 1]);
        assert_eq!(Layers::new(3, 2, &[1.0, 1.0]).blocks_per_device(3), [1, 0]);
        // A device without a share gets none.
        let layers = Layers::new(3, -1, &[0.0, 1.0]);
        assert!((0..=3).all(|layer| layers.side(layer) == Side::Device(1)));
        // Without any share, all have equal ones.
        for n in 1..=4 {
            let [none, equal] = [0.0, 1.0].map(|share| Layers::new(5, -1, &vec![share; n]));
            let sides =
                |layers: &Layers| (0..=5).map(|layer| layers.side(layer)).collect::<Vec<_>>();
            assert_eq!(sides(&none), sides(&equal), "{n} devices");
        }
    }
}
