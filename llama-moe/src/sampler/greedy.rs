//! The most likely token, straight from the logits.
//!
//! llama.cpp's samplers work on a list that has to be made anew for each token, of 12 bytes for
//! each token of the vocabulary. A chain that only adds biases and takes the most likely token
//! needs none.

use crate::model::Token;

/// What a chain of biases with greedy at its end does.
#[derive(Clone, Debug)]
pub(super) struct Greedy {
    biases: Vec<(Token, f32)>,
    /// The logits with the biases, kept from call to call.
    biased: Vec<f32>,
}

impl Greedy {
    pub(super) fn new(biases: Vec<(Token, f32)>) -> Self {
        Self {
            biases,
            biased: Vec::new(),
        }
    }

    /// The token that the chain would choose. `None` where it would fail: it says why.
    pub(super) fn choose(&mut self, logits: &[f32]) -> Option<Token> {
        if self.biases.is_empty() {
            return most_likely(logits);
        }
        self.biased.clear();
        self.biased.extend_from_slice(logits);
        for &(token, bias) in &self.biases {
            let index = usize::try_from(token.0).ok()?;
            *self.biased.get_mut(index)? += bias;
        }
        most_likely(&self.biased)
    }
}

/// The first of the tokens with the highest logit. `None` if a logit is not a number or infinite,
/// or if all tokens are ruled out.
pub(crate) fn most_likely(logits: &[f32]) -> Option<Token> {
    // Side by side, so that the compiler can use the CPU's vectors.
    const LANES: usize = 16;
    let mut highest = [f32::NEG_INFINITY; LANES];
    let mut wrong = [0u32; LANES];
    let mut look = |logits: &[f32]| {
        for ((highest, wrong), &logit) in highest.iter_mut().zip(&mut wrong).zip(logits) {
            *highest = if logit > *highest { logit } else { *highest };
            *wrong |= u32::from(logit.is_nan() || logit == f32::INFINITY);
        }
    };
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    chunks.for_each(&mut look);
    look(rest);
    if wrong.iter().any(|&wrong| wrong != 0) {
        return None;
    }
    let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let ids = (0..).map(Token);
    let mut tokens = ids.zip(logits);
    let is_ruled_out = highest == f32::NEG_INFINITY;
    let (token, _) = tokens.find(|&(_, &logit)| !is_ruled_out && logit == highest)?;
    Some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_highest_is_taken_wherever_it_is() {
        for len in 1..70 {
            for at in 0..len {
                let mut logits: Vec<f32> = (0..len).map(|i| -1.0 - (i % 7) as f32).collect();
                logits[at] = 0.5;
                logits[len - 1] = 0.5;
                assert_eq!(
                    most_likely(&logits),
                    Some(Token(at as i32)),
                    "{at} of {len}"
                );
            }
        }
        assert_eq!(most_likely(&[f32::NEG_INFINITY, -3e38]), Some(Token(1)));
        // Both zeros are the highest.
        assert_eq!(most_likely(&[-1.0, -0.0, 0.0]), Some(Token(1)));
    }

    #[test]
    fn what_is_no_logit_is_left_to_the_chain() {
        for len in [1, 16, 17, 40] {
            for at in 0..len {
                for wrong in [f32::NAN, -f32::NAN, f32::INFINITY] {
                    let mut logits = vec![1.0; len];
                    logits[at] = wrong;
                    assert_eq!(most_likely(&logits), None, "{wrong} at {at} of {len}");
                }
            }
            assert_eq!(most_likely(&vec![f32::NEG_INFINITY; len]), None);
        }
        assert_eq!(most_likely(&[]), None);
    }

    #[test]
    fn biases_are_added_up() {
        let choose = |biases: &[(i32, f32)]| {
            let biases = biases.iter().map(|&(id, bias)| (Token(id), bias));
            Greedy::new(biases.collect()).choose(&[0.0, 1.0, 2.0])
        };
        assert_eq!(choose(&[]), Some(Token(2)));
        assert_eq!(choose(&[(2, -1.5)]), Some(Token(1)));
        assert_eq!(choose(&[(0, 1.5), (0, 1.0)]), Some(Token(0)));
        assert_eq!(choose(&[(2, f32::NEG_INFINITY)]), Some(Token(1)));
        let all = [0, 1, 2].map(|id| (id, f32::NEG_INFINITY));
        assert_eq!(choose(&all), None);
        assert_eq!(choose(&[(0, 3e38), (0, 3e38)]), None);
        assert_eq!(choose(&[(3, 1.0)]), None);
    }
}
