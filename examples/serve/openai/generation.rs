//! What chats and completions share: how tokens are chosen, and when to stop.

use std::collections::BTreeMap;
use std::time::Instant;

use llama_moe::engine::Request;
use llama_moe::{SamplerChain, Seed, Token, Vocab};
use serde::Deserialize;

use super::OneOrMany;
use super::error::{ApiError, ApiResult};
use crate::state::{Limits, Served};

/// Stop strings of a request, at most: each is looked for after each token.
const MAX_STOPS: usize = 16;

/// Bytes of all of them: each answer has its own copy.
const MAX_STOP_BYTES: usize = 4096;

/// Tokens with a bias, at most: each answer has its own copy of these, too.
const MAX_BIASES: usize = 4096;

/// Tokens of a text whose repetition is penalised, counted from its end.
const PENALTY_LAST_N: u32 = 1024;

/// The fields of a request that say how to generate.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Generation {
    pub model: Option<String>,
    #[serde(default)]
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub n: Option<u32>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<i64>,
    stop: Option<OneOrMany<String>>,
    logit_bias: Option<BTreeMap<String, f32>>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    // Not of the OpenAI API, but of llama.cpp's server.
    top_k: Option<u32>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    pub grammar: Option<String>,
}

/// How to stream.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct StreamOptions {
    include_usage: Option<bool>,
}

/// What a request says of its answers, checked: the same for each of its prompts.
pub struct Settings {
    /// Answers to each prompt.
    pub n: u32,
    seed: Seed,
    stops: Vec<String>,
    biases: Vec<(Token, f32)>,
    max_tokens: Option<u32>,
    /// When all answers are to be over.
    pub deadline: Option<Instant>,
    grammar: Option<String>,
    sampling: Sampling,
}

/// How tokens are chosen.
#[derive(Clone, Copy, Debug)]
struct Sampling {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    repeat: f32,
    frequency: f32,
    presence: f32,
}

impl Generation {
    /// Whether to answer with a stream.
    pub fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Whether the stream ends with the number of tokens.
    pub fn includes_usage(&self) -> bool {
        self.stream_options
            .and_then(|options| options.include_usage)
            .unwrap_or(false)
    }

    /// The answers asked for, of which so many can be generated at a time.
    pub fn choices(&self, slots: u32) -> ApiResult<u32> {
        match self.n.unwrap_or(1) {
            n if (1..=slots).contains(&n) => Ok(n),
            n => {
                let message = format!("{n}, but it is from 1 to {slots}, the server's slots");
                Err(ApiError::field("n", message))
            }
        }
    }

    /// Checks all of this. The time of the request counts from now.
    pub fn settle(&self, served: &Served, limits: &Limits) -> ApiResult<Settings> {
        let settings = Settings {
            n: self.choices(served.engine.slots())?,
            seed: self.seed(),
            stops: self.stops()?,
            biases: self.biases(&served.vocab)?,
            max_tokens: self.max_tokens(limits)?,
            // One that cannot be counted never comes.
            deadline: limits
                .deadline
                .and_then(|after| Instant::now().checked_add(after)),
            grammar: self.grammar.clone(),
            sampling: self.sampling()?,
        };
        if let Some(grammar) = &self.grammar {
            if !limits.grammars {
                let message = "this server takes none: it was not started with --grammars";
                return Err(ApiError::field("grammar", message));
            }
            // By itself, so that an error names the field.
            SamplerChain::new()
                .grammar(&served.vocab, grammar, "root")
                .greedy()
                .map_err(|error| ApiError::field("grammar", error.to_string()))?;
        }
        Ok(settings)
    }

