//! Decoding, as the tests do it.

use super::layouts::{self, Layout};
use super::{load, on_cpu};
use llama_moe::{Batch, BatchError, Context, ContextParams, Error, Model, SeqId, Token};

/// Parameters for a small context. One thread: the models are tiny, and tests run side by
/// side.
pub fn small() -> ContextParams {
    ContextParams::default()
        .with_n_ctx(256)
        .with_n_threads(1)
        .with_n_threads_batch(1)
}

/// A small context.
pub fn context(model: &Model) -> Context {
    model.context(small()).expect("a context")
}

/// Token ids that every layout's vocabulary has, beginning with the start of a text.
pub fn prompt(n: usize) -> Vec<Token> {
    (0..n)
        .map(|i| {
            Token(if i == 0 {
                1
            } else {
                261 + (i as i32 * 7) % 100
            })
        })
        .collect()
}

/// A batch of these tokens of one sequence, asking for the last output.
pub fn batch(tokens: &[Token], start: u32, seq: SeqId) -> Batch {
    let mut batch = Batch::new(tokens.len(), 256);
    batch.add_sequence(tokens, start, seq).expect("a batch");
    batch
}

/// Decodes tokens of a sequence from `start` on and returns the last one's logits.
pub fn decode(context: &mut Context, tokens: &[Token], start: u32, seq: SeqId) -> Vec<f32> {
    context
        .decode(&batch(tokens, start, seq))
        .expect("a computed batch");
    context.logits_last().expect("logits").to_vec()
}

/// The likeliest token.
pub fn greedy(logits: &[f32]) -> Token {
    let best = (0..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1));
    Token(best.expect("logits").0)
}

/// The largest difference between two rows of logits.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// A model of this layout, on the CPU.
pub fn model(layout: Layout) -> Model {
    load(layout, on_cpu()).expect("a model")
}

/// Tokens of every layout's vocabulary.
pub fn n_vocab() -> usize {
    layouts::vocabulary().len()
}

/// What the prompt is answered with: a check that all is well compares with it.
pub fn answer(context: &mut Context) -> Vec<f32> {
    context.memory().clear().expect("a memory");
    decode(context, &prompt(12), 0, 0)
}

/// The reason for which a batch was refused.
pub fn refused(result: llama_moe::Result<impl std::fmt::Debug>) -> BatchError {
    match result.expect_err("a batch that is refused") {
        Error::Batch(error) => error,
        error => panic!("{error:?}"),
    }
}
