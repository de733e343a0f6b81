//! `trace`: three files and a table; and what is refused.

use std::fs;
use std::path::Path;

use llama_moe::measure::routing::{Phase, RoutingTrace};
use serde_json::Value;

use crate::programs::{outcome, program, run};
use crate::support;
use crate::support::layouts::Layout;

/// On one thread and without devices, into a folder.
fn trace(out: &Path, args: &[&str]) -> crate::programs::Outcome {
    let mut command = program("trace");
    command.args(args).arg("--out").arg(out);
    outcome(command.args(["--threads", "1", "--device", "none"]))
}

fn read(out: &Path) -> (RoutingTrace, Value, String) {
    let text = |name| fs::read_to_string(out.join(name)).unwrap();
    (
        RoutingTrace::from_json(&text("trace.json")).unwrap(),
        serde_json::from_str(&text("routing.json")).unwrap(),
        text("hit-rate.svg"),
    )
}

#[test]
fn the_bundled_model_is_traced() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/folder");
    let table = trace(&out, &["--tokens", "40"]).success();
    for part in [
        "40 tokens decoded",
        "6 layers of 8 experts",
        "hit rate",
        "entropy",
    ] {
        assert!(table.contains(part), "no '{part}':\n{table}");
    }
    let (trace, report, svg) = read(&out);
    assert_eq!(
        (
            trace.n_tokens(Phase::Prefill),
            trace.n_tokens(Phase::Decode)
        ),
        (128, 40)
    );
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    let expected = [
        "model",
        "text",
        "teacher_forcing",
        "n_prefill",
        "n_decoded",
        "crate_version",
        "decode",
        "all",
        "curve",
    ];
    assert_eq!(keys, expected);
    assert_eq!(report["decode"]["layers"].as_array().unwrap().len(), 6);
    let points = report["curve"]["points"].as_array().unwrap();
    assert_eq!(points.len(), 33);
    let rate = |point: &Value| point["hit_rate"].as_f64().unwrap();
    assert!(rate(&points[32]) > rate(&points[0]), "{points:?}");
    assert!(svg.starts_with("<svg"), "{svg:.200}");
}

#[test]
fn a_text_is_traced_token_by_token() {
    let (dir, path) = support::file(Layout::DeepSeek2);
    let text = dir.path().join("text.txt");
    fs::write(
        &text,
        "the router sends each token to the experts\0 in memory",
    )
    .unwrap();
    let args = [
        path.to_str().unwrap(),
        "--text",
        text.to_str().unwrap(),
        "--teacher-forcing",
    ];
    trace(dir.path(), &args).success();
    let (all, report, _) = read(dir.path());
    assert_eq!(report["teacher_forcing"], true);
    assert_eq!(all.n_tokens(Phase::Prefill), 0);
    assert!(all.n_tokens(Phase::Decode) > 8);
    trace(dir.path(), &[&args[..], &["--tokens", "3"]].concat()).success();
    assert_eq!(read(dir.path()).0.n_tokens(Phase::Decode), 3);
}

#[test]
fn what_cannot_be_traced() {
    let (dir, dense) = support::file(Layout::Dense);
    let dense = dense.to_str().unwrap();
    trace(dir.path(), &[dense]).failure(1, &["no routed experts"]);
    trace(dir.path(), &["--tokens", "4000"]).failure(1, &["4000 to decode", "larger context"]);
    trace(dir.path(), &["--teacher-forcing", "--tokens", "0"]).failure(1, &["no tokens"]);
    let text = dir.path().join("text.txt");
    let text = text.to_str().unwrap();
    trace(dir.path(), &["--text", text]).failure(1, &[text]);
    fs::write(text, " \n").unwrap();
    trace(dir.path(), &["--text", text]).failure(1, &[text, "empty"]);
    // A file is in the folder's place.
    trace(Path::new(text), &["--tokens", "1"]).failure(1, &[text]);
    run("trace", ["a.gguf", "--model", "b.gguf"]).failure(2, &["cannot be used with"]);
}
