//! What each rule moves, in exact names and bytes, on real loads of every MoE layout with a
//! worker process as the second device.
#![cfg(feature = "rpc")]

use std::collections::BTreeSet;
use std::path::Path;

use llama_moe::{
    Device, Error, Model, ModelParams, OverrideError, Pattern, Placement, SplitMode, Target,
    TensorOverrides,
};

mod support;
use support::layouts::{Layout, Role};
use support::worker::{second_device, worker};
use support::{backend, file};

#[test]
fn worker_process() {
    support::worker::serve_if_asked();
}

/// All layers on the worker, as far as rules allow.
fn on_worker(device: llama_moe::Device) -> ModelParams {
    ModelParams::default().with_devices([device])
}

fn placement(path: &Path, params: ModelParams) -> Placement {
    let model = Model::load(&backend(), path, params).expect("a loaded model");
    model.placement().expect("a placement")
}

/// Names and bytes of the tensors that a rule decided on.
fn moved(placement: &Placement) -> BTreeSet<(String, u64)> {
    let by_rule = |tensor: &&llama_moe::TensorPlacement| tensor.rule.is_some();
    let moved = placement.tensors().iter().filter(by_rule);
    moved
        .map(|tensor| (tensor.name.clone(), tensor.bytes))
        .collect()
}

/// The tensors of repeating layers that are in system memory.
fn layers_in_host(placement: &Placement) -> BTreeSet<String> {
    let tensors = placement.tensors().iter();
    tensors
        .filter(|tensor| tensor.is_host && tensor.name.starts_with("blk."))
        .map(|tensor| tensor.name.clone())
        .collect()
}

fn names(tensors: &BTreeSet<(String, u64)>) -> BTreeSet<String> {
    tensors.iter().map(|(name, _)| name.clone()).collect()
}

/// The experts of these blocks that are loaded.
fn experts(layout: Layout, blocks: &[u32]) -> BTreeSet<(String, u64)> {
    let tensors = layout.loaded_tensors().into_iter();
    tensors
        .filter(|tensor| tensor.role == Role::Expert)
        .filter(|tensor| tensor.layer.is_some_and(|layer| blocks.contains(&layer)))
        .map(|tensor| (tensor.name.clone(), tensor.bytes()))
        .collect()
}

fn moe_layouts() -> impl Iterator<Item = Layout> {
    Layout::ALL.into_iter().filter(|layout| layout.is_moe())
}

#[test]
fn without_rules_the_layers_are_on_the_device() {
    let worker = worker();
    for layout in Layout::ALL {
        let (_dir, path) = file(layout);
        let placement = placement(&path, on_worker(worker.device));
        assert!(layers_in_host(&placement).is_empty(), "{layout:?}");
        assert!(placement.rules().is_empty());
        assert_eq!(placement.misplaced().count(), 0);
    }
}

#[test]
fn cpu_moe_all_moves_the_experts_and_nothing_else() {
    let worker = worker();
    for layout in moe_layouts() {
        let (_dir, path) = file(layout);
        let placement = placement(&path, on_worker(worker.device).with_cpu_moe_all());
        let expected: BTreeSet<_> = layout.expert_tensors().into_iter().collect();
        assert!(!expected.is_empty());
        assert_eq!(moved(&placement), expected, "{layout:?}");
        assert_eq!(layers_in_host(&placement), names(&expected), "{layout:?}");
        for name in layout.stay() {
            let tensor = placement.tensor(&name).expect("a tensor that stays");
            assert!(
                !tensor.is_host && tensor.rule.is_none(),
                "{layout:?}: {name}"
            );
        }
        assert_eq!(placement.misplaced().count(), 0, "{layout:?}");
    }
}

