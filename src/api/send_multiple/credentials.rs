//! Where a token may stand: header `authorization`, query `token`, query `access_token`. A later one overrides those before.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use crate::auth::credentials::query_value;

/// The names in a query; the last one counts.
const QUERY: [&str; 2] = ["token", "access_token"];
const SCHEME: &str = "bearer ";

/// The token of a request, if it has one.
pub(super) fn find(headers: &HeaderMap, query: &str) -> Option<String> {
    let in_query = QUERY.into_iter().rev().find_map(|name| query_value(query, name));
    let in_header = || headers.get(AUTHORIZATION)?.to_str().ok().map(Into::into);
    let text = in_query.or_else(in_header)?;
    let token = match text.get(..SCHEME.len()) {
        Some(scheme) if scheme.eq_ignore_ascii_case(SCHEME) => &text[SCHEME.len()..],
        _ => &*text,
    };
    let token = token.trim_matches(' ');
    (!token.is_empty()).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn later_place_overrides() {
        let found = |header: &str, query: &str| {
            find(&HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(header).unwrap())]), query)
        };
        let token = |text: &str| Some(text.to_owned());
        assert_eq!(found("Bearer h", ""), token("h"));
        assert_eq!(found("h", "token=&access_token="), token("h"));
        assert_eq!(found("Bearer h", "token=t"), token("t"));
        assert_eq!(found("Bearer h", "access_token=a&token=t"), token("a"));
        assert_eq!(found("h", "token=Bearer%20t"), token("t"));
        assert_eq!(found("h", "access_token=bearer+a"), token("a"));
        for header in ["Bearer ", "", "bearer  "] {
            assert_eq!(found(header, "tokens=t"), None, "{header:?}");
        }
        assert_eq!(find(&HeaderMap::new(), "token=t"), token("t"));
    }
}
