//! Plans: within their budgets, as told, and kept by the model that is loaded with them.

use std::path::Path;
use std::thread;

use llama_moe::{
    Budget, Error, KvOverride, LazyMode, LoadMode, ModelParams, Pattern, PlanError, Planner,
    Preview, SplitMode, Target,
};

mod support;
use support::layouts::Layout;
use support::{backend, file, on_cpu};

#[cfg(feature = "rpc")]
#[test]
fn worker_process() {
    support::worker::serve_if_asked();
}

fn plan_error(result: llama_moe::Result<llama_moe::Plan>) -> PlanError {
    match result {
        Err(Error::Plan(error)) => error,
        other => panic!("no plan error: {other:?}"),
    }
}

/// What a device has to hold at least, with experts on the CPU, and what it holds at most.
fn least_and_most(path: &Path) -> (u64, u64) {
    let planner = Planner::new(&backend(), path)
        .expect("a header")
        .with_n_ctx(256);
    let all = planner
        .fit(&Budget::assumed([1 << 40]))
        .expect("room for all");
    let least = planner
        .clone()
        .with_model_params(ModelParams::default().with_cpu_moe_all())
        .fit(&Budget::assumed([1 << 40]))
        .expect("room for all");
    let total = |plan: &llama_moe::Plan| plan.devices()[0].used.total();
    (total(&least), total(&all))
}

#[test]
fn assumed_devices_are_filled_from_the_last_layer_on() {
    for layout in Layout::ALL.into_iter().filter(|layout| layout.is_moe()) {
        let (_dir, path) = file(layout);
        let (least, most) = least_and_most(&path);
        assert!(least < most, "{layout:?}");
        let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
        let mut experts = Vec::new();
        for step in 0..=8 {
            let budget = least + (most - least) * step / 8;
            let plan = planner.fit(&Budget::assumed([budget])).unwrap();
            assert!(plan.is_estimate());
            let used = &plan.devices()[0].used;
            assert!(used.total() <= budget, "{layout:?}: {step}");
            experts.push(plan.expert_bytes_on_devices());
            // What is on the device are the last layers' experts.
            let on_device = |layer: u32| {
                let tensors = plan.preview().tensors().iter();
                let mut experts = tensors.filter(|tensor| {
                    tensor.block == Some(layer)
                        && tensor.role == llama_moe::gguf::Role::RoutedExpert
                });
                experts.all(|tensor| !tensor.is_host)
            };
            let whole: Vec<bool> = layout.moe_layers().into_iter().map(on_device).collect();
            let first = whole.iter().position(|on| *on).unwrap_or(whole.len());
            assert!(whole[first..].iter().all(|on| *on), "{layout:?}: {whole:?}");
        }
        assert_eq!(experts[0], 0, "{layout:?}");
        assert!(experts.is_sorted(), "{layout:?}: {experts:?}");
        let all = planner.header().moe().unwrap().expert_bytes_total();
        assert!(experts[8] >= all, "{layout:?}");
        let plan = planner.fit(&Budget::assumed([most])).unwrap();
        assert!(
            plan.preview().rules().is_empty(),
            "{layout:?}: no rule is needed"
        );
    }
}

#[test]
fn what_is_short_is_told_to_the_byte() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
    let (least, _) = least_and_most(&path);
    // Fewer layers than all still fit a device that is a little too small.
    let plan = planner.fit(&Budget::assumed([least - 1])).unwrap();
    assert!(plan.n_gpu_layers() < planner.header().n_blocks() + 1);
    // Told to keep all of them there, it cannot.
    let fixed = ModelParams::default().with_n_gpu_layers(99);
    let fixed = planner.clone().with_model_params(fixed);
    let PlanError::DoesNotFit {
        memory,
        needed,
        budget,
        short,
        ..
    } = plan_error(fixed.fit(&Budget::assumed([least - 1])))
    else {
        panic!("another error");
    };
    assert_eq!((memory.as_str(), needed), ("GPU0", least));
    assert_eq!((budget, short), (least - 1, 1));
    // Free to take all but one of them off, it still has that one and what it computes in.
    let one_layer = ModelParams::default().with_n_gpu_layers(1);
    let one_layer = planner.clone().with_model_params(one_layer);
    let one_layer = one_layer.fit(&Budget::assumed([1 << 40])).unwrap();
    let one_takes = one_layer.devices()[0].used.total();
    assert!(matches!(
        plan_error(planner.fit(&Budget::assumed([1]))),
        PlanError::DoesNotFit { short, needed, .. }
            if short == one_takes - 1 && needed == one_takes
    ));
    let one = planner.fit(&Budget::assumed([one_takes])).unwrap();
    assert_eq!(one.n_gpu_layers(), 1);
}

