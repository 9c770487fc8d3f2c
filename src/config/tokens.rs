//! The flags of tokens, and their values -> the config of `auth`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tallycast_fanout::Topic;

use super::errors::ConfigError;
use super::secret::Secret;
use super::values::{cookie_name, duration_or_zero, duration_text, token_key};
use crate::auth::{self, JwksConfig, JwksOption, JwksOptionError, KeyOption, KeyServers, Scope, Template};

/// The options that may follow the URL of a JWK set.
const JWKS_OPTIONS: [&str; 4] = ["iss", "aud", "for", "alg"];

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Tokens")]
pub(super) struct TokenOptions {
    /// Key that verifies tokens (JWT). With one, streams need a token, unless their topics are public. ALGORITHM is HS256,
    /// HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA, or several with + between them. A secret
    /// (HS) has at least 32 bytes; FILE holds a secret, or a public key in PEM. Options follow after commas: kid=ID is the id
    /// of the key, iss=ISSUER and aud=AUDIENCE are what its tokens must have, for=subscribers or for=publishers
    /// is what they may be used for. SIGHUP reads the files again. Repeatable [default: none (everything is public)]
    #[arg(
        long = "token-key",
        env = "TALLYCAST_TOKEN_KEYS",
        value_delimiter = ';',
        value_name = "ALGORITHM=SECRET|@FILE[,...]",
        hide_env_values = true,
        value_parser = token_key
    )]
    pub(super) token_keys: Vec<Secret>,
    /// JWK set of an issuer: https://, or http:// on this machine. It is fetched at start and again before it is stale,
    /// for unknown keys at most once in 10 s, and kept while the issuer is away. Options follow after commas: iss=,
    /// aud= and for= as for keys, and alg=ALGORITHM for the only ones that its keys may have. Repeatable [default: none]
    #[arg(
        long = "token-jwks",
        env = "TALLYCAST_TOKEN_JWKS",
        value_delimiter = ';',
        value_name = "URL[,...]",
        hide_env_values = true,
        value_parser = token_jwks
    )]
    pub(super) token_jwks: Vec<Secret>,
    /// Authorities whose certificates the servers of --token-jwks have, in PEM [default: those that the system trusts]
    #[arg(long, env = "TALLYCAST_TOKEN_JWKS_CA", value_name = "FILE")]
    pub(super) token_jwks_ca: Option<PathBuf>,
    /// Issuer (iss) that tokens must have, unless their key has iss=. Repeatable [default: any]
    #[arg(long = "token-issuer", env = "TALLYCAST_TOKEN_ISSUERS", value_delimiter = ';', value_name = "ISSUER")]
    pub(super) token_issuers: Vec<String>,
    /// Audience (aud) of which tokens must have one, unless their key has aud=. Repeatable [default: any]
    #[arg(long = "token-audience", env = "TALLYCAST_TOKEN_AUDIENCES", value_delimiter = ';', value_name = "AUDIENCE")]
    pub(super) token_audiences: Vec<String>,
    /// Time by which the clocks of issuers may differ, for exp and nbf of a token
    #[arg(
        long,
        env = "TALLYCAST_TOKEN_LEEWAY",
        default_value = duration_text(auth::CLOCK_LEEWAY),
        value_name = "DURATION",
        value_parser = duration_or_zero
    )]
    pub(super) token_leeway: Duration,
    /// Cookie that may hold a token
    #[arg(
        long,
        env = "TALLYCAST_TOKEN_COOKIE",
        default_value = "tallycast",
        value_name = "NAME",
        value_parser = cookie_name
    )]
    pub(super) token_cookie: String,
    /// Accept tokens in the query, as authorization=, token= or access_token=. Proxies and browsers log URLs: prefer tickets
    #[arg(long, env = "TALLYCAST_TOKEN_IN_QUERY")]
    pub(super) token_in_query: bool,
    /// Topic that every token may read. A segment {claim} is the value of a claim, as in /user/{sub}/**. Repeatable
    /// [default: none]
    #[arg(long = "token-read", env = "TALLYCAST_TOKEN_READ", value_delimiter = ';', value_name = "TOPIC")]
    pub(super) token_read: Vec<Template>,
    /// Topic that every token may publish to, as for --token-read. Repeatable [default: none]
    #[arg(long = "token-publish", env = "TALLYCAST_TOKEN_PUBLISH", value_delimiter = ';', value_name = "TOPIC")]
    pub(super) token_publish: Vec<Template>,
    /// Topic that is readable without a token. Repeatable [default: everything without keys, nothing with one]
    #[arg(long = "public", env = "TALLYCAST_PUBLIC", value_delimiter = ';', value_name = "TOPIC")]
    pub(super) public: Vec<Topic>,
}

