//! `chat`: one reply for a script, and a conversation.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

use crate::programs::{self, Outcome, TEMPLATE, chat, outcome, program};
use crate::support;
use crate::support::layouts::Layout;

fn model() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    Layout::Qwen3Moe.write_chat(&path, TEMPLATE);
    (dir, path)
}

fn json(outcome: Outcome) -> Value {
    serde_json::from_str(&outcome.success()).unwrap()
}

/// A conversation of these lines.
fn talk(model: &Path, args: &[&str], lines: &str) -> Outcome {
    let mut command = program("chat");
    command
        .arg("--model")
        .arg(model)
        .args(["--ctx", "256", "--threads", "1"]);
    outcome(command.args(args).write_stdin(lines))
}

#[test]
fn weights_are_on_huge_pages_or_it_is_said_why_not() {
    let (_dir, model) = model();
    let outcome = outcome(chat(&model).args(["--huge-pages", "--max-tokens", "4"]));
    let told = outcome.stderr.lines().next().unwrap_or_default();
    if told.starts_with("huge pages: ") && told.contains(" MiB of weights in system memory") {
        assert_ne!(outcome.success(), "");
    } else {
        assert!(told.starts_with("error: --huge-pages: "), "{told}");
    }
}

#[test]
fn one_reply_as_json() {
    let (_dir, model) = model();
    let outcome = outcome(
        chat(&model)
            .args(["--json", "--seed", "7", "--n-cpu-moe", "2"])
            .args(["--max-tokens", "4"]),
    );
    assert_eq!(outcome.stderr, "");
    assert_eq!(outcome.stdout.lines().count(), 1);
    let report = json(outcome);
    assert_ne!(report["reply"].as_str().unwrap(), "");
    assert_eq!(report["model"]["path"], model.to_str().unwrap());
    assert!(
        report["model"]["description"]
            .as_str()
            .unwrap()
            .contains("qwen3moe")
    );
    assert!(report["prompt_tokens"].as_u64().unwrap() >= "hello".len() as u64);
    assert_eq!(report["reused_tokens"], 0);
    assert_eq!(report["generated_tokens"], 4);
    assert!(report["ttft_ms"].as_f64().unwrap() > 0.0);
    assert!(report["time_per_output_token_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(report["finish"], "length");
    assert_eq!(report["seed"], 7);
    assert!(report["llama_cpp"].as_str().unwrap().starts_with("0.8"));
    let placement = &report["placement"];
    assert!(placement["memory"][0]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(placement["rules"].as_array().unwrap().len(), 1);
    assert_eq!(
        placement["rules"][0]["tensors"].as_array().unwrap().len(),
        6
    );
}

#[test]
fn the_log_is_silent_unless_asked_for() {
    let (_dir, model) = model();
    let log = |args: &[&str]| {
        let outcome = outcome(chat(&model).args(["-n", "1"]).args(args));
        assert_eq!(outcome.code, 0, "{outcome:#?}");
        outcome.stderr
    };
    assert_eq!(log(&[]), "");
    let log = log(&["--verbose"]);
    assert!(
        log.contains("llama_model_loader") && !log.contains('\u{1b}'),
        "{log}"
    );
}

#[test]
fn rules_are_tried_in_the_order_that_the_help_states() {
    let (_dir, model) = model();
    let args = [
        "--json",
        "-n",
        "1",
        "--cpu-moe",
        "-o",
        r"blk\.0\.ffn_up_exps=CPU",
    ];
    let report = json(outcome(chat(&model).args(args)));
    let rules = report["placement"]["rules"].as_array().unwrap();
    assert_eq!(
        rules[0]["tensors"],
        serde_json::json!(["blk.0.ffn_up_exps.weight"])
    );
    assert_eq!(rules[1]["tensors"].as_array().unwrap().len(), 11);
}

#[test]
fn a_seed_makes_a_reply_repeatable() {
    let (_dir, model) = model();
    let reply = |args: &[&str]| -> (Value, Value) {
        let mut command = chat(&model);
        command.args(["--json", "--max-tokens", "32"]).args(args);
        let mut report = json(outcome(&mut command));
        (report["reply"].take(), report["seed"].take())
    };
    let args = ["--temp", "2", "--seed", "1"];
    assert_eq!(reply(&args), reply(&args));
    assert_ne!(reply(&args).0, reply(&["--temp", "2", "--seed", "2"]).0);
    // Without a seed the one that was drawn is told.
    let (drawn, seed) = reply(&["--temp", "2"]);
    assert_eq!(
        reply(&["--temp", "2", "--seed", &seed.to_string()]).0,
        drawn
    );
    assert_eq!(reply(&["--temp", "0"]), reply(&["--temp", "0"]));
    assert_eq!(reply(&["--temp", "0"]).1, Value::Null);
}

#[test]
fn a_grammar_is_kept_to() {
    let (dir, model) = model();
    let path = dir.path().join("yes.gbnf");
    fs::write(&path, "root ::= \"yes\" | \"no\"").unwrap();
    let mut command = chat(&model);
    command
        .arg("--grammar")
        .arg(&path)
        .args(["--json", "--max-tokens", "16"]);
    let report = json(outcome(&mut command));
    assert!(
        ["yes", "no"].contains(&report["reply"].as_str().unwrap()),
        "{report}"
    );
    assert_eq!(report["finish"], "end");

    for text in ["root ::= undefined", "yes", ""] {
        fs::write(&path, text).unwrap();
        outcome(chat(&model).arg("--grammar").arg(&path)).failure(1, &["--grammar", "yes.gbnf"]);
    }
    let missing = dir.path().join("missing.gbnf");
    outcome(chat(&model).arg("--grammar").arg(&missing)).failure(1, &["missing.gbnf"]);
}

#[test]
fn a_model_without_a_template_needs_the_name_of_one() {
    let (_dir, model) = support::file(Layout::Dense);
    outcome(&mut chat(&model)).failure(1, &["no chat template", "--chat-template", "chatml"]);
    let args = ["--json", "--max-tokens", "4", "--chat-template"];
    json(outcome(chat(&model).args(args).arg("chatml")));
    outcome(chat(&model).args(args).arg("nonsense")).failure(1, &["nonsense", "chatml"]);
}

#[test]
fn a_system_text_comes_before_the_conversation() {
    let (_dir, model) = model();
    let n_prompt = |args: &[&str]| {
        let report = json(outcome(chat(&model).args(["--json", "-n", "1"]).args(args)));
        report["prompt_tokens"].as_u64().unwrap()
    };
    assert!(n_prompt(&["--system", "Be brief."]) > n_prompt(&[]));
}

#[test]
fn a_conversation_with_every_command() {
    let (_dir, model) = model();
    let lines = "/stats\nhello\n\n/stats\nagain\n/stats\n/placement\n/nonsense\n/help\n/reset\n/stats\n/quit\nno more";
    let outcome = talk(&model, &["--max-tokens", "4", "--cpu-moe"], lines);
    assert_eq!(outcome.stderr, "");
    let stdout = outcome.success();
    assert_eq!(stdout.matches("no reply yet").count(), 2, "{stdout}");
    let tables: Vec<_> = stdout.match_indices("time to first token").collect();
    assert_eq!(tables.len(), 2, "{stdout}");
    let reused: Vec<u32> = stdout
        .lines()
        .filter_map(|line| line.strip_suffix(" of them reused"))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(reused[0] == 0 && reused[1] > 0, "{stdout}");
    for part in [
        "rule 1: all experts",
        "load mode:",
        "no command /nonsense",
        "/placement  ",
    ] {
        assert!(stdout.contains(part), "no '{part}' in {stdout}");
    }
}

#[test]
fn a_question_that_goes_wrong_does_not_end_the_conversation() {
    let (_dir, model) = model();
    let lines = format!("{}\nhello\n/stats\n", "word ".repeat(300));
    let outcome = talk(&model, &["--max-tokens", "4"], &lines);
    assert!(outcome.stderr.starts_with("error: "), "{outcome:#?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
    let stdout = outcome.success();
    assert!(stdout.contains("time to first token"), "{stdout}");
}

/// A program started with its input and output at hand.
fn start(model: &Path, args: &[&str]) -> std::process::Child {
    std::process::Command::new(programs::path("chat"))
        .arg("--model")
        .arg(model)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let (_dir, model) = model();
    for args in [&[][..], &["--json"]] {
        let short = ["--prompt", "hello", "--max-tokens", "4", "--threads", "1"];
        let mut process = start(&model, &[&short, args].concat());
        drop(process.stdout.take());
        let output = process.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    }
}

#[test]
#[cfg(unix)]
fn control_c_stops_the_reply_and_not_the_program() {
    let (_dir, model) = model();
    // Far more than is generated in the time that this test takes.
    let args = [
        "--ctx",
        "200000",
        "--max-tokens",
        "150000",
        "--temp",
        "0",
        "--threads",
        "1",
    ];
    let mut process = start(&model, &args);
    let mut stdin = process.stdin.take().unwrap();
    let mut stdout = BufReader::new(process.stdout.take().unwrap());
    stdin.write_all(b"hello\n").unwrap();
    let mut header = String::new();
    stdout.read_line(&mut header).unwrap();
    stdout.read_exact(&mut [0; 32]).unwrap();

    let pid = process.id().to_string();
    let kill = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(kill.unwrap().success());
    stdin.write_all(b"/stats\n/quit\n").unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(process.wait().unwrap().success());
    assert!(rest.contains("aborted"), "{rest}");
}
