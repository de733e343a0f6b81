//! Answers taken apart into text, reasoning and calls.

use llama_moe::FinishReason;
use llama_moe::engine::{Event, Timings, TokenLogprobs, Usage};

use crate::tools::{Format, Parser, Part, Tool};

/// Something to tell the client.
#[derive(Debug)]
pub enum Output {
    /// A part of an answer, and how likely the tokens were that came since the last. There may
    /// be tokens whose text is not settled yet.
    Part {
        choice: u32,
        part: Option<Part>,
        logprobs: Vec<TokenLogprobs>,
    },
    /// An answer is over; with the API's word for what ended it.
    Finish { choice: u32, reason: &'static str },
    /// All answers are over.
    Done { usage: Usage, timings: Timings },
}

/// The answers of a request.
pub struct Replies {
    choices: Vec<Choice>,
    parallel_calls: bool,
}

struct Choice {
    parser: Option<Parser>,
    n_calls: usize,
    /// What the parser may still give back as text that is the prompt's, not the answer's.
    primed: String,
}

impl Replies {
    /// `n` answers in this form. `prefix` is the beginning that the prompt already has.
    pub fn new(
        n: u32,
        format: Option<Format>,
        tools: &[Tool],
        parallel: bool,
        prefix: &str,
    ) -> Self {
        let primed = || {
            let mut parser = Parser::new(format, tools);
            parser.push(prefix);
            parser
        };
        // What a reply that ends there is read as.
        let text: String = primed()
            .finish()
            .into_iter()
            .filter_map(|part| match part {
                Part::Content(text) => Some(text),
                _ => None,
            })
            .collect();
        let choice = |_| Choice {
            parser: Some(primed()),
            n_calls: 0,
            primed: text.clone(),
        };
        Self {
            choices: (0..n).map(choice).collect(),
            parallel_calls: parallel,
        }
    }

    /// What an event of the engine leads to.
    pub fn take(&mut self, event: Event) -> Vec<Output> {
        match event {
            Event::Text {
                choice,
                text,
                is_reasoning,
                logprobs,
                ..
            } => {
                let parts = if is_reasoning {
                    vec![Part::Reasoning(text)]
                } else {
                    let parser = self.parser(choice);
                    parser.map_or_else(Vec::new, |parser| parser.push(&text))
                };
                self.parts(choice, parts, logprobs)
            }
            Event::Finish { choice, reason } => {
                let parser = self.choice(choice).and_then(|choice| choice.parser.take());
                let parts = parser.map_or_else(Vec::new, Parser::finish);
                let mut outputs = self.parts(choice, parts, Vec::new());
                let has_calls = self.choice(choice).is_some_and(|choice| choice.n_calls > 0);
                let reason = match word(&reason) {
                    "stop" if has_calls => "tool_calls",
                    // It was cut, perhaps in the midst of another call.
                    word => word,
                };
                outputs.push(Output::Finish { choice, reason });
                outputs
            }
            Event::Done { usage, timings } => vec![Output::Done { usage, timings }],
            _ => Vec::new(),
        }
    }

    fn parts(&mut self, index: u32, parts: Vec<Part>, tokens: Vec<TokenLogprobs>) -> Vec<Output> {
        let most = if self.parallel_calls { usize::MAX } else { 1 };
        let parts = match self.choice(index) {
            Some(choice) => choice.without_primed(parts),
            None => parts,
        };
        let mut outputs = Vec::new();
        let mut output = |part, logprobs| {
            outputs.push(Output::Part {
                choice: index,
                part,
                logprobs,
            });
        };
        let mut tokens = Some(tokens);
        for part in parts {
            if let (Part::Call(_), Some(choice)) = (&part, self.choice(index)) {
                choice.n_calls += 1;
                if choice.n_calls > most {
                    continue;
                }
            }
            output(Some(part), tokens.take().unwrap_or_default());
        }
        match tokens {
            Some(tokens) if !tokens.is_empty() => output(None, tokens),
            _ => {}
        }
        outputs
    }

