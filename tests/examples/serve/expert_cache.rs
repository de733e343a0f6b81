//! A cache of experts on a worker: what the server says of it.

use std::time::Duration;

use serde_json::{Value, json};

use super::server::Server;
use crate::rpc::Worker;

fn text(server: &Server) -> String {
    let answer = server.chat(super::QUESTION, json!({"temperature": 0})).ok();
    let text = answer["choices"][0]["message"]["content"].as_str();
    text.expect("a text").to_owned()
}

#[test]
fn metrics_placement_and_the_last_line_tell_of_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let worker = Worker::start(&dir.path().join("cache"));
    let args = ["--cpu-moe", "--rpc", &worker.endpoint];
    let without = Server::start(&args);
    let expected = text(&without);
    assert!(!without.get("/metrics").text().contains("moe_cache"));
    assert_eq!(without.get("/placement").ok()["moe_cache"], Value::Null);
    drop(without);

    let server = Server::start(&[&args[..], &["--moe-cache", "2MiB"]].concat());
    assert_eq!(server.metric("moe_cache_hits_total"), 0.0);
    assert_eq!(text(&server), expected);
    server.wait_until_idle();
    let [hits, misses, uploaded] = ["hits", "misses", "uploaded_bytes"]
        .map(|name| server.metric(&format!("moe_cache_{name}_total")));
    assert!(hits > 0.0 && misses > 0.0, "{hits}, {misses}");
    let placement = server.get("/placement").ok();
    let cache = &placement["moe_cache"];
    let group = &cache["groups"][0];
    assert_eq!(
        uploaded,
        misses * group["bytes_per_expert"].as_f64().unwrap()
    );
    assert_eq!(cache["size"], 2 << 20);
    assert_eq!(
        server.metric("moe_cache_bytes"),
        cache["bytes"].as_f64().unwrap()
    );
    assert_eq!(
        server.metric("moe_cache_slots"),
        group["n_slots"].as_f64().unwrap()
    );
    assert!(
        server
            .get("/placement.svg")
            .text()
            .contains("Cache of experts on RPC0")
    );
    // Texts are embedded without a cache, and answers go on with it.
    server
        .post("/v1/embeddings", &json!({"input": "a text"}))
        .ok();
    assert_eq!(server.metric("moe_cache_misses_total"), misses);
    assert_eq!(text(&server), expected);

    server.signal("-INT");
    let (status, stderr) = server.wait(Duration::from_secs(30));
    assert!(status.success(), "{stderr}");
    let line = stderr
        .lines()
        .find(|line| line.starts_with("cache of experts: "));
    let line = line.unwrap_or_else(|| panic!("{stderr}"));
    assert!(
        line.contains(" % hits (") && line.contains("MiB uploaded"),
        "{line}"
    );
}
