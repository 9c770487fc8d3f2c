//! Errors of the REST API, as JSON.

use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::PATHS;
use super::store::StoreError;
use crate::responses::{self, JSON};

/// Characters of an unknown ID that the error repeats.
const MAX_ID_CHARS: usize = 64;
/// For requests that fail while the store is unavailable.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("2");

/// The reason for an answer other than 200.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("no such path: {0}; there are {paths}", paths = PATHS.join(", "))]
    UnknownPath(String),
    #[error("no such emoji: {0}")]
    UnknownEmoji(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ApiError {
    pub(super) fn unknown_path(uri: &Uri) -> Self {
        Self::UnknownPath(uri.path().to_owned())
    }

    pub(super) fn unknown_emoji(id: &str) -> Self {
        Self::UnknownEmoji(id.chars().take(MAX_ID_CHARS).collect())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"error": self.to_string()});
        let mut response = responses::with_type(JSON, format!("{body}\n"));
        *response.status_mut() = match self {
            Self::UnknownPath(_) | Self::UnknownEmoji(_) => StatusCode::NOT_FOUND,
            Self::Store(_) => {
                response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        response
    }
}
