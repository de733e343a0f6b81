//! Memory, of the devices and of the system.

use std::collections::BTreeMap;

use llama_moe::measure::{DeviceUse, HostMemory, MemorySplit, Series};
use llama_moe::placement::MemoryKind;

use crate::markdown::{Table, code, text};
use crate::results::{Measured, Results, VariantResults};
use crate::summary::{done, series, why_empty};
use crate::units::{NOT_MEASURED, mib, spread};

/// What llama.cpp counts where nothing is loaded.
pub fn before_loading(results: &Results) -> String {
    let mut table = Table::with_names(
        &[
            "variant",
            "buffer type",
            "model",
            "KV",
            "expert cache",
            "compute",
            "sum",
        ],
        2,
    );
    let mut entries = 0;
    for variant in &results.variants {
        for split in variant.dry_run.iter().flatten() {
            entries += 1;
            let exact = |bytes: u64| format!("{:.1}", mib(bytes as f64));
            table.row([
                text(&variant.name),
                code(&split.buffer),
                exact(split.model),
                exact(split.context),
                exact(split.moe_cache),
                exact(split.compute),
                exact(split.total()),
            ]);
        }
    }
    if entries == 0 {
        return String::new();
    }
    "## Memory before loading\n\nIn MiB (2²⁰ bytes): llama.cpp's loader, KV cache and scheduler in a \
     dry run that reads the header alone. It has no mean and no σ.\n\n"
        .to_owned()
        + &table.finish()
}

/// Device memory, in three ways.
pub fn devices(results: &Results) -> String {
    let mut out = "## Device memory\n\nIn MiB (2²⁰ bytes), mean ± σ. *Model*, *KV*, *expert cache* and \
                   *compute* are llama.cpp's own count of what it asked for. *Taken* is what the device's free \
                   memory fell by, from before the load to after the last run, and *peak* the most \
                   that a reading found until all was warm, or after it: both have what the driver \
                   and its libraries keep beside it (*beyond*: taken less llama.cpp's sum), and what \
                   other programs did meanwhile. What a driver takes for itself when it is first \
                   asked, as CUDA does for its context, is gone before the first reading, and in \
                   none of them.\n\n"
        .to_owned();
    let head = [
        "variant",
        "device",
        "N",
        "model",
        "KV",
        "expert cache",
        "compute",
        "sum",
        "taken",
        "peak",
        "beyond",
    ];
    let mut table = Table::with_names(&head, 2);
    let mut any = false;
    for variant in &results.variants {
        let names = device_names(variant);
        for name in &names {
            any = true;
            let entry = |of: fn(&MemorySplit) -> u64| {
                series(variant, |measured| Some(of_device(measured, name, of)))
            };
            let sum = |measured: &Measured| of_device(measured, name, MemorySplit::total);
            let used = |measured: &Measured, of: fn(&DeviceUse) -> Option<i64>| {
                let device = measured
                    .devices
                    .iter()
                    .find(|device| device.device == *name)?;
                Some(of(device)? as f64)
            };
            let taken = |measured: &Measured| used(measured, DeviceUse::taken);
            table.row([
                text(&variant.name),
                code(name),
                done(variant).count().to_string(),
                in_mib(entry(|split| split.model)),
                in_mib(entry(|split| split.context)),
                in_mib(entry(|split| split.moe_cache)),
                in_mib(entry(|split| split.compute)),
                in_mib(series(variant, |measured| Some(sum(measured)))),
                in_mib(series(variant, taken)),
                in_mib(series(variant, |measured| used(measured, DeviceUse::peak))),
                in_mib(series(variant, |measured| {
                    Some(taken(measured)? - sum(measured))
                })),
            ]);
        }
        if names.is_empty() {
            let why = match done(variant).next() {
                Some(_) => "uses no device",
                None => why_empty(variant),
            };
            table.row([text(&variant.name), why.to_owned()]);
        }
    }
    if !any {
        out += "No variant used a device: all memory is the system's.\n\n";
    }
    out + &table.finish()
}

/// System memory: llama.cpp's count, the process, and what kind it is.
pub fn host(results: &Results) -> String {
    let mut out = "## System memory\n\nIn MiB (2²⁰ bytes), mean ± σ. First llama.cpp's own count, by \
                   buffer type; a mapped file counts from its first to its last weight that is used \
                   in place.\n\n"
        .to_owned();
    out += &host_buffers(results);
    out += "Weights by the kind of memory that they are in: a device's own, page-locked (a GPU reads \
            it at the bus's speed), pageable, mapped from the file, or repacked for the CPU.\n\n";
    out += &kinds(results);
    out += "The process, after the last run. *Growth* is against before the load. A major page \
            fault waited for a disk: weights that did not stay in memory.\n\n";
    out + &process(results)
}

