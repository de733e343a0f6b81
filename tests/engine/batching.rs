//! Many requests at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use llama_moe::engine::{Engine, EngineParams, Event, Request, Stream};
use llama_moe::{Candidates, EvalCallback, EvalTensor, FinishReason, Overflow};

use crate::rig::{
    Gate, MODEL, WINDOWED, answer, begun, check_free, check_greedy, context, endless, engine,
    greedy, load, params, prompt, steady, wait_until,
};
use crate::support::layouts::Layout;
use crate::support::others;

fn all_greedy(engine: &Engine, lengths: &[(usize, u32)]) {
    let streams: Vec<(Vec<_>, Stream, u32)> = lengths
        .iter()
        .enumerate()
        .map(|(kind, &(n_prompt, n))| {
            let prompt = prompt(n_prompt, kind);
            let stream = engine.submit(greedy(prompt.clone(), n)).unwrap();
            (prompt, stream, n)
        })
        .collect();
    for (prompt, stream, n) in streams {
        let answer = answer(stream);
        assert_eq!(answer.finish, Some(FinishReason::Length));
        assert_eq!(answer.tokens.len(), n as usize);
        check_greedy(engine.model(), &prompt, &answer.tokens);
    }
}

const MIXED: [(usize, u32); 9] = [
    (3, 40),
    (70, 10),
    (1, 33),
    (150, 5),
    (20, 1),
    (33, 25),
    (64, 60),
    (7, 7),
    (90, 30),
];

#[test]
fn each_is_answered_as_if_alone() {
    let engine = engine(4);
    all_greedy(&engine, &MIXED);
    let stats = engine.stats();
    assert_eq!(stats.requests_done, MIXED.len() as u64);
    let n_tokens: u32 = MIXED.iter().map(|(_, n)| n).sum();
    assert_eq!(stats.completion_tokens, u64::from(n_tokens));
    assert!(stats.steps < u64::from(n_tokens), "{stats:?}");
}

#[test]
fn layouts_with_other_memories_are_answered_too() {
    let deepseek = steady(Layout::DeepSeek2);
    let mamba = load(&mut others::recurrent());
    for model in [&*WINDOWED, &deepseek, &mamba] {
        let engine = Engine::new(model, params(3)).unwrap();
        all_greedy(&engine, &MIXED);
    }
}

/// Counts the graphs that are computed.
struct Graphs(Arc<AtomicU64>);

