//! The nodes that share Redis: each has a lease, which it renews and which expires by the clock of Redis when the node
//! dies. Another node then becomes its heir and clears up what it has left. Nothing else is known of other nodes.
//!
//! Each part of the program that leaves something for an heir has leases of its own, in keys whose names begin with those of the part:
//! the sorted set itself, such as `tallycast:nodes` (node -> expiry), the sorted set `…:ended` (node -> time) of leases that an heir has
//! ended, so that a node that was only cut off notices it, and the hash `…:heirs` (dead node -> heir) while an heir has not finished.

#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::{Cmd, FromRedisValue, RedisError, RedisResult};
use tokio::time::timeout;

use crate::redis_client::RedisClient;

/// The sorted set of the leases of subscriptions.
pub(crate) const LEASES: &str = "tallycast:nodes";

/// Nodes that are asked about subscriptions. Beyond that, some are left out.
pub(crate) const MAX_NODES: usize = 256;
/// Dead nodes that a node clears up at the same time.
const MAX_CLAIMED: usize = 16;
/// The length of a node's name, in bytes; longer ones are cut.
const MAX_NAME_BYTES: usize = 255;
/// Time for Redis to answer.
const LIMIT: Duration = Duration::from_secs(2);
/// How long an ended lease is remembered: a node that was cut off for longer believes that Redis has lost its data.
const ENDED_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// The number of leases for which a node's keys live without a renewal: its heir needs them after the lease.
const KEY_LEASES: u32 = 4;

const RENEW: &str = include_str!("renew.lua");
const LIVE: &str = include_str!("live.lua");
const CLAIM: &str = include_str!("claim.lua");

/// One life of a node: its name, and a random epoch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(Arc<str>);

/// Separates name and epoch.
const EPOCH: char = '#';

impl NodeId {
    /// A new life of the node with this name.
    pub(crate) fn new(name: &str) -> Self {
        let name = &name[..name.floor_char_boundary(MAX_NAME_BYTES)];
        // The keys of a hasher are random for each instance.
        Self(format!("{name}{EPOCH}{:016x}", RandomState::new().hash_one(SystemTime::now())).into())
    }

    /// The name of the node.
    pub(crate) fn name(&self) -> &str {
        name(&self.0)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name in the text of a [`NodeId`].
pub(crate) fn name(id: &str) -> &str {
    id.rsplit_once(EPOCH).map_or(id, |(name, _)| name)
}

impl From<String> for NodeId {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a renewal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// The lease goes on. So many of the node's keys exist.
    Kept(usize),
    /// There was none: it is the first, or Redis has lost its data.
    New,
    /// Another node has ended it, and clears up what this one left.
    Ended,
}

/// Why Redis was of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodesError {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("no answer from Redis within {} s", LIMIT.as_secs())]
    Timeout,
    #[error("an answer of Redis is invalid: {0}")]
    Json(#[from] serde_json::Error),
}

/// The leases of one part of the program in one Redis server. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Nodes {
    client: RedisClient,
    /// The sorted set.
    leases: &'static str,
    lease: Duration,
}

impl Nodes {
    /// Leases of this length in the sorted set `leases`.
    pub(crate) fn new(client: RedisClient, leases: &'static str, lease: Duration) -> Self {
        Self { client, leases, lease }
    }

    /// The sorted set of leases.
    pub(crate) fn leases(&self) -> &'static str {
        self.leases
    }

    fn ended(&self) -> String {
        format!("{}:ended", self.root())
    }

    fn heirs(&self) -> String {
        format!("{}:heirs", self.root())
    }

    /// The start of the names of keys that are used together with the leases. In a cluster it puts them into the same slot.
    fn root(&self) -> String {
        if self.client.is_cluster() { format!("{{{}}}", self.leases) } else { self.leases.to_owned() }
    }

    /// The name of a key of a node, of a part of the program whose keys begin with `start`.
    pub(crate) fn key_of(&self, start: &str, node: &NodeId) -> String {
        // Elsewhere the nodes are spread over slots by their names.
        if self.client.is_cluster() { format!("{}:{start}:{node}", self.root()) } else { format!("{start}:{{{node}}}") }
    }

    /// The length of a lease.
    pub(crate) fn lease(&self) -> Duration {
        self.lease
    }

