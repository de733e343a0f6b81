//! Calls between `<tool_call>` and `</tool_call>`.
//!
//! Three forms of what is between them are known:
//!
//! ```text
//! {"name": "weather", "arguments": {"city": "Oslo"}}
//!
//! <function=weather>
//! <parameter=city>
//! Oslo
//! </parameter>
//! </function>
//!
//! weather
//! <arg_key>city</arg_key>
//! <arg_value>Oslo</arg_value>
//! ```

use serde_json::{Map, Value};

use super::Part;
use super::call::{Call, Tool};
use super::json::Json;
use super::markers::{first, settled, take_settled};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
/// What begins and ends a value that is written as bare text.
const VALUES: [(&str, &str); 2] = [
    ("<parameter=", "</parameter>"),
    ("<arg_value>", "</arg_value>"),
];

/// A reply as far as it has come.
pub struct Parser {
    tools: Vec<Tool>,
    /// Text that is not given out yet: a call from its beginning on, or what may be one.
    held: String,
    in_call: bool,
    /// Bytes of a held call in which its end is not.
    searched: usize,
    place: Place,
    /// Spaces before a call are not part of the text.
    spaces: String,
    has_calls: bool,
}

/// Where in a held call the text is, as far as it is searched.
#[derive(Default)]
enum Place {
    /// Before anything that tells the form.
    #[default]
    Start,
    Json(Json),
    /// Between the marks of another form.
    Marks,
    /// In a value, which this mark ends.
    Value(&'static str),
}

impl Parser {
    /// A reply that may call these tools.
    pub fn new(tools: &[Tool]) -> Self {
        Self {
            tools: tools.to_vec(),
            held: String::new(),
            in_call: false,
            searched: 0,
            place: Place::Start,
            spaces: String::new(),
            has_calls: false,
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
        if !self.in_call {
            self.text(&rest, &mut parts);
        } else if let Some(call) = block(&rest, &self.tools) {
            // The model ended its turn in place of the mark.
            self.call(call, &mut parts);
        } else {
            self.text(&format!("{OPEN}{rest}"), &mut parts);
        }
        if !self.has_calls {
            parts.push(Part::Content(self.spaces));
        }
        parts
    }

    /// Takes as much as is decided. `false` if nothing more is.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        if !self.in_call {
            let found = first(&self.held, &[OPEN]);
            let text = match found {
                Some(found) => {
                    let rest = self.held.split_off(found.at + OPEN.len());
                    let mut text = std::mem::replace(&mut self.held, rest);
                    text.truncate(found.at);
                    text
                }
                None => take_settled(&mut self.held, &[OPEN]),
            };
            self.text(&text, parts);
            self.in_call = found.is_some();
            return self.in_call;
        }
        let Some(end) = self.end_of_call() else {
            return false;
        };
        let rest = self.held.split_off(end + CLOSE.len());
        let held = std::mem::replace(&mut self.held, rest);
        self.in_call = false;
        self.searched = 0;
        self.place = Place::Start;
        match block(&held[..end], &self.tools) {
            Some(call) => self.call(call, parts),
            None => self.text(&format!("{OPEN}{held}"), parts),
        }
        true
    }

    /// Where the mark is that ends the held call. One within an argument ends nothing. No part of
    /// the text is searched twice.
    fn end_of_call(&mut self) -> Option<usize> {
        loop {
            let rest = &self.held[self.searched..];
            match &mut self.place {
                Place::Start => {
                    self.searched += rest.len() - rest.trim_start().len();
                    self.place = match rest.trim_start().chars().next()? {
                        '{' => Place::Json(Json::default()),
                        _ => Place::Marks,
                    };
                }
                Place::Json(json) => {
                    for letter in rest.chars() {
                        let rest = &self.held[self.searched..];
                        if letter == '<' && !json.is_in_text() {
                            if rest.starts_with(CLOSE) {
                                return Some(self.searched);
                            }
                            if CLOSE.starts_with(rest) {
                                return None;
                            }
                        }
                        json.take(letter);
                        self.searched += letter.len_utf8();
                    }
                    return None;
                }
                Place::Marks => {
                    let [(parameter, _), (value, _)] = VALUES;
                    let markers = [CLOSE, parameter, value];
                    let Some(found) = first(rest, &markers) else {
                        self.searched += settled(rest, &markers);
                        return None;
                    };
                    let begin = VALUES.iter().find(|(begin, _)| *begin == found.marker);
                    let Some((begin, end)) = begin else {
                        return Some(self.searched + found.at);
                    };
                    self.searched += found.at + begin.len();
                    self.place = Place::Value(end);
                }
                Place::Value(end) => {
                    let Some(found) = first(rest, &[end]) else {
                        self.searched += settled(rest, &[end]);
                        return None;
                    };
                    self.searched += found.at + end.len();
                    self.place = Place::Marks;
                }
            }
        }
    }

