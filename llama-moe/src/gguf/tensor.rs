//! The tensors of a file, and the part that each plays in the model.

use std::fmt;

/// One tensor of a model's file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TensorInfo {
    /// Its name, such as `blk.3.ffn_up_exps.weight`.
    pub name: String,
    /// The element type, as ggml names it: `f32`, `q4_K`, `mxfp4`.
    pub kind: String,
    /// Elements per dimension, ggml's order: the fastest first.
    pub shape: Vec<u64>,
    /// Bytes of its data.
    pub bytes: u64,
    /// The part it plays.
    pub role: Role,
    /// The block it belongs to; `None` for embeddings and output.
    pub block: Option<u32>,
    /// The file it is in, counted from 0.
    pub file: usize,
    /// Where its data starts in that file, in bytes.
    pub offset: u64,
    /// `enum ggml_type`.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) type_id: u32,
}

impl TensorInfo {
    /// How many elements it has.
    #[must_use]
    pub fn n_elements(&self) -> u64 {
        self.shape.iter().fold(1, |n, dim| n.saturating_mul(*dim))
    }
}

/// The part that a tensor plays in a model, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Role {
    /// Input embeddings and what belongs to them.
    Embedding,
    /// Attention, or what a layer has in its place: state space, linear attention.
    Attention,
    /// Normalisation of a block's or the output's hidden state.
    Norm,
    /// Chooses experts: the router, its bias, the selection bias.
    Router,
    /// The experts that a router chooses from, with their biases and scales.
    RoutedExpert,
    /// The experts that every token goes through, with their gate.
    SharedExpert,
    /// Up, gate and down of a layer without experts.
    DenseFfn,
    /// A block that predicts further tokens, whatever else it is in there.
    Mtp,
    /// From the last hidden state to logits.
    Output,
    /// Something else.
    Other,
}

impl Role {
    /// All roles, in the order in which a token meets them.
    pub const ALL: [Self; 10] = [
        Self::Embedding,
        Self::Attention,
        Self::Norm,
        Self::Router,
        Self::RoutedExpert,
        Self::SharedExpert,
        Self::DenseFfn,
        Self::Mtp,
        Self::Output,
        Self::Other,
    ];

    /// The role in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::Norm => "norm",
            Self::Router => "router",
            Self::RoutedExpert => "routed experts",
            Self::SharedExpert => "shared experts",
            Self::DenseFfn => "dense FFN",
            Self::Mtp => "MTP",
            Self::Output => "output",
            Self::Other => "other",
        }
    }

    /// The role of a tensor by its name, in a model of `n_layer` blocks before those that
    /// predict further tokens.
    pub(crate) fn of(name: &str, n_layer: u32) -> Self {
        let Some(block) = block_of(name) else {
            return Self::outside_of_blocks(name);
        };
        if block >= n_layer {
            return Self::Mtp;
        }
        if is_routed_expert(name) {
            return Self::RoutedExpert;
        }
        let part = name.split('.').nth(2).unwrap_or_default();
        if part.starts_with("nextn") {
            Self::Mtp
        } else if part.contains("shexp") {
            Self::SharedExpert
        } else if part.starts_with("ffn_gate_inp")
            || part.starts_with("exp_probs")
            || part.starts_with("ffn_gate_tid2eid")
        {
            Self::Router
        } else if part.starts_with("attn_q_")
            || part.starts_with("attn_k_")
            || part.starts_with("attn_kv_")
        {
            // Norms inside of attention are attention's own.
            Self::Attention
        } else if part.ends_with("_norm") || part.contains("_norm_") {
            Self::Norm
        } else if part.contains("_resid_") {
            // Weights of a sum of both.
            Self::Other
        } else if part.starts_with("attn")
            || part.starts_with("ssm")
            || part.starts_with("time_mix")
        {
            Self::Attention
        } else if part.starts_with("ffn") || part.starts_with("channel_mix") {
            Self::DenseFfn
        } else {
            Self::Other
        }
    }

    fn outside_of_blocks(name: &str) -> Self {
        let part = name.split('.').next().unwrap_or_default();
        if part.contains("_embd") || part == "token_types" {
            Self::Embedding
        } else if part.ends_with("_norm") {
            Self::Norm
        } else if part.starts_with("output") || part.starts_with("cls") {
            Self::Output
        } else {
            Self::Other
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The block that a tensor belongs to, by its name.
pub(crate) fn block_of(tensor: &str) -> Option<u32> {
    tensor.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Whether a tensor belongs to a routed expert, by its name.
pub(super) fn is_routed_expert(tensor: &str) -> bool {
    tensor.split('.').any(|part| {
        part.strip_prefix("ffn_")
            .and_then(|part| part.strip_suffix("exps"))
            .is_some_and(|part| {
                let part = part.strip_suffix("ch").unwrap_or(part);
                matches!(part, "up_" | "down_" | "gate_" | "gate_up_")
            })
    })
}

/// Whether a tensor has the experts that a token's values come from. They are attention's: no
/// rule that names experts takes them.
pub(super) fn is_value_expert(tensor: &str) -> bool {
    tensor.split('.').nth(2) == Some("attn_v_exps")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_told_by_names() {
        for (name, role) in [
            ("token_embd.weight", Role::Embedding),
            ("per_layer_token_embd.weight", Role::Embedding),
            ("output_norm.weight", Role::Norm),
            ("output.weight", Role::Output),
            ("rope_freqs.weight", Role::Other),
            ("blk.0.attn_q.weight", Role::Attention),
            ("blk.0.attn_q_norm.weight", Role::Attention),
            ("blk.0.attn_kv_a_norm.weight", Role::Attention),
            ("blk.0.attn_sinks.weight", Role::Attention),
            ("blk.0.attn_norm.weight", Role::Norm),
            ("blk.0.post_attention_norm.weight", Role::Norm),
            ("blk.0.ffn_norm.weight", Role::Norm),
            ("blk.0.ffn_norm_exps.weight", Role::Norm),
            ("blk.0.ffn_pre_exp_norm.weight", Role::Norm),
            ("blk.0.ffn_post_exp_norm.weight", Role::Norm),
            ("blk.0.attn_resid_alpha.weight", Role::Other),
            ("blk.0.ffn_resid_scale.weight", Role::Other),
            ("blk.0.attn_v_gate.bias", Role::Attention),
            ("blk.0.attn_v_exps.weight", Role::Attention),
            ("blk.0.engram_kv.weight", Role::Other),
            ("value_embd.weight", Role::Embedding),
            ("blk.0.ffn_gate_inp.weight", Role::Router),
            ("blk.0.exp_probs_b.bias", Role::Router),
            ("blk.0.ffn_gate_inp_shexp.weight", Role::SharedExpert),
            ("blk.0.ffn_up_shexp.weight", Role::SharedExpert),
            ("blk.0.ffn_up_exps.weight", Role::RoutedExpert),
            ("blk.0.ffn_gate_up_exps.weight", Role::RoutedExpert),
            ("blk.0.ffn_down_chexps.weight", Role::RoutedExpert),
            ("blk.0.ffn_gate_exps.bias", Role::RoutedExpert),
            ("blk.0.ffn_up.weight", Role::DenseFfn),
            ("blk.0.ssm_conv1d.weight", Role::Attention),
            ("blk.4.ffn_up_exps.weight", Role::Mtp),
            ("blk.4.nextn.eh_proj.weight", Role::Mtp),
        ] {
            assert_eq!(Role::of(name, 4), role, "{name}");
        }
    }
}
