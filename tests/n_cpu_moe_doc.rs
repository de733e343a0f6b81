//! The table of docs/n-cpu-moe.md is what the rules do.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use llama_moe::TensorOverrides;
use llama_moe::gguf::synth::{NamedShape, Synth};

mod support;
use support::{backend, on_cpu};

/// MiB of experts that rules move to system memory.
fn moved(path: &Path, rules: &TensorOverrides) -> u64 {
    let rules = rules.clone().allow_unmatched();
    let lowered = rules.lower(&backend(), path, &on_cpu()).expect("rules");
    let bytes: u64 = lowered.matches().map(|found| found.bytes).sum();
    bytes >> 20
}

fn table() -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut table = String::from(
        "| model | blocks | MoE layers | N | `--n-cpu-moe N` moves | N MoE layers are | of that |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for shape in NamedShape::ALL {
        let path = dir.path().join(format!("{shape}.gguf"));
        Synth::new(shape).sparse().write(&path).unwrap();
        let header = llama_moe::gguf::Header::read(&path).unwrap();
        let moe = header.moe().unwrap();
        let n_blocks = header.n_blocks() - header.n_mtp_blocks();
        let n_moe = moe.moe_layers.len() as u32;
        for n in [1, 4, 8, n_moe / 2] {
            let blocks = moved(&path, &TensorOverrides::new().with_n_cpu_moe(n));
            let layers = moved(&path, &TensorOverrides::new().with_cpu_moe_first(n));
            let percent = blocks * 100 / layers;
            writeln!(
                table,
                "| {shape} | {n_blocks} | {n_moe} | {n} | {blocks} MiB | {layers} MiB | {percent} % |"
            )
            .unwrap();
        }
    }
    table
}

#[test]
fn the_table_is_what_the_rules_do() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/n-cpu-moe.md");
    let page = fs::read_to_string(path).unwrap();
    let table = table();
    assert!(
        page.contains(&table),
        "docs/n-cpu-moe.md has another table than this:\n{table}"
    );
}
