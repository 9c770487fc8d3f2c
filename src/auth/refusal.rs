//! The responses to requests whose credentials are not valid, outside of streams.

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};

use super::{AuthError, TicketError, challenge};
use crate::responses::line;

/// The seconds after which a client tries again while keys or tickets are not available.
const RETRY_SECONDS: u64 = 1;

impl AuthError {
    /// The status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Origin(_) => StatusCode::FORBIDDEN,
            Self::Ticket(TicketError::TooMany) => StatusCode::TOO_MANY_REQUESTS,
            error if error.is_temporary() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Token(_) | Self::Ticket(_) => StatusCode::UNAUTHORIZED,
        }
    }
}

impl IntoResponse for AuthError {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = line(status, &self);
        let (name, value) = match status {
            StatusCode::UNAUTHORIZED => (WWW_AUTHENTICATE, self.challenge()),
            StatusCode::FORBIDDEN => return response,
            _ => (RETRY_AFTER, HeaderValue::from(RETRY_SECONDS)),
        };
        response.headers_mut().insert(name, value);
        response
    }
}

/// 401: there is no token.
pub(crate) fn token_required(reason: &str) -> Response {
    let mut response = line(StatusCode::UNAUTHORIZED, reason);
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge(None));
    response
}
