//! The framing of messages: one text frame (RFC 6455, §5.6) each.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde::Serialize;
use tallycast_fanout::{CloseReason, Framing, Message};
use tungstenite::protocol::frame::coding::CloseCode;

use super::frames::{CloseFrame, write_close, write_ping, write_text};
use super::handshake::Subprotocol;
use crate::envelope::{self, Skipped, write_envelope};

static JSON: LazyLock<Arc<dyn Framing>> = LazyLock::new(|| Arc::new(Frames::Json));
static ENVELOPE: LazyLock<Arc<dyn Framing>> = LazyLock::new(|| Arc::new(Frames::Envelope));
static RAW: LazyLock<Arc<dyn Framing>> = LazyLock::new(|| Arc::new(Frames::Raw));

/// The one framing of a subprotocol: subscribers with the same framing share what is framed.
pub fn framing(subprotocol: Subprotocol) -> Arc<dyn Framing> {
    match subprotocol {
        Subprotocol::Json => Arc::clone(&JSON),
        Subprotocol::Raw => Arc::clone(&RAW),
    }
}

/// The one framing of the subprotocol `json` with `?envelope=1`: payloads that are JSON are JSON in the messages too.
pub fn envelope_framing() -> Arc<dyn Framing> {
    Arc::clone(&ENVELOPE)
}

/// What a message is.
#[derive(Debug)]
enum Frames {
    /// A JSON object, with the payload as a string.
    Json,
    /// A JSON object, with the payload as JSON where it is JSON.
    Envelope,
    /// The payload alone.
    Raw,
}

/// A message of the subprotocol `json`.
#[derive(Serialize)]
struct JsonMessage<'a> {
    namespace: &'a str,
    event: Option<&'a str>,
    data: &'a str,
}

impl Framing for Frames {
    fn name(&self) -> &'static str {
        match self {
            Self::Json => "websocket",
            Self::Envelope => "websocket+envelope",
            Self::Raw => "websocket+raw",
        }
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        match self {
            Self::Json => {
                let (namespace, event) = (message.namespace.as_str(), message.event.as_deref());
                write_json(&JsonMessage { namespace, event, data: &message.payload() }, batch);
            }
            Self::Envelope => {
                let mut json = Vec::new();
                write_envelope(message, &mut json);
                write_text(&json, batch);
            }
            Self::Raw => write_text(message.payload().as_bytes(), batch),
        }
    }

    fn names_events(&self) -> bool {
        match self {
            Self::Json | Self::Envelope => true,
            Self::Raw => false,
        }
    }

    fn skipped(&self, skipped: u64, batch: &mut Vec<u8>) {
        match self {
            Self::Json | Self::Envelope => write_json(&Skipped { skipped }, batch),
            // It has nothing but payloads.
            Self::Raw => {}
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
    let mut json = Vec::new();
    envelope::write_json(value, &mut json);
    write_text(&json, wire);
}
