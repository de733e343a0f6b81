//! The options of the command line.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::QUESTION;
use super::server::{Server, chat};
use crate::programs::run;
use crate::support::layouts::Layout;

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let server = Server::start(&["--api-key", "first", "--api-key", "second"]);
    for (key, fits) in [
        (None, false),
        (Some("Bearer third"), false),
        (Some("first"), false),
        (Some("Bearer first"), true),
        (Some("Bearer second"), true),
    ] {
        let headers: Vec<_> = key.map(|key| ("Authorization", key)).into_iter().collect();
        for (method, path) in [
            ("GET", "/v1/models"),
            ("GET", "/metrics"),
            ("GET", "/placement"),
        ] {
            let response = server.request(method, path, &headers, b"");
            if fits {
                assert_eq!(response.status, 200);
            } else {
                assert_eq!(response.error(401)["code"], "invalid_api_key");
                assert_eq!(response.headers["www-authenticate"], "Bearer");
            }
        }
    }
    server.chat("Hello", json!({})).error(401);
    // What tells nothing of the model needs none.
    for path in ["/", "/page.js", "/health"] {
        assert_eq!(server.get(path).status, 200);
    }
}

/// Headers that a client in a browser asks to send.
const ASKED: &str = "authorization,content-type,x-stainless-lang,x-stainless-retry-count";

#[test]
fn other_sites_may_read_only_where_they_are_named() {
    let allowed = |args: &[&str], origin: &str| {
        let server = Server::start(args);
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", ASKED),
        ];
        let preflight = server.request("OPTIONS", "/v1/chat/completions", &headers, b"");
        let answer = server.request("GET", "/health", &headers[..1], b"");
        let header = |response: &super::http::Response| {
            response.headers.get("access-control-allow-origin").cloned()
        };
        assert_eq!(header(&preflight), header(&answer));
        if !args.is_empty() {
            assert_eq!(preflight.headers["access-control-allow-headers"], ASKED);
            assert_eq!(
                answer.headers["access-control-expose-headers"],
                "retry-after"
            );
        }
        header(&answer)
    };
    let site = "https://example.org";
    assert_eq!(allowed(&[], site), None);
    assert_eq!(allowed(&["--cors", site], site).as_deref(), Some(site));
    assert_eq!(allowed(&["--cors", site], "https://example.com"), None);
    assert_eq!(allowed(&["--cors", "*"], site).as_deref(), Some("*"));
}

