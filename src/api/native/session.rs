//! `GET /session/<name>`: the stream of a session, as Server-Sent Events or as a WebSocket whose client may change topics, publish, and
//! send to the backend.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::Method;
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tallycast_fanout::{ClientAction, Framing, Start, Topic, Topics};
use tallycast_server::websocket::{self, ClientMessage, MessageHandler, Replies, Subprotocol};
use tallycast_server::{
    Coding, Contract, ContractStream, EventFormat, EventStream, Notices, WholeResponse, requested_start,
};
use tokio::sync::watch;

use crate::api::refusal::Refusal;
use crate::api::session_streams::{ClientPublication, SessionRequest, SessionStream, SessionStreams};
use crate::auth::{Auth, Authenticated, Role};
use crate::sessions::{Change, SessionGrant, SessionName, SessionSpec, StreamOptions, TopicText, TopicsChange};

/// The path, before the name of a session.
pub(crate) const PATH: &str = "/session";
/// Names a topic of a session that is created. Repeatable.
const TOPIC: &str = "topic";
/// Whether the connection receives what its session publishes: `1`, the default, or `0`.
const ECHO: &str = "echo";
/// The size of a request id, as JSON, in bytes.
const MAX_ID_BYTES: usize = 64;
/// Changes of topics of one connection that are under way.
const MAX_SUBSCRIBING: usize = 64;

/// The streams of sessions.
#[derive(Debug)]
pub struct SessionContract {
    /// What opens them.
    pub streams: SessionStreams,
    /// The tokens of clients, if there are tokens.
    pub auth: Option<Auth>,
    /// The configuration of the server.
    pub server: watch::Receiver<tallycast_server::Config>,
}

impl Contract for SessionContract {
    fn matches(&self, request: &Parts) -> bool {
        let path = request.uri.path();
        let is_ours = path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        is_ours && matches!(request.method, Method::GET | Method::HEAD)
    }

    fn event_framing(&self) -> Option<Arc<dyn Framing>> {
        Some(EventStream::shared(EventFormat::Fields, Notices::Events, Coding::Identity, false))
    }

    fn websocket_framing(&self, subprotocol: Subprotocol) -> Option<Arc<dyn Framing>> {
        Some(match subprotocol {
            Subprotocol::Json => websocket::json_framing(Notices::Events),
            Subprotocol::Raw => websocket::framing(Subprotocol::Raw),
        })
    }

    async fn open(&self, request: &Parts, client: IpAddr) -> Result<ContractStream, WholeResponse> {
        self.stream(request, client).await.map_err(|refusal| refusal.in_place_of_stream())
    }
}

impl SessionContract {
    async fn stream(&self, request: &Parts, client: IpAddr) -> Result<ContractStream, Refusal> {
        let query = request.uri.query().unwrap_or_default();
        let topics = topics(query)?;
        let echo = match form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == ECHO) {
            None => true,
            Some((_, value)) if value == "1" => true,
            Some((_, value)) if value == "0" => false,
            Some((_, value)) => return Err(Refusal::BadRequest(format!("bad query: {ECHO}={value}; expected 1 or 0"))),
        };
        let start = requested_start(request).map_err(|error| Refusal::BadRequest(error.trim_end().to_owned()))?;
        let spec = SessionSpec::new(topics.clone(), self.streams.sessions.config().ttl);
        let options = StreamOptions { echo, ..StreamOptions::default() };
        let name = name(request)?;
        let mut asked =
            SessionRequest { contract: "native", prefix: "", name, spec, create: true, arrived: None, options };
        let is_head = request.method == Method::HEAD;
        // The application is asked about streams alone.
        if is_head && self.streams.hook.is_some() {
            return Ok(ContractStream::new(topics));
        }
        let answer = self.streams.decide(request, client, &mut asked).await?;
        match &answer {
            Some(answer) => SessionStreams::check_requested(answer, &topics)?,
            None => self.authorize(request, &mut asked).await?,
        }
        if is_head {
            return Ok(ContractStream::new(topics));
        }
        let SessionStream { name, session } = self.streams.open_decided(answer, asked).await?;
        let mut stream = ContractStream::new(session.topics);
        stream.grant = Some(session.grant);
        stream.start = start.or_else(|| session.position.map(Start::After));
        stream.position_header = true;
        stream.preamble = preamble(request, &self.server.borrow());
        stream.watch = Some(session.watch);
        let max_topics = self.streams.sessions.config().max_topics;
        let streams = self.streams.clone();
        stream.messages =
            Some(Box::new(Handler { streams, name, echo, max_topics, pending: None, subscribing: Vec::new() }));
        Ok(stream)
    }

    /// Lets a token decide about a client, if there are tokens: it names the session, and what its clients may do.
    async fn authorize(&self, request: &Parts, asked: &mut SessionRequest<'_>) -> Result<(), Refusal> {
        let Some(auth) = &self.auth else {
            asked.spec.grant.read = None;
            return Ok(());
        };
        let Authenticated { claims, .. } = authenticated(auth, request).await?;
        let subject = claims
            .subject
            .clone()
            .ok_or_else(|| Refusal::forbidden("the token has no sub, which is the name of its session"))?;
        if asked.name.as_ref().is_some_and(|name| **name != *subject) {
            return Err(Refusal::forbidden(format!("the token is for the session {subject:?}")));
        }
        let (read, publish) = (claims.readable(), claims.publishable());
        let readable: Vec<Topic> = auth.public().into_iter().chain(read.iter().cloned()).collect();
        let list = |topics: Vec<Topic>| topics.into_iter().map(TopicText).collect::<Vec<_>>();
        let grant = SessionGrant {
            read: Some(list(readable)),
            publish: list(publish),
            private: list(read),
            expires: None,
            payload: claims.payload,
            token: true,
        };
        if let Some(topic) = asked.spec.topics.iter().find(|topic| !grant.may_read(topic)) {
            return Err(Refusal::forbidden(format!("not allowed to read {topic}")));
        }
        asked.spec.grant = grant;
        asked.options.expires_at = claims.expires_at;
        asked.name = Some(subject.into());
        Ok(())
    }
}

