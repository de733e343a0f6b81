//! A section for the model card of a GGUF on Hugging Face.

use std::borrow::Cow;
use std::collections::BTreeMap;

use llama_moe::measure::{FileRecord, Series};

use crate::markdown::{Table, code, text};
use crate::results::{Results, VariantResults};
use crate::summary::{
    Figure, breakdowns, done, has_device, is_dry_run, prompt_lengths, split, why_empty,
};
use crate::units::{NOT_MEASURED, bytes, mib, spread};

/// The section, with the YAML front matter of a card before it.
pub fn card(results: &Results) -> String {
    let mut out = front_matter(results);
    out += "\n## Memory and speed with experts in system memory\n\n";
    if results.settings.is_quick {
        out += "**A quick run with fewer than three repetitions: not a measurement to quote.**\n\n";
    }
    if !results.is_complete {
        out += "**Not complete: stopped before all repetitions were tried.**\n\n";
    }
    if results.provenance.model.name.contains("synthetic") {
        out += "**The weights are synthetic: sizes and times are those of the shape.**\n\n";
    }
    out += &rules(results);
    out += &table(results);
    out += &provenance(results);
    out
}

fn front_matter(results: &Results) -> String {
    let metadata = &results.provenance.model.metadata;
    let mut lines = vec!["---".to_owned(), "library_name: gguf".to_owned()];
    lines.push("pipeline_tag: text-generation".to_owned());
    if let Some(license) = metadata.get("general.license") {
        lines.push(format!("license: {}", yaml(&license.to_lowercase())));
    }
    if let Some(base) = base_model(metadata) {
        lines.push(format!("base_model: {}", yaml(base)));
    }
    lines.push("tags:".to_owned());
    for tag in ["gguf", "llama.cpp", "mixture-of-experts"] {
        lines.push(format!("- {tag}"));
    }
    lines.push("---\n".to_owned());
    lines.join("\n")
}

/// The repository of the model that this one was made from, as its file names it.
fn base_model(metadata: &BTreeMap<String, String>) -> Option<&str> {
    let url = metadata.get("general.base_model.0.repo_url")?;
    url.strip_prefix("https://huggingface.co/")
}

/// A text for YAML, whose quoted strings can be written as JSON's.
fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn rules(results: &Results) -> String {
    let mut table = Table::of_text(&["variant", "rules", "llama.cpp's options"]);
    for variant in &results.variants {
        let options = variant.command_line.as_deref();
        let options = options.map(|options| code(&without_folders(results, options)));
        table.row([
            text(&variant.name),
            code(&variant.rules),
            options.unwrap_or_else(|| "none".to_owned()),
        ]);
    }
    table.finish()
}

/// Options with the model's files by their names alone: where they lie on the machine that
/// measured is of no use to others.
fn without_folders(results: &Results, options: &str) -> String {
    let files = results.provenance.model.files.iter();
    files.fold(options.to_owned(), |options, file| {
        options.replace(&*file.path.to_string_lossy(), &file_name(file))
    })
}

fn file_name(file: &FileRecord) -> Cow<'_, str> {
    let name = file.path.file_name().unwrap_or(file.path.as_os_str());
    name.to_string_lossy()
}

fn table(results: &Results) -> String {
    let is_host = !has_device(results);
    let lengths = prompt_lengths(&results.settings);
    let longest = lengths.last().copied().unwrap_or(0);
    let memory = if is_host {
        "system memory, MiB"
    } else {
        "device memory, MiB"
    };
    let (ttft, prefill, decode) = (
        format!("TTFT, ms (prompt {longest})"),
        format!("prefill, tokens/s (prompt {longest})"),
        format!("decode, tokens/s (prompt {longest})"),
    );
    let mut table = Table::new(&["variant", "N", memory, &ttft, &prefill, &decode]);
    for variant in &results.variants {
        let n = done(variant).count();
        let name = text(&variant.name);
        if n == 0 && !is_dry_run(results) {
            table.row([name, "0".to_owned(), why_empty(variant).to_owned()]);
            continue;
        }
        let figures = [
            Figure::Ttft(longest),
            Figure::Prefill(longest),
            Figure::Decode(longest),
        ];
        let [ttft, prefill, decode] = figures.map(|figure| shown(figure.series(variant)));
        table.row([
            name,
            n.to_string(),
            shown(memory_of(results, variant, is_host)),
            ttft,
            prefill,
            decode,
        ]);
    }
    format!(
        "Mean ± standard deviation of N repetitions, each in a process of its own, the variants \
         interleaved. Memory is llama.cpp's own count: model, KV cache for {} tokens, cache of \
         experts if there is one, and compute. 1 MiB is 2²⁰ bytes.\n\n{}",
        results.settings.n_ctx,
        table.finish()
    )
}

