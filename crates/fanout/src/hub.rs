//! The hub: frames each message once for each feed it belongs to, and gives every shard the same batches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slab::Slab;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::connection::Subscriber;
use super::framing::Framing;
use super::log::{Batch, Windows};
use super::policy::{Policy, policy_of};
use super::shard::{Change, Input};
use super::stats::Stats;
use super::totals::Totals;
use super::trie::Trie;
use super::{Config, Data, FeedId, Message, Topics};

/// The most messages one turn takes from the inbox.
const TURN_MESSAGES: usize = 1024;
/// The framed bytes at which a turn is sent off, though more messages wait.
const TURN_BYTES: usize = 1024 * 1024;
/// How often feeds without readers are looked for while no message comes.
const SWEEP: Duration = Duration::from_secs(1);

/// What the hub and its shards share of a feed: the interned pair of what is subscribed to and how it is framed.
#[derive(Debug)]
pub(super) struct FeedHandle {
    pub(super) id: FeedId,
    pub(super) framing: &'static dyn Framing,
    pub(super) policy: Policy,
    pub(super) topics: Topics,
    /// Readers in all shards. Only the hub adds to it, so that the hub can tell for certain when it is zero.
    readers: AtomicUsize,
    retired: Arc<Mutex<Vec<FeedId>>>,
}

impl FeedHandle {
    /// Takes one reader off; the last one asks the hub to forget the feed.
    pub(super) fn leave(&self) {
        if self.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        }
    }
}

struct Feed {
    handle: Arc<FeedHandle>,
    /// The batch of the turn that is being framed.
    bytes: Vec<u8>,
    messages: u32,
    windows: Windows,
    /// When the oldest of them came in.
    received_at: Option<std::time::Instant>,
    /// The number of the last message, so that topics that overlap do not bring it twice.
    last: u64,
}

/// Why the hub's loop woke.
enum Wake {
    Changes(usize),
    Messages(usize),
    Subscribers(usize),
    Sweep,
}

pub(super) struct Hub {
    config: Arc<Config>,
    stats: Arc<Stats>,
    shards: Vec<mpsc::Sender<Input>>,
    next_shard: usize,
    feeds: Slab<Feed>,
    by_key: HashMap<(Topics, &'static str), FeedId>,
    trie: Trie<FeedId>,
    totals: Totals,
    retired: Arc<Mutex<Vec<FeedId>>>,
    /// How many messages were framed.
    framed: u64,
    /// Feeds that the current turn has messages for.
    touched: Vec<FeedId>,
    turn_bytes: usize,
}

impl Hub {
    pub(super) fn new(
        config: Arc<Config>,
        stats: Arc<Stats>,
        shards: Vec<mpsc::Sender<Input>>,
        totals: Totals,
    ) -> Self {
        Self {
            config,
            stats,
            shards,
            next_shard: 0,
            feeds: Slab::new(),
            by_key: HashMap::new(),
            trie: Trie::new(),
            totals,
            retired: Arc::default(),
            framed: 0,
            touched: Vec::new(),
            turn_bytes: 0,
        }
    }

