//! Calls that the client insists on.

use serde_json::{Value, json};

use super::{Format, Tool};

/// How the model is made to call a tool: the prompt ends with the beginning of a call, and a
/// schema holds for the rest of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Forced {
    /// Goes after the prompt, and before the reply.
    pub prefix: String,
    /// What the reply has to be.
    pub schema: Value,
}

impl Forced {
    /// Makes the model call one of `tools`. None where the form needs the tool to be known
    /// before, and there are several.
    pub fn new(format: Format, tools: &[Tool]) -> Option<Self> {
        let one_of = |key: &str, at: &str| {
            let schemas = tools.iter().enumerate().map(|(index, tool)| {
                let path = format!("{at}/anyOf/{index}/properties/{key}");
                json!({
                    "type": "object",
                    "properties": {
                        "name": {"const": tool.name},
                        key: moved(&tool.parameters, &path),
                    },
                    "required": ["name", key],
                    "additionalProperties": false,
                })
            });
            json!({"anyOf": schemas.collect::<Vec<_>>()})
        };
        let (prefix, schema) = match (format, tools) {
            (Format::Tagged, _) => ("<tool_call>\n".to_owned(), one_of("arguments", "#")),
            (Format::Llama3, _) => (String::new(), one_of("parameters", "#")),
            (Format::Mistral, _) => (
                "[TOOL_CALLS]".to_owned(),
                json!({"type": "array", "items": one_of("arguments", "#/items"),
                    "minItems": 1, "maxItems": 1}),
            ),
            (Format::Harmony, [tool]) => (
                format!(
                    "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>",
                    tool.name
                ),
                tool.parameters.clone(),
            ),
            (Format::Harmony, _) => return None,
        };
        Some(Self { prefix, schema })
    }
}

/// A schema that has become part of another: its references to itself say so.
fn moved(schema: &Value, path: &str) -> Value {
    match schema {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| {
                let value = match value.as_str().and_then(|text| text.strip_prefix('#')) {
                    Some(rest) if key == "$ref" => format!("{path}{rest}").into(),
                    _ => moved(value, path),
                };
                (key.clone(), value)
            })
            .collect(),
        Value::Array(values) => values.iter().map(|value| moved(value, path)).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, parse, weather};
    use super::*;

    #[test]
    fn what_is_forced_is_read_as_a_call() {
        for (format, reply) in [
            (
                Format::Tagged,
                r#"{"name": "weather", "arguments": {"city":"Oslo"}}"#,
            ),
            (
                Format::Llama3,
                r#"{"name": "weather", "parameters": {"city":"Oslo"}}"#,
            ),
            (
                Format::Mistral,
                r#"[{"name": "weather", "arguments": {"city":"Oslo"}}]"#,
            ),
            (Format::Harmony, r#"{"city":"Oslo"}"#),
        ] {
            let forced = Forced::new(format, &[weather()]).unwrap();
            let text = format!("{}{reply}", forced.prefix);
            let expected = [call("weather", r#"{"city":"Oslo"}"#)];
            assert_eq!(parse(format, &[weather()], &text), expected);
        }
        assert_eq!(Forced::new(Format::Harmony, &[weather(), weather()]), None);
    }

    #[test]
    fn references_still_find_what_they_mean() {
        let tool = Tool {
            name: "plan".to_owned(),
            parameters: json!({
                "$defs": {"city": {"type": "string"}},
                "type": "object",
                "properties": {"to": {"$ref": "#/$defs/city"}},
            }),
        };
        let schema = Forced::new(Format::Tagged, &[tool]).unwrap().schema;
        let arguments = &schema["anyOf"][0]["properties"]["arguments"];
        let reference = arguments["properties"]["to"]["$ref"].as_str().unwrap();
        let found = schema.pointer(reference.strip_prefix('#').unwrap());
        assert_eq!(found, Some(&json!({"type": "string"})));
    }
}
