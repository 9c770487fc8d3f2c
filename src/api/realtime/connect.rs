//! `GET /api/v1/channels/<id>?clientId=C`: the stream of a client, and with `upgrade=0` the question whether it could open.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::http::Method;
use axum::http::request::Parts;
use tallycast_fanout::{ClientAction, Framing, Topic, Topics};
use tallycast_server::websocket::{self, ClientMessage, MessageHandler, Replies, Subprotocol};
use tallycast_server::{Contract, ContractStream, WholeResponse, requested_start};

use super::channel::{Channel, ChannelId, Kind};
use super::framing::ChannelFraming;
use super::message::SERVER;
use super::{CHANNELS, Realtime, answer};
use crate::api::refusal::Refusal;
use crate::api::session_streams::{SessionRequest, SessionStream};
use crate::auth::credentials::query_value;
use crate::auth::{Auth, Role};
use crate::sessions::{Policy, SessionGrant, SessionName, SessionSpec, StreamOptions, TopicText};

/// The start of the names of sessions: channel and client follow, with a colon between them.
const PREFIX: &str = "realtime:";
/// Bytes of the id of a client.
const MAX_CLIENT_BYTES: usize = 128;
/// Names the client.
const CLIENT: &str = "clientId";
/// Whether a stream opens: `0` only asks whether it could.
const UPGRADE: &str = "upgrade";
/// What an EventSource sends when it comes back, and no other client.
const LAST_EVENT_ID: &str = "last-event-id";
/// The reason for a client that may not send.
const NOT_ALLOWED: &str = "not allowed to send to this channel";

/// The streams of channels.
pub struct ChannelStreams(pub Arc<Realtime>);

/// A client that asks for a stream, and may have it.
struct Client {
    channel: Channel,
    id: String,
    rights: Rights,
}

/// What a client may do on its channel.
struct Rights {
    /// What it may publish.
    publish: Vec<Topic>,
    /// Of what it receives private messages.
    private: Vec<Topic>,
    expires_at: Option<SystemTime>,
}

impl Rights {
    fn put_into(self, grant: &mut SessionGrant) {
        grant.publish = self.publish.into_iter().map(TopicText).collect();
        grant.private = self.private.into_iter().map(TopicText).collect();
    }
}

impl Contract for ChannelStreams {
    fn matches(&self, request: &Parts) -> bool {
        let is_read = matches!(request.method, Method::GET | Method::HEAD);
        is_read && id_in(request.uri.path()).is_some() && !is_question(request)
    }

    fn event_framing(&self) -> Option<Arc<dyn Framing>> {
        Some(Arc::new(ChannelFraming))
    }

    /// Messages are payloads alone, whatever subprotocol a client names.
    fn websocket_framing(&self, _subprotocol: Subprotocol) -> Option<Arc<dyn Framing>> {
        Some(websocket::framing(Subprotocol::Raw))
    }

    async fn open(&self, request: &Parts, client: IpAddr) -> Result<ContractStream, WholeResponse> {
        self.0.open(request, client).await.map_err(|refusal| {
            // An EventSource that comes back gives up after an error, and its lost connection may still count.
            let is_temporary = matches!(refusal, Refusal::Conflict(_) | Refusal::Group(_) | Refusal::Unavailable(_));
            if request.headers.contains_key(LAST_EVENT_ID) && is_temporary && request.method == Method::GET {
                return answer::come_back();
            }
            answer::in_place_of_stream(&refusal)
        })
    }
}

/// The text after the path of all channels, if it is one segment.
fn id_in(path: &str) -> Option<&str> {
    path.strip_prefix(CHANNELS)?.strip_prefix('/').filter(|id| !id.is_empty() && !id.contains('/'))
}

fn is_question(request: &Parts) -> bool {
    query_value(request.uri.query().unwrap_or_default(), UPGRADE).is_some_and(|value| value == "0")
}

