//! The routes by which programs publish, with a key or a token, and by which pages get tickets.
//!
//! | path | what |
//! |---|---|
//! | `POST /publish/<namespace>` | publishes the body |
//! | `POST /publish` | publishes several messages |
//! | `POST /count/<namespace>` | raises totals and publishes each count |
//! | `POST /tickets` | makes a ticket in the place of a token |
//! | `/session/<name>` | the stream of a session (`session`) |
//! | `/sessions` | control of sessions (`sessions`) |

mod access;
mod count;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod keys;
mod publish;
mod request;
mod session;
mod sessions;
mod subscriptions;
pub(crate) mod tickets;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header::{ALLOW, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::post;
use tokio::sync::watch;

use crate::api::refusal::{Refusal, count_outcome};
use crate::auth::Auth;
use crate::decode::Routes;
use crate::publishing::{PublishStats, Publisher};
use crate::responses::line;
use crate::totals::TotalsKey;

pub use keys::{PublishKey, PublishKeys};
pub(super) use publish::publication;
pub(crate) use session::PATH as SESSION_PATH;
pub use session::SessionContract;
pub(crate) use sessions::{PATH as SESSIONS_PATH, router as sessions_router};
pub use subscriptions::SubscriptionsGuard;
pub(super) use subscriptions::namespace_of;
pub(crate) use subscriptions::{PATH as SUBSCRIPTIONS_PATH, guard_subscriptions, router as subscriptions_router};

/// The documented paths of this API.
pub(crate) const PATHS: [&str; 3] = ["/publish/<namespace>", "/publish", "/count/<namespace>"];

/// What the handlers need.
#[derive(Debug)]
pub struct Publishing {
    /// What publishes.
    pub publisher: Publisher,
    /// The keys of those who may.
    pub keys: watch::Receiver<PublishKeys>,
    /// The tokens of those who may, if there are tokens.
    pub auth: Option<Auth>,
    /// The routes, which say where messages of a namespace are published.
    pub routes: watch::Receiver<Routes>,
    /// The namespaces with totals.
    pub totals: Vec<TotalsKey>,
    /// The size of a request body, in bytes.
    pub max_body: usize,
    /// The counters.
    pub stats: Arc<PublishStats>,
}

impl Publishing {
    /// Counts the outcome of a request that would publish `messages`.
    fn counted<T>(&self, messages: usize, outcome: Result<T, Refusal>) -> Result<T, Refusal> {
        count_outcome(&self.stats, messages, &outcome);
        outcome
    }
}

/// The routes of the API.
pub(crate) fn router(publishing: Arc<Publishing>) -> Router {
    let tickets = publishing.auth.clone().map(tickets::router).unwrap_or_default();
    Router::new()
        .route("/publish", post(publish::many))
        .route("/publish/", post(publish::many))
        .route("/publish/{*namespace}", post(publish::one))
        .route("/count/{*namespace}", post(count::count))
        .method_not_allowed_fallback(method_not_allowed)
        // The handlers have their own.
        .layer(DefaultBodyLimit::disable())
        .with_state(publishing)
        .merge(tickets)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let text = format!("{method} is not allowed for {}; use POST", uri.path());
    let mut response = line(StatusCode::METHOD_NOT_ALLOWED, text);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}
