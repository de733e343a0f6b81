//! What a request is answered with.

use std::thread::sleep;
use std::time::Duration;

use llama_moe::engine::{Completion, Engine, Event, Request};
use llama_moe::{ChatParams, FinishReason, Message, RenderOptions, Sampler, Token};

use crate::rig::{
    MODEL, answer, check_greedy, check_logprobs, engine, greedy, params, prompt, unvarying,
};
use crate::support::layouts::TOKEN_IM_END;

#[test]
fn a_stream_is_text_then_ends_then_numbers() {
    let engine = engine(2);
    let prompt = prompt(20, 1);
    let events: Vec<Event> = engine
        .submit(greedy(prompt.clone(), 30))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let (done, rest) = events.split_last().unwrap();
    let (finish, texts) = rest.split_last().unwrap();
    assert!(texts.len() > 5, "{texts:?}");
    assert!(texts.iter().all(|event| matches!(
        event,
        Event::Text {
            choice: 0,
            is_reasoning: false,
            ..
        }
    )));
    let reason = FinishReason::Length;
    assert_eq!(*finish, Event::Finish { choice: 0, reason });
    let Event::Done { usage, timings } = done else {
        panic!("{done:?}");
    };
    assert_eq!(usage.prompt_tokens, 20);
    assert_eq!(usage.cached_tokens, 0);
    assert_eq!(usage.completion_tokens, 30);
    let ttft = timings.ttft.unwrap();
    assert!(timings.queued + timings.prefill <= ttft + Duration::from_millis(1));
    assert!(ttft + timings.decode <= timings.total);
    assert!(timings.tokens_per_second(usage).unwrap() > 0.0);

    let mut completion = Completion::default();
    events.into_iter().for_each(|event| completion.push(event));
    let choice = &completion.choices[0];
    assert_eq!(choice.tokens.len(), 30);
    check_greedy(&MODEL, &prompt, &choice.tokens);
    let mut text = MODEL.vocab().detokenizer().with_spaces_kept(true);
    let pieces: Vec<String> = choice
        .tokens
        .iter()
        .map(|&token| text.push(token).unwrap())
        .collect();
    assert_eq!(choice.text, pieces.concat() + &text.finish().unwrap());
}

#[test]
fn the_engine_tells_where_its_time_went() {
    let engine = engine(1);
    let nap = Duration::from_millis(30);
    let request = greedy(prompt(20, 1), 5)
        .with_sampler(move |chain, _| chain.custom_fn("nap", move |_| sleep(nap)).greedy());
    answer(engine.submit(request).unwrap());
    let stats = engine.stats();
    assert!(stats.time_computing > Duration::ZERO, "{stats:?}");
    assert!(stats.time_sampling >= 5 * nap, "{stats:?}");
    if cfg!(any(target_os = "linux", target_vendor = "apple")) {
        // Who sleeps uses no CPU.
        let cpu = stats.cpu_outside.unwrap();
        assert!(cpu > Duration::ZERO && cpu < 4 * nap, "{stats:?}");
    }
}

#[test]
fn greedy_text_is_that_of_a_chat() {
    let messages = [Message::user("the expert on CPU")];
    let chat_params = ChatParams::default()
        .with_context(crate::rig::context(1024))
        .with_sampler(Sampler::greedy().unwrap())
        .with_max_tokens(100);
    let mut chat = MODEL.chat(chat_params).unwrap();
    let expected = chat.say("the expert on CPU").unwrap().text().unwrap();

    let engine = unvarying();
    let request = engine.chat(&messages, &RenderOptions::default()).unwrap();
    let request = request.with_greedy().with_max_tokens(100);
    let choice = answer(engine.submit(request).unwrap());
    assert_eq!(choice.text, expected);
    assert_eq!(choice.reasoning, "");
}

#[test]
fn the_model_ends_an_answer() {
    let engine = engine(1);
    let ends = |chain: llama_moe::SamplerChain, _| {
        let mut n = 0;
        chain.select_fn("ends", move |candidates| {
            n += 1;
            let token = Token(if n < 4 { 300 } else { TOKEN_IM_END });
            candidates.iter().position(|c| c.token == token).unwrap()
        })
    };
    let request = Request::new(prompt(5, 0)).with_sampler(ends);
    let completion = engine.submit(request).unwrap().wait().unwrap();
    let choice = &completion.choices[0];
    assert_eq!(choice.finish, Some(FinishReason::EndOfGeneration));
    assert_eq!(choice.tokens, [Token(300); 3]);
    assert_eq!(completion.usage.completion_tokens, 4);
}

