//! A trace: which experts each token took, micro-batch by micro-batch.

use serde::{Deserialize, Serialize};

use super::error::RoutingError;

/// The most experts per layer that a trace takes; llama.cpp loads models with up to 1024.
pub(super) const MAX_EXPERTS: u32 = 4096;
/// The most layers that a trace takes: llama.cpp's own limit.
pub(super) const MAX_LAYERS: usize = 512;

/// The part of a generation that a micro-batch belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Tokens that were given.
    Prefill,
    /// Tokens computed one after the other, as in generation.
    Decode,
}

/// A layer with a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutedLayer {
    /// The layer's number in the model.
    pub layer: u32,
    /// Experts that each token uses in this layer.
    pub n_expert_used: u32,
}

/// Which experts each token took, in every MoE layer of every micro-batch, in the order of the
/// computation.
///
/// [`record`](Self::record) makes one from tokens, a
/// [`RoutingRecorder`](super::RoutingRecorder) from whatever a context computes.
/// [`to_json`](Self::to_json) and [`from_json`](Self::from_json) keep it; reading checks every
/// number.
///
/// A choice takes two bytes of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingTrace {
    pub(super) model: String,
    pub(super) n_expert: u32,
    pub(super) n_expert_used: u32,
    pub(super) layers: Vec<RoutedLayer>,
    pub(super) micro_batches: Vec<MicroBatch>,
}

/// The choices of one micro-batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MicroBatch {
    pub(super) phase: Phase,
    /// Tokens of each of the trace's layers.
    pub(super) n_tokens: Vec<u32>,
    /// Layer after layer, token after token.
    pub(super) experts: Vec<u16>,
}

/// The routing of one micro-batch; from [`RoutingTrace::micro_batches`].
#[derive(Clone, Copy, Debug)]
pub struct MicroBatchRouting<'a> {
    layers: &'a [RoutedLayer],
    batch: &'a MicroBatch,
}

/// The routing of one micro-batch in one layer; from [`MicroBatchRouting::layers`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LayerRouting<'a> {
    /// The layer's number in the model.
    pub layer: u32,
    /// Experts that each token uses.
    pub n_expert_used: u32,
    /// Tokens that were computed. The last layer of a model often computes only those whose
    /// output was asked for, which can be none.
    pub n_tokens: u32,
    /// The experts, token after token, in the router's order.
    pub experts: &'a [u16],
}

impl RoutingTrace {
    /// A trace without micro-batches, to be filled with [`push`](Self::push).
    ///
    /// `n_expert` counts the experts that each router chooses from, `layers` are those with a
    /// router, in the order of computation.
    ///
    /// # Errors
    /// [`RoutingError`] for an impossible number of experts or layers, and for a layer that is
    /// listed twice.
    pub fn new(
        model: impl Into<String>,
        n_expert: u32,
        layers: impl IntoIterator<Item = RoutedLayer>,
    ) -> Result<Self, RoutingError> {
        let layers: Vec<RoutedLayer> = layers.into_iter().take(MAX_LAYERS + 1).collect();
        let used = layers.iter().map(|layer| layer.n_expert_used);
        let trace = Self {
            model: model.into(),
            n_expert,
            n_expert_used: used.max().unwrap_or(0),
            layers,
            micro_batches: Vec::new(),
        };
        trace.check()?;
        Ok(trace)
    }

    /// Adds a micro-batch: for each layer of the trace, in its order, the experts of all tokens.
    ///
    /// # Errors
    /// [`RoutingError::MicroBatch`] if the lists do not fit the layers, or an expert does not
    /// exist.
    pub fn push(&mut self, phase: Phase, experts: &[Vec<u16>]) -> Result<(), RoutingError> {
        let index = self.micro_batches.len();
        let wrong = |reason| RoutingError::MicroBatch { index, reason };
        let (n_lists, n_layers) = (experts.len(), self.layers.len());
        if n_lists != n_layers {
            let reason = format!("{n_lists} lists of experts for {n_layers} layers");
            return Err(wrong(reason));
        }
        let mut n_tokens = Vec::with_capacity(n_layers);
        for (layer, list) in self.layers.iter().zip(experts) {
            let n_used = layer.n_expert_used as usize;
            if !list.len().is_multiple_of(n_used) {
                let (layer, n) = (layer.layer, list.len());
                let reason = format!("layer {layer} has {n} experts, {n_used} for each token");
                return Err(wrong(reason));
            }
            let n = u32::try_from(list.len() / n_used);
            n_tokens.push(n.map_err(|_| wrong("more than 2^32 tokens".to_owned()))?);
        }
        let batch = MicroBatch {
            phase,
            n_tokens,
            experts: experts.concat(),
        };
        self.check_batch(index, &batch)?;
        self.micro_batches.push(batch);
        Ok(())
    }

    /// The model, in llama.cpp's words: [`Model::description`](crate::Model::description).
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Experts that each router chooses from.
    #[must_use]
    pub fn n_expert(&self) -> u32 {
        self.n_expert
    }

