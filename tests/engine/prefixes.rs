//! What of a prompt is not computed again.

use llama_moe::engine::{Engine, Usage};
use llama_moe::{Model, Token};

use crate::rig::{
    MODEL, WINDOWED, begun, check_greedy, engine, greedy, load, params, prompt, steady,
};
use crate::support::layouts::Layout;
use crate::support::others;

/// Answers with 8 tokens, which are checked, and returns them and what it took.
fn ask(engine: &Engine, prompt: &[Token]) -> (Vec<Token>, Usage) {
    let stream = engine.submit(greedy(prompt.to_vec(), 8)).unwrap();
    let mut completion = stream.wait().unwrap();
    let tokens = completion.choices.remove(0).tokens;
    check_greedy(engine.model(), prompt, &tokens);
    (tokens, completion.usage)
}

fn cached(engine: &Engine, prompt: &[Token]) -> usize {
    ask(engine, prompt).1.cached_tokens
}

#[test]
fn the_same_prompt_is_not_computed_twice() {
    let engine = engine(2);
    let prompt = prompt(50, 1);
    assert_eq!(cached(&engine, &prompt), 0);
    // The last token gives the logits.
    assert_eq!(cached(&engine, &prompt), 49);
    let stats = engine.stats();
    assert_eq!((stats.prompt_tokens, stats.cached_tokens), (100, 49));
}

#[test]
fn a_conversation_goes_on_where_it_was() {
    let engine = engine(2);
    let mut conversation = prompt(30, 1);
    for turn in 0..4 {
        let (answer, usage) = ask(&engine, &conversation);
        if turn > 0 {
            // All but the new question, and the last token of the answer, which was not computed.
            assert_eq!(usage.cached_tokens, conversation.len() - 10 - 1);
        }
        conversation.extend(answer);
        conversation.extend(&prompt(11, turn + 5)[1..]);
    }
}

#[test]
fn prompts_share_their_beginning() {
    let engine = engine(3);
    let system = prompt(100, 1);
    let with = |kind: usize| [&system[..], &prompt(21, kind)[1..]].concat();
    assert_eq!(cached(&engine, &with(2)), 0);
    assert!(cached(&engine, &with(3)) >= 100);
    // Each of both is still there as a whole.
    assert_eq!(cached(&engine, &with(2)), 119);
    assert_eq!(cached(&engine, &with(3)), 119);
}

#[test]
fn buffers_of_their_own_are_copied() {
    let params = params(3).with_kv_unified(false);
    let engine = Engine::new(&MODEL, params).unwrap();
    let system = prompt(100, 1);
    let with = |kind: usize| [&system[..], &prompt(21, kind)[1..]].concat();
    assert_eq!(cached(&engine, &with(2)), 0);
    assert!(cached(&engine, &with(3)) >= 100);
    assert_eq!(cached(&engine, &with(2)), 119);
    let mut going_on = engine.submit(greedy(with(4), 100)).unwrap();
    let first = begun(&mut going_on);
    assert!(cached(&engine, &with(5)) >= 100);
    let choice = going_on.wait().unwrap().choices.remove(0);
    assert_eq!(choice.finish, Some(llama_moe::FinishReason::Length));
    let tokens = [first, choice.tokens].concat();
    assert_eq!(tokens.len(), 100);
    check_greedy(&MODEL, &with(4), &tokens);
}

#[test]
fn a_buffer_is_not_copied_for_a_few_tokens() {
    let params = params(2).with_kv_unified(false);
    let engine = Engine::new(&MODEL, params).unwrap();
    // A slot has 512 positions, and 64 of them are the fewest that are copied.
    let system = prompt(100, 1);
    let with = |n: usize, kind: usize| [&system[..n], &prompt(150, kind)[1..]].concat();
    assert_eq!(cached(&engine, &with(100, 2)), 0);
    assert_eq!(cached(&engine, &with(60, 3)), 0);
    // Now both slots hold something, and the first is the one that gives way. What it holds
    // itself takes no copy.
    assert_eq!(cached(&engine, &with(50, 4)), 50);
    assert_eq!(cached(&engine, &with(1, 5)), 1);
}

#[test]
fn a_beginning_is_taken_from_an_answer_that_goes_on() {
    let engine = engine(2);
    let system = prompt(100, 1);
    let mut going_on = engine.submit(greedy(system.clone(), 300)).unwrap();
    let first = begun(&mut going_on);
    let other = [&system[..], &prompt(21, 2)[1..]].concat();
    assert_eq!(cached(&engine, &other), 100);
    let choice = going_on.wait().unwrap().choices.remove(0);
    let tokens = [first, choice.tokens].concat();
    assert_eq!(tokens.len(), 300);
    check_greedy(&MODEL, &system, &tokens);
}

#[test]
fn the_least_recently_used_is_forgotten_first() {
    let engine = engine(2);
    let (a, b, c) = (prompt(40, 1), prompt(40, 2), prompt(40, 3));
    ask(&engine, &a);
    ask(&engine, &b);
    assert!(cached(&engine, &a) > 30);
    ask(&engine, &c);
    assert!(cached(&engine, &a) > 30, "it was used after b");
    assert!(cached(&engine, &b) < 5);
}

#[test]
fn memory_that_is_needed_is_not_kept() {
    let params = params(4).with_context(crate::rig::context(256));
    let engine = Engine::new(&MODEL, params).unwrap();
    for kind in 0..4 {
        ask(&engine, &prompt(100, kind));
    }
    ask(&engine, &prompt(200, 9));
    let stats = engine.stats();
    assert_eq!(stats.preempted, 0);
    assert!(stats.kv_used <= 256, "{stats:?}");
}

#[test]
fn nothing_is_kept_unless_it_is_to_be() {
    let engine = Engine::new(&MODEL, params(2).with_prefix_cache(false)).unwrap();
    let prompt = prompt(50, 1);
    assert_eq!(cached(&engine, &prompt), 0);
    assert_eq!(cached(&engine, &prompt), 0);
    assert_eq!(engine.stats().kv_used, 0);
}

/// Whatever is reused, the answers are right: [`ask`] checks each.
fn answers_stay_right(model: &Model) -> Vec<usize> {
    let engine = Engine::new(model, params(2)).unwrap();
    let system = prompt(180, 1);
    let with = |n: usize, kind: usize| [&system[..n], &prompt(21, kind)[1..]].concat();
    let mut all = Vec::new();
    let (answer, usage) = ask(&engine, &with(180, 2));
    all.push(usage.cached_tokens);
    let next = [with(180, 2), answer, prompt(11, 4)[1..].to_vec()].concat();
    all.push(cached(&engine, &next));
    all.push(cached(&engine, &with(180, 3)));
    all.push(cached(&engine, &with(60, 3)));
    all.push(cached(&engine, &with(180, 2)));
    all
}

#[test]
fn a_window_is_reused_where_it_is_all_there() {
    let cached = answers_stay_right(&WINDOWED);
    assert_eq!(cached[..2], [0, 207]);
}

#[test]
fn latent_attention_is_reused() {
    let cached = answers_stay_right(&steady(Layout::DeepSeek2));
    assert_eq!(cached[..4], [0, 207, 180, 60]);
}

#[test]
fn a_state_is_reused_as_a_whole_or_not_at_all() {
    let cached = answers_stay_right(&load(&mut others::recurrent()));
    assert_eq!(cached, [0, 207, 0, 0, 0]);
}
