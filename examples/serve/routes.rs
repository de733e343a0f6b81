//! What is answered at which address.

use std::sync::Arc;

use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::routing::{get, post};
use axum::{Router, middleware};
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

use crate::auth::require_key;
use crate::host::require_local_name;
use crate::openai::{ApiError, chat, completions, embeddings, models};
use crate::state::App;
use crate::{health, metrics, page, placement, tokenize};

/// The server's routes. `origins`: pages of which other sites may read answers.
pub fn routes(app: Arc<App>, origins: Option<Origins>) -> Router {
    let behind_key = Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/embeddings", post(embeddings::embed))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::get))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/metrics", get(metrics::metrics))
        .route("/placement", get(placement::numbers))
        .route("/placement.svg", get(placement::picture))
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            require_key,
        ));
    let router = Router::new()
        .route("/", get(page::html))
        .route("/page.js", get(page::script))
        .route("/page.css", get(page::style))
        .route("/icon.svg", get(page::icon))
        .route("/health", get(health::health))
        .merge(behind_key)
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            require_local_name,
        ))
        .with_state(app);
    match origins {
        Some(origins) => router.layer(cors(origins)),
        None => router,
    }
}

/// Sites whose pages may read answers.
#[derive(Clone, Debug)]
pub enum Origins {
    /// Any site.
    Any,
    /// These.
    These(Vec<HeaderValue>),
}

fn cors(origins: Origins) -> CorsLayer {
    let origins = match origins {
        Origins::Any => AllowOrigin::from(Any),
        Origins::These(origins) => AllowOrigin::list(origins),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        // Clients send headers of their own. None of them means anything here, but one that is
        // not allowed keeps the whole request back.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER])
}

async fn not_found(uri: Uri) -> ApiError {
    let message = format!("there is nothing at {}", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, message)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
