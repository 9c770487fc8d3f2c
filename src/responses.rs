//! Responses that handlers of several modules share.

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// The content type of every JSON body.
pub(crate) const JSON: &str = "application/json; charset=utf-8";

/// One line of plain text; the line break is added.
pub(crate) fn line(status: StatusCode, text: impl std::fmt::Display) -> Response {
    (status, format!("{text}\n")).into_response()
}

/// A value as JSON; 500 if it cannot be serialized.
pub(crate) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => with_type(JSON, text),
        Err(error) => line(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// A body of `content_type`.
pub(crate) fn with_type(content_type: &'static str, body: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(content_type))], body.into()).into_response()
}

/// The answer to another method than GET or HEAD, for routes that have only these.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let mut response =
        line(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not allowed for {}; use GET", uri.path()));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}
