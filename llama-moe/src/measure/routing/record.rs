//! Recording a run of a model from tokens.

use super::error::RoutingError;
use super::recorder::RoutingRecorder;
use super::trace::{Phase, RoutingTrace};
use crate::context::{Batch, Context, ContextParams};
use crate::error::Result;
use crate::measure::run;
use crate::model::{Model, Token};
use crate::sampler::Sampler;

impl RoutingTrace {
    /// Computes a text and then decodes `n_decode` tokens greedily, one per micro-batch, and
    /// records the routing. A token that ends the generation counts as any other.
    ///
    /// The context is made for the recording; an eval callback of `params` is replaced.
    ///
    /// # Errors
    /// [`RoutingError`] for a model without routed experts or without a decoder, no tokens, or no
    /// room for them; what [`Model::context`], [`Context::decode`] and [`Sampler::sample`]
    /// return.
    pub fn record(
        model: &Model,
        params: ContextParams,
        text: &[Token],
        n_decode: usize,
    ) -> Result<Self> {
        let (recorder, mut context) = start(model, params, text.len(), n_decode)?;
        recorder.set_phase(Some(Phase::Prefill));
        for batch in run::batches(text, context.n_batch() as usize)? {
            context.decode(&batch)?;
        }
        recorder.set_phase(Some(Phase::Decode));
        let mut sampler = Sampler::greedy()?;
        let mut next = Batch::new(1, 1);
        // Within what was checked to fit into the context.
        for position in (text.len() as u32..).take(n_decode) {
            let token = sampler.sample(&mut context, None)?;
            next.clear();
            next.add(token, position, &[0], true)?;
            context.decode(&next)?;
        }
        recorder.take()
    }

    /// Computes a text token by token, as if the model generated it, and records the routing
    /// (teacher forcing). All micro-batches are [`Phase::Decode`].
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn record_forced(model: &Model, params: ContextParams, text: &[Token]) -> Result<Self> {
        let (recorder, mut context) = start(model, params, text.len(), 0)?;
        recorder.set_phase(Some(Phase::Decode));
        let mut batch = Batch::new(1, 1);
        for (position, &token) in (0..).zip(text) {
            batch.clear();
            batch.add(token, position, &[0], true)?;
            context.decode(&batch)?;
        }
        recorder.take()
    }
}

fn start(
    model: &Model,
    params: ContextParams,
    n_prompt: usize,
    n_decode: usize,
) -> Result<(RoutingRecorder, Context)> {
    let recorder = RoutingRecorder::new(model)?;
    if model.has_encoder() || !model.has_decoder() {
        return Err(RoutingError::NotADecoder.into());
    }
    if n_prompt == 0 {
        return Err(RoutingError::NoTokens.into());
    }
    let context = model.context(params.with_eval_callback(recorder.clone()))?;
    let n_ctx_seq = context.n_ctx_seq();
    if n_prompt.saturating_add(n_decode) > n_ctx_seq as usize {
        return Err(RoutingError::NoRoom {
            n_prompt,
            n_decode,
            n_ctx_seq,
        }
        .into());
    }
    Ok((recorder, context))
}
