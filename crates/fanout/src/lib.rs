//! The engine: messages in, bytes on every reader's socket out.
//!
//! ```text
//! Message ─mpsc→ hub ─mpsc→ shard 0 ─write→ its connections
//!                     └─mpsc→ shard 1 ─write→ ...
//! ```
//!
//! The engine knows no protocol: a transport gives it a [`Framing`] and [`Subscriber`]s. Every connection reads exactly
//! one *feed*, the pair of a set of topics and a framing. A message is framed once for each feed it belongs to; a connection
//! is only a position in its feed's short log of framed batches, so the memory a message takes does not depend on the
//! number of its readers.

mod connection;
mod framing;
mod hub;
mod inbound;
mod log;
mod message;
mod namespace;
mod parting;
mod policy;
mod ready;
mod shard;
mod stats;
#[cfg(test)]
mod tests;
mod topic;
mod totals;
mod trie;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, unconstrained};

pub use connection::{ConnectionInfo, Sink, Stream, Subscriber};
pub use framing::Framing;
pub use inbound::{Ending, Inbound, Said};
pub use message::{Data, Message, Tally};
pub use namespace::{MAX_NAMESPACE_BYTES, MAX_NAMESPACE_DEPTH, Namespace, NamespaceError};
pub use parting::finish;
pub use policy::{NamespacePolicy, Policy, PolicyError};
pub use shard::{ConnectionReport, FeedReport};
pub use stats::{Counter, Histogram, Stats};
pub use topic::{MAX_TOPICS, MAX_WILDCARDS, Topic, TopicError, Topics};

use hub::{FeedHandle, Hub};
use shard::{HubSide, Input, Shard};
use totals::Totals;

/// A feed's number in the hub. Free numbers are used again.
type FeedId = usize;

/// How many subscribers may wait for the hub.
const JOINING: usize = 1024;
/// How many readers' wishes for another feed may wait for the hub. Others wait with their shards.
const CHANGING: usize = 1024;
/// How long a shard may take to tell of its connections.
const REPORT_LIMIT: Duration = Duration::from_secs(2);

/// What the engine may use, and when it gives up on a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Tasks that write to connections. Default: one for each core.
    pub shards: usize,
    /// Turns of the hub that may wait for a shard. Small, so that messages gather in larger batches before the hub and
    /// not in many small ones behind it.
    pub shard_inbox: usize,
    /// Batches that a feed's log goes back, for readers that are behind.
    pub log_batches: usize,
    /// Bytes that a feed's log goes back.
    pub log_bytes: usize,
    /// Bytes of all logs of one shard together.
    pub total_log_bytes: usize,
    /// Keys that the tallies merged for one reader may have.
    pub merged_keys: usize,
    /// The policies for slow readers; a namespace that none contains has [`Policy::Disconnect`].
    pub policies: Vec<NamespacePolicy>,
    /// The namespaces whose tallies are summed up, for readers that begin with totals.
    pub totals: Vec<Namespace>,
    /// Keys that the totals of one namespace may have; with more there are no snapshots.
    pub max_totals: usize,
    /// Whether readers are sent the difference when totals turn out to be other than what they were sent.
    pub corrections: bool,
    /// The silence on a connection after which a keep-alive is sent.
    pub keep_alive: Duration,
    /// How long a client that speaks may take to answer a keep-alive.
    pub answer_limit: Duration,
    /// How long a reader may take nothing at all while bytes wait for it.
    pub stall_limit: Duration,
    /// How long streams may take to end once the messages have ended.
    pub close_limit: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            shards: std::thread::available_parallelism().map_or(1, usize::from),
            shard_inbox: 2,
            log_batches: 256,
            log_bytes: 4 * 1024 * 1024,
            total_log_bytes: 256 * 1024 * 1024,
            merged_keys: 100_000,
            policies: Vec::new(),
            totals: Vec::new(),
            max_totals: 100_000,
            corrections: true,
            keep_alive: Duration::from_secs(15),
            answer_limit: Duration::from_secs(15),
            stall_limit: Duration::from_secs(60),
            close_limit: Duration::from_secs(5),
        }
    }
}

/// The running engine.
#[derive(Debug)]
pub struct Fanout {
    gateway: Gateway,
    tasks: JoinSet<()>,
}

/// Through which transports hand over their subscribers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gateway {
    joining: mpsc::Sender<Subscriber>,
    shards: Arc<[mpsc::Sender<Input>]>,
    totals_known: Arc<HashMap<Namespace, watch::Receiver<bool>>>,
    stats: Arc<Stats>,
}

/// Why a reader cannot begin with totals.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTotals {
    /// The namespace is none of [`Config::totals`].
    #[error("there are no totals of {0}; there are some of {1}")]
    NotKept(Namespace, String),
    /// No source has told them within the time limit.
    #[error("the totals of {0} are not known yet")]
    NotKnown(Namespace),
}

