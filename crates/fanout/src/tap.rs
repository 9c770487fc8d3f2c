//! Looking at all messages from the same process, for tools of operators.

use std::fmt;

use crate::Message;

/// Sees the messages of an engine in their order, before its readers do. Set it with [`Builder::tap`](crate::Builder::tap).
///
/// The hub calls it, which all messages pass: it must not block, and each message takes the time that it takes.
pub trait MessageTap: Send + Sync + fmt::Debug {
    /// Whether it wants messages now. Asked once for each turn of the hub, which has up to 1,024 messages.
    fn is_active(&self) -> bool;

    /// The messages of a turn, with tallies, and without what is for some readers alone, such as resets.
    fn messages(&self, messages: &mut dyn Iterator<Item = &Message>);
}
