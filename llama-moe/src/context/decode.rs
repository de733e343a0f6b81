//! Computing a batch.

use super::batch::{Batch, BatchError, Pos, SeqId};
use super::memory::Unapplied;
use super::params::PoolingType;
use super::{Context, ContextError};
use crate::error::{Error, FailureKind, Result};
use crate::ffi::{ComputeFailure, Pass};
use crate::model::RopeType;

/// A batch that was not computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The memory has no room for the batch. It is unchanged: after something is removed from
    /// it, the batch can be computed.
    #[error(
        "no room for {n_tokens} tokens: {used} of {n_ctx} positions are used; remove some, or make \
         a larger context"
    )]
    NoRoom {
        /// Tokens in the batch.
        n_tokens: usize,
        /// Positions in use: of all sequences together if they share one buffer, else of the
        /// fullest sequence of the batch. A position that sequences share counts for each.
        used: u64,
        /// Positions that there are, of the same extent.
        n_ctx: u32,
    },

    /// The abort token was pulled. Micro-batches that were computed before are in the memory:
    /// [`Memory::positions`](crate::Memory::positions) tells how far it got.
    #[error("the computation was aborted")]
    Aborted,

    /// The batch does not continue a sequence where the memory ends.
    #[error(
        "sequence {seq} starts at position {pos}, but has to go on at {expected}, after what \
         the memory holds of it"
    )]
    Discontinuous {
        /// The sequence.
        seq: SeqId,
        /// Its first position in the batch.
        pos: Pos,
        /// The position after its last in the memory.
        expected: Pos,
    },

    /// llama.cpp did not accept the batch, for example because positions inside of it have
    /// gaps. The memory is unchanged.
    #[error("llama.cpp does not accept the batch: {reason}")]
    Refused {
        /// llama.cpp's own words.
        reason: String,
    },

    /// The computation failed. What it had added to the memory is removed again.
    #[error("the computation failed with code {code}: {reason}")]
    Failed {
        /// llama.cpp's code: -2 for want of memory, -3 for a failed graph.
        code: i32,
        /// llama.cpp's own words.
        reason: String,
    },

    /// The model has no decoder: its input goes through [`Context::encode`].
    #[error("this model has no decoder; use encode")]
    NoDecoder,

    /// The model has no encoder: its input goes through [`Context::decode`].
    #[error("this model has no encoder; use decode")]
    NoEncoder,

    /// An encoder-decoder model has nothing to decode from yet.
    #[error("this model decodes what it has encoded: call encode first")]
    NothingEncoded,
}

/// Computing.
impl Context {
    /// Computes a batch: adds it to the memory, and computes the outputs that it asks for. It
    /// returns when the computation has been started; what reads an output waits for it.
    ///
    /// A model without a memory (BERT and its kin) encodes instead.
    ///
    /// Rests on `llama_decode`.
    ///
    /// # Errors
    /// [`BatchError`] if the batch does not suit this context, [`DecodeError`] if it was not
    /// computed, [`Error::CallbackPanicked`] if the eval callback panicked. After any error
    /// there are no outputs to read. After a failure of [`FailureKind::Exception`] or
    /// [`FailureKind::OutOfMemory`] the context can only be dropped.
    pub fn decode(&mut self, batch: &Batch) -> Result<()> {
        self.compute(Pass::Decode, batch)
    }

