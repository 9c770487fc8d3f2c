//! Where sessions are kept: the operations, and what comes of them.

use std::time::Duration;

use tallycast_fanout::{Topic, Topics};

use super::memory::MemoryStore;
use super::redis::RedisStore;
use super::spec::{Policy, Publication, SessionGrant, SessionName, SessionSpec, StreamOptions};
use crate::nodes::NodesError;

/// Where sessions are kept.
#[derive(Debug, Clone)]
pub(super) enum Store {
    Redis(RedisStore),
    /// In this process, for `tallycast demo`.
    Memory(MemoryStore),
}

/// A connection about to open.
#[derive(Debug, Clone)]
pub struct Opening<'a> {
    /// The session.
    pub name: &'a SessionName,
    /// The session, if it does not exist yet.
    pub spec: &'a SessionSpec,
    /// Whether it may be created.
    pub create: bool,
    /// What is published for this connection, beside the event of all sessions.
    pub arrived: Option<Publication>,
    /// What is special about the connection.
    pub options: StreamOptions,
}

/// A session with a connection more.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    /// Whether it was created.
    pub(super) is_new: bool,
    /// The other connections.
    pub(super) others: usize,
    pub(super) version: u64,
    pub(super) topics: Topics,
    pub(super) grant: SessionGrant,
    /// The position that its last connection had come to.
    pub(super) position: Option<Box<str>>,
    /// Whether what was published for it has reached someone.
    pub(super) was_heard: bool,
}

/// Why a connection does not open.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no such session, and it may not be created.
    #[error("no session {0:?}")]
    Unknown(String),
    /// The session has a connection, and its policy is that it keeps the first one.
    #[error("the session {0:?} has a connection already")]
    Taken(String),
    /// The session has as many connections as it may.
    #[error("the session has {0} connections, which is the limit")]
    Connections(usize),
    /// As many sessions of the group have connections as may.
    #[error("there are {0} connections, which is the limit")]
    Group(usize),
    /// There are as many sessions as may be.
    #[error("there are {0} sessions, which is the limit")]
    Sessions(usize),
    /// The grant of the session has expired.
    #[error("the grant of the session {0:?} has expired")]
    Expired(String),
    /// This node has lost its lease and is about to get another one.
    #[error("the node is joining; try again")]
    NoLease,
    /// Redis did not answer.
    #[error(transparent)]
    Unavailable(Unavailable),
}

/// Redis did not answer, or not as expected.
#[derive(Debug, thiserror::Error)]
#[error("sessions are unavailable; try again")]
pub struct Unavailable(#[source] pub(super) NodesError);

/// A change of a session.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// Whether the session is created if there is none.
    pub create: bool,
    /// Its topics.
    pub topics: TopicsChange,
    /// Another grant.
    pub grant: Option<SessionGrant>,
    /// Another policy, for connections that open.
    pub policy: Option<Policy>,
    /// Another time to live.
    pub ttl: Option<Duration>,
}

/// A change of the topics of a session.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum TopicsChange {
    /// None.
    #[default]
    Keep,
    /// Only these.
    Set(Vec<Topic>),
    /// Some more, and some less.
    Change {
        /// Those that it has afterwards.
        add: Vec<Topic>,
        /// Those that it has not, unless they are added.
        remove: Vec<Topic>,
    },
}

/// What came of an operation in the store.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) is_new: bool,
    pub(super) version: u64,
    pub(super) topics: Topics,
    /// The lives of the nodes that were told.
    pub(super) reached: Vec<String>,
    /// The lives of nodes with connections that did not listen.
    pub(super) missed: Vec<String>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// There is no such session.
    #[error("no session {0:?}")]
    Unknown(String),
    /// It would have too many topics.
    #[error("a session has at most {topics} topics of {bytes} bytes together")]
    Topics {
        /// How many it may have.
        topics: usize,
        /// Bytes of their texts.
        bytes: usize,
    },
    /// There are as many sessions as may be.
    #[error("there are {0} sessions, which is the limit")]
    Sessions(usize),
    /// Too many requests wait for other nodes.
    #[error("{0} requests wait for other nodes, which is the limit; try again")]
    Busy(usize),
    /// Redis did not answer.
    #[error(transparent)]
    Unavailable(Unavailable),
}

impl<E: Into<NodesError>> From<E> for ConnectError {
    fn from(error: E) -> Self {
        Self::Unavailable(Unavailable(error.into()))
    }
}

impl<E: Into<NodesError>> From<E> for SessionError {
    fn from(error: E) -> Self {
        Self::Unavailable(Unavailable(error.into()))
    }
}

/// A session in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What its connections read.
    pub topics: Topics,
    /// What its clients may do.
    pub grant: SessionGrant,
    /// What becomes of its connections when another one opens.
    pub policy: Policy,
    /// How long it outlives its last connection.
    pub ttl: Duration,
    /// Grows with each change.
    pub version: u64,
    /// When it was created, in milliseconds since 1970.
    pub created: u64,
    /// The node of each connection, and when it opened, in milliseconds since 1970.
    pub connections: Vec<(String, u64)>,
}

impl Listed {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            topics: Topics::none(),
            grant: SessionGrant::default(),
            policy: Policy::default(),
            ttl: Duration::ZERO,
            version: 0,
            created: 0,
            connections: Vec::new(),
        }
    }
}

/// A page of a list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// The sessions, in the order of their names.
    pub sessions: Vec<Listed>,
    /// The name after which the next page begins, if there is one.
    pub next: Option<String>,
}
