//! The opening handshake (RFC 6455, §4.2): requests for an upgrade, and the responses to them.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Version};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tallycast_fanout::Framing;

use super::framing::{envelope_framing, framing, json_framing};
use crate::header_list::items;
use crate::origins::may_open;
use crate::response::{WholeResponse, text_response};
use crate::routes::trim;
use crate::streams::Streams;
use crate::{Config, Notices};

/// §1.3: appended to the key of the client.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The version of the protocol (§4.4).
pub const VERSION: HeaderValue = HeaderValue::from_static("13");
/// The length of a decoded key.
const KEY_BYTES: usize = 16;

/// The format of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subprotocol {
    /// `json`, also where the client offers no known one: each message is a JSON object.
    #[default]
    Json,
    /// `raw`: each message is the payload alone.
    Raw,
}

/// An accepted handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    accept: HeaderValue,
    /// The format of messages.
    pub subprotocol: Subprotocol,
    /// Whether the client named it.
    named: bool,
}

/// Why a handshake is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Another version than 13.
    #[error("unsupported sec-websocket-version: expected 13")]
    Version,
    /// The key is missing or malformed.
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

/// Whether a header is a list of names with `name`, in any case.
fn lists(headers: &HeaderMap, header: &HeaderName, name: &str) -> bool {
    items(headers, header).any(|item| item.eq_ignore_ascii_case(name))
}

impl Handshake {
    /// Reads a request for which [`is_upgrade`] holds.
    ///
    /// # Errors
    /// When a header is missing or malformed.
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

    /// The headers of the response with status 101.
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

/// Accepts the handshake of a request for which [`is_upgrade`] holds; or returns the response that refuses it.
#[expect(clippy::result_large_err, reason = "made once for a request")]
pub(crate) fn accept(request: &Parts, streams: &Streams) -> Result<Handshake, WholeResponse> {
    if !may_open(&request.headers, &streams.config.borrow().allowed_origins) {
        streams.stats.refused_origin.add(1);
        return Err(text_response(StatusCode::FORBIDDEN, "this origin may not open a WebSocket\n"));
    }
    Handshake::accept(&request.headers).map_err(|error| {
        let status = match error {
            HandshakeError::Version => StatusCode::UPGRADE_REQUIRED,
            HandshakeError::Key => StatusCode::BAD_REQUEST,
        };
        let mut response = text_response(status, format!("{error}\n"));
        if error == HandshakeError::Version {
            response.headers_mut().extend(upgrade_headers());
        }
        response
    })
}

/// The framing of native messages, in an `envelope` or not, with or without `notices`; or the response that refuses it.
#[expect(clippy::result_large_err, reason = "made once for a request")]
pub(crate) fn native_framing(
    subprotocol: Subprotocol,
    envelope: bool,
    notices: Notices,
) -> Result<Arc<dyn Framing>, WholeResponse> {
    Ok(match (subprotocol, envelope) {
        (Subprotocol::Json, true) => envelope_framing(notices),
        (Subprotocol::Raw, true) => {
            let text = "bad query: envelope=1 requires the subprotocol json, or none; found raw\n";
            return Err(text_response(StatusCode::BAD_REQUEST, text));
        }
        (Subprotocol::Json, false) => json_framing(notices),
        (Subprotocol::Raw, false) => framing(Subprotocol::Raw),
    })
}

/// RFC 9110, §15.5.22, and RFC 6455, §4.4.
fn upgrade_headers() -> HeaderMap {
    HeaderMap::from_iter([
        (UPGRADE, HeaderValue::from_static("websocket")),
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (SEC_WEBSOCKET_VERSION, VERSION),
    ])
}

/// The response to a request without an upgrade below [`Config::websocket_prefix`].
pub(crate) fn upgrade_required(version: Version, config: &Config) -> WholeResponse {
    let (websocket, events) = (trim(&config.websocket_prefix), trim(&config.prefix));
    websocket_only(version, format!("{websocket} is for WebSocket, over HTTP/1.1; event streams are at {events}\n"))
}

/// The response to a request without an upgrade where there is nothing else.
pub(crate) fn websocket_only(version: Version, text: String) -> WholeResponse {
    let mut response = text_response(StatusCode::UPGRADE_REQUIRED, text);
    // RFC 9113, §8.2.2: HTTP/2 has neither.
    if version == Version::HTTP_11 {
        response.headers_mut().extend(upgrade_headers());
    }
    response
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
    fn example_of_the_specification_is_accepted() {
        let handshake = Handshake::accept(&headers(&GOOD)).unwrap();
        let answer = handshake.headers();
        assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!((answer.len(), handshake.subprotocol), (3, Subprotocol::Json));
    }

    #[test]
    fn first_known_subprotocol_is_chosen() {
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
    fn missing_and_malformed_headers_are_refused() {
        let error = |pairs: &[_]| Handshake::accept(&headers(pairs)).unwrap_err();
        assert_eq!(error(&[("sec-websocket-version", "8"), GOOD[1]]), HandshakeError::Version);
        assert_eq!(error(&[GOOD[1]]), HandshakeError::Version);
        assert_eq!(error(&[GOOD[0]]), HandshakeError::Key);
        assert_eq!(error(&[GOOD[0], ("sec-websocket-key", "dGhlIHNhbXBsZQ==")]), HandshakeError::Key);
        assert_eq!(error(&[GOOD[0], ("sec-websocket-key", "!")]), HandshakeError::Key);
    }
}
