//! Feeds: the interned combinations of a topic set, a framing and the totals that readers started with. Every connection
//! reads exactly one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use slab::Slab;
use tokio::sync::Notify;

use crate::budget::Budget;
use crate::framing::{Framing, FramingKey};
use crate::log::{Batch, MergedTallies};
use crate::policy::policy_of;
use crate::totals::Audience;
use crate::trie::Trie;
use crate::{Message, Namespace, NamespacePolicy, Policy, Topics};

/// A feed's place in the hub's table. Used again after the feed has gone.
pub(crate) type FeedId = usize;

/// The part of a feed that the hub and its shards share.
#[derive(Debug)]
pub(crate) struct FeedHandle {
    pub(crate) id: FeedId,
    pub(crate) framing: Arc<dyn Framing>,
    pub(crate) policy: Policy,
    pub(crate) topics: Topics,
    /// The namespace whose totals all readers started with, if they did.
    pub(crate) totals: Option<Namespace>,
    /// Readers in all shards. Only the hub adds to it, so the hub knows for certain when it is zero.
    readers: AtomicUsize,
    retired: Arc<Retired>,
}

/// Feeds whose last reader has left.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    ids: Mutex<Vec<FeedId>>,
    /// Wakes the hub, so that their memory is freed at once.
    pub(crate) notify: Notify,
}

impl FeedHandle {
    /// Adds one reader.
    pub(crate) fn join(&self) {
        self.readers.fetch_add(1, Ordering::AcqRel);
    }

    /// Removes one reader. After the last one the hub removes the feed.
    pub(crate) fn leave(&self) {
        if self.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.retired.ids.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
            self.retired.notify.notify_one();
        }
    }

    fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Acquire) > 0
    }
}

/// A feed as the hub sees it: its batch of the current turn.
#[derive(Debug)]
struct Feed {
    handle: Arc<FeedHandle>,
    bytes: Vec<u8>,
    messages: u32,
    merged: MergedTallies,
    /// When the oldest of the messages came in.
    received_at: Option<Instant>,
    /// The number of the last message, so that overlapping topics do not bring it twice.
    last: u64,
}

impl Feed {
    fn new(handle: Arc<FeedHandle>) -> Self {
        Self { handle, bytes: Vec::new(), messages: 0, merged: MergedTallies::default(), received_at: None, last: 0 }
    }

    /// Appends a message to the batch; returns the number of bytes.
    fn append(&mut self, message: &Message) -> usize {
        self.received_at.get_or_insert(message.received_at);
        let before = self.bytes.len();
        self.handle.framing.message(message, &mut self.bytes);
        self.messages += 1;
        if self.handle.policy == Policy::Merge {
            self.merged.absorb(message);
        }
        self.bytes.len() - before
    }

    /// Takes the batch of the turn.
    fn take_batch(&mut self, budget: &Arc<Budget>) -> Batch {
        let bytes = self.handle.framing.finish(std::mem::take(&mut self.bytes));
        let merged = std::mem::take(&mut self.merged);
        let merged_weight = merged.weight();
        Batch {
            weight: bytes.len() + merged_weight,
            bytes: budget.charge_bytes(bytes, merged_weight),
            messages: std::mem::take(&mut self.messages),
            merged: (self.handle.policy == Policy::Merge).then(|| Arc::new(merged)),
            received_at: self.received_at.take(),
        }
    }
}

/// What a feed is: topics, framing, and the namespace whose totals its readers started with.
type FeedKey = (Topics, FramingKey, Option<Namespace>);

/// All feeds, found by what they are and by the namespaces that they contain.
#[derive(Debug)]
pub(crate) struct Feeds {
    feeds: Slab<Feed>,
    by_key: HashMap<FeedKey, FeedId>,
    trie: Trie<FeedId>,
    retired: Arc<Retired>,
    /// Messages so far.
    messages: u64,
    /// Feeds that have a batch in the current turn.
    touched: Vec<FeedId>,
    /// Feeds to close after the current turn.
    closing: Vec<FeedId>,
    /// Batches are charged to it.
    budget: Arc<Budget>,
}

