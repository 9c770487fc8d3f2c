//! The URL of the application's endpoint. Its user, password and query are secret.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use percent_encoding::percent_decode_str;

/// An `http://` or `https://` URL. Its [`Display`](fmt::Display) hides user, password and query.
#[derive(Clone, PartialEq, Eq)]
pub struct HookUrl {
    /// Without user and password.
    uri: Uri,
    /// User and password as the header `authorization`.
    basic: Option<HeaderValue>,
}

/// The text is not a [`HookUrl`]. Never repeats it, because it may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a URL, such as https://app.example.org/connect or http://user:password@localhost:3000/connect")]
pub struct HookUrlError;

impl FromStr for HookUrl {
    type Err = HookUrlError;

    fn from_str(text: &str) -> Result<Self, HookUrlError> {
        let mut parts = text.parse::<Uri>().map_err(|_| HookUrlError)?.into_parts();
        let is_known = parts.scheme.as_ref().is_some_and(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme));
        let authority = parts.authority.filter(|authority| is_known && !authority.host().is_empty());
        let authority = authority.ok_or(HookUrlError)?;
        let (basic, authority) = match authority.as_str().rsplit_once('@') {
            Some((user, host)) => (Some(basic(user)?), host.parse::<Authority>().map_err(|_| HookUrlError)?),
            None => (None, authority),
        };
        parts.authority = Some(authority);
        parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        Ok(Self { uri: Uri::from_parts(parts).map_err(|_| HookUrlError)?, basic })
    }
}

/// Basic authentication (RFC 7617) by the user and password of a URL, which are percent-encoded there.
fn basic(user: &str) -> Result<HeaderValue, HookUrlError> {
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let decoded = |text| percent_decode_str(text).collect::<Vec<u8>>();
    let credentials = [&decoded(user)[..], b":", &decoded(password)].concat();
    let mut value =
        HeaderValue::try_from(format!("Basic {}", STANDARD.encode(credentials))).map_err(|_| HookUrlError)?;
    value.set_sensitive(true);
    Ok(value)
}

impl HookUrl {
    /// Whether connections use TLS.
    pub fn is_tls(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// The URL that is asked, without user and password.
    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The header `authorization` of its user.
    pub(super) fn basic(&self) -> Option<&HeaderValue> {
        self.basic.as_ref()
    }
}

impl fmt::Display for HookUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls() { "https" } else { "http" };
        let user = if self.basic.is_some() { "***@" } else { "" };
        let host = self.uri.authority().map_or("", Authority::as_str);
        let query = if self.uri.query().is_some() { "?***" } else { "" };
        write!(formatter, "{scheme}://{user}{host}{}{query}", self.uri.path())
    }
}

impl fmt::Debug for HookUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_password_and_query_are_hidden() {
        for (text, shown, uri, basic) in [
            ("http://localhost:3000", "http://localhost:3000/", "http://localhost:3000/", None),
            ("https://[::1]/a/b", "https://[::1]/a/b", "https://[::1]/a/b", None),
            ("HTTPS://a/?key=x", "https://a/?***", "https://a/?key=x", None),
            ("http://ann:pass@a:1/b", "http://***@a:1/b", "http://a:1/b", Some("ann:pass")),
            ("https://ann@a", "https://***@a/", "https://a/", Some("ann:")),
            ("https://a%40b:c%3Ad@e", "https://***@e/", "https://e/", Some("a@b:c:d")),
        ] {
            let url: HookUrl = text.parse().unwrap();
            assert_eq!((&*url.to_string(), &*format!("{url:?}"), &*url.uri().to_string()), (shown, shown, uri));
            let sent = url.basic().map(|value| value.to_str().unwrap().strip_prefix("Basic ").unwrap());
            assert_eq!(sent, basic.map(|basic| STANDARD.encode(basic)).as_deref(), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_urls() {
        for text in ["", "/connect", "localhost:3000", "ftp://a", "http://", "http://:80", "http://ann@", "http://a b"]
        {
            assert_eq!(text.parse::<HookUrl>(), Err(HookUrlError), "{text}");
        }
    }
}
