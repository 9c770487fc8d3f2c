//! Why a request is refused: one line for the client, with a status, and a count for the operator.

use std::borrow::Cow;

use axum::http::StatusCode;
use axum::http::header::{HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use tallycast_server::{WholeResponse, text_response};

use super::request::BodyError;
use crate::auth::{self, AuthError, RateError};
use crate::presence;
use crate::publishing::{self, PublishStats};
use crate::responses::line;

/// The length of a refusal, in bytes; longer ones are cut. Some repeat a part of the request.
const MAX_BYTES: usize = 512;
/// The seconds after which a client tries again while the broker or an issuer is away.
const RETRY_SECONDS: u64 = 1;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    BadRequest(String),
    /// There is no key or token, or it does not allow this.
    #[error("{0}")]
    Unauthorized(Cow<'static, str>),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("{0}")]
    Forbidden(Cow<'static, str>),
    #[error("{0}")]
    NotFound(String),
    /// Something else has the place.
    #[error("{0}")]
    Conflict(String),
    /// As many connections of one kind are open as may be.
    #[error("{0}")]
    Group(String),
    /// A limit is reached, for now.
    #[error("{0}")]
    Full(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    MediaType(String),
    /// Seconds until as much may be published again.
    #[error("more messages than may be published now (--publish-rate); try again in {0} s")]
    TooMany(u64),
    /// The broker is away.
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    pub(crate) fn unauthorized(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Unauthorized(reason.into())
    }

    pub(crate) fn forbidden(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Forbidden(reason.into())
    }

    /// As many messages as a rate does not allow.
    pub(crate) fn of_rate(error: RateError, messages: usize) -> Self {
        match error {
            RateError::Wait(seconds) => Self::TooMany(seconds),
            RateError::Burst(rate) => {
                Self::TooLarge(format!("{messages} messages; at most {rate} may be published at once (--publish-rate)"))
            }
        }
    }

    /// What the client sees: one line, whatever the request had.
    pub(crate) fn line(&self) -> String {
        short_line(&self.to_string())
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Auth(error) => error.status(),
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Group(_) | Self::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What the client can do about it.
    pub(crate) fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match (self.status(), self) {
            (StatusCode::UNAUTHORIZED, Self::Auth(error)) => Some((WWW_AUTHENTICATE, error.challenge())),
            (StatusCode::UNAUTHORIZED, _) => Some((WWW_AUTHENTICATE, auth::challenge(None))),
            (_, Self::TooMany(seconds)) => Some((RETRY_AFTER, HeaderValue::from(*seconds))),
            (StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _) => {
                Some((RETRY_AFTER, HeaderValue::from(RETRY_SECONDS)))
            }
            _ => None,
        }
    }

    /// The response in place of a stream, which pages of all origins may read.
    pub(crate) fn in_place_of_stream(&self) -> WholeResponse {
        let mut response = text_response(self.status(), format!("{}\n", self.line()));
        response.headers_mut().extend(self.header());
        response
    }
}

/// A reason as clients see it, which may repeat a part of the request.
pub(super) fn short_line(reason: &str) -> String {
    let mut line = reason.replace(char::is_control, "\u{fffd}");
    line.truncate(line.floor_char_boundary(MAX_BYTES));
    line
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = line(self.status(), self.line());
        response.headers_mut().extend(self.header());
        response
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge(_) => Self::TooLarge(error.to_string()),
            BodyError::NotText => Self::BadRequest(error.to_string()),
        }
    }
}

impl From<publishing::Unavailable> for Refusal {
    fn from(error: publishing::Unavailable) -> Self {
        // A client that tried again would have the same answer for ever.
        if error.is_final() { Self::BadRequest(error.to_string()) } else { Self::Unavailable(error.to_string()) }
    }
}

impl From<presence::Unavailable> for Refusal {
    fn from(error: presence::Unavailable) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Counts the outcome of a request that would publish `messages`.
pub(super) fn count_outcome<T>(stats: &PublishStats, messages: usize, outcome: &Result<T, Refusal>) {
    match outcome {
        Ok(_) => stats.published.add(messages as u64),
        Err(Refusal::Unavailable(_)) => stats.failed.add(1),
        Err(_) => stats.refused.add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_is_one_short_line_whatever_the_request_has() {
        let line = Refusal::BadRequest(format!("a\nb{}", "x".repeat(1000))).line();
        assert!(line.starts_with("a\u{fffd}bxx") && line.len() <= MAX_BYTES, "{line}");
    }

    #[test]
    fn client_learns_what_to_do() {
        let header = |refusal: Refusal, name| {
            let response = refusal.into_response();
            (response.status().as_u16(), response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()))
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(header(Refusal::unauthorized("x"), WWW_AUTHENTICATE), (401, text("Bearer realm=\"tallycast\"")));
        assert_eq!(header(Refusal::TooMany(7), RETRY_AFTER), (429, text("7")));
        assert_eq!(header(Refusal::Unavailable("x".to_owned()), RETRY_AFTER), (503, text("1")));
        assert_eq!(header(Refusal::forbidden("x"), WWW_AUTHENTICATE), (403, None));
    }
}