impl EvalCallback for Graphs {
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
        if tensor.name == "result_norm" {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    fn data(&mut self, _: &EvalTensor<'_>, _: &[u8]) {}
}

#[test]
fn answers_in_buffers_of_their_own_are_computed_together() {
    let n_graphs = Arc::new(AtomicU64::new(0));
    let context = context(1024).with_eval_callback(Graphs(Arc::clone(&n_graphs)));
    let params = params(4).with_kv_unified(false).with_context(context);
    let engine = Engine::new(&MODEL, params).unwrap();
    // The fifth has the third one's slot, and the sixth the first one's, so that the order in which
    // they came is not that of their slots.
    let lengths = [12, 240, 4, 240, 240, 240];
    let mut streams: Vec<Stream> = lengths
        .iter()
        .enumerate()
        .map(|(kind, &n)| engine.submit(greedy(prompt(4, kind), n)).unwrap())
        .collect();
    let last = streams.last_mut().unwrap();
    let texts = last.filter(|event| matches!(event, Ok(Event::Text { .. })));
    let mut counts = texts.map(|_| (engine.stats().steps, n_graphs.load(Ordering::Relaxed)));
    let (steps, graphs) = counts.next().unwrap();
    let (steps_then, graphs_then) = counts.nth(100).unwrap();
    let (n_steps, n_graphs) = (steps_then - steps, graphs_then - graphs);
    assert!(n_steps >= 50, "{n_steps} steps");
    // One is under way whenever somebody looks.
    assert!(
        n_graphs.abs_diff(n_steps) <= 2,
        "{n_graphs} graphs in {n_steps} steps"
    );
}

#[test]
fn slots_can_have_buffers_of_their_own() {
    let deepseek = steady(Layout::DeepSeek2);
    let mamba = load(&mut others::recurrent());
    for model in [&*MODEL, &*WINDOWED, &deepseek, &mamba] {
        let params = params(4).with_kv_unified(false);
        let engine = Engine::new(model, params).unwrap();
        assert_eq!(engine.n_ctx_per_request(), Some(256));
        all_greedy(&engine, &MIXED);
        let prompt = prompt(40, 2);
        let request = greedy(prompt.clone(), 20).with_n(3);
        for choice in engine.submit(request).unwrap().wait().unwrap().choices {
            check_greedy(model, &prompt, &choice.tokens);
        }
        assert_eq!(engine.stats().preempted, 0);
        check_free(&engine);
    }
}

#[test]
fn a_buffer_is_not_copied_for_a_short_prompt_of_several_answers() {
    // A slot has 256 positions, and 32 of them are the fewest that are copied. Who has no copy
    // has its first token a step later.
    for (n_prompt, n_steps) in [(32, 20), (31, 21)] {
        let engine = Engine::new(&MODEL, params(4).with_kv_unified(false)).unwrap();
        // What the slots hold of it is not what the next one begins as.
        let other = greedy(prompt(60, 1), 5).with_n(4);
        engine.submit(other).unwrap().wait().unwrap();
        let n_before = engine.stats().steps;
        let prompt = prompt(n_prompt, 2);
        let request = greedy(prompt.clone(), 20).with_n(3);
        let completion = engine.submit(request).unwrap().wait().unwrap();
        assert_eq!(engine.stats().steps - n_before, n_steps);
        for choice in completion.choices {
            assert_eq!(choice.tokens.len(), 20);
            check_greedy(&MODEL, &prompt, &choice.tokens);
        }
        check_free(&engine);
    }
}

#[test]
fn answers_go_on_beside_a_long_prompt() {
    // An answer of 20 tokens has one in each of 20 steps, which leaves the prompt 19 times 16 of
    // its 400 tokens. The rest takes one step, and 9 more tokens are generated. And in an answer
    // of 500 tokens is room for all of this: it has its token in every step.
    for (n, n_steps) in [(20, 30), (500, 500)] {
        let engine = Engine::new(&MODEL, params(2).with_prefill_chunk(16)).unwrap();
        let (request, gate) = Gate::new(n);
        let going_on = engine.submit(request).unwrap();
        gate.wait();
        let long = prompt(400, 1);
        let beside = engine.submit(greedy(long.clone(), 10)).unwrap();
        drop(gate);
        let beside = answer(beside);
        assert_eq!(beside.tokens.len(), 10);
        check_greedy(&MODEL, &long, &beside.tokens);
        assert_eq!(answer(going_on).tokens.len(), n as usize);
        assert_eq!(engine.stats().steps, n_steps);
    }
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one() {
    let engine = Engine::new(&MODEL, params(3).with_prefill_chunk(16)).unwrap();
    let (request, gate) = Gate::new(100);
    let going_on = engine.submit(request).unwrap();
    gate.wait();
    let long = engine.submit(greedy(prompt(400, 1), 1)).unwrap();
    let short = engine.submit(greedy(prompt(30, 2), 1)).unwrap();
    drop(gate);
    // They begin in one step, the long one first. Of 16 tokens a step each has 8, so the short one
    // has its first token after 4 steps, and the long one after 27.
    let [long, short] = [long, short].map(|stream| stream.wait().unwrap().timings.prefill);
    assert!(short < long, "{short:?} and {long:?}");
    answer(going_on);
}

#[test]
fn of_two_long_prompts_the_first_begins_as_if_it_were_alone() {
    let engine = Engine::new(&MODEL, params(3).with_prefill_chunk(16)).unwrap();
    let (request, gate) = Gate::new(100);
    let going_on = engine.submit(request).unwrap();
    gate.wait();
    let begun_in = Arc::new(Mutex::new(Vec::new()));
    let streams = [1, 2].map(|kind| {
        let (begun_in, asked) = (Arc::clone(&begun_in), engine.clone());
        let request = greedy(prompt(200, kind), 1).with_sampler(move |chain, _| {
            let (begun_in, asked) = (Arc::clone(&begun_in), asked.clone());
            let note = move |_: &mut Candidates| {
                begun_in.lock().unwrap().push((kind, asked.stats().steps));
            };
            chain.custom_fn("step", note).greedy()
        });
        engine.submit(request).unwrap()
    });
    drop(gate);
    for stream in streams {
        assert_eq!(answer(stream).tokens.len(), 1);
    }
    // 200 tokens take 12 steps and a half, and the second prompt has the other half.
    let [(1, first), (2, second)] = begun_in.lock().unwrap()[..] else {
        panic!("another order: {begun_in:?}");
    };
    assert_eq!(second - first, 12);
    answer(going_on);
}

#[test]
fn the_first_to_come_is_the_first_to_begin() {
    let engine = engine(1);
    let mut running = engine.submit(endless(9)).unwrap();
    begun(&mut running);
    let order = Arc::new(Mutex::new(Vec::new()));
    let streams: Vec<Stream> = (0..5)
        .map(|kind| {
            let order = Arc::clone(&order);
            let request = greedy(prompt(10, kind), 3).with_sampler(move |chain, _| {
                let order = Arc::clone(&order);
                let chain = chain.custom_fn("order", move |_| order.lock().unwrap().push(kind));
                chain.greedy()
            });
            engine.submit(request).unwrap()
        })
        .collect();
    assert_eq!(engine.stats().requests_queued, 5);
    drop(running);
    for stream in streams {
        assert_eq!(answer(stream).tokens.len(), 3);
    }
    let mut order = order.lock().unwrap().clone();
    order.dedup();
    assert_eq!(order, [0, 1, 2, 3, 4]);
}

/// So little memory that not all can be generated at a time.
fn tight() -> EngineParams {
    EngineParams::default()
        .with_slots(4)
        .with_context(context(256))
}

#[test]
fn where_memory_is_short_the_last_to_begin_waits() {
    let engine = Engine::new(&MODEL, tight()).unwrap();
    all_greedy(
        &engine,
        &[(20, 130), (20, 130), (20, 130), (20, 130), (150, 20)],
    );
    assert!(engine.stats().preempted > 0, "{:?}", engine.stats());
    check_free(&engine);
}

#[test]
fn several_answers_wait_for_memory_too() {
    let engine = Engine::new(&MODEL, tight()).unwrap();
    let prompt = prompt(60, 1);
    let other = engine.submit(greedy(prompt[..50].to_vec(), 100)).unwrap();
    let completion = engine
        .submit(greedy(prompt.clone(), 120).with_n(3))
        .unwrap()
        .wait()
        .unwrap();
    for choice in &completion.choices {
        assert_eq!(choice.tokens.len(), 120);
        check_greedy(&MODEL, &prompt, &choice.tokens);
    }
    check_greedy(&MODEL, &prompt[..50], &answer(other).tokens);
    check_free(&engine);
}

#[test]
fn who_waits_for_memory_goes_on_as_soon_as_what_it_does_not_share_has_room() {
    let params = tight().with_slots(5).with_prefill_chunk(4);
    let engine = Engine::new(&MODEL, params).unwrap();
    let prompt = prompt(100, 1);
    answer(engine.submit(greedy(prompt.clone(), 1)).unwrap());
    let (request, gate) = Gate::new(1);
    let held = engine.submit(request).unwrap();
    gate.wait();
    let order = Arc::new(Mutex::new(Vec::new()));
    // They begin in one step and share the prompt. After 39 tokens of each, 256 positions are
    // full, and the last one waits. When the second and the third have ended, it has to compute
    // 39 tokens again, 4 in a step, and has 21 to go: the first one, with 45, takes longer.
    // With its prompt, it would have to compute 139.
    let streams = [90, 45, 45, 60].map(|n| {
        let order = Arc::clone(&order);
        let request = greedy(prompt.clone(), n).with_sampler(move |chain, _| {
            let order = Arc::clone(&order);
            let chain = chain.custom_fn("order", move |_| order.lock().unwrap().push(n));
            chain.greedy()
        });
        (n, engine.submit(request).unwrap())
    });
    drop(gate);
    for (n, stream) in streams {
        let answer = answer(stream);
        assert_eq!(answer.tokens.len(), n as usize);
        check_greedy(&MODEL, &prompt, &answer.tokens);
    }
    answer(held);
    assert_eq!(engine.stats().preempted, 1);
    let order = order.lock().unwrap();
    let last_of = |n: u32| order.iter().rposition(|&other| other == n);
    assert!(last_of(60) < last_of(90), "{order:?}");
    check_free(&engine);
}

#[test]
fn what_is_shared_with_a_free_slot_needs_room_too() {
    let engine = Engine::new(&MODEL, tight()).unwrap();
    let system = prompt(100, 1);
    let with = |kind: usize| [&system[..], &prompt(31, kind)[1..]].concat();
    answer(engine.submit(greedy(with(2), 8)).unwrap());
    let request = Request::new(with(3)).with_greedy();
    let mut running = engine
        .submit(request.with_overflow(Overflow::Shift))
        .unwrap();
    begun(&mut running);
    let stats = wait_until(&engine, |now| now.cached_tokens == 100);
    // There are 256 positions. The one has 130 of them at least, and this needs 140.
    let waiting = engine.submit(greedy(prompt(140, 4), 5)).unwrap();
    let stats = wait_until(&engine, |now| now.steps > stats.steps + 5);
    assert_eq!((stats.requests_running, stats.requests_queued), (1, 1));
    drop(running);
    assert_eq!(answer(waiting).tokens.len(), 5);
    assert_eq!(engine.stats().preempted, 0);
    check_free(&engine);
}

#[test]
fn an_answer_ends_where_its_room_does() {
    let engine = Engine::new(&MODEL, tight().with_n_ctx_per_request(100)).unwrap();
    for (n_prompt, n_tokens) in [(60, 41), (99, 2), (100, 1)] {
        let prompt = prompt(n_prompt, 1);
        let request = Request::new(prompt.clone()).with_greedy();
        let answer = answer(engine.submit(request).unwrap());
        assert_eq!(answer.finish, Some(FinishReason::ContextFull));
        assert_eq!(answer.tokens.len(), n_tokens);
        check_greedy(&MODEL, &prompt, &answer.tokens);
    }
}

#[test]
fn an_answer_can_leave_out_its_beginning() {
    for model in [&*MODEL, &*WINDOWED, &load(&mut others::recurrent())] {
        let params = tight().with_n_ctx_per_request(100);
        let engine = Engine::new(model, params).unwrap();
        let prompt = prompt(20, 1);
        let request = greedy(prompt.clone(), 300).with_overflow(Overflow::Shift);
        let answer = answer(engine.submit(request).unwrap());
        assert_eq!(answer.finish, Some(FinishReason::Length));
        assert_eq!(answer.tokens.len(), 300);
        // It has room for 80 tokens, and one that is not computed. Then 40 go.
        check_greedy(model, &prompt, &answer.tokens[..81]);
        let left = [&prompt[..], &answer.tokens[40..81]].concat();
        check_greedy(model, &left, &answer.tokens[81..121]);
        check_free(&engine);
    }
}

#[test]
fn a_prompt_that_leaves_no_room_is_not_shifted() {
    let engine = Engine::new(&MODEL, tight().with_n_ctx_per_request(100)).unwrap();
    let request = greedy(prompt(98, 1), 50).with_overflow(Overflow::Shift);
    let answer = answer(engine.submit(request).unwrap());
    assert_eq!(answer.finish, Some(FinishReason::ContextFull));
    assert_eq!(answer.tokens.len(), 3);
}

#[test]
fn handles_are_shared_between_threads() {
    let engine = engine(4);
    thread::scope(|scope| {
        for kind in 0..8 {
            let engine = engine.clone();
            scope.spawn(move || {
                for round in 0..3 {
                    let prompt = prompt(5 + kind * 9, kind * 3 + round);
                    let stream = engine.submit_wait(greedy(prompt.clone(), 12)).unwrap();
                    check_greedy(&MODEL, &prompt, &answer(stream).tokens);
                }
            });
        }
    });
    assert_eq!(engine.stats().requests_done, 24);
    check_free(&engine);
}