#[test]
fn as_many_layers_are_kept_as_fit() {
    for layout in [Layout::Dense, Layout::DeepSeek2] {
        let (_dir, path) = file(layout);
        let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
        for n in 1..=planner.header().n_blocks() {
            let rules = match layout.is_moe() {
                true => ModelParams::default().with_cpu_moe_all(),
                false => ModelParams::default(),
            };
            let fixed = rules.allow_unmatched_overrides().with_n_gpu_layers(n);
            let fixed = planner.clone().with_model_params(fixed);
            let fixed = fixed.fit(&Budget::assumed([1 << 40])).unwrap();
            let budget = fixed.devices()[0].used.total();
            let plan = planner.fit(&Budget::assumed([budget])).unwrap();
            assert_eq!(plan.n_gpu_layers(), n, "{layout:?}");
        }
    }
}

#[test]
fn system_memory_has_a_budget_too() {
    let (_dir, path) = file(Layout::Mixtral);
    let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
    let (least, _) = least_and_most(&path);
    let host = planner
        .fit(&Budget::assumed([least]))
        .unwrap()
        .host()
        .used
        .total();
    planner
        .fit(&Budget::assumed([least]).with_ram(host))
        .expect("just enough");
    let error = plan_error(planner.fit(&Budget::assumed([least]).with_ram(host - 1)));
    assert!(
        matches!(&error, PlanError::DoesNotFit { memory, short: 1, .. } if memory == "system memory"),
        "{error}"
    );
}

#[test]
fn contexts_shrink_where_they_may() {
    let (_dir, path) = file(Layout::DeepSeek2);
    let planner = |n_ctx| Planner::new(&backend(), &path).unwrap().with_n_ctx(n_ctx);
    let total = |n_ctx| {
        let rules = ModelParams::default().with_cpu_moe_all();
        let plan = planner(n_ctx).with_model_params(rules);
        let plan = plan.fit(&Budget::assumed([1 << 40])).unwrap();
        plan.devices()[0].used.total()
    };
    let budget = total(4096);
    assert!(budget < total(8192));
    let plan = planner(8192)
        .with_min_ctx(256)
        .fit(&Budget::assumed([budget]))
        .unwrap();
    assert!((2048..=4096).contains(&plan.n_ctx()), "{}", plan.n_ctx());
    assert!(plan.devices()[0].used.total() <= budget);
    // All layers stay on the device.
    assert_eq!(plan.n_gpu_layers(), planner(256).header().n_blocks() + 1);
    assert!(matches!(
        plan_error(
            planner(256)
                .with_min_ctx(512)
                .fit(&Budget::assumed([budget]))
        ),
        PlanError::MinContext {
            min: 512,
            asked: 256
        }
    ));
    // What the model was trained for is what is asked for then.
    assert!(matches!(
        plan_error(planner(0).with_min_ctx(1 << 20).fit(&Budget::assumed([budget]))),
        PlanError::MinContext { min, asked } if min == 1 << 20 && asked < min
    ));
    // The smallest there can be, not the largest.
    let plan = planner(8192)
        .with_min_ctx(0)
        .fit(&Budget::assumed([budget]))
        .unwrap();
    assert!(plan.n_ctx() <= 4096, "{}", plan.n_ctx());
}

#[test]
fn a_context_that_shrinks_in_vain_costs_no_layers() {
    let (_dir, path) = file(Layout::DeepSeek2);
    let planner = |n_ctx| Planner::new(&backend(), &path).unwrap().with_n_ctx(n_ctx);
    let (least, _) = least_and_most(&path);
    let budget = Budget::assumed([least - 1]);
    let small = planner(256).fit(&budget).unwrap();
    let shrunk = planner(1 << 16).with_min_ctx(256).fit(&budget).unwrap();
    assert_eq!(shrunk.n_ctx(), 256);
    assert_eq!(shrunk.n_gpu_layers(), small.n_gpu_layers());
}

