//! What the engine may use, and the builder that starts it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::unconstrained;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::fanout::Fanout;
use crate::handle::{Handle, Links};
use crate::history::SharedHistory;
use crate::hub::{Hub, HubInboxes};
use crate::inbox;
use crate::publisher::Publisher;
use crate::shard::{Budgets, Shard};
use crate::totals::Totals;
use crate::{MessageTap, Namespace, NamespacePolicy, Retention, Stats};

/// New subscribers that may wait for the hub.
const SUBSCRIBER_INBOX: usize = 1024;

/// Limits of the engine. Build one by [`Fanout::builder`], or start from [`Config::default`] and set fields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Messages that may wait for the hub. Default: 16,384.
    pub inbox: usize,
    /// Bytes of the messages that may wait for the hub, including those of its current turn. Default: 64 MiB.
    pub inbox_bytes: usize,
    /// Tasks that write to connections. Default: one per core.
    pub shards: usize,
    /// Hub turns that may wait for a shard. Small, so that under load messages gather into few large batches before the
    /// hub instead of many small ones behind it. Default: 2.
    pub shard_inbox: usize,
    /// Batches that a feed's log keeps for readers that are behind. Default: 256.
    pub log_batches: usize,
    /// Bytes that a feed's log keeps. Default: 4 MiB.
    pub log_bytes: usize,
    /// Bytes that wait for readers, all together: in logs, in what is kept for single readers, and in snapshots. Beyond it,
    /// logs are cut back to what the readers that keep up need, and the readers that have been behind for longest are
    /// disconnected. Default: 256 MiB.
    pub total_log_bytes: usize,
    /// Bytes of what is left of messages that were conflated, all together. Beyond it, the readers of the feed that share the
    /// most are disconnected. Default: 64 MiB.
    pub merged_bytes: usize,
    /// Policies for slow readers. [`Policy::Disconnect`](crate::Policy::Disconnect) applies to every namespace that no
    /// entry contains.
    pub policies: Vec<NamespacePolicy>,
    /// Namespaces whose tallies are summed up, so that readers can start with a snapshot of the totals.
    pub totals: Vec<Namespace>,
    /// Keys that the totals of one namespace may have. Beyond that the namespace has no snapshots. Default: 100,000.
    pub max_totals: usize,
    /// Bytes that these keys may have. Default: 8 MiB.
    pub max_totals_bytes: usize,
    /// Whether readers receive the difference when a source reports other totals than they were sent. Default: `true`.
    pub corrections: bool,
    /// How long messages are kept, by [name](Retention::name); see [`Message::kept`](crate::Message::kept). All of an engine's
    /// nodes need the same, so that they name positions alike.
    pub retentions: Vec<Arc<Retention>>,
    /// Engines whose messages a source relays. Until each has said what it keeps, readers who want to start in the past wait; see
    /// [`Publisher::set_path`](crate::Publisher::set_path). Default: none.
    pub relays: usize,
    /// Bytes of the messages that are kept, all together. Beyond it, the oldest go, whatever their retention. Default: 256 MiB.
    pub history_bytes: usize,
    /// Bytes that are being sent to readers that catch up from the history, all together; further readers wait. Default: 64 MiB.
    pub replay_bytes: usize,
    /// Silence on a connection before a keep-alive is sent. Default: 15 s.
    pub keep_alive: Duration,
    /// Time for a client with an [`Inbound`](crate::Inbound) handler to answer a keep-alive. Default: 15 s.
    pub pong_timeout: Duration,
    /// Time for which a reader may accept no bytes while some wait for it. Default: 60 s.
    pub stall_timeout: Duration,
    /// Time for streams to end at shutdown. Default: 5 s.
    pub close_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            inbox: 16_384,
            inbox_bytes: 64 * 1024 * 1024,
            shards: std::thread::available_parallelism().map_or(1, usize::from),
            shard_inbox: 2,
            log_batches: 256,
            log_bytes: 4 * 1024 * 1024,
            total_log_bytes: 256 * 1024 * 1024,
            merged_bytes: 64 * 1024 * 1024,
            policies: Vec::new(),
            totals: Vec::new(),
            max_totals: 100_000,
            max_totals_bytes: 8 * 1024 * 1024,
            corrections: true,
            retentions: Vec::new(),
            relays: 0,
            history_bytes: 256 * 1024 * 1024,
            replay_bytes: 64 * 1024 * 1024,
            keep_alive: Duration::from_secs(15),
            pong_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(5),
        }
    }
}

