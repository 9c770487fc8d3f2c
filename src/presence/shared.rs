//! The subscriptions of all nodes in Redis: each node has a hash of its own (topic -> count and list as JSON) and a sorted set of
//! the hash's topics, which has them in their order for pages.

use std::sync::Arc;

use redis::Cmd;
use serde::{Deserialize, Serialize};

use super::Subscriber;
use super::entry::{Change, Snapshot};
use crate::nodes::{NodeId, Nodes, NodesError, milliseconds, script};

const WRITE: &str = include_str!("write.lua");

/// What a node shares of a topic.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SharedTopic<S> {
    count: u64,
    listed: Vec<SharedSubscription<S>>,
    /// Those that have ended, and whose disconnect events may not be published yet.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    leaving: Vec<S>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SharedSubscription<S> {
    subscriber: S,
    /// Whether its connect event was sent, or is about to be.
    announced: bool,
}

/// The keys of a node: the hash, and the sorted set of its topics.
pub(super) fn keys(nodes: &Nodes, node: &NodeId) -> [String; 2] {
    let hash = nodes.key_of("tallycast:subscriptions", node);
    let index = format!("{hash}:topics");
    [hash, index]
}

/// Writes what has changed. Returns `false` if the node has no lease any more.
pub(super) async fn write(nodes: &Nodes, node: &NodeId, changes: &[Change]) -> Result<bool, NodesError> {
    let mut command = script(WRITE, 3);
    command.arg(nodes.leases()).arg(&keys(nodes, node)).arg(node.as_str()).arg(milliseconds(nodes.key_age()));
    let mut is_empty = true;
    for (topic, value) in changes.iter().filter_map(|change| Some((&change.topic, change.value.as_ref()?))) {
        let value = if value.is_empty() { String::new() } else { serde_json::to_string(&shared(value))? };
        command.arg(&**topic).arg(value);
        is_empty = false;
    }
    if is_empty {
        return Ok(true);
    }
    Ok(nodes.ask::<u8>(&command).await? == 1)
}

fn shared(snapshot: &Snapshot) -> SharedTopic<&Subscriber> {
    let listed = snapshot.listed.iter();
    let listed =
        listed.map(|(subscriber, announced)| SharedSubscription { subscriber: &**subscriber, announced: *announced });
    let leaving = snapshot.leaving.iter().map(|subscriber| &**subscriber).collect();
    SharedTopic { count: snapshot.count, listed: listed.collect(), leaving }
}

/// The first topics of a node from `start` on, which is a limit of `ZRANGEBYLEX`.
pub(super) fn topics(nodes: &Nodes, node: &NodeId, start: &str, limit: usize) -> Cmd {
    let mut command = redis::cmd("ZRANGEBYLEX");
    command.arg(&keys(nodes, node)[1]).arg(start).arg("+").arg("LIMIT").arg(0).arg(limit);
    command
}

/// What a node shares of these topics.
pub(super) fn values<'a>(nodes: &Nodes, node: &NodeId, topics: impl IntoIterator<Item = &'a str>) -> Cmd {
    let mut command = redis::cmd("HMGET");
    command.arg(&keys(nodes, node)[0]);
    for topic in topics {
        command.arg(topic);
    }
    command
}

/// Removes topics of a dead node.
pub(super) async fn remove(nodes: &Nodes, node: &NodeId, topics: &[String]) -> Result<(), NodesError> {
    let [hash, index] = keys(nodes, node);
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    pipeline.cmd("HDEL").arg(hash).arg(topics).ignore();
    pipeline.cmd("ZREM").arg(index).arg(topics).ignore();
    nodes.ask_all(&pipeline).await
}

/// What [`values`] returned of a topic; nothing without subscriptions.
pub(super) fn parse(value: Option<String>) -> Result<Snapshot, NodesError> {
    let Some(value) = value else { return Ok(Snapshot::default()) };
    let SharedTopic::<Subscriber> { count, listed, leaving } = serde_json::from_str(&value)?;
    let listed = listed.into_iter().map(|shared| (Arc::new(shared.subscriber), shared.announced));
    Ok(Snapshot { count, listed: listed.collect(), leaving: leaving.into_iter().map(Arc::new).collect() })
}
