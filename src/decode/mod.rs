//! Stage 2: [`SourceEvent`](crate::source::SourceEvent) -> [`Message`](tallycast_fanout::Message). A table of routes
//! gives each event a namespace.
//!
//! Routes and table are pure; [`run`] is the stage around them.

mod channel;
mod history;
mod json_field;
mod relayed;
mod route;
mod routes;
mod sender;
mod stage;
mod target;
mod template;

pub use channel::ChannelError;
pub use history::HistoryError;
pub(crate) use json_field::string_field;
pub use route::{Route, RouteError};
pub(crate) use routes::OWN_CHANNELS;
pub use routes::{DecodeError, Decoded, Routes, RoutesError};
#[cfg(any(feature = "amqp", feature = "nats"))]
pub(crate) use sender::SENT;
pub use sender::channel_of_sender;
pub use stage::{Stats, run};
pub use target::{Target, TargetError};

/// The largest payload, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;
/// The longest name of a sender, in bytes.
pub const MAX_SENDER_BYTES: usize = 256;
/// The largest number of topics that an entry may name.
pub const MAX_UPDATE_TOPICS: usize = 1000;
/// The largest number of routes: every event is compared with each.
pub const MAX_ROUTES: usize = 256;