    /// Encodes a batch: for encoder-decoder models before decoding, and for models without a
    /// memory. The output of every token is computed.
    ///
    /// Rests on `llama_encode`.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn encode(&mut self, batch: &Batch) -> Result<()> {
        self.compute(Pass::Encode, batch)
    }

    fn compute(&mut self, pass: Pass, batch: &Batch) -> Result<()> {
        self.check_usable()?;
        let encodes = self.check_pass(pass)?;
        self.check_batch(encodes, batch)?;
        let all_outputs = encodes || self.embeddings;

        self.outputs.clear();
        let computed = self.handle.compute(pass, batch.arrays(), all_outputs);
        if let Some(message) = self.handle.take_panic() {
            return Err(Error::CallbackPanicked {
                callback: "eval callback",
                message,
            });
        }
        computed.map_err(|failure| self.explain(pass, batch, failure))?;
        self.encoded |= encodes;
        self.unapplied = Unapplied::default();
        self.remember_outputs(encodes, all_outputs, batch);
        Ok(())
    }

    /// Whether the batch goes through an encoder.
    fn check_pass(&self, pass: Pass) -> Result<bool, DecodeError> {
        let model = self.model();
        match pass {
            Pass::Encode if self.has_memory && !model.has_encoder() => Err(DecodeError::NoEncoder),
            Pass::Encode => Ok(true),
            Pass::Decode if !model.has_decoder() => Err(DecodeError::NoDecoder),
            Pass::Decode if !self.has_memory => Ok(true),
            Pass::Decode if model.has_encoder() && !self.encoded => {
                Err(DecodeError::NothingEncoded)
            }
            Pass::Decode => Ok(false),
        }
    }

    fn check_batch(&self, encodes: bool, batch: &Batch) -> Result<(), BatchError> {
        let len = batch.len();
        if batch.is_empty() {
            return Err(BatchError::Empty);
        }
        let too_long = |parameter, limit, reason| BatchError::TooLong {
            len,
            parameter,
            limit,
            reason,
        };
        let (n_batch, n_ubatch) = (self.n_batch(), self.n_ubatch());
        if encodes && len > n_ubatch as usize {
            return Err(too_long(
                "n_ubatch",
                n_ubatch,
                ", and an encoder's batch is not cut",
            ));
        }
        if len > n_batch as usize {
            return Err(too_long("n_batch", n_batch, ""));
        }
        if !encodes && !self.causal_attn() && len > n_ubatch as usize {
            let reason = ", and without causal attention a batch is not cut";
            return Err(too_long("n_ubatch", n_ubatch, reason));
        }
        let outputs = if encodes || self.embeddings {
            len
        } else {
            batch.outputs().count()
        };
        if outputs > self.n_outputs_max as usize {
            return Err(BatchError::TooManyOutputs {
                outputs,
                limit: self.n_outputs_max,
            });
        }
        match batch.width() {
            None => self.check_tokens(batch)?,
            Some(_) if !self.takes_embeddings() => return Err(BatchError::NoEmbeddings),
            Some(len) => {
                let width = self.model().n_embd_inp() as usize;
                if len != width {
                    return Err(BatchError::Width { len, width });
                }
            }
        }
        if let Some(n_ctx_train) = self.model().n_learned_positions() {
            let positions = batch.arrays().positions().iter();
            let pos = positions.max().map_or(0, |&pos| pos as Pos);
            if pos >= n_ctx_train {
                return Err(BatchError::NotLearned { pos, n_ctx_train });
            }
        }
        self.check_sequences(batch)?;
        self.check_pooling(encodes, batch)
    }

    /// Encoders read other embeddings than a batch is measured by; other models look at the
    /// tokens themselves, or end the process without several positions per embedding.
    fn takes_embeddings(&self) -> bool {
        let model = self.model();
        let several = matches!(model.rope_type(), RopeType::Mrope | RopeType::Imrope);
        match model.architecture().as_deref() {
            Some("graniteswitch") => false,
            Some("glm4" | "glm4moe") => several,
            _ => !model.has_encoder(),
        }
    }

    /// A batch that is cut leaves in each sequence's embedding what its last piece gave. Only
    /// the last token's does not mind.
    fn check_pooling(&self, encodes: bool, batch: &Batch) -> Result<(), BatchError> {
        let pooling = self.pooling_type();
        if encodes || !self.embeddings || matches!(pooling, PoolingType::None | PoolingType::Last) {
            return Ok(());
        }
        let in_parts = |reason| Err(BatchError::PooledInParts { pooling, reason });
        if batch.len() > self.n_ubatch() as usize {
            return in_parts("an n_ubatch as large as the batch");
        }
        // Sequences that are kept apart are computed side by side, as far as they are equally
        // long; states are computed one after the other.
        if self.kv_unified || self.model().is_recurrent() || self.model().is_hybrid() {
            return Ok(());
        }
        let mut lengths = vec![0usize; self.n_seq_max() as usize];
        for &seq in batch.arrays().sequences().flatten() {
            lengths[seq as usize] += 1;
        }
        let mut lengths = lengths.into_iter().filter(|&length| length > 0);
        let first = lengths.next();
        if lengths.any(|length| Some(length) != first) {
            return in_parts("sequences of one length, or with_kv_unified(true)");
        }
        Ok(())
    }

    fn check_tokens(&self, batch: &Batch) -> Result<(), BatchError> {
        let n_vocab = self.n_vocab;
        let outside = |token: i32| u32::try_from(token).map_or(true, |id| id >= n_vocab);
        match batch.tokens().iter().position(|token| outside(token.0)) {
            None => Ok(()),
            Some(index) => Err(BatchError::TokenOutOfRange {
                index,
                token: batch.tokens()[index],
                n_vocab,
            }),
        }
    }

    fn check_sequences(&self, batch: &Batch) -> Result<(), BatchError> {
        let n_seq_max = self.n_seq_max();
        let keeps_apart = self.has_memory && (!self.kv_unified || self.model().is_recurrent());
        for (index, seqs) in batch.arrays().sequences().enumerate() {
            if let Some(&seq) = seqs.iter().find(|&&seq| seq as u32 >= n_seq_max) {
                return Err(BatchError::Sequence {
                    seq: seq as u32,
                    n_seq_max,
                });
            }
            if keeps_apart && seqs.len() > 1 {
                return Err(BatchError::SharedToken { index });
            }
        }
        Ok(())
    }

    /// What it means that a batch was not computed.
    fn explain(&mut self, pass: Pass, batch: &Batch, failed: ComputeFailure) -> Error {
        let ComputeFailure { code, failure } = failed;
        match failure.kind {
            FailureKind::Exception | FailureKind::OutOfMemory => self.poisoned = true,
            FailureKind::Failed => {
                if code > 0 {
                    // It came as far as placing the batch, which is done after these.
                    self.unapplied = Unapplied::default();
                }
                if let Some(error) = self.decode_error(code, batch, &failure.reason) {
                    return error.into();
                }
            }
            _ => {}
        }
        failure.of(match pass {
            Pass::Decode => "llama_decode",
            Pass::Encode => "llama_encode",
        })
    }

    fn decode_error(&self, code: i32, batch: &Batch, reason: &str) -> Option<DecodeError> {
        let reason = reason.to_owned();
        match code {
            0 => None,
            // The code is the same for a batch that cannot be cut.
            1 if reason.contains("split is not supported") => Some(DecodeError::Refused { reason }),
            1 => Some(self.no_room(batch)),
            2 => Some(DecodeError::Aborted),
            -1 => Some(
                self.discontinuity(batch)
                    .unwrap_or(DecodeError::Refused { reason }),
            ),
            code => Some(DecodeError::Failed { code, reason }),
        }
    }

    fn no_room(&self, batch: &Batch) -> DecodeError {
        let held = |seq: i32| match self.handle.seq_pos(seq) {
            Ok((min, max)) if min >= 0 => i64::from(max) - i64::from(min) + 1,
            _ => 0,
        };
        let (used, n_ctx) = if self.kv_unified {
            let all = (0..self.n_seq_max()).map(|seq| held(seq as i32)).sum();
            (all, self.n_ctx())
        } else {
            let seqs = batch.arrays().sequences().flatten();
            (
                seqs.map(|&seq| held(seq)).max().unwrap_or(0),
                self.n_ctx_seq(),
            )
        };
        DecodeError::NoRoom {
            n_tokens: batch.len(),
            used: u64::try_from(used).unwrap_or(0),
            n_ctx,
        }
    }

    /// The first sequence that does not go on where the memory ends, if that is what is
    /// wrong.
    fn discontinuity(&self, batch: &Batch) -> Option<DecodeError> {
        let n_seq_max = self.n_seq_max() as usize;
        let mut first: Vec<Option<i32>> = vec![None; n_seq_max];
        let arrays = batch.arrays();
        for (seqs, &pos) in arrays.sequences().zip(arrays.positions()) {
            for &seq in seqs {
                let first = &mut first[seq as usize];
                *first = Some(first.map_or(pos, |known| known.min(pos)));
            }
        }
        (0..).zip(first).find_map(|(seq, pos)| {
            let (pos, (_, max)) = (pos?, self.handle.seq_pos(seq).ok()?);
            (max >= 0 && pos != max + 1).then(|| DecodeError::Discontinuous {
                seq: seq as SeqId,
                pos: pos as Pos,
                expected: max as Pos + 1,
            })
        })
    }

    /// Whether the context can still be used.
    pub(super) fn check_usable(&self) -> Result<(), ContextError> {
        if self.poisoned {
            return Err(ContextError::Poisoned);
        }
        Ok(())
    }
}
