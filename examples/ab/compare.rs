//! Two comparisons held against each other: another machine, another version, another model.

use std::fmt::Debug;

use llama_moe::measure::{Provenance, Series};

use crate::markdown::{Table, code, text};
use crate::report::comparison_table;
use crate::results::{Results, VariantResults};
use crate::summary::{FAMILY_WISE, Figure, adjusted, breakdowns, split};
use crate::units::{NOT_MEASURED, mib, spread};

/// What is different between A and B, as Markdown: first what they were measured on, then
/// the figures of the variants that both have.
pub fn compare(a: &Results, b: &Results) -> String {
    let mut out = format!(
        "# B against A\n\nA: {}, {}. B: {}, {}.\n\n",
        text(&a.provenance.model.name),
        text(&a.finished),
        text(&b.provenance.model.name),
        text(&b.finished),
    );
    out += &warnings(a, b);
    out += &what_differs(a, b);
    out += &memory(a, b);
    out + &figures(a, b)
}

/// What makes a difference mean something else.
fn warnings(a: &Results, b: &Results) -> String {
    let mut warnings = Vec::new();
    if hashes(&a.provenance) != hashes(&b.provenance) {
        warnings.push(
            "ANOTHER MODEL: the sha256 of the model's files differ. What follows compares two \
             models, not two runs of one."
                .to_owned(),
        );
    }
    let asked = |results: &Results| {
        let settings = &results.settings;
        let (n_ctx, n_ubatch, n_threads) = (settings.n_ctx, settings.n_ubatch, settings.n_threads);
        (n_ctx, n_ubatch, n_threads, settings.generate, settings.seed)
    };
    if asked(a) != asked(b) {
        warnings.push(
            "OTHER SETTINGS: context, micro-batch, threads, seed or the number of tokens differ, and \
             so does the work."
                .to_owned(),
        );
    }
    for variant in &a.variants {
        let Some(other) = find(b, &variant.name) else {
            continue;
        };
        if other.rules != variant.rules {
            warnings.push(format!(
                "OTHER RULES under one name: {} is {} in A and {} in B.",
                text(&variant.name),
                code(&variant.rules),
                code(&other.rules),
            ));
        } else if other.placement != variant.placement {
            // A plan for a budget is another one on another machine.
            warnings.push(format!(
                "OTHER PLACEMENT under the same rules: {}.",
                text(&variant.name),
            ));
        }
    }
    for (name, results) in [("A", a), ("B", b)] {
        if results.settings.is_quick {
            warnings.push(format!(
                "{name} is a quick run with fewer than three repetitions."
            ));
        }
        if !results.is_complete {
            warnings.push(format!("{name} was stopped before it was complete."));
        }
        if results.provenance.debug_build {
            warnings.push(format!("{name} was compiled without optimisation."));
        }
    }
    warnings.push(
        "The two were not interleaved: what changed on the machine between them counts as a \
         difference too."
            .to_owned(),
    );
    let warnings = warnings.iter().map(|warning| format!("**{warning}**\n\n"));
    warnings.collect()
}

fn hashes(provenance: &Provenance) -> Vec<&str> {
    let files = provenance.model.files.iter();
    files.map(|file| file.sha256.as_str()).collect()
}

fn find<'a>(results: &'a Results, name: &str) -> Option<&'a VariantResults> {
    results.variants.iter().find(|variant| variant.name == name)
}

fn what_differs(a: &Results, b: &Results) -> String {
    let mut table = Table::of_text(&["what differs", "A", "B"]);
    let mut n_rows = 0;
    for (what, of) in facts() {
        let (in_a, in_b) = (of(a), of(b));
        if in_a != in_b {
            n_rows += 1;
            table.row([what.to_owned(), text(&in_a), text(&in_b)]);
        }
    }
    let heading = "## What they were measured on\n\n";
    match n_rows {
        0 => format!("{heading}No difference in model, versions, machine or settings.\n\n"),
        _ => format!("{heading}{}", table.finish()),
    }
}

