//! Chats: messages to a prompt.

mod builtin;
mod error;
mod jinja;
mod message;
mod stop;
mod template;

pub use error::ChatError;
pub use message::{Message, Role, ToolCall};
pub use template::{ChatTemplate, RenderOptions};
