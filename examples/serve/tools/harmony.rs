//! gpt-oss's messages in channels.
//!
//! A reply is one or more messages, each with a head that says which channel it is in and
//! whom it is for:
//!
//! ```text
//! <|channel|>analysis<|message|>They ask for the weather.<|end|>
//! <|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{}<|call|>
//! ```
//!
//! (without the line break). The channel `analysis` is reasoning; what goes to
//! `functions.NAME` is a call; the rest is text.

use super::Part;
use super::call::{Call, is_object};
use super::markers::{first, take_settled};

const MESSAGE: &str = "<|message|>";
const ENDS: [&str; 5] = [
    "<|end|>",
    "<|call|>",
    "<|return|>",
    "<|start|>",
    "<|channel|>",
];
/// How a head may begin: the prompt ends with `<|start|>assistant`.
const HEADS: [&str; 3] = ["<|channel|>", "<|start|>", " to="];
/// What no text begins with.
const SURE_HEADS: [&str; 3] = ["<|channel|>", "<|start|>", " to=functions."];

/// A reply as far as it has come.
pub struct Parser {
    may_call: bool,
    held: String,
    place: Place,
}

/// Where in a message the text is.
#[derive(Default)]
enum Place {
    /// Before or in the head, which is held.
    #[default]
    Head,
    Content,
    Reasoning,
    /// In a call's arguments, which are held.
    Call {
        name: String,
        arguments: String,
    },
}

impl Parser {
    /// A reply. Where it may not call anything, calls are text.
    pub fn new(may_call: bool) -> Self {
        Self {
            may_call,
            held: String::new(),
            place: Place::Head,
        }
    }

    /// Takes the next piece.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// The rest.
    pub fn finish(mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let rest = std::mem::take(&mut self.held);
        if matches!(self.place, Place::Head) {
            // The reply was cut before it said anything.
            if SURE_HEADS.iter().any(|head| rest.starts_with(head)) {
                return parts;
            }
            // Not even a head: whatever it is, it is shown.
            self.place = Place::Content;
        }
        self.body(&rest, &mut parts);
        self.end(&mut parts);
        parts
    }

    /// Takes as much as is decided. `false` if nothing more is.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        if matches!(self.place, Place::Head) {
            if let Some(found) = first(&self.held, &[MESSAGE]) {
                let rest = self.held.split_off(found.at + MESSAGE.len());
                let head = std::mem::replace(&mut self.held, rest);
                self.place = place(&head, self.may_call);
                return true;
            }
            let may_be_head = HEADS
                .iter()
                .any(|head| self.held.starts_with(head) || head.starts_with(&self.held));
            if !may_be_head {
                self.place = Place::Content;
            }
            return !may_be_head;
        }
        let Some(found) = first(&self.held, &ENDS) else {
            let text = take_settled(&mut self.held, &ENDS);
            self.body(&text, parts);
            return false;
        };
        // The next message's head begins with the mark; an end is only left out.
        let is_head = HEADS.contains(&found.marker);
        let skipped = if is_head { 0 } else { found.marker.len() };
        let rest = self.held.split_off(found.at + skipped);
        let mut text = std::mem::replace(&mut self.held, rest);
        text.truncate(found.at);
        self.body(&text, parts);
        self.end(parts);
        true
    }

    fn body(&mut self, text: &str, parts: &mut Vec<Part>) {
        match &mut self.place {
            Place::Head => {}
            Place::Content => parts.push(Part::Content(text.to_owned())),
            Place::Reasoning => parts.push(Part::Reasoning(text.to_owned())),
            Place::Call { arguments, .. } => arguments.push_str(text),
        }
    }

    fn end(&mut self, parts: &mut Vec<Part>) {
        if let Place::Call { name, arguments } = std::mem::take(&mut self.place) {
            let arguments = match arguments.trim() {
                "" => "{}",
                arguments => arguments,
            };
            parts.push(if is_object(arguments) {
                Part::Call(Call {
                    name,
                    arguments: arguments.to_owned(),
                })
            } else {
                Part::Content(arguments.to_owned())
            });
        }
    }
}

/// What a message is, by its head.
fn place(head: &str, may_call: bool) -> Place {
    const RECIPIENT: &str = "to=functions.";
    let is_end = |c: char| c.is_whitespace() || c == '<';
    if let Some((_, name)) = head.split_once(RECIPIENT) {
        if !may_call {
            return Place::Content;
        }
        return Place::Call {
            name: name.split(is_end).next().unwrap_or_default().to_owned(),
            arguments: String::new(),
        };
    }
    let channel = head
        .split_once("<|channel|>")
        .map_or("", |(_, channel)| channel);
    match channel.split(is_end).next() {
        Some("analysis") => Place::Reasoning,
        _ => Place::Content,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format::Harmony;
    use super::super::tests::{call, content, parse, reasoning, weather};

    #[test]
    fn reasoning_and_an_answer() {
        let text = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final\
                    <|message|>It is < 20 degrees.<|return|>";
        assert_eq!(
            parse(Harmony, &[], text),
            [reasoning("Think."), content("It is < 20 degrees.")]
        );
    }

    #[test]
    fn calls_with_the_recipient_in_either_place() {
        for text in [
            "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary \
             to=functions.weather <|constrain|>json<|message|>{\"city\": \"Oslo\"}<|call|>",
            "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant to=functions.weather\
             <|channel|>commentary json<|message|>{\"city\": \"Oslo\"}",
        ] {
            assert_eq!(
                parse(Harmony, &[weather()], text),
                [reasoning("Look."), call("weather", "{\"city\": \"Oslo\"}")]
            );
        }
    }

    #[test]
    fn a_preamble_is_text_and_an_empty_call_has_no_arguments() {
        let text = "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant\
                    <|channel|>commentary to=functions.time<|message|><|call|>";
        assert_eq!(
            parse(Harmony, &[weather()], text),
            [content("I will look."), call("time", "{}")]
        );
    }

    #[test]
    fn without_tools_a_call_is_text() {
        let text = "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary \
                    to=functions.weather <|constrain|>json<|message|>{\"city\": \"Oslo\"}<|call|>";
        assert_eq!(
            parse(Harmony, &[], text),
            [reasoning("Look."), content("{\"city\": \"Oslo\"}")]
        );
    }

    #[test]
    fn a_reply_that_is_cut_in_a_head_has_said_nothing() {
        for text in [
            "<|channel|>",
            "<|channel|>analysis",
            "<|channel|>commentary to=functions.weather <|constrain|>json",
            "<|start|>assistant",
            " to=functions.weather<|channel|>commentary",
        ] {
            assert_eq!(parse(Harmony, &[weather()], text), []);
            let after = format!("<|channel|>analysis<|message|>Look.<|end|>{text}");
            assert_eq!(parse(Harmony, &[weather()], &after), [reasoning("Look.")]);
        }
    }

    #[test]
    fn what_is_no_message_is_text() {
        for text in ["Plain text.", "to=", " to=5", "<|ch"] {
            assert_eq!(parse(Harmony, &[weather()], text), [content(text)]);
        }
        let text = "<|channel|>commentary to=functions.time<|message|>nonsense<|call|>";
        assert_eq!(parse(Harmony, &[weather()], text), [content("nonsense")]);
    }
}
