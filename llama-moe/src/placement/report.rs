//! Where every tensor of a loaded model is, against where it was asked to be.

use std::collections::BTreeMap;
use std::fmt;

use super::lower::LoweredOverrides;
use crate::backend::{Device, DeviceType, read_registry};
use crate::error::Result;
use crate::ffi::{self, DeviceHandle, ModelHandle, ModelNumber, TensorRecord};
use crate::gguf::Role;
use crate::model::LoadMode;

/// Where the tensors of a loaded model are: read from the model itself, not worked out
/// from the rules.
///
/// Rests on llama.cpp's table of a model's tensors, through the shim
/// (`llama_shim_placement_new`). Printed, it is a table of bytes per buffer type and
/// a list of what each rule moved.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Placement {
    tensors: Vec<TensorPlacement>,
    rules: Vec<String>,
    load_mode: LoadMode,
}

/// One tensor of a loaded model.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TensorPlacement {
    /// Its name, such as `blk.3.ffn_up_exps.weight`.
    pub name: String,
    /// The element type, as ggml names it: `f32`, `q4_K`, `mxfp4`.
    pub kind: String,
    /// Elements per dimension, ggml's order: the fastest first.
    pub shape: Vec<u64>,
    /// Bytes it occupies.
    pub bytes: u64,
    /// The buffer type it is in: `CPU`, `CPU_Mapped` (used in place in the mapped file),
    /// `CPU_REPACK`, `CUDA_Host` (page-locked), `CUDA0`, `RPC0[127.0.0.1:50052]`. Empty
    /// if it was not allocated.
    pub buffer: String,
    /// The device that the buffer type belongs to. `None` where it was not allocated, or is cut
    /// across several devices ([`SplitMode::Tensor`](crate::SplitMode::Tensor)).
    pub device: Option<Device>,
    /// Whether it is in system memory: plain, page-locked, mapped or repacked.
    pub is_host: bool,
    /// What kind of memory that is.
    pub memory: MemoryKind,
    /// The part that it plays in the model.
    pub role: Role,
    /// The rule that decided, as an index of [`Placement::rules`].
    pub rule: Option<usize>,
    /// The name of the buffer type that the rule asked for.
    pub asked: Option<String>,
    /// Whether it is where the rule asked for it; true without a rule.
    pub as_asked: bool,
    /// A second copy of a tensor with this name: a tied output next to its
    /// embeddings.
    pub duplicate: bool,
}

/// What kind of memory a tensor is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum MemoryKind {
    /// A device's own.
    Device,
    /// The system's, page-locked: a GPU reads it at the bus's speed.
    PageLocked,
    /// The system's, pageable: a GPU's copies go through another buffer. Where page-locked memory
    /// was asked for and could not be had, llama.cpp falls back to this.
    Pageable,
    /// Pages of the mapped file: pageable, and read from the disk when first used.
    Mapped,
    /// The system's, in an order that the CPU's kernels like better.
    Repacked,
    /// None: it was not allocated.
    Nowhere,
}

impl MemoryKind {
    fn of(record: &TensorRecord, is_host: bool) -> Self {
        let Some(buffer) = record.buffer else {
            return Self::Nowhere;
        };
        if !is_host {
            return Self::Device;
        }
        if record.buffer_name.ends_with("_Mapped") {
            return Self::Mapped;
        }
        if buffer.is_cpu() {
            return Self::Pageable;
        }
        let is_page_locked = |device: DeviceHandle| device.host_buffer_type() == Some(buffer);
        match record.device {
            Some(device) if is_page_locked(device) => Self::PageLocked,
            _ => Self::Repacked,
        }
    }
}

/// The tensors in one buffer type, together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PlacementSum {
    /// The buffer type.
    pub buffer: String,
    /// Whether it is system memory.
    pub is_host: bool,
    /// How many tensors are in it.
    pub n_tensors: usize,
    /// Their bytes together.
    pub bytes: u64,
}

impl PlacementSum {
    /// Of tensors, given by buffer type, whether that is system memory, and bytes.
    pub(super) fn all<'a>(tensors: impl Iterator<Item = (&'a str, bool, u64)>) -> Vec<Self> {
        let mut sums: BTreeMap<&str, Self> = BTreeMap::new();
        for (buffer, is_host, bytes) in tensors {
            let sum = sums.entry(buffer).or_insert_with(|| Self {
                buffer: buffer.to_owned(),
                is_host,
                n_tensors: 0,
                bytes: 0,
            });
            sum.n_tensors += 1;
            sum.bytes += bytes;
        }
        sums.into_values().collect()
    }
}

