//! The parsers of untrusted input, for the fuzz targets only: `cargo fuzz` sets `cfg(fuzzing)`.

use std::net::IpAddr;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use tallycast_fanout::Topics;

use crate::ClientAddressHeader;
use crate::config::DEFAULT_MAX_TOPICS;
use crate::proxies;
use crate::query::{ENVELOPE, SNAPSHOT, flag};

/// The topics of a request, or why it is refused.
///
/// # Errors
/// The text of the response with status 400.
pub fn topics(path: &str, query: &str) -> Result<Topics, String> {
    for name in [SNAPSHOT, ENVELOPE] {
        flag(query, name).map_err(|error| error.trim_end_matches('\n').to_owned())?;
    }
    crate::topics::topics("/subscribe", path, query, DEFAULT_MAX_TOPICS).map_err(|error| error.to_string())
}

/// What a connection that starts with some bytes is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyHeader {
    /// Decided: the client that the header names, if any, and the length of the header.
    Complete(Option<IpAddr>, usize),
    /// More bytes are needed.
    Incomplete,
    /// Refused.
    Invalid,
}

/// Parses a header of the PROXY protocol.
pub fn proxy_header(read: &[u8]) -> ProxyHeader {
    match proxies::parse(read) {
        proxies::Parsed::Done(proxies::ProxyHeader::Client(address), length) => {
            ProxyHeader::Complete(Some(address), length)
        }
        proxies::Parsed::Done(_, length) => ProxyHeader::Complete(None, length),
        proxies::Parsed::More => ProxyHeader::Incomplete,
        proxies::Parsed::Invalid => ProxyHeader::Invalid,
    }
}

/// The client address by the header `name` with `value`, sent by the trusted proxy `peer`.
pub fn client_address(header: ClientAddressHeader, value: &HeaderValue, proxies: &[IpNet], peer: IpAddr) -> IpAddr {
    let name = match header {
        ClientAddressHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        ClientAddressHeader::Forwarded => HeaderName::from_static("forwarded"),
    };
    proxies::client(&HeaderMap::from_iter([(name, value.clone())]), header, proxies, peer)
}

/// The server's end of a TLS connection.
#[cfg(feature = "tls")]
pub struct TlsSession(crate::tls::Session);

#[cfg(feature = "tls")]
impl TlsSession {
    /// Bytes that it may keep: what it received and what it sends.
    pub const MAX_KEPT: usize = 2 * crate::tls::MAX_RECORDS;

    /// A server before the handshake.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub fn new(tls: &crate::Tls) -> Result<Self, String> {
        crate::tls::Session::new(std::sync::Arc::clone(&tls.0)).map(Self).map_err(|error| error.to_string())
    }

    /// Takes bytes of a client.
    ///
    /// # Errors
    /// Why the handshake has failed.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        let mut buffer = vec![0; crate::tls::MAX_RECORDS];
        while !bytes.is_empty() {
            let room = self.0.room().map_err(|error| error.to_string())?;
            let (taken, rest) = bytes.split_at(bytes.len().min(room.len()));
            let end = room.start + taken.len();
            buffer[room.start..end].copy_from_slice(taken);
            self.0.receive(&mut buffer[..end]).map_err(|error| error.to_string())?;
            bytes = rest;
        }
        Ok(())
    }

    /// Bytes that it keeps.
    pub fn kept_bytes(&self) -> usize {
        self.0.kept_bytes()
    }
}
