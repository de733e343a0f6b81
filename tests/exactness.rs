//! What previews and plans say of the published shapes is what llama.cpp's own dry run counts.
#![cfg(feature = "rpc")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use llama_moe::gguf::Header;
use llama_moe::gguf::synth::{NamedShape, Synth};
use llama_moe::{
    Budget, ContextParams, Device, DryRun, Error, LoadMode, MemoryEntry, MemoryUse, ModelParams,
    MoeCacheError, Pattern, Plan, PlanError, Planner, Preview, Target, TensorOverrides,
};

mod support;
use support::backend;
use support::worker::{large_worker, second_large_device, serve_if_asked};

const N_CTX: u32 = 4096;

/// More system memory than any of the shapes takes.
const RAM: u64 = 1 << 50;

#[test]
fn worker_process() {
    serve_if_asked();
}

/// The headers of all shapes, in sparse files.
struct Shapes {
    models: Vec<(NamedShape, Header)>,
    _folder: tempfile::TempDir,
}

/// Written once for all tests that run at a time.
fn shapes() -> Arc<Shapes> {
    static SHAPES: Mutex<Weak<Shapes>> = Mutex::new(Weak::new());
    let mut held = SHAPES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shapes) = held.upgrade() {
        return shapes;
    }
    let folder = tempfile::tempdir().expect("a scratch folder");
    let models = NamedShape::ALL.map(|shape| {
        let path = folder.path().join(format!("{shape}.gguf"));
        Synth::new(shape).sparse().write(&path).expect("a file");
        (shape, Header::read(&path).expect("a header"))
    });
    let shapes = Arc::new(Shapes {
        models: models.into(),
        _folder: folder,
    });
    *held = Arc::downgrade(&shapes);
    shapes
}

/// The rules of the matrix.
fn rules(header: &Header) -> Vec<(&'static str, TensorOverrides)> {
    let n_blocks = header.n_blocks() - header.n_mtp_blocks();
    let n_moe = header.moe().expect("experts").moe_layers.len() as u32;
    let odd = Pattern::new(r"blk\.\d*[13579]\.ffn_(up|gate)_exps").expect("a pattern");
    let none = TensorOverrides::new;
    vec![
        ("no rules", none()),
        ("cpu_moe_all", none().with_cpu_moe_all()),
        // Where the first block is dense there is nothing to move.
        ("n_cpu_moe 1", none().with_n_cpu_moe(1).allow_unmatched()),
        ("n_cpu_moe half", none().with_n_cpu_moe(n_blocks / 2)),
        ("n_cpu_moe all", none().with_n_cpu_moe(n_blocks)),
        ("the last quarter", none().with_cpu_moe_last(n_moe / 4)),
        ("a custom rule", none().with_override(odd, Target::Cpu)),
    ]
}

fn dry_run(header: &Header, model: &ModelParams, context: &ContextParams) -> DryRun {
    DryRun::of_header(&backend(), header, model, context).expect("a dry run")
}

/// Holds a preview against the loader's own count, buffer by buffer.
fn check_preview(header: &Header, params: &ModelParams, what: &str) {
    let context = ContextParams::default().with_n_ctx(256);
    // As dry runs place weights.
    let params = params.clone().with_load_mode(LoadMode::None);
    let preview = Preview::of_header(&backend(), header, &params)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for entry in dry_run(header, &params, &context).entries() {
        *counted.entry(entry.buffer.clone()).or_default() += entry.model;
    }
    let sums = preview.sums().into_iter();
    let buffers: BTreeSet<String> = sums
        .map(|sum| sum.buffer)
        .chain(counted.keys().cloned())
        .collect();
    for buffer in &buffers {
        let is = counted.get(buffer).copied().unwrap_or(0);
        assert_eq!(preview.allocated(buffer), is, "{what}: {buffer}");
    }
}

#[test]
fn previews_on_one_device() {
    let worker = large_worker();
    for (shape, header) in &shapes().models {
        let params = ModelParams::default().with_devices([worker.device]);
        let partial = params.clone().with_n_gpu_layers(header.n_blocks() / 2);
        for (rule, overrides) in rules(header) {
            for (layers, params) in [("all layers", &params), ("half of the layers", &partial)] {
                let params = params.clone().with_overrides(overrides.clone());
                check_preview(header, &params, &format!("{shape}, {rule}, {layers}"));
            }
        }
    }
}

