//! Mixture-of-Experts models bigger than the GPU, on llama.cpp.
#![deny(unsafe_code)]

pub mod backend;
mod error;
mod ffi;
mod gguf;
pub mod model;
pub mod placement;

pub use backend::{Backend, Device, DeviceMemory, DeviceType, NumaStrategy};
#[cfg(feature = "rpc")]
pub use backend::{RpcServer, RpcWorker};
pub use error::{Error, FailureKind, Result};
pub use model::{
    KvOverride, LazyMode, LoadMode, Model, ModelParams, ModelSource, RopeType, SplitMode, Token,
};
pub use placement::{
    LoweredOverrides, OverrideError, Pattern, PatternError, Placement, PlacementSum, RawOverrides,
    Rule, RuleMatch, Target, TensorOverrides, TensorPlacement,
};

/// The version of the llama.cpp that is linked, for example `0.6.0-dev` (`-dev`
/// where it was not built from a release tag).
///
/// Rests on `llama_version`.
#[must_use]
pub fn llama_cpp_version() -> &'static str {
    ffi::llama_version()
}