fn host_buffers(results: &Results) -> String {
    let mut table = Table::with_names(
        &[
            "variant",
            "buffer type",
            "N",
            "model",
            "KV",
            "expert cache",
            "compute",
        ],
        2,
    );
    for variant in &results.variants {
        let mut names: Vec<&str> = done(variant)
            .flat_map(|measured| &measured.breakdown)
            .filter(|split| split.is_host)
            .map(|split| split.buffer.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let part = |of: fn(&MemorySplit) -> u64| {
                in_mib(series(variant, |measured| {
                    let splits = measured.breakdown.iter();
                    let splits = splits.filter(|split| split.is_host && split.buffer == name);
                    Some(splits.map(|split| of(split) as f64).sum())
                }))
            };
            table.row([
                text(&variant.name),
                code(name),
                done(variant).count().to_string(),
                part(|split| split.model),
                part(|split| split.context),
                part(|split| split.moe_cache),
                part(|split| split.compute),
            ]);
        }
    }
    table.finish()
}

fn kinds(results: &Results) -> String {
    let mut table = Table::with_names(&["variant", "kind", "N", "tensors", "MiB"], 2);
    for variant in &results.variants {
        // By their names, for an order that is always the same.
        let kinds: BTreeMap<&str, MemoryKind> = done(variant)
            .flat_map(|measured| &measured.kinds)
            .map(|entry| (kind_name(entry.kind), entry.kind))
            .collect();
        for (name, kind) in kinds {
            let entry = |measured: &Measured, of: fn(usize, u64) -> f64| {
                let entries = measured.kinds.iter().filter(|entry| entry.kind == kind);
                Some(entries.map(|entry| of(entry.n_tensors, entry.bytes)).sum())
            };
            let tensors = series(variant, |measured| entry(measured, |n, _| n as f64));
            table.row([
                text(&variant.name),
                name.to_owned(),
                done(variant).count().to_string(),
                plain(tensors),
                in_mib(series(variant, |measured| {
                    entry(measured, |_, bytes| bytes as f64)
                })),
            ]);
        }
    }
    table.finish()
}

fn process(results: &Results) -> String {
    let mut table = Table::new(&[
        "variant",
        "N",
        "resident",
        "growth",
        "allocated",
        "of files",
        "peak",
        "swapped",
        "major faults",
    ]);
    for variant in &results.variants {
        let after = |of: fn(&HostMemory) -> u64| {
            series(variant, |measured| {
                Some(of(measured.host_after.as_ref()?) as f64)
            })
        };
        let growth = |of: fn(&HostMemory) -> u64| {
            series(variant, |measured| {
                let before = of(measured.host_before.as_ref()?) as f64;
                Some(of(measured.host_after.as_ref()?) as f64 - before)
            })
        };
        table.row([
            text(&variant.name),
            done(variant).count().to_string(),
            in_mib(after(|memory| memory.rss)),
            in_mib(growth(|memory| memory.rss)),
            in_mib(after(|memory| memory.anonymous)),
            in_mib(after(|memory| memory.file)),
            in_mib(after(|memory| memory.peak_rss)),
            in_mib(after(|memory| memory.swapped)),
            plain(growth(|memory| memory.major_faults)),
        ]);
    }
    table.finish()
}

/// The devices whose memory a variant's trials used or watched, each once.
fn device_names(variant: &VariantResults) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for measured in done(variant) {
        let splits = measured.breakdown.iter().filter(|split| !split.is_host);
        let of_splits = splits.map(device_of);
        let watched = measured.devices.iter().map(|device| device.device.as_str());
        for name in of_splits.chain(watched) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

fn device_of(split: &MemorySplit) -> &str {
    split.device.as_deref().unwrap_or(&split.buffer)
}

fn of_device(measured: &Measured, name: &str, of: fn(&MemorySplit) -> u64) -> f64 {
    let splits = measured.breakdown.iter();
    let splits = splits.filter(|split| !split.is_host && device_of(split) == name);
    splits.map(|split| of(split) as f64).sum()
}

fn in_mib(bytes: Option<Series>) -> String {
    let mib = bytes.and_then(|bytes| Series::new(bytes.values().iter().map(|b| mib(*b))).ok());
    plain(mib)
}

fn plain(series: Option<Series>) -> String {
    series.map_or_else(|| NOT_MEASURED.to_owned(), |series| spread(&series))
}

fn kind_name(kind: MemoryKind) -> &'static str {
    match kind {
        MemoryKind::Device => "device",
        MemoryKind::PageLocked => "page-locked",
        MemoryKind::Pageable => "pageable",
        MemoryKind::Mapped => "mapped",
        MemoryKind::Repacked => "repacked",
        MemoryKind::Nowhere => "not allocated",
        _ => "another kind",
    }
}
