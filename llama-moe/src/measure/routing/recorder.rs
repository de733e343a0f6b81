//! The callback that records routing while a context computes.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::RoutingError;
use super::trace::{MAX_LAYERS, MicroBatch, Phase, RoutedLayer, RoutingTrace};
use crate::context::{EvalCallback, EvalTensor};
use crate::error::Result;
use crate::model::Model;

/// The name of the tensors with the router's choice, before the layer's number.
const CHOICE: &str = "ffn_moe_topk-";
/// Bytes of choices that are kept unless another limit is set.
const DEFAULT_LIMIT: usize = 256 << 20;

/// Records which experts the tokens of a context take.
///
/// Give a clone to [`ContextParams::with_eval_callback`](crate::ContextParams::with_eval_callback)
/// and [`take`](Self::take) the trace at any time. All clones share one recording, so one
/// recorder serves one context.
///
/// ```no_run
/// use llama_moe::measure::routing::RoutingRecorder;
/// use llama_moe::{Backend, ChatParams, ContextParams, Model, ModelParams};
///
/// let backend = Backend::init()?;
/// let model = Model::load(&backend, "gpt-oss-20b.gguf", ModelParams::default())?;
/// let recorder = RoutingRecorder::new(&model)?;
/// let context = ContextParams::default().with_n_ctx(4096).with_eval_callback(recorder.clone());
/// let mut chat = model.chat(ChatParams::default().with_context(context))?;
/// chat.say("Why is the sky blue?")?.text()?;
/// let trace = recorder.take()?;
/// # Ok::<(), llama_moe::Error>(())
/// ```
///
/// # Phases
///
/// A micro-batch of more than one token is [`Phase::Prefill`], one of a single token
/// [`Phase::Decode`]. The rule is wrong for the last token of a prompt that does not fill its
/// micro-batch, and for several sequences that are decoded together: there
/// [`set_phase`](Self::set_phase) states the phase.
///
/// # Cost
///
/// The model computes the same numbers on the CPU and on RPC workers. The graph is computed in
/// pieces, so it is slower, and a GPU backend that merges the router's operations into one may
/// round differently. The recording keeps 256 MiB at most, some 350,000 tokens of a model with 48
/// layers and 8 experts per token; [`with_limit`](Self::with_limit) changes it.
///
/// Rests on `llama_context_params.cb_eval` and the tensors `ffn_moe_topk-*`.
#[derive(Clone)]
pub struct RoutingRecorder(Arc<Mutex<Recording>>);

struct Recording {
    trace: RoutingTrace,
    current: Vec<Choice>,
    /// The first node of a graph: it comes again when the next micro-batch begins.
    first_node: Option<String>,
    phase: Option<Phase>,
    limit: usize,
    bytes: usize,
    failed: Option<RoutingError>,
}

/// The choice of one layer in the micro-batch that is being computed.
struct Choice {
    /// The index among the trace's layers.
    index: usize,
    n_tokens: u32,
    experts: Vec<u16>,
}

impl RoutingRecorder {
    /// A recorder for contexts of this model.
    ///
    /// # Errors
    /// [`RoutingError::NotMoe`] for a model without routed experts;
    /// [`Error::Llama`](crate::Error::Llama) with the feature `system`: an installed llama.cpp
    /// does not report a model's experts.
    pub fn new(model: &Model) -> Result<Self> {
        let (n_expert, n_expert_used) = (model.n_expert()?, model.handle().n_expert_used()?);
        if n_expert == 0 || n_expert_used == 0 {
            return Err(RoutingError::NotMoe.into());
        }
        let mut trace = RoutingTrace::new(model.description(), n_expert, [])?;
        trace.n_expert_used = n_expert_used;
        Ok(Self(Arc::new(Mutex::new(Recording {
            trace,
            current: Vec::new(),
            first_node: None,
            phase: None,
            limit: DEFAULT_LIMIT,
            bytes: 0,
            failed: None,
        }))))
    }

