//! Answers that a smaller model guesses at: they are what they are without.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use llama_moe::engine::{DraftParams, Engine, EngineError, EngineParams, Request, Usage};
use llama_moe::{Candidate, Error, FinishReason, Model, Overflow, Token};

use crate::rig::{
    Fails, MODEL, WINDOWED, answer, begun, check_cancelled, check_free, check_greedy,
    check_logprobs, check_side_by_side, context, engine, greedy, load, params, prompt, steady,
    wait_until,
};
use crate::support::decode::n_vocab;
use crate::support::gguf::{GgufWriter, TensorType};
use crate::support::layouts::{self, Layout, N_EMBD, TOKEN_BOS, TOKEN_IM_END, TokenKind};
use crate::support::others;

/// A model that is often right about what [`MODEL`] says: both walk through the vocabulary.
static RELATED: LazyLock<Model> = LazyLock::new(|| steady(Layout::Glm4Moe));

/// One with the same vocabulary that has nothing else in common with it.
static STRANGER: LazyLock<Model> =
    LazyLock::new(|| load(&mut with_vocabulary(&layouts::vocabulary())));

fn drafted_by(draft: &Model, params: EngineParams) -> Engine {
    Engine::new(&MODEL, params.with_draft(DraftParams::new(draft))).unwrap()
}

/// The answer to a request that is the only one.
fn ask(engine: &Engine, request: Request) -> (Vec<Token>, String, Usage) {
    let mut completion = engine.submit(request).unwrap().wait().unwrap();
    assert_eq!(completion.choices.len(), 1);
    let choice = completion.choices.remove(0);
    (choice.tokens, choice.text, completion.usage)
}