/// The comment that begins an event stream; nothing for a WebSocket.
fn preamble(request: &Parts, config: &tallycast_server::Config) -> bytes::Bytes {
    if websocket::is_upgrade(request) {
        return bytes::Bytes::new();
    }
    format!(": {}\n\n", config.greeting).into()
}

async fn authenticated(auth: &Auth, request: &Parts) -> Result<Authenticated, Refusal> {
    let found = auth.authenticate(&request.method, &request.uri, &request.headers, Role::Subscriber).await?;
    found.ok_or_else(|| Refusal::unauthorized("a token is required"))
}

/// The name in the path, if there is one.
fn name(request: &Parts) -> Result<Option<Cow<'static, str>>, Refusal> {
    let rest = request.uri.path().strip_prefix(PATH).unwrap_or_default();
    let encoded = rest.strip_prefix('/').unwrap_or_default();
    if encoded.is_empty() {
        return Ok(None);
    }
    let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8();
    let name = decoded.map_err(|_| Refusal::BadRequest(format!("bad path after {PATH}/: expected UTF-8")))?;
    name.parse::<SessionName>().map_err(|error| Refusal::BadRequest(format!("bad path after {PATH}/: {error}")))?;
    Ok(Some(name.into_owned().into()))
}

fn topics(query: &str) -> Result<Topics, Refusal> {
    let parameters = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == TOPIC);
    let parse = |(_, text): (_, Cow<'_, str>)| {
        text.parse::<Topic>().map_err(|error| Refusal::BadRequest(format!("bad query: {TOPIC}={text}: {error}")))
    };
    let topics = parameters.map(parse).collect::<Result<Vec<_>, _>>()?;
    if topics.is_empty() {
        return Ok(Topics::none());
    }
    Topics::new(topics).map_err(|error| Refusal::BadRequest(format!("bad query: {error}")))
}

/// Handles the messages of one client.
struct Handler {
    streams: SessionStreams,
    name: SessionName,
    echo: bool,
    max_topics: usize,
    /// What is under way.
    pending: Option<Pending>,
    /// The ids of changes of topics that are stored, and that the connection does not read by yet.
    subscribing: Vec<Option<Box<RawValue>>>,
}

/// What a client waits for.
struct Pending {
    id: Option<Box<RawValue>>,
    done: Done,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    Subscribed,
    Published,
    Sent,
}

/// A message of a client.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    #[serde(default)]
    id: Option<Box<RawValue>>,
    #[serde(default)]
    subscribe: Option<Vec<TopicText>>,
    #[serde(default)]
    unsubscribe: Option<Vec<TopicText>>,
    #[serde(default)]
    publish: Option<Publish>,
    #[serde(default)]
    send: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    namespace: String,
    data: Box<RawValue>,
    #[serde(default)]
    event: Option<String>,
}

/// An answer to a client.
#[derive(Default, Serialize)]
struct Reply<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    subscribed: Option<&'a [String]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    published: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
}

#[cfg(fuzzing)]
pub(super) fn is_message(text: &str) -> bool {
    serde_json::from_str::<Message>(text).is_ok()
}

/// The text of a JSON string, or any other JSON as it is.
fn text(json: &RawValue) -> String {
    serde_json::from_str(json.get()).unwrap_or_else(|_| json.get().to_owned())
}

fn reply(replies: &mut Replies<'_>, reply: &Reply<'_>) {
    // Texts and lists of them always serialize.
    replies.text(&serde_json::to_string(reply).unwrap_or_default());
}

