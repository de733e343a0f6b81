//! Telling what a model says to itself from what it answers.

use super::request::ReasoningTags;

/// A piece of an answer's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) is_reasoning: bool,
}

/// Splits text that comes in pieces at the tags around the reasoning at its beginning.
///
/// What may be the beginning of a tag is held back until it is decided, so the result does
/// not depend on how the text comes in pieces.
#[derive(Debug)]
pub(super) struct Splitter {
    tags: Option<ReasoningTags>,
    state: State,
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space has come.
    Start,
    Reasoning,
    Answer,
}

impl Splitter {
    pub(super) fn new(tags: Option<ReasoningTags>) -> Self {
        let state = match &tags {
            None => State::Answer,
            Some(tags) if tags.is_open => State::Reasoning,
            Some(_) => State::Start,
        };
        Self {
            tags,
            state,
            held: String::new(),
        }
    }

    /// Takes the next piece of text, and adds what is decided by it to `pieces`.
    pub(super) fn push(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        self.held.push_str(text);
        if self.state == State::Start {
            self.begin();
        }
        if self.state == State::Reasoning {
            self.reason(pieces);
        }
        if self.state == State::Answer {
            self.flush(pieces);
        }
    }

    /// Adds what was held back, at the end of the text.
    pub(super) fn finish(&mut self, pieces: &mut Vec<Piece>) {
        self.flush(pieces);
    }

    /// Decides how the text begins.
    fn begin(&mut self) {
        let Some(tags) = &self.tags else { return };
        let text = self.held.trim_start();
        if let Some(rest) = text.strip_prefix(tags.open.as_str()) {
            self.held = rest.to_owned();
            self.state = State::Reasoning;
        } else if !tags.open.starts_with(text) {
            self.state = State::Answer;
        }
    }

    /// Lets reasoning through, as far as it cannot be the closing tag.
    fn reason(&mut self, pieces: &mut Vec<Piece>) {
        let Some(tags) = &self.tags else { return };
        let (end, rest) = match self.held.find(tags.close.as_str()) {
            Some(at) => (at, Some(at + tags.close.len())),
            None => (open_from(&self.held, &tags.close), None),
        };
        add(&self.held[..end], true, pieces);
        if let Some(rest) = rest {
            self.state = State::Answer;
            self.held.drain(..rest);
        } else {
            self.held.drain(..end);
        }
    }

    fn flush(&mut self, pieces: &mut Vec<Piece>) {
        let text = std::mem::take(&mut self.held);
        add(&text, self.state == State::Reasoning, pieces);
    }
}

fn add(text: &str, is_reasoning: bool, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(Piece {
            text: text.to_owned(),
            is_reasoning,
        });
    }
}

/// Where the tag may have begun at the end of the text.
fn open_from(text: &str, tag: &str) -> usize {
    let first = text.len().saturating_sub(tag.len().saturating_sub(1));
    (first..text.len())
        .find(|&at| text.is_char_boundary(at) && tag.starts_with(&text[at..]))
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reasoning and answer of a text that comes in pieces of `size` characters.
    fn split(text: &str, size: usize, is_open: bool) -> (String, String) {
        let mut splitter = Splitter::new(Some(ReasoningTags {
            open: "<think>".to_owned(),
            close: "</think>".to_owned(),
            is_open,
        }));
        let mut pieces = Vec::new();
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.chunks(size) {
            let piece: String = piece.iter().collect();
            splitter.push(&piece, &mut pieces);
        }
        splitter.finish(&mut pieces);
        let joined = |is_reasoning| {
            let pieces = pieces.iter();
            let pieces = pieces.filter(|piece| piece.is_reasoning == is_reasoning);
            pieces.map(|piece| piece.text.as_str()).collect()
        };
        (joined(true), joined(false))
    }

    fn check(text: &str, is_open: bool, reasoning: &str, answer: &str) {
        for size in 1..=text.len().max(1) {
            let split = split(text, size, is_open);
            assert_eq!(split, (reasoning.to_owned(), answer.to_owned()), "{size}");
        }
    }

    #[test]
    fn reasoning_is_told_from_the_answer() {
        check("<think>why</think>so", false, "why", "so");
        check("\n <think>é<</think>so</think>", false, "é<", "so</think>");
        check("why</think>\n\nso", true, "why", "\n\nso");
    }

    #[test]
    fn text_without_reasoning_is_all_answer() {
        check("so", false, "", "so");
        check("  so <think>x</think>", false, "", "  so <think>x</think>");
        check("<thin", false, "", "<thin");
        check("", false, "", "");
    }

    #[test]
    fn reasoning_that_never_ends_is_reasoning() {
        check("<think>why</thin", false, "why</thin", "");
        check("why", true, "why", "");
    }

    #[test]
    fn without_tags_everything_passes_at_once() {
        let mut splitter = Splitter::new(None);
        let mut pieces = Vec::new();
        splitter.push("<think>", &mut pieces);
        assert_eq!(pieces[0].text, "<think>");
        assert!(!pieces[0].is_reasoning);
    }
}
