//! Texts in the four forms that the API takes them in.

use std::fmt;

use llama_moe::{Token, Vocab};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::{ApiError, ApiResult};

/// Texts of a request, at most.
const MAX_TEXTS: usize = 2048;

/// A text, texts, the tokens of a text, or the tokens of texts.
#[derive(Debug, PartialEq, Eq)]
pub struct Input(Vec<Text>);

#[derive(Debug, PartialEq, Eq)]
enum Text {
    Text(String),
    Tokens(Vec<i32>),
}

impl Input {
    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The tokens of each. `tokenize` makes them of a text.
    pub fn tokens(
        self,
        vocab: &Vocab,
        field: &str,
        tokenize: impl Fn(&str) -> ApiResult<Vec<Token>>,
    ) -> ApiResult<Vec<Vec<Token>>> {
        let texts = self.0.into_iter().enumerate().map(|(index, text)| {
            let tokens = match text {
                Text::Text(text) => tokenize(&text)?,
                Text::Tokens(ids) => ids.into_iter().map(Token).collect(),
            };
            let name = || format!("{field}[{index}]");
            if tokens.is_empty() {
                return Err(ApiError::field(name(), "there is no text"));
            }
            if let Some(wrong) = tokens.iter().find(|token| vocab.token(**token).is_err()) {
                let message = format!("there is no token {wrong}");
                return Err(ApiError::field(name(), message));
            }
            Ok(tokens)
        });
        texts.collect()
    }
}

// By hand: a derived "untagged" enum would first keep each of a million tokens as a value of
// any type, and could not say what is wrong.
impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a list of texts, a list of tokens, or a list of these")
            }

            fn visit_str<E>(self, text: &str) -> Result<Input, E> {
                Ok(Input(vec![Text::Text(text.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Input, A::Error> {
                let mut texts = Vec::new();
                let mut tokens = Vec::new();
                while let Some(element) = list.next_element::<Element>()? {
                    match element {
                        Element::Token(token) => tokens.push(token),
                        Element::Text(text) => texts.push(text),
                    }
                    if !texts.is_empty() && !tokens.is_empty() {
                        return Err(A::Error::custom("texts and single tokens are mixed"));
                    }
                    if texts.len() > MAX_TEXTS {
                        let message = format!("more than {MAX_TEXTS} texts");
                        return Err(A::Error::custom(message));
                    }
                }
                if texts.is_empty() {
                    texts.push(Text::Tokens(tokens));
                }
                Ok(Input(texts))
            }
        }

        deserializer.deserialize_any(Texts)
    }
}

/// An element of a list.
enum Element {
    Token(i32),
    Text(Text),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;

        impl<'de> Visitor<'de> for One {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a token, or a list of tokens")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Element, E> {
                i32::try_from(number)
                    .map(Element::Token)
                    .map_err(|_| E::custom(format!("there is no token {number}")))
            }

            fn visit_str<E>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Text(Text::Text(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = list.next_element()? {
                    tokens.push(token);
                }
                Ok(Element::Text(Text::Tokens(tokens)))
            }
        }

        deserializer.deserialize_any(One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_in_four_forms() {
        let parse = |json: &str| serde_json::from_str::<Input>(json).map(|input| input.0);
        let text = |text: &str| Text::Text(text.to_owned());
        assert_eq!(parse(r#""a""#).unwrap(), [text("a")]);
        assert_eq!(parse(r#"["a", "b"]"#).unwrap(), [text("a"), text("b")]);
        assert_eq!(parse("[1, 2]").unwrap(), [Text::Tokens(vec![1, 2])]);
        let lists = parse("[[1], [2, 3]]").unwrap();
        assert_eq!(lists, [Text::Tokens(vec![1]), Text::Tokens(vec![2, 3])]);
        assert_eq!(parse("[]").unwrap(), [Text::Tokens(Vec::new())]);
        for (wrong, part) in [
            ("7", "a text, a list of texts"),
            ("[1, \"a\"]", "mixed"),
            ("[\"a\", 1]", "mixed"),
            ("[-1]", "a text, a token"),
            ("[3000000000]", "no token 3000000000"),
            ("[[\"a\"]]", "i32"),
            ("{}", "a text, a list of texts"),
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }
}
