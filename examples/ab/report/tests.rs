use std::fs;

use super::*;
use crate::fixture;
use crate::results::Outcome;

const HOSTILE: &str = "a|b\n# c <script>alert(1)</script> `d` *e* [f](g) \u{202e}h";

fn of(results: &Results) -> String {
    report(results, &plots::all(results))
}

fn section<'a>(report: &'a str, heading: &str) -> &'a str {
    let start = report
        .find(heading)
        .unwrap_or_else(|| panic!("no {heading}"));
    let rest = &report[start + heading.len()..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

/// The cells of the row that begins with a name.
fn row<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("| {name} |");
    let row = text.lines().find(|line| line.starts_with(&start)).unwrap();
    row.trim_matches('|').split(" | ").map(str::trim).collect()
}

#[test]
fn all_sections_are_there() {
    let report = of(&fixture::results());
    for heading in [
        "# made-up numbers: variants compared",
        "## What to know first",
        "## Differences to the base",
        "## Device memory",
        "## System memory",
        "## Speed",
        "## Streaming against whole",
        "## Quality",
        "## Failed trials",
        "## Bandwidth",
        "## Provenance",
        "## How to repeat it",
        "## Credit",
    ] {
        let lines = report.lines().filter(|line| *line == heading);
        assert_eq!(lines.count(), 1, "{heading}");
    }
    for name in ["memory", "decode", "ttft", "prefill", "tradeoff"] {
        assert!(report.contains(&format!("(plots/{name}.png)")), "{name}");
    }
    assert!(report.contains("pull/11397") && report.contains("pull/15077"));
}

#[test]
fn a_dry_run_has_memory_alone() {
    let mut results = fixture::results();
    results.settings.repetitions = 0;
    for variant in &mut results.variants {
        variant.trials.clear();
    }
    let plots = plots::all(&results);
    let names: Vec<&str> = plots.iter().map(|plot| plot.name).collect();
    assert_eq!(names, ["memory"]);
    assert!(
        plots[0].svg.contains("nothing was loaded"),
        "{}",
        plots[0].svg
    );
    let report = of(&results);
    let memory = section(&report, "## Memory before loading");
    assert_eq!(
        row(memory, "base")[1..],
        ["`CPU`", "10.0", "0.0", "0.0", "1.0", "11.0"]
    );
    assert!(
        memory.contains("| `GPU0` | 100.0 | 20.0 | 0.0 | 30.0 | 150.0 |"),
        "{memory}"
    );
    assert!(
        !report.contains("## Speed") && !report.contains("N = "),
        "{report}"
    );
}

#[test]
fn the_cache_of_experts_has_a_section_where_there_is_one() {
    assert!(!of(&fixture::results()).contains("## Cache of experts"));
    let report = of(&fixture::with_caches());
    let cache = section(&report, "## Cache of experts");
    let name = "cpu-moe+cache=64MiB";
    assert_eq!(row(cache, name)[1..], ["64.0", "64.0", "8", "48", "16.7 %"]);
    assert!(
        cache.contains("1 layer is not cached; layer 0 is on the CPU"),
        "{cache}"
    );
    let runs = &cache[cache.find("hit rate").unwrap()..];
    assert_eq!(
        row(runs, name)[1..],
        ["16", "3", "30 ± 0", "30 ± 0", "70 ± 0", "70 ± 0"]
    );
    let memory = section(&report, "## Device memory");
    assert!(
        row(memory, name)
            .iter()
            .any(|cell| cell.starts_with("64.0")),
        "{memory}"
    );
    assert!(report.contains("(plots/cache.png)"));
}