#[test]
fn previews_on_two_devices() {
    let worker = large_worker();
    let devices = [worker.device, second_large_device(&worker)];
    for (turn, (shape, header)) in shapes().models.iter().enumerate() {
        let last = header.moe().expect("experts").moe_layers;
        let last = last[last.len() - 1];
        let mut rules = rules(header);
        let moved = TensorOverrides::new().with_moe_layers_on(last - 1..=last, devices[0]);
        rules.push(("the last layers on the first device", moved));
        for (index, (rule, overrides)) in rules.into_iter().enumerate() {
            for (of_split, split) in [[1.0, 1.0], [3.0, 1.0]].into_iter().enumerate() {
                // Both without rules; with rules one, to save time.
                if !overrides.is_empty() && (turn + index) % 2 != of_split {
                    continue;
                }
                let params = ModelParams::default()
                    .with_devices(devices)
                    .with_tensor_split(split)
                    .with_overrides(overrides.clone());
                check_preview(header, &params, &format!("{shape}, {rule}, {split:?}"));
            }
        }
    }
}

/// Bytes of model, cache of experts, context and computing.
type Bytes = [u64; 4];

fn sum<'a>(entries: impl Iterator<Item = &'a MemoryEntry>) -> Bytes {
    entries.fold([0; 4], |[model, moe_cache, context, compute], entry| {
        [
            model + entry.model,
            moe_cache + entry.moe_cache,
            context + entry.context,
            compute + entry.compute,
        ]
    })
}

fn said(used: MemoryUse) -> Bytes {
    [used.weights, used.moe_cache, used.context, used.compute]
}

/// The first two to the byte, the others within 1 %.
fn check_memory(said: Bytes, is: Bytes, what: &str) {
    assert_eq!(said[..2], is[..2], "{what}: weights, cache of experts");
    for (index, part) in [(2, "KV cache"), (3, "compute")] {
        let (said, is) = (said[index], is[index]);
        assert!(said.abs_diff(is) * 100 <= is, "{what}: {part} {said}, {is}");
    }
}

/// Holds a plan against a dry run with its parameters.
fn check_plan(plan: &Plan, header: &Header, rules: &TensorOverrides, what: &str) {
    let planned = plan.model_params().overrides().rules();
    assert_eq!(planned[..rules.len()], *rules.rules(), "{what}");
    assert!(!plan.is_estimate(), "{what}");
    let run = dry_run(header, plan.model_params(), plan.context_params());
    assert_eq!(run.n_ctx(), plan.n_ctx(), "{what}");
    for memory in plan.devices() {
        let device = memory.device.expect("a device");
        let entries = run.entries().iter();
        let is = sum(entries.filter(|entry| entry.device == Some(device)));
        check_memory(said(memory.used), is, &format!("{what}, {}", memory.name));
        let budget = memory.budget.expect("a budget");
        assert!(is.iter().sum::<u64>() <= budget, "{what}: {is:?}, {budget}");
    }
    // Repacked weights are no plain host memory, but system memory all the same.
    let on_any = |entry: &&MemoryEntry| {
        let mut devices = plan.devices().iter();
        devices.any(|memory| memory.device == entry.device)
    };
    let is = sum(run.entries().iter().filter(|entry| !on_any(entry)));
    check_memory(said(plan.host().used), is, &format!("{what}, host"));
}

fn planner(header: &Header, rules: &TensorOverrides) -> Planner {
    let params = ModelParams::default().with_overrides(rules.clone());
    Planner::of_header(&backend(), header.clone())
        .with_model_params(params)
        .with_n_ctx(N_CTX)
}

/// Plans for all shapes and rules, within budgets in GiB. Without rules each budget is
/// planned for; with rules one of them, another for each shape and rule, because all of them
/// would take minutes.
fn check_plans<const N: usize>(devices: [Device; N], budgets: &[[u64; N]]) {
    let has = |(device, gib): (&Device, &u64)| device.memory().total >= gib << 30;
    let mut budgets = budgets.to_vec();
    budgets.retain(|sizes| devices.iter().zip(sizes).all(has));
    assert!(!budgets.is_empty(), "the devices are too small");
    for (turn, (shape, header)) in shapes().models.iter().enumerate() {
        for (index, (rule, overrides)) in rules(header).into_iter().enumerate() {
            for (of_budget, sizes) in budgets.iter().enumerate() {
                if !overrides.is_empty() && (turn + index) % budgets.len() != of_budget {
                    continue;
                }
                let of_devices = devices.iter().zip(sizes);
                let of_devices = of_devices.map(|(device, gib)| (*device, gib << 30));
                let budget = Budget::devices(of_devices).with_ram(RAM);
                let what = format!("{shape}, {rule}, {sizes:?} GiB");
                let plan = planner(header, &overrides).fit(&budget);
                let plan = plan.unwrap_or_else(|error| panic!("{what}: {error}"));
                check_plan(&plan, header, &overrides, &what);
            }
        }
    }
}

