//! How fast plans decode by the bytes that they move: resident experts against a cache.

use std::fmt;
use std::sync::Arc;

use super::planner::Attempt;
use crate::error::{Error, Result};
use crate::gguf::Role;
use crate::placement::{MoeCacheGroup, MoeCacheLayout, Preview, is_cached_part};

/// How often a cache of experts has what a token selects: what is known of a model's routing.
///
/// A trace of the routing (`measure::routing`, feature `measure`) predicts it by replaying
/// llama.cpp's own policy. A planner asks it for caches of several sizes.
pub trait HitRates: Send + Sync {
    /// Hits of all that decode selects in the group's layers, from 0 to 1, with the group's
    /// slots; `None` if it is not known, such as for layers of another model.
    fn hit_rate(&self, group: &MoeCacheGroup) -> Option<f64>;
}

impl<T: HitRates + ?Sized> HitRates for Arc<T> {
    fn hit_rate(&self, group: &MoeCacheGroup) -> Option<f64> {
        (**self).hit_rate(group)
    }
}

/// Bytes per second, measured on the machine that a plan is for.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Bandwidths {
    /// Bytes per second that the CPU reads from system memory, such as
    /// [`host_bandwidth`](crate::host_bandwidth) measures.
    pub host: f64,
    /// Bytes per second from system memory to the device, such as `measure::transfer_rates`
    /// (feature `measure`) measures; of several devices, to the slowest.
    pub to_device: f64,
}

/// A planner's knowledge of the routing.
#[derive(Clone)]
pub(super) struct Routing {
    pub(super) hit_rates: Arc<dyn HitRates>,
    pub(super) bandwidths: Bandwidths,
}

impl fmt::Debug for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routing")
            .field("bandwidths", &self.bandwidths)
            .finish_non_exhaustive()
    }
}

/// How fast a plan decodes one sequence, predicted from the bytes that each token moves. Nothing
/// else is counted: neither computing on devices nor the time to start a copy.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DecodeForecast {
    /// The size of the cache of experts in bytes; 0 without one.
    pub moe_cache_size: u64,
    /// Bytes of resident experts, on all devices together.
    pub expert_bytes_on_devices: u64,
    /// Hits of all that a token selects in cached layers, by bytes; `None` without a cache.
    pub hit_rate: Option<f64>,
    /// Bytes that the CPU reads from system memory for each token.
    pub host_bytes_per_token: f64,
    /// Bytes that are copied to devices for each token.
    pub uploaded_bytes_per_token: f64,
    /// Tokens per second; `None` where nothing is moved.
    pub decode: Option<f64>,
}

impl DecodeForecast {
    /// Of a plan that is tried.
    pub(super) fn of(attempt: &Attempt, routing: &Routing) -> Result<Self> {
        let preview = &attempt.preview;
        let Bandwidths { host, to_device } = routing.bandwidths;
        let layout = attempt.moe_cache.as_ref();
        let host_bytes = preview.host_bytes_per_token(layout);
        let (mut selected, mut uploaded) = (0.0, 0.0);
        for group in layout.map_or(&[][..], MoeCacheLayout::groups) {
            let n_used = layout.map_or(0, MoeCacheLayout::n_expert_used);
            let n_selected = group.layers.len() as f64 * f64::from(n_used.min(group.n_expert));
            let bytes = n_selected * group.bytes_per_expert as f64;
            selected += bytes;
            uploaded += bytes * (1.0 - routing.hit_rate(group)?);
        }
        let time = host_bytes / host + uploaded / to_device;
        Ok(Self {
            moe_cache_size: layout.map_or(0, MoeCacheLayout::size),
            expert_bytes_on_devices: attempt.usage.devices.iter().map(|of| of.experts).sum(),
            hit_rate: (selected > 0.0).then(|| 1.0 - uploaded / selected),
            host_bytes_per_token: host_bytes,
            uploaded_bytes_per_token: uploaded,
            decode: (time > 0.0).then(|| 1.0 / time),
        })
    }

