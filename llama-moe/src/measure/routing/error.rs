//! Why routing cannot be recorded, read or replayed.

use super::trace::{MAX_EXPERTS, MAX_LAYERS};

/// Routing that cannot be recorded, read, analysed or replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RoutingError {
    /// The model has no routed experts.
    #[error("the model has no routed experts: record a Mixture-of-Experts model")]
    NotMoe,

    /// The number of experts per layer is not usable.
    #[error("a layer has {n_expert} experts: a trace takes 1 to {MAX_EXPERTS}")]
    ExpertCount {
        /// Experts per layer.
        n_expert: u32,
    },

    /// The number of layers is not usable.
    #[error("there are {n_layers} layers with experts: a trace takes at most {MAX_LAYERS}")]
    LayerCount {
        /// Layers with experts.
        n_layers: usize,
    },

    /// A layer is listed twice, or uses an impossible number of experts.
    #[error("layer {layer}: {reason}")]
    Layer {
        /// The layer.
        layer: u32,
        /// The problem.
        reason: String,
    },

    /// A micro-batch does not fit the trace's layers.
    #[error("micro-batch {index}: {reason}")]
    MicroBatch {
        /// The micro-batch's index in the trace.
        index: usize,
        /// The problem.
        reason: String,
    },

    /// The router's tensor is not as expected.
    #[error("cannot read the experts in the tensor {tensor}: {reason}")]
    Tensor {
        /// The tensor's name.
        tensor: String,
        /// The problem.
        reason: String,
    },

    /// The recording takes more memory than the recorder may use.
    #[error(
        "the recording reached the recorder's limit of {limit} bytes: record a shorter text, or \
         raise it with RoutingRecorder::with_limit"
    )]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },

    /// There are no tokens to compute.
    #[error("the text has no tokens: a recording starts from at least one")]
    NoTokens,

    /// The text and the tokens to decode do not fit into the context.
    #[error(
        "a text of {n_prompt} tokens and {n_decode} to decode take {} positions, but the context \
         has {n_ctx_seq} for a sequence: shorten them, or make a larger context",
        .n_prompt.saturating_add(*.n_decode)
    )]
    NoRoom {
        /// Tokens of the text.
        n_prompt: usize,
        /// Tokens to decode.
        n_decode: usize,
        /// Positions that a sequence has.
        n_ctx_seq: u32,
    },

    /// The model has an encoder, or no decoder.
    #[error(
        "the model does not continue a text with a decoder alone: give a RoutingRecorder to its context"
    )]
    NotADecoder,

    /// The text is not the JSON of a trace.
    #[error("the text is not a routing trace: {reason}; record the trace again")]
    Json {
        /// The problem, with its place in the text.
        reason: String,
    },

    /// The trace was written in another form.
    #[error(
        "the routing trace has version {version}, but this crate reads version {supported}: record the trace again"
    )]
    Version {
        /// The trace's version.
        version: u32,
        /// The version that can be read.
        supported: u32,
    },

    /// A group of layers cannot be cached.
    #[error("the cache group of layers {layers:?}: {reason}")]
    Group {
        /// Its layers.
        layers: Vec<u32>,
        /// The problem.
        reason: String,
    },

    /// A layer is in two cache groups.
    #[error("layer {layer} is in two cache groups: a layer has one cache at most")]
    SharedLayer {
        /// The layer.
        layer: u32,
    },

    /// A group's layers have fewer experts than the trace's routers choose from.
    #[error(
        "the cache group of layer {layer} has {group} experts per layer, but the trace has \
         {trace}: replay a trace of the same model"
    )]
    OtherModel {
        /// A layer of the group.
        layer: u32,
        /// Experts per layer of the group.
        group: u32,
        /// Experts per layer of the trace.
        trace: u32,
    },
}
