//! The contract of the service send-multiple: streams of Redis channels whose names are paths.
//!
//! | path, below `--send-multiple-path` | what |
//! |---|---|
//! | `GET /<p1>/<p2>…/<items>`, 2 to 6 segments | an event stream |
//! | `GET /ws/<p1>…/<items>`, and `/ws//<p1>…` | the same over WebSocket |
//! | `GET /status` with `accept: text/event-stream` | a stream of the connection counts that the nodes publish |
//! | `GET /status` | this node as JSON |
//!
//! `/a/b/x,y` is the channels `a:b:x` and `a:b:y`. The routes decide which namespaces their messages have, so what is published is an
//! ordinary message, which clients of other APIs can read too.

mod channels;
mod credentials;
mod error;
mod framing;
mod paths;
mod rights;
mod status;
mod streams;

use std::sync::Arc;

use tokio::sync::watch;

use crate::admin::StatusSource;
use crate::auth::Auth;
use crate::cluster::Cluster;
use crate::decode::Routes;

pub use paths::{Paths, PathsError};
pub use status::publish_count;
pub(crate) use status::router;
pub use streams::{EventStreams, WebSockets};

/// What the contract is configured with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Its paths.
    pub paths: Paths,
    /// What the names of all channels start with, such as `dev:`; empty for nothing.
    pub channel_prefix: String,
    /// Whether clients need a token.
    pub check_jwt: bool,
}

impl Config {
    /// All channels, for everyone.
    pub fn new(paths: Paths) -> Self {
        Self { paths, channel_prefix: String::new(), check_jwt: false }
    }
}

/// What the parts of the contract share.
#[derive(Debug)]
pub struct SendMultiple {
    /// What it is configured with.
    pub config: Config,
    /// What verifies tokens, if there are keys.
    pub auth: Option<Auth>,
    /// The routes, which give channels their namespaces.
    pub routes: watch::Receiver<Routes>,
    /// The configuration of the server, which bounds the channels of a stream.
    pub server: watch::Receiver<tallycast_server::Config>,
    /// What the node says of itself.
    pub status: StatusSource,
    /// All nodes.
    pub cluster: Option<Cluster>,
}

impl SendMultiple {
    /// The contracts of its streams: events, and WebSockets.
    pub fn contracts(this: &Arc<Self>) -> (EventStreams, WebSockets) {
        (EventStreams(Arc::clone(this)), WebSockets(Arc::clone(this)))
    }
}
