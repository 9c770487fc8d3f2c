//! The routes by which backends control sessions, with a publishing key or a token that may publish to `/sessions/<name>`.
//!
//! | path | what |
//! |---|---|
//! | `GET /sessions` | lists sessions |
//! | `GET /sessions/<name>` | a session |
//! | `PUT /sessions/<name>` | creates it, or changes it |
//! | `PATCH /sessions/<name>` | changes it |
//! | `POST /sessions/<name>/messages` | sends a message to its connections |
//! | `DELETE /sessions/<name>` | ends it |

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::header::{ALLOW, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tallycast_fanout::Namespace;

use super::Publishing;
use crate::api::refusal::Refusal;
use crate::api::request::text;
use crate::responses::{json, line};
use crate::sessions::{
    ChangeRequest, Listed, Policy, Reached, RequestError, SessionGrant, SessionMessage, SessionName, Sessions,
    check_message, check_reason,
};

/// The path.
pub(crate) const PATH: &str = "/sessions";
/// Sessions of a page, and of a page for which no number is given.
const MAX_PAGE: usize = 1000;
const DEFAULT_PAGE: usize = 100;
/// Bytes of a request body.
const MAX_BODY_BYTES: usize = 512 * 1024;
/// The reason for clients if none is given.
const DEFAULT_REASON: &str = "the session has ended";

/// What the handlers need.
#[derive(Debug)]
struct Control {
    sessions: Sessions,
    publishing: Arc<Publishing>,
}

type Shared = State<Arc<Control>>;

/// A session, for the backend.
#[derive(Serialize)]
struct SessionJson<'a> {
    session: &'a str,
    topics: Vec<String>,
    grant: &'a SessionGrant,
    policy: Policy,
    /// In seconds.
    ttl: f64,
    version: u64,
    created: u64,
    connections: Vec<ConnectionJson<'a>>,
}

#[derive(Serialize)]
struct ConnectionJson<'a> {
    node: &'a str,
    since: u64,
}

impl<'a> From<&'a Listed> for SessionJson<'a> {
    fn from(listed: &'a Listed) -> Self {
        let Listed { name, topics, grant, policy, ttl, version, created, connections } = listed;
        Self {
            session: name,
            topics: topics.iter().map(|topic| topic.to_string()).collect(),
            grant,
            policy: *policy,
            ttl: ttl.as_secs_f64(),
            version: *version,
            created: *created,
            connections: connections.iter().map(|(node, since)| ConnectionJson { node, since: *since }).collect(),
        }
    }
}

#[derive(Serialize)]
struct PageJson<'a> {
    sessions: Vec<SessionJson<'a>>,
    /// The parameter `after` of the next page.
    next: Option<String>,
}

/// What a request has done.
#[derive(Serialize)]
struct ReachedJson<'a> {
    session: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<String>>,
    /// Whether a node with connections has acted.
    acted: bool,
    connections: usize,
    nodes: Vec<String>,
    waiting: Vec<String>,
}

