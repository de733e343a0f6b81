//! How uneven routing is, and how soon experts come back.

use serde::Serialize;

use super::reuse::Recency;
use super::trace::{Phase, RoutedLayer, RoutingTrace};

/// How a trace's tokens use the experts of each layer; from [`RoutingTrace::analysis`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RoutingAnalysis {
    /// The phase that was looked at; `None` for all.
    pub phase: Option<Phase>,
    /// Experts that each router chooses from.
    pub n_expert: u32,
    /// Each layer, in the order of computation.
    pub layers: Vec<LayerAnalysis>,
}

/// How tokens use the experts of one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LayerAnalysis {
    /// The layer's number in the model.
    pub layer: u32,
    /// Experts that each token uses.
    pub n_expert_used: u32,
    /// Tokens that were computed.
    pub n_tokens: u64,
    /// Uses of each expert.
    pub counts: Vec<u64>,
    /// The entropy of the uses, divided by that of even use: 1 if all experts are used alike, 0
    /// if one is used alone. `None` without tokens or with a single expert.
    pub entropy: Option<f64>,
    /// The shares of the experts used most: as many as a token uses, an eighth, a quarter and
    /// half of all.
    pub top: Vec<TopShare>,
    /// Experts that a token shares with the token computed before it, as a share of
    /// `n_expert_used`. `None` with fewer than two tokens.
    pub overlap: Option<f64>,
    /// The overlap that routing at random would have.
    pub uniform_overlap: f64,
    /// How soon experts come back.
    pub reuse: Reuse,
}

/// The share of all uses that the experts used most have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TopShare {
    /// How many experts.
    pub n_experts: u32,
    /// Their share of the uses, from 0 to 1; 0 without tokens.
    pub share: f64,
    /// Their share if all experts were used alike.
    pub uniform: f64,
}

/// How soon experts come back, in the distance between two uses of an expert: the number of
/// other experts of the layer that the tokens in between used. An expert that two tokens in
/// succession use has distance 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Reuse {
    /// Experts that were used at all. Their first uses have no distance.
    pub first_uses: u64,
    /// Uses by distance, from 0 to one below the number of experts.
    pub distances: Vec<u64>,
}

impl RoutingTrace {
    /// How tokens use the experts of each layer: those of one phase, or all of them.
    ///
    /// Tokens follow each other in the order of computation. Where a micro-batch has tokens of
    /// several sequences, neighbours in it are not neighbours in a text.
    #[must_use]
    pub fn analysis(&self, phase: Option<Phase>) -> RoutingAnalysis {
        let layers = self
            .layers
            .iter()
            .map(|layer| Tally::new(*layer, self.n_expert));
        let mut layers: Vec<Tally> = layers.collect();
        let batches = self.micro_batches();
        for batch in batches.filter(|batch| phase.is_none_or(|of| of == batch.phase())) {
            for (tally, routing) in layers.iter_mut().zip(batch.layers()) {
                for experts in routing.tokens() {
                    tally.add(experts);
                }
            }
        }
        RoutingAnalysis {
            phase,
            n_expert: self.n_expert,
            layers: layers.into_iter().map(Tally::finish).collect(),
        }
    }
}

/// A layer that is being counted.
struct Tally {
    layer: RoutedLayer,
    n_tokens: u64,
    counts: Vec<u64>,
    recency: Recency,
    before: Vec<u16>,
    shared: u64,
}

impl Tally {
    fn new(layer: RoutedLayer, n_expert: u32) -> Self {
        Self {
            layer,
            n_tokens: 0,
            counts: vec![0; n_expert as usize],
            recency: Recency::new(n_expert as usize),
            before: Vec::new(),
            shared: 0,
        }
    }

    fn add(&mut self, experts: &[u16]) {
        self.n_tokens += 1;
        for &expert in experts {
            self.counts[expert as usize] += 1;
        }
        let shared = experts.iter().filter(|expert| self.before.contains(expert));
        self.shared += shared.count() as u64;
        self.before.clear();
        self.before.extend_from_slice(experts);
        self.recency.use_together(experts);
    }

    fn finish(self) -> LayerAnalysis {
        let (n_used, n_expert) = (self.layer.n_expert_used, self.counts.len() as u32);
        let mut sorted = self.counts.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let uses: u64 = sorted.iter().sum();
        let mut numbers = vec![n_used, n_expert / 8, n_expert / 4, n_expert / 2];
        numbers.retain(|&n| n > 0);
        numbers.sort_unstable();
        numbers.dedup();
        let top = numbers.into_iter().map(|n| {
            let most: u64 = sorted[..n as usize].iter().sum();
            TopShare {
                n_experts: n,
                share: ratio(most, uses).unwrap_or(0.0),
                uniform: f64::from(n) / f64::from(n_expert),
            }
        });
        let pairs = self
            .n_tokens
            .saturating_sub(1)
            .saturating_mul(n_used.into());
        LayerAnalysis {
            layer: self.layer.layer,
            n_expert_used: n_used,
            n_tokens: self.n_tokens,
            entropy: entropy(&sorted, uses),
            top: top.collect(),
            overlap: ratio(self.shared, pairs),
            uniform_overlap: f64::from(n_used) / f64::from(n_expert),
            reuse: self.recency.finish(),
            counts: self.counts,
        }
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn entropy(counts: &[u64], uses: u64) -> Option<f64> {
    if uses == 0 || counts.len() < 2 {
        return None;
    }
    let shares = counts.iter().filter(|&&count| count > 0);
    let nats: f64 = shares
        .map(|&count| {
            let share = count as f64 / uses as f64;
            -share * share.ln()
        })
        .sum();
    Some((nats / (counts.len() as f64).ln()).clamp(0.0, 1.0))
}

impl RoutingAnalysis {
    /// The mean of the layers' [`entropy`](LayerAnalysis::entropy).
    #[must_use]
    pub fn mean_entropy(&self) -> Option<f64> {
        mean(self.layers.iter().filter_map(|layer| layer.entropy))
    }

    /// The mean of the layers' [`overlap`](LayerAnalysis::overlap).
    #[must_use]
    pub fn mean_overlap(&self) -> Option<f64> {
        mean(self.layers.iter().filter_map(|layer| layer.overlap))
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0u32), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

impl Reuse {
    /// Uses with a distance, which are all but the first ones.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.distances.iter().sum()
    }

    /// The least distance that this share of the uses with a distance does not exceed; 0.5 gives
    /// the median. `None` without such uses.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u32> {
        let n = self.n();
        let rank = (share.clamp(0.0, 1.0) * n as f64).ceil().max(1.0);
        let mut seen = 0;
        let within = self.distances.iter().position(|&uses| {
            seen += uses;
            seen as f64 >= rank
        })?;
        u32::try_from(within).ok()
    }
}
