//! The event stream of a channel: `data: ` and the message, then the field `id` by which a client comes back.

use bytes::Bytes;
use tallycast_fanout::{CloseReason, Data, Framing, Message};
use tallycast_server::data_lines;

/// Frames messages as clients of the contract expect them.
#[derive(Debug)]
pub(super) struct ChannelFraming;

impl Framing for ChannelFraming {
    fn name(&self) -> &'static str {
        "realtime"
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        // A name hides what is not a message from `onmessage`.
        if matches!(message.data, Data::Reset(_)) {
            batch.extend_from_slice(b"event: reset\n");
        }
        for line in data_lines(&message.payload()) {
            batch.extend_from_slice(format!("data: {line}\n").as_bytes());
        }
        if let Some(id) = message.id() {
            batch.extend_from_slice(format!("id: {id}\n").as_bytes());
        }
        batch.push(b'\n');
    }

    fn skipped(&self, count: u64, batch: &mut Vec<u8>) {
        batch.extend_from_slice(format!(": skipped {count}\n\n").as_bytes());
    }

    fn position(&self, id: &str, batch: &mut Vec<u8>) {
        batch.extend_from_slice(format!("id: {id}\n\n").as_bytes());
    }

    fn finish(&self, batch: Vec<u8>) -> Bytes {
        batch.into()
    }

    fn keep_alive(&self, position: Option<&str>) -> Bytes {
        position.map_or(Bytes::from_static(b":\n\n"), |id| format!("id: {id}\n\n").into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_data_and_what_is_no_message_has_a_name() {
        let framed = |message: &Message| {
            let mut batch = Vec::new();
            ChannelFraming.message(message, &mut batch);
            String::from_utf8(batch).unwrap()
        };
        let message = Message::text("/realtime/a".parse().unwrap(), "{}");
        assert_eq!(framed(&message), "data: {}\n\n");
        // Another program may have added anything.
        assert_eq!(framed(&Message::text("/realtime/a".parse().unwrap(), "a\nid: 7")), "data: a\ndata: id: 7\n\n");
        assert_eq!(ChannelFraming.keep_alive(Some("1-0")), "id: 1-0\n\n");
        let ended = ChannelFraming.closing(&CloseReason::Requested("a\nb".into()));
        assert!(ended.starts_with(b": ") && ended.iter().filter(|byte| **byte == b'\n').count() == 2, "{ended:?}");
    }
}
