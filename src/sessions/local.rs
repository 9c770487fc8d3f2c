//! The sessions with connections on this node: what they are to read, and what has still to be done for them in the engine.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tallycast_fanout::{ConnectionId, Handle, StreamWatch, Topics};
use tokio::sync::Notify;

use super::SessionStats;
use super::command::{Command, SessionMessage};
use super::spec::{self, SessionGrant, SessionName, SessionSpec, StreamOptions};
use crate::nodes::NodeId;

/// Messages for one session that wait, and their bytes. Further ones are dropped and counted.
const MAX_WAITING: usize = 256;
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// Requests of one session that wait for their outcome; further ones are not answered.
const MAX_REPLIES: usize = 1024;

/// The version of a connection that has been told to close.
const CLOSING: u64 = u64::MAX;

/// The sessions of this node.
#[derive(Debug)]
pub(super) struct Local {
    sessions: Mutex<Sessions>,
    /// There are sessions with something to do.
    changed: Notify,
    /// There are connections that have ended.
    pub(super) ended: Notify,
    newest: AtomicU64,
    /// Commands may have been missed.
    was_deaf: AtomicBool,
    /// A connection was registered under a life that was over by then.
    is_misplaced: AtomicBool,
    engine: Handle,
    stats: Arc<SessionStats>,
}

#[derive(Debug, Default)]
struct Sessions {
    by_name: HashMap<Arc<str>, LocalSession>,
    /// Those with something to do, each once.
    queue: VecDeque<Arc<str>>,
    gone: Vec<Gone>,
}

/// A connection that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) life: NodeId,
    pub(super) number: u64,
    pub(super) name: Arc<str>,
    /// The position that the reader has come to, if it is known.
    pub(super) position: Option<Box<str>>,
}

/// A session with connections here.
#[derive(Debug, Default)]
struct LocalSession {
    version: u64,
    topics: Topics,
    grant: Arc<SessionGrant>,
    /// What else it is created with, if Redis loses it.
    spec: Option<Arc<SessionSpec>>,
    connections: HashMap<u64, LocalConnection>,
    messages: VecDeque<Arc<SessionMessage>>,
    message_bytes: usize,
    replies: Vec<Reply>,
    /// It has ended for this reason.
    ended: Option<Arc<str>>,
    is_queued: bool,
}

#[derive(Debug)]
struct LocalConnection {
    life: NodeId,
    /// The life under which it is known to be registered.
    registered: Option<NodeId>,
    /// `None` until the engine serves it.
    id: Option<ConnectionId>,
    /// The version of the session that it reads by.
    version: u64,
    options: StreamOptions,
    /// It is to be closed for this reason.
    close: Option<Arc<str>>,
}

/// Who waits for the outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) request: u64,
    /// The life of the node.
    pub(super) life: String,
}

/// What is to be done for a session.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) name: Arc<str>,
    pub(super) version: u64,
    pub(super) topics: Topics,
    pub(super) grant: Arc<SessionGrant>,
    /// Connections that read by an older version.
    pub(super) changes: Vec<(u64, ConnectionId, StreamOptions)>,
    pub(super) messages: Vec<Arc<SessionMessage>>,
    pub(super) closes: Vec<(ConnectionId, Arc<str>)>,
    /// All connections.
    pub(super) connections: Vec<ConnectionId>,
    pub(super) replies: Vec<Reply>,
}

/// What is known here of a session.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: Arc<str>,
    pub(super) version: u64,
    /// The connections that are registered under the life of the node, and not about to be closed.
    pub(super) registered: Vec<u64>,
}

/// A connection for its registration under another life of the node.
#[derive(Debug, Clone)]
pub(super) struct Registered {
    pub(super) name: Arc<str>,
    pub(super) number: u64,
    /// The other life under which it was registered.
    pub(super) former: Option<NodeId>,
    /// Its session, which is created if Redis has lost it.
    pub(super) spec: SessionSpec,
}

