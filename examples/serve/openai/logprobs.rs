//! How likely tokens were, in both forms of the API.

use llama_moe::engine::{TokenLogprob, TokenLogprobs};
use serde::Serialize;
use serde_json::{Map, Value};

/// The form of chats.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChatLogprobs {
    content: Vec<ChatLogprob>,
}

#[derive(Clone, Debug, Serialize)]
struct ChatLogprob {
    #[serde(flatten)]
    chosen: ApiLogprob,
    top_logprobs: Vec<ApiLogprob>,
}

#[derive(Clone, Debug, Serialize)]
struct ApiLogprob {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// Adds tokens.
    pub fn extend(&mut self, logprobs: &[TokenLogprobs]) {
        let logprobs = logprobs.iter().map(|token| ChatLogprob {
            chosen: ApiLogprob::of(&token.chosen),
            top_logprobs: token.top.iter().map(ApiLogprob::of).collect(),
        });
        self.content.extend(logprobs);
    }

    /// Those of these tokens.
    pub fn of(logprobs: &[TokenLogprobs]) -> Self {
        let mut all = Self::default();
        all.extend(logprobs);
        all
    }
}

impl ApiLogprob {
    fn of(token: &TokenLogprob) -> Self {
        Self {
            token: text(token),
            logprob: finite(token.logprob),
            bytes: token.bytes.clone(),
        }
    }
}

/// The form of completions.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Map<String, Value>>,
    /// Where each token begins, in characters from the beginning of the answer.
    text_offset: Vec<usize>,
    #[serde(skip)]
    end: usize,
}

impl CompletionLogprobs {
    /// Adds tokens.
    pub fn extend(&mut self, logprobs: &[TokenLogprobs]) {
        for token in logprobs {
            let text = text(&token.chosen);
            self.text_offset.push(self.end);
            self.end += text.chars().count();
            self.tokens.push(text);
            self.token_logprobs.push(finite(token.chosen.logprob));
            let top = token.top.iter();
            let top = top.map(|token| (self::text(token), finite(token.logprob).into()));
            self.top_logprobs.push(top.collect());
        }
    }

    /// What was added since the last time.
    pub fn take(&mut self) -> Self {
        let end = self.end;
        let mut taken = std::mem::take(self);
        self.end = end;
        taken.end = end;
        taken
    }
}

fn text(token: &TokenLogprob) -> String {
    String::from_utf8_lossy(&token.bytes).into_owned()
}

/// JSON has no infinity; the API itself writes this number for what is next to impossible.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}