#[test]
fn a_context_shrinks_for_the_systems_memory_too() {
    let (_dir, path) = file(Layout::DeepSeek2);
    let planner = |n_ctx| {
        let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(n_ctx);
        planner.with_model_params(on_cpu())
    };
    let ram = |bytes| Budget::free(0).with_ram(bytes);
    let total = |n_ctx| {
        planner(n_ctx)
            .fit(&ram(1 << 40))
            .unwrap()
            .host()
            .used
            .total()
    };
    let plan = planner(8192)
        .with_min_ctx(256)
        .fit(&ram(total(4096)))
        .unwrap();
    assert!((2048..=4096).contains(&plan.n_ctx()), "{}", plan.n_ctx());
    assert!(plan.host().used.total() <= total(4096));
    let smallest = total(256);
    let short = planner(8192).with_min_ctx(256).fit(&ram(smallest - 1));
    assert!(matches!(
        plan_error(short),
        PlanError::DoesNotFit { memory, short: 1, .. } if memory == "system memory"
    ));
}

#[test]
fn what_else_is_said_of_the_model_counts_for_assumed_devices_too() {
    let (_dir, path) = file(Layout::Glm4Moe);
    let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(0);
    let plan = |params: ModelParams| {
        let planner = planner.clone().with_model_params(params);
        planner.fit(&Budget::assumed([1 << 40])).unwrap()
    };
    let key = "glm4moe.context_length";
    let shorter = ModelParams::default().with_kv_override(key, KvOverride::Int(512));
    assert_eq!(plan(shorter).n_ctx(), 512);
    // All layers' KV cache is on the device, whether the file has more blocks or not.
    assert_eq!(plan(ModelParams::default()).host().used.context, 0);
    // And stays there where rules take all of a layer's weights away.
    let weights = Pattern::new(r"blk\.1\.").unwrap();
    let without = ModelParams::default().with_override(weights, Target::Cpu);
    assert_eq!(plan(without).host().used.context, 0);
}

#[test]
fn the_command_line_says_all_that_the_plan_does() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
    let line = |params: ModelParams, budget: Budget| {
        let plan = planner.clone().with_model_params(params).fit(&budget);
        plan.unwrap().command_line()
    };
    let assumed = || Budget::assumed([1 << 30]);
    let has = |line: &str, part: &str| assert!(line.contains(part), "{part}: {line}");
    // Without a device llama.cpp would take all that it finds.
    has(&line(on_cpu(), Budget::free(0)), " -dev none -ngl 0 ");
    assert!(!line(ModelParams::default(), assumed()).contains("-dev"));
    // The server has sequences of its own choice otherwise.
    has(&line(ModelParams::default(), assumed()), " -np 1 ");
    let settings = ModelParams::default()
        .with_no_host(true)
        .with_extra_buffer_types(false)
        .with_lazy_mode(LazyMode::Off)
        .with_kv_override("general.name", KvOverride::Text("a, \"b\"".to_owned()))
        .with_kv_override("qwen3moe.context_length", KvOverride::Int(512));
    let line_with_settings = line(settings, assumed());
    for part in [
        " --no-host --no-repack -lzm off",
        r#" --override-kv '"general.name=str:a, ""b""",qwen3moe.context_length=int:512'"#,
    ] {
        has(&line_with_settings, part);
    }
    let mapped = ModelParams::default().with_cpu_moe_all();
    has(&line(mapped.clone(), assumed()), " -lm none");
    has(
        &line(mapped.with_load_mode(LoadMode::Mmap), assumed()),
        " -lm mmap",
    );
    // `-ot` can write neither of these patterns.
    let tensors = r"^(blk\.1\.ffn_up_exps\.weight)$=CPU";
    for pattern in [r"^blk\.[1]{1,1}\.ffn_up_exps", r"blk\.1\.(?=ffn_up_exps)"] {
        let rules =
            ModelParams::default().with_override(Pattern::new(pattern).unwrap(), Target::Cpu);
        has(&line(rules, assumed()), tensors);
    }
}

