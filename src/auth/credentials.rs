//! Where a token may stand in a request.
//!
//! | order | place | note |
//! |---|---|---|
//! | 1 | `authorization: Bearer <token>` | |
//! | 2 | cookie | requests that change something need a listed origin |
//! | 3 | query `authorization`, `token` or `access_token` | off by default |
//! | 4 | `sec-websocket-protocol: bearer.<token>` | never part of the response |
//! | 5 | query `ticket` | for streams |
//!
//! The first one counts, whatever follows.

use std::borrow::Cow;

use axum::http::header::{
    AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, ORIGIN, REFERER, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use axum::http::{Method, Uri};
use tallycast_server::AllowedOrigin;

/// The names in a query.
const QUERY: [&str; 3] = ["authorization", "token", "access_token"];
/// The name of a ticket in a query.
pub const TICKET: &str = "ticket";
/// The start of a WebSocket subprotocol that is a token.
const SUBPROTOCOL: &str = "bearer.";

/// What a client has to show.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential<'a> {
    /// A token.
    Token(Cow<'a, str>),
    /// A ticket, in whose place a token is kept.
    Ticket(Cow<'a, str>),
}

/// `Debug` leaves the secret out.
impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Token(_) => "Token(***)",
            Self::Ticket(_) => "Ticket(***)",
        })
    }
}

/// The cookie of a request must not count: a page of another origin may have caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a cookie counts only for pages of this server and of the origins that --allowed-origin lists (* does not count)"
)]
pub struct ForeignOrigin;

/// The places that a configuration allows.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The name of the cookie.
    pub cookie: &'a str,
    /// Whether a token may stand in the query.
    pub in_query: bool,
    /// The origins whose pages may use the cookie.
    pub origins: &'a [AllowedOrigin],
}

/// The credential of a request, if it has one.
///
/// # Errors
/// When it is a cookie that must not count.
pub fn find<'a>(
    method: &Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    places: Places<'_>,
) -> Result<Option<Credential<'a>>, ForeignOrigin> {
    if let Some(token) = bearer(headers) {
        return Ok(Some(Credential::Token(token.into())));
    }
    if let Some(token) = cookie(headers, places.cookie) {
        if is_own_page(method, uri, headers, places.origins) {
            return Ok(Some(Credential::Token(token.into())));
        }
        if !method.is_safe() {
            return Err(ForeignOrigin);
        }
    }
    let query = uri.query().unwrap_or_default();
    let in_query = || QUERY.into_iter().find_map(|name| query_value(query, name));
    if let Some(token) = places.in_query.then(in_query).flatten() {
        return Ok(Some(Credential::Token(token)));
    }
    if let Some(token) = subprotocol(headers) {
        return Ok(Some(Credential::Token(token.into())));
    }
    Ok(query_value(query, TICKET).map(Credential::Ticket))
}

/// The token of `authorization: Bearer` (RFC 6750, §2.1).
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

/// The value of a cookie (RFC 6265, §4.2), unless it is empty.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim_matches(' ').split_once('='));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (!value.is_empty()).then_some(value)
}

/// The value of a parameter of a query, decoded, unless it is empty.
pub fn query_value<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(found, _)| found == name).map(|(_, value)| value).filter(|value| !value.is_empty())
}

/// The token in the list of WebSocket subprotocols, for browsers, which set no other header there.
fn subprotocol(headers: &HeaderMap) -> Option<&str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).find_map(|name| name.trim().strip_prefix(SUBPROTOCOL))
}

/// Whether a cookie counts. Browsers add it to requests that any page causes: a page of another origin could change something
/// by them, or read a WebSocket, to which CORS does not apply.
pub fn is_own_page(method: &Method, uri: &Uri, headers: &HeaderMap, allowed: &[AllowedOrigin]) -> bool {
    let is_upgrade = headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    match origin(headers) {
        _ if method.is_safe() && !is_upgrade => true,
        Some(origin) => {
            let listed = origin.parse().is_ok_and(|origin| origin != AllowedOrigin::ANY && allowed.contains(&origin));
            listed || is_same_host(&origin, uri, headers)
        }
        // Browsers always send the origin of a page that opens a WebSocket.
        None => is_upgrade,
    }
}

/// The origin of the page that caused a request, as a browser writes it.
fn origin(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(origin) = text(ORIGIN) {
        return Some(origin.into());
    }
    let referer = text(REFERER)?.parse::<Uri>().ok()?.into_parts();
    Some(format!("{}://{}", referer.scheme?, referer.authority?).into())
}

