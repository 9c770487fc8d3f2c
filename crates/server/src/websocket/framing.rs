//! The framing of messages: one text frame (RFC 6455, §5.6) each.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tallycast_fanout::{CloseReason, Data, Framing, Message};
use tungstenite::protocol::frame::coding::CloseCode;

use super::frames::{CloseFrame, write_close, write_ping, write_text};
use super::handshake::Subprotocol;
use crate::envelope::{self, Heartbeat, Skipped, write_envelope};
use crate::event_stream::Notices;

static JSON: LazyLock<[Arc<dyn Framing>; 2]> = LazyLock::new(|| all_notices(Frames::Json));
static ENVELOPE: LazyLock<[Arc<dyn Framing>; 2]> = LazyLock::new(|| all_notices(Frames::Envelope));
static RAW: LazyLock<Arc<dyn Framing>> = LazyLock::new(|| Arc::new(Frames::Raw));

/// The framings without heartbeats and with them.
fn all_notices(frames: fn(Notices) -> Frames) -> [Arc<dyn Framing>; 2] {
    [Notices::Comments, Notices::Events].map(|notices| Arc::new(frames(notices)) as Arc<dyn Framing>)
}

/// The one framing of a subprotocol: subscribers with the same framing share what is framed.
pub fn framing(subprotocol: Subprotocol) -> Arc<dyn Framing> {
    match subprotocol {
        Subprotocol::Json => json_framing(Notices::Comments),
        Subprotocol::Raw => Arc::clone(&RAW),
    }
}

/// The one framing of the subprotocol `json`. With [`Notices::Events`], a message with the server's time comes with each ping.
pub fn json_framing(notices: Notices) -> Arc<dyn Framing> {
    Arc::clone(&JSON[usize::from(notices == Notices::Events)])
}

/// The one framing of the subprotocol `json` with `?envelope=1`: payloads that are JSON are JSON in the messages too.
pub fn envelope_framing(notices: Notices) -> Arc<dyn Framing> {
    Arc::clone(&ENVELOPE[usize::from(notices == Notices::Events)])
}

/// What a message is.
#[derive(Debug)]
enum Frames {
    /// A JSON object, with the payload as a string.
    Json(Notices),
    /// A JSON object, with the payload as JSON where it is JSON.
    Envelope(Notices),
    /// The payload alone.
    Raw,
}

/// In the place of a message. With an id alone, it is the place among the messages that the reader has come to.
#[derive(Serialize, Default)]
struct Notice<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    reset: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat: Option<Heartbeat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

/// A message of the subprotocol `json`.
#[derive(Serialize)]
struct JsonMessage<'a> {
    namespace: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    event: Option<&'a str>,
    data: &'a str,
}

impl Framing for Frames {
    fn name(&self) -> &'static str {
        match self {
            Self::Json(Notices::Comments) => "websocket",
            Self::Json(Notices::Events) => "websocket+notices",
            Self::Envelope(Notices::Comments) => "websocket+envelope",
            Self::Envelope(Notices::Events) => "websocket+envelope+notices",
            Self::Raw => "websocket+raw",
        }
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        let id = message.id();
        match self {
            // Readers are disconnected instead.
            Self::Raw if matches!(message.data, Data::Reset(_)) => {}
            Self::Json(_) | Self::Envelope(_) if matches!(message.data, Data::Reset(_)) => {
                let reset = RawValue::from_string(message.payload().into_owned());
                // It is JSON.
                let reset = reset.as_deref().ok();
                write_json(&Notice { reset, id, ..Notice::default() }, batch);
            }
            Self::Json(_) => {
                let (namespace, event) = (message.namespace.as_str(), message.event.as_deref());
                write_json(&JsonMessage { namespace, id, event, data: &message.payload() }, batch);
            }
            Self::Envelope(_) => {
                let mut json = Vec::new();
                write_envelope(message, &mut json);
                write_text(&json, batch);
            }
            Self::Raw => write_text(message.payload().as_bytes(), batch),
        }
    }

    fn names_events(&self) -> bool {
        match self {
            Self::Json(_) | Self::Envelope(_) => true,
            Self::Raw => false,
        }
    }

    fn skipped(&self, skipped: u64, batch: &mut Vec<u8>) {
        match self {
            Self::Json(_) | Self::Envelope(_) => write_json(&Skipped { skipped }, batch),
            // It has nothing but payloads.
            Self::Raw => {}
        }
    }

    fn position(&self, id: &str, batch: &mut Vec<u8>) {
        match self {
            Self::Json(_) | Self::Envelope(_) => write_json(&Notice { id: Some(id), ..Notice::default() }, batch),
            Self::Raw => {}
        }
    }

    fn finish(&self, batch: Vec<u8>) -> Bytes {
        batch.into()
    }

    fn keep_alive(&self, position: Option<&str>) -> Bytes {
        let mut frames = Vec::new();
        write_ping(&mut frames);
        match self {
            Self::Json(notices) | Self::Envelope(notices) => {
                let heartbeat = (*notices == Notices::Events).then(Heartbeat::now);
                if heartbeat.is_some() || position.is_some() {
                    write_json(&Notice { heartbeat, id: position, ..Notice::default() }, &mut frames);
                }
            }
            Self::Raw => {}
        }
        frames.into()
    }

    fn closing(&self, reason: &CloseReason) -> Bytes {
        // §7.4.1, and IANA's registry of close codes.
        let code = match reason {
            CloseReason::Shutdown | CloseReason::Draining { .. } => CloseCode::Away,
            CloseReason::SlowReader | CloseReason::TotalsUnavailable | CloseReason::MessagesLost => CloseCode::Again,
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
