//! What repetitions say together: a series for each figure, and how variants differ from the
//! base.

use std::fmt;

use llama_moe::measure::{MeanDifference, MemorySplit, Run, Series, holm};

use crate::results::{Failure, Measured, Outcome, Results, Settings, VariantResults};

/// How often chance alone may name any difference of a whole report significant: 1 %.
///
/// At 5 % more than one of twenty reports on equals is expected in a quarter of all such
/// twenties.
pub const FAMILY_WISE: f64 = 0.01;

/// A number that every repetition measures once, and that variants are compared by.
///
/// The time per output token is not among them: it is one over the decode rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Seconds to load.
    Load,
    /// Milliseconds to the first token, after a prompt of so many tokens.
    Ttft(usize),
    /// Tokens of such a prompt per second.
    Prefill(usize),
    /// Tokens per second after the first, after such a prompt.
    Decode(usize),
}

impl Figure {
    /// All figures of a comparison, in the order of a report.
    pub fn all(settings: &Settings) -> Vec<Self> {
        let lengths = prompt_lengths(settings).into_iter();
        let of_prompts = lengths.flat_map(|n| [Self::Ttft(n), Self::Prefill(n), Self::Decode(n)]);
        std::iter::once(Self::Load).chain(of_prompts).collect()
    }

    /// Its value in one trial.
    pub fn of(self, measured: &Measured) -> Option<f64> {
        match self {
            Self::Load => Some(measured.load),
            Self::Ttft(n) => Some(run(measured, n)?.ttft()?.as_secs_f64() * 1e3),
            Self::Prefill(n) => run(measured, n)?.prefill_tokens_per_second(),
            Self::Decode(n) => run(measured, n)?.decode_tokens_per_second(),
        }
    }

    /// Its values in all trials of a variant that ended well.
    pub fn series(self, variant: &VariantResults) -> Option<Series> {
        series(variant, |measured| self.of(measured))
    }

    /// Whether more of it is better: so for rates, not for times.
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::Prefill(_) | Self::Decode(_))
    }

    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Load => "s",
            Self::Ttft(_) => "ms",
            Self::Prefill(_) | Self::Decode(_) => "tokens/s",
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load => f.write_str("load")?,
            Self::Ttft(n) => write!(f, "TTFT, prompt {n}")?,
            Self::Prefill(n) => write!(f, "prefill, prompt {n}")?,
            Self::Decode(n) => write!(f, "decode, prompt {n}")?,
        }
        write!(f, " ({})", self.unit())
    }
}

/// The prompt lengths, each once.
pub fn prompt_lengths(settings: &Settings) -> Vec<usize> {
    let mut lengths = settings.prompt_tokens.clone();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// The run with a prompt of this length.
pub fn run(measured: &Measured, n_prompt: usize) -> Option<&Run> {
    measured.runs.iter().find(|run| run.n_prompt == n_prompt)
}

/// What the trials of a variant that ended well measured.
pub fn done(variant: &VariantResults) -> impl Iterator<Item = &Measured> {
    variant
        .trials
        .iter()
        .filter_map(|trial| match &trial.outcome {
            Outcome::Done(measured) => Some(measured),
            Outcome::Failed(_) => None,
        })
}

/// The first failure of a variant.
pub fn first_failure(variant: &VariantResults) -> Option<&Failure> {
    variant
        .trials
        .iter()
        .find_map(|trial| match &trial.outcome {
            Outcome::Done(_) => None,
            Outcome::Failed(failure) => Some(failure),
        })
}

/// Why a variant has no numbers, in a few words.
pub fn why_empty(variant: &VariantResults) -> &'static str {
    match first_failure(variant) {
        Some(failure) if failure.is_out_of_memory => "failed: out of memory",
        Some(_) => "failed",
        None => "not measured",
    }
}

/// A number of all trials of a variant that ended well and have it. `None` if none has.
pub fn series(
    variant: &VariantResults,
    value: impl Fn(&Measured) -> Option<f64>,
) -> Option<Series> {
    Series::new(done(variant).filter_map(value)).ok()
}

/// What the devices, or the system's memory, hold for llama.cpp by its own count: model, KV
/// cache, cache of experts and buffers for computing, in bytes.
pub fn split(breakdown: &[MemorySplit], is_host: bool) -> [f64; 4] {
    let entries = breakdown.iter();
    entries.filter(|entry| entry.is_host == is_host).fold(
        [0.0; 4],
        |[model, context, moe_cache, compute], entry| {
            [
                model + entry.model as f64,
                context + entry.context as f64,
                moe_cache + entry.moe_cache as f64,
                compute + entry.compute as f64,
            ]
        },
    )
}