type Fact = (&'static str, fn(&Results) -> String);

/// What can differ, in words.
fn facts() -> Vec<Fact> {
    vec![
        ("model sha256", |r| hashes(&r.provenance).join(" ")),
        ("model", |r| r.provenance.model.name.clone()),
        ("tensors by type", |r| {
            debug(&r.provenance.model.bytes_by_type)
        }),
        ("llama-moe", |r| r.provenance.crate_version.clone()),
        ("commit", |r| {
            r.provenance
                .commit
                .clone()
                .unwrap_or_else(|| "not given".to_owned())
        }),
        ("features", |r| r.provenance.features.join(", ")),
        ("compiled without optimisation", |r| {
            r.provenance.debug_build.to_string()
        }),
        ("llama.cpp", |r| r.provenance.llama_cpp_version.clone()),
        ("llama.cpp's build", |r| {
            r.provenance.llama_cpp_build.clone()
        }),
        ("devices", |r| {
            let devices = r.provenance.devices.iter();
            let devices = devices.map(|d| format!("{} ({}, {})", d.name, d.description, d.total));
            devices.collect::<Vec<_>>().join(", ")
        }),
        ("processor", |r| r.provenance.machine.cpu.clone()),
        ("cores", |r| {
            let machine = &r.provenance.machine;
            format!("{} / {}", machine.physical_cores, machine.logical_cores)
        }),
        ("memory, bytes", |r| r.provenance.machine.ram.to_string()),
        ("system", |r| r.provenance.machine.os.clone()),
        ("kernel", |r| {
            r.provenance.machine.kernel.clone().unwrap_or_default()
        }),
        ("drivers", |r| debug(&r.provenance.machine.drivers)),
        ("environment", |r| debug(&r.provenance.environment)),
        ("repetitions", |r| r.settings.repetitions.to_string()),
        ("prompt lengths", |r| debug(&r.settings.prompt_tokens)),
        ("tokens generated", |r| r.settings.generate.to_string()),
        ("seed", |r| r.settings.seed.to_string()),
        ("context, tokens", |r| r.settings.n_ctx.to_string()),
        ("micro-batch, tokens", |r| or_default(r.settings.n_ubatch)),
        ("threads", |r| or_default(r.settings.n_threads)),
        ("workers", |r| r.settings.rpc.join(", ")),
        ("text sha256", |r| r.settings.text_sha256.clone()),
        ("tasks", |r| r.settings.tasks.clone().unwrap_or_default()),
    ]
}

fn debug(value: &impl Debug) -> String {
    format!("{value:?}")
}

fn or_default(value: Option<u32>) -> String {
    value.map_or_else(|| "default".to_owned(), |value| value.to_string())
}

/// The variants that both have.
fn pairs<'a>(a: &'a Results, b: &'a Results) -> Vec<(&'a VariantResults, &'a VariantResults)> {
    let variants = a.variants.iter();
    let pairs = variants.filter_map(|variant| Some((variant, find(b, &variant.name)?)));
    pairs.collect()
}

/// What llama.cpp counts on devices, and in system memory.
fn memory(a: &Results, b: &Results) -> String {
    let mut table = Table::with_names(&["variant", "memory", "A", "B", "difference"], 2);
    for (in_a, in_b) in pairs(a, b) {
        for (is_host, name) in [(false, "devices"), (true, "system")] {
            let sums = |results: &Results, variant| {
                let breakdowns = breakdowns(results, variant).into_iter();
                let sums = breakdowns.map(|b| mib(split(b, is_host).iter().sum()));
                Series::new(sums).ok()
            };
            let (in_a, in_b, variant) = (sums(a, in_a), sums(b, in_b), &in_a.name);
            let shown = |series: &Option<Series>| {
                let series = series.as_ref();
                series.map_or_else(|| NOT_MEASURED.to_owned(), spread)
            };
            let difference = match (&in_a, &in_b) {
                (Some(a), Some(b)) => format!("{:+.1}", b.mean() - a.mean()),
                _ => NOT_MEASURED.to_owned(),
            };
            table.row([
                text(variant),
                name.to_owned(),
                shown(&in_a),
                shown(&in_b),
                difference,
            ]);
        }
    }
    format!(
        "## Memory\n\nMiB (2²⁰ bytes) by llama.cpp's own count, mean ± σ; of a dry run without \
         σ.\n\n{}",
        table.finish()
    )
}

