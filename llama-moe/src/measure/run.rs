//! A generation with its clock.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::MeasureError;
use super::seconds;
use crate::chat::time_per_output_token;
use crate::context::{Batch, Context};
use crate::error::Result;
use crate::model::{Token, Vocab};
use crate::sampler::Sampler;

/// How many tokens a run generates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Length {
    /// This many. A token that ends the generation counts as any other and ends nothing, so that
    /// all runs of a comparison do the same work; [`Run::first_end`] tells where it came.
    Exactly(usize),
    /// This many, or up to the first token that ends the generation, which counts too.
    UpTo(usize),
}

impl Length {
    /// The number of tokens, at most.
    #[must_use]
    pub fn tokens(self) -> usize {
        match self {
            Self::Exactly(tokens) | Self::UpTo(tokens) => tokens,
        }
    }
}

/// A generation, with the time of each token. All times count from when the prompt was handed
/// over, as tokens: reading it from text is no part of them.
///
/// Tokens are the model's own, counted as it computed them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Run {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// What was asked for.
    pub length: Length,
    /// When the prompt was computed, in seconds: before the first token was sampled.
    #[serde(with = "seconds")]
    pub prefill: Duration,
    /// The tokens that were generated.
    pub tokens: Vec<Token>,
    /// When each of them was there, in seconds.
    #[serde(with = "seconds::list")]
    pub token_times: Vec<Duration>,
    /// The index of the first token that ends a generation, whether it did or not.
    pub first_end: Option<usize>,
}

/// Computes a prompt and generates from it with `sampler`, and takes the time of each step. The
/// context's memory is emptied before, and sequence 0 used; the sampler starts again.
///
/// The first run of a context is slower than those after it, and so is the first that reads
/// weights from a mapped file: make one that does not count.
///
/// Rests on `llama_decode` and `llama_synchronize`, with the system's monotonic clock.
///
/// # Errors
/// [`MeasureError`] if there is no prompt, nothing to generate, no room for both, or the model
/// does not go on from a prompt; what [`Context::decode`] and [`Sampler::sample`] return.
pub fn generate(
    context: &mut Context,
    sampler: &mut Sampler,
    prompt: &[Token],
    length: Length,
) -> Result<Run> {
    let (_, run) = generate_each(context, sampler, prompt, length, |_| Ok(()))?;
    Ok(run)
}

/// As [`generate`], with a call for each token as soon as it is there, which counts to the time
/// of the next one. Returns also the moment that times count from.
pub(super) fn generate_each(
    context: &mut Context,
    sampler: &mut Sampler,
    prompt: &[Token],
    length: Length,
    mut each: impl FnMut(Token) -> Result<()>,
) -> Result<(Instant, Run)> {
    check(context, prompt.len(), length.tokens())?;
    let vocab = context.model().vocab();
    let mut token_times = Vec::with_capacity(length.tokens());
    let mut tokens = Vec::with_capacity(length.tokens());
    let mut first_end = None;
    let mut next = Batch::new(1, 1);
    context.memory().clear()?;
    sampler.reset()?;
    let batches = batches(prompt, context.n_batch() as usize)?;
    context.synchronize()?;

    let start = Instant::now();
    for batch in &batches {
        context.decode(batch)?;
    }
    context.synchronize()?;
    let prefill = start.elapsed();
    loop {
        let token = sampler.sample(context, None)?;
        token_times.push(start.elapsed());
        let index = tokens.len();
        tokens.push(token);
        if first_end.is_none() && vocab.is_eog(token) {
            first_end = Some(index);
        }
        each(token)?;
        let is_over = matches!(length, Length::UpTo(_)) && first_end.is_some();
        if tokens.len() == length.tokens() || is_over {
            break;
        }
        next.clear();
        // Within what was checked to fit into 32 bits.
        next.add(token, (prompt.len() + index) as u32, &[0], true)?;
        context.decode(&next)?;
    }
    let run = Run {
        n_prompt: prompt.len(),
        length,
        prefill,
        tokens,
        token_times,
        first_end,
    };
    Ok((start, run))
}

