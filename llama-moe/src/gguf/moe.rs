//! What a model's experts amount to.

use super::header::Header;
use super::tensor::{Role, is_value_expert};

/// The numbers of a Mixture-of-Experts model, read from its header.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MoeShape {
    /// The blocks that have routed experts, ascending, without those for multi-token
    /// prediction.
    pub moe_layers: Vec<u32>,
    /// Routed experts per layer.
    pub n_expert: u32,
    /// Experts that each token is routed to.
    pub n_expert_used: u32,
    /// Experts per layer that every token goes through.
    pub n_expert_shared: u32,
    /// Bytes of the routed experts in each of `moe_layers`.
    pub expert_bytes: Vec<u64>,
    /// Bytes that are read to compute one token: every weight once, of the routed experts those
    /// that are used, of the embeddings one row. Attention that routes its values reads the value
    /// experts that are used. The KV cache comes on top.
    pub bytes_per_token: u64,
    /// The part of `bytes_per_token` that routed experts are.
    pub expert_bytes_per_token: u64,
}

impl MoeShape {
    /// Bytes of all routed experts.
    #[must_use]
    pub fn expert_bytes_total(&self) -> u64 {
        saturating_sum(self.expert_bytes.iter().copied())
    }

    /// Bytes that one token reads of the routed experts of a layer, given the layer's bytes.
    #[must_use]
    pub fn used_of(&self, expert_bytes: u64) -> u64 {
        share(expert_bytes, self.n_expert_used, self.n_expert)
    }

    pub(super) fn of(header: &Header) -> Option<Self> {
        let moe_layers = header.moe_layers();
        if moe_layers.is_empty() {
            return None;
        }
        let number = |key| {
            let value = header.hyper_parameter(key);
            value.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
        };
        let (n_expert, n_expert_used) = (number("expert_count"), number("expert_used_count"));
        let [n_value_expert, n_value_expert_used] = [
            "attention.value_expert_count",
            "attention.value_expert_used_count",
        ]
        .map(number);
        let mut expert_bytes = vec![0; moe_layers.len()];
        let (mut other, mut has_output) = (0u64, false);
        let mut embedding = None;
        for tensor in header.tensors() {
            match tensor.role {
                Role::Mtp => {}
                Role::RoutedExpert => {
                    let layer = tensor
                        .block
                        .and_then(|block| moe_layers.binary_search(&block).ok());
                    if let Some(bytes) = layer.and_then(|layer| expert_bytes.get_mut(layer)) {
                        *bytes = tensor.bytes.saturating_add(*bytes);
                    }
                }
                Role::Embedding => {
                    let rows = tensor.shape.get(1).copied().unwrap_or(1).max(1);
                    other = other.saturating_add(tensor.bytes / rows);
                    if tensor.name == "token_embd.weight" {
                        embedding = Some(tensor.bytes);
                    }
                }
                Role::Output => {
                    has_output |= tensor.name == "output.weight";
                    other = other.saturating_add(tensor.bytes);
                }
                _ if is_value_expert(&tensor.name) => {
                    let used = share(tensor.bytes, n_value_expert_used, n_value_expert);
                    other = other.saturating_add(used);
                }
                _ => other = other.saturating_add(tensor.bytes),
            }
        }
        if !has_output {
            // The output is the embeddings once more, all rows.
            other = other.saturating_add(embedding.unwrap_or(0));
        }
        let used = expert_bytes.iter();
        let used = saturating_sum(used.map(|bytes| share(*bytes, n_expert_used, n_expert)));
        Some(Self {
            moe_layers,
            n_expert,
            n_expert_used,
            n_expert_shared: number("expert_shared_count"),
            expert_bytes,
            bytes_per_token: other.saturating_add(used),
            expert_bytes_per_token: used,
        })
    }
}

/// `bytes × part / whole`, all of it if there is no whole.
fn share(bytes: u64, part: u32, whole: u32) -> u64 {
    if whole == 0 {
        return bytes;
    }
    let used = u128::from(bytes) * u128::from(part.min(whole)) / u128::from(whole);
    u64::try_from(used).unwrap_or(u64::MAX)
}

/// Files with holes can be larger than they are.
fn saturating_sum(bytes: impl Iterator<Item = u64>) -> u64 {
    bytes.fold(0, u64::saturating_add)
}