    fn choice(&mut self, index: u32) -> Option<&mut Choice> {
        self.choices.get_mut(index as usize)
    }

    fn parser(&mut self, index: u32) -> Option<&mut Parser> {
        self.choice(index)?.parser.as_mut()
    }
}

impl Choice {
    /// Leaves out the text that the prompt ends with. It comes back where what follows it is no
    /// call after all.
    fn without_primed(&mut self, parts: Vec<Part>) -> Vec<Part> {
        let left = parts.into_iter().filter_map(|part| {
            let primed = std::mem::take(&mut self.primed);
            let Part::Content(text) = part else {
                return Some(part);
            };
            if let Some(rest) = text.strip_prefix(&primed) {
                return (!rest.is_empty()).then(|| Part::Content(rest.to_owned()));
            }
            match primed.strip_prefix(&text) {
                Some(rest) => {
                    self.primed = rest.to_owned();
                    None
                }
                None => Some(Part::Content(text)),
            }
        });
        left.collect()
    }
}

/// The API's word. It has none for a deadline: like the others that cut an answer, it is
/// `length`.
pub fn word(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfGeneration | FinishReason::Stop(_) => "stop",
        _ => "length",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::Forced;
    use crate::tools::tests::weather;

    /// The text, the number of calls, and what ended an answer of these pieces.
    fn read(
        mut replies: Replies,
        pieces: &[&str],
        reason: FinishReason,
    ) -> (String, usize, &'static str) {
        let events = pieces.iter().map(|&text| Event::Text {
            choice: 0,
            text: text.to_owned(),
            is_reasoning: false,
            tokens: Vec::new(),
            logprobs: Vec::new(),
        });
        let finish = Event::Finish { choice: 0, reason };
        let events: Vec<Event> = events.chain([finish]).collect();
        let (mut text, mut n_calls, mut word) = (String::new(), 0, "");
        for output in events.into_iter().flat_map(|event| replies.take(event)) {
            match output {
                Output::Part { part, .. } => match part {
                    Some(Part::Content(content)) => text.push_str(&content),
                    Some(Part::Call(_)) => n_calls += 1,
                    _ => {}
                },
                Output::Finish { reason, .. } => word = reason,
                Output::Done { .. } => {}
            }
        }
        (text, n_calls, word)
    }

    #[test]
    fn a_forced_call_that_is_cut_has_nothing_of_the_prompt() {
        let tools = [weather()];
        for format in [
            Format::Tagged,
            Format::Llama3,
            Format::Mistral,
            Format::Harmony,
        ] {
            let prefix = Forced::new(format, &tools).unwrap().prefix;
            for pieces in [&["{\"ci"][..], &["{", "\"ci"], &["  {\"ci"]] {
                let replies = Replies::new(1, Some(format), &tools, true, &prefix);
                let written = pieces.concat();
                let read = read(replies, pieces, FinishReason::Length);
                let expected = (written.trim().to_owned(), 0, "length");
                let read = (read.0.trim().to_owned(), read.1, read.2);
                assert_eq!(read, expected, "{format:?}");
            }
        }
        // Text that only looks like the prompt's is the answer's own.
        let replies = Replies::new(1, Some(Format::Tagged), &tools, true, "");
        let text = "<tool_call>\nnothing";
        let read = read(replies, &[text], FinishReason::EndOfGeneration);
        assert_eq!(read, (text.to_owned(), 0, "stop"));
    }

    #[test]
    fn an_answer_that_is_cut_after_a_call_is_cut() {
        let call = r#"<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>"#;
        let replies = || Replies::new(1, Some(Format::Tagged), &[weather()], true, "");
        let cut = [call, "<tool_call>{\"na"];
        let (_, n_calls, word) = read(replies(), &cut, FinishReason::Length);
        assert_eq!((n_calls, word), (1, "length"));
        let (_, n_calls, word) = read(replies(), &[call, call], FinishReason::EndOfGeneration);
        assert_eq!((n_calls, word), (2, "tool_calls"));
    }
}
