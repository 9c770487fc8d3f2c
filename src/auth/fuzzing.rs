//! The parsers of credentials and claims, for the fuzz target only: `cargo fuzz` sets `cfg(fuzzing)`.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use axum::http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use axum::http::{Method, Uri};
use tallycast_fanout::Topic;

use super::claims::Rules;
use super::credentials::{Credential, Places, find};
use super::verifier::{self, TokenHeader};
use super::{Claims, Key, KeyOption, Role, Scope, Template};

/// The text of the credential in a request.
pub fn credential(header: &str, target: &str) -> Option<String> {
    let (uri, value) = (target.parse::<Uri>().ok()?, HeaderValue::from_str(header).ok()?);
    let headers = [AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL].map(|name| (name, value.clone()));
    let headers = HeaderMap::from_iter(headers);
    let places = Places { cookie: "tallycast", in_query: true, origins: &[] };
    match find(&Method::GET, &uri, &headers, places).ok()?? {
        Credential::Token(text) | Credential::Ticket(text) => Some(text.into_owned()),
    }
}

/// Verifies a token by a key that nobody has.
///
/// # Errors
/// The line of the response.
pub fn verify(token: &str) -> Result<(), String> {
    static KEY: LazyLock<Option<Key>> = LazyLock::new(|| {
        let option = "HS256=a secret of the fuzz target, which has 32 bytes at least";
        KeyOption::parse(option).ok()?.key(&Scope::default()).ok()
    });
    let header = TokenHeader::read(token).map_err(|error| error.to_string())?;
    let rules = Rules { leeway: Duration::ZERO, read: &[], publish: &[] };
    let (keys, now) = (KEY.iter(), SystemTime::UNIX_EPOCH);
    let verified = verifier::verify(token, &header, Role::Subscriber, keys, rules.leeway, now);
    verified.and_then(|claims| Claims::read(&claims, rules)).map(drop).map_err(|error| error.to_string())
}

/// The topics of claims by the template `/user/{sub}/**`.
///
/// # Errors
/// The line of the response.
pub fn topics(claims: &str) -> Result<Vec<Topic>, String> {
    let claims: serde_json::Value = serde_json::from_str(claims).unwrap_or_default();
    let Some(claims) = claims.as_object() else { return Ok(Vec::new()) };
    let read: Vec<Template> = "/user/{sub}/**".parse().into_iter().collect();
    let mut claims = claims.clone();
    claims.remove("tallycast");
    let rules = Rules { leeway: Duration::ZERO, read: &read, publish: &[] };
    Claims::read(&claims, rules).map(|claims| claims.read).map_err(|error| error.to_string())
}