impl Realtime {
    async fn open(self: &Arc<Self>, request: &Parts, address: IpAddr) -> Result<ContractStream, Refusal> {
        let client = self.client(request).await?;
        let Client { channel, .. } = &client;
        match (channel.kind, websocket::is_upgrade(request)) {
            (Kind::WebSocket, false) if request.method != Method::HEAD => {
                return Err(Refusal::BadRequest(format!("the channel {} needs a WebSocket", channel.id)));
            }
            (Kind::Events, true) => {
                return Err(Refusal::BadRequest(format!("the channel {} has events, and no WebSockets", channel.id)));
            }
            _ => {}
        }
        let start = requested_start(request).map_err(|error| Refusal::BadRequest(error.trim_end().to_owned()))?;
        if request.method == Method::HEAD {
            self.check(&client).await?;
            return Ok(ContractStream::new(channel.id.namespace()));
        }
        let Client { channel, id, rights } = client;
        let expires_at = rights.expires_at;
        let mut spec = SessionSpec::new(Topics::from(channel.id.namespace()), Duration::ZERO);
        rights.put_into(&mut spec.grant);
        spec.policy = Policy::First;
        spec.group = Some(group(&channel));
        let sender_at = PREFIX.len() + channel.id.as_str().len() + 1;
        let mut asked = SessionRequest {
            contract: "realtime",
            prefix: PREFIX,
            name: Some(Cow::Owned(format!("{}:{id}", channel.id))),
            spec,
            create: true,
            arrived: None,
            options: StreamOptions { echo: false, sender_at, expires_at },
        };
        let answer = self.streams.decide(request, address, &mut asked).await?;
        // Its token decides where the application does not answer.
        if let (None, Some(_), Some(auth)) = (&answer, &self.streams.hook, &self.auth) {
            let rights = authenticated(auth, request, &Topic::from(channel.id.namespace())).await?;
            asked.options.expires_at = rights.expires_at;
            rights.put_into(&mut asked.spec.grant);
        }
        let SessionStream { name, session } = self.streams.open_decided(answer, asked).await?;
        // The connect hook may have named another client of the channel.
        let client = name.as_str().strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(channel.id.as_str()));
        let client = client.and_then(|rest| rest.strip_prefix(':')).ok_or_else(|| {
            Refusal::BadRequest(format!("the session is not one of the channel {}: {name}", channel.id))
        })?;
        let client = checked(client)?;
        let mut stream = ContractStream::new(session.topics);
        stream.grant = Some(session.grant);
        stream.start = start;
        stream.position_header = true;
        stream.watch = Some(session.watch);
        stream.messages = Some(Box::new(Sender { realtime: Arc::clone(self), channel: channel.id, client, name }));
        Ok(stream)
    }

    /// Answers whether a stream could open now, which it does not.
    pub(super) async fn probe(&self, request: &Parts) -> Result<(), Refusal> {
        let client = self.client(request).await?;
        self.check(&client).await
    }

    async fn check(&self, Client { channel, id, .. }: &Client) -> Result<(), Refusal> {
        let name = format!("{PREFIX}{}:{id}", channel.id).parse::<SessionName>();
        let name = name.map_err(|error| Refusal::BadRequest(error.to_string()))?;
        let (group, max) = group(channel);
        Ok(self.streams.sessions.check(&name, Some((&group, max))).await?)
    }

    /// The client of a request, and what it may do.
    async fn client(&self, request: &Parts) -> Result<Client, Refusal> {
        let id: ChannelId = id_in(request.uri.path()).unwrap_or_default().parse().map_err(|_| answer::not_found())?;
        let channel = self.channels.get(&id).await?.ok_or_else(answer::not_found)?;
        let client = query_value(request.uri.query().unwrap_or_default(), CLIENT).unwrap_or_default();
        let client = checked(&client)?;
        let topic = Topic::from(channel.id.namespace());
        // Everyone may send who is connected, as long as no one else decides.
        let rights = match (&self.streams.hook, &self.auth) {
            (None, Some(auth)) => authenticated(auth, request, &topic).await?,
            _ => Rights { publish: vec![topic], private: Vec::new(), expires_at: None },
        };
        Ok(Client { channel, id: client, rights })
    }
}

/// What the token of a request allows on the topic of a channel, and until when.
async fn authenticated(auth: &Auth, request: &Parts, topic: &Topic) -> Result<Rights, Refusal> {
    let covers = |topics: &[Topic]| topics.iter().any(|allowed| allowed.covers(topic));
    let found = auth.authenticate(&request.method, &request.uri, &request.headers, Role::Subscriber).await?;
    let is_public = covers(&auth.public());
    let Some(claims) = found.map(|found| found.claims) else {
        let none = Rights { publish: Vec::new(), private: Vec::new(), expires_at: None };
        return if is_public { Ok(none) } else { Err(Refusal::unauthorized("a token is required")) };
    };
    let if_covered = |topics: &[Topic]| if covers(topics) { vec![topic.clone()] } else { Vec::new() };
    // What is private needs a right of the token itself.
    let private = if_covered(&claims.readable());
    if !is_public && private.is_empty() {
        return Err(Refusal::forbidden(format!("not allowed to read {topic}")));
    }
    Ok(Rights { publish: if_covered(&claims.publishable()), private, expires_at: claims.expires_at })
}

/// The sessions that a channel's clients are, and how many there may be.
fn group(channel: &Channel) -> (String, usize) {
    (format!("{PREFIX}{}", channel.id), channel.max)
}

/// The id of a client, which is also the sender of its messages.
fn checked(id: &str) -> Result<String, Refusal> {
    if !(1..=MAX_CLIENT_BYTES).contains(&id.len()) || id.contains(char::is_control) {
        let expected = format!("{CLIENT}: expected 1 to {MAX_CLIENT_BYTES} bytes without control characters");
        return Err(Refusal::BadRequest(expected));
    }
    if id == SERVER {
        return Err(Refusal::Conflict(format!("{CLIENT} {SERVER} is the server's own")));
    }
    Ok(id.to_owned())
}

/// Publishes what one client sends.
struct Sender {
    realtime: Arc<Realtime>,
    channel: ChannelId,
    client: String,
    name: SessionName,
}

impl MessageHandler for Sender {
    fn message(&mut self, message: ClientMessage, _topics: &Topics, replies: &mut Replies<'_>) -> ClientAction {
        let payload = match message {
            ClientMessage::Text(text) => text,
            ClientMessage::Binary(bytes) => match String::from_utf8(bytes.into()) {
                Ok(text) => text,
                Err(_) => return replies.close(1003, "expected a text"),
            },
        };
        let (realtime, name) = (Arc::clone(&self.realtime), self.name.clone());
        let (channel, client) = (self.channel.clone(), self.client.clone());
        ClientAction::Perform(Box::pin(async move {
            let grant = realtime.streams.grant_of(&name).await?;
            if !grant.may_publish(&channel.namespace()) {
                return Err(NOT_ALLOWED.to_owned());
            }
            realtime.publish(&channel, &client, &payload).await.map(drop).map_err(|refusal| refusal.line())
        }))
    }

    /// The contract has no message for this, and a client that went on would believe that the others have its message.
    fn refused(&mut self, reason: &str, replies: &mut Replies<'_>) -> ClientAction {
        // Policy violation, or try again later.
        let code = if reason == NOT_ALLOWED { 1008 } else { 1013 };
        replies.close(code, reason)
    }
}
