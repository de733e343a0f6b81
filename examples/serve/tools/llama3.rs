//! Calls that are the whole reply: `{"name": "weather", "parameters": {"city": "Oslo"}}`.

use serde_json::Value;

use super::Part;
use super::call::{Call, Tool};

const TAG: &str = "<|python_tag|>";

/// A reply as far as it has come.
pub struct Parser {
    tools: Vec<Tool>,
    /// The reply, while it may still be calls.
    held: String,
    is_text: bool,
}

impl Parser {
    /// A reply that may call these tools.
    pub fn new(tools: &[Tool]) -> Self {
        Self {
            tools: tools.to_vec(),
            held: String::new(),
            is_text: false,
        }
    }

    /// Takes the next piece.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        self.is_text = self.is_text || !may_be_calls(&self.held);
        if !self.is_text {
            return Vec::new();
        }
        vec![Part::Content(std::mem::take(&mut self.held))]
    }

    /// The rest.
    pub fn finish(self) -> Vec<Part> {
        match calls(&self.held, &self.tools) {
            Some(calls) => calls.into_iter().map(Part::Call).collect(),
            None => vec![Part::Content(self.held)],
        }
    }
}

fn may_be_calls(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with('{') || text.starts_with(TAG) || TAG.starts_with(text)
}

/// The calls, if there is nothing else. Several are divided by semicolons or line breaks.
fn calls(text: &str, tools: &[Tool]) -> Option<Vec<Call>> {
    let text = text.trim();
    let mut rest = text.strip_prefix(TAG).unwrap_or(text);
    let mut calls = Vec::new();
    loop {
        rest = rest.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
        if rest.is_empty() {
            return (!calls.is_empty()).then_some(calls);
        }
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let value = values.next()?.ok()?;
        rest = &rest[values.byte_offset()..];
        calls.push(call(&value, tools)?);
    }
}

/// The call in an object. There is no mark by it, so any other object with a `name` has to be
/// told from it: an answer may be one.
fn call(value: &Value, tools: &[Tool]) -> Option<Call> {
    let has_arguments = ["parameters", "arguments"]
        .iter()
        .any(|key| value.get(key).is_some());
    let call = Call::of_json(value).filter(|_| has_arguments)?;
    tools
        .iter()
        .any(|tool| tool.name == call.name)
        .then_some(call)
}

#[cfg(test)]
mod tests {
    use super::super::Format::Llama3;
    use super::super::tests::{call, content, parse, weather};

    #[test]
    fn a_reply_of_calls() {
        let oslo = call("weather", r#"{"city":"Oslo"}"#);
        for text in [
            r#"{"name": "weather", "parameters": {"city": "Oslo"}}"#,
            r#" {"name": "weather", "arguments": {"city": "Oslo"}}"#,
            r#"<|python_tag|>{"name": "weather", "parameters": {"city": "Oslo"}}"#,
        ] {
            assert_eq!(parse(Llama3, &[weather()], text), [oslo.clone()]);
        }
        let text = r#"{"name": "weather", "parameters": {"city": "Oslo"}}; {"name": "weather", "parameters": {}}"#;
        assert_eq!(
            parse(Llama3, &[weather()], text),
            [oslo, call("weather", "{}")]
        );
    }

    #[test]
    fn anything_else_is_text() {
        for text in [
            "It is sunny.",
            "{\"answer\": 1}",
            "{\"name\": \"weather\", \"parameters\": {\"city\"",
            r#"{"name": "weather"} as I said"#,
            r#"{"name": "weather"}"#,
            r#"{"name": "Alice", "age": 30}"#,
            r#"{"name": "time", "parameters": {}}"#,
            r#"{"name": "weather", "parameters": {}}; {"name": "time", "parameters": {}}"#,
            "<|python_tag|>import os",
        ] {
            assert_eq!(parse(Llama3, &[weather()], text), [content(text)]);
        }
    }
}