impl<'a> ReachedJson<'a> {
    fn new(name: &'a SessionName, reached: Reached, is_change: bool) -> Self {
        let Reached { is_new, version, topics, connections, nodes, waiting } = reached;
        Self {
            session: name.as_str(),
            created: is_change.then_some(is_new),
            version: is_change.then_some(version),
            topics: is_change.then_some(topics),
            acted: !nodes.is_empty(),
            connections,
            nodes,
            waiting,
        }
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

/// The routes, with the list of all sessions or without.
pub(crate) fn router(sessions: Sessions, publishing: Arc<Publishing>, has_list: bool) -> Router {
    let list = if has_list { Router::new().route(PATH, get(list)) } else { Router::new() };
    list.route("/sessions/{name}", get(one).put(put).patch(patch).delete(end))
        .route("/sessions/{name}/messages", post(send))
        .method_not_allowed_fallback(method_not_allowed)
        // The handlers have their own.
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(Control { sessions, publishing }))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let (allowed, hint) = match uri.path() {
        PATH => ("GET, HEAD", "GET"),
        path if path.ends_with("/messages") => ("POST", "POST"),
        _ => ("GET, HEAD, PUT, PATCH, DELETE", "GET, PUT, PATCH or DELETE"),
    };
    let text = format!("{method} is not allowed for {}; use {hint}", uri.path());
    let mut response = line(StatusCode::METHOD_NOT_ALLOWED, text);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

impl Control {
    /// The session that a request names in its path, if the request may control it.
    async fn named(&self, method: &Method, uri: &Uri, headers: &HeaderMap, text: &str) -> Result<SessionName, Refusal> {
        let bad_path = |error| Refusal::BadRequest(format!("bad path after {PATH}/: {error}"));
        let name = text.parse().map_err(bad_path)?;
        self.check(method, uri, headers, Some(&name)).await?;
        Ok(name)
    }

    /// Checks that a request may control sessions, or the one of this name.
    async fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        name: Option<&SessionName>,
    ) -> Result<(), Refusal> {
        let access = self.publishing.access(method, uri, headers).await?;
        let namespace = match name {
            Some(name) => {
                let encoded: String = form_urlencoded::byte_serialize(name.as_str().as_bytes()).collect();
                Namespace::from_topic(&format!("{PATH}/{encoded}"))
            }
            None => PATH.parse(),
        };
        let namespace = namespace.map_err(|error| Refusal::BadRequest(error.to_string()))?;
        access.check(&namespace)?;
        access.take(1)
    }
}

fn parse<T: for<'de> serde::Deserialize<'de>>(body: &str) -> Result<T, Refusal> {
    let body = if body.trim().is_empty() { "{}" } else { body };
    serde_json::from_str(body).map_err(|error| Refusal::BadRequest(format!("bad request body: {error}")))
}

async fn list(
    State(control): Shared,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let outcome = async {
        control.check(&method, &uri, &headers, None).await?;
        let (mut after, mut limit) = (None, DEFAULT_PAGE);
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "after" => after = Some(value.into_owned()),
                "limit" => {
                    let number = value.parse().ok().filter(|number| (1..=MAX_PAGE).contains(number));
                    let error = || Refusal::BadRequest(format!("bad query: limit={value}; expected 1 to {MAX_PAGE}"));
                    limit = number.ok_or_else(error)?;
                }
                _ => {
                    let expected = format!("bad query: unknown parameter {name:?}; expected after or limit");
                    return Err(Refusal::BadRequest(expected));
                }
            }
        }
        let page = control.sessions.list(after.as_deref(), limit).await?;
        let sessions = page.sessions.iter().map(SessionJson::from).collect();
        Ok::<_, Refusal>(json(&PageJson { sessions, next: page.next.clone() }))
    };
    outcome.await.into_response()
}

async fn one(
    State(control): Shared,
    Path(text): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let outcome = async {
        let name = control.named(&method, &uri, &headers, &text).await?;
        let listed = control.sessions.get(&name).await?;
        let listed = listed.ok_or_else(|| Refusal::NotFound(format!("no session {text:?}")))?;
        Ok::<_, Refusal>(json(&SessionJson::from(&listed)))
    };
    outcome.await.into_response()
}

async fn put(state: Shared, path: Path<String>, method: Method, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    change(state, path, method, uri, headers, body, true).await
}

async fn patch(
    state: Shared,
    path: Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    change(state, path, method, uri, headers, body, false).await
}

async fn change(
    State(control): Shared,
    Path(path): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
    create: bool,
) -> Response {
    let outcome = async {
        let name = control.named(&method, &uri, &headers, &path).await?;
        let request: ChangeRequest = parse(&text(&headers, body, MAX_BODY_BYTES).await?)?;
        let reached = control.sessions.change(&name, &request.change(create)?).await?;
        let status = if reached.is_new { StatusCode::CREATED } else { StatusCode::OK };
        Ok::<_, Refusal>((status, json(&ReachedJson::new(&name, reached, true))))
    };
    outcome.await.into_response()
}

async fn send(
    State(control): Shared,
    Path(path): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let outcome = async {
        let name = control.named(&method, &uri, &headers, &path).await?;
        let message: SessionMessage = parse(&text(&headers, body, MAX_BODY_BYTES).await?)?;
        check_message(&message)?;
        let reached = control.sessions.send(&name, &message).await?;
        Ok::<_, Refusal>(json(&ReachedJson::new(&name, reached, false)))
    };
    outcome.await.into_response()
}

async fn end(
    State(control): Shared,
    Path(path): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let outcome = async {
        let name = control.named(&method, &uri, &headers, &path).await?;
        let mut reason = DEFAULT_REASON.to_owned();
        for (parameter, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            if parameter != "reason" {
                let expected = format!("bad query: unknown parameter {parameter:?}; expected reason");
                return Err(Refusal::BadRequest(expected));
            }
            reason = value.into_owned();
        }
        check_reason(&reason)?;
        let reached = control.sessions.end(&name, &reason).await?;
        Ok(json(&ReachedJson::new(&name, reached, false)))
    };
    outcome.await.into_response()
}