    fn call(&mut self, call: Call, parts: &mut Vec<Part>) {
        self.spaces.clear();
        self.has_calls = true;
        parts.push(Part::Call(call));
    }

    fn text(&mut self, text: &str, parts: &mut Vec<Part>) {
        let end = text.trim_end().len();
        if end > 0 {
            let before = std::mem::take(&mut self.spaces);
            parts.push(Part::Content(before + &text[..end]));
        }
        self.spaces.push_str(&text[end..]);
    }
}

/// The call that is written between the marks.
fn block(text: &str, tools: &[Tool]) -> Option<Call> {
    let text = text.trim();
    if text.starts_with('{') {
        Call::of_json(&serde_json::from_str(text).ok()?)
    } else if let Some(rest) = text.strip_prefix("<function=") {
        function(rest, tools)
    } else {
        keys_and_values(text, tools)
    }
}

/// What follows `<function=`.
fn function(text: &str, tools: &[Tool]) -> Option<Call> {
    let (name, mut rest) = text.split_once('>')?;
    let mut arguments = Map::new();
    while let Some((_, parameter)) = rest.split_once("<parameter=") {
        let (key, value) = parameter.split_once('>')?;
        let (value, after) = value.split_once("</parameter>")?;
        // One line break each belongs to the form.
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        arguments.insert(key.to_owned(), Tool::argument(tools, name, key, value));
        rest = after;
    }
    Some(Call {
        name: name.to_owned(),
        arguments: Value::Object(arguments).to_string(),
    })
}

