//! Mixture-of-Experts models bigger than the GPU, on llama.cpp.
#![deny(unsafe_code)]

pub mod backend;
pub mod chat;
pub mod context;
mod error;
mod ffi;
mod gguf;
pub mod model;
pub mod placement;
pub mod sampler;

pub use backend::{Backend, Device, DeviceMemory, DeviceType, NumaStrategy};
#[cfg(feature = "rpc")]
pub use backend::{RpcServer, RpcWorker};
pub use chat::{
    Chat, ChatError, ChatParams, ChatTemplate, FinishReason, Message, Overflow, RenderOptions,
    Reply, ReplyStats, Role, ToolCall,
};
pub use context::{
    AbortToken, AttentionType, Batch, BatchError, CacheType, Context, ContextError, ContextParams,
    ContextPerf, ControlVectorError, DecodeError, EvalCallback, EvalTensor, FlashAttention, Memory,
    MemoryEntry, MemoryError, OutputError, PoolingType, Pos, RopeScaling, SeqId, StateError,
};
pub use error::{Error, FailureKind, Result};
pub use model::{
    Detokenizer, KvOverride, LazyMode, LoadMode, LoraAdapter, LoraError, Model, ModelParams,
    ModelSource, RopeType, SplitMode, Token, TokenAttr, TokenInfo, Vocab, VocabError, VocabType,
};
pub use placement::{
    LoweredOverrides, OverrideError, Pattern, PatternError, Placement, PlacementSum, RawOverrides,
    Rule, RuleMatch, Target, TensorOverrides, TensorPlacement,
};
pub use sampler::{
    Candidate, Candidates, CustomSampler, DryParams, Sampler, SamplerChain, SamplerError,
    SamplerPerf, Seed, SelectingSampler,
};

/// The version of the llama.cpp that is linked, for example `0.6.0-dev` (`-dev`
/// where it was not built from a release tag).
///
/// Rests on `llama_version`.
#[must_use]
pub fn llama_cpp_version() -> &'static str {
    ffi::llama_version()
}
