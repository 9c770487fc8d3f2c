//! The subscriptions on this node, by topic. Streams change it with a short lock on one of a few parts; the task that shares
//! and announces them takes the changed topics from it.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::entry::{Change, Entry, Snapshot};
use super::{Limits, PresenceStats, Subscriber};

/// The number of parts.
const PARTS: usize = 16;
/// The memory of a topic besides its text and what is listed, in bytes, at most, roughly.
const TOPIC_BYTES: usize = 512;

/// The subscriptions.
#[derive(Debug)]
pub(super) struct Registry {
    parts: [Mutex<Part>; PARTS],
    hasher: RandomState,
    topics: AtomicUsize,
    bytes: AtomicUsize,
    limits: Limits,
    stats: Arc<PresenceStats>,
}

#[derive(Debug, Default)]
struct Part {
    entries: HashMap<Arc<str>, Entry>,
    /// The topics of which something is due.
    due: BTreeSet<Arc<str>>,
}

/// A subscription, for its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) topic: Arc<str>,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Listed,
    Counted,
    /// There were too many topics.
    Nowhere,
}

impl Registry {
    pub(super) fn new(limits: Limits, stats: Arc<PresenceStats>) -> Self {
        Self {
            parts: Default::default(),
            hasher: RandomState::new(),
            topics: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            limits,
            stats,
        }
    }

