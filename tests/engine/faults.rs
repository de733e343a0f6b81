//! Samplers that panic and computations that fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use llama_moe::engine::{Engine, EngineError, Request};
use llama_moe::{Candidates, ContextParams, CustomSampler, Error, Model, SamplerError, Token};

use crate::rig::{
    Fails, MODEL, QUANTISED_BOUND, answer, begun, check_free, check_greedy, check_side_by_side,
    context, endless, engine, greedy, load, params, prompt, steady_file,
};
use crate::support::decode::{distance, n_vocab};
use crate::support::gguf::Value;
use crate::support::layouts::Layout;

/// Panics where it is told to.
struct Panics(&'static str);

impl CustomSampler for Panics {
    fn name(&self) -> &str {
        "panics"
    }

    fn apply(&mut self, _: &mut Candidates) {
        assert_ne!(self.0, "apply", "by order");
    }

    fn accept(&mut self, _: Token) {
        assert_ne!(self.0, "accept", "by order");
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        assert_ne!(self.0, "drop", "by order");
    }
}

fn panics(place: &'static str) -> Request {
    Request::new(prompt(10, 1))
        .with_max_tokens(5)
        .with_sampler(move |chain, _| {
            let chain = chain.custom(Panics(place));
            // While one that is dropped unwinds, another must not.
            chain.custom(Panics(place)).greedy()
        })
}

#[test]
fn a_sampler_that_panics_ends_its_request_alone() {
    let engine = engine(3);
    let mut other = engine.submit(endless(2)).unwrap();
    begun(&mut other);
    for place in ["apply", "accept"] {
        let error = engine.submit(panics(place)).unwrap().wait().unwrap_err();
        assert!(
            matches!(
                &error,
                Error::CallbackPanicked { callback: "sampler", message } if message.contains("by order")
            ),
            "{error}"
        );
    }
    let stats = engine.stats();
    assert_eq!((stats.requests_failed, stats.slots_busy), (2, 1));
    assert_eq!(
        answer(engine.submit(panics("drop")).unwrap()).tokens.len(),
        5
    );
    drop(engine.submit(panics("drop")).unwrap());
    assert!(other.by_ref().take(100).all(|event| event.is_ok()));
    drop(other);
    check_free(&engine);
}

#[test]
fn one_of_several_answers_that_panics_ends_all() {
    let engine = engine(3);
    let count = Arc::new(AtomicUsize::new(0));
    let request = Request::new(prompt(10, 1))
        .with_n(3)
        .with_sampler(move |chain, _| {
            let is_second = count.fetch_add(1, Ordering::SeqCst) == 1;
            let mut n = 0;
            let chain = chain.custom_fn("panics", move |_| {
                n += 1;
                assert!(!is_second || n < 4, "by order");
            });
            chain.greedy()
        });
    let error = engine.submit(request).unwrap().wait().unwrap_err();
    assert!(matches!(error, Error::CallbackPanicked { .. }), "{error}");
    check_free(&engine);
}

/// Asks the engine for its numbers when it is dropped.
struct Asks(Engine);

impl CustomSampler for Asks {
    fn name(&self) -> &str {
        "asks"
    }

    fn apply(&mut self, _: &mut Candidates) {}
}

impl Drop for Asks {
    fn drop(&mut self) {
        let _ = self.0.stats();
    }
}

#[test]
fn a_sampler_that_is_refused_can_ask_the_engine() {
    let engine = Engine::new(&MODEL, params(1).with_queue(1)).unwrap();
    let mut running = engine.submit(endless(1)).unwrap();
    begun(&mut running);
    let waiting = engine.submit(greedy(prompt(10, 2), 3)).unwrap();
    let (done, is_done) = mpsc::channel();
    let asked = engine.clone();
    // On a thread of its own, which nobody waits for if it never comes back.
    thread::spawn(move || {
        let sampler = asked.clone();
        let request = Request::new(prompt(10, 3))
            .with_sampler(move |chain, _| chain.custom(Asks(sampler.clone())).greedy());
        done.send(asked.submit(request).err()).unwrap();
    });
    let error = is_done.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(
        matches!(error, Some(Error::Engine(EngineError::QueueFull { .. }))),
        "{error:?}"
    );
    drop(running);
    assert_eq!(answer(waiting).tokens.len(), 3);
    check_free(&engine);
}

#[test]
fn a_closure_that_panics_is_an_error_of_submit() {
    let engine = engine(1);
    let request = Request::new(prompt(10, 1)).with_sampler(|_, _| panic!("by order"));
    let error = engine.submit(request).unwrap_err();
    assert!(matches!(error, Error::CallbackPanicked { .. }), "{error}");
    check_free(&engine);
}

#[test]
fn a_sampler_that_leaves_nothing_ends_its_request() {
    let engine = engine(2);
    let request = Request::new(prompt(10, 1))
        .with_sampler(|chain, _| chain.custom_fn("all", |c| c.truncate(0)).greedy());
    let error = engine.submit(request).unwrap().wait().unwrap_err();
    let none = |error: &Error| matches!(error, Error::Sampler(SamplerError::NoCandidates { .. }));
    assert!(none(&error), "{error}");
    check_free(&engine);
}

fn failing(fails: fn(usize) -> bool) -> Engine {
    let callback = Fails::at("result_output", fails);
    let params = params(3).with_context(context(1024).with_eval_callback(callback));
    Engine::new(&MODEL, params).unwrap()
}

#[test]
fn a_computation_that_fails_once_is_done_again() {
    let engine = failing(|n| n == 7);
    check_side_by_side(&engine, 20);
    check_free(&engine);
}

/// A window that all of the first batch is in, and most of which the second one pushes out of
/// the memory: that has 256 positions, the window's and a micro-batch's.
const WINDOW: u32 = 224;
const N_UBATCH: u32 = 32;
const N_BATCH: u32 = 200;

fn windowed() -> Model {
    let mut file = steady_file(Layout::GptOss);
    file.arch("attention.sliding_window", Value::U32(WINDOW));
    load(&mut file)
}

/// How likely each token of the vocabulary is after a prompt, and the first tokens of the
/// answer.
fn likelihoods(model: &Model, context: ContextParams, prompt: &[Token]) -> (Vec<f32>, Vec<Token>) {
    let context = context.with_n_batch(N_BATCH).with_n_ubatch(N_UBATCH);
    let engine = Engine::new(model, params(1).with_context(context)).unwrap();
    let request = greedy(prompt.to_vec(), 16).with_logprobs(n_vocab());
    let answer = answer(engine.submit(request).unwrap());
    let mut top = answer.logprobs[0].top.clone();
    top.sort_by_key(|token| token.token);
    (
        top.iter().map(|token| token.logprob).collect(),
        answer.tokens,
    )
}

#[test]
fn a_window_that_a_failed_batch_pushed_out_is_computed_again() {
    let model = windowed();
    let prompt = prompt(2 * N_BATCH as usize, 1);
    let (undisturbed, _) = likelihoods(&model, context(1024), &prompt);
    // The first batch has 7 micro-batches. Whichever of the second fails, the others are in the
    // memory.
    let callback = Fails::at("ffn_moe_topk-0", |n| n == 10);
    let context = context(1024).with_eval_callback(callback);
    let (after_failure, tokens) = likelihoods(&model, context, &prompt);
    assert_eq!(undisturbed.len(), n_vocab());
    let distance = distance(&undisturbed, &after_failure);
    assert!(distance < QUANTISED_BOUND, "{distance}");
    check_greedy(&model, &prompt, &tokens);
}

#[test]
fn no_prompt_begins_from_what_failed() {
    let engine = failing(|n| n == 3 || n == 4);
    let prompt = prompt(10, 1);
    let error = engine.submit(greedy(prompt.clone(), 20)).unwrap().wait();
    assert!(matches!(
        error.unwrap_err(),
        Error::Engine(EngineError::Compute { .. })
    ));
    let request = greedy(prompt.clone(), 20);
    let completion = engine.submit(request).unwrap().wait().unwrap();
    assert_eq!(completion.usage.cached_tokens, 0);
    check_greedy(&MODEL, &prompt, &completion.choices[0].tokens);
    check_free(&engine);
}

#[test]
fn computations_that_always_fail_end_each_request() {
    let engine = failing(|n| n >= 7);
    let streams: Vec<_> = (0..5)
        .map(|kind| engine.submit(greedy(prompt(10, kind), 50)).unwrap())
        .collect();
    for stream in streams {
        let error = stream.wait().unwrap_err();
        assert!(
            matches!(&error, Error::Engine(EngineError::Compute { .. })),
            "{error}"
        );
    }
    let stats = engine.stats();
    assert_eq!(stats.requests_failed, 5);
    assert_eq!((stats.requests_running, stats.slots_busy), (0, 0));
    let error = engine.submit(greedy(prompt(10, 1), 5)).unwrap().wait();
    assert!(error.is_err());
}
