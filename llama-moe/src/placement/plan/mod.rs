//! Rules, layers and shares for a memory budget.

mod budget;
mod choose;
mod command;
mod error;
mod fill;
mod forecast;
mod moe_cache;
mod planner;
mod scene;
mod table;
mod usage;

use std::path::PathBuf;

pub use budget::Budget;
pub use error::PlanError;
pub use forecast::{Bandwidths, DecodeForecast, HitRates};
pub use planner::Planner;
pub use usage::MemoryUse;

use super::moe_cache::MoeCacheLayout;
use super::preview::Preview;
use crate::backend::Device;
use crate::context::ContextParams;
use crate::gguf::MoeShape;
use crate::model::ModelParams;

/// How a model can be loaded within a [`Budget`](super::Budget), made by
/// [`Planner::fit`](super::Planner::fit).
///
/// Printed, it is a table per memory, the cache of experts if there is one, the rules, and the
/// equal llama.cpp command line.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Plan {
    name: String,
    path: PathBuf,
    moe: Option<MoeShape>,
    n_blocks: u32,
    devices: Vec<PlannedMemory>,
    host: PlannedMemory,
    n_ctx: u32,
    n_ubatch: u32,
    is_estimate: bool,
    moe_cache: Option<MoeCacheLayout>,
    is_moe_cache_left_out: bool,
    forecasts: Vec<DecodeForecast>,
    overrides: String,
    /// Endpoints of the workers that llama.cpp has to be told of.
    #[cfg_attr(feature = "serde", serde(skip))]
    rpc_servers: Vec<String>,
    preview: Preview,
    #[cfg_attr(feature = "serde", serde(skip))]
    params: ModelParams,
    #[cfg_attr(feature = "serde", serde(skip))]
    context: ContextParams,
}

/// One memory of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PlannedMemory {
    /// The device's name; `CPU` for the system's memory.
    pub name: String,
    /// `None` for the system's memory and for a device that is not at hand.
    pub device: Option<Device>,
    /// Bytes that may be used; `None` for as many as it takes.
    pub budget: Option<u64>,
    /// Bytes that are.
    pub used: MemoryUse,
}

impl Plan {
    /// The parameters to load the model with.
    #[must_use]
    pub fn model_params(&self) -> &ModelParams {
        &self.params
    }

    /// The parameters to make the context with.
    #[must_use]
    pub fn context_params(&self) -> &ContextParams {
        &self.context
    }

    /// Layers on devices, counted from the last; the output layer is one of them.
    #[must_use]
    pub fn n_gpu_layers(&self) -> u32 {
        if self.devices.is_empty() {
            return 0;
        }
        let all = self.n_blocks + 1;
        self.params.fixed_n_gpu_layers().map_or(all, |n| n.min(all))
    }

    /// Each device's part of these layers, in proportion; empty for a single device.
    #[must_use]
    pub fn tensor_split(&self) -> &[f32] {
        self.params.tensor_split()
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The devices, in the order in which the model uses them.
    #[must_use]
    pub fn devices(&self) -> &[PlannedMemory] {
        &self.devices
    }

    /// The system's memory.
    #[must_use]
    pub fn host(&self) -> &PlannedMemory {
        &self.host
    }

    /// Tokens that the context has room for.
    #[must_use]
    pub fn n_ctx(&self) -> u32 {
        self.n_ctx
    }

    /// Whether context and compute buffers were estimated, for devices that are not at hand.
    #[must_use]
    pub fn is_estimate(&self) -> bool {
        self.is_estimate
    }

    /// The layout of the cache of experts; `None` without one.
    #[must_use]
    pub fn moe_cache(&self) -> Option<&MoeCacheLayout> {
        self.moe_cache.as_ref()
    }

    /// Whether a cache of experts was asked for, and the plan has none because all experts that
    /// could be cached are on devices.
    #[must_use]
    pub fn is_moe_cache_left_out(&self) -> bool {
        self.is_moe_cache_left_out
    }

    /// The predictions of [`Planner::with_routing`] for the alternatives: first without a cache, then
    /// with ever larger ones. Empty without hit rates, and where no cache is needed.
    #[must_use]
    pub fn forecasts(&self) -> &[DecodeForecast] {
        &self.forecasts
    }

    /// Bytes of routed experts on all devices together.
    #[must_use]
    pub fn expert_bytes_on_devices(&self) -> u64 {
        self.devices.iter().map(|memory| memory.used.experts).sum()
    }

    /// The experts' numbers; `None` for a dense model.
    #[must_use]
    pub fn moe(&self) -> Option<&MoeShape> {
        self.moe.as_ref()
    }

    /// Where every tensor goes.
    #[must_use]
    pub fn preview(&self) -> &Preview {
        &self.preview
    }

    pub(super) fn n_ubatch(&self) -> u32 {
        self.n_ubatch
    }
}

impl From<Plan> for ModelParams {
    fn from(plan: Plan) -> Self {
        plan.params
    }
}

impl From<&Plan> for ModelParams {
    fn from(plan: &Plan) -> Self {
        plan.params.clone()
    }
}
