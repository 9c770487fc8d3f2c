//! The opening handshake (RFC 6455, §4.2): whether a request asks for a WebSocket, and the answer to it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, Version};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::header_list::items;

/// §1.3: what is appended to the client's key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The version of the protocol that is spoken here (§4.4).
pub const VERSION: HeaderValue = HeaderValue::from_static("13");
/// The bytes that a client's key stands for.
const KEY_BYTES: usize = 16;

/// What messages look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subprotocol {
    /// `json`, and where the client names none that is known: each message is a JSON object.
    #[default]
    Json,
    /// `raw`: each message is the payload alone.
    Raw,
}

/// A handshake that is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    accept: HeaderValue,
    /// What messages look like.
    pub subprotocol: Subprotocol,
    /// Whether the client named it.
    named: bool,
}

/// Why there is no handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Another version than 13.
    #[error("only version 13 of the WebSocket protocol is spoken here (sec-websocket-version)")]
    Version,
    /// The key is not what it must be.
    #[error("sec-websocket-key must be 16 bytes in base64")]
    Key,
}

/// Whether a request asks for a WebSocket.
pub fn is_upgrade(request: &Parts) -> bool {
    request.method == Method::GET
        && request.version == Version::HTTP_11
        && lists(&request.headers, &CONNECTION, "upgrade")
        && lists(&request.headers, &UPGRADE, "websocket")
}

/// Whether a list of names in a header has `name`, in whatever case.
fn lists(headers: &HeaderMap, header: &HeaderName, name: &str) -> bool {
    items(headers, header).any(|item| item.eq_ignore_ascii_case(name))
}

impl Handshake {
    /// Reads a request for which [`is_upgrade`] holds.
    ///
    /// # Errors
    /// When a header is missing or not as it must be.
    pub fn accept(headers: &HeaderMap) -> Result<Self, HandshakeError> {
        if headers.get(SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
            return Err(HandshakeError::Version);
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).ok_or(HandshakeError::Key)?;
        if STANDARD.decode(key).map_err(|_| HandshakeError::Key)?.len() != KEY_BYTES {
            return Err(HandshakeError::Key);
        }
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
        let accept = HeaderValue::try_from(STANDARD.encode(hash)).map_err(|_| HandshakeError::Key)?;
        let named = items(headers, &SEC_WEBSOCKET_PROTOCOL).find_map(|name| match name {
            "json" => Some(Subprotocol::Json),
            "raw" => Some(Subprotocol::Raw),
            _ => None,
        });
        Ok(Self { accept, subprotocol: named.unwrap_or_default(), named: named.is_some() })
    }

    /// The headers of the answer, whose status is 101.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::from_iter([
            (UPGRADE, HeaderValue::from_static("websocket")),
            (CONNECTION, HeaderValue::from_static("upgrade")),
            (SEC_WEBSOCKET_ACCEPT, self.accept.clone()),
        ]);
        if self.named {
            let name = match self.subprotocol {
                Subprotocol::Json => "json",
                Subprotocol::Raw => "raw",
            };
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    const GOOD: [(&str, &str); 2] =
        [("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")];

    #[test]
    fn the_example_of_the_specification() {
        let handshake = Handshake::accept(&headers(&GOOD)).unwrap();
        let answer = handshake.headers();
        assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!((answer.len(), handshake.subprotocol), (3, Subprotocol::Json));
    }

    #[test]
    fn the_first_subprotocol_that_is_known_is_taken() {
        let mut offered = headers(&GOOD);
        offered.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("soap, raw,json"));
        let handshake = Handshake::accept(&offered).unwrap();
        assert_eq!(
            (handshake.subprotocol, &handshake.headers()[SEC_WEBSOCKET_PROTOCOL]),
            (Subprotocol::Raw, &HeaderValue::from_static("raw"))
        );
        offered.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("soap"));
        assert_eq!(Handshake::accept(&offered).unwrap().headers().len(), 3);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |pairs: &[_]| Handshake::accept(&headers(pairs)).unwrap_err();
        assert_eq!(error(&[("sec-websocket-version", "8"), GOOD[1]]), HandshakeError::Version);
        assert_eq!(error(&[GOOD[1]]), HandshakeError::Version);
        assert_eq!(error(&[GOOD[0]]), HandshakeError::Key);
        assert_eq!(error(&[GOOD[0], ("sec-websocket-key", "dGhlIHNhbXBsZQ==")]), HandshakeError::Key);
        assert_eq!(error(&[GOOD[0], ("sec-websocket-key", "!")]), HandshakeError::Key);
    }
}
