//! llama.cpp's samplers, one by one.

use std::ffi::{CStr, CString, c_char};
use std::mem::offset_of;
use std::ptr::{self, NonNull};

use llama_sys as sys;

use super::call::{Failure, guarded};
use super::model::ModelHandle;
use super::text;
use crate::error::{FailureKind, Result};
use crate::model::Token;
use crate::sampler::Candidate;

/// A sampler, freed on drop. Grammar and infill keep a pointer to the vocabulary of the
/// model they were made with: whoever holds such a sampler holds the model too, and
/// drops it later.
#[derive(Debug)]
pub(crate) struct SamplerHandle(NonNull<sys::llama_sampler>);

// SAFETY: llama.cpp's samplers are not tied to a thread; all calls that change one
// take `&mut self`.
unsafe impl Send for SamplerHandle {}

/// A sampler that is made from plain numbers, without a guard: these allocate a few bytes
/// and do nothing else. Seeds are never `LLAMA_DEFAULT_SEED`, which would ask for
/// randomness and may throw.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PlainSampler {
    Greedy,
    Dist {
        seed: u32,
    },
    TopK {
        k: i32,
    },
    TopP {
        p: f32,
        min_keep: usize,
    },
    MinP {
        p: f32,
        min_keep: usize,
    },
    Typical {
        p: f32,
        min_keep: usize,
    },
    Temp {
        t: f32,
    },
    TempExt {
        t: f32,
        delta: f32,
        exponent: f32,
    },
    Xtc {
        p: f32,
        t: f32,
        min_keep: usize,
        seed: u32,
    },
    TopNSigma {
        n: f32,
    },
    Mirostat {
        n_vocab: i32,
        seed: u32,
        tau: f32,
        eta: f32,
        m: i32,
    },
    MirostatV2 {
        seed: u32,
        tau: f32,
        eta: f32,
    },
    AdaptiveP {
        target: f32,
        decay: f32,
        seed: u32,
    },
}

impl SamplerHandle {
    pub(crate) fn plain(sampler: PlainSampler) -> Result<Self> {
        // SAFETY: plain numbers, of which any is safe; each returns a new sampler.
        let raw = unsafe {
            match sampler {
                PlainSampler::Greedy => sys::llama_sampler_init_greedy(),
                PlainSampler::Dist { seed } => sys::llama_sampler_init_dist(seed),
                PlainSampler::TopK { k } => sys::llama_sampler_init_top_k(k),
                PlainSampler::TopP { p, min_keep } => sys::llama_sampler_init_top_p(p, min_keep),
                PlainSampler::MinP { p, min_keep } => sys::llama_sampler_init_min_p(p, min_keep),
                PlainSampler::Typical { p, min_keep } => {
                    sys::llama_sampler_init_typical(p, min_keep)
                }
                PlainSampler::Temp { t } => sys::llama_sampler_init_temp(t),
                PlainSampler::TempExt { t, delta, exponent } => {
                    sys::llama_sampler_init_temp_ext(t, delta, exponent)
                }
                PlainSampler::Xtc {
                    p,
                    t,
                    min_keep,
                    seed,
                } => sys::llama_sampler_init_xtc(p, t, min_keep, seed),
                PlainSampler::TopNSigma { n } => sys::llama_sampler_init_top_n_sigma(n),
                PlainSampler::Mirostat {
                    n_vocab,
                    seed,
                    tau,
                    eta,
                    m,
                } => sys::llama_sampler_init_mirostat(n_vocab, seed, tau, eta, m),
                PlainSampler::MirostatV2 { seed, tau, eta } => {
                    sys::llama_sampler_init_mirostat_v2(seed, tau, eta)
                }
                PlainSampler::AdaptiveP {
                    target,
                    decay,
                    seed,
                } => sys::llama_sampler_init_adaptive_p(target, decay, seed),
            }
        };
        Self::new(raw).map_err(|failure| failure.of("llama_sampler_init"))
    }

    /// The penalties; `last_n` is at most `i32::MAX`.
    pub(crate) fn penalties(last_n: i32, repeat: f32, freq: f32, present: f32) -> Result<Self> {
        // The size of the vocabulary matters on a device only, where this crate runs none.
        let n_vocab = i32::MAX;
        Self::guarded(|sampler, error| {
            // SAFETY: plain numbers, out-parameters of the caller's frame.
            unsafe {
                sys::llama_shim_sampler_init_penalties(
                    n_vocab, last_n, repeat, freq, present, sampler, error,
                )
            }
        })
        .map_err(|failure| failure.of("llama_sampler_init_penalties"))
    }

