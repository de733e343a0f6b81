//! Finding a plan.

use std::collections::BTreeMap;

use super::budget::Budget;
use super::error::PlanError;
use super::fill::{ExpertBlock, Filled, expert_blocks, fill};
use super::forecast::Routing;
use super::scene::Scene;
use super::usage::{MemoryUse, Usage};
use super::{Plan, PlannedMemory};
use crate::backend::{Backend, Device};
use crate::context::ContextParams;
use crate::error::{Error, Result};
use crate::gguf::{Header, Role};
use crate::model::{LoadMode, ModelParams, ModelSource, checked_without_vocab};
use crate::placement::machine::Layers;
use crate::placement::preview::Preview;
use crate::placement::{DryRun, MoeCacheError, MoeCacheLayout, Pattern, Target, TensorOverrides};

/// Plans that are tried after the first one, to use what the last one left.
const N_REFINEMENTS: usize = 3;

/// llama.cpp rounds contexts up to multiples of this.
const CONTEXT_STEP: u32 = 256;

/// Finds a [`Plan`] for a model: which rules, layers and shares fit a [`Budget`].
///
/// ```no_run
/// use llama_moe::{Backend, Budget, Model, ModelParams, Planner};
///
/// let backend = Backend::init()?;
/// let plan = Planner::new(&backend, "gpt-oss-120b.gguf")?
///     .with_n_ctx(8192)
///     .fit(&Budget::free(1 << 30))?;
/// println!("{plan}");
/// let model = Model::load(&backend, "gpt-oss-120b.gguf", ModelParams::from(plan))?;
/// # Ok::<(), llama_moe::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Planner {
    pub(super) backend: Backend,
    pub(super) header: Header,
    pub(super) params: ModelParams,
    pub(super) context: ContextParams,
    pub(super) min_ctx: Option<u32>,
    pub(super) routing: Option<Routing>,
}

/// So many layers on devices, and the experts that can be moved there.
pub(super) struct Ground {
    params: ModelParams,
    /// Bytes of weights on each device without further rules.
    weights: Vec<u64>,
    pub(super) blocks: BTreeMap<u32, ExpertBlock>,
}

/// One set of parameters, and what it takes.
pub(super) struct Attempt {
    params: ModelParams,
    pub(super) context: ContextParams,
    pub(super) preview: Preview,
    pub(super) moe_cache: Option<MoeCacheLayout>,
    command: String,
    pub(super) usage: Usage,
    n_ctx: u32,
    n_ubatch: u32,
}

