//! The whole of a request's answers.

use super::event::{Event, Timings, TokenLogprobs, Usage};
use crate::chat::FinishReason;
use crate::model::Token;

/// The whole of a request's answers, put together from its events.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Completion {
    /// The answers.
    pub choices: Vec<Choice>,
    /// Tokens.
    pub usage: Usage,
    /// Times.
    pub timings: Timings,
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// The text, without reasoning.
    pub text: String,
    /// What the model told itself before.
    pub reasoning: String,
    /// The tokens of both, and of the stop string that ended it.
    pub tokens: Vec<Token>,
    /// How likely each token was; empty unless
    /// [asked for](super::Request::with_logprobs).
    pub logprobs: Vec<TokenLogprobs>,
    /// What ended it; `None` while it goes on.
    pub finish: Option<FinishReason>,
}

impl Completion {
    /// Adds what an event tells.
    pub fn push(&mut self, event: Event) {
        match event {
            Event::Text {
                choice,
                text,
                is_reasoning,
                tokens,
                logprobs,
            } => {
                let choice = self.choice(choice);
                if is_reasoning {
                    choice.reasoning.push_str(&text);
                } else {
                    choice.text.push_str(&text);
                }
                choice.tokens.extend(tokens);
                choice.logprobs.extend(logprobs);
            }
            Event::Finish { choice, reason } => self.choice(choice).finish = Some(reason),
            Event::Done { usage, timings } => {
                self.usage = usage;
                self.timings = timings;
            }
        }
    }

    fn choice(&mut self, choice: u32) -> &mut Choice {
        let index = choice as usize;
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Choice::default);
        }
        &mut self.choices[index]
    }
}