    pub(crate) fn dry(
        model: &ModelHandle,
        multiplier: f32,
        base: f32,
        allowed_length: i32,
        last_n: i32,
        breakers: &[CString],
    ) -> Result<Self> {
        let breakers = pointers(breakers);
        Self::guarded(|sampler, error| {
            // SAFETY: a live vocabulary, needed during the call only; an array of
            // NUL-terminated texts with its length; out-parameters of the caller's frame.
            unsafe {
                sys::llama_shim_sampler_init_dry(
                    model.vocab(),
                    multiplier,
                    base,
                    allowed_length,
                    last_n,
                    breakers.as_ptr(),
                    breakers.len(),
                    sampler,
                    error,
                )
            }
        })
        .map_err(|failure| failure.of("llama_sampler_init_dry"))
    }

    pub(crate) fn logit_bias(model: &ModelHandle, biases: &[(Token, f32)]) -> Result<Self> {
        let biases: Vec<sys::llama_logit_bias> = biases
            .iter()
            .map(|&(token, bias)| sys::llama_logit_bias {
                token: token.0,
                bias,
            })
            .collect();
        Self::guarded(|sampler, error| {
            // SAFETY: an array with its length, copied during the call; out-parameters of
            // the caller's frame.
            unsafe {
                sys::llama_shim_sampler_init_logit_bias(
                    model.n_tokens(),
                    biases.as_ptr(),
                    biases.len(),
                    sampler,
                    error,
                )
            }
        })
        .map_err(|failure| failure.of("llama_sampler_init_logit_bias"))
    }

    /// The caller holds the model as long as the sampler.
    pub(crate) fn infill(model: &ModelHandle) -> Result<Self> {
        Self::guarded(|sampler, error| {
            // SAFETY: a vocabulary that outlives the sampler, as the caller sees to;
            // out-parameters of the caller's frame.
            unsafe { sys::llama_shim_sampler_init_infill(model.vocab(), sampler, error) }
        })
        .map_err(|failure| failure.of("llama_sampler_init_infill"))
    }

    /// The caller holds the model as long as the sampler.
    pub(crate) fn grammar(
        model: &ModelHandle,
        grammar: &CStr,
        root: &CStr,
    ) -> Result<Self, Failure> {
        Self::guarded(|sampler, error| {
            // SAFETY: NUL-terminated texts, copied during the call; a vocabulary that
            // outlives the sampler, as the caller sees to; out-parameters of the caller's
            // frame.
            unsafe {
                sys::llama_shim_sampler_init_grammar(
                    model.vocab(),
                    grammar.as_ptr(),
                    root.as_ptr(),
                    sampler,
                    error,
                )
            }
        })
    }

    /// The caller holds the model as long as the sampler.
    pub(crate) fn grammar_lazy(
        model: &ModelHandle,
        grammar: &CStr,
        root: &CStr,
        patterns: &[CString],
        tokens: &[Token],
    ) -> Result<Self, Failure> {
        let patterns = pointers(patterns);
        Self::guarded(|sampler, error| {
            // SAFETY: NUL-terminated texts and arrays with their lengths, copied during the
            // call; `Token` is laid out as llama.cpp's; a vocabulary that outlives the
            // sampler, as the caller sees to; out-parameters of the caller's frame.
            unsafe {
                sys::llama_shim_sampler_init_grammar_lazy_patterns(
                    model.vocab(),
                    grammar.as_ptr(),
                    root.as_ptr(),
                    patterns.as_ptr(),
                    patterns.len(),
                    tokens.as_ptr().cast(),
                    tokens.len(),
                    sampler,
                    error,
                )
            }
        })
    }