/// A greedy request, and how often its sampler has been run.
fn counted(prompt: Vec<Token>) -> (Request, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let request = Request::new(prompt).with_sampler(move |chain, _| {
        let counter = Arc::clone(&counter);
        let count = move |_: &mut _| {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        chain.custom_fn("counts", count).greedy()
    });
    (request, count)
}

#[test]
fn what_the_model_would_say_is_accepted() {
    let engine = drafted_by(&MODEL, params(2));
    let prompt = prompt(20, 1);
    let (tokens, _, usage) = ask(&engine, greedy(prompt.clone(), 100));
    check_greedy(&MODEL, &prompt, &tokens);
    assert_eq!(usage.completion_tokens, 100);
    // Rounding now and then decides for another token.
    assert!(
        usage.accepted_tokens * 10 >= usage.drafted_tokens * 8,
        "{usage:?}"
    );
    assert!(usage.accepted_tokens >= 60, "{usage:?}");
    let stats = engine.stats();
    assert_eq!(stats.drafted_tokens, usage.drafted_tokens as u64);
    assert_eq!(stats.accepted_tokens, usage.accepted_tokens as u64);
    assert_eq!(stats.drafts_failed, 0);
    // Each step has one token that was not guessed.
    assert_eq!(stats.steps, 100 - stats.accepted_tokens);
    check_free(&engine);
}

#[test]
fn what_it_would_not_say_is_refused() {
    let context = context(1024).with_n_batch(8).with_n_ubatch(8);
    let engine = drafted_by(&RELATED, params(2).with_context(context));
    let prompt = prompt(24, 1);
    let (tokens, _, usage) = ask(&engine, greedy(prompt.clone(), 300));
    check_greedy(&MODEL, &prompt, &tokens);
    let refused = usage.drafted_tokens - usage.accepted_tokens;
    assert!(usage.accepted_tokens > 50 && refused > 50, "{usage:?}");
    // Nothing but the prompt takes steps without a token, of which it has 2. So what was right is
    // not computed again.
    assert_eq!(
        engine.stats().steps as usize,
        2 + 300 - usage.accepted_tokens
    );
    check_free(&engine);
}

#[test]
fn guesses_that_are_always_wrong_become_rare() {
    let engine = drafted_by(&STRANGER, params(2));
    let prompt = prompt(20, 1);
    let (tokens, _, usage) = ask(&engine, greedy(prompt.clone(), 300));
    check_greedy(&MODEL, &prompt, &tokens);
    assert!((5..40).contains(&usage.drafted_tokens), "{usage:?}");
    assert!(usage.accepted_tokens < 5, "{usage:?}");
    check_free(&engine);
}

#[test]
fn as_many_are_guessed_as_is_said() {
    for (n_draft, fewest, most) in [(1, 50, 56), (4, 20, 26), (15, 7, 14)] {
        let draft = DraftParams::new(&MODEL).with_n_draft(n_draft);
        let engine = Engine::new(&MODEL, params(1).with_draft(draft)).unwrap();
        let prompt = prompt(20, 1);
        let (tokens, _, _) = ask(&engine, greedy(prompt.clone(), 101));
        check_greedy(&MODEL, &prompt, &tokens);
        let steps = engine.stats().steps;
        assert!((fewest..=most).contains(&steps), "{n_draft}: {steps}");
    }
}

/// Rounding now and then decides to which of two tokens a random number leads. With one number too
/// many or too few, hardly a text would be the same.
#[test]
fn a_seed_gives_the_same_text() {
    let no_draft = engine(1);
    let drafts = [&*MODEL, &*RELATED].map(|draft| drafted_by(draft, params(1)));
    let request = |seed: u32| {
        Request::new(prompt(20, seed as usize % 3))
            .with_sampler(|chain, seed| chain.penalties(64, 1.1, 0.1, 0.1).temp(1.5).dist(seed))
            .with_seed(seed)
            .with_max_tokens(20)
    };
    let mut n_equal = [0; 2];
    for seed in 0..20 {
        let expected = ask(&no_draft, request(seed)).0;
        for (n_equal, engine) in n_equal.iter_mut().zip(&drafts) {
            *n_equal += usize::from(ask(engine, request(seed)).0 == expected);
        }
    }
    assert!(n_equal.iter().all(|&n| n >= 12), "{n_equal:?}");
    let stats = drafts[0].stats();
    assert!(
        stats.drafted_tokens > stats.accepted_tokens && stats.accepted_tokens > 0,
        "{stats:?}"
    );
}

#[test]
fn a_grammar_is_kept_to() {
    let engine = drafted_by(&MODEL, params(2));
    let grammar = r#"root ::= ("yes" | "no") ", " [0-9]"#;
    let request = Request::new(prompt(20, 1)).with_grammar(grammar, "root");
    for seed in 0..6 {
        let choice = answer(engine.submit(request.clone().with_seed(seed)).unwrap());
        assert_eq!(choice.finish, Some(FinishReason::EndOfGeneration));
        let (word, digit) = choice.text.split_once(", ").unwrap();
        assert!(["yes", "no"].contains(&word), "{}", choice.text);
        assert!(digit.len() == 1 && digit.bytes().all(|byte| byte.is_ascii_digit()));
    }
    assert!(engine.stats().drafted_tokens > 0);
    check_free(&engine);
}

#[test]
#[cfg(feature = "llguidance")]
fn a_schema_is_kept_to() {
    let engine = drafted_by(&MODEL, params(2));
    let schema = serde_json::json!({
        "type": "object",
        "properties": { "memory": { "enum": ["RAM", "VRAM"] }, "on": { "type": "boolean" } },
        "required": ["memory", "on"],
        "additionalProperties": false,
    });
    let request = Request::new(prompt(20, 1)).with_json_schema(schema);
    for seed in 0..4 {
        let choice = answer(engine.submit(request.clone().with_seed(seed)).unwrap());
        assert_eq!(choice.finish, Some(FinishReason::EndOfGeneration));
        let value: serde_json::Value = serde_json::from_str(&choice.text).unwrap();
        assert!(
            value["memory"].is_string() && value["on"].is_boolean(),
            "{value}"
        );
    }
    assert!(engine.stats().drafted_tokens > 0);
    check_free(&engine);
}

#[test]
fn the_model_ends_an_answer_among_guesses() {
    let engine = drafted_by(&MODEL, params(1));
    let prompt = prompt(20, 1);
    let (expected, _, _) = ask(&engine, greedy(prompt.clone(), 20));
    // The likeliest tokens, which are guessed, and then an end, which is not.
    for n in 1..12 {
        let mut expected = expected.clone();
        expected.truncate(n);
        let said = expected.clone();
        let request = Request::new(prompt.clone()).with_sampler(move |chain, _| {
            let mut said = said.clone().into_iter();
            chain.select_fn("says", move |candidates| {
                let token = said.next().unwrap_or(Token(TOKEN_IM_END));
                candidates.iter().position(|c| c.token == token).unwrap()
            })
        });
        let completion = engine.submit(request).unwrap().wait().unwrap();
        let choice = &completion.choices[0];
        assert_eq!(choice.finish, Some(FinishReason::EndOfGeneration));
        assert_eq!(choice.tokens, expected);
        assert_eq!(completion.usage.completion_tokens, n + 1);
    }
    assert!(engine.stats().accepted_tokens > 30, "{:?}", engine.stats());
    check_free(&engine);
}

#[test]
fn a_stop_string_ends_an_answer_among_guesses() {
    let engine = drafted_by(&MODEL, params(1));
    let prompt = prompt(20, 1);
    let (_, text, _) = ask(&engine, greedy(prompt.clone(), 60));
    let characters: Vec<char> = text.chars().collect();
    for (start, length) in [(3, 1), (7, 2), (10, 7), (25, 15)] {
        let stop: String = characters[start..start + length].iter().collect();
        let (request, count) = counted(prompt.clone());
        let completion = engine
            .submit(
                request
                    .with_max_tokens(60)
                    .with_stop_strings([stop.as_str()]),
            )
            .unwrap()
            .wait()
            .unwrap();
        let choice = &completion.choices[0];
        assert_eq!(choice.text, text[..text.find(&stop).unwrap()]);
        assert_eq!(choice.finish, Some(FinishReason::Stop(stop)));
        // No sampler is asked for what comes after the end.
        assert_eq!(
            count.load(Ordering::SeqCst),
            completion.usage.completion_tokens
        );
    }
    check_free(&engine);
}

#[test]
fn an_answer_has_no_token_too_many() {
    let engine = drafted_by(&MODEL, params(1));
    let prompt = prompt(20, 1);
    for n in 1..12 {
        let (request, count) = counted(prompt.clone());
        let choice = answer(engine.submit(request.with_max_tokens(n)).unwrap());
        assert_eq!(choice.finish, Some(FinishReason::Length));
        assert_eq!(choice.tokens.len(), n as usize);
        assert_eq!(count.load(Ordering::SeqCst), n as usize);
        check_greedy(&MODEL, &prompt, &choice.tokens);
    }
    check_free(&engine);
}

#[test]
fn an_answer_ends_where_its_room_does() {
    let tight = params(2).with_context(context(256));
    let engine = drafted_by(&MODEL, tight.with_n_ctx_per_request(100));
    for (n_prompt, n_tokens) in [(60, 41), (97, 4), (99, 2), (100, 1)] {
        let prompt = prompt(n_prompt, 1);
        let request = Request::new(prompt.clone()).with_greedy();
        let completion = engine.submit(request).unwrap().wait().unwrap();
        let answer = &completion.choices[0];
        assert_eq!(answer.finish, Some(FinishReason::ContextFull));
        assert_eq!(answer.tokens.len(), n_tokens);
        check_greedy(&MODEL, &prompt, &answer.tokens);
        // Neither the first token is guessed, nor what comes when the room is full.
        let n_drafted = completion.usage.drafted_tokens;
        assert!(
            n_prompt < 90 || n_drafted <= n_tokens.saturating_sub(2),
            "{n_drafted}"
        );
    }
    let prompt = prompt(20, 1);
    let request = greedy(prompt.clone(), 300).with_overflow(Overflow::Shift);
    let (tokens, _, usage) = ask(&engine, request);
    assert_eq!(tokens.len(), 300);
    assert!(usage.accepted_tokens > 150, "{usage:?}");
    check_greedy(&MODEL, &prompt, &tokens[..81]);
    let left = [&prompt[..], &tokens[40..81]].concat();
    check_greedy(&MODEL, &left, &tokens[81..121]);
    check_free(&engine);
}

#[test]
fn room_that_guesses_lack_is_taken_from_nobody() {
    // All positions are one answer's, up to the last.
    let engine = drafted_by(&MODEL, params(1).with_context(context(256)));
    let prompt = prompt(30, 1);
    let choice = answer(
        engine
            .submit(Request::new(prompt.clone()).with_greedy())
            .unwrap(),
    );
    assert_eq!(choice.finish, Some(FinishReason::ContextFull));
    assert_eq!(choice.tokens.len(), 256 + 1 - 30);
    check_greedy(&MODEL, &prompt, &choice.tokens);
    check_free(&engine);

    // Two that need all of them together, which nobody knows before they end.
    let engine = drafted_by(&MODEL, params(2).with_context(context(256)));
    for n_tokens in 90..95 {
        let prompt = crate::rig::prompt(256 - 2 * n_tokens, 1);
        let request = Request::new(prompt.clone()).with_n(2);
        let completion = engine
            .submit(request.with_sampler(move |chain, _| {
                let mut n = 0;
                chain.select_fn("ends", move |candidates| {
                    n += 1;
                    let is_end = |c: &Candidate| n > n_tokens && c.token == Token(TOKEN_IM_END);
                    let indexed = candidates.iter().enumerate();
                    let best = indexed.max_by(|(_, a), (_, b)| a.logit.total_cmp(&b.logit));
                    let end = candidates.iter().position(is_end);
                    end.or(best.map(|(index, _)| index)).unwrap()
                })
            }))
            .unwrap()
            .wait()
            .unwrap();
        for choice in &completion.choices {
            assert_eq!(choice.finish, Some(FinishReason::EndOfGeneration));
            assert_eq!(choice.tokens.len(), n_tokens);
            check_greedy(&MODEL, &prompt, &choice.tokens);
        }
        assert!(completion.usage.accepted_tokens > n_tokens);
    }
    assert_eq!(engine.stats().preempted, 0);
    check_free(&engine);
}

#[test]
fn logprobs_are_the_models_own() {
    let engine = drafted_by(&MODEL, params(1));
    let prompt = prompt(20, 1);
    let request = greedy(prompt.clone(), 24).with_logprobs(n_vocab());
    let choice = answer(engine.submit(request).unwrap());
    assert_eq!(choice.logprobs.len(), choice.tokens.len());
    assert!(engine.stats().accepted_tokens > 10);
    for (token, told) in choice.tokens.iter().zip(&choice.logprobs) {
        assert_eq!(told.chosen.token, *token);
    }
    check_logprobs(&prompt, &choice);
}

#[test]
fn several_answers_are_guessed_at_together() {
    for draft in [&*MODEL, &*RELATED] {
        for kv_unified in [true, false] {
            let engine = drafted_by(draft, params(4).with_kv_unified(kv_unified));
            let prompts = [prompt(40, 1), prompt(3, 2)];
            let several = engine
                .submit(greedy(prompts[0].clone(), 50).with_n(3))
                .unwrap();
            let other = engine.submit(greedy(prompts[1].clone(), 60)).unwrap();
            let completion = several.wait().unwrap();
            assert_eq!(completion.usage.completion_tokens, 150);
            for choice in &completion.choices {
                assert_eq!(choice.finish, Some(FinishReason::Length));
                check_greedy(&MODEL, &prompts[0], &choice.tokens);
            }
            check_greedy(&MODEL, &prompts[1], &answer(other).tokens);
            let stats = engine.stats();
            assert!(stats.drafted_tokens > 0, "{stats:?}");
            if draft.is_same(&MODEL) {
                assert!(stats.steps < 60, "{stats:?}");
            }
            check_free(&engine);
        }
    }
}

#[test]
fn where_many_answer_nothing_is_guessed() {
    let engine = drafted_by(&MODEL, params(9));
    let completion = engine.submit(greedy(prompt(20, 1), 30).with_n(9)).unwrap();
    assert_eq!(completion.wait().unwrap().usage.drafted_tokens, 0);
    assert_eq!(engine.stats().steps, 30);
    check_free(&engine);
}

#[test]
fn a_sampler_that_panics_among_guesses_ends_its_request_alone() {
    let engine = drafted_by(&MODEL, params(3));
    let other_prompt = prompt(20, 2);
    let mut other = engine.submit(greedy(other_prompt, 100)).unwrap();
    begun(&mut other);
    let request = greedy(prompt(20, 1), 30)
        .with_n(2)
        .with_sampler(|chain, _| {
            let mut n = 0;
            let panics = move |_: &mut _| {
                n += 1;
                assert!(n < 9, "by order");
            };
            chain.custom_fn("panics", panics).greedy()
        });
    let error = engine.submit(request).unwrap().wait().unwrap_err();
    assert!(matches!(error, Error::CallbackPanicked { .. }), "{error}");
    assert_eq!(other.wait().unwrap().usage.completion_tokens, 100);
    check_free(&engine);
}

#[test]
fn dropping_the_stream_frees_the_slot() {
    let engine = drafted_by(&MODEL, params(2));
    check_cancelled(&engine, 2);
}

#[test]
fn a_conversation_goes_on_where_it_was() {
    for draft in [&*MODEL, &*RELATED] {
        let engine = drafted_by(draft, params(2));
        let mut conversation = prompt(30, 1);
        for turn in 0..4 {
            let (answer, _, usage) = ask(&engine, greedy(conversation.clone(), 12));
            check_greedy(&MODEL, &conversation, &answer);
            if turn > 0 {
                assert_eq!(usage.cached_tokens, conversation.len() - 10 - 1);
            }
            conversation.extend(answer);
            conversation.extend(&prompt(11, turn + 5)[1..]);
        }
        // What was guessed wrongly is not among what is held.
        let kv_used = engine.stats().kv_used;
        assert_eq!(kv_used, conversation.len() - 10 - 1);
    }
}

/// A draft that takes seven steps to read 100 tokens.
fn slow_reader() -> DraftParams {
    DraftParams::new(&MODEL).with_context(context(1024).with_n_batch(16).with_n_ubatch(16))
}

#[test]
fn nothing_is_kept_unless_it_is_to_be() {
    let params = params(1).with_prefix_cache(false);
    let engine = Engine::new(&MODEL, params.with_draft(slow_reader())).unwrap();
    let request = greedy(prompt(100, 1), 40).with_logprobs(3);
    let first = engine.submit(request.clone()).unwrap().wait().unwrap();
    assert!(first.usage.accepted_tokens > 10, "{:?}", first.usage);
    assert_eq!(engine.stats().kv_used, 0);
    // The batches have the same shapes again, those of the draft too.
    let second = engine.submit(request).unwrap().wait().unwrap();
    assert_eq!((second.choices, second.usage), (first.choices, first.usage));
}

#[test]
fn what_a_draft_has_read_it_does_not_read_again() {
    let engine = Engine::new(&MODEL, params(2).with_draft(slow_reader())).unwrap();
    let prompt = prompt(100, 1);
    let going_on = engine.submit(greedy(prompt.clone(), 200)).unwrap();
    wait_until(&engine, |stats| stats.drafted_tokens > 0);
    // In the other slot, and over before the draft would have read the prompt.
    let (_, _, usage) = ask(&engine, greedy(prompt.clone(), 7));
    assert!(usage.drafted_tokens > 0, "{usage:?}");
    check_greedy(&MODEL, &prompt, &answer(going_on).tokens);
}

#[test]
fn layouts_with_other_memories_are_guessed_at_too() {
    let deepseek = steady(Layout::DeepSeek2);
    for (model, draft) in [
        (&*WINDOWED, &*WINDOWED),
        (&*WINDOWED, &*MODEL),
        (&*MODEL, &*WINDOWED),
        (&deepseek, &deepseek),
    ] {
        for kv_unified in [true, false] {
            // The window's layers have room for little more than that.
            let context = context(1024).with_n_batch(64).with_n_ubatch(32);
            let params = params(2)
                .with_context(context)
                .with_kv_unified(kv_unified)
                .with_draft(DraftParams::new(draft));
            let engine = Engine::new(model, params).unwrap();
            // Longer than the window and all that its layers hold.
            let mut usages = Vec::new();
            for (prompt, n_tokens, n) in [(prompt(200, 1), 250, 2), (prompt(20, 2), 400, 1)] {
                let request = greedy(prompt.clone(), n_tokens).with_n(n);
                let completion = engine.submit(request).unwrap().wait().unwrap();
                for choice in &completion.choices {
                    assert_eq!(choice.tokens.len(), n_tokens as usize);
                    check_greedy(model, &prompt, &choice.tokens);
                }
                usages.push(completion.usage);
            }
            let stats = engine.stats();
            assert_eq!(stats.drafts_failed, 0);
            let [several, alone] = usages[..] else {
                panic!("{usages:?}");
            };
            let is_possible = kv_unified || !model.is_same(&WINDOWED);
            assert_eq!(several.drafted_tokens > 0, is_possible, "{several:?}");
            if model.is_same(draft) {
                let n_accepted = several.accepted_tokens;
                assert!(n_accepted > 250 || !is_possible, "{several:?}");
                assert!(alone.accepted_tokens > 200, "{alone:?}");
                // Nothing was computed twice.
                assert!(
                    stats.steps < if is_possible { 350 } else { 450 },
                    "{stats:?}"
                );
            }
        }
    }
}

#[test]
fn a_draft_that_fails_is_gone_without() {
    for (fails, n_failed) in [
        ((|n| n == 7) as fn(usize) -> bool, 1..=1),
        (|n| n >= 7, 3..=20),
    ] {
        let callback = Fails::at("result_output", fails);
        let draft =
            DraftParams::new(&MODEL).with_context(context(1024).with_eval_callback(callback));
        let engine = Engine::new(&MODEL, params(2).with_draft(draft)).unwrap();
        let prompts = [prompt(20, 1), prompt(30, 2)];
        let streams = prompts
            .clone()
            .map(|prompt| engine.submit(greedy(prompt, 100)).unwrap());
        for (prompt, stream) in prompts.iter().zip(streams) {
            let choice = answer(stream);
            assert_eq!(choice.tokens.len(), 100);
            check_greedy(&MODEL, prompt, &choice.tokens);
        }
        let stats = engine.stats();
        assert!(n_failed.contains(&stats.drafts_failed), "{stats:?}");
        assert_eq!(stats.requests_failed, 0);
        check_free(&engine);
    }
}

#[test]
fn a_draft_with_little_memory_helps_whom_it_can() {
    let draft = DraftParams::new(&MODEL).with_context(context(256));
    let engine = Engine::new(&MODEL, params(4).with_draft(draft)).unwrap();
    // Each has more than half of the draft's positions, so that only one is guessed at.
    for kind in 0..3 {
        let prompt = prompt(150, kind);
        let (tokens, _, usage) = ask(&engine, greedy(prompt.clone(), 40));
        check_greedy(&MODEL, &prompt, &tokens);
        assert!(usage.accepted_tokens > 10, "{usage:?}");
    }
    // And here none of what is beyond them.
    let prompt = prompt(300, 4);
    let (tokens, _, usage) = ask(&engine, greedy(prompt.clone(), 20));
    check_greedy(&MODEL, &prompt, &tokens);
    assert_eq!(usage.drafted_tokens, 0);
    check_free(&engine);
}

#[test]
fn a_computation_that_fails_once_is_done_again() {
    let callback = Fails::at("result_output", |n| n == 7);
    let params = params(3).with_context(context(1024).with_eval_callback(callback));
    let engine = drafted_by(&MODEL, params);
    check_side_by_side(&engine, 40);
    let stats = engine.stats();
    assert!(
        stats.accepted_tokens > 20 && stats.drafts_failed == 0,
        "{stats:?}"
    );
    check_free(&engine);
}

fn refusal(model: &Model, draft: DraftParams) -> Error {
    Engine::new(model, params(1).with_draft(draft)).unwrap_err()
}

/// A draft with this vocabulary.
fn with_vocabulary(tokens: &[layouts::Token]) -> GgufWriter {
    let mut file = Layout::Dense.writer();
    let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    let scores: Vec<f32> = tokens.iter().map(|token| token.score).collect();
    let kinds: Vec<i32> = tokens.iter().map(|token| token.kind as i32).collect();
    file.strings("tokenizer.ggml.tokens", &texts)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &kinds);
    for name in ["token_embd.weight", "output.weight"] {
        file.remove_tensor(name);
        file.random(name, &[N_EMBD, tokens.len() as u64], TensorType::F16, 0.125);
    }
    file
}

