//! One client, as the engine hears it: what it says is read here, and answered.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::Serialize;
use tungstenite::protocol::frame::coding::CloseCode;

use super::commands::wanted;
use super::frames::write_close;
use super::framing::write_json;
use super::handshake::Subprotocol;
use super::protocol::{End, Protocol, Received};
use tallycast_fanout::{ClientAction, Counter, Inbound, Topics};

/// Who decides which topics a client may read.
pub trait Gatekeeper: Send + std::fmt::Debug {
    /// Lets the client read `topics` instead of those that it reads.
    ///
    /// # Errors
    /// Why not, for the client to read; it goes on with the topics it has.
    fn admit(&mut self, topics: &Topics) -> Result<(), String>;
}

/// What a client may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of one message, whole or in parts.
    pub max_message: usize,
    /// Messages, pings and pongs a second, and at most as many at once.
    pub message_rate: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_message: 16 * 1024, message_rate: NonZeroU32::MIN.saturating_add(19) }
    }
}

/// What is counted of clients that speak. All only grow.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections that became WebSockets.
    pub opened: Counter,
    /// Messages that were refused: not understood, or not followed.
    pub refused: Counter,
    /// Connections that were closed because their clients sent too many messages.
    pub over_rate: Counter,
    /// Connections that were closed because their clients broke the protocol, or sent too large a message.
    pub failed: Counter,
}

/// The engine's ear for one client.
#[derive(Debug)]
pub struct Session {
    protocol: Protocol,
    subprotocol: Subprotocol,
    rate: DefaultDirectRateLimiter,
    gatekeeper: Box<dyn Gatekeeper>,
    stats: Arc<Stats>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Subscribed(Vec<String>),
    Error(String),
}

impl Session {
    /// A client that has shaken hands, and has sent `ahead` since.
    pub fn new(
        config: &Config,
        subprotocol: Subprotocol,
        ahead: &[u8],
        gatekeeper: Box<dyn Gatekeeper>,
        stats: Arc<Stats>,
    ) -> Self {
        stats.opened.add(1);
        let mut protocol = Protocol::new(config.max_message);
        protocol.take_in(ahead);
        let rate = RateLimiter::direct(Quota::per_second(config.message_rate));
        Self { protocol, subprotocol, rate, gatekeeper, stats }
    }

    /// Refuses what the client said. Where there is no room to say why, the connection ends.
    fn refuse(&self, code: CloseCode, why: String, replies: &mut Vec<u8>) -> ClientAction {
        self.stats.refused.add(1);
        match self.subprotocol {
            Subprotocol::Json => {
                write_json(&Answer::Error(why), replies);
                ClientAction::None
            }
            Subprotocol::Raw => {
                write_close(code, &why, replies);
                ClientAction::Close
            }
        }
    }

    fn follow(&mut self, text: &str, topics: &Topics, replies: &mut Vec<u8>) -> ClientAction {
        let wanted = match wanted(text, topics) {
            Ok(wanted) => wanted,
            Err(error) => return self.refuse(CloseCode::Policy, error.to_string(), replies),
        };
        if wanted == *topics {
            self.subscribed(topics, replies);
            return ClientAction::None;
        }
        match self.gatekeeper.admit(&wanted) {
            Ok(()) => ClientAction::Subscribe(wanted),
            Err(why) => self.refuse(CloseCode::Again, why, replies),
        }
    }
}

impl Inbound for Session {
    fn receive(&mut self, bytes: &[u8], topics: &Topics, replies: &mut Vec<u8>) -> ClientAction {
        self.protocol.take_in(bytes);
        while let Some(received) = self.protocol.next(replies) {
            let said = match received {
                Received::End(end) => {
                    self.stats.failed.add(u64::from(end == End::Failed));
                    return ClientAction::Close;
                }
                _ if self.rate.check().is_err() => {
                    self.stats.over_rate.add(1);
                    write_close(CloseCode::Policy, "too many messages", replies);
                    return ClientAction::Close;
                }
                Received::Control => continue,
                Received::Text(text) => self.follow(&text, topics, replies),
                Received::Binary(_) => {
                    self.refuse(CloseCode::Policy, "expected a message of text, found bytes".to_owned(), replies)
                }
            };
            // One answer at a time, so that they cannot pile up.
            if !matches!(said, ClientAction::None) || !replies.is_empty() {
                return said;
            }
        }
        ClientAction::None
    }

    fn subscribed(&mut self, topics: &Topics, replies: &mut Vec<u8>) {
        if self.subprotocol == Subprotocol::Json {
            write_json(&Answer::Subscribed(topics.iter().map(ToString::to_string).collect()), replies);
        }
    }

    fn refused(&mut self, reason: &str, replies: &mut Vec<u8>) -> ClientAction {
        self.refuse(CloseCode::Policy, reason.to_owned(), replies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tallycast_fanout::{CloseReason, Namespace};

    #[derive(Debug)]
    struct Full;

    impl Gatekeeper for Full {
        fn admit(&mut self, _topics: &Topics) -> Result<(), String> {
            Err("full".to_owned())
        }
    }

    /// A client's text under a mask of zeros.
    fn text(text: &str) -> Vec<u8> {
        [&[0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0][..], text.as_bytes()].concat()
    }

    fn session(subprotocol: Subprotocol) -> (Session, Arc<Stats>) {
        let stats = Arc::<Stats>::default();
        (Session::new(&Config::default(), subprotocol, b"", Box::new(Full), Arc::clone(&stats)), stats)
    }

    #[test]
    fn a_refusal_is_a_message_or_the_end() {
        let subscribe = text(r#"{"subscribe": ["/a"]}"#);
        let topics = Topics::from("/b".parse::<Namespace>().unwrap());
        let (mut json, stats) = session(Subprotocol::Json);
        let mut replies = Vec::new();
        assert!(matches!(json.receive(&subscribe, &topics, &mut replies), ClientAction::None));
        assert_eq!((&replies[..], stats.refused.get()), (&b"\x81\x10{\"error\":\"full\"}"[..], 1));
        let (mut raw, stats) = session(Subprotocol::Raw);
        let mut replies = Vec::new();
        assert!(matches!(raw.receive(&subscribe, &topics, &mut replies), ClientAction::Close));
        assert_eq!((&replies[..], stats.refused.get()), (&b"\x88\x06\x03\xf5full"[..], 1));
    }

    #[test]
    fn what_changes_nothing_is_answered_one_after_another() {
        let (mut session, _) = session(Subprotocol::Json);
        let topics = Topics::from("/a".parse::<Namespace>().unwrap());
        let mut received = text(r#"{"subscribe": ["/a"]}"#).repeat(2);
        for _ in 0..2 {
            let mut replies = Vec::new();
            assert!(matches!(session.receive(&received, &topics, &mut replies), ClientAction::None));
            assert_eq!(replies, b"\x81\x15{\"subscribed\":[\"/a\"]}");
            received.clear();
        }
        let mut replies = Vec::new();
        assert!(matches!(session.receive(b"", &topics, &mut replies), ClientAction::None) && replies.is_empty());
    }

    #[test]
    fn close_reasons_have_their_codes() {
        for (reason, code) in [(CloseReason::SlowReader, 1013_u16), (CloseReason::PingTimeout, 1008)] {
            for subprotocol in [Subprotocol::Json, Subprotocol::Raw] {
                let frame = crate::websocket::framing(subprotocol).closing(&reason);
                assert_eq!((frame[0], &frame[2..4]), (0x88, &code.to_be_bytes()[..]));
            }
        }
    }
}