    /// Keeps at most this many bytes of choices. A longer recording fails.
    #[must_use]
    pub fn with_limit(self, bytes: usize) -> Self {
        self.lock().limit = bytes;
        self
    }

    /// States the phase of the micro-batches to come; `None` for the rule by the number of tokens.
    pub fn set_phase(&self, phase: Option<Phase>) {
        let mut recording = self.lock();
        // Choices that are waiting were computed before this call.
        recording.end_micro_batch();
        recording.phase = phase;
    }

    /// Takes the trace, and begins a new one.
    ///
    /// # Errors
    /// [`RoutingError`] if the recording reached its limit or a tensor could not be read. The
    /// recorder then begins anew as well.
    pub fn take(&self) -> Result<RoutingTrace> {
        let mut recording = self.lock();
        recording.end_micro_batch();
        recording.bytes = 0;
        recording.first_node = None;
        let mut next = recording.trace.clone_empty();
        std::mem::swap(&mut recording.trace, &mut next);
        match recording.failed.take() {
            Some(error) => Err(error.into()),
            None => Ok(next),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recording> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EvalCallback for RoutingRecorder {
    fn wants(&mut self, tensor: &EvalTensor<'_>) -> bool {
        let mut recording = self.lock();
        match &recording.first_node {
            None => recording.first_node = Some(tensor.name.to_string()),
            Some(first) if *first == *tensor.name => recording.end_micro_batch(),
            Some(_) => {}
        }
        recording.failed.is_none() && layer_of(&tensor.name).is_some()
    }

    fn data(&mut self, tensor: &EvalTensor<'_>, bytes: &[u8]) {
        let mut recording = self.lock();
        if recording.failed.is_none()
            && let Err(error) = recording.add(tensor, bytes)
        {
            recording.failed = Some(error);
        }
    }
}

impl Recording {
    fn add(&mut self, tensor: &EvalTensor<'_>, bytes: &[u8]) -> Result<(), RoutingError> {
        let unreadable = |reason: String| RoutingError::Tensor {
            tensor: tensor.name.to_string(),
            reason,
        };
        let Some(layer) = layer_of(&tensor.name) else {
            return Ok(());
        };
        let n_expert = self.trace.n_expert;
        let (n_tokens, n_expert_used, experts) =
            choices(tensor, bytes, n_expert).map_err(unreadable)?;
        if self.is_next_micro_batch(layer) {
            self.end_micro_batch();
        }
        let index = self.index_of(layer, n_expert_used)?;
        if self.current.iter().any(|choice| choice.index == index) {
            // GroveMoE asks its router once more, for the chunk experts.
            return Ok(());
        }
        self.bytes += size_of_val(&experts[..]) + size_of::<u32>();
        if self.bytes > self.limit {
            return Err(RoutingError::TooLong { limit: self.limit });
        }
        self.current.push(Choice {
            index,
            n_tokens,
            experts,
        });
        Ok(())
    }

    /// Whether this layer comes before the last one: a graph has its layers in ascending order.
    fn is_next_micro_batch(&self, layer: u32) -> bool {
        let last = self.current.last();
        last.is_some_and(|last| layer < self.trace.layers[last.index].layer)
    }

    fn index_of(&mut self, layer: u32, n_expert_used: u32) -> Result<usize, RoutingError> {
        let layers = &mut self.trace.layers;
        if let Some(index) = layers.iter().position(|of| of.layer == layer) {
            let before = layers[index].n_expert_used;
            if before != n_expert_used {
                let reason = format!("a token used {before} experts, and now {n_expert_used}");
                return Err(RoutingError::Layer { layer, reason });
            }
            return Ok(index);
        }
        if layers.len() == MAX_LAYERS {
            let n_layers = MAX_LAYERS + 1;
            return Err(RoutingError::LayerCount { n_layers });
        }
        layers.push(RoutedLayer {
            layer,
            n_expert_used,
        });
        // Earlier micro-batches ended before this layer.
        for batch in &mut self.trace.micro_batches {
            batch.n_tokens.push(0);
        }
        Ok(layers.len() - 1)
    }

    fn end_micro_batch(&mut self) {
        if self.current.is_empty() {
            return;
        }
        self.current.sort_by_key(|choice| choice.index);
        let mut batch = MicroBatch {
            phase: Phase::Decode,
            n_tokens: vec![0; self.trace.layers.len()],
            experts: Vec::with_capacity(self.current.iter().map(|c| c.experts.len()).sum()),
        };
        for choice in self.current.drain(..) {
            batch.n_tokens[choice.index] = choice.n_tokens;
            batch.experts.extend_from_slice(&choice.experts);
        }
        let is_single = batch.n_tokens.iter().all(|&n| n <= 1);
        batch.phase = match (self.phase, is_single) {
            (Some(phase), _) => phase,
            (None, true) => Phase::Decode,
            (None, false) => Phase::Prefill,
        };
        self.trace.micro_batches.push(batch);
    }
}

impl RoutingTrace {
    /// The same model, nothing recorded.
    fn clone_empty(&self) -> Self {
        Self {
            model: self.model.clone(),
            layers: Vec::new(),
            micro_batches: Vec::new(),
            ..*self
        }
    }
}

/// The layer whose router's choice a tensor is. Tensors that are derived from it have longer names:
/// `ffn_moe_topk-3 (reshaped)`.
fn layer_of(name: &str) -> Option<u32> {
    name.strip_prefix(CHOICE)?.parse().ok()
}

/// The tokens, experts per token, and the experts, from a tensor whose rows may be longer than
/// the part that was chosen.
fn choices(
    tensor: &EvalTensor<'_>,
    bytes: &[u8],
    n_expert: u32,
) -> Result<(u32, u32, Vec<u16>), String> {
    const WIDTH: usize = size_of::<i32>();
    if tensor.kind != "i32" {
        return Err(format!("its type is {}, not i32", tensor.kind));
    }
    let [n_used, n_tokens, 1, 1] = tensor.shape else {
        return Err(format!("its shape is {:?}", tensor.shape));
    };
    let as_u32 = |n: u64| u32::try_from(n).map_err(|_| format!("its shape has {n} elements"));
    let (n_tokens, n_used) = (as_u32(n_tokens)?, as_u32(n_used)?);
    if n_used == 0 || n_used > n_expert {
        return Err(format!("a token uses {n_used} of {n_expert} experts"));
    }
    let [first, row] = [tensor.strides[0], tensor.strides[1]].map(usize::try_from);
    let (Ok(WIDTH), Ok(row)) = (first, row) else {
        return Err(format!("its strides are {:?}", tensor.strides));
    };
    let mut experts = Vec::new();
    for token in 0..n_tokens as usize {
        let chosen = token
            .checked_mul(row)
            .and_then(|start| bytes.get(start..)?.get(..n_used as usize * WIDTH));
        let Some(chosen) = chosen else {
            return Err(format!("it has {} bytes, too few", bytes.len()));
        };
        for id in chosen.as_chunks::<WIDTH>().0 {
            let id = i32::from_ne_bytes(*id);
            let expert = u16::try_from(id).ok().filter(|&e| u32::from(e) < n_expert);
            experts.push(expert.ok_or_else(|| format!("it has the expert {id} of {n_expert}"))?);
        }
    }
    Ok((n_tokens, n_used, experts))
}

impl fmt::Debug for RoutingRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recording = self.lock();
        f.debug_struct("RoutingRecorder")
            .field("model", &recording.trace.model)
            .field("micro_batches", &recording.trace.micro_batches.len())
            .field("bytes", &recording.bytes)
            .finish_non_exhaustive()
    }
}
