//! Chats: from messages to a prompt, from tokens to a streaming reply.
//!
//! ```no_run
//! use llama_moe::{Backend, Model, ModelParams};
//!
//! let backend = Backend::init()?;
//! let model = Model::load(&backend, "gpt-oss-20b.gguf", ModelParams::default())?;
//! let mut chat = model.chat(Default::default())?;
//! for piece in chat.say("Why is the sky blue?")? {
//!     print!("{}", piece?);
//! }
//! # Ok::<(), llama_moe::Error>(())
//! ```
//!
//! A [`Chat`] keeps the [messages](Message) of a conversation. For a reply it writes them
//! down as the model's [template](ChatTemplate) says, computes what the memory does not
//! already hold of that, and samples token by token. The [`Reply`] is an iterator over
//! pieces of text. It ends when the model ends it, at a stop string, or at a limit:
//! [`ReplyStats::finish`] says which, and the other numbers there how long it took.
//!
//! What a user writes is put into the template as it is. Text that looks like a control
//! token, `<|im_end|>` say, is read as one, as in llama.cpp's own programs: take it out of
//! what comes from strangers.

mod builtin;
mod error;
mod held;
mod jinja;
mod message;
mod params;
mod reply;
mod session;
mod stats;
mod stop;
mod template;

pub use error::ChatError;
#[cfg(feature = "measure")]
pub(crate) use jinja::strftime;
pub use message::{Message, Role, ToolCall};
#[cfg(feature = "engine")]
pub(crate) use params::default_sampler;
pub use params::{ChatParams, Overflow};
pub use reply::Reply;
pub use session::Chat;
#[cfg(feature = "measure")]
pub(crate) use stats::time_per_output_token;
pub use stats::{FinishReason, ReplyStats};
#[cfg(feature = "engine")]
pub(crate) use stop::{StopFilter, check as check_stops};
pub use template::{ChatTemplate, RenderOptions};
