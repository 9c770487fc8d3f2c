//! Positions: where messages stand in the sequences that their sources number.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::history::{NUMBERED, escaped};

/// The number of an entry in its sequence, such as the id of an entry in a Redis stream: two numbers, written `1732-0`. Ids
/// of one sequence only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EntryId {
    /// For a Redis stream, usually the time in milliseconds since 1970.
    pub major: u64,
    /// Distinguishes entries with the same first number.
    pub minor: u64,
}

/// The text is not an [`EntryId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected two numbers, such as 1732000000000-0")]
pub struct EntryIdError;

/// The place of a message in a sequence that every node reads alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// The name of the sequence, such as the key of a Redis stream.
    pub sequence: Arc<str>,
    /// The entry.
    pub entry: EntryId,
}

/// What a source knows of a sequence, at this place among the messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceEvent {
    /// The name of the sequence.
    pub sequence: Arc<str>,
    /// What is known.
    pub kind: SequenceEventKind,
}

/// See [`SequenceEvent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceEventKind {
    /// Every entry after this one follows; entries up to it are not available. Comes before the first message of the sequence.
    Start {
        /// The last entry that is not available; zero if every entry there ever was follows.
        after: EntryId,
    },
    /// The source has sent everything that was there when it started. Until then readers who want to start in the past wait.
    Current,
    /// The source has lost its broker: there may be entries that it has not sent. Readers who want to start in the past wait until
    /// the next `Current`.
    Interrupted,
    /// Entries were lost between the last message and what follows. What was kept of the sequence is dropped, and its readers
    /// receive a reset.
    Gap {
        /// As for `Start`.
        after: EntryId,
        /// Why.
        reason: ResetReason,
    },
    /// The sequence has come to this entry, also where no message of this engine has it. For sources that relay another engine.
    Reached {
        /// The newest entry; no message with this entry, or an older one, follows.
        entry: EntryId,
        /// Whether that engine says that it has come no further, as it does again and again. A reader with a position ahead of it waits
        /// for that before its position is unknown.
        is_confirmed: bool,
    },
    /// Its readers receive a reset for this reason. What is kept of the sequence stays.
    Reset {
        /// Why.
        reason: ResetReason,
    },
}

/// A reader cannot continue where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// Why.
    pub reason: ResetReason,
    /// The id of the oldest message that is kept.
    pub earliest: Box<str>,
    /// The id of the newest message: the reader continues after it. Empty if it is sent the last values of its topics first, which
    /// have ids.
    pub position: Box<str>,
}

/// Why a reader cannot continue where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// What followed its position is no longer kept, or only a part of it.
    Trimmed,
    /// Its position is not one of this process, or of a sequence that was replaced.
    Unknown,
    /// It fell so far behind that what it had to be sent is no longer kept.
    Lagged,
}

/// The name of the sequence that the engine with this epoch numbers itself, for an engine that relays it: ids name it as there, such as
/// `9c1f03d2a7b4e865-42`.
pub fn numbered_sequence(epoch: &str) -> Arc<str> {
    format!("{NUMBERED}{epoch}").into()
}

impl EntryId {
    /// Before every entry.
    pub const ZERO: Self = Self { major: 0, minor: 0 };

    /// An id of two numbers.
    pub const fn new(major: u64, minor: u64) -> Self {
        Self { major, minor }
    }
}

impl FromStr for EntryId {
    type Err = EntryIdError;

    fn from_str(text: &str) -> Result<Self, EntryIdError> {
        let (major, minor) = text.split_once('-').ok_or(EntryIdError)?;
        // A sign is refused, which `parse` would take.
        let number = |digits: &str| {
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten().ok_or(EntryIdError)
        };
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.major, self.minor)
    }
}

impl Reset {
    /// Has the reader continue after the message with the id `position`, which its shard has come to.
    pub(crate) fn move_back(&mut self, position: Option<&str>) {
        if let Some(position) = position.filter(|_| !self.position.is_empty()) {
            self.position = position.into();
        }
    }
}

impl fmt::Display for Position {
    /// As an id of an engine with several sequences: a reader resumes there in this one.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", escaped(&self.sequence), self.entry)
    }
}

impl ResetReason {
    /// The reason with this name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Trimmed, Self::Unknown, Self::Lagged].into_iter().find(|reason| reason.as_str() == name)
    }

    /// The reason as it is on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::Unknown => "unknown",
            Self::Lagged => "lagged",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_texts_are_no_entry_ids() {
        for text in ["", "1", "-", "1-", "-1", "1-2-3", "+1-2", "1-+2", "a-1", " 1-2", "18446744073709551616-0"] {
            assert_eq!(text.parse::<EntryId>(), Err(EntryIdError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn entry_id_survives_being_shown(major: u64, minor: u64) {
            let id = EntryId::new(major, minor);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
