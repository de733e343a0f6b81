//! Plans with a cache of experts: what it takes, what it leaves, and when there is one.

use std::collections::BTreeMap;
use std::path::Path;

use llama_moe::gguf::{Header, Role};
use llama_moe::{
    Bandwidths, Budget, ContextParams, Error, HitRates, ModelParams, MoeCacheError, MoeCacheGroup,
    Pattern, Picture, Plan, PlanError, Planner, Target,
};

mod support;
use support::layouts::Layout;
use support::peculiar::uneven_experts;
use support::{backend, file, on_cpu};

#[cfg(feature = "rpc")]
#[test]
fn worker_process() {
    support::worker::serve_if_asked();
}

fn planner(path: &Path) -> Planner {
    Planner::new(&backend(), path)
        .expect("a header")
        .with_n_ctx(256)
}

fn moe_layouts() -> impl Iterator<Item = Layout> {
    Layout::ALL.into_iter().filter(|layout| layout.is_moe())
}

/// What a device has to hold at least, with experts on the CPU, and what it holds at most.
fn least_and_most(path: &Path) -> (u64, u64) {
    let total = |params: ModelParams| {
        let planner = planner(path).with_model_params(params);
        let plan = planner.fit(&Budget::assumed([1 << 40])).expect("room");
        plan.devices()[0].used.total()
    };
    let least = ModelParams::default().with_cpu_moe_all();
    (total(least), total(ModelParams::default()))
}

/// The smallest cache that works with all experts in system memory.
fn smallest(planner: &Planner, budget: &Budget) -> u64 {
    match planner.clone().with_moe_cache(1).fit(budget) {
        Err(Error::MoeCache(MoeCacheError::TooSmall {
            needed: Some(needed),
            ..
        })) => needed,
        other => panic!("{other:?}"),
    }
}

/// Layers with an expert tensor in system memory and another one on a device.
fn split_layers(plan: &Plan) -> Vec<u32> {
    let mut places: BTreeMap<u32, [bool; 2]> = BTreeMap::new();
    for tensor in plan.preview().tensors() {
        if let (Some(layer), Role::RoutedExpert) = (tensor.block, tensor.role) {
            places.entry(layer).or_default()[usize::from(tensor.is_host)] = true;
        }
    }
    let split = places
        .into_iter()
        .filter(|(_, places)| *places == [true; 2]);
    split.map(|(layer, _)| layer).collect()
}

#[test]
fn a_cache_is_reserved_and_whole_layers_fill_the_rest() {
    for layout in moe_layouts() {
        let (_dir, path) = file(layout);
        let (least, most) = least_and_most(&path);
        let planner = planner(&path);
        let budget = |step: u64| Budget::assumed([least + (most - least) * step / 8]);
        let size = smallest(&planner, &budget(7));
        let mut experts = Vec::new();
        for step in 3..8 {
            let what = format!("{layout:?}, {step} of 8");
            let plan = match planner.clone().with_moe_cache(size).fit(&budget(step)) {
                Ok(plan) => plan,
                // Layers of tiny models are few: a token's experts are a large part of them.
                Err(Error::Plan(PlanError::NoRoomForMoeCache { .. })) => continue,
                Err(error) => panic!("{what}: {error}"),
            };
            let cache = plan.moe_cache().expect("a cache");
            assert_eq!(cache.size(), size, "{what}");
            let device = &plan.devices()[0];
            assert_eq!(device.used.moe_cache, cache.bytes(), "{what}");
            assert!(device.used.moe_cache > 0, "{what}");
            assert!(device.used.total() <= device.budget.expect("a budget"));
            assert!(plan.host().used.moe_cache > 0, "{what}");
            assert_eq!(split_layers(&plan), [0; 0], "{what}");
            // Every layer is resident or cached.
            let cached = cache.groups().iter().map(|group| group.layers.len());
            let on_device = cache.obstacles().len();
            let n_layers = layout.moe_layers().len();
            assert_eq!(cached.sum::<usize>() + on_device, n_layers, "{what}");
            experts.push(plan.expert_bytes_on_devices());
        }
        assert!(!experts.is_empty(), "{layout:?}");
        assert!(experts.is_sorted(), "{layout:?}: {experts:?}");
    }
}

