//! `/v1/embeddings`

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use llama_moe::engine::{EmbedRequest, Embeddings};
use serde::{Deserialize, Serialize};

use super::Input;
use super::error::{ApiError, ApiResult};
use super::usage::ApiUsage;
use crate::body::Body;
use crate::state::{App, Ready, Served, blocking};

/// Tokens of all texts of a request, as many as the API takes.
pub const MAX_TOKENS: usize = 300_000;

/// The fields of a request.
#[derive(Debug, Deserialize)]
struct EmbeddingFields {
    model: Option<String>,
    input: Input,
    encoding_format: Option<String>,
    dimensions: Option<u32>,
}

#[derive(Serialize)]
struct ApiEmbeddings {
    object: &'static str,
    data: Vec<ApiEmbedding>,
    model: String,
    usage: ApiUsage,
}

#[derive(Serialize)]
struct ApiEmbedding {
    object: &'static str,
    index: usize,
    embedding: Encoded,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Encoded {
    Floats(Vec<f32>),
    Base64(String),
}

/// A request that is being computed.
struct Asked {
    embeddings: Embeddings,
    encode: fn(Vec<f32>) -> Encoded,
    n_tokens: usize,
}

/// Embeds texts. Embeddings have the length 1, as the API's have.
pub async fn embed(
    State(app): State<Arc<App>>,
    Ready(served): Ready,
    body: Body,
) -> ApiResult<Response> {
    let deadline = app.limits.deadline;
    let asked = {
        let served = Arc::clone(&served);
        blocking(move || ask(&served, &body, deadline)).await?
    };
    let embeddings = asked.embeddings.await?;
    blocking(move || {
        let data = embeddings.into_iter().enumerate();
        let data = data.map(|(index, embedding)| ApiEmbedding {
            object: "embedding",
            index,
            embedding: (asked.encode)(normalised(embedding)),
        });
        Ok(axum::Json(ApiEmbeddings {
            object: "list",
            data: data.collect(),
            model: served.id.clone(),
            usage: ApiUsage::of_prompt(asked.n_tokens),
        })
        .into_response())
    })
    .await
}

fn ask(served: &Served, body: &Body, deadline: Option<Duration>) -> ApiResult<Asked> {
    let fields: EmbeddingFields = body.parse()?;
    served.check_model(fields.model.as_deref())?;
    let encode = match fields.encoding_format.as_deref() {
        None | Some("float") => Encoded::Floats as fn(Vec<f32>) -> Encoded,
        Some("base64") => in_base64,
        Some(other) => {
            let message = format!("it is '{other}', but can be float and base64");
            return Err(ApiError::field("encoding_format", message));
        }
    };
    let n_embd = served.model.n_embd_out();
    if fields.dimensions.is_some_and(|asked| asked != n_embd) {
        let message = format!("this model's embeddings have {n_embd} dimensions");
        return Err(ApiError::field("dimensions", message));
    }
    let texts = fields.input.tokens(&served.vocab, "input", |text| {
        served.check_length(text, served.engine.embed_tokens())?;
        Ok(served.vocab.tokenize(text, true, false)?)
    })?;
    let n_tokens = texts.iter().map(Vec::len).sum();
    if n_tokens > MAX_TOKENS {
        let message = format!("{n_tokens} tokens in all, but a request has {MAX_TOKENS} at most");
        return Err(ApiError::field("input", message));
    }
    let mut request = EmbedRequest::new(texts);
    if let Some(deadline) = deadline {
        request = request.with_deadline(deadline);
    }
    Ok(Asked {
        embeddings: served.engine.embed(request)?,
        encode,
        n_tokens,
    })
}

fn in_base64(embedding: Vec<f32>) -> Encoded {
    let bytes: Vec<u8> = embedding.into_iter().flat_map(f32::to_le_bytes).collect();
    Encoded::Base64(BASE64_STANDARD.encode(bytes))
}

fn normalised(mut embedding: Vec<f32>) -> Vec<f32> {
    let length = embedding.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        embedding.iter_mut().for_each(|x| *x /= length);
    }
    embedding
}
