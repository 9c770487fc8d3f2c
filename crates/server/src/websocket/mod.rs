//! WebSocket (RFC 6455) on the [`tallycast_fanout`] engine: its framing, and the handler of clients that change their topics
//! while they read.
//!
//! A [`Server`](crate::Server) and a [`StreamService`](crate::StreamService) serve it on the same paths as event streams.
//! [`Protocol`], [`Handshake`] and the `write_*` functions can be used without the engine; `examples/websocket_echo.rs` in the
//! repository shows how.

mod commands;
mod contract_session;
mod frames;
mod framing;
pub(crate) mod handshake;
mod incoming;
mod kept_request;
mod policy;
mod protocol;
pub(crate) mod session;

pub(crate) use contract_session::ContractSession;
pub use contract_session::{ClientMessage, MessageHandler, Replies};
pub(crate) use frames::write_ping;
pub use frames::{write_binary, write_text};
pub use framing::{envelope_framing, framing, json_framing};
pub use handshake::{Handshake, HandshakeError, Subprotocol, VERSION, is_upgrade};
pub use protocol::{CloseCause, Protocol, Received};
pub use session::{Config, Session, Stats};