#[test]
fn what_is_told_before_loading_is_what_happens() {
    let worker = worker();
    for layout in moe_layouts() {
        let (_dir, path) = file(layout);
        let params = on_worker(worker.device)
            .with_cpu_moe_last(1)
            .with_override(Pattern::new("attn_norm").unwrap(), Target::Cpu);
        let lowered = params
            .overrides()
            .lower(&backend(), &path, &params)
            .expect("rules that apply");
        let placement = placement(&path, params);
        for (index, told) in lowered.matches().enumerate() {
            let happened: BTreeSet<_> = placement.moved_by(index).map(|t| &t.name).collect();
            assert_eq!(happened, told.tensors.iter().collect(), "{layout:?}");
            let bytes: u64 = placement.moved_by(index).map(|t| t.bytes).sum();
            assert_eq!(bytes, told.bytes, "{layout:?}");
        }
        let sums = placement.sums();
        let total: u64 = sums.iter().map(|sum| sum.bytes).sum();
        assert_eq!(
            total,
            placement.tensors().iter().map(|t| t.bytes).sum::<u64>()
        );
    }
}

#[test]
fn n_cpu_moe_counts_blocks_as_llama_cpp_does() {
    let worker = worker();
    for layout in moe_layouts() {
        let (_dir, path) = file(layout);
        for n in 1..=layout.n_layer() {
            let blocks: Vec<u32> = (0..n).collect();
            let expected = experts(layout, &blocks);
            let params = on_worker(worker.device).with_n_cpu_moe(n);
            if expected.is_empty() {
                // All n blocks are dense: the count would be wasted, so it is an error.
                let error = Model::load(&backend(), &path, params).expect_err("a wasted count");
                assert!(
                    matches!(error, Error::Override(OverrideError::Unmatched { .. })),
                    "{layout:?}, {n}: {error}"
                );
                continue;
            }
            assert_eq!(
                moved(&placement(&path, params)),
                expected,
                "{layout:?}, {n}"
            );
        }
    }
}

#[test]
fn first_and_last_count_layers_with_experts() {
    let worker = worker();
    for layout in moe_layouts() {
        let (_dir, path) = file(layout);
        let moe = layout.moe_layers();
        for n in 1..=moe.len() {
            let first = on_worker(worker.device).with_cpu_moe_first(n as u32);
            assert_eq!(
                moved(&placement(&path, first)),
                experts(layout, &moe[..n]),
                "{layout:?}, first {n}"
            );
            let last = on_worker(worker.device).with_cpu_moe_last(n as u32);
            assert_eq!(
                moved(&placement(&path, last)),
                experts(layout, &moe[moe.len() - n..]),
                "{layout:?}, last {n}"
            );
        }
    }
}

#[test]
fn ranges_of_blocks() {
    let worker = worker();
    let layout = Layout::DeepSeek2;
    let (_dir, path) = file(layout);
    let n = layout.n_layer();
    let open = on_worker(worker.device).with_cpu_moe_layers(2..);
    assert_eq!(
        moved(&placement(&path, open)),
        experts(layout, &(2..n).collect::<Vec<_>>())
    );
    let closed = on_worker(worker.device).with_cpu_moe_layers(2..=2);
    assert_eq!(moved(&placement(&path, closed)), experts(layout, &[2]));
}

#[test]
fn dense_models_have_feed_forward_tensors_to_move() {
    let worker = worker();
    let layout = Layout::Dense;
    let (_dir, path) = file(layout);
    let placement = placement(
        &path,
        on_worker(worker.device).with_cpu_ffn(layout.n_layer()),
    );
    let expected: BTreeSet<_> = layout.dense_ffn_tensors().into_iter().collect();
    assert_eq!(moved(&placement), expected);
    assert_eq!(layers_in_host(&placement), names(&expected));
}

