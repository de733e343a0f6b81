//! The layout of a cache of some size.

use std::fmt;

use super::error::{MoeCacheError, MoeCacheObstacle};
use super::layers::{ExpertLayer, ExpertLayers};
use crate::backend::Device;
use crate::error::Result;

/// Sizes from here on are treated alike: they hold all experts of any model.
const MAX_SIZE: u64 = 1 << 62;

/// How the CPU's memory aligns tensors.
const HOST_ALIGNMENT: u64 = 32;

/// The layout of a cache of experts: its groups of layers, their slots, and the layers that cannot
/// be cached.
///
/// [`Preview::moe_cache`](crate::Preview::moe_cache) works it out before a load,
/// [`Model::moe_cache`](crate::Model::moe_cache) for a loaded model, and
/// [`Context::moe_cache`](crate::Context::moe_cache) reads it from llama.cpp.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct MoeCacheLayout {
    pub(crate) size: u64,
    pub(crate) n_expert_used: u32,
    pub(crate) groups: Vec<MoeCacheGroup>,
    pub(crate) obstacles: Vec<MoeCacheObstacle>,
}

/// Layers on one device whose experts have the same shapes and types. They share their slots.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MoeCacheGroup {
    /// The device's name.
    pub device_name: String,
    /// The device; `None` for one that is not at hand.
    pub device: Option<Device>,
    /// The layers, ascending.
    pub layers: Vec<u32>,
    /// Experts of each layer.
    pub n_expert: u32,
    /// Experts that the group has room for, of all its layers together.
    pub n_slots: u32,
    /// Bytes of one expert of one layer.
    pub bytes_per_expert: u64,
    /// Bytes that the slots take on the device; llama.cpp adds one slot that stays empty.
    pub bytes: u64,
}

impl MoeCacheGroup {
    /// Experts of all layers.
    #[must_use]
    pub fn n_experts_total(&self) -> u64 {
        self.layers.len() as u64 * u64::from(self.n_expert)
    }

    /// Tokens of the largest micro-batch that the cache serves, if each token uses
    /// `n_expert_used` experts; at most 32, and 0 if the slots do not hold one token's.
    #[must_use]
    pub fn max_tokens(&self, n_expert_used: u32) -> u32 {
        if self.n_slots >= self.n_expert {
            return MAX_TOKENS;
        }
        self.n_slots
            .checked_div(n_expert_used)
            .map_or(0, |n| n.min(MAX_TOKENS))
    }
}

/// Micro-batches of more tokens are computed as without a cache.
const MAX_TOKENS: u32 = 32;

impl MoeCacheLayout {
    /// Divides `size` bytes as llama.cpp does. A size of 0 has no groups.
    pub(crate) fn new(layers: &ExpertLayers, size: u64) -> Result<Self> {
        layers.check()?;
        for device in layers.devices.iter().filter_map(|device| device.device) {
            // A worker is asked for sizes, and llama.cpp aborts where it is gone.
            device.check_present()?;
        }
        let mut layout = Self {
            size,
            n_expert_used: layers.n_expert_used,
            groups: Vec::new(),
            obstacles: Vec::new(),
        };
        let parts = Parts::of(layers, &mut layout.obstacles);
        if parts.groups.is_empty() {
            let obstacles = layout.obstacles;
            return Err(MoeCacheError::NoLayer { obstacles }.into());
        }
        if size == 0 {
            return Ok(layout);
        }
        for group in &parts.groups {
            let n_slots = parts.n_slots(group, size);
            if n_slots < u64::from(layers.n_expert_used) {
                return Err(parts.too_small(group, size).into());
            }
            layout.groups.push(group.with_slots(layers, n_slots)?);
        }
        Ok(layout)
    }

    /// The size that was asked for, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The groups, in the order of their first layers.
    #[must_use]
    pub fn groups(&self) -> &[MoeCacheGroup] {
        &self.groups
    }

