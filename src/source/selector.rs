//! Which channels a source subscribes to, and which streams it reads, in no broker's own syntax; and which source.

use std::fmt;
use std::sync::Arc;

use tallycast_fanout::Retention;

/// One of the sources of a process: its place in the configuration, which no reload changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SourceId(pub u8);

impl SourceId {
    /// The source of all routes that name none.
    pub const DEFAULT: Self = Self(0);
}

/// A stream to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamKey {
    /// Its name at the broker.
    pub key: Arc<str>,
    /// The name of the sequence of its entries, which is their own among all sources: the key, after the name of the source and `:`
    /// unless that is the default one.
    pub sequence: Arc<str>,
    /// How long its entries are kept, if they are: at its start, a source sends what it can of these.
    pub retention: Option<Arc<Retention>>,
}

/// A set of channels: one, or all with the same prefix. Each source translates it for its broker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    /// The channel with this name.
    Exact(String),
    /// All channels whose names start with this.
    Prefix(String),
}

impl Selector {
    /// The part of `channel` after the prefix, or an empty text for an exact match; `None` if the channel is not selected.
    pub fn strip<'a>(&self, channel: &'a str) -> Option<&'a str> {
        match self {
            Self::Exact(name) => (name == channel).then_some(""),
            Self::Prefix(prefix) => channel.strip_prefix(prefix.as_str()),
        }
    }

    /// Whether `channel` is selected.
    pub fn matches(&self, channel: &str) -> bool {
        self.strip(channel).is_some()
    }

    /// Whether every channel that `other` selects is selected by this too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(prefix), Self::Prefix(text) | Self::Exact(text)) => text.starts_with(prefix.as_str()),
            (Self::Exact(name), Self::Exact(text)) => name == text,
            (Self::Exact(_), Self::Prefix(_)) => false,
        }
    }
}

impl fmt::Display for Selector {
    /// The selector as routes write it: a prefix ends with `*`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => formatter.write_str(name),
            Self::Prefix(prefix) => write!(formatter, "{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selector() -> impl Strategy<Value = Selector> {
        ("[ab]{0,3}", any::<bool>()).prop_map(|(text, exact)| match exact {
            true => Selector::Exact(text),
            false => Selector::Prefix(text),
        })
    }

    proptest! {
        #[test]
        fn covered_selector_matches_nothing_more(a in selector(), b in selector(), channel in "[ab]{0,4}") {
            if a.covers(&b) && b.matches(&channel) {
                prop_assert!(a.matches(&channel));
            }
        }
    }
}
