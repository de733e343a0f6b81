//! How far a variant's predictions are from the base's.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::logits::{kl_divergence, log_probability, top};
use super::logits_file::LogitsReader;
use super::{Perplexity, QualityError};
use crate::context::Context;
use crate::error::Result;

/// How far a variant's predictions are from the base's, over the same tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Divergence {
    /// The base's perplexity.
    pub base: Perplexity,
    /// The variant's.
    pub variant: Perplexity,
    /// The mean of [`values`](Self::values), in nats.
    pub mean: f64,
    /// The median: the least value that half of them do not exceed.
    pub median: f64,
    /// The least value that 99 % of them do not exceed.
    pub p99: f64,
    /// The largest of them.
    pub max: f64,
    /// How often both have the same likeliest token, from 0 to 1.
    pub same_top_rate: f64,
    /// The [KL divergence](kl_divergence) of the variant from the base for every scored token, in
    /// nats.
    pub values: Vec<f64>,
}

impl Divergence {
    /// Of at least one token.
    fn new(base: Perplexity, variant: Perplexity, values: Vec<f64>, n_same_top: usize) -> Self {
        let n = values.len() as f64;
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        Self {
            base,
            variant,
            mean: values.iter().sum::<f64>() / n,
            median: percentile(&sorted, 50),
            p99: percentile(&sorted, 99),
            max: percentile(&sorted, 100),
            same_top_rate: n_same_top as f64 / n,
            values,
        }
    }
}

/// The least of the values, which are sorted, that so many per cent of them do not exceed; 0
/// of none.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            mean,
            median,
            p99,
            max,
            ..
        } = self;
        write!(
            f,
            "KL divergence {mean:.3e} nats (median {median:.3e}, 99 % {p99:.3e}, max {max:.3e}), \
             same top token {:.2} %, perplexity {:.4} against {:.4} (N = {})",
            self.same_top_rate * 100.0,
            self.variant.value,
            self.base.value,
            self.values.len(),
        )
    }
}

/// Compares a variant with the base that [`record`](super::record) wrote to a file, over the
/// tokens in that file. The context's memory is emptied before and after. One row of logits
/// is in memory at a time, however large the file.
///
/// The checksum in the file finds damage, not forgery.
///
/// Rests on `llama_decode` and `llama_get_logits_ith`.
///
/// # Errors
/// [`QualityError`] for a file that is not what `record` writes, was not finished or has
/// changed since; for a model with another size of vocabulary, a context without room for a
/// chunk, and logits that are no numbers. [`Error::File`](crate::Error::File) if the file
/// cannot be read; as [`Context::decode`] otherwise.
pub fn compare(context: &mut Context, path: impl AsRef<Path>) -> Result<Divergence> {
    let mut file = LogitsReader::open(path.as_ref())?;
    let base = file.n_vocab();
    let variant = context.model().vocab().n_tokens();
    if base != variant {
        return Err(QualityError::Vocabulary {
            base: base as usize,
            variant: variant as usize,
        }
        .into());
    }
    let chunks = file.chunks().clone();
    let n_scored = chunks.n_scored();
    let [mut base, mut variant, mut values] = [(); 3].map(|()| Vec::with_capacity(n_scored));
    let mut n_same_top = 0;
    chunks.score(context, |token, logits| {
        let base_logits = file.next_row()?;
        base.push(-log_probability(base_logits, token)?);
        variant.push(-log_probability(logits, token)?);
        values.push(kl_divergence(base_logits, logits)?);
        n_same_top += usize::from(top(base_logits) == top(logits));
        Ok(())
    })?;
    file.finish()?;
    let base = Perplexity::new(chunks.n_ctx(), base)?;
    let variant = Perplexity::new(chunks.n_ctx(), variant)?;
    Ok(Divergence::new(base, variant, values, n_same_top))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_out_by_hand() {
        let perplexity = Perplexity::new(8, vec![1.0, 2.0, 3.0]).unwrap();
        let values = vec![3.0, 1.0, 2.0, 10.0];
        let divergence = Divergence::new(perplexity.clone(), perplexity, values.clone(), 3);
        let Divergence {
            mean,
            median,
            p99,
            max,
            same_top_rate,
            ..
        } = divergence;
        assert_eq!(
            (mean, median, p99, max, same_top_rate),
            (4.0, 2.0, 10.0, 10.0, 0.75)
        );
        assert_eq!(divergence.values, values);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 50), 100.0);
        assert_eq!(percentile(&values, 99), 198.0);
        assert_eq!(percentile(&values, 100), 200.0);
        assert_eq!(percentile(&values[..1], 50), 1.0);
    }
}