#[test]
fn experts_go_to_the_device_that_is_named() {
    let worker = worker();
    let layout = Layout::Qwen3Moe;
    let (_dir, path) = file(layout);
    // Nothing is offloaded, but for the experts of two blocks.
    for target in [
        Target::from(worker.device),
        Target::Named(worker.device.buffer_type_name().expect("a name")),
        Target::Named(worker.device.name()),
    ] {
        let params = on_worker(worker.device)
            .with_n_gpu_layers(0)
            .with_moe_layers_on(1..3, target);
        let placement = placement(&path, params);
        let on_device: BTreeSet<_> = placement
            .tensors()
            .iter()
            .filter(|tensor| !tensor.is_host)
            .map(|tensor| (tensor.name.clone(), tensor.bytes))
            .collect();
        assert_eq!(on_device, experts(layout, &[1, 2]));
        assert!(placement.tensors().iter().all(|tensor| tensor.as_asked));
    }
}

#[test]
fn the_first_rule_that_matches_wins() {
    let worker = worker();
    let layout = Layout::Qwen3Moe;
    let (_dir, path) = file(layout);
    let params = on_worker(worker.device)
        .with_override(Pattern::experts_of(&[0]).unwrap(), worker.device)
        .with_cpu_moe_all();
    let placement = placement(&path, params);
    assert_eq!(placement.moved_by(0).count(), experts(layout, &[0]).len());
    assert!(placement.moved_by(0).all(|tensor| !tensor.is_host));
    let rest: Vec<u32> = (1..layout.n_layer()).collect();
    assert_eq!(layers_in_host(&placement), names(&experts(layout, &rest)));
}

#[test]
fn llama_cpp_s_own_syntax() {
    let worker = worker();
    let layout = Layout::Qwen3Moe;
    let (_dir, path) = file(layout);
    let name = worker.device.buffer_type_name().expect("a name");
    let text = format!(r"blk\.[0-9]{{1\,2}}\.ffn_up_exps=CPU,ffn_(gate|down)_exps={name}");
    let params = on_worker(worker.device)
        .with_n_gpu_layers(0)
        .with_override_str(&text)
        .expect("two rules");
    let long = placement(&path, params);
    for tensor in long.tensors() {
        let on_device =
            tensor.name.contains("ffn_gate_exps") || tensor.name.contains("ffn_down_exps");
        assert_eq!(!tensor.is_host, on_device, "{}", tensor.name);
    }

    let params = on_worker(worker.device)
        .with_n_gpu_layers(0)
        .with_override_str(r"ffn_up_exps=CPU,ffn_(gate|down)_exps=RPC0")
        .expect("two rules");
    assert_eq!(placement(&path, params).tensors(), long.tensors());
}

#[test]
fn one_set_of_rules_serves_several_models() {
    let worker = worker();
    let rules = TensorOverrides::new().with_cpu_moe_last(1);
    for layout in [Layout::Qwen3Moe, Layout::DeepSeek2] {
        let (_dir, path) = file(layout);
        let params = on_worker(worker.device).with_overrides(rules.clone());
        let last = *layout.moe_layers().last().expect("a MoE layer");
        assert_eq!(moved(&placement(&path, params)), experts(layout, &[last]));
    }
}

#[test]
fn prediction_blocks_count_when_they_are_loaded() {
    let worker = worker();
    let layout = Layout::Glm4Moe;
    let (_dir, path) = file(layout);
    let params = on_worker(worker.device).with_mtp(true).with_cpu_moe_last(1);
    let expected: BTreeSet<_> = layout.mtp_expert_tensors().into_iter().collect();
    assert!(!expected.is_empty());
    assert_eq!(moved(&placement(&path, params)), expected);
}

fn refused(path: &Path, params: ModelParams) -> OverrideError {
    match Model::load(&backend(), path, params) {
        Err(Error::Override(error)) => error,
        other => panic!("expected a rule to be refused, got {other:?}"),
    }
}

