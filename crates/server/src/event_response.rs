//! The response that an event stream is sent in, native or of a contract: its headers, its framing and its first bytes.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Version;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap,
    HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING, VARY,
};
use hyper::http::request::Parts;
use tallycast_fanout::{Framing, Resume};

use crate::Config;
use crate::coding::Coding;
use crate::contract::RegisteredContract;
use crate::event_stream::{EventFormat, EventStream, Notices};
use crate::origins::{AllowedOrigin, restrict};
use crate::position::insert_position;
use crate::relay::{event_framing, relay_preamble};
use crate::wire::Wire;

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The headers that say how a body is sent. A contract does not set them.
const OF_THE_SERVER: [HeaderName; 4] = [CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING];

/// The response of one event stream.
pub(crate) struct EventResponse {
    coding: Coding,
    format: Format,
}

enum Format {
    Native(EventFormat, Notices),
    Contract(Box<ContractFormat>),
    /// For another server; with the senders of messages or without.
    Relay(bool),
}

/// What a contract has chosen for a stream.
pub(crate) struct ContractFormat {
    pub(crate) contract: Arc<RegisteredContract>,
    pub(crate) preamble: Bytes,
    pub(crate) headers: HeaderMap,
    pub(crate) position_header: bool,
}

impl EventResponse {
    pub(crate) fn native(format: EventFormat, notices: Notices, coding: Coding) -> Self {
        Self { coding, format: Format::Native(format, notices) }
    }

    pub(crate) fn relay(with_senders: bool, coding: Coding) -> Self {
        Self { coding, format: Format::Relay(with_senders) }
    }

    pub(crate) fn contract(format: ContractFormat, coding: Coding) -> Self {
        Self { coding, format: Format::Contract(Box::new(format)) }
    }

    /// Its framing, and everything before its first event, with HTTP/1.1's chunks or without.
    pub(crate) fn framing(&self, chunked: bool, config: &Config) -> (Arc<dyn Framing>, Bytes) {
        match &self.format {
            Format::Native(format, notices) => {
                let framing = EventStream::shared(*format, *notices, self.coding, chunked);
                let preamble = framing.preamble(config);
                (framing, preamble)
            }
            Format::Contract(format) => {
                let wire = Wire { coding: self.coding, chunked };
                (format.contract.framing(wire), wire.start(format.preamble.to_vec()))
            }
            Format::Relay(with_senders) => {
                let wire = Wire { coding: self.coding, chunked };
                (event_framing(wire, *with_senders), relay_preamble(wire))
            }
        }
    }

    /// Its headers, without those of HTTP/1.1's chunks; `resume` is where it starts.
    pub(crate) fn headers(&self, request: &Parts, resume: Option<&Resume>, allowed: &[AllowedOrigin]) -> HeaderMap {
        let (own, has_position) = match &self.format {
            Format::Native(..) | Format::Relay(_) => (None, true),
            Format::Contract(format) => (Some(&format.headers), format.position_header),
        };
        let mut headers = stream_headers(request, self.coding, own, allowed);
        if let Some(resume) = resume.filter(|_| has_position) {
            insert_position(&mut headers, resume.position());
        }
        headers
    }
}

/// The headers of an event stream, without those that only its framing needs. Those in `own` replace the native ones.
pub(crate) fn stream_headers(
    request: &Parts,
    coding: Coding,
    own: Option<&HeaderMap>,
    allowed: &[AllowedOrigin],
) -> HeaderMap {
    let mut headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        // Asks nginx, and proxies that follow it, not to buffer events.
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ]);
    if let Some(own) = own {
        for name in own.keys().filter(|name| !OF_THE_SERVER.contains(name)) {
            headers.remove(name);
            for value in own.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    // RFC 9113, §8.2.2: HTTP/2 has no `connection`. HTTP/1.0 has no other way to end a body than to close.
    match request.version {
        Version::HTTP_11 => headers.insert(CONNECTION, HeaderValue::from_static("keep-alive")),
        Version::HTTP_10 => headers.insert(CONNECTION, HeaderValue::from_static("close")),
        _ => None,
    };
    if let Some(name) = coding.name() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
    restrict(&mut headers, request.headers.get(ORIGIN), allowed);
    headers
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use hyper::header::{ETAG, LINK};

    use super::*;

    #[test]
    fn headers_of_a_contract_replace_native_ones_but_for_those_of_the_body() {
        let (request, ()) = Request::get("/").body(()).unwrap().into_parts();
        let text = HeaderValue::from_static;
        let mut own = HeaderMap::from_iter([
            (CONTENT_TYPE, text("text/event-stream")),
            (VARY, text("cookie")),
            (ETAG, text("\"1\"")),
            (CONNECTION, text("upgrade")),
            (CONTENT_LENGTH, text("0")),
            (TRANSFER_ENCODING, text("gzip")),
            (CONTENT_ENCODING, text("br")),
        ]);
        own.append(LINK, text("<a>"));
        own.append(LINK, text("<b>"));
        let headers = stream_headers(&request, Coding::Identity, Some(&own), &[AllowedOrigin::ANY]);
        let expected = [
            (CACHE_CONTROL, "no-cache"),
            (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (X_ACCEL_BUFFERING, "no"),
            (CONTENT_TYPE, "text/event-stream"),
            (VARY, "cookie"),
            (ETAG, "\"1\""),
            (LINK, "<a>"),
            (CONNECTION, "keep-alive"),
        ];
        let mut expected = HeaderMap::from_iter(expected.map(|(name, value)| (name, text(value))));
        expected.append(LINK, text("<b>"));
        assert_eq!(headers, expected);
    }

    #[cfg(feature = "compression")]
    #[test]
    fn vary_of_a_contract_is_added_to() {
        let (request, ()) = Request::get("/").body(()).unwrap().into_parts();
        let own = HeaderMap::from_iter([(VARY, HeaderValue::from_static("cookie"))]);
        let headers = stream_headers(&request, Coding::Gzip, Some(&own), &["https://a".parse().unwrap()]);
        assert_eq!(headers.get_all(VARY).iter().collect::<Vec<_>>(), ["cookie", "accept-encoding", "origin"]);
    }
}
