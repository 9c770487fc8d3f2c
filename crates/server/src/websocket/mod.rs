//! WebSocket (RFC 6455) on the [`fanout`](tallycast_fanout) engine: the frames that it writes, and the ear for clients that
//! choose their topics while they read.
//!
//! [`sse_server`](crate) serves it on the same paths as event streams. [`Protocol`], [`Handshake`] and the
//! `write_*` functions can be used without the engine; `examples/websocket_echo.rs` shows how.

mod commands;
mod frames;
mod framing;
mod handshake;
mod protocol;
mod session;

pub use frames::{write_binary, write_text};
pub use framing::framing;
pub use handshake::{Handshake, HandshakeError, Subprotocol, VERSION, is_upgrade};
pub use protocol::{End, Protocol, Received};
pub use session::{Config, Gatekeeper, Session, Stats};
