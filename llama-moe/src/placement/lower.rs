//! From rules to what the loader reads.
//!
//! Rules are lowered late, when a model's header is known: only then is it clear which
//! blocks have experts. Each rule becomes one pattern and one buffer type. The lowered
//! rules own their patterns; the array for the loader borrows from them.

use std::fmt;

use super::machine::{Machine, Side};
use super::overrides::{OverrideError, TensorOverrides};
use super::pattern::{Pattern, escaped};
use super::rule::{BlockRange, Rule, Target, Tensors};
use crate::backend::{Backend, Device, DeviceType};
use crate::error::{Error, Result};
use crate::ffi::{BufferType, RawOverrides};
use crate::gguf::Header;
use crate::model::{ModelParams, ModelSource, checked_header};

/// llama.cpp's `llama_max_tensor_buft_overrides`, which its loader does not check.
const MAX_RULES: usize = 4096;

/// Rules worked out for one model: a pattern and a buffer type each, in order, with
/// the tensors they take.
///
/// Made by [`TensorOverrides::lower`]. Printed, it is the value of an equal `-ot` option.
#[derive(Clone, Debug, Default)]
pub struct LoweredOverrides {
    rules: Vec<LoweredRule>,
}

#[derive(Clone, Debug)]
struct LoweredRule {
    pattern: Pattern,
    buffer_type: BufferType,
    found: RuleMatch,
}

/// What one rule takes of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RuleMatch {
    /// The rule, in words.
    pub rule: String,
    /// The regular expression that the loader is given.
    pub pattern: String,
    /// The name of the buffer type.
    pub target: String,
    /// The names of the tensors it takes, in the file's order.
    pub tensors: Vec<String>,
    /// Their bytes together, in the file's types.
    pub bytes: u64,
}

impl TensorOverrides {
    /// Works the rules out for a model, its file or files, with the devices that
    /// `params` gives it: what each takes, as [`Model::load`](crate::Model::load) does
    /// before it loads. Reads headers only.
    ///
    /// # Errors
    /// [`Error::Override`] for a rule that cannot be applied, [`Error::File`] and
    /// [`Error::Load`] for a file that is none, [`Error::Parameter`] for a parameter that
    /// cannot work.
    pub fn lower(
        &self,
        backend: &Backend,
        source: impl Into<ModelSource>,
        params: &ModelParams,
    ) -> Result<LoweredOverrides> {
        let header = checked_header(&source.into(), params)?;
        self.lower_for(
            &header,
            params.loads_mtp(),
            &params.devices_in_use(backend)?,
        )
    }

    pub(crate) fn lower_for(
        &self,
        header: &Header,
        with_mtp: bool,
        devices: &DevicesInUse,
    ) -> Result<LoweredOverrides> {
        let model = Shape::new(header, with_mtp);
        let mut rules = Vec::with_capacity(self.len());
        for rule in self.rules() {
            let Some(pattern) = rule.pattern(&model, self.allows_unmatched())? else {
                continue;
            };
            let buffer_type = devices.buffer_type(rule)?;
            rules.push(LoweredRule {
                found: RuleMatch {
                    rule: rule.to_string(),
                    pattern: pattern.to_string(),
                    target: buffer_type.name(),
                    tensors: Vec::new(),
                    bytes: 0,
                },
                pattern,
                buffer_type,
            });
        }
        if rules.len() > MAX_RULES {
            return Err(OverrideError::TooMany {
                count: rules.len(),
                max: MAX_RULES,
            }
            .into());
        }
        let mut lowered = LoweredOverrides { rules };
        lowered.distribute(&model);
        if !self.allows_unmatched() {
            lowered.check_matched(&model)?;
        }
        Ok(lowered)
    }
}

impl LoweredOverrides {
    /// What each rule takes, in order.
    pub fn matches(&self) -> impl ExactSizeIterator<Item = &RuleMatch> {
        self.rules.iter().map(|rule| &rule.found)
    }

    /// The array for llama.cpp's loader. It borrows the patterns and cannot outlive
    /// them.
    #[must_use]
    pub fn raw(&self) -> RawOverrides<'_> {
        RawOverrides::new(
            self.rules
                .iter()
                .map(|rule| (rule.pattern.as_c_str(), rule.buffer_type)),
        )
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Bytes that rules move to system memory.
    pub(crate) fn bytes_to_cpu(&self) -> u64 {
        let to_cpu = self.rules.iter().filter(|rule| rule.buffer_type.is_cpu());
        to_cpu.map(|rule| rule.found.bytes).sum()
    }

