//! Where the token of a request of the Mercure protocol stands: a header, the query, or a cookie.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method, Uri};
use tallycast_server::AllowedOrigin;

use crate::api::refusal::Refusal;
use crate::auth::credentials::{ForeignOrigin, bearer, cookie, is_own_page, query_value};

/// The cookie with the token.
const COOKIE: &str = "mercureAuthorization";
/// The query parameter with the token.
const PARAMETER: &str = "authorization";
/// The shortest value of the header: the scheme and the shortest token.
const MIN_HEADER_BYTES: usize = 48;
/// The shortest token.
const MIN_TOKEN_BYTES: usize = 41;

/// The token of a request, if there is one: the first of header, query and cookie decides. `origins` are those whose pages may
/// publish with the cookie.
pub(super) fn find(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    origins: &[AllowedOrigin],
) -> Result<Option<String>, Refusal> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let token = bearer(headers).filter(|_| value.len() >= MIN_HEADER_BYTES);
        let token =
            token.ok_or_else(|| Refusal::unauthorized("the header authorization: expected Bearer and a token"))?;
        return Ok(Some(token.to_owned()));
    }
    if let Some(token) = query_value(uri.query().unwrap_or_default(), PARAMETER) {
        if token.len() < MIN_TOKEN_BYTES {
            return Err(Refusal::unauthorized("the parameter authorization: expected a token"));
        }
        return Ok(Some(token.into_owned()));
    }
    let Some(token) = cookie(headers, COOKIE) else { return Ok(None) };
    if !is_own_page(method, uri, headers, origins) {
        return Err(Refusal::forbidden(ForeignOrigin.to_string()));
    }
    Ok(Some(token.to_owned()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use axum::http::header;

    use super::*;

    fn token(character: char) -> String {
        character.to_string().repeat(MIN_TOKEN_BYTES)
    }

    fn found(method: Method, query: &str, headers: &[(header::HeaderName, &str)]) -> Result<Option<String>, String> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        let origins = ["https://app.example.com".parse().unwrap(), AllowedOrigin::ANY];
        let uri = format!("/?{query}").parse().unwrap();
        find(&method, &uri, &headers.collect(), &origins).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn header_comes_before_query_and_cookie() {
        let (header, query) = (format!("Bearer {}", token('h')), format!("topic=a&authorization={}", token('q')));
        let cookie = format!("a=b; mercureAuthorization={}; c=d", token('c'));
        let (header, cookie) = ((AUTHORIZATION, &*header), (header::COOKIE, &*cookie));
        let get = |query, headers: &[_]| found(Method::GET, query, headers);
        assert_eq!(get(&query, &[header.clone(), cookie.clone()]), Ok(Some(token('h'))));
        assert_eq!(get(&query, std::slice::from_ref(&cookie)), Ok(Some(token('q'))));
        assert_eq!(get("topic=a", std::slice::from_ref(&cookie)), Ok(Some(token('c'))));
        assert_eq!(get("topic=a", &[(header::COOKIE, "xmercureAuthorization=a")]), Ok(None));
        let short = get("", &[(AUTHORIZATION, "Bearer short"), cookie.clone()]).unwrap_err();
        assert!(short.starts_with("the header authorization"), "{short}");
        let basic = format!("Basic {}", token('b'));
        assert!(get("", &[(AUTHORIZATION, &*basic), cookie.clone()]).is_err());
        assert!(get("authorization=short", &[cookie]).unwrap_err().starts_with("the parameter authorization"));
    }

    #[test]
    fn cookie_publishes_for_listed_origins_alone() {
        let cookie = format!("mercureAuthorization={}", token('c'));
        let post = |name: header::HeaderName, value: &str| {
            found(Method::POST, "", &[(header::COOKIE, &*cookie), (name, value)])
        };
        assert_eq!(post(header::ORIGIN, "https://app.example.com"), Ok(Some(token('c'))));
        assert_eq!(post(header::REFERER, "https://app.example.com/a?b"), Ok(Some(token('c'))));
        assert!(post(header::ORIGIN, "https://other.example.com").is_err());
        assert!(post(header::ACCEPT, "*/*").is_err());
    }
}
