//! Which type a tensor has in a file of the usual quantisation.
//!
//! That is what llama.cpp's `llama-quantize` chooses: MXFP4 for the experts of gpt-oss and
//! Q8_0 for its other matrices, and the mixture called Q4_K_M for all others. Published
//! files differ from it here and there, as their makers saw fit.

use super::hyper::{Family, HyperParams};
use super::types::TensorType;

/// The type of the tensor `name` of this shape, in the given block if in any.
pub(super) fn tensor_type(
    hyper: &HyperParams,
    block: Option<u32>,
    name: &str,
    shape: &[u64],
) -> TensorType {
    if !is_quantised(name, shape) {
        return TensorType::F32;
    }
    if let Some(kind) = hyper.weight_type {
        return fitting(kind.tensor_type(), shape);
    }
    if hyper.family == Family::GptOss {
        return match shape.len() {
            3 => TensorType::Mxfp4,
            _ => TensorType::Q8_0,
        };
    }
    fitting(q4_k_m(hyper, block.unwrap_or(0), name), shape)
}

/// Vectors, norms and routers stay as they are.
fn is_quantised(name: &str, shape: &[u64]) -> bool {
    shape.len() >= 2
        && name.ends_with("weight")
        && !name.ends_with("_norm.weight")
        && !name.starts_with("ffn_gate_inp")
}

fn q4_k_m(hyper: &HyperParams, block: u32, name: &str) -> TensorType {
    let more = has_more_bits(block, hyper.n_block());
    // llama.cpp knows Mixtral by this number.
    let eight_experts = hyper.n_expert == 8;
    match name {
        "output.weight" => TensorType::Q6K,
        "attn_k.weight" | "attn_v.weight" if eight_experts => TensorType::Q8_0,
        "attn_output.weight" if eight_experts => TensorType::Q5K,
        "attn_v.weight" if more => TensorType::Q6K,
        _ if name.starts_with("ffn_down") && more => TensorType::Q6K,
        _ => TensorType::Q4K,
    }
}

/// The first and last eighth of the blocks, and every third between.
fn has_more_bits(block: u32, n_block: u32) -> bool {
    let eighth = n_block / 8;
    block < eighth || block >= 7 * n_block / 8 || (block - eighth) % 3 == 2
}

/// What takes a type's place where rows are no multiple of its 256.
fn fitting(kind: TensorType, shape: &[u64]) -> TensorType {
    let row = shape.first().copied().unwrap_or(0);
    if row % kind.block().elements == 0 {
        return kind;
    }
    match kind {
        _ if row % 32 != 0 => TensorType::F16,
        TensorType::Q4K => TensorType::Q5_0,
        TensorType::Q5K => TensorType::Q5_1,
        _ => TensorType::Q8_0,
    }
}
