//! The event stream of the Mercure protocol: the fields `event`, `retry`, `id` and `data`, in this order.

use bytes::Bytes;
use tallycast_fanout::{CloseReason, Data, Framing, Message};
use tallycast_server::data_lines;

/// A comment, which keeps a stream alive and has a browser report that it is open.
pub(super) const HEARTBEAT: &[u8] = b":\n";

/// Frames messages as the hub of the Mercure protocol does.
#[derive(Debug)]
pub(super) struct MercureFraming;

impl Framing for MercureFraming {
    fn name(&self) -> &'static str {
        "mercure"
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        let update = message.update.as_deref();
        if let Some(event) = message.event.as_deref().filter(|event| !event.is_empty()) {
            write_field("event", &event.replace(['\r', '\n'], " "), batch);
        }
        if let Some(retry) = update.and_then(|update| update.retry).filter(|retry| *retry > 0) {
            write_field("retry", &retry.to_string(), batch);
        }
        // The position in a reset is not the id of an update.
        let own_id = || message.id().filter(|_| !matches!(message.data, Data::Reset(_)));
        if let Some(id) = update.and_then(|update| update.id.as_deref()).or_else(own_id) {
            write_field("id", id, batch);
        }
        for line in data_lines(&message.payload()) {
            write_field("data", line, batch);
        }
        batch.push(b'\n');
    }

    fn skipped(&self, count: u64, batch: &mut Vec<u8>) {
        batch.extend_from_slice(format!(": skipped {count}\n\n").as_bytes());
    }

    fn finish(&self, batch: Vec<u8>) -> Bytes {
        batch.into()
    }

    fn keep_alive(&self, _position: Option<&str>) -> Bytes {
        Bytes::from_static(HEARTBEAT)
    }

    fn closing(&self, reason: &CloseReason) -> Bytes {
        match reason {
            CloseReason::Draining { retry } => format!("retry: {}\n\n", retry.as_millis()).into(),
            // A client that does not read would not receive it.
            CloseReason::Shutdown | CloseReason::SlowReader | CloseReason::PingTimeout => Bytes::new(),
            reason => format!(": {}\n\n", reason.to_string().replace(['\r', '\n'], " ")).into(),
        }
    }
}

/// A line with a field. A parser removes the space.
fn write_field(name: &str, value: &str, batch: &mut Vec<u8>) {
    batch.extend_from_slice(name.as_bytes());
    batch.extend_from_slice(b": ");
    batch.extend_from_slice(value.as_bytes());
    batch.push(b'\n');
}

#[cfg(test)]
mod tests {
    use tallycast_fanout::{Namespace, Update};

    use super::*;

    fn framed(message: &Message) -> String {
        let mut batch = Vec::new();
        MercureFraming.message(message, &mut batch);
        String::from_utf8(MercureFraming.finish(batch).to_vec()).unwrap()
    }

    fn message(event: Option<&str>, id: Option<&str>, retry: Option<u64>, data: &str) -> Message {
        let id = id.map(Box::from);
        Message {
            event: event.map(Into::into),
            update: Some(Box::new(Update { alternates: Box::default(), is_private: false, id, retry })),
            ..Message::text(Namespace::from_topic("https://e.com/a").unwrap(), data)
        }
    }

    #[test]
    fn updates_have_exact_bytes() {
        let all = message(Some("book"), Some("urn:uuid:1"), Some(500), "a\r\nb\rc\nd\n");
        assert_eq!(
            framed(&all),
            "event: book\nretry: 500\nid: urn:uuid:1\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"
        );
        assert_eq!(framed(&message(None, Some("1"), Some(0), "")), "id: 1\ndata: \n\n");
        assert_eq!(framed(&message(Some(""), None, None, " x")), "data:  x\n\n");
        assert_eq!(framed(&message(Some("a\nid: b"), None, None, "x")), "event: a id: b\ndata: x\n\n");
    }

    #[test]
    fn messages_of_namespaces_are_updates_too() {
        assert_eq!(framed(&Message::text("/chat/1".parse().unwrap(), "hello")), "data: hello\n\n");
        let tally = [("1F602".to_owned(), 3)].into_iter().collect();
        assert_eq!(framed(&Message::tally("/eps".parse().unwrap(), tally)), "data: {\"1F602\":3}\n\n");
    }
}
