//! Where randomness starts.

use std::hash::{BuildHasher, RandomState};

use super::SamplerError;

/// The seed of a sampler that uses random numbers.
///
/// A number makes what it does repeatable: `dist(42)`. [`Seed::Random`], or `None`, is
/// another number each time a sampler is made; [`Sampler::seed`](crate::Sampler::seed)
/// tells which, and [`Sampler::reset`](crate::Sampler::reset) starts again from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Seed {
    /// A number that the operating system's randomness gives.
    #[default]
    Random,
    /// This number, any but [`u32::MAX`].
    Fixed(u32),
}

impl From<u32> for Seed {
    fn from(seed: u32) -> Self {
        Self::Fixed(seed)
    }
}

impl From<Option<u32>> for Seed {
    fn from(seed: Option<u32>) -> Self {
        seed.map_or(Self::Random, Self::Fixed)
    }
}

impl Seed {
    /// The number for C. llama.cpp takes `LLAMA_DEFAULT_SEED` for "random", and asks for
    /// randomness in a way that may throw where no guard is.
    pub(super) fn resolve(self, sampler: &'static str) -> Result<u32, SamplerError> {
        match self {
            Self::Fixed(u32::MAX) => Err(SamplerError::Parameter {
                sampler,
                parameter: "seed",
                value: u32::MAX.to_string(),
                reason: "llama.cpp takes this number for a random seed; use Seed::Random",
            }),
            Self::Fixed(seed) => Ok(seed),
            Self::Random => {
                // The standard library's hash keys come from the operating system.
                let random = RandomState::new().hash_one(0u8);
                Ok((random % u64::from(u32::MAX)) as u32)
            }
        }
    }
}
