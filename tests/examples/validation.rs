//! The figures of docs/MOE-TECHNICAL-VALIDATION.md are those of the raw files beside it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn page() -> String {
    fs::read_to_string(docs().join("MOE-TECHNICAL-VALIDATION.md")).unwrap()
}

/// The raw file that a row's last cell links to.
fn raw(cell: &str) -> Value {
    let (_, link) = cell.split_once("](").expect("a link to the raw file");
    let path = docs().join(link.trim_end_matches(')'));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The rows of the table under a heading, as cells.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let start = page.find(heading).unwrap_or_else(|| panic!("{heading}"));
    let section = &page[start + heading.len()..];
    let section = &section[..section.find("\n## ").unwrap_or(section.len())];
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains("results.json"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "no rows under {heading}");
    rows
}

fn variant<'a>(results: &'a Value, name: &str) -> &'a Value {
    let variants = results["variants"].as_array().unwrap();
    let mut variants = variants.iter();
    let found = variants.find(|variant| variant["name"] == name);
    found.unwrap_or_else(|| panic!("a variant {name}"))
}

/// Model, KV cache, compute and their sum on devices, as the page has them: MiB.
fn on_devices(breakdown: &Value) -> [String; 4] {
    let entries = breakdown.as_array().unwrap().iter();
    let devices = entries.filter(|entry| entry["is_host"] == false);
    let mut parts = [0u64; 4];
    for device in devices {
        for (index, key) in ["model", "context", "compute"].into_iter().enumerate() {
            let bytes = device[key].as_u64().unwrap();
            parts[index] += bytes;
            parts[3] += bytes;
        }
    }
    assert!(parts[0] > 0, "{breakdown:#}");
    parts.map(|bytes| format!("{:.1}", bytes as f64 / f64::from(1 << 20)))
}

fn measured(variant: &Value) -> Vec<&Value> {
    let trials = variant["trials"].as_array().unwrap().iter();
    let trials: Vec<_> = trials
        .map(|trial| {
            trial["outcome"]
                .get("done")
                .expect("a trial that ended well")
        })
        .collect();
    assert!(trials.len() >= 3, "fewer than three repetitions");
    trials
}

/// A number of each trial, as the page has it.
fn mean_and_deviation(values: &[f64]) -> String {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    format!("{mean:.1} ± {:.1}", (squares / (n - 1.0)).sqrt())
}

#[test]
fn memory_before_loading_is_that_of_the_dry_runs() {
    let page = page();
    for row in rows(&page, "\n## Device memory, ") {
        let results = raw(row[6]);
        assert_eq!(results["settings"]["repetitions"], 0);
        assert_eq!(results["settings"]["n_ctx"], 4096);
        let expected = on_devices(&variant(&results, row[1])["dry_run"]);
        assert_eq!(row[2..6], expected, "{row:?}");
    }
}

#[test]
fn memory_as_loaded_is_that_of_every_trial() {
    let page = page();
    for row in rows(&page, "\n## The same, loaded") {
        let results = raw(row[7]);
        let variant = variant(&results, row[0]);
        let trials = measured(variant);
        assert_eq!(row[1], trials.len().to_string());
        for trial in trials {
            assert_eq!(row[2..6], on_devices(&trial["breakdown"]), "{row:?}");
        }
        assert_eq!(row[2..6], on_devices(&variant["dry_run"]), "{row:?}");
    }
}

#[test]
fn what_the_worker_took_is_what_the_system_said() {
    let page = page();
    let path = docs().join("validation/gpt-oss-20b-loaded/worker-rss.tsv");
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split('\t').collect()).collect();
    for row in rows(&page, "\n## The same, loaded") {
        let of_variant = lines.iter().filter(|line| line[3] == row[0]);
        let largest = of_variant.map(|line| line[2].parse::<u32>().unwrap()).max();
        let mib = f64::from(largest.unwrap()) / 1024.0;
        assert_eq!(row[6], format!("{mib:.1}"));
    }
}

