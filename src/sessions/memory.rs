//! Sessions in this process, for `tallycast demo`: the same operations as in Redis, without events.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tallycast_fanout::{Topic, Topics};

use super::Limits;
use super::command::Command;
use super::spec::{self, Policy, SessionName, SessionSpec};
use super::store::{Change, ConnectError, Connected, Listed, Opening, Outcome, Page, SessionError, TopicsChange};

/// The life of the only node.
pub(super) const LIFE: &str = "local";

/// Sessions in memory. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct MemoryStore {
    sessions: Arc<Mutex<BTreeMap<String, Session>>>,
    limits: Limits,
}

#[derive(Debug)]
struct Session {
    spec: SessionSpec,
    version: u64,
    created: u64,
    /// By their numbers, with the times at which they opened.
    connections: HashMap<u64, u64>,
    expires_at: Option<Instant>,
    position: Option<Box<str>>,
}

impl Session {
    fn new(spec: SessionSpec) -> Self {
        let now = now();
        let expires_at = Some(Instant::now() + spec.ttl);
        Self { spec, version: now, created: now, connections: HashMap::new(), expires_at, position: None }
    }

    /// Whether it belongs to a group, and has connections.
    fn is_member(&self, group: &str) -> bool {
        !self.connections.is_empty() && self.spec.group.as_ref().is_some_and(|(other, _)| other == group)
    }