#[test]
fn a_plan_with_a_cache_says_so() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let (least, most) = least_and_most(&path);
    let budget = Budget::assumed([(least + most) / 2]);
    let without = planner(&path).fit(&budget).unwrap();
    assert!(without.moe_cache().is_none() && !without.is_moe_cache_left_out());
    assert!(!without.to_string().contains("cache"), "{without}");
    let size = smallest(&planner(&path), &budget);
    let planner = planner(&path).with_moe_cache(size);
    let plan = planner.fit(&budget).unwrap();
    let text = plan.to_string();
    for part in [
        " cache ",
        "cache on GPU0: ",
        " --no-repack",
        " --moe-cache-mib 1",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Resident layers are no obstacle.
    assert!(!text.contains("not cached"), "{text}");
    let mut rows = text
        .lines()
        .filter(|line| line.starts_with("MiB ") || line.starts_with("GPU0"));
    let lengths: Vec<usize> = rows.by_ref().map(str::len).collect();
    assert_eq!(lengths[0], lengths[1], "{text}");
    // A cache of the context's parameters is the same.
    let context = ContextParams::default()
        .with_n_ctx(256)
        .with_moe_cache_size(size);
    let of_context = planner.clone().with_context_params(context).fit(&budget);
    assert_eq!(of_context.unwrap().to_string(), text);
    assert_eq!(planner.fit(&budget).unwrap().to_string(), text);
    // In pictures it is a note.
    let header = Header::read(&path).unwrap();
    let svg = |plan: &Plan| Picture::of_plan(plan, &header).svg();
    assert!(svg(&plan).contains(">Cache of experts on GPU0: "));
    assert!(!svg(&without).contains("Cache of experts"));
    assert_eq!(
        svg(&without),
        Picture::of_preview(without.preview(), &header).svg()
    );
}

#[cfg(feature = "serde")]
#[test]
fn json_has_the_cache() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let (least, most) = least_and_most(&path);
    let budget = Budget::assumed([(least + most) / 2]);
    let size = smallest(&planner(&path), &budget);
    let plan = planner(&path).with_moe_cache(size).fit(&budget).unwrap();
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["moe_cache"]["size"], size);
    let used = &json["devices"][0]["used"]["moe_cache"];
    assert_eq!(*used, plan.devices()[0].used.moe_cache);
    let without = planner(&path).fit(&budget).unwrap();
    let json = serde_json::to_value(&without).unwrap();
    assert!(json["moe_cache"].is_null());
}

#[test]
fn what_fits_without_a_cache_has_none() {
    let (_dir, path) = file(Layout::GptOss);
    let (_, most) = least_and_most(&path);
    let budget = Budget::assumed([most]);
    let without = planner(&path).fit(&budget).unwrap();
    // Neither a cache that would not fit nor one that is too small is looked at.
    for size in [1, 1 << 20, 1 << 63] {
        let plan = planner(&path).with_moe_cache(size).fit(&budget).unwrap();
        assert!(plan.moe_cache().is_none() && plan.is_moe_cache_left_out());
        assert_eq!(plan.devices(), without.devices());
        assert_eq!(plan.command_line(), without.command_line());
        let text = plan.to_string();
        assert!(text.contains("no cache of experts: all"), "{text}");
    }
    // A model without experts fits, or it does not.
    let (_dir, dense) = file(Layout::Dense);
    let dense = planner(&dense).with_moe_cache(1 << 20);
    let all = dense.fit(&Budget::assumed([1 << 40])).unwrap();
    assert!(all.is_moe_cache_left_out());
    let most = all.devices()[0].used.total();
    assert!(matches!(
        dense.fit(&Budget::assumed([most * 3 / 4])),
        Err(Error::MoeCache(MoeCacheError::NotMoe))
    ));
}

