//! On what it was measured.

use std::collections::BTreeMap;

use llama_moe::measure::{FileRecord, Provenance};

use crate::markdown::{Table, code, text};
use crate::units::bytes;

/// The section.
pub fn section(provenance: &Provenance) -> String {
    let mut out = "## Provenance\n\n".to_owned();
    let mut table = Table::of_text(&["what", "value"]);
    for (what, value) in rows(provenance) {
        table.row([what.to_owned(), value]);
    }
    out += &table.finish();
    out += "Devices, and their memory before the comparison:\n\n";
    let mut devices = Table::with_names(&["device", "description", "backend", "total", "free"], 3);
    for device in &provenance.devices {
        devices.row([
            code(&device.name),
            text(&device.description),
            text(&device.backend),
            bytes(device.total as f64),
            bytes(device.free as f64),
        ]);
    }
    out += &devices.finish();
    out += "Files:\n\n";
    out += &files(&provenance.model.files, &provenance.sources);
    out += &map("Environment variables that matter", &provenance.environment);
    out + &map("The model's metadata", &provenance.model.metadata)
}

fn rows(provenance: &Provenance) -> Vec<(&'static str, String)> {
    let machine = &provenance.machine;
    let not_known = || "not known".to_owned();
    let model = &provenance.model;
    let types = model.bytes_by_type.iter();
    let types = types.map(|(kind, size)| format!("{} {}", text(kind), bytes(*size as f64)));
    let drivers = machine.drivers.iter();
    let drivers = drivers.map(|(name, version)| format!("{}: {}", text(name), text(version)));
    vec![
        ("date", text(&provenance.date)),
        ("model", text(&model.name)),
        ("architecture", text(&model.architecture)),
        ("parameters", model.n_params.to_string()),
        ("tensors by type", list(types)),
        ("llama-moe", text(&provenance.crate_version)),
        (
            "commit",
            provenance
                .commit
                .as_deref()
                .map_or_else(|| "not given".to_owned(), code),
        ),
        ("features", text(&provenance.features.join(", "))),
        (
            "build",
            if provenance.debug_build {
                "without optimisation"
            } else {
                "optimised"
            }
            .to_owned(),
        ),
        ("llama.cpp", text(&provenance.llama_cpp_version)),
        ("llama.cpp's build", text(&provenance.llama_cpp_build)),
        ("processor", text(&machine.cpu)),
        (
            "cores",
            format!(
                "{} physical, {} logical",
                machine.physical_cores, machine.logical_cores
            ),
        ),
        ("memory", bytes(machine.ram as f64)),
        (
            "memory available",
            machine
                .ram_available
                .map_or_else(not_known, |available| bytes(available as f64)),
        ),
        ("system", text(&machine.os)),
        (
            "kernel",
            machine.kernel.as_deref().map_or_else(not_known, text),
        ),
        ("processor's architecture", text(&machine.architecture)),
        ("GPU drivers, as the kernel names them", list(drivers)),
    ]
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        "none known".to_owned()
    } else {
        items.join(", ")
    }
}

fn files(model: &[FileRecord], sources: &[FileRecord]) -> String {
    let mut table = Table::of_text(&["file", "part", "bytes", "sha256"]);
    let parts = [("model", model), ("source of the model", sources)];
    for (part, files) in parts {
        for file in files {
            table.row([
                code(&file.path.to_string_lossy()),
                part.to_owned(),
                file.bytes.to_string(),
                code(&file.sha256),
            ]);
        }
    }
    table.finish()
}

fn map(title: &str, entries: &BTreeMap<String, String>) -> String {
    if entries.is_empty() {
        return format!("{title}: none.\n\n");
    }
    let mut table = Table::of_text(&["name", "value"]);
    for (name, value) in entries {
        table.row([code(name), text(value)]);
    }
    format!("{title}:\n\n{}", table.finish())
}
