//! What is answered, whole and as a stream.

use std::thread;

use serde_json::{Value, json};

use super::QUESTION;
use super::errors::ends;
use super::http::events;
use super::server::{Server, chat, with};

/// The text of an answer's pieces.
fn joined(events: &[Value], choice: u64, piece: impl Fn(&Value) -> &Value) -> String {
    let choices = events
        .iter()
        .flat_map(|event| event["choices"].as_array().unwrap());
    let choices = choices.filter(|found| found["index"] == choice);
    choices.filter_map(|found| piece(found).as_str()).collect()
}

fn content(events: &[Value], choice: u64) -> String {
    joined(events, choice, |choice| &choice["delta"]["content"])
}

/// Why an answer ended, which is said once and last.
fn finish(events: &[Value], choice: u64) -> String {
    let choices = events
        .iter()
        .flat_map(|event| event["choices"].as_array().unwrap());
    let choices: Vec<_> = choices.filter(|found| found["index"] == choice).collect();
    let (last, before) = choices.split_last().unwrap();
    assert!(before.iter().all(|found| found["finish_reason"].is_null()));
    last["finish_reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_stream_and_a_whole_answer_are_equal() {
    let server = Server::start(&[]);
    let greedy = json!({"temperature": 0});
    let whole = server.chat(QUESTION, greedy.clone()).ok();
    assert_eq!(whole["object"], "chat.completion");
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["role"], "assistant");
    assert!(
        message["content"].as_str().unwrap().contains("cpu-moe"),
        "{whole}"
    );
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let usage = &whole["usage"];
    let count = |key: &str| usage[key].as_u64().unwrap();
    assert_eq!(
        count("total_tokens"),
        count("prompt_tokens") + count("completion_tokens")
    );
    assert!(whole["timings"]["ttft_ms"].as_f64().unwrap() > 0.0);

    let stream = with(
        greedy,
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let events = events(&server.chat(QUESTION, stream));
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(content(&events, 0), message["content"].as_str().unwrap());
    assert_eq!(finish(&events[..events.len() - 1], 0), "stop");
    let (last, before) = events.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][key], usage[key]);
    }
    // Asked the second time, the prompt was still in the memory.
    assert!(
        last["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap()
            > 0
    );
    assert!(
        before
            .iter()
            .all(|event| event["usage"].is_null() && event["id"] == last["id"])
    );
}

#[test]
fn usage_is_only_streamed_where_it_is_asked_for() {
    let server = Server::start(&[]);
    let events = events(&server.chat("Hello", json!({"stream": true, "max_tokens": 2})));
    assert!(events.iter().all(|event| event.get("usage").is_none()));
    assert_eq!(finish(&events, 0), "length");
}

#[test]
fn a_completion_goes_on_with_a_text() {
    let server = Server::start(&[]);
    // Which prompts are computed together hangs on when they come, and rounding on that: of these
    // tokens each is ahead of the next likeliest by more.
    let body = json!({
        "prompt": ["How do I", "The experts"], "temperature": 0, "max_tokens": 3, "n": 2,
        "logprobs": 1, "logit_bias": ends(&server),
    });
    let whole = server.post("/v1/completions", &body).ok();
    assert_eq!(whole["object"], "text_completion");
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    assert_eq!(choices[0]["text"], choices[1]["text"]);
    assert_ne!(choices[0]["text"], choices[2]["text"]);
    assert_eq!(whole["usage"]["completion_tokens"], 12);
    for choice in choices {
        let logprobs = &choice["logprobs"];
        let tokens = logprobs["tokens"].as_array().unwrap();
        let text: String = tokens.iter().map(|token| token.as_str().unwrap()).collect();
        assert_eq!(choice["text"], text);
        assert_eq!(logprobs["text_offset"][0], 0);
        assert_eq!(
            logprobs["token_logprobs"].as_array().unwrap().len(),
            tokens.len()
        );
    }

    let body = with(body, json!({"stream": true}));
    let events = events(&server.post("/v1/completions", &body));
    for (index, choice) in choices.iter().enumerate() {
        let index = index as u64;
        let text = joined(&events, index, |choice| &choice["text"]);
        assert_eq!(choice["text"], text);
        assert_eq!(finish(&events, index), "length");
    }

    let body = json!({"prompt": "How do I", "echo": true, "max_tokens": 1, "temperature": 0});
    let echo = server.post("/v1/completions", &body).ok();
    assert!(
        echo["choices"][0]["text"]
            .as_str()
            .unwrap()
            .starts_with("How do I")
    );
    let tokens = server
        .post("/tokenize", &json!({"content": "How do I"}))
        .ok();
    let body = json!({"prompt": tokens["tokens"], "max_tokens": 3, "temperature": 0,
        "logit_bias": ends(&server)});
    let same = server.post("/v1/completions", &body).ok();
    assert_eq!(same["choices"][0]["text"], choices[0]["text"]);
}

