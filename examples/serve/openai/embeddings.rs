//! `/v1/embeddings`

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::Input;
use super::error::{ApiError, ApiResult};
use super::usage::ApiUsage;
use crate::body::Body;
use crate::state::{Ready, blocking};

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

/// Embeds texts. Embeddings have the length 1, as the API's have.
pub async fn embed(Ready(served): Ready, body: Body) -> ApiResult<Response> {
    let fields: EmbeddingFields = body.parse()?;
    served.check_model(fields.model.as_deref())?;
    let encode = match fields.encoding_format.as_deref() {
        None | Some("float") => Encoded::Floats,
        Some("base64") => |embedding: Vec<f32>| {
            let bytes: Vec<u8> = embedding.into_iter().flat_map(f32::to_le_bytes).collect();
            Encoded::Base64(BASE64_STANDARD.encode(bytes))
        },
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

    let (embeddings, n_tokens) = {
        let served = Arc::clone(&served);
        let tokenize = move || {
            let texts = fields.input.tokens(&served.vocab, "input", |text| {
                served.check_length(text, served.engine.embed_tokens())?;
                Ok(served.vocab.tokenize(text, true, false)?)
            })?;
            let n_tokens = texts.iter().map(Vec::len).sum();
            Ok((served.engine.embed(texts)?, n_tokens))
        };
        blocking(tokenize).await?
    };
    let data = embeddings.await?.into_iter().enumerate();
    let data = data.map(|(index, embedding)| ApiEmbedding {
        object: "embedding",
        index,
        embedding: encode(normalised(embedding)),
    });
    Ok(axum::Json(ApiEmbeddings {
        object: "list",
        data: data.collect(),
        model: served.id.clone(),
        usage: ApiUsage::of_prompt(n_tokens),
    })
    .into_response())
}

fn normalised(mut embedding: Vec<f32>) -> Vec<f32> {
    let length = embedding.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        embedding.iter_mut().for_each(|x| *x /= length);
    }
    embedding
}
