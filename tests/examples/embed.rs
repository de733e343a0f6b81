//! `embed`: lengths, similarities, and where texts come from.

use serde_json::Value;

use crate::programs::{outcome, program};
use crate::support;
use crate::support::layouts::{Layout, N_EMBD};

fn embed(model: &std::path::Path) -> assert_cmd::Command {
    let mut command = program("embed");
    command.arg("--model").arg(model).args(["--threads", "1"]);
    command
}

fn floats(array: &Value) -> Vec<f64> {
    let array = array.as_array().unwrap();
    array.iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn a_model_that_only_encodes_has_no_memory_to_clear() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("encoder.gguf");
    support::others::encoder().write(&model);
    let json = outcome(embed(&model).args(["--json", "a cat", "a lathe"])).success();
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["texts"].as_array().unwrap().len(), 2);
}

#[test]
fn embeddings_have_length_one_and_similarities_are_their_cosines() {
    let (_dir, model) = support::file(Layout::Qwen3Moe);
    let json = outcome(embed(&model).args(["--json", "a cat", "a lathe", "a cat"])).success();
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["n_embd"], N_EMBD);
    let texts = report["texts"].as_array().unwrap();
    assert_eq!(texts[1]["text"], "a lathe");
    assert!(texts[1]["n_tokens"].as_u64().unwrap() > 0);
    let embeddings: Vec<_> = texts
        .iter()
        .map(|text| floats(&text["embedding"]))
        .collect();
    for (a, row) in embeddings
        .iter()
        .zip(report["similarity"].as_array().unwrap())
    {
        assert_eq!(a.len() as u64, N_EMBD);
        for (b, cosine) in embeddings.iter().zip(floats(row)) {
            let expected: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert!((cosine - expected).abs() < 1e-5, "{cosine} {expected}");
        }
    }
    let row = floats(&report["similarity"][0]);
    assert!(
        (row[0] - 1.0).abs() < 1e-5 && (row[2] - 1.0).abs() < 1e-5,
        "{row:?}"
    );
    assert!(row[1] < 0.999, "{row:?}");
}

#[test]
fn texts_come_from_stdin_when_there_are_no_arguments() {
    let (_dir, model) = support::file(Layout::Qwen3Moe);
    let table = outcome(embed(&model).write_stdin("one\ntwo\n")).success();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(
        lines[1].contains("1.000") && lines[1].ends_with("one"),
        "{table}"
    );
}

#[test]
fn pooling_matters() {
    let (_dir, model) = support::file(Layout::Qwen3Moe);
    let with = |pooling: &str| -> Value {
        let args = ["--json", "--pooling", pooling, "a cat"];
        serde_json::from_str(&outcome(embed(&model).args(args)).success()).unwrap()
    };
    let (mean, last) = (with("mean"), with("last"));
    assert_ne!(mean["texts"][0]["embedding"], last["texts"][0]["embedding"]);
    outcome(embed(&model).args(["--pooling", "sum", "a"])).failure(2, &["sum", "--pooling"]);
}

#[test]
fn texts_that_cannot_be_embedded() {
    let (_dir, model) = support::file(Layout::Qwen3Moe);
    outcome(embed(&model).write_stdin("")).failure(1, &["no text"]);
    outcome(embed(&model).args(["a", ""])).failure(1, &["text 2", "empty"]);
    let long = "a ".repeat(2000);
    outcome(embed(&model).args(["a", &long])).failure(1, &["text 2", "512"]);
}
