//! The parsers of requests to publish and of clients' messages, for the fuzz targets only: `cargo fuzz` sets `cfg(fuzzing)`.

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, HeaderValue};

use super::publish::parse;
use super::request::content;
use crate::decode::Routes;
use crate::publishing::Publication;

/// The messages of a request with several.
///
/// # Errors
/// The line of the response.
pub fn messages(routes: &Routes, content_type: &str, body: &str) -> Result<Vec<Publication>, String> {
    let value = HeaderValue::from_str(content_type).map_err(|error| error.to_string())?;
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, value)]);
    let content = content(&headers).map_err(|error| error.line())?;
    parse(routes, body, content, |_| Ok(())).map_err(|error| error.line())
}

/// Whether the client of a session may send this.
pub fn is_session_message(text: &str) -> bool {
    super::session::is_message(text)
}