#[test]
fn a_draft_with_another_vocabulary_is_refused() {
    let difference = |file: &mut GgufWriter| {
        let error = refusal(&MODEL, DraftParams::new(&load(file)));
        match error {
            Error::Engine(EngineError::DraftVocabulary { difference }) => difference,
            other => panic!("{other:?}"),
        }
    };
    let mut tokens = layouts::vocabulary();
    tokens[300].text = "other".to_owned();
    let told = difference(&mut with_vocabulary(&tokens));
    assert!(told.contains("300") && told.contains("\"other\""), "{told}");

    let mut tokens = layouts::vocabulary();
    let mut more = tokens[300].clone();
    more.text = "more".to_owned();
    tokens.push(more);
    let told = difference(&mut with_vocabulary(&tokens));
    assert!(told.contains("\"more\""), "{told}");

    let mut file = Layout::Dense.writer();
    file.u32("tokenizer.ggml.eos_token_id", TOKEN_BOS as u32);
    let told = difference(&mut file);
    assert!(told.contains("end of a text"), "{told}");
}

#[test]
fn a_vocabulary_can_be_padded() {
    let mut tokens = layouts::vocabulary();
    for n in 0..3 {
        let mut padding = tokens[300].clone();
        padding.text = format!("[PAD{n}]");
        padding.kind = TokenKind::Unused;
        tokens.push(padding);
    }
    let padded = load(&mut with_vocabulary(&tokens));
    let prompt = prompt(20, 1);
    let engine = drafted_by(&padded, params(1));
    let (answer, _, usage) = ask(&engine, greedy(prompt.clone(), 20));
    check_greedy(&MODEL, &prompt, &answer);
    assert!(usage.drafted_tokens > 0);
    assert_eq!(engine.stats().drafts_failed, 0);
    // Here the draft does not have all tokens.
    let draft = DraftParams::new(&MODEL);
    let engine = Engine::new(&padded, params(1).with_draft(draft)).unwrap();
    let beyond = Token(tokens.len() as i32 - 1);
    let request = greedy(prompt, 20).with_logit_bias([(beyond, 1000.0)]);
    let (answer, _, usage) = ask(&engine, request);
    assert_eq!(answer, [beyond; 20]);
    assert_eq!(usage.accepted_tokens, 0);
    assert!(engine.stats().drafts_failed > 0);
}

