//! The links of a chain: llama.cpp's samplers and those in Rust, treated alike.

use std::mem;

use super::SamplerError;
use super::candidates::Candidates;
use super::custom::{CustomSampler, SelectingSampler};
use crate::error::{Error, Result};
use crate::ffi::{SamplerHandle, catch_panic};
use crate::model::Token;

/// A sampler that narrows the candidates down.
pub(super) enum Stage {
    Native(SamplerHandle),
    /// Rules tokens out, and refuses to accept them.
    Grammar(SamplerHandle),
    Rust(Box<dyn CustomSampler>),
}

/// The sampler at the end, which chooses.
pub(super) enum Selector {
    Native(SamplerHandle),
    Rust(Box<dyn SelectingSampler>),
}

impl Stage {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Native(sampler) | Self::Grammar(sampler) => sampler.name(),
            Self::Rust(sampler) => name_of(|| sampler.name().to_owned()),
        }
    }

    pub(super) fn apply(&mut self, candidates: &mut Candidates) -> Result<()> {
        match self {
            Self::Native(sampler) | Self::Grammar(sampler) => {
                let (data, sorted) = candidates.parts();
                sampler.apply(data, sorted)?;
            }
            Self::Rust(sampler) => call(|| sampler.apply(candidates))?,
        }
        Ok(candidates.check(|| Some(self.name()))?)
    }

    /// Whether it would accept this token.
    pub(super) fn allows(&mut self, token: Token) -> Result<bool> {
        match self {
            Self::Grammar(sampler) => sampler.allows(token),
            Self::Native(_) | Self::Rust(_) => Ok(true),
        }
    }

    pub(super) fn accept(&mut self, token: Token) -> Result<()> {
        match self {
            Self::Native(sampler) | Self::Grammar(sampler) => sampler.accept(token),
            Self::Rust(sampler) => call(|| sampler.accept(token)),
        }
    }

    pub(super) fn reset(&mut self) -> Result<()> {
        match self {
            Self::Native(sampler) | Self::Grammar(sampler) => sampler.reset(),
            Self::Rust(sampler) => call(|| sampler.reset()),
        }
    }

    pub(super) fn try_clone(&self) -> Result<Self> {
        Ok(match self {
            Self::Native(sampler) => Self::Native(sampler.try_clone()?),
            Self::Grammar(sampler) => Self::Grammar(sampler.try_clone()?),
            Self::Rust(sampler) => {
                Self::Rust(call(|| sampler.try_clone())?.ok_or_else(|| not_cloneable(self.name()))?)
            }
        })
    }
}

impl Selector {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Native(sampler) => sampler.name(),
            Self::Rust(sampler) => name_of(|| sampler.name().to_owned()),
        }
    }

    /// Chooses one of the candidates, of which at least one is not ruled out.
    pub(super) fn select(&mut self, candidates: &mut Candidates) -> Result<Token> {
        candidates.drop_ruled_out();
        let index = match self {
            Self::Native(sampler) => {
                let (data, sorted) = candidates.parts();
                sampler.apply(data, sorted)?
            }
            Self::Rust(sampler) => Some(call(|| sampler.select(candidates))?),
        };
        let chosen = index.and_then(|index| candidates.as_slice().get(index));
        match (index, chosen) {
            (Some(index), Some(&candidate)) => {
                candidates.select(index);
                Ok(candidate.token)
            }
            _ => Err(SamplerError::NotSelected {
                sampler: self.name(),
                index,
                len: candidates.len(),
            }
            .into()),
        }
    }

    pub(super) fn accept(&mut self, token: Token) -> Result<()> {
        match self {
            Self::Native(sampler) => sampler.accept(token),
            Self::Rust(sampler) => call(|| sampler.accept(token)),
        }
    }

    pub(super) fn reset(&mut self) -> Result<()> {
        match self {
            Self::Native(sampler) => sampler.reset(),
            Self::Rust(sampler) => call(|| sampler.reset()),
        }
    }

    pub(super) fn try_clone(&self) -> Result<Self> {
        Ok(match self {
            Self::Native(sampler) => {
                let mut clone = sampler.try_clone()?;
                // A copy of adaptive-p remembers which candidate was chosen last, but not
                // the probabilities it would look up when that is accepted. No token
                // has this number, and being told of it makes it forget.
                clone.accept(Token(i32::MAX))?;
                Self::Native(clone)
            }
            Self::Rust(sampler) => {
                Self::Rust(call(|| sampler.try_clone())?.ok_or_else(|| not_cloneable(self.name()))?)
            }
        })
    }
}

/// A panic while a sampler written in Rust is dropped ends there: while another one unwinds, it
/// would end the process.
impl Drop for Stage {
    fn drop(&mut self) {
        if let Self::Rust(sampler) = self {
            let sampler = mem::replace(sampler, Box::new(Gone));
            drop_caught(sampler);
        }
    }
}

impl Drop for Selector {
    fn drop(&mut self) {
        if let Self::Rust(sampler) = self {
            let sampler = mem::replace(sampler, Box::new(Gone));
            drop_caught(sampler);
        }
    }
}

/// In the place of a sampler that is being dropped. Never called.
struct Gone;

impl CustomSampler for Gone {
    fn name(&self) -> &str {
        "gone"
    }

    fn apply(&mut self, _: &mut Candidates) {}
}

impl SelectingSampler for Gone {
    fn name(&self) -> &str {
        "gone"
    }

    fn select(&mut self, _: &mut Candidates) -> usize {
        0
    }
}

fn drop_caught<T>(sampler: T) {
    let mut panic = None;
    catch_panic(&mut panic, || drop(sampler));
    if let Some(message) = panic {
        tracing::error!("a sampler panicked while it was dropped: {message}");
    }
}

/// Calls a sampler written in Rust.
fn call<T>(method: impl FnOnce() -> T) -> Result<T> {
    let mut panic = None;
    catch_panic(&mut panic, method).ok_or_else(|| Error::CallbackPanicked {
        callback: "sampler",
        message: panic.unwrap_or_default(),
    })
}

/// A name is asked for where an error is being made: a panic there is not worth another.
fn name_of(name: impl FnOnce() -> String) -> String {
    call(name).unwrap_or_else(|_| "a sampler without a name".to_owned())
}

fn not_cloneable(sampler: String) -> SamplerError {
    SamplerError::NotCloneable { sampler }
}
