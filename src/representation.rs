//! A response body that many clients are sent: with a validator (RFC 9110, §8.8.3), in the content coding that each
//! prefers (§12.5.3), compressed at most once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::sync::OnceLock;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderValue, IF_NONE_MATCH, VARY,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use crate::sse_server::{Page, text_page};

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
    Zstd,
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
            preferred_coding(&request.headers)
        };
        let (body, name) = match coding {
            Coding::Identity => (&self.identity, None),
            Coding::Gzip => (self.gzip.get_or_init(|| gzip(&self.identity)), Some("gzip")),
            Coding::Zstd => (self.zstd.get_or_init(|| zstd(&self.identity)), Some("zstd")),
        };
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
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|candidate| candidate == "*" || candidate.strip_prefix("W/").unwrap_or(candidate) == validator)
}

/// Of the codings there are, the one that the client gives the highest weight; of those alike the tightest.
fn preferred_coding(headers: &HeaderMap) -> Coding {
    let accepted: Vec<(&str, f32)> = headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|item| {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = parameters.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse().ok());
            (name.trim(), weight.unwrap_or(1.0))
        })
        .collect();
    let weight = |name: &str| {
        let named = accepted.iter().find(|(accepted, _)| accepted.eq_ignore_ascii_case(name));
        named.or_else(|| accepted.iter().find(|(accepted, _)| *accepted == "*")).map_or(0.0, |(_, weight)| *weight)
    };
    let (zstd, gzip) = (weight("zstd"), weight("gzip"));
    if zstd > 0.0 && zstd >= gzip {
        Coding::Zstd
    } else if gzip > 0.0 {
        Coding::Gzip
    } else {
        Coding::Identity
    }
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

    fn coding(accepted: &str) -> Coding {
        preferred_coding(&HeaderMap::from_iter([(ACCEPT_ENCODING, accepted.parse().unwrap())]))
    }

    #[test]
    fn the_client_chooses_the_coding() {
        assert_eq!(preferred_coding(&HeaderMap::new()), Coding::Identity);
        assert_eq!(coding("gzip, deflate, br, zstd"), Coding::Zstd);
        assert_eq!(coding("gzip;q=1.0, zstd;q=0.5"), Coding::Gzip);
        assert_eq!(coding("gzip ; q=0, *"), Coding::Zstd);
        assert_eq!(coding("zstd;q=0, gzip;q=0"), Coding::Identity);
        assert_eq!(coding("br"), Coding::Identity);
    }

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

        #[test]
        fn no_header_is_too_odd(accepted in "[a-z*;=q., 0-9]{0,30}") {
            coding(&accepted);
        }
    }
}
