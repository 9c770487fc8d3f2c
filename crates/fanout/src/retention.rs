//! Retentions: which messages are kept for readers that come later, how many, and how long.

use std::sync::Arc;
use std::time::Duration;

use crate::{Namespace, Position, Topic};

/// How long the messages of a source's route are kept. All bounds apply; the oldest messages go first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Distinguishes it from others, such as the pattern of a route. A retention that replaces another one has its name.
    pub name: Arc<str>,
    /// Contains the namespaces of all its messages.
    pub namespace: Namespace,
    /// Namespaces in it whose messages it does not keep, nor of those below them. Readers of these alone get no ids and no resets
    /// because of this retention.
    pub except: Box<[Namespace]>,
    /// The sequence in which its messages have positions; `None` if their source has none, so that the engine numbers them,
    /// and a position is valid for this engine only.
    pub sequence: Option<Arc<str>>,
    /// What the sequence is a partition of, if it is one.
    pub partition: Option<Partition>,
    /// The number of messages.
    pub max_messages: Option<usize>,
    /// The memory of messages.
    pub max_bytes: Option<usize>,
    /// The age of messages.
    pub max_age: Option<Duration>,
    /// Whether the newest message of each namespace is kept, whatever the other bounds. Without other bounds, nothing else is.
    pub last_values: bool,
}

/// A partition of a topic, such as one of Kafka: a sequence of its own. Ids name all partitions of a topic together, as a vector.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Partition {
    /// The name of the topic.
    pub topic: Arc<str>,
    /// Its number, from zero. An engine has all partitions of a topic, up to some number.
    pub number: u32,
}

impl Partition {
    /// The name of its sequence.
    pub fn sequence(&self) -> String {
        format!("{}#{}", self.topic, self.number)
    }
}

impl Retention {
    /// The same for one partition of its sequence, which is the topic. Its bounds apply to each partition.
    pub fn of_partition(&self, number: u32) -> Self {
        let partition = self.sequence.clone().map(|topic| Partition { topic, number });
        let sequence = partition.as_ref().map(|partition| partition.sequence().into());
        Self { name: format!("{}#{number}", self.name).into(), sequence, partition, ..self.clone() }
    }

    /// Whether readers of `topic` may get messages that are kept by this retention.
    pub(crate) fn concerns(&self, topic: &Topic) -> bool {
        let is_excepted = |except: &Namespace| Topic::from(except.clone()).covers(topic);
        topic.overlaps(&self.namespace) && !self.except.iter().any(is_excepted)
    }
}

/// What makes a message part of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// How long it is kept.
    pub retention: Arc<Retention>,
    /// Its place in the [sequence](Retention::sequence) of its retention.
    pub position: Option<Position>,
    /// It was published before the source started: it is kept, and not sent to readers.
    pub is_backlog: bool,
    /// Its id on the wire, which the hub sets.
    pub(crate) id: Box<str>,
}

impl Kept {
    /// A message that is kept as long as `retention` says.
    pub fn new(retention: Arc<Retention>, position: Option<Position>) -> Self {
        Self { retention, position, is_backlog: false, id: "".into() }
    }
}