    /// Serves until every sender of `inbox` is gone and all it held is sent; then ends the streams.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        mut joining: mpsc::Receiver<Subscriber>,
        mut changes: mpsc::Receiver<Change>,
    ) {
        let mut messages = Vec::with_capacity(TURN_MESSAGES);
        let mut changing = Vec::new();
        let mut subscribers = Vec::new();
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut gateway_open, mut shards_open) = (true, true);
        loop {
            let wake = tokio::select! {
                biased;
                count = joining.recv_many(&mut subscribers, TURN_MESSAGES), if gateway_open => Wake::Subscribers(count),
                count = changes.recv_many(&mut changing, TURN_MESSAGES), if shards_open => Wake::Changes(count),
                count = inbox.recv_many(&mut messages, TURN_MESSAGES) => Wake::Messages(count),
                _ = sweep.tick() => Wake::Sweep,
            };
            match wake {
                Wake::Messages(0) => break,
                Wake::Subscribers(0) => gateway_open = false,
                Wake::Changes(0) => shards_open = false,
                Wake::Subscribers(_) | Wake::Changes(_) => {
                    // A rush of them must not keep the messages waiting.
                    while messages.len() < TURN_MESSAGES
                        && let Ok(message) = inbox.try_recv()
                    {
                        messages.push(message);
                    }
                }
                Wake::Messages(_) | Wake::Sweep => {}
            }
            // Who subscribed before one of these messages was sent receives it, so look who has come once they are here.
            for _ in 0..joining.len() {
                subscribers.extend(joining.try_recv());
            }
            for subscriber in subscribers.drain(..) {
                self.attach(subscriber).await;
            }
            for change in changing.drain(..) {
                self.change(change).await;
            }
            for message in messages.drain(..) {
                self.take_in(message);
                if self.turn_bytes >= TURN_BYTES {
                    self.send_turn().await;
                }
            }
            self.send_turn().await;
            self.forget_retired();
        }
        let deadline = Instant::now() + self.config.close_limit;
        for shard in &self.shards {
            // A shard that is gone has no streams to end.
            let _ = shard.send(Input::Close(deadline)).await;
        }
    }

    /// Keeps the totals up to date with a message, and frames it.
    fn take_in(&mut self, message: Message) {
        let correction = matches!(message.data, Data::Totals(_));
        let Some(message) = self.totals.take_in(message) else { return };
        if correction {
            self.stats.corrections.add(1);
            tracing::info!(namespace = %message.namespace, "the totals are not what was sent; sending the difference");
        }
        self.frame(&message);
    }

    /// Appends a message to the batch of each feed it belongs to.
    fn frame(&mut self, message: &Message) {
        self.stats.broadcast.add(1);
        self.framed += 1;
        let Self { trie, feeds, touched, turn_bytes, framed, .. } = self;
        trie.visit(&message.namespace, |id| {
            let feed = &mut feeds[id];
            if std::mem::replace(&mut feed.last, *framed) == *framed {
                return;
            }
            if feed.messages == 0 {
                touched.push(id);
                feed.received_at = Some(message.received_at);
            }
            let before = feed.bytes.len();
            feed.handle.framing.message(message, &mut feed.bytes);
            *turn_bytes += feed.bytes.len() - before;
            feed.messages += 1;
            if feed.handle.policy == Policy::Merge {
                feed.windows.absorb(message);
            }
        });
    }

    /// Gives the batches to every shard, and waits for those that are behind: their inboxes are short, so that under
    /// load the messages gather here and the next batch is larger.
    async fn send_turn(&mut self) {
        let feeds = &mut self.feeds;
        let batches: Arc<[(FeedId, Batch)]> = self
            .touched
            .drain(..)
            .map(|id| {
                let feed = &mut feeds[id];
                let windows = std::mem::take(&mut feed.windows);
                let batch = Batch {
                    bytes: feed.handle.framing.finish(std::mem::take(&mut feed.bytes)),
                    messages: std::mem::take(&mut feed.messages),
                    windows: (feed.handle.policy == Policy::Merge).then(|| Arc::new(windows)),
                    received_at: feed.received_at.take(),
                };
                (id, batch)
            })
            .collect();
        self.turn_bytes = 0;
        if batches.is_empty() {
            return;
        }
        for shard in &self.shards {
            // A shard ends only with the hub; should it not, its readers are gone and there is nobody to tell.
            let _ = shard.send(Input::Turn(Arc::clone(&batches))).await;
        }
    }

    /// Finds or makes the feed that the subscriber reads, and hands the subscriber to the next shard.
    async fn attach(&mut self, subscriber: Subscriber) {
        let mut snapshot = None;
        if subscriber.snapshot {
            // All that the totals hold was sent in turns before; all else comes after.
            let namespace = subscriber.info.topics.as_namespace();
            snapshot = namespace.and_then(|namespace| self.totals.snapshot(namespace, subscriber.framing));
            if snapshot.is_none() {
                self.stats.without_totals.add(1);
                return;
            }
        }
        let handle = self.intern(&subscriber.info.topics, subscriber.framing);
        handle.readers.fetch_add(1, Ordering::AcqRel);
        self.next_shard = (self.next_shard + 1) % self.shards.len();
        // As above.
        let _ = self.shards[self.next_shard].send(Input::Attach(Box::new((handle, subscriber, snapshot)))).await;
    }

    /// Finds or makes the feed that a reader wants to change to, and tells its shard. The place in the shard's inbox divides
    /// what the reader got before from what it gets now.
    async fn change(&mut self, Change { shard, key, serial, topics, framing }: Change) {
        let handle = self.intern(&topics, framing);
        handle.readers.fetch_add(1, Ordering::AcqRel);
        // As above.
        let _ = self.shards[shard].send(Input::Change(Box::new((handle, key, serial)))).await;
    }

    fn intern(&mut self, topics: &Topics, framing: &'static dyn Framing) -> Arc<FeedHandle> {
        if let Some(&id) = self.by_key.get(&(topics.clone(), framing.name())) {
            return Arc::clone(&self.feeds[id].handle);
        }
        let entry = self.feeds.vacant_entry();
        let id = entry.key();
        let handle = Arc::new(FeedHandle {
            id,
            framing,
            policy: policy_of(&self.config.policies, topics),
            topics: topics.clone(),
            readers: AtomicUsize::new(0),
            retired: Arc::clone(&self.retired),
        });
        entry.insert(Feed {
            handle: Arc::clone(&handle),
            bytes: Vec::new(),
            messages: 0,
            windows: Windows::default(),
            received_at: None,
            last: 0,
        });
        self.by_key.insert((topics.clone(), framing.name()), id);
        for topic in topics.iter() {
            self.trie.insert(topic, id);
        }
        self.stats.feeds.add(1);
        handle
    }

    fn forget_retired(&mut self) {
        let retired = std::mem::take(&mut *self.retired.lock().unwrap_or_else(PoisonError::into_inner));
        for id in retired {
            // It may have got a reader again, or be on the list twice.
            if self.feeds.get(id).is_some_and(|feed| feed.handle.readers.load(Ordering::Acquire) == 0) {
                let feed = self.feeds.remove(id);
                let FeedHandle { topics, framing, .. } = &*feed.handle;
                for topic in topics.iter() {
                    self.trie.remove(topic, id);
                }
                self.by_key.remove(&(topics.clone(), framing.name()));
                self.stats.feeds.subtract(1);
            }
        }
    }
}
