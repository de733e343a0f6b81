//! How a context is made.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::abort::AbortToken;
use super::eval::EvalCallback;
use super::threads;
use crate::error::{Error, Result};
use crate::ffi::{self, ContextSettings, SharedEval, sys};
use crate::model::Model;
use crate::placement::size_for_llama;

/// How a context is made (`llama_context_params`).
///
/// Everything is at llama.cpp's own default, as `llama_context_default_params` returns
/// it, unless set, with two exceptions: the numbers of threads are those of the physical
/// cores, and [`with_swa_full`](Self::with_swa_full) is off, as in llama.cpp's own
/// programs.
///
/// Left out are the samplers that run on a device and the second context
/// (`samplers`, `ctx_other`), since both tie objects to the context that llama.cpp does not
/// keep alive; with them the context type, because multi-token prediction needs hidden states
/// of another context; and `defrag_thold`, which llama.cpp has stopped reading.
#[derive(Clone)]
pub struct ContextParams {
    settings: ContextSettings,
    /// Bytes.
    moe_cache_size: u64,
    n_threads: u32,
    n_threads_batch: u32,
    abort: Option<AbortToken>,
    eval: Option<SharedEval>,
}

/// How RoPE's frequencies are scaled for contexts longer than the model was trained for
/// (`enum llama_rope_scaling_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RopeScaling {
    /// As the model says.
    Model,
    /// Not at all.
    None,
    /// By one factor.
    Linear,
    /// YaRN.
    Yarn,
    /// LongRoPE.
    LongRope,
}

/// How the embeddings of a sequence's tokens become one
/// (`enum llama_pooling_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PoolingType {
    /// As the model says. A context never has this type: it has the model's.
    Model,
    /// They don't: one embedding for each token.
    None,
    /// Their mean.
    Mean,
    /// That of the first token.
    Cls,
    /// That of the last token.
    Last,
    /// The scores of a classifier, for reranking.
    Rank,
}

/// What a token attends to (`enum llama_attention_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttentionType {
    /// As the model says.
    Model,
    /// To what comes before it.
    Causal,
    /// To everything in the batch, which then has to fit a micro-batch.
    NonCausal,
}

/// Whether attention is computed in one step (`enum llama_flash_attn_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlashAttention {
    /// Where the devices can.
    Auto,
    /// Never.
    Disabled,
    /// Always.
    Enabled,
}

/// The element type of a KV cache: those that llama.cpp's own programs offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 16-bit floats with the range of 32-bit ones.
    Bf16,
    /// 8.5 bits per element.
    Q8_0,
    /// 4.5 bits.
    Q4_0,
    /// 5 bits.
    Q4_1,
    /// 4.5 bits, unevenly spaced.
    Iq4Nl,
    /// 5.5 bits.
    Q5_0,
    /// 6 bits.
    Q5_1,
}

impl Default for ContextParams {
    fn default() -> Self {
        let cores = threads::physical_cores();
        Self {
            settings: ContextSettings {
                swa_full: false,
                ..ContextSettings::default()
            },
            moe_cache_size: 0,
            n_threads: cores,
            n_threads_batch: cores,
            abort: None,
            eval: None,
        }
    }
}

/// Sizes.
impl ContextParams {
    /// Positions that the memory has room for, in all sequences together; 0 for as many as
    /// the model was trained for. llama.cpp rounds up to a multiple of 256 for each sequence:
    /// [`Context::n_ctx`](crate::Context::n_ctx) tells what came of it.
    #[must_use]
    #[doc(alias = "--ctx-size")]
    #[doc(alias = "-c")]
    pub fn with_n_ctx(mut self, n: u32) -> Self {
        self.settings.n_ctx = n;
        self
    }

    /// Tokens that one call of [`Context::decode`](crate::Context::decode) takes at most.
    #[must_use]
    #[doc(alias = "--batch-size")]
    pub fn with_n_batch(mut self, n: u32) -> Self {
        self.settings.n_batch = n;
        self
    }

    /// Tokens that are computed at once: a batch is cut into pieces of this size. 0 for as
    /// many as a batch has.
    #[must_use]
    #[doc(alias = "--ubatch-size")]
    pub fn with_n_ubatch(mut self, n: u32) -> Self {
        self.settings.n_ubatch = n;
        self
    }

