//! `inspect`: what a file says, as a table and as JSON.

use std::fs;

use serde_json::Value;

use crate::programs::{outcome, program, run};
use crate::support;
use crate::support::layouts::{Layout, vocabulary};

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&run("inspect", args).success()).unwrap()
}

fn keys(object: &Value) -> Vec<&str> {
    let object = object.as_object().unwrap();
    object.keys().map(String::as_str).collect()
}

/// Programs read these: none may go, or change its name.
#[test]
fn the_keys_of_its_json() {
    let (_dir, path) = support::file(Layout::Glm4Moe);
    let path = path.to_str().unwrap();
    let report = json(&[path, "--json"]);
    let top = [
        "name",
        "architecture",
        "files",
        "bytes",
        "n_blocks",
        "n_mtp_blocks",
        "roles",
        "moe",
        "tensors",
    ];
    assert_eq!(keys(&report), top);
    assert_eq!(keys(&report["roles"][0]), ["role", "n_tensors", "bytes"]);
    assert_eq!(
        keys(&report["moe"]),
        [
            "layers",
            "n_expert",
            "n_expert_used",
            "n_expert_shared",
            "expert_bytes",
            "expert_bytes_total",
            "bytes_per_token",
            "expert_bytes_per_token",
        ]
    );
    assert_eq!(
        keys(&report["tensors"][0]),
        [
            "name", "type", "shape", "bytes", "role", "block", "file", "offset"
        ]
    );
    let with_metadata = json(&[path, "--json", "--metadata"]);
    assert_eq!(keys(&with_metadata), [&top[..], &["metadata"]].concat());
    assert_eq!(
        keys(&with_metadata["metadata"][0]),
        ["key", "type", "value"]
    );
    let pair = |key: &str| {
        let pairs = with_metadata["metadata"].as_array().unwrap();
        pairs
            .iter()
            .find(|pair| pair["key"] == key)
            .unwrap()
            .clone()
    };
    let count = pair("glm4moe.block_count");
    assert_eq!(
        (count["type"].as_str(), &count["value"]),
        (Some("u32"), &5.into())
    );
    let epsilon = pair("glm4moe.attention.layer_norm_rms_epsilon");
    assert_eq!(
        (epsilon["type"].as_str(), &epsilon["value"]),
        (Some("f32"), &1e-6.into())
    );
    let tokens = pair("tokenizer.ggml.tokens");
    assert_eq!(tokens["type"], "arr");
    let expected: Vec<String> = vocabulary().into_iter().map(|token| token.text).collect();
    assert_eq!(tokens["value"], Value::from(expected));
}

#[test]
fn json_says_what_the_layout_is() {
    for layout in Layout::ALL {
        let (_dir, path) = support::file(layout);
        let report = json(&[path.to_str().unwrap(), "--json"]);
        assert_eq!(report["architecture"], layout.arch());
        assert_eq!(report["files"][0], path.to_str().unwrap());
        let expected = layout.tensors();
        let tensors = report["tensors"].as_array().unwrap();
        assert_eq!(tensors.len(), expected.len());
        for (tensor, expected) in tensors.iter().zip(&expected) {
            assert_eq!(tensor["name"], *expected.name);
            assert_eq!(tensor["shape"], Value::from(expected.shape.clone()));
            assert_eq!(tensor["bytes"], expected.bytes());
            assert_eq!(
                tensor["block"],
                expected.layer.map_or(Value::Null, Value::from)
            );
        }
        let experts: u64 = layout.expert_tensors().iter().map(|(_, bytes)| bytes).sum();
        let of_role = report["roles"].as_array().unwrap().iter();
        let of_role = of_role.filter(|role| role["role"] == "routed_experts");
        let sum: u64 = of_role.map(|role| role["bytes"].as_u64().unwrap()).sum();
        assert_eq!(sum, experts, "{layout:?}");
        if layout.is_moe() {
            assert_eq!(report["moe"]["expert_bytes_total"], experts);
            assert_eq!(report["moe"]["layers"], Value::from(layout.moe_layers()));
        } else {
            assert_eq!(report["moe"], Value::Null);
        }
    }
}

#[test]
fn the_table_names_every_tensor() {
    let (_dir, path) = support::file(Layout::DeepSeek2);
    let path = path.to_str().unwrap();
    let short = run("inspect", [path]).success();
    for part in [
        "DeepSeek2: deepseek2",
        "routed experts",
        "MoE layers       4 of 6: 2-5",
        "8 per layer, 2 used by a token, 1 shared",
        "blk.*.ffn_up_exps.weight",
        "64 x 96 x 8",
    ] {
        assert!(short.contains(part), "no '{part}':\n{short}");
    }
    let line = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("no {name}:\n{text}"))
            .to_owned()
    };
    assert!(
        line(&short, "blk.*.ffn_up_exps").ends_with("2-5"),
        "{short}"
    );
    assert!(
        line(&short, "blk.*.ffn_up.weight").ends_with("0-1"),
        "{short}"
    );
    let long = run("inspect", [path, "--tensors"]).success();
    for tensor in Layout::DeepSeek2.tensors() {
        let line = line(&long, &format!("{} ", tensor.name));
        assert!(line.contains(&tensor.bytes().to_string()), "{line}");
    }
    let metadata = run("inspect", [path, "--metadata"]).success();
    let tokens = line(&metadata, "tokenizer.ggml.tokens");
    let n = vocabulary().len();
    assert!(tokens.contains(&format!("str[{n}]")), "{tokens}");
    assert!(tokens.contains(&format!("... {} more", n - 6)), "{tokens}");
}

#[test]
fn several_files_are_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Layout::Qwen3Moe.writer().write_split(dir.path(), "m", 3);
    let report = json(&[paths[0].to_str().unwrap(), "--json"]);
    assert_eq!(report["files"].as_array().unwrap().len(), 3);
    let last = report["tensors"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(last["file"], 2);
    let table = run("inspect", [&paths[0]]).success();
    assert!(table.contains("3 files"), "{table}");
}

#[test]
fn texts_of_the_file_cannot_reach_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut file = Layout::Dense.writer();
    file.string("general.name", "\u{1b}[2Jname\u{9b}");
    file.string("tokenizer.chat_template", "line\nline \u{7}");
    file.write(&path);
    let args = [path.to_str().unwrap(), "--metadata"];
    let table = run("inspect", args).success();
    let is_bad = |c: char| c.is_control() && c != '\n';
    assert!(!table.contains(is_bad), "{table:?}");
    assert!(table.contains("line\\nline \\u{7}"), "{table}");
}

#[test]
fn what_is_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.gguf");
    fs::write(&text, "Call me Ishmael.").unwrap();
    let missing = dir.path().join("missing.gguf");
    for path in [&missing, &text, &dir.path().to_path_buf()] {
        let outcome = outcome(program("inspect").arg(path));
        outcome.failure(1, &[path.to_str().unwrap()]);
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
}

#[test]
fn a_picture_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let svg = dir.path().join("inspect.svg");
    run("inspect", ["--svg", svg.to_str().unwrap()]).success();
    let svg = std::fs::read_to_string(svg).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.contains("routed experts"),
        "{svg:.200}"
    );
    run("inspect", ["--svg", "no/such/folder.svg"]).failure(1, &["no/such/folder.svg"]);
}
