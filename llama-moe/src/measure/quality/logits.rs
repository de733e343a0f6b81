//! From logits to probabilities, and how far two of them are apart.

use super::QualityError;
use crate::error::Result;
use crate::model::Token;

/// The natural logarithm of the probability that these logits give a token: its logit less
/// the logarithm of the sum of all exponentials.
///
/// # Errors
/// [`QualityError`] if there is no logit of this token, or one is no finite number.
pub fn log_probability(logits: &[f32], token: Token) -> Result<f64> {
    let index = usize::try_from(token.0).ok();
    let logit = index.and_then(|index| logits.get(index));
    let logit = *logit.ok_or(QualityError::NoLogit {
        token,
        n_logits: logits.len(),
    })?;
    Ok(Softmax::of(logits)?.ln(logit))
}

/// The Kullback-Leibler divergence of a variant from the base, in nats: the mean, by the
/// base's probabilities, of the difference between the logarithms of both. 0 if and only if
/// they agree, and larger the more probability the variant takes from what the base says.
///
/// Rounding can bring it a little below 0 where they nearly agree; then it is 0.
///
/// # Errors
/// [`QualityError`] if they are not equally many, none, or one is no finite number.
pub fn kl_divergence(base: &[f32], variant: &[f32]) -> Result<f64> {
    if base.len() != variant.len() {
        return Err(QualityError::Vocabulary {
            base: base.len(),
            variant: variant.len(),
        }
        .into());
    }
    let (base_softmax, variant_softmax) = (Softmax::of(base)?, Softmax::of(variant)?);
    let terms = base.iter().zip(variant).map(|(&base, &variant)| {
        let base = base_softmax.ln(base);
        base.exp() * (base - variant_softmax.ln(variant))
    });
    Ok(terms.sum::<f64>().max(0.0))
}

/// The likeliest token's index; of equals the first, as llama.cpp's greedy sampler takes it.
pub(super) fn top(logits: &[f32]) -> Option<usize> {
    let later = |best: (usize, f32), next: (usize, f32)| if next.1 > best.1 { next } else { best };
    let logits = logits.iter().copied().enumerate();
    logits.reduce(later).map(|(index, _)| index)
}

/// What turns a logit into the logarithm of a probability. The largest logit is taken off
/// first, so that no exponential overflows, and is kept apart, so that it swallows nothing.
struct Softmax {
    largest: f64,
    /// The logarithm of the sum of the exponentials.
    ln_sum: f64,
}

impl Softmax {
    fn of(logits: &[f32]) -> Result<Self> {
        if let Some(index) = logits.iter().position(|logit| !logit.is_finite()) {
            let (what, value) = ("logit", logits[index]);
            return Err(QualityError::NotFinite { what, index, value }.into());
        }
        let largest = logits.iter().copied().reduce(f32::max);
        let largest = f64::from(largest.ok_or(QualityError::NoLogits)?);
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
        let ln_sum = sum.ln();
        Ok(Self { largest, ln_sum })
    }

    fn ln(&self, logit: f32) -> f64 {
        (f64::from(logit) - self.largest) - self.ln_sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-7, "{a} is not {b}");
    }

    /// Logits of these probabilities, moved by a constant.
    fn logits(probabilities: &[f32], moved: f32) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() + moved).collect()
    }

    #[test]
    fn a_probability_is_the_softmax() {
        let logits = logits(&[0.125, 0.25, 0.625], 3.0);
        close(log_probability(&logits, Token(0)).unwrap(), 0.125f64.ln());
        close(log_probability(&logits, Token(2)).unwrap(), 0.625f64.ln());
        for token in [-1, 3, i32::MAX] {
            let error = log_probability(&logits, Token(token)).unwrap_err();
            let is_named = |error: &QualityError| matches!(error, QualityError::NoLogit { token: Token(id), n_logits: 3 } if *id == token);
            assert!(
                matches!(&error, Error::Quality(error) if is_named(error)),
                "{error}"
            );
        }
    }

    #[test]
    fn nothing_overflows() {
        let logits = [f32::MAX, f32::MAX, f32::MIN];
        close(log_probability(&logits, Token(1)).unwrap(), 0.5f64.ln());
        assert!(log_probability(&logits, Token(2)).unwrap().is_finite());
        close(kl_divergence(&logits, &logits).unwrap(), 0.0);
        close(kl_divergence(&[1e4, 0.0], &[0.0, 1e4]).unwrap(), 1e4);
    }

    #[test]
    fn a_divergence_worked_out_by_hand() {
        let base = logits(&[0.5, 0.25, 0.25], 0.0);
        let variant = logits(&[0.25, 0.5, 0.25], -40.0);
        // 1/2 ln 2 - 1/4 ln 2 + 0.
        let expected = 0.25 * 2f64.ln();
        let kl = kl_divergence(&base, &variant).unwrap();
        assert!((kl - expected).abs() < 1e-6, "{kl} is not {expected}");
        // It is not the same in the other direction.
        let (base, variant) = (logits(&[0.5, 0.5], 0.0), logits(&[0.25, 0.75], 0.0));
        close(
            kl_divergence(&base, &variant).unwrap(),
            0.5 * (4f64 / 3.0).ln(),
        );
        close(
            kl_divergence(&variant, &base).unwrap(),
            0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln(),
        );
    }

    #[test]
    fn equal_logits_do_not_diverge() {
        let logits: Vec<f32> = (0..5000).map(|i| (i as f32 * 0.7).sin() * 20.0).collect();
        assert_eq!(kl_divergence(&logits, &logits).unwrap(), 0.0);
    }

    #[test]
    fn broken_logits_are_refused() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (base, variant) in [([0.0, value], [0.0; 2]), ([0.0; 2], [0.0, value])] {
                let error = kl_divergence(&base, &variant).unwrap_err();
                let Error::Quality(QualityError::NotFinite { index: 1, .. }) = error else {
                    panic!("{error}");
                };
            }
        }
        assert!(matches!(
            kl_divergence(&[0.0], &[0.0, 0.0]).unwrap_err(),
            Error::Quality(QualityError::Vocabulary {
                base: 1,
                variant: 2
            })
        ));
        assert!(matches!(
            kl_divergence(&[], &[]).unwrap_err(),
            Error::Quality(QualityError::NoLogits)
        ));
    }

    #[test]
    fn the_first_of_equals_is_the_top() {
        assert_eq!(top(&[1.0, 3.0, 2.0, 3.0]), Some(1));
        assert_eq!(top(&[]), None);
    }
}