    /// Whether more tokens per second are predicted than for the other.
    pub(super) fn is_faster_than(&self, other: &Self) -> bool {
        match (self.decode, other.decode) {
            (Some(decode), Some(of_other)) => decode > of_other,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }
}

impl Routing {
    /// Bandwidths that nothing can be divided by are refused.
    pub(super) fn check(&self) -> Result<()> {
        let Bandwidths { host, to_device } = self.bandwidths;
        for (name, value) in [("host", host), ("to_device", to_device)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::Parameter {
                    parameter: "with_routing",
                    value: format!("{name}: {value}"),
                    reason: "a bandwidth is a positive number of bytes per second".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn hit_rate(&self, group: &MoeCacheGroup) -> Result<f64> {
        let rate = self.hit_rates.hit_rate(group);
        if let Some(rate) = rate.filter(|rate| (0.0..=1.0).contains(rate)) {
            return Ok(rate);
        }
        let first = group.layers.first().copied().unwrap_or(0);
        let layers = match group.layers.len() {
            1 => format!("layer {first}"),
            n => format!("layer {first} and {} more", n - 1),
        };
        Err(Error::Parameter {
            parameter: "with_routing",
            value: rate.map_or_else(|| "no hit rate".to_owned(), |rate| rate.to_string()),
            reason: format!(
                "a hit rate from 0 to 1 is needed for {layers} with {} of {} experts cached: \
                 trace the routing of this very model",
                group.n_slots,
                group.n_experts_total()
            ),
        })
    }
}

impl Preview {
    /// Bytes that the CPU reads from system memory for each token: of experts those of layers that
    /// are not cached, as many as a token uses, and of other weights all.
    pub(in crate::placement) fn host_bytes_per_token(
        &self,
        layout: Option<&MoeCacheLayout>,
    ) -> f64 {
        let share_used = self.share_used();
        let experts = self.host_bytes_of_experts(layout) as f64;
        experts * share_used + self.host_bytes_of_layers() as f64
    }

    /// Bytes of experts in system memory that no cache copies to a device.
    pub(in crate::placement) fn host_bytes_of_experts(
        &self,
        layout: Option<&MoeCacheLayout>,
    ) -> u64 {
        let is_cached = |block: Option<u32>, name: &str| {
            let has_layer = |layout: &MoeCacheLayout| block.is_some_and(|of| layout.has_layer(of));
            is_cached_part(name) && layout.is_some_and(has_layer)
        };
        let in_host = self.tensors().iter().filter(|tensor| tensor.is_host);
        let experts = in_host.filter(|tensor| tensor.role == Role::RoutedExpert);
        experts
            .filter(|tensor| !is_cached(tensor.block, &tensor.name))
            .map(|tensor| tensor.bytes)
            .sum()
    }

    /// The share of a layer's experts that one token uses.
    pub(in crate::placement) fn share_used(&self) -> f64 {
        match self.moe() {
            Some(moe) if moe.n_expert > 0 => {
                (f64::from(moe.n_expert_used) / f64::from(moe.n_expert)).min(1.0)
            }
            _ => 1.0,
        }
    }
}

/// One line: `cache of 2048.0 MiB, hit rate 81.0 %, 310.0 MiB of experts resident: 21.3 tokens/s`.
impl fmt::Display for DecodeForecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.moe_cache_size {
            0 => f.write_str("no cache")?,
            size => write!(f, "cache of {:.1} MiB", mib(size))?,
        }
        if let Some(rate) = self.hit_rate {
            write!(f, ", hit rate {:.1} %", 100.0 * rate)?;
        }
        let resident = mib(self.expert_bytes_on_devices);
        write!(f, ", {resident:.1} MiB of experts resident: ")?;
        match self.decode {
            Some(decode) => write!(f, "{decode:.1} tokens/s"),
            None => f.write_str("not bound by transfers"),
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 20)
}
