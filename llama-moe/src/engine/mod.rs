//! An engine: many requests at a time on one context, for people who build servers.
mod channel;
mod completion;
mod embeddings;
mod error;
mod event;
mod handle;
mod inbox;
mod job;
mod params;
mod request;
mod shared;
mod stats;
mod stream;
mod worker;

pub use completion::{Choice, Completion};
pub use embeddings::Embeddings;
pub use error::EngineError;
pub use event::{Event, Timings, TokenLogprob, TokenLogprobs, Usage};
pub use handle::Engine;
pub use params::EngineParams;
pub use request::Request;
pub use stats::EngineStats;
pub use stream::Stream;
