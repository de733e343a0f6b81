//! The tokens of a chat in the memory of its context.

use crate::context::{AbortToken, Batch, Context, DecodeError, Pos, SeqId};
use crate::error::{Error, Result};
use crate::model::Token;

/// The sequence of the memory that a chat uses.
const SEQ: SeqId = 0;

/// A context, and the tokens of sequence 0 that its memory holds, from position 0 on.
pub(super) struct Held {
    pub(super) context: Context,
    abort: Option<AbortToken>,
    tokens: Vec<Token>,
    batch: Batch,
}

impl Held {
    pub(super) fn new(context: Context, abort: Option<AbortToken>) -> Self {
        let batch = Batch::new(context.n_batch() as usize, context.n_seq_max());
        Self {
            context,
            abort,
            tokens: Vec::new(),
            batch,
        }
    }

    /// Tokens that the sequence can have.
    pub(super) fn capacity(&self) -> usize {
        self.context.n_ctx_seq() as usize
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Empties the sequence.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.tokens.clear();
        if !self.context.memory().remove(Some(SEQ), ..)? {
            self.context.memory().clear()?;
        }
        Ok(())
    }

    /// Makes the memory hold a beginning of `target`, as long as there is, but not all of
    /// it: the last token has to be computed for its logits. With `shift`, what follows on
    /// something that is to go is moved up. Returns how many tokens there are.
    pub(super) fn prepare(&mut self, target: &[Token], shift: bool) -> Result<usize> {
        self.resume()?;
        let most = target.len().saturating_sub(1);
        let common = common(&self.tokens, target).min(most);
        let moved = if shift {
            longest_match(&self.tokens[common..], &target[common..most])
        } else {
            None
        };
        let end = moved.map_or(common, |(gap, length)| common + gap + length);
        if !self.truncate(end)? {
            self.clear()?;
            return Ok(0);
        }
        if let Some((gap, _)) = moved {
            self.close_gap(common, gap)?;
        }
        Ok(self.tokens.len())
    }

    /// Finds out whether the memory still is what it was left as.
    fn resume(&mut self) -> Result<()> {
        let end = self
            .context
            .memory()
            .positions(SEQ)?
            .map(|held| *held.end() as usize + 1);
        if end.unwrap_or(0) != self.tokens.len() {
            self.clear()?;
        }
        Ok(())
    }

    /// Keeps the first `len` tokens. `false` if the memory cannot, and is unchanged.
    fn truncate(&mut self, len: usize) -> Result<bool> {
        if len == self.tokens.len() {
            return Ok(true);
        }
        // Layers with sliding-window attention have let go of what is behind the window; it
        // takes all of the window to go on from an earlier token.
        let n_swa = self.context.model().n_swa() as usize;
        if n_swa > 0 {
            let first = self
                .context
                .memory()
                .positions(SEQ)?
                .map_or(0, |held| *held.start());
            if first as usize > len.saturating_sub(n_swa) {
                return Ok(false);
            }
        }
        let removed = self.context.memory().remove(Some(SEQ), pos(len)..)?;
        if removed {
            self.tokens.truncate(len);
        }
        Ok(removed)
    }

    /// Removes `gap` tokens at `at`, and moves up what follows.
    fn close_gap(&mut self, at: usize, gap: usize) -> Result<()> {
        let mut memory = self.context.memory();
        if !memory.remove(Some(SEQ), pos(at)..pos(at + gap))? {
            return self.clear();
        }
        memory.shift(SEQ, pos(at + gap).., -(gap as i32))?;
        self.tokens.drain(at..at + gap);
        Ok(())
    }

    /// Computes the tokens that come next, and the logits of the last one. `false` if the
    /// abort token is pulled; tokens that were computed before that stay.
    pub(super) fn decode(&mut self, tokens: &[Token]) -> Result<bool> {
        for chunk in tokens.chunks(self.batch.capacity().max(1)) {
            // A device other than the CPU does not look at the token while it computes.
            if self.abort.as_ref().is_some_and(AbortToken::is_aborted) {
                return Ok(false);
            }
            self.batch.clear();
            self.batch
                .add_sequence(chunk, pos(self.tokens.len()), SEQ)?;
            match self.context.decode(&self.batch) {
                Ok(()) => self.tokens.extend_from_slice(chunk),
                Err(error) => {
                    self.settle();
                    return match error {
                        Error::Decode(DecodeError::Aborted) => Ok(false),
                        error => Err(error),
                    };
                }
            }
        }
        Ok(true)
    }

    /// After a batch that failed: takes out what may have been computed of it. If that fails
    /// too, [`resume`](Self::resume) sees it.
    fn settle(&mut self) {
        let len = pos(self.tokens.len());
        if !matches!(self.context.memory().remove(Some(SEQ), len..), Ok(true)) {
            // The next call reports what is wrong.
            let _ = self.clear();
        }
    }
}

/// Positions fit: a context has less than 2^31.
fn pos(index: usize) -> Pos {
    index as Pos
}

/// How many tokens both begin with.
fn common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Where in `held`, but not at its beginning, the longest beginning of `target` is: the
/// tokens before it, and its length.
fn longest_match(held: &[Token], target: &[Token]) -> Option<(usize, usize)> {
    (1..held.len())
        .map(|gap| (gap, common(&held[gap..], target)))
        .max_by_key(|&(gap, length)| (length, std::cmp::Reverse(gap)))
        .filter(|&(_, length)| length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[i32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    #[test]
    fn what_is_moved_up_is_the_longest_match() {
        let held = tokens(&[1, 2, 3, 9, 3, 4, 5, 6]);
        assert_eq!(longest_match(&held, &tokens(&[3, 4, 5, 7])), Some((4, 3)));
        assert_eq!(longest_match(&held, &tokens(&[2, 3])), Some((1, 2)));
        assert_eq!(longest_match(&held, &tokens(&[7])), None);
        assert_eq!(longest_match(&held, &[]), None);
        assert_eq!(longest_match(&[], &held), None);
        assert_eq!(common(&held, &tokens(&[1, 2, 4])), 2);
    }
}