impl Handler {
    fn refuse(&self, reason: &str, id: Option<&RawValue>, replies: &mut Replies<'_>) -> ClientAction {
        reply(replies, &Reply { error: Some(reason), id, ..Reply::default() });
        ClientAction::None
    }

    fn follow(&mut self, message: Message) -> Result<ClientAction, String> {
        let Message { id, subscribe, unsubscribe, publish, send } = message;
        let id = id.filter(|id| id.get() != "null");
        if id.as_ref().is_some_and(|id| id.get().len() > MAX_ID_BYTES || id.get().starts_with(['{', '[', 't', 'f'])) {
            return Err(format!(
                "expected an id that is a string or a number, of at most {MAX_ID_BYTES} bytes as JSON"
            ));
        }
        let (streams, name) = (self.streams.clone(), self.name.clone());
        let (done, action) = match (subscribe.is_some() || unsubscribe.is_some(), publish, send) {
            (true, None, None) => {
                let plain = |topics: Option<Vec<TopicText>>| -> Vec<Topic> {
                    topics.unwrap_or_default().into_iter().map(|TopicText(topic)| topic).collect()
                };
                let (add, remove) = (plain(subscribe), plain(unsubscribe));
                if add.len().max(remove.len()) > self.max_topics {
                    return Err(format!("expected at most {} topics, found more", self.max_topics));
                }
                if self.subscribing.len() >= MAX_SUBSCRIBING {
                    return Err(format!("{MAX_SUBSCRIBING} changes of topics are under way; try again"));
                }
                let change = async move {
                    let grant = streams.grant_of(&name).await?;
                    if let Some(topic) = add.iter().find(|topic| !grant.may_read(topic)) {
                        return Err(format!("not allowed to read {topic}"));
                    }
                    let change = Change { topics: TopicsChange::Change { add, remove }, ..Change::default() };
                    // Not until this connection reads them: it changes nothing before this is over.
                    streams.sessions.begin(&name, &change).await.map(drop).map_err(|error| error.to_string())
                };
                (Done::Subscribed, ClientAction::Perform(Box::pin(change)))
            }
            (false, Some(Publish { namespace, data, event }), None) => {
                let namespace = namespace.parse().map_err(|error| format!("namespace {namespace:?}: {error}"))?;
                let sender = (!self.echo).then(|| name.to_string());
                let publication = ClientPublication { namespace, event, data: text(&data), sender };
                let publish = async move { streams.publish_as(&name, publication).await };
                (Done::Published, ClientAction::Perform(Box::pin(publish)))
            }
            (false, None, Some(data)) => {
                let data = text(&data);
                let send =
                    async move { streams.sessions.receive(&name, &data).await.map_err(|error| error.to_string()) };
                (Done::Sent, ClientAction::Perform(Box::pin(send)))
            }
            _ => return Err("expected subscribe and unsubscribe, or publish, or send".to_owned()),
        };
        self.pending = Some(Pending { id, done });
        Ok(action)
    }
}

impl MessageHandler for Handler {
    fn message(&mut self, message: ClientMessage, _topics: &Topics, replies: &mut Replies<'_>) -> ClientAction {
        let ClientMessage::Text(text) = message else {
            return self.refuse("expected a text message, found a binary one", None, replies);
        };
        match serde_json::from_str::<Message>(&text) {
            Ok(message) => {
                let id = message.id.clone();
                self.follow(message).unwrap_or_else(|reason| self.refuse(&reason, id.as_deref(), replies))
            }
            Err(error) => {
                let expected =
                    r#"expected {"subscribe": [...]}, {"unsubscribe": [...]}, {"publish": {...}} or {"send": ...}"#;
                self.refuse(&format!("{expected}: {error}"), None, replies)
            }
        }
    }

    fn subscribed(&mut self, topics: &Topics, replies: &mut Replies<'_>) {
        let topics: Vec<String> = topics.iter().map(|topic| topic.to_string()).collect();
        // One change of the connection may answer several.
        let mut ids = std::mem::take(&mut self.subscribing);
        if ids.is_empty() {
            ids.push(None);
        }
        for id in ids {
            reply(replies, &Reply { subscribed: Some(&topics), id: id.as_deref(), ..Reply::default() });
        }
    }

    fn performed(&mut self, replies: &mut Replies<'_>) {
        let Some(Pending { id, done }) = self.pending.take() else { return };
        if done == Done::Subscribed {
            return self.subscribing.push(id);
        }
        let id = id.as_deref();
        reply(replies, &Reply { published: done == Done::Published, sent: done == Done::Sent, id, ..Reply::default() });
    }

    fn refused(&mut self, reason: &str, replies: &mut Replies<'_>) -> ClientAction {
        let id = self.pending.take().and_then(|pending| pending.id);
        self.refuse(reason, id.as_deref(), replies)
    }
}
