//! What operators can do: publish a message, and end a connection. Each action is counted and logged, without the message.
//!
//! Browsers send the credentials of an operator with requests of any page, so a request must be JSON, which no foreign page can send
//! without a preflight request, and must not come from another origin.

use std::sync::Arc;

use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use headers::HeaderMapExt;
use headers::authorization::{Authorization, Basic};
use serde::Deserialize;
use serde_json::json;
use tallycast_fanout::{CloseReason, ConnectionId, ControlError, Counter};
use tallycast_server::ClientAddress;

use super::guard::Guard;
use super::status::StatusSource;
use crate::api::native::Publishing;
use crate::api::refusal::Refusal;
use crate::api::request::text;
use crate::responses;
use crate::routes::MAX_BODY_BYTES;

/// The paths.
pub(super) const PATHS: [&str; 2] = ["/admin/publish", "/admin/disconnect"];
/// What the client of a connection is told.
const CLOSED: &str = "closed by an operator";
/// Bytes of the name of an operator in the log.
const MAX_NAME_BYTES: usize = 64;

/// What operators have done. Counters only grow.
#[derive(Debug, Default)]
pub struct ActionStats {
    /// Messages published.
    pub published: Counter,
    /// Connections ended.
    pub disconnected: Counter,
    /// Requests for either that were refused, or failed.
    pub refused: Counter,
}

/// What the handlers need.
#[derive(Debug)]
pub(super) struct Actions {
    pub(super) status: StatusSource,
    pub(super) publishing: Arc<Publishing>,
    pub(super) guard: Guard,
    pub(super) is_read_only: bool,
}