fn check(context: &Context, n_prompt: usize, n_generate: usize) -> Result<(), MeasureError> {
    let model = context.model();
    if model.has_encoder() || !model.has_decoder() {
        return Err(MeasureError::NotADecoder);
    }
    if n_prompt == 0 {
        return Err(MeasureError::NoPrompt);
    }
    let Some(rest) = n_generate.checked_sub(1) else {
        return Err(MeasureError::NothingToGenerate);
    };
    let n_ctx_seq = context.n_ctx_seq();
    if n_prompt.saturating_add(rest) > n_ctx_seq as usize {
        return Err(MeasureError::NoRoom {
            n_prompt,
            n_generate,
            n_ctx_seq,
        });
    }
    Ok(())
}

/// The prompt in pieces that can be computed. Only its last output is asked for.
pub(super) fn batches(prompt: &[Token], n_batch: usize) -> Result<Vec<Batch>> {
    let n_batch = n_batch.max(1);
    let pieces = prompt.chunks(n_batch);
    let mut batches = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let mut batch = Batch::new(piece.len(), 1);
        for &token in piece {
            let at = batches.len() * n_batch + batch.len();
            batch.add(token, at as u32, &[0], at + 1 == prompt.len())?;
        }
        batches.push(batch);
    }
    Ok(batches)
}

impl Run {
    /// The time to the first token (TTFT): the prompt and one sampling.
    #[must_use]
    pub fn ttft(&self) -> Option<Duration> {
        self.token_times.first().copied()
    }

    /// The time to the last token.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.token_times.last().copied()
    }

    /// The time per output token after the first (TPOT): latency less TTFT, divided by the
    /// number of tokens less one. `None` with fewer than two tokens.
    #[must_use]
    pub fn time_per_output_token(&self) -> Option<Duration> {
        time_per_output_token(&self.token_times)
    }

    /// The time that each token after the first took.
    #[must_use]
    pub fn token_intervals(&self) -> Vec<Duration> {
        let pairs = self.token_times.windows(2);
        pairs.map(|pair| pair[1].saturating_sub(pair[0])).collect()
    }

    /// Tokens of the prompt per second, sampling not counted.
    #[must_use]
    pub fn prefill_tokens_per_second(&self) -> Option<f64> {
        per_second(self.n_prompt, self.prefill)
    }

    /// Tokens per second after the first: 1 / TPOT. `None` with fewer than two tokens.
    #[must_use]
    pub fn decode_tokens_per_second(&self) -> Option<f64> {
        let rest = self.latency()?.checked_sub(self.ttft()?)?;
        per_second(self.token_times.len().checked_sub(1)?, rest)
    }
}

fn per_second(n: usize, time: Duration) -> Option<f64> {
    let is_rate = n > 0 && !time.is_zero();
    is_rate.then(|| n as f64 / time.as_secs_f64())
}

/// A prompt of `n_tokens` tokens: those of the text, as often as it takes, after what the
/// vocabulary begins a text with.
///
/// # Errors
/// [`MeasureError::NoText`] if the text has no tokens, [`MeasureError::NoPrompt`] for 0 tokens;
/// what [`Vocab::tokenize`] returns.
pub fn prompt(vocab: &Vocab, text: &str, n_tokens: usize) -> Result<Vec<Token>> {
    if n_tokens == 0 {
        return Err(MeasureError::NoPrompt.into());
    }
    let once = vocab.tokenize(text, false, false)?;
    if once.is_empty() {
        return Err(MeasureError::NoText.into());
    }
    let begin = vocab.bos().filter(|_| vocab.adds_bos());
    let repeated = once.iter().copied().cycle();
    Ok(begin.into_iter().chain(repeated).take(n_tokens).collect())
}
