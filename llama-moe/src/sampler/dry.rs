//! The parameters of the DRY sampler.

/// How strongly [`SamplerChain::dry`](super::SamplerChain::dry) keeps a text from
/// repeating itself.
///
/// A token that would make a repetition of `n` tokens longer loses
/// `multiplier * base ^ (n - allowed_length)` of its logit.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct DryParams {
    pub(super) multiplier: f32,
    pub(super) base: f32,
    pub(super) allowed_length: u32,
    pub(super) last_n: u32,
    pub(super) breakers: Vec<String>,
}

impl DryParams {
    /// With this multiplier, 0.8 being usual and 0 switching it off, looking back on the
    /// last `last_n` tokens: as many as the context has, usually. The rest is as
    /// llama.cpp's programs have it: a base of 1.75, an allowed length of 2, and
    /// newline, colon, quotation mark and asterisk as breakers.
    #[doc(alias = "--dry-multiplier")]
    #[doc(alias = "--dry-penalty-last-n")]
    pub fn new(multiplier: f32, last_n: u32) -> Self {
        Self {
            multiplier,
            base: 1.75,
            allowed_length: 2,
            last_n,
            breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
        }
    }

    /// The base of the penalty, at least 1.
    #[doc(alias = "--dry-base")]
    pub fn with_base(mut self, base: f32) -> Self {
        self.base = base;
        self
    }

    /// Repetitions of less than so many tokens are not penalised.
    #[doc(alias = "--dry-allowed-length")]
    pub fn with_allowed_length(mut self, allowed_length: u32) -> Self {
        self.allowed_length = allowed_length;
        self
    }

    /// Texts that end a repetition, in place of the default ones; each 1 to 40 bytes.
    #[doc(alias = "--dry-sequence-breaker")]
    pub fn with_breakers(mut self, breakers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.breakers = breakers.into_iter().map(Into::into).collect();
        self
    }
}
