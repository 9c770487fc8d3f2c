//! A message's bytes on the wire: one text frame (RFC 6455, §5.6) for each.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde::Serialize;
use tungstenite::protocol::frame::coding::CloseCode;

use super::frames::{write_close, write_ping, write_text};
use super::handshake::Subprotocol;
use tallycast_fanout::{CloseReason, Framing, Message};

static JSON: LazyLock<Arc<Frames>> =
    LazyLock::new(|| Arc::new(Frames { name: "websocket", subprotocol: Subprotocol::Json }));
static RAW: LazyLock<Arc<Frames>> =
    LazyLock::new(|| Arc::new(Frames { name: "websocket+raw", subprotocol: Subprotocol::Raw }));

/// The framing of a subprotocol.
pub fn framing(subprotocol: Subprotocol) -> Arc<dyn Framing> {
    match subprotocol {
        Subprotocol::Json => Arc::clone(&*JSON) as _,
        Subprotocol::Raw => Arc::clone(&*RAW) as _,
    }
}

#[derive(Debug)]
struct Frames {
    name: &'static str,
    subprotocol: Subprotocol,
}

/// What a message reads as.
#[derive(Serialize)]
struct Envelope<'a> {
    namespace: &'a str,
    event: Option<&'a str>,
    data: &'a str,
}

#[derive(Serialize)]
struct Skipped {
    skipped: u64,
}

impl Framing for Frames {
    fn name(&self) -> &'static str {
        self.name
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        let data = message.payload();
        match self.subprotocol {
            Subprotocol::Raw => write_text(data.as_bytes(), batch),
            Subprotocol::Json => {
                let (namespace, event) = (message.namespace.as_str(), message.event.as_deref());
                write_json(&Envelope { namespace, event, data: &data }, batch);
            }
        }
    }

    fn skipped(&self, skipped: u64, batch: &mut Vec<u8>) {
        match self.subprotocol {
            // There is nothing but payloads.
            Subprotocol::Raw => {}
            Subprotocol::Json => write_json(&Skipped { skipped }, batch),
        }
    }

    fn finish(&self, batch: Vec<u8>) -> Bytes {
        batch.into()
    }

    fn keep_alive(&self) -> Bytes {
        let mut ping = Vec::new();
        write_ping(&mut ping);
        ping.into()
    }

    fn closing(&self, reason: &CloseReason) -> Bytes {
        // RFC 6455, section 7.4.1, and the registry of close codes.
        let code = match reason {
            CloseReason::Shutdown => CloseCode::Away,
            CloseReason::SlowReader => CloseCode::Again,
            _ => CloseCode::Policy,
        };
        let mut close = Vec::new();
        write_close(code, &reason.to_string(), &mut close);
        close.into()
    }
}

/// Appends a message of JSON.
pub(super) fn write_json(value: &impl Serialize, wire: &mut Vec<u8>) {
    #[expect(
        clippy::expect_used,
        reason = "strings, numbers and lists of them always serialise, and a vector takes it"
    )]
    let json = serde_json::to_vec(value).expect("plain data");
    write_text(&json, wire);
}
