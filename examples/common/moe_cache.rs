//! llama.cpp's cache of experts: how large it is, what it holds, and what it did.

use clap::Args;
use llama_moe::{ContextParams, Model, ModelParams, MoeCacheCounts, MoeCacheLayout};
use serde::Serialize;

use crate::Bytes;

const MIB: u64 = 1 << 20;

/// The size of the cache of experts.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Cache of experts")]
pub struct MoeCacheArgs {
    /// Keep recently used experts in so much of the devices' memory, such as 2GiB [default: 0, no
    /// cache]
    ///
    /// Serves layers that are on a device and have all their experts in system memory: add
    /// --cpu-moe or --n-cpu-moe. All devices share the amount. Weights are then not repacked for
    /// the CPU.
    #[arg(long, value_name = "BYTES")]
    moe_cache: Option<Bytes>,

    /// The same in MiB, by llama.cpp's own name
    #[arg(long, value_name = "N", conflicts_with = "moe_cache")]
    moe_cache_mib: Option<u64>,
}

impl MoeCacheArgs {
    /// The size in bytes; 0 for no cache.
    #[must_use]
    pub fn size(&self) -> u64 {
        let mib = self.moe_cache_mib.unwrap_or(0).saturating_mul(MIB);
        self.moe_cache.map_or(mib, |Bytes(bytes)| bytes)
    }

    /// The size in bytes; `None` where neither option is given.
    #[must_use]
    pub fn given(&self) -> Option<u64> {
        let is_given = self.moe_cache.is_some() || self.moe_cache_mib.is_some();
        is_given.then(|| self.size())
    }

    /// How a model is loaded whose experts are to be cached.
    #[must_use]
    pub fn model_params(&self, params: ModelParams) -> ModelParams {
        match self.size() {
            0 => params,
            _ => params.for_moe_cache(),
        }
    }

    /// The context with the cache.
    #[must_use]
    pub fn context_params(&self, params: ContextParams) -> ContextParams {
        params.with_moe_cache_size(self.size())
    }
}

/// A cache in numbers; all amounts are bytes.
#[derive(Clone, Debug, Serialize)]
pub struct MoeCacheReport {
    /// The size that was asked for.
    pub size: u64,
    /// Bytes of all devices.
    pub bytes: u64,
    /// The size that holds all experts, in whole MiB; null unless `size` is larger, and in plans.
    pub enough: Option<u64>,
    /// Layers that share slots.
    pub groups: Vec<MoeCacheGroupReport>,
    /// Why a layer is not cached: a sentence for each such layer.
    pub not_cached: Vec<String>,
}

/// Layers of one device that share slots.
#[derive(Clone, Debug, Serialize)]
pub struct MoeCacheGroupReport {
    /// The device.
    pub device: String,
    /// The layers.
    pub layers: Vec<u32>,
    /// Experts of each layer.
    pub n_expert: u32,
    /// Experts that there is room for.
    pub n_slots: u32,
    /// One expert.
    pub bytes_per_expert: u64,
    /// All slots.
    pub bytes: u64,
}

impl MoeCacheReport {
    /// The report. Without a loaded model it does not say what size would be enough.
    #[must_use]
    pub fn of(layout: &MoeCacheLayout, model: Option<&Model>) -> Self {
        let groups = layout.groups().iter();
        Self {
            size: layout.size(),
            bytes: layout.bytes(),
            enough: model.and_then(|model| enough(layout, model)),
            groups: groups
                .map(|group| MoeCacheGroupReport {
                    device: group.device_name.clone(),
                    layers: group.layers.clone(),
                    n_expert: group.n_expert,
                    n_slots: group.n_slots,
                    bytes_per_expert: group.bytes_per_expert,
                    bytes: group.bytes,
                })
                .collect(),
            not_cached: layout.obstacles().iter().map(ToString::to_string).collect(),
        }
    }

    /// Experts that there is room for, in all groups.
    #[must_use]
    pub fn n_slots(&self) -> u64 {
        self.groups
            .iter()
            .map(|group| u64::from(group.n_slots))
            .sum()
    }
}

/// A cache for a person to read: its groups, what is not cached, and whether it is larger than
/// it need be.
#[must_use]
pub fn describe_moe_cache(layout: &MoeCacheLayout, model: &Model) -> String {
    let surplus = enough(layout, model).map(|bytes| {
        let mib = bytes / MIB;
        format!("\nthe cache is larger than all experts: {mib} MiB would do")
    });
    format!("{layout}{}", surplus.unwrap_or_default())
}

/// The statistics of a cache, in a line: `93.2 % hits (123 hits, 9 misses), 4.5 MiB uploaded`.
#[must_use]
pub fn describe_moe_cache_use(counts: &MoeCacheCounts) -> String {
    let Some(rate) = counts.hit_rate() else {
        return "not used".to_owned();
    };
    format!(
        "{:.1} % hits ({} hits, {} misses), {} uploaded",
        100.0 * rate,
        counts.hits,
        counts.misses,
        Bytes(counts.uploaded_bytes)
    )
}

/// The fewest MiB that hold all experts, in bytes. `None` unless the cache has more.
fn enough(layout: &MoeCacheLayout, model: &Model) -> Option<u64> {
    let holds_all = |mib: u64| {
        let layout = model.moe_cache(mib.saturating_mul(MIB));
        layout.is_ok_and(|layout| layout.holds_all())
    };
    if !layout.holds_all() {
        return None;
    }
    let (mut short, mut enough) = (0, layout.size().div_ceil(MIB));
    while short + 1 < enough {
        let middle = short + (enough - short) / 2;
        if holds_all(middle) {
            enough = middle;
        } else {
            short = middle;
        }
    }
    Some(enough * MIB).filter(|bytes| *bytes < layout.size())
}
