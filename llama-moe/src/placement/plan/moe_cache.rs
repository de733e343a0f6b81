//! Plans with a cache of experts.

use super::Plan;
use super::budget::{Budget, DeviceBudget};
use super::error::PlanError;
use super::fill::Filled;
use super::planner::{Attempt, Ground, Planner};
use super::scene::Scene;
use super::usage::MemoryUse;
use crate::error::{Error, Result};
use crate::placement::preview::Preview;
use crate::placement::{MoeCacheError, MoeCacheLayout};

/// Whether a plan could use a cache.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Useful,
    /// All experts that could be cached fit on devices without one.
    AllOnDevices,
    /// No device, or no layer on one.
    NoneToBeHad,
}

impl Planner {
    /// Reserves a cache of experts of `bytes` bytes on the devices, together, and fills with
    /// resident experts what it leaves. The plan loads the model with
    /// [`ModelParams::for_moe_cache`](crate::ModelParams::for_moe_cache), and
    /// [`Plan::context_params`] has the cache's size. 0, the default, plans no cache.
    ///
    /// If the devices have room for all experts without a cache, the plan has none:
    /// [`Plan::is_moe_cache_left_out`].
    ///
    /// The cache is part of the context that has to fit:
    /// [`with_context_params`](Self::with_context_params) replaces it with the one of those
    /// parameters.
    ///
    /// A planner chooses a cache by itself only with
    /// [`with_routing`](Self::with_routing): without a trace of the model's routing nobody knows
    /// whether a cache is faster than the same bytes of resident experts.
    ///
    /// [`fit`](Self::fit) then returns [`MoeCacheError::TooSmall`], with the size that works, for a
    /// cache without slots for one token's experts, and [`PlanError::NoRoomForMoeCache`] for one
    /// that does not fit beside attention, KV cache and the buffers to compute in.
    #[must_use]
    #[doc(alias = "--moe-cache-mib")]
    #[doc(alias = "moe_cache_size")]
    pub fn with_moe_cache(mut self, bytes: u64) -> Self {
        self.context = self.context.with_moe_cache_size(bytes);
        self
    }

    /// The same without a cache.
    pub(super) fn without_moe_cache(&self) -> Self {
        let mut planner = self.clone().with_moe_cache(0);
        planner.routing = None;
        planner
    }

    /// A plan with the cache that is asked for, or with one that the routing speaks for.
    pub(super) fn find_with_moe_cache(&self, budget: &Budget) -> Result<Plan> {
        let plain = self.without_moe_cache();
        let scene = plain.scene(budget)?;
        let params = scene.params.clone().for_moe_cache();
        let cached_scene = scene.with_params(&self.backend, &self.header, params)?;
        let cached = Self {
            params: self.params.clone().for_moe_cache(),
            ..self.clone()
        };
        let need = cached.need_of_moe_cache(&cached_scene)?;
        if need != Need::Useful {
            let best = plain.within_ram(&scene)?;
            let mut plan = plain.plan(&scene, best)?;
            plan.is_moe_cache_left_out = need == Need::AllOnDevices;
            return Ok(plan);
        }
        match &self.routing {
            Some(routing) => plain.choose_moe_cache(&scene, &cached, &cached_scene, routing),
            None => {
                let best = cached.within_ram(&cached_scene)?;
                cached.plan(&cached_scene, best)
            }
        }
    }

    fn need_of_moe_cache(&self, scene: &Scene) -> Result<Need> {
        let plain = self.without_moe_cache();
        let ground = plain.ground(scene, self.params.fixed_n_gpu_layers())?;
        let Some(whole) = plain.whole(scene, &ground)? else {
            return Ok(Need::Useful);
        };
        match whole.preview.moe_cache(0) {
            Ok(_) => Ok(Need::Useful),
            Err(Error::MoeCache(MoeCacheError::NotMoe)) => Ok(Need::AllOnDevices),
            Err(Error::MoeCache(MoeCacheError::NoLayer { .. })) if !ground.blocks.is_empty() => {
                Ok(Need::AllOnDevices)
            }
            // Routing alone asks for no cache.
            Err(Error::MoeCache(_)) if self.context.moe_cache_size() == 0 => Ok(Need::NoneToBeHad),
            Err(error) => Err(error),
        }
    }

