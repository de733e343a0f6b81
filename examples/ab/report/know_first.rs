//! What a reader has to know before any number.

use crate::markdown::text;
use crate::results::{Results, VariantResults};
use crate::summary::{done, is_dry_run};

/// The section.
pub fn section(results: &Results) -> String {
    let sentences = notes(results);
    let items = sentences.iter().map(|sentence| format!("- {sentence}\n"));
    format!("## What to know first\n\n{}\n", items.collect::<String>())
}

/// The sentences, as Markdown: what these numbers show, then what the program that measured
/// noted.
fn notes(results: &Results) -> Vec<String> {
    let mut notes = Vec::new();
    let provenance = &results.provenance;
    let name = &provenance.model.name;
    if name.contains("synthetic") {
        notes.push(
            "The weights are synthetic: sizes, placement and time are those of the shape, what it \
             says is noise, and its router spreads tokens over more experts than a trained one."
                .to_owned(),
        );
    }
    if provenance.debug_build {
        notes.push(
            "This program was compiled without optimisation: its share of each time is larger \
             than it has to be. llama.cpp is optimised."
                .to_owned(),
        );
    }
    if is_dry_run(results) {
        notes.push(
            "A dry run: memory is what llama.cpp would ask for. What a driver keeps for itself \
             beside it, and every time, takes a run."
                .to_owned(),
        );
        notes.extend(results.notes.iter().map(|note| text(note)));
        return notes;
    }
    notes.push(repetitions(results));
    notes.push(
        "Tokens are counted by the model's own tokenizer. TTFT is from the prompt's tokens to the \
         first token; the time per output token is (latency − TTFT) / (tokens − 1)."
            .to_owned(),
    );
    notes.push(
        "Every process has the same seed, prompts and number of tokens; a token that ends a reply \
         does not end the run."
            .to_owned(),
    );
    notes.extend(results.notes.iter().map(|note| text(note)));
    let missing = not_measured(results);
    if !missing.is_empty() {
        notes.push(format!("Not measured: {}.", missing.join("; ")));
    }
    notes
}

fn repetitions(results: &Results) -> String {
    let asked = results.settings.repetitions;
    let counts = results.variants.iter().map(|variant| done(variant).count());
    let fewest = counts.clone().min().unwrap_or(0);
    let most = counts.max().unwrap_or(0);
    let n = if fewest == most {
        format!("N = {most}")
    } else {
        format!("N from {fewest} to {most}")
    };
    let meaning = match most {
        0 => "there are no numbers",
        1 => "a single repetition has no standard deviation, and nothing is known of chance",
        _ => {
            "± is the sample standard deviation σ, brackets are the mean's 95 % confidence interval"
        }
    };
    format!("{n} of {asked} repetitions of each variant: {meaning}.")
}

fn not_measured(results: &Results) -> Vec<&'static str> {
    let measured = || results.variants.iter().flat_map(done);
    let provenance = &results.provenance;
    let untold = measured().any(|trial| trial.devices.iter().any(|device| !device.is_told()));
    let no_peak = measured().any(|trial| {
        let mut devices = trial.devices.iter();
        devices.any(|device| device.is_told() && device.peak().is_none())
    });
    let has_ceiling = |variant: &VariantResults| {
        let ceiling = variant.ceiling.as_ref();
        ceiling.is_some_and(|c| c.decode.is_some() || c.prefill.iter().any(Option::is_some))
    };
    let no_ceiling = {
        let mut variants = results.variants.iter();
        !variants.any(has_ceiling)
    };
    [
        (measured().all(|trial| trial.devices.is_empty()), "device memory, as there is no device"),
        (untold, "the free memory of devices that do not tell it"),
        (no_peak, "the peak on devices of other machines, which are read at the beginning and the end alone"),
        (measured().any(|trial| trial.host_after.is_none()), "the process's memory, which only Linux tells"),
        (measured().all(|trial| trial.delivery.is_none()), "streaming against whole delivery"),
        (results.variants.iter().all(|variant| variant.quality.is_none()), "quality"),
        (results.settings.tasks.is_none(), "pass@k, as no tasks were given"),
        (no_ceiling, "a ceiling, as no bound of the limit model applies"),
        (provenance.commit.is_none(), "the commit, which was not given"),
        (provenance.sources.is_empty(), "the files that the model was made from, which were not given"),
    ]
    .into_iter()
    .filter_map(|(is_missing, what)| is_missing.then_some(what))
    .collect()
}