    /// The reasons that keep layers out of the cache, one for each MoE layer that is not cached.
    #[must_use]
    pub fn obstacles(&self) -> &[MoeCacheObstacle] {
        &self.obstacles
    }

    /// The most experts that one token uses in a layer.
    #[must_use]
    pub fn n_expert_used(&self) -> u32 {
        self.n_expert_used
    }

    /// Bytes on all devices.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.bytes).sum()
    }

    /// Bytes on the device of this name.
    #[must_use]
    pub fn bytes_on(&self, device_name: &str) -> u64 {
        let groups = self.groups.iter();
        groups
            .filter(|group| group.device_name == device_name)
            .map(|group| group.bytes)
            .sum()
    }

    /// Bytes of system memory for the tables that say in which slot each expert is: four for each
    /// expert, each layer's table rounded up as the CPU's memory is.
    pub(crate) fn host_bytes(&self) -> u64 {
        let groups = self.groups.iter();
        groups
            .map(|group| {
                let table = u64::from(group.n_expert) * size_of::<i32>() as u64;
                group.layers.len() as u64 * table.next_multiple_of(HOST_ALIGNMENT)
            })
            .sum()
    }

    /// Whether a layer's experts are cached.
    pub(crate) fn has_layer(&self, layer: u32) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|group| group.layers.binary_search(&layer).is_ok())
    }

    /// Whether every expert of the cached layers has a slot: a larger size would gain nothing.
    #[must_use]
    pub fn holds_all(&self) -> bool {
        let mut groups = self.groups.iter();
        groups.all(|group| u64::from(group.n_slots) >= group.n_experts_total())
    }
}

/// The size as llama.cpp is given it.
pub(crate) fn size_for_llama(size: u64) -> usize {
    usize::try_from(size.min(MAX_SIZE)).unwrap_or(usize::MAX / 2)
}

/// The smallest size that is enough, where every larger one is too.
pub(crate) fn smallest_size(is_enough: impl Fn(u64) -> bool) -> u64 {
    let (mut short, mut enough) = (0, MAX_SIZE);
    while short + 1 < enough {
        let middle = short + (enough - short) / 2;
        if is_enough(middle) {
            enough = middle;
        } else {
            short = middle;
        }
    }
    enough
}

/// Layers by device and form, with each device's part of a size.
struct Parts<'a> {
    layers: &'a ExpertLayers,
    groups: Vec<Group<'a>>,
    /// Bytes of experts that are cached on each device.
    host_bytes: Vec<u64>,
    shares: Vec<f64>,
}

struct Group<'a> {
    device: usize,
    layers: Vec<&'a ExpertLayer>,
    bytes: u64,
}

