//! Watching the tensors of a computation.

use std::borrow::Cow;

/// Looks at the tensors that a context computes: which experts the router chose, say.
///
/// Given to a context by
/// [`ContextParams::with_eval_callback`](crate::ContextParams::with_eval_callback). Both
/// methods are called on the thread that decodes, in the order of the computation. A panic in
/// them is caught, and the decode returns
/// [`Error::CallbackPanicked`](crate::Error::CallbackPanicked).
///
/// A callback costs speed even if it wants nothing: the graph is computed in pieces, and
/// each piece is waited for.
///
/// Rests on `llama_context_params.cb_eval`.
pub trait EvalCallback: Send {
    /// Whether the data of this tensor are wanted once they are computed.
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool;

    /// The data of a tensor that was wanted: a copy of its bytes, laid out as
    /// [`EvalTensor::strides`] says.
    fn data(&mut self, tensor: &EvalTensor<'_>, bytes: &[u8]);
}

/// A tensor of a computation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EvalTensor<'a> {
    /// llama.cpp's name for it, often with the layer's number: `ffn_moe_topk-3`,
    /// `result_output`.
    pub name: Cow<'a, str>,
    /// The operation that computes it, as ggml names it: `MUL_MAT_ID`.
    pub op: String,
    /// The element type: `f32`, `i32`, `q8_0`.
    pub kind: String,
    /// Elements per dimension, the fastest first.
    pub shape: [u64; 4],
    /// Bytes from one element to the next in each dimension; in the first dimension, from one
    /// block of a quantised type to the next.
    pub strides: [u64; 4],
}
