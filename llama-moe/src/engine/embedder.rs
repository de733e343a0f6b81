//! Embedding texts beside answering.

use std::collections::VecDeque;
use std::time::Instant;

use super::clock::Stopwatch;
use super::error::EngineError;
use super::job::{EmbedJob, Embedded};
use super::params::Settings;
use super::stats::EngineStats;
use crate::context::{Batch, Context, ContextParams, DecodeError, MemoryError, PoolingType};
use crate::error::{Error, Result};
use crate::model::{Model, Token};

/// Requests that take turns, at most.
const MAX_TURNS: usize = 16;

/// Texts that are computed at once, at most.
const MAX_TEXTS: u32 = 16;

/// Tokens that a text can have in a context at all. Sizes are counted in 32 bits with a sign, and
/// this one is rounded up to a multiple of the texts.
pub(super) const MAX_TOKENS: u32 = i32::MAX as u32 / MAX_TEXTS * MAX_TEXTS;

/// Tokens of texts beside answers, unless it is said how many of prompts there may be.
const TOKENS_BESIDE: usize = 512;

/// Embeds texts, several at a time.
pub(super) struct Embedder {
    model: Model,
    params: ContextParams,
    n_seq_max: u32,
    /// Tokens that are computed at once.
    n_tokens: usize,
    /// The same while answers are being generated. A text that is longer is computed at once
    /// nevertheless.
    n_tokens_beside: usize,
    /// Made when the first text comes.
    context: Option<Context>,
    /// In the order of their turns.
    running: VecDeque<Running>,
    /// Requests that are over, and their results: who waits for them finds the numbers of
    /// [`EngineStats`] up to date.
    over: Vec<(EmbedJob, Result<Embedded>)>,
}

/// Texts that are being embedded.
struct Running {
    job: EmbedJob,
    done: Embedded,
}

