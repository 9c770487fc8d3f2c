//! Sessions: named entities with topics, a grant and any number of connections, which outlive their connections for a time.
//!
//! ```text
//! streams ─── connect ──→ store (Redis) ←── change, send, end ─── HTTP, broker
//!    ↑                        │ command to the nodes with connections
//!    └─ engine ←─ apply ←─ local ←─ control
//! ```
//!
//! The store is the truth: each operation is one step there, and so are the events of what it changes, so each transition of a session
//! is announced once, whichever node makes it. A node with connections of a session gets commands on a channel of its own, does what
//! they say in the engine, and answers the node that waits. A node that was not listening reads the state of its sessions when it
//! listens again. When a node dies, its heir (`src/nodes`) ends its connections.

mod apply;
mod command;
mod control;
mod local;
mod memory;
mod pending;
pub mod queue;
mod redis;
mod request;
mod spec;
mod store;
mod task;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tallycast_fanout::{ConnectionId, Counter, Grant, Handle, StreamWatch, Topics};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use apply::MESSAGE_NAMESPACE;
pub use command::SessionMessage;
pub use request::{ChangeRequest, MAX_REASON_BYTES, RequestError, check_message, check_reason};
pub use spec::{
    InvalidName, MAX_GRANT_BYTES, MAX_NAME_BYTES, MAX_TTL, Policy, Publication, SessionGrant, SessionName, SessionSpec,
    StreamOptions, TopicText,
};
pub use store::{Change, ConnectError, Listed, Opening, Page, SessionError, TopicsChange, Unavailable};

use crate::nodes::{NodeId, Nodes};
use crate::redis_client::RedisClient;
use command::Command;
use control::Control;
use local::Local;
use memory::{LIFE, MemoryStore};
use pending::Pending;
use redis::RedisStore;
use store::{Connected, Outcome, Store};
use task::Task;

/// The default of [`Config::ttl`].
pub const DEFAULT_TTL: Duration = Duration::from_secs(60);
/// The default of [`Config::events`].
pub const DEFAULT_EVENTS: &str = "tallycast:sessions:events";
/// The default of [`Config::max_sessions`].
pub const DEFAULT_MAX_SESSIONS: usize = 1_000_000;
/// Connections of one session.
pub const MAX_CONNECTIONS: usize = 64;
/// Bytes of the topics of a session, as text.
pub const MAX_TOPIC_BYTES: usize = 16 * 1024;
/// Bytes of a message to a session.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// Entries that a stream of events keeps, about.
const MAX_EVENTS: usize = 100_000;
/// The sorted set of leases of nodes with sessions.
const LEASES: &str = "tallycast:sessions:nodes";
/// How long a node counts after its last renewal.
const LEASE: Duration = Duration::from_secs(15);
/// Time between two looks for sessions whose time is over, and for dead nodes.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Time that a connection waits for the lease of its node.
const LEASE_LIMIT: Duration = Duration::from_secs(2);
const LEASE_PAUSE: Duration = Duration::from_millis(50);

/// Where events of sessions are published: `channel:NAME`, or `stream:KEY` for a Redis stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventTarget {
    /// A channel.
    Channel(String),
    /// A stream.
    Stream(String),
}

/// The text is not an [`EventTarget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a channel, or stream: and the key of a stream")]
pub struct InvalidTarget;

impl FromStr for EventTarget {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        match text.strip_prefix("stream:") {
            _ if text.contains(char::is_control) => Err(InvalidTarget),
            Some("") => Err(InvalidTarget),
            Some(key) => Ok(Self::Stream(key.to_owned())),
            None if text.is_empty() => Err(InvalidTarget),
            None => Ok(Self::Channel(text.to_owned())),
        }
    }
}

impl fmt::Display for EventTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(channel) => write!(formatter, "channel:{channel}"),
            Self::Stream(key) => write!(formatter, "stream:{key}"),
        }
    }
}

/// How sessions are kept.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// How long a session outlives its last connection, unless it says otherwise.
    pub ttl: Duration,
    /// Where events of sessions are published.
    pub events: EventTarget,
    /// Sessions of all nodes together.
    pub max_sessions: usize,
    /// Topics of a session.
    pub max_topics: usize,
    /// Whether sessions have streams of their own at `/session`, and not only those of other contracts.
    pub has_streams: bool,
}

