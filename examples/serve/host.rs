//! Which names the server may be asked by.
//!
//! A page of another site can have its own name lead to 127.0.0.1 once it is loaded (DNS
//! rebinding). For the browser the server is then a part of that site, which may read every
//! answer, whatever CORS says. What gives it away is the header `Host`: it still has the site's
//! name.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::openai::ApiError;
use crate::state::App;

/// Refuses requests by the name of another machine, where the server is for this one only.
pub async fn require_local_name(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(own) = &app.local_name else {
        return next.run(request).await;
    };
    let hosts = request.headers().get_all(header::HOST);
    let other = hosts.iter().find(|host| !is_local(host.as_bytes(), own));
    match other.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()) {
        None => next.run(request).await,
        Some(host) => {
            let message = format!(
                "this server is for its own machine, and is asked as localhost or by its address, \
                 not as '{host}'; with --api-key it can be asked by any name"
            );
            ApiError::new(StatusCode::FORBIDDEN, message)
                .with_code("unknown_host")
                .into_response()
        }
    }
}

/// Whether a `Host` is an address, `localhost`, or the server's own name.
fn is_local(host: &[u8], own: &str) -> bool {
    let Ok(authority) = Authority::try_from(host) else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.eq_ignore_ascii_case(own)
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn names_of_others_are_told_from_those_of_this_machine() {
        for (host, local) in [
            ("127.0.0.1", true),
            ("127.0.0.1:8080", true),
            ("192.168.0.7:80", true),
            ("[::1]:8080", true),
            ("localhost", true),
            ("LocalHost:8080", true),
            ("workstation:8080", true),
            ("example.org", false),
            ("example.org:8080", false),
            ("localhost.example.org", false),
            ("127.0.0.1.example.org", false),
            ("", false),
        ] {
            assert_eq!(is_local(host.as_bytes(), "workstation"), local, "{host}");
        }
    }
}
