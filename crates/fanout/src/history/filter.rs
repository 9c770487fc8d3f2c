//! Which messages a reader gets from the history: those of its topics, without those that it was sent already.

use std::collections::HashSet;
use std::sync::Arc;

use crate::interest::{Interest, Rights};
use crate::topic::Topic;
use crate::topic_index::TopicIndex;
use crate::{Access, Message};

/// What a reader gets, ready for many lookups.
#[derive(Debug)]
pub(crate) struct Filter {
    /// Those that are not excluded themselves.
    pub(crate) topics: Vec<Topic>,
    included: Selection,
    excluded: Option<Selection>,
}

/// An [`Interest`], ready for many lookups.
#[derive(Debug)]
struct Selection {
    topics: TopicIndex<()>,
    private: TopicIndex<()>,
    /// `None` for everything.
    plain: Option<TopicIndex<()>>,
    except_sender: Option<Arc<str>>,
}

impl Selection {
    fn new(topics: impl Iterator<Item = Topic>, interest: &Interest) -> Self {
        let Rights { private, plain, except_sender } = interest.rights();
        let plain = match plain {
            Access::All => None,
            Access::Topics(topics) => Some(TopicIndex::of(topics.iter(), ())),
        };
        Self { topics: TopicIndex::of(topics, ()), private: TopicIndex::of(private.iter(), ()), plain, except_sender }
    }

    fn contains(&self, message: &Message) -> bool {
        let permitted = match &message.update {
            Some(update) if update.is_private => Some(&self.private),
            Some(_) => None,
            None => self.plain.as_ref(),
        };
        !message.is_from(self.except_sender.as_ref())
            && self.topics.contains_any(message.topics())
            && permitted.is_none_or(|permitted| permitted.contains_any(message.topics()))
    }
}

impl Filter {
    pub(crate) fn new(interest: &Interest, excluded: Option<&Interest>) -> Self {
        let excluded = excluded.filter(|excluded| !excluded.topics.is_empty());
        let known: HashSet<Topic> = excluded.iter().flat_map(|excluded| excluded.topics.iter()).collect();
        let topics: Vec<Topic> = interest.topics.iter().filter(|topic| !known.contains(topic)).collect();
        Self {
            included: Selection::new(topics.iter().cloned(), interest),
            topics,
            excluded: excluded.map(|excluded| Selection::new(excluded.topics.iter(), excluded)),
        }
    }

    pub(crate) fn contains(&self, message: &Message) -> bool {
        self.included.contains(message) && !self.excluded.as_ref().is_some_and(|excluded| excluded.contains(message))
    }
}
