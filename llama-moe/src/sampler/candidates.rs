//! The tokens a sampler chooses from.

use super::SamplerError;
use crate::model::Token;

/// One token that may be chosen.
///
/// Laid out as `llama_token_data`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: Token,
    /// The model's logit, as the samplers so far have left it. -infinity rules the token
    /// out.
    pub logit: f32,
    /// Its probability, as the last sampler that needed probabilities left it, else 0;
    /// [`Candidates::softmax`] computes it anew.
    pub p: f32,
}

/// The tokens that may be chosen, in the order the samplers so far have left.
///
/// Samplers narrow them down: they change logits, drop candidates, or sort them. After a
/// sampler has run, its chain sees to it that a candidate is left and that logits are
/// numbers; a sampler that leaves anything else is named in the error.
///
/// Rests on `llama_token_data_array`.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    data: Vec<Candidate>,
    selected: Option<usize>,
    sorted: bool,
}

impl Candidates {
    /// Candidates with these logits.
    pub fn new(logits: impl IntoIterator<Item = (Token, f32)>) -> Self {
        let data = logits.into_iter().map(|(token, logit)| Candidate {
            token,
            logit,
            p: 0.0,
        });
        Self {
            data: data.collect(),
            selected: None,
            sorted: false,
        }
    }

    /// The whole vocabulary, with the logits that a context returns.
    #[must_use]
    pub fn from_logits(logits: &[f32]) -> Self {
        let mut candidates = Self::new([]);
        candidates.refill(logits);
        candidates
    }

    /// As [`from_logits`](Self::from_logits), in the memory at hand.
    pub(super) fn refill(&mut self, logits: &[f32]) {
        self.data.clear();
        self.data
            .extend((0..).zip(logits).map(|(id, &logit)| Candidate {
                token: Token(id),
                logit,
                p: 0.0,
            }));
        self.sorted = false;
        self.selected = None;
    }

    /// The candidates.
    #[must_use]
    pub fn as_slice(&self) -> &[Candidate] {
        &self.data
    }

    /// The candidates one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Candidate> {
        self.data.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Whether they are known to be sorted by logit, the highest first.
    #[must_use]
    pub fn is_sorted(&self) -> bool {
        self.sorted
    }

    /// The candidate that was chosen, if the last sampler was one that chooses.
    #[must_use]
    pub fn selected(&self) -> Option<Candidate> {
        self.selected
            .and_then(|index| self.data.get(index))
            .copied()
    }

    /// Gives the candidate at `index` another logit.
    ///
    /// # Errors
    /// [`SamplerError::NoCandidate`] if there is no such candidate.
    pub fn set_logit(&mut self, index: usize, logit: f32) -> Result<(), SamplerError> {
        let len = self.len();
        let Some(candidate) = self.data.get_mut(index) else {
            return Err(SamplerError::NoCandidate { index, len });
        };
        candidate.logit = logit;
        self.changed();
        Ok(())
    }

    /// Gives every candidate another logit.
    pub fn map_logits(&mut self, mut logit: impl FnMut(&Candidate) -> f32) {
        for candidate in &mut self.data {
            candidate.logit = logit(candidate);
        }
        self.changed();
    }

    /// Keeps the candidates for which `keep` returns true.
    pub fn retain(&mut self, keep: impl FnMut(&Candidate) -> bool) {
        self.selected = None;
        self.data.retain(keep);
    }

    /// Keeps the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.selected = None;
        self.data.truncate(len);
    }

    /// Sorts by logit, the highest first.
    pub fn sort(&mut self) {
        self.selected = None;
        if !self.sorted {
            self.data.sort_by(|a, b| b.logit.total_cmp(&a.logit));
            self.sorted = true;
        }
    }

    /// Computes the probabilities from the logits, one of which at least must not be
    /// -infinity.
    pub fn softmax(&mut self) {
        let max = self
            .data
            .iter()
            .map(|candidate| candidate.logit)
            .fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for candidate in &mut self.data {
            candidate.p = (candidate.logit - max).exp();
            sum += candidate.p;
        }
        for candidate in &mut self.data {
            candidate.p /= sum;
        }
    }

    pub(super) fn select(&mut self, index: usize) {
        self.selected = Some(index);
    }

    /// What a sampler of llama.cpp works on: the candidates, and whether they are sorted.
    pub(super) fn parts(&mut self) -> (&mut Vec<Candidate>, &mut bool) {
        self.selected = None;
        (&mut self.data, &mut self.sorted)
    }

    /// Holds what `sampler` has left against what the next one relies on. Some of
    /// llama.cpp's samplers leave `sorted` set though they have changed the order.
    pub(super) fn check(
        &mut self,
        sampler: impl Fn() -> Option<String>,
    ) -> Result<(), SamplerError> {
        let mut any = false;
        for &Candidate { token, logit, .. } in &self.data {
            if logit.is_nan() || logit == f32::INFINITY {
                return Err(SamplerError::Logit {
                    sampler: sampler(),
                    token,
                    logit,
                });
            }
            any |= logit > f32::NEG_INFINITY;
        }
        if !any {
            return Err(SamplerError::NoCandidates { sampler: sampler() });
        }
        self.sorted = self.sorted && self.data.is_sorted_by(|a, b| a.logit >= b.logit);
        Ok(())
    }

    /// Drops the candidates that are ruled out.
    pub(super) fn drop_ruled_out(&mut self) {
        self.retain(|candidate| candidate.logit > f32::NEG_INFINITY);
    }

    fn changed(&mut self) {
        self.sorted = false;
        self.selected = None;
    }
}

impl<'a> IntoIterator for &'a Candidates {
    type Item = &'a Candidate;
    type IntoIter = std::slice::Iter<'a, Candidate>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
