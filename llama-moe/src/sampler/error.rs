//! What can be wrong with a sampler.

use crate::model::Token;

/// Why a sampler cannot be made, or cannot choose a token.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// A parameter has a value that cannot work.
    #[error("{sampler}: {parameter} = {value}: {reason}")]
    Parameter {
        /// The sampler, as the method that adds it.
        sampler: &'static str,
        /// The parameter's name in that method.
        parameter: &'static str,
        /// The value it was given.
        value: String,
        /// What values can work.
        reason: &'static str,
    },
    /// The grammar cannot be used.
    #[error("the grammar cannot be used: {reason}")]
    Grammar {
        /// llama.cpp's own words.
        reason: String,
    },
    /// A JSON schema cannot be used.
    #[cfg(feature = "llguidance")]
    #[error("the JSON schema cannot be used: {reason}")]
    JsonSchema {
        /// The words of [`llguidance`], which compiles it.
        reason: String,
    },
    /// A pattern that starts a lazy grammar cannot be used.
    #[error("the trigger pattern {pattern:?} cannot be used: {reason}")]
    TriggerPattern {
        /// The pattern.
        pattern: String,
        /// std::regex's own words.
        reason: String,
    },
    /// Nothing would ever start a lazy grammar.
    #[error("a lazy grammar needs a pattern or a token that starts it")]
    NoTrigger,
    /// The infill sampler ends a gap with one of the two.
    #[error("infill: the vocabulary has neither an end-of-turn nor an end-of-text token")]
    NoEndToken,
    /// A sampler was made for one vocabulary and used with another.
    #[error(
        "the sampler is for the vocabulary of '{sampler}', and was used with that of '{other}'"
    )]
    OtherVocabulary {
        /// The file of the model that the sampler is for.
        sampler: String,
        /// The file of the other model.
        other: String,
    },
    /// The grammar does not allow a token that was to be accepted.
    #[error("the grammar does not allow token {token} here")]
    NotAllowed {
        /// The token.
        token: Token,
    },
    /// All candidates are ruled out, or there were none.
    #[error(
        "{} no candidate is left; where a grammar has ruled them all out, put it before the \
         samplers that keep only a few",
        after(sampler.as_deref())
    )]
    NoCandidates {
        /// The name of the sampler that left none; `None` if they came so.
        sampler: Option<String>,
    },
    /// A candidate's logit is not a number, or infinite.
    #[error("{} the logit of token {token} is {logit}", after(sampler.as_deref()))]
    Logit {
        /// The name of the sampler that left it so; `None` if it came so.
        sampler: Option<String>,
        /// The candidate.
        token: Token,
        /// Its logit.
        logit: f32,
    },
    /// A candidate's index is out of range.
    #[error("there is no candidate {index}: there are {len}, from 0 on")]
    NoCandidate {
        /// The index.
        index: usize,
        /// How many candidates there are.
        len: usize,
    },
    /// A sampler that has to choose a candidate chose none that exists.
    #[error("'{sampler}' chose {}: there are {len} candidates, from 0 on", chosen(*index))]
    NotSelected {
        /// The sampler's name.
        sampler: String,
        /// Its choice.
        index: Option<usize>,
        /// How many candidates there are.
        len: usize,
    },
    /// A sampler written in Rust does not say how it is copied.
    #[error("'{sampler}' cannot be copied: its try_clone returns None")]
    NotCloneable {
        /// The sampler's name.
        sampler: String,
    },
}

fn chosen(index: Option<usize>) -> String {
    index.map_or_else(
        || "no candidate".to_owned(),
        |index| format!("candidate {index}"),
    )
}

fn after(sampler: Option<&str>) -> String {
    sampler.map_or_else(
        || "before the first sampler".to_owned(),
        |sampler| format!("after '{sampler}'"),
    )
}
