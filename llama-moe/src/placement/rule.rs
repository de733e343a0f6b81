//! One rule: which tensors, and which memory.

use std::fmt;
use std::ops::{Bound, RangeBounds};

use super::pattern::Pattern;
use crate::backend::Device;

/// Where the tensors of a rule go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// System memory, in the form that llama.cpp finds best for the tensor: page-locked
    /// for a GPU to read from, repacked for the CPU's kernels, or mapped from the file.
    Cpu,
    /// A device's own memory. The model must use the device.
    Device(Device),
    /// The buffer type of this name, as `-ot` takes it, or else the device of this name: `CPU`,
    /// `CUDA0`, `RPC0[127.0.0.1:50052]` or `RPC0`. Looked up when a model is loaded.
    Named(String),
}

impl Target {
    /// Whether this is system memory, by whatever name.
    pub(crate) fn is_cpu(&self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Device(_) => false,
            Self::Named(name) => name.eq_ignore_ascii_case("CPU"),
        }
    }
}

impl From<Device> for Target {
    fn from(device: Device) -> Self {
        Self::Device(device)
    }
}

impl From<&Device> for Target {
    fn from(device: &Device) -> Self {
        Self::Device(*device)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("CPU"),
            Self::Device(device) => device.fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// Which tensors, and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub(super) tensors: Tensors,
    pub(super) target: Target,
}

/// A set of tensors, described; what it is in a model is known once its header is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tensors {
    /// All routed experts.
    Experts,
    /// The routed experts of the first n blocks, dense ones counted.
    ExpertsOfBlocks(u32),
    /// The routed experts of these blocks.
    ExpertsOfRange(BlockRange),
    /// The routed experts of the first n blocks that have some.
    ExpertsOfFirst(u32),
    /// The routed experts of the last n blocks that have some.
    ExpertsOfLast(u32),
    /// The dense feed-forward tensors of the first n blocks.
    DenseFfnOfBlocks(u32),
    /// What a pattern finds.
    Pattern(Pattern),
}

/// A range of blocks, possibly open at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockRange {
    pub(super) start: u32,
    /// Exclusive; `None`: to the last block.
    pub(super) end: Option<u32>,
}

impl BlockRange {
    pub(super) fn new(range: impl RangeBounds<u32>) -> Self {
        Self {
            start: match range.start_bound() {
                Bound::Included(&start) => start,
                Bound::Excluded(&start) => start.saturating_add(1),
                Bound::Unbounded => 0,
            },
            end: match range.end_bound() {
                Bound::Included(&end) => Some(end.saturating_add(1)),
                Bound::Excluded(&end) => Some(end),
                Bound::Unbounded => None,
            },
        }
    }
}

impl Rule {
    /// Where the tensors go.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }
}

/// As a person would say it, such as "experts of the first 8 blocks → CPU".
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tensors {
            Tensors::Experts => f.write_str("all experts")?,
            Tensors::ExpertsOfBlocks(n) => write!(f, "experts of the first {n} blocks")?,
            Tensors::ExpertsOfRange(BlockRange { start, end }) => {
                write!(f, "experts of blocks {start}..")?;
                if let Some(end) = end {
                    write!(f, "{end}")?;
                }
            }
            Tensors::ExpertsOfFirst(n) => write!(f, "experts of the first {n} MoE layers")?,
            Tensors::ExpertsOfLast(n) => write!(f, "experts of the last {n} MoE layers")?,
            Tensors::DenseFfnOfBlocks(n) => {
                write!(f, "feed-forward tensors of the first {n} blocks")?;
            }
            Tensors::Pattern(pattern) => write!(f, "tensors matching '{pattern}'")?,
        }
        write!(f, " → {}", self.target)
    }
}
