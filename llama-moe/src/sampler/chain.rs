//! Building a chain of samplers.

use std::collections::HashSet;
use std::ffi::CString;
use std::mem;

use super::candidates::Candidates;
use super::custom::{CustomSampler, Named, SelectingSampler};
use super::dry::DryParams;
use super::greedy::Greedy;
use super::stage::{Selector, Stage};
use super::{Sampler, SamplerError, Seed};
use crate::error::{Error, Result};
use crate::ffi::{PlainSampler, SamplerHandle, c_string, sys};
use crate::model::{Token, Vocab};

/// Samplers in the order in which they narrow the candidates down.
///
/// A chain cannot choose a token until one of [`greedy`](Self::greedy),
/// [`dist`](Self::dist), [`mirostat`](Self::mirostat), [`mirostat_v2`](Self::mirostat_v2),
/// [`adaptive_p`](Self::adaptive_p) and [`select_with`](Self::select_with) ends it and makes
/// a [`Sampler`] of it. The first mistake in a chain is the error that its end returns.
///
/// ```
/// use llama_moe::SamplerChain;
///
/// let sampler = SamplerChain::new().top_k(40).top_p(0.95, 1).min_p(0.05, 1).temp(0.8).dist(42)?;
/// assert_eq!(sampler.names(), ["top-k", "top-p", "min-p", "temp", "dist"]);
///
/// let error = SamplerChain::new().temp(f32::NAN).greedy().unwrap_err();
/// assert_eq!(error.to_string(), "temp: t = NaN: a temperature is at least 0 and finite");
/// # Ok::<(), llama_moe::Error>(())
/// ```
///
/// Rests on `llama_sampler_chain_init`: the chain's links are llama.cpp's samplers, but
/// run one by one, so that one that leaves nothing to choose from is an error that names
/// it.
#[derive(Default)]
#[must_use]
pub struct SamplerChain {
    // The stages refer to the vocabulary: they go first.
    stages: Vec<Stage>,
    /// Those of the first stages, as many as do nothing but add them.
    biases: Vec<(Token, f32)>,
    /// How many these are.
    n_biasing: usize,
    vocab: Option<Vocab>,
    seed: Option<u32>,
    error: Option<Error>,
}

/// The most that penalties and DRY look back on, in tokens. They set aside memory for all.
const MAX_LAST_N: u32 = 1 << 24;

impl SamplerChain {
    /// A chain without samplers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the `k` most likely tokens; 0 keeps all.
    ///
    /// Rests on `llama_sampler_init_top_k`.
    #[doc(alias = "--top-k")]
    pub fn top_k(self, k: u32) -> Self {
        self.plain(|_| {
            let k = whole("top_k", "k", k)?;
            Ok(PlainSampler::TopK { k })
        })
    }

    /// Keeps the most likely tokens that together have the probability `p`, but at least
    /// `min_keep`; 1 keeps all.
    ///
    /// Rests on `llama_sampler_init_top_p`.
    #[doc(alias = "--top-p")]
    pub fn top_p(self, p: f32, min_keep: usize) -> Self {
        self.plain(|_| {
            let p = share("top_p", "p", p)?;
            Ok(PlainSampler::TopP { p, min_keep })
        })
    }

    /// Keeps the tokens that have at least `p` times the probability of the most likely
    /// one, but at least `min_keep`; 0 keeps all.
    ///
    /// Rests on `llama_sampler_init_min_p`.
    #[doc(alias = "--min-p")]
    pub fn min_p(self, p: f32, min_keep: usize) -> Self {
        self.plain(|_| {
            let p = share("min_p", "p", p)?;
            Ok(PlainSampler::MinP { p, min_keep })
        })
    }

    /// Keeps the tokens whose probability is nearest to what is to be expected and that
    /// together have the probability `p`, but at least `min_keep`; 1 keeps all.
    ///
    /// Rests on `llama_sampler_init_typical`.
    #[doc(alias = "--typical")]
    pub fn typical(self, p: f32, min_keep: usize) -> Self {
        self.plain(|_| {
            let p = share("typical", "p", p)?;
            Ok(PlainSampler::Typical { p, min_keep })
        })
    }

