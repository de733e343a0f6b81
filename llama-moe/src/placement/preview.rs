//! Where every tensor will go, told from the header.

use std::fmt;

use super::lower::{DevicesInUse, LoweredOverrides, RuleMatch};
use super::machine::{Answer, Layers, Machine, Side, side_of};
use super::moe_cache::{ExpertLayers, MoeCacheLayout, is_cached_part};
use super::report::{PlacementSum, write_table};
use crate::backend::{Backend, Device};
use crate::error::{Error, Result};
use crate::ffi::{self, WeightLayer, WeightOp};
use crate::gguf::{Header, MoeShape, Role, TensorInfo};
use crate::model::{LoadMode, ModelParams, ModelSource, checked_without_vocab};

/// Where the loader will put every tensor of a model, and what each rule takes, before
/// anything is loaded.
///
/// It follows the loader's own steps: its regular expressions, its table of what each tensor
/// is used for, each device's own answer to whether it can compute with a weight, and each
/// buffer type's own size for it. [`Placement::verify`](super::Placement::verify) holds a
/// loaded model against it.
///
/// ```no_run
/// use llama_moe::{Backend, ModelParams, Preview};
///
/// let backend = Backend::init()?;
/// let params = ModelParams::default().with_cpu_moe_all();
/// println!("{}", Preview::new(&backend, "gpt-oss-20b.gguf", &params)?);
/// # Ok::<(), llama_moe::Error>(())
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Preview {
    tensors: Vec<TensorPreview>,
    rules: Vec<RuleMatch>,
    load_mode: LoadMode,
    #[cfg_attr(feature = "serde", serde(skip))]
    moe: Option<MoeShape>,
    #[cfg_attr(feature = "serde", serde(skip))]
    experts: ExpertLayers,
}

/// One tensor of a model that is not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TensorPreview {
    /// Its name, such as `blk.3.ffn_up_exps.weight`.
    pub name: String,
    /// The element type, as ggml names it.
    pub kind: String,
    /// Elements per dimension, ggml's order: the fastest first.
    pub shape: Vec<u64>,
    /// Bytes of its data.
    pub bytes: u64,
    /// Bytes it takes in its buffer, with what the buffer type adds.
    pub allocated: u64,
    /// The part it plays.
    pub role: Role,
    /// The block it belongs to.
    pub block: Option<u32>,
    /// The buffer type it will be in, by the name that
    /// [`TensorPlacement::buffer`](super::TensorPlacement::buffer) will have.
    pub buffer: String,
    /// The device that the buffer type belongs to; `None` for one that is not at hand.
    pub device: Option<Device>,
    /// Whether that is system memory.
    pub is_host: bool,
    /// The rule that decides, as an index of [`Preview::rules`].
    pub rule: Option<usize>,
    /// A second copy of a tensor with this name: a tied output next to its embeddings.
    pub duplicate: bool,
    /// The device's index among those in use.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) index: Option<usize>,
}

impl Preview {
    /// Works out where the tensors of a model go, with these parameters and the devices of
    /// this process. Reads headers only.
    ///
    /// Where several devices share the layers by their free memory, that is asked for; an RPC
    /// worker is asked for the sizes of some tensors.
    ///
    /// # Errors
    /// As [`Model::load`](crate::Model::load) would refuse the file, the parameters or the
    /// rules; what it finds only as it builds the model, such as an architecture that is not
    /// known or a tensor that is missing, is left to it. [`Error::Parameter`] for a vocabulary alone, and for
    /// [`SplitMode::Row`](crate::SplitMode::Row) and [`SplitMode::Tensor`](crate::SplitMode::Tensor),
    /// whose tensors are cut across devices. [`Error::Llama`] with the feature `system`: an
    /// installed llama.cpp does not tell what it uses tensors for.
    pub fn new(
        backend: &Backend,
        source: impl Into<ModelSource>,
        params: &ModelParams,
    ) -> Result<Self> {
        Self::of_header(backend, &Header::read(source)?, params)
    }

