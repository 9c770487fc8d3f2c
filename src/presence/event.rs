//! What changes, for whoever publishes it: the events, and the bounded channel that knows which of them are published.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{PresenceStats, SubscriberId, Subscription};

/// A change of the subscriptions to a topic.
#[derive(Debug, Clone)]
pub enum PresenceEvent {
    /// A subscription began or ended. Each that has begun here ends here once, also if its node dies.
    Subscription {
        /// The subscription.
        subscription: Subscription,
        /// Whether it began.
        active: bool,
        /// The life of its node: another one after a restart, or after others took the node for dead.
        life: Arc<str>,
    },
    /// The number of subscriptions has changed by some that have no events of their own.
    Count {
        /// The topic.
        topic: Arc<str>,
        /// The node whose subscriptions these are.
        node: Arc<str>,
        /// How many there are on that node.
        count: u64,
    },
}

/// What [`PresenceEvent::json`] makes of a subscription.
#[derive(Serialize)]
pub(crate) struct SubscriptionJson<'a> {
    pub(crate) id: SubscriberId,
    pub(crate) topic: &'a str,
    pub(crate) subject: Option<&'a str>,
    pub(crate) payload: Option<&'a RawValue>,
    pub(crate) since: u64,
    pub(crate) node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) active: Option<bool>,
}

impl<'a> From<&'a Subscription> for SubscriptionJson<'a> {
    fn from(Subscription { topic, node, subscriber }: &'a Subscription) -> Self {
        Self {
            id: subscriber.id,
            topic,
            subject: subscriber.subject.as_deref(),
            payload: subscriber.payload.as_deref(),
            since: subscriber.since,
            node,
            active: None,
        }
    }
}

#[derive(Serialize)]
struct CountJson<'a> {
    topic: &'a str,
    count: u64,
    node: &'a str,
}

impl PresenceEvent {
    /// The topic.
    pub fn topic(&self) -> &str {
        match self {
            Self::Subscription { subscription, .. } => &subscription.topic,
            Self::Count { topic, .. } => topic,
        }
    }

    /// The name for an event stream: `subscribed`, `unsubscribed` or `count`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Subscription { active: true, .. } => "subscribed",
            Self::Subscription { active: false, .. } => "unsubscribed",
            Self::Count { .. } => "count",
        }
    }

    /// The same text for the same transition, if two nodes send its event: one that died before it knew that the event was
    /// published, and its heir. Published with this as the idempotency key, it is published once. Counts have none.
    pub fn idempotency_key(&self) -> Option<String> {
        let Self::Subscription { subscription, active, life } = self else { return None };
        let mut hasher = DefaultHasher::new();
        (life, &subscription.topic).hash(&mut hasher);
        let state = if *active { "on" } else { "off" };
        Some(format!("subscriptions:{}:{:016x}:{state}", subscription.subscriber.id, hasher.finish()))
    }

    /// The data for the native API: `{"id", "topic", "subject", "payload", "since", "node", "active"}`, or
    /// `{"topic", "count", "node"}`.
    ///
    /// # Errors
    /// Never for events of this module.
    pub fn json(&self) -> serde_json::Result<String> {
        match self {
            Self::Subscription { subscription, active, .. } => {
                serde_json::to_string(&SubscriptionJson { active: Some(*active), ..subscription.into() })
            }
            Self::Count { topic, node, count } => serde_json::to_string(&CountJson { topic, count: *count, node }),
        }
    }
}

/// A channel for `capacity` events.
pub(super) fn channel(capacity: usize, stats: Arc<PresenceStats>) -> (EventSender, PresenceEvents) {
    let (sender, receiver) = mpsc::channel(capacity);
    let progress = Arc::<Progress>::default();
    (EventSender { sender, progress: Arc::clone(&progress), stats }, PresenceEvents { receiver, progress, taken: 0 })
}

#[derive(Debug, Default)]
struct Progress {
    sent: AtomicU64,
    published: AtomicU64,
}

/// Where the events go.
#[derive(Debug)]
pub(super) struct EventSender {
    sender: mpsc::Sender<PresenceEvent>,
    progress: Arc<Progress>,
    stats: Arc<PresenceStats>,
}

impl EventSender {
    /// How many there is room for; nothing if nobody receives them.
    pub(super) fn budget(&self) -> Option<usize> {
        (!self.sender.is_closed()).then(|| self.sender.capacity())
    }

    /// Sends one that there was room for.
    pub(super) fn send(&self, event: PresenceEvent) {
        if self.sender.try_send(event).is_ok() {
            self.progress.sent.fetch_add(1, Ordering::Relaxed);
            self.stats.events.add(1);
        }
    }

    /// How many were sent.
    pub(super) fn sent(&self) -> u64 {
        self.progress.sent.load(Ordering::Relaxed)
    }

    /// How many of them, the first ones, are published.
    pub(super) fn published(&self) -> u64 {
        if self.sender.is_closed() { self.sent() } else { self.progress.published.load(Ordering::Acquire) }
    }
}

/// The events of subscriptions. Dropped, it switches them off.
#[derive(Debug)]
pub struct PresenceEvents {
    receiver: mpsc::Receiver<PresenceEvent>,
    progress: Arc<Progress>,
    taken: u64,
}

impl PresenceEvents {
    /// Waits for events and takes at most `limit` of them; none at the end. Those of the call before count as published from
    /// now on: if this node dies earlier, its heir publishes their disconnect events.
    pub async fn next(&mut self, limit: usize) -> Vec<PresenceEvent> {
        self.progress.published.store(self.taken, Ordering::Release);
        let mut events = Vec::new();
        self.taken += self.receiver.recv_many(&mut events, limit).await as u64;
        events
    }
}