fn memory_of(results: &Results, variant: &VariantResults, is_host: bool) -> Option<Series> {
    let breakdowns = breakdowns(results, variant).into_iter();
    let sums = breakdowns.map(|breakdown| mib(split(breakdown, is_host).iter().sum()));
    Series::new(sums).ok()
}

fn shown(series: Option<Series>) -> String {
    series.map_or_else(|| NOT_MEASURED.to_owned(), |series| spread(&series))
}

fn provenance(results: &Results) -> String {
    let provenance = &results.provenance;
    let machine = &provenance.machine;
    let devices = provenance.devices.iter();
    let devices =
        devices.map(|device| format!("{} ({})", text(&device.name), text(&device.description)));
    let devices: Vec<String> = devices.collect();
    let mut out = "Measured with\n\n".to_owned();
    for file in &provenance.model.files {
        let (name, sha256) = (code(&file_name(file)), code(&file.sha256));
        out += &format!("- {name}, sha256 {sha256}\n");
    }
    out += &format!(
        "- llama-moe {}{}, llama.cpp {}, features {}\n",
        text(&provenance.crate_version),
        provenance
            .commit
            .as_deref()
            .map_or_else(String::new, |c| format!(" at {}", code(c))),
        text(&provenance.llama_cpp_version),
        text(&provenance.features.join(", ")),
    );
    out += &format!(
        "- {}, {} of memory, {}; devices {}\n",
        text(&machine.cpu),
        bytes(machine.ram as f64),
        text(&machine.os),
        devices.join(", "),
    );
    out += &format!(
        "- {}, {} tokens generated, seed {}, tokens of the model's own tokenizer\n\n",
        text(&results.finished),
        results.settings.generate,
        results.settings.seed,
    );
    out + "Expert offload is llama.cpp's: PRs \
           [#11397](https://github.com/ggml-org/llama.cpp/pull/11397) and \
           [#15077](https://github.com/ggml-org/llama.cpp/pull/15077) by @slaren.\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_card_has_front_matter_rules_numbers_and_provenance() {
        let mut results = fixture::results();
        results.variants[0].command_line = Some("-m 'models/made-up.gguf' -ngl 99".to_owned());
        let card = card(&results);
        let (front, rest) = card
            .strip_prefix("---\n")
            .unwrap()
            .split_once("\n---\n")
            .unwrap();
        assert!(front.contains("license: \"mit\"") && front.contains("- gguf"));
        for words in [
            "`-ngl 99 --cpu-moe`",
            "| base | 3 | 422 ± 0 |",
            "| half the experts | 1 | 322 (no σ) |",
            &format!("sha256 `{}`", "a".repeat(64)),
            "`made-up.gguf`",
            "`-m 'made-up.gguf' -ngl 99`",
            "llama.cpp 0.8.0",
            "pull/15077",
        ] {
            assert!(rest.contains(words), "{words}");
        }
        assert!(!card.contains("models/made-up.gguf"));
    }

    #[test]
    fn what_metadata_say_cannot_leave_its_field() {
        let mut results = fixture::results();
        let metadata = &mut results.provenance.model.metadata;
        metadata.insert("general.license".to_owned(), "x\"\n---\nevil: 1".to_owned());
        let url = "https://huggingface.co/some/model".to_owned();
        metadata.insert("general.base_model.0.repo_url".to_owned(), url);
        let card = card(&results);
        assert!(card.contains(r#"license: "x\"\n---\nevil: 1""#));
        assert!(card.contains("base_model: \"some/model\""));
        assert_eq!(card.lines().filter(|line| *line == "---").count(), 2);
    }

    #[test]
    fn a_quick_run_and_failures_are_not_hidden() {
        let mut results = fixture::results();
        fixture::once(&mut results);
        fixture::fail(&mut results.variants[1]);
        let card = card(&results);
        assert!(card.contains("**A quick run"));
        assert!(card.contains("| cpu-moe | 0 | failed: out of memory |"));
    }
}