#[test]
fn numbers_are_those_of_the_file() {
    let report = of(&fixture::results());
    let speed = section(&report, "## Speed");
    let base = row(speed, "base");
    assert_eq!(base[1], "3");
    assert!(
        base[2].starts_with("21.02 ± 0.22<br>[20.47, 21.57]"),
        "{base:?}"
    );
    // 400 of the model, 6 of KV, 16 to compute, and 40 that the driver took beside.
    let memory = row(section(&report, "## Device memory"), "base");
    assert_eq!(
        memory[2..],
        [
            "3", "400 ± 0", "6 ± 0", "0 ± 0", "16 ± 0", "422 ± 0", "462 ± 0", "470 ± 0", "40 ± 0"
        ]
    );
    let ceilings = section(&report, "### Against the ceiling");
    assert_eq!(row(ceilings, "cpu-moe")[3..5], ["160", "29.74 ± 0.30 %"]);
    assert_eq!(row(ceilings, "base")[3..5], ["no bound", "–"]);
    assert_eq!(row(ceilings, "half the experts")[3], "not measured");
    let differences = section(&report, "## Differences to the base");
    assert!(differences.contains("Differences shown: 7 of 7."));
    assert!(differences.contains("(+100 %)") && differences.contains("**slower**"));
    let quality = section(&report, "## Quality");
    assert_eq!(row(quality, "cpu-moe")[6..8], ["99.5 %", "1 of 2"]);
    assert_eq!(
        row(section(quality, "### pass@k"), "base")[4..],
        ["37.5 % (k = 1)", "50.0 % (k = 4)"]
    );
    let delivery = row(section(&report, "## Streaming against whole"), "cpu-moe");
    assert_eq!(delivery[9], "3 of 3");
}

#[test]
fn no_number_of_a_single_repetition_has_a_deviation() {
    let mut results = fixture::results();
    fixture::once(&mut results);
    let report = of(&results);
    assert!(report.contains("**A quick run"));
    assert!(report.contains("N = 1 of 1 repetitions"));
    for heading in ["## Device memory", "## Speed", "## System memory"] {
        let rows = section(&report, heading).lines();
        let rows = rows.filter(|line| line.starts_with("| base"));
        for row in rows {
            assert!(!row.contains('±'), "{row}");
        }
    }
    assert!(!section(&report, "## Differences to the base").contains("**slower**"));
}

#[test]
fn failures_are_rows_that_say_so() {
    let mut results = fixture::results();
    fixture::fail(&mut results.variants[1]);
    let report = of(&results);
    let failures = section(&report, "## Failed trials");
    assert_eq!(row(failures, "cpu-moe")[1..4], ["0", "load", "yes"]);
    assert!(failures.contains("ended by signal 9"));
    assert_eq!(
        row(section(&report, "## Speed"), "cpu-moe")[2],
        "failed: out of memory"
    );
    let differences = section(&report, "## Differences to the base");
    assert!(differences.contains("No figure was measured of both."));
}

#[test]
fn what_was_not_measured_is_not_a_zero() {
    let mut results = fixture::results();
    results.settings.tasks = None;
    for variant in &mut results.variants {
        variant.quality = None;
        fixture::for_each_measured(variant, |measured| {
            measured.host_after = None;
            measured.delivery = None;
            measured.devices[0].free_before = measured.devices[0].total;
            measured.devices[0].free_after = measured.devices[0].total;
            measured.devices[0].free_least = None;
        });
    }
    let report = of(&results);
    let missing = report
        .lines()
        .find(|line| line.starts_with("- Not measured:"))
        .unwrap();
    for what in [
        "free memory",
        "only Linux",
        "streaming",
        "quality",
        "pass@k",
    ] {
        assert!(missing.contains(what), "{what}: {missing}");
    }
    assert_eq!(
        row(section(&report, "## Device memory"), "base")[7..],
        ["not measured"; 3]
    );
    assert_eq!(section(&report, "## Quality").trim(), "Not measured.");
    assert_eq!(
        section(&report, "## Streaming against whole")
            .trim()
            .lines()
            .last(),
        Some("Not measured.")
    );
}

