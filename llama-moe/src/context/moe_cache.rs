//! The cache of experts of a context: what it holds, and what it did.

use super::Context;
use crate::backend::Device;
use crate::error::Result;
use crate::ffi::{MoeCacheRecord, sys};
use crate::placement::{MoeCacheError, MoeCacheGroup, MoeCacheLayout};

/// Hits, misses and uploads of a cache of experts since its context was made.
///
/// An expert is counted once for each layer and micro-batch that selects it, however many of the
/// micro-batch's tokens do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MoeCacheStats {
    /// Micro-batches of up to 8 tokens: decode. llama.cpp counts selected experts, 8 times as many
    /// as a token uses at most, so in layers where a token uses fewer, somewhat larger
    /// micro-batches count here.
    pub small: MoeCacheCounts,
    /// Micro-batches of 9 to 32 tokens.
    pub large: MoeCacheCounts,
    /// Experts that larger micro-batches copied from the cache instead of from system memory.
    pub copied_experts: u64,
    /// Their bytes.
    pub copied_bytes: u64,
}

/// Experts that micro-batches selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MoeCacheCounts {
    /// Experts that were in the cache.
    pub hits: u64,
    /// Experts that were uploaded from system memory.
    pub misses: u64,
    /// Bytes uploaded.
    pub uploaded_bytes: u64,
}

impl MoeCacheCounts {
    /// Hits of all that was selected, from 0 to 1; `None` if nothing was.
    #[must_use]
    pub fn hit_rate(&self) -> Option<f64> {
        let all = self.hits.saturating_add(self.misses);
        (all > 0).then(|| self.hits as f64 / all as f64)
    }

    fn of(raw: sys::llama_shim_moe_cache_counts) -> Self {
        Self {
            hits: raw.hits,
            misses: raw.misses,
            uploaded_bytes: raw.bytes,
        }
    }

    /// Both together.
    #[cfg(feature = "engine")]
    fn plus(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            uploaded_bytes: self.uploaded_bytes + other.uploaded_bytes,
        }
    }

    /// The counts since `earlier`.
    fn since(self, earlier: Self) -> Self {
        Self {
            hits: self.hits.saturating_sub(earlier.hits),
            misses: self.misses.saturating_sub(earlier.misses),
            uploaded_bytes: self.uploaded_bytes.saturating_sub(earlier.uploaded_bytes),
        }
    }
}

impl MoeCacheStats {
    /// Micro-batches of all sizes that the cache serves, together.
    #[must_use]
    pub fn total(&self) -> MoeCacheCounts {
        MoeCacheCounts {
            hits: self.small.hits + self.large.hits,
            misses: self.small.misses + self.large.misses,
            uploaded_bytes: self.small.uploaded_bytes + self.large.uploaded_bytes,
        }
    }

    /// The statistics since `earlier`, an earlier look at the same context.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            small: self.small.since(earlier.small),
            large: self.large.since(earlier.large),
            copied_experts: self.copied_experts.saturating_sub(earlier.copied_experts),
            copied_bytes: self.copied_bytes.saturating_sub(earlier.copied_bytes),
        }
    }

    /// The sum of two caches' statistics, such as those of a context and of the one in its place.
    #[cfg(feature = "engine")]
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            small: self.small.plus(other.small),
            large: self.large.plus(other.large),
            copied_experts: self.copied_experts + other.copied_experts,
            copied_bytes: self.copied_bytes + other.copied_bytes,
        }
    }
}

impl Context {
    /// Statistics of the cache of experts since the context was made; `None` without a cache.
    ///
    /// llama.cpp logs the same figures when the context is dropped.
    ///
    /// # Errors
    /// [`Error::Llama`](crate::Error::Llama) with the feature `system`: an installed llama.cpp
    /// does not report them.
    pub fn moe_cache_stats(&mut self) -> Result<Option<MoeCacheStats>> {
        if self.moe_cache.is_none() {
            return Ok(None);
        }
        let record = self.moe_cache_record()?;
        Ok(record.map(|record| {
            let stats = record.stats;
            MoeCacheStats {
                small: MoeCacheCounts::of(stats.up_to_8),
                large: MoeCacheCounts::of(stats.up_to_32),
                copied_experts: stats.copied.hits,
                copied_bytes: stats.copied.bytes,
            }
        }))
    }

    /// The layout of the cache of experts; `None` without a cache.
    #[must_use]
    pub fn moe_cache(&self) -> Option<&MoeCacheLayout> {
        self.moe_cache.as_ref()
    }

    fn moe_cache_record(&mut self) -> Result<Option<MoeCacheRecord>> {
        self.check_usable()?;
        let record = self.handle.moe_cache();
        self.watch(record, "llama_shim_moe_cache_new")
    }

    /// Takes over the groups and slots that llama.cpp made, which can be fewer than worked out
    /// where devices share the cache by their free memory.
    pub(super) fn settle_moe_cache(&mut self, mut layout: MoeCacheLayout) -> Result<()> {
        let Some(record) = self.moe_cache_record()? else {
            return Ok(());
        };
        for made in &record.groups {
            let device = made.device.and_then(Device::of_buffer);
            let is_it = |group: &&mut MoeCacheGroup| group.layers == made.layers;
            let Some(group) = layout.groups.iter_mut().find(is_it) else {
                continue;
            };
            if made.n_slots == 0 {
                return Err(MoeCacheError::LeftOut {
                    device: group.device_name.clone(),
                    n_layers: group.layers.len(),
                }
                .into());
            }
            if group.n_slots != made.n_slots {
                let slots = u64::from(made.n_slots) + 1;
                group.bytes = group.bytes / (u64::from(group.n_slots) + 1) * slots;
                group.n_slots = made.n_slots;
            }
            group.device = device.or(group.device);
            group.n_expert = made.n_expert;
        }
        self.moe_cache = Some(layout);
        Ok(())
    }
}

#[cfg(all(test, feature = "engine"))]
mod tests {
    use super::{MoeCacheCounts, MoeCacheStats};

    #[test]
    fn what_came_later_is_the_sum_less_what_came_before() {
        let counts = |hits, misses| MoeCacheCounts {
            hits,
            misses,
            uploaded_bytes: 10 * misses,
        };
        let before = MoeCacheStats {
            small: counts(3, 1),
            large: counts(0, 4),
            copied_experts: 2,
            copied_bytes: 20,
        };
        let later = MoeCacheStats {
            small: counts(1, 1),
            ..MoeCacheStats::default()
        };
        let both = before.plus(&later);
        assert_eq!(both.total(), counts(4, 6));
        assert_eq!(both.since(&before), later);
        assert_eq!(both.copied_bytes, 20);
        // A context that is younger than the earlier look has less, never a negative number.
        assert_eq!(later.since(&both), MoeCacheStats::default());
    }
}
