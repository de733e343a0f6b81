//! What can be serialised, as JSON.
#![cfg(feature = "serde")]

use llama_moe::gguf::Header;
use llama_moe::{Budget, Model, Planner, Preview};
use serde_json::{Value, json, to_value};

mod support;
use support::layouts::Layout;
use support::{backend, file, on_cpu};

/// The keys of an object, sorted.
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

#[test]
fn headers_previews_plans_and_placements() {
    let backend = backend();
    let (_dir, path) = file(Layout::Qwen3Moe);
    let header = Header::read(&path).unwrap();
    let tensor = to_value(header.tensor("blk.0.ffn_up_exps.weight").unwrap()).unwrap();
    assert_eq!(tensor["role"], "RoutedExpert");
    assert_eq!(tensor["kind"], "f16");
    assert_eq!(tensor["shape"], json!([64, 96, 8]));
    let count = header.value("qwen3moe.expert_count").unwrap();
    assert_eq!(to_value(count).unwrap(), 8);
    let moe = to_value(header.moe().unwrap()).unwrap();
    assert_eq!(moe["moe_layers"], json!([0, 1, 2, 3]));

    let params = on_cpu().with_cpu_moe_all();
    let preview = to_value(Preview::new(&backend, &path, &params).unwrap()).unwrap();
    assert_eq!(keys(&preview), ["load_mode", "rules", "tensors"]);
    assert_eq!(preview["rules"][0]["target"], "CPU");
    assert!(preview["tensors"][0].get("index").is_none());

    let model = Model::load(&backend, &path, params).unwrap();
    let placement = to_value(model.placement().unwrap()).unwrap();
    assert_eq!(keys(&placement), ["load_mode", "rules", "tensors"]);
    assert_eq!(placement["tensors"][0]["device"], "CPU");

    let plan = Planner::new(&backend, &path).unwrap();
    let plan = plan.fit(&Budget::assumed([1 << 30])).unwrap();
    let plan = to_value(plan).unwrap();
    assert_eq!(plan["devices"][0]["name"], "GPU0");
    assert_eq!(plan["host"]["budget"], Value::Null);
    assert!(plan.get("params").is_none() && plan.get("context").is_none());
    assert!(plan["devices"][0]["used"]["weights"].as_u64().unwrap() > 0);
}
