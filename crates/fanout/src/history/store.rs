//! What is kept by one retention: messages by their number, and by their namespace.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use crate::topic::Topic;
use crate::{EntryId, Message, Namespace, Retention};

/// The memory of a message's place in a store, in bytes, roughly.
const SLOT_BYTES: usize = 128;

/// A message that is kept.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// Its place among all messages that the engine keeps.
    pub(crate) number: u64,
    /// Its place in its sequence.
    pub(crate) entry: EntryId,
    /// When it was published, as far as that is known.
    pub(crate) at: Instant,
    pub(crate) message: Arc<Message>,
}

/// The messages of one retention.
#[derive(Debug)]
pub(crate) struct Store {
    /// Not used again by another store.
    pub(crate) id: u32,
    pub(crate) retention: Arc<Retention>,
    /// The place of its sequence.
    pub(crate) sequence: usize,
    /// The newest messages, in order.
    order: VecDeque<Slot>,
    /// Messages older than those that are the newest of their namespace.
    last: BTreeMap<u64, Slot>,
    /// The numbers of the same messages by their entry.
    last_by_entry: BTreeMap<EntryId, u64>,
    namespaces: BTreeMap<Namespace, Numbers>,
    bytes: usize,
    /// The newest entry that is not kept any more.
    pub(crate) trimmed: EntryId,
    /// The number after that of the newest message that is not kept any more.
    pub(crate) trimmed_before: u64,
}

/// The messages of one namespace.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    in_order: VecDeque<u64>,
    /// The one that is the last value, if it is older than those in order.
    last: Option<u64>,
}

impl Numbers {
    /// The number of the newest message.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.in_order.back().copied().or(self.last)
    }

    /// The numbers from `from` on.
    pub(crate) fn since(&self, from: u64) -> impl DoubleEndedIterator<Item = u64> {
        let last = self.last.filter(|number| *number >= from);
        let skipped = self.in_order.partition_point(|number| *number < from);
        last.into_iter().chain(self.in_order.range(skipped..).copied())
    }
}

impl Slot {
    fn weight(&self) -> usize {
        self.message.weight() + SLOT_BYTES
    }
}

impl Store {
    pub(crate) fn new(id: u32, retention: Arc<Retention>, sequence: usize) -> Self {
        Self {
            id,
            retention,
            sequence,
            order: VecDeque::new(),
            last: BTreeMap::new(),
            last_by_entry: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            bytes: 0,
            trimmed: EntryId::ZERO,
            trimmed_before: 0,
        }
    }

    /// The memory of all messages, in bytes, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of messages.
    pub(crate) fn len(&self) -> usize {
        self.order.len() + self.last.len()
    }

    /// Adds a message that is newer than all others. It has no bounds until it is [trimmed](Self::trim).
    pub(crate) fn push(&mut self, slot: Slot) {
        self.bytes += slot.weight();
        let numbers = self.namespaces.entry(slot.message.namespace.clone()).or_default();
        numbers.in_order.push_back(slot.number);
        let replaced = numbers.last.take().and_then(|number| self.last.remove(&number));
        self.order.push_back(slot);
        if let Some(replaced) = replaced {
            self.last_by_entry.remove(&replaced.entry);
            self.forget(&replaced);
        }
    }

    /// Drops what the bounds of the retention do not allow.
    pub(crate) fn trim(&mut self, now: Instant) {
        let Retention { max_messages, max_bytes, max_age, last_values, .. } = *self.retention;
        let no_bounds = max_messages.is_none() && max_bytes.is_none() && max_age.is_none();
        // Without other bounds, only the last values are kept.
        let max_messages = if last_values && no_bounds { Some(0) } else { max_messages };
        loop {
            let too_many = max_messages.is_some_and(|max| self.order.len() > max);
            let too_large = max_bytes.is_some_and(|max| self.bytes > max);
            let too_old = |slot: &Slot| max_age.is_some_and(|max| now.duration_since(slot.at) > max);
            if !(too_many || too_large || self.order.front().is_some_and(too_old)) || !self.drop_oldest() {
                break;
            }
        }
    }

