//! The source of a template before the engine compiles it.
//!
//! The engine limits what a template may do while it runs, but three things of a hostile
//! template would still end the process by overflowing the stack: a chain of operators or
//! of `elif` as long as the file, a value that contains itself, and a value that is
//! wrapped in another a million times. The first is limited here. For the other two every
//! `set` tag is given a filter that looks at what is assigned, for only a `set` can carry a
//! value from one turn of a loop to the next.
//!
//! The tags of training frameworks, `{% generation %}` and its end, are made to do
//! nothing.

use crate::chat::error::ChatError;

/// The filter that a `set` tag is given; its argument is whether the target is an attribute.
pub(super) const ASSIGNED_FILTER: &str = "_assigned";

/// Bytes of a template.
pub(super) const MAX_SOURCE: usize = 1 << 20;
/// Bytes of one tag, not counting white space and texts in quotes.
const MAX_TAG: usize = 1 << 14;
/// `elif` tags of a template: the engine nests each into the one before.
const MAX_ELIF: usize = 1 << 11;

/// The source that is compiled instead of `source`, line for line the same.
pub(super) fn prepare(source: &str) -> Result<String, ChatError> {
    if source.len() > MAX_SOURCE {
        return Err(over(format!("{MAX_SOURCE} bytes of template")));
    }
    let mut scanner = Scanner {
        source,
        at: 0,
        copied: 0,
        n_elif: 0,
        out: String::new(),
    };
    scanner.run()?;
    Ok(scanner.out)
}

fn over(limit: String) -> ChatError {
    ChatError::TemplateLimit { limit }
}

struct Scanner<'a> {
    source: &'a str,
    at: usize,
    /// Everything before this is in `out`.
    copied: usize,
    n_elif: usize,
    out: String,
}

/// The inside of a tag, without its white-space control.
struct Tag {
    start: usize,
    end: usize,
}

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), ChatError> {
        while let Some(marker) = self.next_marker() {
            let after_marker = self.at + 2;
            let inside = after_marker + usize::from(self.is_any(after_marker, b"-+"));
            match marker {
                b'#' => {
                    let end = self.source[inside..]
                        .find("#}")
                        .ok_or_else(|| self.fault(self.at, "a comment is not closed"))?;
                    self.at = inside + end + 2;
                }
                b'%' => match self.word_tag(inside, "raw") {
                    Some(after) => self.skip_raw(after)?,
                    None => {
                        let tag = self.tag(inside, b"%}")?;
                        self.block(&tag)?;
                    }
                },
                _ => {
                    self.tag(inside, b"}}")?;
                }
            }
        }
        self.out.push_str(&self.source[self.copied..]);
        Ok(())
    }

    /// Goes to the next tag or comment; the character that says which it is.
    fn next_marker(&mut self) -> Option<u8> {
        let bytes = self.source.as_bytes();
        loop {
            self.at += self.source[self.at..].find('{')?;
            match bytes.get(self.at + 1) {
                Some(&marker @ (b'{' | b'%' | b'#')) => return Some(marker),
                _ => self.at += 1,
            }
        }
    }

    /// Reads the rest of a tag as the engine does: texts in quotes and brackets belong
    /// together, and only outside of them can the tag end.
    fn tag(&mut self, start: usize, close: &[u8; 2]) -> Result<Tag, ChatError> {
        let bytes = self.source.as_bytes();
        let mut at = start;
        let mut depth = 0_usize;
        let mut size = 0;
        while let Some(&byte) = bytes.get(at) {
            if depth == 0 {
                let control = usize::from(matches!(byte, b'-' | b'+'));
                if bytes[at + control..].starts_with(close) {
                    self.at = at + control + 2;
                    return Ok(Tag { start, end: at });
                }
            }
            match byte {
                b'\'' | b'"' => at = self.text_end(at)?,
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => {
                    depth = depth
                        .checked_sub(1)
                        .ok_or_else(|| self.fault(at, "a bracket is closed that is not open"))?;
                }
                _ => {}
            }
            size += usize::from(!byte.is_ascii_whitespace());
            if size > MAX_TAG {
                return Err(over(format!("{MAX_TAG} bytes of code in one tag")));
            }
            at += 1;
        }
        Err(self.fault(start, "a tag is not closed"))
    }

    /// The closing quote of the text that opens at `open`.
    fn text_end(&self, open: usize) -> Result<usize, ChatError> {
        let bytes = self.source.as_bytes();
        let mut at = open + 1;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'\\' => at += 2,
                quote if quote == bytes[open] => return Ok(at),
                _ => at += 1,
            }
        }
        Err(self.fault(open, "a text in quotes is not closed"))
    }

    fn block(&mut self, tag: &Tag) -> Result<(), ChatError> {
        let inside = &self.source[tag.start..tag.end];
        let indent = inside.len() - inside.trim_ascii_start().len();
        let word = &inside[indent..];
        let word = &word[..word
            .find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .unwrap_or(word.len())];
        let word_start = tag.start + indent;
        let word_end = word_start + word.len();
        match word {
            "generation" => self.replace(word_start, word_end, "if true"),
            "endgeneration" => self.replace(word_start, word_end, "endif"),
            "elif" => {
                self.n_elif += 1;
                if self.n_elif > MAX_ELIF {
                    return Err(over(format!("{MAX_ELIF} elif tags")));
                }
            }
            "set" => self.assignment(word_end, tag.end),
            _ => {}
        }
        Ok(())
    }

    /// Puts the filter behind what a `set` tag assigns: `set a = b` and `set a | b`.
    fn assignment(&mut self, start: usize, end: usize) {
        let body = &self.source[start..end];
        let filter = |target: &str| format!("|{ASSIGNED_FILTER}({})", target.contains('.'));
        if let Some(sign) = top_level(body, b'=') {
            let value = &body[sign + 1..];
            if !value.trim_ascii().is_empty() {
                // Brackets are balanced within a tag, so these two belong together.
                let guarded = format!("({value}){}", filter(&body[..sign]));
                self.replace(start + sign + 1, end, &guarded);
            }
        } else if let Some(pipe) = top_level(body, b'|') {
            let guarded = format!("{}{}", body[pipe..].trim_ascii_end(), filter(&body[..pipe]));
            self.replace(start + pipe, end, &guarded);
        }
    }

    fn replace(&mut self, start: usize, end: usize, with: &str) {
        self.out.push_str(&self.source[self.copied..start]);
        self.out.push_str(with);
        self.copied = end;
    }

    /// If the tag from `inside` on is the lone word `word`: where it ends.
    fn word_tag(&self, inside: usize, word: &str) -> Option<usize> {
        let rest = self.source[inside..].trim_ascii_start();
        let rest = rest.strip_prefix(word)?.trim_ascii_start();
        let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        let rest = rest.strip_prefix("%}")?;
        Some(self.source.len() - rest.len())
    }

    fn skip_raw(&mut self, mut from: usize) -> Result<(), ChatError> {
        while let Some(found) = self.source[from..].find("{%") {
            from += found + 2;
            let inside = from + usize::from(self.is_any(from, b"-+"));
            if let Some(after) = self.word_tag(inside, "endraw") {
                self.at = after;
                return Ok(());
            }
        }
        Err(self.fault(self.at, "a raw block is not closed"))
    }

    fn is_any(&self, at: usize, bytes: &[u8]) -> bool {
        self.source
            .as_bytes()
            .get(at)
            .is_some_and(|byte| bytes.contains(byte))
    }

    fn fault(&self, at: usize, reason: &str) -> ChatError {
        let lines_before = self.source.as_bytes()[..at]
            .iter()
            .filter(|&&byte| byte == b'\n');
        ChatError::Template {
            line: Some(lines_before.count() + 1),
            reason: reason.to_owned(),
        }
    }
}

