//! Calls after `[TOOL_CALLS]`: all in one JSON array, or each with a mark of its own, as
//! `[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}`.

use serde_json::Value;

use super::Part;
use super::call::{Call, is_object};
use super::markers::{first, take_settled};

const CALLS: &str = "[TOOL_CALLS]";
const ARGS: &str = "[ARGS]";
const CALL_ID: &str = "[CALL_ID]";

/// A reply as far as it has come.
#[derive(Default)]
pub struct Parser {
    held: String,
    in_calls: bool,
}

impl Parser {
    /// Takes the next piece.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        if self.in_calls {
            return Vec::new();
        }
        let text = match first(&self.held, &[CALLS]) {
            Some(found) => {
                self.in_calls = true;
                let rest = self.held.split_off(found.at);
                std::mem::replace(&mut self.held, rest)
            }
            None => take_settled(&mut self.held, &[CALLS]),
        };
        vec![Part::Content(text)]
    }

    /// The rest.
    pub fn finish(self) -> Vec<Part> {
        match calls(&self.held) {
            Some(calls) => calls.into_iter().map(Part::Call).collect(),
            None => vec![Part::Content(self.held)],
        }
    }
}

/// The calls, of which there is one at least.
fn calls(text: &str) -> Option<Vec<Call>> {
    let after = text.strip_prefix(CALLS)?.trim();
    if after.starts_with('[') {
        let array: Vec<Value> = serde_json::from_str(after).ok()?;
        let calls: Vec<Call> = array.iter().map(Call::of_json).collect::<Option<_>>()?;
        return (!calls.is_empty()).then_some(calls);
    }
    after.split(CALLS).map(one).collect()
}

/// A name, perhaps an id, and the arguments.
fn one(text: &str) -> Option<Call> {
    let (name, arguments) = match text.split_once(ARGS) {
        Some((head, arguments)) => (head.split(CALL_ID).next()?, arguments),
        None => text.split_at(text.find('{')?),
    };
    let (name, arguments) = (name.trim(), arguments.trim());
    (!name.is_empty() && is_object(arguments)).then(|| Call {
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Format::Mistral;
    use super::super::tests::{call, content, parse, weather};

    #[test]
    fn an_array_of_calls() {
        let text = r#"Well. [TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}, "id": "a"}, {"name": "time", "arguments": {}}]"#;
        assert_eq!(
            parse(Mistral, &[weather()], text),
            [
                content("Well. "),
                call("weather", r#"{"city":"Oslo"}"#),
                call("time", "{}")
            ]
        );
    }

    #[test]
    fn a_mark_for_each_call() {
        for text in [
            r#"[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]time[ARGS]{}"#,
            r#"[TOOL_CALLS]weather[CALL_ID]123456789[ARGS]{"city": "Oslo"}[TOOL_CALLS]time{}"#,
        ] {
            assert_eq!(
                parse(Mistral, &[weather()], text),
                [call("weather", r#"{"city": "Oslo"}"#), call("time", "{}")]
            );
        }
    }

    #[test]
    fn what_cannot_be_read_stays_text() {
        for text in [
            "no call [TOOL",
            "[TOOL_CALLS]",
            "[TOOL_CALLS][]",
            "[TOOL_CALLS] [{\"name\": \"weather\"",
            "[TOOL_CALLS]weather[ARGS]Oslo",
        ] {
            assert_eq!(parse(Mistral, &[weather()], text), [content(text)]);
        }
    }
}
