//! What one client sends, message by message, within its rate.

use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tungstenite::protocol::frame::coding::CloseCode;

use super::frames::{CloseFrame, write_close};
use super::protocol::{CloseCause, Protocol, Received};
use super::session::{Config, Stats};

/// The messages of one client.
#[derive(Debug)]
pub(crate) struct Incoming {
    protocol: Protocol,
    rate: DefaultDirectRateLimiter,
    pub(crate) stats: Arc<Stats>,
}

/// What comes next from a client.
pub(crate) enum Next {
    /// Nothing more has come.
    Nothing,
    Message(Received),
    /// The connection ends once the replies are written.
    Close,
}

impl Incoming {
    /// Those of a client after its handshake.
    pub(crate) fn new(config: &Config, stats: Arc<Stats>) -> Self {
        stats.opened.add(1);
        let rate = RateLimiter::direct(Quota::per_second(config.message_rate));
        Self { protocol: Protocol::new(config.max_message), rate, stats }
    }

    /// As [`Protocol::push`].
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.protocol.push(bytes);
    }

    /// The next message. Replies to control messages are appended to `replies`; with some, nothing more is parsed before they are
    /// written, so that they cannot pile up.
    pub(crate) fn next(&mut self, replies: &mut Vec<u8>) -> Next {
        while replies.is_empty() {
            match self.protocol.next(replies) {
                None => break,
                Some(Received::Close(cause)) => {
                    self.stats.failed.add(u64::from(cause == CloseCause::Violation));
                    return Next::Close;
                }
                Some(_) if self.rate.check().is_err() => {
                    self.stats.over_rate.add(1);
                    write_close(CloseFrame { code: CloseCode::Policy, reason: "too many messages" }, replies);
                    return Next::Close;
                }
                Some(Received::Control) => {}
                Some(message) => return Next::Message(message),
            }
        }
        Next::Nothing
    }
}
