//! Embedding texts beside answering.

use super::error::EngineError;
use super::job::EmbedJob;
use super::params::Settings;
use crate::context::{Batch, Context, ContextParams, MemoryError, PoolingType};
use crate::error::{Error, Result};
use crate::model::{Model, Token};

/// Embeds texts, one at a time.
pub(super) struct Embedder {
    model: Model,
    params: ContextParams,
    /// Made when the first text comes.
    context: Option<Context>,
    current: Option<Current>,
}

/// Texts that are being embedded.
struct Current {
    job: EmbedJob,
    done: Vec<Vec<f32>>,
}

impl Embedder {
    pub(super) fn new(model: &Model, settings: &Settings) -> Self {
        let pooling = settings.pooling.unwrap_or(if has_pooling(model) {
            PoolingType::Model
        } else {
            PoolingType::Mean
        });
        let n = settings.embed_tokens;
        Self {
            model: model.clone(),
            // A text is computed in one piece, or it could not be pooled.
            params: settings
                .context
                .clone()
                .with_n_ctx(n)
                .with_n_batch(n)
                .with_n_ubatch(n)
                .with_n_seq_max(1)
                .with_n_outputs_max(0)
                .with_embeddings(true)
                .with_pooling_type(pooling),
            context: None,
            current: None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    /// Takes texts to embed; there are none at the time.
    pub(super) fn begin(&mut self, job: EmbedJob) {
        let done = Vec::with_capacity(job.texts.len());
        self.current = Some(Current { job, done });
    }

    /// Embeds the next text, and returns how many tokens it had.
    pub(super) fn step(&mut self) -> Option<usize> {
        let Current { job, mut done } = self.current.take()?;
        if job.result.is_closed() {
            return None;
        }
        let Some(text) = job.texts.get(done.len()) else {
            job.result.send(Ok(done));
            return None;
        };
        let n_tokens = text.len();
        match self.embed(text) {
            Ok(embedding) => done.push(embedding),
            Err(error) => {
                // One that failed may not be usable any more.
                self.context = None;
                job.result.send(Err(error));
                return None;
            }
        }
        if done.len() < job.texts.len() {
            self.current = Some(Current { job, done });
        } else {
            job.result.send(Ok(done));
        }
        Some(n_tokens)
    }

    fn embed(&mut self, tokens: &[Token]) -> Result<Vec<f32>> {
        let context = match &mut self.context {
            Some(context) => context,
            none => none.insert(self.model.context(self.params.clone())?),
        };
        compute(context, tokens).map_err(|error| {
            EngineError::Compute {
                reason: error.to_string(),
            }
            .into()
        })
    }
}

fn compute(context: &mut Context, tokens: &[Token]) -> Result<Vec<f32>> {
    match context.memory().clear() {
        // A model that only encodes keeps nothing from text to text.
        Ok(()) | Err(Error::Memory(MemoryError::None)) => {}
        Err(error) => return Err(error),
    }
    let mut batch = Batch::new(tokens.len(), 1);
    batch.add_sequence(tokens, 0, 0)?;
    if context.model().has_encoder() {
        context.encode(&batch)?;
    } else {
        context.decode(&batch)?;
    }
    let embedding = match context.pooling_type() {
        PoolingType::None => context.embeddings(tokens.len() - 1)?,
        _ => context.sequence_embedding(0)?,
    };
    Ok(embedding.to_vec())
}

/// Whether the model was made for embeddings: then it says how they are pooled.
fn has_pooling(model: &Model) -> bool {
    model
        .architecture()
        .is_some_and(|name| model.meta(&format!("{name}.pooling_type")).is_some())
}
