//! Guessing what comes next in answers.

use std::collections::HashMap;

use super::draft::STEP_TOKENS;
use super::error::EngineError;
use super::memory::{Part, SlotMemory};
use super::prefix;
use super::schedule::{self, Room, Share};
use crate::context::{ContextParams, DecodeError, MemoryError};
use crate::error::{Error, Result};
use crate::model::{Model, Token, Vocab};
use crate::sampler::most_likely;

/// Guessed tokens by slot, at least one each.
pub(super) type Drafts = HashMap<usize, Vec<Token>>;

/// An answer to guess the next tokens of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) slot: usize,
    /// All that there is of it, its prompt included.
    pub(super) tokens: &'a [Token],
    /// Tokens to guess, at most; at least 1.
    pub(super) n_draft: usize,
}

impl<'a> Wish<'a> {
    /// What the memory lacks of the answer, if it holds its beginning.
    fn missing(&self, memory: &SlotMemory) -> &'a [Token] {
        let n_held = memory.held(self.slot).len();
        self.tokens.get(n_held..).unwrap_or(&[])
    }

    /// Whether these tokens begin as the answer, and with so much more of it than the memory holds
    /// that a copy of them is worth while.
    fn lacks(&self, memory: &SlotMemory, tokens: &[Token]) -> bool {
        let n_missing = self.missing(memory).len();
        let n_held = self.tokens.len() - n_missing;
        n_missing > STEP_TOKENS && prefix::common(tokens, self.tokens) > n_held + STEP_TOKENS
    }
}

/// The draft, with a context that has the slots of the engine's. What its memory holds in them
/// follows what is in the engine's, as far as that is asked for.
pub(super) struct Drafter {
    model: Model,
    memory: SlotMemory,
    /// That of the engine's model.
    vocab: Vocab,
    /// Tokens that both models have.
    n_vocab: usize,
    n_draft: usize,
    /// Positions that an answer can have.
    n_ctx: usize,
    n_steps: u64,
}

impl Drafter {
    pub(super) fn new(
        model: &Model,
        params: ContextParams,
        vocab: &Vocab,
        n_draft: usize,
    ) -> Result<Self> {
        let mut context = model.context(params.clone())?;
        match context.memory().positions(0) {
            Ok(_) => {}
            Err(Error::Memory(MemoryError::None)) => return Err(EngineError::DraftEncodes.into()),
            Err(error) => return Err(error),
        }
        let trained = match model.n_ctx_train() {
            0 => u32::MAX,
            trained => trained,
        };
        Ok(Self {
            model: model.clone(),
            n_vocab: vocab.n_tokens().min(model.vocab().n_tokens()) as usize,
            n_ctx: context.n_ctx_seq().min(trained) as usize,
            memory: SlotMemory::new(context, params, true),
            vocab: vocab.clone(),
            n_draft,
            n_steps: 0,
        })
    }

    /// Tokens that can be guessed of an answer that has so many.
    pub(super) fn n_draft(&self, n_tokens: usize) -> usize {
        self.n_ctx.saturating_sub(n_tokens).min(self.n_draft)
    }