    /// How long the keys of a node live without a renewal.
    pub(crate) fn key_age(&self) -> Duration {
        self.lease * KEY_LEASES
    }

    /// Begins the lease of `node` or renews it, and keeps its `keys` alive.
    pub(crate) async fn renew(&self, node: &NodeId, keys: &[String]) -> Result<Renewal, NodesError> {
        let mut command = script(RENEW, keys.len() + 2);
        command.arg(self.leases).arg(self.ended()).arg(keys);
        command.arg(node.as_str()).arg(milliseconds(self.lease)).arg(milliseconds(self.key_age()));
        let (outcome, present): (String, usize) = self.ask(&command).await?;
        Ok(match &*outcome {
            "kept" => Renewal::Kept(present),
            "ended" => Renewal::Ended,
            _ => Renewal::New,
        })
    }

    /// The nodes whose leases have not expired, in the order of their names.
    pub(crate) async fn live(&self) -> Result<Vec<NodeId>, NodesError> {
        let mut command = script(LIVE, 1);
        command.arg(self.leases).arg(MAX_NODES);
        let mut live: Vec<NodeId> = self.ask::<Vec<String>>(&command).await?.into_iter().map(NodeId::from).collect();
        live.sort_unstable();
        Ok(live)
    }

    /// Makes `node` the heir of nodes whose leases have expired. Returns all that it is heir of and has not finished.
    pub(crate) async fn claim(&self, node: &NodeId) -> Result<Vec<NodeId>, NodesError> {
        let mut command = script(CLAIM, 3);
        command.arg(self.leases).arg(self.ended()).arg(self.heirs());
        command.arg(node.as_str()).arg(MAX_CLAIMED).arg(milliseconds(ENDED_AGE));
        Ok(self.ask::<Vec<String>>(&command).await?.into_iter().map(NodeId::from).collect())
    }

    /// Keeps the `keys` of a dead node alive.
    pub(crate) async fn keep(&self, keys: &[String]) -> Result<(), NodesError> {
        let mut pipeline = redis::pipe();
        for key in keys {
            pipeline.cmd("PEXPIRE").arg(key).arg(milliseconds(self.key_age())).ignore();
        }
        self.ask_all(&pipeline).await
    }

    /// Removes the `keys` of a dead node. Then nothing is left of it.
    pub(crate) async fn finish(&self, dead: &NodeId, keys: &[String]) -> Result<(), NodesError> {
        self.ask::<()>(redis::cmd("UNLINK").arg(keys)).await?;
        self.ask(redis::cmd("HDEL").arg(self.heirs()).arg(dead.as_str())).await
    }

    /// Ends the lease of `node`, which has cleared up itself, and removes its `keys`.
    pub(crate) async fn leave(&self, node: &NodeId, keys: &[String]) -> Result<(), NodesError> {
        self.ask::<()>(redis::cmd("ZREM").arg(self.leases).arg(node.as_str())).await?;
        self.ask(redis::cmd("UNLINK").arg(keys)).await
    }

    /// An answer within the time limit, which is shorter than that of the client: a connection without answers is given up here.
    async fn within<T>(&self, answer: impl Future<Output = RedisResult<T>>) -> Result<T, NodesError> {
        let answer = timeout(LIMIT, answer).await.map_err(|_| {
            self.client.give_up();
            NodesError::Timeout
        });
        Ok(answer??)
    }

    /// Sends an idempotent command, with a time limit.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, NodesError> {
        self.within(self.client.query(command)).await
    }

    /// Sends commands together, with a time limit; once, also if the connection turns out to be broken.
    pub(crate) async fn send(&self, pipeline: &redis::Pipeline) -> Result<(), NodesError> {
        self.within(self.client.send_once(pipeline)).await
    }

    /// Sends commands together, with a time limit.
    pub(crate) async fn ask_all<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, NodesError> {
        match self.within(self.client.send_once(pipeline)).await {
            // The connection broke since the last command.
            Err(NodesError::Redis(error)) if error.is_io_error() && !error.is_timeout() => {
                self.within(self.client.send_once(pipeline)).await
            }
            answer => answer,
        }
    }
}

/// A command that runs a script with so many keys.
pub(crate) fn script(text: &str, keys: usize) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(keys);
    command
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
