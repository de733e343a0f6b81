//! What form an answer has to have.

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};

/// The field `response_format`.
#[derive(Clone, Debug, Deserialize)]
pub struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
    json_schema: Option<NamedSchema>,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedSchema {
    schema: Option<Value>,
}

impl ResponseFormat {
    /// The schema that the answer has to have, if any.
    pub fn schema(self) -> ApiResult<Option<Value>> {
        match self.kind.as_str() {
            "text" => Ok(None),
            "json_object" => Ok(Some(json!({"type": "object"}))),
            "json_schema" => match self.json_schema.and_then(|named| named.schema) {
                Some(schema) => Ok(Some(schema)),
                None => Err(ApiError::field(
                    "response_format.json_schema.schema",
                    "there is no schema",
                )),
            },
            other => Err(ApiError::field(
                "response_format.type",
                format!("it is '{other}', but can be text, json_object and json_schema"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_text_or_has_a_schema() {
        let schema = |value: Value| {
            serde_json::from_value::<ResponseFormat>(value)
                .unwrap()
                .schema()
        };
        assert_eq!(schema(json!({"type": "text"})), Ok(None));
        let object = json!({"type": "object"});
        assert_eq!(
            schema(json!({"type": "json_object"})),
            Ok(Some(object.clone()))
        );
        let named = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": object}});
        assert_eq!(schema(named), Ok(Some(object)));
        assert!(schema(json!({"type": "json_schema"})).is_err());
        assert!(schema(json!({"type": "xml"})).is_err());
    }
}
