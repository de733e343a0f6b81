//! Mixture-of-Experts models bigger than the GPU, on llama.cpp: experts in system memory,
//! attention, router, shared experts and KV cache in the GPU's, and proof of where every
//! tensor went.
//!
//! ```no_run
//! use llama_moe::{Backend, ChatParams, Model, ModelParams};
//!
//! # fn main() -> llama_moe::Result<()> {
//! let backend = Backend::init()?; // once per process
//! let params = ModelParams::default().with_cpu_moe_all(); // experts in RAM, the rest in VRAM
//! let model = Model::load(&backend, "gpt-oss-20b.gguf", params)?;
//! println!("{}", model.placement()?); // where every tensor went, in bytes
//! let mut chat = model.chat(ChatParams::default())?;
//! for piece in chat.say("Why is the sky blue?")? {
//!     print!("{}", piece?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! For people who would rather not guess, a [`Planner`] chooses the rules for what memory
//! there is, and a [`Preview`] tells where every tensor goes before anything is loaded:
//!
//! ```no_run
//! use llama_moe::{Backend, Budget, Model, ModelParams, Planner};
//!
//! # fn main() -> llama_moe::Result<()> {
//! let backend = Backend::init()?;
//! let planner = Planner::new(&backend, "gpt-oss-120b.gguf")?.with_n_ctx(8192);
//! let plan = planner.fit(&Budget::free(1 << 30))?; // 1 GiB of each device stays free
//! println!("{plan}"); // a table per memory, and the equal llama.cpp command line
//! let model = Model::load(&backend, "gpt-oss-120b.gguf", ModelParams::from(&plan))?;
//! model.placement()?.verify(plan.preview())?; // every tensor is where the plan has it
//! # Ok(())
//! # }
//! ```
//!
//! The mechanism is llama.cpp's own, `tensor_buft_overrides`, as are `--override-tensor`
//! (pull request 11397) and `--cpu-moe` (pull request 15077), both by @slaren. This crate
//! makes it available to Rust: rules that own their patterns and are held against the
//! model before it is loaded, and errors where llama.cpp would end the process. llama.cpp's cache
//! of experts on the device (pull request 29887) is here too:
//! [`ContextParams::with_moe_cache_size`].
//!
//! # The rooms
//!
//! | module | what is in it |
//! |---|---|
//! | [`backend`] | the process: [`Backend`], [`Device`]s, workers on other machines, the log |
//! | [`gguf`] | what a file says before it is loaded: tensors with their roles, the MoE shape |
//! | [`placement`] | the heart: [`TensorOverrides`], [`Pattern`]s, [`Preview`], [`Plan`], the report [`Placement`] |
//! | [`model`] | [`Model`] and its [`ModelParams`], [`Vocab`], LoRA adapters |
//! | [`context`] | [`Context`]: a [`Batch`] in, logits or embeddings out; memory and state |
//! | [`sampler`] | [`SamplerChain`]: from logits to the next token |
//! | [`chat`] | [`Chat`]: messages in, a streaming reply out |
//! | `engine` (feature) | many requests at a time on one context, for servers |
//! | `measure` (feature) | times, memory and statistics of a run, and what it was measured on |
//!
//! A [`Model`] is shared by handles; a [`Context`], a [`Sampler`] with a grammar and a [`Chat`]
//! hold one, so nothing here has a lifetime that a struct would have to carry.
//!
//! # llama.cpp's options
//!
//! | llama.cpp | here |
//! |---|---|
//! | `--cpu-moe` | [`ModelParams::with_cpu_moe_all`] |
//! | `--n-cpu-moe N` | [`ModelParams::with_n_cpu_moe`]; by MoE layers: [`with_cpu_moe_last`](ModelParams::with_cpu_moe_last), [`with_cpu_moe_first`](ModelParams::with_cpu_moe_first) |
//! | `--n-cpu-ffn N` | [`ModelParams::with_cpu_ffn`] |
//! | `-ot REGEX=BUFFER` | [`ModelParams::with_override`], [`with_override_str`](ModelParams::with_override_str) |
//! | `-fit on`, `llama-fit-params` | [`Planner`], [`DryRun`] |
//! | `-ngl N` | [`ModelParams::with_n_gpu_layers`] |
//! | `-dev`, `-sm`, `-ts`, `-mg` | [`with_devices`](ModelParams::with_devices), [`with_split_mode`](ModelParams::with_split_mode), [`with_tensor_split`](ModelParams::with_tensor_split), [`with_main_gpu`](ModelParams::with_main_gpu) |
//! | `-lm MODE` | [`ModelParams::with_load_mode`] |
//! | `-c`, `-b`, `-ub`, `-np` | [`ContextParams::with_n_ctx`], [`with_n_batch`](ContextParams::with_n_batch), [`with_n_ubatch`](ContextParams::with_n_ubatch), [`with_n_seq_max`](ContextParams::with_n_seq_max) |
//! | `--moe-cache-mib N` | [`ContextParams::with_moe_cache_size`], with [`ModelParams::for_moe_cache`] |
//! | `-t`, `-tb`, `--poll` | [`ContextParams::with_n_threads`], [`with_n_threads_batch`](ContextParams::with_n_threads_batch), [`with_poll`](ContextParams::with_poll) |
//! | `-fa`, `-ctk`, `-ctv` | [`with_flash_attention`](ContextParams::with_flash_attention), [`with_type_k`](ContextParams::with_type_k), [`with_type_v`](ContextParams::with_type_v) |
//! | `--temp`, `--top-k`, `--grammar`, … | [`SamplerChain`] |
//! | `--rpc HOST:PORT` | `Backend::add_rpc_server` (feature `rpc`) |
//!
//! # Features
//!
//! None is on by default: that is the CPU. `cuda`, `vulkan`, `metal`, `hip`, `opencl`, `rpc` and
//! `blas` add backends; `openmp`, `portable`, `static-stdcxx`, `dynamic-link`,
//! `dynamic-backends`, `system` and `cuda-no-vmm` say how llama.cpp is compiled and linked.
//! `serde` makes headers, previews, plans and placements serialisable, and `measure` adds
//! what measures a run. `engine` answers many requests at a time, and `llguidance` holds
//! generated text to JSON schemas.
//!
//! Each of the others is [`llama_sys`]'s feature of the same name, whose documentation says what it needs.
//!
//! # What can still end the process
//!
//! llama.cpp calls `abort()` where it sees no way on, and nothing can catch that. What we
//! know of is refused before. What remains: an RPC worker that goes away while a model uses
//! it; a CUDA or HIP call that fails during a computation, for want of GPU memory for
//! instance; and a file, a saved state or replaced metadata
//! ([`ModelParams::with_kv_override`]) that does harm beyond what is checked. Load what
//! strangers made in a process of its own.
#![deny(unsafe_code)]

