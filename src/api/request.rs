//! Reading the body of a request as text, within a limit.

use axum::body::{Body, to_bytes};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;

/// Why there is no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// It has more bytes than this.
    #[error("the request body is too large; the limit is {0} bytes")]
    TooLarge(usize),
    /// It is not UTF-8.
    #[error("the request body is not UTF-8")]
    NotText,
}

/// The body, as text of at most `max` bytes.
pub(crate) async fn text(headers: &HeaderMap, body: Body, max: usize) -> Result<String, BodyError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > max) {
        return Err(BodyError::TooLarge(max));
    }
    // It is too large, or has not arrived.
    let body = to_bytes(body, max).await.map_err(|_| BodyError::TooLarge(max))?;
    String::from_utf8(body.into()).map_err(|_| BodyError::NotText)
}