/// Whether any variant has a cache of experts.
pub fn has_moe_cache(results: &Results) -> bool {
    let mut variants = results.variants.iter();
    variants.any(|variant| variant.moe_cache.is_some())
}

/// What llama.cpp counted in the trials of a variant that ended well; of a comparison that loads
/// nothing, in its dry run.
pub fn breakdowns<'a>(results: &Results, variant: &'a VariantResults) -> Vec<&'a [MemorySplit]> {
    if is_dry_run(results) {
        variant.dry_run.as_deref().into_iter().collect()
    } else {
        done(variant)
            .map(|measured| &measured.breakdown[..])
            .collect()
    }
}

/// Whether nothing was to be loaded.
pub fn is_dry_run(results: &Results) -> bool {
    results.settings.repetitions == 0
}

/// Whether any variant uses a device's memory.
pub fn has_device(results: &Results) -> bool {
    let variants = results.variants.iter();
    let mut all = variants.flat_map(|variant| breakdowns(results, variant));
    all.any(|breakdown| breakdown.iter().any(|entry| !entry.is_host))
}

/// A figure of one variant held against the same figure of the base.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The variant's name.
    pub variant: String,
    /// The figure.
    pub figure: Figure,
    /// The base's values.
    pub base: Series,
    /// The variant's.
    pub values: Series,
    /// How far the means are apart, with a 95 % interval of its own. `None` if either has a single
    /// value.
    pub difference: Option<MeanDifference>,
    /// The probability of such a difference between equals, adjusted (Holm) for the number of
    /// comparisons beside this one. `None` where there is no difference or none scatters.
    pub adjusted_p: Option<f64>,
}

/// What a comparison says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The variant is better.
    Better,
    /// It is worse.
    Worse,
    /// Chance explains the difference well enough.
    NotShown,
    /// One repetition, or none that scatters: chance is unknown.
    NotTested,
}

impl Comparison {
    /// Whether the difference is significant, and whose favour it is in.
    pub fn verdict(&self) -> Verdict {
        let (Some(difference), Some(p)) = (&self.difference, self.adjusted_p) else {
            return Verdict::NotTested;
        };
        if p > FAMILY_WISE {
            Verdict::NotShown
        } else if (difference.difference > 0.0) == self.figure.more_is_better() {
            Verdict::Better
        } else {
            Verdict::Worse
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Better => "faster",
            Self::Worse => "slower",
            Self::NotShown => "no difference shown",
            Self::NotTested => "not tested",
        })
    }
}

/// The verdicts for a program to read: a line for each comparison, with tabs between variant, figure,
/// verdict, adjusted p and the difference as a part of the base's mean. What there is none of is
/// empty.
pub fn verdict_lines(results: &Results) -> String {
    let lines = verdicts(results).into_iter().map(|comparison| {
        // A name has no say in what a line is.
        let variant = comparison.variant.replace(char::is_control, " ");
        let relative = comparison.difference.and_then(|d| d.relative);
        let number = |number: Option<f64>| number.map_or_else(String::new, |n| format!("{n:.3e}"));
        format!(
            "{variant}\t{}\t{}\t{}\t{}\n",
            comparison.figure,
            comparison.verdict(),
            number(comparison.adjusted_p),
            number(relative),
        )
    });
    lines.collect()
}

/// All figures of all variants against the first variant's, with the verdicts adjusted for all
/// of them together.
pub fn verdicts(results: &Results) -> Vec<Comparison> {
    let Some((base, variants)) = results.variants.split_first() else {
        return Vec::new();
    };
    let figures = Figure::all(&results.settings);
    let pairs = variants.iter().map(|variant| (base, variant));
    adjusted(pairs, &figures)
}