pub mod backend;
pub mod chat;
pub mod context;
#[cfg(feature = "engine")]
pub mod engine;
mod error;
mod ffi;
pub mod gguf;
#[cfg(feature = "measure")]
pub mod measure;
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
    MemoryEntry, MemoryError, MoeCacheCounts, MoeCacheStats, OutputError, PoolingType, Pos,
    RopeScaling, SeqId, StateError,
};
pub use error::{Error, FailureKind, Result};
pub use model::{
    Detokenizer, HugePages, KvOverride, LazyMode, LoadMode, LoraAdapter, LoraError, Model,
    ModelParams, ModelSource, RopeType, SplitMode, Token, TokenAttr, TokenInfo, Vocab, VocabError,
    VocabType,
};
pub use placement::{
    Bandwidths, Budget, DecodeForecast, Difference, DryRun, HitRates, Limits, LoweredOverrides,
    MemoryKind, MemoryUse, MoeCacheError, MoeCacheGroup, MoeCacheLayout, MoeCacheObstacle,
    OverrideError, Pattern, PatternError, Picture, PictureCell, Placement, PlacementSum, Plan,
    PlanError, PlannedMemory, Planner, Preview, RawOverrides, Rule, RuleMatch, Target,
    TensorOverrides, TensorPlacement, TensorPreview, VerifyError, host_bandwidth,
};
#[cfg(feature = "llguidance")]
pub use sampler::JsonGuide;
pub use sampler::{
    Candidate, Candidates, CustomSampler, DryParams, Sampler, SamplerChain, SamplerError,
    SamplerPerf, Seed, SelectingSampler,
};

/// The version of the llama.cpp that is linked, for example `0.8.0-dev` (`-dev`
/// where it was not built from a release tag).
///
/// Rests on `llama_version`.
#[must_use]
pub fn llama_cpp_version() -> &'static str {
    ffi::llama_version()
}