/// Who asks, for the log.
#[derive(Debug)]
struct Operator {
    client: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishRequest {
    namespace: String,
    data: String,
    #[serde(default)]
    event: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DisconnectRequest {
    connection: String,
}

/// The routes.
pub(super) fn router(actions: Actions) -> Router {
    let actions = Arc::new(actions);
    Router::new()
        .route(PATHS[0], post(publish))
        .route(PATHS[1], post(disconnect))
        .method_not_allowed_fallback(method_not_allowed)
        .route_layer(from_fn_with_state(Arc::clone(&actions), guard))
        .with_state(actions)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let text = format!("{method} is not allowed for {}; use POST", uri.path());
    let mut response = responses::line(StatusCode::METHOD_NOT_ALLOWED, text);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

/// Refuses actions of other pages, and all if operators may only look. Counts what is refused and what fails.
async fn guard(State(actions): State<Arc<Actions>>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let response = match actions.allow(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    actions.status.actions.refused.add(u64::from(!response.status().is_success()));
    response
}

impl Actions {
    fn allow(&self, request: &Request) -> Result<(), Refusal> {
        check(request.headers(), request.uri())?;
        if self.is_read_only {
            return Err(Refusal::forbidden("operators may only look here (--admin-read-only)"));
        }
        self.guard.check(request)
    }
}

/// Whether a page of this origin, or no page, has sent a request with these headers.
fn check(headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
    let essence =
        |value: &HeaderValue| value.to_str().ok()?.split(';').next().map(|text| text.trim().to_ascii_lowercase());
    if headers.get(CONTENT_TYPE).and_then(essence).as_deref() != Some("application/json") {
        return Err(Refusal::MediaType("expected content-type: application/json".to_owned()));
    }
    let is_own = match headers.get("sec-fetch-site") {
        Some(site) => site == "same-origin" || site == "none",
        // Browsers send it to https and localhost alone.
        None => {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            let host = host.or_else(|| uri.authority().map(Authority::as_str));
            headers.get(ORIGIN).is_none_or(|origin| is_of_host(origin, host))
        }
    };
    if is_own { Ok(()) } else { Err(Refusal::forbidden("pages of other origins may not do this")) }
}

fn is_of_host(origin: &HeaderValue, host: Option<&str>) -> bool {
    let origin: Option<Uri> = origin.to_str().ok().and_then(|origin| origin.parse().ok());
    let authority = origin.as_ref().and_then(Uri::authority);
    authority.zip(host).is_some_and(|(authority, host)| authority.as_str().eq_ignore_ascii_case(host))
}

impl Operator {
    fn of(client: Option<Extension<ClientAddress>>, headers: &HeaderMap) -> Self {
        let client = client.map_or_else(String::new, |Extension(client)| client.ip().to_string());
        let basic = headers.typed_get::<Authorization<Basic>>();
        let name: String = basic.map_or_else(String::new, |basic| basic.username().escape_debug().collect());
        Self { client, name: name[..name.floor_char_boundary(MAX_NAME_BYTES)].to_owned() }
    }
}

async fn parse<T: for<'de> Deserialize<'de>>(headers: &HeaderMap, body: Body, expected: &str) -> Result<T, Refusal> {
    let body = text(headers, body, MAX_BODY_BYTES).await?;
    serde_json::from_str(&body)
        .map_err(|error| Refusal::BadRequest(format!("bad request body: {error}; expected {expected}")))
}

async fn publish(
    State(actions): State<Arc<Actions>>,
    client: Option<Extension<ClientAddress>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let outcome = async {
        let expected = r#"{"namespace":"/news","data":"hello"}, with event where needed"#;
        let PublishRequest { namespace, data, event } = parse(&headers, body, expected).await?;
        let (bytes, Operator { client, name }) = (data.len(), Operator::of(client, &headers));
        actions.publishing.publish_unchecked(&namespace, event, data).await?;
        actions.status.actions.published.add(1);
        tracing::info!(client, operator = name, namespace, bytes, "an operator published a message");
        Ok::<_, Refusal>(responses::json(&json!({"published": 1})))
    };
    outcome.await.into_response()
}

async fn disconnect(
    State(actions): State<Arc<Actions>>,
    client: Option<Extension<ClientAddress>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let outcome = async {
        let DisconnectRequest { connection } = parse(&headers, body, r#"{"connection":"0-17-4021"}"#).await?;
        let id: ConnectionId =
            connection.parse().map_err(|error| Refusal::BadRequest(format!("connection {connection:?}: {error}")))?;
        let Operator { client, name } = Operator::of(client, &headers);
        let closed = actions.status.handle.close(id, CloseReason::Requested(CLOSED.into())).await;
        closed.map_err(|error| match error {
            ControlError::NotConnected(_) => Refusal::NotFound(error.to_string()),
            _ => Refusal::Unavailable(error.to_string()),
        })?;
        actions.status.actions.disconnected.add(1);
        tracing::info!(client, operator = name, connection = %id, "an operator ended a connection");
        Ok::<_, Refusal>(responses::json(&json!({})))
    };
    outcome.await.into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::header::HeaderName;

    use super::*;

    /// The status with which a request with these headers is refused.
    fn refused(headers: &[(&'static str, &'static str)]) -> Option<u16> {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        check(&headers.collect::<HeaderMap>(), &Uri::from_static("/")).err().map(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn only_json_of_the_own_origin_is_accepted() {
        let json = ("content-type", "application/json; charset=utf-8");
        let host = ("host", "example.com:8001");
        assert_eq!(refused(&[json, host]), None);
        for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            assert_eq!(refused(&[("content-type", content_type), host]), Some(415), "{content_type}");
        }
        assert_eq!(refused(&[host]), Some(415));
        for site in ["cross-site", "same-site", ""] {
            let own = ("origin", "http://example.com:8001");
            assert_eq!(refused(&[json, host, own, ("sec-fetch-site", site)]), Some(403), "{site}");
        }
        // A proxy may have changed the host.
        assert_eq!(refused(&[json, host, ("origin", "https://a.b"), ("sec-fetch-site", "same-origin")]), None);
        assert_eq!(refused(&[json, host, ("origin", "http://EXAMPLE.com:8001")]), None);
        for origin in ["https://evil.example", "http://example.com", "null", "http://example.com:8001.evil.example", ""]
        {
            assert_eq!(refused(&[json, host, ("origin", origin)]), Some(403), "{origin}");
        }
        assert_eq!(refused(&[json, ("origin", "http://example.com:8001")]), Some(403), "no host");
    }
}