/// A name, then pairs of `<arg_key>` and `<arg_value>`.
fn keys_and_values(text: &str, tools: &[Tool]) -> Option<Call> {
    let (name, mut rest) = match text.find("<arg_key>") {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let name = name.trim();
    if !tools.iter().any(|tool| tool.name == name) {
        return None;
    }
    let mut arguments = Map::new();
    while let Some((_, pair)) = rest.split_once("<arg_key>") {
        let (key, pair) = pair.split_once("</arg_key>")?;
        let (_, value) = pair.split_once("<arg_value>")?;
        let (value, after) = value.split_once("</arg_value>")?;
        arguments.insert(key.to_owned(), Tool::argument(tools, name, key, value));
        rest = after;
    }
    Some(Call {
        name: name.to_owned(),
        arguments: Value::Object(arguments).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Format::Tagged;
    use super::super::tests::{call, content, parse, weather};
    use super::Parser;

    #[test]
    fn text_and_parallel_calls() {
        let text = "Let me look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \
                    \"Oslo\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"weather\", \"arguments\": \
                    {\"city\": \"Rome\", \"days\": 2}}\n</tool_call>\n";
        assert_eq!(
            parse(Tagged, &[weather()], text),
            [
                content("Let me look."),
                call("weather", r#"{"city":"Oslo"}"#),
                call("weather", r#"{"city":"Rome","days":2}"#),
            ]
        );
    }

    #[test]
    fn text_without_calls_stays_as_it_is() {
        for text in [
            "",
            "a < b <tool\n\n",
            "  spaces \n around  ",
            "</tool_call>",
        ] {
            let parts = parse(Tagged, &[weather()], text);
            assert!(
                text.is_empty() && parts.is_empty() || parts == [content(text)],
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_stays_text() {
        for text in [
            "<tool_call>nonsense</tool_call> and more",
            "<tool_call>{\"name\": 7}</tool_call>",
            "<tool_call>{\"name\": \"weather\", \"arguments\": [1]}</tool_call>",
            "<tool_call>{\"name\": \"weather\", \"argu",
            "<tool_call>",
        ] {
            assert_eq!(parse(Tagged, &[weather()], text), [content(text)]);
        }
    }

    #[test]
    fn the_end_of_the_turn_closes_a_call() {
        let text = "<tool_call>{\"name\": \"weather\"}";
        assert_eq!(parse(Tagged, &[weather()], text), [call("weather", "{}")]);
    }

    #[test]
    fn a_mark_within_a_text_ends_nothing() {
        let text = "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"</tool_call>\"}}\
                    </tool_call>";
        assert_eq!(
            parse(Tagged, &[weather()], text),
            [call("weather", r#"{"city":"</tool_call>"}"#)]
        );
    }

    #[test]
    fn many_marks_within_a_text_are_looked_at_once_each() {
        let city = "Ålesund </tool_call>".repeat(5000);
        let arguments = format!("{{\"city\":\"{city}\"}}");
        for text in [
            format!("{{\"name\": \"weather\", \"arguments\": {arguments}}}"),
            format!("<function=weather><parameter=city>{city}</parameter></function>"),
            format!("weather<arg_key>city</arg_key><arg_value>{city}</arg_value>"),
        ] {
            let text = format!("<tool_call>{text}</tool_call>");
            let mut parser = Parser::new(&[weather()]);
            let mut parts = Vec::new();
            // Letter by letter, looking at all of them again would take hours.
            for (at, letter) in text.char_indices() {
                parts.extend(parser.push(&text[at..at + letter.len_utf8()]));
            }
            parts.extend(parser.finish());
            assert_eq!(parts, [call("weather", &arguments)]);
        }
    }

    #[test]
    fn values_may_hold_every_other_mark() {
        let city = "a</tool_call>\n<tool_call>b</function></tool_call>c<parameter=d>";
        let expected = serde_json::json!({"city": city}).to_string();
        for text in [
            format!("<function=weather>\n<parameter=city>\n{city}\n</parameter>\n</function>\n"),
            format!("weather\n<arg_key>city</arg_key>\n<arg_value>{city}</arg_value>\n"),
        ] {
            let text = format!("<tool_call>\n{text}</tool_call>and text");
            assert_eq!(
                parse(Tagged, &[weather()], &text),
                [call("weather", &expected), content("and text")]
            );
        }
    }

    #[test]
    fn what_is_no_json_ends_with_the_first_mark() {
        let good = r#"<tool_call>{"name": "weather", "arguments": {}}</tool_call>"#;
        for bad in [
            r#"<tool_call>{"name": "weather", "arguments": {"city": "a "b" c"}}</tool_call>"#,
            r#"<tool_call>{"name": "weather", "arguments": {"city": "a", b"}}</tool_call>"#,
            "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"a\n}}</tool_call>",
            r#"<tool_call>{"name": "weather", "arguments": {</tool_call>"#,
        ] {
            let text = format!("{bad}{good}");
            assert_eq!(
                parse(Tagged, &[weather()], &text),
                [content(bad), call("weather", "{}")]
            );
        }
    }

    #[test]
    fn arguments_may_be_a_text_that_holds_them() {
        let text =
            r#"<tool_call>{"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}</tool_call>"#;
        assert_eq!(
            parse(Tagged, &[weather()], text),
            [call("weather", r#"{"city": "Oslo"}"#)]
        );
    }

    #[test]
    fn functions_with_parameters() {
        let text = "<tool_call>\n<function=weather>\n<parameter=city>\n12\n</parameter>\n\
                    <parameter=days>\n3\n</parameter>\n</function>\n</tool_call>";
        assert_eq!(
            parse(Tagged, &[weather()], text),
            [call("weather", r#"{"city":"12","days":3}"#)]
        );
    }

    #[test]
    fn keys_with_values() {
        let text = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n\
                    <arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>";
        assert_eq!(
            parse(Tagged, &[weather()], text),
            [call("weather", r#"{"city":"Oslo","days":3}"#)]
        );
    }
}
