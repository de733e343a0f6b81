//! A tool, and a call of one.

use serde_json::{Map, Value};

/// A tool that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

/// A call that the model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The tool's name.
    pub name: String,
    /// Its arguments, as the text of a JSON object.
    pub arguments: String,
}

impl Call {
    /// The call in `{"name": ..., "arguments": ...}`, or with `parameters` in place of
    /// `arguments`; none if it is another object.
    pub fn of_json(value: &Value) -> Option<Self> {
        let name = value.get("name")?.as_str()?;
        let arguments = match value.get("arguments").or_else(|| value.get("parameters")) {
            // Some models write the object as a text, as the API has it.
            Some(Value::String(text)) if is_object(text) => text.clone(),
            Some(object @ Value::Object(_)) => object.to_string(),
            None => "{}".to_owned(),
            Some(_) => return None,
        };
        Some(Self {
            name: name.to_owned(),
            arguments,
        })
    }
}

/// Whether a text is a JSON object.
pub(super) fn is_object(text: &str) -> bool {
    serde_json::from_str::<Map<String, Value>>(text).is_ok()
}

impl Tool {
    /// An argument that was written as bare text, by what the schema says of it.
    pub(super) fn argument(tools: &[Self], tool: &str, name: &str, text: &str) -> Value {
        let schema = tools
            .iter()
            .find(|known| known.name == tool)
            .and_then(|tool| tool.parameters.get("properties")?.get(name));
        let is_text = schema.is_some_and(|schema| schema["type"] == "string");
        if is_text {
            return text.into();
        }
        serde_json::from_str(text).unwrap_or_else(|_| text.into())
    }
}
