//! A feed's log: the newest batches, kept only as long as a reader still needs them.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;

use crate::Message;
use crate::budget::{Budget, Charge};
use crate::conflation::{Conflation, Rules};

/// Messages of one feed, framed for the wire and ready to be written to any number of connections.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Bytes,
    /// How many messages `bytes` holds.
    pub(crate) messages: u32,
    /// How many of them are not kept in the history.
    pub(crate) not_kept: u32,
    /// The number of the first one that is, if there is one.
    pub(crate) first_kept: Option<NonZeroU64>,
    /// The same messages, for feeds that may conflate them.
    pub(crate) sources: Option<Vec<Arc<Message>>>,
    /// The memory of `bytes` and `sources`.
    pub(crate) weight: usize,
    /// For `sources`.
    pub(crate) charge: Option<Charge>,
}

impl Batch {
    /// No messages yet. With `conflatable`, it keeps those that are added.
    pub(crate) fn new(conflatable: bool) -> Self {
        Self { sources: conflatable.then(Vec::new), ..Self::default() }
    }

    /// Counts a message, and keeps it if it may be conflated. `number` is its number in the history.
    pub(crate) fn add(&mut self, message: &Arc<Message>, number: Option<u64>) {
        self.messages += 1;
        match number {
            Some(number) => self.first_kept = self.first_kept.or(NonZeroU64::new(number)),
            None => self.not_kept += 1,
        }
        if let Some(sources) = &mut self.sources {
            sources.push(Arc::clone(message));
        }
    }

    /// Adds `bytes`, which are charged already, and charges the messages that are kept to `budget`.
    pub(crate) fn complete(mut self, bytes: Bytes, budget: &Arc<Budget>) -> Self {
        let sources: usize = self.sources.iter().flatten().map(|message| message.weight()).sum();
        self.weight = bytes.len() + sources;
        self.charge = (sources > 0).then(|| budget.charge(sources));
        self.bytes = bytes;
        self
    }
}

/// The newest batches of a feed, numbered without gaps. A reader's position is the number of the batch it reads next.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// The number of the oldest batch kept.
    base: u64,
    /// `None` without batches: an idle feed costs no memory.
    kept: Option<Box<Kept>>,
}

/// The batches of a log.
#[derive(Debug, Default)]
struct Kept {
    batches: VecDeque<Batch>,
    bytes: usize,
}

impl Log {
    /// An empty log.
    pub(crate) const fn new() -> Self {
        Self { base: 0, kept: None }
    }

    /// The number that the next batch will have.
    pub(crate) fn head(&self) -> u64 {
        self.base + self.len() as u64
    }

    /// The number of the oldest batch kept; the head if none is.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// How many batches are kept.
    pub(crate) fn len(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.batches.len())
    }

    /// The memory of all batches kept, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.bytes)
    }

    pub(crate) fn push(&mut self, batch: Batch) {
        let kept = self.kept.get_or_insert_default();
        kept.bytes += batch.weight;
        kept.batches.push_back(batch);
    }

    /// The batches from number `position` on, oldest first.
    pub(crate) fn since(&self, position: u64) -> impl ExactSizeIterator<Item = &Batch> {
        static NONE: VecDeque<Batch> = VecDeque::new();
        debug_assert!(position >= self.base, "a reader must not be behind its log");
        let batches = self.kept.as_ref().map_or(&NONE, |kept| &kept.batches);
        let skipped = usize::try_from(position.saturating_sub(self.base)).unwrap_or(usize::MAX);
        batches.range(skipped.min(batches.len())..)
    }

    /// The messages in the batches from number `from` up to number `to`, conflated.
    pub(crate) fn conflated(&self, from: u64, to: u64, rules: Rules) -> Conflation {
        let mut conflation = Conflation::new(rules);
        let batches = self.since(from).take(usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX));
        batches.filter_map(|batch| batch.sources.as_ref()).flatten().for_each(|message| conflation.add(message));
        conflation
    }

    /// The number of messages in the batches from number `position` on.
    pub(crate) fn messages_since(&self, position: u64) -> u64 {
        self.since(position).map(|batch| u64::from(batch.messages)).sum()
    }

    /// The number in the history of the first message in the batches from number `position` on that is kept.
    pub(crate) fn first_kept(&self, position: u64) -> Option<u64> {
        self.since(position).find_map(|batch| batch.first_kept).map(NonZeroU64::get)
    }

    /// The number of messages in the batches from number `position` on that are not kept in the history.
    pub(crate) fn not_kept_since(&self, position: u64) -> u64 {
        self.since(position).map(|batch| u64::from(batch.not_kept)).sum()
    }

    /// Drops all batches before number `position`.
    pub(crate) fn release(&mut self, position: u64) {
        let Some(kept) = &mut self.kept else { return };
        while self.base < position
            && let Some(batch) = kept.batches.pop_front()
        {
            self.base += 1;
            kept.bytes -= batch.weight;
        }
        if kept.batches.is_empty() {
            self.kept = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(text: &'static str) -> Batch {
        Batch { bytes: Bytes::from_static(text.as_bytes()), messages: 1, weight: text.len(), ..Batch::default() }
    }

    #[test]
    fn positions_stay_valid_when_old_batches_go() {
        let mut log = Log::default();
        for text in ["a", "bb", "ccc"] {
            log.push(batch(text));
        }
        log.release(1);
        assert_eq!((log.base(), log.head(), log.len(), log.bytes()), (1, 3, 2, 5));
        let left: Vec<_> = log.since(2).map(|batch| batch.bytes.clone()).collect();
        assert_eq!(left, ["ccc"]);
        log.release(3);
        assert_eq!((log.base(), log.head(), log.len(), log.bytes()), (3, 3, 0, 0));
        log.push(batch("d"));
        assert_eq!(log.since(3).count(), 1);
    }

    #[test]
    fn log_counts_messages_and_costs_nothing_when_empty() {
        let mut log = Log::default();
        for messages in [1, 20, 300] {
            log.push(Batch { messages, ..batch("a") });
        }
        assert_eq!([0, 1, 2, 3].map(|position| log.messages_since(position)), [321, 320, 300, 0]);
        assert_eq!(log.since(1).len(), 2);
        log.release(2);
        assert!(log.kept.is_some());
        log.release(3);
        assert_eq!((log.base(), log.bytes(), log.kept.is_none()), (3, 0, true));
    }
}
