//! The feeds of a shard, found by what they are and by the namespaces that they contain.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashTable;
use slab::Slab;

use super::Budgets;
use super::feed::{Feed, FeedKey, Readers, place};
use super::followed::Followed;
use super::topic_sets::TopicSets;
use crate::interest::Rights;
use crate::log::Batch;
use crate::policy::policy_of;
use crate::topic_index::TopicIndex;
use crate::totals::Audience;
use crate::turn::{Outgoing, Turn};
use crate::{Access, CloseReason, NamespacePolicy, Policy, Stats, Topic};

/// A feed's place in its shard's table. Used again after the feed has gone.
pub(crate) type FeedId = u32;

/// No match.
pub(super) const NONE: u32 = u32::MAX;
/// Readers from which on the messages of a feed are joined before they are finished: fewer bytes for each reader, and better
/// compressed, but work that no other feed shares.
const SHARED_BATCH_READERS: usize = 8;
/// Bytes from which on a message is a batch of its own that refers to the frame, instead of a copy among others.
const COPIED_BYTES: usize = 4096;

/// All feeds that have readers in a shard.
pub(super) struct Feeds {
    feeds: Slab<Feed>,
    by_key: HashTable<FeedId>,
    hasher: RandomState,
    topics: TopicIndex<FeedId>,
    /// Of which topics readers get private messages.
    private_sets: TopicSets,
    /// Of which topics readers get messages that are no updates, where these are restricted.
    plain_sets: TopicSets,
    /// The number of feeds where they are.
    restricted: usize,
    policies: Arc<[NamespacePolicy]>,
    budgets: Budgets,
    stats: Arc<Stats>,
    /// For the turns that are being matched: the messages of each feed as linked lists, and the feeds that have some. Empty in
    /// between.
    matches: Vec<Match>,
    matched: Vec<FeedId>,
    /// Feeds that wait to be written to their readers.
    touched: Vec<FeedId>,
    /// Feeds whose readers cannot follow a change of the totals' state, or a reset, and need to start over.
    closing: Vec<(FeedId, CloseReason)>,
}

/// A message of the current turns that a feed contains.
#[derive(Debug, Clone, Copy)]
struct Match {
    message: u32,
    next: u32,
}

impl Feeds {
    pub(super) fn new(policies: Arc<[NamespacePolicy]>, budgets: Budgets, stats: Arc<Stats>) -> Self {
        Self {
            feeds: Slab::new(),
            by_key: HashTable::new(),
            hasher: RandomState::new(),
            topics: TopicIndex::new(),
            private_sets: TopicSets::new(),
            plain_sets: TopicSets::new(),
            restricted: 0,
            policies,
            budgets,
            stats,
            matches: Vec::new(),
            matched: Vec::new(),
            touched: Vec::new(),
            closing: Vec::new(),
        }
    }

    pub(super) fn get(&self, id: FeedId) -> Option<&Feed> {
        self.feeds.get(id as usize)
    }

