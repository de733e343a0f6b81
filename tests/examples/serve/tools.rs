//! Tools, with templates in the forms that are known.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::events;
use super::server::{Server, with};

/// A template that tells the model of tools, and shows this form of calls.
fn template(form: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("template.jinja");
    let text = format!(
        "{{% for tool in tools or [] %}}{{{{ tool | tojson }}}}{{% endfor %}}\
         {{# calls are written as {form} #}}\
         {{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{{{ m.content }}}}\
         {{% for c in m.tool_calls or [] %}}{{{{ c.function.arguments | tojson }}}}{{% endfor %}}\
         <|im_end|>\n{{% endfor %}}<|im_start|>assistant\n"
    );
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

fn weather() -> Value {
    json!({"type": "function", "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "$defs": {"city": {"enum": ["Oslo", "Rome"]}},
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": false,
        },
    }})
}

fn time() -> Value {
    json!({"type": "function", "function": {"name": "time", "parameters": {
        "type": "object", "properties": {}, "additionalProperties": false}}})
}

fn ask(more: Value) -> Value {
    let messages = json!([{"role": "user", "content": "What is the weather in Oslo?"}]);
    with(
        json!({"messages": messages, "tools": [weather(), time()], "seed": 1}),
        more,
    )
}

const FORMS: [(&str, &str); 4] = [
    ("Hermes", "<tool_call>"),
    ("Mistral", "[TOOL_CALLS]"),
    ("Llama 3", "{\"name\": , \"parameters\": } ipython"),
    ("gpt-oss", "<|channel|>commentary<|message|>"),
];

#[test]
fn a_function_that_is_named_is_called() {
    for (name, form) in FORMS {
        let (_dir, path) = template(form);
        let server = Server::start(&["--chat-template", &path]);
        let choice = json!({"type": "function", "function": {"name": "weather"}});
        let body = ask(json!({"tool_choice": choice}));
        let answer = server.post("/v1/chat/completions", &body).ok();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{name}: {answer}");
        assert_eq!(choice["message"]["content"], Value::Null);
        let call = &choice["message"]["tool_calls"][0];
        assert_eq!(call["type"], "function");
        assert!(call["id"].as_str().unwrap().starts_with("call_"));
        assert_eq!(call["function"]["name"], "weather");
        let arguments = call["function"]["arguments"].as_str().unwrap();
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        assert!(
            arguments["city"] == "Oslo" || arguments["city"] == "Rome",
            "{arguments}"
        );
        assert!(
            (1..4).contains(&arguments["days"].as_i64().unwrap()),
            "{arguments}"
        );

        // The same as a stream.
        let body = with(body, json!({"stream": true}));
        let events = events(&server.post("/v1/chat/completions", &body));
        let choices = events.iter().map(|event| &event["choices"][0]);
        let calls: Vec<&Value> = choices
            .filter_map(|choice| choice["delta"]["tool_calls"].get(0))
            .collect();
        assert_eq!(calls.len(), 1, "{name}: {events:?}");
        assert_eq!(calls[0]["index"], 0);
        assert_eq!(calls[0]["function"], call["function"]);
        let last = events.last().unwrap();
        assert_eq!(last["choices"][0]["finish_reason"], "tool_calls");
    }
}

#[test]
fn a_call_that_is_cut_is_no_call() {
    for (name, form) in FORMS {
        let (_dir, path) = template(form);
        let server = Server::start(&["--chat-template", &path]);
        let choice = json!({"type": "function", "function": {"name": "weather"}});
        let body = ask(json!({"tool_choice": choice, "max_tokens": 3}));
        let answer = server.post("/v1/chat/completions", &body).ok();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "length", "{name}: {answer}");
        assert_eq!(choice["message"].get("tool_calls"), None, "{name}");
        // What the prompt ended with is no part of it.
        let text = choice["message"]["content"].as_str().unwrap();
        for mark in ["<tool_call>", "[TOOL_CALLS]", "<|"] {
            assert!(!text.contains(mark), "{name}: {answer}");
        }
    }
}

#[test]
fn one_of_several_functions_is_called() {
    for (name, form) in FORMS {
        let (_dir, path) = template(form);
        let server = Server::start(&["--chat-template", &path]);
        let answer = server.post(
            "/v1/chat/completions",
            &ask(json!({"tool_choice": "required"})),
        );
        if name == "gpt-oss" {
            assert_eq!(answer.error(400)["param"], "tool_choice");
            continue;
        }
        let answer = answer.ok();
        let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
        assert!(
            call["name"] == "weather" || call["name"] == "time",
            "{name}: {answer}"
        );
    }
}

#[test]
fn tools_are_in_the_prompt_unless_none_may_be_called() {
    let (_dir, path) = template("<tool_call>");
    let server = Server::start(&["--chat-template", &path]);
    let tokens = |more: Value| {
        let body = ask(with(json!({"max_tokens": 1}), more));
        let answer = server.post("/v1/chat/completions", &body).ok();
        answer["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let without = tokens(json!({"tools": null}));
    assert!(tokens(json!({})) > without + 50);
    assert_eq!(tokens(json!({"tool_choice": "none"})), without);
    // A model that was not trained for it answers with text, which is passed on.
    let answer = server
        .post("/v1/chat/completions", &ask(json!({"max_tokens": 8})))
        .ok();
    assert_ne!(answer["choices"][0]["message"]["content"], "");
    assert_eq!(answer["choices"][0]["message"].get("tool_calls"), None);
}

#[test]
fn the_result_of_a_call_goes_back() {
    let (_dir, path) = template("<tool_call>");
    let server = Server::start(&["--chat-template", &path]);
    let call = json!({"id": "call_1", "type": "function",
        "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}});
    let messages = json!([
        {"role": "user", "content": "What is the weather in Oslo?"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]);
    let body = ask(json!({"messages": messages, "max_tokens": 4}));
    server.post("/v1/chat/completions", &body).ok();
}

#[test]
fn tools_need_a_place_in_the_template() {
    // The bundled model's own has none.
    let server = Server::start(&[]);
    let error = server
        .post("/v1/chat/completions", &ask(json!({})))
        .error(400);
    assert_eq!(error["param"], "tools");
    server
        .post(
            "/v1/chat/completions",
            &ask(json!({"tool_choice": "none", "max_tokens": 1})),
        )
        .ok();
}

#[test]
fn tools_that_are_none_are_refused() {
    let (_dir, path) = template("<tool_call>");
    let server = Server::start(&["--chat-template", &path]);
    let impossible = json!([{"type": "function", "function": {"name": "a",
        "parameters": {"type": "nonsense"}}}]);
    let schema = json!({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}});
    for (more, param) in [
        (json!({"tools": [{"type": "retrieval"}]}), "tools[0].type"),
        (json!({"tools": "weather"}), "tools"),
        (json!({"tool_choice": "perhaps"}), "tool_choice"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "b"}}}),
            "tool_choice",
        ),
        (json!({"response_format": schema}), "response_format"),
    ] {
        let error = server.post("/v1/chat/completions", &ask(more)).error(400);
        assert_eq!(error["param"], param, "{error}");
    }
    let body = ask(json!({"tools": impossible, "tool_choice": "required"}));
    let error = server.post("/v1/chat/completions", &body).error(400);
    assert_eq!(error["param"], "tools");
    server.wait_until_idle();
}
