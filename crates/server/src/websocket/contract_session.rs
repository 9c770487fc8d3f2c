//! The handler of what the client of a contract's WebSocket sends: messages for the contract.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tallycast_fanout::{ClientAction, Inbound, Topics};
use tungstenite::protocol::frame::coding::CloseCode;

use super::frames::{CloseFrame, write_close, write_text};
use super::incoming::{Incoming, Next};
use super::protocol::Received;
use super::session::{Config, Stats};

/// Handles the messages of one WebSocket client of a [`Contract`](crate::Contract).
///
/// The engine calls it from the task that serves the stream, so it must not block: what takes time is an
/// [operation](ClientAction::Perform), during which nothing more is read from the client.
pub trait MessageHandler: Send + 'static {
    /// A message has come from a client that reads `topics`.
    fn message(&mut self, message: ClientMessage, topics: &Topics, replies: &mut Replies<'_>) -> ClientAction;

    /// The client reads `topics` from here on. The default does nothing.
    fn subscribed(&mut self, _topics: &Topics, _replies: &mut Replies<'_>) {}

    /// The client's operation has succeeded. The default does nothing.
    fn performed(&mut self, _replies: &mut Replies<'_>) {}

    /// The client's operation or change of topics was refused. Returns [`ClientAction::None`] or [`ClientAction::Close`]. The default
    /// closes the connection with code 1008 and the reason.
    fn refused(&mut self, reason: &str, replies: &mut Replies<'_>) -> ClientAction {
        replies.close(1008, reason)
    }
}

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// A text.
    Text(String),
    /// Bytes.
    Binary(Bytes),
}

/// Messages for one client alone.
#[derive(Debug)]
pub struct Replies<'a>(&'a mut Vec<u8>);

impl Replies<'_> {
    /// Appends a message of text.
    pub fn text(&mut self, text: &str) {
        write_text(text.as_bytes(), self.0);
    }

    /// Appends the end of the connection (RFC 6455, §7.4). A reason of more than 123 bytes is cut. Returns the action for it.
    pub fn close(&mut self, code: u16, reason: &str) -> ClientAction {
        write_close(CloseFrame { code: CloseCode::from(code), reason }, self.0);
        ClientAction::Close
    }
}

/// The handler of one client.
pub(crate) struct ContractSession {
    incoming: Incoming,
    /// Without one, messages are discarded.
    handler: Option<Box<dyn MessageHandler>>,
}

impl ContractSession {
    pub(crate) fn new(config: &Config, handler: Option<Box<dyn MessageHandler>>, stats: Arc<Stats>) -> Self {
        Self { incoming: Incoming::new(config, stats), handler }
    }

    /// Adds bytes that were received together with the handshake.
    pub(crate) fn read_ahead(&mut self, bytes: &[u8]) {
        self.incoming.push(bytes);
    }
}

impl fmt::Debug for ContractSession {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ContractSession").field("incoming", &self.incoming).finish_non_exhaustive()
    }
}

impl Inbound for ContractSession {
    fn receive(&mut self, bytes: &[u8], topics: &Topics, replies: &mut Vec<u8>) -> ClientAction {
        self.incoming.push(bytes);
        loop {
            let message = match self.incoming.next(replies) {
                Next::Nothing => return ClientAction::None,
                Next::Close => return ClientAction::Close,
                Next::Message(Received::Text(text)) => ClientMessage::Text(text),
                Next::Message(Received::Binary(bytes)) => ClientMessage::Binary(bytes),
                Next::Message(Received::Control | Received::Close(_)) => continue,
            };
            let Some(handler) = &mut self.handler else { continue };
            let action = handler.message(message, topics, &mut Replies(replies));
            // As for a native client.
            if !matches!(action, ClientAction::None) || !replies.is_empty() {
                return action;
            }
        }
    }

    fn subscribed(&mut self, topics: &Topics, replies: &mut Vec<u8>) {
        if let Some(handler) = &mut self.handler {
            handler.subscribed(topics, &mut Replies(replies));
        }
    }

    fn performed(&mut self, replies: &mut Vec<u8>) {
        if let Some(handler) = &mut self.handler {
            handler.performed(&mut Replies(replies));
        }
    }

    fn refused(&mut self, reason: &str, replies: &mut Vec<u8>) -> ClientAction {
        match &mut self.handler {
            Some(handler) => handler.refused(reason, &mut Replies(replies)),
            None => ClientAction::None,
        }
    }
}
