//! Push sources: requests by which others send events, each checked, taken once, and answered so that its sender repeats it only if that
//! can help.
//!
//! | request | what |
//! |---|---|
//! | `POST /push/<source>/<channel>` | events of the channel |
//! | `POST /push/<source>` | events of the channels that they name: type of a CloudEvent, subscription of a message of Pub/Sub |
//! | `OPTIONS` of both | permission to send (CloudEvents web hooks, section 4) |

mod answer;
mod cloudevents;
mod config;
mod credentials;
mod delivery;
mod endpoint;
mod event;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod options;
mod pubsub;
mod seen;
mod signature;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{ALLOW, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use tallycast_fanout::Counter;

use crate::responses::line;

pub use config::Config;
pub use endpoint::{Endpoint, Shared, Started};
pub use options::UrlError;

/// What the paths start with.
const PREFIX: &str = "/push/";
/// The documented path.
pub(crate) const PATH: &str = "/push/<source>/<channel>";

/// What is counted of push sources. Counters only grow.
#[derive(Debug, Default)]
pub struct PushStats {
    /// Events taken: sent on, or published.
    pub received: Counter,
    /// Events that had been taken before.
    pub duplicates: Counter,
    /// Events rejected for good, however often they are sent.
    pub rejected: Counter,
    /// Requests without a valid signature or token.
    pub refused: Counter,
    /// Requests whose sender is to try again: over the rate, or not taken in time.
    pub retried: Counter,
}

/// The endpoints of sources that have been started. In a runtime.
///
/// # Errors
/// As for [`Endpoint::start`].
pub fn start(sources: Vec<Started>, shared: &Shared) -> Result<Vec<Endpoint>, UrlError> {
    sources.into_iter().map(|source| Endpoint::start(source, shared)).collect()
}

/// The routes of push sources.
pub(crate) fn router(endpoints: Vec<Endpoint>) -> Router {
    let endpoints: Arc<[Arc<Endpoint>]> = endpoints.into_iter().map(Arc::new).collect();
    let methods =
        || -> MethodRouter<Arc<[Arc<Endpoint>]>> { post(receive).options(options).fallback(method_not_allowed) };
    Router::new()
        .route("/push/{source}", methods())
        .route("/push/{source}/", methods())
        .route("/push/{source}/{*channel}", methods())
        // The endpoints have their own.
        .layer(DefaultBodyLimit::disable())
        .with_state(endpoints)
}

/// The endpoint of a path, and the channel that the path names.
fn find<'a>(endpoints: &[Arc<Endpoint>], uri: &'a Uri) -> Option<(Arc<Endpoint>, Option<&'a str>)> {
    let path = uri.path().strip_prefix(PREFIX)?;
    let (name, channel) = path.split_once('/').unwrap_or((path, ""));
    let endpoint = endpoints.iter().find(|endpoint| endpoint.name() == name)?;
    Some((Arc::clone(endpoint), Some(channel).filter(|channel| !channel.is_empty())))
}

async fn receive(State(endpoints): State<Arc<[Arc<Endpoint>]>>, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    match find(&endpoints, &uri) {
        Some((endpoint, channel)) => endpoint.receive(channel, uri.query().unwrap_or_default(), &headers, body).await,
        None => unknown(),
    }
}

async fn options(State(endpoints): State<Arc<[Arc<Endpoint>]>>, uri: Uri, headers: HeaderMap) -> Response {
    match find(&endpoints, &uri) {
        Some((endpoint, _)) => endpoint.permission(&headers),
        None => unknown(),
    }
}

/// The answer for a source that is not configured. It says nothing of those that are.
fn unknown() -> Response {
    line(StatusCode::NOT_FOUND, "no such push source; expected the name of one, /push/<source>/<channel>")
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let text = format!("{method} is not allowed for {}; use POST", uri.path());
    let mut response = line(StatusCode::METHOD_NOT_ALLOWED, text);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, OPTIONS"));
    response
}
