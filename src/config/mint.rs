//! The flags of `tallycast token`, and the token that they describe.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Map, Value, json};
use tallycast_fanout::Topic;

use super::errors::ConfigError;
use super::secret::Secret;
use super::values::{claim, duration, json_value, token_key};
use crate::auth::{self, KeyOption};

/// Options of `tallycast token`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  tallycast token --key HS256=@secret --sub ann --read '/user/ann/**'
  tallycast token --key RS256=@private.pem --publish /news --expires 5m --claim name=Ann
  TALLYCAST_TOKEN_KEYS=HS256=0123456789abcdef0123456789abcdef tallycast token --mercure-subscribe '*'

Prints the token and nothing else. For development: in production, tokens come from what knows the users.")]
pub(super) struct TokenCommand {
    /// Key that signs, as for tallycast serve, but with a private key in PEM. Of several, the first one. Better given by a file or the
    /// variable, which no list of processes shows
    #[arg(
        long = "token-key",
        alias = "key",
        env = "TALLYCAST_TOKEN_KEYS",
        value_delimiter = ';',
        value_name = "ALGORITHM=SECRET|@FILE[,...]",
        hide_env_values = true,
        value_parser = token_key
    )]
    token_keys: Vec<Secret>,
    /// TOML file with a token-key
    #[arg(long, env = "TALLYCAST_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Id of the key (kid)
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
    /// Subject (sub): the user
    #[arg(long, value_name = "NAME")]
    sub: Option<String>,
    /// Issuer (iss)
    #[arg(long, value_name = "ISSUER")]
    iss: Option<String>,
    /// Audience (aud)
    #[arg(long, value_name = "AUDIENCE")]
    aud: Option<String>,
    /// Time until the token expires
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration)]
    expires: Duration,
    /// Make a token that never expires
    #[arg(long, conflicts_with = "expires")]
    no_expiry: bool,
    /// Topic that it may read (tallycast.read). Repeatable
    #[arg(long, value_name = "TOPIC")]
    read: Vec<Topic>,
    /// Topic that it may publish to (tallycast.publish). Repeatable
    #[arg(long, value_name = "TOPIC")]
    publish: Vec<Topic>,
    /// Let it relay what it may read to the clients of another tallycast (tallycast.relay)
    #[arg(long)]
    relay: bool,
    /// Data about the client (tallycast.payload)
    #[arg(long, value_name = "JSON", value_parser = json_value)]
    payload: Option<Value>,
    /// Selector of private updates that it may read (mercure.subscribe). Repeatable
    #[arg(long, value_name = "SELECTOR")]
    mercure_subscribe: Vec<String>,
    /// Selector of what it may publish (mercure.publish). Repeatable
    #[arg(long, value_name = "SELECTOR")]
    mercure_publish: Vec<String>,
    /// Another claim. The value is JSON, or else a text. Repeatable
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, Value)>,
}

impl TokenCommand {
    /// The token.
    pub(super) fn mint(self) -> Result<String, ConfigError> {
        let mut claims = Map::new();
        for (name, value) in [("sub", self.sub), ("iss", self.iss), ("aud", self.aud)] {
            claims.extend(value.map(|value| (name.to_owned(), value.into())));
        }
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = SystemTime::now();
        claims.insert("iat".to_owned(), seconds(now).into());
        if let Some(expiry) = (!self.no_expiry).then(|| now.checked_add(self.expires)).flatten() {
            claims.insert("exp".to_owned(), seconds(expiry).into());
        }
        let texts = |topics: &[Topic]| topics.iter().map(ToString::to_string).collect::<Vec<_>>();
        let own = object([
            ("read", list(texts(&self.read))),
            ("publish", list(texts(&self.publish))),
            ("relay", self.relay.then_some(true.into())),
            ("payload", self.payload),
        ]);
        let mercure = object([("subscribe", list(self.mercure_subscribe)), ("publish", list(self.mercure_publish))]);
        for (name, value) in [("tallycast", own), ("mercure", mercure)] {
            claims.extend(value.map(|value| (name.to_owned(), value)));
        }
        claims.extend(self.claims);
        let Some(key) = self.token_keys.first() else {
            let expected =
                "tallycast token needs --token-key (--key): a secret or a private key, such as HS256=@secret";
            return Err(ConfigError::Usage(expected.to_owned()));
        };
        let token = KeyOption::parse(key.expose()).and_then(|key| auth::mint(&key, self.kid.as_deref(), claims));
        token.map_err(|error| ConfigError::Usage(format!("invalid value for --token-key: {error}")))
    }
}

fn list(texts: Vec<String>) -> Option<Value> {
    (!texts.is_empty()).then(|| json!(texts))
}

fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Option<Value> {
    let members = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let object: Map<String, Value> = members.collect();
    (!object.is_empty()).then_some(Value::Object(object))
}
