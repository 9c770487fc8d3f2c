//! The request that opened a WebSocket, kept for later decisions in as few bytes as possible.

use std::fmt;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::{Extensions, Method, Request, Uri, Version};
use hyper::upgrade::OnUpgrade;

/// A request with a copy of its text. The headers of a [`Parts`] would keep the whole buffer alive that they were read into.
pub(super) struct KeptRequest {
    method: Method,
    version: Version,
    /// Lines: the target, then a header each. No header has line ends in it.
    text: Box<[u8]>,
    /// `None` if there are none.
    extensions: Option<Box<Extensions>>,
}

/// Without anything that may be a secret.
impl fmt::Debug for KeptRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeptRequest").field("method", &self.method).finish_non_exhaustive()
    }
}

impl KeptRequest {
    /// Copies `request`.
    pub(super) fn new(request: &Parts) -> Self {
        let mut text = request.uri.to_string().into_bytes();
        for (name, value) in &request.headers {
            text.push(b'\n');
            text.extend_from_slice(name.as_str().as_bytes());
            text.push(b':');
            text.extend_from_slice(value.as_bytes());
        }
        let mut extensions = request.extensions.clone();
        // It belongs to the connection.
        extensions.remove::<OnUpgrade>();
        Self {
            method: request.method.clone(),
            version: request.version,
            text: text.into(),
            extensions: (!extensions.is_empty()).then(|| Box::new(extensions)),
        }
    }

    /// The request.
    pub(super) fn parts(&self) -> Parts {
        let mut lines = self.text.split(|byte| *byte == b'\n');
        let target = lines.next().and_then(|target| Uri::try_from(target).ok()).unwrap_or_default();
        let mut headers = HeaderMap::new();
        for line in lines {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
        }
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.version = self.version;
        parts.uri = target;
        parts.headers = headers;
        parts.extensions = self.extensions.as_deref().cloned().unwrap_or_default();
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_the_same_afterwards() {
        let request = Request::get("/ws/a%20b?topic=/c&token=secret")
            .header("Authorization", "Bearer a.b.c")
            .header("cookie", "a=b")
            .header("cookie", "c=d: e")
            .header("x-empty", "")
            .header("x-bytes", HeaderValue::from_bytes(b"\xff\t:").unwrap())
            .extension(7_u8);
        let (request, ()) = request.body(()).unwrap().into_parts();
        let kept = KeptRequest::new(&request);
        assert!(!format!("{kept:?}").contains("secret"));
        let parts = kept.parts();
        assert_eq!((&parts.method, parts.version), (&request.method, request.version));
        assert_eq!((&parts.uri, &parts.headers), (&request.uri, &request.headers));
        assert_eq!(parts.extensions.get::<u8>(), Some(&7));

        let (absolute, ()) = Request::get("http://e.com:80/ws?a").body(()).unwrap().into_parts();
        let kept = KeptRequest::new(&absolute);
        assert_eq!(kept.parts().uri, absolute.uri);
        assert!(kept.extensions.is_none());
    }
}
