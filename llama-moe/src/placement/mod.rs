//! Which memory each weight tensor lives in: rules before loading, proof after.
//!
//! The mechanism is llama.cpp's `tensor_buft_overrides`. A rule says which tensors (all
//! routed experts, those of some layers, whatever a regular expression finds) go to which
//! memory (the CPU's, or a device's). Rules are tried in order and the first that matches
//! a tensor's name takes it; what no rule takes is placed by `n_gpu_layers`.
//!
//! ```
//! use llama_moe::{Pattern, Target, TensorOverrides};
//!
//! // The experts of blocks 0 to 7 in system memory, and the token embeddings too.
//! let rules = TensorOverrides::new()
//!     .with_n_cpu_moe(8)
//!     .with_override(Pattern::new(r"^token_embd\.")?, Target::Cpu);
//! assert_eq!(rules.len(), 2);
//! # Ok::<(), llama_moe::Error>(())
//! ```
//!
//! # Counting layers
//!
//! llama.cpp's `--n-cpu-moe N` counts *blocks* from 0. A model whose first blocks are dense
//! (DeepSeek, GLM, dots1, Kimi, Ernie) spends a part of N on blocks without experts:
//!
//! | DeepSeek-V3, 61 blocks, the first 3 dense | blocks | experts moved to the CPU |
//! |---|---|---|
//! | [`with_n_cpu_moe(5)`](TensorOverrides::with_n_cpu_moe) | 0 to 4 | of 2 layers |
//! | [`with_cpu_moe_first(5)`](TensorOverrides::with_cpu_moe_first) | 3 to 7 | of 5 layers |
//! | [`with_cpu_moe_last(5)`](TensorOverrides::with_cpu_moe_last) | 56 to 60 | of 5 layers |
//! | [`with_cpu_moe_layers(3..8)`](TensorOverrides::with_cpu_moe_layers) | 3 to 7 | of 5 layers |
//!
//! # Before a load, and after
//!
//! | | what it tells | what it costs |
//! |---|---|---|
//! | [`Preview`] | where each tensor will go, in the loader's own matching | milliseconds; reads the header |
//! | [`DryRun`] | what weights, KV cache and computing will take, by llama.cpp itself | a tenth of a second |
//! | [`Planner`] | rules, layers and shares that fit a [`Budget`]: a [`Plan`] | a few dry runs |
//! | [`Placement`] | where each tensor of a loaded model is | nothing |
//!
//! [`Placement::verify`] holds the last against the first.
//!
//! # What is checked
//!
//! llama.cpp says nothing when a rule matches no tensor. Here [`Model::load`](crate::Model::load)
//! reads the file's header first and returns an [`OverrideError`] for a rule that
//! matches nothing or whose tensors earlier rules have all taken (unless
//! [`allow_unmatched`](TensorOverrides::allow_unmatched)), for a layer the model does not
//! have, and for a device that the model does not use, where llama.cpp would abort later.
//! Matching is done by the loader's own `std::regex`.

mod dry_run;
mod limits;
mod lower;
mod machine;
mod moe_cache;
mod overrides;
mod parse;
mod pattern;
pub(crate) mod picture;
mod plan;
mod preview;
mod report;
mod rule;
mod verify;

pub use dry_run::DryRun;
pub use limits::{Limits, host_bandwidth};
pub(crate) use lower::DevicesInUse;
pub use lower::{LoweredOverrides, RuleMatch};
#[cfg(feature = "measure")]
pub(crate) use moe_cache::smallest_size;
pub(crate) use moe_cache::{
    CacheDevice, ExpertLayers, ExpertTensor, is_cached_part, size_for_llama,
};
pub use moe_cache::{MoeCacheError, MoeCacheGroup, MoeCacheLayout, MoeCacheObstacle};
pub use overrides::{OverrideError, TensorOverrides};
pub use pattern::{Pattern, PatternError};
pub use picture::{Picture, PictureCell};
pub use plan::{
    Bandwidths, Budget, DecodeForecast, HitRates, MemoryUse, Plan, PlanError, PlannedMemory,
    Planner,
};
pub use preview::{Preview, TensorPreview};
pub use report::{MemoryKind, Placement, PlacementSum, TensorPlacement};
pub use rule::{Rule, Target};
pub use verify::{Difference, VerifyError};

pub use crate::ffi::RawOverrides;
