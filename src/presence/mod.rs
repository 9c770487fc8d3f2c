//! Who is there: the subscriptions of all streams, by topic, on this node and on the others that share its Redis server.
//!
//! ```text
//! streams ─lock→ registry ─every 500 ms→ Redis ─→ queries of any node
//!                     └────── then ──mpsc→ events
//! ```
//!
//! A stream adds its subscriptions to the registry and removes them at its end. A task writes the topics that have changed into
//! Redis, and then sends their events: so whatever was announced is known to the other nodes, and when this node dies, its heir
//! (`src/nodes`) sends the disconnect events. A subscription that ends before it was announced has no events. Popular
//! topics are counted, not listed.

mod entry;
mod event;
mod heir;
mod observer;
mod query;
mod registry;
mod shared;
mod subscriber;
mod task;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tallycast_fanout::Counter;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use event::SubscriptionJson;
pub use event::{PresenceEvent, PresenceEvents};
pub use observer::PresenceObserver;
pub use query::{Cursor, InvalidCursor, Page, TopicCount, TopicPage, TopicsPage, Unavailable};
pub use subscriber::{InvalidId, Subscriber, SubscriberId, Subscription};

use crate::nodes::{LEASES, Nodes};
use crate::redis_client::RedisClient;
use query::Directory;
use registry::Registry;
use task::Task;

/// Subscriptions of each topic that a node lists; further ones are counted.
pub const MAX_LISTED: usize = 100;
/// Subscriptions of a topic on a node up to which each has events of its own, and connect events of a topic and second.
pub const MAX_EVENT_SUBSCRIPTIONS: usize = 100;
/// Topics of a node; subscriptions to further ones are not known.
pub const MAX_TOPICS: usize = 100_000;
/// Bytes of a payload as JSON; a larger one is left out.
pub const MAX_PAYLOAD_BYTES: usize = 4 * 1024;
/// Bytes of a subject; a longer one is cut.
pub const MAX_SUBJECT_BYTES: usize = 256;
/// Bytes of what a node lists of a topic; further subscriptions are counted.
pub const MAX_TOPIC_BYTES: usize = 64 * 1024;
/// Bytes of the topics of a node and of what it lists, in all; further subscriptions are counted, and further topics not known.
pub const MAX_BYTES: usize = 128 * 1024 * 1024;
/// Events that wait to be published. While there are so many, further ones are held back.
const EVENTS: usize = 4096;

/// The time between two writes of what has changed.
const FLUSH_PERIOD: Duration = Duration::from_millis(500);
/// How long a node counts after its last renewal.
const LEASE: Duration = Duration::from_secs(15);
/// The renewals of a lease in its time.
const RENEWALS: u32 = 3;
/// The time between two looks for nodes whose leases have expired.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Time for the last changes to be written at the shutdown.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The bounds of a registry.
#[derive(Debug, Clone)]
struct Limits {
    topics: usize,
    /// Of a topic.
    listed: usize,
    bytes: usize,
    topic_bytes: usize,
    events: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            topics: MAX_TOPICS,
            listed: MAX_LISTED,
            bytes: MAX_BYTES,
            topic_bytes: MAX_TOPIC_BYTES,
            events: MAX_EVENT_SUBSCRIPTIONS,
        }
    }
}

/// What is counted of subscriptions.
#[derive(Debug, Default)]
pub struct PresenceStats {
    /// Subscriptions of the open streams of this node.
    pub subscriptions: Counter,
    /// Those that are not known, because there are too many topics.
    pub overflow: Counter,
    /// Events sent.
    pub events: Counter,
    /// Subscriptions without events of their own, because their topics have too many.
    pub silenced: Counter,
    /// Attempts to write to Redis that failed.
    pub failures: Counter,
    /// Dead nodes that this one has cleared up.
    pub inherited: Counter,
}

/// The subscriptions of all nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Presence {
    registry: Arc<Registry>,
    directory: Directory,
    stop: CancellationToken,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Presence {
    /// Starts to share the subscriptions of `node`, with the other nodes at the Redis server if there is one.
    pub fn start(node: &str, redis: Option<RedisClient>, stats: Arc<PresenceStats>) -> (Self, PresenceEvents) {
        Self::start_with(node, redis, stats, Limits::default(), Timing::default())
    }

    fn start_with(
        node: &str,
        redis: Option<RedisClient>,
        stats: Arc<PresenceStats>,
        limits: Limits,
        timing: Timing,
    ) -> (Self, PresenceEvents) {
        let registry = Arc::new(Registry::new(limits, Arc::clone(&stats)));
        let nodes = redis.map(|client| Nodes::new(client, LEASES, timing.lease));
        let directory = match &nodes {
            Some(nodes) => Directory::Shared(nodes.clone()),
            None => Directory::Local { node: node.into(), registry: Arc::clone(&registry) },
        };
        let (events, received) = event::channel(EVENTS, Arc::clone(&stats));
        let stop = CancellationToken::new();
        let task = Task::new(node, nodes, Arc::clone(&registry), events, stats, timing).run(stop.clone());
        let task = Arc::new(Mutex::new(Some(tokio::spawn(task))));
        (Self { registry, directory, stop, task }, received)
    }

    /// What registers the subscriptions of the server's streams.
    pub fn observer(&self) -> PresenceObserver {
        PresenceObserver::new(Arc::clone(&self.registry))
    }

    /// Ends all subscriptions that are left, sends their events, and has the other nodes forget this one.
    pub async fn close(&self) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && task.await.is_err()
        {
            tracing::error!("the task of the subscriptions failed");
        }
    }
}

/// When the task acts.
#[derive(Debug, Clone)]
struct Timing {
    flush: Duration,
    lease: Duration,
    /// The time for which the lease must have been renewed without a failure before other nodes are taken for dead: after an
    /// outage of Redis, all must have had the time to renew theirs.
    grace: Duration,
    /// The time between two looks for dead nodes.
    look: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { flush: FLUSH_PERIOD, lease: LEASE, grace: LEASE, look: LOOK_PERIOD }
    }
}
