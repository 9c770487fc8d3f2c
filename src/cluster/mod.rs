//! The nodes that share a broker, for operators: each announces itself with a short record, and knows the records of all.
//!
//! ```text
//! report ─every 5 s→ Redis ─the same answer→ view ─→ admin page, `/admin/cluster.json`
//! ```
//!
//! Keys: the sorted set `tallycast:cluster` (node -> expiry) and the hash `{tallycast:cluster}:records` (node -> JSON). A record
//! has a lease, which expires by the clock of Redis when its node dies; a node that stops removes its own. The clocks of nodes
//! do not matter. Where there is no Redis, nodes send their records to all others (`gossip`), through a broker that may keep nothing
//! (`medium`), and each node has leases for the others by its own clock. The leases of `src/nodes` are others: those have heirs, and only exist with `--subscriptions` and `--sessions`.

mod announcer;
mod gossip;
mod medium;
mod records;
mod task;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;
use std::time::Duration;

use tallycast_fanout::Counter;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use medium::Medium;
pub use view::{ClusterNode, ClusterView, NodeReport};

use crate::nodes::NodeId;
use crate::redis_client::RedisClient;
use announcer::Announcer;
use task::Task;

/// How the nodes know of each other.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Via {
    /// Not at all: the node is alone.
    Nothing,
    /// By records in Redis.
    Redis(RedisClient),
    /// By messages to all nodes.
    Medium(Medium),
}

/// Nodes in a view; further ones are counted.
pub const MAX_NODES: usize = 256;
/// The size of a record in bytes. The text of a larger one, which no tallycast writes, is not read.
pub const MAX_RECORD_BYTES: usize = 2 * 1024;

/// The time between two announcements, unless the status of the node changes.
const PERIOD: Duration = Duration::from_secs(5);
/// The time between two looks for such a change, and before another attempt after a failure.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How long a node counts after its last announcement.
const LEASE: Duration = Duration::from_secs(15);
/// Nodes whose leases have expired that an announcement removes.
const MAX_REMOVED: usize = 100;
/// Time for Redis to remove the record at shutdown; then it expires.
const REMOVAL_LIMIT: Duration = Duration::from_secs(1);

/// Counters of the cluster view.
#[derive(Debug, Default)]
pub struct ClusterStats {
    /// Nodes with a lease, when they were read last.
    pub nodes: Counter,
    /// Records left out of a view because they are not valid.
    pub skipped: Counter,
    /// Attempts to announce this node that failed.
    pub failures: Counter,
}

/// All nodes, as they were read last. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster {
    view: watch::Receiver<Arc<ClusterView>>,
}

impl Cluster {
    /// Announces the node whose state `report` returns, until `shutdown` is cancelled.
    pub fn start(
        report: impl Fn() -> NodeReport + Send + Sync + 'static,
        via: Via,
        stats: Arc<ClusterStats>,
        shutdown: CancellationToken,
    ) -> Self {
        let id = NodeId::new(&report().node);
        // A record has a bound, so its name is cut as well.
        let name = id.name().to_owned();
        let report = move || NodeReport { node: name.clone(), ..report() };
        let (sender, view) = watch::channel(Arc::new(ClusterView::unread(&id, report())));
        match via {
            Via::Nothing => drop(tokio::spawn(Task::new(id, report, None, sender, stats).run(shutdown))),
            Via::Redis(redis) => drop(tokio::spawn(Task::new(id, report, Some(redis), sender, stats).run(shutdown))),
            Via::Medium(medium) => drop(tokio::spawn(Announcer::new(id, report, medium, sender, stats).run(shutdown))),
        }
        Self { view }
    }

    /// The newest view.
    pub fn nodes(&self) -> Arc<ClusterView> {
        Arc::clone(&self.view.borrow())
    }

    /// Waits until the record is removed, after the shutdown, or the time for that is over.
    pub async fn closed(mut self) {
        while self.view.changed().await.is_ok() {}
    }
}
