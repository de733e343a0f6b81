//! How much of the room is a cache of experts, and how much resident experts.

use std::sync::Arc;

use super::Plan;
use super::error::PlanError;
use super::forecast::{Bandwidths, DecodeForecast, HitRates, Routing};
use super::planner::{Attempt, Planner};
use super::scene::{Scene, whole_steps};
use crate::error::{Error, Result};

/// Parts that the room for experts is divided in: the cache gets none of them to all.
const N_SPLITS: u32 = 8;

impl Planner {
    /// Chooses how much of the room is a cache of experts and how much resident experts, by what
    /// is known of the model's routing: no cache, or one of an eighth to all of the room that a
    /// plan without experts leaves, and of those the one that is predicted to decode fastest.
    ///
    /// # What is predicted
    ///
    /// For each token and each layer, resident experts cost nothing; experts in system memory are
    /// read by the CPU at [`Bandwidths::host`]; in cached layers the misses are copied at
    /// [`Bandwidths::to_device`], and hits cost nothing. The time of a token is the sum: a
    /// prediction, bound by transfers, in which nothing else counts. [`Plan::forecasts`] has all
    /// alternatives, and a printed plan the best with and without a cache. Only a measurement says
    /// which is faster.
    ///
    /// Beside [`with_moe_cache`](Self::with_moe_cache) the size stays as it was given, and the
    /// plan has the prediction for it and for a plan without a cache.
    ///
    /// # Without hit rates
    ///
    /// A planner without this never chooses a cache by itself. A cache wins where its hit rate is
    /// well above the share of experts that the same bytes hold, which only a trace of the
    /// routing tells: `measure::routing` (feature `measure`) makes one from a text or a chat.
    ///
    /// [`fit`](Self::fit) then returns [`Error::Parameter`] for a bandwidth that is no positive
    /// number, and for layers of the model whose hit rate is not known.
    #[must_use]
    pub fn with_routing(
        mut self,
        hit_rates: impl HitRates + 'static,
        bandwidths: Bandwidths,
    ) -> Self {
        self.routing = Some(Routing {
            hit_rates: Arc::new(hit_rates),
            bandwidths,
        });
        self
    }

    /// The fastest plan by the forecast. This planner plans without a cache, `cached` with one.
    pub(super) fn choose_moe_cache(
        &self,
        scene: &Scene,
        cached: &Self,
        cached_scene: &Scene,
        routing: &Routing,
    ) -> Result<Plan> {
        routing.check()?;
        let given = cached.context.moe_cache_size();
        let plain = match self.within_ram(scene) {
            Err(Error::Plan(_)) if given > 0 => None,
            plain => Some(plain?),
        };
        let forecast = plain.as_ref().map(|of| DecodeForecast::of(of, routing));
        let mut candidates: Vec<DecodeForecast> = forecast.transpose()?.into_iter().collect();
        if given > 0 {
            let attempt = cached.within_ram(cached_scene)?;
            candidates.push(DecodeForecast::of(&attempt, routing)?);
            return cached.plan_with(cached_scene, attempt, candidates);
        }
        // Nothing is chosen without a plan to compare with.
        let Some(plain) = plain else {
            return self.plan_with(scene, self.within_ram(scene)?, candidates);
        };
        // All alternatives have the same context.
        let mut cached = Self {
            context: plain.context.clone(),
            min_ctx: None,
            ..cached.clone()
        };
        let mut best: Option<Attempt> = None;
        let mut fastest = candidates[0].clone();
        for size in cached.sizes(cached_scene)? {
            cached = cached.with_moe_cache(size);
            let Some(attempt) = cached.with_cache_that_fits(cached_scene)? else {
                continue;
            };
            let forecast = DecodeForecast::of(&attempt, routing)?;
            if forecast.is_faster_than(&fastest) {
                fastest = forecast.clone();
                best = Some(attempt);
            }
            if !candidates.contains(&forecast) {
                candidates.push(forecast);
            }
        }
        match best {
            Some(best) => cached.plan_with(cached_scene, best, candidates),
            None => self.plan_with(scene, plain, candidates),
        }
    }

    /// Sizes of a cache to try, ascending.
    fn sizes(&self, scene: &Scene) -> Result<Vec<u64>> {
        let plain = self.without_moe_cache();
        let ground = plain.ground(scene, self.params.fixed_n_gpu_layers())?;
        let (ground, least) = plain.least(scene, ground)?;
        let memories = scene.budgets.iter().zip(&least.usage.devices);
        let rooms: Vec<u64> = memories
            .map(|(budget, used)| budget.bytes.saturating_sub(used.total()))
            .collect();
        let has_experts = |index| ground.blocks.values().any(|block| block.device == index);
        let all = scene.moe_cache_size(&rooms, has_experts).unwrap_or(0);
        let mut sizes: Vec<u64> = (1..=u64::from(N_SPLITS))
            .map(|n| {
                let size = u128::from(all) * u128::from(n) / u128::from(N_SPLITS);
                whole_steps(u64::try_from(size).unwrap_or(u64::MAX))
            })
            .filter(|size| *size > 0)
            .collect();
        sizes.dedup();
        Ok(sizes)
    }

    /// The plan with this cache, or with the largest that fits if this one is a little too large:
    /// computing with a cache takes other buffers. `None` if it is too small or does not fit.
    fn with_cache_that_fits(&self, scene: &Scene) -> Result<Option<Attempt>> {
        let attempt = match self.within_ram(scene) {
            Err(Error::Plan(PlanError::NoRoomForMoeCache {
                largest: Some(size),
                ..
            })) => self.clone().with_moe_cache(size).within_ram(scene),
            attempt => attempt,
        };
        match attempt {
            Ok(attempt) => Ok(Some(attempt)),
            Err(Error::Plan(_) | Error::MoeCache(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn plan_with(
        &self,
        scene: &Scene,
        attempt: Attempt,
        forecasts: Vec<DecodeForecast>,
    ) -> Result<Plan> {
        let mut plan = self.plan(scene, attempt)?;
        plan.forecasts = forecasts;
        Ok(plan)
    }
}
