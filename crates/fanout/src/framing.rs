//! How messages become bytes on a wire.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{CloseReason, Message, RelayStart};

/// How messages become bytes on one wire. Stateless and shared: the engine frames a message once, however many feeds
/// contain it and however many connections read them.
///
/// A framing's identity is its [`Arc`]: subscribers share feeds and framed messages only if they share the same `Arc`, so
/// create each framing once and clone the `Arc`.
pub trait Framing: Send + Sync + std::fmt::Debug {
    /// A name for reports and metrics.
    fn name(&self) -> &'static str;

    /// Appends one message to `batch`.
    fn message(&self, message: &Message, batch: &mut Vec<u8>);

    /// Whether readers see the event names of messages. Otherwise they cannot tell new totals from changes, nor a reset from a
    /// message, so readers that started with totals are disconnected when these become unavailable, and all when messages are
    /// lost.
    fn names_events(&self) -> bool {
        true
    }

    /// Appends a note that `count` messages were left out for a reader that fell behind.
    fn skipped(&self, count: u64, batch: &mut Vec<u8>);

    /// Appends an event without data that has the id of the last message before it, so that a client that loses its stream before
    /// the next message comes back to this place. Framings without ids append nothing.
    fn position(&self, _id: &str, _batch: &mut Vec<u8>) {}

    /// Makes a batch ready for the wire, for example as one HTTP chunk. Never called with an empty batch. Finished batches
    /// can follow each other in any order and selection: none depends on what a reader was sent before.
    fn finish(&self, batch: Vec<u8>) -> Bytes;

    /// Bytes to send after a silence, ready for the wire; with the id of the last message before them, if some of the reader's
    /// messages are kept.
    fn keep_alive(&self, position: Option<&str>) -> Bytes;

    /// The interval at which each reader gets a [`keep_alive`](Self::keep_alive) whatever else it is sent, for protocols whose clients
    /// wait for it. To the second, and later for a reader that cannot take it then. The default is after silence alone, by
    /// [`Config::keep_alive`](crate::Config::keep_alive).
    fn keep_alive_interval(&self) -> Option<Duration> {
        None
    }

    /// Whether its readers are other engines that send the same messages on. They get the state of the totals of all namespaces that they
    /// read, and are never sent less than there is: one that falls too far behind is disconnected, and resumes.
    fn is_relay(&self) -> bool {
        false
    }

    /// Appends what such a reader gets first.
    fn relay_start(&self, _start: &RelayStart, _batch: &mut Vec<u8>) {}

    /// The last bytes of a stream that ends for `reason`, ready for the wire. Empty where closing the connection says
    /// enough: the connection is then closed at once.
    fn closing(&self, reason: &CloseReason) -> Bytes;
}

/// A framing as a key: equal if it is the same `Arc`.
#[derive(Debug, Clone)]
pub(crate) struct FramingKey(pub(crate) Arc<dyn Framing>);

impl FramingKey {
    fn address(&self) -> *const () {
        Arc::as_ptr(&self.0).cast()
    }
}

impl PartialEq for FramingKey {
    fn eq(&self, other: &Self) -> bool {
        // Not `Arc::ptr_eq`, which also compares vtables, and a type may have several.
        self.address() == other.address()
    }
}

impl Eq for FramingKey {}

impl Hash for FramingKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

/// A framing that has readers, and its place among the frames of each message.
#[derive(Debug)]
pub(crate) struct Interned {
    pub(crate) framing: Arc<dyn Framing>,
    pub(crate) slot: usize,
}

/// The framings that have readers.
#[derive(Debug, Default)]
pub(crate) struct Framings {
    slots: Vec<Arc<Interned>>,
}

impl Framings {
    /// Finds or adds a framing. It keeps its slot for as long as anyone holds it.
    pub(crate) fn intern(&mut self, framing: &Arc<dyn Framing>) -> Arc<Interned> {
        let key = FramingKey(Arc::clone(framing));
        if let Some(same) = self.slots.iter().find(|interned| FramingKey(Arc::clone(&interned.framing)) == key) {
            return Arc::clone(same);
        }
        let FramingKey(framing) = key;
        let slot = self.slots.iter().position(is_unused).unwrap_or(self.slots.len());
        let interned = Arc::new(Interned { framing, slot });
        match self.slots.get_mut(slot) {
            Some(unused) => *unused = Arc::clone(&interned),
            None => self.slots.push(Arc::clone(&interned)),
        }
        interned
    }

    /// How many slots the frames of a message need now.
    pub(crate) fn slots(&mut self) -> usize {
        while self.slots.last().is_some_and(is_unused) {
            self.slots.pop();
        }
        self.slots.len()
    }
}

/// Whether only the table holds it. The table alone hands framings out, so the slot is free.
fn is_unused(interned: &Arc<Interned>) -> bool {
    Arc::strong_count(interned) == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::other_lines;

    #[test]
    fn slots_of_framings_without_readers_are_used_again() {
        let mut framings = Framings::default();
        let all = [other_lines(), other_lines(), other_lines()];
        let first = framings.intern(&all[0]);
        let second = framings.intern(&all[1]);
        assert_eq!([first.slot, second.slot, framings.intern(&all[0]).slot, framings.slots()], [0, 1, 0, 2]);
        drop(first);
        assert_eq!([framings.slots(), framings.intern(&all[2]).slot, framings.slots()], [2, 0, 2]);
        drop(second);
        assert_eq!(framings.slots(), 0);
    }
}
