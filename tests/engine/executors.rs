//! Streams and waiting on any executor: here, the smallest one that there can be.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use futures_core::Stream as _;
use llama_moe::engine::{Completion, Engine, EngineError, Stream};
use llama_moe::{Error, FinishReason, Result};

use crate::rig::{
    MODEL, begun, check_free, check_greedy, endless, engine, greedy, params, prompt, unvarying,
    wait_until,
};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

async fn collect(mut stream: Stream) -> Result<Completion> {
    let mut completion = Completion::default();
    while let Some(event) = poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await {
        completion.push(event?);
    }
    Ok(completion)
}

#[test]
fn a_stream_is_polled() {
    let engine = unvarying();
    let prompt = prompt(10, 1);
    let request = greedy(prompt.clone(), 30);
    let polled = block_on(async { collect(engine.submit_async(request.clone()).await?).await });
    let polled = polled.unwrap();
    check_greedy(&MODEL, &prompt, &polled.choices[0].tokens);
    let complete = block_on(engine.submit(request).unwrap().complete()).unwrap();
    assert_eq!(polled.choices, complete.choices);
}

#[test]
fn a_task_waits_for_room() {
    let engine = Engine::new(&MODEL, params(1).with_queue(1)).unwrap();
    let mut running = engine.submit(endless(1)).unwrap();
    begun(&mut running);
    let waiting = engine.submit(greedy(prompt(10, 2), 3)).unwrap();
    thread::scope(|scope| {
        let patient = scope.spawn(|| {
            let request = greedy(prompt(10, 3), 3);
            block_on(async { engine.submit_async(request).await?.complete().await })
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!patient.is_finished());
        drop(running);
        waiting.wait().unwrap();
        let completion = patient.join().unwrap().unwrap();
        assert_eq!(completion.usage.completion_tokens, 3);
    });
    check_free(&engine);
}

#[test]
fn a_future_that_is_dropped_asks_for_nothing() {
    let engine = Engine::new(&MODEL, params(1).with_queue(1)).unwrap();
    let mut running = engine.submit(endless(1)).unwrap();
    begun(&mut running);
    let _waiting = engine.submit(greedy(prompt(10, 2), 3)).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut future = pin!(engine.submit_async(greedy(prompt(10, 3), 3)));
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
    drop(running);
    check_free(&engine);
    // The one that waited, and those of the check.
    assert_eq!(engine.stats().requests_done, 1 + 1);
}

#[test]
fn those_who_wait_for_room_come_in_in_their_order() {
    let engine = Engine::new(&MODEL, params(1).with_queue(1)).unwrap();
    let mut running = engine.submit(endless(1)).unwrap();
    begun(&mut running);
    let order = Arc::new(Mutex::new(Vec::new()));
    let ordered = |number: usize| {
        let order = Arc::clone(&order);
        greedy(prompt(10, number), 2).with_sampler(move |chain, _| {
            let order = Arc::clone(&order);
            let chain = chain.custom_fn("order", move |_| order.lock().unwrap().push(number));
            chain.greedy()
        })
    };
    let first = engine.submit(ordered(0)).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut patient: Vec<_> = (1..5)
        .map(|number| Box::pin(engine.submit_async(ordered(number))))
        .collect();
    for future in &mut patient {
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
    drop(patient.remove(1));
    drop(running);
    // Nobody polls them, and they hold up nobody.
    wait_until(&engine, |stats| stats.requests_queued == 0);
    first.wait().unwrap();
    let late = engine.submit_wait(ordered(5)).unwrap();
    for future in patient {
        let completion = block_on(async { future.await?.complete().await }).unwrap();
        assert_eq!(completion.usage.completion_tokens, 2);
    }
    late.wait().unwrap();
    let mut order = order.lock().unwrap().clone();
    order.dedup();
    assert_eq!(order, [0, 1, 3, 4, 5]);
    assert_eq!(engine.stats().requests_cancelled, 1);
    check_free(&engine);
}

#[test]
fn a_deadline_passes_while_there_is_no_room() {
    let engine = Engine::new(&MODEL, params(1).with_queue(1)).unwrap();
    let mut running = engine.submit(endless(1)).unwrap();
    begun(&mut running);
    let waiting = engine.submit(endless(2)).unwrap();
    let late = || endless(3).with_deadline(Duration::from_millis(1));
    let blocking = engine.submit_wait(late()).unwrap().wait().unwrap();
    let polled = block_on(async { engine.submit_async(late()).await?.complete().await });
    for completion in [blocking, polled.unwrap()] {
        assert_eq!(completion.choices[0].finish, Some(FinishReason::Deadline));
    }
    drop((running, waiting));
    check_free(&engine);
}

/// What an executor with several threads asks for.
fn can_move<T: Send>(value: T) -> T {
    value
}

#[test]
fn futures_move_between_threads() {
    let engine = engine(1);
    let stream = block_on(can_move(engine.submit_async(greedy(prompt(5, 1), 3)))).unwrap();
    assert_eq!(
        block_on(can_move(stream.complete()))
            .unwrap()
            .usage
            .completion_tokens,
        3
    );
    block_on(can_move(engine.embed(vec![prompt(5, 1)]).unwrap())).unwrap();
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("by order");
    }
}

#[test]
fn a_waker_that_panics_harms_nobody() {
    let engine = engine(2);
    let waker = Waker::from(Arc::new(Panics));
    let mut context = Context::from_waker(&waker);
    let mut stream = engine.submit(greedy(prompt(10, 1), 20)).unwrap();
    let mut n_polled = 0;
    while !matches!(stream.poll_event(&mut context), Poll::Ready(None)) {
        n_polled += 1;
        thread::yield_now();
    }
    assert!(n_polled > 5);
    check_free(&engine);
    engine.stop();
}

#[test]
fn embeddings_are_awaited() {
    let engine = engine(1);
    let embeddings = block_on(engine.embed(vec![prompt(5, 1), prompt(9, 2)]).unwrap()).unwrap();
    assert_eq!(embeddings.len(), 2);
}

#[test]
fn a_task_hears_of_the_end() {
    let engine = engine(1);
    let stream = engine.submit(endless(1)).unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| block_on(stream.complete()));
        thread::sleep(Duration::from_millis(20));
        engine.stop();
        let error = reader.join().unwrap().unwrap_err();
        assert!(
            matches!(error, Error::Engine(EngineError::Stopped)),
            "{error}"
        );
    });
}
