//! One trial: a variant loaded, warmed up and measured.

use std::fs;
use std::time::{Duration, Instant};

use common::{Result, add_rpc_servers};
use llama_moe::measure::{
    DeviceWatch, HostMemory, Length, Run, Way, breakdown, deliver, generate, memory_kinds, prompt,
};
use llama_moe::{
    Backend, Context, Error, FailureKind, Model, MoeCacheStats, Sampler, SamplerChain, Token,
};

use crate::job::Load;
use crate::results::{CacheUse, Delivery, Measured, Settings};
use crate::worker::Stages;

/// How often the devices' free memory is read, until they are warm.
const WATCH: Duration = Duration::from_millis(5);
/// Tokens that are generated to warm up, at most.
const WARM_UP: usize = 4;

/// Loads and warms up, and nothing else.
pub fn warm_up(backend: &Backend, load: &Load, stages: &mut Stages) -> Result<()> {
    add_rpc_servers(backend, &load.settings.rpc)?;
    let model = load.model(backend, stages)?;
    let prompts = prompts(load, &model)?;
    let mut context = load.context(&model)?;
    run_up(&mut context, &prompts, &load.settings, stages)
}

/// Measures a variant.
pub fn measure(backend: &Backend, load: &Load, stages: &mut Stages) -> Result<Measured> {
    let settings = &load.settings;
    add_rpc_servers(backend, &settings.rpc)?;
    let host_before = HostMemory::now();
    let gpus = backend.gpus();
    let watch = DeviceWatch::start(&gpus, WATCH)?;
    let start = Instant::now();
    let model = load.model(backend, stages)?;
    let loaded = start.elapsed();
    let prompts = prompts(load, &model)?;
    let mut context = load.context(&model)?;
    run_up(&mut context, &prompts, settings, stages)?;
    // A driver that is asked for its memory all the time would be slower.
    let mut devices = watch.finish();
    let mut sampler = sampler(settings)?;
    let length = Length::Exactly(settings.generate);
    let mut runs: Vec<Run> = Vec::with_capacity(prompts.len());
    let mut cache = context.moe_cache_stats()?.map(|stats| (stats, Vec::new()));
    for prompt in &prompts {
        stages.begin(format!("measuring a prompt of {} tokens", prompt.len()))?;
        runs.push(generate(&mut context, &mut sampler, prompt, length)?);
        if let (Some((before, uses)), Some(now)) = (&mut cache, context.moe_cache_stats()?) {
            uses.push(CacheUse::of(&now.since(before)));
            *before = now;
        }
    }
    stages.begin("delivering a reply")?;
    let delivery = match prompts.iter().max_by_key(|prompt| prompt.len()) {
        Some(prompt) => {
            let mut by = |way| deliver(&mut context, &mut sampler, prompt, length, way);
            // In turns, as the second may find caches warmer than the first.
            let (first, second) = match load.is_even {
                true => (by(Way::Streaming)?, by(Way::Whole)?),
                false => (by(Way::Whole)?, by(Way::Streaming)?),
            };
            let (streaming, whole) = match load.is_even {
                true => (first, second),
                false => (second, first),
            };
            Some(Delivery { streaming, whole })
        }
        None => None,
    };
    stages.begin("reading what memory is in use")?;
    let kinds = match model.placement() {
        Ok(placement) => memory_kinds(&placement),
        // An installed llama.cpp (feature `system`) does not tell.
        Err(Error::Llama {
            kind: FailureKind::Unsupported,
            ..
        }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for (device, used) in gpus.iter().zip(&mut devices) {
        let free = device.memory().free;
        used.free_after = free;
        used.free_least = used.free_least.map(|least| least.min(free));
    }
    Ok(Measured {
        load: loaded.as_secs_f64(),
        devices,
        breakdown: breakdown(&mut context)?,
        kinds,
        host_before,
        host_after: HostMemory::now(),
        runs,
        moe_cache: cache.map(|(_, uses)| uses),
        delivery,
    })
}

impl Load {
    /// The model, in the variant's way.
    pub fn model(&self, backend: &Backend, stages: &mut Stages) -> Result<Model> {
        stages.begin("loading")?;
        let params = self.loading.params()?;
        Ok(Model::load(backend, self.model.as_path(), params)?)
    }

    /// A context to measure in.
    fn context(&self, model: &Model) -> Result<Context> {
        let params = self.settings.context(self.settings.n_ctx);
        Ok(model.context(self.loading.context(params))?)
    }

    /// What prompts are cut from.
    pub fn text(&self) -> Result<String> {
        let path = self.text.display();
        fs::read_to_string(&self.text).map_err(|error| format!("'{path}': {error}").into())
    }
}

impl CacheUse {
    fn of(stats: &MoeCacheStats) -> Self {
        let counts = stats.total();
        Self {
            hits: counts.hits,
            misses: counts.misses,
            hit_rate: counts.hit_rate(),
            uploaded_bytes: counts.uploaded_bytes,
        }
    }
}

/// A prompt for each length.
pub fn prompts(load: &Load, model: &Model) -> Result<Vec<Vec<Token>>> {
    let (text, vocab) = (load.text()?, model.vocab());
    let lengths = load.settings.prompt_tokens.iter();
    let prompts = lengths.map(|n_tokens| prompt(&vocab, &text, *n_tokens));
    Ok(prompts.collect::<Result<_, _>>()?)
}

/// A run that does not count: the longest prompt, as far as it is computed at once, and a few
/// tokens.
fn run_up(
    context: &mut Context,
    prompts: &[Vec<Token>],
    settings: &Settings,
    stages: &mut Stages,
) -> Result<()> {
    stages.begin("warming up")?;
    let longest = prompts.iter().max_by_key(|prompt| prompt.len());
    let longest = longest.map_or(&[][..], Vec::as_slice);
    let at_once = &longest[..longest.len().min(context.n_ubatch() as usize)];
    let length = Length::Exactly(settings.generate.min(WARM_UP));
    generate(context, &mut sampler(settings)?, at_once, length)?;
    Ok(())
}

/// How tokens are chosen, in each run from the same seed on: a text that does not turn in
/// circles, which would read the same experts again and again.
fn sampler(settings: &Settings) -> Result<Sampler> {
    let chain = SamplerChain::new().top_k(40).temp(0.8);
    Ok(chain.dist(settings.seed)?)
}
