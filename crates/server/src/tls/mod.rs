//! TLS (RFC 8446, RFC 5246) by rustls; the client chooses HTTP/2 or HTTP/1.1 by ALPN (RFC 7301).
//!
//! [`TlsStream`] is a stream over any other. Unlike those of other crates it holds no buffers while nothing is under way, and it
//! can change the socket below it: so the engine takes it over from hyper as it takes over a plain socket.

mod config;
mod session;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use config::HTTP2;
pub use config::{Tls, TlsError};
#[cfg(fuzzing)]
pub(crate) use session::{MAX_RECORDS, Session};
pub(crate) use stream::{HandshakeError, TlsStream};