fn is_same_host(origin: &str, uri: &Uri, headers: &HeaderMap) -> bool {
    let host = uri.authority().map(axum::http::uri::Authority::as_str);
    let host = host.or_else(|| headers.get(HOST)?.to_str().ok());
    let theirs = origin.split_once("://").map(|(_, host)| host);
    host.zip(theirs).is_some_and(|(ours, theirs)| ours.eq_ignore_ascii_case(theirs))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn found(method: Method, uri: &str, pairs: &[(HeaderName, &str)], in_query: bool) -> Result<String, ForeignOrigin> {
        let origins = ["https://app.example".parse().unwrap(), AllowedOrigin::ANY];
        let places = Places { cookie: "tallycast", in_query, origins: &origins };
        let (uri, headers) = (uri.parse().unwrap(), headers(pairs));
        Ok(match find(&method, &uri, &headers, places)? {
            Some(Credential::Token(token)) => token.into_owned(),
            Some(Credential::Ticket(ticket)) => format!("ticket {ticket}"),
            None => String::new(),
        })
    }

    #[test]
    fn first_place_counts() {
        let query = "/a?token=query&ticket=t";
        let all = [
            (AUTHORIZATION, "bearer header"),
            (COOKIE, "a=b; tallycast=cookie"),
            (SEC_WEBSOCKET_PROTOCOL, "json, bearer.protocol"),
        ];
        let of = |skipped, in_query| found(Method::GET, query, &all[skipped..], in_query).unwrap();
        assert_eq!((of(0, true), of(1, true), of(2, true)), ("header".into(), "cookie".into(), "query".into()));
        assert_eq!((of(2, false), of(3, false)), ("protocol".into(), "ticket t".into()));
        for (query, expected) in [
            ("/a?authorization=b", "b"),
            ("/a?access_token=a%2Eb", "a.b"),
            ("/a?ticket=", ""),
            ("/a?tokens=a", ""),
            ("/a", ""),
        ] {
            assert_eq!(found(Method::GET, query, &[], true).unwrap(), expected);
        }
    }

    #[test]
    fn other_schemes_and_empty_values_are_no_credentials() {
        for value in ["Basic YTpi", "Bearer", "token", ""] {
            assert_eq!(found(Method::GET, "/a", &[(AUTHORIZATION, value)], true).unwrap(), "", "{value}");
        }
        for (value, expected) in
            [("tallycast=", ""), ("tallycast=\"a\"", "a"), ("xtallycast=a", ""), ("Tallycast=a", "")]
        {
            assert_eq!(found(Method::GET, "/a", &[(COOKIE, value)], true).unwrap(), expected, "{value}");
        }
    }

    #[test]
    fn cookies_count_only_for_own_pages() {
        let cookie = (COOKIE, "tallycast=c");
        let with = |method: Method, others: &[(HeaderName, &str)]| {
            found(method, "/a", &[&[cookie.clone(), (HOST, "live.example")], others].concat(), false)
        };
        let upgrade = (UPGRADE, "websocket");
        for (origin, is_own) in [
            ("https://app.example", true),
            ("https://live.example", true),
            ("https://evil.example", false),
            ("https://live.example.evil", false),
            ("http://app.example", false),
            ("null", false),
            ("*", false),
        ] {
            let expected = if is_own { Ok("c".to_owned()) } else { Err(ForeignOrigin) };
            assert_eq!(with(Method::POST, &[(ORIGIN, origin)]), expected, "{origin}");
            let referer = format!("{origin}/page?a=b");
            assert_eq!(with(Method::POST, &[(REFERER, &referer)]), expected, "{origin}");
            let opened = if is_own { "c" } else { "" };
            assert_eq!(with(Method::GET, &[upgrade.clone(), (ORIGIN, origin)]).unwrap(), opened, "{origin}");
            assert_eq!(with(Method::GET, &[(ORIGIN, origin)]).unwrap(), "c", "CORS protects what can only be read");
        }
        assert_eq!(with(Method::POST, &[]), Err(ForeignOrigin));
        let lies = [(ORIGIN, "https://evil.example"), (REFERER, "https://app.example/")];
        assert_eq!(with(Method::POST, &lies), Err(ForeignOrigin));
        assert_eq!(with(Method::GET, std::slice::from_ref(&upgrade)).unwrap(), "c");
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_ignored(value in "[ -~]{0,40}", query in "[!-~]{0,30}") {
            let Ok(uri) = format!("/a?{query}").parse::<Uri>() else { return Ok(()) };
            for name in [AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL, ORIGIN, REFERER] {
                let headers = headers(&[(name, &value)]);
                for method in [Method::GET, Method::POST] {
                    let _ = find(&method, &uri, &headers, Places { cookie: "a", in_query: true, origins: &[] });
                }
            }
        }
    }
}
