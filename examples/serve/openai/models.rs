//! `/v1/models`: the one model there is.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use serde::Serialize;
use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use crate::state::{Ready, Served};

#[derive(Serialize)]
struct ApiModel<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// What the API does not tell.
    meta: Value,
}

/// All models.
pub async fn list(Ready(served): Ready) -> axum::Json<Value> {
    axum::Json(json!({"object": "list", "data": [model(&served)]}))
}

/// One model. Its name may have slashes.
pub async fn get(
    Ready(served): Ready,
    id: Result<Path<String>, PathRejection>,
) -> ApiResult<axum::Json<Value>> {
    let Path(id) = id.map_err(|error| ApiError::new(error.status(), error.body_text()))?;
    served.check_model(Some(&id))?;
    Ok(axum::Json(json!(model(&served))))
}

fn model(served: &Served) -> ApiModel<'_> {
    let model = &served.model;
    ApiModel {
        id: &served.id,
        object: "model",
        created: served.created,
        owned_by: "llama-moe",
        meta: json!({
            "description": model.description(),
            "n_params": model.n_params(),
            "bytes": model.size(),
            "n_vocab": served.vocab.n_tokens(),
            "n_ctx_train": model.n_ctx_train(),
            "n_ctx_per_request": served.engine.n_ctx_per_request(),
            "slots": served.engine.slots(),
            "n_embd": model.n_embd_out(),
        }),
    }
}