#[test]
fn rules_that_are_given_come_first_and_stay() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let last = Layout::Qwen3Moe.n_layer() - 1;
    let given = ModelParams::default().with_cpu_moe_layers(last..);
    let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
    let (least, most) = least_and_most(&path);
    for budget in [least, (least + most) / 2, most] {
        let plan = planner
            .clone()
            .with_model_params(given.clone())
            .fit(&Budget::assumed([budget]))
            .unwrap();
        let rules = plan.model_params().overrides().rules();
        assert_eq!(rules[0], given.overrides().rules()[0]);
        let of_last = plan.preview().tensors().iter().filter(|tensor| {
            tensor.block == Some(last) && tensor.role == llama_moe::gguf::Role::RoutedExpert
        });
        assert!(of_last.clone().count() > 0);
        assert!(
            of_last
                .into_iter()
                .all(|tensor| tensor.rule == Some(0) && tensor.is_host)
        );
    }
}

#[test]
fn a_dense_model_is_planned_by_layers() {
    let (_dir, path) = file(Layout::Dense);
    let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
    let all = planner.fit(&Budget::assumed([1 << 40])).unwrap();
    let most = all.devices()[0].used.total();
    assert!(all.moe().is_none() && all.preview().rules().is_empty());
    let part = planner.fit(&Budget::assumed([most * 3 / 4])).unwrap();
    assert!((1..all.n_gpu_layers()).contains(&part.n_gpu_layers()));
    assert!(part.devices()[0].used.total() <= most * 3 / 4);
}

#[test]
fn several_assumed_devices_share_the_layers() {
    let (_dir, path) = file(Layout::DeepSeek2);
    let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
    let (least, most) = least_and_most(&path);
    let plan = planner.fit(&Budget::assumed([most, least])).unwrap();
    assert_eq!(plan.devices().len(), 2);
    assert_eq!(plan.tensor_split().len(), 2);
    assert!(plan.devices()[0].used.weights > plan.devices()[1].used.weights);
    assert!(plan.devices().iter().all(|memory| memory.used.weights > 0));
    assert!(
        plan.command_line().contains(" -ts "),
        "{}",
        plan.command_line()
    );
}

#[test]
fn budgets_that_cannot_be_are_refused() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let planner = Planner::new(&backend(), &path).unwrap();
    assert!(matches!(
        plan_error(planner.fit(&Budget::assumed([1 << 30, 0]))),
        PlanError::NoBudget { device } if device == "GPU1"
    ));
    let cpu = backend().cpu().unwrap();
    let error = planner.fit(&Budget::devices([(cpu, 1 << 30)])).unwrap_err();
    assert!(error.to_string().contains("it is no GPU"), "{error}");
    let only_cpu = planner.clone().with_model_params(on_cpu());
    assert!(matches!(
        plan_error(only_cpu.fit(&Budget::devices([(cpu, 1 << 30)]))),
        PlanError::DeviceNotInUse { .. }
    ));
    // Shares and a choice that leave an assumed device out.
    let planner_with = |params| planner.clone().with_model_params(params);
    let split = ModelParams::default().with_tensor_split([0.0, 0.0, 1.0]);
    let error = planner_with(split).fit(&Budget::assumed([1 << 30, 1 << 30]));
    assert!(matches!(
        error,
        Err(Error::Parameter {
            parameter: "with_tensor_split",
            ..
        })
    ));
    let one = ModelParams::default().with_split_mode(SplitMode::None);
    assert!(matches!(
        plan_error(planner_with(one.clone()).fit(&Budget::assumed([1 << 30, 1 << 30]))),
        PlanError::DeviceNotInUse { device } if device == "GPU1"
    ));
    planner_with(one).fit(&Budget::assumed([1 << 30])).unwrap();
    let vocab_only = ModelParams::default().with_vocab_only(true);
    let vocab_only = planner.with_model_params(vocab_only);
    vocab_only
        .fit(&Budget::assumed([1 << 30]))
        .expect_err("nothing to place");
}

#[test]
fn files_without_a_model_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocabulary.gguf");
    support::layouts::vocabulary_only().write(&path);
    let planner = Planner::new(&backend(), &path).unwrap();
    let error = planner.fit(&Budget::assumed([1 << 30])).unwrap_err();
    assert!(error.to_string().contains("llama"), "{error}");
    Planner::new(&backend(), dir.path().join("none.gguf")).expect_err("no file");
}

