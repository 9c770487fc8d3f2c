//! The handler of what one client sends: changes of its topics and new tokens, within its rate.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tallycast_fanout::{ClientAction, Counter, Handle, Inbound, Topics};
use tungstenite::protocol::frame::coding::CloseCode;

use super::commands::{Request, RequestId, apply_command};
use super::frames::{CloseFrame, write_close};
use super::framing::write_json;
use super::handshake::Subprotocol;
use super::incoming::{Incoming, Next};
use super::policy::{AllowAll, Change, ChangeStart, History, Refused, TopicChange, TopicPolicy};
use super::protocol::Received;
use crate::config::DEFAULT_MAX_TOPICS;

/// The length of an error, in bytes; longer ones are cut. Some list topics.
const MAX_ERROR_BYTES: usize = 4096;

/// The limits of what a client may send.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Bytes of one message, in one frame or several.
    pub max_message: usize,
    /// Messages, pings and pongs per second, and as many in one burst.
    pub message_rate: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_message: 16 * 1024, message_rate: NonZeroU32::MIN.saturating_add(19) }
    }
}

/// The counters of WebSocket clients. They only grow.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections that became WebSockets.
    pub opened: Counter,
    /// Messages refused: not understood, or not allowed.
    pub refused: Counter,
    /// Connections closed because their clients sent too many messages.
    pub over_rate: Counter,
    /// Connections closed because their clients violated the protocol, or sent too large a message.
    pub failed: Counter,
}

/// The handler of what one client sends. Few clients send anything, so what most never need is in a box of its own.
#[derive(Debug)]
pub struct Session {
    incoming: Incoming,
    subprotocol: Subprotocol,
    max_topics: u32,
    policy: Box<dyn TopicPolicy>,
    /// Finds positions.
    history: Option<History>,
    /// The command whose change is under way.
    pending: Option<Box<Pending>>,
}

/// A command whose change is under way.
#[derive(Debug)]
struct Pending {
    id: Option<RequestId>,
    renewal: Option<Renewal>,
}

/// The part of a command that is a new token.
#[derive(Debug)]
struct Renewal {
    /// The topics before, if the command names none: the answer names them only if the grant has narrowed them.
    topics: Option<Topics>,
}

/// A reply to a command.
#[derive(Serialize, Default)]
struct Reply {
    #[serde(flatten)]
    renewed: Option<Renewed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscribed: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<RequestId>,
}

/// The part of a reply to a token that was accepted.
#[derive(Serialize)]
struct Renewed {
    token: &'static str,
    /// When the stream ends now, in seconds since 1970.
    expires: Option<u64>,
}

impl Renewed {
    fn until(expires_at: Option<SystemTime>) -> Self {
        let expires = expires_at.map(|time| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        Self { token: "accepted", expires }
    }
}

impl Session {
    /// A client after its handshake, which may read any topics, but not more than 64.
    pub fn new(config: &Config, subprotocol: Subprotocol, stats: Arc<Stats>) -> Self {
        Self::build(config, DEFAULT_MAX_TOPICS, subprotocol, Box::new(AllowAll), None, stats)
    }

    pub(crate) fn with_policy(
        config: &crate::Config,
        subprotocol: Subprotocol,
        policy: Box<dyn TopicPolicy>,
        handle: Handle,
        stats: Arc<Stats>,
    ) -> Self {
        let history = Some(History { handle, limit: config.resume_limit });
        Self::build(&config.websocket, config.max_topics, subprotocol, policy, history, stats)
    }

    fn build(
        config: &Config,
        max_topics: usize,
        subprotocol: Subprotocol,
        policy: Box<dyn TopicPolicy>,
        history: Option<History>,
        stats: Arc<Stats>,
    ) -> Self {
        Self {
            incoming: Incoming::new(config, stats),
            subprotocol,
            max_topics: u32::try_from(max_topics).unwrap_or(u32::MAX),
            policy,
            history,
            pending: None,
        }
    }

    /// Adds bytes that were received together with the handshake.
    pub fn read_ahead(&mut self, bytes: &[u8]) {
        self.incoming.push(bytes);
    }

    /// Refuses a message. The subprotocol `raw` has no message for that, so the connection ends.
    fn refuse(
        &self,
        code: CloseCode,
        mut reason: String,
        id: Option<RequestId>,
        replies: &mut Vec<u8>,
    ) -> ClientAction {
        self.incoming.stats.refused.add(1);
        reason.truncate(reason.floor_char_boundary(MAX_ERROR_BYTES));
        match self.subprotocol {
            Subprotocol::Json => {
                write_json(&Reply { error: Some(reason), id, ..Reply::default() }, replies);
                ClientAction::None
            }
            Subprotocol::Raw => {
                write_close(CloseFrame { code, reason: &reason }, replies);
                ClientAction::Close
            }
        }
    }

    fn confirm(&self, topics: &Topics, id: Option<RequestId>, replies: &mut Vec<u8>) {
        self.reply(Reply { subscribed: Some(names(topics)), id, ..Reply::default() }, replies);
    }

    fn reply(&self, reply: Reply, replies: &mut Vec<u8>) {
        if self.subprotocol == Subprotocol::Json {
            write_json(&reply, replies);
        }
    }

