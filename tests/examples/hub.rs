//! `--hf`: from the repository's list of files to a loaded model.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

use crate::hub_server::{Fault, HubServer};
use crate::programs::{TEMPLATE, outcome, program};
use crate::support::layouts::Layout;

fn chat(server: &HubServer, home: &TempDir, model: &str) -> Command {
    let mut command = program("chat");
    command
        .env("HF_ENDPOINT", &server.endpoint)
        .env("HF_HOME", home.path())
        .args(["--hf", model, "--prompt", "hello", "--max-tokens", "4"])
        .args(["--ctx", "256", "--threads", "1", "--json"]);
    command
}

fn model_bytes() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    Layout::Mixtral.write_chat(&path, TEMPLATE);
    fs::read(path).unwrap()
}

#[test]
fn a_model_is_chosen_downloaded_and_kept() {
    let model = model_bytes();
    let files: &[(&str, &[u8])] = &[
        ("README.md", b"text"),
        ("m-F16.gguf", b"not asked for"),
        ("m-Q4_0.gguf", &model),
    ];
    let server = HubServer::start(files, Fault::None);
    let home = tempfile::tempdir().unwrap();
    for run in 0..2 {
        let report = outcome(&mut chat(&server, &home, "owner/repo:q4_0")).success();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        let path = report["model"]["path"].as_str().unwrap();
        assert!(path.ends_with("m-Q4_0.gguf"), "{path}");
        assert!(Path::new(path).starts_with(home.path()), "{path}");
        let downloads = server.downloads();
        assert_eq!(downloads, ["m-Q4_0.gguf@0"].as_slice()[run..], "run {run}");
    }
}

#[test]
fn a_split_model_is_downloaded_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Layout::Mixtral.writer();
    writer.string("tokenizer.chat_template", TEMPLATE);
    let paths = writer.write_split(dir.path(), "m-Q4_0", 2);
    let contents: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let files: &[(&str, &[u8])] = &[
        ("Q4_0/m-Q4_0-00001-of-00002.gguf", &contents[0]),
        ("Q4_0/m-Q4_0-00002-of-00002.gguf", &contents[1]),
    ];
    let server = HubServer::start(files, Fault::None);
    let home = tempfile::tempdir().unwrap();
    let report = outcome(&mut chat(&server, &home, "owner/repo")).success();
    assert!(report.contains("00001-of-00002"), "{report}");
    assert_eq!(server.downloads().len(), 2);
}

#[test]
fn a_choice_that_is_none_lists_what_there_is() {
    let files: &[(&str, &[u8])] = &[("m-Q4_K_M.gguf", b"a"), ("m-Q4_K_S.gguf", b"b")];
    let server = HubServer::start(files, Fault::None);
    let home = tempfile::tempdir().unwrap();
    for model in ["owner/repo", "owner/repo:q4_k", "owner/repo:Q8_0"] {
        outcome(&mut chat(&server, &home, model))
            .failure(1, &[model, "m-Q4_K_M.gguf, m-Q4_K_S.gguf"]);
    }
    assert!(server.downloads().is_empty());
}

#[test]
fn a_repository_or_server_that_is_not_there() {
    let server = HubServer::start(&[], Fault::None);
    let home = tempfile::tempdir().unwrap();
    outcome(&mut chat(&server, &home, "nobody/nothing"))
        .failure(1, &["nobody/nothing", &server.endpoint, "404"]);
    outcome(&mut chat(&server, &home, "owner/repo")).failure(1, &["owner/repo", "no GGUF"]);

    let nobody = "http://127.0.0.1:9";
    outcome(chat(&server, &home, "owner/repo").env("HF_ENDPOINT", nobody))
        .failure(1, &["owner/repo", nobody]);
}

#[test]
fn half_a_file_is_never_taken_for_the_model() {
    let model = model_bytes();
    for (fault, says) in [
        (Fault::Broken, "cannot download"),
        (Fault::Short, "the server sent"),
    ] {
        let server = HubServer::start(&[("m.gguf", &model)], fault);
        let home = tempfile::tempdir().unwrap();
        // The second run must not find what the first left behind.
        for _ in 0..2 {
            outcome(&mut chat(&server, &home, "owner/repo")).failure(1, &["m.gguf", says]);
        }
    }
}

#[test]
fn a_broken_download_is_taken_up_where_it_stopped() {
    let model = model_bytes();
    let broken = HubServer::start(&[("m.gguf", &model)], Fault::Broken);
    let home = tempfile::tempdir().unwrap();
    outcome(&mut chat(&broken, &home, "owner/repo")).failure(1, &["m.gguf"]);

    let server = HubServer::start(&[("m.gguf", &model)], Fault::None);
    outcome(&mut chat(&server, &home, "owner/repo")).success();
    let downloads = server.downloads();
    assert_eq!(downloads.len(), 1, "{downloads:?}");
    assert!(!downloads[0].ends_with("@0"), "{downloads:?}");
}