impl Config {
    /// The defaults, with sessions of at most `max_topics` topics.
    pub fn new(max_topics: usize) -> Self {
        Self {
            ttl: DEFAULT_TTL,
            events: EventTarget::Channel(DEFAULT_EVENTS.to_owned()),
            max_sessions: DEFAULT_MAX_SESSIONS,
            max_topics,
            has_streams: true,
        }
    }
}

/// The bounds of a store.
#[derive(Debug, Clone, Copy)]
struct Limits {
    sessions: usize,
    /// Of a session.
    connections: usize,
    topics: usize,
    topic_bytes: usize,
    /// Of sessions that are created without one.
    ttl: Duration,
}

/// When the task acts.
#[derive(Debug, Clone)]
struct Timing {
    lease: Duration,
    /// The time for which the lease must have been renewed without a failure before other nodes are taken for dead.
    grace: Duration,
    look: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { lease: LEASE, grace: LEASE, look: LOOK_PERIOD }
    }
}

/// What is counted of sessions.
#[derive(Debug, Default)]
pub struct SessionStats {
    /// Connections of sessions that are open on this node.
    pub connections: Counter,
    /// Connections that were refused.
    pub refused: Counter,
    /// Changes of topics and grants, one for each connection.
    pub applied: Counter,
    /// Messages to sessions that were sent, one for each connection.
    pub sent: Counter,
    /// Messages to sessions that were lost, because too many waited or a reader was too far behind.
    pub dropped: Counter,
    /// Messages of clients that were published for the backend.
    pub received: Counter,
    /// Commands of the backend through the broker.
    pub commands: Counter,
    /// Attempts to share sessions through Redis that failed.
    pub failures: Counter,
    /// Dead nodes that this one has cleared up.
    pub inherited: Counter,
}

/// The sessions of all nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sessions(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    local: Arc<Local>,
    pending: Arc<Pending>,
    life: watch::Receiver<NodeId>,
    engine: Handle,
    config: Config,
    stats: Arc<SessionStats>,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// A connection of a session that is about to open. It ends when the watch is dropped.
pub struct OpenSession {
    /// What it reads.
    pub topics: Topics,
    /// What its client may do.
    pub grant: Arc<Grant>,
    /// Whether the session was created for it.
    pub is_new: bool,
    /// The position from which it goes on, if it is the only connection of a session that existed before.
    pub position: Option<Box<str>>,
    /// To be given to its stream.
    pub watch: Box<dyn StreamWatch>,
    /// Whether what was published for the connection has reached someone.
    pub was_heard: bool,
}

impl fmt::Debug for OpenSession {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OpenSession").field("topics", &self.topics).finish_non_exhaustive()
    }
}

/// What a request has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// Whether the session was created.
    pub is_new: bool,
    /// The version of the session after a change.
    pub version: u64,
    /// Its topics after a change.
    pub topics: Vec<String>,
    /// The connections that it was done for.
    pub connections: usize,
    /// The names of the nodes that have acted.
    pub nodes: Vec<String>,
    /// The names of nodes with connections that have not acted in time, or do not listen; they follow later, if they live.
    pub waiting: Vec<String>,
}

impl Sessions {
    /// Starts to share sessions with the other nodes at the Redis server, if there is one.
    pub fn start(
        node: &str,
        redis: Option<RedisClient>,
        engine: Handle,
        config: Config,
        stats: Arc<SessionStats>,
    ) -> Self {
        let sessions = Self::start_with(node, redis.clone(), engine, config, stats, Timing::default());
        if let Some(client) = redis {
            let node = sessions.0.life.borrow().to_string().into();
            let queue = tokio::spawn(queue::run(sessions.clone(), client, node, sessions.0.stop.clone()));
            sessions.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(queue);
        }
        sessions
    }