/// Where `byte` first stands outside of quotes and brackets.
fn top_level(code: &str, byte: u8) -> Option<usize> {
    let mut depth = 0_i32;
    let mut quote = None;
    let mut escaped = false;
    for (at, &this) in code.as_bytes().iter().enumerate() {
        match (quote, this) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(open), _) => {
                if open == this {
                    quote = None;
                }
            }
            (None, b'\'' | b'"') => quote = Some(this),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b')' | b']' | b'}') => depth -= 1,
            (None, _) if depth == 0 && this == byte => return Some(at),
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_without_set_are_left_alone() {
        let sources = [
            "",
            "{",
            "plain {text} {",
            "{{ messages[0]['content'] }}",
            "{{ {'a': {'b': '}}'}} }}",
            "{# {% set x = 1 %} #}{#-#}",
            "{% raw %}{% set x = 1 %}{{ {% endraw %}",
            "{%- raw -%}{% endraw x %}{%- endraw -%}",
            "{% if a == b %}{% elif c %}{% endif %}",
        ];
        for source in sources {
            assert_eq!(prepare(source).unwrap(), source);
        }
    }

    #[test]
    fn what_a_set_assigns_is_looked_at() {
        let cases = [
            ("{% set x = 1 %}", "{% set x =( 1 )|_assigned(false)%}"),
            (
                "{%- set ns.x=a or b -%}",
                "{%- set ns.x=(a or b )|_assigned(true)-%}",
            ),
            (
                "{% set x = a == '=' %}",
                "{% set x =( a == '=' )|_assigned(false)%}",
            ),
            (
                "{% set a, ns.b = c, d %}",
                "{% set a, ns.b =( c, d )|_assigned(true)%}",
            ),
            ("{% set x %}y{% endset %}", "{% set x %}y{% endset %}"),
            (
                "{% set ns.x | default(y=1) %}{% endset %}",
                "{% set ns.x | default(y=1)|_assigned(true)%}{% endset %}",
            ),
            (
                "{% set x = '%}' %}",
                "{% set x =( '%}' )|_assigned(false)%}",
            ),
            (
                "{% set x = 'it\\'s' %}",
                "{% set x =( 'it\\'s' )|_assigned(false)%}",
            ),
        ];
        for (source, expected) in cases {
            assert_eq!(prepare(source).unwrap(), expected);
        }
    }

    #[test]
    fn generation_tags_do_nothing() {
        assert_eq!(
            prepare("a{%- generation -%}b{% endgeneration %}").unwrap(),
            "a{%- if true -%}b{% endif %}"
        );
    }

    #[test]
    fn what_cannot_be_read_is_an_error_with_its_line() {
        for source in [
            "{{ a",
            "{% if a",
            "{# a",
            "{% raw %}",
            "{{ ) ( }}",
            "{{ 'a }}",
        ] {
            let error = prepare(&format!("\n{source}")).unwrap_err();
            assert!(
                matches!(error, ChatError::Template { line: Some(2), .. }),
                "{source}: {error}"
            );
        }
    }

    #[test]
    fn limits_are_errors() {
        let sources = [
            format!("{{{{ 1{} }}}}", "+1".repeat(MAX_TAG)),
            "{% elif a %}".repeat(MAX_ELIF + 1),
            "x".repeat(MAX_SOURCE + 1),
        ];
        for source in sources {
            assert!(matches!(
                prepare(&source),
                Err(ChatError::TemplateLimit { .. })
            ));
        }
        // A long text in quotes is no code.
        prepare(&format!("{{{{ '{}' }}}}", "x".repeat(MAX_TAG * 2))).unwrap();
    }
}
