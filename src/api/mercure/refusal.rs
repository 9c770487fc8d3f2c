//! Why a request is refused: one line for the client, with a status.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use tallycast_server::{WholeResponse, text_response};

use crate::api::request::BodyError;
use crate::auth::{self, AuthError, RateError};
use crate::publishing::Unavailable;

/// The length of a refusal, in bytes; longer ones are cut. Some repeat a part of the request.
const MAX_BYTES: usize = 512;
/// The seconds after which a client tries again while the broker or an issuer is away.
const RETRY_SECONDS: u64 = 1;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Unauthorized(Cow<'static, str>),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    MediaType(String),
    #[error("more updates than the token may publish; try again in {0} s")]
    TooMany(u64),
    #[error(transparent)]
    Token(#[from] AuthError),
    #[error("the broker did not take the update, or has not confirmed it; try again")]
    Unavailable,
    #[error("{0}")]
    Subscriptions(String),
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge(_) => Self::TooLarge(error.to_string()),
            BodyError::NotText => Self::BadRequest(error.to_string()),
        }
    }
}

impl From<Unavailable> for Refusal {
    /// The reason is in the log. Its text names a header that this protocol does not have.
    fn from(_: Unavailable) -> Self {
        Self::Unavailable
    }
}

impl From<RateError> for Refusal {
    fn from(error: RateError) -> Self {
        match error {
            RateError::Wait(seconds) => Self::TooMany(seconds),
            RateError::Burst(_) => Self::TooMany(RETRY_SECONDS),
        }
    }
}

impl Refusal {
    /// There is no valid token, or it does not allow this: other hubs answer both with 401.
    pub(super) fn unauthorized(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Unauthorized(reason.into())
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Token(error) if !error.is_temporary() => StatusCode::UNAUTHORIZED,
            Self::Token(_) | Self::Unavailable | Self::Subscriptions(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.response().map(Body::new)
    }
}

impl Refusal {
    /// The response, which the server of streams sends as well.
    pub(super) fn response(&self) -> WholeResponse {
        let status = self.status();
        let mut text = self.to_string().replace(char::is_control, "\u{fffd}");
        text.truncate(text.floor_char_boundary(MAX_BYTES));
        let mut response = text_response(status, format!("{text}\n"));
        let headers = response.headers_mut();
        match self {
            Self::TooMany(seconds) => drop(headers.insert(RETRY_AFTER, HeaderValue::from(*seconds))),
            Self::Token(error) if status == StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, error.challenge());
            }
            Self::Unauthorized(_) => drop(headers.insert(WWW_AUTHENTICATE, auth::challenge(None))),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_is_one_short_line_whatever_the_request_has() {
        let response = Refusal::BadRequest(format!("a\nb{}", "x".repeat(1000))).into_response();
        let body = axum::body::to_bytes(response.into_body(), 4096);
        let body = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(body).unwrap();
        assert!(body.starts_with("a\u{fffd}bxx".as_bytes()) && body.len() <= MAX_BYTES + 1);
    }
}