#[test]
fn a_cache_that_cannot_be_is_refused() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let (least, most) = least_and_most(&path);
    let budget = Budget::assumed([most - 1]);
    let needed = smallest(&planner(&path), &budget);
    let with = |size| planner(&path).with_moe_cache(size);
    assert!(with(needed).fit(&budget).unwrap().moe_cache().is_some());
    assert!(matches!(
        with(needed - 1).fit(&budget),
        Err(Error::MoeCache(MoeCacheError::TooSmall { needed: Some(n), .. })) if n == needed
    ));
    // One that is too large, and the size that fits.
    for size in [most, 1 << 62, u64::MAX] {
        let error = with(size).fit(&budget).unwrap_err();
        let Error::Plan(PlanError::NoRoomForMoeCache {
            device,
            needed,
            room,
            short,
            largest: Some(largest),
        }) = &error
        else {
            panic!("{error}");
        };
        assert_eq!((device.as_str(), *short), ("GPU0", needed - room));
        assert!(*room < most - least, "{error}");
        assert!(error.to_string().contains(&largest.to_string()), "{error}");
        assert!(with(*largest).fit(&budget).unwrap().moe_cache().is_some());
    }
    // No device, no layer on one, and a context for embeddings.
    let cpu = with(needed).with_model_params(on_cpu());
    assert!(matches!(
        cpu.fit(&Budget::free(0)),
        Err(Error::MoeCache(MoeCacheError::NoDevice))
    ));
    let no_layers = ModelParams::default().with_n_gpu_layers(0);
    assert!(matches!(
        with(needed).with_model_params(no_layers).fit(&budget),
        Err(Error::MoeCache(MoeCacheError::NoLayer { .. }))
    ));
    let embeddings = ContextParams::default()
        .with_moe_cache_size(needed)
        .with_embeddings(true);
    assert!(matches!(
        planner(&path).with_context_params(embeddings).fit(&budget),
        Err(Error::MoeCache(MoeCacheError::Embeddings))
    ));
}

#[test]
fn rules_that_are_given_stay_beside_a_cache() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let budget = Budget::assumed([1 << 30]);
    // All experts in system memory by rule: there is room for all, and a cache nevertheless.
    let all = planner(&path).with_model_params(ModelParams::default().with_cpu_moe_all());
    let plan = all.clone().with_moe_cache(1 << 20).fit(&budget).unwrap();
    let cache = plan.moe_cache().expect("a cache");
    assert_eq!(cache.groups()[0].layers, Layout::Qwen3Moe.moe_layers());
    assert_eq!(plan.expert_bytes_on_devices(), 0);
    // A rule that splits a layer leaves it out.
    let up = Pattern::new(r"blk\.1\.ffn_up_exps").unwrap();
    let split = ModelParams::default()
        .with_override(up, Target::Cpu)
        .with_cpu_moe_layers(2..);
    let split = planner(&path)
        .with_model_params(split)
        .with_moe_cache(1 << 20);
    let plan = split.fit(&budget).unwrap();
    assert_eq!(split_layers(&plan), [1]);
    let cache = plan.moe_cache().expect("a cache");
    assert_eq!(cache.groups()[0].layers, [2, 3]);
    // All that could be cached of half of the layers is on the device.
    let half = ModelParams::default().with_n_gpu_layers(3);
    let half = planner(&path)
        .with_model_params(half)
        .with_moe_cache(1 << 20);
    assert!(half.fit(&budget).unwrap().is_moe_cache_left_out());
}

#[test]
fn a_context_shrinks_for_a_cache_where_it_may() {
    let (_dir, path) = file(Layout::DeepSeek2);
    let planner = planner(&path).with_n_ctx(8192);
    let rules = ModelParams::default().with_cpu_moe_all();
    let total = |n_ctx| {
        let planner = planner.clone().with_n_ctx(n_ctx);
        let planner = planner.with_model_params(rules.clone());
        let plan = planner.fit(&Budget::assumed([1 << 40])).unwrap();
        plan.devices()[0].used.total()
    };
    let size = smallest(&planner, &Budget::assumed([total(8192)]));
    let budget = Budget::assumed([total(4096) + size]);
    let planner = planner.with_moe_cache(size);
    planner.fit(&budget).expect_err("no room");
    let plan = planner.with_min_ctx(256).fit(&budget).unwrap();
    assert!((2048..=4096).contains(&plan.n_ctx()), "{}", plan.n_ctx());
    assert!(plan.moe_cache().is_some());
}

