//! How messages become bytes on a wire.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

use crate::{CloseReason, Message};

/// How messages become bytes on one wire. Stateless and shared: the engine frames a message once for each feed, however
/// many connections read it.
///
/// A framing's identity is its [`Arc`]: subscribers share feeds only if they share the same `Arc`, so create each framing
/// once and clone the `Arc`.
pub trait Framing: Send + Sync + std::fmt::Debug {
    /// A name for reports and metrics.
    fn name(&self) -> &'static str;

    /// Appends one message to `batch`.
    fn message(&self, message: &Message, batch: &mut Vec<u8>);

    /// Whether readers see the event names of messages. Otherwise they cannot tell new totals from changes, so readers that
    /// started with totals are disconnected when these become unavailable.
    fn names_events(&self) -> bool {
        true
    }

    /// Appends a note that `count` messages were left out for a reader that fell behind.
    fn skipped(&self, count: u64, batch: &mut Vec<u8>);

    /// Makes a batch ready for the wire, for example as one HTTP chunk. Never called with an empty batch.
    fn finish(&self, batch: Vec<u8>) -> Bytes;

    /// Bytes to send after a silence, ready for the wire.
    fn keep_alive(&self) -> Bytes;

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