#[test]
fn rules_that_cannot_be_applied_are_errors() {
    let worker = worker();
    let layout = Layout::DeepSeek2;
    let (_dir, path) = file(layout);
    let params = || on_worker(worker.device);
    let n_layer = layout.n_layer();

    let none = [params().with_n_cpu_moe(0), params().with_cpu_moe_last(0)];
    for params in none {
        let error = refused(&path, params);
        assert!(matches!(error, OverrideError::NoLayers { .. }), "{error}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "the mistake that is tested")]
    let reversed = refused(&path, params().with_cpu_moe_layers(3..2));
    assert!(matches!(reversed, OverrideError::NoLayers { .. }));

    let error = refused(&path, params().with_n_cpu_moe(n_layer + 1));
    assert_eq!(
        error,
        OverrideError::NoSuchLayer {
            rule: format!("experts of the first {} blocks → CPU", n_layer + 1),
            what: "blocks",
            asked: n_layer + 1,
            available: n_layer,
        }
    );
    let error = refused(&path, params().with_cpu_moe_last(u32::MAX));
    assert!(
        matches!(
            error,
            OverrideError::NoSuchLayer {
                asked: u32::MAX,
                ..
            }
        ),
        "{error}"
    );

    let pattern = Pattern::new("ffn_up_expz").unwrap();
    let error = refused(&path, params().with_override(pattern.clone(), Target::Cpu));
    assert!(error.to_string().contains("ffn_up_expz"), "{error}");
    let allowed = params()
        .with_override(pattern, Target::Cpu)
        .allow_unmatched_overrides();
    assert!(moved(&placement(&path, allowed)).is_empty());

    let shadowed = params().with_cpu_moe_all().with_cpu_moe_last(1);
    let error = refused(&path, shadowed.clone());
    assert!(matches!(error, OverrideError::Shadowed { .. }), "{error}");
    let allowed = placement(&path, shadowed.allow_unmatched_overrides());
    assert_eq!(allowed.moved_by(1).count(), 0);

    let elsewhere = ModelParams::default()
        .with_devices([])
        .with_moe_layers_on(.., worker.device);
    let error = refused(&path, elsewhere);
    assert!(
        matches!(error, OverrideError::DeviceNotInUse { .. }),
        "{error}"
    );

    let unknown = params().with_override_str("exps=CUDA7").unwrap();
    let error = Model::load(&backend(), &path, unknown).expect_err("no such device");
    assert!(
        matches!(&error, Error::UnknownDevice { name, .. } if name == "CUDA7"),
        "{error}"
    );

    // The process and the file are as good as before.
    assert!(!moved(&placement(&path, params().with_cpu_moe_all())).is_empty());
}

#[test]
fn parts_are_for_devices_that_there_are() {
    let worker = worker();
    let (_dir, path) = file(Layout::Qwen3Moe);
    let load = |parts: &[f32]| {
        let params = on_worker(worker.device).with_tensor_split(parts);
        Model::load(&backend(), &path, params)
    };
    assert!(load(&[1.0]).is_ok() && load(&[1.0, 0.0]).is_ok());
    // llama.cpp would ignore the second part, and with it the whole split in the second case.
    for parts in [[1.0, 1.0], [0.0, 1.0]] {
        let error = load(&parts).unwrap_err();
        assert!(error.to_string().contains("given 1 devices"), "{error}");
    }
}

/// The tensors that are on a device.
fn on(placement: &Placement, device: Device) -> BTreeSet<String> {
    let tensors = placement.tensors().iter();
    tensors
        .filter(|tensor| tensor.device == Some(device))
        .map(|tensor| tensor.name.clone())
        .collect()
}

#[test]
fn of_several_devices_each_gets_its_part() {
    let worker = worker();
    let (first, second) = (worker.device, second_device(&worker));
    let layout = Layout::Qwen3Moe;
    let (_dir, path) = file(layout);
    let params = || ModelParams::default().with_devices([first, second]);
    let all: Vec<u32> = (0..layout.n_layer()).collect();
    let expert_names = names(&experts(layout, &all));

    // The parts decide, and the device that is named for all.
    for (params, used, unused) in [
        (params().with_tensor_split([1.0, 0.0]), first, second),
        (params().with_tensor_split([0.0, 1.0]), second, first),
        (params().with_split_mode(SplitMode::None), first, second),
        (
            params().with_split_mode(SplitMode::None).with_main_gpu(1),
            second,
            first,
        ),
    ] {
        let placement = placement(&path, params);
        assert!(on(&placement, used).is_superset(&expert_names));
        assert!(on(&placement, unused).is_empty());
    }
    let halves = placement(&path, params().with_tensor_split([1.0, 1.0]));
    assert!(!on(&halves, first).is_empty() && !on(&halves, second).is_empty());

    // `--n-cpu-moe` relieves the first device only; a range relieves the one that is full.
    let first_blocks = placement(
        &path,
        params().with_tensor_split([1.0, 1.0]).with_n_cpu_moe(1),
    );
    assert_eq!(on(&first_blocks, second), on(&halves, second));
    let moved = placement(
        &path,
        params()
            .with_tensor_split([1.0, 0.0])
            .with_moe_layers_on(2.., second),
    );
    assert_eq!(on(&moved, second), names(&experts(layout, &all[2..])));

    // A device that the model leaves out would end the process once it computes.
    let left_out = params().with_split_mode(SplitMode::None);
    let error = refused(&path, left_out.with_moe_layers_on(.., second));
    assert!(
        matches!(error, OverrideError::DeviceNotInUse { .. }),
        "{error}"
    );
    let main_gpu = params().with_split_mode(SplitMode::None).with_main_gpu(2);
    let error = Model::load(&backend(), &path, main_gpu).expect_err("two devices");
    assert!(error.to_string().contains("with_main_gpu = 2"), "{error}");
}

#[test]
fn where_tensors_are_cut_rules_name_the_cpu_alone() {
    let worker = worker();
    let (first, second) = (worker.device, second_device(&worker));
    let layout = Layout::Qwen3Moe;
    let (_dir, path) = file(layout);
    let params = || {
        ModelParams::default()
            .with_devices([first, second])
            .with_split_mode(SplitMode::Tensor)
    };
    let error = refused(&path, params().with_moe_layers_on(.., second));
    assert!(
        matches!(&error, OverrideError::DevicesMerged { device, .. } if *device == second.name()),
        "{error}"
    );
    let placement = placement(&path, params().with_cpu_moe_all());
    let expected: BTreeSet<_> = layout.expert_tensors().into_iter().collect();
    assert_eq!(layers_in_host(&placement), names(&expected));
    assert_eq!(placement.misplaced().count(), 0);
    // What llama.cpp makes of the two is part of the model, and not handed out.
    let cut = placement.tensor("blk.0.attn_q.weight").expect("a tensor");
    assert!(cut.device.is_none() && !cut.is_host && !cut.buffer.is_empty());
}

#[test]
fn a_dense_model_has_no_experts_to_move() {
    let (_dir, path) = file(Layout::Dense);
    let error = refused(&path, support::on_cpu().with_cpu_moe_all());
    assert!(error.to_string().contains("dense"), "{error}");
}

#[test]
fn weights_moved_next_to_a_device_are_read_into_buffers() {
    let worker = worker();
    let (_dir, path) = file(Layout::Qwen3Moe);
    let load = |params| Model::load(&backend(), &path, params).expect("a loaded model");
    let moved = load(on_worker(worker.device).with_cpu_moe_all());
    assert_eq!(moved.load_mode(), llama_moe::LoadMode::None);
    let plain = load(on_worker(worker.device));
    assert_eq!(plain.load_mode(), llama_moe::LoadMode::Auto);
    let asked = load(
        on_worker(worker.device)
            .with_cpu_moe_all()
            .with_load_mode(llama_moe::LoadMode::Mmap),
    );
    assert_eq!(asked.load_mode(), llama_moe::LoadMode::Mmap);
}

#[test]
fn the_report_says_it_in_words() {
    let worker = worker();
    let (_dir, path) = file(Layout::Qwen3Moe);
    let text = placement(&path, on_worker(worker.device).with_cpu_moe_all()).to_string();
    assert!(text.contains("rule 1: all experts → CPU: "), "{text}");
    assert!(text.contains("load mode: none"), "{text}");
    assert!(!text.contains("not as asked"), "{text}");
}