#[test]
fn plans_for_one_device() {
    let worker = large_worker();
    check_plans([worker.device], &[[8], [12], [24], [80]]);
}

#[test]
fn plans_for_two_devices() {
    let worker = large_worker();
    let devices = [worker.device, second_large_device(&worker)];
    check_plans(devices, &[[12, 12], [24, 8]]);
}

/// Plans with caches for all shapes and rules: of each pair one size, another for each, because
/// all of them would take minutes. Returns how many plans have a cache.
fn check_caches<const N: usize>(devices: [Device; N], gib: [u64; N]) -> usize {
    let of_devices = devices.into_iter().zip(gib);
    let budget = Budget::devices(of_devices.map(|(device, gib)| (device, gib << 30)));
    let budget = budget.with_ram(RAM);
    let mut n_cached = 0;
    for (turn, (shape, header)) in shapes().models.iter().enumerate() {
        for (index, (rule, overrides)) in rules(header).into_iter().enumerate() {
            // With several devices every other pair, to save time.
            if (turn + index) % N != 0 {
                continue;
            }
            let size = [1 << 30, 3_000_000_001, 777 << 20][(turn + index) % 3];
            let what = format!("{shape}, {rule}, {gib:?} GiB, cache of {size}");
            let planner = planner(header, &overrides).with_moe_cache(size);
            let plan = match planner.fit(&budget) {
                // The size that works, works.
                Err(Error::MoeCache(MoeCacheError::TooSmall {
                    needed: Some(size), ..
                })) => planner.with_moe_cache(size).fit(&budget),
                plan => plan,
            };
            match plan {
                Ok(plan) => {
                    assert_ne!(plan.moe_cache().is_some(), plan.is_moe_cache_left_out());
                    n_cached += usize::from(plan.moe_cache().is_some());
                    check_plan(&plan, header, &overrides, &what);
                }
                // The rules leave a cache no layer, or more weights than it leaves room for.
                Err(Error::MoeCache(MoeCacheError::NoLayer { .. })) => {}
                Err(Error::Plan(
                    PlanError::NoRoomForMoeCache { .. } | PlanError::DoesNotFit { .. },
                )) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }
    n_cached
}

#[test]
fn plans_with_a_cache_for_one_device() {
    let worker = large_worker();
    let n_cached = check_caches([worker.device], [12]);
    assert!(n_cached >= 2 * NamedShape::ALL.len(), "{n_cached}");
}

#[test]
fn plans_with_a_cache_for_two_devices() {
    let worker = large_worker();
    let devices = [worker.device, second_large_device(&worker)];
    let n_cached = check_caches(devices, [12, 8]);
    assert!(n_cached >= NamedShape::ALL.len(), "{n_cached}");
}

#[test]
fn a_second_plan_is_the_first() {
    let worker = large_worker();
    for (shape, header) in &shapes().models {
        let budget = Budget::devices([(worker.device, 8 << 30)]).with_ram(RAM);
        let planner = planner(header, &TensorOverrides::new());
        // Its text has the bytes, the rules and the command line.
        let plans = [0, 1].map(|_| planner.fit(&budget).expect("a plan").to_string());
        assert_eq!(plans[0], plans[1], "{shape}");
    }
}

#[test]
fn rules_that_cannot_fit_are_told() {
    let worker = large_worker();
    let device = worker.device;
    let budget = Budget::devices([(device, 8 << 30)]).with_ram(RAM);
    for (shape, header) in &shapes().models {
        let rules = TensorOverrides::new().with_moe_layers_on(.., device);
        match planner(header, &rules).fit(&budget) {
            Err(Error::Plan(PlanError::DoesNotFit {
                needed,
                budget,
                short,
                ..
            })) => {
                assert!(needed > header.moe().expect("experts").expert_bytes_total());
                assert_eq!((budget, short), (8 << 30, needed - (8 << 30)), "{shape}");
            }
            Err(error) => panic!("{shape}: {error}"),
            Ok(plan) => panic!("{shape}: {plan}"),
        }
    }
}
