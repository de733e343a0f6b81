//! Why experts cannot be cached.

use std::fmt;

/// Why a context with a cache of experts cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoeCacheError {
    /// The model uses no device that could hold the cache.
    #[error(
        "a cache of experts needs a GPU, and the model uses none: load it with a device, or set \
         with_moe_cache_size(0)"
    )]
    NoDevice,

    /// Tensors are cut across devices.
    #[error(
        "a cache of experts does not work with SplitMode::Tensor: load the model with \
         SplitMode::Layer"
    )]
    SplitMode,

    /// The model has no routed experts.
    #[error("the model has no routed experts to cache: set with_moe_cache_size(0)")]
    NotMoe,

    /// No layer can be cached.
    #[error(
        "no layer can be cached: {}{}",
        .obstacles.first().map_or_else(String::new, ToString::to_string),
        others(.obstacles.len())
    )]
    NoLayer {
        /// The obstacle of each MoE layer.
        obstacles: Vec<MoeCacheObstacle>,
    },

    /// The size does not hold the experts that one token uses in one layer.
    #[error(
        "a cache of {size} bytes is too small: {device} gets {part} bytes of it for layers \
         {first_layer} and those like it, and the {n_expert_used} experts of one token take \
         {needed_part}; {}", enough(*.needed)
    )]
    TooSmall {
        /// The size that was asked for, in bytes.
        size: u64,
        /// The smallest size that works, in bytes; `None` if none does, since the tensor split
        /// gives the device nothing.
        needed: Option<u64>,
        /// The device that gets too little.
        device: String,
        /// Bytes of the size that the layers get.
        part: u64,
        /// Bytes that they need at least.
        needed_part: u64,
        /// The first of these layers.
        first_layer: u32,
        /// Experts that a token uses.
        n_expert_used: u32,
    },

    /// llama.cpp left layers out when it made the cache, because a device had less free memory
    /// than before.
    #[error(
        "llama.cpp left {n_layers} layers out of the cache on {device}: free some of its memory, \
         or set a tensor split, so that the devices' parts do not depend on free memory"
    )]
    LeftOut {
        /// The device.
        device: String,
        /// Layers that are not cached.
        n_layers: usize,
    },

    /// The context computes embeddings.
    #[error(
        "a context for embeddings computes large micro-batches, which no cache of experts serves: \
         set with_moe_cache_size(0) or with_embeddings(false)"
    )]
    Embeddings,

    /// The context is a draft's.
    #[error("a draft's context has no cache of experts: set with_moe_cache_size(0) for the draft")]
    Draft,
}

/// Why one layer cannot be cached.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum MoeCacheObstacle {
    /// The layer is computed on the CPU.
    LayerOnCpu {
        /// The layer.
        layer: u32,
    },
    /// Experts are in a form of the CPU's own that cannot be copied to a device.
    Repacked {
        /// The layer.
        layer: u32,
        /// One of its tensors.
        tensor: String,
        /// The buffer type it is in, such as `CPU_REPACK`.
        buffer: String,
    },
    /// Experts are on a device.
    OnDevice {
        /// The layer.
        layer: u32,
        /// One of its tensors.
        tensor: String,
        /// The buffer type it is in.
        buffer: String,
        /// The rule that put it there; `None` if no rule names the tensor.
        rule: Option<String>,
    },
}

impl MoeCacheObstacle {
    /// The layer.
    #[must_use]
    pub fn layer(&self) -> u32 {
        match self {
            Self::LayerOnCpu { layer }
            | Self::Repacked { layer, .. }
            | Self::OnDevice { layer, .. } => *layer,
        }
    }
}

/// One sentence: what is in the way, and which call mends it.
impl fmt::Display for MoeCacheObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LayerOnCpu { layer } => write!(
                f,
                "layer {layer} is on the CPU: put it on a device (with_n_gpu_layers)"
            ),
            Self::Repacked { tensor, buffer, .. } => write!(
                f,
                "{tensor} is in {buffer}, repacked for the CPU: load the model with \
                 ModelParams::for_moe_cache()"
            ),
            Self::OnDevice {
                tensor,
                buffer,
                rule: Some(rule),
                ..
            } => write!(
                f,
                "the rule \"{rule}\" puts {tensor} in {buffer}: keep all experts of the layer on \
                 the CPU"
            ),
            Self::OnDevice { tensor, buffer, .. } => write!(
                f,
                "{tensor} is in {buffer}: keep it on the CPU with a rule (with_cpu_moe_all)"
            ),
        }
    }
}

fn others(n: usize) -> String {
    match n.saturating_sub(1) {
        0 => String::new(),
        1 => "; one more layer cannot be cached either".to_owned(),
        n => format!("; {n} more layers cannot be cached either"),
    }
}

fn enough(needed: Option<u64>) -> String {
    match needed {
        Some(bytes) => format!("{bytes} bytes are the least that works"),
        None => "the tensor split gives this device nothing: change it".to_owned(),
    }
}
