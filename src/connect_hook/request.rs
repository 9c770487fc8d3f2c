//! What the application is asked: a client's request as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, PROXY_AUTHORIZATION, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use serde::Serialize;
use tallycast_fanout::Topics;

/// The size of the headers that a question may have, names and values together, in bytes.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;
/// The size of a question as JSON, in bytes.
pub const MAX_QUESTION_BYTES: usize = 256 * 1024;

/// The headers of the client's connection, not of its request.
const CONNECTION_HEADERS: [HeaderName; 14] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// A client that wants to open a session stream.
#[derive(Clone, Copy)]
pub struct ConnectRequest<'a> {
    /// The wire contract that it uses, such as `native` or `ws-hub`.
    pub contract: &'a str,
    /// The session that it names, if it does.
    pub session: Option<&'a str>,
    /// The topics that it asks for.
    pub topics: &'a Topics,
    /// Its request.
    pub parts: &'a Parts,
    /// Its address, as reported by a trusted proxy if there is one.
    pub client: IpAddr,
}

/// Without anything that may be a secret: session, headers and query.
impl fmt::Debug for ConnectRequest<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { contract, topics, parts, client, .. } = self;
        let mut debug = formatter.debug_struct("ConnectRequest");
        debug.field("contract", contract).field("topics", topics).field("path", &parts.uri.path());
        debug.field("client", client).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Question<'a> {
    contract: &'a str,
    session: Option<&'a str>,
    topics: Vec<String>,
    path: &'a str,
    query: &'a str,
    address: IpAddr,
    headers: BTreeMap<&'a str, String>,
}

impl ConnectRequest<'_> {
    /// The body of the question; `None` if it is too large.
    pub(super) fn to_json(self) -> Option<Bytes> {
        let Parts { uri, headers, .. } = self.parts;
        let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if size > MAX_HEADER_BYTES {
            return None;
        }
        let mut headers = texts(headers);
        // Over HTTP/2 it is part of the URI.
        if let Some(authority) = uri.authority() {
            headers.entry(HOST.as_str()).or_insert_with(|| authority.to_string());
        }
        let question = Question {
            contract: self.contract,
            session: self.session,
            topics: self.topics.iter().map(|topic| topic.to_string()).collect(),
            path: uri.path(),
            query: uri.query().unwrap_or_default(),
            address: self.client,
            headers,
        };
        serde_json::to_vec(&question).ok().filter(|json| json.len() <= MAX_QUESTION_BYTES).map(Bytes::from)
    }
}

/// The headers of a request whose values are UTF-8. Values of the same name become one, as RFC 9110 (§5.3) and, for cookies, RFC 9113
/// (§8.2.3) have it.
fn texts(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let mut texts = BTreeMap::<&str, String>::new();
    for (name, value) in headers.iter().filter(|(name, _)| !CONNECTION_HEADERS.contains(name)) {
        let Ok(value) = str::from_utf8(value.as_bytes()) else { continue };
        let separator = if name == hyper::header::COOKIE { "; " } else { ", " };
        texts
            .entry(name.as_str())
            .and_modify(|text| {
                text.push_str(separator);
                text.push_str(value);
            })
            .or_insert_with(|| value.to_owned());
    }
    texts
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hyper::Request;
    use hyper::header::HeaderValue;
    use serde_json::{Value, json};

    use super::*;

    fn parts(uri: &str, headers: &[(&str, &[u8])]) -> Parts {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        request.body(()).unwrap().into_parts().0
    }

    fn request<'a>(parts: &'a Parts, session: Option<&'a str>, topics: &'a Topics) -> ConnectRequest<'a> {
        ConnectRequest { contract: "native", session, topics, parts, client: Ipv4Addr::LOCALHOST.into() }
    }

    #[test]
    fn question_has_the_request_without_its_connection() {
        let topics = Topics::new(["/b/*", "/a"].map(|topic| topic.parse().unwrap()).into()).unwrap();
        let parts_of_websocket = parts(
            "/ws/a,b?topic=/x&n=%20",
            &[
                ("host", b"example.org"),
                ("connection", b"upgrade"),
                ("upgrade", b"websocket"),
                ("keep-alive", b"timeout=5"),
                ("sec-websocket-key", b"x"),
                ("sec-websocket-version", b"13"),
                ("sec-websocket-extensions", b"permessage-deflate"),
                ("sec-websocket-protocol", b"json, bearer.x"),
                ("content-length", b"0"),
                ("cookie", b"a=1"),
                ("cookie", b"b=2"),
                ("x-tag", b"a"),
                ("x-tag", "b\u{e9}".as_bytes()),
                ("x-latin", b"\xe9"),
                ("authorization", b"Bearer x"),
            ],
        );
        let sent = request(&parts_of_websocket, Some("ann"), &topics).to_json().unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&sent).unwrap(),
            json!({
                "contract": "native",
                "session": "ann",
                "topics": ["/a", "/b/*"],
                "path": "/ws/a,b",
                "query": "topic=/x&n=%20",
                "address": "127.0.0.1",
                "headers": {
                    "host": "example.org",
                    "cookie": "a=1; b=2",
                    "x-tag": "a, b\u{e9}",
                    "authorization": "Bearer x",
                    "sec-websocket-protocol": "json, bearer.x",
                },
            })
        );
        let parts_of_http2 = parts("https://example.org/subscribe/", &[]);
        let sent = request(&parts_of_http2, None, &Topics::none()).to_json().unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&sent).unwrap(),
            json!({
                "contract": "native", "session": null, "topics": [], "path": "/subscribe/", "query": "",
                "address": "127.0.0.1", "headers": {"host": "example.org"},
            })
        );
    }

    #[test]
    fn large_requests_are_no_questions() {
        let none = Topics::none();
        let is_sent = |bytes| request(&parts("/", &[("cookie", &vec![b'a'; bytes])]), None, &none).to_json().is_some();
        let most = MAX_HEADER_BYTES - "cookie".len();
        assert!(is_sent(most) && !is_sent(most + 1));
        let topics = (0..600).map(|number| format!("/{number}{}", "a".repeat(500)).parse().unwrap());
        let topics = Topics::new(topics.collect()).unwrap();
        assert!(request(&parts("/", &[]), None, &topics).to_json().is_none());
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let parts = parts("/path?hunter2", &[("cookie", b"hunter2")]);
        let shown = format!("{:?}", request(&parts, Some("hunter2"), &Topics::none()));
        assert!(shown.contains("/path") && !shown.contains("hunter2"), "{shown}");
    }
}
