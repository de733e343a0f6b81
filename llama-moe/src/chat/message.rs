//! The messages of a conversation.

use std::fmt;

use serde_json::{Map, Value, json};

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Standing instructions, first in the conversation. Some templates refuse it.
    System,
    /// The application's instructions, where a template tells them from the system's
    /// (gpt-oss).
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool that the model called.
    Tool,
    /// A role of the template's own.
    Other(String),
}

impl Role {
    /// The role as templates know it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for Role {
    fn from(name: &str) -> Self {
        match name {
            "system" => Self::System,
            "developer" => Self::Developer,
            "user" => Self::User,
            "assistant" => Self::Assistant,
            "tool" => Self::Tool,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One message of a conversation.
///
/// ```
/// use llama_moe::{Message, ToolCall};
///
/// let conversation = [
///     Message::system("Answer in one sentence."),
///     Message::user("What is the weather in Oslo?"),
///     Message::assistant("")
///         .with_tool_call(ToolCall::new("weather", serde_json::json!({"city": "Oslo"}))),
///     Message::tool("sunny, 12 degrees").with_name("weather"),
/// ];
/// assert_eq!(conversation[3].role.as_str(), "tool");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// The tools that an assistant's message calls.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool's message answers, as [`ToolCall::id`].
    pub tool_call_id: Option<String>,
    /// The speaker's name, or that of the tool.
    pub name: Option<String>,
}

impl Message {
    /// A message of any role.
    #[must_use]
    pub fn new(role: impl Into<Role>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
        }
    }

    /// Standing instructions.
    #[must_use]
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// What the person says.
    #[must_use]
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// What the model said.
    #[must_use]
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }

    /// What a tool returned.
    #[must_use]
    pub fn tool(content: impl Into<String>) -> Self {
        Self::new(Role::Tool, content)
    }

    /// Adds a call of a tool.
    #[must_use]
    pub fn with_tool_call(mut self, call: ToolCall) -> Self {
        self.tool_calls.push(call);
        self
    }

    /// Says which call this message answers.
    #[must_use]
    pub fn with_tool_call_id(mut self, id: impl Into<String>) -> Self {
        self.tool_call_id = Some(id.into());
        self
    }

    /// Names the speaker or the tool.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The message as templates expect it: what is not there has no key.
    pub(super) fn to_json(&self) -> Value {
        let mut message = Map::new();
        message.insert("role".to_owned(), self.role.as_str().into());
        message.insert("content".to_owned(), self.content.as_str().into());
        if !self.tool_calls.is_empty() {
            let calls = self.tool_calls.iter().map(ToolCall::to_json).collect();
            message.insert("tool_calls".to_owned(), Value::Array(calls));
        }
        if let Some(id) = &self.tool_call_id {
            message.insert("tool_call_id".to_owned(), id.as_str().into());
        }
        if let Some(name) = &self.name {
            message.insert("name".to_owned(), name.as_str().into());
        }
        Value::Object(message)
    }
}

/// A tool that the model calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Tells calls of one message apart, where the template asks for it.
    pub id: Option<String>,
    /// The tool's name.
    pub name: String,
    /// Its arguments: an object for most templates, which write it as JSON; a text for
    /// those that paste it as it is.
    pub arguments: Value,
}

impl ToolCall {
    /// A call of the tool `name`.
    #[must_use]
    pub fn new(name: impl Into<String>, arguments: Value) -> Self {
        Self {
            id: None,
            name: name.into(),
            arguments,
        }
    }

    /// Gives the call an id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    fn to_json(&self) -> Value {
        let mut call = Map::new();
        if let Some(id) = &self.id {
            call.insert("id".to_owned(), id.as_str().into());
        }
        call.insert("type".to_owned(), "function".into());
        call.insert(
            "function".to_owned(),
            json!({"name": self.name, "arguments": self.arguments}),
        );
        Value::Object(call)
    }
}
