//! What cannot work ends with a message that names the value: code 2 for options that are
//! none, 1 for the rest.

use std::fs;

use crate::programs::{chat, outcome, path, program, run};
use crate::support;
use crate::support::layouts::Layout;

#[test]
fn every_program_explains_itself() {
    let programs: &[&str] = &[
        "chat",
        "embed",
        "inspect",
        #[cfg(feature = "rpc")]
        "rpc_worker",
        #[cfg(feature = "engine")]
        "serve",
    ];
    for program in programs {
        let help = run(program, ["--help"]).success();
        assert!(help.contains("Usage:") && help.contains("--help"), "{help}");
        run(program, ["--nonsense"]).failure(2, &["--nonsense"]);
    }
    assert!(path("simple").exists());
}

#[test]
fn a_file_that_is_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.gguf");
    let text = dir.path().join("text.gguf");
    fs::write(&text, "Call me Ishmael.").unwrap();
    let empty = dir.path().join("empty.gguf");
    fs::write(&empty, "").unwrap();
    for path in [&missing, &text, &empty, &dir.path().to_path_buf()] {
        outcome(&mut chat(path)).failure(1, &[path.to_str().unwrap()]);
    }
}

#[test]
fn rules_and_devices_that_the_model_does_not_have() {
    let (_dir, model) = support::file(Layout::Qwen3Moe);
    for (args, parts) in [
        (["--device", "CUDA77"], ["CUDA77", "CPU"]),
        (["--override-tensor", "blk=NoSuch"], ["NoSuch", "CPU"]),
        (["--override-tensor", "nothing"], ["nothing", "'='"]),
        (["--override-tensor", "(=CPU"], ["(", "="]),
        (
            ["--override-tensor", "no_such_tensor=CPU"],
            ["no_such_tensor", "none"],
        ),
        (["--n-cpu-moe", "0"], ["0 blocks", "no layer"]),
        (["--n-cpu-moe", "999"], ["999 blocks", "has 4"]),
    ] {
        outcome(chat(&model).args(args)).failure(1, &parts);
    }
}

#[test]
fn options_that_exclude_each_other_or_are_none() {
    let (_dir, model) = support::file(Layout::Qwen3Moe);
    for (args, parts) in [
        (
            &["--cpu-moe", "--n-cpu-moe", "1"][..],
            ["--cpu-moe", "--n-cpu-moe"],
        ),
        (&["--hf", "a/b"], ["--model", "--hf"]),
        (&["--n-cpu-moe", "-1"], ["-1", ""]),
        (&["--n-cpu-moe", "many"], ["many", "--n-cpu-moe"]),
        (&["--temp", "warm"], ["warm", "--temp"]),
    ] {
        outcome(chat(&model).args(args)).failure(2, &parts);
    }
    run("chat", ["--json"]).failure(2, &["--prompt"]);
    run("chat", ["--hf", "nonsense"]).failure(2, &["nonsense", "OWNER/REPO"]);
}

#[test]
#[cfg(not(feature = "hf"))]
fn downloads_say_what_they_need() {
    run("chat", ["--hf", "a/b"]).failure(1, &["a/b", "--features hf"]);
}

#[test]
#[cfg(not(feature = "rpc"))]
fn workers_say_what_they_need() {
    run("chat", ["--rpc", "127.0.0.1:1"]).failure(1, &["127.0.0.1:1", "--features rpc"]);
}

#[test]
fn a_log_filter_that_is_none() {
    let mut command = program("chat");
    outcome(command.env("RUST_LOG", "a=b=c")).failure(1, &["RUST_LOG=a=b=c"]);
}
