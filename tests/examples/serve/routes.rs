//! What is at which address.

use serde_json::json;

use super::server::Server;

#[test]
fn the_model_is_listed() {
    let server = Server::start(&[]);
    let list = server.get("/v1/models").ok();
    assert_eq!(list["object"], "list");
    let model = &list["data"][0];
    assert_eq!(model["id"], "moe-guide-q8_0");
    assert_eq!(model["meta"]["slots"], 4);
    assert_eq!(server.get("/v1/models/moe-guide-q8_0").ok(), *model);
    let error = server.get("/v1/models/another").error(404);
    assert_eq!(error["code"], "model_not_found");
    let error = server.get("/v1/models/a/b").error(404);
    assert_eq!(error["code"], "model_not_found");
    // No text at all.
    server.get("/v1/models/%ff").error(400);
    assert_eq!(server.get("/health").ok(), json!({"status": "ok"}));
}

#[test]
fn text_becomes_tokens_and_text_again() {
    let server = Server::start(&[]);
    let text = "Experts on the CPU, é and 🙂";
    let tokens = server.post("/tokenize", &json!({"content": text})).ok()["tokens"].take();
    assert!(tokens.as_array().unwrap().len() > 5);
    let back = server.post("/detokenize", &json!({"tokens": tokens})).ok();
    assert_eq!(back["content"], text);

    let body = json!({"content": "<|im_start|>é", "with_pieces": true});
    let pieces = server.post("/tokenize", &body).ok();
    assert_eq!(pieces["tokens"][0]["piece"], "<|im_start|>");
    // The bytes of what is no whole character.
    assert_eq!(pieces["tokens"][1]["piece"], json!([195]));
    let plain = json!({"content": "<|im_start|>", "parse_special": false});
    assert!(
        server.post("/tokenize", &plain).ok()["tokens"]
            .as_array()
            .unwrap()
            .len()
            > 1
    );
    let error = server
        .post("/detokenize", &json!({"tokens": [1_000_000]}))
        .error(400);
    assert_eq!(error["param"], "tokens");
}

#[test]
fn more_tokens_than_anybody_needs_are_refused() {
    let server = Server::start(&[]);
    for with_pieces in [false, true] {
        let ask = |text: String| {
            let body = json!({"content": text, "with_pieces": with_pieces});
            server.post("/tokenize", &body)
        };
        let n = ask("\u{1}".repeat(100_000)).ok()["tokens"]
            .as_array()
            .unwrap()
            .len();
        assert_eq!(n, 100_000);
        // These are six bytes each in the body.
        let error = ask("\u{1}".repeat(600_000)).error(400);
        assert!(error["message"].as_str().unwrap().contains("300000"));
        let error = ask("word ".repeat(800_000)).error(400);
        assert!(error["message"].as_str().unwrap().contains("300000"));
    }
    let back = |n: usize| server.post("/detokenize", &json!({"tokens": vec![300; n]}));
    assert_ne!(back(300_000).ok()["content"], "");
    assert_eq!(back(300_001).error(400)["param"], "tokens");
    server.chat("Hello", json!({"max_tokens": 1})).ok();
}

#[test]
fn metrics_count_what_was_done() {
    let server = Server::start(&[]);
    let text = server.get("/metrics").text();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let family = name.split('{').next().unwrap();
        assert!(text.contains(&format!("# TYPE {family} ")), "{line}");
        assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
    }
    let usage = server.chat("Hello", json!({"max_tokens": 4})).ok()["usage"].take();
    assert_eq!(server.metric("requests_total{outcome=\"done\"}"), 1.0);
    let counted = (
        server.metric("prompt_tokens_total"),
        server.metric("completion_tokens_total"),
    );
    let told = (usage["prompt_tokens"].as_f64().unwrap(), 4.0);
    assert_eq!(counted, told);
    server.wait_until_idle();
}