    /// As [`new`](Self::new), for a header that has been read.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_header(backend: &Backend, header: &Header, params: &ModelParams) -> Result<Self> {
        let header = checked_without_vocab(header.clone(), params)?;
        let in_use = params.devices_in_use(backend)?;
        let overrides = params
            .overrides()
            .lower_for(&header, params.loads_mtp(), &in_use)?;
        let load_mode = LoadMode::from_raw(params.choose_load_mode(&overrides, &in_use));
        let machine = Machine::real(&header, params, &in_use, load_mode, params.is_no_alloc())?;
        let shares = shares(params, &in_use);
        Self::on(&machine, &header, params, &shares, &overrides, load_mode)
    }

    /// The same on a machine that need not be at hand.
    pub(super) fn on(
        machine: &Machine,
        header: &Header,
        params: &ModelParams,
        shares: &[f32],
        overrides: &LoweredOverrides,
        load_mode: LoadMode,
    ) -> Result<Self> {
        params.check_previewable()?;
        let layers = Layers::new(header.n_blocks(), params.n_gpu_layers(), shares);
        let mut tensors = Vec::with_capacity(header.tensors().len() + 1);
        let n_expert_used = header.hyper_parameter("expert_used_count").unwrap_or(0);
        let mut experts = ExpertLayers {
            devices: machine.cache_devices(shares),
            n_expert_used: u32::try_from(n_expert_used).unwrap_or(u32::MAX),
            ..ExpertLayers::default()
        };
        let with_mtp = params.loads_mtp();
        let n_loaded = header.n_blocks_loaded(with_mtp);
        let loaded = header
            .tensors()
            .iter()
            .filter(|tensor| header.is_loaded(tensor.block, with_mtp));
        for tensor in loaded {
            let usage = ffi::weight_use(header.architecture(), &tensor.name)?;
            let Some(usage) = usage else {
                continue;
            };
            // Without an operation the loader leaves a tensor out.
            let Some(op) = usage.op else {
                continue;
            };
            // No rule is asked for it.
            if header.can_stay_in_file(tensor)
                && let Some(answer) = machine.place_in_file(tensor)?
            {
                tensors.push(TensorPreview::new(tensor, answer, None, false));
                continue;
            }
            let rule = overrides.rule_for(&tensor.name);
            let placed = |side: Side, op: WeightOp| -> Result<Answer> {
                match rule.and_then(|rule| overrides.side(rule, machine)) {
                    Some(by_rule) => machine.place_by_rule(by_rule, op, tensor),
                    None => machine.place(side, op, tensor),
                }
            };
            let mut copies: Vec<Answer> = Vec::with_capacity(1);
            let mut add = |answer: Answer| {
                if copies.iter().all(|copy| copy.buffer != answer.buffer) {
                    copies.push(answer);
                }
            };
            let n_blocks = header.n_blocks();
            match (usage.layer, usage.block) {
                (WeightLayer::Repeating, None) if tensor.name.starts_with("rope_") => {
                    // One copy for the blocks of each memory.
                    for block in (0..n_loaded).filter(|block| header.has_rope_factors(*block)) {
                        add(placed(layers.side(block), op)?);
                    }
                }
                (layer, block) => {
                    let side = side_of(&layers, n_blocks, layer, block.unwrap_or(0));
                    add(placed(side, op)?);
                }
            }
            if is_tied_output(header, tensor) {
                let side = layers.side(n_blocks);
                add(placed(side, WeightOp::MUL_MAT)?);
            }
            if let (Some(block), true, Some(answer)) =
                (tensor.block, is_cached_part(&tensor.name), copies.first())
            {
                let device = match layers.side(block) {
                    Side::Cpu => None,
                    Side::Device(index) => Some(index),
                };
                let rule = rule.and_then(|rule| Some(overrides.matches().nth(rule)?.rule.clone()));
                experts.add(block, device, answer.expert_tensor(tensor, rule));
            }
            for (index, answer) in copies.into_iter().enumerate() {
                tensors.push(TensorPreview::new(tensor, answer, rule, index > 0));
            }
        }
        if tensors.is_empty() {
            return Err(Error::Load {
                path: header.paths().first().cloned().unwrap_or_default(),
                reason: "it has no tensors that llama.cpp would load".to_owned(),
            });
        }
        Ok(Self {
            tensors,
            rules: overrides.matches().cloned().collect(),
            load_mode,
            moe: header.moe(),
            experts,
        })
    }

    pub(super) fn moe(&self) -> Option<&MoeShape> {
        self.moe.as_ref()
    }

    /// Works out the layout of a cache of experts of `size` bytes
    /// ([`ContextParams::with_moe_cache_size`](crate::ContextParams::with_moe_cache_size)). With a
    /// size of 0: which layers could be cached.
    ///
    /// Several devices without a tensor split share a cache by the memory that they have free when
    /// the context is made; what they have free now stands in for it.
    ///
    /// # Errors
    /// [`MoeCacheError`](crate::MoeCacheError) as [`Model::context`](crate::Model::context) will
    /// return it.
    pub fn moe_cache(&self, size: u64) -> Result<MoeCacheLayout> {
        MoeCacheLayout::new(&self.experts, size)
    }

    /// The tensors that will be loaded, in the file's order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorPreview] {
        &self.tensors
    }

    /// What each rule takes, in the rules' order.
    #[must_use]
    pub fn rules(&self) -> &[RuleMatch] {
        &self.rules
    }

    /// How the file will be read.
    #[must_use]
    pub fn load_mode(&self) -> LoadMode {
        self.load_mode
    }

    /// Bytes and tensors per buffer type, by name. As in
    /// [`Placement::sums`](super::Placement::sums), `bytes` are those of the tensors' data.
    #[must_use]
    pub fn sums(&self) -> Vec<PlacementSum> {
        let tensors = self.tensors.iter();
        PlacementSum::all(tensors.map(|tensor| (&*tensor.buffer, tensor.is_host, tensor.bytes)))
    }

    /// Bytes that the weights take in a buffer type, with what it adds to each for alignment:
    /// the size of the buffer that llama.cpp will allocate, as
    /// [`MemoryEntry::model`](crate::MemoryEntry::model) has it. For weights that are stored
    /// rotated, llama.cpp makes the rotations on top.
    #[must_use]
    pub fn allocated(&self, buffer: &str) -> u64 {
        let tensors = self.tensors.iter();
        tensors
            .filter(|tensor| tensor.buffer == buffer)
            .map(|tensor| tensor.allocated)
            .sum()
    }
}