    fn part(&self, topic: &str) -> MutexGuard<'_, Part> {
        lock(&self.parts[self.hasher.hash_one(topic) as usize % PARTS])
    }

    /// Takes `amount` of what is bounded by `limit`, if that much is left.
    fn reserve(amounts: &AtomicUsize, amount: usize, limit: usize) -> bool {
        let reserved = amounts.fetch_add(amount, Ordering::Relaxed) + amount <= limit;
        if !reserved {
            amounts.fetch_sub(amount, Ordering::Relaxed);
        }
        reserved
    }

    /// Takes the room for a topic, if there is some.
    fn reserve_topic(&self, topic: &str) -> bool {
        if !Self::reserve(&self.topics, 1, self.limits.topics) {
            return false;
        }
        let has_room = Self::reserve(&self.bytes, TOPIC_BYTES + topic.len(), self.limits.bytes);
        if !has_room {
            self.topics.fetch_sub(1, Ordering::Relaxed);
        }
        has_room
    }

    /// Adds a subscription.
    pub(super) fn add(&self, topic: &str, subscriber: &Arc<Subscriber>) -> Held {
        let mut part = self.part(topic);
        let Part { entries, due } = &mut *part;
        if !entries.contains_key(topic) {
            if !self.reserve_topic(topic) {
                self.stats.overflow.add(1);
                return Held { topic: topic.into(), place: Place::Nowhere };
            }
            let topic: Arc<str> = topic.into();
            entries.insert(Arc::clone(&topic), Entry::new(topic));
        }
        let Some(entry) = entries.get_mut(topic) else {
            return Held { topic: topic.into(), place: Place::Nowhere };
        };
        let reserve = |bytes| Self::reserve(&self.bytes, bytes, self.limits.bytes);
        let place = if entry.add(subscriber, &self.limits, reserve) { Place::Listed } else { Place::Counted };
        let topic = Arc::clone(&entry.topic);
        due.insert(Arc::clone(&topic));
        self.stats.subscriptions.add(1);
        Held { topic, place }
    }

    /// Removes a subscription of `subscriber`.
    pub(super) fn remove(&self, Held { topic, place }: &Held, subscriber: &Subscriber) {
        if *place == Place::Nowhere {
            self.stats.overflow.subtract(1);
            return;
        }
        let mut part = self.part(topic);
        // After the shutdown there is none.
        let Some(entry) = part.entries.get_mut(topic).filter(|entry| entry.count > 0) else { return };
        match place {
            Place::Listed => {
                self.bytes.fetch_sub(entry.remove_listed(subscriber.id), Ordering::Relaxed);
            }
            _ => entry.remove_counted(),
        }
        self.stats.subscriptions.subtract(1);
        self.settle(&mut part, topic);
    }

    /// Replaces what is known of a subscriber, whose id stays the same.
    pub(super) fn replace(&self, Held { topic, place }: &Held, subscriber: &Arc<Subscriber>) {
        if *place != Place::Listed {
            return;
        }
        let mut part = self.part(topic);
        let Some((before, after)) = part.entries.get_mut(topic).and_then(|entry| entry.replace(subscriber)) else {
            return;
        };
        // At most by the size of a subject and a payload for each subscription more than may be listed.
        self.bytes.fetch_add(after, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
        self.settle(&mut part, topic);
    }

    /// Has the topic wait for its turn, or forgets it.
    fn settle(&self, part: &mut Part, topic: &Arc<str>) {
        let Some(entry) = part.entries.get(topic) else { return };
        if entry.is_gone() {
            part.entries.remove(topic);
            part.due.remove(topic);
            self.topics.fetch_sub(1, Ordering::Relaxed);
            self.bytes.fetch_sub(TOPIC_BYTES + topic.len(), Ordering::Relaxed);
        } else if entry.is_due() {
            part.due.insert(Arc::clone(topic));
        }
    }

    /// The topics of which something is due, each once, until something else is.
    pub(super) fn take_due(&self) -> Vec<Arc<str>> {
        self.parts.iter().flat_map(|part| std::mem::take(&mut lock(part).due)).collect()
    }

    /// Whether something is due of any topic.
    pub(super) fn is_due(&self) -> bool {
        self.parts.iter().any(|part| !lock(part).due.is_empty())
    }

    /// Puts topics back whose turn has not come.
    pub(super) fn put_back(&self, topics: impl IntoIterator<Item = Arc<str>>) {
        for topic in topics {
            self.settle(&mut self.part(&topic), &topic);
        }
    }

    /// What is due of a topic; see [`Entry::take`].
    pub(super) fn take(&self, topic: &str, now: Instant, budget: Option<usize>) -> Option<Change> {
        let change = self.part(topic).entries.get_mut(topic)?.take(now, budget, &self.limits);
        self.stats.silenced.add(change.silenced);
        Some(change)
    }

    /// What was taken is shared and announced; see [`Entry::confirm`].
    pub(super) fn confirm(&self, change: &Change, unpublished: Option<u64>) {
        let mut part = self.part(&change.topic);
        if let Some(entry) = part.entries.get_mut(&change.topic) {
            entry.confirm(change, unpublished);
        }
        self.settle(&mut part, &change.topic);
    }

    /// The events of a topic up to a number are published.
    pub(super) fn published(&self, topic: &Arc<str>, number: u64) {
        let mut part = self.part(topic);
        if let Some(entry) = part.entries.get_mut(topic) {
            entry.published(number);
        }
        self.settle(&mut part, topic);
    }

    /// What was taken is neither shared nor announced.
    pub(super) fn undo(&self, change: &Change) {
        let mut part = self.part(&change.topic);
        if let Some(entry) = part.entries.get_mut(&change.topic) {
            entry.undo(change);
        }
        self.settle(&mut part, &change.topic);
    }

    /// What was shared is lost; see [`Entry::share_again`].
    pub(super) fn share_again(&self, disconnected: bool) {
        self.change_all(|entry| entry.share_again(disconnected));
    }

    /// Ends all subscriptions, at the shutdown.
    pub(super) fn clear(&self) {
        self.change_all(|entry| {
            let (count, bytes) = entry.clear();
            self.stats.subscriptions.subtract(count);
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        });
    }

    fn change_all(&self, mut change: impl FnMut(&mut Entry)) {
        for part in &self.parts {
            let mut part = lock(part);
            part.entries.values_mut().for_each(&mut change);
            let topics: Vec<Arc<str>> = part.entries.keys().cloned().collect();
            topics.iter().for_each(|topic| self.settle(&mut part, topic));
        }
    }

    /// The subscriptions to a topic.
    pub(super) fn snapshot(&self, topic: &str) -> Option<Snapshot> {
        self.part(topic).entries.get(topic).filter(|entry| entry.count > 0).map(Entry::snapshot)
    }

    /// The first topics from `start` on, in their order.
    pub(super) fn topics(&self, start: Bound<&str>, limit: usize) -> Vec<Arc<str>> {
        let mut first = BTreeSet::<Arc<str>>::new();
        for part in &self.parts {
            for (topic, entry) in &lock(part).entries {
                let is_after = match start {
                    Bound::Included(start) => **topic >= *start,
                    Bound::Excluded(start) => **topic > *start,
                    Bound::Unbounded => true,
                };
                let is_near = first.len() < limit || first.last().is_some_and(|last| topic < last);
                if is_after && is_near && entry.count > 0 {
                    first.insert(Arc::clone(topic));
                    if first.len() > limit {
                        first.pop_last();
                    }
                }
            }
        }
        first.into_iter().collect()
    }

    /// The number of topics that are kept, and the bytes of them and of what is listed.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.topics.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::presence::SubscriberId;
    use crate::presence::subscriber::Ids;

    const TOPICS: [&str; 5] = ["/a", "/b", "/c", "https://e.com/{x}", "/d/**"];

    #[derive(Debug, Clone)]
    enum Step {
        Open(Vec<usize>),
        Close(usize),
        /// Shares what is due, with room for so many events, unless Redis is away.
        Flush {
            budget: usize,
            is_shared: bool,
        },
        /// Whoever receives the events has published them.
        Publish,
        /// Redis loses its data, or other nodes take this one for dead.
        Lose {
            disconnected: bool,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => proptest::sample::subsequence((0..TOPICS.len()).collect::<Vec<_>>(), 0..4).prop_map(Step::Open),
            4 => any::<usize>().prop_map(Step::Close),
            4 => (0_usize..6, proptest::bool::weighted(0.8))
                .prop_map(|(budget, is_shared)| Step::Flush { budget, is_shared }),
            1 => Just(Step::Publish),
            1 => any::<bool>().prop_map(|disconnected| Step::Lose { disconnected }),
        ]
    }

    /// What others know.
    #[derive(Debug, Default)]
    struct World {
        now: Option<Instant>,
        counts: HashMap<Arc<str>, u64>,
        announced: HashSet<(Arc<str>, SubscriberId)>,
        last_counts: HashMap<Arc<str>, u64>,
        /// What an heir would end.
        shared: HashMap<Arc<str>, HashSet<SubscriberId>>,
        number: u64,
        unpublished: Vec<(u64, Arc<str>)>,
        published: u64,
    }

    impl World {
        /// Events that have been sent are published.
        fn publish(&mut self, registry: &Registry) {
            self.published = self.number;
            for (number, topic) in self.unpublished.drain(..) {
                registry.published(&topic, number);
            }
        }

        fn flush(&mut self, registry: &Registry, mut budget: Option<usize>, is_shared: bool, has_store: bool) {
            let now = self.now.unwrap_or_else(Instant::now) + Duration::from_millis(700);
            self.now = Some(now);
            for topic in registry.take_due() {
                let Some(change) = registry.take(&topic, now, budget) else { continue };
                if let Some(budget) = &mut budget {
                    *budget = budget.checked_sub(change.events()).expect("no more events than there is room for");
                }
                if !is_shared {
                    registry.undo(&change);
                    continue;
                }
                self.number += 1;
                registry.confirm(&change, has_store.then_some(self.number));
                if has_store && !change.disconnected.is_empty() {
                    self.unpublished.push((self.number, Arc::clone(&topic)));
                }
                if let Some(value) = &change.value {
                    let leaving = value.leaving.iter().map(|subscriber| subscriber.id);
                    let listed = value.listed.iter().filter(|(_, announced)| *announced);
                    let shared = listed.map(|(subscriber, _)| subscriber.id).chain(leaving).collect();
                    self.shared.insert(Arc::clone(&topic), shared);
                    self.counts.insert(Arc::clone(&topic), value.count);
                    // Whatever was announced is known to other nodes.
                    for subscriber in &change.connected {
                        assert!(
                            value.listed.iter().any(|(listed, announced)| listed.id == subscriber.id && *announced)
                        );
                    }
                }
                for subscriber in &change.disconnected {
                    assert!(self.announced.remove(&(Arc::clone(&topic), subscriber.id)), "ended twice");
                }
                for subscriber in &change.connected {
                    assert!(self.announced.insert((Arc::clone(&topic), subscriber.id)), "began twice");
                }
                if let Some(count) = change.count {
                    self.last_counts.insert(Arc::clone(&topic), count);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_others_know_each_subscription_once(
            steps in proptest::collection::vec(step(), 0..60),
            topics in 2_usize..6,
            bytes in 0_usize..8000,
            has_receiver in proptest::bool::weighted(0.9),
            has_store in any::<bool>(),
        ) {
            let limits = Limits { topics, listed: 3, bytes, topic_bytes: 1500, events: 2 };
            let stats = Arc::<PresenceStats>::default();
            let registry = Registry::new(limits, Arc::clone(&stats));
            let ids = Ids::default();
            let mut streams: Vec<(Arc<Subscriber>, Vec<Held>)> = Vec::new();
            let mut world = World::default();
            let close = |(subscriber, held): (Arc<Subscriber>, Vec<Held>)| {
                held.iter().for_each(|held| registry.remove(held, &subscriber));
            };
            for step in steps {
                match step {
                    Step::Open(topics) => {
                        let subscriber = Arc::new(Subscriber::new(ids.next(), SystemTime::now(), None));
                        let held = topics.iter().map(|topic| registry.add(TOPICS[*topic], &subscriber)).collect();
                        streams.push((subscriber, held));
                    }
                    Step::Close(place) if !streams.is_empty() => close(streams.swap_remove(place % streams.len())),
                    Step::Close(_) => {}
                    Step::Publish => world.publish(&registry),
                    Step::Flush { budget, is_shared } => {
                        world.flush(&registry, has_receiver.then_some(budget), is_shared, has_store);
                    }
                    Step::Lose { disconnected } => {
                        world.counts.clear();
                        world.shared.clear();
                        if disconnected {
                            world.announced.clear();
                            world.last_counts.clear();
                        }
                        registry.share_again(disconnected);
                    }
                }
                let known = streams.iter().flat_map(|(_, held)| held);
                let (nowhere, known): (Vec<_>, Vec<_>) = known.partition(|held| held.place == Place::Nowhere);
                prop_assert_eq!(stats.overflow.get(), nowhere.len() as u64);
                prop_assert_eq!(stats.subscriptions.get(), known.len() as u64);
                prop_assert!(registry.size().0 <= topics && registry.size().1 <= bytes);
                for topic in TOPICS {
                    let count = known.iter().filter(|held| &*held.topic == topic).count() as u64;
                    prop_assert_eq!(registry.snapshot(topic).map_or(0, |snapshot| snapshot.count), count);
                }
            }
            // Once everything is shared, others have the same counts.
            for _ in 0..40 {
                world.flush(&registry, has_receiver.then_some(5), true, has_store);
                world.publish(&registry);
            }
            for topic in TOPICS {
                let count = registry.snapshot(topic).map_or(0, |snapshot| snapshot.count);
                prop_assert!(!has_store || world.counts.get(topic).copied().unwrap_or_default() == count);
            }
            prop_assert!(has_receiver || world.announced.is_empty() && world.last_counts.is_empty());
            if has_store {
                let shared = |(topic, id): &(Arc<str>, SubscriberId)| world.shared.get(topic).is_some_and(|ids| ids.contains(id));
                prop_assert!(world.announced.iter().all(shared), "an heir would end what was announced");
            }
            // And nothing is left of streams that are closed.
            streams.into_iter().for_each(close);
            for _ in 0..40 {
                world.flush(&registry, has_receiver.then_some(5), true, has_store);
                world.publish(&registry);
            }
            prop_assert_eq!(registry.size(), (0, 0));
            prop_assert!(world.announced.is_empty(), "{:?}", world.announced);
            if has_store {
                prop_assert!(world.counts.values().all(|count| *count == 0), "{:?}", world.counts);
                prop_assert!(world.shared.values().all(HashSet::is_empty), "{:?}", world.shared);
            }
            prop_assert!(world.last_counts.values().all(|count| *count == 0), "{:?}", world.last_counts);
            prop_assert!(registry.parts.iter().all(|part| lock(part).due.is_empty()));
        }
    }
}
