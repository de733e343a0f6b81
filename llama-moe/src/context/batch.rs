//! What a context is given to compute.

use super::params::PoolingType;
use crate::error::Result;
use crate::ffi::BatchArrays;
use crate::model::Token;

/// A sequence's number in a context.
pub type SeqId = u32;

/// A token's position in its sequence.
pub type Pos = u32;

/// The last position that a token can have: llama.cpp counts in 32 bits with a sign, and
/// keeps the largest number for itself.
pub const POS_MAX: Pos = i32::MAX as u32 - 1;

/// A batch that cannot be computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// There is no room for what was to be added.
    #[error(
        "the batch has room for {capacity} tokens; {len} are in it and {added} were to be added"
    )]
    Full {
        /// Tokens it was made for.
        capacity: usize,
        /// Tokens in it.
        len: usize,
        /// Tokens to add.
        added: usize,
    },

    /// A token has a negative number.
    #[error("{token} is not a token: tokens are numbered from 0")]
    NegativeToken {
        /// The token.
        token: Token,
    },

    /// A token is not in the model's vocabulary.
    #[error("entry {index} is token {token}, but the vocabulary has {n_vocab} tokens")]
    TokenOutOfRange {
        /// The entry in the batch.
        index: usize,
        /// The token.
        token: Token,
        /// The vocabulary's size.
        n_vocab: u32,
    },

    /// A position is too large.
    #[error("position {pos} is too large: the last one is {POS_MAX}")]
    Position {
        /// The position.
        pos: u64,
    },

    /// An entry belongs to no sequence.
    #[error("a token belongs to one sequence at least")]
    NoSequence,

    /// A sequence that does not exist.
    #[error("there is no sequence {seq}: with n_seq_max {n_seq_max} they are numbered from 0 to {}", n_seq_max.saturating_sub(1))]
    Sequence {
        /// The sequence.
        seq: SeqId,
        /// How many sequences there are.
        n_seq_max: u32,
    },

    /// A sequence is named twice for one entry.
    #[error("sequence {seq} is named twice for one token")]
    SequenceTwice {
        /// The sequence.
        seq: SeqId,
    },

    /// A token was added to a batch of embeddings, or the reverse.
    #[error("this is a batch of {}: tokens and embeddings do not mix", if *.embeddings { "embeddings" } else { "tokens" })]
    Kind {
        /// Whether the batch is one of embeddings.
        embeddings: bool,
    },

    /// An embedding has the wrong number of elements.
    #[error("an embedding has {len} elements, not {width}")]
    Width {
        /// Elements it has.
        len: usize,
        /// Elements it should have.
        width: usize,
    },

    /// An embedding has an element that is no finite number.
    #[error("element {element} of an embedding is {value}")]
    NotFinite {
        /// The element's index.
        element: usize,
        /// Its value.
        value: f32,
    },

    /// The batch is empty.
    #[error("the batch is empty")]
    Empty,

    /// The batch has more tokens than the context computes at once.
    #[error("the batch has {len} tokens, but {parameter} is {limit}{}", .reason)]
    TooLong {
        /// Tokens in the batch.
        len: usize,
        /// What limits them: `n_batch` or `n_ubatch`.
        parameter: &'static str,
        /// Its value.
        limit: u32,
        /// Why this is the limit, if it is not the usual one.
        reason: &'static str,
    },

    /// The batch asks for more outputs than the context was made for.
    #[error("the batch asks for {outputs} outputs, but n_outputs_max is {limit}")]
    TooManyOutputs {
        /// Outputs asked for; all tokens if the context returns embeddings.
        outputs: usize,
        /// The limit.
        limit: u32,
    },

    /// A token belongs to several sequences, which the context keeps apart.
    #[error(
        "entry {index} belongs to several sequences: this takes a context made \
         with_kv_unified(true), of a model that is not recurrent"
    )]
    SharedToken {
        /// The entry in the batch.
        index: usize,
    },

    /// Pooling would see only a part of a sequence.
    #[error(
        "to pool ({pooling:?}), all tokens of a sequence are computed at once: this takes {reason}"
    )]
    PooledInParts {
        /// How embeddings are pooled.
        pooling: PoolingType,
        /// What it takes.
        reason: &'static str,
    },

    /// The model has no such position: it looks each one up in a table.
    #[error("position {pos} is too large: this model has learned {n_ctx_train} positions")]
    NotLearned {
        /// The position.
        pos: Pos,
        /// Positions that the model has.
        n_ctx_train: u32,
    },

    /// The model takes no embeddings.
    #[error("this model takes tokens, not embeddings")]
    NoEmbeddings,
}

