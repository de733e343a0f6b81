//! What cannot be answered is refused, with the field that is wrong, and the server goes on.

use serde_json::{Value, json};

use super::server::{Server, chat, with};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const CHAT: &str = "/v1/chat/completions";

#[test]
fn bodies_that_are_no_json() {
    let server = Server::start(&[]);
    for body in [
        &b""[..],
        b"{",
        b"null",
        b"[]",
        b"{} {}",
        b"\xff\xfe",
        b"{\"messages\": [\"\xc3\"]}",
    ] {
        server.request("POST", CHAT, &[JSON], body).error(400);
    }
    let deep = format!(
        "{{\"metadata\": {}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    server
        .request("POST", CHAT, &[JSON], deep.as_bytes())
        .error(400);
    let body = chat("Hello", json!({"max_tokens": 1})).to_string();
    let plain = [("Content-Type", "text/plain")];
    server
        .request("POST", CHAT, &plain, body.as_bytes())
        .error(415);
    server
        .request("POST", CHAT, &[], body.as_bytes())
        .error(415);
    let charset = [("Content-Type", "application/json; charset=utf-8")];
    assert_eq!(
        server
            .request("POST", CHAT, &charset, body.as_bytes())
            .status,
        200
    );
}

#[test]
fn fields_of_the_wrong_type_are_named() {
    let server = Server::start(&[]);
    for (field, value, param) in [
        ("messages", json!("Hello"), "messages"),
        ("messages", json!([{"content": "a"}]), "messages[0]"),
        (
            "messages",
            json!([{"role": 1, "content": "a"}]),
            "messages[0].role",
        ),
        (
            "messages",
            json!([{"role": "user", "content": 1}]),
            "messages[0].content",
        ),
        ("temperature", json!("warm"), "temperature"),
        ("max_tokens", json!(-1), "max_tokens"),
        ("max_tokens", json!(1.5), "max_tokens"),
        ("n", json!("many"), "n"),
        ("stream", json!("yes"), "stream"),
        ("stop", json!(7), "stop"),
        ("seed", json!(1.5), "seed"),
        ("logit_bias", json!([1]), "logit_bias"),
        ("logprobs", json!(3), "logprobs"),
        ("response_format", json!("json"), "response_format"),
        ("model", json!(7), "model"),
    ] {
        let error = server
            .post(CHAT, &chat("Hello", json!({field: value})))
            .error(400);
        assert_eq!(error["param"], param, "{error}");
    }
    for (path, missing) in [
        (CHAT, "messages"),
        ("/v1/completions", "prompt"),
        ("/v1/embeddings", "input"),
        ("/tokenize", "content"),
    ] {
        let error = server.post(path, &json!({})).error(400);
        assert_eq!(error["param"], missing, "{error}");
    }
}

#[test]
fn values_that_cannot_be_are_named() {
    let server = Server::start(&["--grammars"]);
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]);
    for (more, param) in [
        (json!({"messages": []}), json!("messages")),
        (json!({"messages": image}), json!("messages[0].content[0]")),
        (json!({"max_tokens": 0}), json!("max_tokens")),
        (
            json!({"max_completion_tokens": 0}),
            json!("max_completion_tokens"),
        ),
        (json!({"n": 0}), json!("n")),
        (json!({"n": 5}), json!("n")),
        (json!({"n": 4_294_967_295_u32}), json!("n")),
        (json!({"temperature": 3}), json!("temperature")),
        (json!({"temperature": -1}), json!("temperature")),
        (json!({"top_p": 7}), json!("top_p")),
        (json!({"presence_penalty": -3}), json!("presence_penalty")),
        (json!({"stop": ""}), json!("stop")),
        (
            json!({"logit_bias": {"99999999": 1}}),
            json!("logit_bias.99999999"),
        ),
        (json!({"logit_bias": {"word": 1}}), json!("logit_bias.word")),
        (json!({"logit_bias": {"1": 200}}), json!("logit_bias.1")),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            json!("top_logprobs"),
        ),
        (json!({"top_logprobs": 2}), json!("top_logprobs")),
        (json!({"grammar": "root ::= undefined"}), json!("grammar")),
        (json!({"grammar": ""}), json!("grammar")),
        (
            json!({"response_format": {"type": "xml"}}),
            json!("response_format.type"),
        ),
        (
            json!({"response_format": {"type": "json_schema"}}),
            json!("response_format.json_schema.schema"),
        ),
    ] {
        let error = server.post(CHAT, &chat("Hello", more.clone())).error(400);
        assert_eq!(error["param"], param, "{more}: {error}");
    }
    server.wait_until_idle();
}

