//! Routes for operators:
//!
//! | path | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process is alive |
//! | `GET /readyz` | 200 while the source is subscribed at the broker, 503 otherwise and after a signal to stop |
//! | `GET /admin/status.json` | node, state and connections |
//! | `GET /admin/counters.json` | the counters of every stage |
//! | `GET /admin/cluster.json` | all nodes that share the broker |
//! | `GET /admin/history.json` | samples for charts, of ten minutes to a day |
//! | `GET /admin/events` | a stream with live statistics and alarms, one event per second |
//! | `GET /admin/namespaces.json` | the children of a namespace, with readers and rates |
//! | `GET /admin/tail` | a stream with messages of a topic |
//! | `GET /admin/sessions.json` | the sessions of all nodes |
//! | `GET /admin/config.json` | the effective options |
//! | `GET /admin/log.json` | the last warnings and errors |
//! | `POST /admin/publish` | publishes a message |
//! | `POST /admin/disconnect` | ends a connection |
//! | `GET /metrics` | the counters in the format of Prometheus |
//!
//! The page that shows them, `/admin/`, is an asset. `routes` puts the admin routes behind the token.

mod actions;
mod alarms;
mod auth;
mod counters;
mod definitions;
#[cfg(test)]
mod docs;
mod guard;
mod history;
mod inspector;
mod live;
mod log;
mod metrics;
mod namespaces;
mod process;
mod query;
mod report;
mod sessions;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, RawQuery, State};
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::api::native::Publishing;
use crate::api::refusal::Refusal;
use crate::config::EffectiveOption;
use crate::responses::{json, line};
use actions::Actions;
use guard::Guard;

pub use actions::ActionStats;
pub use alarms::Alarms;
pub use auth::Token;
pub(crate) use auth::require_token;
pub use inspector::Inspector;
pub use live::{LiveConfig, LiveStats};
pub use log::RecentLog;
pub use query::{StatusQuery, StatusQueryError};
pub use report::run as report;
pub use sessions::SessionList;
pub use status::{ConnectionStatus, StageInboxes, Status, StatusSource};

/// The paths of the probes, which are always served, without a token.
pub(crate) const PROBES: [&str; 2] = ["/healthz", "/readyz"];
/// The beginnings of the paths of the admin routes.
pub(crate) const PREFIXES: [&str; 2] = ["/admin", "/metrics"];
/// The paths of the admin routes, besides the page.
pub(crate) const PATHS: [&str; 13] = [
    "/admin/status.json",
    "/admin/counters.json",
    "/admin/cluster.json",
    "/admin/history.json",
    "/admin/events",
    "/admin/namespaces.json",
    "/admin/tail",
    "/admin/sessions.json",
    "/admin/config.json",
    "/admin/log.json",
    actions::PATHS[0],
    actions::PATHS[1],
    "/metrics",
];

/// The admin routes and the token that protects them, if any.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The live statistics.
    pub live: LiveStats,
    /// The effective options, as they are now.
    pub options: watch::Receiver<Arc<[EffectiveOption]>>,
    /// The sessions, if there are any.
    pub sessions: Option<SessionList>,
    /// The last warnings and errors.
    pub log: RecentLog,
    /// Required for every admin route, as it is now.
    pub token: watch::Receiver<Option<Token>>,
    /// Whether clients on the same machine may do and see everything without a token. Not where others can reach the server: what comes
    /// from this machine may then be theirs, by a proxy.
    pub trusts_machine: bool,
}

#[derive(Debug, Clone)]
struct AdminState {
    status: StatusSource,
    admin: Admin,
}

impl FromRef<AdminState> for StatusSource {
    fn from_ref(state: &AdminState) -> Self {
        state.status.clone()
    }
}

impl FromRef<AdminState> for LiveStats {
    fn from_ref(state: &AdminState) -> Self {
        state.admin.live.clone()
    }
}

impl FromRef<AdminState> for Admin {
    fn from_ref(state: &AdminState) -> Self {
        state.admin.clone()
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
pub(crate) fn router(status: StatusSource, admin: Admin, publishing: Arc<Publishing>) -> Router {
    let guard = Guard { token: admin.token.clone(), trusts_machine: admin.trusts_machine };
    let is_read_only = admin.live.is_read_only();
    let actions = Actions { status: status.clone(), publishing, guard: guard.clone(), is_read_only };
    let guarded = Router::new()
        .route("/admin/tail", get(live::tail))
        .route("/admin/sessions.json", get(sessions::listing))
        .route("/admin/config.json", get(config))
        .route("/admin/log.json", get(async |State(admin): State<Admin>| json(&admin.log.json())))
        .route_layer(from_fn_with_state(guard, guard::guard));
    Router::new()
        .route("/admin/status.json", get(status_report))
        .route("/admin/counters.json", get(async |State(status): State<StatusSource>| json(&status.counters())))
        .route("/admin/cluster.json", get(cluster))
        .route("/admin/history.json", get(history))
        .route("/admin/events", get(live::events))
        .route("/admin/namespaces.json", get(namespaces::listing))
        .route("/metrics", get(metrics))
        .merge(guarded)
        .with_state(AdminState { status, admin })
        .merge(actions::router(actions))
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

async fn status_report(State(AdminState { status, admin }): State<AdminState>, RawQuery(query): RawQuery) -> Response {
    let query: StatusQuery = match query.unwrap_or_default().parse() {
        Ok(query) => query,
        Err(error) => return line(StatusCode::BAD_REQUEST, error),
    };
    match status.status(&query).await {
        Ok(mut status) => {
            if admin.sessions.is_some_and(|list| list.has_secret_names) {
                status.connections.iter_mut().for_each(ConnectionStatus::hide_session);
            }
            json(&status)
        }
        Err(error) => line(StatusCode::SERVICE_UNAVAILABLE, error),
    }
}

async fn cluster(State(live): State<LiveStats>) -> Response {
    match live.cluster() {
        Some(cluster) => json(&*cluster.nodes()),
        None => line(StatusCode::NOT_FOUND, "the nodes are not known to each other; start each with --cluster"),
    }
}

async fn history(State(live): State<LiveStats>, RawQuery(query): RawQuery) -> Response {
    let range = parameter(&query, "range").unwrap_or_else(|| "10m".to_owned());
    live.history(&range).map_or_else(|error| Refusal::BadRequest(error).into_response(), |samples| json(&samples))
}

async fn config(State(admin): State<Admin>) -> Response {
    let options = admin.options.borrow().iter().map(EffectiveOption::json).collect();
    json(&Value::Object(Map::from_iter([("options".to_owned(), Value::Array(options))])))
}

/// The last parameter of a query with this name.
fn parameter(query: &Option<String>, name: &str) -> Option<String> {
    let parameters = form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes());
    parameters.filter(|(known, _)| known == name).last().map(|(_, value)| value.into_owned())
}

async fn metrics(State(status): State<StatusSource>) -> Response {
    metrics::scrape(&status).await.unwrap_or_else(|error| line(StatusCode::SERVICE_UNAVAILABLE, error))
}
