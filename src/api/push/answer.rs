//! The answers to senders. What counts is whether they send the same again: after 503 and 429 they do, after the others they
//! should not.

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};

use super::event::Rejection;
use crate::api::refusal::short_line;
use crate::auth;
use crate::responses::line;

/// The seconds after which a sender tries again what was not taken.
const RETRY_SECONDS: u64 = 1;

/// What a request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// All is well, or there is nothing more to do.
    Done,
    /// It cannot be taken, now or later.
    Rejected(Rejection),
    /// Its sender did not show that it may send. `is_bearer`: a token would do so.
    Refused { reason: String, is_bearer: bool },
    /// Not now. It may be taken later.
    Retry(String),
    /// More than the rate allows, for so many seconds.
    TooMany(u64),
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let with = |status, reason: String, header: Option<(_, HeaderValue)>| {
            let mut response = line(status, short_line(&reason));
            response.headers_mut().extend(header);
            response
        };
        match self {
            Self::Done => StatusCode::NO_CONTENT.into_response(),
            Self::Rejected(Rejection { status: StatusCode::NO_CONTENT, .. }) => StatusCode::NO_CONTENT.into_response(),
            Self::Rejected(Rejection { status, reason }) => with(status, reason, None),
            Self::Refused { reason, is_bearer: true } => {
                with(StatusCode::UNAUTHORIZED, reason, Some((WWW_AUTHENTICATE, auth::challenge(None))))
            }
            Self::Refused { reason, is_bearer: false } => with(StatusCode::FORBIDDEN, reason, None),
            Self::Retry(reason) => {
                with(StatusCode::SERVICE_UNAVAILABLE, reason, Some((RETRY_AFTER, RETRY_SECONDS.into())))
            }
            Self::TooMany(seconds) => {
                let reason = format!("more events than this source takes now; try again in {seconds} s");
                with(StatusCode::TOO_MANY_REQUESTS, reason, Some((RETRY_AFTER, seconds.into())))
            }
        }
    }
}
