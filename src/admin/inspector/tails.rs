//! Tails: streams that show an operator some of the messages of a topic, at a bounded rate.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use tallycast_fanout::{ConnectionInfo, Grant, Message, Namespace, NamespaceError, Publisher, Topic};
use tallycast_server::{StreamObserver, StreamWatch};

use super::Inspector;
use crate::admin::status::unix_seconds_f64;

/// Tails that are open.
pub(in crate::admin) const MAX_TAILS: usize = 16;
/// Messages per second of a tail; further ones are skipped and counted.
const MAX_RATE: u32 = 50;
/// Bytes of the data of a message; the rest is cut.
const MAX_DATA_BYTES: usize = 4096;
/// The event name of the number of skipped messages.
const SKIPPED: &str = "skipped";

/// The tails that are open.
#[derive(Debug, Default)]
pub(super) struct Tails {
    open: Vec<Tail>,
    newest: u64,
}

#[derive(Debug)]
struct Tail {
    number: u64,
    topic: Topic,
    /// The engine that sends what is found, and the namespace that its reader reads there.
    messages: Publisher,
    namespace: Namespace,
    /// Messages that may still be sent in this second.
    permits: u32,
    /// Messages not sent since that was last said.
    skipped: u64,
}

/// Ends a tail when it is dropped.
#[derive(Debug)]
pub(in crate::admin) struct TailGuard {
    pub(super) inspector: Arc<Inspector>,
    pub(super) number: u64,
}

impl TailGuard {
    /// Where the messages of the tail are sent.
    pub(in crate::admin) fn namespace(&self) -> Result<Namespace, NamespaceError> {
        namespace(self.number)
    }
}

impl Drop for TailGuard {
    fn drop(&mut self) {
        self.inspector.close_tail(self.number);
    }
}

/// Holds the guard for as long as the stream is open.
#[derive(Debug)]
pub(in crate::admin) struct TailObserver(pub(in crate::admin) Arc<TailGuard>);

struct TailWatch {
    _guard: Arc<TailGuard>,
}

impl StreamWatch for TailWatch {}

impl StreamObserver for TailObserver {
    fn opened(&self, _: &ConnectionInfo, _: Option<&Grant>) -> Box<dyn StreamWatch> {
        Box::new(TailWatch { _guard: Arc::clone(&self.0) })
    }
}

fn namespace(number: u64) -> Result<Namespace, NamespaceError> {
    Namespace::from_segments(["tails", &number.to_string()])
}

impl Tails {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Opens a tail; returns its number, or `None` if too many are open.
    pub(super) fn open(&mut self, topic: Topic, messages: Publisher) -> Option<u64> {
        if self.open.len() == MAX_TAILS {
            return None;
        }
        self.newest += 1;
        let (number, namespace) = (self.newest, namespace(self.newest).ok()?);
        self.open.push(Tail { number, topic, messages, namespace, permits: MAX_RATE, skipped: 0 });
        Some(number)
    }

    pub(super) fn close(&mut self, number: u64) {
        self.open.retain(|tail| tail.number != number);
    }

    pub(super) fn send(&mut self, message: &Message) {
        for tail in &mut self.open {
            if message.topics().any(|topic| tail.topic.contains(topic)) {
                tail.send(message);
            }
        }
    }

    /// Begins another second.
    pub(super) fn tick(&mut self) {
        for tail in &mut self.open {
            tail.permits = MAX_RATE;
            if tail.skipped > 0 && tail.emit(Some(SKIPPED), json!({"skipped": tail.skipped}).to_string()) {
                tail.skipped = 0;
            }
        }
    }
}

impl Tail {
    fn send(&mut self, message: &Message) {
        if self.permits == 0 {
            self.skipped += 1;
            return;
        }
        self.permits -= 1;
        let data = message.payload();
        let shown = &data[..data.floor_char_boundary(MAX_DATA_BYTES)];
        let at = SystemTime::now().checked_sub(message.received_at.elapsed()).unwrap_or(UNIX_EPOCH);
        let event = json!({
            "at": unix_seconds_f64(at),
            "namespace": message.namespace.as_str(),
            "event": message.event.as_deref(),
            "id": message.id(),
            "data": shown,
            "bytes": data.len(),
        });
        if !self.emit(None, event.to_string()) {
            self.skipped += 1;
        }
    }

    /// Sends an event to the reader; `false` if there is no room.
    fn emit(&self, event: Option<&str>, data: String) -> bool {
        let mut message = Message::text(self.namespace.clone(), data);
        message.event = event.map(Into::into);
        self.messages.try_send(message).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn messages_of_the_topic_are_sent_up_to_the_rate_and_cut() {
        let (messages, mut sent) = Publisher::detached(1000);
        let mut tails = Tails::default();
        let number = tails.open("/a/*".parse().unwrap(), messages.clone()).unwrap();
        let message = |namespace: &str, data: &str| Message::text(namespace.parse().unwrap(), data);
        let mut next = || -> Option<(Option<Arc<str>>, Value)> {
            let message = sent.try_recv()?;
            Some((message.event.clone(), serde_json::from_str(&message.payload()).unwrap()))
        };
        tails.send(&message("/b/c", "other"));
        tails.send(&message("/a/b", &"😂".repeat(2000)));
        let (event, value) = next().unwrap();
        assert_eq!((event, &value["namespace"], &value["bytes"]), (None, &"/a/b".into(), &8000.into()));
        assert_eq!(value["data"].as_str().unwrap(), "😂".repeat(1024));
        (0..100).for_each(|_| tails.send(&message("/a/b", "x")));
        assert_eq!((1..MAX_RATE).filter(|_| next().is_some()).count(), 49);
        assert!(next().is_none());
        tails.tick();
        assert_eq!(next(), Some((Some(SKIPPED.into()), json!({"skipped": 51}))));
        tails.tick();
        tails.send(&message("/a/b", "x"));
        assert_eq!(next().unwrap().1["data"], "x");
        tails.close(number);
        tails.send(&message("/a/b", "x"));
        assert!(next().is_none() && tails.is_empty());
        assert_eq!(
            (0..2 * MAX_TAILS).filter_map(|_| tails.open(Topic::from(Namespace::root()), messages.clone())).count(),
            MAX_TAILS
        );
    }

    #[test]
    fn messages_without_room_are_counted() {
        let (messages, mut sent) = Publisher::detached(1);
        let mut tails = Tails::default();
        tails.open(Topic::from(Namespace::root()), messages).unwrap();
        for _ in 0..3 {
            tails.send(&Message::text(Namespace::root(), "x"));
        }
        tails.tick();
        assert!(sent.try_recv().is_some());
        tails.tick();
        assert_eq!(sent.try_recv().unwrap().payload(), r#"{"skipped":2}"#);
    }
}
