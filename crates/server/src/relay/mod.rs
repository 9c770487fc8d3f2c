//! Streams for other servers that send the same messages to their own readers, with the same ids: `?relay=1`.
//!
//! Each event is one JSON object on one line, over event streams and WebSocket alike; the documentation of the API lists its members.
//! [`RelayEvent`] reads them.

mod format;
mod framing;

use hyper::header::HeaderName;

pub use format::{MAX_RELAY_PATH, RelayError, RelayEvent, RelayedMessage};
#[cfg(feature = "websocket")]
pub(crate) use framing::websocket_framing;
pub(crate) use framing::{event_framing, relay_preamble};

/// The header in which a server that relays names itself, by its [instance](tallycast_fanout::Handle::instance), so that none reads from
/// itself.
pub const RELAY_INSTANCE: HeaderName = HeaderName::from_static("tallycast-relay");
