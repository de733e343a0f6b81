//! API keys.

use std::hint::black_box;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::openai::ApiError;
use crate::state::App;

/// Lets a request through that shows one of the server's keys, if it has any.
pub async fn require_key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if app.api_keys.is_empty() || shows_key(request.headers(), &app.api_keys) {
        return next.run(request).await;
    }
    let message = "the API key is missing or wrong; send the header `Authorization: Bearer KEY`";
    ApiError::new(StatusCode::UNAUTHORIZED, message)
        .with_code("invalid_api_key")
        .into_response()
}

fn shows_key(headers: &HeaderMap, keys: &[String]) -> bool {
    let Some(shown) = headers.get(header::AUTHORIZATION) else {
        return false;
    };
    let shown = shown.as_bytes();
    let Some((scheme, shown)) = shown.split_at_checked("Bearer ".len()) else {
        return false;
    };
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return false;
    }
    // All of them are compared, whichever fits.
    keys.iter()
        .fold(false, |fits, key| fits | same(key.as_bytes(), shown))
}

/// Whether two texts are the same, in a time that only depends on their lengths.
fn same(key: &[u8], shown: &[u8]) -> bool {
    let differences = key
        .iter()
        .zip(shown)
        .fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    key.len() == shown.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_bearers() {
        let keys = ["one".to_owned(), "another".to_owned()];
        for (shown, fits) in [
            ("Bearer one", true),
            ("bearer another", true),
            ("Bearer on", false),
            ("Bearer one ", false),
            ("Bearer ", false),
            ("Bearer", false),
            ("Basic one", false),
            ("one", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, shown.parse().unwrap());
            assert_eq!(shows_key(&headers, &keys), fits, "{shown:?}");
        }
        assert!(!shows_key(&HeaderMap::new(), &keys));
    }
}