#[test]
fn speeds_are_those_of_the_token_times() {
    let page = page();
    for row in rows(&page, "\n## Speed") {
        let results = raw(row[6]);
        let trials = measured(variant(&results, row[0]));
        let (n, length) = (row[1], row[2].parse::<u64>().unwrap());
        assert_eq!(n, trials.len().to_string());
        let run = |trial: &Value| -> (f64, Vec<f64>) {
            let runs = trial["runs"].as_array().unwrap();
            let run = runs.iter().find(|run| run["n_prompt"] == length).unwrap();
            let times = run["token_times"].as_array().unwrap().iter();
            let times = times.map(|time| time.as_f64().unwrap()).collect();
            (run["prefill"].as_f64().unwrap(), times)
        };
        let series = |of: &dyn Fn(f64, &[f64]) -> f64| {
            let values: Vec<f64> = trials
                .iter()
                .map(|trial| {
                    let (prefill, times) = run(trial);
                    of(prefill, &times)
                })
                .collect();
            mean_and_deviation(&values)
        };
        let ttft = series(&|_, times| times[0] * 1e3);
        let prefill = series(&|prefill, _| length as f64 / prefill);
        let decode = series(&|_, times| {
            let (first, last) = (times[0], times[times.len() - 1]);
            (times.len() - 1) as f64 / (last - first)
        });
        assert_eq!(row[3..6], [ttft, prefill, decode], "{row:?}");
    }
}

#[test]
fn caches_of_experts_are_those_of_the_trials() {
    let page = page();
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    for row in rows(&page, "\n## A cache of experts") {
        let results = raw(row[9]);
        let base = &results["variants"][0]["trials"][0]["outcome"]["done"]["runs"][0]["tokens"];
        let trials = measured(variant(&results, row[1]));
        assert_eq!(row[2], trials.len().to_string());
        let mut decode = Vec::new();
        for trial in &trials {
            let entries = trial["breakdown"].as_array().unwrap().iter();
            let on_device: Vec<&Value> = entries.filter(|e| e["is_host"] == false).collect();
            let sum = |key: &str| {
                on_device
                    .iter()
                    .map(|e| e[key].as_u64().unwrap())
                    .sum::<u64>()
            };
            let (model, cache) = (sum("model"), sum("moe_cache"));
            assert_eq!(
                row[3..6],
                [mib(model), mib(cache), mib(model + cache)],
                "{row:?}"
            );
            let run = &trial["runs"][0];
            if let Some(counts) = trial["moe_cache"].as_array() {
                let rate = 100.0 * counts[0]["hit_rate"].as_f64().unwrap();
                let uploaded = mib(counts[0]["uploaded_bytes"].as_u64().unwrap());
                assert_eq!(row[6..8], [format!("{rate:.1}"), uploaded], "{row:?}");
                assert_eq!(&run["tokens"], base, "{row:?}");
            }
            let times = run["token_times"].as_array().unwrap();
            let time = |index: usize| times[index].as_f64().unwrap();
            decode.push((times.len() - 1) as f64 / (time(times.len() - 1) - time(0)));
        }
        assert_eq!(row[8], mean_and_deviation(&decode), "{row:?}");
    }
}

#[test]
fn what_the_audit_is_held_against_is_in_the_raw_files() {
    let page = page();
    let mut n = 0;
    for row in rows(&page, "\n## The audit's figures") {
        let links: Vec<&str> = row[1].split("[raw]").skip(1).collect();
        let parts: Vec<String> = links
            .iter()
            .flat_map(|link| {
                let results = raw(&format!("[raw]{}", &link[..=link.find(')').unwrap()]));
                let variants = results["variants"].as_array().unwrap().clone();
                variants.into_iter().flat_map(|v| on_devices(&v["dry_run"]))
            })
            .collect();
        // MiB have one decimal here, and nothing else that is as large.
        let figures = row[1].split(|c: char| !c.is_ascii_digit() && c != '.');
        for figure in figures.filter(|f| f.split_once('.').is_some_and(|(_, d)| d.len() == 1)) {
            if figure.parse::<f64>().unwrap() > 500.0 {
                assert!(
                    parts.iter().any(|part| part == figure),
                    "{figure}: {parts:?}"
                );
                n += 1;
            }
        }
    }
    assert_eq!(n, 9, "figures in MiB");
}

#[test]
fn raw_files_are_of_no_particular_place() {
    let mut n = 0;
    let entries = fs::read_dir(docs().join("validation")).unwrap();
    let folders = entries.map(|entry| entry.unwrap().path());
    for folder in folders.filter(|path| path.is_dir()) {
        let path = folder.join("results.json");
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for root in ["\"/home", "\"/root", "\"/tmp", "\"/work", "=/"] {
            assert!(!text.contains(root), "{}: {root}", path.display());
        }
        let results: Value = serde_json::from_str(&text).unwrap();
        assert!(
            results["is_complete"].as_bool().unwrap(),
            "{}",
            path.display()
        );
        assert!(
            results["provenance"]["commit"].is_string(),
            "{}",
            path.display()
        );
        let name = path
            .parent()
            .unwrap()
            .file_name()
            .unwrap()
            .to_string_lossy();
        assert!(
            page().contains(&format!("validation/{name}/")),
            "{name} is not on the page"
        );
        n += 1;
    }
    assert!(n > 0);
}
