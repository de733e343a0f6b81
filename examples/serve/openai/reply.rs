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
        let choice = |_| {
            let mut parser = Parser::new(format, tools);
            if !prefix.is_empty() {
                parser.push(prefix);
            }
            Choice {
                parser: Some(parser),
                n_calls: 0,
            }
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
                let reason = if has_calls {
                    "tool_calls"
                } else {
                    word(&reason)
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

/// The API's word. It has none for a deadline: like the others that cut an answer, it is
/// `length`.
pub fn word(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfGeneration | FinishReason::Stop(_) => "stop",
        _ => "length",
    }
}