impl Embedder {
    pub(super) fn new(model: &Model, settings: &Settings) -> Self {
        let pooling = settings.pooling.unwrap_or(if has_pooling(model) {
            PoolingType::Model
        } else {
            PoolingType::Mean
        });
        // States are computed one after the other, and are large.
        let n_seq_max = if model.is_recurrent() || model.is_hybrid() {
            1
        } else {
            MAX_TEXTS
        };
        // To pool them takes a multiple.
        let n = settings.embed_tokens.next_multiple_of(n_seq_max);
        Self {
            model: model.clone(),
            n_seq_max,
            n_tokens: n as usize,
            n_tokens_beside: settings
                .prefill_chunk
                .map_or(TOKENS_BESIDE, |chunk| chunk as usize),
            // A text is computed in one piece, or it could not be pooled.
            params: settings
                .context
                .clone()
                .with_n_ctx(n)
                .with_n_batch(n)
                .with_n_ubatch(n)
                .with_n_seq_max(n_seq_max)
                .with_kv_unified(true)
                .with_n_outputs_max(0)
                .with_moe_cache_size(0)
                .with_embeddings(true)
                .with_pooling_type(pooling),
            context: None,
            running: VecDeque::new(),
            over: Vec::new(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Requests whose texts are being embedded.
    pub(super) fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Requests that can begin.
    pub(super) fn free_turns(&self) -> usize {
        MAX_TURNS.saturating_sub(self.running.len())
    }

    /// Takes texts to embed.
    pub(super) fn begin(&mut self, job: EmbedJob) {
        let done = Vec::with_capacity(job.texts.len());
        self.running.push_back(Running { job, done });
    }

    /// Ends the requests that nobody waits for any more, and those that are too late.
    pub(super) fn sweep(&mut self, now: Instant, stats: &mut EngineStats) {
        for _ in 0..self.running.len() {
            let Some(running) = self.running.pop_front() else {
                return;
            };
            if running.job.is_over(now) {
                self.give_up(running.job, stats);
            } else {
                self.running.push_back(running);
            }
        }
    }

    /// Ends a request that was cancelled, or became too late.
    pub(super) fn give_up(&mut self, job: EmbedJob, stats: &mut EngineStats) {
        if job.is_cancelled() {
            stats.requests_cancelled += 1;
        } else {
            stats.requests_failed += 1;
            self.over.push((job, Err(EngineError::Deadline.into())));
        }
    }

    /// Embeds the next texts of the request whose turn it is. `is_alone` says that no answers are
    /// being generated.
    pub(super) fn step(&mut self, is_alone: bool, stats: &mut EngineStats) {
        let Some(Running { job, mut done }) = self.running.pop_front() else {
            return;
        };
        let room = if is_alone {
            self.n_tokens
        } else {
            self.n_tokens_beside
        };
        let texts = first_texts(&job.texts[done.len()..], self.n_seq_max as usize, room);
        let watch = Stopwatch::start();
        let embedded = self.embed(texts);
        stats.count_computing(&watch);
        match embedded {
            Ok(embeddings) => done.extend(embeddings),
            // It is only aborted when everything ends: that says the channel's end.
            Err(Error::Decode(DecodeError::Aborted)) => return,
            Err(error) => {
                // One that failed may not be usable any more.
                self.context = None;
                stats.requests_failed += 1;
                self.over.push((job, Err(error)));
                return;
            }
        }
        stats.embedded_texts += texts.len() as u64;
        stats.embedded_tokens += texts.iter().map(Vec::len).sum::<usize>() as u64;
        if done.len() < job.texts.len() {
            self.running.push_back(Running { job, done });
        } else {
            stats.requests_done += 1;
            self.over.push((job, Ok(done)));
        }
    }

    /// Hands out the results of the requests that are over.
    pub(super) fn tell(&mut self) {
        for (job, result) in self.over.drain(..) {
            job.result.send(result);
        }
    }

    fn embed(&mut self, texts: &[Vec<Token>]) -> Result<Embedded> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let context = match &mut self.context {
            Some(context) => context,
            none => none.insert(self.model.context(self.params.clone())?),
        };
        compute(context, texts).map_err(|error| match error {
            Error::Decode(DecodeError::Aborted) => error,
            error => EngineError::Compute {
                reason: error.to_string(),
            }
            .into(),
        })
    }
}

/// The first texts, as many as may be and as there is room for, but one at least.
fn first_texts(texts: &[Vec<Token>], max_texts: usize, room: usize) -> &[Vec<Token>] {
    let mut n_tokens = 0;
    let fits = texts.iter().take(max_texts).take_while(|text| {
        n_tokens += text.len();
        n_tokens <= room
    });
    let n = fits.count().max(1).min(texts.len());
    &texts[..n]
}

fn compute(context: &mut Context, texts: &[Vec<Token>]) -> Result<Embedded> {
    match context.memory().clear() {
        // A model that only encodes keeps nothing from text to text.
        Ok(()) | Err(Error::Memory(MemoryError::None)) => {}
        Err(error) => return Err(error),
    }
    let n_tokens = texts.iter().map(Vec::len).sum();
    let mut batch = Batch::new(n_tokens, context.n_seq_max());
    let mut last_tokens = Vec::with_capacity(texts.len());
    for (seq, text) in (0..).zip(texts) {
        batch.add_sequence(text, 0, seq)?;
        last_tokens.push(batch.len() - 1);
    }
    if context.model().has_encoder() {
        context.encode(&batch)?;
    } else {
        context.decode(&batch)?;
    }
    let is_pooled = context.pooling_type() != PoolingType::None;
    let mut embeddings = Vec::with_capacity(texts.len());
    for (seq, last_token) in (0..).zip(last_tokens) {
        let embedding = if is_pooled {
            context.sequence_embedding(seq)?
        } else {
            context.embeddings(last_token)?
        };
        embeddings.push(embedding.to_vec());
    }
    Ok(embeddings)
}

/// Whether the model was made for embeddings: then it says how they are pooled.
fn has_pooling(model: &Model) -> bool {
    model
        .architecture()
        .is_some_and(|name| model.meta(&format!("{name}.pooling_type")).is_some())
}

#[cfg(test)]
mod tests {
    use super::{Token, first_texts};

    #[test]
    fn texts_are_taken_as_long_as_there_is_room() {
        let texts: Vec<Vec<Token>> = [3, 4, 5].map(|n| vec![Token(1); n]).to_vec();
        let n = |max_texts, room| first_texts(&texts, max_texts, room).len();
        assert_eq!(n(16, 100), 3);
        assert_eq!(n(16, 11), 2);
        assert_eq!(n(16, 1), 1);
        assert_eq!(n(2, 100), 2);
        assert_eq!(first_texts(&[], 16, 100).len(), 0);
    }
}
