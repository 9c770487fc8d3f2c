//! What senders show: a signature, a token, or an ID token of an issuer.

use std::sync::Arc;
use std::time::SystemTime;

use axum::http::HeaderMap;
use form_urlencoded::parse;
use serde_json::{Map, Value};
use subtle::{Choice, ConstantTimeEq};

use super::answer::Answer;
use super::config::{Config, Credentials, IdTokenRules, Kind};
use super::options::{SecretSource, UrlError};
use super::signature::{Signatures, Signed};
use crate::auth::credentials::bearer;
use crate::auth::{AuthStats, IdTokens, JwksConfig, KeyServers, Scope, TokenError};
use crate::config::Secret;

/// Checks what senders show.
#[derive(Debug)]
pub(super) enum Guard {
    Open,
    /// `in_query`: a token may stand in the query, too (CloudEvents web hooks, section 3.2).
    Tokens {
        tokens: Vec<Secret>,
        in_query: bool,
    },
    Signatures(Signatures),
    IdTokens {
        tokens: Box<IdTokens>,
        rules: IdTokenRules,
    },
}

/// What is left to check when the body is there.
#[derive(Debug)]
pub(super) enum Checked {
    Nothing,
    Signature(Signed),
}

impl Guard {
    /// The guard of a config whose files have been read. In a runtime.
    ///
    /// # Errors
    /// A secret is none, or `key_servers` is missing for ID tokens.
    pub(super) fn start(
        config: &Config,
        key_servers: Option<&KeyServers>,
        stats: &Arc<AuthStats>,
    ) -> Result<Self, UrlError> {
        Ok(match &config.credentials {
            Credentials::Open => Self::Open,
            Credentials::Tokens(tokens) => {
                let tokens = tokens.iter().filter_map(SecretSource::value).map(Secret::new).collect();
                Self::Tokens { tokens, in_query: config.kind == Kind::CloudEvents }
            }
            Credentials::Signature(rules) => Self::Signatures(rules.signatures()?),
            Credentials::IdToken(rules) => {
                let servers = key_servers.ok_or_else(|| UrlError::new("the keys of the issuer cannot be fetched"))?;
                let keys = JwksConfig::new(rules.keys.clone(), &Scope::default(), servers.clone());
                Self::IdTokens { tokens: Box::new(IdTokens::start(keys, Arc::clone(stats))), rules: rules.clone() }
            }
        })
    }

    /// Checks what there is of a request before its body.
    pub(super) async fn check(&self, query: &str, headers: &HeaderMap) -> Result<Checked, Answer> {
        match self {
            Self::Open => Ok(Checked::Nothing),
            Self::Tokens { tokens, in_query } => {
                let from_query = || parse(query.as_bytes()).find(|(name, _)| name == "access_token");
                let shown = bearer(headers).map(Into::into);
                let shown = shown.or_else(|| in_query.then(from_query).flatten().map(|(_, value)| value));
                let shown = shown.ok_or_else(|| token_refused("a token is required, as Bearer token"))?;
                // All are compared, in constant time: the duration reveals nothing about a token but its length.
                let is_known = tokens.iter().fold(Choice::from(0), |is_known, token| {
                    is_known | token.expose().as_bytes().ct_eq(shown.as_bytes())
                });
                if is_known.into() { Ok(Checked::Nothing) } else { Err(token_refused("unknown token")) }
            }
            Self::Signatures(signatures) => {
                let signed = signatures.read(headers, SystemTime::now());
                signed.map(Checked::Signature).map_err(|error| signature_refused(&error))
            }
            Self::IdTokens { tokens, rules } => {
                let token = bearer(headers).ok_or_else(|| token_refused("an ID token is required, as Bearer token"))?;
                let claims = tokens.verify(token).await.map_err(|error| match error {
                    TokenError::Unavailable => Answer::Retry(error.to_string()),
                    error => token_refused(error),
                })?;
                rules.check(&claims).map(|()| Checked::Nothing).map_err(token_refused)
            }
        }
    }

    /// Checks the body of a request.
    pub(super) fn check_body(&self, checked: &Checked, body: &[u8]) -> Result<(), Answer> {
        match (self, checked) {
            (Self::Signatures(signatures), Checked::Signature(signed)) => {
                signatures.check(signed, body).map_err(|error| signature_refused(&error))
            }
            _ => Ok(()),
        }
    }
}

fn token_refused(reason: impl ToString) -> Answer {
    Answer::Refused { reason: reason.to_string(), is_bearer: true }
}

fn signature_refused(reason: &impl ToString) -> Answer {
    Answer::Refused { reason: reason.to_string(), is_bearer: false }
}

impl IdTokenRules {
    /// Whether the account of a token may send.
    pub(super) fn check(&self, claims: &Map<String, Value>) -> Result<(), &'static str> {
        let is_one_of = |name: &str, allowed: &[String]| {
            let value = claims.get(name).and_then(Value::as_str);
            allowed.is_empty() || value.is_some_and(|value| allowed.iter().any(|allowed| allowed == value))
        };
        // Whose address is not verified may have any.
        let is_verified = claims.get("email_verified") == Some(&Value::Bool(true));
        if !is_one_of("email", &self.emails) || !(self.emails.is_empty() || is_verified) {
            return Err("the token is of another account (email)");
        }
        if is_one_of("sub", &self.subjects) { Ok(()) } else { Err("the token is of another account (sub)") }
    }
}