#[test]
fn drafts_that_cannot_be_are_refused() {
    for n_draft in [0, 16] {
        let error = refusal(&MODEL, DraftParams::new(&MODEL).with_n_draft(n_draft));
        assert!(
            matches!(&error, Error::Parameter { parameter: "with_n_draft", value, .. } if *value == n_draft.to_string()),
            "{error}"
        );
    }
    let of_engine = |error: Error| match error {
        Error::Engine(error) => error,
        other => panic!("{other:?}"),
    };
    for file in [&mut others::encoder(), &mut others::encoder_decoder()] {
        let error = refusal(&MODEL, DraftParams::new(&load(file)));
        assert_eq!(of_engine(error), EngineError::DraftEncodes);
    }
    let state = load(&mut others::recurrent());
    let error = refusal(&MODEL, DraftParams::new(&state));
    assert_eq!(
        of_engine(error),
        EngineError::DraftNotTakenBack { whose: "draft" }
    );
    let error = refusal(&state, DraftParams::new(&MODEL));
    assert_eq!(
        of_engine(error),
        EngineError::DraftNotTakenBack { whose: "model" }
    );
    let error = refusal(&load(&mut others::encoder()), DraftParams::new(&MODEL));
    assert_eq!(of_engine(error), EngineError::EncodesOnly);
}
