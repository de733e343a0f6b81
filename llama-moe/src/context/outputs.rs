//! What a batch has computed.

use super::Context;
use super::batch::{Batch, SeqId};
use super::params::PoolingType;
use crate::error::Result;

/// An output that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// Nothing has been computed, or the last attempt failed.
    #[error("there are no outputs: no batch has been computed, or the last one failed")]
    Nothing,

    /// The last batch has no such entry.
    #[error("there is no output {index}: the last batch had {len} tokens")]
    OutOfRange {
        /// The index.
        index: usize,
        /// Tokens of the last batch.
        len: usize,
    },

    /// The last batch did not ask for this output.
    #[error("the output of token {index} was not asked for when it was added to the batch")]
    NotAskedFor {
        /// The index.
        index: usize,
    },

    /// An encoder computes no logits.
    #[error("the last batch was encoded, which computes no logits")]
    NoLogits,

    /// The context was not made to return embeddings.
    #[error("the context does not return embeddings: it takes with_embeddings(true)")]
    NoEmbeddings,

    /// There is one embedding for each sequence, not for each token.
    #[error("the embeddings of a sequence are pooled ({pooling:?}): read them by sequence")]
    Pooled {
        /// How they are pooled.
        pooling: PoolingType,
    },

    /// There is one embedding for each token, not for each sequence.
    #[error("embeddings are not pooled: read them by token")]
    NotPooled,

    /// The last batch had no token of this sequence.
    #[error("the last batch had no token of sequence {seq}")]
    NoSequence {
        /// The sequence.
        seq: SeqId,
    },
}

/// Which outputs of the last batch exist.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    /// One for each entry of the batch.
    computed: Vec<bool>,
    sequences: Vec<bool>,
    logits: bool,
    embeddings: bool,
}

impl Outputs {
    pub(super) fn clear(&mut self) {
        self.computed.clear();
        self.sequences.clear();
        self.logits = false;
        self.embeddings = false;
    }

    fn check(&self, index: usize) -> Result<i32, OutputError> {
        let len = self.computed.len();
        if len == 0 {
            return Err(OutputError::Nothing);
        }
        match (self.computed.get(index), i32::try_from(index)) {
            (Some(true), Ok(raw)) => Ok(raw),
            (Some(_), _) => Err(OutputError::NotAskedFor { index }),
            (None, _) => Err(OutputError::OutOfRange { index, len }),
        }
    }

    fn last(&self) -> Result<usize, OutputError> {
        let last = self.computed.iter().rposition(|&computed| computed);
        last.ok_or(OutputError::Nothing)
    }
}

/// Outputs of the last batch. They borrow the context, since the next batch overwrites
/// them.
impl Context {
    /// The logits of the token at `index` of the last batch, as [`Batch::add`] returned it:
    /// one for each token of the vocabulary.
    ///
    /// Rests on `llama_get_logits_ith`.
    ///
    /// # Errors
    /// [`OutputError`] if they have not been computed.
    pub fn logits(&mut self, index: usize) -> Result<&[f32]> {
        let raw = self.logits_index(Some(index))?;
        let logits = self.handle.logits(raw);
        logits.ok_or(OutputError::NotAskedFor { index }.into())
    }

    /// The logits of the last token of the last batch whose output was asked for: one for each
    /// token of the vocabulary.
    ///
    /// Rests on `llama_get_logits_ith`.
    ///
    /// # Errors
    /// [`OutputError`] if there are none.
    pub fn logits_last(&mut self) -> Result<&[f32]> {
        self.check_usable()?;
        let index = self.outputs.last()?;
        self.logits(index)
    }

    /// The embedding of the token at `index` of the last batch:
    /// [`n_embd_out`](crate::Model::n_embd_out) floats.
    ///
    /// Rests on `llama_get_embeddings_ith`.
    ///
    /// # Errors
    /// [`OutputError`] if it has not been computed.
    pub fn embeddings(&mut self, index: usize) -> Result<&[f32]> {
        self.check_usable()?;
        let raw = self.outputs.check(index)?;
        if !self.outputs.embeddings {
            return Err(OutputError::NoEmbeddings.into());
        }
        let pooling = self.pooling_type();
        if pooling != PoolingType::None {
            return Err(OutputError::Pooled { pooling }.into());
        }
        let embedding = self.handle.embeddings(raw);
        embedding.ok_or(OutputError::NotAskedFor { index }.into())
    }

    /// The pooled embedding of a sequence of the last batch:
    /// [`n_embd_out`](crate::Model::n_embd_out) floats, or with [`PoolingType::Rank`]
    /// [`n_cls_out`](crate::Model::n_cls_out) scores.
    ///
    /// Rests on `llama_get_embeddings_seq`.
    ///
    /// # Errors
    /// [`OutputError`] if it has not been computed.
    pub fn sequence_embedding(&mut self, seq: SeqId) -> Result<&[f32]> {
        self.check_usable()?;
        if self.outputs.computed.is_empty() {
            return Err(OutputError::Nothing.into());
        }
        if !self.outputs.embeddings {
            return Err(OutputError::NoEmbeddings.into());
        }
        if self.pooling_type() == PoolingType::None {
            return Err(OutputError::NotPooled.into());
        }
        let absent = OutputError::NoSequence { seq };
        let known = self.outputs.sequences.get(seq as usize) == Some(&true);
        let raw = i32::try_from(seq).ok().filter(|_| known);
        let raw = raw.ok_or_else(|| absent.clone())?;
        let embedding = self.handle.sequence_embedding(raw);
        embedding.ok_or(absent.into())
    }

    /// llama.cpp's index of an output with logits; `None` for the last one.
    pub(crate) fn logits_index(&self, index: Option<usize>) -> Result<i32> {
        self.check_usable()?;
        let index = match index {
            Some(index) => index,
            None => self.outputs.last()?,
        };
        let raw = self.outputs.check(index)?;
        if !self.outputs.logits {
            return Err(OutputError::NoLogits.into());
        }
        Ok(raw)
    }

    pub(super) fn remember_outputs(&mut self, encodes: bool, all: bool, batch: &Batch) {
        let outputs = &mut self.outputs;
        let asked = batch.arrays().outputs();
        outputs.computed.extend(asked.map(|output| output || all));
        // Diffusion models have no memory, so they encode, but with logits.
        outputs.logits = !encodes || self.model.is_diffusion();
        outputs.embeddings = self.embeddings;
        for seq in batch.arrays().sequences().flatten() {
            let seq = *seq as usize;
            if outputs.sequences.len() <= seq {
                outputs.sequences.resize(seq + 1, false);
            }
            outputs.sequences[seq] = true;
        }
    }
}
