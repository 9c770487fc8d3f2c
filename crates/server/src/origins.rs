//! The pages that may read responses: CORS (Fetch standard, §3.3) for requests, and for WebSockets the check of the origin
//! (RFC 6455, §10.2), which browsers leave to servers.

use std::fmt;
use std::str::FromStr;

use hyper::header::{ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, HeaderMap, HeaderValue, VARY};

/// An origin whose pages may read, written `https://example.org` or `http://localhost:3000`; or every origin, written `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin(Option<HeaderValue>);

/// The text is not an [`AllowedOrigin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected * or an origin, such as https://example.org: scheme, host and port, without a path")]
pub struct OriginError;

impl AllowedOrigin {
    /// Every origin.
    pub const ANY: Self = Self(None);
}

impl FromStr for AllowedOrigin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        if text == "*" {
            return Ok(Self::ANY);
        }
        // As browsers write it (RFC 6454, §6.2).
        let text = text.to_ascii_lowercase();
        let (scheme, host) = text.split_once("://").ok_or(OriginError)?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c));
        let is_host = !host.is_empty() && host.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._:[]".contains(&c));
        let origin = HeaderValue::try_from(&text).map_err(|_| OriginError)?;
        if is_scheme && is_host { Ok(Self(Some(origin))) } else { Err(OriginError) }
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An origin was a text before it was a header's value.
        formatter.write_str(self.0.as_ref().map_or("*", |origin| origin.to_str().unwrap_or_default()))
    }
}

fn is_allowed(origin: &HeaderValue, allowed: &[AllowedOrigin]) -> bool {
    allowed.iter().any(|one| one.0.as_ref().is_none_or(|one| one == origin))
}

/// Whether a client may open a WebSocket: clients other than browsers, which send no origin, pages of this server, and pages of
/// allowed origins.
#[cfg(feature = "websocket")]
pub(crate) fn may_open(request: &HeaderMap, allowed: &[AllowedOrigin]) -> bool {
    use hyper::header::{HOST, ORIGIN};
    let Some(origin) = request.get(ORIGIN) else { return true };
    let of = |value: &HeaderValue| value.to_str().map(str::to_owned).ok();
    let host = of(origin).and_then(|origin| Some(origin.split_once("://")?.1.to_owned()));
    is_allowed(origin, allowed) || (host.is_some() && host == request.get(HOST).and_then(of))
}

/// Narrows a response that every origin may read to the allowed ones. Their pages may send cookies and other credentials, which
/// browsers refuse where the response allows every origin (Fetch standard, §3.3.5).
pub(crate) fn restrict(answer: &mut HeaderMap, origin: Option<&HeaderValue>, allowed: &[AllowedOrigin]) {
    if !answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) || allowed.contains(&AllowedOrigin::ANY) {
        return;
    }
    answer.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
    answer.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    answer.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin.filter(|origin| is_allowed(origin, allowed)) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn allowed(texts: &[&str]) -> Vec<AllowedOrigin> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[cfg(feature = "websocket")]
    #[test]
    fn websocket_is_open_to_own_pages_allowed_origins_and_other_clients() {
        let list = allowed(&["https://Example.org", "http://localhost:3000"]);
        use hyper::header::{HOST, ORIGIN};
        let may = |origin| may_open(&headers(&[(ORIGIN, origin), (HOST, "a:8001")]), &list);
        assert!(may("https://example.org") && may("http://localhost:3000") && may("http://a:8001"));
        assert!(!may("http://example.org") && !may("http://localhost") && !may("http://a") && !may("null"));
        assert!(may_open(&HeaderMap::new(), &list));
        assert!(may_open(&headers(&[(ORIGIN, "null")]), &allowed(&["*"])));
    }

    #[test]
    fn response_names_the_allowed_origin() {
        let list = allowed(&["https://a", "https://b"]);
        let of = |origin| {
            let mut answer = headers(&[(ACCESS_CONTROL_ALLOW_ORIGIN, "*"), (VARY, "accept-encoding")]);
            restrict(&mut answer, Some(&HeaderValue::from_static(origin)), &list);
            assert_eq!(answer.get_all(VARY).iter().count(), 2);
            let with_credentials = answer.get(ACCESS_CONTROL_ALLOW_CREDENTIALS).map(HeaderValue::as_bytes);
            assert_eq!(with_credentials.is_some_and(|value| value == b"true"), origin != "https://c");
            answer.remove(ACCESS_CONTROL_ALLOW_ORIGIN)
        };
        assert_eq!(of("https://b").unwrap(), "https://b");
        assert_eq!(of("https://c"), None);
        let mut answer = headers(&[(ACCESS_CONTROL_ALLOW_ORIGIN, "*")]);
        restrict(&mut answer, Some(&HeaderValue::from_static("https://c")), &allowed(&["https://a", "*"]));
        assert_eq!(answer, headers(&[(ACCESS_CONTROL_ALLOW_ORIGIN, "*")]));
    }

    #[test]
    fn invalid_origins_are_refused() {
        for text in ["", "example.org", "https://", "https://a/", "https://a b", "://a", "null", "https://*"] {
            assert_eq!(text.parse::<AllowedOrigin>(), Err(OriginError), "{text}");
        }
    }
}
