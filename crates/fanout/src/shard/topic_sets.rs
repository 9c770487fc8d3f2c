//! Who may get a message that needs permission: the sets of topics that readers of a shard were granted, found by the topics of the
//! message.

use std::collections::HashMap;

use slab::Slab;

use super::feed::place;
use super::feeds::NONE;
use crate::topic_index::TopicIndex;
use crate::{Message, Topics};

/// The place of a set in its shard's table, or [`NONE`] for the empty set.
pub(super) type TopicSetId = u32;

/// All sets that feeds have. Feeds that agree in it share a set, so that a message marks few sets, however many feeds there are.
#[derive(Debug)]
pub(super) struct TopicSets {
    sets: Slab<TopicSet>,
    by_topics: HashMap<Topics, TopicSetId>,
    index: TopicIndex<TopicSetId>,
    /// The number of messages so far that were marked, which tells them apart.
    messages: u64,
}

#[derive(Debug)]
struct TopicSet {
    feeds: usize,
    /// The number of the last marked message that has one of its topics, or zero.
    last_permitted: u64,
}

impl TopicSets {
    pub(super) fn new() -> Self {
        Self { sets: Slab::new(), by_topics: HashMap::new(), index: TopicIndex::new(), messages: 0 }
    }

    /// Counts a feed that has this set.
    pub(super) fn join(&mut self, topics: &Topics) -> TopicSetId {
        if topics.is_empty() {
            return NONE;
        }
        let id = *self.by_topics.entry(topics.clone()).or_insert_with(|| {
            let id = place(self.sets.insert(TopicSet { feeds: 0, last_permitted: 0 }));
            topics.iter().for_each(|topic| self.index.insert(&topic, id));
            id
        });
        self.sets[id as usize].feeds += 1;
        id
    }

    /// The opposite of [`join`](Self::join).
    pub(super) fn leave(&mut self, topics: &Topics) {
        let Some(&id) = self.by_topics.get(topics) else { return };
        self.sets[id as usize].feeds -= 1;
        if self.sets[id as usize].feeds > 0 {
            return;
        }
        self.sets.remove(id as usize);
        topics.iter().for_each(|topic| self.index.remove(&topic, id));
        self.by_topics.remove(topics);
        if self.by_topics.capacity() > 8 * (self.by_topics.len() + 8) {
            self.by_topics.shrink_to_fit();
            self.sets.shrink_to_fit();
        }
    }

    /// Notes which sets contain a topic of `message`.
    pub(super) fn mark(&mut self, message: &Message) {
        self.messages += 1;
        let Self { sets, index, messages, .. } = self;
        let mut permit = |id: TopicSetId| sets[id as usize].last_permitted = *messages;
        message.topics().for_each(|topic| index.visit(topic, &mut permit));
    }

    /// Whether feeds with this set get the message that was [marked](Self::mark) last.
    pub(super) fn is_permitted(&self, id: TopicSetId) -> bool {
        self.sets.get(id as usize).is_some_and(|set| set.last_permitted == self.messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Topic;
    use crate::tests::ns;

    fn message(topic: &str) -> Message {
        Message::text(ns(topic), "x")
    }

    #[test]
    fn set_is_shared_until_its_last_feed_goes() {
        let mut sets = TopicSets::new();
        let of = |text: &str| Topics::new(vec![text.parse::<Topic>().unwrap()]).unwrap();
        let (one, same, other) = (sets.join(&of("/a")), sets.join(&of("/a")), sets.join(&of("/b")));
        assert!(one == same && one != other && sets.join(&Topics::none()) == NONE);
        sets.mark(&message("/a/1"));
        assert!(sets.is_permitted(one) && !sets.is_permitted(other) && !sets.is_permitted(NONE));
        sets.mark(&message("/b"));
        assert!(!sets.is_permitted(one) && sets.is_permitted(other));
        sets.leave(&of("/a"));
        sets.mark(&message("/a"));
        assert!(sets.is_permitted(one));
        sets.leave(&of("/a"));
        assert_eq!((sets.sets.len(), sets.by_topics.len()), (1, 1));
        // Its place is free for another set, which the messages before do not permit.
        let new = sets.join(&of("/c"));
        assert!(new == one && !sets.is_permitted(new));
        sets.leave(&Topics::none());
    }
}