fn figures(a: &Results, b: &Results) -> String {
    let pairs = pairs(a, b);
    let mut out = "## Figures\n\n".to_owned();
    let alone = |name: &str, ours: &Results, theirs: &Results| {
        let variants = ours.variants.iter().map(|variant| variant.name.as_str());
        let names: Vec<String> = variants
            .filter(|name| find(theirs, name).is_none())
            .map(text)
            .collect();
        match names.as_slice() {
            [] => String::new(),
            names => format!("In {name} alone: {}.\n\n", names.join(", ")),
        }
    };
    out += &alone("A", a, b);
    out += &alone("B", b, a);
    if pairs.is_empty() {
        return out + "No variant is in both.\n";
    }
    let comparisons = adjusted(pairs.iter().copied(), &Figure::all(&a.settings));
    let tested = comparisons
        .iter()
        .filter(|c| c.adjusted_p.is_some())
        .count();
    out += &format!(
        "A is the base. 95 % intervals of each difference by itself (Welch); the verdict is of p, \
         adjusted by Holm's method for all {tested} comparisons here: {FAMILY_WISE} or less.\n\n"
    );
    for (variant, _) in &pairs {
        out += &format!("### {}\n\n", text(&variant.name));
        out += &comparison_table(comparisons.iter().filter(|c| c.variant == variant.name));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn the_same_has_no_difference() {
        let text = compare(&fixture::results(), &fixture::results());
        assert!(text.contains("No difference in model, versions, machine or settings."));
        assert!(!text.contains("ANOTHER MODEL") && !text.contains("OTHER RULES"));
        assert!(!text.contains("**faster**") && !text.contains("**slower**"));
        assert!(text.contains("### cpu-moe"));
    }

    #[test]
    fn memory_is_held_against_memory_and_settings_against_settings() {
        let a = fixture::results();
        let mut b = fixture::results();
        fixture::for_each_measured(&mut b.variants[0], |measured| {
            for entry in measured.breakdown.iter_mut().filter(|entry| !entry.is_host) {
                entry.model += 7 << 20;
            }
        });
        b.settings.n_ctx += 256;
        b.variants[1].placement = vec!["elsewhere".to_owned()];
        let text = compare(&a, &b);
        let row = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
        assert!(row("| base | devices |").ends_with("| +7.0 |"), "{text}");
        assert!(row("| base | system |").ends_with("| +0.0 |"), "{text}");
        assert!(text.contains("OTHER SETTINGS") && text.contains("OTHER PLACEMENT"));
        let same = compare(&a, &a);
        assert!(!same.contains("OTHER SETTINGS") && !same.contains("OTHER PLACEMENT"));
    }

    #[test]
    fn another_model_is_said_loudly_and_before_all_numbers() {
        let mut other = fixture::results();
        other.provenance.model.files[0].sha256 = "d".repeat(64);
        other.provenance.llama_cpp_version = "0.7.0".to_owned();
        other.provenance.machine.cpu = "Another | processor".to_owned();
        other.variants[1].rules = "last=3".to_owned();
        let text = compare(&fixture::results(), &other);
        let figures = text.find("## Figures").unwrap();
        for words in [
            "**ANOTHER MODEL",
            "**OTHER RULES",
            "0.7.0",
            r"Another \| processor",
        ] {
            assert!(text.find(words).is_some_and(|at| at < figures), "{words}");
        }
    }

    #[test]
    fn faster_is_faster_and_what_one_lacks_is_named() {
        let mut b = fixture::results();
        for variant in &mut b.variants {
            fixture::for_each_measured(variant, |measured| fixture::slow_down(measured, 0.5));
        }
        b.variants[2].name = "another".to_owned();
        let text = compare(&fixture::results(), &b);
        assert!(text.contains("**faster**") && !text.contains("**slower**"));
        assert!(text.contains("In A alone: half the experts."));
        assert!(text.contains("In B alone: another."));
        b.variants.clear();
        assert!(compare(&fixture::results(), &b).contains("No variant is in both."));
    }

    #[test]
    fn quick_and_stopped_runs_are_named() {
        let mut b = fixture::results();
        fixture::once(&mut b);
        b.is_complete = false;
        let text = compare(&fixture::results(), &b);
        assert!(text.contains("B is a quick run") && text.contains("B was stopped"));
        assert!(text.contains("not tested"));
    }
}
