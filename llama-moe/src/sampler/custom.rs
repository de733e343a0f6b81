//! Samplers written in Rust.

use super::candidates::Candidates;
use crate::model::Token;

/// A sampler of your own, anywhere in a chain but at its end: see
/// [`SamplerChain::custom`](super::SamplerChain::custom).
///
/// A panic in one of these methods ends the call of [`Sampler`](super::Sampler) that led
/// here with [`Error::CallbackPanicked`](crate::Error::CallbackPanicked); model, context
/// and sampler stay usable. A panic while it is dropped is logged, and goes no further.
pub trait CustomSampler: Send {
    /// A name for errors and lists.
    fn name(&self) -> &str;

    /// Changes logits, drops or sorts candidates. At least one must be left that is not
    /// ruled out, and no logit may be NaN or infinity.
    fn apply(&mut self, candidates: &mut Candidates);

    /// Is told the token that was chosen.
    fn accept(&mut self, token: Token) {
        let _ = token;
    }

    /// Forgets what was accepted.
    fn reset(&mut self) {}

    /// A copy with its state, or `None` if there can be none: the chain then cannot be
    /// copied either.
    fn try_clone(&self) -> Option<Box<dyn CustomSampler>> {
        None
    }
}

/// A sampler of your own for the end of a chain: see
/// [`SamplerChain::select_with`](super::SamplerChain::select_with).
///
/// Panics are treated as those of a [`CustomSampler`].
pub trait SelectingSampler: Send {
    /// A name for errors and lists.
    fn name(&self) -> &str;

    /// Chooses a candidate, of which there is at least one, and returns its index. None
    /// is ruled out. Changes to the candidates stay, and the index is that after them.
    fn select(&mut self, candidates: &mut Candidates) -> usize;

    /// Is told the token that was chosen.
    fn accept(&mut self, token: Token) {
        let _ = token;
    }

    /// Forgets what was accepted.
    fn reset(&mut self) {}

    /// A copy with its state, or `None` if there can be none: the chain then cannot be
    /// copied either.
    fn try_clone(&self) -> Option<Box<dyn SelectingSampler>> {
        None
    }
}

/// A closure with a name.
pub(super) struct Named<F> {
    pub(super) name: String,
    pub(super) function: F,
}

impl<F: FnMut(&mut Candidates) + Send> CustomSampler for Named<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn apply(&mut self, candidates: &mut Candidates) {
        (self.function)(candidates);
    }
}

impl<F: FnMut(&mut Candidates) -> usize + Send> SelectingSampler for Named<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn select(&mut self, candidates: &mut Candidates) -> usize {
        (self.function)(candidates)
    }
}