impl Planner {
    /// Reads the header of a model: a path, or the paths of its split files.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn new(backend: &Backend, source: impl Into<ModelSource>) -> Result<Self> {
        Ok(Self::of_header(backend, Header::read(source)?))
    }

    /// For a header that has been read.
    #[must_use]
    pub fn of_header(backend: &Backend, header: Header) -> Self {
        Self {
            backend: *backend,
            header,
            params: ModelParams::default(),
            context: ContextParams::default(),
            min_ctx: None,
            routing: None,
        }
    }

    /// Starts from these parameters. What they fix stays as it is: rules, which come before
    /// the plan's own, `n_gpu_layers`, the tensor split, and the devices with their order. Of
    /// those that have no budget none is used.
    #[must_use]
    pub fn with_model_params(mut self, params: ModelParams) -> Self {
        self.params = params;
        self
    }

    /// The context that has to fit beside the weights.
    #[must_use]
    pub fn with_context_params(mut self, context: ContextParams) -> Self {
        self.context = context;
        self
    }

    /// The size of that context in tokens; 0 for as many as the model was trained for.
    #[must_use]
    #[doc(alias = "--ctx-size")]
    pub fn with_n_ctx(mut self, n_ctx: u32) -> Self {
        self.context = self.context.with_n_ctx(n_ctx);
        self
    }

    /// Tokens that are computed at once.
    #[must_use]
    #[doc(alias = "--ubatch-size")]
    pub fn with_n_ubatch(mut self, n_ubatch: u32) -> Self {
        self.context = self.context.with_n_ubatch(n_ubatch);
        self
    }

    /// Lets the context shrink, down to this many tokens, where it would not fit otherwise.
    #[must_use]
    pub fn with_min_ctx(mut self, n_ctx: u32) -> Self {
        self.min_ctx = Some(n_ctx);
        self
    }

    /// The header of the model.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Finds a plan. Attention, router, shared experts and the KV cache come to the devices
    /// first; what room they leave is filled with experts: whole layers, then single tensors, from
    /// the last layers on, unless others leave less of the room unused. Where not even the former
    /// fit, fewer layers go to devices, one at least. llama.cpp itself says what context and
    /// computation take, in dry runs that allocate nothing; for devices that are not at hand that
    /// is an estimate.
    ///
    /// With a cache of experts ([`with_moe_cache`](Self::with_moe_cache)) the cache comes before
    /// resident experts, and layers are filled as wholes.
    ///
    /// With several devices llama.cpp's dry run can be off by a few of the states that go from
    /// layer to layer, some MiB on each, in either direction.
    ///
    /// Nothing is changed, and several threads may plan at once.
    ///
    /// # Errors
    /// [`PlanError`](super::PlanError) if nothing fits, with what is short and by how much, or
    /// for a budget that cannot be; [`MoeCacheError`] for a cache of experts that cannot be, such
    /// as one that is too small; otherwise as [`Preview::new`] and [`DryRun::new`].
    pub fn fit(&self, budget: &Budget) -> Result<Plan> {
        let planner = Self {
            header: checked_without_vocab(self.header.clone(), &self.params)?,
            ..self.clone()
        };
        planner.find(budget)
    }

    fn find(&self, budget: &Budget) -> Result<Plan> {
        if budget.is_assumed() {
            self.check_assumed()?;
        }
        if self.context.moe_cache_size() > 0 || self.routing.is_some() {
            return self.find_with_moe_cache(budget);
        }
        let scene = self.scene(budget)?;
        let best = self.within_ram(&scene)?;
        self.plan(&scene, best)
    }

    /// The best plan that the system's memory has room for too.
    pub(super) fn within_ram(&self, scene: &Scene) -> Result<Attempt> {
        let best = self.best(scene)?;
        match self.check_ram(scene, &best) {
            Ok(()) => Ok(best),
            Err(short) => self.shrink_for_ram(scene, best, short),
        }
    }

    pub(super) fn scene(&self, budget: &Budget) -> Result<Scene> {
        let budgets = budget.resolve(&self.backend, &self.params)?;
        let is_assumed = budget.is_assumed();
        let mut params = if is_assumed {
            self.params.check_tensor_split(budgets.len())?;
            self.params.clone()
        } else {
            let devices = budgets.iter().filter_map(|budget| budget.device);
            self.params.on_devices(&self.backend, devices.collect())?
        };
        if budgets.len() > 1 && params.tensor_split().is_empty() {
            // In GiB, so that the numbers can be read.
            let shares = budgets.iter().map(|budget| budget.bytes as f64);
            let shares = shares.map(|bytes| (bytes / f64::from(1u32 << 30)) as f32);
            params = params.with_tensor_split(shares.collect::<Vec<f32>>());
        }
        let ram = budget.ram(&self.backend)?;
        Scene::new(
            &self.backend,
            &self.header,
            budgets,
            ram,
            is_assumed,
            params,
        )
    }

    fn best(&self, scene: &Scene) -> Result<Attempt> {
        let ground = self.ground(scene, self.params.fixed_n_gpu_layers())?;
        if let Some(whole) = self.whole(scene, &ground)? {
            return Ok(whole);
        }
        let (ground, least) = match self.context.moe_cache_size() {
            0 => self.least(scene, ground)?,
            _ => self.least_with_moe_cache(scene, ground)?,
        };
        self.filled(scene, &ground, least)
    }

    /// What a plan with so many layers on devices starts from.
    pub(super) fn ground(&self, scene: &Scene, n_gpu_layers: Option<u32>) -> Result<Ground> {
        let mut params = scene.params.clone();
        if let Some(n) = n_gpu_layers {
            params = params.with_n_gpu_layers(n);
        }
        let overrides = scene.lower(&self.header, &params)?;
        let preview = scene.preview(&self.header, &params, &overrides, LoadMode::None)?;
        let experts = preview
            .tensors()
            .iter()
            .filter(|tensor| tensor.role == Role::RoutedExpert && tensor.rule.is_none());
        let used = Usage::weights(&preview, scene.budgets.len()).devices;
        Ok(Ground {
            weights: used.iter().map(|memory| memory.weights).collect(),
            blocks: expert_blocks(experts),
            params,
        })
    }

    /// The plan with all experts on devices, if there is room for them.
    pub(super) fn whole(&self, scene: &Scene, ground: &Ground) -> Result<Option<Attempt>> {
        let mut budgets = scene.budgets.iter().zip(&ground.weights);
        if budgets.any(|(budget, weights)| *weights >= budget.bytes) {
            return Ok(None);
        }
        let all = Filled {
            whole: ground.blocks.keys().copied().collect(),
            ..Filled::default()
        };
        let attempt = match self.attempt(scene, ground, self.context.n_ctx(), &all) {
            // Fewer experts on devices may leave layers, and slots for each, for the cache.
            Err(Error::MoeCache(
                MoeCacheError::NoLayer { .. } | MoeCacheError::TooSmall { .. },
            )) if !all.whole.is_empty() => {
                return Ok(None);
            }
            attempt => attempt?,
        };
        self.check_min_ctx(&attempt)?;
        let fits = scene.over(&attempt.usage).is_none();
        Ok(fits.then_some(attempt))
    }

    /// `attempt` has a context of the size asked for.
    fn check_min_ctx(&self, attempt: &Attempt) -> Result<(), PlanError> {
        let asked = match self.context.n_ctx() {
            0 => attempt.n_ctx,
            n => n,
        };
        match self.min_ctx {
            Some(min) if min > asked => Err(PlanError::MinContext { min, asked }),
            _ => Ok(()),
        }
    }

    /// With a context that the system's memory has room for, if it may be so small.
    fn shrink_for_ram(&self, scene: &Scene, large: Attempt, short: PlanError) -> Result<Attempt> {
        let (Some(min), Some(ram)) = (self.min_ctx, scene.ram) else {
            return Err(short.into());
        };
        let with_n_ctx = |n_ctx| {
            let planner = Self {
                context: self.context.clone().with_n_ctx(n_ctx),
                min_ctx: None,
                ..self.clone()
            };
            planner.best(scene)
        };
        // llama.cpp takes 0 for the largest.
        let small = with_n_ctx(min.max(1))?;
        self.check_ram(scene, &small)?;
        let host = |attempt: &Attempt| vec![(attempt.usage.host.total(), ram)];
        largest_context(small, large, host, with_n_ctx)
    }

    /// The plan with the fewest weights on devices: no experts but those that rules put there.
    /// A smaller context comes first, if it may be smaller, then fewer layers.
    pub(super) fn least(&self, scene: &Scene, mut ground: Ground) -> Result<(Ground, Attempt)> {
        let fixed = self.params.fixed_n_gpu_layers();
        let n_ctx = self.context.n_ctx();
        let mut attempt = self.attempt(scene, &ground, n_ctx, &Filled::default())?;
        self.check_min_ctx(&attempt)?;
        if let Some(min) = self.min_ctx
            && scene.over(&attempt.usage).is_some()
        {
            attempt = self.shrink(scene, &ground, attempt, min)?;
        }
        if fixed.is_none() {
            (ground, attempt) = self.with_fewer_layers(scene, ground, attempt)?;
        }
        let Some(over) = scene.over(&attempt.usage) else {
            return Ok((ground, attempt));
        };
        let hint = if fixed.is_some() || !self.params.overrides().is_empty() {
            "; rules and layers that were given stay as they are"
        } else if self.min_ctx.is_none() {
            "; that is one layer: a smaller context takes less, or leave the device out"
        } else {
            "; that is one layer: leave the device out"
        };
        let what = match attempt.params.fixed_n_gpu_layers() {
            Some(0) => "the buffers that a device computes in without any layer",
            _ => {
                "the parts that have to be on the device (attention, router, shared experts, KV \
                 cache, buffers to compute in)"
            }
        };
        Err(over.error(what, hint).into())
    }

    /// As many layers on devices as fit, with their attention and KV cache; one if none does,
    /// since devices that hold nothing are no plan for them.
    fn with_fewer_layers(
        &self,
        scene: &Scene,
        ground: Ground,
        all: Attempt,
    ) -> Result<(Ground, Attempt)> {
        let n_ctx = all.context.n_ctx();
        let attempt = |n| -> Result<(Ground, Attempt)> {
            let ground = self.ground(scene, Some(n))?;
            let attempt = self.attempt(scene, &ground, n_ctx, &Filled::default())?;
            Ok((ground, attempt))
        };
        let mut too_many = self.header.n_blocks().saturating_add(1);
        let mut n_layers = too_many;
        let mut best = (ground, all);
        while let Some(over) = scene.over(&best.1.usage)
            && n_layers > 1
        {
            too_many = n_layers;
            let per_layer = best.1.usage.devices_total() / u64::from(n_layers);
            let fewer = over.short.div_ceil(per_layer.max(1)).max(1);
            let fewer = u32::try_from(fewer).unwrap_or(u32::MAX);
            n_layers = n_layers.saturating_sub(fewer).max(1);
            best = attempt(n_layers)?;
        }
        if scene.over(&best.1.usage).is_some() {
            return Ok(best);
        }
        // Layers differ in size, so that may have been some too few.
        while n_layers + 1 < too_many {
            let middle = n_layers + (too_many - n_layers) / 2;
            let more = attempt(middle)?;
            if scene.over(&more.1.usage).is_none() {
                (best, n_layers) = (more, middle);
            } else {
                too_many = middle;
            }
        }
        Ok(best)
    }

    /// The largest context that fits, or the smallest allowed one if that does not fit either.
    pub(super) fn shrink(
        &self,
        scene: &Scene,
        ground: &Ground,
        large: Attempt,
        min: u32,
    ) -> Result<Attempt> {
        let attempt = |n_ctx| self.attempt(scene, ground, n_ctx, &Filled::default());
        // llama.cpp takes 0 for the largest.
        let small = attempt(min.max(1))?;
        if scene.over(&small.usage).is_some() {
            return Ok(small);
        }
        let devices = |attempt: &Attempt| -> Vec<(u64, u64)> {
            let used = attempt.usage.devices.iter().map(MemoryUse::total);
            let budgets = scene.budgets.iter().map(|budget| budget.bytes);
            used.zip(budgets).collect()
        };
        largest_context(small, large, devices, attempt)
    }

    /// Fills what the least plan leaves with experts.
    fn filled(&self, scene: &Scene, ground: &Ground, least: Attempt) -> Result<Attempt> {
        let blocks = &ground.blocks;
        let n_ctx = least.context.n_ctx();
        // A layer whose experts are in two places is not cached.
        let may_split = least.moe_cache.is_none();
        // What is on devices apart from the experts that are placed here.
        let mut others: Vec<u64> = least.usage.devices.iter().map(MemoryUse::total).collect();
        let mut best = least;
        let mut best_filled = Filled::default();
        let mut tried: Vec<Filled> = vec![best_filled.clone()];
        for _ in 0..N_REFINEMENTS {
            let budgets = scene.budgets.iter().map(|budget| budget.bytes);
            let room: Vec<u64> = budgets
                .zip(&others)
                .map(|(budget, others)| budget.saturating_sub(*others))
                .collect();
            let mut filled = fill(blocks, &room, may_split);
            if !may_split && !self.serve_all_groups(scene, ground, &mut filled)? {
                break;
            }
            if tried.contains(&filled) {
                break;
            }
            tried.push(filled.clone());
            let attempt = self.attempt(scene, ground, n_ctx, &filled)?;
            let placed = placed(blocks, &filled, room.len());
            for ((others, used), placed) in
                others.iter_mut().zip(&attempt.usage.devices).zip(placed)
            {
                *others = used.total().saturating_sub(placed);
            }
            let fits = scene.over(&attempt.usage).is_none();
            if fits && total(blocks, &filled) > total(blocks, &best_filled) {
                (best, best_filled) = (attempt, filled);
            }
        }
        Ok(best)
    }

    pub(super) fn attempt(
        &self,
        scene: &Scene,
        ground: &Ground,
        n_ctx: u32,
        filled: &Filled,
    ) -> Result<Attempt> {
        let mut params = self.with_rules(ground, filled)?;
        let overrides = scene.lower(&self.header, &params)?;
        let mode = scene.load_mode(&params, &overrides);
        let preview = scene.preview(&self.header, &params, &overrides, mode)?;
        // The choice hangs on what memory is free just now, and the plan on the choice.
        params = params.with_load_mode(mode);
        let context = self.context.clone().with_n_ctx(n_ctx);
        let moe_cache = self.moe_cache_of(&preview)?;
        let (usage, run) = if scene.is_assumed {
            // What else the parameters say of the model holds on the CPU too.
            let on_cpu = self
                .params
                .clone()
                .with_devices([])
                .with_overrides(TensorOverrides::new());
            // A cache is on devices alone.
            let alone = context.clone().with_moe_cache_size(0);
            let run = DryRun::of_header(&self.backend, &self.header, &on_cpu, &alone)?;
            let layers = Layers::new(self.header.n_blocks(), params.n_gpu_layers(), &scene.shares);
            let n_loaded = self.header.n_blocks_loaded(params.loads_mtp());
            let n_on = layers.blocks_per_device(n_loaded);
            let mut usage = Usage::estimated(&preview, &run, &n_on, n_loaded);
            if let Some(layout) = &moe_cache {
                usage.add_moe_cache(layout, scene.budgets.iter().map(|of| of.name.as_str()));
            }
            (usage, run)
        } else {
            let run = DryRun::of_header(&self.backend, &self.header, &params, &context)?;
            let devices = scene.budgets.iter().filter_map(|budget| budget.device);
            let usage = Usage::of(&preview, &run, &devices.collect::<Vec<_>>());
            (usage, run)
        };
        Ok(Attempt {
            params,
            context,
            preview,
            moe_cache,
            command: overrides.to_string(),
            usage,
            n_ctx: run.n_ctx(),
            n_ubatch: run.n_ubatch(),
        })
    }

    /// Adds rules that keep on the CPU what is not filled in.
    pub(super) fn with_rules(&self, ground: &Ground, filled: &Filled) -> Result<ModelParams> {
        let blocks = &ground.blocks;
        let on_cpu: Vec<u32> = blocks
            .keys()
            .filter(|block| !filled.whole.contains(block) && !filled.parts.contains_key(block))
            .copied()
            .collect();
        let mut params = ground.params.clone();
        if let (Some(first), Some(last)) = (on_cpu.first(), on_cpu.last()) {
            let between = |block: &u32| first <= block && block <= last;
            let n_between = blocks.keys().filter(|block| between(block)).count();
            params = if on_cpu.len() == self.header.expert_blocks().len() {
                params.with_cpu_moe_all()
            } else if n_between == on_cpu.len() {
                params.with_cpu_moe_layers(*first..=*last)
            } else {
                params.with_override(Pattern::experts_of(&on_cpu)?, Target::Cpu)
            };
        }
        let partly: Vec<String> = filled
            .parts
            .iter()
            .filter_map(|(number, parts)| {
                let block = blocks.get(number)?;
                let on_cpu = block.parts.keys().filter(|part| !parts.contains(*part));
                let names: Vec<&str> = on_cpu.map(String::as_str).collect();
                (!names.is_empty()).then(|| format!(r"blk\.{number}\.({})\.", names.join("|")))
            })
            .collect();
        for pattern in alternations(partly, Pattern::MAX_LENGTH) {
            params = params.with_override(Pattern::new(pattern)?, Target::Cpu);
        }
        Ok(params)
    }

    /// A plan for devices that are not at hand can have no rules or settings for others.
    fn check_assumed(&self) -> Result<()> {
        let refuse = |devices: String| Err(Error::from(PlanError::DevicesAssumed { devices }));
        if let Some(devices) = self.params.devices()
            && !devices.is_empty()
        {
            let names: Vec<String> = devices.iter().map(ToString::to_string).collect();
            return refuse(names.join(", "));
        }
        let mut rules = self.params.overrides().rules().iter();
        match rules.find(|rule| !rule.target().is_cpu()) {
            Some(rule) => refuse(format!("the rule \"{rule}\"")),
            None => Ok(()),
        }
    }

    fn check_ram(&self, scene: &Scene, attempt: &Attempt) -> Result<(), PlanError> {
        let (needed, Some(budget)) = (attempt.usage.host.total(), scene.ram) else {
            return Ok(());
        };
        if needed <= budget {
            return Ok(());
        }
        Err(PlanError::DoesNotFit {
            what: "the weights that no device has room for, and what is computed with them,",
            memory: "system memory".to_owned(),
            needed,
            budget,
            short: needed - budget,
            hint: "; free some, or give the devices more".to_owned(),
        })
    }

    pub(super) fn plan(&self, scene: &Scene, attempt: Attempt) -> Result<Plan> {
        // Sizes were counted for buffers that the file is read into; it may be mapped.
        let preview = if scene.is_assumed || attempt.preview.load_mode() == LoadMode::None {
            attempt.preview
        } else {
            Preview::of_header(&self.backend, &self.header, &attempt.params)?
        };
        let devices = scene.budgets.iter().zip(&attempt.usage.devices);
        let devices = devices.map(|(budget, used)| PlannedMemory {
            name: budget.name.clone(),
            device: budget.device,
            budget: Some(budget.bytes),
            used: *used,
        });
        Ok(Plan {
            name: self.header.name(),
            rpc_servers: self.rpc_servers(scene),
            path: self.header.paths().first().cloned().unwrap_or_default(),
            moe: self.header.moe(),
            n_blocks: self.header.n_blocks(),
            devices: devices.collect(),
            host: PlannedMemory {
                name: "CPU".to_owned(),
                device: None,
                budget: scene.ram,
                used: attempt.usage.host,
            },
            n_ctx: attempt.n_ctx,
            n_ubatch: attempt.n_ubatch,
            is_estimate: scene.is_assumed,
            moe_cache: attempt.moe_cache,
            is_moe_cache_left_out: false,
            forecasts: Vec::new(),
            overrides: attempt.command,
            preview,
            params: attempt.params,
            context: attempt.context,
        })
    }
}

