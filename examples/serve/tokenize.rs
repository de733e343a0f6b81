//! `/tokenize` and `/detokenize`, in the form of llama.cpp's server.

use axum::response::{IntoResponse, Response};
use llama_moe::Token;
use serde::Deserialize;
use serde_json::json;

use crate::body::Body;
use crate::openai::{ApiError, ApiResult};
use crate::state::{Ready, blocking};

#[derive(Deserialize)]
struct Text {
    content: String,
    /// Whether the tokens are added that the model wants around a text.
    #[serde(default)]
    add_special: bool,
    /// Whether control tokens are found in the text.
    #[serde(default = "yes")]
    parse_special: bool,
    /// Whether the text of each token is told.
    #[serde(default)]
    with_pieces: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<i32>,
}

/// The tokens of a text.
pub async fn tokenize(Ready(served): Ready, body: Body) -> ApiResult<Response> {
    blocking(move || {
        let text: Text = body.parse()?;
        let vocab = &served.vocab;
        let tokens = vocab.tokenize(&text.content, text.add_special, text.parse_special)?;
        let ids = tokens.iter().map(|token| token.0);
        if !text.with_pieces {
            let ids: Vec<i32> = ids.collect();
            return Ok(axum::Json(json!({"tokens": ids})).into_response());
        }
        let pieces = tokens.iter().map(|&token| {
            let bytes = vocab.piece(token, true)?;
            let piece = match String::from_utf8(bytes) {
                Ok(text) => json!(text),
                // A part of a character: its bytes.
                Err(error) => json!(error.as_bytes()),
            };
            Ok(json!({"id": token.0, "piece": piece}))
        });
        let pieces: Vec<_> = pieces.collect::<ApiResult<_>>()?;
        Ok(axum::Json(json!({"tokens": pieces})).into_response())
    })
    .await
}

/// The text of tokens.
pub async fn detokenize(Ready(served): Ready, body: Body) -> ApiResult<Response> {
    blocking(move || {
        let Tokens { tokens } = body.parse()?;
        let tokens: Vec<Token> = tokens.into_iter().map(Token).collect();
        let text = served
            .vocab
            .detokenize_lossy(&tokens, false, true)
            .map_err(|error| ApiError::field("tokens", error.to_string()))?;
        Ok(axum::Json(json!({"content": text})).into_response())
    })
    .await
}
