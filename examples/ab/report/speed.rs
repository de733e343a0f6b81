//! Speed, for each prompt length.

use llama_moe::measure::Series;

use crate::markdown::{Table, text};
use crate::results::{Results, VariantResults};
use crate::summary::{Figure, done, prompt_lengths, run, series, why_empty};
use crate::units::{NOT_MEASURED, decimals, number, range, scaled, spread};

/// The section.
pub fn section(results: &Results) -> String {
    let mut out =
        "## Speed\n\nMean ± σ, and below it the mean's 95 % confidence interval. p50 and p95 \
                   are percentiles of the time between two tokens, over all tokens of all \
                   repetitions.\n\n"
            .to_owned();
    for n_prompt in prompt_lengths(&results.settings) {
        out += &format!("### After a prompt of {n_prompt} tokens\n\n");
        out += &of_length(results, n_prompt);
    }
    out += "### Against the ceiling\n\nThe limit model's bounds: what reading the weights from system \
            memory allows, at the bandwidth measured here. A result near its ceiling has no other \
            bottleneck left. Where nothing of the model is in system memory there is no such \
            bound.\n\n";
    out += &ceilings(results);
    out += "### Load\n\nSeconds, from the beginning of the load to its end. The file may be in the \
            system's cache from the warm-up.\n\n";
    out + &loads(results)
}

fn of_length(results: &Results, n_prompt: usize) -> String {
    let mut table = Table::new(&[
        "variant",
        "N",
        "TTFT, ms",
        "prefill, tokens/s",
        "decode, tokens/s",
        "time per token, ms",
        "p50, ms",
        "p95, ms",
        "intervals",
    ]);
    for variant in &results.variants {
        let name = text(&variant.name);
        if done(variant).next().is_none() {
            table.row([name, "0".to_owned(), why_empty(variant).to_owned()]);
            continue;
        }
        let figures = [
            Figure::Ttft(n_prompt),
            Figure::Prefill(n_prompt),
            Figure::Decode(n_prompt),
        ]
        .map(|figure| figure.series(variant));
        let n = figures[0].as_ref().map_or(0, Series::n);
        let tpot = series(variant, |measured| {
            let time = run(measured, n_prompt)?.time_per_output_token()?;
            Some(time.as_secs_f64() * 1e3)
        });
        let intervals = intervals(variant, n_prompt);
        let percentile = |percent: f64| {
            let value = intervals.as_ref().and_then(|all| all.percentile(percent));
            value.map_or_else(|| NOT_MEASURED.to_owned(), number)
        };
        let [ttft, prefill, decode] = figures.map(with_interval);
        table.row([
            name,
            n.to_string(),
            ttft,
            prefill,
            decode,
            with_interval(tpot),
            percentile(50.0),
            percentile(95.0),
            intervals.as_ref().map_or(0, Series::n).to_string(),
        ]);
    }
    table.finish()
}

fn intervals(variant: &VariantResults, n_prompt: usize) -> Option<Series> {
    let runs = done(variant).filter_map(|measured| run(measured, n_prompt));
    let intervals = runs.flat_map(llama_moe::measure::Run::token_intervals);
    Series::new(intervals.map(|time| time.as_secs_f64() * 1e3)).ok()
}

fn with_interval(series: Option<Series>) -> String {
    let Some(series) = series else {
        return NOT_MEASURED.to_owned();
    };
    match series.interval() {
        Some(interval) => format!(
            "{}<br>{}",
            spread(&series),
            range(&interval, decimals(&series))
        ),
        None => spread(&series),
    }
}

fn ceilings(results: &Results) -> String {
    let mut table = Table::new(&[
        "variant",
        "prompt",
        "N",
        "decode ceiling, tokens/s",
        "decode, % of it",
        "prefill ceiling, tokens/s",
        "prefill, % of it",
    ]);
    for variant in &results.variants {
        let ceiling = variant.ceiling.as_ref();
        let decode = ceiling.and_then(|ceiling| ceiling.decode);
        for n_prompt in prompt_lengths(&results.settings) {
            let prefill = ceiling.and_then(|ceiling| ceiling.prefill_of(n_prompt, results));
            let [decoded, prefilled] = [Figure::Decode(n_prompt), Figure::Prefill(n_prompt)]
                .map(|figure| figure.series(variant));
            let n = decoded.as_ref().map_or(0, Series::n);
            table.row([
                text(&variant.name),
                n_prompt.to_string(),
                n.to_string(),
                bound(variant, decode),
                share(decoded.as_ref(), decode),
                bound(variant, prefill),
                share(prefilled.as_ref(), prefill),
            ]);
        }
    }
    table.finish()
}

fn bound(variant: &VariantResults, ceiling: Option<f64>) -> String {
    match (ceiling, &variant.ceiling) {
        (Some(ceiling), _) => number(ceiling),
        (None, Some(_)) => "no bound".to_owned(),
        (None, None) => NOT_MEASURED.to_owned(),
    }
}

fn share(series: Option<&Series>, ceiling: Option<f64>) -> String {
    match (series, ceiling) {
        (Some(series), Some(ceiling)) if ceiling > 0.0 => {
            let share = scaled(series, 100.0 / ceiling);
            share.map_or_else(|| NOT_MEASURED.to_owned(), |s| format!("{} %", spread(&s)))
        }
        (None, Some(_)) => NOT_MEASURED.to_owned(),
        _ => "–".to_owned(),
    }
}

fn loads(results: &Results) -> String {
    let mut table = Table::new(&["variant", "N", "load, s"]);
    for variant in &results.variants {
        table.row([
            text(&variant.name),
            done(variant).count().to_string(),
            with_interval(Figure::Load.series(variant)),
        ]);
    }
    table.finish()
}
