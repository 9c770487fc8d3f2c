//! The wire contract of gochan and unifrost, in its three generations: consumers whose topics change while they read.
//!
//! | path | what |
//! |---|---|
//! | `GET /events` | a stream of a consumer's topics, as Server-Sent Events |
//! | `POST /update_subscriptions` | adds topics of a consumer, and removes some |
//!
//! A consumer is a session whose name begins with [`PREFIX`]. A topic is the namespace of its text below [`NAMESPACE`].

mod client;
mod flavour;
mod framing;
mod stream;
mod topic;
mod update;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Method;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::routing::post;
use tower_http::cors::{Any, CorsLayer};

pub use flavour::Flavour;
pub use stream::Consumers;
pub use topic::NAMESPACE;

use super::session_streams::SessionStreams;
use crate::auth::Auth;
use crate::sessions;

/// What the names of the sessions of consumers begin with.
pub const PREFIX: &str = "unifrost:";
/// The default of [`Config::ttl`].
pub const DEFAULT_TTL: Duration = sessions::DEFAULT_TTL;
/// The default of [`Config::events_path`].
pub const DEFAULT_EVENTS_PATH: &str = "/events";
/// The default of [`Config::update_path`].
pub const DEFAULT_UPDATE_PATH: &str = "/update_subscriptions";

/// How the contract is served.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Its generation.
    pub flavour: Flavour,
    /// How long a consumer outlives its last connection.
    pub ttl: Duration,
    /// The path of streams.
    pub events_path: String,
    /// The path of changes.
    pub update_path: String,
    /// Whether an id that the server does not know makes a consumer. Otherwise only the server and the backend make ids.
    pub any_id: bool,
}

impl Config {
    /// The defaults of a generation.
    pub fn new(flavour: Flavour) -> Self {
        Self {
            flavour,
            ttl: DEFAULT_TTL,
            events_path: DEFAULT_EVENTS_PATH.to_owned(),
            update_path: DEFAULT_UPDATE_PATH.to_owned(),
            any_id: true,
        }
    }
}

/// What serves the contract. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Unifrost {
    /// How.
    pub config: Arc<Config>,
    /// The sessions.
    pub streams: SessionStreams,
    /// The tokens of clients, if there are tokens.
    pub auth: Option<Auth>,
}

/// The route that is no stream. Pages of all origins may use it: a consumer's id is what they need, and they are not trusted with
/// cookies.
pub(crate) fn router(unifrost: Unifrost) -> Router {
    let cors = CorsLayer::new().allow_origin(Any).allow_methods([Method::POST]);
    Router::new()
        .route(&unifrost.config.update_path, post(update::update))
        .method_not_allowed_fallback(update::method_not_allowed)
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(cors.allow_headers([AUTHORIZATION, CONTENT_TYPE]))
        .with_state(unifrost)
}
