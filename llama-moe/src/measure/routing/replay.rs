//! A trace, replayed against a cache.

use serde::Serialize;

use super::error::RoutingError;
use super::slru::Slru;
use super::trace::{LayerRouting, MAX_EXPERTS, MAX_LAYERS, Phase, RoutingTrace};
use crate::context::MoeCacheCounts;
use crate::error::Result;
use crate::placement::{MoeCacheGroup, MoeCacheLayout};

/// Micro-batches of more tokens do not use the cache.
const MAX_TOKENS: u32 = 32;
/// Micro-batches with the experts of at most so many tokens count as small.
const SMALL_TOKENS: u64 = 8;

/// Layers that share the slots of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheGroup {
    layers: Vec<u32>,
    n_expert: u32,
    n_slots: u32,
    bytes_per_expert: u64,
}

/// Statistics of a replayed cache, counted as llama.cpp counts it
/// ([`MoeCacheStats`](crate::MoeCacheStats)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReplayStats {
    /// Micro-batches of up to 8 tokens.
    pub small: MoeCacheCounts,
    /// Micro-batches of 9 to 32 tokens.
    pub large: MoeCacheCounts,
    /// The part of both that belongs to [`Phase::Decode`].
    pub decode: MoeCacheCounts,
    /// Micro-batches of the trace.
    pub micro_batches: u64,
    /// Micro-batches in which the cache did not serve at least one of the layers: too many
    /// tokens, or more experts than slots. They compute these layers as without a cache.
    pub not_served: u64,
}

impl CacheGroup {
    /// A group of layers with `n_expert` experts each that share `n_slots` slots.
    ///
    /// A group with fewer slots than a token uses experts is allowed: llama.cpp does not cache
    /// its layers.
    ///
    /// # Errors
    /// [`RoutingError::Group`] without layers, for a layer that is listed twice, an impossible
    /// number of experts, or more slots than experts.
    pub fn new(
        layers: impl Into<Vec<u32>>,
        n_expert: u32,
        n_slots: u32,
        bytes_per_expert: u64,
    ) -> Result<Self> {
        let group = Self {
            layers: layers.into(),
            n_expert,
            n_slots,
            bytes_per_expert,
        };
        if let Some(reason) = group.problem() {
            let layers = group.layers;
            return Err(RoutingError::Group { layers, reason }.into());
        }
        Ok(group)
    }

    /// The groups of a cache.
    ///
    /// # Errors
    /// As [`new`](Self::new): no layout of a model that llama.cpp loads has such a group.
    pub fn of_layout(layout: &MoeCacheLayout) -> Result<Vec<Self>> {
        layout.groups().iter().map(Self::try_from).collect()
    }

    /// The layers.
    #[must_use]
    pub fn layers(&self) -> &[u32] {
        &self.layers
    }

    /// Experts of each layer.
    #[must_use]
    pub fn n_expert(&self) -> u32 {
        self.n_expert
    }

    /// Experts that the group has room for, of all its layers together.
    #[must_use]
    pub fn n_slots(&self) -> u32 {
        self.n_slots
    }

    /// Bytes of one expert of one layer.
    #[must_use]
    pub fn bytes_per_expert(&self) -> u64 {
        self.bytes_per_expert
    }

    /// Bytes of all experts of the layers.
    #[must_use]
    pub fn bytes_of_experts(&self) -> u64 {
        let n_experts = self.layers.len() as u64 * u64::from(self.n_expert);
        n_experts.saturating_mul(self.bytes_per_expert)
    }

    fn problem(&self) -> Option<String> {
        let (n_expert, n_layers) = (self.n_expert, self.layers.len());
        if n_layers == 0 || n_layers > MAX_LAYERS {
            return Some(format!("it has {n_layers} layers, not 1 to {MAX_LAYERS}"));
        }
        if n_expert == 0 || n_expert > MAX_EXPERTS {
            return Some(format!(
                "a layer has {n_expert} experts, not 1 to {MAX_EXPERTS}"
            ));
        }
        let mut layers = self.layers.iter().enumerate();
        if let Some((_, layer)) = layers.find(|(at, layer)| self.layers[..*at].contains(layer)) {
            return Some(format!("layer {layer} is listed twice"));
        }
        // At most 512 layers of 4096 experts.
        let n_experts = n_layers as u64 * u64::from(n_expert);
        let n_slots = self.n_slots;
        (u64::from(n_slots) > n_experts)
            .then(|| format!("{n_slots} slots for {n_experts} experts: one for each is enough"))
    }
}

