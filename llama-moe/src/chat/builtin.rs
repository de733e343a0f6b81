//! The templates that are built into llama.cpp.

use super::error::ChatError;
use super::message::Message;
use super::template::RenderOptions;
use crate::error::Result;
use crate::ffi;

/// Their names.
pub(super) fn names() -> Vec<String> {
    ffi::chat_builtin_names()
}

/// The prompt that the template `name` makes.
pub(super) fn render(name: &str, messages: &[Message], options: &RenderOptions) -> Result<String> {
    let has_calls = messages
        .iter()
        .any(|message| !message.tool_calls.is_empty());
    if let Some(what) = options.jinja_only().or(has_calls.then_some("tool calls")) {
        return Err(ChatError::BuiltinLacks {
            name: name.to_owned(),
            what,
        }
        .into());
    }
    let pairs: Vec<(&str, &str)> = messages
        .iter()
        .map(|message| (message.role.as_str(), message.content.as_str()))
        .collect();
    ffi::chat_apply_builtin(name, &pairs, options.adds_generation_prompt())
}
