//! Access to the admin routes: by token, as `Bearer` (RFC 6750, §2.1) or, for browsers, as the password of any user
//! (RFC 7617).

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use axum::middleware::Next;
use axum::response::Response;
use headers::HeaderMapExt;
use headers::authorization::{Authorization, Basic, Bearer};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::config::Secret;
use crate::responses::line;

/// The challenge that lets a browser ask its user for the token.
const BASIC: &str = "Basic realm=\"tallycast\", charset=\"UTF-8\"";

/// The admin token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(Secret);

impl From<Secret> for Token {
    fn from(secret: Secret) -> Self {
        Self(secret)
    }
}

impl Token {
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.typed_get::<Authorization<Bearer>>();
        let basic = headers.typed_get::<Authorization<Basic>>();
        bearer.is_some_and(|credentials| self.is(credentials.token()))
            || basic.is_some_and(|credentials| self.is(credentials.password()))
    }

    /// Compares in constant time: the duration reveals nothing about the token but its length.
    fn is(&self, candidate: &str) -> bool {
        self.0.expose().as_bytes().ct_eq(candidate.as_bytes()).into()
    }
}

/// Answers 401 to requests without the token, if one is set now. The middleware of the admin routes.
pub(crate) async fn require_token(
    State(token): State<watch::Receiver<Option<Token>>>,
    request: Request,
    next: Next,
) -> Response {
    let is_allowed = token.borrow().as_ref().is_none_or(|token| token.is_in(request.headers()));
    if is_allowed {
        return next.run(request).await;
    }
    let text = "the admin token is required, as Bearer token or as Basic password";
    let mut response = line(StatusCode::UNAUTHORIZED, text);
    // A browser asks its user for a password again and again if a script of a page that is open is challenged to send one.
    let is_of_script = request.headers().get("sec-fetch-dest").is_some_and(|destination| destination == "empty");
    let challenge = HeaderValue::from_static(if is_of_script { "Bearer realm=\"tallycast\"" } else { BASIC });
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

#[cfg(test)]
mod tests {
    use axum::http::header::AUTHORIZATION;
    use proptest::prelude::*;

    use super::*;

    fn is_authorized(value: &str) -> bool {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
        Token(Secret::new("secret")).is_in(&headers)
    }

    #[test]
    fn token_is_accepted_as_bearer_or_as_basic_password() {
        assert!(is_authorized("Bearer secret") && is_authorized("bearer  secret"));
        let basic = |user: &str, password: &str| {
            let mut headers = HeaderMap::new();
            headers.typed_insert(Authorization::basic(user, password));
            is_authorized(headers[AUTHORIZATION].to_str().unwrap())
        };
        assert!(basic("anyone", "secret") && basic("", "secret"));
        assert!(!basic("a", "b:secret") && !basic("secret", "") && !basic("anyone", "secret "));
        // "secret", without a colon.
        assert!(!is_authorized("Basic c2VjcmV0"));
        assert!(!is_authorized("secret") && !is_authorized("Bearer") && !is_authorized("Bearer secre"));
        assert!(!is_authorized("Digest secret") && !Token(Secret::new("secret")).is_in(&HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn nothing_else_is_the_token(value in "(Bearer |Basic )?[!-~]{0,20}") {
            prop_assert_eq!(is_authorized(&value), value == "Bearer secret");
        }
    }
}
