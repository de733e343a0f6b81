//! Quality: does a variant of a model, with other rules, weights or devices, still say the same?
//!
//! Each variant runs in a process of its own, so what the base said is kept: a file of its
//! [logits](record), which a variant is [compared](compare) with over the same tokens; its
//! [greedy output](GreedyOutput) and its [embeddings](Embeddings) with serde. What it can do is
//! told by [tasks](run_tasks) whose replies a program checks.
//!
//! The base:
//!
//! ```no_run
//! use llama_moe::measure::quality::{Chunks, record};
//! use llama_moe::{Backend, ContextParams, Model, ModelParams};
//!
//! # fn main() -> llama_moe::Result<()> {
//! let backend = Backend::init()?;
//! let model = Model::load(&backend, "gpt-oss-20b.gguf", ModelParams::default())?;
//! let text = "A long text, at least as long as one chunk ...";
//! let chunks = Chunks::new(&model.vocab(), text, 512)?.truncated(4);
//! let mut context = model.context(ContextParams::default().with_n_ctx(512))?;
//! let perplexity = record(&mut context, &chunks, "base.logits")?;
//! println!("{perplexity}"); // PPL = 12.3 ± 0.4 (N = 1020)
//! # Ok(())
//! # }
//! ```
//!
//! A variant, as another process:
//!
//! ```no_run
//! use llama_moe::measure::quality::compare;
//! use llama_moe::{Backend, ContextParams, Model, ModelParams};
//!
//! # fn main() -> llama_moe::Result<()> {
//! let backend = Backend::init()?;
//! let params = ModelParams::default().with_cpu_moe_all();
//! let model = Model::load(&backend, "gpt-oss-20b.gguf", params)?;
//! let mut context = model.context(ContextParams::default().with_n_ctx(512))?;
//! let divergence = compare(&mut context, "base.logits")?;
//! println!("{divergence}"); // mean, median, 99 % and maximum; how often the top token is the same
//! # Ok(())
//! # }
//! ```
//!
//! The numbers behind them can be had by themselves:
//!
//! ```
//! use llama_moe::measure::quality::{edit_distance, kl_divergence};
//!
//! // Probabilities of one half each, against one quarter and three quarters.
//! let kl = kl_divergence(&[0.0, 0.0], &[0.0, 3f32.ln()])?;
//! assert!((kl - 0.5 * (4f64 / 3.0).ln()).abs() < 1e-7);
//! assert_eq!(edit_distance(b"expert", b"export"), 1);
//! # Ok::<(), llama_moe::Error>(())
//! ```
//!
//! # The method
//!
//! A text is cut as llama.cpp's `llama-perplexity` cuts it: [`Chunks`]. What the model says at a
//! scored position is the softmax of its logits, computed in 64 bits with the largest logit
//! taken off first. Everything is in nats, the unit of the natural logarithm.

mod chunks;
mod command;
mod divergence;
mod embedding;
mod error;
mod logits;
mod logits_file;
mod output;
mod perplexity;
mod tasks;

pub use chunks::Chunks;
pub use divergence::{Divergence, compare};
pub use embedding::{EmbeddingSimilarity, Embeddings, cosine_similarity};
pub use error::QualityError;
pub use logits::{kl_divergence, log_probability};
pub use output::{GreedyOutput, OutputDifference, edit_distance};
pub use perplexity::{Perplexity, perplexity, record};
pub use tasks::{Check, Task, TaskResult, TaskResults, run_tasks};