#[test]
fn every_form_of_layers_keeps_its_slots() {
    // Layers of three forms: each has its slots, however few of it are left.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    uneven_experts().write(&path);
    let (least, most) = least_and_most(&path);
    for step in 4..8 {
        let budget = Budget::assumed([least + (most - least) * step / 8]);
        let size = smallest(&planner(&path), &budget);
        match planner(&path).with_moe_cache(size).fit(&budget) {
            Ok(plan) => {
                let cache = plan.moe_cache().expect("a cache");
                let n_used = cache.n_expert_used();
                assert!(cache.groups().iter().all(|group| group.n_slots >= n_used));
            }
            Err(Error::Plan(PlanError::NoRoomForMoeCache { .. })) => {}
            Err(error) => panic!("{step}: {error}"),
        }
    }
}

/// A hit rate by the share of experts that have slots.
struct ByShare(fn(f64) -> f64);

impl HitRates for ByShare {
    fn hit_rate(&self, group: &MoeCacheGroup) -> Option<f64> {
        let share = f64::from(group.n_slots) / group.n_experts_total() as f64;
        Some((self.0)(share))
    }
}

/// Routing with favourites: a fifth of the experts serves nearly all of the tokens.
const UNEVEN: ByShare = ByShare(|share| (5.0 * share).min(0.98));
const EVEN: ByShare = ByShare(|share| share);

const BUS: Bandwidths = Bandwidths {
    host: 50e9,
    to_device: 25e9,
};

#[test]
fn the_routing_decides_between_cache_and_resident_experts() {
    for layout in [Layout::Qwen3Moe, Layout::GptOss, Layout::DeepSeek2] {
        let (_dir, path) = file(layout);
        let (least, most) = least_and_most(&path);
        let budget = Budget::assumed([least + (most - least) * 6 / 8]);
        // Even routing and a bus that is slower than system memory: resident experts.
        let even = planner(&path).with_routing(EVEN, BUS).fit(&budget).unwrap();
        assert!(even.moe_cache().is_none(), "{layout:?}: {even}");
        assert!(even.forecasts().len() > 1, "{layout:?}");
        let without = planner(&path).fit(&budget).unwrap();
        assert_eq!(even.devices(), without.devices(), "{layout:?}");
        assert_eq!(even.command_line(), without.command_line(), "{layout:?}");
        // Favourites: a cache, and what it is predicted to gain.
        let uneven = planner(&path).with_routing(UNEVEN, BUS);
        let plan = uneven.fit(&budget).unwrap();
        let cache = plan.moe_cache().expect("a cache");
        let [plain, cached @ ..] = plan.forecasts() else {
            panic!("{plan}");
        };
        assert_eq!((plain.moe_cache_size, plain.hit_rate), (0, None));
        let of_plan = cached.iter().find(|of| of.moe_cache_size == cache.size());
        let of_plan = of_plan.expect("its forecast");
        let decode = of_plan.decode.unwrap_or(f64::INFINITY);
        for forecast in plan.forecasts() {
            assert!(forecast.decode.unwrap_or(f64::INFINITY) <= decode);
        }
        assert_eq!(
            of_plan.expert_bytes_on_devices,
            plan.expert_bytes_on_devices()
        );
        let sizes: Vec<u64> = cached.iter().map(|of| of.moe_cache_size).collect();
        assert!(sizes.is_sorted(), "{layout:?}: {sizes:?}");
        let text = plan.to_string();
        for part in [
            "as predicted, bound by transfers",
            "  no cache, ",
            " (this plan)",
        ] {
            assert_eq!(text.matches(part).count(), 1, "{part}: {text}");
        }
        assert_eq!(uneven.fit(&budget).unwrap().to_string(), text);
    }
}