    /// Sequences that the context can tell apart; their ids are those from 0 to one below
    /// this.
    #[must_use]
    #[doc(alias = "--parallel")]
    pub fn with_n_seq_max(mut self, n: u32) -> Self {
        self.settings.n_seq_max = n;
        self
    }

    /// Snapshots per sequence that a recurrent model keeps, so that so many tokens can be
    /// taken back. 0: none.
    #[must_use]
    pub fn with_n_rs_seq(mut self, n: u32) -> Self {
        self.settings.n_rs_seq = n;
        self
    }

    /// Outputs that a batch asks for at most, which decides how much memory is reserved for
    /// logits; 0 for as many as a batch has tokens.
    #[must_use]
    pub fn with_n_outputs_max(mut self, n: u32) -> Self {
        self.settings.n_outputs_max = n;
        self
    }

    /// Outputs per sequence, for samplers that run on a device; 0 for
    /// [`with_n_outputs_max`](Self::with_n_outputs_max).
    #[must_use]
    pub fn with_n_outputs_max_per_seq(mut self, n: u32) -> Self {
        self.settings.n_outputs_max_per_seq = n;
        self
    }
}

/// Threads and devices.
impl ContextParams {
    /// Threads to compute single tokens with, from 1 to 512. Default: the physical cores that
    /// this process may use.
    #[must_use]
    #[doc(alias = "--threads")]
    pub fn with_n_threads(mut self, n: u32) -> Self {
        self.n_threads = n;
        self
    }

    /// Threads to compute several tokens with, from 1 to 512. Default: as
    /// [`with_n_threads`](Self::with_n_threads)'s.
    #[must_use]
    #[doc(alias = "--threads-batch")]
    pub fn with_n_threads_batch(mut self, n: u32) -> Self {
        self.n_threads_batch = n;
        self
    }

    /// How long a thread that has nothing to compute looks for more before it sleeps, from 0, at
    /// once, to 100, some tenths of a second. Default: 0, so that what a device, a worker or a
    /// server computes beside has the core; llama.cpp's programs have 50.
    ///
    /// Threads stay from one computation to the next, whatever this is.
    ///
    /// Rests on `ggml_threadpool_params::poll`.
    #[must_use]
    #[doc(alias = "--poll")]
    pub fn with_poll(mut self, level: u32) -> Self {
        self.settings.poll = level;
        self
    }

    /// Bytes of device memory for a cache of experts: llama.cpp keeps recently used experts of
    /// layers whose experts are in system memory on the layer's device. 0, the default, is no
    /// cache. Several devices share the size as they share the layers.
    ///
    /// The experts must be in plain system memory: load the model with
    /// [`ModelParams::for_moe_cache`](crate::ModelParams::for_moe_cache) and a rule such as
    /// [`with_cpu_moe_all`](crate::ModelParams::with_cpu_moe_all). The cache serves micro-batches
    /// of at most 32 tokens. A size larger than all experts holds all of them and takes no more
    /// memory than they need: [`MoeCacheLayout::holds_all`](crate::MoeCacheLayout::holds_all).
    /// [`Context::moe_cache_stats`](crate::Context::moe_cache_stats) has the hit rate.
    ///
    /// Rests on `llama_context_params::moe_cache_size`. Making the context is where
    /// [`MoeCacheError`](crate::MoeCacheError) is returned.
    #[must_use]
    #[doc(alias = "--moe-cache-mib")]
    #[doc(alias = "moe_cache_size")]
    pub fn with_moe_cache_size(mut self, bytes: u64) -> Self {
        self.moe_cache_size = bytes;
        self
    }

    /// Whether attention and the KV cache of layers on a device are there too.
    #[must_use]
    #[doc(alias = "--no-kv-offload")]
    pub fn with_offload_kqv(mut self, offload_kqv: bool) -> Self {
        self.settings.offload_kqv = offload_kqv;
        self
    }

    /// Whether operations on weights in system memory are computed on a device if the batch
    /// is large enough: faster prefill with experts on the CPU.
    #[must_use]
    #[doc(alias = "--no-op-offload")]
    pub fn with_op_offload(mut self, op_offload: bool) -> Self {
        self.settings.op_offload = op_offload;
        self
    }