impl Local {
    pub(super) fn new(engine: Handle, stats: Arc<SessionStats>) -> Self {
        Self {
            sessions: Mutex::default(),
            changed: Notify::new(),
            ended: Notify::new(),
            newest: AtomicU64::new(0),
            was_deaf: AtomicBool::new(false),
            is_misplaced: AtomicBool::new(false),
            engine,
            stats,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection of a session that the engine serves here, and the number of messages that wait for the session.
    pub(super) fn here(&self, name: &str) -> (Option<ConnectionId>, usize) {
        let sessions = self.lock();
        let Some(session) = sessions.by_name.get(name) else { return (None, 0) };
        (session.connections.values().filter_map(|connection| connection.id).min(), session.messages.len())
    }

    /// Has a connection wait for its session, so that no command is missed that comes before its stream opens.
    pub(super) fn reserve(
        self: &Arc<Self>,
        name: &SessionName,
        life: NodeId,
        options: StreamOptions,
    ) -> SessionConnection {
        let number = self.newest.fetch_add(1, Ordering::Relaxed) + 1;
        let reserved_in = life.clone();
        let connection = LocalConnection { life, registered: None, id: None, version: 0, options, close: None };
        let name = name.shared();
        let mut sessions = self.lock();
        sessions.by_name.entry(Arc::clone(&name)).or_default().connections.insert(number, connection);
        self.stats.connections.add(1);
        SessionConnection { local: Arc::clone(self), name, number, life: reserved_in, was_refused: false }
    }

    /// The connection is registered, and reads by this version of its session. `spec` is the session as it would have been created.
    pub(super) fn connected(
        &self,
        connection: &SessionConnection,
        version: u64,
        topics: &Topics,
        grant: &Arc<SessionGrant>,
        spec: &SessionSpec,
    ) {
        let SessionConnection { name, number, life, .. } = connection;
        let mut sessions = self.lock();
        let Some(session) = sessions.by_name.get_mut(name) else { return };
        if let Some(ended) = session.ended.take_if(|_| version > session.version) {
            // It exists again. Connections from before do not belong to it.
            let before = session.connections.iter_mut().filter(|(other, _)| *other < number);
            before.for_each(|(_, connection)| connection.close = Some(Arc::clone(&ended)));
        }
        if let Some(connection) = session.connections.get_mut(number) {
            connection.version = version;
            connection.registered = Some(life.clone());
            if connection.life != *life {
                self.is_misplaced.store(true, Ordering::Relaxed);
            }
        }
        session.spec.get_or_insert_with(|| Arc::new(SessionSpec { topics: Topics::none(), ..spec.clone() }));
        session.update(version, topics, grant);
        sessions.settle(name, &self.changed);
    }

    /// A connection is registered again, under `life`: its session has at least this version.
    pub(super) fn registered(
        &self,
        (name, number, life): (&Arc<str>, u64, NodeId),
        version: u64,
        topics: &Topics,
        grant: &Arc<SessionGrant>,
    ) {
        let mut sessions = self.lock();
        let Some(session) = sessions.by_name.get_mut(name) else { return };
        if let Some(connection) = session.connections.get_mut(&number) {
            connection.registered = Some(life);
        }
        session.update(version, topics, grant);
        sessions.settle(name, &self.changed);
    }

    /// Follows a command. Returns the reply if there is nothing to do.
    pub(super) fn deliver(&self, command: Command) -> Option<Reply> {
        let Command { session: name, version, topics, grant, send, ended, close, reason, request, reply } = command;
        let reply = request.map(|request| Reply { request, life: reply });
        let mut sessions = self.lock();
        let known = sessions.by_name.get_key_value(&*name).map(|(name, _)| Arc::clone(name));
        let Some(name) = known else { return reply };
        let Some(session) = sessions.by_name.get_mut(&name) else { return reply };
        if let Some(version) = version {
            // A grant that cannot be read is of another version: nothing is safer.
            let grant = grant.and_then(|grant| serde_json::from_str(&grant).ok()).unwrap_or_default();
            session.update(version, &spec::topics(&topics), &Arc::new(grant));
        }
        if let Some(message) = send.and_then(|message| serde_json::from_str::<SessionMessage>(&message).ok()) {
            if session.messages.len() < MAX_WAITING && session.message_bytes + message.data.len() <= MAX_WAITING_BYTES {
                session.message_bytes += message.data.len();
                session.messages.push_back(Arc::new(message));
            } else {
                self.stats.dropped.add(1);
            }
        }
        if let Some(connection) = close.and_then(|number| session.connections.get_mut(&number)) {
            connection.close = Some(reason.into());
        }
        if let Some(reason) = ended {
            session.ended = Some(reason.into());
        }
        if session.replies.len() < MAX_REPLIES {
            session.replies.extend(reply);
        }
        sessions.settle(&name, &self.changed);
        None
    }

    /// What is to be done for some sessions, at most `limit`; waits until there are any.
    pub(super) async fn work(&self, limit: usize) -> Vec<Work> {
        loop {
            let changed = self.changed.notified();
            let work = self.lock().take(limit);
            if !work.is_empty() {
                return work;
            }
            changed.await;
        }
    }

    /// A connection reads by this version now.
    pub(super) fn applied(&self, name: &Arc<str>, number: u64, version: u64) {
        let mut sessions = self.lock();
        let session = sessions.by_name.get_mut(name);
        if let Some(connection) = session.and_then(|session| session.connections.get_mut(&number)) {
            connection.version = connection.version.max(version);
        }
    }

    /// Has a session wait for another turn, with requests that still wait.
    pub(super) fn put_back(&self, name: &Arc<str>, replies: Vec<Reply>) {
        let mut sessions = self.lock();
        if let Some(session) = sessions.by_name.get_mut(name) {
            session.replies.extend(replies);
        }
        sessions.settle(name, &self.changed);
    }

    /// The connections that have ended since the last call.
    pub(super) fn take_gone(&self) -> Vec<Gone> {
        std::mem::take(&mut self.lock().gone)
    }

    /// Puts connections back whose end could not be written.
    pub(super) fn put_back_gone(&self, mut gone: Vec<Gone>) {
        let mut sessions = self.lock();
        gone.append(&mut sessions.gone);
        sessions.gone = gone;
    }

    /// Forgets the connections that have ended if more than `limit` wait. Returns whether it did.
    pub(super) fn forget_gone_over(&self, limit: usize) -> bool {
        let mut sessions = self.lock();
        let is_over = sessions.gone.len() > limit;
        if is_over {
            sessions.gone = Vec::new();
        }
        is_over
    }

    /// All sessions here, and their connections that are registered under `life`.
    pub(super) fn known(&self, life: &NodeId) -> Vec<Known> {
        let sessions = self.lock();
        let known = |(name, session): (&Arc<str>, &LocalSession)| {
            let (name, version, registered) = (Arc::clone(name), session.version, session.registered(life));
            Known { name, version, registered }
        };
        sessions.by_name.iter().map(known).collect()
    }

    /// What the connections of a session are to read, if it has some here and has not ended.
    pub(super) fn topics(&self, name: &str) -> Option<Topics> {
        let sessions = self.lock();
        let session = sessions.by_name.get(name).filter(|session| session.is_open())?;
        // Not those of the one that has ended.
        Some(if session.ended.is_some() { Topics::none() } else { session.topics.clone() })
    }

    /// The names of the sessions here that begin with `prefix`, and have no topics.
    pub(super) fn without_topics(&self, prefix: &str) -> Vec<Arc<str>> {
        let sessions = self.lock();
        let is_meant = |name: &str, session: &LocalSession| {
            name.starts_with(prefix) && session.is_open() && session.topics.is_empty()
        };
        let found = sessions.by_name.iter().filter(|(name, session)| is_meant(name, session));
        found.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// The node listens again, and may have missed commands.
    pub(super) fn was_deaf(&self) {
        self.was_deaf.store(true, Ordering::Relaxed);
        self.ended.notify_one();
    }

    /// Whether commands may have been missed since the last call.
    pub(super) fn take_deafness(&self) -> bool {
        self.was_deaf.swap(false, Ordering::Relaxed)
    }

    /// Whether there may be connections that are registered under another life, since the last call.
    pub(super) fn take_misplaced(&self) -> bool {
        self.is_misplaced.swap(false, Ordering::Relaxed)
    }

    /// Redis has lost its data, so no connection is registered.
    pub(super) fn was_lost(&self) {
        let mut sessions = self.lock();
        let connections = sessions.by_name.values_mut().flat_map(|session| session.connections.values_mut());
        connections.for_each(|connection| connection.registered = None);
    }

    /// Gives all connections this life. Returns those that are to be registered under it.
    pub(super) fn begin_life(&self, life: &NodeId) -> Vec<Registered> {
        let mut sessions = self.lock();
        let mut all = Vec::new();
        for (name, session) in &mut sessions.by_name {
            for (number, connection) in &mut session.connections {
                connection.life = life.clone();
                let Some(spec) = &session.spec else { continue };
                // Others are registered, or about to be, or closed.
                if connection.registered.as_ref() != Some(life) && ![0, CLOSING].contains(&connection.version) {
                    let (topics, grant) = (session.topics.clone(), (*session.grant).clone());
                    let spec = SessionSpec { topics, grant, ..(**spec).clone() };
                    let former = connection.registered.clone();
                    all.push(Registered { name: Arc::clone(name), number: *number, former, spec });
                }
            }
        }
        all
    }

    /// Has a connection closed.
    pub(super) fn close(&self, name: &Arc<str>, number: u64, reason: &str) {
        let command =
            Command { session: name.to_string(), close: Some(number), reason: reason.to_owned(), ..Command::default() };
        self.deliver(command);
    }
}

impl Sessions {
    /// Has a session wait for its turn, if there is something to do.
    fn settle(&mut self, name: &Arc<str>, changed: &Notify) {
        let Some(session) = self.by_name.get_mut(name) else { return };
        if !session.is_queued && session.has_work() {
            session.is_queued = true;
            self.queue.push_back(Arc::clone(name));
            changed.notify_one();
        }
    }

    fn take(&mut self, limit: usize) -> Vec<Work> {
        let count = self.queue.len().min(limit);
        let names: Vec<Arc<str>> = self.queue.drain(..count).collect();
        let mut all = Vec::with_capacity(count);
        for name in names {
            let Some(session) = self.by_name.get_mut(&name) else { continue };
            all.push(session.take(Arc::clone(&name)));
            if session.connections.is_empty() {
                self.by_name.remove(&name);
            }
        }
        all
    }
}

impl LocalSession {
    fn update(&mut self, version: u64, topics: &Topics, grant: &Arc<SessionGrant>) {
        if version > self.version {
            (self.version, self.topics, self.grant) = (version, topics.clone(), Arc::clone(grant));
        }
    }

    /// The connections that are registered under `life`, and not about to be closed.
    fn registered(&self, life: &NodeId) -> Vec<u64> {
        let is_meant = |connection: &LocalConnection| {
            connection.registered.as_ref() == Some(life) && ![0, CLOSING].contains(&connection.version)
        };
        let found = self.connections.iter().filter(|(_, connection)| is_meant(connection));
        found.map(|(number, _)| *number).collect()
    }

    /// Whether it has connections, and has not ended. Another one of the same name may be about to begin.
    fn is_open(&self) -> bool {
        self.connections.values().any(|connection| self.ended.is_none() || connection.version == 0)
    }

    fn has_work(&self) -> bool {
        let is_behind = |connection: &LocalConnection| {
            connection.id.is_some()
                && connection.version != CLOSING
                && (connection.version < self.version || connection.close.is_some() || self.ended.is_some())
        };
        (self.is_attached() && (!self.messages.is_empty() || !self.replies.is_empty()))
            || self.connections.values().any(is_behind)
    }

    /// Whether the engine serves all its connections. Messages, and those who wait for an outcome, wait until it does.
    fn is_attached(&self) -> bool {
        self.connections.values().all(|connection| connection.id.is_some())
    }

    fn take(&mut self, name: Arc<str>) -> Work {
        self.is_queued = false;
        let (mut messages, mut replies) = (Vec::new(), Vec::new());
        if self.is_attached() {
            self.message_bytes = 0;
            messages.extend(self.messages.drain(..));
            replies.append(&mut self.replies);
        }
        let mut work = Work {
            name,
            version: self.version,
            topics: self.topics.clone(),
            grant: Arc::clone(&self.grant),
            changes: Vec::new(),
            messages,
            closes: Vec::new(),
            connections: Vec::new(),
            replies,
        };
        for (number, connection) in &mut self.connections {
            let Some(id) = connection.id else { continue };
            work.connections.push(id);
            if let Some(reason) = connection.close.take().or_else(|| self.ended.clone()) {
                work.closes.push((id, reason));
                connection.version = CLOSING;
            } else if connection.version < self.version {
                work.changes.push((*number, id, connection.options));
            }
        }
        work
    }
}

/// A connection of a session, from before its registration to its end.
#[derive(Debug)]
pub(super) struct SessionConnection {
    local: Arc<Local>,
    pub(super) name: Arc<str>,
    pub(super) number: u64,
    /// The life of the node at its registration.
    life: NodeId,
    /// It is certain that it was not registered.
    pub(super) was_refused: bool,
}

impl StreamWatch for SessionConnection {
    fn attached(&mut self, id: ConnectionId) {
        let mut sessions = self.local.lock();
        let session = sessions.by_name.get_mut(&self.name);
        if let Some(connection) = session.and_then(|session| session.connections.get_mut(&self.number)) {
            connection.id = Some(id);
        }
        sessions.settle(&self.name, &self.local.changed);
    }
}

impl Drop for SessionConnection {
    fn drop(&mut self) {
        let Self { local, name, number, life, was_refused } = self;
        local.stats.connections.subtract(1);
        // Not under the lock of the sessions.
        let position = local.engine.position();
        let mut sessions = local.lock();
        let Some(session) = sessions.by_name.get_mut(name) else { return };
        let Some(connection) = session.connections.remove(number) else { return };
        if session.connections.is_empty() && session.replies.is_empty() {
            sessions.by_name.remove(name);
        } else {
            sessions.settle(name, &local.changed);
        }
        if !*was_refused {
            // Its registration under the present life may not have succeeded, or not been answered.
            let registered = connection.registered.unwrap_or_else(|| life.clone());
            let other = Some(connection.life).filter(|life| *life != registered);
            for life in other.into_iter().chain([registered]) {
                let (name, position) = (Arc::clone(name), position.clone());
                sessions.gone.push(Gone { life, number: *number, name, position });
            }
            local.ended.notify_one();
        }
    }
}