#[test]
fn limits_count_what_each_token_reads() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
    let bytes_per_token = planner.header().moe().unwrap().bytes_per_token;
    let all_on_cpu = planner.clone().with_model_params(on_cpu());
    let limits = all_on_cpu.fit(&Budget::free(0)).unwrap().limits(1e9);
    let read = 1e9 / limits.decode.unwrap();
    // But for the one row of the embeddings.
    assert!(
        (bytes_per_token as f64 - read).abs() < 1024.0,
        "{read} {bytes_per_token}"
    );
    // 0 tokens at once are as many as a batch has.
    let prefill = |n| {
        let plan = all_on_cpu.clone().with_n_ubatch(n).fit(&Budget::free(0));
        plan.unwrap().limits(1e9).prefill
    };
    assert_eq!(prefill(0), prefill(1 << 20));
    // Without an output of its own the model reads all embeddings once more.
    let mut tied = Layout::Qwen3Moe.writer();
    tied.remove_tensor("output.weight");
    tied.write(&path);
    let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
    let tied = planner.with_model_params(on_cpu());
    let tied = tied.fit(&Budget::free(0)).unwrap().limits(1e9);
    let tied = 1e9 / tied.decode.unwrap();
    assert!((tied - read).abs() < 1024.0, "{tied} {read}");
    let (_dir, path) = file(Layout::Glm4Moe);
    let decode = |params: ModelParams| {
        let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
        let plan = planner.with_model_params(params).fit(&Budget::free(0));
        plan.unwrap().limits(1e9).decode
    };
    assert_eq!(decode(on_cpu().with_mtp(true)), decode(on_cpu()));
    // All of it on a device leaves nothing to read.
    let on_device = all_on_cpu.with_model_params(ModelParams::default());
    let on_device = on_device.fit(&Budget::assumed([1 << 40])).unwrap();
    assert_eq!(on_device.limits(1e9).decode, None);
    assert_eq!(on_device.limits(f64::NAN).prefill, None);
}

/// Without a plan, for any rules.
#[test]
fn limits_of_a_preview_are_those_of_a_plan_with_it() {
    for layout in [Layout::Qwen3Moe, Layout::GptOss, Layout::DeepSeek2] {
        let (_dir, path) = file(layout);
        let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
        let planner = planner.with_n_ubatch(64).with_model_params(on_cpu());
        let plan = planner.fit(&Budget::free(0)).unwrap();
        let limits = plan.limits(2e9);
        assert_eq!(plan.preview().limits(64, 2e9), limits);
        let by_hand = Preview::new(&backend(), &path, &on_cpu()).unwrap();
        assert_eq!(by_hand.limits(64, 2e9), limits, "{layout:?}");
        assert_eq!((limits.n_ubatch, limits.host_bandwidth), (64, 2e9));
        assert_eq!(
            by_hand.limits(64, 4e9).decode,
            limits.decode.map(|rate| 2.0 * rate)
        );
        // One token at a time is decoding.
        let one = by_hand.limits(0, 2e9);
        let (decode, prefill) = (one.decode.unwrap(), one.prefill.unwrap());
        assert!((prefill / decode - 1.0).abs() < 1e-12, "{one:?}");
        assert_eq!(one.n_ubatch, 1);
    }
}

#[test]
fn what_is_streamed_is_bound_by_the_way_to_the_device() {
    let (_dir, path) = file(Layout::Qwen3Moe);
    let preview = Preview::new(&backend(), &path, &on_cpu()).unwrap();
    let limits = preview.limits(512, 8e9);
    assert_eq!(limits.prefill_streamed(8e9), limits.prefill);
    assert_eq!(
        limits.prefill_streamed(2e9),
        limits.prefill.map(|rate| 0.25 * rate)
    );
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(limits.prefill_streamed(rate), None);
    }
    // Fewer than 32 tokens are computed where the weights are.
    assert_eq!(preview.limits(31, 8e9).prefill_streamed(8e9), None);
    assert!(preview.limits(32, 8e9).prefill_streamed(8e9).is_some());
    assert_eq!(preview.limits(512, 0.0).prefill_streamed(8e9), None);
}