impl TensorPreview {
    fn new(tensor: &TensorInfo, answer: Answer, rule: Option<usize>, duplicate: bool) -> Self {
        Self {
            name: tensor.name.clone(),
            kind: tensor.kind.clone(),
            shape: tensor.shape.clone(),
            bytes: tensor.bytes,
            allocated: answer.allocated,
            role: tensor.role,
            block: tensor.block,
            buffer: answer.buffer,
            device: answer.device,
            is_host: answer.is_host,
            rule,
            duplicate,
            index: answer.index,
        }
    }
}

/// Each device's share of the layers: as the parameters say, or else its free memory.
pub(super) fn shares(params: &ModelParams, in_use: &DevicesInUse) -> Vec<f32> {
    let devices = &in_use.devices;
    match (devices.len(), params.tensor_split()) {
        (0 | 1, _) => vec![1.0; devices.len()],
        (_, []) => {
            let free = devices.iter().map(|device| {
                let memory = device.memory();
                // A device that does not say has the system's.
                let memory = if memory.free == 0 && memory.total == 0 {
                    in_use.cpu.memory()
                } else {
                    memory
                };
                memory.free as f32
            });
            free.collect()
        }
        (n, parts) => {
            let mut parts = parts.to_vec();
            parts.resize(n, 0.0);
            parts
        }
    }
}

/// Whether the loader makes a second copy of these embeddings for the output. Architectures
/// that only embed, or only decide, have no output; drafts use the target's, and BitNet the
/// embeddings where they are.
fn is_tied_output(header: &Header, tensor: &TensorInfo) -> bool {
    let architecture = header.architecture();
    let has_none = architecture.contains("bert")
        || matches!(
            architecture,
            "bitnet" | "dflash" | "eagle3" | "llama-embed" | "t5encoder" | "wavtokenizer-dec"
        )
        || (architecture == "lfm2" && header.hyper_parameter("decision.block_count") > Some(0));
    tensor.name == "token_embd.weight" && !has_none && header.tensor("output.weight").is_none()
}

/// A table of bytes per buffer type, and what each rule takes.
impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rules.iter();
        let rules = rules.map(|rule| (rule.rule.as_str(), rule.tensors.len(), rule.bytes));
        write_table(f, &self.sums(), rules)?;
        write!(f, "load mode: {}", self.load_mode)
    }
}

impl ModelParams {
    fn check_previewable(&self) -> Result<()> {
        let refuse = |parameter, value: &str, reason: &str| {
            Err(Error::Parameter {
                parameter,
                value: value.to_owned(),
                reason: reason.to_owned(),
            })
        };
        if self.is_vocab_only() {
            return refuse(
                "with_vocab_only",
                "true",
                "a vocabulary has no tensors to place",
            );
        }
        if self.cuts_tensors() {
            return refuse(
                "with_split_mode",
                "Row or Tensor",
                "tensors that are cut across devices are in no one place; use SplitMode::Layer",
            );
        }
        Ok(())
    }
}