impl<'a> Parts<'a> {
    fn of(layers: &'a ExpertLayers, obstacles: &mut Vec<MoeCacheObstacle>) -> Self {
        let mut groups: Vec<Group<'a>> = Vec::new();
        let mut host_bytes = vec![0; layers.devices.len()];
        for layer in &layers.layers {
            let device = match layers.device_of(layer) {
                Ok(device) => device,
                Err(obstacle) => {
                    obstacles.push(obstacle);
                    continue;
                }
            };
            host_bytes[device] += layer.bytes();
            let is_same = |group: &&mut Group<'_>| {
                group.device == device && group.layers[0].has_form_of(layer)
            };
            match groups.iter_mut().find(is_same) {
                Some(group) => {
                    group.layers.push(layer);
                    group.bytes += layer.bytes();
                }
                None => groups.push(Group {
                    device,
                    layers: vec![layer],
                    bytes: layer.bytes(),
                }),
            }
        }
        let in_use = |index: usize| host_bytes[index] > 0;
        let mut shares: Vec<f64> = (0..)
            .zip(&layers.devices)
            .map(|(index, device)| if in_use(index) { device.share } else { 0.0 })
            .collect();
        if shares.iter().sum::<f64>() == 0.0 {
            // Devices that do not know their free memory get equal parts.
            for (index, share) in shares.iter_mut().enumerate() {
                *share = if in_use(index) { 1.0 } else { 0.0 };
            }
        }
        Self {
            layers,
            groups,
            host_bytes,
            shares,
        }
    }

    /// Bytes of `size` that a group gets, in llama.cpp's own arithmetic: doubles, in this order.
    fn part(&self, group: &Group<'_>, size: u64) -> u64 {
        let sum: f64 = self.shares.iter().sum();
        let size = size.min(MAX_SIZE) as f64;
        let of_device = size * self.shares[group.device] / sum;
        (of_device * group.bytes as f64 / self.host_bytes[group.device] as f64) as u64
    }

    /// Bytes that llama.cpp counts for so many slots, and one more that stays empty.
    fn counted(&self, group: &Group<'_>, n_slots: u64) -> u64 {
        let alignment = self.layers.devices[group.device].alignment().max(1);
        let tensors = group.layers[0].tensors.iter();
        tensors
            .map(|tensor| {
                let bytes = tensor.bytes_per_expert().saturating_mul(n_slots + 1);
                bytes.checked_next_multiple_of(alignment).unwrap_or(bytes)
            })
            .fold(0, u64::saturating_add)
    }

    fn n_slots(&self, group: &Group<'_>, size: u64) -> u64 {
        let part = self.part(group, size);
        let (mut least, mut most) = (0, group.n_experts());
        while least < most {
            let middle = most - (most - least) / 2;
            if self.counted(group, middle) <= part {
                least = middle;
            } else {
                most = middle - 1;
            }
        }
        least
    }

    fn too_small(&self, group: &Group<'_>, size: u64) -> MoeCacheError {
        let n_used = u64::from(self.layers.n_expert_used);
        MoeCacheError::TooSmall {
            size,
            needed: self.needed(),
            device: self.layers.devices[group.device].name.clone(),
            part: self.part(group, size),
            needed_part: self.counted(group, n_used),
            first_layer: group.layers[0].layer,
            n_expert_used: self.layers.n_expert_used,
        }
    }

    /// The smallest size with which each group has slots for one token.
    fn needed(&self) -> Option<u64> {
        let n_used = u64::from(self.layers.n_expert_used);
        let is_enough = |size: u64| {
            let mut groups = self.groups.iter();
            groups.all(|group| self.n_slots(group, size) >= n_used)
        };
        if !is_enough(MAX_SIZE) {
            return None;
        }
        Some(smallest_size(is_enough))
    }
}

impl Group<'_> {
    fn n_experts(&self) -> u64 {
        self.layers.len() as u64 * u64::from(self.layers[0].n_expert())
    }

    fn with_slots(&self, layers: &ExpertLayers, n_slots: u64) -> Result<MoeCacheGroup> {
        let device = &layers.devices[self.device];
        let first = self.layers[0];
        let mut bytes = 0;
        for tensor in &first.tensors {
            bytes += device.allocated(tensor, n_slots + 1)?;
        }
        Ok(MoeCacheGroup {
            device_name: device.name.clone(),
            device: device.device,
            layers: self.layers.iter().map(|layer| layer.layer).collect(),
            n_expert: first.n_expert(),
            n_slots: u32::try_from(n_slots).unwrap_or(u32::MAX),
            bytes_per_expert: first.bytes_per_expert(),
            bytes,
        })
    }
}

/// One line: `cache on CUDA0: 522 of 1536 experts of 12 layers, 1526.1 MiB`.
impl fmt::Display for MoeCacheGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cache on {}: {} of {} experts of {} layers, {:.1} MiB",
            self.device_name,
            self.n_slots,
            self.n_experts_total(),
            self.layers.len(),
            self.bytes as f64 / f64::from(1u32 << 20)
        )
    }
}

/// One line for each group, and one for the layers that are not cached.
impl fmt::Display for MoeCacheLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, group) in self.groups.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{group}")?;
        }
        if let [first, rest @ ..] = self.obstacles.as_slice() {
            write!(f, "\nlayers not cached: {}; {first}", rest.len() + 1)?;
        }
        Ok(())
    }
}
