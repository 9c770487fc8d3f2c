//! What a reader gets: the messages of its topics, and of the private ones those that it was granted.

use std::sync::Arc;

use crate::{Access, Grant, Topics};

/// The topics of a reader, and its rights.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Interest {
    pub(crate) topics: Topics,
    /// `None` for those that readers without a grant have: most feeds need no memory for them.
    rights: Option<Arc<Rights>>,
}

/// [`Grant::private`], [`Grant::plain`] and [`Grant::except_sender`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Rights {
    /// Of private messages, it gets those that have a topic in this set.
    pub(crate) private: Topics,
    /// Of messages that are no updates, it gets those that have a topic in this set.
    pub(crate) plain: Access,
    /// It gets no messages of this sender.
    pub(crate) except_sender: Option<Arc<str>>,
}

impl Interest {
    pub(crate) fn new(topics: &Topics, grant: Option<&Grant>) -> Self {
        let rights = grant.map(|grant| Rights {
            private: grant.private.clone(),
            plain: grant.plain.clone(),
            except_sender: grant.except_sender.clone(),
        });
        let rights = rights.filter(|rights| *rights != Rights::default()).map(Arc::new);
        Self { topics: topics.clone(), rights }
    }

    /// The same rights to other topics.
    pub(crate) fn of(&self, topics: Topics) -> Self {
        Self { topics, rights: self.rights.clone() }
    }

    pub(crate) fn rights(&self) -> Rights {
        self.rights.as_deref().cloned().unwrap_or_default()
    }
}
