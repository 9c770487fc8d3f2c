//! Who may see the pages for operators: whoever has the token, as `Bearer` (RFC 6750, §2.1) or, for browsers, as the
//! password of any user (RFC 7617).

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use subtle::ConstantTimeEq;

use tallycast_server::{Page, text_page};

/// A secret that is shown to nobody: its `Display` and `Debug` are `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl FromStr for Token {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

impl Token {
    /// Whether nobody could have it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The answer to a request that does not have the token.
    pub(super) fn refuse(&self, headers: &HeaderMap) -> Option<Page> {
        if headers.get(AUTHORIZATION).is_some_and(|value| self.is_in(value)) {
            return None;
        }
        let mut page =
            text_page(StatusCode::UNAUTHORIZED, "this needs the admin token, as Bearer or as a Basic password\n");
        page.headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"tallycast\", charset=\"UTF-8\""));
        Some(page)
    }

    fn is_in(&self, value: &HeaderValue) -> bool {
        let Some((scheme, credentials)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return false;
        };
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is(credentials.as_bytes());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return false;
        }
        let decoded = BASE64_STANDARD.decode(credentials).unwrap_or_default();
        let colon = decoded.iter().position(|byte| *byte == b':');
        colon.is_some_and(|colon| self.is(&decoded[colon + 1..]))
    }

    /// Takes the same time wherever the first difference is, so that the time tells nothing of the token but its length.
    fn is(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn admitted(value: &str) -> bool {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
        Token("secret".to_owned()).refuse(&headers).is_none()
    }

    #[test]
    fn bearer_or_basic() {
        assert!(admitted("Bearer secret") && admitted("bearer  secret"));
        let basic = |text: &str| admitted(&format!("Basic {}", BASE64_STANDARD.encode(text)));
        assert!(basic("anyone:secret") && basic(":secret"));
        assert!(!basic("secret") && !basic("a:b:secret") && !basic("secret:") && !basic("anyone:secret "));
        assert!(!admitted("secret") && !admitted("Bearer") && !admitted("Bearer secre") && !admitted("Digest secret"));
        assert!(Token("secret".to_owned()).refuse(&HeaderMap::new()).is_some());
    }

    proptest! {
        #[test]
        fn nothing_else_is_the_token(value in "(Bearer |Basic )?[!-~]{0,20}") {
            prop_assert_eq!(admitted(&value), value == "Bearer secret");
        }
    }
}
