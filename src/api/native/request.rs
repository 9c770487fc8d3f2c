//! What requests to publish have in common: the namespace in the path, the body, the idempotency key.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Uri};
use tallycast_fanout::{Namespace, Topic};

use crate::api::refusal::Refusal;

/// A request with the same key is not obeyed twice.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The length of an idempotency key, in bytes.
pub(super) const MAX_KEY_BYTES: usize = 256;

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Text, sent unchanged.
    Text,
    /// One JSON value.
    Json,
    /// A JSON value on each line.
    Lines,
}

/// The namespace in the path, after `prefix`.
pub(super) fn namespace(uri: &Uri, prefix: &str) -> Result<Namespace, Refusal> {
    let path = uri.path().strip_prefix(prefix).unwrap_or_default();
    let topic =
        Topic::from_url_path(path).map_err(|error| Refusal::BadRequest(format!("bad path after {prefix}: {error}")))?;
    topic
        .as_namespace()
        .cloned()
        .ok_or_else(|| Refusal::BadRequest(format!("bad path after {prefix}: expected a namespace, found wildcards")))
}

/// What the body is by the header; text without one.
pub(super) fn content(headers: &HeaderMap) -> Result<Content, Refusal> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Content::Text) };
    let value = value.to_str().unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match &*essence {
        "application/json" => Ok(Content::Json),
        "application/x-ndjson" | "application/jsonl" => Ok(Content::Lines),
        // curl sends this with --data if nothing else is said.
        "application/x-www-form-urlencoded" => Ok(Content::Text),
        essence if essence.starts_with("text/") => Ok(Content::Text),
        essence => Err(Refusal::MediaType(format!(
            "content-type {essence:?}: expected text/plain, application/json or application/x-ndjson"
        ))),
    }
}

/// The idempotency key of a request.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| is_key(key));
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        Refusal::BadRequest(format!("{IDEMPOTENCY_KEY}: expected 1 to {MAX_KEY_BYTES} visible ASCII characters"))
    })
}

pub(super) fn is_key(key: &str) -> bool {
    (1..=MAX_KEY_BYTES).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}