#[test]
fn schemas_that_cannot_be_kept_to() {
    let server = Server::start(&[]);
    for schema in [
        json!({"type": "nonsense"}),
        json!({"$ref": "#/nowhere"}),
        json!({"type": "string", "pattern": "("}),
        json!(false),
        json!(7),
    ] {
        let format = json!({"type": "json_schema", "json_schema": {"schema": schema}});
        let response = server.post(CHAT, &chat("Hello", json!({"response_format": format})));
        assert_eq!(response.error(400)["param"], "response_format");
    }
    server.chat("Hello", json!({"max_tokens": 1})).ok();
}

#[test]
fn another_model_is_not_there() {
    let server = Server::start(&[]);
    for path in [CHAT, "/v1/completions", "/v1/embeddings"] {
        let body = with(
            chat("a", json!({"prompt": "a", "input": "a"})),
            json!({"model": "gpt-4"}),
        );
        let error = server.post(path, &body).error(404);
        assert_eq!(error["code"], "model_not_found");
        assert_eq!(error["param"], "model");
    }
}

#[test]
fn what_the_template_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("template.jinja");
    let template = "{% for m in messages %}{% if m.role == 'system' %}\
                    {{ raise_exception('no system message') }}{% endif %}{{ m.content }}{% endfor %}";
    std::fs::write(&path, template).unwrap();
    let server = Server::start(&["--chat-template", path.to_str().unwrap()]);
    let messages = json!([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]);
    let error = server.post(CHAT, &json!({"messages": messages})).error(400);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("no system message"),
        "{error}"
    );
    // Nothing comes of a message without text.
    server.chat("", json!({})).error(400);
    let variables = json!({"chat_template_kwargs": {"messages": 1}});
    server.chat("Hello", variables).error(400);
    server.chat("Hello", json!({"max_tokens": 1})).ok();
}

#[test]
fn prompts_that_are_too_long() {
    let server = Server::start(&["--max-body", "16MiB"]);
    let long = "word ".repeat(10_000_000 / 5);
    for (path, body) in [
        (CHAT, chat(&long, json!({}))),
        ("/v1/completions", json!({"prompt": long})),
    ] {
        let error = server.post(path, &body).error(400);
        assert_eq!(error["code"], "context_length_exceeded", "{error}");
    }
    // The one that is too long is named, and the others are not computed before.
    let tokens = vec![300; 1_000_000];
    for prompt in [json!([[300], tokens]), json!(["a", "b", long])] {
        let body = json!({"prompt": prompt, "stream": true});
        let error = server.post("/v1/completions", &body).error(400);
        assert_eq!(error["code"], "context_length_exceeded", "{error}");
    }
    let body = json!({"prompt": [[300], tokens], "stream": true});
    let error = server.post("/v1/completions", &body).error(400);
    assert_eq!(error["param"], "prompt[1]");
    assert_eq!(server.metric("prompt_tokens_total"), 0.0);
    // Beyond the limit of the body.
    let long = "word ".repeat(20_000_000 / 5);
    server.chat(&long, json!({})).error(413);
    server.chat("Hello", json!({"max_tokens": 1})).ok();

    let server = Server::start(&[]);
    server.chat(&long[..10_000_000], json!({})).error(413);
}

#[test]
fn a_huge_limit_is_as_good_as_none_and_a_small_one_is_kept() {
    let server = Server::start(&[]);
    let more = json!({"max_tokens": 4_000_000_000_000_u64, "temperature": 0});
    let answer = server.chat(super::QUESTION, more).ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");

    let server = Server::start(&["--max-tokens", "3"]);
    let error = server.chat("Hello", json!({"max_tokens": 4})).error(400);
    assert_eq!(error["param"], "max_tokens");
    let answer = server.chat(super::QUESTION, json!({"temperature": 0})).ok();
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[test]
fn an_answer_ends_with_the_context() {
    let server = Server::start(&["--ctx", "64"]);
    let body = json!({"prompt": "A", "logit_bias": ends(&server), "temperature": 0});
    let answer = server.post("/v1/completions", &body).ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let total = answer["usage"]["total_tokens"].as_u64().unwrap();
    assert!((63..=65).contains(&total), "{total}");
}

/// Rules out the tokens that end an answer of the bundled model.
pub fn ends(server: &Server) -> Value {
    let text = json!({"content": "<|im_end|><|endoftext|>"});
    let tokens = server.post("/tokenize", &text).ok()["tokens"].take();
    let ends = tokens.as_array().unwrap().iter();
    ends.map(|token| (token.to_string(), json!(-100)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
