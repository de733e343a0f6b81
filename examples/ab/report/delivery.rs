//! Streaming against delivery as a whole.

use llama_moe::measure::{Delivered, Series};

use crate::markdown::{Table, text};
use crate::results::{Delivery, Results, VariantResults};
use crate::summary::{done, series};
use crate::units::{NOT_MEASURED, decimals, fixed, range, spread};

/// The section.
pub fn section(results: &Results) -> String {
    let mut out = "## Streaming against whole\n\nThe longest prompt's reply once more, sent to a reader \
                   over a connection: each token's text as soon as it is there, and all of it at the \
                   end. Milliseconds from the prompt to what the reader got first and last, mean ± \
                   σ.\n\n"
        .to_owned();
    let mut any = results.variants.iter().flat_map(done);
    if any.all(|measured| measured.delivery.is_none()) {
        return out + "Not measured.\n\n";
    }
    let mut table = Table::new(&[
        "variant",
        "N",
        "streaming, first",
        "streaming, last",
        "pieces",
        "whole, first",
        "whole, last",
        "what streaming adds",
        "its 95 % interval",
        "same text and tokens",
    ]);
    for variant in &results.variants {
        let ms = |of: fn(&Delivery) -> f64| of_delivery(variant, |d| of(d) * 1e3);
        let first = ms(|delivery| delivery.streaming.first.as_secs_f64());
        let streaming = ms(|delivery| delivery.streaming.last.as_secs_f64());
        let whole = ms(|delivery| delivery.whole.last.as_secs_f64());
        let [added, interval] = difference(streaming.as_ref(), whole.as_ref());
        table.row([
            text(&variant.name),
            first.as_ref().map_or(0, Series::n).to_string(),
            shown(first),
            shown(streaming.clone()),
            shown(of_delivery(variant, |d| d.streaming.n_pieces as f64)),
            shown(ms(|delivery| delivery.whole.first.as_secs_f64())),
            shown(whole.clone()),
            added,
            interval,
            equal(variant),
        ]);
    }
    out += &table.finish();
    out
}

fn of_delivery(variant: &VariantResults, of: impl Fn(&Delivery) -> f64) -> Option<Series> {
    series(variant, |measured| measured.delivery.as_ref().map(&of))
}

/// How much later the last of a stream is there than the whole, and how certain that is.
fn difference(streaming: Option<&Series>, whole: Option<&Series>) -> [String; 2] {
    let (Some(streaming), Some(whole)) = (streaming, whole) else {
        return [NOT_MEASURED, NOT_MEASURED].map(str::to_owned);
    };
    match streaming.difference(whole) {
        Some(difference) => {
            let decimals = decimals(streaming).max(decimals(whole));
            [
                fixed(difference.difference, decimals),
                range(&difference.interval, decimals),
            ]
        }
        None => ["one repetition", "one repetition"].map(str::to_owned),
    }
}

fn shown(series: Option<Series>) -> String {
    series.map_or_else(|| NOT_MEASURED.to_owned(), |series| spread(&series))
}

fn equal(variant: &VariantResults) -> String {
    let deliveries: Vec<&Delivery> = done(variant).filter_map(|m| m.delivery.as_ref()).collect();
    let content = |delivered: &Delivered| (delivered.text.clone(), delivered.tokens.clone());
    let same = deliveries.iter();
    let same = same.filter(|d| content(&d.streaming) == content(&d.whole));
    match deliveries.len() {
        0 => NOT_MEASURED.to_owned(),
        n => format!("{} of {n}", same.count()),
    }
}