/// Starts an engine. Made by [`Fanout::builder`].
///
/// Counts of zero are raised to one.
#[derive(Debug, Clone, Default)]
#[must_use = "the engine starts at `build`"]
pub struct Builder {
    config: Config,
    tap: Option<Arc<dyn MessageTap>>,
}

/// Setters with the documentation of the fields that they set.
macro_rules! setters {
    ($($field:ident: $type:ty),* $(,)?) => {
        impl Builder {
            $(
                #[doc = concat!("Sets [`Config::", stringify!($field), "`].")]
                pub fn $field(mut self, $field: $type) -> Self {
                    self.config.$field = $field;
                    self
                }
            )*
        }
    };
}

setters! {
    inbox: usize,
    inbox_bytes: usize,
    shards: usize,
    shard_inbox: usize,
    log_batches: usize,
    log_bytes: usize,
    total_log_bytes: usize,
    merged_bytes: usize,
    policies: Vec<NamespacePolicy>,
    totals: Vec<Namespace>,
    max_totals: usize,
    max_totals_bytes: usize,
    corrections: bool,
    retentions: Vec<Arc<Retention>>,
    relays: usize,
    history_bytes: usize,
    replay_bytes: usize,
    keep_alive: Duration,
    pong_timeout: Duration,
    stall_timeout: Duration,
    close_timeout: Duration,
}

impl Builder {
    /// Replaces all settings.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Sets what sees all messages, beside the readers. Default: nothing.
    pub fn tap(mut self, tap: Arc<dyn MessageTap>) -> Self {
        self.tap = Some(tap);
        self
    }

    /// Starts the hub and its shards on the current runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn build(self) -> Fanout {
        let mut config = self.config;
        for count in [&mut config.shards, &mut config.shard_inbox] {
            *count = (*count).max(1);
        }
        let config = Arc::new(config);
        let stats = Arc::<Stats>::default();
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (inbox, messages) = inbox::channel(config.inbox, config.inbox_bytes);
        let (subscribers, subscriber_inbox) = mpsc::channel(SUBSCRIBER_INBOX);
        let budgets = Budgets {
            waiting: Budget::new(config.total_log_bytes),
            merged: Budget::new(config.merged_bytes),
            replayed: Budget::new(config.replay_bytes),
        };
        let history = SharedHistory::new(config.history_bytes);
        let shards: Vec<_> = (0..config.shards)
            .map(|number| {
                let (shard, inbox) = mpsc::channel(config.shard_inbox);
                // A shard yields by itself. With tokio's own budget, sockets would look unready after 128 of them.
                tasks.spawn(unconstrained(
                    Shard::new(
                        Arc::clone(&config),
                        Arc::clone(&stats),
                        budgets.clone(),
                        Arc::clone(&history),
                        number,
                        inbox,
                    )
                    .run(),
                ));
                shard
            })
            .collect();
        let (totals, totals_states) = Totals::new(&config, Arc::clone(&budgets.waiting));
        let handle = Handle::new(Links {
            subscribers,
            inbox: inbox.downgrade(),
            shards: shards.clone(),
            totals_states,
            history: Arc::clone(&history),
            stats: Arc::clone(&stats),
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
        });
        let inboxes = HubInboxes { messages, subscribers: subscriber_inbox };
        tasks.spawn(Hub::new(config, stats, shards, totals, history).with_tap(self.tap).run(inboxes, shutdown));
        tasks.close();
        Fanout::new(Publisher::new(inbox), handle)
    }
}
