//! Answers in JSON: all of them have a `message`.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;
use tallycast_server::{WholeResponse, text_response};

use super::channels::ChannelsError;
use crate::api::refusal::Refusal;
use crate::responses::JSON;

/// The text for a channel that there is not.
const NOT_FOUND: &str = "Channel not found";

/// The pause before a reader comes back that has no place yet.
const RETRY_MILLISECONDS: u64 = 2000;

/// Nothing else than this is wrong with the channel.
pub(super) fn not_found() -> Refusal {
    Refusal::NotFound(NOT_FOUND.to_owned())
}

/// The body with a message.
fn body(message: &str) -> String {
    json!({ "message": message }).to_string()
}

pub(super) fn ok(message: &str) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(JSON))], body(message)).into_response()
}

/// The status of a refusal in this contract, with its headers and its body.
fn parts(refusal: &Refusal) -> (StatusCode, HeaderMap, String) {
    let (status, message) = match refusal {
        // As many clients as the channel may have.
        Refusal::Group(reason) => (StatusCode::UNPROCESSABLE_ENTITY, reason.clone()),
        Refusal::Conflict(_) => (StatusCode::CONFLICT, "clientId is already in use".to_owned()),
        refusal => (refusal.status(), refusal.line()),
    };
    let mut headers: HeaderMap = refusal.header().filter(|_| status == refusal.status()).into_iter().collect();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    (status, headers, body(&message))
}

pub(super) fn refused(refusal: &Refusal) -> Response {
    let (status, headers, body) = parts(refusal);
    (status, headers, Body::from(body)).into_response()
}

/// The response in place of a stream, which pages of all origins may read.
pub(super) fn in_place_of_stream(refusal: &Refusal) -> WholeResponse {
    let (status, headers, body) = parts(refusal);
    let mut response = text_response(status, Bytes::from(body));
    response.headers_mut().extend(headers);
    response
}

/// A stream that ends at once, whose reader comes back after a pause.
pub(super) fn come_back() -> WholeResponse {
    let mut response = text_response(StatusCode::OK, format!("retry: {RETRY_MILLISECONDS}\n\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let text = format!("{method} is not allowed for {}", uri.path());
    (StatusCode::METHOD_NOT_ALLOWED, [(CONTENT_TYPE, HeaderValue::from_static(JSON))], body(&text)).into_response()
}

impl From<ChannelsError> for Refusal {
    fn from(error: ChannelsError) -> Self {
        let reason = error.to_string();
        match error {
            ChannelsError::Exists(_) => Self::BadRequest(reason),
            ChannelsError::Full => Self::Full(reason),
            ChannelsError::Unavailable(error) => {
                tracing::debug!(%error, "cannot look up a channel");
                Self::Unavailable(reason)
            }
        }
    }
}
