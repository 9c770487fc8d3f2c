//! What is kept by one retention: messages by their number, and by their namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use crate::namespace::NAME_MARKER;
use crate::topic::{Kind, Topic};
use crate::{EntryId, Message, Namespace, Retention};

/// The memory of a message's place in a store, in bytes, roughly.
const SLOT_BYTES: usize = 128;
/// The memory of a place in the index of namespaces or of ids, beside its text, in bytes, roughly.
const TOPIC_BYTES: usize = 128;

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
    /// The numbers of the messages whose publishers gave them an id; of several with the same one, that of the newest.
    by_update_id: HashMap<Box<str>, u64>,
    /// Whether some message had an alternate topic outside the namespace of the retention, so that readers of any topic may get messages
    /// from here.
    has_other_topics: bool,
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
    /// Those of other namespaces that have this one as an alternate topic.
    of_alternates: BTreeSet<u64>,
}

impl Numbers {
    /// The number of the newest message.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.in_order.back().copied().or(self.last)
    }

    /// The numbers from `from` on of messages that have the namespace as an alternate topic.
    pub(crate) fn alternates_since(&self, from: u64) -> impl DoubleEndedIterator<Item = u64> {
        self.of_alternates.range(from..).copied()
    }

    fn is_empty(&self) -> bool {
        self.newest().is_none() && self.of_alternates.is_empty()
    }

    /// The numbers from `from` on, but for [those of alternates](Self::alternates_since).
    pub(crate) fn since(&self, from: u64) -> impl DoubleEndedIterator<Item = u64> {
        let last = self.last.filter(|number| *number >= from);
        let skipped = self.in_order.partition_point(|number| *number < from);
        last.into_iter().chain(self.in_order.range(skipped..).copied())
    }
}

impl Slot {
    fn weight(&self) -> usize {
        let update = self.message.update.as_ref();
        let topics =
            update.map_or(0, |update| update.alternates.iter().map(|topic| topic.as_str().len() + TOPIC_BYTES).sum());
        let id = self.message.update_id().map_or(0, |id| id.len() + TOPIC_BYTES);
        self.message.weight() + SLOT_BYTES + topics + id
    }

    /// The other topics of the message.
    fn alternates(&self) -> impl Iterator<Item = &Namespace> {
        self.message.topics().skip(1).filter(|topic| **topic != self.message.namespace)
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
            by_update_id: HashMap::new(),
            has_other_topics: false,
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
        for topic in slot.alternates() {
            self.has_other_topics |= !self.retention.namespace.contains(topic);
            self.namespaces.entry(topic.clone()).or_default().of_alternates.insert(slot.number);
        }
        if let Some(id) = slot.message.update_id() {
            self.by_update_id.insert(id.into(), slot.number);
        }
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

    /// The number of namespaces and of ids of publishers that it knows.
    #[cfg(test)]
    pub(crate) fn index_sizes(&self) -> (usize, usize) {
        (self.namespaces.len(), self.by_update_id.len())
    }

    /// Drops the oldest message, or makes it the last value of its namespace; without others, drops the oldest last value.
    /// Returns whether there was one.
    pub(crate) fn drop_oldest(&mut self) -> bool {
        let Some(slot) = self.order.pop_front() else {
            let Some((_, slot)) = self.last.pop_first() else { return false };
            self.last_by_entry.remove(&slot.entry);
            if let Some(numbers) = self.namespaces.get_mut(&slot.message.namespace) {
                numbers.last = None;
            }
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
            numbers.in_order = VecDeque::new();
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
        self.by_update_id = HashMap::new();
        (self.trimmed, self.trimmed_before) = (after, head);
    }

    /// Forgets a message that is not kept any more, and the topics that have no messages without it.
    fn forget(&mut self, slot: &Slot) {
        for topic in slot.alternates() {
            if let Some(numbers) = self.namespaces.get_mut(topic) {
                numbers.of_alternates.remove(&slot.number);
            }
        }
        for topic in slot.message.topics() {
            if self.namespaces.get(topic).is_some_and(Numbers::is_empty) {
                self.namespaces.remove(topic);
            }
        }
        if let Some(id) = slot.message.update_id()
            && self.by_update_id.get(id) == Some(&slot.number)
        {
            self.by_update_id.remove(id);
            if self.by_update_id.capacity() > 8 * (self.by_update_id.len() + 8) {
                self.by_update_id.shrink_to_fit();
            }
        }
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

    /// The number of the newest message with this id of its publisher.
    pub(crate) fn number_of_update(&self, id: &str) -> Option<u64> {
        self.by_update_id.get(id).copied()
    }

    /// The newest message with an id of its publisher: its number, and that id.
    pub(crate) fn newest_update(&self) -> Option<(u64, &str)> {
        // Usually the first one.
        self.order.iter().rev().find_map(|slot| Some((slot.number, slot.message.update.as_ref()?.id.as_deref()?)))
    }

    /// Whether it may have messages of `topics`.
    pub(crate) fn may_have<'a>(&self, topics: impl IntoIterator<Item = &'a Topic>) -> bool {
        self.has_other_topics || topics.into_iter().any(|topic| self.retention.concerns(topic))
    }

    /// Visits the namespaces that `topic` contains and that have messages, in their order. Looks at `max` namespaces at most; returns
    /// whether that was enough.
    pub(crate) fn visit_namespaces<'a>(
        &'a self,
        topic: &Topic,
        max: usize,
        mut visit: impl FnMut(&'a Namespace, &'a Numbers),
    ) -> bool {
        let (single, beginnings) = candidates(topic);
        let single = single.and_then(|namespace| self.namespaces.get_key_value(&namespace));
        let below = beginnings.iter().flat_map(|beginning| {
            let range = self.namespaces.range(Namespace::from_valid(beginning)..);
            range.take_while(|(namespace, _)| namespace.internal().starts_with(&**beginning))
        });
        let mut count = 0;
        for (namespace, numbers) in single.into_iter().chain(below) {
            count += 1;
            if count > max {
                return false;
            }
            if topic.contains(namespace) {
                visit(namespace, numbers);
            }
        }
        true
    }
}

/// Where the namespaces are that a topic contains: a single one, and all whose internal texts have one of these beginnings.
fn candidates(topic: &Topic) -> (Option<Namespace>, Vec<String>) {
    match topic.kind() {
        Kind::Exact(namespace) => (Some(namespace.clone()), Vec::new()),
        Kind::Path { path, .. } if path.is_root() => (None, vec![String::new()]),
        Kind::Path { .. } => {
            let prefix = topic.literal_prefix();
            // In the order of texts, what is below a path does not follow it at once: `/a-b` is between `/a` and `/a/b`.
            let below = if prefix.is_root() { "/".to_owned() } else { format!("{prefix}/") };
            (Some(prefix).filter(|prefix| !prefix.is_root()), vec![below])
        }
        Kind::Template(template) => {
            let prefix = template.prefix();
            let paths = if prefix.is_empty() { "/" } else { prefix };
            let names = format!("{NAME_MARKER}{prefix}");
            (None, [names].into_iter().chain(paths.starts_with('/').then(|| paths.to_owned())).collect())
        }
    }
}
