//! Shares and announces what has changed, keeps the lease of this node, and clears up nodes that have died.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::entry::{Change, Snapshot};
use super::event::EventSender;
use super::heir::Heir;
use super::registry::Registry;
use super::{CLOSE_LIMIT, PresenceEvent, PresenceStats, RENEWALS, Subscriber, Subscription, Timing, shared};
use crate::nodes::{NodeId, Nodes, NodesError, Renewal};

/// Topics in one write.
const BATCH_TOPICS: usize = 256;
/// The time between two looks whether everything is published, at the shutdown.
const LEAVE_PERIOD: Duration = Duration::from_millis(20);
/// The keys of a node in Redis.
const KEYS: usize = 2;
/// Bytes of what is listed in one write, unless a single topic has more.
const BATCH_BYTES: usize = 1024 * 1024;

/// Shares and announces the changes of a registry.
pub(super) struct Task {
    node: Arc<str>,
    shared: Option<Shared>,
    registry: Arc<Registry>,
    events: EventSender,
    /// Topics whose events up to a number are to be published before what they have left is forgotten.
    unpublished: VecDeque<(u64, Arc<str>)>,
    stats: Arc<PresenceStats>,
    timing: Timing,
}

/// The part that Redis has in it.
struct Shared {
    nodes: Nodes,
    /// This life of the node.
    id: NodeId,
    /// When the lease was renewed last; never before the first time, and after a failure.
    renewed_at: Option<Instant>,
    /// Since when each renewal has succeeded.
    steady_since: Option<Instant>,
    /// Whether something was written.
    is_written: bool,
    /// Whether the last attempt failed, which is logged once for each outage.
    is_failing: bool,
    heir: Heir,
}

impl Task {
    pub(super) fn new(
        node: &str,
        nodes: Option<Nodes>,
        registry: Arc<Registry>,
        events: EventSender,
        stats: Arc<PresenceStats>,
        timing: Timing,
    ) -> Self {
        let shared = nodes.map(|nodes| Shared {
            nodes,
            id: NodeId::new(node),
            renewed_at: None,
            steady_since: None,
            is_written: false,
            is_failing: false,
            heir: Heir::default(),
        });
        Self { node: node.into(), shared, registry, events, unpublished: VecDeque::new(), stats, timing }
    }