    /// Divides the logits by the temperature `t`. 0 rules out all but the most likely
    /// token.
    ///
    /// Rests on `llama_sampler_init_temp`.
    #[doc(alias = "--temp")]
    pub fn temp(self, t: f32) -> Self {
        self.plain(|_| {
            let t = temperature("temp", "t", t)?;
            Ok(PlainSampler::Temp { t })
        })
    }

    /// A temperature between `t - delta` and `t + delta`: the less certain the model, the
    /// higher. The uncertainty, 0 to 1, is raised to the power of `exponent`.
    ///
    /// Rests on `llama_sampler_init_temp_ext`.
    #[doc(alias = "--dynatemp-range")]
    #[doc(alias = "--dynatemp-exp")]
    pub fn temp_ext(self, t: f32, delta: f32, exponent: f32) -> Self {
        self.plain(|_| {
            Ok(PlainSampler::TempExt {
                t: temperature("temp_ext", "t", t)?,
                delta: temperature("temp_ext", "delta", delta)?,
                exponent: at_least_zero("temp_ext", "exponent", exponent)?,
            })
        })
    }

    /// With the probability `p`, drops the tokens that have at least the probability `t`,
    /// the least likely of them excepted, if `min_keep` are left: XTC, exclude top choices.
    /// A `t` above 0.5 or a `p` of 0 switches it off.
    ///
    /// Rests on `llama_sampler_init_xtc`.
    #[doc(alias = "--xtc-probability")]
    #[doc(alias = "--xtc-threshold")]
    pub fn xtc(self, p: f32, t: f32, min_keep: usize, seed: impl Into<Seed>) -> Self {
        self.plain(|chain| {
            Ok(PlainSampler::Xtc {
                p: share("xtc", "p", p)?,
                t: share("xtc", "t", t)?,
                min_keep,
                seed: chain.seed("xtc", seed.into())?,
            })
        })
    }

    /// Rules out the tokens whose logit is more than `n` standard deviations below the
    /// highest; 0 keeps all.
    ///
    /// Rests on `llama_sampler_init_top_n_sigma`.
    #[doc(alias = "--top-nsigma")]
    pub fn top_n_sigma(self, n: f32) -> Self {
        self.plain(|_| {
            let n = at_least_zero("top_n_sigma", "n", n)?;
            Ok(PlainSampler::TopNSigma { n })
        })
    }

    /// Makes tokens less likely that are among the last `last_n` accepted. Logits are
    /// divided by `repeat` if positive, else multiplied, 1 changing nothing; then `freq` is
    /// taken away for each time and `present` once.
    ///
    /// Rests on `llama_sampler_init_penalties`.
    #[doc(alias = "--repeat-penalty")]
    #[doc(alias = "--frequency-penalty")]
    #[doc(alias = "--presence-penalty")]
    #[doc(alias = "--repeat-last-n")]
    pub fn penalties(self, last_n: u32, repeat: f32, freq: f32, present: f32) -> Self {
        self.stage(|_| {
            let last_n = look_back("penalties", last_n)?;
            if !(repeat.is_finite() && repeat > 0.0) {
                let reason = "a factor is above 0 and finite";
                return Err(parameter("penalties", "repeat", repeat, reason).into());
            }
            let freq = finite("penalties", "freq", freq)?;
            let present = finite("penalties", "present", present)?;
            SamplerHandle::penalties(last_n, repeat, freq, present).map(Stage::Native)
        })
    }