impl Placement {
    pub(crate) fn of(
        model: &ModelHandle,
        overrides: &LoweredOverrides,
        load_mode: LoadMode,
    ) -> Result<Self> {
        let n_layer = u32::try_from(model.number(ModelNumber::Layer)).unwrap_or(u32::MAX);
        // ggml's plain system memory belongs to no device by its own account.
        let cpu = {
            let _registry = read_registry();
            let mut devices = ffi::devices().into_iter().map(Device::new);
            devices.find(|device| device.device_type() == DeviceType::Cpu)
        };
        let tensors = ffi::placement(model)?
            .into_iter()
            .map(|record| TensorPlacement::new(record, overrides, n_layer, cpu))
            .collect();
        Ok(Self {
            tensors,
            rules: overrides
                .matches()
                .map(|found| found.rule.clone())
                .collect(),
            load_mode,
        })
    }

    /// The tensors, in llama.cpp's order. Empty if only the vocabulary was loaded.
    #[must_use]
    pub fn tensors(&self) -> &[TensorPlacement] {
        &self.tensors
    }

    /// The tensor with this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorPlacement> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The rules that were given to the loader, in words, in their order.
    #[must_use]
    pub fn rules(&self) -> &[String] {
        &self.rules
    }

    /// How the file was read: decides whether weights in system memory are page-locked,
    /// pageable or mapped.
    #[must_use]
    pub fn load_mode(&self) -> LoadMode {
        self.load_mode
    }

    /// Bytes and tensors per buffer type, by name.
    #[must_use]
    pub fn sums(&self) -> Vec<PlacementSum> {
        let tensors = self.tensors.iter();
        PlacementSum::all(tensors.map(|tensor| (&*tensor.buffer, tensor.is_host, tensor.bytes)))
    }

    /// Tensors that a rule asked for elsewhere than they are.
    pub fn misplaced(&self) -> impl Iterator<Item = &TensorPlacement> {
        self.tensors.iter().filter(|tensor| !tensor.as_asked)
    }

    /// Tensors that a rule decided on: `rule` is an index of [`rules`](Self::rules).
    pub fn moved_by(&self, rule: usize) -> impl Iterator<Item = &TensorPlacement> {
        self.tensors
            .iter()
            .filter(move |tensor| tensor.rule == Some(rule))
    }
}

impl TensorPlacement {
    fn new(
        record: TensorRecord,
        overrides: &LoweredOverrides,
        n_layer: u32,
        cpu: Option<Device>,
    ) -> Self {
        let rule = overrides.rule_for(&record.name);
        let asked = rule.and_then(|rule| overrides.buffer_type(rule));
        let device = record.device.and_then(Device::of_buffer);
        let is_host = Device::is_system_memory(device, record.is_host);
        // Asked for the CPU, a tensor may be in any system memory: page-locked, mapped or
        // repacked. Not allocated, it is nowhere.
        let as_asked = asked.is_none_or(|asked| {
            record.buffer.is_none() || record.buffer == Some(asked) || (asked.is_cpu() && is_host)
        });
        let device = match record.buffer {
            Some(buffer) if buffer.device().is_none() && is_host => cpu,
            _ => device,
        };
        Self {
            memory: MemoryKind::of(&record, is_host),
            role: Role::of(&record.name, n_layer),
            rule,
            asked: asked.map(|asked| asked.name()),
            as_asked,
            name: record.name,
            kind: record.kind,
            shape: record.shape,
            bytes: record.bytes,
            buffer: record.buffer_name,
            device,
            is_host,
            duplicate: record.duplicate,
        }
    }
}

const MIB: f64 = (1 << 20) as f64;

/// The bytes per buffer type as a table, then what each rule takes: its words, tensors and bytes.
pub(super) fn write_table<'a>(
    f: &mut fmt::Formatter<'_>,
    sums: &[PlacementSum],
    rules: impl Iterator<Item = (&'a str, usize, u64)>,
) -> fmt::Result {
    writeln!(
        f,
        "{:<28} {:>8} {:>14} {:>10}",
        "memory", "tensors", "bytes", "MiB"
    )?;
    for sum in sums {
        let buffer = match sum.buffer.as_str() {
            "" => "(not allocated)",
            buffer => buffer,
        };
        let mib = sum.bytes as f64 / MIB;
        writeln!(
            f,
            "{buffer:<28} {:>8} {:>14} {mib:>10.2}",
            sum.n_tensors, sum.bytes
        )?;
    }
    for (index, (rule, n_tensors, bytes)) in rules.enumerate() {
        let mib = bytes as f64 / MIB;
        writeln!(
            f,
            "rule {}: {rule}: {n_tensors} tensors, {mib:.2} MiB",
            index + 1
        )?;
    }
    Ok(())
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rules.iter().enumerate().map(|(index, rule)| {
            let (n_tensors, bytes) = self
                .moved_by(index)
                .fold((0, 0), |(n, bytes), tensor| (n + 1, bytes + tensor.bytes));
            (rule.as_str(), n_tensors, bytes)
        });
        write_table(f, &self.sums(), rules)?;
        for tensor in self.misplaced() {
            let asked = tensor.asked.as_deref().unwrap_or_default();
            writeln!(
                f,
                "not as asked: {} is in {}, not {asked}",
                tensor.name, tensor.buffer
            )?;
        }
        write!(f, "load mode: {}", self.load_mode)
    }
}
