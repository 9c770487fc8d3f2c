//! The pages of the contract: who is connected, on all nodes. They show keys of clients, so they are admin routes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{SESSION_PREFIX, WsHub, group};
use crate::api::refusal::Refusal;
use crate::responses::json;

/// The paths, after what they begin with.
pub(super) const PATHS: [&str; 4] = ["/status", "/clients", "/groups", "/sessions"];
/// Clients that a page shows, or counts.
const MAX_CLIENTS: usize = 100_000;
/// Sessions that are read together.
const PAGE: usize = 1000;
/// Says that there are more clients than the page shows.
const TRUNCATED: HeaderName = HeaderName::from_static("tallycast-truncated");

/// The clients, with their groups.
struct Clients {
    /// In the order of their keys.
    groups: BTreeMap<String, Vec<String>>,
    is_truncated: bool,
}

/// The routes, below a path.
pub(crate) fn router(hub: Arc<WsHub>) -> Router {
    let [status, clients, groups, sessions] = PATHS.map(|path| format!("{}{path}", hub.config.pages));
    Router::new()
        .route(&status, get(self::status))
        .route(&clients, get(self::clients))
        .route(&groups, get(self::groups))
        .route(&sessions, get(self::sessions))
        .with_state(hub)
}

async fn status(State(hub): State<Arc<WsHub>>) -> Response {
    hub.answer(|clients| clients.len().to_string().into_response()).await
}

async fn clients(State(hub): State<Arc<WsHub>>) -> Response {
    hub.answer(|clients| json(&clients)).await
}

async fn groups(State(hub): State<Arc<WsHub>>) -> Response {
    hub.answer(|clients| {
        let mut members = BTreeMap::<_, Vec<_>>::new();
        for (key, group) in clients.iter().flat_map(|(key, groups)| groups.iter().map(move |group| (key, group))) {
            members.entry(group).or_default().push(key);
        }
        json(&members)
    })
    .await
}

async fn sessions(State(hub): State<Arc<WsHub>>) -> Response {
    hub.answer(|clients| json(&clients.keys().collect::<Vec<_>>())).await
}

impl WsHub {
    async fn answer(&self, page: impl FnOnce(BTreeMap<String, Vec<String>>) -> Response) -> Response {
        let listing = self.listing.lock().await;
        let clients = self.list().await;
        match clients {
            Ok(Clients { groups, is_truncated }) => {
                let mut response = page(groups);
                drop(listing);
                if is_truncated {
                    response.headers_mut().insert(TRUNCATED, HeaderValue::from_static("true"));
                }
                response
            }
            Err(refusal) => refusal.into_response(),
        }
    }

    /// The clients with connections.
    async fn list(&self) -> Result<Clients, Refusal> {
        let mut groups = BTreeMap::new();
        let mut after = Some(SESSION_PREFIX.to_owned());
        while let Some(name) = after {
            let page = self.sessions().list(Some(&name), PAGE).await?;
            after = page.next;
            for session in page.sessions {
                let Some(key) = session.name.strip_prefix(SESSION_PREFIX) else {
                    // Those of another prefix follow.
                    return Ok(Clients { groups, is_truncated: false });
                };
                if session.connections.is_empty() {
                    continue;
                }
                if groups.len() == MAX_CLIENTS {
                    return Ok(Clients { groups, is_truncated: true });
                }
                groups.insert(key.to_owned(), group::names(&session.topics));
            }
        }
        Ok(Clients { groups, is_truncated: false })
    }
}