    fn start_with(
        node: &str,
        redis: Option<RedisClient>,
        engine: Handle,
        config: Config,
        stats: Arc<SessionStats>,
        timing: Timing,
    ) -> Self {
        let limits = Limits {
            sessions: config.max_sessions,
            connections: MAX_CONNECTIONS,
            topics: config.max_topics,
            topic_bytes: MAX_TOPIC_BYTES,
            ttl: config.ttl,
        };
        let (local, pending) = (Arc::new(Local::new(engine.clone(), Arc::clone(&stats))), Arc::<Pending>::default());
        let (life, life_now) = watch::channel(NodeId::new(node));
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        let store = match redis {
            Some(client) => {
                let nodes = Nodes::new(client.clone(), LEASES, timing.lease);
                let (client, events) = (client.clone(), config.events.clone());
                let store = RedisStore { nodes, client: client.clone(), events, limits };
                let task = Task::new(store.clone(), Arc::clone(&local), life, Arc::clone(&stats), timing);
                tasks.push(tokio::spawn(task.run(stop.clone())));
                let control = Control {
                    client,
                    store: store.clone(),
                    local: Arc::clone(&local),
                    pending: Arc::clone(&pending),
                    life: life_now.clone(),
                    stats: Arc::clone(&stats),
                };
                tokio::spawn(stop.clone().run_until_cancelled_owned(control.run()));
                Store::Redis(store)
            }
            None => {
                let store = MemoryStore::new(limits);
                tasks.push(tokio::spawn(task::run_alone(store.clone(), Arc::clone(&local), stop.clone())));
                Store::Memory(store)
            }
        };
        let acknowledge = {
            let (store, pending, life) = (store.clone(), Arc::clone(&pending), life_now.clone());
            move |answers| {
                let (store, pending, life) = (store.clone(), Arc::clone(&pending), life.borrow().clone());
                async move {
                    match &store {
                        Store::Redis(store) => control::acknowledge(store, &pending, &life, answers).await,
                        Store::Memory(_) => {
                            for (life, answer) in answers {
                                pending.complete(command::Acknowledgement { life, ..answer });
                            }
                        }
                    }
                }
            }
        };
        let apply = apply::run(Arc::clone(&local), engine.clone(), Arc::clone(&stats), acknowledge);
        tokio::spawn(stop.clone().run_until_cancelled_owned(apply));
        let tasks = Mutex::new(tasks);
        Self(Arc::new(Shared { store, local, pending, life: life_now, engine, config, stats, stop, tasks }))
    }

    /// How sessions are kept.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The engine whose streams are controlled.
    pub fn engine(&self) -> &Handle {
        &self.0.engine
    }

    /// The counters.
    pub fn stats(&self) -> &SessionStats {
        &self.0.stats
    }

    /// Adds a connection to a session.
    ///
    /// # Errors
    /// When the session may have no more connections, does not exist and may not be created, or is unavailable.
    pub async fn connect(&self, opening: &Opening<'_>) -> Result<OpenSession, ConnectError> {
        let opened = self.try_connect(opening).await;
        self.0.stats.refused.add(u64::from(opened.is_err()));
        opened
    }

    /// Whether a connection of a session that keeps its first one could open now. Nothing is registered.
    ///
    /// # Errors
    /// Why it could not: the session has a connection, or its group is full; or sessions are unavailable.
    pub async fn check(&self, name: &SessionName, group: Option<(&str, usize)>) -> Result<(), ConnectError> {
        let listed = match &self.0.store {
            Store::Redis(store) => store.get(&[name.to_string()]).await?.pop().flatten(),
            Store::Memory(store) => store.get(name.as_str()),
        };
        if listed.is_some_and(|listed| !listed.connections.is_empty()) {
            return Err(ConnectError::Taken(name.to_string()));
        }
        let Some((group, max)) = group else { return Ok(()) };
        let size = match &self.0.store {
            Store::Redis(store) => store.group_size(group).await?,
            Store::Memory(store) => store.group_size(group),
        };
        if size >= max { Err(ConnectError::Group(max)) } else { Ok(()) }
    }

