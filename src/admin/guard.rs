//! What shows or changes more than counters: for those with the admin token, and without one for clients on the same machine alone.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tallycast_server::ClientAddress;
use tokio::sync::watch;

use super::auth::Token;
use crate::api::refusal::Refusal;

/// Proxies add these to requests.
const FORWARDED: [&str; 6] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];

/// Who is trusted. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    /// The token, which [`require_token`](super::require_token) has checked if there is one.
    pub(super) token: watch::Receiver<Option<Token>>,
    /// Whether clients on the same machine need none.
    pub(super) trusts_machine: bool,
}

impl Guard {
    pub(super) fn check(&self, request: &Request) -> Result<(), Refusal> {
        let client = request.extensions().get::<ClientAddress>();
        let is_local = client.is_some_and(|client| client.ip().to_canonical().is_loopback());
        if self.token.borrow().is_some()
            || (self.trusts_machine && is_local && is_direct(request.headers(), request.uri()))
        {
            return Ok(());
        }
        Err(Refusal::forbidden(
            "without --admin-token, this is for clients on the same machine alone, while tallycast listens on a loopback address",
        ))
    }
}

/// The middleware of the routes that show messages, names, options or the log.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Whether a request comes without a proxy that says so, and from no page whose host name someone else has pointed at this machine.
fn is_direct(headers: &HeaderMap, uri: &Uri) -> bool {
    let is_forwarded = FORWARDED.iter().any(|name| headers.contains_key(*name));
    let host: Option<Authority> = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    // HTTP/2 has it in the URI.
    let is_known = host.or_else(|| uri.authority().cloned()).is_none_or(|host| {
        let name = host.host();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
    });
    !is_forwarded && is_known
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::header::{HeaderName, HeaderValue};

    use crate::config::Secret;

    use super::*;

    #[test]
    fn machine_is_trusted_where_only_it_can_connect_and_those_with_the_token_everywhere() {
        let is_allowed = |trusts_machine, client: &str, token: Option<&str>| {
            let (_sender, token) = watch::channel(token.map(|token| Token::from(Secret::new(token))));
            let mut request = Request::new(Body::empty());
            request.extensions_mut().insert(ClientAddress::new(client.parse().unwrap()));
            Guard { token, trusts_machine }.check(&request).is_ok()
        };
        for client in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(is_allowed(true, client, None) && !is_allowed(false, client, None), "{client}");
        }
        assert!(!is_allowed(true, "192.0.2.1", None) && is_allowed(false, "192.0.2.1", Some("secret")));
    }

    #[test]
    fn requests_that_were_forwarded_or_are_for_another_name_are_not_direct() {
        let of_http2 = |uri: &'static str| is_direct(&HeaderMap::new(), &Uri::from_static(uri));
        assert!(of_http2("http://localhost:8001/") && !of_http2("http://evil.example/"));
        let is_direct = |name: &'static str, value: &'static str| {
            let headers = [(HeaderName::from_static(name), HeaderValue::from_static(value))];
            is_direct(&HeaderMap::from_iter(headers), &Uri::from_static("/"))
        };
        for host in ["localhost", "LOCALHOST:8001", "127.0.0.1:8001", "[::1]:8001", "10.0.0.1"] {
            assert!(is_direct("host", host), "{host}");
        }
        for host in ["evil.example", "evil.example:8001", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert!(!is_direct("host", host), "{host}");
        }
        assert!(FORWARDED.iter().all(|name| !is_direct(name, "127.0.0.1")));
    }
}