    /// Whether times are left unmeasured, as is the default.
    /// [`Context::perf`](crate::Context::perf) then counts only.
    #[must_use]
    #[doc(alias = "--no-perf")]
    pub fn with_no_perf(mut self, no_perf: bool) -> Self {
        self.settings.no_perf = no_perf;
        self
    }

    /// Lets other threads end a computation.
    #[must_use]
    pub fn with_abort_token(mut self, token: AbortToken) -> Self {
        self.abort = Some(token);
        self
    }

    /// Watches the tensors that are computed. Clones of these parameters share the
    /// callback.
    #[must_use]
    pub fn with_eval_callback(mut self, callback: impl EvalCallback + 'static) -> Self {
        self.eval = Some(Arc::new(Mutex::new(callback)));
        self
    }
}

/// Attention and its memory.
impl ContextParams {
    /// What a token attends to.
    #[must_use]
    #[doc(alias = "--attention")]
    pub fn with_attention_type(mut self, attention: AttentionType) -> Self {
        self.settings.attention_type = match attention {
            AttentionType::Model => sys::LLAMA_ATTENTION_TYPE_UNSPECIFIED,
            AttentionType::Causal => sys::LLAMA_ATTENTION_TYPE_CAUSAL,
            AttentionType::NonCausal => sys::LLAMA_ATTENTION_TYPE_NON_CAUSAL,
        };
        self
    }

    /// Whether attention is computed in one step.
    #[must_use]
    #[doc(alias = "--flash-attn")]
    pub fn with_flash_attention(mut self, flash_attention: FlashAttention) -> Self {
        self.settings.flash_attn_type = match flash_attention {
            FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
            FlashAttention::Disabled => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            FlashAttention::Enabled => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        };
        self
    }

    /// The element type of the cached keys.
    #[must_use]
    #[doc(alias = "--cache-type-k")]
    pub fn with_type_k(mut self, kind: CacheType) -> Self {
        self.settings.type_k = kind.to_raw();
        self
    }

    /// The element type of the cached values; a quantised one needs flash attention.
    #[must_use]
    #[doc(alias = "--cache-type-v")]
    pub fn with_type_v(mut self, kind: CacheType) -> Self {
        self.settings.type_v = kind.to_raw();
        self
    }

    /// Whether layers with sliding-window attention keep all positions, so that any part of
    /// a sequence can be removed and continued from. Costs memory; off by default.
    #[must_use]
    #[doc(alias = "--swa-full")]
    pub fn with_swa_full(mut self, swa_full: bool) -> Self {
        self.settings.swa_full = swa_full;
        self
    }

    /// Whether all sequences share one buffer: then any of them can use all of it, tokens
    /// can belong to several, and parts can be copied from one to another. Otherwise each
    /// has its own part of [`with_n_ctx`](Self::with_n_ctx), which computes faster.
    #[must_use]
    #[doc(alias = "--kv-unified")]
    pub fn with_kv_unified(mut self, kv_unified: bool) -> Self {
        self.settings.kv_unified = kv_unified;
        self
    }

    /// Whether embeddings are returned; the output of every token of a batch is computed
    /// then.
    #[must_use]
    #[doc(alias = "--embeddings")]
    pub fn with_embeddings(mut self, embeddings: bool) -> Self {
        self.settings.embeddings = embeddings;
        self
    }

    /// How the embeddings of a sequence become one.
    #[must_use]
    #[doc(alias = "--pooling")]
    pub fn with_pooling_type(mut self, pooling: PoolingType) -> Self {
        self.settings.pooling_type = pooling.to_raw();
        self
    }
}

/// Positions beyond those of the training.
impl ContextParams {
    /// How RoPE's frequencies are scaled.
    #[must_use]
    #[doc(alias = "--rope-scaling")]
    pub fn with_rope_scaling(mut self, scaling: RopeScaling) -> Self {
        self.settings.rope_scaling_type = match scaling {
            RopeScaling::Model => sys::LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED,
            RopeScaling::None => sys::LLAMA_ROPE_SCALING_TYPE_NONE,
            RopeScaling::Linear => sys::LLAMA_ROPE_SCALING_TYPE_LINEAR,
            RopeScaling::Yarn => sys::LLAMA_ROPE_SCALING_TYPE_YARN,
            RopeScaling::LongRope => sys::LLAMA_ROPE_SCALING_TYPE_LONGROPE,
        };
        self
    }

