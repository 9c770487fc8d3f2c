//! The records of all nodes in Redis, written and read in one round trip.

use super::{ClusterNode, LEASE, MAX_NODES, MAX_RECORD_BYTES, MAX_REMOVED, NodeReport};
use crate::nodes::{NodeId, NodesError, milliseconds, script};
use crate::redis_client::RedisClient;

/// The sorted set of leases.
pub(super) const LEASES: &str = "tallycast:cluster";
/// The hash of records. In a Redis Cluster it is where the leases are.
pub(super) const RECORDS: &str = "{tallycast:cluster}:records";

const ANNOUNCE: &str = include_str!("announce.lua");

/// Nodes and their records, which may have been written by anything.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// The nodes with a lease.
#[derive(Debug)]
pub(super) struct Reading {
    /// The time in Redis, in seconds since the Unix epoch.
    pub(super) time: u64,
    /// Those with the newest leases, [`MAX_NODES`] at most, sorted by name.
    pub(super) nodes: Vec<ClusterNode>,
    /// The number of all.
    pub(super) total: usize,
    /// Of the newest, those whose records are not valid.
    pub(super) skipped: usize,
}

/// Writes the record of a node, renews its lease, and reads all records.
pub(super) async fn announce(client: &RedisClient, id: &NodeId, report: &NodeReport) -> Result<Reading, NodesError> {
    run(client, id, &serde_json::to_string(report)?).await
}

/// Removes the record of a node, and ends its lease.
pub(super) async fn remove(client: &RedisClient, id: &NodeId) -> Result<(), NodesError> {
    run(client, id, "").await.map(drop)
}

async fn run(client: &RedisClient, id: &NodeId, record: &str) -> Result<Reading, NodesError> {
    let mut command = script(ANNOUNCE, 2);
    command.arg(LEASES).arg(RECORDS).arg(id.as_str()).arg(record);
    command.arg(milliseconds(LEASE)).arg(MAX_NODES).arg(MAX_REMOVED).arg(MAX_RECORD_BYTES);
    // The limit is the client's, which gives up a connection without an answer.
    let (time, total, records): (u64, usize, Records) = client.query(&command).await?;
    let mut nodes: Vec<ClusterNode> = records.iter().filter_map(|(id, record)| parse(id, record)).collect();
    nodes.sort_unstable_by(|one, other| (&one.report.node, &one.id).cmp(&(&other.report.node, &other.id)));
    Ok(Reading { time: time / 1000, skipped: records.len() - nodes.len(), nodes, total })
}

/// A node that a tallycast of this version or of a compatible one has written.
fn parse(id: &[u8], record: &[u8]) -> Option<ClusterNode> {
    let id = str::from_utf8(id).ok()?.to_owned();
    let node: ClusterNode = serde_json::from_slice(record).ok()?;
    Some(ClusterNode { id, ..node })
}
