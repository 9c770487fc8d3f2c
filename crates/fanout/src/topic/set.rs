//! Sets of topics.

use std::fmt;
use std::sync::Arc;

use super::{Kind, MAX_TOPICS, Template, Topic, TopicError};
use crate::Namespace;

/// The topics of one reader: at most [`MAX_TOPICS`], without duplicates, in a canonical order. A message that several of
/// them contain is sent once. Cheap to clone.
// One text, because watch-lists have many topics and every connection may have its own: the text of each topic, and after it its
// terminator, which no topic contains.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Topics(Arc<str>);

/// Ends a path that everything below belongs to, too.
const RECURSIVE: char = '\n';
/// Ends any other path.
const NOT_RECURSIVE: char = '\r';
/// Ends a single namespace.
const EXACT: char = '\u{2}';
/// Ends a template.
const TEMPLATE: char = '\u{3}';

const TERMINATORS: [char; 4] = [RECURSIVE, NOT_RECURSIVE, EXACT, TEMPLATE];

impl Topic {
    /// What stands for it in the text of a set.
    fn parts(&self) -> (&str, char) {
        match self.kind() {
            Kind::Path { path, is_recursive: true } => (path.internal(), RECURSIVE),
            Kind::Path { path, is_recursive: false } => (path.internal(), NOT_RECURSIVE),
            Kind::Exact(namespace) => (namespace.internal(), EXACT),
            Kind::Template(template) => (template.as_str(), TEMPLATE),
        }
    }

    /// The topic of a text and its terminator.
    fn from_parts(text: &str) -> Option<Self> {
        let terminator = text.chars().next_back()?;
        let text = &text[..text.len() - terminator.len_utf8()];
        let namespace = || Namespace::from_valid(text);
        Some(Self(match terminator {
            EXACT => Kind::Exact(namespace()),
            TEMPLATE => Kind::Template(Template::parse(text)?),
            _ => Kind::Path { path: namespace(), is_recursive: terminator == RECURSIVE },
        }))
    }
}

impl Topics {
    /// A set of topics.
    ///
    /// # Errors
    /// When there are none or too many.
    pub fn new(mut topics: Vec<Topic>) -> Result<Self, TopicError> {
        topics.sort_unstable();
        topics.dedup();
        if topics.is_empty() {
            return Err(TopicError::NoTopics);
        }
        if topics.len() > MAX_TOPICS {
            return Err(TopicError::TooManyTopics(MAX_TOPICS));
        }
        let mut text = String::new();
        for (topic, terminator) in topics.iter().map(Topic::parts) {
            text.push_str(topic);
            text.push(terminator);
        }
        Ok(Self(text.into()))
    }

    /// No topics, for a reader that receives some later.
    pub fn none() -> Self {
        Self(Arc::default())
    }

    /// The number of topics.
    pub fn len(&self) -> usize {
        self.0.matches(TERMINATORS).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The topics.
    pub fn iter(&self) -> impl Iterator<Item = Topic> {
        self.0.split_inclusive(TERMINATORS).filter_map(Topic::from_parts)
    }

    /// The memory that a subscription to these topics takes in the engine if no other reader has any of them, in bytes, at
    /// most, roughly.
    pub fn weight(&self) -> usize {
        /// Of a feed.
        const FEED: usize = 512;
        /// Of a topic: two nodes of the trie, and its place in the set.
        const TOPIC: usize = 256;
        /// The text of a topic is in the set and in the trie.
        const COPIES: usize = 2;
        /// Of a template: its parts, in the index.
        const PARTS: usize = 1024;
        let templates = self.0.matches(TEMPLATE).count();
        FEED + TOPIC * self.len() + PARTS * templates + COPIES * (self.0.len() - self.len())
    }

    /// The namespace, if there is one topic and it has no wildcards.
    pub fn as_namespace(&self) -> Option<Namespace> {
        let mut topics = self.iter();
        let first = topics.next()?;
        if topics.next().is_some() { None } else { first.as_namespace().cloned() }
    }
}

impl Default for Topics {
    /// As [`none`](Self::none).
    fn default() -> Self {
        Self::none()
    }
}

impl From<Namespace> for Topics {
    fn from(namespace: Namespace) -> Self {
        let topic = Topic::from(namespace);
        let (text, terminator) = topic.parts();
        Self(format!("{text}{terminator}").into())
    }
}

impl fmt::Display for Topics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, topic) in self.iter().enumerate() {
            write!(formatter, "{}{topic}", if place > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Topics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), formatter)
    }
}