    /// RoPE's base frequency; 0: the model's.
    #[must_use]
    #[doc(alias = "--rope-freq-base")]
    pub fn with_rope_freq_base(mut self, base: f32) -> Self {
        self.settings.rope_freq_base = base;
        self
    }

    /// The factor for RoPE's frequencies: 0.5 for twice the context; 0: the model's.
    #[must_use]
    #[doc(alias = "--rope-freq-scale")]
    pub fn with_rope_freq_scale(mut self, scale: f32) -> Self {
        self.settings.rope_freq_scale = scale;
        self
    }

    /// YaRN's mix of interpolation and extrapolation; negative: the model's.
    #[must_use]
    #[doc(alias = "--yarn-ext-factor")]
    pub fn with_yarn_ext_factor(mut self, factor: f32) -> Self {
        self.settings.yarn_ext_factor = factor;
        self
    }

    /// YaRN's scale of attention; negative: the model's.
    #[must_use]
    #[doc(alias = "--yarn-attn-factor")]
    pub fn with_yarn_attn_factor(mut self, factor: f32) -> Self {
        self.settings.yarn_attn_factor = factor;
        self
    }

    /// YaRN's low correction dimension; negative: the model's.
    #[must_use]
    #[doc(alias = "--yarn-beta-fast")]
    pub fn with_yarn_beta_fast(mut self, beta: f32) -> Self {
        self.settings.yarn_beta_fast = beta;
        self
    }

    /// YaRN's high correction dimension; negative: the model's.
    #[must_use]
    #[doc(alias = "--yarn-beta-slow")]
    pub fn with_yarn_beta_slow(mut self, beta: f32) -> Self {
        self.settings.yarn_beta_slow = beta;
        self
    }

    /// The context, in tokens, before YaRN; 0: the model's.
    #[must_use]
    #[doc(alias = "--yarn-orig-ctx")]
    pub fn with_yarn_orig_ctx(mut self, n: u32) -> Self {
        self.settings.yarn_orig_ctx = n;
        self
    }
}

impl ContextParams {
    pub(crate) fn abort_token(&self) -> Option<&AbortToken> {
        self.abort.as_ref()
    }

    pub(super) fn eval_callback(&self) -> Option<SharedEval> {
        self.eval.clone()
    }

    pub(crate) fn moe_cache_size(&self) -> u64 {
        self.moe_cache_size
    }

    pub(crate) fn returns_embeddings(&self) -> bool {
        self.settings.embeddings
    }

    pub(crate) fn n_ctx(&self) -> u32 {
        self.settings.n_ctx
    }

    /// The options of llama.cpp's programs for what decides how much memory a context takes,
    /// its size apart.
    pub(crate) fn command_options(&self) -> Vec<String> {
        let (settings, default) = (&self.settings, ContextSettings::default());
        let mut options = Vec::new();
        let mut number = |option: &str, value: u32, default: u32| {
            if value != default {
                options.push(format!("{option} {value}"));
            }
        };
        number("-b", settings.n_batch, default.n_batch);
        number("-ub", settings.n_ubatch, default.n_ubatch);
        // llama.cpp's server has a default of its own.
        options.push(format!("-np {}", settings.n_seq_max));
        for (option, raw, default) in [
            ("-ctk", settings.type_k, default.type_k),
            ("-ctv", settings.type_v, default.type_v),
        ] {
            if raw != default
                && let Some(kind) = CacheType::of_raw(raw)
            {
                options.push(format!("{option} {}", kind.name()));
            }
        }
        if self.moe_cache_size > 0 {
            let mib = self.moe_cache_size.div_ceil(1 << 20);
            options.push(format!("--moe-cache-mib {mib}"));
        }
        match settings.flash_attn_type {
            sys::LLAMA_FLASH_ATTN_TYPE_ENABLED => options.push("-fa on".to_owned()),
            sys::LLAMA_FLASH_ATTN_TYPE_DISABLED => options.push("-fa off".to_owned()),
            _ => {}
        }
        for (set, option) in [
            (settings.swa_full, "--swa-full"),
            (settings.kv_unified, "--kv-unified"),
            (!settings.offload_kqv, "--no-kv-offload"),
            (!settings.op_offload, "--no-op-offload"),
        ] {
            if set {
                options.push(option.to_owned());
            }
        }
        options
    }

