//! What another engine needs in order to send the same messages with the same ids.

use std::sync::Arc;

use crate::{EntryId, Namespace, Partition, Retention};

/// The state of an engine at the place among its messages at which a [relay](crate::Framing::is_relay) starts to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStart {
    /// The [instances](crate::Handle::instance) of the engines that messages pass, that of this engine last.
    pub path: Vec<Arc<str>>,
    /// All sequences that ids name, and how far each has come.
    pub sequences: Vec<(SequenceName, EntryId)>,
    /// The retentions of the reader's topics.
    pub retentions: Vec<RelayedRetention>,
    /// The namespaces of its topics whose tallies are summed up.
    pub totals: Vec<Namespace>,
}

/// The name of a sequence, as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SequenceName {
    /// Its source numbers the entries.
    Named(Arc<str>),
    /// The engine with this epoch numbers them.
    Numbered(Arc<str>),
    /// It is a partition of a topic.
    Partition(Partition),
}

/// See [`RelayStart::retentions`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayedRetention {
    /// What is kept, and how long.
    pub retention: Arc<Retention>,
    /// The place of its sequence in [`RelayStart::sequences`].
    pub sequence: usize,
    /// The newest entry that is not kept any more.
    pub trimmed: EntryId,
}