#[test]
fn the_placement_is_told_and_drawn() {
    let server = Server::start(&["--cpu-moe"]);
    let told = server.get("/placement").ok();
    assert_eq!(
        told["placement"]["rules"][0]["tensors"]
            .as_array()
            .unwrap()
            .len(),
        18
    );
    assert_eq!(told["placement"]["misplaced"], json!([]));
    let picture = server.get("/placement.svg");
    assert_eq!(picture.headers["content-type"], "image/svg+xml");
    assert!(picture.text().starts_with("<svg "));
}

#[test]
fn the_page_takes_nothing_from_elsewhere() {
    let server = Server::start(&[]);
    let page = server.get("/");
    assert_eq!(page.status, 200);
    let policy = &page.headers["content-security-policy"];
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    for path in ["/", "/page.js", "/page.css"] {
        let file = server.get(path);
        let text = file.text();
        assert_eq!(file.status, 200);
        assert!(
            !text.contains("http://") && !text.contains("https://"),
            "{path}"
        );
    }
    // What the policy forbids is not in the page either.
    let html = page.text();
    assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick"));
    assert_eq!(html.matches("<script").count(), 1);
}

#[test]
fn what_is_not_there_is_said_in_the_same_form() {
    let server = Server::start(&[]);
    server.get("/v1/nothing").error(404);
    server.get("/v1/chat/completions").error(405);
    server.request("DELETE", "/v1/models", &[], b"").error(405);
}

#[test]
fn embeddings_have_length_one_in_both_forms() {
    let server = Server::start(&[]);
    let body = json!({"model": "moe-guide-q8_0", "input": ["an expert", "a router"]});
    let floats = server.post("/v1/embeddings", &body).ok();
    let embedding = |index: usize| -> Vec<f64> {
        assert_eq!(floats["data"][index]["index"], index);
        let numbers = floats["data"][index]["embedding"].as_array().unwrap();
        numbers
            .iter()
            .map(|number| number.as_f64().unwrap())
            .collect()
    };
    for index in 0..2 {
        let length: f64 = embedding(index).iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-4, "{length}");
    }
    assert_ne!(embedding(0), embedding(1));
    let tokens = floats["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(
        tokens > 2 && floats["usage"]["total_tokens"] == tokens,
        "{}",
        floats["usage"]
    );

    let body = json!({"input": "an expert", "encoding_format": "base64"});
    let base64 = server.post("/v1/embeddings", &body).ok();
    let text = base64["data"][0]["embedding"].as_str().unwrap();
    assert_eq!(text.len(), (embedding(0).len() * 4).div_ceil(3) * 4);
    // The tokens of a text are as good as the text.
    let tokens = server.post(
        "/tokenize",
        &json!({"content": "an expert", "add_special": true}),
    );
    let body = json!({"input": tokens.ok()["tokens"], "encoding_format": "base64"});
    assert_eq!(
        server.post("/v1/embeddings", &body).ok()["data"],
        base64["data"]
    );

    for (field, value) in [
        ("dimensions", json!(7)),
        ("encoding_format", json!("xml")),
        ("input", json!("")),
        ("input", json!([])),
        ("input", json!([0, -1])),
        ("input", json!([999_999])),
        ("input", json!({})),
    ] {
        let mut body = json!({"input": "an expert"});
        body[field] = value;
        let error = server.post("/v1/embeddings", &body).error(400);
        assert!(
            error["param"].as_str().unwrap().starts_with(field),
            "{error}"
        );
    }
    let long = json!({"input": "an expert ".repeat(2000)});
    server.post("/v1/embeddings", &long).error(400);
    // Each is short enough, but not all together.
    let many = json!({"input": vec![vec![300; 150]; 2048]});
    assert_eq!(
        server.post("/v1/embeddings", &many).error(400)["param"],
        "input"
    );
}

#[test]
fn embeddings_have_their_time_as_answers_have() {
    let server = Server::start(&["--timeout", "2"]);
    let many = json!({"input": vec![vec![300; 140]; 2048]});
    let error = server.post("/v1/embeddings", &many).error(503);
    assert_eq!(error["code"], "timeout");
    // The rest of them is not computed: others have their turn.
    let one = json!({"input": "an expert"});
    server.post("/v1/embeddings", &one).ok();
    assert!(server.metric("embedded_texts_total") < 2049.0);
}
