//! What the example programs share: options of the command line, and what stands behind
//! them.

mod bytes;
mod context;
mod exit;
mod hub;
mod interrupt;
mod log;
mod model;
mod moe_cache;
mod placement;
mod plan;
mod progress;
mod sampling;

pub use bytes::Bytes;
pub use context::ContextArgs;
pub use exit::{Result, exit_code, is_broken_pipe};
pub use hub::HubModel;
pub use interrupt::Interrupt;
pub use log::LogArgs;
pub use model::{ModelArgs, add_rpc_servers, bundled_model};
pub use moe_cache::{
    MoeCacheArgs, MoeCacheGroupReport, MoeCacheReport, describe_moe_cache, describe_moe_cache_use,
};
pub use placement::{MemoryReport, PlacementReport, RuleReport, write_placement_svg, write_svg};
pub use plan::{
    LimitsReport, MARGIN, PlanReport, PlannedMemoryReport, PlannedRule, VramArgs, moe_cache_size,
};
pub use progress::ShareBar;
pub use sampling::SamplingArgs;
