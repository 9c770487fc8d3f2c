//! The history: messages that are kept for readers that come later.
//!
//! The hub alone writes it, once a turn, before the turn reaches the shards. Shards and transports read it, and only when a
//! reader starts, changes its topics or has fallen behind, so no shard takes its lock while it delivers messages. A number orders
//! all messages that are kept; each turn says up to which number its shard has come, and nothing after that is looked up.

mod filter;
mod resume;
mod selection;
mod sequences;
mod store;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use crate::topic::Topic;
use crate::{EntryId, Retention, Topics};

pub(crate) use filter::Filter;
pub(crate) use resume::{Beginning, NotYet, Span};
pub use resume::{Resume, Start};
pub(crate) use selection::Query;
pub use sequences::IdFormat;
pub(crate) use sequences::{NUMBERED, Sequence, Sequences, escaped};
pub(crate) use store::Slot;
use store::Store;

/// The first number. Not zero, so that a number that is absent takes no memory.
const FIRST: u64 = 1;

/// Everything that is kept.
#[derive(Debug)]
pub(crate) struct History {
    /// The number of the next message.
    pub(crate) head: u64,
    pub(crate) stores: Vec<Store>,
    next_store: u32,
    pub(crate) sequences: Sequences,
    /// Engines that this one relays and that have not said yet what they keep.
    pub(crate) undeclared: usize,
    max_bytes: usize,
}

/// The history, shared by the hub, its shards and the transports.
#[derive(Debug)]
pub(crate) struct SharedHistory {
    history: RwLock<History>,
}