    /// The most experts that a token uses in any layer of the model.
    #[must_use]
    pub fn n_expert_used(&self) -> u32 {
        self.n_expert_used
    }

    /// The layers with a router, in the order of computation.
    #[must_use]
    pub fn layers(&self) -> &[RoutedLayer] {
        &self.layers
    }

    /// The micro-batches, in the order of computation.
    pub fn micro_batches(&self) -> impl ExactSizeIterator<Item = MicroBatchRouting<'_>> {
        self.micro_batches.iter().map(|batch| MicroBatchRouting {
            layers: &self.layers,
            batch,
        })
    }

    /// Whether nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.micro_batches.is_empty()
    }

    /// Tokens of a phase's micro-batches.
    #[must_use]
    pub fn n_tokens(&self, phase: Phase) -> u64 {
        let batches = self.micro_batches();
        let of_phase = batches.filter(|batch| batch.phase() == phase);
        of_phase.map(|batch| u64::from(batch.n_tokens())).sum()
    }

    /// Bytes that the recorded choices take in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.micro_batches.iter().map(MicroBatch::bytes).sum()
    }

    /// Whether all parts fit each other.
    pub(super) fn check(&self) -> Result<(), RoutingError> {
        if self.n_expert == 0 || self.n_expert > MAX_EXPERTS {
            let n_expert = self.n_expert;
            return Err(RoutingError::ExpertCount { n_expert });
        }
        let n_layers = self.layers.len();
        if n_layers > MAX_LAYERS {
            return Err(RoutingError::LayerCount { n_layers });
        }
        let most = self.n_expert_used.min(self.n_expert);
        for (index, of) in self.layers.iter().enumerate() {
            let (layer, n_used) = (of.layer, of.n_expert_used);
            if n_used == 0 || n_used > most {
                let reason = format!("a token uses {n_used} experts, but 1 to {most} are possible");
                return Err(RoutingError::Layer { layer, reason });
            }
            if self.layers[..index]
                .iter()
                .any(|other| other.layer == layer)
            {
                let reason = "the layer is listed twice".to_owned();
                return Err(RoutingError::Layer { layer, reason });
            }
        }
        for (index, batch) in self.micro_batches.iter().enumerate() {
            self.check_batch(index, batch)?;
        }
        Ok(())
    }

    fn check_batch(&self, index: usize, batch: &MicroBatch) -> Result<(), RoutingError> {
        let wrong = |reason| RoutingError::MicroBatch { index, reason };
        let (n_counts, n_layers) = (batch.n_tokens.len(), self.layers.len());
        if n_counts != n_layers {
            let reason = format!("{n_counts} numbers of tokens for {n_layers} layers");
            return Err(wrong(reason));
        }
        let counts = self.layers.iter().zip(&batch.n_tokens);
        // At most 512 layers, 2^32 tokens and 4096 experts: no overflow of 64 bits.
        let expected: u64 = counts
            .map(|(layer, n)| u64::from(layer.n_expert_used) * u64::from(*n))
            .sum();
        let found = batch.experts.len();
        if expected != found as u64 {
            let reason = format!("{found} experts, but its tokens use {expected}");
            return Err(wrong(reason));
        }
        let unknown = |expert: &&u16| u32::from(**expert) >= self.n_expert;
        if let Some(expert) = batch.experts.iter().find(unknown) {
            let n = self.n_expert;
            return Err(wrong(format!("expert {expert} of {n}: the first is 0")));
        }
        Ok(())
    }
}

impl MicroBatch {
    fn bytes(&self) -> usize {
        size_of_val(&self.n_tokens[..]) + size_of_val(&self.experts[..]) + size_of::<Self>()
    }
}

impl<'a> MicroBatchRouting<'a> {
    /// The phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.batch.phase
    }

    /// Tokens of the micro-batch: the most that any layer computed.
    #[must_use]
    pub fn n_tokens(&self) -> u32 {
        self.batch.n_tokens.iter().copied().max().unwrap_or(0)
    }

    /// Its layers, in the order of computation.
    pub fn layers(&self) -> impl Iterator<Item = LayerRouting<'a>> + use<'a> {
        let mut rest = &self.batch.experts[..];
        let layers = self.layers.iter().zip(&self.batch.n_tokens);
        layers.map(move |(layer, &n_tokens)| {
            let n = n_tokens as usize * layer.n_expert_used as usize;
            // Checked when the micro-batch was added.
            let (experts, after) = rest.split_at(n.min(rest.len()));
            rest = after;
            LayerRouting {
                layer: layer.layer,
                n_expert_used: layer.n_expert_used,
                n_tokens,
                experts,
            }
        })
    }
}

impl<'a> LayerRouting<'a> {
    /// The experts of each token.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = &'a [u16]> + use<'a> {
        self.experts
            .chunks_exact((self.n_expert_used as usize).max(1))
    }
}
