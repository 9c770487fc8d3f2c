//! The routes by which programs publish, with a key or a token, and by which pages get tickets.
//!
//! | path | what |
//! |---|---|
//! | `POST /publish/<namespace>` | publishes the body |
//! | `POST /publish` | publishes several messages |
//! | `POST /count/<namespace>` | raises totals and publishes each count |
//! | `POST /tickets` | makes a ticket in the place of a token |

mod access;
mod count;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod keys;
mod publish;
mod request;
mod subscriptions;
pub(crate) mod tickets;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header::{ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio::sync::watch;

use crate::api::request::BodyError;
use crate::auth::{self, Auth, AuthError};
use crate::decode::Routes;
use crate::publishing::{PublishStats, Publisher, Unavailable};
use crate::responses::line;
use crate::totals::TotalsKey;

pub use keys::{PublishKey, PublishKeys};
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

/// Why nothing was published. Each is one line for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum PublishError {
    #[error("publishing is off; --publish-key switches it on")]
    Off,
    #[error("a publishing key is required, as Bearer token")]
    Unauthorized,
    #[error("a publishing key or a token is required")]
    TokenRequired,
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    MediaType(String),
    #[error("more messages than the key may publish; try again in {0} s")]
    TooMany(u64),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The length of an error, in bytes; longer ones are cut. Some repeat a part of the request.
const MAX_ERROR_BYTES: usize = 512;

/// The seconds after which a client tries again while the broker is away.
const RETRY_SECONDS: u64 = 1;

impl PublishError {
    /// What the client sees: one line, whatever the request had.
    fn line(&self) -> String {
        let mut line = self.to_string().replace(char::is_control, "\u{fffd}");
        line.truncate(line.floor_char_boundary(MAX_ERROR_BYTES));
        line
    }
}

impl From<BodyError> for PublishError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge(_) => Self::TooLarge(error.to_string()),
            BodyError::NotText => Self::BadRequest(error.to_string()),
        }
    }
}

impl IntoResponse for PublishError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Auth(error) => return error.clone().into_response(),
            Self::Off | Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Unauthorized | Self::TokenRequired => StatusCode::UNAUTHORIZED,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = line(status, self.line());
        match self {
            Self::Unauthorized | Self::TokenRequired => {
                response.headers_mut().insert(WWW_AUTHENTICATE, auth::challenge(None));
            }
            Self::TooMany(seconds) => drop(response.headers_mut().insert(RETRY_AFTER, seconds.into())),
            Self::Unavailable(_) => drop(response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS.into())),
            _ => {}
        }
        response
    }
}

impl Publishing {
    /// Counts the outcome of a request that would publish `messages`.
    fn counted<T>(&self, messages: usize, outcome: Result<T, PublishError>) -> Result<T, PublishError> {
        match &outcome {
            Ok(_) => self.stats.published.add(messages as u64),
            Err(PublishError::Unavailable(_)) => self.stats.failed.add(1),
            Err(_) => self.stats.refused.add(1),
        }
        outcome
    }
}

/// The routes of the API.
pub(crate) fn router(publishing: Publishing) -> Router {
    let tickets = publishing.auth.clone().map(tickets::router).unwrap_or_default();
    Router::new()
        .route("/publish", post(publish::many))
        .route("/publish/", post(publish::many))
        .route("/publish/{*namespace}", post(publish::one))
        .route("/count/{*namespace}", post(count::count))
        .method_not_allowed_fallback(method_not_allowed)
        // The handlers have their own.
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(publishing))
        .merge(tickets)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let text = format!("{method} is not allowed for {}; use POST", uri.path());
    let mut response = line(StatusCode::METHOD_NOT_ALLOWED, text);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}