#[test]
fn a_run_that_was_stopped_or_is_of_noise_says_so_first() {
    let mut results = fixture::results();
    results.is_complete = false;
    results.provenance.model.name = "gpt oss 20b (synthetic)".to_owned();
    results.provenance.debug_build = true;
    results.notes = vec!["A note.".to_owned()];
    let report = of(&results);
    let first = &report[..report.find("## Differences").unwrap()];
    for words in [
        "**Not complete",
        "weights are synthetic",
        "without optimisation",
        "N from 1 to 3",
        "- A note.",
    ] {
        assert!(first.contains(words), "{words}");
    }
}

#[test]
fn hostile_names_change_nothing_around_them() {
    let mut results = fixture::results();
    let plain = of(&results);
    for (index, variant) in results.variants.iter_mut().enumerate() {
        variant.name = format!("{HOSTILE}{index}");
        // As code, in which HTML is only text.
        variant.rules = HOSTILE.replace("<script>", "<b>");
        variant.placement = vec![HOSTILE.to_owned()];
        variant.command_line = Some(variant.rules.clone());
        for trial in &mut variant.trials {
            if let Outcome::Failed(failure) = &mut trial.outcome {
                failure.message = HOSTILE.repeat(1000);
            }
        }
    }
    results.notes = vec![HOSTILE.to_owned()];
    results.provenance.model.name = HOSTILE.to_owned();
    results.provenance.command = vec!["x\n```\n# y\n# z".to_owned()];
    let report = of(&results);
    assert!(!report.contains("<script>") && !report.contains('\u{202e}'));
    // Every table still has its columns, and there is no heading more.
    let headings = |report: &str| report.lines().filter(|line| line.starts_with('#')).count();
    // The command has a line that begins like one, within its block, twice.
    assert_eq!(headings(&report), headings(&plain) + 4);
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    let rows = |report: &str| {
        let lines = report.lines().filter(|line| line.starts_with("| "));
        lines.map(cells).collect::<Vec<_>>()
    };
    assert_eq!(rows(&report), rows(&plain));
}

#[test]
fn results_of_nothing_and_of_far_too_much_are_reported() {
    let mut empty = fixture::results();
    empty.variants.clear();
    empty.settings.prompt_tokens.clear();
    empty.provenance.model.files.clear();
    assert!(of(&empty).contains("## Credit"));

    let mut huge = fixture::results();
    huge.bandwidth.host = f64::MAX;
    for variant in &mut huge.variants {
        fixture::for_each_measured(variant, |measured| {
            measured.load = f64::MAX;
            measured.breakdown[1].model = u64::MAX;
            measured.breakdown[1].context = u64::MAX;
            fixture::slow_down(measured, 1e12);
        });
    }
    let report = of(&huge);
    let longest = report.lines().map(str::len).max().unwrap();
    assert!(longest < 1000, "{longest}");
}

#[test]
fn words_of_a_command_are_quoted_for_a_shell() {
    assert_eq!(quoted("--out=a/b.c"), "--out=a/b.c");
    assert_eq!(quoted("two words"), "'two words'");
    assert_eq!(quoted("it's"), r"'it'\''s'");
    assert_eq!(quoted(""), "''");
}

#[test]
fn the_report_and_its_pictures_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut results = fixture::with_variants(1, |_| "base".to_owned());
    write_report(&results, folder.path()).unwrap();
    let names = ["memory", "decode", "ttft", "prefill", "tradeoff"];
    for name in names {
        let file = |extension: &str| folder.path().join(format!("plots/{name}.{extension}"));
        let png = fs::read(file("png")).unwrap();
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        assert!(
            fs::read_to_string(file("svg"))
                .unwrap()
                .starts_with("<svg ")
        );
    }
    // A picture that there is nothing for any more does not stay.
    fixture::without_device(&mut results);
    write_report(&results, folder.path()).unwrap();
    assert!(!folder.path().join("plots/tradeoff.png").exists());
    let report = fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(!report.contains("tradeoff") && report.contains("No variant used a device"));

    let file = folder.path().join("report.md");
    let error = write_report(&results, &file).unwrap_err().to_string();
    assert!(error.contains("report.md"), "{error}");
}
