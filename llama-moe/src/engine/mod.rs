//! An engine: many requests at a time on one context, for people who build servers.
//!
//! An [`Engine`] is a handle to a thread that owns a context. [`Request`]s are submitted from
//! any thread, and answered by a [`Stream`] of [`Event`]s: an iterator, and a stream for any
//! executor. A server in ten lines, which answers each connection's line of text:
//!
//! ```no_run
//! use llama_moe::engine::{Engine, EngineParams, Event};
//! use llama_moe::{Backend, Message, Model, ModelParams, RenderOptions};
//! use std::io::{BufRead, BufReader, Write};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = Backend::init()?;
//! let params = ModelParams::default().with_cpu_moe_all();
//! let model = Model::load(&backend, "Qwen3-30B-A3B-Q4_K_M.gguf", params)?;
//! let engine = Engine::new(&model, EngineParams::default().with_slots(8))?;
//! for connection in std::net::TcpListener::bind("127.0.0.1:8080")?.incoming() {
//!     let (engine, mut connection) = (engine.clone(), connection?);
//!     std::thread::spawn(move || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//!         let mut line = String::new();
//!         BufReader::new(&connection).read_line(&mut line)?;
//!         let request = engine.chat(&[Message::user(line)], &RenderOptions::default())?;
//!         for event in engine.submit(request.with_max_tokens(500))? {
//!             if let Event::Text { text, .. } = event? {
//!                 connection.write_all(text.as_bytes())?;
//!             }
//!         }
//!         Ok(()) // a client that is gone is an error of write_all, which drops the stream
//!     });
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! The context has a *slot* for each answer that is generated at a time, a sequence each, all
//! in one buffer. In every step it computes one batch: the next token of every answer that is
//! being generated, and, in what room there is beside them, pieces of the prompts of those that
//! are about to be. So an answer has a token in every step, however long the prompts of
//! others are. That room is in turns for the prompt that came first and for the shortest. Requests
//! begin in the order in which they were submitted. As many as [`EngineParams::with_queue`] says wait, and more are refused:
//! [`EngineError::QueueFull`].
//!
//! A prompt that begins as what a slot holds, idle or not, is computed from where they differ:
//! sequences share what both begin with. [`Usage::cached_tokens`] tells how much that was. Not
//! every memory can be cut anywhere: layers with sliding-window attention hold no more than
//! their window, and a recurrent model's state goes on from its end or not at all.
//!
//! Where the memory becomes too small for all, what it holds of earlier answers goes first, and
//! then the answer that began last waits, and is computed anew once there is room.
//!
//! # Drafts
//!
//! [`EngineParams::with_draft`] gives the engine a second, much smaller model of the same
//! vocabulary. In each step it guesses up to 4 tokens of every answer
//! ([`DraftParams::with_n_draft`]); the model then computes them together with the answer's last
//! token, and the answer's own sampler chooses after each, for as long as it chooses what was
//! guessed. What was guessed wrongly is taken out of the memory again. So an answer is what it is
//! without a draft, up to rounding, whatever its sampler; it comes in fewer steps.
//!
//! That pays where a batch of a few tokens takes little longer than one token, because the weights
//! have to be read once for either: a dense model, or the part of one that is on a GPU, with one to
//! three answers at a time. It pays less with experts in system memory: each token of the batch
//! chooses its own, so the more tokens there are, the more experts are read. It does not pay where
//! computing takes the time and not reading: with many answers, beside prompts, or on a CPU with
//! few cores. On two cores, a batch of 5 tokens took 4 times as long as one token, with and
//! without a choice of experts (layers of Qwen3-30B-A3B and of Mixtral): there even a draft that is
//! always right gains nothing once its own time is counted.
//!
//! So a step guesses only if it computes no prompt, and so much that it has 16 tokens at most: 4
//! for each of 3 answers, 1 for each of 8. And of each answer one token more is guessed than was
//! right the last time; where nothing is right twice in a row, it goes without for 2 steps, then 4,
//! up to 64. [`Usage::drafted_tokens`] and [`Usage::accepted_tokens`] tell how many were guessed
//! and how many right. Whether it pays on a machine, only a measurement tells.
//!
//! The draft takes memory: its weights, and a KV cache for as many positions as the engine's
//! context. Where its own computation fails, answers go on without it
//! ([`EngineStats::drafts_failed`]). A recurrent model has no draft and is none, since its state
//! cannot be taken back. With sliding-window attention and slots that have [buffers of their
//! own](EngineParams::with_kv_unified), it guesses only while there is one answer.
//!
//! # Cache of experts
//!
//! With [`ContextParams::with_moe_cache_size`](crate::ContextParams::with_moe_cache_size) the context
//! that answers are computed with keeps recently used experts on the device, and all slots share
//! them. [`Engine::moe_cache`] says what the cache holds, [`EngineStats::moe_cache`] what it did. It
//! serves steps of at most 32 tokens, and fewer where the slots of the cache do not hold their
//! experts: with many answers at a time, or beside a prompt, steps are computed as without a cache.
//! Neither a draft nor the texts to embed use it.
//!
//! # What can fail
//!
//! What can be known before is an error of [`Engine::submit`]. Later errors end a stream as its
//! last item. A sampler that panics ends its own request. A batch that fails is computed again
//! answer by answer, and only those that fail again end, with [`EngineError::Compute`]; texts to
//! embed end so at once. A context that cannot be used any more is made anew. If the thread itself
//! ends, all streams end with [`EngineError::Stopped`].
//!
//! # Equal text
//!
//! With a greedy sampler each token of an answer is the likeliest after those before it, whatever
//! is answered beside it, up to rounding: a batch of another shape adds up its sums in another
//! order, and logits differ in their last digits. On the models that the engine is tested with,
//! whose logits differ by several units, that is less than 0.05 where weights are floats, and less
//! than 0.3 where they have 4 or 8 bits. So another token is chosen only where two of them are as
//! close as that, or where a router's experts are; from there on the text is another one. An
//! answer that comes to no such place is the same text every time.
//!
//! With one slot and without the [prefix cache](EngineParams::with_prefix_cache), the shapes of
//! the batches that a request is computed in depend on nothing but the request, and the draft
//! if there is one.

mod answer;
mod channel;
mod clock;
mod completion;
mod draft;
mod drafter;
mod embedder;
mod embeddings;
mod error;
mod event;
mod handle;
mod inbox;
mod job;
mod logprobs;
mod memory;
mod pace;
mod params;
mod prefix;
mod reasoning;
mod reply;
mod request;
mod schedule;
mod scheduler;
mod shared;
mod sharing;
mod stats;
mod stream;
mod text;
mod worker;

pub use completion::{Choice, Completion};
pub use draft::DraftParams;
pub use embeddings::{EmbedRequest, Embeddings};
pub use error::EngineError;
pub use event::{Event, Timings, TokenLogprob, TokenLogprobs, Usage};
pub use handle::Engine;
pub use params::EngineParams;
pub use request::Request;
pub use stats::EngineStats;
pub use stream::Stream;
