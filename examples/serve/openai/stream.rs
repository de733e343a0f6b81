//! Answers as server-sent events.

use std::convert::Infallible;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;

use super::error::ApiError;

/// Tells nginx, and others that know it, not to wait for more.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// One event with this value as JSON.
pub fn event(value: &impl Serialize) -> Event {
    // What is written here are our own structures: their keys are texts, their numbers finite.
    Event::default()
        .json_data(value)
        .unwrap_or_else(|error| Event::default().data(error.to_string()))
}

/// The event that ends a stream.
pub fn done() -> Event {
    Event::default().data("[DONE]")
}

/// An error among the events. It is the last.
pub fn error(error: &ApiError) -> Event {
    event(&error.body())
}

/// A response of these events. Dropping it, as when the client leaves, drops `events`.
pub fn response(events: impl Stream<Item = Vec<Event>> + Send + 'static) -> Response {
    let events =
        events.flat_map(|events| stream::iter(events.into_iter().map(Ok::<_, Infallible>)));
    let mut response = Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(UNBUFFERED, HeaderValue::from_static("no"));
    response
}