    fn outcome(&self, is_new: bool) -> Outcome {
        let reached = if self.connections.is_empty() { Vec::new() } else { vec![LIFE.to_owned()] };
        Outcome { is_new, version: self.version, topics: self.spec.topics.clone(), reached, missed: Vec::new() }
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl MemoryStore {
    pub(super) fn new(limits: Limits) -> Self {
        Self { sessions: Arc::default(), limits }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection. With it come the connections that it replaces.
    pub(super) fn connect(&self, number: u64, opening: &Opening<'_>) -> Result<(Connected, Vec<u64>), ConnectError> {
        let Opening { name, spec, create, .. } = opening;
        let mut sessions = self.lock();
        let is_new = !sessions.contains_key(name.as_str());
        if is_new && !create {
            return Err(ConnectError::Unknown(name.to_string()));
        }
        if is_new && sessions.len() >= self.limits.sessions {
            return Err(ConnectError::Sessions(self.limits.sessions));
        }
        let group = sessions.get(name.as_str()).map_or(&spec.group, |session| &session.spec.group).clone();
        if let Some((group, size)) = group {
            let others =
                sessions.iter().filter(|(other, session)| *other != name.as_str() && session.is_member(&group));
            if others.count() >= size {
                return Err(ConnectError::Group(size));
            }
        }
        let session = sessions.entry(name.to_string()).or_insert_with(|| Session::new((*spec).clone()));
        let others: Vec<u64> = session.connections.keys().copied().filter(|other| *other != number).collect();
        match session.spec.policy {
            Policy::First if !others.is_empty() => return Err(ConnectError::Taken(name.to_string())),
            Policy::Many if others.len() >= self.limits.connections => {
                return Err(ConnectError::Connections(self.limits.connections));
            }
            Policy::Newest => session.connections.clear(),
            Policy::First | Policy::Many => {}
        }
        session.connections.insert(number, now());
        session.expires_at = None;
        let replaced = if session.spec.policy == Policy::Newest { others.clone() } else { Vec::new() };
        let connected = Connected {
            is_new,
            others: others.len(),
            version: session.version,
            topics: session.spec.topics.clone(),
            grant: session.spec.grant.clone(),
            position: session.position.clone(),
            was_heard: true,
        };
        Ok((connected, replaced))
    }

    /// Removes a connection.
    pub(super) fn disconnect(&self, number: u64, name: &str, position: Option<Box<str>>) {
        let mut sessions = self.lock();
        let Some(session) = sessions.get_mut(name) else { return };
        if session.connections.remove(&number).is_none() || !session.connections.is_empty() {
            return;
        }
        session.position = position;
        session.expires_at = Some(Instant::now() + session.spec.ttl);
        if session.spec.ttl.is_zero() {
            sessions.remove(name);
        }
    }

    /// Changes a session. With the outcome comes the command for its connections.
    pub(super) fn change(&self, name: &SessionName, change: &Change) -> Result<(Outcome, Command), SessionError> {
        let Limits { topics: max, topic_bytes, sessions: max_sessions, ttl, .. } = self.limits;
        let mut sessions = self.lock();
        let is_new = !sessions.contains_key(name.as_str());
        if is_new && !change.create {
            return Err(SessionError::Unknown(name.to_string()));
        }
        if is_new && sessions.len() >= max_sessions {
            return Err(SessionError::Sessions(max_sessions));
        }
        let before = sessions.get(name.as_str()).map_or_else(Topics::none, |session| session.spec.topics.clone());
        let topics: Vec<Topic> = match &change.topics {
            TopicsChange::Keep => before.iter().collect(),
            TopicsChange::Set(topics) => topics.clone(),
            TopicsChange::Change { add, remove } => {
                before.iter().chain(add.iter().cloned()).filter(|topic| !remove.contains(topic)).collect()
            }
        };
        let lines = spec::lines(topics.iter().cloned());
        let topics = Topics::new(topics).unwrap_or_default();
        if topics.len() > max || lines.len() > topic_bytes {
            return Err(SessionError::Topics { topics: max, bytes: topic_bytes });
        }
        let default = || Session::new(SessionSpec::new(Topics::none(), ttl));
        let session = sessions.entry(name.to_string()).or_insert_with(default);
        session.spec.topics = topics;
        if let Some(grant) = &change.grant {
            session.spec.grant = grant.clone();
        }
        session.spec.policy = change.policy.unwrap_or(session.spec.policy);
        session.spec.ttl = change.ttl.unwrap_or(session.spec.ttl);
        session.version += 1;
        if session.connections.is_empty() {
            let ttl = if session.spec.ttl.is_zero() { ttl } else { session.spec.ttl };
            session.expires_at = Some(Instant::now() + ttl);
        }
        let command = Command {
            session: name.to_string(),
            version: Some(session.version),
            topics: lines,
            grant: Some(serde_json::to_string(&session.spec.grant)?),
            ..Command::default()
        };
        Ok((session.outcome(is_new), command))
    }

    /// The outcome of a command for the connections of a session.
    pub(super) fn told(&self, name: &SessionName) -> Result<Outcome, SessionError> {
        let sessions = self.lock();
        let session = sessions.get(name.as_str()).ok_or_else(|| SessionError::Unknown(name.to_string()))?;
        Ok(session.outcome(false))
    }

    /// Ends a session.
    pub(super) fn end(&self, name: &SessionName) -> Result<Outcome, SessionError> {
        let outcome = self.told(name)?;
        self.lock().remove(name.as_str());
        Ok(outcome)
    }

    pub(super) fn get(&self, name: &str) -> Option<Listed> {
        self.lock().get(name).map(|session| listed(name, session))
    }

    /// The sessions of a group that have connections.
    pub(super) fn group_size(&self, group: &str) -> usize {
        self.lock().values().filter(|session| session.is_member(group)).count()
    }

    pub(super) fn list(&self, after: Option<&str>, limit: usize) -> Page {
        let sessions = self.lock();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut range = sessions.range::<str, _>((start, Bound::Unbounded));
        let page: Vec<Listed> = range.by_ref().take(limit).map(|(name, session)| listed(name, session)).collect();
        let next = range.next().and(page.last()).map(|last| last.name.clone());
        Page { sessions: page, next }
    }

    /// The number of sessions.
    pub(super) fn total(&self) -> usize {
        self.lock().len()
    }

    /// Ends sessions whose time to live is over.
    pub(super) fn expire(&self) {
        let now = Instant::now();
        self.lock().retain(|_, session| session.expires_at.is_none_or(|expires_at| expires_at > now));
    }
}

fn listed(name: &str, session: &Session) -> Listed {
    let SessionSpec { topics, grant, policy, ttl, .. } = &session.spec;
    let mut connections: Vec<_> = session.connections.values().map(|opened| (LIFE.to_owned(), *opened)).collect();
    connections.sort_unstable();
    Listed {
        topics: topics.clone(),
        grant: grant.clone(),
        policy: *policy,
        ttl: *ttl,
        version: session.version,
        created: session.created,
        connections,
        ..Listed::new(name)
    }
}
