//! `plan`: budgets in, a table, JSON or a picture out; and what is refused.

use serde_json::Value;

use crate::programs::run;
use crate::support;
use crate::support::layouts::Layout;

/// A sparse file of a named shape.
fn shape(name: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let path = path.to_str().unwrap().to_owned();
    run("synth", [name, &path, "--sparse"]).success();
    (dir, path)
}

#[test]
fn a_model_larger_than_this_machine_is_planned_for() {
    let (_dir, path) = shape("deepseek-v3");
    let budget = ["--assume-device", "24GiB", "--ram", "512GiB"];
    let said = run("plan", [&[path.as_str()][..], &budget].concat()).success();
    for part in [
        "58 MoE layers of 256 experts, 8 used",
        "GPU0",
        "24576.0",
        "524288.0",
        "estimates",
        "rule 1: ",
        "_exps",
        "llama.cpp: -m ",
        " -ngl 62 -ot '",
        "tokens/s decode",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Without the bandwidth, and with too little memory for the experts.
    let said = run(
        "plan",
        [&[path.as_str(), "--no-limits"][..], &budget].concat(),
    )
    .success();
    assert!(!said.contains("tokens/s"), "{said}");
    let short = ["--assume-device", "24GiB", "--ram", "64GiB"];
    let failed = run("plan", [&[path.as_str()][..], &short].concat());
    failed.failure(1, &["system memory", "65536.0 MiB", "short by"]);
}

#[test]
fn the_json_has_what_its_help_says() {
    let (_dir, path) = shape("gpt-oss-20b");
    let args = [
        &path,
        "--assume-device",
        "6GiB",
        "--assume-device",
        "3GiB",
        "--json",
    ];
    let json: Value = serde_json::from_str(&run("plan", args).success()).unwrap();
    let keys: Vec<&str> = json
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "command_line",
        "devices",
        "estimate",
        "host",
        "limits",
        "model",
        "moe_cache",
        "moe_cache_left_out",
        "n_ctx",
        "n_gpu_layers",
        "rules",
        "tensor_split",
    ];
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    assert_eq!(json["estimate"], true);
    assert_eq!(json["n_ctx"], 4096);
    assert_eq!(json["n_gpu_layers"], 25);
    assert_eq!(json["tensor_split"], serde_json::json!([6.0, 3.0]));
    let devices = json["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2);
    for memory in devices.iter().chain([&json["host"]]) {
        let number = |key: &str| memory[key].as_u64().unwrap();
        let parts = ["weights", "context", "moe_cache", "compute"].map(number);
        assert_eq!(parts.iter().sum::<u64>(), number("total"));
        assert!(number("experts") <= number("weights"));
        assert!(memory["budget"].is_null() || number("total") <= number("budget"));
    }
    let n_tensors: u64 = json["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| rule["n_tensors"].as_u64().unwrap())
        .sum();
    assert!(n_tensors > 0);
    assert!(json["limits"]["decode"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_picture_is_written() {
    let (dir, path) = shape("qwen3-30b-a3b");
    let svg = dir.path().join("plan.svg");
    let args = [
        &path,
        "--assume-device",
        "12GiB",
        "--svg",
        svg.to_str().unwrap(),
    ];
    run("plan", args).success();
    let svg = std::fs::read_to_string(svg).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.contains("GPU0"),
        "{svg:.200}"
    );
    let nowhere = ["--assume-device", "12GiB", "--svg", "no/such/folder.svg"];
    run("plan", [&[path.as_str()][..], &nowhere].concat()).failure(1, &["no/such/folder.svg"]);
}

#[test]
fn the_bundled_model_is_planned_for_by_default() {
    let said = run("plan", ["--assume-device", "1GiB"]).success();
    assert!(said.contains("MoE layers of 8 experts"), "{said}");
    assert!(!said.contains("rule 1"), "all of it fits: {said}");
}

#[test]
fn rules_of_ones_own_count_towards_the_budget() {
    let (_dir, path) = support::file(Layout::Qwen3Moe);
    let args = [
        path.to_str().unwrap(),
        "--cpu-moe",
        "--budget",
        "1GiB",
        "--no-limits",
    ];
    let said = run("plan", args).success();
    for part in ["rule 1: all experts", " 1024.0\n"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let (_dir, path) = support::file(Layout::Qwen3Moe);
    let path = path.to_str().unwrap();
    for (args, code, parts) in [
        (vec![path, "--assume-device", "0"], 1, vec!["GPU0", "is 0"]),
        (vec![path, "--budget=-1GiB"], 2, vec!["-1GiB", "0 or more"]),
        (vec![path, "--budget", "lots"], 2, vec!["lots", "8GiB"]),
        (
            vec![path, "--device", "CUDA9", "--budget", "1GiB"],
            1,
            vec!["CUDA9"],
        ),
        (
            vec![path, "--assume-device", "1KiB"],
            1,
            vec!["GPU0", "short by"],
        ),
        (
            vec![path, "--assume-device", "1GiB", "-o", "nothing=CPU"],
            1,
            vec!["nothing"],
        ),
        (
            vec![path, "--assume-device", "1GiB", "--min-ctx", "9999"],
            1,
            vec!["9999"],
        ),
        (
            vec!["none.gguf", "--assume-device", "1GiB"],
            1,
            vec!["none.gguf"],
        ),
        (
            vec![env!("CARGO_MANIFEST_DIR"), "--assume-device", "1GiB"],
            1,
            vec!["directory"],
        ),
    ] {
        run("plan", args).failure(code, &parts);
    }
}

#[cfg(not(feature = "measure"))]
#[test]
fn a_trace_needs_a_build_that_measures() {
    let args = ["--assume-device", "1GiB", "--routing", "trace.json"];
    run("plan", args).failure(1, &["--features measure"]);
}

#[cfg(feature = "measure")]
#[test]
fn a_trace_chooses_between_a_cache_and_resident_experts() {
    use llama_moe::ContextParams;
    use llama_moe::measure::routing::RoutingTrace;

    let (dir, path) = support::file(Layout::Qwen3Moe);
    let path = path.to_str().unwrap();
    let model = support::load(Layout::Qwen3Moe, support::on_cpu()).unwrap();
    let text = support::decode::prompt(32);
    let context = ContextParams::default().with_n_ctx(64);
    let trace = RoutingTrace::record_forced(&model, context, &text).unwrap();
    let file = dir.path().join("trace.json");
    std::fs::write(&file, trace.to_json().unwrap()).unwrap();
    let file = file.to_str().unwrap();
    let report = |args: &[&str]| -> Value {
        let json = [&[path, "--ctx", "256", "--json", "--no-limits"], args].concat();
        serde_json::from_str(&run("plan", json).success()).unwrap()
    };
    let all = report(&["--assume-device", "1GiB"]);
    let of = |field: &str| all["devices"][0][field].as_u64().unwrap();
    let budget = (of("total") - of("experts") / 4).to_string();
    let args = [
        path,
        "--ctx",
        "256",
        "--assume-device",
        &budget,
        "--routing",
        file,
    ];
    let said = run("plan", [&args[..], &["--bus", "20GiB"]].concat()).success();
    for part in [
        "as predicted, bound by transfers",
        "no cache, ",
        "hit rate ",
        "(this plan)",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    run("plan", args).failure(1, &["--bus"]);
    run(
        "plan",
        [
            path,
            "--assume-device",
            "1GiB",
            "--routing",
            "none.json",
            "--bus",
            "1GiB",
        ],
    )
    .failure(1, &["none.json"]);
    run(
        "plan",
        [
            path,
            "--assume-device",
            "1GiB",
            "--routing",
            path,
            "--bus",
            "1GiB",
        ],
    )
    .failure(1, &[path]);
}
