//! `GET /admin/sessions.json`: the sessions of all nodes. Where a name is all that a client needs to open a session, only its beginning is
//! shown.

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::{Admin, parameter};
use crate::api::refusal::Refusal;
use crate::responses::json;
use crate::sessions::{Listed, Policy, Sessions};

/// Sessions of an answer, and of one for which no number is given.
const MAX_SESSIONS: usize = 500;
const DEFAULT_SESSIONS: usize = 50;
/// Characters of a secret name that are shown, at most half of it.
const SHOWN: usize = 6;

/// Sessions, and whether their names are secrets.
#[derive(Debug, Clone)]
pub struct SessionList {
    /// The sessions.
    pub sessions: Sessions,
    /// Whether everyone who knows the name of a session can open it.
    pub has_secret_names: bool,
}

#[derive(Debug, Serialize)]
struct Listing {
    /// Of all nodes.
    total: usize,
    sessions: Vec<Session>,
}

#[derive(Debug, Serialize)]
struct Session {
    id: String,
    /// The name that its streams have in `status.json`.
    subject: String,
    topics: Vec<String>,
    /// A connection on this node, by its id in `status.json`.
    connection: Option<String>,
    connections: Vec<Connection>,
    /// In seconds since the Unix epoch.
    created_at: f64,
    policy: Policy,
    ttl_seconds: f64,
    version: u64,
    /// Messages that wait on this node.
    queued: usize,
}

#[derive(Debug, Serialize)]
struct Connection {
    node: String,
    since: f64,
}

/// The handler.
pub(super) async fn listing(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let Some(list) = admin.sessions else {
        let text = "there are no sessions; start with --sessions".to_owned();
        return Refusal::NotFound(text).into_response();
    };
    list.answer(&query).await.map_or_else(IntoResponse::into_response, |listing| json(&listing))
}

impl SessionList {
    async fn answer(&self, query: &Option<String>) -> Result<Listing, Refusal> {
        let limit = match parameter(query, "limit") {
            Some(text) => {
                text.parse().ok().filter(|limit| (1..=MAX_SESSIONS).contains(limit)).ok_or_else(|| {
                    Refusal::BadRequest(format!("bad query: limit={text}; expected 1 to {MAX_SESSIONS}"))
                })?
            }
            None => DEFAULT_SESSIONS,
        };
        let total = self.sessions.total().await?;
        let found = match parameter(query, "id") {
            Some(id) => {
                let name = id.parse().map_err(|error| Refusal::BadRequest(format!("bad query: id: {error}")))?;
                self.sessions.get(&name).await?.into_iter().collect()
            }
            None => self.sessions.list(None, limit).await?.sessions,
        };
        Ok(Listing { total, sessions: found.into_iter().map(|listed| self.session(listed)).collect() })
    }

    fn session(&self, listed: Listed) -> Session {
        let Listed { name, topics, policy, ttl, version, created, connections, .. } = listed;
        let (connection, queued) = self.sessions.here(&name);
        let seconds = |milliseconds: u64| milliseconds as f64 / 1000.0;
        let shown = if self.has_secret_names { beginning(&name) } else { name };
        Session {
            subject: shown.clone(),
            id: shown,
            topics: topics.iter().map(|topic| topic.to_string()).collect(),
            connection: connection.map(|id| id.to_string()),
            connections: connections
                .into_iter()
                .map(|(node, since)| Connection { node, since: seconds(since) })
                .collect(),
            created_at: seconds(created),
            policy,
            ttl_seconds: ttl.as_secs_f64(),
            version,
            queued,
        }
    }
}

/// As much of a secret as tells it from others.
pub(super) fn beginning(name: &str) -> String {
    let shown = (name.chars().count() / 2).min(SHOWN);
    name.chars().take(shown).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_half_of_a_secret_is_shown() {
        assert_eq!(["", "a", "ann", "0123456789abcdef"].map(beginning), ["…", "…", "a…", "012345…"]);
    }
}