#[test]
fn many_prompts_leave_room_for_other_clients() {
    let server = Server::start(&["--slots", "2", "--queue", "4"]);
    let body = json!({"prompt": vec!["How do I"; 6], "max_tokens": 100, "temperature": 0,
        "logit_bias": ends(&server)});
    let answer = thread::scope(|scope| {
        let many = scope.spawn(|| server.post("/v1/completions", &body).ok());
        // One at a time, each finds a place in the queue.
        let mut n = 0;
        while !many.is_finished() {
            server.chat("Hello", json!({"max_tokens": 1})).ok();
            n += 1;
        }
        assert!(n > 0);
        many.join().unwrap()
    });
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 6);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        assert_ne!(choice["text"], "");
    }
    assert_eq!(answer["usage"]["completion_tokens"], 600);
    server.wait_until_idle();

    let body = with(body, json!({"prompt": vec!["How do I"; 7]}));
    let error = server.post("/v1/completions", &body).error(400);
    assert_eq!(error["param"], "prompt");
}

#[test]
fn a_stop_string_is_no_part_of_the_answer() {
    let server = Server::start(&[]);
    let whole = server.chat(QUESTION, json!({"temperature": 0})).ok();
    let whole = whole["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned();
    for stop in [json!("model par"), json!(["nowhere", "model par"])] {
        let stopped = server
            .chat(QUESTION, json!({"temperature": 0, "stop": stop}))
            .ok();
        let text = stopped["choices"][0]["message"]["content"]
            .as_str()
            .unwrap();
        assert_eq!(Some(text), whole.split("model par").next());
        assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn a_seed_repeats_and_several_answers_differ() {
    // Each on a server of its own: what is in the memory already decides how many tokens are
    // computed at once, and with that the last digits of the logits.
    let ask = |seed: i64| {
        let server = Server::start(&[]);
        let body = json!({"prompt": "A", "temperature": 2, "top_p": 1, "min_p": 0, "top_k": 0,
            "seed": seed, "n": 3, "max_tokens": 24});
        server.post("/v1/completions", &body).ok()["choices"].take()
    };
    let first = ask(1);
    assert_eq!(first, ask(1));
    assert_ne!(first, ask(2));
    assert_ne!(first[0]["text"], first[1]["text"]);
    assert_ne!(first[1]["text"], first[2]["text"]);
}

#[test]
fn several_answers_are_streamed_side_by_side() {
    let server = Server::start(&[]);
    let more = json!({"temperature": 0, "n": 3, "stream": true});
    let events = events(&server.chat(QUESTION, more));
    let whole = server.chat(QUESTION, json!({"temperature": 0})).ok();
    for choice in 0..3 {
        let text = content(&events, choice);
        assert_eq!(whole["choices"][0]["message"]["content"], text);
        assert_eq!(finish(&events, choice), "stop");
    }
}

#[test]
fn probabilities_are_told_for_each_token() {
    let server = Server::start(&[]);
    let more = json!({"temperature": 0, "logprobs": true, "top_logprobs": 3});
    let whole = server.chat(QUESTION, more.clone()).ok();
    let choice = &whole["choices"][0];
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    let mut bytes = Vec::new();
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        let logprob = |token: &Value| token["logprob"].as_f64().unwrap();
        // Greedy, the chosen one is the likeliest.
        assert_eq!(logprob(token), logprob(&top[0]));
        assert!(logprob(&top[0]) >= logprob(&top[1]) && logprob(token) <= 0.0);
        bytes.extend(
            token["bytes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|byte| byte.as_u64().unwrap() as u8),
        );
    }
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(
        text.trim_end_matches("<|im_end|>"),
        choice["message"]["content"]
    );

    let events = events(&server.chat(QUESTION, with(more, json!({"stream": true}))));
    let choices = events
        .iter()
        .map(|event| &event["choices"][0]["logprobs"]["content"]);
    let streamed: Vec<&Value> = choices.filter_map(Value::as_array).flatten().collect();
    assert_eq!(streamed, tokens.iter().collect::<Vec<_>>());
    assert_eq!(
        server.chat("Hello", json!({})).ok()["choices"][0]["logprobs"],
        Value::Null
    );
}

#[test]
fn an_answer_keeps_to_a_schema_or_a_grammar() {
    let server = Server::start(&[]);
    let schema = json!({
        "type": "object",
        "properties": {
            "device": {"enum": ["CPU", "GPU"]},
            "layers": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["device", "layers"],
        "additionalProperties": false,
    });
    let format = json!({"type": "json_schema",
        "json_schema": {"name": "plan", "strict": true, "schema": schema}});
    for seed in 0..4 {
        let more = json!({"response_format": format, "temperature": 1.5, "seed": seed});
        let answer = server.chat(QUESTION, more).ok();
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let plan: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{answer}"));
        assert!(plan["device"] == "CPU" || plan["device"] == "GPU", "{plan}");
        assert!(plan["layers"].as_i64().unwrap() < 100, "{plan}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
    let grammar = json!({"grammar": "root ::= \"yes\" | \"no\"", "temperature": 1.5});
    // Only where whoever runs the server trusts those who ask.
    let error = server.chat(QUESTION, grammar.clone()).error(400);
    assert_eq!(error["param"], "grammar");
    let server = Server::start(&["--grammars"]);
    let answer = server.chat(QUESTION, grammar).ok();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text == "yes" || text == "no", "{text}");
}

#[test]
fn a_bias_rules_a_token_out() {
    let server = Server::start(&[]);
    let first = |more: Value| {
        let more = with(json!({"temperature": 0, "max_tokens": 1}), more);
        let answer = server.chat(QUESTION, more).ok();
        answer["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let word = first(json!({}));
    let tokens = server.post("/tokenize", &json!({"content": word})).ok();
    let mut bias = serde_json::Map::new();
    bias.insert(tokens["tokens"][0].to_string(), json!(-100));
    assert_ne!(first(json!({"logit_bias": bias})), word);
}

#[test]
fn a_conversation_has_several_turns_in_every_form() {
    let server = Server::start(&[]);
    let messages = json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": "With --cpu-moe."},
        {"role": "user", "content": "Hello"},
    ]);
    let body = json!({"model": "moe-guide-q8_0", "messages": messages, "temperature": 0,
        "user": "somebody", "metadata": {"unknown": [1, 2]}, "store": false});
    let answer = server.post("/v1/chat/completions", &body).ok();
    let long = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let short = server.chat("Hello", json!({"max_tokens": 1})).ok();
    assert!(long > short["usage"]["prompt_tokens"].as_u64().unwrap() + 20);
    // What a client sends beside the known fields changes nothing.
    let plain = server.post(
        "/v1/chat/completions",
        &with(
            chat("", json!({})),
            json!({"messages": messages, "temperature": 0}),
        ),
    );
    assert_eq!(plain.ok()["choices"], answer["choices"]);
}
