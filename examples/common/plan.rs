//! Letting a model fit, and how it does, for scripts.

use clap::Args;
use llama_moe::{Backend, Budget, Limits, MoeCacheLayout, Plan, PlannedMemory, Planner, RuleMatch};
use serde::Serialize;

use crate::{Bytes, ContextArgs, ModelArgs, MoeCacheArgs, MoeCacheReport, Result};

/// Bytes that are left free on each device where nobody says: as llama.cpp's own `--fit` does.
pub const MARGIN: u64 = 1 << 30;

/// Rules by budget instead of by hand.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Plan")]
pub struct VramArgs {
    /// Choose rules that make the model fit what the devices have free, less 1 GiB each
    ///
    /// Rules that are given stay as they are, and come first. The plan is printed on stderr.
    #[arg(long, conflicts_with = "vram_budget")]
    plan: bool,

    /// The same for so much memory of each device, such as 8GiB
    #[arg(long, value_name = "BYTES")]
    vram_budget: Option<Bytes>,
}

impl VramArgs {
    /// The plan, if one is asked for. It reserves the cache of experts, unless all experts fit
    /// without one: [`moe_cache_size`] says which.
    ///
    /// # Errors
    /// If nothing fits, and as [`ModelArgs::params`].
    pub fn plan(
        &self,
        backend: &Backend,
        model: &ModelArgs,
        context: &ContextArgs,
        cache: &MoeCacheArgs,
    ) -> Result<Option<Plan>> {
        let budget = match self.vram_budget {
            Some(Bytes(bytes)) => Budget::per_device(bytes),
            None if self.plan => Budget::free(MARGIN),
            None => return Ok(None),
        };
        let planner = Planner::new(backend, model.source()?)?;
        let context = context.params_before(planner.header());
        let planner = planner
            .with_model_params(model.params(backend)?)
            .with_context_params(cache.context_params(context));
        Ok(Some(planner.fit(&budget)?))
    }
}

/// Bytes of the cache of experts that a context has after a plan, or without one.
#[must_use]
pub fn moe_cache_size(plan: Option<&Plan>, asked: &MoeCacheArgs) -> u64 {
    match plan {
        None => asked.size(),
        Some(plan) => plan.moe_cache().map_or(0, MoeCacheLayout::size),
    }
}

/// A plan in numbers; all amounts are bytes.
#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    /// The model's name.
    pub model: String,
    /// Tokens that the context has room for.
    pub n_ctx: u32,
    /// Whether context and compute buffers are estimates, for devices that are not at hand.
    pub estimate: bool,
    /// The devices, in the order in which the model uses them.
    pub devices: Vec<PlannedMemoryReport>,
    /// The system's memory.
    pub host: PlannedMemoryReport,
    /// Layers on devices, counted from the last; the output layer is one.
    pub n_gpu_layers: u32,
    /// Each device's part of them, in proportion; empty for a single device.
    pub tensor_split: Vec<f32>,
    /// The cache of experts; null without one.
    pub moe_cache: Option<MoeCacheReport>,
    /// Whether a cache was asked for that is not needed: all experts are on devices.
    pub moe_cache_left_out: bool,
    /// What each rule takes.
    pub rules: Vec<PlannedRule>,
    /// What can be expected at most; null where it was not asked for.
    pub limits: Option<LimitsReport>,
    /// The equal options of llama.cpp's own programs.
    pub command_line: String,
}

/// What is used of one memory.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedMemoryReport {
    /// The device.
    pub name: String,
    /// What may be used; null for as much as it takes.
    pub budget: Option<u64>,
    /// Weights, `experts` included.
    pub weights: u64,
    /// Routed experts.
    pub experts: u64,
    /// The KV cache.
    pub context: u64,
    /// The cache of experts.
    pub moe_cache: u64,
    /// Buffers to compute in.
    pub compute: u64,
    /// Weights, context, cache of experts and compute together.
    pub total: u64,
}

/// What one rule takes.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedRule {
    /// The rule, in words.
    pub rule: String,
    /// The regular expression.
    pub pattern: String,
    /// The buffer type.
    pub target: String,
    /// How many tensors it takes.
    pub n_tensors: usize,
    /// Their bytes together.
    pub bytes: u64,
}

/// Upper bounds of the speed.
#[derive(Clone, Debug, Serialize)]
pub struct LimitsReport {
    /// Bytes per second that the system's memory was measured to deliver.
    pub host_bandwidth: f64,
    /// Tokens per second of one sequence; null where nothing is in system memory.
    pub decode: Option<f64>,
    /// Tokens per second of a prompt; null as above.
    pub prefill: Option<f64>,
}

impl PlanReport {
    /// The report.
    #[must_use]
    pub fn of(plan: &Plan, limits: Option<Limits>) -> Self {
        Self {
            model: plan.name().to_owned(),
            n_ctx: plan.n_ctx(),
            estimate: plan.is_estimate(),
            devices: plan.devices().iter().map(memory).collect(),
            host: memory(plan.host()),
            n_gpu_layers: plan.n_gpu_layers(),
            tensor_split: plan.tensor_split().to_vec(),
            moe_cache: plan
                .moe_cache()
                .map(|layout| MoeCacheReport::of(layout, None)),
            moe_cache_left_out: plan.is_moe_cache_left_out(),
            rules: plan.preview().rules().iter().map(rule).collect(),
            limits: limits.map(|limits| LimitsReport {
                host_bandwidth: limits.host_bandwidth,
                decode: limits.decode,
                prefill: limits.prefill,
            }),
            command_line: plan.command_line(),
        }
    }
}

fn memory(memory: &PlannedMemory) -> PlannedMemoryReport {
    let used = &memory.used;
    PlannedMemoryReport {
        name: memory.name.clone(),
        budget: memory.budget,
        weights: used.weights,
        experts: used.experts,
        context: used.context,
        moe_cache: used.moe_cache,
        compute: used.compute,
        total: used.total(),
    }
}

fn rule(found: &RuleMatch) -> PlannedRule {
    PlannedRule {
        rule: found.rule.clone(),
        pattern: found.pattern.clone(),
        target: found.target.clone(),
        n_tensors: found.tensors.len(),
        bytes: found.bytes,
    }
}
