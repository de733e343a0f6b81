//! Mixture-of-Experts models bigger than the GPU, on llama.cpp.
#![deny(unsafe_code)]

pub mod backend;
pub mod context;
mod error;
mod ffi;
mod gguf;
pub mod model;
pub mod placement;

pub use backend::{Backend, Device, DeviceMemory, DeviceType, NumaStrategy};
#[cfg(feature = "rpc")]
pub use backend::{RpcServer, RpcWorker};
pub use context::{
    AbortToken, AttentionType, Batch, BatchError, CacheType, Context, ContextError, ContextParams,
    ContextPerf, ControlVectorError, DecodeError, EvalCallback, EvalTensor, FlashAttention, Memory,
    MemoryEntry, MemoryError, OutputError, PoolingType, Pos, RopeScaling, SeqId, StateError,
};
pub use error::{Error, FailureKind, Result};
pub use model::{
    KvOverride, LazyMode, LoadMode, LoraAdapter, LoraError, Model, ModelParams, ModelSource,
    RopeType, SplitMode, Token,
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
