//! The cache of experts: what it holds, and what it did.

use llama_moe::measure::Series;

use crate::markdown::{Table, text};
use crate::results::{CacheUse, MoeCache, Results, VariantResults};
use crate::summary::{done, has_moe_cache, is_dry_run, prompt_lengths, why_empty};
use crate::units::{NOT_MEASURED, mib, number, scaled, spread};

/// The section; nothing where no variant has a cache.
pub fn section(results: &Results) -> String {
    if !has_moe_cache(results) {
        return String::new();
    }
    let mut out =
        "## Cache of experts\n\nRecently used experts of layers whose experts are in system \
                   memory, kept on the layers' devices by llama.cpp. *MiB* (2²⁰ bytes) is what it \
                   takes of the devices.\n\n"
            .to_owned();
    out += &layouts(results);
    out += &not_cached(results);
    if !is_dry_run(results) {
        out += "Per run, mean ± σ: experts that micro-batches of at most 32 tokens found in the \
                cache (hits) or had uploaded (misses). Each run finds the cache as the one before \
                left it.\n\n";
        out += &uses(results);
    }
    out
}

/// Variants with a cache, and what it holds.
fn cached(results: &Results) -> impl Iterator<Item = (&VariantResults, &MoeCache)> {
    let variants = results.variants.iter();
    variants.filter_map(|variant| Some((variant, variant.moe_cache.as_ref()?)))
}

fn layouts(results: &Results) -> String {
    let mut table = Table::new(&["variant", "size, MiB", "MiB", "slots", "experts", "holds"]);
    for (variant, cache) in cached(results) {
        let share = 100.0 * cache.n_slots as f64 / cache.n_experts.max(1) as f64;
        table.row([
            text(&variant.name),
            number(mib(cache.size as f64)),
            number(mib(cache.bytes as f64)),
            cache.n_slots.to_string(),
            cache.n_experts.to_string(),
            if cache.n_slots >= cache.n_experts {
                "all experts".to_owned()
            } else {
                format!("{} %", number(share))
            },
        ]);
    }
    table.finish()
}

fn not_cached(results: &Results) -> String {
    let lines = cached(results).filter_map(|(variant, cache)| {
        let first = cache.not_cached.first()?;
        let (name, n) = (text(&variant.name), cache.not_cached.len());
        Some(format!(
            "- {name}: {n} {} not cached; {}\n",
            if n == 1 { "layer is" } else { "layers are" },
            text(first)
        ))
    });
    let lines: String = lines.collect();
    match lines.as_str() {
        "" => lines,
        _ => lines + "\n",
    }
}

fn uses(results: &Results) -> String {
    let head = [
        "variant",
        "prompt",
        "N",
        "hit rate, %",
        "hits",
        "misses",
        "uploaded, MiB",
    ];
    let mut table = Table::new(&head);
    for (variant, _) in cached(results) {
        if done(variant).next().is_none() {
            let why = why_empty(variant).to_owned();
            table.row([text(&variant.name), String::new(), "0".to_owned(), why]);
            continue;
        }
        for n_prompt in prompt_lengths(&results.settings) {
            let of = |value: fn(&CacheUse) -> Option<f64>| series(variant, n_prompt, value);
            let hits = of(|of| Some(of.hits as f64));
            table.row([
                text(&variant.name),
                n_prompt.to_string(),
                hits.as_ref().map_or(0, Series::n).to_string(),
                shown(of(|of| Some(100.0 * of.hit_rate?))),
                shown(hits),
                shown(of(|of| Some(of.misses as f64))),
                shown(
                    of(|of| Some(of.uploaded_bytes as f64))
                        .and_then(|bytes| scaled(&bytes, mib(1.0))),
                ),
            ]);
        }
    }
    table.finish()
}

/// A number of the runs with a prompt of this length.
fn series(
    variant: &VariantResults,
    n_prompt: usize,
    value: fn(&CacheUse) -> Option<f64>,
) -> Option<Series> {
    let values = done(variant).filter_map(|measured| {
        let index = measured
            .runs
            .iter()
            .position(|run| run.n_prompt == n_prompt)?;
        value(measured.moe_cache.as_ref()?.get(index)?)
    });
    Series::new(values).ok()
}

fn shown(series: Option<Series>) -> String {
    series.map_or_else(|| NOT_MEASURED.to_owned(), |series| spread(&series))
}
