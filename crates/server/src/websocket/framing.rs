//! The framing of messages: one text frame (RFC 6455, §5.6) each.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde::Serialize;
use tallycast_fanout::{CloseReason, Framing, Message};
use tungstenite::protocol::frame::coding::CloseCode;

use super::frames::{CloseFrame, write_close, write_ping, write_text};
use super::handshake::Subprotocol;

static JSON: LazyLock<Arc<dyn Framing>> = LazyLock::new(|| Arc::new(Frames { subprotocol: Subprotocol::Json }));
static RAW: LazyLock<Arc<dyn Framing>> = LazyLock::new(|| Arc::new(Frames { subprotocol: Subprotocol::Raw }));

/// The one framing of a subprotocol: subscribers with the same framing share what is framed.
pub fn framing(subprotocol: Subprotocol) -> Arc<dyn Framing> {
    match subprotocol {
        Subprotocol::Json => Arc::clone(&JSON),
        Subprotocol::Raw => Arc::clone(&RAW),
    }
}

#[derive(Debug)]
struct Frames {
    subprotocol: Subprotocol,
}

/// A message of the subprotocol `json`.
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
        match self.subprotocol {
            Subprotocol::Json => "websocket",
            Subprotocol::Raw => "websocket+raw",
        }
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

    fn names_events(&self) -> bool {
        match self.subprotocol {
            Subprotocol::Json => true,
            Subprotocol::Raw => false,
        }
    }

    fn skipped(&self, skipped: u64, batch: &mut Vec<u8>) {
        match self.subprotocol {
            // It has nothing but payloads.
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
        // §7.4.1, and IANA's registry of close codes.
        let code = match reason {
            CloseReason::Shutdown | CloseReason::Draining { .. } => CloseCode::Away,
            CloseReason::SlowReader | CloseReason::TotalsUnavailable => CloseCode::Again,
            _ => CloseCode::Policy,
        };
        let mut close = Vec::new();
        write_close(CloseFrame { code, reason: &reason.to_string() }, &mut close);
        close.into()
    }
}

/// Appends a message of text with `value` as JSON.
pub(crate) fn write_json(value: &impl Serialize, wire: &mut Vec<u8>) {
    #[expect(clippy::expect_used, reason = "strings, numbers and lists of them always serialize to a vector")]
    let json = serde_json::to_vec(value).expect("plain data");
    write_text(&json, wire);
}