    /// Runs until `stop` is cancelled, and then ends all subscriptions.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(self.timing.flush);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => break,
            }
            self.turn().await;
        }
        self.registry.clear();
        if timeout(CLOSE_LIMIT, self.leave()).await.is_err() {
            tracing::debug!("the subscriptions could not be removed from Redis; they expire");
        }
    }

    /// Ends the last subscriptions, waits until that is published, and ends the lease. Otherwise there will be an heir.
    async fn leave(&mut self) {
        while {
            self.turn().await;
            self.registry.is_due() || self.events.published() < self.events.sent()
        } {
            sleep(self.timing.flush.min(LEAVE_PERIOD)).await;
        }
        if let Some(Shared { nodes, id, .. }) = &self.shared
            && let Err(error) = nodes.leave(id, &shared::keys(nodes, id)).await
        {
            tracing::debug!(%error, "the lease could not be ended; it expires");
        }
    }

    /// Does everything that is due.
    async fn turn(&mut self) {
        let outcome = self.try_turn().await;
        let Some(shared) = &mut self.shared else { return };
        match outcome {
            Ok(()) => shared.is_failing = false,
            Err(error) => {
                self.stats.failures.add(1);
                (shared.renewed_at, shared.steady_since) = (None, None);
                if !std::mem::replace(&mut shared.is_failing, true) {
                    tracing::warn!(%error, "cannot share subscriptions through Redis; retrying");
                }
            }
        }
    }

    async fn try_turn(&mut self) -> Result<(), NodesError> {
        if let Some(shared) = &mut self.shared {
            shared.renew(&self.registry).await?;
        }
        let is_shared = self.flush().await?;
        if let Some(shared) = &mut self.shared {
            if !is_shared {
                // The next turn begins another life.
                shared.renewed_at = None;
            } else if shared.is_steady(self.timing.grace) {
                let Shared { nodes, id, heir, .. } = shared;
                let finished = heir.turn(nodes, id, &self.events, self.timing.look).await?;
                self.stats.inherited.add(finished);
            }
        }
        Ok(())
    }

    /// Shares and announces everything that was due at the beginning. Returns `false` if the lease has ended.
    async fn flush(&mut self) -> Result<bool, NodesError> {
        while let Some((number, topic)) =
            self.unpublished.pop_front_if(|(number, _)| *number <= self.events.published())
        {
            self.registry.published(&topic, number);
        }
        let mut due = self.registry.take_due().into_iter();
        while due.len() > 0 {
            let batch = self.take(&mut due);
            let written = self.write(&batch).await;
            if !matches!(written, Ok(true)) {
                for change in &batch {
                    self.registry.undo(change);
                }
                self.registry.put_back(due);
                return written;
            }
            for change in batch {
                self.announce(&change);
                let number = self.events.sent();
                // Without Redis there is no heir.
                self.registry.confirm(&change, self.shared.is_some().then_some(number));
                if self.shared.is_some() && !change.disconnected.is_empty() {
                    self.unpublished.push_back((number, change.topic));
                }
            }
        }
        Ok(true)
    }

    /// What is due of the next topics.
    fn take(&self, due: &mut impl Iterator<Item = Arc<str>>) -> Vec<Change> {
        let (now, mut budget) = (Instant::now(), self.events.budget());
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_TOPICS
            && bytes < BATCH_BYTES
            && let Some(topic) = due.next()
        {
            let Some(change) = self.registry.take(&topic, now, budget) else { continue };
            budget = budget.map(|budget| budget.saturating_sub(change.events()));
            bytes += topic.len() + change.value.as_ref().map_or(0, Snapshot::size);
            batch.push(change);
        }
        batch
    }

    async fn write(&mut self, batch: &[Change]) -> Result<bool, NodesError> {
        let Some(Shared { nodes, id, is_written, .. }) = &mut self.shared else { return Ok(true) };
        let has_lease = shared::write(nodes, id, batch).await?;
        *is_written |= has_lease && batch.iter().any(|change| change.value.is_some());
        Ok(has_lease)
    }

    /// Sends the events of a change.
    fn announce(&self, change: &Change) {
        let Change { topic, connected, disconnected, count, .. } = change;
        let subscription = |subscriber: &Arc<Subscriber>, active| PresenceEvent::Subscription {
            subscription: Subscription {
                topic: Arc::clone(topic),
                node: Arc::clone(&self.node),
                subscriber: Arc::clone(subscriber),
            },
            active,
            life: self.shared.as_ref().map_or_else(|| Arc::clone(&self.node), |shared| shared.id.as_str().into()),
        };
        for subscriber in disconnected {
            self.events.send(subscription(subscriber, false));
        }
        for subscriber in connected {
            self.events.send(subscription(subscriber, true));
        }
        if let Some(count) = count {
            let (topic, node) = (Arc::clone(topic), Arc::clone(&self.node));
            self.events.send(PresenceEvent::Count { topic, node, count: *count });
        }
    }
}

impl Shared {
    /// Renews the lease when it is due. If it was lost, everything is shared again.
    async fn renew(&mut self, registry: &Registry) -> Result<(), NodesError> {
        let period = self.nodes.lease() / RENEWALS;
        if self.renewed_at.is_some_and(|renewed_at| renewed_at.elapsed() < period) {
            return Ok(());
        }
        let began = Instant::now();
        match self.nodes.renew(&self.id, &shared::keys(&self.nodes, &self.id)).await? {
            Renewal::Kept(present) if present == KEYS || !self.is_written => {}
            // Redis has lost its data. Otherwise there are no subscriptions, and nothing is done.
            Renewal::Kept(_) | Renewal::New => {
                self.nodes.ask::<()>(redis::cmd("UNLINK").arg(&shared::keys(&self.nodes, &self.id))).await?;
                self.share_again(registry, false);
            }
            Renewal::Ended => {
                tracing::warn!(node = %self.id, "other nodes took this one for dead; its subscriptions are announced again");
                self.id = NodeId::new(self.id.name());
                self.share_again(registry, true);
                self.heir = Heir::default();
                // Its lease begins with another renewal.
                self.nodes.renew(&self.id, &[]).await?;
            }
        }
        self.renewed_at = Some(began);
        self.steady_since.get_or_insert(began);
        Ok(())
    }

    fn share_again(&mut self, registry: &Registry, disconnected: bool) {
        self.is_written = false;
        registry.share_again(disconnected);
    }

    /// Whether all other nodes have had the time to renew their leases after an outage of Redis.
    fn is_steady(&self, grace: Duration) -> bool {
        self.steady_since.is_some_and(|since| since.elapsed() >= grace)
    }
}
