//! A reader on its way from a transport to the engine.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::{Framing, Grant, Inbound, Rate, Resume, Sink, StreamWatch, Topics};

/// What a transport knows of a connection.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// The path as the client requested it.
    pub request_path: Box<str>,
    /// The topics that the connection reads now.
    pub topics: Topics,
    /// When it was accepted.
    pub created_at: SystemTime,
    /// The client's address.
    pub client_ip: IpAddr,
    /// The client's `user-agent`, shortened by the transport; empty if it sent none.
    pub user_agent: Box<str>,
}

/// A reader that a transport hands to the engine.
#[derive(Debug)]
#[non_exhaustive]
pub struct Subscriber {
    /// What is known of the connection. Its `topics` are what it reads.
    pub info: ConnectionInfo,
    /// How messages become bytes for it.
    pub framing: Arc<dyn Framing>,
    /// Where the bytes go.
    pub sink: Sink,
    /// Sent before anything else, ready for the wire.
    pub preamble: Bytes,
    /// Whether it starts with the totals of the one namespace that it reads: a message with the event name `snapshot`
    /// that has exactly the sum of all tallies that it is not sent. Where the totals are not known, the subscriber is
    /// dropped; wait for [`Handle::totals_known`](crate::Handle::totals_known) first.
    pub snapshot: bool,
    /// Where it starts in the history of its topics; `None` for now. See [`Handle::resume`](crate::Handle::resume).
    pub resume: Option<Resume>,
    /// The most batches that it wants in a time. What comes in between is conflated: tallies are summed up, and of all other
    /// messages it gets the newest of each namespace. Such a reader never falls too far behind: its policy does not apply.
    pub max_rate: Option<Rate>,
    /// Dropped when nothing holds the bytes of its snapshot any more: neither the engine nor the transport.
    pub snapshot_guard: Option<Box<dyn Any + Send + Sync>>,
    /// The handler of what its client sends. Without one, nothing is expected; received bytes are discarded. A
    /// [`Sink::Body`] cannot have one.
    pub inbound: Option<Box<dyn Inbound>>,
    /// What its client was granted. The stream ends when it expires.
    pub grant: Option<Arc<Grant>>,
    /// Watches the stream. Dropped when the connection ends, so it may hold what the connection needs until then, such as a permit.
    pub watch: Option<Box<dyn StreamWatch>>,
}

impl Subscriber {
    /// A subscriber without preamble, snapshot, past, rate, inbound handler, grant and watch.
    pub fn new(info: ConnectionInfo, framing: Arc<dyn Framing>, sink: Sink) -> Self {
        Self {
            info,
            framing,
            sink,
            preamble: Bytes::new(),
            snapshot: false,
            resume: None,
            max_rate: None,
            snapshot_guard: None,
            inbound: None,
            grant: None,
            watch: None,
        }
    }
}