#[test]
fn another_machines_name_is_not_answered_to() {
    let send = |server: &Server, host: &str| {
        let request =
            format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let server = Server::start(&[]);
    let refused = send(&server, "rebound.example.org");
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    assert!(refused.contains("unknown_host"), "{refused}");
    for host in ["localhost:8080", "127.0.0.1", "[::1]:80"] {
        let answer = send(&server, host);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    // A key is what such a page does not have.
    let server = Server::start(&["--api-key", "secret"]);
    let answer = send(&server, "rebound.example.org");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[test]
fn a_name_and_limits_of_ones_own() {
    let server = Server::start(&["--alias", "guide", "--slots", "2", "--timeout", "60"]);
    let body = chat(QUESTION, json!({"model": "guide", "max_tokens": 1}));
    assert_eq!(
        server.post("/v1/chat/completions", &body).ok()["model"],
        "guide"
    );
    assert_eq!(server.metric("slots"), 2.0);
    server.chat("Hello", json!({"n": 3})).error(400);

    // As clients ask for it, who do not write the slash otherwise.
    let server = Server::start(&["--alias", "of/somebody"]);
    for path in ["/v1/models/of/somebody", "/v1/models/of%2Fsomebody"] {
        assert_eq!(server.get(path).ok()["id"], "of/somebody");
    }
}

#[test]
fn an_answer_ends_with_its_time() {
    let server = Server::start(&["--timeout", "1", "--ctx", "200000"]);
    let more = json!({"logit_bias": super::errors::ends(&server), "temperature": 0});
    let answer = server.chat("Go on.", more).ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_ne!(answer["choices"][0]["message"]["content"], "");
    server.wait_until_idle();
}

#[test]
fn a_model_without_a_template_completes_but_does_not_chat() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("dense.gguf");
    Layout::Dense.write(&model);
    let server = Server::with_model(&model, &[]);
    let body = json!({"prompt": "abc", "max_tokens": 4});
    let text = server.post("/v1/completions", &body).ok()["choices"][0]["text"].take();
    assert_ne!(text, Value::String(String::new()));
    let error = server.chat("Hello", json!({})).error(400);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("--chat-template"),
        "{error}"
    );
}

#[test]
fn every_layout_is_served() {
    let dir = tempfile::tempdir().unwrap();
    for layout in [
        Layout::Qwen3Moe,
        Layout::GptOss,
        Layout::DeepSeek2,
        Layout::Glm4Moe,
    ] {
        let model = dir.path().join("model.gguf");
        layout.write(&model);
        let server = Server::with_model(&model, &["--cpu-moe"]);
        let body = json!({"prompt": "abc", "max_tokens": 8, "temperature": 0, "n": 2});
        let answer = server.post("/v1/completions", &body).ok();
        assert_eq!(
            answer["choices"][0]["text"], answer["choices"][1]["text"],
            "{layout:?}"
        );
        assert_eq!(answer["usage"]["completion_tokens"], 16, "{layout:?}");
    }
}

#[test]
fn slots_share_the_memory_or_have_their_own() {
    let text = |args: &[&str]| {
        let server = Server::start(&[&["--slots", "2", "--ctx", "256"], args].concat());
        assert_eq!(server.metric("context_tokens"), 512.0);
        let answer = server
            .chat(QUESTION, json!({"temperature": 0, "n": 2}))
            .ok();
        let choices = &answer["choices"];
        assert_eq!(choices[0]["message"], choices[1]["message"]);
        choices[0]["message"]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(text(&[]), text(&["--no-kv-unified"]));
}

#[test]
#[cfg(unix)]
fn it_listens_while_it_loads() {
    let dir = tempfile::tempdir().unwrap();
    // A template from a pipe that nobody writes to yet.
    let pipe = dir.path().join("template");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let mut server = Server::start_only(&["--chat-template", pipe.to_str().unwrap()]);
    let health = server.get("/health");
    assert_eq!(
        (health.status, &health.json()["status"]),
        (503, &json!("loading"))
    );
    for response in [
        server.chat("Hello", json!({})),
        server.get("/v1/models"),
        server.get("/metrics"),
    ] {
        assert_eq!(response.error(503)["code"], "model_loading");
        assert_eq!(response.headers["retry-after"], "5");
    }
    assert_eq!(server.get("/").status, 200);
    fs::write(&pipe, "{{ messages[0].content }}").unwrap();
    server.wait_until_loaded();
    assert_eq!(server.get("/health").status, 200);
    server.chat("Hello", json!({"max_tokens": 1})).ok();

    // It can be ended while it loads, too.
    let server = Server::start_only(&["--chat-template", pipe.to_str().unwrap()]);
    server.signal("-TERM");
    std::thread::sleep(Duration::from_millis(100));
    server.signal("-TERM");
    let (status, stderr) = server.wait(Duration::from_secs(10));
    assert!(status.success(), "{stderr}");
}

#[test]
fn what_cannot_be_served() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    run("serve", ["--port", &port]).failure(1, &["--port", &port]);
    run("serve", ["--host", "nowhere.invalid"]).failure(1, &["nowhere.invalid"]);
    run("serve", ["--cors", "example.org"]).failure(1, &["example.org", "https://"]);
    for site in [
        "https://",
        "https://example.org/",
        "https://example.org/page",
    ] {
        run("serve", ["--cors", site]).failure(1, &["--cors", site]);
    }
    let several = run("serve", ["--cors", "https://example.org,*"]);
    several.failure(1, &["--cors *", "leave out the others"]);
    for args in [
        ["--slots", "0"],
        ["--queue", "0"],
        ["--max-tokens", "0"],
        ["--api-key", ""],
    ] {
        run("serve", args).failure(2, &[args[0]]);
    }
    for (args, part) in [
        (["--model", "missing.gguf"], "missing.gguf"),
        (["--chat-template", "missing.jinja"], "missing.jinja"),
        (["--slots", "257"], "256"),
        (["--n-cpu-moe", "99"], "99"),
    ] {
        // It has said where it listens by then.
        let outcome = run("serve", [&["--port", "0"], &args[..]].concat());
        assert_eq!(outcome.code, 1, "{outcome:#?}");
        assert!(
            outcome.stderr.starts_with("error: ") && outcome.stderr.contains(part),
            "{outcome:#?}"
        );
    }
}

#[test]
#[cfg(feature = "rpc")]
fn a_worker_that_is_not_there() {
    let outcome = run("serve", ["--port", "0", "--rpc", "127.0.0.1:9"]);
    assert_eq!(outcome.code, 1, "{outcome:#?}");
    assert!(outcome.stderr.contains("127.0.0.1:9"), "{outcome:#?}");
}