    /// Makes tokens less likely that would go on with a repetition: DRY, don't repeat
    /// yourself. Made once by looking through the whole vocabulary for each breaker.
    ///
    /// Rests on `llama_sampler_init_dry`.
    #[doc(alias = "--dry-multiplier")]
    pub fn dry(self, vocab: &Vocab, params: DryParams) -> Self {
        self.stage(|chain| {
            chain.use_vocab(vocab)?;
            let multiplier = at_least_zero("dry", "multiplier", params.multiplier)?;
            if !(params.base.is_finite() && params.base >= 1.0) {
                let reason = "the base of a growing penalty is at least 1 and finite";
                return Err(parameter("dry", "base", params.base, reason).into());
            }
            let allowed_length = whole("dry", "allowed_length", params.allowed_length)?;
            let last_n = look_back("dry", params.last_n)?;
            let breakers = params.breakers.iter().map(|text| breaker(text));
            let breakers: Vec<CString> = breakers.collect::<Result<_>>()?;
            check_breaker_count(&breakers)?;
            let model = vocab.model().handle();
            let base = params.base;
            SamplerHandle::dry(model, multiplier, base, allowed_length, last_n, &breakers)
                .map(Stage::Native)
        })
    }

    /// Adds to the logits of these tokens; -infinity rules a token out.
    ///
    /// Rests on `llama_sampler_init_logit_bias`.
    #[doc(alias = "--logit-bias")]
    pub fn logit_bias(self, vocab: &Vocab, biases: &[(Token, f32)]) -> Self {
        self.stage(|chain| {
            chain.use_vocab(vocab)?;
            for &(token, bias) in biases {
                vocab.check(token)?;
                if bias.is_nan() || bias == f32::INFINITY {
                    let reason = "a bias is finite, or -infinity";
                    return Err(parameter("logit_bias", "bias", bias, reason).into());
                }
            }
            let handle = SamplerHandle::logit_bias(vocab.model().handle(), biases)?;
            if chain.is_biasing() {
                chain.biases.extend_from_slice(biases);
                chain.n_biasing += 1;
            }
            Ok(Stage::Native(handle))
        })
    }

    /// For filling a gap in a text: joins tokens that begin alike, drops unlikely ones, and
    /// ends when nothing likely is left. Compares every two candidates, so put it after
    /// [`top_k`](Self::top_k) and [`top_p`](Self::top_p).
    ///
    /// Rests on `llama_sampler_init_infill`.
    pub fn infill(self, vocab: &Vocab) -> Self {
        self.stage(|chain| {
            chain.use_vocab(vocab)?;
            if vocab.eot().or(vocab.eos()).is_none() {
                return Err(SamplerError::NoEndToken.into());
            }
            SamplerHandle::infill(vocab.model().handle()).map(Stage::Native)
        })
    }

    /// A sampler of your own.
    pub fn custom(self, sampler: impl CustomSampler + 'static) -> Self {
        self.stage(|_| Ok(Stage::Rust(Box::new(sampler))))
    }

    /// A closure that changes the candidates: a [`CustomSampler`] without `accept`, that
    /// cannot be copied.
    pub fn custom_fn(
        self,
        name: impl Into<String>,
        apply: impl FnMut(&mut Candidates) + Send + 'static,
    ) -> Self {
        self.custom(Named {
            name: name.into(),
            function: apply,
        })
    }

    /// Ends with the most likely token.
    ///
    /// Rests on `llama_sampler_init_greedy`.
    ///
    /// # Errors
    /// The first mistake in the chain.
    pub fn greedy(mut self) -> Result<Sampler> {
        let biases = mem::take(&mut self.biases);
        let greedy = self.is_biasing().then(|| Greedy::new(biases));
        let mut sampler = self.end(|_| native(PlainSampler::Greedy))?;
        sampler.greedy = greedy;
        Ok(sampler)
    }

    /// Whether all it does so far is to add biases.
    fn is_biasing(&self) -> bool {
        self.n_biasing == self.stages.len()
    }

    /// Ends with a token drawn by probability.
    ///
    /// Rests on `llama_sampler_init_dist`.
    ///
    /// # Errors
    /// The first mistake in the chain, this end included.
    #[doc(alias = "--seed")]
    pub fn dist(self, seed: impl Into<Seed>) -> Result<Sampler> {
        self.end(|chain| {
            let seed = chain.seed("dist", seed.into())?;
            native(PlainSampler::Dist { seed })
        })
    }

