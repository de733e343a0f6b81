//! Where in a JSON value a text is that comes in pieces.

/// The state after a part of a JSON value: enough of it to tell texts from the rest, and to
/// notice most of what is no JSON, such as a text that holds a bare quote.
#[derive(Clone, Copy, Default)]
pub struct Json {
    in_text: bool,
    /// The letter before was a backslash that means the next.
    is_escaped: bool,
    is_broken: bool,
    /// The last letter outside of texts that is no space; a quote after a text.
    last: char,
}

impl Json {
    /// Takes the next letter.
    pub fn take(&mut self, letter: char) {
        match letter {
            _ if self.is_broken => {}
            _ if self.is_escaped => self.is_escaped = false,
            '\\' if self.in_text => self.is_escaped = true,
            '"' if self.in_text => {
                self.in_text = false;
                self.last = letter;
            }
            // Control characters are written as escapes.
            '\0'..' ' if self.in_text => self.is_broken = true,
            _ if self.in_text => {}
            ' ' | '\t' | '\r' | '\n' => {}
            '"' => {
                self.in_text = true;
                self.is_broken = !matches!(self.last, '\0' | '{' | '[' | ',' | ':');
            }
            _ => {
                self.is_broken = self.last == '"' && !matches!(letter, ':' | ',' | '}' | ']');
                self.last = letter;
            }
        }
    }

    /// Whether the next letter is part of a text.
    pub fn is_in_text(&self) -> bool {
        self.in_text && !self.is_broken
    }
}

#[cfg(test)]
mod tests {
    use super::Json;

    fn is_in_text(part: &str) -> bool {
        let mut json = Json::default();
        part.chars().for_each(|letter| json.take(letter));
        json.is_in_text()
    }

    #[test]
    fn texts_are_told_from_the_rest() {
        for part in [
            r#"""#,
            r#"{"a"#,
            r#"{"a": ["b", "c: {"#,
            r#"{"a": "\"b"#,
            r#"{"a": "\\\"b"#,
            r#"{"a": "ü"#,
        ] {
            assert!(is_in_text(part), "{part}");
        }
        for part in [
            "",
            "{",
            r#"{"a""#,
            r#"{"a": "\\""#,
            r#"{"a": [1, true"#,
            r#"{"a": "b"}"#,
        ] {
            assert!(!is_in_text(part), "{part}");
        }
    }

    #[test]
    fn nothing_is_a_text_after_what_is_no_json() {
        for part in [
            r#"{"a": "b "c" d"#,
            r#"{"a" "b"#,
            r#"{"a": "b", c"#,
            r#"{"a": 1"b"#,
            "{\"a\": \"b\nc",
        ] {
            assert!(!is_in_text(part), "{part}");
            assert!(!is_in_text(&format!("{part}\"")), "{part} and a quote");
        }
    }
}
