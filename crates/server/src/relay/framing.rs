//! The framing of relays' streams.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tallycast_fanout::{CloseReason, Framing, Message, RelayStart};

use super::format::{write_message, write_start};
use crate::envelope::{Skipped, write_json};
#[cfg(feature = "websocket")]
use crate::websocket::{Subprotocol, framing, write_ping, write_text};
use crate::wire::Wire;

/// How often a relay is told where it has come to. It knows by that which positions are ahead of its own, and that the stream is alive.
const POSITION_INTERVAL: Duration = Duration::from_secs(1);
/// The first bytes of an event stream, so that the response is seen before the first event.
const OPENING: &[u8] = b": tallycast relay\n\n";

/// One JSON object for each event.
#[derive(Debug)]
struct Relay {
    carrier: Carrier,
    /// Whether messages name their senders.
    with_senders: bool,
    name: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Events(Wire),
    #[cfg(feature = "websocket")]
    WebSocket,
}

#[derive(Serialize)]
struct Position<'a> {
    position: Option<&'a str>,
}

#[derive(Serialize)]
struct End<'a> {
    end: &'a str,
}

/// A framing, by its carrier and whether it has senders.
type Entry = (Carrier, bool, Arc<dyn Framing>);

/// All framings: the identity of a framing is its `Arc`.
static FRAMINGS: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let carriers = Wire::all().map(Carrier::Events);
    #[cfg(feature = "websocket")]
    let carriers = carriers.chain([Carrier::WebSocket]);
    let all = carriers.flat_map(|carrier| [false, true].map(|with_senders| (carrier, with_senders)));
    let framing = |(carrier, with_senders)| {
        let senders = if with_senders { "+senders" } else { "" };
        let name = match carrier {
            Carrier::Events(wire) => format!("relay{senders}{}", wire.suffix()),
            #[cfg(feature = "websocket")]
            Carrier::WebSocket => format!("websocket+relay{senders}"),
        };
        // As many as there are framings.
        let framing: Arc<dyn Framing> = Arc::new(Relay { carrier, with_senders, name: name.leak() });
        (carrier, with_senders, framing)
    };
    all.map(framing).collect()
});

fn shared(carrier: Carrier, with_senders: bool) -> Arc<dyn Framing> {
    let found = FRAMINGS.iter().find(|(of, senders, _)| (*of, *senders) == (carrier, with_senders));
    // The table has all of them.
    Arc::clone(&found.unwrap_or(&FRAMINGS[0]).2)
}

/// The framing of event streams.
pub(crate) fn event_framing(wire: Wire, with_senders: bool) -> Arc<dyn Framing> {
    shared(Carrier::Events(wire), with_senders)
}

/// The first bytes of an event stream.
pub(crate) fn relay_preamble(wire: Wire) -> Bytes {
    wire.start(OPENING.to_vec())
}

/// The framing of WebSockets.
#[cfg(feature = "websocket")]
pub(crate) fn websocket_framing(with_senders: bool) -> Arc<dyn Framing> {
    shared(Carrier::WebSocket, with_senders)
}

impl Relay {
    fn write(&self, write: impl FnOnce(&mut Vec<u8>), batch: &mut Vec<u8>) {
        match self.carrier {
            // JSON has no line breaks that are not escaped.
            Carrier::Events(_) => {
                batch.extend_from_slice(b"data:");
                write(batch);
                batch.extend_from_slice(b"\n\n");
            }
            #[cfg(feature = "websocket")]
            Carrier::WebSocket => {
                let mut json = Vec::new();
                write(&mut json);
                write_text(&json, batch);
            }
        }
    }
}

impl Framing for Relay {
    fn name(&self) -> &'static str {
        self.name
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        self.write(|json| write_message(message, self.with_senders, json), batch);
    }

    fn skipped(&self, skipped: u64, batch: &mut Vec<u8>) {
        self.write(|json| write_json(&Skipped { skipped }, json), batch);
    }

    fn is_relay(&self) -> bool {
        true
    }

    fn relay_start(&self, start: &RelayStart, batch: &mut Vec<u8>) {
        self.write(|json| write_start(start, json), batch);
    }

    fn finish(&self, batch: Vec<u8>) -> Bytes {
        match self.carrier {
            Carrier::Events(wire) => wire.finish(batch),
            #[cfg(feature = "websocket")]
            Carrier::WebSocket => batch.into(),
        }
    }

    fn keep_alive(&self, position: Option<&str>) -> Bytes {
        let mut batch = Vec::new();
        #[cfg(feature = "websocket")]
        if self.carrier == Carrier::WebSocket {
            write_ping(&mut batch);
        }
        self.write(|json| write_json(&Position { position }, json), &mut batch);
        self.finish(batch)
    }

    fn keep_alive_interval(&self) -> Option<Duration> {
        Some(POSITION_INTERVAL)
    }

    fn closing(&self, reason: &CloseReason) -> Bytes {
        match self.carrier {
            Carrier::Events(wire) => match reason {
                // A client that does not read would not receive it.
                CloseReason::SlowReader | CloseReason::PingTimeout => Bytes::new(),
                _ => {
                    let mut batch = Vec::new();
                    self.write(|json| write_json(&End { end: &reason.to_string() }, json), &mut batch);
                    [&self.finish(batch)[..], wire.end()].concat().into()
                }
            },
            #[cfg(feature = "websocket")]
            Carrier::WebSocket => framing(Subprotocol::Json).closing(reason),
        }
    }
}
