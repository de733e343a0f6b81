//! Bodies of requests: JSON, of limited size, by itself and with all others, that arrives in time.

use std::sync::Arc;

use axum::body;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::openai::{ApiError, ApiResult};
use crate::server::READ_TIMEOUT;
use crate::state::{App, BUSY_RETRY};

/// A body beyond the limit is read to its end, up to this many times the limit, and thrown
/// away: a client that is cut off while it sends does not see why.
const DRAIN: usize = 8;

/// Bytes that each body may have without asking for room, so that long ones keep no others out.
const SMALL: usize = 64 << 10;

/// The body of a request: all of it, but not yet read as anything.
pub struct Body {
    bytes: Vec<u8>,
    /// Room among the bodies, for as long as this one is there.
    _room: Room,
}

impl Body {
    /// Reads the fields of a `T`; others are left alone.
    pub fn parse<T: DeserializeOwned>(&self) -> ApiResult<T> {
        parse(&self.bytes)
    }
}

impl FromRequest<Arc<App>> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> ApiResult<Self> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            let message = format!("the Content-Type is '{kind}'; send application/json");
            return Err(ApiError::new(status, message));
        }
        let body = read(
            request.into_body(),
            app.limits.max_body,
            Arc::clone(&app.bodies),
        );
        timeout(READ_TIMEOUT, body).await.map_err(|_| {
            let seconds = READ_TIMEOUT.as_secs();
            let message = format!("the body did not arrive within {seconds} s");
            ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
        })?
    }
}

/// What a body has of the room that there is for all.
struct Room {
    all: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Takes what is needed for a body of this length. `false` if there is not as much.
    fn reserve(&mut self, length: usize) -> bool {
        let taken = self
            .taken
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let more = length.saturating_sub(SMALL).saturating_sub(taken);
        let Ok(more) = u32::try_from(more) else {
            return false;
        };
        let Ok(more) = Arc::clone(&self.all).try_acquire_many_owned(more) else {
            return false;
        };
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        true
    }
}

async fn read(body: body::Body, limit: usize, all: Arc<Semaphore>) -> ApiResult<Body> {
    let mut stream = body.into_data_stream();
    let mut room = Room { all, taken: None };
    let mut has_room = true;
    let mut bytes = Vec::new();
    let mut length = 0_usize;
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|error| ApiError::bad_request(format!("the body broke off: {error}")))?;
        length = length.saturating_add(chunk.len());
        has_room = has_room && (length > limit || room.reserve(length));
        if length <= limit && has_room {
            bytes.extend_from_slice(&chunk);
        } else if length > limit.saturating_mul(DRAIN) {
            break;
        } else {
            bytes = Vec::new();
            room.taken = None;
        }
    }
    if length > limit {
        let message = format!("the body is longer than {limit} bytes (--max-body)");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    if !has_room {
        let message = "the bodies of other requests take all the memory that there is for them";
        return Err(ApiError::unavailable(message, BUSY_RETRY).with_code("bodies_full"));
    }
    Ok(Body { bytes, _room: room })
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        let message = error.to_string();
        if !error.is_data() {
            return ApiError::bad_request(format!("the body is no JSON: {message}"));
        }
        // The path of the body itself, which no client has sent.
        if path != "." {
            return ApiError::field(path, message);
        }
        match missing_field(&message) {
            Some(field) => ApiError::field(field, "it is missing"),
            None => ApiError::bad_request(message),
        }
    })?;
    json.end()
        .map_err(|error| ApiError::bad_request(format!("the body is no JSON: {error}")))?;
    Ok(value)
}

/// The field that serde misses, of which it tells by its message alone.
fn missing_field(message: &str) -> Option<&str> {
    let (field, _) = message.strip_prefix("missing field `")?.split_once('`')?;
    Some(field)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use serde::Deserialize;

    use super::*;

    #[tokio::test]
    async fn bodies_have_a_limit_together_and_short_ones_have_none() {
        let all = Arc::new(Semaphore::new(100));
        let read = async |length: usize| {
            let body = body::Body::from(vec![0; length]);
            read(body, SMALL + 200, Arc::clone(&all)).await
        };
        let first = read(SMALL + 60).await.ok();
        assert_eq!(all.available_permits(), 40);
        let status = read(SMALL + 60).await.err().unwrap();
        assert_eq!(status.into_response().status(), 503);
        // What had no room has taken none, and neither has what is too long by itself.
        let status = read(SMALL + 201).await.err().unwrap();
        assert_eq!(status.into_response().status(), 413);
        assert_eq!(all.available_permits(), 40);
        assert_eq!(read(SMALL).await.ok().unwrap().bytes.len(), SMALL);
        drop(first);
        let next = read(SMALL + 60).await.ok();
        assert!(next.is_some());
        drop(next);
        assert_eq!(all.available_permits(), 100);
    }

    #[derive(Debug, Deserialize)]
    struct Numbers {
        #[serde(default)]
        numbers: Vec<u32>,
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &[u8]| {
            let error = parse::<Numbers>(text).unwrap_err();
            serde_json::to_value(error.body()).unwrap()["error"].take()
        };
        let wrong_type = error(br#"{"numbers": [1, "two"]}"#);
        assert_eq!(wrong_type["param"], "numbers[1]");
        assert_eq!(wrong_type["type"], "invalid_request_error");
        for text in [&b""[..], b"{", b"{} {}", b"{\"numbers\": \"\xff\"}"] {
            let error = error(text);
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("no JSON"), "{message}");
        }
        let parsed = parse::<Numbers>(br#"{"numbers": [1], "unknown": {}}"#).unwrap();
        assert_eq!(parsed.numbers, [1]);
    }

    #[test]
    fn a_field_that_is_missing_is_named() {
        #[derive(Debug, Deserialize)]
        struct Text {
            #[serde(rename = "prompt")]
            _prompt: String,
        }
        let param = |text: &[u8]| {
            let error = parse::<Text>(text).unwrap_err();
            serde_json::to_value(error.body()).unwrap()["error"]["param"].take()
        };
        assert_eq!(param(b"{}"), "prompt");
        assert_eq!(param(b"{\"other\": 1}"), "prompt");
        // The body as a whole is no field.
        assert!(param(b"null").is_null());
        assert!(param(b"[]").is_null());
    }
}
