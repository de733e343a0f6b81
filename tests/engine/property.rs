//! Whatever comes, when, and how long: each answer is what it is alone, and no slot is lost.

use std::thread;
use std::time::Duration;

use llama_moe::engine::{Completion, DraftParams, Engine, EngineParams, Stream};
use llama_moe::{EvalCallback, EvalTensor, FinishReason};
use proptest::prelude::*;

use crate::rig::{MODEL, WINDOWED, check_free, check_greedy, context, greedy, prompt};

#[derive(Clone, Debug)]
struct Arrival {
    /// Milliseconds after the one before.
    after: u64,
    n_prompt: usize,
    /// Prompts of one kind begin alike.
    kind: usize,
    n_tokens: u32,
    n: u32,
    /// Read so many events, then drop the stream.
    cancelled_after: Option<usize>,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    (
        prop_oneof![Just(0), 0..20u64],
        1..180usize,
        0..3usize,
        1..40u32,
        prop_oneof![4 => Just(1), 1 => 2..=3u32],
        prop_oneof![3 => Just(None), 1 => (0..20usize).prop_map(Some)],
    )
        .prop_map(
            |(after, n_prompt, kind, n_tokens, n, cancelled_after)| Arrival {
                after,
                n_prompt,
                kind,
                n_tokens,
                n,
                cancelled_after,
            },
        )
}

/// Fails the computation with this number, by panicking.
struct FailsOnce(Option<usize>);

impl EvalCallback for FailsOnce {
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
        // Each computation has it once.
        self.0.is_some() && tensor.name == "result_output"
    }

    fn data(&mut self, _: &EvalTensor<'_>, _: &[u8]) {
        self.0 = match self.0 {
            Some(0) => None,
            left => left.map(|n| n - 1),
        };
        assert!(self.0.is_some(), "by order");
    }
}

/// Reads an answer as it comes, all of it or up to where it is cancelled.
fn read(arrival: &Arrival, mut stream: Stream) -> Option<Completion> {
    let Some(n_events) = arrival.cancelled_after else {
        return Some(stream.wait().unwrap());
    };
    assert!(stream.by_ref().take(n_events).all(|event| event.is_ok()));
    None
}

fn answers_are_right(engine: &Engine, arrivals: &[Arrival]) {
    let completions: Vec<Option<Completion>> = thread::scope(|scope| {
        let readers: Vec<_> = arrivals
            .iter()
            .map(|arrival| {
                thread::sleep(Duration::from_millis(arrival.after));
                let request = greedy(prompt(arrival.n_prompt, arrival.kind), arrival.n_tokens);
                let stream = engine.submit(request.with_n(arrival.n)).unwrap();
                scope.spawn(|| read(arrival, stream))
            })
            .collect();
        let readers = readers.into_iter();
        readers.map(|reader| reader.join().unwrap()).collect()
    });
    for (arrival, completion) in arrivals.iter().zip(completions) {
        let Some(completion) = completion else {
            continue;
        };
        assert_eq!(completion.choices.len(), arrival.n as usize);
        for choice in completion.choices {
            assert_eq!(choice.finish, Some(FinishReason::Length));
            assert_eq!(choice.tokens.len(), arrival.n_tokens as usize);
            let prompt = prompt(arrival.n_prompt, arrival.kind);
            check_greedy(engine.model(), &prompt, &choice.tokens);
        }
    }
    check_free(engine);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn each_answer_is_right_and_no_slot_is_lost(
        arrivals in prop::collection::vec(arrival(), 1..12),
        slots in 3..6u32,
        chunk in prop_oneof![Just(None), (1..40u32).prop_map(Some)],
        n_ctx in prop_oneof![Just(256u32), Just(1024)],
        windowed: bool,
        kv_unified: bool,
        failing in prop_oneof![Just(None), (0..60usize).prop_map(Some)],
        // None, or one that is often right or rarely.
        draft in prop_oneof![2 => Just(None), 1 => Just(Some(&*MODEL)), 1 => Just(Some(&*WINDOWED))],
        n_draft in 1..16u32,
    ) {
        let mut context = context(if kv_unified { n_ctx } else { 256 * slots })
            .with_n_batch(64)
            .with_n_ubatch(32);
        if failing.is_some() {
            context = context.with_eval_callback(FailsOnce(failing));
        }
        let mut params = EngineParams::default()
            .with_slots(slots)
            .with_kv_unified(kv_unified)
            .with_context(context);
        if let Some(chunk) = chunk {
            params = params.with_prefill_chunk(chunk);
        }
        if let Some(draft) = draft {
            params = params.with_draft(DraftParams::new(draft).with_n_draft(n_draft));
        }
        let model = if windowed { &*WINDOWED } else { &*MODEL };
        let engine = Engine::new(model, params).unwrap();
        answers_are_right(&engine, &arrivals);
    }
}