    /// The layout of the context's cache; `None` without one.
    pub(super) fn moe_cache_of(&self, preview: &Preview) -> Result<Option<MoeCacheLayout>> {
        match self.context.moe_cache_size() {
            0 => Ok(None),
            _ if self.context.returns_embeddings() => Err(MoeCacheError::Embeddings.into()),
            size => preview.moe_cache(size).map(Some),
        }
    }

    /// The least plan and the cache. Layers on devices come before it: a layer's attention is used
    /// by every token. A smaller context makes room for it, if it may be smaller.
    pub(super) fn least_with_moe_cache(
        &self,
        scene: &Scene,
        ground: Ground,
    ) -> Result<(Ground, Attempt)> {
        let (ground, without) = self.without_moe_cache().least(scene, ground)?;
        let n_ctx = without.context.n_ctx();
        let mut attempt = self.attempt(scene, &ground, n_ctx, &Filled::default())?;
        if let Some(min) = self.min_ctx
            && scene.over(&attempt.usage).is_some()
        {
            attempt = self.shrink(scene, &ground, attempt, min)?;
        }
        match self.no_room(scene, &attempt) {
            None => Ok((ground, attempt)),
            Some(error) => Err(error.into()),
        }
    }

    fn no_room(&self, scene: &Scene, attempt: &Attempt) -> Option<PlanError> {
        let memories = scene.budgets.iter().zip(&attempt.usage.devices);
        let room = |(budget, used): (&DeviceBudget, &MemoryUse)| {
            let others = used.total() - used.moe_cache;
            budget.bytes.saturating_sub(others)
        };
        let short = |used: &MemoryUse, room: u64| used.moe_cache.saturating_sub(room);
        let rooms: Vec<u64> = memories.clone().map(room).collect();
        let worst = memories
            .zip(&rooms)
            .max_by_key(|((_, used), room)| short(used, **room));
        let ((budget, used), room) = worst.filter(|((_, used), room)| short(used, **room) > 0)?;
        let largest = scene
            .moe_cache_size(&rooms, |index| attempt.usage.devices[index].moe_cache > 0)
            .filter(|size| match attempt.preview.moe_cache(*size) {
                Ok(layout) => {
                    let mut memories = scene.budgets.iter().zip(&rooms);
                    memories.all(|(budget, room)| layout.bytes_on(&budget.name) <= *room)
                }
                Err(_) => false,
            });
        Some(PlanError::NoRoomForMoeCache {
            device: budget.name.clone(),
            needed: used.moe_cache,
            room: *room,
            short: short(used, *room),
            largest,
        })
    }

    /// Takes layers back from devices until each group of the others has slots for one token:
    /// groups share a device's cache by their bytes, so a group of few layers may get too little.
    /// `false` if no layer is left to cache.
    pub(super) fn serve_all_groups(
        &self,
        scene: &Scene,
        ground: &Ground,
        filled: &mut Filled,
    ) -> Result<bool> {
        loop {
            let params = self.with_rules(ground, filled)?;
            let overrides = scene.lower(&self.header, &params)?;
            let mode = scene.load_mode(&params, &overrides);
            let preview = scene.preview(&self.header, &params, &overrides, mode)?;
            let first = match self.moe_cache_of(&preview) {
                Ok(_) => return Ok(true),
                Err(Error::MoeCache(MoeCacheError::NoLayer { .. })) => return Ok(false),
                Err(Error::MoeCache(MoeCacheError::TooSmall { first_layer, .. })) => first_layer,
                Err(error) => return Err(error),
            };
            let of = |layer: &u32| ground.blocks.get(layer).map(|of| (of.device, &of.parts));
            let alike = filled.whole.iter().find(|layer| of(layer) == of(&first));
            let Some(layer) = alike.or(filled.whole.first()).copied() else {
                return Ok(true);
            };
            filled.whole.remove(&layer);
        }
    }
}
