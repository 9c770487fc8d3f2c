//! A message of JetStream -> an event with a position, or a sign from the consumer. Pure.

use std::sync::Arc;

use async_nats::{HeaderMap, HeaderValue, Message};
use tallycast_fanout::{EntryId, Position};

use crate::source::{Entry, RawEvent};
use crate::trace::EventTrace;

/// What a consumer sends.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A message of the stream.
    Message(Delivery, Box<Message>),
    /// There is none at the moment.
    Idle,
    /// The request for messages is over.
    PullEnded,
    /// All messages of a request were sent, which their number has told. The next request may be under way already.
    BatchCompleted,
    /// The next message is larger than the request allows.
    TooLarge,
    /// The consumer is gone, or its server is about to go.
    ConsumerGone,
    /// Something else.
    Unknown(String),
}

/// What the subject for the acknowledgement of a message says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Its number in the stream.
    pub(super) number: u64,
    /// Its number among those that the consumer has sent.
    pub(super) delivered: u64,
    /// Messages after it that the consumer has yet to send.
    pub(super) pending: u64,
}

impl Delivery {
    /// Reads `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<attempts>.<number>.<delivered>.<time>.<pending>[.<random>]`.
    fn parse(subject: &str) -> Option<Self> {
        let words: Vec<&str> = subject.strip_prefix("$JS.ACK.")?.split('.').collect();
        let words = match words.len() {
            7 => &*words,
            9.. => &words[2..],
            _ => return None,
        };
        let number = |place: usize| words.get(place)?.parse().ok();
        Some(Self { number: number(3)?, delivered: number(4)?, pending: number(6)? })
    }
}

/// What a message says that came from a consumer.
pub(super) fn read(message: Message) -> Incoming {
    let description = message.description.as_deref().unwrap_or_default();
    match message.status.map(|status| status.as_u16()) {
        None => {}
        Some(100) => return Incoming::Idle,
        Some(404 | 408) => return Incoming::PullEnded,
        Some(503) => return Incoming::ConsumerGone,
        // Since nats-server 2.10.
        Some(409) if description == "Batch Completed" => return Incoming::BatchCompleted,
        Some(409) if description.contains("MaxBytes") && !description.contains("MaxRequest") => {
            return Incoming::TooLarge;
        }
        Some(409) if ["Consumer Deleted", "Leadership Change", "Server Shutdown"].contains(&description) => {
            return Incoming::ConsumerGone;
        }
        Some(status) => return Incoming::Unknown(format!("{status} {description}")),
    }
    match message.reply.as_deref().and_then(Delivery::parse) {
        Some(delivery) => Incoming::Message(delivery, Box::new(message)),
        None => Incoming::Unknown("a message without a position".to_owned()),
    }
}

/// The event of the message `number` of `sequence`, which takes messages of `subjects`.
pub(super) fn into_event(
    message: Message,
    sequence: Arc<str>,
    number: u64,
    subjects: &[String],
    is_backlog: bool,
) -> RawEvent {
    let Message { subject, payload, headers, .. } = message;
    let headers = headers.unwrap_or_default();
    let mut entry = Entry { is_backlog, ..Entry::new(Position { sequence, entry: EntryId::new(number, 0) }) };
    let first = |name: &str| headers.get(name).map(bytes);
    entry.event = first("event");
    entry.id = first("id");
    entry.retry = first("retry");
    entry.sender = first("sender");
    entry.is_private = first("private").is_some();
    entry.topics = topics(&headers);
    if entry.topics.is_empty() {
        entry.topics.extend(wildcard_part(subjects, &subject).map(String::into_bytes));
    }
    let trace = EventTrace::continuing(headers.get("traceparent").map(|value| value.as_str().as_bytes()));
    RawEvent { trace, ..RawEvent::from_entry(payload, entry) }
}

fn bytes(value: &HeaderValue) -> Vec<u8> {
    value.as_str().as_bytes().to_vec()
}

fn topics(headers: &HeaderMap) -> Vec<Vec<u8>> {
    headers.get_all("topic").map(bytes).collect()
}

/// The words of `subject` that the wildcards of the stream's subject stand for. All of it, if it is none of the stream's own: then it
/// has come from another stream. `None` if it has no wildcard.
fn wildcard_part(subjects: &[String], subject: &str) -> Option<String> {
    let words: Vec<&str> = subject.split('.').collect();
    let Some(parts) = subjects.iter().find_map(|pattern| wildcard_words(pattern, &words)) else {
        return Some(subject.to_owned());
    };
    (!parts.is_empty()).then(|| parts.join("."))
}