fn invalid(flag: &str, error: impl std::fmt::Display) -> ConfigError {
    ConfigError::Usage(format!("invalid value for {flag}: {error}"))
}

/// A JWK set, shown without the query of its URL.
fn token_jwks(text: &str) -> Result<Secret, JwksOptionError> {
    text.parse::<JwksOption>()?;
    let is_option = |part: &str| part.split_once('=').is_some_and(|(name, _)| JWKS_OPTIONS.contains(&name));
    let mut url = text;
    while let Some((before, _)) = url.rsplit_once(',').filter(|(_, last)| is_option(last)) {
        url = before;
    }
    let shown = match url.split_once('?') {
        Some((base, _)) => format!("{base}?***{}", &text[url.len()..]),
        None => text.to_owned(),
    };
    Ok(Secret::shown_as(text, &shown))
}

/// How the servers of JWK sets are known, with the file of their authorities if there is one.
pub(super) fn key_servers(authorities: Option<&Path>) -> Result<KeyServers, ConfigError> {
    let authorities = authorities.map(std::fs::read).transpose();
    let authorities = authorities.map_err(|error| invalid("--token-jwks-ca", error))?.map(Into::into);
    KeyServers::new(authorities).map_err(|error| invalid("--token-jwks-ca", error))
}

/// Reads the files of the keys, and puts the config together.
pub(super) fn compose(options: TokenOptions, publish_rate: std::num::NonZeroU32) -> Result<auth::Config, ConfigError> {
    let defaults = Scope { issuers: options.token_issuers, audiences: options.token_audiences, role: None };
    let keys = options.token_keys.iter().map(|key| KeyOption::parse(key.expose())?.key(&defaults));
    let keys: Vec<_> = keys.collect::<Result<_, _>>().map_err(|error| invalid("--token-key", error))?;
    let mut jwks = Vec::new();
    if !options.token_jwks.is_empty() || options.token_jwks_ca.is_some() {
        let servers = key_servers(options.token_jwks_ca.as_deref())?;
        for option in &options.token_jwks {
            let option = option.expose().parse().map_err(|error| invalid("--token-jwks", error))?;
            jwks.push(JwksConfig::new(option, &defaults, servers.clone()));
        }
    }
    if options.public.len() > auth::MAX_PUBLIC_TOPICS {
        return Err(invalid("--public", format!("expected at most {} topics", auth::MAX_PUBLIC_TOPICS)));
    }
    let config = auth::Config {
        keys,
        jwks,
        leeway: options.token_leeway,
        cookie: options.token_cookie,
        in_query: options.token_in_query,
        read: options.token_read,
        publish: options.token_publish,
        public: options.public,
        publish_rate,
    };
    if !config.is_enabled() {
        let without_keys = [
            ("--public", config.public.is_empty()),
            ("--token-read", config.read.is_empty()),
            ("--token-publish", config.publish.is_empty()),
        ];
        if let Some((flag, _)) = without_keys.into_iter().find(|(_, is_empty)| !is_empty) {
            return Err(ConfigError::Usage(format!(
                "{flag} needs --token-key or --token-jwks: without a key, no token is looked at and everything is public"
            )));
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jwk_set_is_shown_without_its_query() {
        let shown = |text: &str| token_jwks(text).unwrap().to_string();
        assert_eq!(shown("https://a.example/keys,iss=b?c"), "https://a.example/keys,iss=b?c");
        assert_eq!(
            shown("https://a.example/keys?key=hunter2,iss=x,key=hunter2,iss=b,alg=RS256"),
            "https://a.example/keys?***,iss=b,alg=RS256"
        );
    }
}