    /// Guesses what comes next in each answer, in all of them together, token by token. There is
    /// nothing yet for an answer that the draft has to read first: in each step it reads as many
    /// tokens as a micro-batch has.
    ///
    /// # Errors
    /// If a computation fails: [`recover`](Self::recover) comes next.
    pub(super) fn draft(&mut self, wishes: &[Wish<'_>]) -> Result<Drafts> {
        self.n_steps += 1;
        let mut drafts = Drafts::new();
        let mut outputs = self.read(wishes)?;
        loop {
            let mut open = Vec::new();
            for (slot, output) in outputs {
                let token = self.likeliest(output)?;
                // The model says by the token before it whether an answer ends: the end itself need
                // not be computed.
                if self.vocab.is_eog(token) {
                    continue;
                }
                let draft = drafts.entry(slot).or_default();
                draft.push(token);
                let wish = wishes.iter().find(|wish| wish.slot == slot);
                if wish.is_some_and(|wish| draft.len() < wish.n_draft) {
                    open.push(slot);
                }
            }
            let parts: Vec<Part<'_>> = open
                .iter()
                .filter_map(|slot| {
                    let (_, last) = drafts.get(slot)?.split_last_chunk::<1>()?;
                    Some(Part::with_output(*slot, last))
                })
                .collect();
            if parts.is_empty() {
                return Ok(drafts);
            }
            outputs = self.memory.compute(&parts)?;
        }
    }

    /// Computes what the memory lacks of the answers, or a part of it. Returned are the slots of
    /// those of which it lacks nothing then, and their outputs.
    fn read(&mut self, wishes: &[Wish<'_>]) -> Result<Vec<(usize, usize)>> {
        for wish in wishes {
            self.keep_common(wish)?;
        }
        // What several begin with is read once.
        let is_first = |&(index, wish): &(usize, &Wish<'_>)| {
            let is_read = |earlier: &Wish<'_>| wish.lacks(&self.memory, earlier.tokens);
            !wishes.iter().take(index).any(is_read)
        };
        let first = wishes.iter().enumerate().filter(is_first);
        let todo: Vec<Share> = first
            .map(|(_, wish)| Share {
                slot: wish.slot,
                n_tokens: wish.missing(&self.memory).len(),
            })
            .collect();
        let n_tokens = self.memory.n_ubatch().max(wishes.len());
        let room = Room {
            n_batch: n_tokens,
            n_ubatch: n_tokens,
            prefill_chunk: None,
            kv_unified: true,
        };
        let shares = schedule::divide(&todo, room, self.n_steps);
        let parts: Vec<Part<'_>> = shares
            .iter()
            .filter_map(|share| {
                let wish = wishes.iter().find(|wish| wish.slot == share.slot)?;
                let missing = wish.missing(&self.memory);
                let tokens = missing.get(..share.n_tokens)?;
                Some(if tokens.len() == missing.len() {
                    Part::with_output(wish.slot, tokens)
                } else {
                    Part::without_output(wish.slot, tokens)
                })
            })
            .collect();
        self.memory.compute(&parts)
    }

    /// Makes a slot hold the beginning of an answer, and nothing else: what it holds of it itself,
    /// or what another slot does. The last token is computed anew for its logits.
    fn keep_common(&mut self, wish: &Wish<'_>) -> Result<()> {
        let Wish { slot, tokens, .. } = *wish;
        let Some((_, before)) = tokens.split_last() else {
            return Ok(());
        };
        let n_common = prefix::common(self.memory.held(slot), before);
        if !self.memory.cut(slot, n_common)? {
            self.memory.clear(slot)?;
        }
        let others = (0..self.memory.n_slots()).filter(|&other| other != slot);
        let worth = others.filter(|&other| wish.lacks(&self.memory, self.memory.held(other)));
        let best = worth
            .map(|other| (prefix::common(self.memory.held(other), before), other))
            .max();
        match best {
            Some((n_tokens, source)) => self.memory.copy(source, slot, n_tokens),
            None => Ok(()),
        }
    }

    /// The likeliest token of those that the model has too.
    fn likeliest(&mut self, output: usize) -> Result<Token> {
        let logits = self.memory.context()?.logits(output)?;
        let logits = logits.get(..self.n_vocab).unwrap_or(logits);
        // A guess that is wrong costs time, no more.
        Ok(most_likely(logits).unwrap_or(Token(0)))
    }

    /// After an error: the memory is as it was before, or has room.
    ///
    /// # Errors
    /// If there is no context to go on with.
    pub(super) fn recover(&mut self, slots: &[usize], error: &Error) -> Result<()> {
        let is_short = matches!(error, Error::Decode(DecodeError::NoRoom { .. }));
        for slot in 0..self.memory.n_slots() {
            let settled = match slots.contains(&slot) {
                true => self.memory.settle(slot),
                // Of another answer, or an earlier one: it can be computed again.
                false if is_short => self.memory.clear(slot),
                false => continue,
            };
            if settled.is_err() {
                return self.rebuild();
            }
        }
        Ok(())
    }

    /// Forgets what a slot holds.
    ///
    /// # Errors
    /// If there is no context to go on with.
    pub(super) fn forget(&mut self, slot: usize) -> Result<()> {
        match self.memory.clear(slot) {
            Ok(()) => Ok(()),
            Err(_) => self.rebuild(),
        }
    }

    fn rebuild(&mut self) -> Result<()> {
        self.memory.rebuild(&self.model)
    }
}