#[test]
fn a_forecast_counts_the_bytes_of_a_token() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let rules = ModelParams::default().with_cpu_moe_all();
    let size = 40_000;
    let planner = planner(&path).with_model_params(rules);
    let budget = Budget::assumed([1 << 30]);
    let per_token: u64 = {
        let header = planner.header();
        let experts = header.tensors().iter();
        let experts = experts.filter(|tensor| tensor.role == Role::RoutedExpert);
        experts.map(|tensor| tensor.bytes).sum::<u64>() / 4
    };
    let plan = planner
        .clone()
        .with_moe_cache(size.max(smallest(&planner, &budget)))
        .with_routing(ByShare(|_| 0.75), BUS)
        .fit(&budget)
        .unwrap();
    let [plain, cached] = plan.forecasts() else {
        panic!("{plan}");
    };
    // Two of eight experts are a quarter. Of the embeddings, only a row is read.
    assert_eq!(plain.host_bytes_per_token, per_token as f64);
    assert_eq!(plain.uploaded_bytes_per_token, 0.0);
    assert_eq!(plain.decode, Some(50e9 / per_token as f64));
    assert_eq!(
        plain.decode,
        planner.fit(&budget).unwrap().limits(50e9).decode
    );
    assert_eq!(cached.host_bytes_per_token, 0.0);
    assert_eq!(cached.uploaded_bytes_per_token, 0.25 * per_token as f64);
    assert_eq!(cached.hit_rate, Some(0.75));
    assert_eq!(cached.decode, Some(25e9 / (0.25 * per_token as f64)));
    assert!(plan.moe_cache().is_some(), "the size was given");
    // With every expert in the cache nothing bounds decode.
    assert_eq!(plan.limits(50e9).decode, None);
}

#[test]
fn hit_rates_and_bandwidths_that_cannot_be_are_refused() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let (least, most) = least_and_most(&path);
    let budget = Budget::assumed([(least + most) / 2]);
    let refused = |rates: ByShare, bandwidths: Bandwidths| {
        let planner = planner(&path).with_routing(rates, bandwidths);
        match planner.fit(&budget) {
            Err(Error::Parameter {
                parameter: "with_routing",
                value,
                reason,
            }) => (value, reason),
            other => panic!("{other:?}"),
        }
    };
    for (rate, said) in [
        (ByShare(|_| f64::NAN), "NaN"),
        (ByShare(|_| 1.5), "1.5"),
        (ByShare(|_| -0.5), "-0.5"),
    ] {
        let (value, reason) = refused(rate, BUS);
        assert_eq!(value, said);
        assert!(reason.contains("layer 0"), "{reason}");
    }
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let host = Bandwidths { host: bad, ..BUS };
        let bus = Bandwidths {
            to_device: bad,
            ..BUS
        };
        assert!(refused(EVEN, host).0.starts_with("host: "));
        assert!(refused(EVEN, bus).0.starts_with("to_device: "));
    }
    struct Unknown;
    impl HitRates for Unknown {
        fn hit_rate(&self, _: &MoeCacheGroup) -> Option<f64> {
            None
        }
    }
    let unknown = planner(&path).with_routing(Unknown, BUS);
    let error = unknown.fit(&budget).unwrap_err().to_string();
    assert!(
        error.contains("trace the routing of this very model"),
        "{error}"
    );
    // Nobody is asked where no cache is needed, or none can be had.
    let plan = unknown.fit(&Budget::assumed([most])).unwrap();
    assert!(plan.is_moe_cache_left_out() && plan.forecasts().is_empty());
    let cpu = unknown.with_model_params(on_cpu());
    let plan = cpu.fit(&Budget::free(0)).unwrap();
    assert!(!plan.is_moe_cache_left_out() && plan.moe_cache().is_none());
}

