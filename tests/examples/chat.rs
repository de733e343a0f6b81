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

/// The bundled model with all experts in system memory, and a worker as its device.
#[cfg(feature = "rpc")]
fn bundled_on(worker: &crate::rpc::Worker) -> assert_cmd::Command {
    let mut command = program("chat");
    command.args(["--cpu-moe", "--rpc", &worker.endpoint]);
    command.args(["--temp", "0", "--threads", "1"]);
    command
}

#[cfg(feature = "rpc")]
const QUESTION: &str = "How do I keep the experts on the CPU?";

#[test]
#[cfg(feature = "rpc")]
fn a_cache_of_experts_changes_no_text_and_has_hits() {
    let dir = tempfile::tempdir().unwrap();
    let worker = crate::rpc::Worker::start(&dir.path().join("cache"));
    let talk = |args: &[&str]| {
        let lines = format!("/stats\n{QUESTION}\n/stats\nWhat is a router?\n/stats\n/placement\n");
        outcome(bundled_on(&worker).args(args).write_stdin(lines)).success()
    };
    let told = [
        "cache", "prompt  ", "reply  ", "time ", "CPU", "RPC0", "rule", "load", "memory",
    ];
    let texts = |said: &str| -> Vec<String> {
        let lines = said.lines();
        let texts = lines.filter(|line| !told.iter().any(|start| line.starts_with(start)));
        texts.map(str::to_owned).collect()
    };
    let without = talk(&[]);
    assert!(!without.contains("cache"), "{without}");
    for size in [["--moe-cache", "2MiB"], ["--moe-cache-mib", "2"]] {
        let with = talk(&size);
        assert_eq!(texts(&with), texts(&without));
        let counts = |start: &str| -> Vec<(u64, u64)> {
            let lines = with.lines().filter_map(|line| line.strip_prefix(start));
            lines
                .map(|line| {
                    let (_, counts) = line.split_once('(').unwrap();
                    let mut numbers = counts.split(' ').filter_map(|word| word.parse().ok());
                    (numbers.next().unwrap(), numbers.next().unwrap())
                })
                .collect()
        };
        let (replies, sums) = (counts("cache, this reply "), counts("cache, since start "));
        assert_eq!((replies.len(), sums.len()), (2, 2), "{with}");
        assert!(replies[0].0 > 0 && replies[0].1 > 0, "{with}");
        assert_eq!(replies[0], sums[0]);
        assert_eq!(
            sums[1],
            (sums[0].0 + replies[1].0, sums[0].1 + replies[1].1)
        );
        assert!(with.contains("MiB uploaded"), "{with}");
        // Of 48 experts some have no slot.
        assert!(
            with.contains(" of 48 experts of 6 layers, 1.9 MiB"),
            "{with}"
        );
        assert!(!with.contains("larger than all experts"), "{with}");
    }
    let with = talk(&["--moe-cache", "2GiB"]);
    assert_eq!(texts(&with), texts(&without));
    let surplus = "the cache is larger than all experts: 4 MiB would do";
    assert!(with.contains(surplus), "{with}");

    let report = |args: &[&str]| {
        let args = [&["--prompt", QUESTION, "--json"], args].concat();
        json(outcome(bundled_on(&worker).args(args)))
    };
    assert_eq!(report(&[])["moe_cache"], Value::Null);
    let cache = report(&["--moe-cache", "2MiB"])["moe_cache"].take();
    assert_eq!(cache["size"], 2 << 20);
    let number = |name: &str| cache[name].as_u64().unwrap();
    assert!(number("hits") > 0 && number("bytes") <= 2 << 20, "{cache}");
    let per_expert = cache["groups"][0]["bytes_per_expert"].as_u64().unwrap();
    assert_eq!(number("uploaded_bytes"), number("misses") * per_expert);
    let rate = number("hits") as f64 / (number("hits") + number("misses")) as f64;
    assert!((cache["hit_rate"].as_f64().unwrap() - rate).abs() < 1e-9);
}