/// The engine has ended, or did not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine is shutting down or overloaded")]
pub struct Unavailable;

impl Fanout {
    /// Starts the hub and its shards on the current runtime. They end when all senders of `inbox` are gone: what was
    /// sent is still delivered, then every stream ends in good order.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: Config, inbox: mpsc::Receiver<Message>) -> Self {
        let config = Arc::new(config);
        let stats = Arc::<Stats>::default();
        let (joining, joining_inbox) = mpsc::channel(JOINING);
        let (changes, changes_inbox) = mpsc::channel(CHANGING);
        let mut tasks = JoinSet::new();
        let shards: Vec<_> = (0..config.shards.max(1))
            .map(|number| {
                let (shard, inbox) = mpsc::channel(config.shard_inbox.max(1));
                let hub = HubSide { number, changes: changes.clone() };
                // A shard yields by itself. Tokio's own budget would make sockets look unready after 128 of them.
                tasks.spawn(unconstrained(Shard::new(Arc::clone(&config), Arc::clone(&stats), inbox, hub).run()));
                shard
            })
            .collect();
        let (totals, totals_known) = Totals::new(&config);
        let gateway = Gateway {
            joining,
            shards: shards.clone().into(),
            totals_known: Arc::new(totals_known),
            stats: Arc::clone(&stats),
        };
        tasks.spawn(Hub::new(config, stats, shards, totals).run(inbox, joining_inbox, changes_inbox));
        Self { gateway, tasks }
    }

    /// Through which transports hand over their subscribers.
    pub fn gateway(&self) -> Gateway {
        self.gateway.clone()
    }

    /// Waits until every stream has ended, which is at most [`Config::close_limit`] after the last message's sender is
    /// gone and all shards have taken what waited.
    pub async fn ended(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the engine failed");
            }
        }
    }
}

impl Gateway {
    /// Hands a subscriber over. It receives every message that is sent to the engine after this has returned.
    ///
    /// # Errors
    /// When the engine has ended; the subscriber is then dropped, and its connection with it.
    pub async fn subscribe(&self, subscriber: Subscriber) -> Result<(), Unavailable> {
        self.joining.send(subscriber).await.map_err(|_| Unavailable)
    }

    /// Waits until the totals of `namespace` are known, so that a [`Subscriber::snapshot`] of them can be had.
    ///
    /// # Errors
    /// When they are not kept, or not known within `limit`.
    pub async fn totals_known(&self, namespace: &Namespace, limit: Duration) -> Result<(), NoTotals> {
        let Some(known) = self.totals_known.get(namespace) else {
            let mut kept: Vec<&str> = self.totals_known.keys().map(Namespace::as_str).collect();
            kept.sort_unstable();
            let kept = if kept.is_empty() { "no namespace".to_owned() } else { kept.join(", ") };
            return Err(NoTotals::NotKept(namespace.clone(), kept));
        };
        match tokio::time::timeout(limit, known.clone().wait_for(|known| *known)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(NoTotals::NotKnown(namespace.clone())),
        }
    }

    /// All connections, in no particular order.
    ///
    /// # Errors
    /// When the engine has ended or a shard does not answer within two seconds.
    pub async fn connections(&self) -> Result<Vec<ConnectionReport>, Unavailable> {
        self.ask(Input::Report).await
    }

    /// All feeds, those with the most readers first.
    ///
    /// # Errors
    /// As [`connections`](Self::connections).
    pub async fn feeds(&self) -> Result<Vec<FeedReport>, Unavailable> {
        let mut feeds: Vec<FeedReport> = Vec::new();
        let mut by_key = HashMap::new();
        for feed in self.ask(Input::Feeds).await? {
            // Each shard has readers of its own.
            let place = *by_key.entry((feed.topics.clone(), feed.framing)).or_insert(feeds.len());
            match feeds.get_mut(place) {
                Some(same) => same.readers += feed.readers,
                None => feeds.push(feed),
            }
        }
        feeds.sort_by_cached_key(|feed| (std::cmp::Reverse(feed.readers), feed.topics.to_string()));
        Ok(feeds)
    }

    /// Asks every shard and joins the answers.
    async fn ask<T>(&self, question: impl Fn(oneshot::Sender<Vec<T>>) -> Input) -> Result<Vec<T>, Unavailable> {
        let all = async {
            let mut answers = Vec::with_capacity(self.shards.len());
            for shard in &*self.shards {
                let (answer, report) = oneshot::channel();
                shard.send(question(answer)).await.map_err(|_| Unavailable)?;
                answers.push(report);
            }
            let mut joined = Vec::new();
            for answer in answers {
                joined.append(&mut answer.await.map_err(|_| Unavailable)?);
            }
            Ok(joined)
        };
        tokio::time::timeout(REPORT_LIMIT, all).await.unwrap_or(Err(Unavailable))
    }

    /// What the engine counts.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}
