//! How variants differ from the base.

use crate::markdown::{Table, text};
use crate::results::Results;
use crate::summary::{Comparison, FAMILY_WISE, Verdict};
use crate::units::{decimals, fixed, number, range, signed_percent, spread};

/// The section.
pub fn section(results: &Results, comparisons: &[Comparison]) -> String {
    let Some((base, variants)) = results.variants.split_first() else {
        return String::new();
    };
    let mut out = "## Differences to the base\n\n".to_owned();
    if variants.is_empty() {
        return out + "There is one variant alone: nothing to compare.\n\n";
    }
    let tested = comparisons
        .iter()
        .filter(|c| c.adjusted_p.is_some())
        .count();
    out += &format!(
        "The base is {}. Intervals are 95 % intervals of each difference by itself (Welch). The \
         verdict is stricter: p is adjusted by Holm's method for all {tested} comparisons of this \
         report together, and a difference is called one at {} or less — chance alone names any \
         in one of a hundred reports. Where it shows none, there may still be one that is smaller \
         than its interval.\n\n",
        text(&base.name),
        FAMILY_WISE,
    );
    let shown = comparisons.iter().map(Comparison::verdict);
    let shown = shown.filter(|verdict| matches!(verdict, Verdict::Better | Verdict::Worse));
    out += &format!("Differences shown: {} of {tested}.\n\n", shown.count());
    for variant in variants {
        out += &format!(
            "### {} against {}\n\n",
            text(&variant.name),
            text(&base.name)
        );
        let own = comparisons.iter().filter(|c| c.variant == variant.name);
        out += &table(own);
    }
    out
}

/// The comparisons as a table.
pub fn table<'a>(comparisons: impl Iterator<Item = &'a Comparison>) -> String {
    let mut table = Table::new(&[
        "figure",
        "base (N)",
        "variant (N)",
        "difference",
        "95 % interval",
        "adjusted p",
        "verdict",
    ]);
    let mut n_rows = 0;
    for comparison in comparisons {
        n_rows += 1;
        table.row(row(comparison));
    }
    if n_rows == 0 {
        return "No figure was measured of both.\n\n".to_owned();
    }
    table.finish()
}

fn row(comparison: &Comparison) -> [String; 7] {
    let Comparison { base, values, .. } = comparison;
    let none = || "one repetition".to_owned();
    let of_n = |series| format!("{} ({})", spread(series), series.n());
    let decimals = decimals(base).max(decimals(values));
    let difference = comparison.difference.as_ref();
    let verdict = comparison.verdict();
    let shown = match verdict {
        Verdict::Better | Verdict::Worse => format!("**{verdict}**"),
        Verdict::NotShown | Verdict::NotTested => verdict.to_string(),
    };
    [
        comparison.figure.to_string(),
        of_n(base),
        of_n(values),
        difference.map_or_else(none, |d| {
            let relative = d.relative.map_or(String::new(), |share| {
                format!(" ({})", signed_percent(share))
            });
            format!("{}{relative}", fixed(d.difference, decimals))
        }),
        difference.map_or_else(none, |d| range(&d.interval, decimals)),
        comparison.adjusted_p.map_or_else(|| "–".to_owned(), number),
        shown,
    ]
}