/// Tokens, or embeddings in their place, for a context to compute.
///
/// What is added is checked: what does not fit is an error and is not added. What only a
/// context can tell, such as the size of its vocabulary, is checked when the batch is
/// computed. A batch can be computed by any context, and any number of times.
///
/// Rests on `llama_batch`.
///
/// ```
/// use llama_moe::{Batch, Token};
///
/// let mut batch = Batch::new(8, 1);
/// batch.add_sequence(&[Token(1), Token(2)], 0, 0)?;
/// let last = batch.add(Token(3), 2, &[0], true)?;
/// assert_eq!(last, 2);
/// assert!(batch.add(Token(4), 3, &[1], false).is_err());
/// # Ok::<(), llama_moe::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Batch {
    arrays: BatchArrays,
    embeddings: bool,
    capacity: usize,
    n_seq_max: u32,
}

impl Batch {
    /// A batch with room for `capacity` tokens of the sequences 0 to `n_seq_max` - 1.
    #[must_use]
    pub fn new(capacity: usize, n_seq_max: u32) -> Self {
        Self {
            arrays: BatchArrays::of_tokens(),
            embeddings: false,
            capacity: capacity.min(i32::MAX as usize),
            n_seq_max,
        }
    }

    /// A batch with room for `capacity` embeddings of `width` elements each, the model's
    /// [`n_embd_inp`](crate::Model::n_embd_inp).
    #[must_use]
    pub fn embeddings(capacity: usize, n_seq_max: u32, width: usize) -> Self {
        Self {
            arrays: BatchArrays::of_embeddings(width),
            embeddings: true,
            ..Self::new(capacity, n_seq_max)
        }
    }

    /// Adds a token at a position of one or more sequences, and says whether its output, the
    /// logits or the embedding, is to be computed. Returns its index, by which
    /// [`Context::logits`](crate::Context::logits) knows it.
    ///
    /// # Errors
    /// [`BatchError`]; nothing is added then.
    pub fn add(&mut self, token: Token, pos: Pos, seqs: &[SeqId], output: bool) -> Result<usize> {
        if self.embeddings {
            return Err(BatchError::Kind { embeddings: true }.into());
        }
        if token.0 < 0 {
            return Err(BatchError::NegativeToken { token }.into());
        }
        let (pos, seqs) = self.check(pos, seqs)?;
        self.arrays.push_token(token, pos, &seqs, output);
        Ok(self.len() - 1)
    }

    /// Adds an embedding in place of a token; otherwise as [`add`](Self::add). A model with
    /// several positions per embedding (M-RoPE) gets those of a text.
    ///
    /// # Errors
    /// [`BatchError`]; nothing is added then.
    pub fn add_embedding(
        &mut self,
        embedding: &[f32],
        pos: Pos,
        seqs: &[SeqId],
        output: bool,
    ) -> Result<usize> {
        if !self.embeddings {
            return Err(BatchError::Kind { embeddings: false }.into());
        }
        let (len, width) = (embedding.len(), self.arrays.width());
        if len != width {
            return Err(BatchError::Width { len, width }.into());
        }
        if let Some(element) = embedding.iter().position(|value| !value.is_finite()) {
            let value = embedding[element];
            return Err(BatchError::NotFinite { element, value }.into());
        }
        let (pos, seqs) = self.check(pos, seqs)?;
        self.arrays.push_embedding(embedding, pos, &seqs, output);
        Ok(self.len() - 1)
    }

