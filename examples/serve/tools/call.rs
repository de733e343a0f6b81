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
    /// An argument that was written as bare text, by what the schema says of it: where it may be
    /// a text, it is one, whatever else it looks like.
    pub(super) fn argument(tools: &[Self], tool: &str, name: &str, text: &str) -> Value {
        let tool = tools.iter().find(|known| known.name == tool);
        let schema = tool.and_then(|tool| tool.parameters.get("properties")?.get(name));
        let may_be = |kind| match (tool, schema) {
            (Some(tool), Some(schema)) => names(&tool.parameters, schema, kind, &mut { MAX_PARTS }),
            _ => false,
        };
        if may_be(Kind::Text) && !(text == "null" && may_be(Kind::Null)) {
            return text.into();
        }
        serde_json::from_str(text).unwrap_or_else(|_| text.into())
    }
}

/// Parts of a schema that are looked at for one argument. It may refer to itself, several times.
const MAX_PARTS: usize = 64;

/// What a value may be.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Null,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Null => "null",
        }
    }

    fn is_of(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Null => value.is_null(),
        }
    }
}

/// Whether a schema, a part of `root`, names this kind among those that a value may have. Looks at
/// no more than so many `parts`.
fn names(root: &Value, schema: &Value, kind: Kind, parts: &mut usize) -> bool {
    if *parts == 0 {
        return false;
    }
    *parts -= 1;
    let list = |key: &str| schema[key].as_array().into_iter().flatten();
    schema["type"] == kind.name()
        || list("type").any(|name| name == kind.name())
        || list("enum").any(|value| kind.is_of(value))
        || schema.get("const").is_some_and(|value| kind.is_of(value))
        || ["anyOf", "oneOf", "allOf"]
            .iter()
            .flat_map(|key| list(key))
            .any(|schema| names(root, schema, kind, parts))
        || schema["$ref"]
            .as_str()
            .and_then(|reference| root.pointer(reference.strip_prefix('#')?))
            .is_some_and(|schema| names(root, schema, kind, parts))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_a_text_is_one() {
        let argument = |schema: Value, text: &str| {
            let tool = Tool {
                name: "send".to_owned(),
                parameters: json!({
                    "$defs": {
                        "code": {"type": "string"},
                        "list": {"anyOf": vec![json!({"$ref": "#/$defs/list"}); 100]},
                    },
                    "properties": {"zip": schema},
                }),
            };
            Tool::argument(&[tool], "send", "zip", text)
        };
        for schema in [
            json!({"type": "string"}),
            json!({"type": ["string", "null"]}),
            json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
            json!({"oneOf": [{"type": "integer"}, {"$ref": "#/$defs/code"}]}),
            json!({"enum": ["12345", "23456"]}),
            json!({"const": "12345"}),
            json!({"$ref": "#/$defs/code"}),
            json!({"allOf": [{"$ref": "#/$defs/code"}]}),
        ] {
            assert_eq!(argument(schema.clone(), "12345"), "12345", "{schema}");
        }
        for schema in [
            json!({"type": "integer"}),
            json!({"type": ["number", "null"]}),
            json!({"enum": [12345, null]}),
            json!({"$ref": "#/$defs/list"}),
            json!({"$ref": "#/$defs/missing"}),
            json!({"$ref": "elsewhere"}),
            json!({}),
            json!(true),
            json!(null),
        ] {
            assert_eq!(argument(schema.clone(), "12345"), 12345, "{schema}");
            assert_eq!(argument(schema.clone(), "12a"), "12a", "{schema}");
        }
        let text = json!({"type": "string"});
        assert_eq!(argument(text, "null"), "null");
        for schema in [
            json!({"type": ["string", "null"]}),
            json!({"anyOf": [{"$ref": "#/$defs/code"}, {"type": "null"}]}),
            json!({"enum": ["a", null]}),
            json!({"type": "integer"}),
        ] {
            assert_eq!(argument(schema.clone(), "null"), Value::Null, "{schema}");
        }
        // Of what is not known.
        assert_eq!(Tool::argument(&[], "send", "zip", "12345"), 12345);
    }
}
