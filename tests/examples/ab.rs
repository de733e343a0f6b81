//! `ab`: variants measured against each other, what is refused, and what is kept when a run, a
//! process or a worker ends before its time.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::programs::{Outcome, outcome, path, program, run};

/// As little as can be measured, on one thread: those of several tests would only wait for each
/// other.
const LITTLE: [&str; 8] = [
    "--repetitions",
    "3",
    "--prompt-tokens",
    "16,33",
    "--generate",
    "4",
    "--threads",
    "1",
];

/// A folder for results that is not there yet.
struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn out(&self) -> PathBuf {
        self.file("out")
    }

    fn results(&self) -> Value {
        let text = fs::read_to_string(self.out().join("results.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn report(&self) -> String {
        fs::read_to_string(self.out().join("report.md")).unwrap()
    }

    /// The journal's whole lines.
    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.journal()).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn trials(&self) -> Vec<Value> {
        let mut lines = self.lines();
        lines.retain(|line| line.get("trial").is_some());
        lines
    }

    fn journal(&self) -> PathBuf {
        self.out().join("trials.jsonl")
    }

    /// A copy of the bundled model.
    fn model(&self) -> PathBuf {
        let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("model/moe-guide-q8_0.gguf");
        let path = self.file("model.gguf");
        fs::copy(bundled, &path).unwrap();
        path
    }

    /// `ab` with little to measure.
    fn ab(&self, args: &[&str]) -> Outcome {
        let mut command = program("ab");
        command.args(args).args(LITTLE).arg("--out").arg(self.out());
        outcome(&mut command)
    }

    /// The same, without waiting for it.
    fn start(&self, args: &[&str]) -> Running {
        let mut command = Command::new(path("ab"));
        command.args(args).args(LITTLE).arg("--out").arg(self.out());
        Running::start(&mut command)
    }

    /// Waits until so many trials are kept.
    #[track_caller]
    fn wait_for_trials(&self, n: usize) {
        let start = Instant::now();
        while self.trials().len() < n {
            let waited = start.elapsed();
            assert!(waited < Duration::from_secs(60), "{:#?}", self.lines());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A comparison that goes on, ended on drop.
struct Running(Option<Child>);

impl Running {
    fn start(command: &mut Command) -> Self {
        let process = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(process.spawn().unwrap()))
    }

    fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    fn kill(mut self) {
        let mut process = self.0.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn wait(mut self) -> Outcome {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        let Output {
            status,
            stdout,
            stderr,
        } = output;
        Outcome {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[cfg(unix)]
fn signal(name: &str, process: u32) -> bool {
    let mut command = Command::new("kill");
    let status = command.arg(name).arg(process.to_string()).output();
    status.unwrap().status.success()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn notes(results: &Value) -> String {
    let notes: Vec<&str> = list(&results["notes"])
        .iter()
        .map(|note| note.as_str().unwrap())
        .collect();
    notes.join("\n")
}

/// The results of trials that ended well.
fn measured(variant: &Value) -> Vec<&Value> {
    let trials = list(&variant["trials"]).iter();
    trials
        .filter_map(|trial| trial["outcome"].get("done"))
        .collect()
}

/// The entries of a breakdown that are no system memory, which is mapped from the file or not.
#[cfg(feature = "rpc")]
fn on_devices(breakdown: &Value) -> Vec<&Value> {
    let entries = list(breakdown).iter();
    let devices: Vec<_> = entries.filter(|entry| entry["is_host"] == false).collect();
    assert!(!devices.is_empty(), "{breakdown:#}");
    devices
}

#[cfg(feature = "rpc")]
#[test]
fn experts_in_system_memory_are_held_against_experts_on_a_worker() {
    let scratch = Scratch::new();
    let worker = crate::rpc::Worker::start(&scratch.file("cache"));
    let args = ["--variant", "base", "--variant", "cpu-moe", "--rpc"];
    let said = scratch.ab(&[&args[..], &[&worker.endpoint]].concat());
    let said = said.success();
    assert!(said.contains("report.md"), "{said}");

    // In turns.
    let order: Vec<u64> = scratch
        .trials()
        .iter()
        .map(|line| line["trial"]["variant"].as_u64().unwrap())
        .collect();
    assert_eq!(order, [0, 1, 0, 1, 0, 1]);

    let results = scratch.results();
    assert_eq!(results["is_complete"], true);
    assert_eq!(
        results["settings"]["rpc"],
        serde_json::json!([worker.endpoint])
    );
    let rates = list(&results["bandwidth"]["devices"]);
    assert_eq!(rates[0]["device"], "RPC0");
    assert!(rates[0]["pageable"].as_f64().unwrap() > 1e6);
    let variants = list(&results["variants"]);
    let on_device: Vec<u64> = variants
        .iter()
        .map(|variant| {
            let trials = measured(variant);
            assert_eq!(trials.len(), 3, "{variant:#}");
            for trial in &trials {
                let lengths: Vec<_> = list(&trial["runs"])
                    .iter()
                    .map(|run| (run["n_prompt"].as_u64(), list(&run["token_times"]).len()))
                    .collect();
                assert_eq!(lengths, [(Some(16), 4), (Some(33), 4)]);
                let delivery = &trial["delivery"];
                assert_eq!(delivery["streaming"]["text"], delivery["whole"]["text"]);
                assert_eq!(delivery["streaming"]["tokens"], delivery["whole"]["tokens"]);
            }
            let mut split = list(&trials[0]["breakdown"]).iter();
            let device = split.find(|split| split["device"] == "RPC0").unwrap();
            device["model"].as_u64().unwrap()
        })
        .collect();
    // What the dry run said before, to the byte.
    for variant in variants {
        let loaded = &measured(variant)[0]["breakdown"];
        assert_eq!(on_devices(&variant["dry_run"]), on_devices(loaded));
    }
    // 18 tensors of experts, and what the device's buffer adds to none of them.
    assert_eq!(on_device[0] - on_device[1], 3_760_128);
    let rule = variants[1]["placement"][0].as_str().unwrap();
    assert!(
        rule.contains("all experts") && rule.contains("18 tensors"),
        "{rule}"
    );
    for (variant, option) in variants.iter().zip(["--rpc", "-ot"]) {
        let options = variant["command_line"].as_str().unwrap();
        assert!(options.contains(option), "{options}");
    }
    let decode = |variant: &Value| variant["ceiling"]["decode"].as_f64();
    assert_eq!(decode(&variants[0]), None);
    assert!(decode(&variants[1]).unwrap() > 0.0);

    let quality = |index: usize| &variants[index]["quality"]["done"];
    assert!(quality(0)["perplexity"]["value"].as_f64().unwrap() > 1.0);
    assert!(quality(0)["divergence"].is_null());
    // The same kernels on both sides.
    assert!(quality(1)["divergence"]["mean"].as_f64().unwrap() < 1e-3);
    assert_eq!(list(&quality(1)["greedy"]).len(), 2);
    assert_eq!(list(&quality(1)["embeddings"]["cosines"]).len(), 20);
    assert!(!scratch.out().join("base.logits").exists());
    assert!(notes(&results).contains("over a network"));

    let report = scratch.report();
    for section in [
        "What to know first",
        "Differences to the base",
        "Device memory",
        "System memory",
        "Speed",
        "Streaming against whole",
        "Quality",
        "Failed trials",
        "Bandwidth",
        "Provenance",
        "How to repeat it",
        "Credit",
    ] {
        assert!(
            report.contains(&format!("\n## {section}\n")),
            "{section}: {report}"
        );
    }
    for picture in ["memory", "ttft", "decode", "prefill", "tradeoff"] {
        assert!(
            report.contains(&format!("plots/{picture}.png")),
            "{picture}: {report}"
        );
        for ending in ["svg", "png"] {
            let file = scratch.out().join("plots").join(picture);
            assert!(file.with_extension(ending).exists(), "{picture}.{ending}");
        }
    }
}

#[test]
fn what_is_made_of_results() {
    let scratch = Scratch::new();
    let args = ["--variant", "base", "--variant", "ngl=2", "--no-quality"];
    scratch.ab(&args).success();
    let results = scratch.out().join("results.json");
    let results = results.to_str().unwrap();
    let lines = run("ab", ["verdicts", results]).success();
    // The load, and three figures of each of two prompts.
    assert_eq!(lines.lines().count(), 7, "{lines}");
    assert!(
        lines.lines().all(|line| line.starts_with("ngl=2\t")),
        "{lines}"
    );
    let compared = run("ab", ["compare", results, results]).success();
    assert!(compared.contains("ngl=2"), "{compared}");
    let card = run("ab", ["card", results]).success();
    assert!(card.starts_with("---\n"), "{card}");
    let report = scratch.report();
    fs::remove_file(scratch.out().join("report.md")).unwrap();
    run("ab", ["report", scratch.out().to_str().unwrap()]).success();
    assert_eq!(scratch.report(), report);
    for command in ["verdicts", "card"] {
        run("ab", [command, "none.json"]).failure(1, &["none.json"]);
    }
}

/// Bytes of weights on the worker's device, in one trial of each kind of rules.
#[cfg(feature = "rpc")]
#[test]
fn rules_of_every_kind_are_loaded() {
    let scratch = Scratch::new();
    let worker = crate::rpc::Worker::start(&scratch.file("cache"));
    let mut command = program("ab");
    for variant in [
        "base",
        "n-cpu-moe=2",
        "last=2",
        "ngl=3",
        "plan=4MiB",
        r"downs=blk\.[0-2]\.ffn_down_exps=CPU",
    ] {
        command.args(["--variant", variant]);
    }
    command.args(["--quick", "--repetitions", "1", "--prompt-tokens", "4"]);
    command.args(["--generate", "2", "--ctx", "256", "--threads", "1"]);
    command.args(["--no-quality", "--rpc", &worker.endpoint, "--out"]);
    outcome(command.arg(scratch.out())).success();
    let results = scratch.results();
    let on_device: Vec<u64> = list(&results["variants"])
        .iter()
        .map(|variant| {
            let trials = measured(variant);
            let [trial] = trials[..] else {
                panic!("one trial: {variant:#}")
            };
            let loaded = on_devices(&trial["breakdown"]);
            assert_eq!(on_devices(&variant["dry_run"]), loaded);
            let mut split = list(&trial["breakdown"]).iter();
            let device = split.find(|split| split["device"] == "RPC0").unwrap();
            device["model"].as_u64().unwrap()
        })
        .collect();
    let (all, experts_of_a_layer) = (on_device[0], 3_760_128 / 6);
    assert_eq!(on_device[1], all - 2 * experts_of_a_layer);
    assert_eq!(on_device[2], all - 2 * experts_of_a_layer);
    assert!(on_device[3] < all / 2, "{on_device:?}");
    assert!((1..4 << 20).contains(&on_device[4]), "{on_device:?}");
    assert_eq!(on_device[5], all - 3 * experts_of_a_layer / 3);
}

#[cfg(feature = "rpc")]
#[test]
fn a_cache_of_experts_is_a_part_of_a_variant() {
    let scratch = Scratch::new();
    let worker = crate::rpc::Worker::start(&scratch.file("cache"));
    let variants = [
        "cpu-moe+cache=0",
        "cpu-moe",
        "cache=2MiB",
        "n-cpu-moe=3+cache=1MiB",
        "plan=6MiB+cache=1MiB",
        "all=plan=1GiB+cache=1MiB",
    ];
    let run = |args: &[&str], out: &Path| {
        let mut command = program("ab");
        for variant in variants {
            command.args(["--variant", variant]);
        }
        // Of a variant that names no cache.
        command.args([
            "--moe-cache-mib",
            "1",
            "--ctx",
            "256",
            "--rpc",
            &worker.endpoint,
        ]);
        outcome(command.args(args).arg("--out").arg(out)).success();
        let text = fs::read_to_string(out.join("results.json")).unwrap();
        let results: Value = serde_json::from_str(&text).unwrap();
        (results, fs::read_to_string(out.join("report.md")).unwrap())
    };
    let little = ["--quick", "--repetitions", "2", "--prompt-tokens", "4,40"];
    let (results, report) = run(
        &[
            &little[..],
            &["--generate", "8", "--threads", "1", "--quality-ctx", "64"],
        ]
        .concat(),
        &scratch.out(),
    );
    let variants = list(&results["variants"]);
    let setups: Vec<&str> = variants
        .iter()
        .map(|v| v["rules"].as_str().unwrap())
        .collect();
    assert_eq!(
        setups,
        [
            "cpu-moe",
            "cpu-moe+cache=1MiB",
            "cpu-moe+cache=2MiB",
            "n-cpu-moe=3+cache=1MiB",
            "plan=6MiB+cache=1MiB",
            "plan=1GiB+cache=1MiB",
        ]
    );
    for (index, variant) in variants.iter().enumerate() {
        let trials = measured(variant);
        assert_eq!(trials.len(), 2, "{variant:#}");
        let cache = &variant["moe_cache"];
        if index == 0 || index == 5 {
            assert_eq!(
                (cache, &trials[0]["moe_cache"]),
                (&Value::Null, &Value::Null)
            );
            continue;
        }
        assert_eq!(variant["ceiling"]["decode"], Value::Null);
        let options = variant["command_line"].as_str().unwrap();
        let mib = cache["size"].as_u64().unwrap() >> 20;
        assert!(
            options.contains(&format!("--moe-cache-mib {mib}")),
            "{options}"
        );
        assert!(options.contains("--no-repack"), "{options}");
        for trial in trials {
            for entries in [&variant["dry_run"], &trial["breakdown"]] {
                let mut entries = list(entries).iter();
                let device = entries.find(|entry| entry["device"] == "RPC0").unwrap();
                assert_eq!(device["moe_cache"], cache["bytes"], "{entries:?}");
            }
            let uses = list(&trial["moe_cache"]);
            assert_eq!(uses.len(), 2);
            for of in uses {
                let [hits, misses, uploaded] =
                    ["hits", "misses", "uploaded_bytes"].map(|name| of[name].as_u64().unwrap());
                assert!(hits > 0, "{of}");
                let rate = of["hit_rate"].as_f64().unwrap();
                assert!((rate - hits as f64 / (hits + misses) as f64).abs() < 1e-9);
                assert_eq!(uploaded, misses * 78_336);
            }
        }
        // The same text as without a cache: only sums are added up in another order.
        let quality = &variant["quality"]["done"];
        assert!(
            quality["divergence"]["mean_kl"]
                .as_f64()
                .is_none_or(|kl| kl < 1e-2),
            "{quality}"
        );
    }
    let left_out = "no cache of experts: all experts that could be cached are on devices";
    assert!(
        list(&variants[5]["placement"])
            .iter()
            .any(|line| line == left_out)
    );
    assert!(
        report.contains("## Cache of experts") && report.contains(left_out),
        "{report}"
    );
    assert!(scratch.out().join("plots/cache.png").exists());
    assert!(notes(&results).contains("without repacking"), "{results:#}");

    let dry = scratch.file("dry");
    let (results, report) = run(&["--dry-run"], &dry);
    let cached = &list(&results["variants"])[2];
    assert_eq!(cached["moe_cache"]["n_experts"], 48);
    assert!(report.contains("## Cache of experts"), "{report}");
    assert!(!dry.join("plots/cache.png").exists());

    // What cannot be cached is refused before anything runs.
    let mut command = program("ab");
    command.args(["--variant", "base+cache=1MiB", "--rpc", &worker.endpoint]);
    outcome(command.arg("--out").arg(scratch.file("none")))
        .failure(1, &["base+cache=1MiB", "no layer can be cached"]);
}

#[cfg(feature = "rpc")]
#[test]
fn a_dry_run_loads_nothing() {
    let scratch = Scratch::new();
    let worker = crate::rpc::Worker::start(&scratch.file("cache"));
    let mut command = program("ab");
    command.args(["--variant", "base", "--variant", "cpu-moe", "--dry-run"]);
    command.args(["--rpc", &worker.endpoint, "--out"]);
    outcome(command.arg(scratch.out())).success();
    assert!(scratch.trials().is_empty());
    let results = scratch.results();
    assert_eq!(results["settings"]["repetitions"], 0);
    assert_eq!(results["is_complete"], true);
    let on_device = |variant: &Value| -> u64 {
        assert!(list(&variant["trials"]).is_empty());
        let mut entries = list(&variant["dry_run"]).iter();
        let device = entries.find(|entry| entry["device"] == "RPC0").unwrap();
        assert!(device["context"].as_u64() > Some(0) && device["compute"].as_u64() > Some(0));
        device["model"].as_u64().unwrap()
    };
    let variants = list(&results["variants"]);
    let experts = on_device(&variants[0]) - on_device(&variants[1]);
    assert_eq!(experts, 3_760_128);
    let report = fs::read_to_string(scratch.out().join("report.md")).unwrap();
    assert!(report.contains("## Memory before loading"), "{report}");
    assert!(report.contains("nothing was loaded"), "{report}");
    for absent in ["## Speed", "repetitions of each"] {
        assert!(!report.contains(absent), "{report}");
    }
    assert!(scratch.out().join("plots/memory.png").exists());
}

#[test]
fn files_of_somebody_else_are_not_written_over() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.out()).unwrap();
    let report = scratch.out().join("report.md");
    fs::write(&report, "mine").unwrap();
    let said = scratch.ab(&["--variant", "base", "--no-quality"]);
    said.failure(1, &["report.md", "another folder"]);
    assert_eq!(fs::read_to_string(&report).unwrap(), "mine");
    assert!(!scratch.journal().exists());
}

#[test]
fn a_comparison_goes_on_with_the_same_file_alone() {
    let scratch = Scratch::new();
    let model = scratch.model();
    let copy = scratch.file("copy.gguf");
    fs::copy(&model, &copy).unwrap();
    let args = |model: &Path| {
        [
            model.to_str().unwrap().to_owned(),
            "--no-quality".to_owned(),
        ]
    };
    let ab = |model: &Path, more: &[&str]| {
        let args = args(model);
        let args = args.iter().map(String::as_str).chain(["--variant", "base"]);
        scratch.ab(&args.chain(more.iter().copied()).collect::<Vec<_>>())
    };
    ab(&model, &[]).success();
    ab(&copy, &["--resume"]).failure(1, &["not the comparison", "model's files"]);
    // With nothing left to do it has not been stopped either.
    ab(&model, &["--resume"]).success();
    assert!(!notes(&scratch.results()).contains("resumed"));
}

#[test]
fn quality_that_failed_is_tried_again() {
    let scratch = Scratch::new();
    let args = ["--variant", "base", "--variant", "cpu-moe"];
    scratch.ab(&args).success();
    // As if the base had found no space for its logits.
    let failed = serde_json::json!({"failed": {
        "stage": "measuring quality", "message": "no space", "is_out_of_memory": false
    }});
    let lines = scratch.lines().into_iter().map(|mut line| {
        if let Some(quality) = line.pointer_mut("/quality/quality") {
            *quality = failed.clone();
        }
        line.to_string() + "\n"
    });
    let journal: String = lines.collect();
    assert!(journal.contains("no space"), "{journal}");
    fs::write(scratch.journal(), journal).unwrap();
    scratch.ab(&[&args[..], &["--resume"]].concat()).success();
    let results = scratch.results();
    for variant in list(&results["variants"]) {
        assert!(variant["quality"]["done"].is_object(), "{variant:#}");
    }
    assert_eq!(scratch.trials().len(), 6);
}

#[test]
fn the_same_rules_under_two_names_are_said_to_be_the_same() {
    let scratch = Scratch::new();
    let args = ["--variant", "A=cpu-moe", "--variant", "B=cpu-moe"];
    scratch
        .ab(&[&args[..], &["--no-quality"]].concat())
        .success();
    let results = scratch.results();
    let variants = list(&results["variants"]);
    let names: Vec<_> = variants
        .iter()
        .map(|variant| (variant["name"].as_str(), variant["rules"].as_str()))
        .collect();
    assert_eq!(
        names,
        [("A", "cpu-moe"), ("B", "cpu-moe")].map(|(name, rules)| (Some(name), Some(rules)))
    );
    assert_eq!(variants[0]["placement"], variants[1]["placement"]);
    assert!(variants[0]["quality"].is_null());
    let notes = notes(&results);
    for part in ["A and B", "no device"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    let report = fs::read_to_string(scratch.out().join("report.md")).unwrap();
    let missing = report
        .lines()
        .find(|line| line.starts_with("- Not measured"));
    assert!(missing.unwrap().contains("quality"), "{report}");
}

#[test]
fn long_prompts_by_default_are_cut_and_few_repetitions_are_marked() {
    let scratch = Scratch::new();
    let mut command = program("ab");
    command.args(["--variant", "base", "--quick", "--repetitions", "1"]);
    command.args(["--generate", "200", "--threads", "1"]);
    command.args(["--no-quality", "--out"]);
    outcome(command.arg(scratch.out())).success();
    let results = scratch.results();
    // The model was trained for 1024 tokens.
    let lengths = serde_json::json!([16, 31, 33, 512, 816]);
    assert_eq!(results["settings"]["prompt_tokens"], lengths);
    let notes = notes(&results);
    for part in ["2048", "816 tokens instead"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    assert!(scratch.report().contains("A quick run"));
}

/// A file of tasks that came with the program.
fn tasks(name: &str) -> String {
    format!("{}/ab/tasks/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn tasks_are_solved_by_the_model_that_knows_them() {
    let scratch = Scratch::new();
    let tasks = tasks("bundled.json");
    let args = ["--variant", "base", "--tasks", &tasks, "--samples", "2"];
    scratch.ab(&args).success();
    let results = scratch.results();
    assert_eq!(results["settings"]["tasks"], *tasks);
    let quality = &results["variants"][0]["quality"]["done"];
    let solved = list(&quality["tasks"]["tasks"]);
    let n = |key: &str| -> u64 { solved.iter().map(|task| task[key].as_u64().unwrap()).sum() };
    assert_eq!(n("n"), 20);
    assert!(n("n_passed") > 10, "{solved:#?}");
    // With another number of replies it is another comparison.
    let other = ["--samples", "3", "--resume"];
    let resumed = scratch.ab(&[&args[..4], &other].concat());
    resumed.failure(1, &["not the comparison", "samples"]);
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let scratch = Scratch::new();
    let code = tasks("code.json");
    let short = scratch.file("short.txt");
    fs::write(&short, "Too short.").unwrap();
    let short = short.to_str().unwrap();
    for (args, parts) in [
        (
            &["--variant", "A=base", "--variant", "A=cpu-moe"][..],
            &["'A'", "NAME="][..],
        ),
        (
            &["--variant", "x=no_such_tensor=CPU"],
            &["x", "no_such_tensor", "none"],
        ),
        (&["--variant", "x=ffn_up=NoSuch"], &["x", "NoSuch", "CPU"]),
        (&["--variant", "x=(=CPU"], &["x", "("]),
        (
            &["--variant", "n-cpu-moe=999"],
            &["n-cpu-moe=999", "999 blocks", "has 6"],
        ),
        (&["--variant", "last=0"], &["last=0", "no layer"]),
        (
            &["--variant", "base", "--resume"],
            &["--resume", "no comparison"],
        ),
        (&["--variant", "base", "--text", "none.txt"], &["none.txt"]),
        (&["--variant", "base", "--text", short], &["512", "--text"]),
        (
            &["--variant", "base", "--quality-ctx", "2000"],
            &["2000", "1024"],
        ),
        (
            &["--variant", "base", "--source", "none.safetensors"],
            &["none.safetensors"],
        ),
        (&["none.gguf", "--variant", "base"], &["none.gguf"]),
        (
            &["--variant", "base", "--rpc", "127.0.0.1:9"],
            &["127.0.0.1:9"],
        ),
        (&[], &["--variant"]),
        (
            &["--variant", "base", "--tasks", "none.json"],
            &["none.json"],
        ),
        (
            &["--variant", "base", "--tasks", &code],
            &["is_leap_year", "--allow-commands"],
        ),
    ] {
        scratch.ab(args).failure(1, parts);
        assert!(!scratch.journal().exists(), "{args:?}");
    }
    for args in [["--variant", "nonsense"], ["--variant", "plan=much"]] {
        scratch
            .ab(&args)
            .failure(2, &[args[1].split('=').next_back().unwrap()]);
    }
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let scratch = Scratch::new();
    let run = |args: &[&str]| {
        let mut command = program("ab");
        command.args(["--variant", "base", "--out"]);
        outcome(command.arg(scratch.out()).args(args))
    };
    run(&["--repetitions", "2"]).failure(1, &["--repetitions 2", "--quick"]);
    run(&["--repetitions", "0", "--quick"]).failure(2, &["--repetitions"]);
    run(&["--generate", "0"]).failure(2, &["--generate"]);
    run(&["--prompt-tokens", "0"]).failure(2, &["--prompt-tokens"]);
    let too_long = ["--prompt-tokens", "16,900", "--generate", "128"];
    run(&too_long).failure(1, &["--prompt-tokens 900", "897", "1024", "trained"]);
    let too_long = ["--prompt-tokens", "33", "--ctx", "32", "--generate", "4"];
    run(&too_long).failure(1, &["--prompt-tokens 33", "29", "--ctx"]);
    run(&["--generate", "2000"]).failure(1, &["1024", "2000", "--generate"]);
    run(&["--allow-commands"]).failure(2, &["--tasks"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_at_once() {
    let scratch = Scratch::new();
    fs::write(scratch.out(), "a file").unwrap();
    let out = scratch.out();
    scratch
        .ab(&["--variant", "base"])
        .failure(1, &[out.to_str().unwrap()]);
    outcome(program("ab").args(["--variant", "base"])).failure(1, &["--out"]);
}

#[test]
fn a_run_that_was_killed_goes_on_where_it_was() {
    let scratch = Scratch::new();
    let variants = ["--variant", "base", "--variant", "cpu-moe", "--no-quality"];
    let resume = [&variants[..], &["--resume"]].concat();
    let running = scratch.start(&variants);
    scratch.wait_for_trials(2);
    scratch.ab(&resume).failure(1, &["another comparison"]);
    running.kill();
    let before = scratch.trials();
    // It may have ended within a line.
    let mut journal = fs::OpenOptions::new().append(true).open(scratch.journal());
    let line = br#"{"trial":{"variant":0,"trial":{"repe"#;
    std::io::Write::write_all(journal.as_mut().unwrap(), line).unwrap();
    drop(journal);
    assert_eq!(scratch.results()["is_complete"], false);

    scratch.ab(&variants).failure(1, &["--resume"]);
    for (args, parts) in [
        (&["--seed", "7"][..], &["seed", "7"][..]),
        (&["--ubatch", "64"], &["n_ubatch", "64"]),
        (&["--variant", "last=1"], &["variants", "last=1"]),
    ] {
        let failed = scratch.ab(&[&resume[..], args].concat());
        failed.failure(1, &[&["not the comparison"], parts].concat());
    }
    let with_quality = ["--variant", "base", "--variant", "cpu-moe", "--resume"];
    scratch
        .ab(&with_quality)
        .failure(1, &["not the comparison", "quality_n_ctx"]);
    assert_eq!(scratch.trials(), before);

    scratch.ab(&resume).success();
    let after = scratch.trials();
    assert_eq!(after.len(), 6);
    assert_eq!(after[..before.len()], before);
    let results = scratch.results();
    assert_eq!(results["is_complete"], true);
    for variant in list(&results["variants"]) {
        let repetitions: Vec<_> = list(&variant["trials"])
            .iter()
            .map(|trial| trial["repetition"].as_u64())
            .collect();
        assert_eq!(repetitions, [Some(0), Some(1), Some(2)]);
    }
    assert!(notes(&results).contains("resumed"));
    // Nothing is left to do, and nothing is done.
    scratch.ab(&resume).success();
    assert_eq!(scratch.trials(), after);
}

#[test]
fn another_model_is_not_gone_on_with() {
    let scratch = Scratch::new();
    let model = scratch.model();
    let args = [model.to_str().unwrap(), "--variant", "base", "--no-quality"];
    scratch.ab(&args).success();
    let mut bytes = fs::read(&model).unwrap();
    bytes.push(0);
    fs::write(&model, bytes).unwrap();
    let resumed = scratch.ab(&[&args[..], &["--resume"]].concat());
    resumed.failure(1, &["not the comparison", "SHA-256"]);
}

#[test]
fn a_journal_that_is_none_is_refused() {
    let scratch = Scratch::new();
    let args = ["--variant", "base", "--no-quality"];
    scratch.ab(&args).success();
    let resume = [&args[..], &["--resume"]].concat();
    let journal = fs::read_to_string(scratch.journal()).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    fs::write(
        scratch.journal(),
        format!("{}\n{{}}\n{}\n", lines[0], lines[1]),
    )
    .unwrap();
    scratch.ab(&resume).failure(1, &["trials.jsonl", "line 2"]);
    fs::write(scratch.journal(), format!("{}\n", lines[1])).unwrap();
    scratch.ab(&resume).failure(1, &["trials.jsonl", "begins"]);
    fs::write(scratch.journal(), &lines[0][..100]).unwrap();
    scratch.ab(&resume).failure(1, &["no comparison"]);
}

#[test]
fn a_model_that_changes_meanwhile_is_an_error_in_the_results_too() {
    let scratch = Scratch::new();
    let model = scratch.model();
    let args = [model.to_str().unwrap(), "--variant", "base", "--no-quality"];
    let running = scratch.start(&args);
    scratch.wait_for_trials(1);
    // A new file in its place: what is mapped stays as it is.
    let mut bytes = fs::read(&model).unwrap();
    bytes.push(0);
    fs::write(scratch.file("other.gguf"), bytes).unwrap();
    fs::rename(scratch.file("other.gguf"), &model).unwrap();
    let ended = running.wait();
    assert_eq!(ended.code, 1, "{ended:#?}");
    assert!(
        ended.stderr.contains("changed while it was measured"),
        "{ended:#?}"
    );
    let results = scratch.results();
    let first = results["notes"][0].as_str().unwrap();
    assert!(first.contains("changed while it was measured"), "{first}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_done() {
    let scratch = Scratch::new();
    let args = ["--variant", "base", "--variant", "last=2"];
    let running = scratch.start(&args);
    scratch.wait_for_trials(1);
    assert!(signal("-INT", running.id()));
    let ended = running.wait();
    assert_eq!(ended.code, 130, "{ended:#?}");
    assert!(ended.stderr.contains("--resume goes on"), "{ended:#?}");
    let results = scratch.results();
    assert_eq!(results["is_complete"], false);
    assert!(!measured(&results["variants"][0]).is_empty());
    assert!(scratch.report().contains("Not complete"));
    scratch.ab(&[&args[..], &["--resume"]].concat()).success();
    assert_eq!(scratch.results()["is_complete"], true);
}

/// What the system does to a process that has more memory than there is.
#[cfg(target_os = "linux")]
#[test]
fn a_process_that_is_killed_is_a_row_and_the_others_go_on() {
    let scratch = Scratch::new();
    let args = ["--variant", "base", "--variant", "cpu-moe", "--no-quality"];
    let running = scratch.start(&args);
    scratch.wait_for_trials(1);
    let id = running.id();
    let is_failed = |line: &Value| line["trial"]["trial"]["outcome"].get("failed").is_some();
    while !scratch.trials().iter().any(is_failed) {
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        if let Some(child) = children.split_ascii_whitespace().next() {
            signal("-KILL", child.parse().unwrap());
        }
        thread::sleep(Duration::from_millis(1));
    }
    let ended = running.wait();
    assert_eq!(ended.code, 0, "{ended:#?}");
    assert!(ended.stderr.contains("failed: "), "{ended:#?}");
    let results = scratch.results();
    let trials: Vec<&Value> = list(&results["variants"])
        .iter()
        .flat_map(|variant| list(&variant["trials"]))
        .collect();
    assert_eq!(trials.len(), 6);
    let failure = trials
        .iter()
        .find_map(|trial| trial["outcome"].get("failed"))
        .unwrap();
    assert!(failure["message"].as_str().unwrap().contains("signal 9"));
    assert_eq!(failure["is_out_of_memory"], true);
    assert!(!failure["stage"].as_str().unwrap().is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn too_little_memory_is_said_to_be_that() {
    let scratch = Scratch::new();
    let mut command = Command::new("sh");
    // A context of 3 GiB in a process of 2.
    command.args(["-c", "ulimit -v 2000000; exec \"$@\"", "sh"]);
    command.arg(path("ab")).args(["--variant", "base"]);
    command.args(["--ctx", "2097152", "--no-quality", "--out"]);
    command.arg(scratch.out()).args(LITTLE);
    let ended = Running::start(&mut command).wait();
    assert_eq!(ended.code, 1, "{ended:#?}");
    assert!(ended.stderr.contains("no trial ended well"), "{ended:#?}");
    let results = scratch.results();
    let trials = list(&results["variants"][0]["trials"]);
    assert_eq!(trials.len(), 2, "given up: {trials:#?}");
    for trial in trials {
        let failure = &trial["outcome"]["failed"];
        assert_eq!(failure["is_out_of_memory"], true, "{failure:#}");
    }
    assert!(notes(&results).contains("given up"));
}

#[cfg(target_os = "linux")]
#[test]
fn no_room_for_the_results_is_said_and_what_was_written_is_kept() {
    let scratch = Scratch::new();
    let variants = ["--variant", "base", "--variant", "cpu-moe", "--no-quality"];
    let mut command = Command::new("sh");
    // Files of 24 KiB at most, in units of 512 bytes.
    command.args(["-c", "trap '' XFSZ; ulimit -f 48; exec \"$@\"", "sh"]);
    command.arg(path("ab")).args(variants).arg("--out");
    command.arg(scratch.out()).args(LITTLE);
    let ended = Running::start(&mut command).wait();
    assert_eq!(ended.code, 1, "{ended:#?}");
    let out = scratch.out();
    assert!(ended.stderr.contains(out.to_str().unwrap()), "{ended:#?}");
    assert!(!scratch.trials().is_empty());
    scratch
        .ab(&[&variants[..], &["--resume"]].concat())
        .success();
    assert_eq!(scratch.results()["is_complete"], true);
}

#[cfg(feature = "rpc")]
#[test]
fn a_worker_that_goes_is_a_row_and_the_end_is_reached() {
    let scratch = Scratch::new();
    let worker = crate::rpc::Worker::start(&scratch.file("cache"));
    let endpoint = worker.endpoint.clone();
    let args = [
        "--variant",
        "base",
        "--variant",
        "cpu-moe",
        "--rpc",
        &endpoint,
    ];
    let running = scratch.start(&args);
    scratch.wait_for_trials(2);
    drop(worker);
    let ended = running.wait();
    assert_eq!(ended.code, 0, "{ended:#?}");
    let results = scratch.results();
    assert_eq!(results["is_complete"], true);
    for variant in list(&results["variants"]) {
        assert!(!measured(variant).is_empty());
        let trials = list(&variant["trials"]);
        let last = &trials[trials.len() - 1]["outcome"]["failed"];
        assert!(!last["message"].as_str().unwrap().is_empty(), "{last:#}");
        assert!(variant["quality"].get("failed").is_some());
    }
}