    /// Adds tokens of one sequence, the first at position `start`. Asks for the output of the
    /// last one.
    ///
    /// # Errors
    /// [`BatchError`]; nothing is added then.
    pub fn add_sequence(&mut self, tokens: &[Token], start: Pos, seq: SeqId) -> Result<()> {
        self.add_tokens(tokens, start, seq, |index| index + 1 == tokens.len())
    }

    /// As [`add_sequence`](Self::add_sequence), asking for the output of every token.
    ///
    /// # Errors
    /// [`BatchError`]; nothing is added then.
    pub fn add_sequence_all(&mut self, tokens: &[Token], start: Pos, seq: SeqId) -> Result<()> {
        self.add_tokens(tokens, start, seq, |_| true)
    }

    fn add_tokens(
        &mut self,
        tokens: &[Token],
        start: Pos,
        seq: SeqId,
        output: impl Fn(usize) -> bool,
    ) -> Result<()> {
        if self.embeddings {
            return Err(BatchError::Kind { embeddings: true }.into());
        }
        self.check_room(tokens.len())?;
        if let Some(&token) = tokens.iter().find(|token| token.0 < 0) {
            return Err(BatchError::NegativeToken { token }.into());
        }
        let end = u64::from(start) + tokens.len() as u64;
        if end > u64::from(POS_MAX) + 1 {
            return Err(BatchError::Position { pos: end - 1 }.into());
        }
        let seqs = self.check_sequences(&[seq])?;
        for (index, &token) in tokens.iter().enumerate() {
            let pos = start as i32 + index as i32;
            self.arrays.push_token(token, pos, &seqs, output(index));
        }
        Ok(())
    }

    fn check(&self, pos: Pos, seqs: &[SeqId]) -> Result<(i32, Vec<i32>), BatchError> {
        self.check_room(1)?;
        if pos > POS_MAX {
            return Err(BatchError::Position { pos: pos.into() });
        }
        Ok((pos as i32, self.check_sequences(seqs)?))
    }

    fn check_room(&self, added: usize) -> Result<(), BatchError> {
        if added > self.capacity - self.len() {
            return Err(BatchError::Full {
                capacity: self.capacity,
                len: self.len(),
                added,
            });
        }
        Ok(())
    }

    fn check_sequences(&self, seqs: &[SeqId]) -> Result<Vec<i32>, BatchError> {
        if seqs.is_empty() {
            return Err(BatchError::NoSequence);
        }
        let mut ids = Vec::with_capacity(seqs.len());
        for (index, &seq) in seqs.iter().enumerate() {
            let id = i32::try_from(seq).ok().filter(|_| seq < self.n_seq_max);
            let id = id.ok_or(BatchError::Sequence {
                seq,
                n_seq_max: self.n_seq_max,
            })?;
            if seqs[..index].contains(&seq) {
                return Err(BatchError::SequenceTwice { seq });
            }
            ids.push(id);
        }
        Ok(ids)
    }

    /// Removes everything; the room stays.
    pub fn clear(&mut self) {
        self.arrays.clear();
    }

    /// Tokens or embeddings in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.arrays.len()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens or embeddings that it has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Its tokens; none for a batch of embeddings.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        self.arrays.tokens()
    }

    /// The indices whose output is asked for.
    pub fn outputs(&self) -> impl DoubleEndedIterator<Item = usize> {
        let outputs = self.arrays.outputs().enumerate();
        outputs.filter_map(|(index, output)| output.then_some(index))
    }

    pub(super) fn arrays(&self) -> &BatchArrays {
        &self.arrays
    }

    /// Elements per embedding; `None` for a batch of tokens.
    pub(super) fn width(&self) -> Option<usize> {
        self.embeddings.then(|| self.arrays.width())
    }
}
