//! `GET /ws?session_key=KEY`: the WebSocket of a client. It receives what is published for its groups, verbatim, and what it sends is
//! published for the application.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::Method;
use axum::http::request::Parts;
use tallycast_fanout::{ClientAction, CloseReason, ConnectionId, Framing, Grant, StreamWatch, Topics};
use tallycast_server::websocket::{self, ClientMessage, MessageHandler, Replies, Subprotocol};
use tallycast_server::{Contract, ContractStream, WholeResponse};
use tokio::task::AbortHandle;

use super::{SESSION_PREFIX, WsHub, group};
use crate::api::refusal::Refusal;
use crate::api::session_streams::{SessionRequest, SessionStream};
use crate::sessions::{SessionName, SessionSpec, StreamOptions};

/// The reason for a client that was put into no group in time.
const UNANSWERED: &str = "no listener answered";
/// The code for data of a kind that is not accepted (RFC 6455, §7.4.1).
const UNSUPPORTED: u16 = 1003;

/// The streams of clients.
#[derive(Debug)]
pub struct Streams(pub Arc<WsHub>);

impl Contract for Streams {
    fn matches(&self, request: &Parts) -> bool {
        let is_ours = request.uri.path() == self.0.config.path;
        is_ours && matches!(request.method, Method::GET | Method::HEAD)
    }

    fn websocket_framing(&self, _subprotocol: Subprotocol) -> Option<Arc<dyn Framing>> {
        Some(websocket::framing(Subprotocol::Raw))
    }

    async fn open(&self, request: &Parts, client: IpAddr) -> Result<ContractStream, WholeResponse> {
        self.stream(request, client).await.map_err(|refusal| refusal.in_place_of_stream())
    }
}

impl Streams {
    async fn stream(&self, request: &Parts, client: IpAddr) -> Result<ContractStream, Refusal> {
        let Self(hub) = self;
        let (config, parameter) = (&hub.config, &hub.config.key);
        let query = request.uri.query().unwrap_or_default();
        let found = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| *name == **parameter);
        let key = found.map(|(_, key)| key).filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| Refusal::BadRequest(format!("bad query: expected {parameter}=KEY")))?;
        if let Err(error) = format!("{SESSION_PREFIX}{key}").parse::<SessionName>() {
            return Err(Refusal::BadRequest(format!("bad query: {parameter}: {error}")));
        }
        let mut spec = SessionSpec::new(Topics::none(), config.ttl);
        spec.grant.private.extend(group::all());
        let mut asked = SessionRequest {
            contract: "ws-hub",
            prefix: SESSION_PREFIX,
            name: Some(key),
            spec,
            create: true,
            arrived: None,
            options: StreamOptions::default(),
        };
        let answer = hub.streams.decide(request, client, &mut asked).await?;
        let key = asked.name.as_deref().unwrap_or_default().to_owned();
        asked.spec.left = Some(config.about("client-gone", &key));
        asked.arrived = Some(config.about("client-new", &key));
        let SessionStream { name, session } = hub.streams.open_decided(answer, asked).await?;
        if session.topics.is_empty() {
            // Whoever has heard it may be no listener: a monitor, or a route for all channels.
            let signal = if session.was_heard { &hub.waiting } else { &hub.unannounced };
            signal.notify_one();
        }
        let mut stream = ContractStream::new(session.topics);
        stream.grant = Some(session.grant);
        stream.watch =
            Some(Box::new(Waiting { session: session.watch, hub: Arc::clone(hub), name: name.clone(), timer: None }));
        let channel = config.channel(&format!("client-data:{key}"));
        stream.messages = Some(Box::new(Handler { hub: Arc::clone(hub), name, channel }));
        Ok(stream)
    }
}

/// Closes a client that belongs to no group in time.
struct Waiting {
    session: Box<dyn StreamWatch>,
    hub: Arc<WsHub>,
    name: SessionName,
    timer: Option<AbortHandle>,
}

impl StreamWatch for Waiting {
    fn attached(&mut self, connection: ConnectionId) {
        self.session.attached(connection);
        let Some(timeout) = self.hub.config.timeout else { return };
        let (hub, name) = (Arc::clone(&self.hub), self.name.clone());
        let timer = tokio::spawn(async move {
            tokio::time::sleep(timeout).await;
            if hub.sessions().local_topics(&name).is_none_or(|topics| !topics.is_empty()) {
                return;
            }
            hub.stats.unanswered.add(1);
            hub.log(|suppressed| tracing::warn!(suppressed, "a ws-hub client is closed: {UNANSWERED}"));
            // Otherwise it has just ended.
            let _ = hub.sessions().engine().close(connection, CloseReason::Requested(UNANSWERED.into())).await;
        });
        self.timer = Some(timer.abort_handle());
    }

    fn topics_changed(&mut self, topics: &Topics, grant: Option<&Grant>) {
        self.session.topics_changed(topics, grant);
        if !topics.is_empty() {
            self.stop();
        }
    }
}

impl Waiting {
    fn stop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Publishes what one client sends.
struct Handler {
    hub: Arc<WsHub>,
    name: SessionName,
    channel: String,
}

impl MessageHandler for Handler {
    fn message(&mut self, message: ClientMessage, _topics: &Topics, replies: &mut Replies<'_>) -> ClientAction {
        let text = match message {
            ClientMessage::Text(text) => Ok(text),
            ClientMessage::Binary(bytes) => String::from_utf8(bytes.into()),
        };
        let Ok(text) = text else { return replies.close(UNSUPPORTED, "expected text, or bytes that are UTF-8") };
        // The application wants no more of a client that it has had closed.
        if self.hub.sessions().local_topics(&self.name).is_none() {
            return ClientAction::None;
        }
        let (hub, channel) = (Arc::clone(&self.hub), self.channel.clone());
        ClientAction::Perform(Box::pin(async move {
            hub.publish(channel, &text).await;
            Ok(())
        }))
    }

    fn refused(&mut self, reason: &str, _replies: &mut Replies<'_>) -> ClientAction {
        // It took the broker too long.
        self.hub.lost(&reason);
        ClientAction::None
    }
}
