//! `report.md`: what a comparison measured, for a reader who was not there.

mod delivery;
mod differences;
mod expert_cache;
mod know_first;
mod memory;
mod provenance;
mod quality;
mod speed;

use std::path::Path;

use common::Result;
use llama_moe::measure::Provenance;

pub use differences::table as comparison_table;

use crate::markdown::{Table, block, code, picture, text};
use crate::output::write;
use crate::plots::{self, Plot};
use crate::results::{Failure, Outcome, Results, Settings};
use crate::summary::{done, is_dry_run, verdicts};
use crate::units::{self, NOT_MEASURED};

/// The longest message of a failed trial that is shown, in characters. `results.json` has it all.
const LONGEST_MESSAGE: usize = 600;

/// Writes `report.md` into a folder, and its pictures, as SVG and PNG, into `plots` within.
///
/// # Errors
/// If a file cannot be written or a picture cannot be drawn.
pub fn write_report(results: &Results, dir: &Path) -> Result<()> {
    let plots = plots::all(results);
    plots::write(&plots, &dir.join("plots"))?;
    write(&dir.join("report.md"), report(results, &plots).as_bytes())
}

fn report(results: &Results, plots: &[Plot]) -> String {
    let comparisons = verdicts(results);
    let embed = |name: &str| {
        let plots = plots.iter().filter(|plot| plot.name == name);
        let pictures = plots.map(|plot| picture(&plot.title, &format!("plots/{name}.png")) + "\n");
        pictures.collect::<String>()
    };
    if is_dry_run(results) {
        return [
            what_was_run(results),
            know_first::section(results),
            memory::before_loading(results),
            embed("memory"),
            expert_cache::section(results),
            bandwidths(results),
            provenance::section(&results.provenance),
            how_to_repeat(results),
            credit(),
        ]
        .concat();
    }
    [
        what_was_run(results),
        know_first::section(results),
        differences::section(results, &comparisons),
        memory::devices(results),
        embed("memory"),
        memory::before_loading(results),
        memory::host(results),
        speed::section(results),
        embed("decode"),
        embed("ttft"),
        embed("prefill"),
        embed("tradeoff"),
        expert_cache::section(results),
        embed("cache"),
        delivery::section(results),
        quality::section(results),
        failures(results),
        bandwidths(results),
        provenance::section(&results.provenance),
        how_to_repeat(results),
        credit(),
    ]
    .concat()
}

fn what_was_run(results: &Results) -> String {
    let provenance = &results.provenance;
    let settings = &results.settings;
    let mut out = format!("# {}: variants compared\n\n", text(&provenance.model.name));
    if settings.is_quick {
        out += "**A quick run, not a measurement to quote: fewer than three repetitions were \
                allowed.**\n\n";
    }
    if !results.is_complete {
        out += "**Not complete: the comparison was stopped before all that was asked for was \
                tried.**\n\n";
    }
    let lengths: Vec<String> = settings
        .prompt_tokens
        .iter()
        .map(usize::to_string)
        .collect();
    if is_dry_run(results) {
        out += &format!(
            "{} variants in a dry run: nothing was loaded. Context {} tokens. {}.\n\n",
            results.variants.len(),
            settings.n_ctx,
            text(&results.finished),
        );
    } else {
        out += &format!(
            "{} variants, {} repetitions of each, interleaved, every one in a process of its own after \
         a warm-up. Prompts of {} tokens, {} tokens generated after each, seed {}, context {} \
         tokens. Ended {}.\n\n",
            results.variants.len(),
            settings.repetitions,
            lengths.join(", "),
            settings.generate,
            settings.seed,
            settings.n_ctx,
            text(&results.finished),
        );
    }
    out += &self::settings(settings);
    out += &command(provenance);
    out += "\n";
    let mut models = Table::of_text(&["model file", "bytes", "sha256"]);
    for file in &provenance.model.files {
        models.row([
            code(&file.path.to_string_lossy()),
            file.bytes.to_string(),
            code(&file.sha256),
        ]);
    }
    out += &models.finish();
    let mut variants = Table::with_names(
        &["variant", "rules", "in llama.cpp's options", "trials done"],
        3,
    );
    for variant in &results.variants {
        variants.row([
            text(&variant.name),
            code(&variant.rules),
            variant
                .command_line
                .as_deref()
                .map_or_else(|| "none".to_owned(), code),
            match settings.repetitions {
                0 => "a dry run".to_owned(),
                n => format!("{} of {n}", done(variant).count()),
            },
        ]);
    }
    out += &variants.finish();
    out += "What the rules take:\n\n";
    for variant in &results.variants {
        let placement = variant.placement.iter().map(|rule| text(rule));
        let placement: Vec<String> = placement.collect();
        let taken = match placement.as_slice() {
            [] => "nothing: all is where llama.cpp puts it".to_owned(),
            rules => rules.join("; "),
        };
        out += &format!("- {}: {taken}\n", text(&variant.name));
    }
    out + "\n"
}