    pub(super) fn get_mut(&mut self, id: FeedId) -> Option<&mut Feed> {
        self.feeds.get_mut(id as usize)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (FeedId, &Feed)> {
        self.feeds.iter().map(|(id, feed)| (place(id), feed))
    }

    /// The feeds of relays.
    pub(super) fn relays(&self) -> Vec<FeedId> {
        self.iter().filter(|(_, feed)| feed.is_relay).map(|(id, _)| id).collect()
    }

    /// Finds or adds a feed.
    pub(super) fn join(&mut self, key: FeedKey) -> FeedId {
        let key_hash = hash(&self.hasher, &key);
        if let Some(&id) = self.by_key.find(key_hash, |&id| self.feeds[id as usize].key == key) {
            return id;
        }
        let policy = match policy_of(&self.policies, &key.interest.topics) {
            // Nothing may be left out for the readers of other engines. A relay that is disconnected resumes.
            _ if key.framing.framing.is_relay() => Policy::Disconnect,
            // The totals of a reader would be wrong without the tallies that it skips.
            Policy::Skip if key.totals.is_some() => Policy::Merge,
            policy => policy,
        };
        let topics = key.interest.topics.clone();
        let Rights { private, plain, except_sender } = key.interest.rights();
        let mut feed = Feed::new(key, policy, &self.budgets);
        feed.except_sender = except_sender;
        feed.private_set = self.private_sets.join(&private);
        if let Access::Topics(plain) = plain {
            self.restricted += 1;
            feed.plain_set = Some(self.plain_sets.join(&plain));
        }
        let id = place(self.feeds.insert(feed));
        topics.iter().for_each(|topic| self.topics.insert(&topic, id));
        let Self { feeds, by_key, hasher, .. } = self;
        by_key.insert_unique(key_hash, id, |&id| hash(hasher, &feeds[id as usize].key));
        self.stats.feeds.add(1);
        id
    }

    /// Removes a feed.
    pub(super) fn remove(&mut self, id: FeedId) {
        let Some(feed) = self.feeds.try_remove(id as usize) else { return };
        let Rights { private, plain, .. } = feed.key.interest.rights();
        feed.key.interest.topics.iter().for_each(|topic| self.topics.remove(&topic, id));
        self.private_sets.leave(&private);
        if let Access::Topics(plain) = plain {
            self.restricted -= 1;
            self.plain_sets.leave(&plain);
        }
        if let Ok(entry) = self.by_key.find_entry(hash(&self.hasher, &feed.key), |&other| other == id) {
            entry.remove();
        }
        self.stats.feeds.subtract(1);
        let Self { feeds, by_key, hasher, .. } = self;
        if feeds.capacity() > 8 * (feeds.len() + 8) {
            by_key.shrink_to_fit(|&id| hash(hasher, &feeds[id as usize].key));
            feeds.shrink_to_fit();
        }
    }

    /// Appends the messages of turns to the logs of the feeds that contain them. Returns whether there are any. Those of `followed` learn
    /// which feeds have them.
    pub(super) fn append(&mut self, turns: &[Arc<Turn>], followed: &mut [Followed]) -> bool {
        let all: Vec<&Outgoing> = turns.iter().flat_map(|turn| &turn.messages).collect();
        for (number, message) in all.iter().enumerate() {
            self.find(place(number), message);
        }
        let found = !self.matched.is_empty();
        let mut matched = std::mem::take(&mut self.matched);
        for id in matched.drain(..) {
            let feed = &mut self.feeds[id as usize];
            let [first, _] = std::mem::replace(&mut feed.matches, [NONE; 2]);
            let matches = &self.matches;
            let next = |at: &u32| Some(matches[*at as usize].next).filter(|next| *next != NONE);
            let numbers = || std::iter::successors(Some(first), next).map(|at| matches[at as usize].message);
            for message in followed.iter_mut() {
                numbers().for_each(|number| message.found(number, id));
            }
            let messages = numbers().map(|number| all[number as usize]);
            match &mut feed.readers {
                Readers::All(_) => append(feed, messages, &self.budgets),
                Readers::Paced(paces) => {
                    paces.iter_mut().for_each(|pace| pace.has_unread = true);
                    let mut batch = Batch::new(true);
                    messages.for_each(|message| batch.add(&message.message, message.number));
                    feed.log.push(batch.complete(Bytes::new(), &self.budgets.waiting));
                }
            }
            if !std::mem::replace(&mut feed.is_touched, true) {
                self.touched.push(id);
            }
        }
        self.matched = matched;
        self.matches.clear();
        found
    }

    /// Adds message `number` of the turns to the matches of each feed that contains it and belongs to its audience.
    fn find(&mut self, number: u32, Outgoing { message, audience, .. }: &Outgoing) {
        let Self { topics, private_sets, plain_sets, restricted, feeds, matches, matched, closing, .. } = self;
        let is_private = message.is_private();
        if is_private {
            private_sets.mark(message);
        }
        let is_plain = message.update.is_none() && *restricted > 0 && *audience != Audience::Concerned;
        if is_plain {
            plain_sets.mark(message);
        }
        let has_sender = message.sender.is_some();
        let concerned: Option<Vec<FeedId>> = (*audience == Audience::Concerned).then(|| {
            let retention = message.kept.as_ref().map(|kept| &kept.retention);
            let is_concerned = |topic: &Topic| retention.is_none_or(|retention| retention.concerns(topic));
            let concerned = |feed: &Feed| feed.key.interest.topics.iter().any(|topic| is_concerned(&topic));
            feeds.iter().filter(|(_, feed)| concerned(feed)).map(|(id, _)| place(id)).collect()
        });
        // Of readers that see no event names.
        let close_reason = match audience {
            Audience::Everyone => None,
            Audience::WithTotals => Some(CloseReason::TotalsUnavailable),
            Audience::Concerned => Some(CloseReason::MessagesLost),
        };
        let mut found = |id: FeedId| {
            let feed = &mut feeds[id as usize];
            if is_private && !private_sets.is_permitted(feed.private_set) {
                return;
            }
            // Others that read totals have the right to them, or would not.
            let is_for_plain = is_plain && (*audience == Audience::Everyone || feed.is_relay);
            if is_for_plain && feed.plain_set.is_some_and(|set| !plain_sets.is_permitted(set)) {
                return;
            }
            if has_sender && message.is_from(feed.except_sender.as_ref()) {
                return;
            }
            if *audience == Audience::WithTotals
                && feed.key.totals.as_ref() != Some(&message.namespace)
                && !feed.is_relay
            {
                return;
            }
            if let Some(reason) = &close_reason
                && !feed.key.framing.framing.names_events()
            {
                closing.push((id, reason.clone()));
                return;
            }
            let at = place(matches.len());
            let [first, last] = &mut feed.matches;
            match matches.get_mut(*last as usize) {
                // Overlapping topics do not bring it twice, nor do several topics of the message.
                Some(previous) if previous.message == number => return,
                Some(previous) => previous.next = at,
                None => {
                    *first = at;
                    matched.push(id);
                }
            }
            *last = at;
            matches.push(Match { message: number, next: NONE });
        };
        match concerned {
            Some(feeds) => feeds.into_iter().for_each(found),
            None => message.topics().for_each(|topic| topics.visit(topic, &mut found)),
        }
    }

    /// Takes the feeds that wait to be written to their readers.
    pub(super) fn take_touched(&mut self) -> Vec<FeedId> {
        for id in &self.touched {
            if let Some(feed) = self.feeds.get_mut(*id as usize) {
                feed.is_touched = false;
            }
        }
        std::mem::take(&mut self.touched)
    }

    /// Takes the feeds whose readers need to start over, once everything before has been written.
    pub(super) fn take_closing(&mut self) -> Vec<(FeedId, CloseReason)> {
        std::mem::take(&mut self.closing)
    }
}

fn hash(hasher: &RandomState, key: &FeedKey) -> u64 {
    hasher.hash_one(key.parts())
}

/// Appends messages to a feed's log: long ones as they are framed for all feeds, and short ones in a row as one batch.
fn append<'a>(feed: &mut Feed, messages: impl Iterator<Item = &'a Outgoing>, budgets: &Budgets) {
    let framing = Arc::clone(&feed.key.framing);
    let is_shared = feed.readers.len() >= SHARED_BATCH_READERS;
    let mut messages = messages.peekable();
    while let Some(message) = messages.next() {
        let mut batch = Batch::new(feed.rules().is_some());
        batch.add(&message.message, message.number);
        let mut joined = Vec::new();
        if messages.peek().is_some() {
            let frame = |message: &Outgoing| {
                if is_shared { message.part(&framing) } else { message.whole(&framing, &budgets.waiting) }
            };
            let mut next = frame(message);
            while next.len() < COPIED_BYTES {
                joined.extend_from_slice(&next);
                let Some(message) = messages.peek() else { break };
                next = frame(message);
                if next.len() < COPIED_BYTES {
                    batch.add(&message.message, message.number);
                    messages.next();
                }
            }
        }
        let bytes = match (batch.messages, is_shared) {
            (1, _) => message.whole(&framing, &budgets.waiting),
            (_, true) => budgets.waiting.charge_bytes(framing.framing.finish(joined)),
            (_, false) => budgets.waiting.charge_bytes(joined.into()),
        };
        feed.log.push(batch.complete(bytes, &budgets.waiting));
    }
}
