//! `rpc_worker` as the device of a `chat` in another process.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::programs::{TEMPLATE, chat, outcome, path, run};
use crate::support::layouts::Layout;

/// A worker process that lends its CPU, ended on drop.
pub struct Worker {
    pub endpoint: String,
    process: Child,
    /// Open, since the worker goes on to report clients.
    _stdout: BufReader<ChildStdout>,
}

impl Worker {
    pub fn start(cache: &Path) -> Self {
        let mut process = Command::new(path("rpc_worker"))
            .args([
                "--listen",
                "127.0.0.1:0",
                "--threads",
                "1",
                "--device",
                "cpu",
            ])
            .arg("--cache")
            .arg(cache)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a worker");
        let mut stdout = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut line = String::new();
        let endpoint = loop {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "the worker ended");
            if let Some(endpoint) = line.trim().strip_prefix("listening on ") {
                break endpoint.to_owned();
            }
        };
        Self {
            endpoint,
            process,
            _stdout: stdout,
        }
    }

    /// The process' number.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Bytes in system memory, and elsewhere.
fn bytes(report: &Value) -> (u64, u64) {
    let memory = report["placement"]["memory"].as_array().unwrap();
    let sum = |is_host: bool| {
        memory
            .iter()
            .filter(|entry| entry["is_host"] == is_host)
            .map(|entry| entry["bytes"].as_u64().unwrap())
            .sum()
    };
    (sum(true), sum(false))
}

#[test]
fn exactly_the_experts_are_on_the_cpu_and_the_rest_on_the_worker() {
    let dir = tempfile::tempdir().unwrap();
    let worker = Worker::start(&dir.path().join("cache"));
    let layout = Layout::DeepSeek2;
    let model = dir.path().join("model.gguf");
    layout.write_chat(&model, TEMPLATE);
    let report = |args: &[&str]| -> Value {
        let mut command = chat(&model);
        command.args([
            "--json",
            "--max-tokens",
            "4",
            "--temp",
            "0",
            "--rpc",
            &worker.endpoint,
        ]);
        let json = outcome(command.args(args)).success();
        serde_json::from_str(&json).unwrap()
    };

    let without = report(&[]);
    let with = report(&["--cpu-moe"]);
    let experts = layout.expert_tensors();
    let names: BTreeSet<_> = experts.iter().map(|(name, _)| name.as_str()).collect();
    let n_bytes: u64 = experts.iter().map(|(_, bytes)| bytes).sum();

    let rule = &with["placement"]["rules"][0];
    let moved = rule["tensors"].as_array().unwrap();
    let moved: BTreeSet<_> = moved.iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(moved, names);
    assert_eq!(rule["bytes"], n_bytes);
    assert_eq!(with["placement"]["misplaced"].as_array().unwrap().len(), 0);

    // Nothing else has moved.
    let ((host, device), (host_with, device_with)) = (bytes(&without), bytes(&with));
    assert_eq!(host_with - host, n_bytes, "{without:#} {with:#}");
    assert_eq!(device - device_with, n_bytes);
    assert!(device_with > 0 && without["placement"]["rules"].as_array().unwrap().is_empty());
}

#[test]
fn a_budget_is_kept_by_the_chat() {
    let dir = tempfile::tempdir().unwrap();
    let worker = Worker::start(&dir.path().join("cache"));
    let layout = Layout::DeepSeek2;
    let model = dir.path().join("model.gguf");
    layout.write_chat(&model, TEMPLATE);
    let rpc = ["--rpc", worker.endpoint.as_str()];
    let plan = |budget: &str| -> Value {
        let args = ["--ctx", "256", "--budget", budget, "--json", "--no-limits"];
        let model = [model.to_str().unwrap()];
        let json = run("plan", [&model[..], &rpc, &args].concat()).success();
        serde_json::from_str(&json).unwrap()
    };
    let most = plan("1GiB")["devices"][0]["total"].as_u64().unwrap();
    let budget = (most - 100_000).to_string();
    let planned = plan(&budget);
    let mut command = chat(&model);
    command.args(["--json", "--max-tokens", "4", "--temp", "0"]);
    let svg = dir.path().join("placement.svg");
    command.args(rpc).args(["--vram-budget", &budget, "--svg"]);
    command.arg(&svg);
    let report: Value = serde_json::from_str(&outcome(&mut command).success()).unwrap();
    let rules = |rules: &Value| -> Vec<String> {
        let rules = rules.as_array().unwrap().iter();
        rules
            .map(|rule| rule["rule"].as_str().unwrap().to_owned())
            .collect()
    };
    assert!(!rules(&planned["rules"]).is_empty());
    assert_eq!(
        rules(&planned["rules"]),
        rules(&report["placement"]["rules"])
    );

    let mut command = chat(&model);
    command.args(rpc).args(["--vram-budget", "1KiB"]);
    outcome(&mut command).failure(1, &["RPC0", "short by"]);
}

#[test]
fn a_worker_that_is_not_there() {
    run("chat", ["--rpc", "127.0.0.1:9"]).failure(1, &["127.0.0.1:9"]);
    run("chat", ["--rpc", "nonsense"]).failure(1, &["nonsense"]);
}

#[test]
fn an_address_that_cannot_be_served() {
    run("rpc_worker", ["--listen", "203.0.113.7:50052"]).failure(1, &["203.0.113.7"]);
    run("rpc_worker", ["--listen", "nonsense"]).failure(2, &["nonsense"]);
    run("rpc_worker", ["--threads", "0"]).failure(2, &["--threads"]);
    run("rpc_worker", ["--device", "CUDA77"]).failure(1, &["CUDA77"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let below = file.path().join("cache");
    let below = below.to_str().unwrap();
    run("rpc_worker", ["--cache", below]).failure(1, &[below]);
}
