//! Messages as the events of a generation.

use bytes::Bytes;
use tallycast_fanout::{CloseReason, Data, Framing, Message};

use super::flavour::Flavour;
use super::topic;
use crate::sessions;

/// A comment, which keeps a stream alive.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";
/// The code of an error about messages that a client does not get.
const MESSAGES_LOST: &str = "messages-lost";

/// Frames messages as a generation does. Those that are kept have ids.
#[derive(Debug)]
pub(super) struct UnifrostFraming(pub(super) Flavour);

impl Framing for UnifrostFraming {
    fn name(&self) -> &'static str {
        "unifrost"
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        if let Some(id) = message.id() {
            write_id(id, batch);
        }
        if let Data::Reset(reset) = &message.data {
            let reason = format!("messages were lost: {}", reset.reason.as_str());
            return self.0.write_error(MESSAGES_LOST, &reason, batch);
        }
        let topic = match &message.event {
            // Of what is sent to one session, the event name says what it is.
            Some(event) if message.namespace.as_str() == sessions::MESSAGE_NAMESPACE => event,
            _ => topic::text(message.namespace.as_str()),
        };
        self.0.write_message(topic, &message.payload(), batch);
    }

    fn skipped(&self, count: u64, batch: &mut Vec<u8>) {
        batch.extend_from_slice(format!(": skipped {count}\n\n").as_bytes());
    }

    fn position(&self, id: &str, batch: &mut Vec<u8>) {
        write_id(id, batch);
        batch.push(b'\n');
    }

    fn finish(&self, batch: Vec<u8>) -> Bytes {
        batch.into()
    }

    fn keep_alive(&self, position: Option<&str>) -> Bytes {
        let Some(id) = position else { return Bytes::from_static(KEEP_ALIVE) };
        let mut batch = Vec::new();
        self.position(id, &mut batch);
        batch.extend_from_slice(KEEP_ALIVE);
        batch.into()
    }

    fn closing(&self, reason: &CloseReason) -> Bytes {
        match reason {
            CloseReason::Draining { retry } => format!("retry: {}\n\n", retry.as_millis()).into(),
            // A client that does not read would not receive it.
            CloseReason::Shutdown | CloseReason::SlowReader | CloseReason::PingTimeout => Bytes::new(),
            CloseReason::Requested(_) if let Some(closed) = self.0.closed() => Bytes::from_static(closed),
            reason => format!(": {}\n\n", reason.to_string().replace(['\r', '\n'], " ")).into(),
        }
    }
}

fn write_id(id: &str, batch: &mut Vec<u8>) {
    batch.extend_from_slice(format!("id: {id}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tallycast_fanout::{Reset, ResetReason};

    use super::*;

    const ALL: [Flavour; 3] = [Flavour::Gochan, Flavour::Unifrost00, Flavour::Unifrost01];

    fn framed(flavour: Flavour, message: &Message) -> String {
        let mut batch = Vec::new();
        UnifrostFraming(flavour).message(message, &mut batch);
        String::from_utf8(UnifrostFraming(flavour).finish(batch).to_vec()).unwrap()
    }

    #[test]
    fn resets_are_errors() {
        let reset = Reset { reason: ResetReason::Trimmed, earliest: "1-0".into(), position: "2-0".into() };
        let message = Message { data: Data::Reset(reset), ..Message::text("/unifrost/a".parse().unwrap(), "") };
        let error = r#"{"error":{"code":"messages-lost","message":"messages were lost: trimmed"}}"#;
        let text = error.replace('"', "\\\"");
        assert_eq!(
            ALL.map(|flavour| framed(flavour, &message)),
            [
                format!("id: 2-0\ndata: {error}\n\n"),
                format!("id: 2-0\ndata: [\"/unifrost/error\",{error}]\n\n"),
                format!("id: 2-0\ndata: [\"/unifrost/error\",\"{text}\"]\n\n"),
            ]
        );
    }

    #[test]
    fn messages_have_the_topics_that_clients_know() {
        let message = |namespace: &str, event: Option<&str>| {
            let message = Message::text(namespace.parse().unwrap(), "1");
            framed(Flavour::Unifrost01, &Message { event: event.map(Into::into), ..message })
        };
        assert_eq!(message("/unifrost/a/b", Some("event")), "data: [\"a/b\",\"1\"]\n\n");
        assert_eq!(message("/news", Some("event")), "data: [\"/news\",\"1\"]\n\n");
        assert_eq!(message(sessions::MESSAGE_NAMESPACE, Some("event")), "data: [\"event\",\"1\"]\n\n");
        assert_eq!(message(sessions::MESSAGE_NAMESPACE, None), "data: [\"/session\",\"1\"]\n\n");
    }

    #[test]
    fn ends_are_said_as_far_as_the_generation_can() {
        let closing = |flavour, reason: &CloseReason| {
            String::from_utf8(UnifrostFraming(flavour).closing(reason).to_vec()).unwrap()
        };
        let requested = CloseReason::Requested("by\ne".into());
        assert_eq!(
            ALL.map(|flavour| closing(flavour, &requested)),
            [": by e\n\n", ": by e\n\n", "data: [\"/unifrost/closed\",\"consumer closed\"]\n\n"]
        );
        for flavour in ALL {
            let draining = CloseReason::Draining { retry: Duration::from_secs(3) };
            assert_eq!(closing(flavour, &draining), "retry: 3000\n\n");
            assert_eq!(closing(flavour, &CloseReason::GrantExpired), ": the authorization has expired\n\n");
            assert_eq!(closing(flavour, &CloseReason::SlowReader), "");
            assert_eq!(UnifrostFraming(flavour).keep_alive(None), KEEP_ALIVE);
            assert_eq!(UnifrostFraming(flavour).keep_alive(Some("1-0")), "id: 1-0\n\n: keep-alive\n\n");
        }
    }
}