    async fn try_connect(&self, opening: &Opening<'_>) -> Result<OpenSession, ConnectError> {
        let Shared { store, local, life, .. } = &*self.0;
        let deadline = Instant::now() + LEASE_LIMIT;
        let (mut connection, connected) = loop {
            let life = life.borrow().clone();
            let mut connection = local.reserve(opening.name, life.clone(), opening.options);
            let connected = match store {
                Store::Redis(store) => store.connect(&life, connection.number, opening, None).await,
                Store::Memory(store) => store.connect(connection.number, opening).map(|(connected, replaced)| {
                    for number in replaced {
                        local.close(&connection.name, number, "replaced by a newer connection");
                    }
                    connected
                }),
            };
            match connected {
                Ok(connected) => break (connection, connected),
                // It may be registered although there was no answer.
                Err(error @ ConnectError::Unavailable(_)) => return Err(error),
                Err(ConnectError::NoLease) if Instant::now() < deadline => {
                    connection.was_refused = true;
                    drop(connection);
                    sleep(LEASE_PAUSE).await;
                }
                Err(error) => {
                    connection.was_refused = true;
                    return Err(error);
                }
            }
        };
        connection.was_refused = false;
        if connected.grant.is_expired() {
            return Err(ConnectError::Expired(opening.name.to_string()));
        }
        let grant = Arc::new(connected.grant);
        local.connected(&connection, connected.version, &connected.topics, &grant, opening.spec);
        let position = connected.position.filter(|_| !connected.is_new && connected.others == 0);
        let grant = Arc::new(grant.grant(opening.name, &connected.topics, &opening.options));
        let Connected { topics, is_new, was_heard, .. } = connected;
        Ok(OpenSession { topics, grant, is_new, position, watch: Box::new(connection), was_heard })
    }

    /// Changes a session, or creates it, and waits until its connections read what it says, for at most two seconds.
    ///
    /// # Errors
    /// When there is no such session and it is not to be created, it would have too many topics, or it is unavailable.
    pub async fn change(&self, name: &SessionName, change: &Change) -> Result<Reached, SessionError> {
        self.change_then(name, change, || {}).await
    }

    /// As [`change`](Self::change); calls `stored` when the store has it, before the connections do.
    async fn change_then(
        &self,
        name: &SessionName,
        change: &Change,
        stored: impl FnOnce(),
    ) -> Result<Reached, SessionError> {
        let request = self.0.pending.request()?;
        let outcome = self.begin_change(name, change, request.number).await?;
        stored();
        Ok(self.reached(outcome, request).await)
    }

    /// As [`change`](Self::change), without waiting for the connections: one of them may be the one that waits. Returns its topics.
    ///
    /// # Errors
    /// As for [`change`](Self::change).
    pub async fn begin(&self, name: &SessionName, change: &Change) -> Result<Topics, SessionError> {
        Ok(self.begin_change(name, change, 0).await?.topics)
    }

    async fn begin_change(&self, name: &SessionName, change: &Change, request: u64) -> Result<Outcome, SessionError> {
        let life = self.0.life.borrow().clone();
        match &self.0.store {
            Store::Redis(store) => store.change(name, change, &life, request).await,
            Store::Memory(store) => {
                let (outcome, command) = store.change(name, change)?;
                self.deliver(command, request);
                Ok(outcome)
            }
        }
    }

    /// Sends a message to the connections of a session, and waits until it is sent, for at most two seconds.
    ///
    /// # Errors
    /// When there is no such session, or it is unavailable.
    pub async fn send(&self, name: &SessionName, message: &SessionMessage) -> Result<Reached, SessionError> {
        self.send_then(name, message, || {}).await
    }

    async fn send_then(
        &self,
        name: &SessionName,
        message: &SessionMessage,
        stored: impl FnOnce(),
    ) -> Result<Reached, SessionError> {
        let request = self.0.pending.request()?;
        let (json, life) = (serde_json::to_string(message)?, self.0.life.borrow().clone());
        let outcome = match &self.0.store {
            Store::Redis(store) => store.send(name, &json, &life, request.number).await?,
            Store::Memory(store) => {
                let outcome = store.told(name)?;
                let command = Command { session: name.to_string(), send: Some(json), ..Command::default() };
                self.deliver(command, request.number);
                outcome
            }
        };
        stored();
        Ok(self.reached(outcome, request).await)
    }

    /// Ends a session and its connections, with a reason for its clients.
    ///
    /// # Errors
    /// When there is no such session, or it is unavailable.
    pub async fn end(&self, name: &SessionName, reason: &str) -> Result<Reached, SessionError> {
        self.end_then(name, reason, || {}).await
    }

    async fn end_then(&self, name: &SessionName, reason: &str, stored: impl FnOnce()) -> Result<Reached, SessionError> {
        let request = self.0.pending.request()?;
        let life = self.0.life.borrow().clone();
        let outcome = match &self.0.store {
            Store::Redis(store) => store.end(name, reason, &life, request.number).await?,
            Store::Memory(store) => {
                let outcome = store.end(name)?;
                let ended = Some(reason.to_owned());
                self.deliver(Command { session: name.to_string(), ended, ..Command::default() }, request.number);
                outcome
            }
        };
        stored();
        Ok(self.reached(outcome, request).await)
    }