    /// Ends with a token drawn so that the text keeps the surprise `tau`, in bits per
    /// token, learning at the rate `eta`; `m` tokens, usually 100, serve to estimate how
    /// probabilities fall off.
    ///
    /// Rests on `llama_sampler_init_mirostat`.
    ///
    /// # Errors
    /// The first mistake in the chain, this end included.
    #[doc(alias = "--mirostat")]
    #[doc(alias = "--mirostat-ent")]
    #[doc(alias = "--mirostat-lr")]
    pub fn mirostat(
        self,
        vocab: &Vocab,
        seed: impl Into<Seed>,
        tau: f32,
        eta: f32,
        m: u32,
    ) -> Result<Sampler> {
        self.end(|chain| {
            chain.use_vocab(vocab)?;
            let n_vocab = whole("mirostat", "n_vocab", vocab.n_tokens())?;
            if m < 2 {
                let reason = "estimating a slope takes at least 2 tokens";
                return Err(parameter("mirostat", "m", m, reason).into());
            }
            native(PlainSampler::Mirostat {
                n_vocab,
                seed: chain.seed("mirostat", seed.into())?,
                tau: at_least_zero("mirostat", "tau", tau)?,
                eta: at_least_zero("mirostat", "eta", eta)?,
                m: whole("mirostat", "m", m)?,
            })
        })
    }

    /// As [`mirostat`](Self::mirostat), in the simpler second version.
    ///
    /// Rests on `llama_sampler_init_mirostat_v2`.
    ///
    /// # Errors
    /// The first mistake in the chain, this end included.
    #[doc(alias = "--mirostat")]
    pub fn mirostat_v2(self, seed: impl Into<Seed>, tau: f32, eta: f32) -> Result<Sampler> {
        self.end(|chain| {
            native(PlainSampler::MirostatV2 {
                seed: chain.seed("mirostat_v2", seed.into())?,
                tau: at_least_zero("mirostat_v2", "tau", tau)?,
                eta: at_least_zero("mirostat_v2", "eta", eta)?,
            })
        })
    }

    /// Ends with a token drawn so that the chosen tokens' probabilities average `target`,
    /// over about `1 / (1 - decay)` tokens; `decay` is 0 to 0.99. Best after a
    /// [`min_p`](Self::min_p) alone.
    ///
    /// A copy of such a sampler starts from the seed again, with the average it has.
    ///
    /// Rests on `llama_sampler_init_adaptive_p`.
    ///
    /// # Errors
    /// The first mistake in the chain, this end included.
    #[doc(alias = "--adaptive-target")]
    #[doc(alias = "--adaptive-decay")]
    pub fn adaptive_p(self, target: f32, decay: f32, seed: impl Into<Seed>) -> Result<Sampler> {
        self.end(|chain| {
            if !(0.0..=0.99).contains(&decay) {
                let reason = "a decay is 0 to 0.99";
                return Err(parameter("adaptive_p", "decay", decay, reason).into());
            }
            native(PlainSampler::AdaptiveP {
                target: share("adaptive_p", "target", target)?,
                decay,
                seed: chain.seed("adaptive_p", seed.into())?,
            })
        })
    }

    /// Ends with a sampler of your own.
    ///
    /// # Errors
    /// The first mistake in the chain.
    pub fn select_with(self, sampler: impl SelectingSampler + 'static) -> Result<Sampler> {
        self.end(|_| Ok(Selector::Rust(Box::new(sampler))))
    }

    /// Ends with a closure that returns the index of its choice: a [`SelectingSampler`]
    /// without `accept`, that cannot be copied.
    ///
    /// # Errors
    /// The first mistake in the chain.
    pub fn select_fn(
        self,
        name: impl Into<String>,
        select: impl FnMut(&mut Candidates) -> usize + Send + 'static,
    ) -> Result<Sampler> {
        self.select_with(Named {
            name: name.into(),
            function: select,
        })
    }

    /// Adds what `make` makes, unless there is an error already.
    pub(super) fn stage(mut self, make: impl FnOnce(&mut Self) -> Result<Stage>) -> Self {
        if self.error.is_none() {
            match make(&mut self) {
                Ok(stage) => self.stages.push(stage),
                Err(error) => self.error = Some(error),
            }
        }
        self
    }

