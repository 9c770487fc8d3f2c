//! Clients that send: what a transport reads from them, and what it asks of the engine.

use std::pin::Pin;
use std::sync::Arc;

use crate::{Grant, Resume, Topics};

/// What a client's bytes ask of the engine.
pub enum ClientAction {
    /// Nothing, or nothing yet.
    None,
    /// Read these topics instead of the current ones.
    Subscribe(Topics),
    /// Wait for this decision; then read its topics, or call [`Inbound::refused`]. The engine gives it ten seconds and
    /// reads nothing from the client meanwhile.
    Authorize(Decision),
    /// Wait for this operation; then call [`Inbound::performed`] or [`Inbound::refused`]. As for a decision, the engine gives it ten
    /// seconds and reads nothing from the client meanwhile.
    Perform(Operation),
    /// Close the connection once the replies are written.
    Close,
}

/// A decision that takes time, such as a question to another service. The error is a reason for the client.
pub type Decision = Pin<Box<dyn Future<Output = Result<Subscription, String>> + Send>>;

/// Something that a client asked for and that takes time, such as publishing its message. The error is a reason for the client.
pub type Operation = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A change of topics that was allowed.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    /// The topics to read.
    pub topics: Topics,
    /// Replaces the connection's grant, if there is one.
    pub grant: Option<Arc<Grant>>,
    /// Where it starts in the history of the topics that it did not read before; `None` for now.
    pub resume: Option<Resume>,
}

impl std::fmt::Debug for ClientAction {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => formatter.write_str("None"),
            Self::Subscribe(topics) => formatter.debug_tuple("Subscribe").field(topics).finish(),
            Self::Authorize(_) => formatter.write_str("Authorize(..)"),
            Self::Perform(_) => formatter.write_str("Perform(..)"),
            Self::Close => formatter.write_str("Close"),
        }
    }
}

/// The handler of what one client sends: turns bytes into actions and replies. Called by the shard that owns the
/// connection, so it must not block.
///
/// The engine puts replies between batches, reads nothing more from the client until they are written, and reads nothing
/// while the client's topics are being changed. So neither replies nor requests can pile up.
pub trait Inbound: Send + std::fmt::Debug {
    /// Takes bytes from a client that reads `topics`, and appends replies to `replies`, ready for the wire. Bytes after
    /// the first action are kept; a call with no bytes goes on with them.
    fn receive(&mut self, bytes: &[u8], topics: &Topics, replies: &mut Vec<u8>) -> ClientAction;

    /// Confirms that the client reads `topics` from here on: `replies` are written after the last message of the old
    /// topics and before the first message of the new ones.
    fn subscribed(&mut self, topics: &Topics, replies: &mut Vec<u8>);

    /// Confirms that the client's [operation](ClientAction::Perform) has succeeded. The default appends nothing.
    fn performed(&mut self, _replies: &mut Vec<u8>) {}

    /// Reports to the client that its change of topics or its operation was refused; the connection keeps its topics. Returns
    /// [`ClientAction::None`] or [`ClientAction::Close`]; other actions count as `None`.
    fn refused(&mut self, reason: &str, replies: &mut Vec<u8>) -> ClientAction;
}