    /// The rule that decides where a tensor of this name goes.
    pub(crate) fn rule_for(&self, tensor: &str) -> Option<usize> {
        self.rules
            .iter()
            .position(|rule| rule.pattern.is_match(tensor))
    }

    pub(crate) fn buffer_type(&self, rule: usize) -> Option<BufferType> {
        self.rules.get(rule).map(|rule| rule.buffer_type)
    }

    /// The side of the machine that a rule puts tensors on; `None` if that is no memory of the
    /// machine's.
    pub(super) fn side(&self, rule: usize, machine: &Machine) -> Option<Side> {
        let buffer_type = self.buffer_type(rule)?;
        if buffer_type.is_cpu() {
            return Some(Side::Cpu);
        }
        machine.device_of(buffer_type).map(Side::Device)
    }

    /// Gives every tensor to the first rule that matches it.
    fn distribute(&mut self, model: &Shape<'_>) {
        for (name, bytes) in model.tensors() {
            if let Some(rule) = self.rule_for(name) {
                let found = &mut self.rules[rule].found;
                found.tensors.push(name.to_owned());
                found.bytes += bytes;
            }
        }
    }

    fn check_matched(&self, model: &Shape<'_>) -> Result<(), OverrideError> {
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.found.tensors.is_empty() {
                continue;
            }
            let earlier = model
                .tensors()
                .find(|(name, _)| rule.pattern.is_match(name))
                .and_then(|(name, _)| self.rule_for(name))
                .filter(|&earlier| earlier < index);
            return Err(match earlier {
                Some(earlier) => OverrideError::Shadowed {
                    rule: rule.found.rule.clone(),
                    by: self.rules[earlier].found.rule.clone(),
                },
                None => OverrideError::Unmatched {
                    rule: rule.found.rule.clone(),
                    n_tensors: model.tensors().count(),
                    hint: model.hint(),
                },
            });
        }
        Ok(())
    }
}

/// The value of an equal `-ot` option of llama.cpp. It has no way to write a comma or an equals
/// sign in a pattern: such a pattern is told by the names of the tensors it takes.
impl fmt::Display for LoweredOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for rule in &self.rules {
            let pattern = if rule.pattern.as_str().contains([',', '=']) {
                let names = rule.found.tensors.iter().map(|name| escaped(name));
                let names: Vec<String> = names.collect();
                if names.is_empty() {
                    continue;
                }
                format!("^({})$", names.join("|"))
            } else {
                rule.pattern.to_string()
            };
            write!(f, "{separator}{pattern}={}", rule.found.target)?;
            separator = ",";
        }
        Ok(())
    }
}

/// What rules need to know of a model: its tensors, as far as they are loaded, and
/// which blocks have experts.
struct Shape<'a> {
    header: &'a Header,
    with_mtp: bool,
    /// Blocks that are loaded: without those for multi-token prediction, unless asked.
    n_blocks: u32,
    moe_blocks: Vec<u32>,
}

impl<'a> Shape<'a> {
    fn new(header: &'a Header, with_mtp: bool) -> Self {
        let n_blocks = header.n_blocks_loaded(with_mtp);
        let mut moe_blocks = header.expert_blocks();
        moe_blocks.retain(|&block| block < n_blocks);
        Self {
            header,
            with_mtp,
            n_blocks,
            moe_blocks,
        }
    }

    fn tensors(&self) -> impl Iterator<Item = (&'a str, u64)> + '_ {
        let tensors = self.header.tensors().iter();
        tensors
            .filter(|tensor| self.header.is_loaded(tensor.block, self.with_mtp))
            .map(|tensor| (tensor.name.as_str(), tensor.bytes))
    }

    /// Something to start from for whoever wrote a rule that matches nothing.
    fn hint(&self) -> String {
        match self.moe_blocks.as_slice() {
            [] => "; it has no experts (a dense model)".to_owned(),
            [first, .., last] => format!("; its experts are in blocks {first} to {last}"),
            [only] => format!("; its experts are in block {only}"),
        }
    }
}

impl Rule {
    /// The pattern of this rule for a model; `None` if the rule is empty there and that is
    /// allowed.
    fn pattern(&self, model: &Shape<'_>, allow_unmatched: bool) -> Result<Option<Pattern>> {
        let blocks = match &self.tensors {
            Tensors::Experts => return Ok(Some(Pattern::experts()?)),
            Tensors::Pattern(pattern) => return Ok(Some(pattern.clone())),
            &Tensors::ExpertsOfBlocks(n) | &Tensors::DenseFfnOfBlocks(n) => {
                self.check_count("blocks", n, model.n_blocks)?;
                (0..n).collect()
            }
            Tensors::ExpertsOfRange(range) => self.blocks_of(*range, model.n_blocks)?,
            &Tensors::ExpertsOfFirst(n) => {
                let n = self.moe_count(n, model)?;
                model.moe_blocks[..n].to_vec()
            }
            &Tensors::ExpertsOfLast(n) => {
                let n = self.moe_count(n, model)?;
                model.moe_blocks[model.moe_blocks.len() - n..].to_vec()
            }
        };
        if blocks.is_empty() && allow_unmatched {
            return Ok(None);
        }
        Ok(Some(match self.tensors {
            Tensors::DenseFfnOfBlocks(_) => Pattern::dense_ffn_of(&blocks)?,
            _ => Pattern::experts_of(&blocks)?,
        }))
    }