    /// The values for llama.cpp, checked as far as it would abort or overflow on them.
    pub(super) fn settings_for(&self, model: &Model) -> Result<ContextSettings> {
        let mut settings = self.settings.clone();
        settings.moe_cache_size = size_for_llama(self.moe_cache_size);
        settings.n_threads = threads::check("with_n_threads", self.n_threads)?;
        settings.n_threads_batch = threads::check("with_n_threads_batch", self.n_threads_batch)?;
        threads::check_poll(settings.poll)?;
        check_sizes(&settings)?;
        check_encoder_decoder(&settings, model)?;
        check_rope(&settings, model)?;
        check_cache(&settings, model)?;
        Ok(settings)
    }
}

fn refuse(parameter: &'static str, value: impl ToString, reason: impl Into<String>) -> Error {
    Error::Parameter {
        parameter,
        value: value.to_string(),
        reason: reason.into(),
    }
}

fn check_sizes(settings: &ContextSettings) -> Result<()> {
    let n_seq_limit = ffi::max_sequences();
    let n_seq_max = settings.n_seq_max;
    if n_seq_max == 0 || n_seq_max as usize > n_seq_limit {
        let reason = format!("it is a number from 1 to {n_seq_limit}");
        return Err(refuse("with_n_seq_max", n_seq_max, reason));
    }
    // Positions and batch sizes are counted in 32 bits with a sign.
    const MAX: u32 = i32::MAX as u32;
    for (parameter, value) in [
        ("with_n_ctx", settings.n_ctx),
        ("with_n_batch", settings.n_batch),
        ("with_n_ubatch", settings.n_ubatch),
    ] {
        if value > MAX {
            return Err(refuse(parameter, value, format!("it is at most {MAX}")));
        }
    }
    if settings.n_batch < n_seq_max {
        let reason = format!("a batch has room for one token of each of {n_seq_max} sequences");
        return Err(refuse("with_n_batch", settings.n_batch, reason));
    }
    let n_outputs_max = settings.n_outputs_max;
    if n_outputs_max != 0 && n_outputs_max < n_seq_max {
        let reason = format!("there is one output for each of {n_seq_max} sequences, or 0");
        return Err(refuse("with_n_outputs_max", n_outputs_max, reason));
    }
    Ok(())
}

/// The attention of T5 has no form for sequences with buffers of their own.
fn check_encoder_decoder(settings: &ContextSettings, model: &Model) -> Result<()> {
    let both = model.has_encoder() && model.has_decoder();
    if both && settings.n_seq_max > 1 && !settings.kv_unified {
        let reason = format!(
            "an encoder-decoder model keeps its {} sequences in one buffer",
            settings.n_seq_max
        );
        return Err(refuse("with_kv_unified", false, reason));
    }
    Ok(())
}

fn check_rope(settings: &ContextSettings, model: &Model) -> Result<()> {
    for (parameter, value) in [
        ("with_rope_freq_base", settings.rope_freq_base),
        ("with_rope_freq_scale", settings.rope_freq_scale),
    ] {
        if !value.is_finite() || value < 0.0 {
            return Err(refuse(
                parameter,
                value,
                "it is positive, or 0 for the model's",
            ));
        }
    }
    for (parameter, value) in [
        ("with_yarn_ext_factor", settings.yarn_ext_factor),
        ("with_yarn_attn_factor", settings.yarn_attn_factor),
        ("with_yarn_beta_fast", settings.yarn_beta_fast),
        ("with_yarn_beta_slow", settings.yarn_beta_slow),
    ] {
        if !value.is_finite() {
            return Err(refuse(parameter, value, "it is a finite number"));
        }
    }
    // llama.cpp computes the longest context by this division, in 32 bits.
    let scale = f64::from(settings.rope_freq_scale);
    let n_ctx_orig = match settings.yarn_orig_ctx {
        0 => model
            .arch_number("rope.scaling.original_context_length")
            .unwrap_or_else(|| model.n_ctx_train()),
        n => n,
    };
    if scale > 0.0 && f64::from(n_ctx_orig) / scale >= f64::from(u32::MAX) {
        let reason = format!("the context of {n_ctx_orig} tokens divided by it is too large");
        return Err(refuse("with_rope_freq_scale", scale, reason));
    }
    Ok(())
}