impl SharedHistory {
    /// An empty history of at most `max_bytes`.
    pub(crate) fn new(max_bytes: usize) -> Arc<Self> {
        let history = History {
            head: FIRST,
            stores: Vec::new(),
            next_store: 0,
            sequences: Sequences::default(),
            undeclared: 0,
            max_bytes,
        };
        Arc::new(Self { history: RwLock::new(history) })
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, History> {
        self.history.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only for the hub.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut History) -> T) -> T {
        change(&mut self.history.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl History {
    /// Keeps by `retentions` from now on. What was kept by a retention of the same name in the same sequence stays, within the new
    /// bounds.
    pub(crate) fn declare(&mut self, retentions: &[Arc<Retention>], sequences: &Sequences) {
        self.sequences.clone_from(sequences);
        let mut known = std::mem::take(&mut self.stores);
        for retention in retentions {
            let Some(sequence) = sequences.place(retention.sequence.as_deref()) else { continue };
            let is_same = |store: &Store| {
                store.retention.name == retention.name
                    && store.retention.sequence == retention.sequence
                    && (&store.retention.namespace, &store.retention.except)
                        == (&retention.namespace, &retention.except)
            };
            let mut store = match known.iter().position(is_same) {
                Some(place) => known.swap_remove(place),
                None => {
                    let mut store = Store::new(self.next_store, Arc::clone(retention), sequence);
                    self.next_store += 1;
                    // What was sent before was not kept.
                    let newest = sequences.get(sequence).map_or(EntryId::ZERO, |sequence| sequence.newest);
                    store.clear(newest, self.head);
                    store
                }
            };
            (store.retention, store.sequence) = (Arc::clone(retention), sequence);
            self.stores.push(store);
        }
        self.trim(Instant::now());
    }

    /// The store of a retention.
    pub(crate) fn store_of(&mut self, retention: &Arc<Retention>) -> Option<&mut Store> {
        self.stores
            .iter_mut()
            .find(|store| Arc::ptr_eq(&store.retention, retention) || store.retention.name == retention.name)
    }

    /// The stores that may have messages of `topics`.
    fn stores_about(&self, topics: &Topics) -> impl Iterator<Item = &Store> {
        // Parsed once for all stores, and not at all without any.
        let topics: Vec<_> = if self.stores.is_empty() { Vec::new() } else { topics.iter().collect() };
        let is_about = move |store: &&Store| store.may_have(&topics);
        self.stores.iter().filter(is_about)
    }

    /// Whether some messages of `topics` are kept.
    pub(crate) fn has(&self, topics: &Topics) -> bool {
        self.stores_about(topics).next().is_some()
    }

    /// Whether the newest message of each namespace is kept for some of `topics`.
    pub(crate) fn has_last_values(&self, topics: &Topics) -> bool {
        self.stores_about(topics).any(|store| store.retention.last_values)
    }

    /// The number of messages that are kept, and their memory.
    pub(crate) fn size(&self) -> (usize, usize) {
        self.stores.iter().fold((0, 0), |(messages, bytes), store| (messages + store.len(), bytes + store.bytes()))
    }

    /// Drops what the bounds do not allow.
    pub(crate) fn trim(&mut self, now: Instant) {
        self.stores.iter_mut().for_each(|store| store.trim(now));
        while self.size().1 > self.max_bytes {
            let largest = self.stores.iter_mut().max_by_key(|store| store.bytes());
            if !largest.is_some_and(Store::drop_oldest) {
                break;
            }
        }
    }

    /// The id of the oldest message of the retentions of `topics`.
    fn earliest(&self, topics: &Topics) -> Option<Box<str>> {
        let oldest = self.stores_about(topics).filter_map(Store::oldest).min_by_key(|slot| slot.number);
        oldest.and_then(|slot| slot.message.id()).map(Box::from)
    }

    /// Whether something was dropped that a reader still had to be sent.
    pub(crate) fn has_lost(&self, query: &Query<'_>) -> bool {
        let is_lost = |store: &Store| query.is_about(store) && query.has_lost_in(store);
        !query.last_values && self.stores.iter().any(is_lost)
    }
}

/// A message that is to be kept, on its way to its store.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) retention: Arc<Retention>,
    pub(crate) slot: Slot,
}

impl History {
    /// Adds messages that are newer than all others, with how far the sequences have come with them.
    pub(crate) fn append(&mut self, pending: impl IntoIterator<Item = Pending>, sequences: &Sequences, head: u64) {
        for Pending { retention, slot } in pending {
            if let Some(store) = self.store_of(&retention) {
                store.push(slot);
            }
        }
        self.sequences.clone_from(sequences);
        self.head = head;
        self.trim(Instant::now());
    }

    /// Forgets a sequence, of which entries up to `after` are not available.
    pub(crate) fn forget(&mut self, sequence: usize, after: EntryId) {
        let head = self.head;
        self.stores.iter_mut().filter(|store| store.sequence == sequence).for_each(|store| store.clear(after, head));
    }

    /// Forgets what a retention keeps, of which entries up to `trimmed` are not available.
    pub(crate) fn forget_retention(&mut self, name: &str, trimmed: EntryId) {
        let head = self.head;
        self.stores
            .iter_mut()
            .filter(|store| *store.retention.name == *name)
            .for_each(|store| store.clear(trimmed, head));
    }

    /// Whether the sources of `topics` that confirm how far they have come have done so after `since`.
    pub(crate) fn is_confirmed(&self, topics: &[Topic], since: Instant) -> bool {
        let mut stores = self.stores.iter().filter(|store| store.may_have(topics));
        let confirmed_at =
            |store: &Store| self.sequences.get(store.sequence).and_then(|sequence| sequence.confirmed_at);
        stores.all(|store| confirmed_at(store).is_none_or(|at| at >= since))
    }

    /// The retentions that may keep messages of `topics`, each with the newest entry that it does not keep any more.
    pub(crate) fn retentions_about(&self, topics: &Topics) -> Vec<(Arc<Retention>, EntryId)> {
        self.stores_about(topics).map(|store| (Arc::clone(&store.retention), store.trimmed)).collect()
    }

    /// The retentions whose messages are in a sequence.
    pub(crate) fn retentions_of(&self, sequence: usize) -> Vec<Arc<Retention>> {
        let stores = self.stores.iter().filter(|store| store.sequence == sequence);
        stores.map(|store| Arc::clone(&store.retention)).collect()
    }
}