#[test]
fn several_threads_plan_at_once() {
    let (_dir, path) = file(Layout::GptOss);
    let planner = Planner::new(&backend(), &path).unwrap().with_n_ctx(256);
    let (least, most) = least_and_most(&path);
    let plan = |step: u64| {
        let budget = Budget::assumed([least + (most - least) * step / 4]);
        planner.fit(&budget).unwrap().to_string()
    };
    let alone: Vec<String> = (0..4).map(plan).collect();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|step| scope.spawn(move || plan(step))).collect();
        for (thread, alone) in threads.into_iter().zip(&alone) {
            assert_eq!(&thread.join().unwrap(), alone);
        }
    });
}

#[cfg(feature = "rpc")]
mod on_a_worker {
    use llama_moe::{ContextParams, Device, Model};

    use super::support::worker::{second_device, worker};
    use super::*;

    /// Holds a plan against a load with it: every tensor, and what each memory takes.
    fn check(path: &Path, plan: &llama_moe::Plan, what: &str) {
        let model = Model::load(&backend(), path, ModelParams::from(plan)).unwrap();
        let placement = model.placement().unwrap();
        placement
            .verify(plan.preview())
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let params = plan.context_params().clone();
        let mut context = model
            .context(params.with_n_threads(1).with_n_threads_batch(1))
            .unwrap();
        assert_eq!(context.n_ctx(), plan.n_ctx(), "{what}");
        let entries = context.memory_breakdown().unwrap();
        for memory in plan.devices() {
            let name = memory.device.and_then(|device| device.buffer_type_name());
            let of_device = entries
                .iter()
                .filter(|entry| Some(&entry.buffer) == name.as_ref());
            let (mut model, mut context, mut compute) = (0, 0, 0);
            for entry in of_device {
                model += entry.model;
                context += entry.context;
                compute += entry.compute;
            }
            assert_eq!(model, memory.used.weights, "{what}: {}", memory.name);
            assert_eq!(context, memory.used.context, "{what}: {}", memory.name);
            // With several devices llama.cpp's own dry run schedules a few of the states between
            // layers otherwise: four of a micro-batch, in either direction.
            let states = match plan.devices().len() {
                1 => 0,
                _ => 4 * 512 * 64 * 4,
            };
            let off = compute.abs_diff(memory.used.compute);
            let told = memory.used.compute;
            assert!(
                off <= states.max(compute / 100),
                "{what}: {compute}, {told}"
            );
            assert!(memory.used.total() <= memory.budget.unwrap(), "{what}");
        }
    }

    fn planner(path: &Path, devices: &[Device]) -> Planner {
        let params = ModelParams::default().with_devices(devices.iter().copied());
        Planner::new(&backend(), path)
            .unwrap()
            .with_model_params(params)
            .with_n_ctx(512)
    }

    #[test]
    fn the_model_takes_what_the_plan_says() {
        let worker = worker();
        for layout in Layout::ALL {
            let (_dir, path) = file(layout);
            let planner = planner(&path, &[worker.device]);
            let all = planner.fit(&Budget::per_device(1 << 30)).unwrap();
            check(&path, &all, &format!("{layout:?}, all"));
            let most = all.devices()[0].used.total();
            for share in [95, 90, 80, 60] {
                let plan = planner.fit(&Budget::per_device(most * share / 100));
                match plan {
                    Ok(plan) => check(&path, &plan, &format!("{layout:?}, {share} %")),
                    // The compute buffers of so small a model are most of it.
                    Err(Error::Plan(PlanError::DoesNotFit { .. })) => {}
                    Err(error) => panic!("{layout:?}, {share} %: {error}"),
                }
            }
        }
    }

    #[test]
    fn two_devices_hold_their_parts() {
        let worker = worker();
        let devices = [worker.device, second_device(&worker)];
        let (_dir, path) = file(Layout::DeepSeek2);
        let planner = planner(&path, &devices);
        let all = planner.fit(&Budget::per_device(1 << 30)).unwrap();
        check(&path, &all, "all");
        let most: Vec<u64> = all
            .devices()
            .iter()
            .map(|memory| memory.used.total())
            .collect();
        let budget = Budget::devices([(devices[0], most[0] - 1000), (devices[1], most[1] - 1000)]);
        check(&path, &planner.fit(&budget).unwrap(), "a little less");
    }