    /// Applies the sampler to candidates, of which there is at least one, and returns the
    /// index of the one it chose, if it is one that chooses.
    pub(crate) fn apply(
        &mut self,
        candidates: &mut Vec<Candidate>,
        sorted: &mut bool,
    ) -> Result<Option<usize>> {
        let base = candidates.as_mut_ptr();
        let len = candidates.len();
        let mut array = sys::llama_token_data_array {
            data: base.cast(),
            size: len,
            selected: -1,
            sorted: *sorted,
        };
        guarded(|error| {
            // SAFETY: a live sampler, used by this call alone; an array of `size` elements
            // that `Candidate` is laid out as, none of them referred to elsewhere; no
            // candidates at all are refused.
            unsafe { sys::llama_shim_sampler_apply(self.0.as_ptr(), &mut array, error) }
        })
        .map_err(|failure| failure.of("llama_sampler_apply"))?;
        *sorted = array.sorted;

        // A sampler may move the beginning, as xtc does, and the end.
        let start = (array.data.addr().wrapping_sub(base.addr())) / size_of::<Candidate>();
        let end = start.checked_add(array.size).filter(|&end| end <= len);
        let Some(end) = end else {
            let failure = Failure {
                kind: FailureKind::Failed,
                reason: "the sampler returned candidates that it was not given".to_owned(),
            };
            return Err(failure.of("llama_sampler_apply"));
        };
        candidates.truncate(end);
        candidates.drain(..start);
        Ok(usize::try_from(array.selected).ok())
    }

    /// Whether a grammar sampler allows this token now; a sampler that changes no logits
    /// allows all. Candidates are all that applying a grammar changes.
    pub(crate) fn allows(&mut self, token: Token) -> Result<bool> {
        let mut candidate = vec![Candidate {
            token,
            logit: 0.0,
            p: 0.0,
        }];
        self.apply(&mut candidate, &mut false)?;
        Ok(candidate
            .iter()
            .all(|candidate| candidate.logit > f32::NEG_INFINITY))
    }

    pub(crate) fn accept(&mut self, token: Token) -> Result<()> {
        guarded(|error| {
            // SAFETY: a live sampler, used by this call alone.
            unsafe { sys::llama_shim_sampler_accept(self.0.as_ptr(), token.0, error) }
        })
        .map_err(|failure| failure.of("llama_sampler_accept"))
    }

    pub(crate) fn reset(&mut self) -> Result<()> {
        guarded(|error| {
            // SAFETY: a live sampler, used by this call alone.
            unsafe { sys::llama_shim_sampler_reset(self.0.as_ptr(), error) }
        })
        .map_err(|failure| failure.of("llama_sampler_reset"))
    }

    /// A copy, which keeps a pointer to the vocabulary where the original does.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        Self::guarded(|sampler, error| {
            // SAFETY: a live sampler, which cloning only reads.
            unsafe { sys::llama_shim_sampler_clone(self.0.as_ptr(), sampler, error) }
        })
        .map_err(|failure| failure.of("llama_sampler_clone"))
    }

    pub(crate) fn name(&self) -> String {
        // SAFETY: a live sampler of llama.cpp, all of which have a name.
        text::owned(unsafe { sys::llama_sampler_name(self.0.as_ptr()) })
    }

    fn guarded(
        call: impl FnOnce(*mut *mut sys::llama_sampler, *mut *mut c_char) -> sys::llama_shim_status,
    ) -> Result<Self, Failure> {
        let mut sampler = ptr::null_mut();
        guarded(|error| call(&mut sampler, error))?;
        Self::new(sampler)
    }

    fn new(sampler: *mut sys::llama_sampler) -> Result<Self, Failure> {
        NonNull::new(sampler).map(Self).ok_or_else(|| Failure {
            kind: FailureKind::Failed,
            reason: "no sampler was returned".to_owned(),
        })
    }
}

impl Drop for SamplerHandle {
    fn drop(&mut self) {
        // SAFETY: owned, freed once; freeing does not look at the vocabulary.
        let _ = guarded(|error| unsafe { sys::llama_shim_sampler_free(self.0.as_ptr(), error) });
    }
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).collect()
}

// `Candidate` stands for `llama_token_data`.
const _: () = {
    assert!(size_of::<Candidate>() == size_of::<sys::llama_token_data>());
    assert!(align_of::<Candidate>() == align_of::<sys::llama_token_data>());
    assert!(offset_of!(Candidate, token) == offset_of!(sys::llama_token_data, id));
    assert!(offset_of!(Candidate, logit) == offset_of!(sys::llama_token_data, logit));
    assert!(offset_of!(Candidate, p) == offset_of!(sys::llama_token_data, p));
};
