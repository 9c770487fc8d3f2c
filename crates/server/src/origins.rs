//! Which pages may read what is served: CORS (Fetch standard, §3.3) for requests, and the check of a WebSocket's origin
//! (RFC 6455, §10.2), which browsers leave to servers.

use std::str::FromStr;

use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, HOST, HeaderMap, HeaderValue, ORIGIN, VARY};

/// Pages that may read: those of one origin, written `https://example.org` or `http://localhost:3000`, or all, written `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin(Option<HeaderValue>);

/// Why a text is not an [`AllowedOrigin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected * or an origin, such as https://example.org: scheme, host and port, without a path")]
pub struct OriginError;

impl AllowedOrigin {
    /// All pages.
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

fn is_allowed(origin: &HeaderValue, allowed: &[AllowedOrigin]) -> bool {
    allowed.iter().any(|one| one.0.as_ref().is_none_or(|one| one == origin))
}

/// Whether a WebSocket may be opened: by clients other than browsers, which send no origin, by our own pages, and by those
/// that are allowed.
pub(super) fn may_open(request: &HeaderMap, allowed: &[AllowedOrigin]) -> bool {
    let Some(origin) = request.get(ORIGIN) else { return true };
    let of = |value: &HeaderValue| value.to_str().map(str::to_owned).ok();
    let host = of(origin).and_then(|origin| Some(origin.split_once("://")?.1.to_owned()));
    is_allowed(origin, allowed) || (host.is_some() && host == request.get(HOST).and_then(of))
}

/// Makes an answer that all pages might read one for those that are allowed.
pub(super) fn restrict(answer: &mut HeaderMap, request: &HeaderMap, allowed: &[AllowedOrigin]) {
    if !answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) || allowed.contains(&AllowedOrigin::ANY) {
        return;
    }
    answer.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
    answer.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = request.get(ORIGIN).filter(|origin| is_allowed(origin, allowed)) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
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

    #[test]
    fn a_websocket_is_opened_by_ours_those_allowed_and_those_that_are_no_pages() {
        let list = allowed(&["https://Example.org", "http://localhost:3000"]);
        let may = |origin| may_open(&headers(&[(ORIGIN, origin), (HOST, "a:8001")]), &list);
        assert!(may("https://example.org") && may("http://localhost:3000") && may("http://a:8001"));
        assert!(!may("http://example.org") && !may("http://localhost") && !may("http://a") && !may("null"));
        assert!(may_open(&HeaderMap::new(), &list));
        assert!(may_open(&headers(&[(ORIGIN, "null")]), &allowed(&["*"])));
    }

    #[test]
    fn answers_name_the_origin_that_is_allowed() {
        let list = allowed(&["https://a", "https://b"]);
        let of = |origin| {
            let mut answer = headers(&[(ACCESS_CONTROL_ALLOW_ORIGIN, "*"), (VARY, "accept-encoding")]);
            restrict(&mut answer, &headers(&[(ORIGIN, origin)]), &list);
            assert_eq!(answer.get_all(VARY).iter().count(), 2);
            answer.remove(ACCESS_CONTROL_ALLOW_ORIGIN)
        };
        assert_eq!(of("https://b").unwrap(), "https://b");
        assert_eq!(of("https://c"), None);
        let mut answer = headers(&[(ACCESS_CONTROL_ALLOW_ORIGIN, "*")]);
        restrict(&mut answer, &headers(&[(ORIGIN, "https://c")]), &allowed(&["https://a", "*"]));
        assert_eq!(answer, headers(&[(ACCESS_CONTROL_ALLOW_ORIGIN, "*")]));
    }

    #[test]
    fn mistakes_are_refused() {
        for text in ["", "example.org", "https://", "https://a/", "https://a b", "://a", "null", "https://*"] {
            assert_eq!(text.parse::<AllowedOrigin>(), Err(OriginError), "{text}");
        }
    }
}