    #[test]
    fn devices_keep_the_order_and_the_parts_that_were_given() {
        let worker = worker();
        let devices = [worker.device, second_device(&worker)];
        let (_dir, path) = file(Layout::DeepSeek2);
        let with = |params: ModelParams| planner(&path, &devices).with_model_params(params);
        let given = ModelParams::default().with_devices(devices);
        let names = |plan: &llama_moe::Plan| -> Vec<String> {
            plan.devices().iter().map(|m| m.name.clone()).collect()
        };
        let in_order = devices.map(|device| device.name());
        let turned = Budget::devices([(devices[1], 1 << 30), (devices[0], 1 << 30)]);
        let split = given.clone().with_tensor_split([3.0, 1.0]);
        let plan = with(split.clone()).fit(&turned).unwrap();
        assert_eq!(names(&plan), in_order);
        assert_eq!(plan.tensor_split(), [3.0, 1.0]);
        let line = plan.command_line();
        let rpc = format!("{},{}", devices[0].description(), devices[1].description());
        let turned_rpc = format!("{},{}", devices[1].description(), devices[0].description());
        assert!(
            line.contains(&format!(" --rpc {rpc} "))
                || line.contains(&format!(" --rpc {turned_rpc} ")),
            "{line}"
        );
        check(&path, &plan, "three to one");
        // One of them.
        let second = Budget::devices([(devices[1], 1 << 30)]);
        let plan = with(split).fit(&second).unwrap();
        assert_eq!(names(&plan), in_order[1..]);
        assert!(plan.tensor_split().is_empty());
        check(&path, &plan, "the second");
        // All on one, which is not the first.
        let main = given.with_split_mode(SplitMode::None).with_main_gpu(1);
        let plan = with(main.clone())
            .fit(&Budget::per_device(1 << 30))
            .unwrap();
        assert_eq!(names(&plan), in_order[1..]);
        check(&path, &plan, "the main one");
        let first = Budget::devices([(devices[0], 1 << 30)]);
        assert!(matches!(
            plan_error(with(main).fit(&first)),
            PlanError::DeviceNotInUse { device } if device == in_order[0]
        ));
    }

    #[test]
    fn a_rule_that_cannot_fit_is_an_error() {
        let worker = worker();
        let (_dir, path) = file(Layout::Qwen3Moe);
        let experts = Pattern::experts().unwrap();
        let params = ModelParams::default()
            .with_devices([worker.device])
            .with_override(experts, Target::Device(worker.device));
        let free = planner(&path, &[worker.device]);
        let all = free.fit(&Budget::per_device(1 << 30)).unwrap();
        let most = all.devices()[0].used.total();
        let planner = free.with_model_params(params);
        let error = plan_error(planner.fit(&Budget::per_device(most / 2)));
        assert!(error.to_string().contains("stay as they are"), "{error}");
        let total = worker.device.memory().total;
        assert!(matches!(
            plan_error(planner.fit(&Budget::per_device(total + 1))),
            PlanError::OverDevice { .. }
        ));
        assert!(matches!(
            plan_error(planner.fit(&Budget::assumed([1 << 30]))),
            PlanError::DevicesAssumed { .. }
        ));
        let unused = second_device(&worker);
        assert!(matches!(
            plan_error(planner.fit(&Budget::devices([(unused, 1 << 30)]))),
            PlanError::DeviceNotInUse { .. }
        ));
    }

    #[test]
    fn a_plan_talks_with_the_context_it_was_made_for() {
        let worker = worker();
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/model/moe-guide-q8_0.gguf");
        let context = ContextParams::default().with_n_ctx(1024).with_n_ubatch(64);
        let planner = planner(&path, &[worker.device]).with_context_params(context);
        let all = planner.fit(&Budget::per_device(1 << 30)).unwrap();
        let most = all.devices()[0].used.total();
        let plan = planner.fit(&Budget::per_device(most - (1 << 20))).unwrap();
        assert!(plan.expert_bytes_on_devices() < all.expert_bytes_on_devices());
        check(&path, &plan, "the bundled model");
        assert!(
            plan.command_line().contains("-ub 64"),
            "{}",
            plan.command_line()
        );
    }
}
