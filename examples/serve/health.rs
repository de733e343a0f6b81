//! `/health`: whether the server can answer.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::state::App;

/// 200 with a model that answers; 503 while it is loaded, and after the engine has stopped.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let (status, body) = match app.served() {
        None => {
            let body = json!({"status": "loading", "loaded": app.loaded()});
            (StatusCode::SERVICE_UNAVAILABLE, body)
        }
        Some(served) if served.engine.is_stopped() => (
            StatusCode::SERVICE_UNAVAILABLE,
            json!({"status": "stopped"}),
        ),
        Some(_) => (StatusCode::OK, json!({"status": "ok"})),
    };
    (status, axum::Json(body)).into_response()
}
