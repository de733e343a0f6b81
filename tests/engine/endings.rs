//! Requests and engines that end early.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use llama_moe::engine::{Engine, EngineError, Event, Request, Stream};
use llama_moe::{Error, FinishReason};

use crate::rig::{
    Gate, MODEL, answer, begun, check_cancelled, check_free, check_greedy, context, endless,
    engine, greedy, params, prompt, wait_until,
};

fn is_stopped<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Engine(EngineError::Stopped)))
}

/// Counts how often it is asked for a token, slowly, and goes on for ever.
fn counting(count: &Arc<AtomicUsize>) -> Request {
    let count = Arc::clone(count);
    Request::new(prompt(10, 1)).with_sampler(move |chain, _| {
        let count = Arc::clone(&count);
        let chain = chain.custom_fn("counts", move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(20));
        });
        chain.greedy()
    })
}

#[test]
fn a_dropped_stream_frees_its_slot_within_a_step() {
    let engine = engine(1);
    let count = Arc::new(AtomicUsize::new(0));
    let mut stream = engine.submit(counting(&count)).unwrap();
    begun(&mut stream);
    drop(stream);
    let before = count.load(Ordering::SeqCst);
    let stats = wait_until(&engine, |stats| stats.requests_cancelled == 1);
    assert!(count.load(Ordering::SeqCst) <= before + 1);
    assert_eq!((stats.slots_busy, stats.requests_done), (0, 0));
    check_free(&engine);
}

#[test]
fn several_answers_are_cancelled_together() {
    let engine = engine(4);
    check_cancelled(&engine, 3);
}

#[test]
fn a_request_that_waits_is_cancelled_too() {
    let engine = engine(1);
    let mut first = engine.submit(endless(1)).unwrap();
    begun(&mut first);
    drop(engine.submit(endless(2)).unwrap());
    wait_until(&engine, |stats| {
        stats.requests_queued == 0 && stats.requests_cancelled == 1
    });
    drop(first);
    check_free(&engine);
}