#[cfg(feature = "measure")]
#[test]
fn a_trace_of_the_routing_is_asked_for_its_replay() {
    use llama_moe::measure::routing::{CacheGroup, RoutingTrace};

    let trace = |layout| {
        let model = support::load(layout, on_cpu()).unwrap();
        let text = support::decode::prompt(48);
        RoutingTrace::record_forced(&model, support::decode::small(), &text).unwrap()
    };
    let of_model = trace(Layout::Qwen3Moe);
    let (_dir, path) = file(Layout::Qwen3Moe);
    let (least, most) = least_and_most(&path);
    let budget = Budget::assumed([least + (most - least) * 6 / 8]);
    let size = smallest(&planner(&path), &budget);
    let with = planner(&path).with_moe_cache(size);
    let plan = with.clone().with_routing(of_model.clone(), BUS);
    let plan = plan.fit(&budget).unwrap();
    let groups = CacheGroup::of_layout(plan.moe_cache().expect("a cache")).unwrap();
    let replayed = of_model.replay(&groups).unwrap().decode.hit_rate();
    let [_, cached] = plan.forecasts() else {
        panic!("{plan}");
    };
    let difference = cached.hit_rate.unwrap() - replayed.unwrap();
    assert!(difference.abs() < 1e-9, "{cached:?}, {replayed:?}");
    // A trace of a model with fewer layers.
    let other = with.with_routing(trace(Layout::DeepSeek2), BUS);
    assert!(matches!(
        other.fit(&budget),
        Err(Error::Parameter {
            parameter: "with_routing",
            ..
        })
    ));
}

#[test]
fn several_assumed_devices_share_a_cache() {
    let (_dir, path) = file(Layout::DeepSeek2);
    let (least, most) = least_and_most(&path);
    let planner = planner(&path).with_routing(UNEVEN, BUS);
    let budget = Budget::assumed([most * 7 / 8, least]);
    let plan = planner.fit(&budget).unwrap();
    for memory in plan.devices() {
        assert!(memory.used.total() <= memory.budget.unwrap(), "{plan}");
        let bytes = plan.moe_cache().map_or(0, |of| of.bytes_on(&memory.name));
        assert_eq!(memory.used.moe_cache, bytes, "{plan}");
    }
    assert!(!plan.forecasts().is_empty() || plan.is_moe_cache_left_out());
}

#[cfg(feature = "rpc")]
mod on_a_worker {
    use llama_moe::{Device, Model};

    use super::support::decode::{decode, prompt};
    use super::support::worker::{second_device, worker};
    use super::*;

    /// Holds a plan against a load and a context with it, to the byte.
    fn check(path: &Path, plan: &Plan, what: &str) {
        let model = Model::load(&backend(), path, ModelParams::from(plan)).unwrap();
        let placement = model.placement().unwrap();
        placement
            .verify(plan.preview())
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let params = plan.context_params().clone();
        let mut context = model
            .context(params.with_n_threads(1).with_n_threads_batch(1))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(context.moe_cache(), plan.moe_cache(), "{what}");
        let entries = context.memory_breakdown().unwrap();
        let mut host = 0;
        for entry in &entries {
            let memory = plan.devices().iter().find(|memory| {
                memory.device == entry.device
                    && memory.device.and_then(|of| of.buffer_type_name()).as_ref()
                        == Some(&entry.buffer)
            });
            let Some(memory) = memory else {
                host += entry.moe_cache;
                continue;
            };
            let (used, name) = (memory.used, &memory.name);
            assert_eq!(entry.moe_cache, used.moe_cache, "{what}: {name}");
            assert_eq!(entry.model, used.weights, "{what}: {name}");
            assert_eq!(entry.context, used.context, "{what}: {name}");
            // llama.cpp's own dry run schedules some of the states between layers otherwise.
            let states = match plan.devices().len() {
                1 => 0,
                _ => 4 * 512 * 64 * 4,
            };
            let off = entry.compute.abs_diff(used.compute);
            assert!(off <= states, "{what}: {name}: {} {used:?}", entry.compute);
            assert!(used.total() <= memory.budget.unwrap(), "{what}: {name}");
        }
        assert_eq!(host, plan.host().used.moe_cache, "{what}: tables");
        let logits = decode(&mut context, &prompt(12), 0, 0);
        assert!(logits.iter().all(|logit| logit.is_finite()), "{what}");
    }

    fn on(path: &Path, devices: &[Device]) -> Planner {
        let params = ModelParams::default().with_devices(devices.iter().copied());
        planner(path).with_model_params(params)
    }

