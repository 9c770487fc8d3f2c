//! Routes for operators:
//!
//! | path | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process is alive |
//! | `GET /readyz` | 200 while the source is subscribed at the broker, 503 otherwise and after a signal to stop |
//! | `GET /admin/status.json` | node, state and connections |
//! | `GET /admin/counters.json` | the counters of every stage |
//! | `GET /admin/cluster.json` | all nodes that share the broker |
//! | `GET /admin/history.json` | samples of the last ten minutes |
//! | `GET /admin/events` | a stream with live statistics, one event per second |
//! | `GET /metrics` | the counters in the format of Prometheus |
//!
//! The page that shows them, `/admin/`, is an asset. `routes` puts the admin routes behind the token.

mod alarms;
mod auth;
mod counters;
mod definitions;
#[cfg(test)]
mod docs;
mod live;
mod metrics;
mod process;
mod query;
mod report;
mod status;

use axum::Router;
use axum::extract::{FromRef, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use tokio::sync::watch;

use crate::responses::{json, line};

pub use alarms::Alarms;
pub use auth::Token;
pub(crate) use auth::require_token;
pub use live::{LiveConfig, LiveStats};
pub use query::{StatusQuery, StatusQueryError};
pub use report::run as report;
pub use status::{ConnectionStatus, StageInboxes, Status, StatusSource};

/// The paths of the probes, which are always served, without a token.
pub(crate) const PROBES: [&str; 2] = ["/healthz", "/readyz"];
/// The beginnings of the paths of the admin routes.
pub(crate) const PREFIXES: [&str; 2] = ["/admin", "/metrics"];
/// The paths of the admin routes, besides the page.
pub(crate) const PATHS: [&str; 6] = [
    "/admin/status.json",
    "/admin/counters.json",
    "/admin/cluster.json",
    "/admin/history.json",
    "/admin/events",
    "/metrics",
];

/// The admin routes and the token that protects them, if any.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The live statistics.
    pub live: LiveStats,
    /// Required for every admin route, as it is now.
    pub token: watch::Receiver<Option<Token>>,
}

#[derive(Debug, Clone)]
struct AdminState {
    status: StatusSource,
    live: LiveStats,
}

impl FromRef<AdminState> for StatusSource {
    fn from_ref(state: &AdminState) -> Self {
        state.status.clone()
    }
}

impl FromRef<AdminState> for LiveStats {
    fn from_ref(state: &AdminState) -> Self {
        state.live.clone()
    }
}

/// The probes of container engines and load balancers.
pub(crate) fn probes(status: StatusSource) -> Router {
    Router::new()
        .route("/healthz", get(async || line(StatusCode::OK, "alive")))
        .route("/readyz", get(readiness))
        .with_state(status)
}

/// The admin routes, not yet protected.
pub(crate) fn router(status: StatusSource, live: LiveStats) -> Router {
    Router::new()
        .route("/admin/status.json", get(status_report))
        .route("/admin/counters.json", get(async |State(status): State<StatusSource>| json(&status.counters())))
        .route("/admin/cluster.json", get(cluster))
        .route("/admin/history.json", get(async |State(live): State<LiveStats>| json(&live.history())))
        .route("/admin/events", get(live::events))
        .route("/metrics", get(metrics))
        .with_state(AdminState { status, live })
}

async fn readiness(State(status): State<StatusSource>) -> Response {
    if status.terminating.is_cancelled() {
        line(StatusCode::SERVICE_UNAVAILABLE, "shutting down")
    } else if status.is_ready() {
        line(StatusCode::OK, "ready")
    } else {
        line(StatusCode::SERVICE_UNAVAILABLE, "the broker is not subscribed")
    }
}

async fn status_report(State(status): State<StatusSource>, RawQuery(query): RawQuery) -> Response {
    let query: StatusQuery = match query.unwrap_or_default().parse() {
        Ok(query) => query,
        Err(error) => return line(StatusCode::BAD_REQUEST, error),
    };
    match status.status(&query).await {
        Ok(status) => json(&status),
        Err(error) => line(StatusCode::SERVICE_UNAVAILABLE, error),
    }
}

async fn cluster(State(live): State<LiveStats>) -> Response {
    match live.cluster() {
        Some(cluster) => json(&*cluster.nodes()),
        None => line(StatusCode::NOT_FOUND, "the nodes are not known to each other; start each with --cluster"),
    }
}

async fn metrics(State(status): State<StatusSource>) -> Response {
    metrics::scrape(&status).await.unwrap_or_else(|error| line(StatusCode::SERVICE_UNAVAILABLE, error))
}