    /// Tokens of an answer at most.
    fn max_tokens(&self, limits: &Limits) -> ApiResult<Option<u32>> {
        let (name, asked) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(n), _) => ("max_completion_tokens", n),
            (None, Some(n)) => ("max_tokens", n),
            (None, None) => return Ok(limits.max_tokens),
        };
        if asked == 0 {
            return Err(ApiError::field(name, "it is at least 1"));
        }
        // More than any context holds is as good as no limit.
        let asked = u32::try_from(asked).unwrap_or(u32::MAX);
        match limits.max_tokens {
            Some(limit) if asked > limit => {
                let message = format!("this server generates {limit} tokens at most");
                Err(ApiError::field(name, message))
            }
            _ => Ok(Some(asked)),
        }
    }

    fn seed(&self) -> Seed {
        // The API's seeds have 64 bits, llama.cpp's 32 with one left out.
        match self.seed {
            Some(seed) => Seed::Fixed(seed.rem_euclid(i64::from(u32::MAX)) as u32),
            None => Seed::Random,
        }
    }

    fn stops(&self) -> ApiResult<Vec<String>> {
        let stops = self.stop.clone().map_or_else(Vec::new, OneOrMany::into_vec);
        if stops.len() > MAX_STOPS {
            let message = format!("{} texts, but {MAX_STOPS} at most", stops.len());
            return Err(ApiError::field("stop", message));
        }
        if stops.iter().any(String::is_empty) {
            return Err(ApiError::field(
                "stop",
                "an empty text would end every answer",
            ));
        }
        let n_bytes: usize = stops.iter().map(String::len).sum();
        if n_bytes > MAX_STOP_BYTES {
            let message = format!("{n_bytes} bytes, but {MAX_STOP_BYTES} at most");
            return Err(ApiError::field("stop", message));
        }
        Ok(stops)
    }

    fn biases(&self, vocab: &Vocab) -> ApiResult<Vec<(Token, f32)>> {
        let n_biases = self.logit_bias.as_ref().map_or(0, BTreeMap::len);
        if n_biases > MAX_BIASES {
            let message = format!("{n_biases} tokens, but {MAX_BIASES} at most");
            return Err(ApiError::field("logit_bias", message));
        }
        let biases = self.logit_bias.iter().flatten();
        let biases = biases.map(|(key, &bias)| {
            let token = key.parse().map(Token).ok();
            let token = token.filter(|token| vocab.token(*token).is_ok());
            let name = format!("logit_bias.{key}");
            let Some(token) = token else {
                let message = "there is no token with this number";
                return Err(ApiError::field(name, message));
            };
            within(&name, Some(bias), -100.0, 100.0)?;
            // The end of the scale is a ban.
            let bias = if bias == -100.0 {
                f32::NEG_INFINITY
            } else {
                bias
            };
            Ok((token, bias))
        });
        biases.collect()
    }

    /// What is not set is as llama.cpp's programs have it.
    fn sampling(&self) -> ApiResult<Sampling> {
        within("temperature", self.temperature, 0.0, 2.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("repeat_penalty", self.repeat_penalty, 0.1, 10.0)?;
        Ok(Sampling {
            temperature: self.temperature.unwrap_or(0.8),
            top_k: self.top_k.unwrap_or(40),
            top_p: self.top_p.unwrap_or(0.95),
            min_p: self.min_p.unwrap_or(0.05),
            repeat: self.repeat_penalty.unwrap_or(1.0),
            frequency: self.frequency_penalty.unwrap_or(0.0),
            presence: self.presence_penalty.unwrap_or(0.0),
        })
    }
}

impl Settings {
    /// The request for one prompt.
    pub fn request(&self, prompt: Vec<Token>) -> Request {
        let sampling = self.sampling;
        let mut request = Request::new(prompt)
            .with_n(self.n)
            .with_seed(self.seed)
            .with_stop_strings(&self.stops)
            .with_logit_bias(self.biases.iter().copied())
            .with_sampler(move |chain, seed| sampling.end(chain, seed));
        if let Some(n) = self.max_tokens {
            request = request.with_max_tokens(n);
        }
        if let Some(deadline) = self.deadline {
            request = request.with_deadline(deadline.saturating_duration_since(Instant::now()));
        }
        if let Some(grammar) = &self.grammar {
            request = request.with_grammar(grammar, "root");
        }
        request
    }
}

