//! A text, cut into pieces whose tokens are predicted.

use super::QualityError;
use crate::context::{Batch, Context};
use crate::error::Result;
use crate::model::{Token, Vocab};

/// The least a chunk has.
pub(super) const MIN_CHUNK: u32 = 8;

/// The chunks of a text, for [`perplexity`](super::perplexity) and [`record`](super::record).
///
/// As `llama-perplexity` has it: the tokens of the whole text, which begin as the model
/// wants a text to begin, are cut into chunks of `n_ctx` tokens that do not overlap; what is
/// left at the end is not used. In each chunk the first token is replaced by the one that
/// begins a text ([`Vocab::bos`]), if the model [wants it](Vocab::adds_bos). The first half
/// of a chunk is there to be looked back at; every token after the one in the middle is
/// predicted from all that precede it in the chunk. So `n_ctx - 1 - n_ctx / 2` tokens of
/// each are scored.
///
/// Perplexities compare only for chunks of one size and models with one vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    n_ctx: u32,
    /// A whole number of chunks, one at least.
    tokens: Vec<Token>,
}

impl Chunks {
    /// Cuts a text into chunks of `n_ctx` tokens, which are at least 8. Special tokens are not
    /// looked for in it.
    ///
    /// Rests on `llama_tokenize`.
    ///
    /// # Errors
    /// [`QualityError`] if chunks are too short, or the text does not fill one; as
    /// [`Vocab::tokenize`] otherwise.
    pub fn new(vocab: &Vocab, text: &str, n_ctx: u32) -> Result<Self> {
        if n_ctx < MIN_CHUNK {
            return Err(QualityError::ChunkTooShort {
                n_ctx,
                min: MIN_CHUNK,
            }
            .into());
        }
        let mut tokens = vocab.tokenize(text, true, false)?;
        let n_tokens = tokens.len();
        let length = n_ctx as usize;
        tokens.truncate(n_tokens - n_tokens % length);
        if tokens.is_empty() {
            return Err(QualityError::TextTooShort { n_tokens, n_ctx }.into());
        }
        if let Some(bos) = vocab.bos().filter(|_| vocab.adds_bos()) {
            for chunk in tokens.chunks_exact_mut(length) {
                chunk[0] = bos;
            }
        }
        Ok(Self { n_ctx, tokens })
    }

    /// Chunks that were made before. `None` unless they are whole, long enough and at least
    /// one.
    pub(super) fn from_tokens(n_ctx: u32, tokens: Vec<Token>) -> Option<Self> {
        let whole = n_ctx >= MIN_CHUNK && tokens.len().is_multiple_of(n_ctx as usize);
        (whole && !tokens.is_empty()).then_some(Self { n_ctx, tokens })
    }

    /// Only the first so many of them, one at least.
    #[must_use]
    pub fn truncated(mut self, n_chunks: usize) -> Self {
        let n_tokens = n_chunks.max(1).saturating_mul(self.n_ctx as usize);
        self.tokens.truncate(n_tokens);
        self
    }

    /// Tokens per chunk.
    #[must_use]
    pub fn n_ctx(&self) -> u32 {
        self.n_ctx
    }

    /// How many chunks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len() / self.n_ctx as usize
    }

    /// Whether there are none, which cannot be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many tokens are scored, in all chunks together.
    #[must_use]
    pub fn n_scored(&self) -> usize {
        self.len() * (self.n_ctx as usize - 1 - self.middle())
    }

    /// The tokens of all chunks, as they are computed.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The first position of a chunk whose logits are looked at.
    fn middle(&self) -> usize {
        self.n_ctx as usize / 2
    }

    /// Computes them all with this context, whose memory is emptied before each and at the
    /// end. Tells of each scored token, with the logits that predict it.
    pub(super) fn score(
        &self,
        context: &mut Context,
        mut scored: impl FnMut(Token, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let n_ctx_seq = context.n_ctx_seq();
        if self.n_ctx > n_ctx_seq {
            return Err(QualityError::ContextTooSmall {
                chunk: self.n_ctx,
                n_ctx_seq,
            }
            .into());
        }
        let piece = context.n_batch().min(context.n_outputs_max()).max(1) as usize;
        let mut batch = Batch::new(piece, 1);
        for chunk in self.tokens.chunks_exact(self.n_ctx as usize) {
            context.memory().clear()?;
            for (start, tokens) in (0..).step_by(piece).zip(chunk.chunks(piece)) {
                batch.clear();
                for (pos, &token) in (start..).zip(tokens) {
                    let output = (self.middle()..chunk.len() - 1).contains(&pos);
                    batch.add(token, pos as u32, &[0], output)?;
                }
                context.decode(&batch)?;
                for index in batch.outputs() {
                    scored(chunk[start + index + 1], context.logits(index)?)?;
                }
            }
        }
        context.memory().clear()
    }
}
