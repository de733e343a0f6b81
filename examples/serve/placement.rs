//! `/placement` and `/placement.svg`: where the model's tensors are.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::openai::{ApiError, ApiResult};
use crate::state::Ready;

/// In numbers.
pub async fn numbers(Ready(served): Ready) -> Response {
    axum::Json(json!({
        "model": served.id,
        "placement": served.placement,
        "moe_cache": served.moe_cache,
        "plan": served.plan,
    }))
    .into_response()
}

/// As a picture.
pub async fn picture(Ready(served): Ready) -> ApiResult<Response> {
    let Some(picture) = served.picture.clone() else {
        let message = "this llama.cpp does not tell where tensors are";
        return Err(ApiError::new(StatusCode::NOT_FOUND, message));
    };
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], picture).into_response())
}