    #[test]
    fn the_context_takes_what_the_plan_says() {
        let worker = worker();
        let devices = [worker.device, second_device(&worker)];
        for layout in moe_layouts() {
            let (_dir, path) = file(layout);
            for n_devices in [1, 2] {
                let planner = on(&path, &devices[..n_devices]);
                let all = planner.fit(&Budget::per_device(1 << 30)).unwrap();
                let on_host = ModelParams::default()
                    .with_devices(devices[..n_devices].iter().copied())
                    .with_cpu_moe_all();
                let least = planner.clone().with_model_params(on_host);
                let least = least.fit(&Budget::per_device(1 << 30)).unwrap();
                let mut n_cached = 0;
                // With two devices one budget, to save time.
                let shares: &[u64] = if n_devices == 1 { &[3, 7] } else { &[5] };
                for share in shares {
                    // Between the two, on each device.
                    let memories = all.devices().iter().zip(least.devices());
                    let budgets = memories.map(|(all, least)| {
                        let (all, least) = (all.used.total(), least.used.total());
                        let bytes = least + all.saturating_sub(least) * share / 8;
                        all.min(bytes.max(least))
                    });
                    let budgets = devices
                        .iter()
                        .zip(budgets)
                        .map(|(device, bytes)| (*device, bytes));
                    let budget = Budget::devices(budgets).with_ram(1 << 40);
                    let Ok(size) = smallest_or(&planner, &budget) else {
                        continue;
                    };
                    for size in [size, size + size / 3, 2 * size] {
                        let what = format!("{layout:?}, {n_devices} devices, {share}/8, {size}");
                        match planner.clone().with_moe_cache(size).fit(&budget) {
                            Ok(plan) => {
                                n_cached += usize::from(plan.moe_cache().is_some());
                                check(&path, &plan, &what);
                            }
                            Err(Error::Plan(PlanError::NoRoomForMoeCache { .. })) => {}
                            Err(error) => panic!("{what}: {error}"),
                        }
                    }
                }
                assert!(n_cached > 0, "{layout:?}, {n_devices} devices");
            }
        }
    }

    /// The smallest cache, or why there is no plan with any.
    fn smallest_or(planner: &Planner, budget: &Budget) -> Result<u64, Box<Error>> {
        match planner.clone().with_moe_cache(1).fit(budget) {
            Err(Error::MoeCache(MoeCacheError::TooSmall {
                needed: Some(needed),
                ..
            })) => Ok(needed),
            Err(error @ Error::Plan(_)) => Err(Box::new(error)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_plan_that_the_routing_chose_is_kept_too() {
        let worker = worker();
        let (_dir, path) = file(Layout::GptOss);
        let planner = on(&path, &[worker.device]);
        let all = planner.fit(&Budget::per_device(1 << 30)).unwrap();
        let most = all.devices()[0].used.total();
        let budget = Budget::per_device(most - all.expert_bytes_on_devices() / 4);
        let plan = planner.with_routing(UNEVEN, BUS).fit(&budget).unwrap();
        assert!(plan.moe_cache().is_some(), "{plan}");
        check(&path, &plan, "chosen");
    }

    #[test]
    fn an_estimate_has_the_cache_of_the_device() {
        let worker = worker();
        for layout in moe_layouts() {
            let (_dir, path) = file(layout);
            let rules = ModelParams::default().with_cpu_moe_all();
            let size = 1 << 20;
            let planner = planner(&path).with_moe_cache(size);
            let assumed = planner.clone().with_model_params(rules.clone());
            let assumed = assumed.fit(&Budget::assumed([1 << 30])).unwrap();
            let real = planner.with_model_params(rules.with_devices([worker.device]));
            let real = real.fit(&Budget::per_device(1 << 30)).unwrap();
            let assumed_bytes = assumed.devices()[0].used.moe_cache;
            let bytes = real.devices()[0].used.moe_cache;
            // A GPU that is assumed aligns tensors as CUDA does, three for each form of layers.
            let n_aligned = 3 * real.moe_cache().expect("a cache").groups().len() as u64;
            assert!(
                assumed_bytes.abs_diff(bytes) <= 128 * n_aligned,
                "{layout:?}: {assumed_bytes}, {bytes}"
            );
            let tables = |plan: &Plan| plan.host().used.moe_cache;
            assert_eq!(tables(&assumed), tables(&real), "{layout:?}");
            check(&path, &real, &format!("{layout:?}"));
        }
    }
}
