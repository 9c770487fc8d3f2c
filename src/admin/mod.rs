//! What operators ask for:
//!
//! | path | answer |
//! |---|---|
//! | `GET /healthz` | 200 while the process is alive |
//! | `GET /readyz` | 200 when the broker is subscribed, 503 otherwise |
//! | `GET /admin/status.json` | the node, its state and its connections |
//! | `GET /admin/counters.json` | what every stage counts |
//! | `GET /admin/history.json` | the last ten minutes |
//! | `GET /admin/events` | a stream of what the process does, an event each second |
//! | `GET /metrics` | the same counts for Prometheus |
//!
//! The page that shows it, `/admin/`, is an asset like the others.

mod auth;
mod live;
mod metrics;
mod process;
mod report;
mod status;

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;

use crate::representation::refuse_other_methods;
use crate::site::Reply;
use tallycast_fanout::Namespace;
use tallycast_server::{Page, text_page};

pub use auth::Token;
pub use live::Live;
pub use report::run as report;
pub use status::{Depths, Inboxes, Query, QueryError, Status, StatusSource};

/// The paths that are always there.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];
/// The paths that a token protects and that can be left out.
const PROTECTED: [&str; 5] =
    ["/admin/status.json", "/admin/counters.json", "/admin/history.json", "/admin/events", "/metrics"];

/// The pages for operators.
#[derive(Debug, Clone)]
pub struct AdminPages {
    /// What is told.
    pub status: StatusSource,
    /// The live view; without it there is nothing but the probes.
    pub live: Option<Live>,
    /// What a client needs to have, for all but the probes.
    pub token: Option<Token>,
}

impl AdminPages {
    /// The paths there are.
    pub fn paths(&self) -> Vec<&'static str> {
        let protected = if self.live.is_some() { &PROTECTED[..] } else { &[] };
        [&PROBES[..], protected].concat()
    }

    /// Whether a request may not see what is below `/admin` or `/metrics`, and the answer to it.
    pub fn refuse(&self, request: &Parts) -> Option<Page> {
        self.token.as_ref()?.refuse(&request.headers)
    }

    /// Whether `path` is one that a token protects.
    pub fn is_protected(path: &str) -> bool {
        path == "/metrics" || path == "/admin" || path.starts_with("/admin/")
    }

    /// Answers a request for one of the paths; nothing for another.
    pub async fn respond(&self, request: &Parts) -> Option<Reply> {
        let path = request.uri.path();
        if !self.paths().contains(&path) {
            return None;
        }
        if let Some(refusal) = refuse_other_methods(request) {
            return Some(refusal.into());
        }
        let unavailable = |error| text_page(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"));
        let page = match (path, &self.live) {
            ("/healthz", _) => text_page(StatusCode::OK, "alive\n"),
            ("/readyz", _) if self.status.is_ready() => text_page(StatusCode::OK, "ready\n"),
            ("/readyz", _) => text_page(StatusCode::SERVICE_UNAVAILABLE, "the broker is not subscribed\n"),
            ("/admin/counters.json", _) => json(serde_json::to_string(&self.status.counters())),
            ("/admin/history.json", Some(live)) => json(serde_json::to_string(&live.history())),
            ("/admin/events", Some(live)) => {
                return Some(Reply::Stream { handle: live.handle(), namespace: Namespace::root() });
            }
            ("/metrics", _) => metrics::page(&self.status).await.unwrap_or_else(unavailable),
            _ => self.status_page(request.uri.query().unwrap_or_default()).await,
        };
        Some(page.into())
    }

    async fn status_page(&self, query: &str) -> Page {
        let query: Query = match query.parse() {
            Ok(query) => query,
            Err(error) => return text_page(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        match self.status.status(&query).await {
            Ok(status) => json(serde_json::to_string(&status)),
            Err(error) => text_page(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        }
    }
}

fn json(text: serde_json::Result<String>) -> Page {
    match text {
        Ok(text) => {
            let mut page = text_page(StatusCode::OK, text);
            page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
            page
        }
        Err(error) => text_page(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
