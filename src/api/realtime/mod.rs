//! The wire contract of open-source-cloud/realtime: channels whose clients read events, or talk over WebSockets.
//!
//! | path | what |
//! |---|---|
//! | `POST /api/v1/channels` | creates a channel |
//! | `GET /api/v1/channels/<id>?clientId=C` | the stream of a client, or with `upgrade=0` whether it could open (`connect`) |
//! | `POST /api/v1/channels/<id>/messages` | sends a message of the server to all clients |
//! | `GET /web/chat`, `GET /web/notifications` | pages (`assets`) |
//!
//! A client is the session `realtime:<channel>:<client>`. Messages are entries of Redis streams, in the format of that project, so that
//! its nodes and ours may serve the same channels.

mod answer;
mod channel;
mod channels;
mod connect;
mod framing;
mod message;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;
use tallycast_fanout::Namespace;
use tower_http::cors::{Any, CorsLayer};

pub use channel::{Channel, ChannelError, ChannelId, DEFAULT_MAX, InvalidId, Kind, MAX_ID_BYTES};
pub use channels::{CREATED_STREAM, Channels, MAX_CREATED};
pub use connect::ChannelStreams;

use super::native::Publishing;
use super::refusal::{Refusal, count_outcome};
use super::request::text;
use super::session_streams::SessionStreams;
use crate::assets;
use crate::auth::Auth;
use crate::responses;
use message::SERVER;
pub(crate) use message::message;

/// The path of all channels.
pub(crate) const CHANNELS: &str = "/api/v1/channels";

/// What is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The channels that there are without being created.
    pub channels: Vec<Channel>,
    /// Whether clients may create others.
    pub create: bool,
    /// Whether messages of the server may be sent over HTTP.
    pub push: bool,
    /// Whether the pages are served.
    pub pages: bool,
}

/// Channels and their clients.
#[derive(Debug)]
pub struct Realtime {
    /// What is served.
    pub config: Config,
    /// The channels that there are.
    pub channels: Channels,
    /// What opens streams.
    pub streams: SessionStreams,
    /// The tokens of clients, if there are tokens.
    pub auth: Option<Auth>,
}

/// What the handlers need.
#[derive(Clone)]
struct Shared {
    realtime: Arc<Realtime>,
    publishing: Arc<Publishing>,
}

/// A channel that is to be created.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewChannel {
    id: String,
    #[serde(rename = "type")]
    kind: Kind,
    max_of_channel_connections: Option<usize>,
}

/// A message of the server.
#[derive(Deserialize)]
struct Push {
    payload: String,
}

impl Realtime {
    /// The documented paths.
    pub(crate) fn paths(&self) -> Vec<String> {
        let pages = if self.config.pages { &assets::REALTIME[..] } else { &[] };
        let api = [CHANNELS.to_owned(), format!("{CHANNELS}/<id>"), format!("{CHANNELS}/<id>/messages")];
        api.into_iter().chain(pages.iter().map(|&page| page.to_owned())).collect()
    }
}

/// The routes that are no streams.
pub(crate) fn router(realtime: Arc<Realtime>, publishing: Arc<Publishing>) -> Router {
    Router::new()
        .route(CHANNELS, post(create))
        .route(&format!("{CHANNELS}/{{id}}"), get(probe))
        .route(&format!("{CHANNELS}/{{id}}/messages"), post(push))
        .method_not_allowed_fallback(answer::method_not_allowed)
        // The handlers have their own.
        .layer(DefaultBodyLimit::disable())
        .layer(cors())
        .with_state(Shared { realtime, publishing })
}

/// Lets pages of every origin use the contract, as it does. The server narrows `*` to the origins of `--allowed-origin`.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers([ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE])
        .vary([])
}

/// Whether a request may create a channel, or send to it. Without keys and tokens everyone may.
async fn authorize(
    publishing: &Publishing,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    namespace: &Namespace,
) -> Result<(), Refusal> {
    if publishing.auth.is_none() && publishing.keys.borrow().is_empty() {
        return Ok(());
    }
    let access = publishing.access(method, uri, headers).await?;
    access.check(namespace)?;
    access.take(1)
}

fn parsed<T: for<'a> Deserialize<'a>>(body: &str, expected: &str) -> Result<T, Refusal> {
    serde_json::from_str(body).map_err(|error| Refusal::BadRequest(format!("expected {expected}: {error}")))
}

async fn create(
    State(Shared { realtime, publishing }): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let outcome = async {
        if !realtime.config.create {
            return Err(Refusal::forbidden("creating channels is off; --realtime-create switches it on"));
        }
        let body = text(&headers, body, publishing.max_body).await?;
        let expected = r#"{"id":"chat","type":"WS","maxOfChannelConnections":100}"#;
        let NewChannel { id, kind, max_of_channel_connections } = parsed(&body, expected)?;
        let id = id.parse::<ChannelId>().map_err(|error| Refusal::BadRequest(format!("id {id:?}: {error}")))?;
        let max = max_of_channel_connections.unwrap_or(DEFAULT_MAX);
        if max == 0 {
            return Err(Refusal::BadRequest("maxOfChannelConnections: expected at least 1".to_owned()));
        }
        authorize(&publishing, &method, &uri, &headers, &id.namespace()).await?;
        let channel = Channel { id, kind, max };
        realtime.channels.create(&channel).await?;
        let Channel { id, kind, max } = channel;
        Ok(json!({"id": id.as_str(), "config": {"maxOfChannelConnections": max}, "type": kind}))
    };
    match outcome.await {
        Ok(channel) => responses::json(&channel),
        Err(refusal) => answer::refused(&refusal),
    }
}

async fn push(
    State(Shared { realtime, publishing }): State<Shared>,
    Path(id): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let outcome = async {
        if !realtime.config.push {
            return Err(Refusal::forbidden("messages of the server are off; --realtime-push switches them on"));
        }
        let id: ChannelId = id.parse().map_err(|_| answer::not_found())?;
        authorize(&publishing, &method, &uri, &headers, &id.namespace()).await?;
        let channel = realtime.channels.get(&id).await?.ok_or_else(answer::not_found)?;
        let body = text(&headers, body, publishing.max_body).await?;
        let Push { payload } = parsed(&body, r#"{"payload":"text"}"#)?;
        realtime.publish(&channel.id, SERVER, &payload).await
    };
    let outcome = outcome.await;
    count_outcome(&publishing.stats, 1, &outcome);
    match outcome {
        Ok(id) => answer::ok(&format!("message {id} has been sent to all clients")),
        Err(refusal) => answer::refused(&refusal),
    }
}

/// Whether a stream could open. Requests for streams themselves do not come here.
async fn probe(State(Shared { realtime, .. }): State<Shared>, request: Request) -> Response {
    match realtime.probe(&request.into_parts().0).await {
        Ok(()) => answer::ok("OK"),
        Err(refusal) => answer::refused(&refusal),
    }
}