#[test]
fn a_full_queue_refuses_or_makes_wait() {
    let engine = Engine::new(&MODEL, params(1).with_queue(1)).unwrap();
    let mut running = engine.submit(endless(1)).unwrap();
    begun(&mut running);
    let waiting = engine.submit(greedy(prompt(10, 2), 5)).unwrap();
    let error = engine.submit(endless(3)).unwrap_err();
    assert!(
        matches!(error, Error::Engine(EngineError::QueueFull { queue: 1 })),
        "{error}"
    );
    assert_eq!(engine.stats().requests_refused, 1);

    thread::scope(|scope| {
        let patient = scope.spawn(|| {
            let prompt = prompt(10, 4);
            let stream = engine.submit_wait(greedy(prompt.clone(), 5)).unwrap();
            check_greedy(&MODEL, &prompt, &answer(stream).tokens);
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!patient.is_finished());
        drop(running);
        answer(waiting);
        patient.join().unwrap();
    });
    check_free(&engine);
}

#[test]
fn who_finds_a_free_slot_does_not_wait() {
    let engine = Engine::new(&MODEL, params(5).with_queue(1)).unwrap();
    let (request, gate) = Gate::new(3);
    let mut streams = vec![engine.submit(request).unwrap()];
    gate.wait();
    // Until the thread goes on, it does not look at those that come.
    for kind in 1..=5 {
        streams.push(engine.submit(greedy(prompt(10, kind), 3)).unwrap());
    }
    let error = engine.submit(greedy(prompt(10, 6), 3)).unwrap_err();
    assert!(
        matches!(error, Error::Engine(EngineError::QueueFull { queue: 1 })),
        "{error}"
    );
    drop(gate);
    for stream in streams {
        assert_eq!(answer(stream).tokens.len(), 3);
    }
    check_free(&engine);
}

#[test]
fn slots_are_not_free_for_whom_there_is_no_memory() {
    let params = params(3).with_context(context(256)).with_queue(1);
    let engine = Engine::new(&MODEL, params).unwrap();
    let mut running = engine.submit(endless(1)).unwrap();
    begun(&mut running);
    let waiting = engine.submit(greedy(prompt(250, 2), 3)).unwrap();
    // Two slots are free, but the one who waits comes first.
    let steps = engine.stats().steps;
    wait_until(&engine, |stats| stats.steps > steps + 3);
    let error = engine.submit(greedy(prompt(10, 3), 3)).unwrap_err();
    assert!(
        matches!(error, Error::Engine(EngineError::QueueFull { .. })),
        "{error}"
    );
    drop(running);
    assert_eq!(answer(waiting).tokens.len(), 3);
    check_free(&engine);
}

#[test]
fn who_has_left_the_queue_is_running() {
    let engine = engine(2);
    let (request, gate) = Gate::new(1);
    let stream = engine.submit(request).unwrap();
    gate.wait();
    // It is in its first step.
    let stats = engine.stats();
    assert_eq!((stats.requests_queued, stats.requests_running), (0, 1));
    assert_eq!(stats.slots_busy, 1);
    drop(gate);
    answer(stream);
    check_free(&engine);
}

fn finishes(stream: Stream) -> Vec<FinishReason> {
    let completion = stream.wait().unwrap();
    let choices = completion.choices.into_iter();
    choices.filter_map(|choice| choice.finish).collect()
}

#[test]
fn a_deadline_ends_an_answer() {
    let engine = engine(2);
    let start = Instant::now();
    let deadline = Duration::from_secs(1);
    let request = endless(1).with_deadline(deadline);
    let answer = answer(engine.submit(request).unwrap());
    assert_eq!(answer.finish, Some(FinishReason::Deadline));
    assert!(!answer.text.is_empty());
    assert!(start.elapsed() >= deadline);
    check_free(&engine);
}

#[test]
fn a_deadline_passes_in_the_queue_too() {
    let engine = engine(2);
    let mut running = engine.submit(endless(1).with_n(2)).unwrap();
    begun(&mut running);
    let request = endless(2).with_n(2).with_deadline(Duration::from_millis(1));
    let stream = engine.submit(request).unwrap();
    assert_eq!(finishes(stream), vec![FinishReason::Deadline; 2]);
    // Who has read the end finds it counted.
    assert_eq!(engine.stats().requests_done, 1);
    drop(running);
    check_free(&engine);
}

#[test]
fn shutting_down_finishes_what_was_begun() {
    let engine = engine(1);
    let streams: Vec<Stream> = (0..3)
        .map(|kind| engine.submit(greedy(prompt(10, kind), 20)).unwrap())
        .collect();
    engine.shutdown();
    assert!(engine.is_stopped());
    assert!(is_stopped(engine.submit(endless(1))));
    assert!(is_stopped(engine.submit_wait(endless(1))));
    assert!(is_stopped(engine.embed(vec![prompt(5, 1)])));
    for (kind, stream) in streams.into_iter().enumerate() {
        check_greedy(&MODEL, &prompt(10, kind), &answer(stream).tokens);
    }
    engine.shutdown();
    engine.stop();
}

#[test]
fn stopping_ends_everything() {
    let engine = engine(1);
    let mut running = engine.submit(endless(1)).unwrap();
    let waiting = engine.submit(endless(2)).unwrap();
    begun(&mut running);
    engine.stop();
    let last = running.last().unwrap();
    assert!(is_stopped(last));
    assert!(is_stopped(waiting.wait()));
    assert!(is_stopped(engine.submit(endless(1))));
    let stats = engine.stats();
    assert_eq!((stats.slots_busy, stats.requests_running), (0, 0));
}

#[test]
fn the_last_handle_stops_the_engine() {
    let engine = engine(1);
    let other = engine.clone();
    let mut running = engine.submit(endless(1)).unwrap();
    begun(&mut running);
    drop(engine);
    assert!(matches!(running.next(), Some(Ok(Event::Text { .. }))));
    drop(other);
    assert!(is_stopped(running.last().unwrap()));
}

#[test]
fn those_who_wait_for_room_hear_of_the_end() {
    let engine = Engine::new(&MODEL, params(1).with_queue(1)).unwrap();
    let mut running = engine.submit(endless(1)).unwrap();
    begun(&mut running);
    let _waiting = engine.submit(endless(2)).unwrap();
    thread::scope(|scope| {
        let patient = scope.spawn(|| engine.submit_wait(endless(3)));
        thread::sleep(Duration::from_millis(20));
        engine.stop();
        assert!(is_stopped(patient.join().unwrap()));
    });
}
