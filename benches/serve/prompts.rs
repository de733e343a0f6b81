//! Prompts of known lengths: the same for every server, and in every run.

use std::path::Path;

use llama_moe::{Backend, Model, ModelParams, Vocab};
use serde_json::{Map, Value, json};

use crate::Result;

/// Tokens of a prompt and of its answer, from a question in a chat to a page to read.
const LENGTHS: [(usize, u32); 5] = [(16, 64), (48, 96), (128, 32), (320, 128), (640, 48)];

/// What is written: any words will do, and no model is asked to make sense of them.
const WORDS: [&str; 16] = [
    "the", "router", "sends", "each", "token", "to", "two", "experts", "and", "their", "answers",
    "are", "added", "in", "every", "layer",
];

/// Prompts for one model.
pub struct Prompts {
    vocab: Vocab,
    /// Tokens that would end an answer early. Without them the work is the same whatever is
    /// said.
    never: Map<String, Value>,
}

impl Prompts {
    /// Prompts for the model in this file.
    pub fn of(model: &Path) -> Result<Self> {
        let backend = Backend::init()?;
        let params = ModelParams::default().with_vocab_only(true);
        let vocab = Model::load(&backend, model, params)?.vocab();
        let ends = (0..vocab.n_tokens())
            .filter_map(|id| i32::try_from(id).ok())
            .map(llama_moe::Token)
            .filter(|token| vocab.is_eog(*token));
        let never = ends.map(|token| (token.0.to_string(), json!(-100)));
        Ok(Self {
            never: never.collect(),
            vocab,
        })
    }

    /// `n` requests of mixed lengths. No two prompts begin alike.
    pub fn mixed(&self, seed: u64, n: usize) -> Vec<Value> {
        let lengths = LENGTHS.iter().cycle().take(n);
        lengths
            .enumerate()
            .map(|(index, &(n_tokens, n_answer))| {
                let seed = seed.wrapping_mul(1 << 20).wrapping_add(index as u64);
                self.request(&self.text(seed, n_tokens), n_answer)
            })
            .collect()
    }

    /// About so many tokens of text. Texts of different seeds differ from the first word on.
    pub fn text(&self, seed: u64, n_tokens: usize) -> String {
        let mut random = Random(seed);
        let mut text = format!("{:08x}", random.next() as u32);
        let mut n = self.n_tokens(&text);
        while n < n_tokens {
            let word = WORDS[random.next() as usize % WORDS.len()];
            let word = format!(" {word}");
            n += self.n_tokens(&word).max(1);
            text += &word;
        }
        text
    }

    fn n_tokens(&self, text: &str) -> usize {
        self.vocab
            .tokenize(text, false, false)
            .map_or(1, |tokens| tokens.len())
    }

    /// A request for a greedy answer of exactly so many tokens.
    pub fn request(&self, prompt: &str, n_answer: u32) -> Value {
        json!({
            "prompt": prompt,
            "max_tokens": n_answer,
            "temperature": 0,
            "logit_bias": self.never,
            "stream": true,
            "stream_options": {"include_usage": true},
        })
    }
}

/// SplitMix64: the same numbers everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
