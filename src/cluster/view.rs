//! A view of all nodes, and how it is written as JSON.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, Serializer};

use super::LEASE;
use super::records::Reading;
use crate::nodes::NodeId;

/// The state of a node, by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The name of the node: `<platform>-<env>-<instance>`.
    pub node: String,
    /// The version of tallycast.
    pub version: String,
    /// `OK`, or `DEGRADED` while the broker is not subscribed.
    pub status: String,
    /// Whether it was told to stop.
    pub draining: bool,
    /// The start time of the process by the clock of the node, in seconds since the Unix epoch.
    pub startup_time: u64,
    /// The number of open connections.
    pub connections: u64,
    /// Messages that reached the hub since the start.
    pub msgs_broadcast: u64,
}

/// A node in a [`ClusterView`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNode {
    /// The state of the node.
    #[serde(flatten)]
    pub report: NodeReport,
    /// The time of the report by the clock of Redis, in seconds since the Unix epoch. Without Redis, by the clock of this node.
    pub reported_at: u64,
    /// Identifies the process, of several with the same name as well.
    #[serde(default)]
    pub id: String,
}

/// All nodes at one time.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// The name of this node.
    pub node: Arc<str>,
    /// Identifies this process among [`nodes`](Self::nodes).
    pub id: Arc<str>,
    /// The time of the view by the clock of Redis, or without Redis of this node, in seconds since the Unix epoch; `None` before the
    /// first.
    pub as_of: Option<u64>,
    /// The nodes, sorted by name; before the first answer of the broker, and without one, this one.
    pub nodes: Vec<ClusterNode>,
    /// The number of nodes with a lease.
    pub nodes_total: usize,
    /// Why the broker has not answered since.
    pub error: Option<String>,
    read_at: Option<Instant>,
}

impl ClusterView {
    /// The view of a process that has not asked Redis yet.
    pub(super) fn unread(id: &NodeId, report: NodeReport) -> Self {
        let own = ClusterNode { report, reported_at: now(), id: id.as_str().to_owned() };
        let (node, id) = (id.name().into(), id.as_str().into());
        Self { node, id, as_of: None, nodes: vec![own], nodes_total: 1, error: None, read_at: None }
    }

    /// The view of a process without Redis.
    pub(super) fn alone(id: &NodeId, report: NodeReport) -> Self {
        Self { as_of: Some(now()), read_at: Some(Instant::now()), ..Self::unread(id, report) }
    }

    /// The view of a process to which Redis has just answered.
    pub(super) fn read(id: &NodeId, reading: Reading) -> Self {
        let Reading { time, nodes, total, .. } = reading;
        Self {
            node: id.name().into(),
            id: id.as_str().into(),
            as_of: Some(time),
            nodes,
            nodes_total: total,
            error: None,
            read_at: Some(Instant::now()),
        }
    }

    /// The view of a process that hears of the others, and whose own announcement was passed on at `confirmed_at`.
    pub(super) fn received(id: &NodeId, reading: Reading, confirmed_at: Instant) -> Self {
        Self { read_at: Some(confirmed_at), ..Self::read(id, reading) }
    }

    /// This node; `None` only if its record was changed by something else.
    pub fn own(&self) -> Option<&ClusterNode> {
        self.nodes.iter().find(|node| *node.id == *self.id)
    }

    /// The age of the view; `None` before the first answer of the broker.
    pub fn age(&self) -> Option<Duration> {
        self.read_at.map(|read_at| read_at.elapsed())
    }

    /// Whether nodes may have changed, come or gone without it.
    pub fn is_stale(&self) -> bool {
        self.error.is_some() || self.age().is_none_or(|age| age > LEASE)
    }
}

/// The view as JSON: the answer of `GET /admin/cluster.json`.
#[derive(Debug, Serialize)]
struct ClusterJson<'a> {
    node: &'a str,
    id: &'a str,
    as_of: Option<u64>,
    age_seconds: Option<u64>,
    stale: bool,
    error: Option<&'a str>,
    nodes_total: usize,
    nodes: &'a [ClusterNode],
}

impl Serialize for ClusterView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = ClusterJson {
            node: &self.node,
            id: &self.id,
            as_of: self.as_of,
            age_seconds: self.age().map(|age| age.as_secs()),
            stale: self.is_stale(),
            error: self.error.as_deref(),
            nodes_total: self.nodes_total,
            nodes: &self.nodes,
        };
        json.serialize(serializer)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