    /// A session, if there is one of this name.
    ///
    /// # Errors
    /// When it is unavailable.
    pub async fn get(&self, name: &SessionName) -> Result<Option<Listed>, SessionError> {
        Ok(match &self.0.store {
            Store::Redis(store) => store.get(&[name.to_string()]).await?.pop().flatten(),
            Store::Memory(store) => store.get(name.as_str()),
        })
    }

    /// What the connections of a session on this node are to read; `None` if it has none here, or has ended.
    pub fn local_topics(&self, name: &SessionName) -> Option<Topics> {
        self.0.local.topics(name.as_str())
    }

    /// The sessions with connections on this node whose names begin with `prefix`, and that have no topics.
    pub fn local_without_topics(&self, prefix: &str) -> Vec<Arc<str>> {
        self.0.local.without_topics(prefix)
    }

    /// At most `limit` sessions in the order of their names, from the one after a name on.
    ///
    /// # Errors
    /// When they are unavailable.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page, SessionError> {
        Ok(match &self.0.store {
            Store::Redis(store) => store.list(after, limit).await?,
            Store::Memory(store) => store.list(after, limit),
        })
    }

    /// The number of sessions of all nodes.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn total(&self) -> Result<usize, SessionError> {
        Ok(match &self.0.store {
            Store::Redis(store) => store.total().await?,
            Store::Memory(store) => store.total(),
        })
    }

    /// A connection of a session on this node, and the number of messages that wait for it here.
    pub(crate) fn here(&self, name: &str) -> (Option<ConnectionId>, usize) {
        self.0.local.here(name)
    }

    /// Publishes for the backend what a client has sent. In `tallycast demo` there is none.
    ///
    /// # Errors
    /// When Redis does not take it.
    pub async fn receive(&self, name: &SessionName, data: &str) -> Result<(), SessionError> {
        self.0.stats.received.add(1);
        let event = json!({"event": "message", "session": name.as_str(), "data": data}).to_string();
        self.publish(&self.0.config.events, &event).await
    }

    /// Publishes on a channel or in a stream of the broker.
    ///
    /// # Errors
    /// When Redis does not take it.
    pub async fn publish(&self, target: &EventTarget, payload: &str) -> Result<(), SessionError> {
        let Store::Redis(store) = &self.0.store else { return Ok(()) };
        let mut pipeline = ::redis::pipe();
        match target {
            EventTarget::Channel(channel) => pipeline.cmd("PUBLISH").arg(channel).arg(payload).ignore(),
            EventTarget::Stream(key) => {
                let pipeline = pipeline.cmd("XADD").arg(key).arg("MAXLEN").arg("~").arg(MAX_EVENTS);
                pipeline.arg("*").arg("data").arg(payload).ignore()
            }
        };
        Ok(store.nodes.send(&pipeline).await?)
    }

    fn deliver(&self, command: Command, request: u64) {
        let command = Command { request: Some(request), reply: LIFE.to_owned(), ..command };
        if let Some(reply) = self.0.local.deliver(command) {
            let answer = command::Acknowledgement { acknowledged: reply.request, life: reply.life, connections: 0 };
            self.0.pending.complete(answer);
        }
    }

    async fn reached(&self, outcome: Outcome, request: pending::Request<'_>) -> Reached {
        let Outcome { is_new, version, topics, reached, missed } = outcome;
        let answers = request.answers(&reached).await;
        let name = |life: &String| crate::nodes::name(life).to_owned();
        let has_answered = |life: &&String| answers.iter().any(|answer| answer.life == **life);
        let waiting = reached.iter().filter(|life| !has_answered(life)).chain(&missed).map(name);
        Reached {
            is_new,
            version,
            topics: topics.iter().map(|topic| topic.to_string()).collect(),
            connections: answers.iter().map(|answer| answer.connections).sum(),
            nodes: answers.iter().map(|answer| name(&answer.life)).collect(),
            waiting: waiting.collect(),
        }
    }

    /// Writes the ends of the last connections, and has the other nodes forget this one. To be called when all streams have ended.
    pub async fn close(&self) {
        self.0.stop.cancel();
        let tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            if task.await.is_err() {
                tracing::error!("the task of the sessions failed");
            }
        }
    }
}