impl TryFrom<&MoeCacheGroup> for CacheGroup {
    type Error = crate::Error;

    fn try_from(group: &MoeCacheGroup) -> Result<Self> {
        Self::new(
            group.layers.clone(),
            group.n_expert,
            group.n_slots,
            group.bytes_per_expert,
        )
    }
}

impl RoutingTrace {
    /// Replays a cache of these groups, by llama.cpp's own policy, from empty slots
    /// on. Layers that are in no group are not cached.
    ///
    /// A trace of a context with such a cache gives the very numbers that
    /// [`Context::moe_cache_stats`](crate::Context::moe_cache_stats) counts.
    ///
    /// # Errors
    /// [`RoutingError`] if a layer is in two groups, or a group has fewer experts per layer than
    /// the trace.
    pub fn replay(&self, groups: &[CacheGroup]) -> Result<ReplayStats> {
        let mut caches = Vec::with_capacity(groups.len());
        // The group of each of the trace's layers, and its place there.
        let mut place_of: Vec<Option<(usize, usize)>> = vec![None; self.layers.len()];
        for (index, group) in groups.iter().enumerate() {
            if group.n_expert < self.n_expert {
                return Err(RoutingError::OtherModel {
                    layer: group.layers[0],
                    group: group.n_expert,
                    trace: self.n_expert,
                }
                .into());
            }
            let others = groups[..index].iter().flat_map(|other| &other.layers);
            if let Some(&layer) = others.into_iter().find(|of| group.layers.contains(of)) {
                return Err(RoutingError::SharedLayer { layer }.into());
            }
            for (place, layer) in self.layers.iter().enumerate() {
                let within = group.layers.iter().position(|of| *of == layer.layer);
                if let Some(within) = within {
                    place_of[place] = Some((index, within));
                }
            }
            caches.push(Slru::new(
                group.layers.len(),
                group.n_expert as usize,
                group.n_slots,
            ));
        }
        let mut stats = ReplayStats::default();
        for batch in self.micro_batches() {
            let mut is_served = true;
            for (routing, place) in batch.layers().zip(&place_of) {
                let Some((index, within)) = *place else {
                    continue;
                };
                if routing.n_tokens == 0 {
                    continue;
                }
                if !self.is_served(&groups[index], routing) {
                    is_served = false;
                    continue;
                }
                let outcome = caches[index].request(within, routing.experts);
                let bytes = groups[index].bytes_per_expert;
                let n_selected = routing.experts.len() as u64;
                let is_small = n_selected <= SMALL_TOKENS * u64::from(self.n_expert_used);
                let of_size = if is_small {
                    &mut stats.small
                } else {
                    &mut stats.large
                };
                add(of_size, outcome.hits, outcome.misses, bytes);
                if batch.phase() == Phase::Decode {
                    add(&mut stats.decode, outcome.hits, outcome.misses, bytes);
                }
            }
            stats.micro_batches += 1;
            stats.not_served += u64::from(!is_served);
        }
        Ok(stats)
    }

    fn is_served(&self, group: &CacheGroup, routing: LayerRouting<'_>) -> bool {
        // llama.cpp leaves out groups that do not hold one token's experts of any layer.
        if group.n_slots < self.n_expert_used || routing.n_tokens > MAX_TOKENS {
            return false;
        }
        let most = u64::from(routing.n_tokens) * u64::from(routing.n_expert_used);
        most.min(group.n_expert.into()) <= group.n_slots.into()
    }
}

fn add(counts: &mut MoeCacheCounts, hits: u64, misses: u64, bytes_per_expert: u64) {
    counts.hits += hits;
    counts.misses += misses;
    let uploaded = misses.saturating_mul(bytes_per_expert);
    counts.uploaded_bytes = counts.uploaded_bytes.saturating_add(uploaded);
}

impl ReplayStats {
    /// Micro-batches of all sizes that the cache serves, together.
    #[must_use]
    pub fn total(&self) -> MoeCacheCounts {
        let mut total = self.small;
        total.hits += self.large.hits;
        total.misses += self.large.misses;
        let uploaded = self.large.uploaded_bytes;
        total.uploaded_bytes = total.uploaded_bytes.saturating_add(uploaded);
        total
    }
}
