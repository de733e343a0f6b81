//! Whether texts still have the embeddings they had.

use serde::{Deserialize, Serialize};

use super::QualityError;
use crate::context::{Batch, Context, MemoryError};
use crate::error::{Error, Result};

/// The embeddings of some texts: kept of the base, for variants to be held against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Embeddings {
    /// One for each text, as the model computes it: not scaled to a length.
    pub vectors: Vec<Vec<f32>>,
}

impl Embeddings {
    /// Computes the pooled embedding of each text, one after the other. The context is made
    /// [`with_embeddings(true)`](crate::ContextParams::with_embeddings), a
    /// [pooling](crate::ContextParams::with_pooling_type), and an `n_ctx`, `n_batch` and
    /// `n_ubatch` that take the longest text at once. Its memory is emptied before and after.
    ///
    /// Rests on `llama_decode` or `llama_encode`, and `llama_get_embeddings_seq`.
    ///
    /// # Errors
    /// [`QualityError::NoTexts`]; [`BatchError`](crate::BatchError) for a text without tokens or
    /// one that is too long; [`OutputError`](crate::OutputError) if the context does not pool
    /// embeddings; as [`Context::decode`] otherwise.
    pub fn new(context: &mut Context, texts: &[impl AsRef<str>]) -> Result<Self> {
        if texts.is_empty() {
            return Err(QualityError::NoTexts.into());
        }
        let embed = |text: &_| embed(context, AsRef::as_ref(text));
        let vectors = texts.iter().map(embed).collect::<Result<_>>()?;
        Ok(Self { vectors })
    }

    /// How similar a variant's embeddings of the same texts are to these, the base's.
    ///
    /// # Errors
    /// [`QualityError`] for another number of texts, or none; as [`cosine_similarity`] otherwise.
    pub fn compare(&self, variant: &Self) -> Result<EmbeddingSimilarity> {
        let (base, variant) = (&self.vectors, &variant.vectors);
        if base.len() != variant.len() {
            return Err(QualityError::TextCount {
                base: base.len(),
                variant: variant.len(),
            }
            .into());
        }
        let pairs = base.iter().zip(variant);
        let cosines: Vec<f64> = pairs
            .map(|(base, variant)| cosine_similarity(base, variant))
            .collect::<Result<_>>()?;
        let min = cosines.iter().copied().reduce(f64::min);
        Ok(EmbeddingSimilarity {
            mean: cosines.iter().sum::<f64>() / cosines.len() as f64,
            min: min.ok_or(QualityError::NoTexts)?,
            cosines,
        })
    }
}

fn embed(context: &mut Context, text: &str) -> Result<Vec<f32>> {
    let tokens = context.model().vocab().tokenize(text, true, false)?;
    let mut batch = Batch::new(tokens.len(), 1);
    batch.add_sequence(&tokens, 0, 0)?;
    clear(context)?;
    if context.model().has_encoder() {
        context.encode(&batch)?;
    } else {
        context.decode(&batch)?;
    }
    let embedding = context.sequence_embedding(0)?.to_vec();
    clear(context)?;
    Ok(embedding)
}

/// Encoders have no memory to empty.
fn clear(context: &mut Context) -> Result<()> {
    match context.memory().clear() {
        Err(Error::Memory(MemoryError::None)) => Ok(()),
        cleared => cleared,
    }
}

/// How similar the embeddings of each text are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EmbeddingSimilarity {
    /// The mean of [`cosines`](Self::cosines).
    pub mean: f64,
    /// The least of them.
    pub min: f64,
    /// For each text the cosine of the angle between the base's embedding and the variant's.
    pub cosines: Vec<f64>,
}

/// The cosine of the angle between two embeddings: 1 for one direction, 0 for a right angle,
/// -1 for opposite directions. It is exactly 1 for equal embeddings.
///
/// # Errors
/// [`QualityError`] if they are not equally long, one is all zeros, or an element is no finite
/// number.
pub fn cosine_similarity(base: &[f32], variant: &[f32]) -> Result<f64> {
    if base.len() != variant.len() {
        return Err(QualityError::Width {
            base: base.len(),
            variant: variant.len(),
        }
        .into());
    }
    for embedding in [base, variant] {
        if let Some(index) = embedding.iter().position(|x| !x.is_finite()) {
            let (what, value) = ("element", embedding[index]);
            return Err(QualityError::NotFinite { what, index, value }.into());
        }
    }
    // Products of f32 are far from the limits of f64.
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let (base_square, variant_square) = (dot(base, base), dot(variant, variant));
    if base_square == 0.0 || variant_square == 0.0 {
        return Err(QualityError::ZeroEmbedding.into());
    }
    let lengths = if base_square == variant_square {
        base_square
    } else {
        base_square.sqrt() * variant_square.sqrt()
    };
    Ok((dot(base, variant) / lengths).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_angles() {
        let a = [3.0, 4.0];
        for (b, cosine) in [
            ([3.0, 4.0], 1.0),
            ([0.3, 0.4], 1.0),
            ([4.0, -3.0], 0.0),
            ([-6.0, -8.0], -1.0),
            ([1.0, 0.0], 0.6),
        ] {
            let found = cosine_similarity(&a, &b).unwrap();
            assert!((found - cosine).abs() < 1e-7, "{b:?}: {found}");
        }
        assert_eq!(
            cosine_similarity(&[0.1, 0.7, 1e30], &[0.1, 0.7, 1e30]).unwrap(),
            1.0
        );
        assert!(cosine_similarity(&[f32::MAX; 3], &[f32::MIN_POSITIVE; 3]).unwrap() > 0.999);
    }

    #[test]
    fn what_has_no_angle_is_refused() {
        let refused = |a: &[f32], b: &[f32]| match cosine_similarity(a, b).unwrap_err() {
            Error::Quality(error) => error,
            error => panic!("{error}"),
        };
        assert_eq!(
            refused(&[0.0, 0.0], &[1.0, 0.0]),
            QualityError::ZeroEmbedding
        );
        assert_eq!(
            refused(&[1.0, 0.0], &[0.0, 0.0]),
            QualityError::ZeroEmbedding
        );
        assert!(matches!(
            refused(&[1.0], &[1.0, 0.0]),
            QualityError::Width {
                base: 1,
                variant: 2
            }
        ));
        assert!(matches!(
            refused(&[1.0, f32::NAN], &[1.0, 0.0]),
            QualityError::NotFinite { index: 1, .. }
        ));
    }

    #[test]
    fn texts_are_compared_one_by_one() {
        let of = |vectors: &[[f32; 2]]| Embeddings {
            vectors: vectors.iter().map(|vector| vector.to_vec()).collect(),
        };
        let base = of(&[[1.0, 0.0], [0.0, 1.0]]);
        let similarity = base.compare(&of(&[[2.0, 0.0], [3.0, 4.0]])).unwrap();
        assert_eq!(similarity.cosines, [1.0, 0.8]);
        assert_eq!((similarity.mean, similarity.min), (0.9, 0.8));
        let error = base.compare(&of(&[[1.0, 0.0]])).unwrap_err();
        assert!(matches!(
            error,
            Error::Quality(QualityError::TextCount {
                base: 2,
                variant: 1
            })
        ));
        let error = of(&[]).compare(&of(&[])).unwrap_err();
        assert!(matches!(error, Error::Quality(QualityError::NoTexts)));
    }
}
