//! The builder of rules.

use std::ops::RangeBounds;

use super::parse;
use super::pattern::Pattern;
use super::rule::{BlockRange, Rule, Target, Tensors};
use crate::error::Result;

/// Rules for where tensors live, in the order they are tried.
///
/// The rules own their patterns, know nothing of any model, and can be cloned and used for
/// several, a draft model among them. What they mean for one model is worked out
/// when it is loaded, or by [`lower`](Self::lower).
///
/// Rests on `llama_model_params::tensor_buft_overrides`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorOverrides {
    rules: Vec<Rule>,
    allow_unmatched: bool,
}

/// Why a rule cannot be applied to a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OverrideError {
    /// A rule finds no tensor.
    #[error("the rule \"{rule}\" matches none of the model's {n_tensors} tensors{hint}")]
    Unmatched {
        /// The rule.
        rule: String,
        /// Tensors in the model.
        n_tensors: usize,
        /// What there is instead.
        hint: String,
    },
    /// A rule finds tensors, but earlier rules have taken them all.
    #[error(
        "the rule \"{rule}\" is never reached: \"{by}\" comes before it and takes all its tensors"
    )]
    Shadowed {
        /// The rule.
        rule: String,
        /// The earlier rule that takes most of them.
        by: String,
    },
    /// A count of layers that the model does not have.
    #[error("the rule \"{rule}\" asks for {asked} {what}, but the model has {available}")]
    NoSuchLayer {
        /// The rule.
        rule: String,
        /// What is counted: "blocks", "MoE layers".
        what: &'static str,
        /// How many were asked for.
        asked: u32,
        /// How many there are.
        available: u32,
    },
    /// A rule for no layer at all.
    #[error("the rule \"{rule}\" names no layer; leave it out if that is meant")]
    NoLayers {
        /// The rule.
        rule: String,
    },
    /// More rules than llama.cpp takes.
    #[error("{count} rules are more than llama.cpp takes ({max}); join patterns with '|'")]
    TooMany {
        /// Rules there are.
        count: usize,
        /// The most there can be.
        max: usize,
    },
    /// A rule for a device that the model is not given: llama.cpp would abort.
    #[error("the rule \"{rule}\" places tensors on {device}, which this model does not use; it uses: {}", in_use.join(", "))]
    DeviceNotInUse {
        /// The rule.
        rule: String,
        /// The device.
        device: String,
        /// The devices that it does use.
        in_use: Vec<String>,
    },
    /// A rule for one device where all hold a part of every tensor.
    #[error(
        "the rule \"{rule}\" places tensors on {device}, but SplitMode::Tensor cuts each tensor across all devices: only the CPU can be named"
    )]
    DevicesMerged {
        /// The rule.
        rule: String,
        /// The device.
        device: String,
    },
    /// A text in `-ot` syntax that is none.
    #[error("'{part}' (at byte {position}) is not PATTERN=BUFFER_TYPE: {reason}")]
    Syntax {
        /// The part between commas.
        part: String,
        /// Its byte offset in the whole text.
        position: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl TensorOverrides {
    /// No rules.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All routed experts to system memory, whatever the number of layers.
    #[must_use]
    #[doc(alias = "--cpu-moe")]
    #[doc(alias = "-cmoe")]
    pub fn with_cpu_moe_all(self) -> Self {
        self.with(Tensors::Experts, Target::Cpu)
    }

    /// The routed experts of the first `n` blocks to system memory. Counts as llama.cpp's
    /// `--n-cpu-moe` does: blocks from 0 on, dense ones included, so that numbers carry
    /// over. `n` is 1 to the number of blocks; loading with any other is an error.
    #[must_use]
    #[doc(alias = "--n-cpu-moe")]
    #[doc(alias = "-ncmoe")]
    pub fn with_n_cpu_moe(self, n: u32) -> Self {
        self.with(Tensors::ExpertsOfBlocks(n), Target::Cpu)
    }

    /// The routed experts of these blocks to system memory: `3..8`, `..=4`, `40..`.
    #[must_use]
    pub fn with_cpu_moe_layers(self, blocks: impl RangeBounds<u32>) -> Self {
        self.with_moe_layers_on(blocks, Target::Cpu)
    }

    /// The routed experts of the first `n` MoE layers to system memory. Blocks without
    /// experts are not counted.
    #[must_use]
    pub fn with_cpu_moe_first(self, n: u32) -> Self {
        self.with(Tensors::ExpertsOfFirst(n), Target::Cpu)
    }

    /// The routed experts of the last `n` MoE layers to system memory. Blocks without
    /// experts are not counted.
    #[must_use]
    pub fn with_cpu_moe_last(self, n: u32) -> Self {
        self.with(Tensors::ExpertsOfLast(n), Target::Cpu)
    }

    /// The routed experts of these blocks to `target`. With several GPUs `--n-cpu-moe` empties
    /// the first one only, because llama.cpp fills them with blocks in order; this
    /// relieves the one that is full.
    #[must_use]
    pub fn with_moe_layers_on(
        self,
        blocks: impl RangeBounds<u32>,
        target: impl Into<Target>,
    ) -> Self {
        self.with(
            Tensors::ExpertsOfRange(BlockRange::new(blocks)),
            target.into(),
        )
    }

    /// The feed-forward tensors of the first `n` blocks of a dense model to system
    /// memory.
    #[must_use]
    #[doc(alias = "--n-cpu-ffn")]
    pub fn with_cpu_ffn(self, n: u32) -> Self {
        self.with(Tensors::DenseFfnOfBlocks(n), Target::Cpu)
    }

    /// The tensors that a pattern finds to `target`.
    #[must_use]
    #[doc(alias = "--override-tensor")]
    #[doc(alias = "-ot")]
    pub fn with_override(self, pattern: Pattern, target: impl Into<Target>) -> Self {
        self.with(Tensors::Pattern(pattern), target.into())
    }

    /// Rules in the syntax of llama.cpp's `-ot`: `PATTERN=BUFFER_TYPE`, several of them
    /// with commas between. A comma inside of a pattern is written `\,`. The buffer type is
    /// what follows the last `=`, and is looked up when a model is loaded; a device's name
    /// will do, which matters for RPC devices, whose buffer types have long names.
    ///
    /// # Errors
    /// [`OverrideError::Syntax`] and [`PatternError`](super::PatternError).
    ///
    /// ```
    /// use llama_moe::TensorOverrides;
    ///
    /// let rules = TensorOverrides::new()
    ///     .with_override_str(r"blk\.\d{1\,2}\.ffn_up_exps=CPU,ffn_gate_exps=RPC0")?;
    /// assert_eq!(rules.len(), 2);
    /// # Ok::<(), llama_moe::Error>(())
    /// ```
    #[doc(alias = "--override-tensor")]
    #[doc(alias = "-ot")]
    pub fn with_override_str(mut self, rules: &str) -> Result<Self> {
        self.rules.extend(parse::rules(rules)?);
        Ok(self)
    }

    /// Accepts rules that match no tensor, or none that an earlier rule has left over.
    #[must_use]
    pub fn allow_unmatched(mut self) -> Self {
        self.allow_unmatched = true;
        self
    }

    /// The rules in their order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The number of rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(crate) fn allows_unmatched(&self) -> bool {
        self.allow_unmatched
    }

    fn with(mut self, tensors: Tensors, target: Target) -> Self {
        self.rules.push(Rule { tensors, target });
        self
    }
}
