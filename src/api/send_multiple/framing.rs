//! Messages on the wire: events without a name, and WebSocket messages that are the payload alone. Among them, a message PING every ten
//! seconds.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tallycast_fanout::{CloseReason, Data, Framing, Message};
use tallycast_server::data_lines;
use tallycast_server::websocket::{self, Subprotocol, write_text};

/// The interval of PING messages, which clients wait for.
const PING_INTERVAL: Duration = Duration::from_secs(10);

static EVENTS: LazyLock<Arc<dyn Framing>> = LazyLock::new(|| Arc::new(Events));
static MESSAGES: LazyLock<Arc<dyn Framing>> =
    LazyLock::new(|| Arc::new(Messages(websocket::framing(Subprotocol::Raw))));

/// The framing of event streams.
pub(super) fn events() -> Arc<dyn Framing> {
    Arc::clone(&EVENTS)
}

/// The framing of WebSockets.
pub(super) fn messages() -> Arc<dyn Framing> {
    Arc::clone(&MESSAGES)
}

/// The fields `event`, which is empty, and `data`.
#[derive(Debug)]
struct Events;

/// Payloads as text messages, around the framing that has the frames of control.
#[derive(Debug)]
struct Messages(Arc<dyn Framing>);

/// A PING of now, with the time in milliseconds.
fn ping() -> String {
    // A clock before 1970 counts as 1970.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    format!("{{\"data\":{{\"ping\":{now}}},\"type\":\"PING\",\"id\":\"PING\"}}")
}

fn write_event(data: &str, batch: &mut Vec<u8>) {
    batch.extend_from_slice(b"event:\n");
    for line in data_lines(data) {
        batch.extend_from_slice(b"data: ");
        batch.extend_from_slice(line.as_bytes());
        batch.push(b'\n');
    }
    batch.push(b'\n');
}

impl Framing for Events {
    fn name(&self) -> &'static str {
        "send-multiple"
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        // Readers are disconnected instead.
        if !matches!(message.data, Data::Reset(_)) {
            write_event(&message.payload(), batch);
        }
    }

    fn names_events(&self) -> bool {
        false
    }

    fn skipped(&self, count: u64, batch: &mut Vec<u8>) {
        batch.extend_from_slice(format!(": skipped {count}\n\n").as_bytes());
    }

    fn finish(&self, batch: Vec<u8>) -> Bytes {
        batch.into()
    }

    fn keep_alive(&self, _position: Option<&str>) -> Bytes {
        let mut event = Vec::new();
        write_event(&ping(), &mut event);
        event.into()
    }

    fn keep_alive_interval(&self) -> Option<Duration> {
        Some(PING_INTERVAL)
    }

    fn closing(&self, reason: &CloseReason) -> Bytes {
        match reason {
            CloseReason::Draining { retry } => format!("retry: {}\n\n", retry.as_millis()).into(),
            // A client that does not read would not receive it.
            CloseReason::Shutdown | CloseReason::PingTimeout => Bytes::new(),
            reason => format!(": {}\n\n", reason.to_string().replace(['\r', '\n'], " ")).into(),
        }
    }
}

impl Framing for Messages {
    fn name(&self) -> &'static str {
        "send-multiple+websocket"
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        self.0.message(message, batch);
    }

    fn names_events(&self) -> bool {
        false
    }

    fn skipped(&self, count: u64, batch: &mut Vec<u8>) {
        let notice = format!("{{\"data\":{{\"skipped\":{count}}},\"type\":\"SKIPPED\",\"id\":\"SKIPPED\"}}");
        write_text(notice.as_bytes(), batch);
    }

    fn finish(&self, batch: Vec<u8>) -> Bytes {
        batch.into()
    }

    /// A PING for the client's program, and a ping that its library answers.
    fn keep_alive(&self, position: Option<&str>) -> Bytes {
        let mut frames = Vec::new();
        write_text(ping().as_bytes(), &mut frames);
        frames.extend_from_slice(&self.0.keep_alive(position));
        frames.into()
    }

    fn keep_alive_interval(&self) -> Option<Duration> {
        Some(PING_INTERVAL)
    }

    fn closing(&self, reason: &CloseReason) -> Bytes {
        self.0.closing(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(framing: &dyn Framing, data: &str) -> Vec<u8> {
        let mut batch = Vec::new();
        framing.message(&Message::text("/a".parse().unwrap(), data), &mut batch);
        framing.finish(batch).to_vec()
    }

    #[test]
    fn messages_have_exact_bytes() {
        let event = |data: &str| String::from_utf8(framed(&*events(), data)).unwrap();
        assert_eq!(event("{\"a\": 1}"), "event:\ndata: {\"a\": 1}\n\n");
        assert_eq!(event("a\r\nb\rc\n"), "event:\ndata: a\ndata: b\ndata: c\ndata: \n\n");
        assert_eq!(event(""), "event:\ndata: \n\n");
        assert_eq!(framed(&*messages(), "\u{e9}\n"), b"\x81\x03\xc3\xa9\n");
    }

    #[test]
    fn ping_is_a_message() {
        let text = String::from_utf8(events().keep_alive(None).to_vec()).unwrap();
        let json = text.strip_prefix("event:\ndata: ").and_then(|text| text.strip_suffix("\n\n")).unwrap();
        assert!(
            json.starts_with("{\"data\":{\"ping\":1") && json.ends_with("},\"type\":\"PING\",\"id\":\"PING\"}"),
            "{json}"
        );
        let ping: serde_json::Value = serde_json::from_str(json).unwrap();
        assert!(ping["data"]["ping"].as_u64() > Some(1_600_000_000_000), "{ping}");
        let frames = messages().keep_alive(None);
        // A text, and a ping without payload.
        assert_eq!(frames[..2], [0x81, u8::try_from(json.len()).unwrap()]);
        assert_eq!(frames[2 + json.len()..], *b"\x89\x00");
    }

    #[test]
    fn client_is_told_what_it_lost() {
        let skipped = |framing: Arc<dyn Framing>| {
            let mut batch = Vec::new();
            framing.skipped(3, &mut batch);
            String::from_utf8_lossy(&batch).into_owned()
        };
        assert_eq!(skipped(events()), ": skipped 3\n\n");
        assert!(skipped(messages()).ends_with("{\"data\":{\"skipped\":3},\"type\":\"SKIPPED\",\"id\":\"SKIPPED\"}"));
        assert!(events().closing(&CloseReason::SlowReader).starts_with(b": too slow"));
        assert_eq!(messages().closing(&CloseReason::SlowReader)[2..4], 1013_u16.to_be_bytes());
    }
}
