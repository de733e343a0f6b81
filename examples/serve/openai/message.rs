//! The messages of a conversation.

use llama_moe::{Message, Role, ToolCall};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::{ApiError, ApiResult};

/// A message as the API has it.
#[derive(Clone, Debug, Deserialize)]
pub struct ApiMessage {
    role: String,
    content: Option<Value>,
    name: Option<String>,
    tool_calls: Option<Vec<ApiCall>>,
    tool_call_id: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct ApiCall {
    id: Option<String>,
    function: ApiFunction,
}

#[derive(Clone, Debug, Deserialize)]
struct ApiFunction {
    name: String,
    #[serde(default)]
    arguments: String,
}

/// The messages as templates know them. `has_developer`: whether the template knows that role,
/// which the API has in place of the system's.
pub fn messages(messages: Vec<ApiMessage>, has_developer: bool) -> ApiResult<Vec<Message>> {
    if messages.is_empty() {
        return Err(ApiError::field("messages", "there is no message"));
    }
    let messages = messages.into_iter().enumerate().map(|(index, message)| {
        let role = match Role::from(message.role.as_str()) {
            Role::Developer if !has_developer => Role::System,
            role => role,
        };
        let field = format!("messages[{index}].content");
        Ok(Message {
            role,
            content: text(message.content, &field)?,
            tool_calls: message
                .tool_calls
                .unwrap_or_default()
                .into_iter()
                .map(call)
                .collect(),
            tool_call_id: message.tool_call_id,
            name: message.name,
        })
    });
    messages.collect()
}

/// Content is a text, nothing, or a list of parts.
fn text(content: Option<Value>, field: &str) -> ApiResult<String> {
    let parts = match content {
        None | Some(Value::Null) => return Ok(String::new()),
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(ApiError::field(field, "it is a text, or a list of parts")),
    };
    let mut all = String::new();
    for (index, part) in parts.iter().enumerate() {
        match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text"), Some(text)) => all.push_str(text),
            (Some("text"), None) => {
                let field = format!("{field}[{index}].text");
                return Err(ApiError::field(field, "there is no text"));
            }
            (kind, _) => {
                let kind = kind.unwrap_or("none");
                let message = format!("the type is '{kind}', but this server takes only 'text'");
                return Err(ApiError::field(format!("{field}[{index}]"), message));
            }
        }
    }
    Ok(all)
}

/// Templates want the arguments as an object, the API has them as a text.
fn call(call: ApiCall) -> ToolCall {
    let ApiFunction { name, arguments } = call.function;
    let arguments = match serde_json::from_str::<Map<String, Value>>(&arguments) {
        Ok(object) => Value::Object(object),
        Err(_) => Value::String(arguments),
    };
    ToolCall {
        id: call.id,
        name,
        arguments,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: Value) -> ApiResult<Vec<Message>> {
        messages(serde_json::from_value(value).unwrap(), false)
    }

    #[test]
    fn every_kind_of_message() {
        let found = parse(json!([
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Wea"}, {"type": "text", "text": "ther?"}]},
            {"role": "assistant", "content": null, "refusal": null, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}},
                {"id": "b", "type": "function", "function": {"name": "time", "arguments": "now"}},
            ]},
            {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        ]))
        .unwrap();
        assert_eq!(found[0], Message::system("Be brief."));
        assert_eq!(found[1], Message::user("Weather?"));
        let calls = [
            ToolCall::new("weather", json!({"city": "Oslo"})).with_id("a"),
            ToolCall::new("time", json!("now")).with_id("b"),
        ];
        assert_eq!(found[2].tool_calls, calls);
        assert_eq!(found[3], Message::tool("sunny").with_tool_call_id("a"));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for (messages, field) in [
            (json!([]), "messages:"),
            (
                json!([{"role": "user", "content": 7}]),
                "messages[0].content:",
            ),
            (
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
                "messages[0].content[0]:",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "messages[0].content[0].text:",
            ),
        ] {
            let body = serde_json::to_value(parse(messages).unwrap_err().body()).unwrap();
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.starts_with(field), "{message}");
        }
    }
}