#[test]
fn stop_strings_end_an_answer_wherever_tokens_end() {
    let engine = unvarying();
    let prompt = prompt(20, 1);
    let text = answer(engine.submit(greedy(prompt.clone(), 60)).unwrap()).text;
    let characters: Vec<char> = text.chars().collect();
    for (start, length) in [(3, 1), (10, 7), (25, 15)] {
        let stop: String = characters[start..start + length].iter().collect();
        let request = greedy(prompt.clone(), 60).with_stop_strings([stop.as_str(), "never"]);
        let stream = engine.submit(request).unwrap();
        let choice = answer(stream);
        let end = text.find(&stop).unwrap();
        assert_eq!(choice.text, text[..end]);
        assert_eq!(choice.finish, Some(FinishReason::Stop(stop)));
    }
}

#[test]
fn several_answers_share_a_prompt() {
    let engine = engine(4);
    let prompt = prompt(40, 2);
    let completion = engine
        .submit(greedy(prompt.clone(), 20).with_n(3))
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!(completion.choices.len(), 3);
    for choice in &completion.choices {
        assert_eq!(choice.finish, Some(FinishReason::Length));
        check_greedy(&MODEL, &prompt, &choice.tokens);
    }
    assert_eq!(completion.usage.prompt_tokens, 40);
    assert_eq!(completion.usage.completion_tokens, 60);
    // The prompt was computed in one step, and all others were of three tokens.
    assert_eq!(engine.stats().steps, 20);
}

#[test]
fn each_answer_has_a_seed_of_its_own() {
    let engine = Engine::new(&MODEL, params(4).with_prefix_cache(false)).unwrap();
    let request = Request::new(prompt(20, 3))
        .with_sampler(|chain, seed| chain.temp(3.0).dist(seed))
        .with_seed(7)
        .with_max_tokens(20)
        .with_n(3);
    let texts = |request: &Request| -> Vec<String> {
        let completion = engine.submit(request.clone()).unwrap().wait().unwrap();
        completion.choices.into_iter().map(|c| c.text).collect()
    };
    let first = texts(&request);
    assert_eq!(first, texts(&request));
    assert!(first[0] != first[1] && first[1] != first[2]);
    assert_ne!(first, texts(&request.clone().with_seed(8)));
    assert_ne!(texts(&request.clone().with_seed(None)), first);
}

