//! Samplers: from logits to the next token.
//!
//! A [`SamplerChain`] is built from llama.cpp's samplers and your own, ends with one that
//! chooses, and is then a [`Sampler`]. A chain that would not choose does not have
//! [`Sampler::sample`]: there is no type for it.
//!
//! ```no_run
//! use llama_moe::{Backend, Batch, ContextParams, Model, ModelParams, SamplerChain};
//!
//! let backend = Backend::init()?;
//! let model = Model::load(&backend, "gpt-oss-20b.gguf", ModelParams::default())?;
//! let vocab = model.vocab();
//! let mut sampler = SamplerChain::new()
//!     .grammar(&vocab, r#"root ::= "yes" | "no""#, "root")
//!     .custom_fn("no first token", |candidates| candidates.retain(|c| c.token.0 != 0))
//!     .temp(0.7)
//!     .dist(42)?;
//!
//! let mut context = model.context(ContextParams::default())?;
//! let mut batch = Batch::new(64, 1);
//! batch.add_sequence(&vocab.tokenize("Is it raining?", true, false)?, 0, 0)?;
//! context.decode(&batch)?;
//! let token = sampler.sample(&mut context, None)?;
//! # Ok::<(), llama_moe::Error>(())
//! ```
//!
//! # What is held, and what goes first
//!
//! Samplers of llama.cpp that need the vocabulary (grammar, infill) point into the model.
//! A [`Sampler`] with such a link holds the [`Model`], and frees its links before it lets go
//! of it, so the order in which a program drops the two does not matter.

mod candidates;
mod chain;
mod custom;
mod dry;
mod error;
mod grammar;
mod greedy;
#[cfg(feature = "llguidance")]
mod json_schema;
mod seed;
mod stage;

use std::fmt;
use std::iter::once_with;
use std::time::{Duration, Instant};

pub use candidates::{Candidate, Candidates};
pub use chain::SamplerChain;
pub use custom::{CustomSampler, SelectingSampler};
pub use dry::DryParams;
pub use error::SamplerError;
#[cfg(feature = "llguidance")]
pub use json_schema::JsonGuide;
pub use seed::Seed;

use crate::context::Context;
use crate::error::Result;
use crate::model::{Model, Token, Vocab};
use greedy::Greedy;
#[cfg(feature = "engine")]
pub(crate) use greedy::most_likely;
use stage::{Selector, Stage};

/// A chain of samplers that ends with one that chooses a token.
///
/// `Send`, so it can move between threads; one thread uses it at a time.
///
/// Rests on `llama_sampler`.
pub struct Sampler {
    // In this order: the stages refer to the vocabulary, and are freed before it.
    stages: Vec<Stage>,
    selector: Selector,
    /// What does the same as all of them, if there is such a thing.
    greedy: Option<Greedy>,
    vocab: Option<Vocab>,
    seed: Option<u32>,
    perf: SamplerPerf,
    /// Kept from call to call: three megabytes for a large vocabulary.
    candidates: Candidates,
}

/// How much a sampler has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SamplerPerf {
    /// Tokens chosen by `sample`.
    pub n_sampled: u64,
    /// The time that took, without waiting for the logits.
    pub time: Duration,
}

impl Sampler {
    /// The most likely token, always.
    ///
    /// Rests on `llama_sampler_init_greedy`.
    ///
    /// # Errors
    /// None but a lack of memory.
    pub fn greedy() -> Result<Self> {
        SamplerChain::new().greedy()
    }

    /// A token drawn by the probabilities that the model gives.
    ///
    /// Rests on `llama_sampler_init_dist`.
    ///
    /// # Errors
    /// [`SamplerError::Parameter`] for the seed `u32::MAX`.
    pub fn from_seed(seed: impl Into<Seed>) -> Result<Self> {
        SamplerChain::new().dist(seed)
    }

    fn new(
        stages: Vec<Stage>,
        selector: Selector,
        vocab: Option<Vocab>,
        seed: Option<u32>,
    ) -> Self {
        Self {
            stages,
            selector,
            greedy: None,
            vocab,
            seed,
            perf: SamplerPerf::default(),
            candidates: Candidates::new([]),
        }
    }

    /// Chooses a token from an output of the last batch, and accepts it. `index` is the
    /// token's place in the batch, as [`Batch::add`](crate::Batch::add) returned it; `None`
    /// is the last output.
    ///
    /// Does what `llama_sampler_sample` does.
    ///
    /// # Errors
    /// [`OutputError`](crate::OutputError) if that output has not been computed;
    /// [`SamplerError::OtherVocabulary`] if the sampler is for another model's vocabulary;
    /// and as [`apply`](Self::apply) and [`accept`](Self::accept). The context stays as it is.
    pub fn sample(&mut self, context: &mut Context, index: Option<usize>) -> Result<Token> {
        let model = context.model().clone();
        self.check_model(&model)?;
        let logits = match index {
            Some(index) => context.logits(index)?,
            None => context.logits_last()?,
        };
        let start = Instant::now();
        let greedy = self.greedy.as_mut();
        let token = match greedy.and_then(|greedy| greedy.choose(logits)) {
            Some(token) => token,
            None => {
                self.candidates.refill(logits);
                choose(&mut self.stages, &mut self.selector, &mut self.candidates)?
            }
        };
        // A sampler written in Rust may have brought candidates of its own.
        model.vocab().check(token)?;
        self.accept(token)?;
        self.perf.n_sampled += 1;
        self.perf.time += start.elapsed();
        Ok(token)
    }

