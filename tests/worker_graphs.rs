//! An object that is made and dropped on a worker between two batches of a context there does not
//! end the process: the worker forgets its graphs, and the context does not ask for one of them.
#![cfg(feature = "rpc")]

use llama_moe::{Context, Model, ModelParams};

mod support;
use support::decode::{decode, prompt, small};
use support::layouts::Layout;
use support::worker::{serve_if_asked, worker};
use support::{backend, file};

#[test]
fn worker_process() {
    serve_if_asked();
}

/// Decodes some tokens one by one, doing something between the last two, and returns the logits.
fn interrupted(context: &mut Context, between: impl FnOnce()) -> Vec<f32> {
    let tokens = prompt(16);
    decode(context, &tokens[..12], 0, 0);
    // The graph for one token is made, and used again.
    decode(context, &tokens[12..13], 12, 0);
    decode(context, &tokens[13..14], 13, 0);
    between();
    decode(context, &tokens[14..15], 14, 0);
    decode(context, &tokens[15..16], 15, 0)
}

#[test]
fn objects_are_dropped_between_two_batches() {
    let worker = worker();
    let params = ModelParams::default().with_devices([worker.device]);
    let (dir, path) = file(Layout::Qwen3Moe);
    let adapter_path = dir.path().join("adapter.gguf");
    Layout::Qwen3Moe.lora().write(&adapter_path);
    let load = || Model::load(&backend(), &path, params.clone()).expect("a model");
    let model = load();
    let expected = interrupted(&mut model.context(small()).expect("a context"), || ());
    type Between<'a> = Box<dyn FnOnce() + 'a>;
    let cases: [(&str, Between<'_>); 5] = [
        (
            "a context",
            Box::new(|| drop(model.context(small()).expect("a context"))),
        ),
        (
            "a context that has computed",
            Box::new(|| {
                let mut other = model.context(small()).expect("a context");
                decode(&mut other, &prompt(3), 0, 0);
            }),
        ),
        ("a model", Box::new(|| drop(load()))),
        (
            "an adapter",
            Box::new(|| drop(model.lora_adapter(&adapter_path).expect("an adapter"))),
        ),
        (
            "a context with a cache of experts",
            Box::new(|| {
                let cached = params.clone().with_cpu_moe_all().for_moe_cache();
                let model = Model::load(&backend(), &path, cached).expect("a model");
                let mut other = model
                    .context(small().with_moe_cache_size(1 << 20))
                    .expect("a context");
                decode(&mut other, &prompt(3), 0, 0);
            }),
        ),
    ];
    for (what, between) in cases {
        let mut context = model.context(small()).expect("a context");
        assert_eq!(interrupted(&mut context, between), expected, "{what}");
    }
}

#[test]
fn two_contexts_compute_in_turns() {
    let worker = worker();
    let (_dir, path) = file(Layout::Mixtral);
    let params = ModelParams::default().with_devices([worker.device]);
    let model = Model::load(&backend(), &path, params).expect("a model");
    let tokens = prompt(24);
    let mut alone = model.context(small()).expect("a context");
    let rows = |context: &mut Context, at: usize| decode(context, &tokens[at..=at], at as u32, 0);
    let expected: Vec<Vec<f32>> = (0..24).map(|at| rows(&mut alone, at)).collect();
    drop(alone);
    let mut first = model.context(small()).expect("a context");
    let mut second = model.context(small()).expect("a context");
    for (at, expected) in expected.iter().enumerate() {
        assert_eq!(&rows(&mut first, at), expected);
        assert_eq!(&rows(&mut second, at), expected);
    }
}
