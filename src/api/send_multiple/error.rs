//! Why a request is refused: a JSON object with a code and a message, as the clients know it.

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tallycast_server::{WholeResponse, text_response};

use super::channels::RequestError;
use crate::auth::{AuthError, challenge};
use crate::responses::JSON;

/// The seconds after which a client tries again while the keys of tokens are not available.
const RETRY_SECONDS: u64 = 1;
/// The length of a message, in bytes; longer ones are cut. Some repeat a part of the request.
const MAX_BYTES: usize = 512;

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("validate: a token is required")]
    NoToken,
    #[error("validate: {0}")]
    Token(#[from] AuthError),
    /// The namespace that the token may not read.
    #[error("not allowed to read {0}")]
    Forbidden(String),
}

#[derive(Serialize)]
struct Body<'a> {
    code: u16,
    message: &'a str,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Request(_) => StatusCode::BAD_REQUEST,
            Self::NoToken => StatusCode::UNAUTHORIZED,
            Self::Token(error) => error.status(),
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
        }
    }

    /// The response, which pages of all origins may read.
    pub(super) fn response(&self) -> WholeResponse {
        let (status, mut message) = (self.status(), self.to_string());
        message.truncate(message.floor_char_boundary(MAX_BYTES));
        let body = serde_json::to_vec(&Body { code: status.as_u16(), message: &message }).unwrap_or_default();
        let mut response = text_response(status, body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        match (self, status) {
            (Self::NoToken, _) => headers.insert(WWW_AUTHENTICATE, challenge(None)),
            (Self::Token(error), StatusCode::UNAUTHORIZED) => headers.insert(WWW_AUTHENTICATE, error.challenge()),
            (Self::Token(_), _) => headers.insert(RETRY_AFTER, RETRY_SECONDS.into()),
            _ => None,
        };
        response
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.response().map(axum::body::Body::new)
    }
}