/// These figures of pairs of variants, the base first, with the verdicts adjusted for all
/// of them together. What either of a pair has not measured is left out.
pub fn adjusted<'a>(
    pairs: impl IntoIterator<Item = (&'a VariantResults, &'a VariantResults)>,
    figures: &[Figure],
) -> Vec<Comparison> {
    let pairs = pairs.into_iter();
    let mut comparisons: Vec<Comparison> = pairs
        .flat_map(|(base, variant)| {
            figures.iter().filter_map(move |&figure| {
                let (base, values) = (figure.series(base)?, figure.series(variant)?);
                Some(Comparison {
                    variant: variant.name.clone(),
                    figure,
                    difference: values.difference(&base),
                    base,
                    values,
                    adjusted_p: None,
                })
            })
        })
        .collect();
    let (indices, values): (Vec<usize>, Vec<f64>) = comparisons
        .iter()
        .enumerate()
        .filter_map(|(index, comparison)| Some((index, comparison.difference?.p_value?)))
        .unzip();
    for (index, p) in indices.into_iter().zip(holm(&values)) {
        comparisons[index].adjusted_p = Some(p);
    }
    comparisons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn of<'a>(comparisons: &'a [Comparison], variant: &str, figure: Figure) -> &'a Comparison {
        let mut all = comparisons.iter();
        all.find(|c| c.variant == variant && c.figure == figure)
            .unwrap()
    }

    #[test]
    fn figures_are_those_of_the_raw_times() {
        let results = fixture::results();
        let base = &results.variants[0];
        let ttft = Figure::Ttft(16).series(base).unwrap();
        assert_eq!(ttft.n(), 3);
        assert!((ttft.values()[0] - 21.0).abs() < 1e-9);
        // Four tokens after 21 ms: at 21, 32, 41 and 54 ms.
        let decode = Figure::Decode(16).series(base).unwrap();
        assert!((decode.values()[0] - 3.0 / 0.033).abs() < 1e-6);
        let prefill = Figure::Prefill(512).series(base).unwrap();
        assert!((prefill.values()[0] - 512.0 / 0.4).abs() < 1e-6);
        assert_eq!(Figure::Ttft(17).series(base), None);
    }

    #[test]
    fn twice_as_slow_is_significant_and_says_so() {
        let comparisons = verdicts(&fixture::results());
        for figure in [Figure::Load, Figure::Ttft(16), Figure::Decode(512)] {
            let comparison = of(&comparisons, "cpu-moe", figure);
            assert_eq!(comparison.verdict(), Verdict::Worse, "{figure}");
        }
        // One repetition is left of three: nothing is known of chance.
        let single = of(&comparisons, "half the experts", Figure::Decode(16));
        assert_eq!(single.verdict(), Verdict::NotTested);
    }

    #[test]
    fn what_the_base_is_faster_than_is_slower_and_the_other_way_round() {
        let mut results = fixture::results();
        results.variants.swap(0, 1);
        let comparisons = verdicts(&results);
        for figure in [Figure::Ttft(16), Figure::Prefill(16), Figure::Decode(16)] {
            assert_eq!(of(&comparisons, "base", figure).verdict(), Verdict::Better);
        }
    }

    #[test]
    fn p_is_adjusted_for_all_comparisons_of_the_report() {
        let results = fixture::with_variants(3, |index| index.to_string());
        let comparisons = verdicts(&results);
        assert_eq!(comparisons.len(), 2 * Figure::all(&results.settings).len());
        let raw: Vec<f64> = comparisons
            .iter()
            .map(|c| c.difference.unwrap().p_value.unwrap())
            .collect();
        let least = raw.iter().copied().fold(1.0, f64::min);
        let index = raw.iter().position(|p| *p == least).unwrap();
        let adjusted = comparisons[index].adjusted_p.unwrap();
        assert!((adjusted - least * raw.len() as f64).abs() < 1e-12);
    }

    #[test]
    fn equals_show_no_difference() {
        let mut results = fixture::with_variants(2, |index| index.to_string());
        results.variants[1].trials = results.variants[0].trials.clone();
        let comparisons = verdicts(&results);
        assert!(!comparisons.is_empty());
        assert!(comparisons.iter().all(|c| c.verdict() == Verdict::NotShown));
    }

    #[test]
    fn a_program_reads_a_line_for_each_comparison() {
        let mut results = fixture::results();
        results.variants[1].name = "a\nb\tc".to_owned();
        let text = verdict_lines(&results);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split('\t').collect()).collect();
        assert_eq!(lines.len(), verdicts(&results).len());
        assert!(lines.iter().all(|line| line.len() == 5), "{text}");
        assert_eq!(lines[1][..3], ["a b c", "TTFT, prompt 16 (ms)", "slower"]);
        assert_eq!(lines[1][4], "1.000e0");
        assert_eq!(lines[7][2..], ["not tested", "", ""]);
    }

    #[test]
    fn without_scatter_nothing_is_tested() {
        let mut results = fixture::with_variants(2, |index| index.to_string());
        fixture::without_scatter(&mut results);
        let comparisons = verdicts(&results);
        assert!(!comparisons.is_empty());
        assert!(
            comparisons
                .iter()
                .all(|c| c.verdict() == Verdict::NotTested)
        );
    }

    #[test]
    fn what_is_not_there_is_not_compared() {
        let mut results = fixture::results();
        fixture::fail(&mut results.variants[1]);
        assert!(verdicts(&results).iter().all(|c| c.variant != "cpu-moe"));
        assert_eq!(why_empty(&results.variants[1]), "failed: out of memory");
        results.variants.clear();
        assert!(verdicts(&results).is_empty());
    }
}
