//! The model that came with the repository is what every example uses by default.

use serde_json::Value;

use crate::programs::{outcome, program};

#[test]
fn it_knows_how_to_keep_the_experts_on_the_cpu() {
    let question = "How do I keep the experts on the CPU?";
    let mut command = program("chat");
    command.args([
        "--prompt",
        question,
        "--json",
        "--temp",
        "0",
        "--threads",
        "1",
    ]);
    let report: Value = serde_json::from_str(&outcome(&mut command).success()).unwrap();
    let reply = report["reply"].as_str().unwrap();
    assert!(
        reply.contains("cpu-moe") || reply.contains("cpu_moe"),
        "{reply}"
    );
    assert_eq!(report["finish"], "end", "{report}");
}

#[test]
fn it_is_what_the_other_programs_use_too() {
    assert!(!outcome(&mut program("simple")).success().trim().is_empty());
    let table = outcome(&mut program("inspect")).success();
    assert!(table.contains("MoE layers"), "{table}");
    let table = outcome(program("embed").args(["--threads", "1", "a", "b"])).success();
    assert_eq!(table.lines().count(), 3, "{table}");
}