impl Planner {
    /// The workers whose devices are used, with those that were added before them: llama.cpp
    /// numbers the devices in this order.
    fn rpc_servers(&self, scene: &Scene) -> Vec<String> {
        let known = self.backend.devices();
        let is_used = |device: &Device| {
            let mut budgets = scene.budgets.iter();
            budgets.any(|budget| budget.device == Some(*device))
        };
        let workers = known.iter().filter(|device| device.backend_name() == "RPC");
        let workers: Vec<&Device> = workers.collect();
        let n = workers
            .iter()
            .rposition(|device| is_used(device))
            .map_or(0, |last| last + 1);
        let mut servers: Vec<String> = workers[..n].iter().map(|d| d.description()).collect();
        servers.dedup();
        servers
    }
}

/// The largest context between two of which the smaller fits. What a context takes grows about
/// evenly with its tokens, so two sizes tell those between. `memories` has what is used of
/// each, and what may be.
fn largest_context(
    mut small: Attempt,
    mut large: Attempt,
    memories: impl Fn(&Attempt) -> Vec<(u64, u64)>,
    attempt: impl Fn(u32) -> Result<Attempt>,
) -> Result<Attempt> {
    for _ in 0..N_REFINEMENTS {
        let share = memories(&small)
            .into_iter()
            .zip(memories(&large))
            .map(|((least, budget), (most, _))| {
                let growth = most.saturating_sub(least).max(1);
                budget.saturating_sub(least) as f64 / growth as f64
            })
            .fold(1.0, f64::min);
        let span = f64::from(large.n_ctx.saturating_sub(small.n_ctx));
        let more = (share * span) as u32 / CONTEXT_STEP * CONTEXT_STEP;
        if more == 0 {
            break;
        }
        let next = attempt(small.n_ctx + more)?;
        if next.n_ctx >= large.n_ctx {
            break;
        }
        if memories(&next).iter().all(|(used, budget)| used <= budget) {
            small = next;
        } else {
            large = next;
        }
    }
    Ok(small)
}