    fn plain(self, make: impl FnOnce(&mut Self) -> Result<PlainSampler>) -> Self {
        self.stage(|chain| SamplerHandle::plain(make(chain)?).map(Stage::Native))
    }

    fn end(mut self, make: impl FnOnce(&mut Self) -> Result<Selector>) -> Result<Sampler> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let selector = make(&mut self)?;
        Ok(Sampler::new(self.stages, selector, self.vocab, self.seed))
    }

    /// Remembers the vocabulary that a sampler of the chain is for; there can be one.
    pub(super) fn use_vocab(&mut self, vocab: &Vocab) -> Result<()> {
        vocab.require()?;
        match &self.vocab {
            Some(known) if !known.is_same(vocab) => {
                Err(SamplerError::other_vocabulary(known, vocab.model()).into())
            }
            _ => {
                self.vocab = Some(vocab.clone());
                Ok(())
            }
        }
    }

    fn seed(&mut self, sampler: &'static str, seed: Seed) -> Result<u32, SamplerError> {
        let seed = seed.resolve(sampler)?;
        self.seed = Some(seed);
        Ok(seed)
    }
}

fn native(sampler: PlainSampler) -> Result<Selector> {
    SamplerHandle::plain(sampler).map(Selector::Native)
}

fn parameter(
    sampler: &'static str,
    parameter: &'static str,
    value: impl ToString,
    reason: &'static str,
) -> SamplerError {
    SamplerError::Parameter {
        sampler,
        parameter,
        value: value.to_string(),
        reason,
    }
}

fn share(sampler: &'static str, name: &'static str, value: f32) -> Result<f32, SamplerError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(parameter(sampler, name, value, "a probability is 0 to 1"))
}

fn temperature(sampler: &'static str, name: &'static str, value: f32) -> Result<f32, SamplerError> {
    at_least_zero(sampler, name, value).map_err(|_| {
        let reason = "a temperature is at least 0 and finite";
        parameter(sampler, name, value, reason)
    })
}

fn at_least_zero(
    sampler: &'static str,
    name: &'static str,
    value: f32,
) -> Result<f32, SamplerError> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(parameter(
        sampler,
        name,
        value,
        "it is at least 0 and finite",
    ))
}

fn finite(sampler: &'static str, name: &'static str, value: f32) -> Result<f32, SamplerError> {
    if value.is_finite() {
        return Ok(value);
    }
    Err(parameter(sampler, name, value, "it is finite"))
}

fn whole(sampler: &'static str, name: &'static str, value: u32) -> Result<i32, SamplerError> {
    i32::try_from(value)
        .map_err(|_| parameter(sampler, name, value, "llama.cpp takes at most 2147483647"))
}

fn look_back(sampler: &'static str, last_n: u32) -> Result<i32, SamplerError> {
    if last_n > MAX_LAST_N {
        let reason = "memory is set aside for each token, so there can be at most 16777216";
        return Err(parameter(sampler, "last_n", last_n, reason));
    }
    whole(sampler, "last_n", last_n)
}

/// llama.cpp skips an empty one and cuts off a long one.
fn breaker(text: &str) -> Result<CString> {
    if (1..=40).contains(&text.len()) {
        return c_string("sequence breaker", text);
    }
    let value = format!("{text:?}");
    Err(parameter("dry", "breakers", value, "a breaker has 1 to 40 bytes").into())
}

/// llama.cpp ignores the distinct breakers beyond its limit, with a warning only.
fn check_breaker_count(breakers: &[CString]) -> Result<(), SamplerError> {
    let n = breakers.iter().collect::<HashSet<_>>().len();
    if n as u64 <= u64::from(sys::LLAMA_DRY_MAX_SEQ_BREAKERS) {
        return Ok(());
    }
    let reason = "llama.cpp takes at most 64 distinct breakers: pass fewer";
    Err(parameter("dry", "breakers", n, reason))
}