/// Without flash attention, llama.cpp does not check that the blocks of a quantised type
/// divide a head's keys.
fn check_cache(settings: &ContextSettings, model: &Model) -> Result<()> {
    const BLOCK: u32 = 32;
    let quantised = CacheType::of_raw(settings.type_k).is_some_and(CacheType::is_quantised);
    if !quantised || settings.flash_attn_type != sys::LLAMA_FLASH_ATTN_TYPE_DISABLED {
        return Ok(());
    }
    let heads = model.n_head().max(1);
    let widths = [
        model.arch_number("attention.key_length"),
        model.arch_number("attention.key_length_swa"),
        Some(model.n_embd() / heads),
    ];
    // The width that follows from the heads counts where the model does not state one.
    let stated = if widths[0].is_some() {
        &widths[..2]
    } else {
        &widths[1..]
    };
    for width in stated.iter().flatten() {
        if width % BLOCK != 0 {
            let reason = format!(
                "a head's {width} keys are no multiple of {BLOCK}, the elements of a block"
            );
            let value = format!("{:?}", CacheType::of_raw(settings.type_k));
            return Err(refuse("with_type_k", value, reason));
        }
    }
    Ok(())
}

impl CacheType {
    const ALL: [(Self, sys::ggml_type); 9] = [
        (Self::F32, sys::GGML_TYPE_F32),
        (Self::F16, sys::GGML_TYPE_F16),
        (Self::Bf16, sys::GGML_TYPE_BF16),
        (Self::Q8_0, sys::GGML_TYPE_Q8_0),
        (Self::Q4_0, sys::GGML_TYPE_Q4_0),
        (Self::Q4_1, sys::GGML_TYPE_Q4_1),
        (Self::Iq4Nl, sys::GGML_TYPE_IQ4_NL),
        (Self::Q5_0, sys::GGML_TYPE_Q5_0),
        (Self::Q5_1, sys::GGML_TYPE_Q5_1),
    ];

    fn to_raw(self) -> sys::ggml_type {
        match self {
            Self::F32 => sys::GGML_TYPE_F32,
            Self::F16 => sys::GGML_TYPE_F16,
            Self::Bf16 => sys::GGML_TYPE_BF16,
            Self::Q8_0 => sys::GGML_TYPE_Q8_0,
            Self::Q4_0 => sys::GGML_TYPE_Q4_0,
            Self::Q4_1 => sys::GGML_TYPE_Q4_1,
            Self::Iq4Nl => sys::GGML_TYPE_IQ4_NL,
            Self::Q5_0 => sys::GGML_TYPE_Q5_0,
            Self::Q5_1 => sys::GGML_TYPE_Q5_1,
        }
    }

    fn of_raw(raw: sys::ggml_type) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, number)| *number == raw)
            .map(|&(kind, _)| kind)
    }

    /// ggml's name.
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Iq4Nl => "iq4_nl",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
        }
    }

    fn is_quantised(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }
}

impl PoolingType {
    fn to_raw(self) -> sys::llama_pooling_type {
        match self {
            Self::Model => sys::LLAMA_POOLING_TYPE_UNSPECIFIED,
            Self::None => sys::LLAMA_POOLING_TYPE_NONE,
            Self::Mean => sys::LLAMA_POOLING_TYPE_MEAN,
            Self::Cls => sys::LLAMA_POOLING_TYPE_CLS,
            Self::Last => sys::LLAMA_POOLING_TYPE_LAST,
            Self::Rank => sys::LLAMA_POOLING_TYPE_RANK,
        }
    }

    pub(super) fn of_raw(raw: sys::llama_pooling_type) -> Self {
        match raw {
            sys::LLAMA_POOLING_TYPE_NONE => Self::None,
            sys::LLAMA_POOLING_TYPE_MEAN => Self::Mean,
            sys::LLAMA_POOLING_TYPE_CLS => Self::Cls,
            sys::LLAMA_POOLING_TYPE_LAST => Self::Last,
            sys::LLAMA_POOLING_TYPE_RANK => Self::Rank,
            _ => Self::Model,
        }
    }
}

impl fmt::Debug for ContextParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextParams")
            .field("settings", &self.settings)
            .field("moe_cache_size", &self.moe_cache_size)
            .field("n_threads", &self.n_threads)
            .field("n_threads_batch", &self.n_threads_batch)
            .field("abort", &self.abort)
            .field("eval", &self.eval.is_some())
            .finish()
    }
}
