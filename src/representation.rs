//! A response body that many clients are sent: with a validator (RFC 9110, §8.8.3), in the content coding that each
//! prefers (§12.5.3), compressed at most once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::sync::OnceLock;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    IF_NONE_MATCH, VARY,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use tallycast_server::header_list::items;
use tallycast_server::{Coding, Page, accepted, text_page};

/// Bodies that are shorter are not compressed: the header that says so would eat the gain.
const MIN_COMPRESSED_BYTES: usize = 512;

/// A body that many clients are sent.
#[derive(Debug)]
pub struct Representation {
    content_type: &'static str,
    identity: Bytes,
    hash: u64,
    gzip: OnceLock<Bytes>,
    zstd: OnceLock<Bytes>,
}

impl Representation {
    /// A body of `content_type`.
    pub fn new(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let identity = body.into();
        // Its keys are fixed, so that every node has the same validator for the same body.
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        Self { content_type, identity, hash: hasher.finish(), gzip: OnceLock::new(), zstd: OnceLock::new() }
    }

    /// The body as JSON.
    pub fn json(text: impl Into<Bytes>) -> Self {
        Self::new("application/json; charset=utf-8", text)
    }

    /// The response to a request, with `cache_control`.
    pub fn respond(&self, request: &Parts, cache_control: &'static str) -> Page {
        let coding = if self.identity.len() < MIN_COMPRESSED_BYTES {
            Coding::Identity
        } else {
            // Of those alike the tightest.
            accepted(&request.headers, [Coding::Zstd, Coding::Gzip])
        };
        let body = match coding {
            Coding::Identity => &self.identity,
            Coding::Gzip => self.gzip.get_or_init(|| gzip(&self.identity)),
            Coding::Zstd => self.zstd.get_or_init(|| zstd(&self.identity)),
        };
        let name = coding.name();
        let validator = format!("\"{:016x}{}\"", self.hash, name.map(|name| format!("-{name}")).unwrap_or_default());
        let matched = is_matched(&request.headers, &validator);
        let mut page = Response::new(Full::new(if matched { Bytes::new() } else { body.clone() }));
        let headers = page.headers_mut();
        if let Ok(validator) = HeaderValue::try_from(validator) {
            headers.insert(ETAG, validator);
        }
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        if matched {
            *page.status_mut() = StatusCode::NOT_MODIFIED;
            return page;
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some(name) = name {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
        }
        page
    }
}

/// The answer to a request for a page that is only read, if it has another method than to read.
pub fn refuse_other_methods(request: &Parts) -> Option<Page> {
    if matches!(request.method, Method::GET | Method::HEAD) {
        return None;
    }
    let text = format!("{} is read with GET\n", request.uri.path());
    let mut page = text_page(StatusCode::METHOD_NOT_ALLOWED, text);
    page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    Some(page)
}

/// RFC 9110, §13.1.2. Whether a validator is weak is of no matter here.
fn is_matched(headers: &HeaderMap, validator: &str) -> bool {
    items(headers, &IF_NONE_MATCH)
        .any(|candidate| candidate == "*" || candidate.strip_prefix("W/").unwrap_or(candidate) == validator)
}

/// RFC 1952.
fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default().into()
}

/// RFC 8878.
fn zstd(body: &[u8]) -> Bytes {
    zstd::bulk::compress(body, zstd::DEFAULT_COMPRESSION_LEVEL).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_validator_is_matched_in_a_list_and_when_weak() {
        let matched =
            |value: &str| is_matched(&HeaderMap::from_iter([(IF_NONE_MATCH, value.parse().unwrap())]), "\"a\"");
        assert!(matched("\"a\"") && matched("\"b\", W/\"a\"") && matched("*"));
        assert!(!matched("\"b\"") && !matched("a"));
    }

    proptest! {
        #[test]
        fn compressed_bodies_are_the_same_bodies(body: Vec<u8>) {
            let mut read = Vec::new();
            flate2::read::GzDecoder::new(&*gzip(&body)).read_to_end(&mut read).unwrap();
            prop_assert_eq!(&read, &body);
            prop_assert_eq!(&zstd::stream::decode_all(&*zstd(&body)).unwrap(), &body);
        }
    }
}