impl Sampling {
    /// Ends a chain that begins with bias and grammar.
    fn end(self, mut chain: SamplerChain, seed: Seed) -> llama_moe::Result<llama_moe::Sampler> {
        if (self.repeat, self.frequency, self.presence) != (1.0, 0.0, 0.0) {
            chain = chain.penalties(PENALTY_LAST_N, self.repeat, self.frequency, self.presence);
        }
        if self.temperature == 0.0 {
            return chain.greedy();
        }
        chain
            .top_k(self.top_k)
            .top_p(self.top_p, 1)
            .min_p(self.min_p, 1)
            .temp(self.temperature)
            .dist(seed)
    }
}

fn within(name: &str, value: Option<f32>, least: f32, most: f32) -> ApiResult<()> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            let message = format!("{value}, but it is from {least} to {most}");
            Err(ApiError::field(name, message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(json: &str) -> Generation {
        serde_json::from_str(json).unwrap()
    }

    fn message<T: std::fmt::Debug>(result: ApiResult<T>) -> String {
        let body = serde_json::to_value(result.unwrap_err().body()).unwrap();
        body["error"]["message"].as_str().unwrap().to_owned()
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        for (json, name) in [
            (r#"{"temperature": -0.1}"#, "temperature"),
            (r#"{"temperature": 2.1}"#, "temperature"),
            (r#"{"top_p": 1.5}"#, "top_p"),
            (r#"{"presence_penalty": 3}"#, "presence_penalty"),
        ] {
            assert!(
                message(generation(json).sampling()).starts_with(name),
                "{json}"
            );
        }
        for n in ["0", "5", "4294967295"] {
            let n = generation(&format!(r#"{{"n": {n}}}"#)).choices(4);
            assert!(message(n).starts_with("n:"));
        }
        assert!(
            generation(r#"{"temperature": 0, "unknown": [1]}"#)
                .sampling()
                .is_ok()
        );
    }

    #[test]
    fn the_newer_name_of_the_limit_comes_first() {
        let limits = |max_tokens| Limits {
            max_tokens,
            ..Limits::default()
        };
        let max = |json, limit| generation(json).max_tokens(&limits(limit));
        assert_eq!(max("{}", None), Ok(None));
        assert_eq!(max("{}", Some(9)), Ok(Some(9)));
        assert_eq!(max(r#"{"max_tokens": 5}"#, Some(9)), Ok(Some(5)));
        let both = r#"{"max_tokens": 5, "max_completion_tokens": 6}"#;
        assert_eq!(max(both, None), Ok(Some(6)));
        let huge = r#"{"max_tokens": 1000000000000}"#;
        assert_eq!(max(huge, None), Ok(Some(u32::MAX)));
        assert!(message(max(huge, Some(9))).contains("9 tokens"));
        assert!(message(max(r#"{"max_tokens": 0}"#, None)).contains("at least 1"));
    }

    #[test]
    fn seeds_keep_apart_as_far_as_they_can() {
        let seed = |seed: i64| generation(&format!(r#"{{"seed": {seed}}}"#)).seed();
        assert_eq!(seed(42), Seed::Fixed(42));
        assert_eq!(seed(-1), Seed::Fixed(u32::MAX - 1));
        assert_eq!(seed(i64::from(u32::MAX)), Seed::Fixed(0));
        assert_eq!(generation("{}").seed(), Seed::Random);
    }

    #[test]
    fn stop_strings_are_one_or_many() {
        assert_eq!(
            generation(r#"{"stop": "a"}"#).stops(),
            Ok(vec!["a".to_owned()])
        );
        assert_eq!(
            generation(r#"{"stop": ["a", "b"]}"#).stops().unwrap().len(),
            2
        );
        assert_eq!(generation(r#"{"stop": null}"#).stops(), Ok(Vec::new()));
        for wrong in [
            r#"{"stop": ""}"#.to_owned(),
            format!(r#"{{"stop": {:?}}}"#, ["a"; 17]),
            format!(r#"{{"stop": ["b", {:?}]}}"#, "a".repeat(4096)),
        ] {
            assert!(message(generation(&wrong).stops()).starts_with("stop:"));
        }
    }
}