#[test]
fn logprobs_are_the_models_own() {
    let engine = engine(2);
    let vocab = MODEL.vocab();
    let prompt = prompt(20, 1);
    let n_vocab = vocab.n_tokens() as usize;
    let request = greedy(prompt.clone(), 10).with_logprobs(n_vocab);
    let choice = answer(engine.submit(request).unwrap());
    assert_eq!(choice.logprobs.len(), choice.tokens.len());

    check_logprobs(&prompt, &choice);
    for (token, told) in choice.tokens.iter().zip(&choice.logprobs) {
        let sum: f32 = told.top.iter().map(|top| top.logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-3, "{sum}");
        assert_eq!(told.top.len(), n_vocab);
        assert!(told.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
        assert_eq!(told.chosen.token, *token);
        assert_eq!(told.chosen, told.top[0]);
        assert_eq!(told.chosen.bytes, vocab.piece(*token, true).unwrap());
    }

    let request = greedy(choice.tokens.clone(), 3).with_logprobs(0);
    let choice = answer(engine.submit(request).unwrap());
    assert!(choice.logprobs.iter().all(|told| told.top.is_empty()));
    assert_eq!(choice.logprobs.len(), 3);
}

#[test]
fn a_bias_rules_tokens_out() {
    let engine = engine(1);
    let prompt = prompt(20, 1);
    let first = answer(engine.submit(greedy(prompt.clone(), 1)).unwrap()).tokens[0];
    let request = greedy(prompt.clone(), 1).with_logit_bias([(first, f32::NEG_INFINITY)]);
    let other = answer(engine.submit(request).unwrap()).tokens[0];
    assert_ne!(other, first);
    let request = greedy(prompt, 1).with_logit_bias([(Token(333), 1000.0)]);
    assert_eq!(answer(engine.submit(request).unwrap()).tokens, [Token(333)]);
}

#[test]
fn a_grammar_is_kept_to() {
    let engine = engine(2);
    let grammar = r#"root ::= ("yes" | "no") ", " [0-9]"#;
    let request = Request::new(prompt(20, 1)).with_grammar(grammar, "root");
    let mut texts = Vec::new();
    for seed in 0..6 {
        let stream = engine.submit(request.clone().with_seed(seed)).unwrap();
        let choice = answer(stream);
        assert_eq!(choice.finish, Some(FinishReason::EndOfGeneration));
        texts.push(choice.text);
    }
    for text in &texts {
        let (word, digit) = text.split_once(", ").unwrap();
        assert!(["yes", "no"].contains(&word), "{text}");
        assert!(
            digit.len() == 1 && digit.bytes().all(|b| b.is_ascii_digit()),
            "{text}"
        );
    }
}

/// A sampler that says this text, in tokens of one byte, and then ends.
fn says(text: &'static str) -> Request {
    Request::new(prompt(5, 0)).with_sampler(move |chain, _| {
        let mut bytes = text.bytes();
        chain.select_fn("says", move |candidates| {
            let token = bytes.next().map_or(Token(TOKEN_IM_END), |byte| {
                Token(crate::support::layouts::TOKEN_BYTE + i32::from(byte))
            });
            candidates.iter().position(|c| c.token == token).unwrap()
        })
    })
}

#[test]
fn tokens_of_a_stop_string_are_told() {
    let engine = engine(1);
    // Whether a piece of text comes with them or not.
    for (text, stops, told) in [
        ("So. END", ["END", "never"], "So. "),
        ("END", ["END", "never"], ""),
        ("So.\u{e9}", ["\u{e9}", "never"], "So."),
        // The text before it is held back with its beginning.
        ("E. END.", [" END.", "E. F"], "E."),
    ] {
        let request = says(text).with_stop_strings(stops).with_logprobs(0);
        let choice = answer(engine.submit(request).unwrap());
        assert_eq!(choice.text, told);
        assert!(matches!(choice.finish, Some(FinishReason::Stop(_))));
        assert_eq!(choice.tokens.len(), text.len());
        assert_eq!(choice.logprobs.len(), text.len());
    }
}

#[test]
fn reasoning_is_marked() {
    let engine = engine(1);
    let ask = |request: Request| answer(engine.submit(request).unwrap());
    let text = "<think>Hm\u{e9}.</think>So.";
    let choice = ask(says(text).with_reasoning_tags("<think>", "</think>", false));
    assert_eq!(
        (choice.reasoning.as_str(), choice.text.as_str()),
        ("Hm\u{e9}.", "So.")
    );
    let choice = ask(says("Hm.</think>So.").with_reasoning_tags("<think>", "</think>", true));
    assert_eq!(
        (choice.reasoning.as_str(), choice.text.as_str()),
        ("Hm.", "So.")
    );
    let choice = ask(says(text));
    assert_eq!(
        (choice.reasoning.as_str(), choice.text.as_str()),
        ("", text)
    );
    assert_eq!(choice.tokens.len(), text.len());
}

#[test]
fn control_tokens_are_text_where_they_are_asked_for() {
    let engine = engine(1);
    let request = || {
        Request::new(prompt(5, 0)).with_sampler(|chain, _| {
            let mut tokens = [3, 300].into_iter();
            chain.select_fn("control", move |candidates| {
                let token = Token(tokens.next().unwrap_or(TOKEN_IM_END));
                candidates.iter().position(|c| c.token == token).unwrap()
            })
        })
    };
    let plain = answer(engine.submit(request()).unwrap());
    assert!(!plain.text.contains("<|im_start|>"));
    let special = answer(engine.submit(request().with_special_tokens(true)).unwrap());
    assert!(special.text.starts_with("<|im_start|>"), "{}", special.text);
    assert_eq!(plain.tokens, special.tokens);
}