    /// `n` as a count of MoE layers that there are.
    fn moe_count(&self, n: u32, model: &Shape<'_>) -> Result<usize, OverrideError> {
        let available = model.moe_blocks.len();
        self.check_count(
            "MoE layers",
            n,
            u32::try_from(available).unwrap_or(u32::MAX),
        )?;
        Ok(available.min(n as usize))
    }

    fn check_count(
        &self,
        what: &'static str,
        asked: u32,
        available: u32,
    ) -> Result<(), OverrideError> {
        if asked == 0 {
            return Err(OverrideError::NoLayers {
                rule: self.to_string(),
            });
        }
        if asked > available {
            return Err(OverrideError::NoSuchLayer {
                rule: self.to_string(),
                what,
                asked,
                available,
            });
        }
        Ok(())
    }

    fn blocks_of(&self, range: BlockRange, n_blocks: u32) -> Result<Vec<u32>, OverrideError> {
        let end = range.end.unwrap_or(n_blocks);
        if range.start >= end {
            return Err(OverrideError::NoLayers {
                rule: self.to_string(),
            });
        }
        self.check_count("blocks", end, n_blocks)?;
        Ok((range.start..end).collect())
    }
}

/// The devices that a model will use.
pub(crate) struct DevicesInUse {
    pub(crate) cpu: Device,
    pub(crate) devices: Vec<Device>,
    /// Weights are cut across all devices (`SplitMode::Tensor`): none can be named.
    pub(crate) merged: bool,
    /// For messages about names that nothing has.
    pub(crate) known: Vec<Device>,
}

impl DevicesInUse {
    fn buffer_type(&self, rule: &Rule) -> Result<BufferType> {
        let device = match &rule.target {
            Target::Cpu => self.cpu,
            Target::Device(device) => *device,
            Target::Named(name) => self.by_buffer_type(name)?,
        };
        // Accelerators compute in the CPU's memory.
        let device = match device.device_type() {
            DeviceType::Cpu | DeviceType::Accelerator => self.cpu,
            _ if self.merged => {
                return Err(OverrideError::DevicesMerged {
                    rule: rule.to_string(),
                    device: device.name(),
                }
                .into());
            }
            _ if self.devices.contains(&device) => device,
            _ => {
                return Err(OverrideError::DeviceNotInUse {
                    rule: rule.to_string(),
                    device: device.name(),
                    in_use: self.names_in_use(),
                }
                .into());
            }
        };
        device
            .handle()
            .buffer_type()
            .ok_or_else(|| Error::UnknownDevice {
                name: device.name(),
                available: self.names_in_use(),
            })
    }

    fn names_in_use(&self) -> Vec<String> {
        let devices = [self.cpu].into_iter().chain(self.devices.iter().copied());
        devices.map(|device| device.name()).collect()
    }

    fn by_buffer_type(&self, name: &str) -> Result<Device> {
        let is_buffer_type = |device: &&Device| {
            let buffer_type = device.buffer_type_name();
            buffer_type.is_some_and(|buffer_type| buffer_type.eq_ignore_ascii_case(name))
        };
        // The buffer type of `RPC0` is called `RPC0[127.0.0.1:50052]`; `-ot` knows no shorter name.
        let is_device = |device: &&Device| device.name().eq_ignore_ascii_case(name);
        let known = || self.known.iter();
        known()
            .find(is_buffer_type)
            .or_else(|| known().find(is_device))
            .copied()
            .ok_or_else(|| Error::UnknownDevice {
                name: name.to_owned(),
                available: self
                    .known
                    .iter()
                    .filter_map(Device::buffer_type_name)
                    .collect(),
            })
    }
}
