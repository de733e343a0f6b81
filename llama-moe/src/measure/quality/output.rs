//! What a model answers when it always takes the likeliest token.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::{Token, Vocab};

/// A greedy output: kept of the base, for variants to be held against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GreedyOutput {
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// Its text; bytes that are not UTF-8 are U+FFFD.
    pub text: String,
}

impl GreedyOutput {
    /// The output of these tokens, control tokens written out.
    ///
    /// Rests on `llama_detokenize`.
    ///
    /// # Errors
    /// As [`Vocab::detokenize`].
    pub fn new(vocab: &Vocab, tokens: &[Token]) -> Result<Self> {
        Ok(Self {
            tokens: tokens.to_vec(),
            text: vocab.detokenize_lossy(tokens, false, true)?,
        })
    }

    /// How a variant's output for the same prompt differs from this, the base's.
    #[must_use]
    pub fn compare(&self, variant: &Self) -> OutputDifference {
        let [base_chars, variant_chars]: [Vec<char>; 2] =
            [self, variant].map(|output| output.text.chars().collect());
        OutputDifference {
            first_difference: first_difference(&self.tokens, &variant.tokens),
            token_distance: edit_distance(&self.tokens, &variant.tokens),
            char_distance: edit_distance(&base_chars, &variant_chars),
            base_tokens: self.tokens.len(),
            variant_tokens: variant.tokens.len(),
            base_chars: base_chars.len(),
            variant_chars: variant_chars.len(),
        }
    }
}

/// How two greedy outputs differ. One near tie between two tokens, decided otherwise, changes
/// everything behind it: a distance says less about a variant than its
/// [`Divergence`](super::Divergence).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OutputDifference {
    /// The first token, counted from 0, that is not the same or that only one has; `None` if
    /// the outputs are identical.
    pub first_difference: Option<usize>,
    /// The [edit distance](edit_distance) in tokens.
    pub token_distance: usize,
    /// The edit distance in characters (Unicode scalar values).
    pub char_distance: usize,
    /// Tokens of the base's output.
    pub base_tokens: usize,
    /// Tokens of the variant's.
    pub variant_tokens: usize,
    /// Characters of the base's output.
    pub base_chars: usize,
    /// Characters of the variant's.
    pub variant_chars: usize,
}

impl OutputDifference {
    /// Whether both are the same, token by token.
    #[must_use]
    pub fn is_identical(&self) -> bool {
        self.first_difference.is_none()
    }
}

/// The least number of elements to insert, delete or replace, so that one becomes the other
/// (Levenshtein's distance). Takes time in proportion to the product of the lengths.
#[must_use]
pub fn edit_distance<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let same = first_difference(a, b).unwrap_or(a.len());
    let (a, b) = (&a[same..], &b[same..]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (above, x) in (1..).zip(a) {
        // Of the row before: the distance one to the left.
        let mut diagonal = std::mem::replace(&mut row[0], above);
        for (index, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[index + 1];
            row[index + 1] = replaced.min(diagonal + 1).min(row[index] + 1);
        }
    }
    row[b.len()]
}

fn first_difference<T: PartialEq>(a: &[T], b: &[T]) -> Option<usize> {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    (same < a.len() || same < b.len()).then_some(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distances() {
        for (a, b, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("saturday", "sunday", 3),
            ("flaw", "lawn", 2),
            ("abcdef", "abXdef", 1),
            ("abcdef", "abdef", 1),
            ("abab", "baba", 2),
        ] {
            let (a, b) = (a.as_bytes(), b.as_bytes());
            assert_eq!(edit_distance(a, b), distance, "{a:?} {b:?}");
            assert_eq!(edit_distance(b, a), distance, "{b:?} {a:?}");
        }
    }

    #[test]
    fn outputs_differ_from_a_token_on() {
        let output = |tokens: &[i32], text: &str| GreedyOutput {
            tokens: tokens.iter().copied().map(Token).collect(),
            text: text.to_owned(),
        };
        let base = output(&[7, 8, 9], "naïve");
        assert!(base.compare(&base).is_identical());
        let difference = base.compare(&output(&[7, 5, 9, 9], "naive!"));
        assert_eq!(
            difference,
            OutputDifference {
                first_difference: Some(1),
                token_distance: 2,
                char_distance: 2,
                base_tokens: 3,
                variant_tokens: 4,
                base_chars: 5,
                variant_chars: 6,
            }
        );
        // One that ends earlier is not identical.
        let difference = base.compare(&output(&[7, 8], "naïve"));
        assert_eq!(difference.first_difference, Some(2));
        assert_eq!(
            (difference.token_distance, difference.char_distance),
            (1, 0)
        );
    }
}