/// The words that the wildcards of `pattern` stand for; `None` if it does not match.
fn wildcard_words<'a>(pattern: &str, words: &[&'a str]) -> Option<Vec<&'a str>> {
    let (mut parts, mut rest) = (Vec::new(), words);
    for expected in pattern.split('.') {
        let (&word, others) = rest.split_first()?;
        match expected {
            ">" => {
                parts.extend(rest);
                return Some(parts);
            }
            "*" => parts.push(word),
            literal if literal == word => {}
            _ => return None,
        }
        rest = others;
    }
    rest.is_empty().then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(reply: Option<&str>, headers: &[(&str, &str)]) -> Message {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.append(*name, *value));
        Message {
            subject: "orders.eu.1".into(),
            reply: reply.map(Into::into),
            payload: "x".into(),
            headers: Some(map),
            status: None,
            description: None,
            length: 1,
        }
    }

    #[test]
    fn positions_are_read_from_both_forms() {
        let expected = Some(Delivery { number: 12, delivered: 3, pending: 9 });
        assert_eq!(Delivery::parse("$JS.ACK.ORDERS.c.1.12.3.1700.9"), expected);
        assert_eq!(Delivery::parse("$JS.ACK.hub.ACC.ORDERS.c.1.12.3.1700.9"), expected);
        assert_eq!(Delivery::parse("$JS.ACK._.ACC.ORDERS.c.1.12.3.1700.9.rnd"), expected);
        for other in ["$JS.ACK.ORDERS.c.1.x.3.1700.9", "$JS.ACK.ORDERS", "_INBOX.a"] {
            assert_eq!(Delivery::parse(other), None, "{other}");
        }
    }

    #[test]
    fn headers_become_the_parts_of_an_event() {
        let headers = [
            ("topic", "t"),
            ("topic", "u"),
            ("event", "e"),
            ("id", "urn:a"),
            ("retry", "5"),
            ("private", "on"),
            ("sender", "ann"),
        ];
        let event = into_event(message(None, &headers), "ORDERS".into(), 7, &["orders.>".to_owned()], true);
        assert_eq!((&*event.channel, &*event.payload), ("ORDERS", &b"x"[..]));
        let entry = *event.entry.unwrap();
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let expected = Entry {
            event: text("e"),
            topics: vec![b"t".to_vec(), b"u".to_vec()],
            id: text("urn:a"),
            retry: text("5"),
            sender: text("ann"),
            is_private: true,
            is_backlog: true,
            ..Entry::new(Position { sequence: "ORDERS".into(), entry: EntryId::new(7, 0) })
        };
        assert_eq!(entry, expected);
        let event = into_event(message(None, &[]), "ORDERS".into(), 7, &["orders.>".to_owned()], false);
        assert_eq!(event.entry.unwrap().topics, [b"eu.1".to_vec()]);
    }

    #[test]
    fn topic_is_what_the_wildcards_stand_for() {
        let part = |subjects: &[&str], subject| {
            wildcard_part(&subjects.iter().map(|subject| (*subject).to_owned()).collect::<Vec<_>>(), subject)
        };
        assert_eq!(part(&["orders.>"], "orders.eu.1").as_deref(), Some("eu.1"));
        assert_eq!(part(&["x", "orders.*.items.*"], "orders.eu.items.1").as_deref(), Some("eu.1"));
        assert_eq!(part(&["orders"], "orders"), None);
        assert_eq!(part(&["orders.>"], "orders").as_deref(), Some("orders"));
        assert_eq!(part(&[], "a.b").as_deref(), Some("a.b"));
    }

    #[test]
    fn signs_of_the_consumer_are_told_apart() {
        let read = |status: u16, description: &str| {
            let status = async_nats::StatusCode::from_u16(status).unwrap();
            read(Message { status: Some(status), description: Some(description.to_owned()), ..message(None, &[]) })
        };
        assert!(matches!(read(100, "Idle Heartbeat"), Incoming::Idle));
        assert!(matches!(read(408, "Request Timeout"), Incoming::PullEnded));
        assert!(matches!(read(409, "Batch Completed"), Incoming::BatchCompleted));
        assert!(matches!(read(409, "Message Size Exceeds MaxBytes"), Incoming::TooLarge));
        assert!(matches!(read(409, "Consumer Deleted"), Incoming::ConsumerGone));
        assert!(matches!(read(503, ""), Incoming::ConsumerGone));
        assert!(matches!(read(409, "Exceeded MaxRequestMaxBytes of 5"), Incoming::Unknown(_)));
        assert!(matches!(super::read(message(Some("a.b"), &[])), Incoming::Unknown(_)));
        assert!(matches!(super::read(message(Some("$JS.ACK.S.c.1.2.3.4.5"), &[])), Incoming::Message(..)));
    }
}
