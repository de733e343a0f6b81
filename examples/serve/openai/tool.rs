//! Tools, and which of them the model is to call.

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use crate::tools::Tool;

/// The fields of a request that are about tools.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ToolFields {
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
}

/// What a request says of tools.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tools {
    /// The tools in the API's form, as templates take them.
    pub json: Vec<Value>,
    /// The same, read.
    pub known: Vec<Tool>,
    /// The tools of which the model has to call one.
    pub required: Option<Vec<Tool>>,
    /// Whether it may call several at a time.
    pub parallel: bool,
}

impl ToolFields {
    /// The tools, checked.
    pub fn read(self) -> ApiResult<Tools> {
        let json = self.tools.unwrap_or_default();
        let known = json.iter().enumerate().map(tool);
        let mut tools = Tools {
            known: known.collect::<ApiResult<Vec<_>>>()?,
            json,
            required: None,
            parallel: self.parallel_tool_calls.unwrap_or(true),
        };
        let Some(choice) = self.tool_choice.filter(|choice| !choice.is_null()) else {
            return Ok(tools);
        };
        match choice.as_str() {
            Some("auto") => {}
            Some("none") => return Ok(Tools::default()),
            Some("required") if tools.known.is_empty() => {
                return Err(ApiError::field("tool_choice", "there are no tools"));
            }
            Some("required") => tools.required = Some(tools.known.clone()),
            Some(_) => {
                let message = "it is 'none', 'auto', 'required', or names a function";
                return Err(ApiError::field("tool_choice", message));
            }
            None => {
                let name = choice["function"]["name"].as_str().unwrap_or_default();
                let found = tools.known.iter().find(|tool| tool.name == name);
                let Some(tool) = found else {
                    let message = format!("there is no function '{name}' among the tools");
                    return Err(ApiError::field("tool_choice", message));
                };
                tools.required = Some(vec![tool.clone()]);
            }
        }
        Ok(tools)
    }
}

fn tool((index, json): (usize, &Value)) -> ApiResult<Tool> {
    let error = |field: &str, message: &str| {
        Err(ApiError::field(format!("tools[{index}]{field}"), message))
    };
    if json["type"] != "function" {
        return error(".type", "this server knows only 'function'");
    }
    let function = &json["function"];
    let name = match function["name"].as_str() {
        Some(name) if !name.is_empty() => name,
        _ => return error(".function.name", "a function has a name"),
    };
    let parameters = match &function["parameters"] {
        Value::Null => json!({"type": "object", "properties": {}}),
        object @ Value::Object(_) => object.clone(),
        _ => return error(".function.parameters", "it is a JSON schema"),
    };
    Ok(Tool {
        name: name.to_owned(),
        parameters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> ApiResult<Tools> {
        serde_json::from_value::<ToolFields>(value).unwrap().read()
    }

    #[test]
    fn which_tool_is_to_be_called() {
        let tools = json!([
            {"type": "function", "function": {"name": "a", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "b"}},
        ]);
        let required = |choice: Value| {
            let tools = read(json!({"tools": tools, "tool_choice": choice})).unwrap();
            let required = tools.required.map(|tools| tools.len());
            (tools.known.len(), required)
        };
        assert_eq!(required(Value::Null), (2, None));
        assert_eq!(required(json!("auto")), (2, None));
        assert_eq!(required(json!("none")), (0, None));
        assert_eq!(required(json!("required")), (2, Some(2)));
        let b = json!({"type": "function", "function": {"name": "b"}});
        assert_eq!(required(b), (2, Some(1)));
        assert_eq!(
            read(json!({})),
            read(json!({"tools": [], "tool_choice": null}))
        );
    }

    #[test]
    fn what_is_no_tool_is_refused() {
        for (json, field) in [
            (json!({"tools": [{}]}), "tools[0].type:"),
            (
                json!({"tools": [{"type": "function"}]}),
                "tools[0].function.name:",
            ),
            (
                json!({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}),
                "tools[0].function.parameters:",
            ),
            (json!({"tool_choice": "required"}), "tool_choice:"),
            (json!({"tool_choice": "sometimes"}), "tool_choice:"),
            (
                json!({"tool_choice": {"type": "function", "function": {"name": "c"}}}),
                "tool_choice:",
            ),
        ] {
            let body = serde_json::to_value(read(json).unwrap_err().body()).unwrap();
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.starts_with(field), "{message}");
        }
    }
}