#[test]
#[cfg(feature = "rpc")]
fn a_cache_that_cannot_be_says_what_would_work() {
    let ask = ["--prompt", QUESTION, "--cpu-moe"];
    let without_device = [&ask[..], &["--device", "none", "--moe-cache", "2MiB"]].concat();
    programs::run("chat", without_device).failure(1, &["needs a GPU"]);
    programs::run("simple", ["hello", "--moe-cache-mib", "x"]).failure(2, &["--moe-cache-mib"]);
    let both = [&ask[..], &["--moe-cache", "1MiB", "--moe-cache-mib", "1"]].concat();
    programs::run("chat", both).failure(2, &["--moe-cache", "--moe-cache-mib"]);

    let dir = tempfile::tempdir().unwrap();
    let worker = crate::rpc::Worker::start(&dir.path().join("cache"));
    let small = ["--prompt", QUESTION, "--moe-cache", "1KiB"];
    outcome(bundled_on(&worker).args(small)).failure(1, &["1024 bytes", "the least that works"]);
    // Without a rule the experts are on the device.
    let args = [
        "--rpc",
        &worker.endpoint,
        "--prompt",
        "hi",
        "--moe-cache",
        "2MiB",
    ];
    programs::run("chat", args).failure(1, &["no layer can be cached", "with_cpu_moe_all"]);
}

#[test]
#[cfg(feature = "rpc")]
fn a_plan_reserves_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let worker = crate::rpc::Worker::start(&dir.path().join("cache"));
    let cached = |budget: &str, args: &[&str]| {
        let mut command = program("chat");
        command.args(["--rpc", &worker.endpoint, "--vram-budget", budget]);
        command.args(["--moe-cache", "1MiB", "--ctx", "256", "--threads", "1"]);
        command.args(["--prompt", "hi", "-n", "4", "--temp", "0", "--json"]);
        let outcome = outcome(command.args(args));
        (outcome.stderr.clone(), json(outcome))
    };
    let svg = dir.path().join("placement.svg");
    let (plan, report) = cached("7MiB", &["--svg", svg.to_str().unwrap()]);
    assert!(plan.contains("cache on RPC0"), "{plan}");
    let cache = &report["moe_cache"];
    assert_eq!(cache["size"], 1 << 20);
    assert!(cache["groups"][0]["n_slots"].as_u64() > Some(0), "{cache}");
    let picture = fs::read_to_string(svg).unwrap();
    assert!(picture.contains("Cache of experts on RPC0"), "{picture}");
    // All experts are on the device: the cache is left out, and that is reported.
    let (plan, report) = cached("1GiB", &[]);
    assert!(plan.contains("no cache of experts"), "{plan}");
    assert_eq!(report["moe_cache"], Value::Null);

    let json = |args: &[&str]| -> Value {
        let rpc = [
            "--rpc",
            &worker.endpoint,
            "--ctx",
            "256",
            "--json",
            "--no-limits",
        ];
        let said = programs::run("plan", [&rpc[..], args].concat()).success();
        serde_json::from_str(&said).unwrap()
    };
    let plan = json(&["--budget", "7MiB", "--moe-cache-mib", "1"]);
    assert_eq!(plan["moe_cache"]["size"], 1 << 20);
    assert_eq!(plan["moe_cache_left_out"], false);
    assert_eq!(plan["devices"][0]["moe_cache"], plan["moe_cache"]["bytes"]);
    assert!(
        plan["command_line"]
            .as_str()
            .unwrap()
            .contains("--moe-cache-mib 1")
    );
    let plan = json(&["--budget", "1GiB", "--moe-cache-mib", "1"]);
    assert_eq!(
        (&plan["moe_cache"], &plan["moe_cache_left_out"]),
        (&Value::Null, &Value::Bool(true))
    );
}
