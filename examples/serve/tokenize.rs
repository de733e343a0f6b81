//! `/tokenize` and `/detokenize`, in the form of llama.cpp's server.

use axum::response::{IntoResponse, Response};
use llama_moe::Token;
use serde::{Deserialize, Serialize};

use crate::body::Body;
use crate::openai::embeddings::MAX_TOKENS;
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

/// Tokens: their numbers, or more.
#[derive(Deserialize, Serialize)]
struct Tokens<T> {
    tokens: Vec<T>,
}

/// A token with its text.
#[derive(Serialize)]
struct TokenPiece {
    id: i32,
    piece: Piece,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Piece {
    Text(String),
    /// A part of a character: its bytes.
    Bytes(Vec<u8>),
}

#[derive(Serialize)]
struct Content {
    content: String,
}

fn check_count(field: &str, n: usize) -> ApiResult<()> {
    if n <= MAX_TOKENS {
        return Ok(());
    }
    let message = format!("{n} tokens, but a request has {MAX_TOKENS} at most");
    Err(ApiError::field(field, message))
}

/// The tokens of a text.
pub async fn tokenize(Ready(served): Ready, body: Body) -> ApiResult<Response> {
    blocking(move || {
        let text: Text = body.parse()?;
        let vocab = &served.vocab;
        served.check_length(&text.content, MAX_TOKENS)?;
        let tokens = vocab.tokenize(&text.content, text.add_special, text.parse_special)?;
        check_count("content", tokens.len())?;
        if !text.with_pieces {
            let tokens: Vec<i32> = tokens.iter().map(|token| token.0).collect();
            return Ok(axum::Json(Tokens { tokens }).into_response());
        }
        let pieces = tokens.iter().map(|&token| {
            let bytes = vocab.piece(token, true)?;
            let piece = match String::from_utf8(bytes) {
                Ok(text) => Piece::Text(text),
                Err(error) => Piece::Bytes(error.into_bytes()),
            };
            Ok(TokenPiece { id: token.0, piece })
        });
        let tokens: Vec<_> = pieces.collect::<ApiResult<_>>()?;
        Ok(axum::Json(Tokens { tokens }).into_response())
    })
    .await
}

/// The text of tokens.
pub async fn detokenize(Ready(served): Ready, body: Body) -> ApiResult<Response> {
    blocking(move || {
        let Tokens::<i32> { tokens } = body.parse()?;
        check_count("tokens", tokens.len())?;
        let tokens: Vec<Token> = tokens.into_iter().map(Token).collect();
        let content = served
            .vocab
            .detokenize_lossy(&tokens, false, true)
            .map_err(|error| ApiError::field("tokens", error.to_string()))?;
        Ok(axum::Json(Content { content }).into_response())
    })
    .await
}
