//! The hit rate against the size of the cache.

use serde::Serialize;

use super::one_device::OneDevice;
use super::replay::{CacheGroup, ReplayStats};
use super::trace::{Phase, RoutingTrace};
use crate::context::MoeCacheCounts;
use crate::error::Result;
use crate::placement::MoeCacheLayout;

/// The hit rates of caches of different sizes, beside the share of the experts that the same bytes
/// would keep resident; from [`RoutingTrace::hit_rate_curve`].
///
/// The rates count from empty slots on: every expert's first use is a miss. A short trace
/// therefore stays below 1 even where the cache holds all experts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HitRateCurve {
    /// The model, in llama.cpp's words.
    pub model: String,
    /// Bytes of all experts that can be cached.
    pub expert_bytes: u64,
    /// Tokens that were decoded; 0 if the rates are of all micro-batches that a cache serves.
    pub n_decoded: u64,
    /// The sizes, ascending.
    pub points: Vec<HitRatePoint>,
}

/// A cache of one size.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HitRatePoint {
    /// The size that llama.cpp is given, in bytes.
    pub size: u64,
    /// Bytes that the cache takes on devices.
    pub bytes: u64,
    /// Experts that it has room for.
    pub n_slots: u64,
    /// The hit rate in decode, from 0 to 1; of all micro-batches where nothing was decoded. `None`
    /// if the cache served nothing.
    pub hit_rate: Option<f64>,
    /// The share of all experts that stay on the device if the bytes hold resident experts
    /// instead, from 0 to 1.
    pub resident_share: f64,
    /// Everything that was counted.
    pub stats: ReplayStats,
}

impl RoutingTrace {
    /// Replays the trace for each size. `layout` tells what a cache of that size holds:
    /// [`OneDevice::layout`], or [`Model::moe_cache`](crate::Model::moe_cache) for a model as it
    /// is loaded.
    ///
    /// # Errors
    /// What `layout` returns; as [`replay`](Self::replay) otherwise.
    pub fn hit_rate_curve(
        &self,
        sizes: &[u64],
        mut layout: impl FnMut(u64) -> Result<MoeCacheLayout>,
    ) -> Result<HitRateCurve> {
        let mut sizes = sizes.to_vec();
        sizes.sort_unstable();
        sizes.dedup();
        let n_decoded = self.n_tokens(Phase::Decode);
        let mut curve = HitRateCurve {
            model: self.model().to_owned(),
            expert_bytes: 0,
            n_decoded,
            points: Vec::with_capacity(sizes.len()),
        };
        for size in sizes {
            let layout = layout(size)?;
            let groups = CacheGroup::of_layout(&layout)?;
            let stats = self.replay(&groups)?;
            let expert_bytes = groups.iter().map(CacheGroup::bytes_of_experts);
            let expert_bytes = expert_bytes.fold(0, u64::saturating_add);
            curve.expert_bytes = curve.expert_bytes.max(expert_bytes);
            let counts: MoeCacheCounts = if n_decoded > 0 {
                stats.decode
            } else {
                stats.total()
            };
            let bytes = layout.bytes();
            curve.points.push(HitRatePoint {
                size,
                bytes,
                n_slots: groups.iter().map(|group| u64::from(group.n_slots())).sum(),
                hit_rate: counts.hit_rate(),
                resident_share: share(bytes, expert_bytes),
                stats,
            });
        }
        Ok(curve)
    }

    /// The curve from the smallest possible cache to one that holds all experts, in `n` even
    /// steps, for a model with all of its experts in system memory.
    ///
    /// # Errors
    /// As [`hit_rate_curve`](Self::hit_rate_curve).
    pub fn hit_rate_curve_on(&self, device: &OneDevice, n: usize) -> Result<HitRateCurve> {
        self.hit_rate_curve(&device.sizes(n), |size| device.layout(size))
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    (part as f64 / whole as f64).min(1.0)
}
