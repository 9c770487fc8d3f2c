//! The claims of a verified token: who the client is, until when, and what it may read and publish.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tallycast_fanout::Topic;

use super::template::Template;
use super::{MAX_TOKEN_TOPICS, Scope, TokenError};

/// The claim in the syntax of this server.
const TALLYCAST: &str = "tallycast";
/// The claim of Mercure, and its name as a namespaced claim.
const MERCURE: [&str; 2] = ["mercure", "https://mercure.rocks/"];

/// What a token says, after its signature, issuer, audience and times have been checked.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Claims {
    /// `iss`.
    pub issuer: Option<String>,
    /// `sub`.
    pub subject: Option<String>,
    /// `exp`, with the leeway: when the token stops being accepted.
    pub expires_at: Option<SystemTime>,
    /// What it may read: `tallycast.read`, and the topics of `--token-read`.
    pub read: Vec<Topic>,
    /// What it may publish: `tallycast.publish`, and the topics of `--token-publish`.
    pub publish: Vec<Topic>,
    /// Whether it may relay what it may read: `tallycast.relay`.
    pub relay: bool,
    /// The claim `mercure`.
    pub mercure: Option<MercureClaims>,
    /// `tallycast.payload`, or else `mercure.payload`.
    pub payload: Option<Value>,
}

/// The claim `mercure`, or `https://mercure.rocks/`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct MercureClaims {
    /// Selectors of what it may publish. An empty list is not the same as none.
    pub publish: Option<Vec<String>>,
    /// Selectors of the private updates that it may read.
    pub subscribe: Option<Vec<String>>,
    /// Data about the client.
    pub payload: Option<Value>,
}

/// What is not in the token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) leeway: Duration,
    pub(super) read: &'a [Template],
    pub(super) publish: &'a [Template],
}

/// Checks the registered claims: times with a leeway, issuer and audience of the key's `scope`.
pub(super) fn check(
    claims: &Map<String, Value>,
    scope: &Scope,
    leeway: Duration,
    now: SystemTime,
) -> Result<(), TokenError> {
    if time(claims, "exp")?.is_some_and(|expiry| expiry.checked_add(leeway).is_some_and(|expiry| expiry <= now)) {
        return Err(TokenError::Expired);
    }
    if time(claims, "nbf")?.is_some_and(|start| now.checked_add(leeway).is_none_or(|now| start > now)) {
        return Err(TokenError::NotYetValid);
    }
    let is_issuer = |issuer: &str| scope.issuers.iter().any(|known| known == issuer);
    if !scope.issuers.is_empty() && !claims.get("iss").and_then(Value::as_str).is_some_and(is_issuer) {
        return Err(TokenError::Issuer);
    }
    let is_audience = |audience: &Value| {
        audience.as_str().is_some_and(|audience| scope.audiences.iter().any(|known| known == audience))
    };
    let is_for_us = match claims.get("aud") {
        _ if scope.audiences.is_empty() => true,
        Some(Value::Array(audiences)) => audiences.iter().any(is_audience),
        Some(audience) => is_audience(audience),
        None => false,
    };
    if is_for_us { Ok(()) } else { Err(TokenError::Audience) }
}

/// A time in seconds since 1970. A far future that no clock can show is none.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<SystemTime>, TokenError> {
    let seconds = match claims.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value.as_f64().filter(|seconds| *seconds >= 0.0),
    };
    let seconds = seconds.ok_or_else(|| TokenError::claim(name, "expected seconds since 1970"))?;
    Ok(Duration::try_from_secs_f64(seconds).ok().and_then(|since| UNIX_EPOCH.checked_add(since)))
}

impl Claims {
    /// Reads the claims of a token that [`check`] accepts.
    pub(super) fn read(claims: &Map<String, Value>, rules: Rules<'_>) -> Result<Self, TokenError> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
        let own = object(claims, TALLYCAST, TALLYCAST)?;
        let topics = |name: &str, claim, templates: &[Template]| {
            let mut topics = own.map_or(Ok(Vec::new()), |own| topics(own, name, claim))?;
            for template in templates {
                let left = MAX_TOKEN_TOPICS.saturating_sub(topics.len());
                topics.extend(template.topics(claims, left));
            }
            Ok::<_, TokenError>(topics)
        };
        let mercure = MERCURE.into_iter().find_map(|name| Some((name, claims.get(name)?)));
        let mercure = mercure.map(|(name, _)| MercureClaims::read(claims, name)).transpose()?;
        let payload = own.and_then(|own| own.get("payload")).filter(|payload| !payload.is_null());
        let payload = payload.or_else(|| mercure.as_ref()?.payload.as_ref());
        Ok(Self {
            issuer: text("iss"),
            subject: text("sub"),
            expires_at: time(claims, "exp")?.and_then(|expiry| expiry.checked_add(rules.leeway)),
            read: topics("read", "tallycast.read", rules.read)?,
            publish: topics("publish", "tallycast.publish", rules.publish)?,
            relay: own.map_or(Ok(false), |own| flag(own, "relay", "tallycast.relay"))?,
            payload: payload.cloned(),
            mercure,
        })
    }
}

impl MercureClaims {
    fn read(claims: &Map<String, Value>, name: &str) -> Result<Self, TokenError> {
        let Some(own) = object(claims, name, "mercure")? else { return Ok(Self::default()) };
        Ok(Self {
            publish: strings(own, "publish", "mercure.publish")?,
            subscribe: strings(own, "subscribe", "mercure.subscribe")?,
            payload: own.get("payload").filter(|payload| !payload.is_null()).cloned(),
        })
    }
}

fn object<'a>(
    claims: &'a Map<String, Value>,
    name: &str,
    claim: &'static str,
) -> Result<Option<&'a Map<String, Value>>, TokenError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(TokenError::claim(claim, "expected an object")),
    }
}

fn flag(object: &Map<String, Value>, name: &str, claim: &'static str) -> Result<bool, TokenError> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| TokenError::claim(claim, "expected true or false")),
    }
}

fn strings(object: &Map<String, Value>, name: &str, claim: &'static str) -> Result<Option<Vec<String>>, TokenError> {
    let expected = || TokenError::claim(claim, format!("expected a list of at most {MAX_TOKEN_TOPICS} strings"));
    let values = match object.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(values)) if values.len() <= MAX_TOKEN_TOPICS => values,
        Some(_) => return Err(expected()),
    };
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(expected);
    values.iter().map(text).collect::<Result<_, _>>().map(Some)
}

fn topics(object: &Map<String, Value>, name: &str, claim: &'static str) -> Result<Vec<Topic>, TokenError> {
    let parse = |text: String| text.parse().map_err(|error| TokenError::claim(claim, format!("{text:?}: {error}")));
    strings(object, name, claim)?.unwrap_or_default().into_iter().map(parse).collect()
}
