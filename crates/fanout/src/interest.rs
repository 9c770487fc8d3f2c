//! What a reader gets: the messages of its topics, and of the private ones those that it was granted.

use crate::{Access, Grant, Topics};

/// The topics of a reader, with its [`Grant::private`] and [`Grant::plain`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Interest {
    pub(crate) topics: Topics,
    /// Of private messages, it gets those that have a topic in this set.
    pub(crate) private: Topics,
    /// Of messages that are no updates, it gets those that have a topic in this set.
    pub(crate) plain: Access,
}

impl Interest {
    pub(crate) fn new(topics: &Topics, grant: Option<&Grant>) -> Self {
        let rights = grant.map(|grant| (grant.private.clone(), grant.plain.clone()));
        let (private, plain) = rights.unwrap_or_default();
        Self { topics: topics.clone(), private, plain }
    }
}