    /// Whether it is for this model's vocabulary, if it is for any.
    pub(crate) fn check_model(&self, model: &Model) -> Result<(), SamplerError> {
        match &self.vocab {
            Some(own) if !own.model().is_same(model) => {
                Err(SamplerError::other_vocabulary(own, model))
            }
            _ => Ok(()),
        }
    }

    /// Chooses one of these candidates without accepting it. The samplers' changes to the
    /// candidates stay, and [`Candidates::selected`] is the choice.
    ///
    /// Rests on `llama_sampler_apply`.
    ///
    /// # Errors
    /// [`VocabError`](crate::VocabError) if a token is not in the vocabulary that the sampler
    /// is for; [`SamplerError`] if a logit is not a number or infinite, or a sampler leaves
    /// nothing to choose from; [`Error::CallbackPanicked`](crate::Error::CallbackPanicked) if
    /// a sampler written in Rust panics.
    pub fn apply(&mut self, candidates: &mut Candidates) -> Result<Token> {
        if let Some(vocab) = &self.vocab {
            let known = 0..i32::try_from(vocab.n_tokens()).unwrap_or(i32::MAX);
            if let Some(other) = candidates.iter().find(|c| !known.contains(&c.token.0)) {
                vocab.check(other.token)?;
            }
        }
        choose(&mut self.stages, &mut self.selector, candidates)
    }

    /// Tells the samplers which token was chosen: penalties, DRY, grammars and others go
    /// by it. [`sample`](Self::sample) does it by itself; this is for tokens that were chosen
    /// elsewhere, such as a prompt's.
    ///
    /// Rests on `llama_sampler_accept`.
    ///
    /// # Errors
    /// [`SamplerError::NotAllowed`] if a grammar does not allow the token, and nothing has
    /// changed then; [`VocabError`](crate::VocabError) if there is no such token;
    /// [`Error::Llama`](crate::Error::Llama) if the text starts a lazy grammar but does not
    /// fit it, and the grammar is then at its start again;
    /// [`Error::CallbackPanicked`](crate::Error::CallbackPanicked).
    pub fn accept(&mut self, token: Token) -> Result<()> {
        if let Some(vocab) = &self.vocab {
            vocab.check(token)?;
        } else if token.0 < 0 {
            return Err(SamplerError::Parameter {
                sampler: "accept",
                parameter: "token",
                value: token.to_string(),
                reason: "a token's number is at least 0",
            }
            .into());
        }
        for stage in &mut self.stages {
            if !stage.allows(token)? {
                return Err(SamplerError::NotAllowed { token }.into());
            }
        }
        // One that fails keeps none of the others from being told.
        let accepted = self.stages.iter_mut().map(|stage| stage.accept(token));
        first_error(accepted.chain(once_with(|| self.selector.accept(token))))
    }

    /// Forgets the tokens accepted so far; seeds start again.
    ///
    /// Rests on `llama_sampler_reset`.
    ///
    /// # Errors
    /// [`Error::CallbackPanicked`](crate::Error::CallbackPanicked);
    /// [`Error::Llama`](crate::Error::Llama) if there is no memory.
    pub fn reset(&mut self) -> Result<()> {
        let reset = self.stages.iter_mut().map(Stage::reset);
        first_error(reset.chain(once_with(|| self.selector.reset())))
    }

    /// A copy with its state: the tokens accepted so far, and the state of its random
    /// numbers (but see [`SamplerChain::adaptive_p`]).
    ///
    /// Rests on `llama_sampler_clone`.
    ///
    /// # Errors
    /// [`SamplerError::NotCloneable`] if a sampler written in Rust cannot be copied.
    pub fn try_clone(&self) -> Result<Self> {
        let stages = self.stages.iter().map(Stage::try_clone);
        let mut clone = Self::new(
            stages.collect::<Result<_>>()?,
            self.selector.try_clone()?,
            self.vocab.clone(),
            self.seed,
        );
        clone.greedy.clone_from(&self.greedy);
        Ok(clone)
    }

    /// The seed of the last sampler that has one.
    #[must_use]
    pub fn seed(&self) -> Option<u32> {
        self.seed
    }

    /// The samplers' names, in their order. llama.cpp puts a question mark before one
    /// that its parameters have switched off: `?top-p`.
    ///
    /// Rests on `llama_sampler_name`.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let stages = self.stages.iter().map(Stage::name);
        stages.chain([self.selector.name()]).collect()
    }

    /// How much it has done.
    #[must_use]
    pub fn perf(&self) -> SamplerPerf {
        self.perf
    }

    /// Counts from 0 again.
    pub fn reset_perf(&mut self) {
        self.perf = SamplerPerf::default();
    }
}

/// Runs a chain. What each sampler relies on is checked before it runs.
fn choose(
    stages: &mut [Stage],
    selector: &mut Selector,
    candidates: &mut Candidates,
) -> Result<Token> {
    candidates.check(|| None)?;
    for stage in stages {
        stage.apply(candidates)?;
    }
    selector.select(candidates)
}

/// Runs through all results.
fn first_error(results: impl Iterator<Item = Result<()>>) -> Result<()> {
    results.fold(Ok(()), Result::and)
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler")
            .field("names", &self.names())
            .field("vocab", &self.vocab)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl SamplerError {
    fn other_vocabulary(sampler: &Vocab, other: &Model) -> Self {
        Self::OtherVocabulary {
            sampler: sampler.model().path().display().to_string(),
            other: other.path().display().to_string(),
        }
    }
}