/// Regular expressions joined into as few as their length allows.
fn alternations(parts: Vec<String>, max_length: usize) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    for part in parts {
        match joined.last_mut() {
            Some(last) if last.len() + 1 + part.len() <= max_length => {
                last.push('|');
                last.push_str(&part);
            }
            _ => joined.push(part),
        }
    }
    joined
}

/// Bytes of experts that are placed on each device.
fn placed(blocks: &BTreeMap<u32, ExpertBlock>, filled: &Filled, n_devices: usize) -> Vec<u64> {
    let mut placed = vec![0; n_devices];
    for (number, block) in blocks {
        let bytes = if filled.whole.contains(number) {
            block.bytes()
        } else if let Some(parts) = filled.parts.get(number) {
            let parts = parts.iter().filter_map(|part| block.parts.get(part));
            parts.sum()
        } else {
            0
        };
        if let Some(placed) = placed.get_mut(block.device) {
            *placed += bytes;
        }
    }
    placed
}

fn total(blocks: &BTreeMap<u32, ExpertBlock>, filled: &Filled) -> u64 {
    let devices = blocks.values().map(|block| block.device + 1).max();
    placed(blocks, filled, devices.unwrap_or(0)).iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternations_are_as_long_as_they_may_be() {
        let parts = || ["aa", "bb", "cc"].map(str::to_owned).to_vec();
        assert_eq!(alternations(parts(), 8), ["aa|bb|cc"]);
        assert_eq!(alternations(parts(), 7), ["aa|bb", "cc"]);
        assert_eq!(alternations(parts(), 2), ["aa", "bb", "cc"]);
        assert!(alternations(Vec::new(), 8).is_empty());
    }
}
