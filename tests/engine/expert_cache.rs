//! An engine with a cache of experts, on a worker's device.

use llama_moe::engine::{DraftParams, Engine, EngineParams, Event};
use llama_moe::{ContextParams, Error, Model, ModelParams, MoeCacheError, Token};

use crate::rig::{
    Fails, answer, check_greedy, context, endless, greedy, params, prompt, steady_file,
};
use crate::support::backend;
use crate::support::layouts::Layout;
use crate::support::worker::{Worker, worker};

/// More than all experts take.
const ALL: u64 = 64 << 20;

/// A model with all experts in system memory, and the rest on the worker.
fn model(worker: &Worker) -> Model {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    steady_file(Layout::Qwen3Moe).write(&path);
    let params = ModelParams::default()
        .with_devices([worker.device])
        .with_cpu_moe_all()
        .for_moe_cache();
    Model::load(&backend(), &path, params).unwrap()
}

fn with(cache: u64, slots: u32, context: ContextParams) -> EngineParams {
    params(slots).with_context(context.with_moe_cache_size(cache))
}

fn refused(result: llama_moe::Result<Engine>) -> MoeCacheError {
    match result {
        Err(Error::MoeCache(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn least(model: &Model) -> u64 {
    match model.moe_cache(1) {
        Err(Error::MoeCache(MoeCacheError::TooSmall {
            needed: Some(needed),
            ..
        })) => needed,
        other => panic!("{other:?}"),
    }
}

/// The answers to so many requests at a time.
fn answers(engine: &Engine, n: usize) -> Vec<(Vec<Token>, Vec<Token>)> {
    let streams: Vec<_> = (0..n)
        .map(|kind| {
            let prompt = prompt(5 + 3 * kind, kind);
            let stream = engine.submit(greedy(prompt.clone(), 24)).unwrap();
            (prompt, stream)
        })
        .collect();
    let answers = streams.into_iter();
    answers
        .map(|(prompt, stream)| (prompt, answer(stream).tokens))
        .collect()
}

#[test]
fn sixteen_slots_answer_as_without_a_cache_and_the_numbers_add_up() {
    let worker = worker();
    let model = model(&worker);
    let without = Engine::new(&model, with(0, 16, context(2048))).unwrap();
    assert_eq!(without.stats().moe_cache, None);
    assert!(without.moe_cache().is_none());
    let expected = answers(&without, 24);
    drop(without);
    for size in [least(&model), ALL] {
        let engine = Engine::new(&model, with(size, 16, context(2048))).unwrap();
        let layout = engine.moe_cache().unwrap().clone();
        assert_eq!(layout.holds_all(), size == ALL);
        let before = engine.stats().moe_cache.unwrap();
        assert_eq!(before.total().hit_rate(), None);
        let same = answers(&engine, 24)
            .iter()
            .zip(&expected)
            .filter(|(a, b)| a == b)
            .count();
        // Rounding decides between equals only: see `check_greedy`.
        assert!(same >= 20, "{same} of 24");
        for (prompt, tokens) in answers(&engine, 16) {
            assert_eq!(tokens.len(), 24);
            check_greedy(&model, &prompt, &tokens);
        }
        let stats = engine.stats().moe_cache.unwrap();
        let total = stats.total();
        let group = &layout.groups()[0];
        assert_eq!(total.uploaded_bytes, total.misses * group.bytes_per_expert);
        assert!(total.hits + total.misses > 0, "{stats:?}");
        if size == ALL {
            assert!(total.misses <= group.n_experts_total(), "{stats:?}");
            assert!(total.hits > total.misses, "{stats:?}");
        }
        // Nothing is lost when the engine ends.
        engine.stop();
        assert_eq!(engine.stats().moe_cache, Some(stats));
    }
}

#[test]
fn texts_are_embedded_beside_a_cache() {
    let worker = worker();
    let model = model(&worker);
    let engine = Engine::new(&model, with(ALL, 2, context(512))).unwrap();
    let embedded = engine.embed(vec![prompt(9, 1)]).unwrap().wait().unwrap();
    assert_eq!(embedded.len(), 1);
    assert_eq!(engine.stats().moe_cache.unwrap().total().hit_rate(), None);
}

#[test]
fn a_draft_has_no_cache() {
    let worker = worker();
    let model = model(&worker);
    let draft = |context: ContextParams| DraftParams::new(&model).with_context(context);
    let cached = draft(context(1024).with_moe_cache_size(ALL));
    let params = |draft| with(ALL, 2, context(1024)).with_draft(draft);
    assert_eq!(
        refused(Engine::new(&model, params(cached))),
        MoeCacheError::Draft
    );
    let engine = Engine::new(&model, params(draft(context(1024)))).unwrap();
    let prompt = prompt(9, 1);
    let tokens = answer(engine.submit(greedy(prompt.clone(), 12)).unwrap()).tokens;
    check_greedy(&model, &prompt, &tokens);
    assert!(engine.stats().moe_cache.unwrap().total().misses > 0);
    // The engine's own cache is refused as a context's is.
    let small = with(1, 2, context(1024));
    assert!(matches!(
        refused(Engine::new(&model, small)),
        MoeCacheError::TooSmall { size: 1, .. }
    ));
}

#[test]
fn a_computation_that_fails_takes_back_no_counts() {
    let worker = worker();
    let model = model(&worker);
    let fails = Fails::at("result_norm", |n| n == 12);
    let context = context(512).with_eval_callback(fails);
    let engine = Engine::new(&model, with(ALL, 1, context)).unwrap();
    let mut stream = engine.submit(endless(1)).unwrap();
    let mut last = 0;
    for _ in 0..40 {
        match stream.next().unwrap() {
            Ok(Event::Text { .. }) => {}
            other => panic!("{other:?}"),
        }
        let total = engine.stats().moe_cache.unwrap().total();
        let served = total.hits + total.misses;
        assert!(served >= last, "{served} after {last}");
        last = served;
    }
    assert!(last > 0);
}
