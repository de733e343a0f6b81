//! How likely tokens were, from a row of logits.

use super::event::{TokenLogprob, TokenLogprobs};
use crate::error::Result;
use crate::model::{Token, Vocab};

/// A row of logits in the form in which probabilities are read from it.
pub(super) struct Likelihoods {
    /// The likeliest tokens with their logits, the likeliest first.
    top: Vec<(Token, f32)>,
    /// The logarithm of the sum of all exponentials.
    log_sum: f64,
}

impl Likelihoods {
    /// Takes what is needed from a row of logits.
    pub(super) fn new(logits: &[f32], n_top: usize) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits
            .iter()
            .map(|&logit| f64::from(logit - max).exp())
            .sum();
        Self {
            top: top(logits, n_top),
            log_sum: f64::from(max) + sum.ln(),
        }
    }

    /// What is told of a token with this logit that was chosen.
    pub(super) fn of(&self, vocab: &Vocab, token: Token, logit: f32) -> Result<TokenLogprobs> {
        let tell = |&(token, logit): &(Token, f32)| {
            Ok(TokenLogprob {
                token,
                bytes: vocab.piece(token, true)?,
                logprob: self.logprob(logit),
            })
        };
        Ok(TokenLogprobs {
            chosen: tell(&(token, logit))?,
            top: self.top.iter().map(tell).collect::<Result<_>>()?,
        })
    }

    fn logprob(&self, logit: f32) -> f32 {
        (f64::from(logit) - self.log_sum) as f32
    }
}

/// The highest logits and their tokens. Of equal ones, the first tokens.
fn top(logits: &[f32], n: usize) -> Vec<(Token, f32)> {
    let mut all: Vec<(Token, f32)> = (0..).map(Token).zip(logits.iter().copied()).collect();
    let order = |a: &(Token, f32), b: &(Token, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if n == 0 {
        return Vec::new();
    }
    if n < all.len() {
        all.select_nth_unstable_by(n - 1, order);
        all.truncate(n);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first() {
        let logits = [0.5, 2.0, -1.0, 2.0];
        let tokens = |n| {
            let top = top(&logits, n).into_iter();
            top.map(|(token, _)| token.0).collect::<Vec<_>>()
        };
        assert!(tokens(0).is_empty());
        assert_eq!(tokens(1), [1]);
        assert_eq!(tokens(3), [1, 3, 0]);
        assert_eq!(tokens(9), [1, 3, 0, 2]);
    }

    #[test]
    fn probabilities_add_up_to_one() {
        let logits = [1000.0, 999.0, f32::NEG_INFINITY, 990.0];
        let likelihoods = Likelihoods::new(&logits, 4);
        let sum: f32 = logits
            .iter()
            .map(|&logit| likelihoods.logprob(logit).exp())
            .sum();
        assert!((sum - 1.0).abs() < 1e-3, "{sum}");
    }
}