impl Feeds {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            feeds: Slab::new(),
            by_key: HashMap::new(),
            trie: Trie::new(),
            retired: Arc::default(),
            messages: 0,
            touched: Vec::new(),
            closing: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.feeds.len()
    }

    /// The feeds whose last reader has left.
    pub(crate) fn retired(&self) -> Arc<Retired> {
        Arc::clone(&self.retired)
    }

    /// Puts the feeds that contain a message and belong to `audience` into `found`, each once.
    pub(crate) fn find(&mut self, message: &Message, audience: Audience, found: &mut Vec<FeedId>) {
        self.messages += 1;
        let Self { trie, feeds, closing, messages, .. } = self;
        trie.visit(&message.namespace, |id| {
            let feed = &mut feeds[id];
            if audience == Audience::WithTotals && feed.handle.totals.as_ref() != Some(&message.namespace) {
                return;
            }
            if std::mem::replace(&mut feed.last, *messages) == *messages {
                return;
            }
            if audience == Audience::WithTotals && !feed.handle.framing.names_events() {
                closing.push(id);
                return;
            }
            found.push(id);
        });
    }

    /// Appends a message to the batch of a feed. Returns the number of bytes.
    pub(crate) fn append(&mut self, id: FeedId, message: &Message) -> usize {
        let feed = &mut self.feeds[id];
        if feed.messages == 0 {
            self.touched.push(id);
        }
        feed.append(message)
    }

    /// Takes the feeds whose readers cannot follow a change of the totals' state, and need to start over.
    pub(crate) fn take_closing(&mut self) -> Vec<FeedId> {
        std::mem::take(&mut self.closing)
    }

    /// Takes the batches of the turn.
    pub(crate) fn take_batches(&mut self) -> Arc<[(FeedId, Batch)]> {
        let Self { feeds, touched, budget, .. } = self;
        touched.drain(..).map(|id| (id, feeds[id].take_batch(budget))).collect()
    }

    /// Finds or adds a feed, and adds a reader to it.
    pub(crate) fn join(
        &mut self,
        topics: &Topics,
        framing: &Arc<dyn Framing>,
        totals: Option<&Namespace>,
        policies: &[NamespacePolicy],
    ) -> Arc<FeedHandle> {
        let key = (topics.clone(), FramingKey(Arc::clone(framing)), totals.cloned());
        let handle = match self.by_key.get(&key) {
            Some(&id) => Arc::clone(&self.feeds[id].handle),
            None => self.add(key, policies),
        };
        handle.join();
        handle
    }

    fn add(&mut self, key: FeedKey, policies: &[NamespacePolicy]) -> Arc<FeedHandle> {
        let entry = self.feeds.vacant_entry();
        let id = entry.key();
        let (topics, FramingKey(framing), totals) = &key;
        let policy = match policy_of(policies, topics) {
            // The totals of a reader would be wrong without the tallies that it skips.
            Policy::Skip if totals.is_some() => Policy::Merge,
            policy => policy,
        };
        let handle = Arc::new(FeedHandle {
            id,
            framing: Arc::clone(framing),
            policy,
            topics: topics.clone(),
            totals: totals.clone(),
            readers: AtomicUsize::new(0),
            retired: Arc::clone(&self.retired),
        });
        entry.insert(Feed::new(Arc::clone(&handle)));
        for topic in topics.iter() {
            self.trie.insert(topic, id);
        }
        self.by_key.insert(key, id);
        handle
    }

    /// Removes the feeds whose last reader has left.
    pub(crate) fn remove_retired(&mut self) {
        let retired = std::mem::take(&mut *self.retired.ids.lock().unwrap_or_else(PoisonError::into_inner));
        for id in retired {
            // It may have a reader again, or be on the list twice.
            if self.feeds.get(id).is_some_and(|feed| !feed.handle.has_readers()) {
                let FeedHandle { topics, framing, totals, .. } = &*self.feeds.remove(id).handle;
                for topic in topics.iter() {
                    self.trie.remove(topic, id);
                }
                self.by_key.remove(&(topics.clone(), FramingKey(Arc::clone(framing)), totals.clone()));
            }
        }
    }
}