    fn follow(&mut self, text: &str, topics: &Topics, replies: &mut Vec<u8>) -> ClientAction {
        let request = match apply_command(text, topics, self.max_topics as usize) {
            Ok(request) => request,
            Err(error) => {
                let id = RequestId::of_refused(text);
                return self.refuse(CloseCode::Policy, error.to_string(), id, replies);
            }
        };
        let Request { id, topics: requested, names_topics, token, start } = request;
        if requested == *topics && token.is_none() {
            self.confirm(topics, id, replies);
            return ClientAction::None;
        }
        let renewal = token.is_some().then(|| Renewal { topics: (!names_topics).then(|| topics.clone()) });
        let start = start.zip(self.history.clone());
        let start = start.map(|(start, history)| ChangeStart { start, known: topics.clone(), history });
        let action = match self.policy.change(Change { topics: requested, token, start }) {
            TopicChange::Allowed(topics) => ClientAction::Subscribe(topics),
            TopicChange::Pending(decision) => ClientAction::Authorize(decision),
            TopicChange::Refused(Refused::Denied(reason)) => {
                return self.refuse(CloseCode::Policy, reason, id, replies);
            }
            TopicChange::Refused(Refused::Full(reason)) => return self.refuse(CloseCode::Again, reason, id, replies),
        };
        self.pending = Some(Box::new(Pending { id, renewal }));
        action
    }
}

/// The topics as a client names them.
fn names(topics: &Topics) -> Vec<String> {
    topics.iter().map(|topic| topic.to_string()).collect()
}

impl Inbound for Session {
    fn receive(&mut self, bytes: &[u8], topics: &Topics, replies: &mut Vec<u8>) -> ClientAction {
        self.incoming.push(bytes);
        loop {
            let action = match self.incoming.next(replies) {
                Next::Nothing => return ClientAction::None,
                Next::Close => return ClientAction::Close,
                Next::Message(Received::Text(text)) => self.follow(&text, topics, replies),
                Next::Message(_) => self.refuse(
                    CloseCode::Policy,
                    "expected a text message, found a binary one".to_owned(),
                    None,
                    replies,
                ),
            };
            // One reply at a time, so that they cannot pile up.
            if !matches!(action, ClientAction::None) || !replies.is_empty() {
                return action;
            }
        }
    }

    fn subscribed(&mut self, topics: &Topics, replies: &mut Vec<u8>) {
        // A change by the server itself never comes between a command and its answer.
        let pending = self.pending.take().map(|pending| *pending);
        let grant = self.policy.applied();
        match pending {
            Some(Pending { id, renewal: Some(renewal) }) => {
                let renewed = Some(Renewed::until(grant.as_ref().and_then(|grant| grant.expires_at)));
                let subscribed = (renewal.topics.as_ref() != Some(topics)).then(|| names(topics));
                self.reply(Reply { renewed, subscribed, id, ..Reply::default() }, replies);
            }
            pending => self.confirm(topics, pending.and_then(|pending| pending.id), replies),
        }
    }

    fn refused(&mut self, reason: &str, replies: &mut Vec<u8>) -> ClientAction {
        let code = if self.policy.was_full() { CloseCode::Again } else { CloseCode::Policy };
        let id = self.pending.take().and_then(|pending| pending.id);
        self.refuse(code, reason.to_owned(), id, replies)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use tallycast_fanout::{CloseReason, Namespace};

    /// Namespaces without room.
    #[derive(Debug)]
    struct Full;

    impl TopicPolicy for Full {
        fn change(&mut self, _change: Change) -> TopicChange {
            TopicChange::Refused(Refused::Full("full".to_owned()))
        }
    }

    /// A client's text under a mask of zeros.
    fn text(text: &str) -> Vec<u8> {
        [&[0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0][..], text.as_bytes()].concat()
    }

    fn session(subprotocol: Subprotocol) -> (Session, Arc<Stats>) {
        let stats = Arc::<Stats>::default();
        (Session::build(&Config::default(), 64, subprotocol, Box::new(Full), None, Arc::clone(&stats)), stats)
    }

    #[test]
    fn refusal_is_a_message_in_json_and_closes_raw() {
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
    fn commands_without_effect_are_answered_one_by_one() {
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
    fn long_errors_are_cut() {
        let (mut session, _) = session(Subprotocol::Json);
        let mut replies = Vec::new();
        session.refused(&"ä".repeat(MAX_ERROR_BYTES), &mut replies);
        assert!(
            replies.ends_with("ä\"}".as_bytes()) && (MAX_ERROR_BYTES..MAX_ERROR_BYTES + 32).contains(&replies.len())
        );
    }

    #[test]
    fn denied_change_is_refused_with_policy_code() {
        let (mut raw, stats) = session(Subprotocol::Raw);
        let mut replies = Vec::new();
        assert!(matches!(raw.refused("no", &mut replies), ClientAction::Close));
        assert_eq!((&replies[..], stats.refused.get()), (&b"\x88\x04\x03\xf0no"[..], 1));
    }

    #[test]
    fn close_reasons_have_their_codes() {
        for (reason, code) in [
            (CloseReason::SlowReader, 1013_u16),
            (CloseReason::PingTimeout, 1008),
            (CloseReason::GrantExpired, 1008),
            (CloseReason::Shutdown, 1001),
            (CloseReason::Draining { retry: Duration::ZERO }, 1001),
        ] {
            for subprotocol in [Subprotocol::Json, Subprotocol::Raw] {
                let frame = crate::websocket::framing(subprotocol).closing(&reason);
                assert_eq!((frame[0], &frame[2..4]), (0x88, &code.to_be_bytes()[..]));
            }
        }
    }
}
