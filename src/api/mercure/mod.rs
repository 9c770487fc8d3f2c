//! The Mercure protocol, version 0.x (<https://mercure.rocks/spec>): updates of topics, which are any texts, for clients with tokens.
//!
//! | path | what |
//! |---|---|
//! | `GET /.well-known/mercure` | a stream of updates |
//! | `POST /.well-known/mercure` | publishes an update |
//! | `GET /.well-known/mercure/subscriptions…` | who is subscribed |
//!
//! An update is a message whose first topic is its namespace. Those published here come back from the stream of the route whose
//! namespace is `*`, so every node sends them, and any of them resumes a client.

mod credentials;
mod form;
mod framing;
mod hub;
mod publish;
mod subscribe;
mod subscriptions;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};

pub use hub::Hub;
pub(super) use publish::new_id;
pub use subscribe::Subscriptions;
pub(super) use subscriptions::update as subscription_update;

/// The path of the protocol.
pub const PATH: &str = "/.well-known/mercure";
/// The default of [`Config::lifetime`].
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);

/// What the hub allows.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Whether clients without a token may subscribe. They receive public updates.
    pub anonymous: bool,
    /// The time after which a stream ends, at most; its client connects again. `None` for no limit.
    pub lifetime: Option<Duration>,
    /// The size of a request to publish, in bytes.
    pub max_body: usize,
}

impl Config {
    /// Streams of ten minutes at most, for clients with tokens.
    pub fn new(max_body: usize) -> Self {
        Self { anonymous: false, lifetime: Some(DEFAULT_LIFETIME), max_body }
    }
}

/// The routes that are not streams.
pub(crate) fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route(PATH, post(publish::publish))
        .route(&format!("{PATH}/subscriptions"), get(subscriptions::answer))
        .route(&format!("{PATH}/subscriptions/{{*rest}}"), get(subscriptions::answer))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(hub)
}
