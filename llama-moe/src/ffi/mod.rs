//! The only place where `unsafe` is allowed: everything below speaks to
//! [`llama_sys`], everything above is safe Rust. No raw pointer leaves this folder:
//! what is above holds handles that free what they own, and borrows that the
//! compiler checks.
#![allow(unsafe_code)]

mod batch;
mod call;
mod chat;
mod context;
mod device;
mod eval;
mod gguf;
mod global;
mod huge_pages;
mod log;
mod lora;
mod model;
mod moe_cache;
mod overrides;
mod panic;
mod placement;
#[cfg(test)]
pub(crate) mod quants;
mod regex;
#[cfg(feature = "rpc")]
mod rpc;
mod sampler;
mod text;
mod threadpool;
#[cfg(feature = "measure")]
mod transfer;
mod vocab;
mod weights;

pub(crate) use batch::BatchArrays;
pub(crate) use call::Failure;
pub(crate) use chat::{chat_apply_builtin, chat_builtin_names};
pub(crate) use context::{
    ComputeFailure, ContextHandle, ContextNumber, ContextSettings, Pass, RawRange,
};
pub(crate) use device::{BufferType, DeviceHandle, DeviceKind, devices};
pub(crate) use eval::{EvalHook, SharedEval};
pub(crate) use gguf::{GgufHeader, GgufKind};
#[cfg(feature = "measure")]
pub(crate) use global::system_info;
pub(crate) use global::{
    init, llama_version, max_devices, max_sequences, numa_init, supports_mmap,
};
pub(crate) use huge_pages::use_huge_pages;
pub(crate) use lora::LoraHandle;
pub(crate) use model::{
    KV_MAX, KvValue, LoadFailure, LoadRequest, LoadSource, ModelHandle, ModelNumber, ModelSettings,
    ModelTrait,
};
pub(crate) use moe_cache::MoeCacheRecord;
pub use overrides::RawOverrides;
pub(crate) use panic::catch as catch_panic;
pub(crate) use placement::{TensorRecord, placement};
pub(crate) use regex::Regex;
#[cfg(feature = "rpc")]
pub(crate) use rpc::{add_server, serve};
pub(crate) use sampler::{PlainSampler, SamplerHandle};
pub(crate) use text::c_string;
#[cfg(feature = "measure")]
pub(crate) use transfer::TransferHandle;
pub(crate) use vocab::SpecialToken;
pub(crate) use weights::{
    WeightHparams, WeightLayer, WeightOp, WeightPlace, WeightShape, cpu_places, device_places,
    weight_size, weight_supported, weight_use,
};

/// llama.cpp's enumerations, as its headers name them.
pub(crate) use llama_sys as sys;