/// The command that measured, as a shell reads it.
fn command(provenance: &Provenance) -> String {
    let words: Vec<String> = provenance.command.iter().map(|word| quoted(word)).collect();
    block("sh", &words.join(" "))
}

/// What was asked for beside lengths and repetitions.
fn settings(settings: &Settings) -> String {
    let or_default = |value: Option<u32>, default: &str| {
        value.map_or_else(|| default.to_owned(), |value| value.to_string())
    };
    let mut sentence = format!(
        "Micro-batch: {}. Threads: {}. ",
        or_default(settings.n_ubatch, "llama.cpp's default"),
        or_default(settings.n_threads, "the physical cores"),
    );
    if !settings.rpc.is_empty() {
        let workers: Vec<String> = settings.rpc.iter().map(|worker| code(worker)).collect();
        sentence += &format!("Workers: {}. ", workers.join(", "));
    }
    if let (Some(n_ctx), Some(chunks)) = (settings.quality_n_ctx, settings.quality_chunks) {
        sentence += &format!("Quality: at most {chunks} chunks of {n_ctx} tokens. ");
    }
    sentence + &format!("Text: sha256 {}.\n\n", code(&settings.text_sha256))
}

fn failures(results: &Results) -> String {
    let mut table = Table::of_text(&["variant", "repetition", "while", "out of memory", "message"]);
    let mut n_failed = 0;
    let mut row = |name: &str, repetition: String, failure: &Failure| {
        n_failed += 1;
        let message: String = failure.message.chars().take(LONGEST_MESSAGE).collect();
        table.row([
            text(name),
            repetition,
            text(&failure.stage),
            if failure.is_out_of_memory {
                "yes"
            } else {
                "no"
            }
            .to_owned(),
            text(&message),
        ]);
    };
    for variant in &results.variants {
        for trial in &variant.trials {
            if let Outcome::Failed(failure) = &trial.outcome {
                row(&variant.name, trial.repetition.to_string(), failure);
            }
        }
        if let Some(Outcome::Failed(failure)) = &variant.quality {
            row(&variant.name, "quality".to_owned(), failure);
        }
    }
    match n_failed {
        0 => "## Failed trials\n\nNone.\n\n".to_owned(),
        _ => format!("## Failed trials\n\n{}", table.finish()),
    }
}

fn bandwidths(results: &Results) -> String {
    let bandwidth = &results.bandwidth;
    let mut table = Table::new(&["from system memory to", "pageable", "page-locked"]);
    table.row([
        "the CPU's cores, all together".to_owned(),
        units::bandwidth(bandwidth.host),
        String::new(),
    ]);
    for device in &bandwidth.devices {
        let locked = device.page_locked.map(units::bandwidth);
        table.row([
            text(&device.device),
            units::bandwidth(device.pageable),
            locked.unwrap_or_else(|| NOT_MEASURED.to_owned()),
        ]);
    }
    format!(
        "## Bandwidth\n\nThe best of several readings before the comparison, as a bound takes it: \
         it has no mean and no σ. 1 GB is 10⁹ bytes.\n\n{}",
        table.finish()
    )
}

fn how_to_repeat(results: &Results) -> String {
    let mut out = format!("## How to repeat it\n\n{}\n", command(&results.provenance));
    out += "With the model file of the sum above, at the commit and with the features named under \
            *Provenance*. The raw values of every repetition, with the time of every token, are in \
            `results.json`.\n\n";
    let options = results.variants.iter().filter_map(|variant| {
        let options = variant.command_line.as_deref()?;
        Some(format!("- {}: {}\n", text(&variant.name), code(options)))
    });
    let options: String = options.collect();
    if !options.is_empty() {
        out += "The same placements with llama.cpp's own programs:\n\n";
        out += &options;
        out += "\n";
    }
    out
}

fn credit() -> String {
    "## Credit\n\nAll placement and all computation is llama.cpp's. Tensor buffer overrides \
     (`--override-tensor`) came with its PR [#11397](https://github.com/ggml-org/llama.cpp/pull/11397), \
     `--cpu-moe` and `--n-cpu-moe` with \
     [#15077](https://github.com/ggml-org/llama.cpp/pull/15077), both by @slaren.\n"
        .to_owned()
}

/// A word of a command as a POSIX shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