    /// Drops the oldest message, or makes it the last value of its namespace; without others, drops the oldest last value.
    /// Returns whether there was one.
    pub(crate) fn drop_oldest(&mut self) -> bool {
        let Some(slot) = self.order.pop_front() else {
            let Some((_, slot)) = self.last.pop_first() else { return false };
            self.last_by_entry.remove(&slot.entry);
            self.namespaces.remove(&slot.message.namespace);
            self.forget(&slot);
            return true;
        };
        let Some(numbers) = self.namespaces.get_mut(&slot.message.namespace) else { return true };
        numbers.in_order.pop_front();
        if !numbers.in_order.is_empty() {
            self.forget(&slot);
        } else if self.retention.last_values {
            numbers.last = Some(slot.number);
            numbers.in_order = VecDeque::new();
            self.last_by_entry.insert(slot.entry, slot.number);
            self.last.insert(slot.number, slot);
        } else {
            self.namespaces.remove(&slot.message.namespace);
            self.forget(&slot);
        }
        if self.order.is_empty() {
            // An idle store costs no memory.
            self.order = VecDeque::new();
        }
        true
    }

    /// Drops everything: entries up to `after` are not available.
    pub(crate) fn clear(&mut self, after: EntryId, head: u64) {
        (self.order, self.last, self.last_by_entry, self.namespaces, self.bytes) = Default::default();
        (self.trimmed, self.trimmed_before) = (after, head);
    }

    fn forget(&mut self, slot: &Slot) {
        self.bytes -= slot.weight();
        self.trimmed = self.trimmed.max(slot.entry);
        self.trimmed_before = self.trimmed_before.max(slot.number + 1);
    }

    /// The number of the first message whose entry is newer than `entry`.
    pub(crate) fn number_after(&self, entry: EntryId) -> Option<u64> {
        let after = (Bound::Excluded(entry), Bound::Unbounded);
        let in_last = || self.last_by_entry.range(after).next().map(|(_, number)| *number);
        match self.order.partition_point(|slot| slot.entry <= entry) {
            // What is in order is newer than every last value that is not.
            0 => in_last().or(self.order.front().map(|slot| slot.number)),
            place => self.order.get(place).map(|slot| slot.number),
        }
    }

    /// The number of the first message that was published at `at` or later.
    pub(crate) fn number_at(&self, at: Instant) -> Option<u64> {
        let in_order = self.order.partition_point(|slot| slot.at < at);
        if in_order > 0 {
            return self.order.get(in_order).map(|slot| slot.number);
        }
        let in_last = self.last.values().rev().take_while(|slot| slot.at >= at).last();
        in_last.or(self.order.front()).map(|slot| slot.number)
    }

    /// The newest message before number `number`.
    pub(crate) fn before(&self, number: u64) -> Option<&Slot> {
        let place = self.order.partition_point(|slot| slot.number < number);
        let in_last = || self.last.range(..number).next_back().map(|(_, slot)| slot);
        place.checked_sub(1).and_then(|place| self.order.get(place)).or_else(in_last)
    }

    /// The oldest message.
    pub(crate) fn oldest(&self) -> Option<&Slot> {
        self.last.values().next().or(self.order.front())
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Slot> {
        let place = self.order.binary_search_by_key(&number, |slot| slot.number);
        place.map_or_else(|_| self.last.get(&number), |place| self.order.get(place))
    }

    /// The messages from number `from` on.
    pub(crate) fn since(&self, from: u64) -> impl DoubleEndedIterator<Item = &Slot> {
        let skipped = self.order.partition_point(|slot| slot.number < from);
        self.last.range(from..).map(|(_, slot)| slot).chain(self.order.range(skipped..))
    }

    /// Whether a message is the newest of its namespace.
    pub(crate) fn is_newest(&self, slot: &Slot) -> bool {
        self.namespaces.get(&slot.message.namespace).and_then(Numbers::newest) == Some(slot.number)
    }

    /// The namespaces that `topic` contains and that have messages, in their order; stops when `visit` returns false.
    pub(crate) fn visit_namespaces<'a>(
        &'a self,
        topic: &Topic,
        mut visit: impl FnMut(&'a Namespace, &'a Numbers) -> bool,
    ) {
        let prefix = topic.literal_prefix();
        // In the order of texts, what is below a path does not follow it at once: `/a-b` is between `/a` and `/a/b`.
        let below = if prefix == Namespace::root() { "/".to_owned() } else { format!("{prefix}/") };
        let exact = self.namespaces.get_key_value(&prefix).filter(|_| prefix != Namespace::root());
        let range = self.namespaces.range(Namespace::from_valid(&below)..);
        let range = range.take_while(|(namespace, _)| namespace.as_str().starts_with(&below));
        for (namespace, numbers) in exact.into_iter().chain(range) {
            if topic.contains(namespace) && !visit(namespace, numbers) {
                return;
            }
        }
    }
}
