//! Tool calls: how a model's template has them written, read back from the reply.
//!
//! There is no standard: every family of models was trained to write calls in a form of its
//! own, which its chat template shows. [`Format::of`] tells the form by the template, and a
//! [`Parser`] takes the reply apart as it comes: text, reasoning, and calls. A call is given
//! out when it is complete, so that nobody is told half of one that turns out to be none;
//! what looks like a call and cannot be read stays text.

mod call;
mod choice;
mod harmony;
mod json;
mod llama3;
mod markers;
mod mistral;
mod tagged;

pub use call::{Call, Tool};
pub use choice::Forced;

/// How calls are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Between `<tool_call>` and `</tool_call>`: as JSON (Hermes, Qwen), as `<function=...>`
    /// (Qwen3-Coder) or with `<arg_key>` (GLM).
    Tagged,
    /// The reply is nothing but `{"name": ..., "parameters": ...}` (Llama 3).
    Llama3,
    /// After `[TOOL_CALLS]` (Mistral).
    Mistral,
    /// Messages in channels, calls addressed `to=functions.NAME` (gpt-oss).
    Harmony,
}

/// A part of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text for the user.
    Content(String),
    /// What the model thinks before it answers.
    Reasoning(String),
    /// A complete call.
    Call(Call),
}

impl Format {
    /// The form that a chat template shows the model; none if it has no place for tools.
    pub fn of(template: &str) -> Option<Self> {
        let has = |text: &str| template.contains(text);
        if has("<|channel|>") && has("<|message|>") {
            Some(Self::Harmony)
        } else if !has("tools") {
            None
        } else if has("<tool_call>") {
            Some(Self::Tagged)
        } else if has("[TOOL_CALLS]") {
            Some(Self::Mistral)
        } else if has("\"parameters\"") && (has("ipython") || has("<|python_tag|>")) {
            Some(Self::Llama3)
        } else {
            None
        }
    }

    /// Whether a reply is read by marks that are control tokens, which its text has only where
    /// that is asked for.
    pub fn needs_control_tokens(self, has_tools: bool) -> bool {
        match self {
            Self::Tagged => false,
            Self::Llama3 | Self::Mistral => has_tools,
            Self::Harmony => true,
        }
    }
}

/// Takes a reply apart.
pub enum Parser {
    /// Everything is text.
    None,
    /// See [`Format::Tagged`].
    Tagged(tagged::Parser),
    /// See [`Format::Llama3`].
    Llama3(llama3::Parser),
    /// See [`Format::Mistral`].
    Mistral(mistral::Parser),
    /// See [`Format::Harmony`].
    Harmony(harmony::Parser),
}

impl Parser {
    /// A parser for a reply in this form. Without tools everything is text, but for channels:
    /// those are there without tools too.
    pub fn new(format: Option<Format>, tools: &[Tool]) -> Self {
        match format {
            Some(Format::Harmony) => Self::Harmony(harmony::Parser::new(!tools.is_empty())),
            _ if tools.is_empty() => Self::None,
            Some(Format::Tagged) => Self::Tagged(tagged::Parser::new(tools)),
            Some(Format::Llama3) => Self::Llama3(llama3::Parser::new(tools)),
            Some(Format::Mistral) => Self::Mistral(mistral::Parser::default()),
            None => Self::None,
        }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        let parts = match self {
            Self::None => vec![Part::Content(text.to_owned())],
            Self::Tagged(parser) => parser.push(text),
            Self::Llama3(parser) => parser.push(text),
            Self::Mistral(parser) => parser.push(text),
            Self::Harmony(parser) => parser.push(text),
        };
        without_empty(parts)
    }

    /// What was held back, at the end of the reply.
    pub fn finish(self) -> Vec<Part> {
        let parts = match self {
            Self::None => Vec::new(),
            Self::Tagged(parser) => parser.finish(),
            Self::Llama3(parser) => parser.finish(),
            Self::Mistral(parser) => parser.finish(),
            Self::Harmony(parser) => parser.finish(),
        };
        without_empty(parts)
    }
}

fn without_empty(mut parts: Vec<Part>) -> Vec<Part> {
    parts.retain(
        |part| !matches!(part, Part::Content(text) | Part::Reasoning(text) if text.is_empty()),
    );
    parts
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a parser makes of a text, whole and cut everywhere: adjacent texts joined.
    pub(crate) fn parse(format: Format, tools: &[Tool], text: &str) -> Vec<Part> {
        let whole = joined(run(format, tools, &[text]));
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        assert_eq!(
            joined(run(format, tools, &letters)),
            whole,
            "{text:?} by letters"
        );
        for (at, _) in text.char_indices() {
            let pieces = [&text[..at], &text[at..]];
            assert_eq!(
                joined(run(format, tools, &pieces)),
                whole,
                "{text:?} cut at {at}"
            );
        }
        whole
    }

    fn run(format: Format, tools: &[Tool], pieces: &[&str]) -> Vec<Part> {
        let mut parser = Parser::new(Some(format), tools);
        let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
        parts.extend(parser.finish());
        parts
    }

    fn joined(parts: Vec<Part>) -> Vec<Part> {
        let mut all: Vec<Part> = Vec::new();
        for part in parts {
            match (all.last_mut(), part) {
                (Some(Part::Content(text)), Part::Content(more))
                | (Some(Part::Reasoning(text)), Part::Reasoning(more)) => text.push_str(&more),
                (_, part) => all.push(part),
            }
        }
        all
    }

    pub(crate) fn content(text: &str) -> Part {
        Part::Content(text.to_owned())
    }

    pub(crate) fn reasoning(text: &str) -> Part {
        Part::Reasoning(text.to_owned())
    }

    pub(crate) fn call(name: &str, arguments: &str) -> Part {
        Part::Call(Call {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        })
    }

    /// A tool with one parameter of each kind.
    pub(crate) fn weather() -> Tool {
        Tool {
            name: "weather".to_owned(),
            parameters: serde_json::json!({
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            }),
        }
    }

    #[test]
    fn the_form_is_told_by_the_template() {
        for (template, format) in [
            ("{{ messages }}", None),
            ("{% for tool in tools %}{{ tool }}{% endfor %}", None),
            ("{% if tools %}<tool_call>{% endif %}", Some(Format::Tagged)),
            (
                "{% if tools %}[TOOL_CALLS]{% endif %}",
                Some(Format::Mistral),
            ),
            (
                "{% if tools %}{\"name\": , \"parameters\": }<|start_header_id|>ipython{% endif %}",
                Some(Format::Llama3),
            ),
            (
                "<|start|>assistant<|channel|>final<|message|>",
                Some(Format::Harmony),
            ),
        ] {
            assert_eq!(Format::of(template), format, "{template}");
        }
    }

    #[test]
    fn without_tools_everything_is_text() {
        let text = "<tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>";
        for format in [Format::Tagged, Format::Llama3, Format::Mistral] {
            assert_eq!(parse(format, &[], text), [content(text)]);
        }
    }
}
