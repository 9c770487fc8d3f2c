//! What a reader gets: the messages of its topics, and of the private ones those that it was granted.

use crate::{Grant, Topics};

/// The topics of a reader, and its [`Grant::private`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Interest {
    pub(crate) topics: Topics,
    /// Of private messages, it gets those that have a topic in this set.
    pub(crate) private: Topics,
}

impl Interest {
    pub(crate) fn new(topics: &Topics, grant: Option<&Grant>) -> Self {
        let private = grant.map(|grant| grant.private.clone()).unwrap_or_default();
        Self { topics: topics.clone(), private }
    }
}
