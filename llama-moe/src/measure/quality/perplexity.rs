//! How well a model predicts a text.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::logits::log_probability;
use super::logits_file::LogitsWriter;
use super::{Chunks, QualityError};
use crate::context::Context;
use crate::error::Result;

/// The perplexity of a text: the exponential of the mean negative log-likelihood of its
/// scored tokens. A model that knew each would have 1; one that chose blindly the size of
/// its vocabulary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Perplexity {
    /// The perplexity.
    pub value: f64,
    /// Its standard error, by that of the mean in its exponent: as if tokens were independent
    /// of each other, which those of a text are not quite.
    pub standard_error: f64,
    /// Tokens per chunk.
    pub n_ctx: u32,
    /// The negative log-likelihood of every scored token, in nats.
    pub nll: Vec<f64>,
}

impl Perplexity {
    /// Of at least two tokens.
    pub(super) fn new(n_ctx: u32, nll: Vec<f64>) -> Result<Self> {
        let n = nll.len() as f64;
        let mean = nll.iter().sum::<f64>() / n;
        let squares: f64 = nll.iter().map(|nll| (nll - mean).powi(2)).sum();
        let value = mean.exp();
        let standard_error = value * (squares / (n - 1.0) / n).sqrt();
        if !value.is_finite() || !standard_error.is_finite() {
            return Err(QualityError::Overflow { mean_nll: mean }.into());
        }
        Ok(Self {
            value,
            standard_error,
            n_ctx,
            nll,
        })
    }
}

impl fmt::Display for Perplexity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, error, n) = (self.value, self.standard_error, self.nll.len());
        write!(f, "PPL = {value:.4} ± {error:.4} (N = {n})")
    }
}

/// Measures the perplexity of a text. The context's memory is emptied before and after.
///
/// Rests on `llama_decode` and `llama_get_logits_ith`.
///
/// # Errors
/// [`QualityError`] if the context has no room for a chunk, or the model computes what is no
/// number; as [`Context::decode`] otherwise.
pub fn perplexity(context: &mut Context, chunks: &Chunks) -> Result<Perplexity> {
    let mut nll = Vec::with_capacity(chunks.n_scored());
    chunks.score(context, |token, logits| {
        nll.push(-log_probability(logits, token)?);
        Ok(())
    })?;
    Perplexity::new(chunks.n_ctx(), nll)
}

/// As [`perplexity`](fn@perplexity), and writes the logits of every scored token to a file, for
/// [`compare`](super::compare). It takes 4 bytes for each logit: 4 × scored tokens × size of
/// the vocabulary. A file that is there is replaced; if anything fails, none is left.
///
/// # The file
/// All numbers are little-endian.
///
/// | bytes | content |
/// |---|---|
/// | 8 | `moelogit` |
/// | 4 | u32, the version: 1 |
/// | 4 | u32, tokens per chunk: `n_ctx` |
/// | 4 | u32, logits per scored token: `n_vocab` |
/// | 4 | u32, chunks: `n_chunks` |
/// | 4 × `n_chunks` × `n_ctx` | i32, the chunks' tokens, as they are computed |
/// | 4 × `n_chunks` × (`n_ctx` - 1 - `n_ctx` / 2) × `n_vocab` | f32, the logits that predict each scored token, in the text's order |
/// | 8 | u64, FNV-1a of all the bytes before |
///
/// # Errors
/// As [`perplexity`](fn@perplexity); [`Error::File`](crate::Error::File) if the file cannot be
/// written.
pub fn record(
    context: &mut Context,
    chunks: &Chunks,
    path: impl AsRef<Path>,
) -> Result<Perplexity> {
    let n_vocab = context.model().vocab().n_tokens();
    let mut file = LogitsWriter::create(path.as_ref(), chunks, n_vocab)?;
    let mut nll = Vec::with_capacity(chunks.n_scored());
    chunks.score(context, |token, logits| {
        nll.push(-log_probability(logits, token)?);
        file.push(logits)
    })?;
    let perplexity = Perplexity::new(chunks.n_ctx(), nll)?;
    file.finish()?;
    Ok(perplexity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn worked_out_by_hand() {
        // Probabilities of 1/2, 1/4 and 1/8: 2 ln 2 nats on average, with a deviation of ln 2.
        let ln2 = 2f64.ln();
        let perplexity = Perplexity::new(8, vec![ln2, 2.0 * ln2, 3.0 * ln2]).unwrap();
        assert!((perplexity.value - 4.0).abs() < 1e-12);
        let error = 4.0 * ln2 / 3f64.sqrt();
        assert!((perplexity.standard_error - error).abs() < 1e-12);
        assert_eq!(perplexity.to_string(), "PPL = 4.0000 ± 1.6008 (N = 3)");
    }

    #[test]
    fn what_is_no_number_is_an_error() {
        let error = Perplexity::new(8, vec![1e4; 3]).unwrap_err();
        assert!(matches!(
            error,
            Error::Quality(QualityError::Overflow { mean_nll }) if mean_nll == 1e4
        ));
    }
}
