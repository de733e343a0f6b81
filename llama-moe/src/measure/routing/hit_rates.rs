//! The hit rates that a trace predicts for the planner.

use super::replay::CacheGroup;
use super::trace::RoutingTrace;
use crate::placement::{HitRates, MoeCacheGroup};

/// Decode's hits, from a replay of the trace. `None` for layers that are not in the trace, for
/// another number of experts, and for a trace without decode.
impl HitRates for RoutingTrace {
    fn hit_rate(&self, group: &MoeCacheGroup) -> Option<f64> {
        let has = |layer: &u32| self.layers().iter().any(|of| of.layer == *layer);
        if group.n_expert != self.n_expert() || !group.layers.iter().all(has) {
            return None;
        }
        let group = CacheGroup::try_from(group).ok()?;
        self.replay(&[group]).ok()?.decode.hit_rate()
    }
}
