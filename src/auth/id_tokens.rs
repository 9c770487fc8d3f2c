//! ID tokens (OpenID Connect), by which the services of an issuer say who they are. They grant nothing here.

use std::num::NonZeroU32;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{AuthStats, CLOCK_LEEWAY, Config, JwksConfig, Role, State, TokenError};

/// Verifies the ID tokens of one issuer.
#[derive(Debug)]
pub struct IdTokens {
    state: State,
    stats: Arc<AuthStats>,
}

impl IdTokens {
    /// Starts to fetch the issuer's keys, whose scope says which issuer and audience tokens must have. In a runtime.
    pub fn start(keys: JwksConfig, stats: Arc<AuthStats>) -> Self {
        let config = Config {
            keys: Vec::new(),
            jwks: vec![keys],
            leeway: CLOCK_LEEWAY,
            cookie: String::new(),
            in_query: false,
            read: Vec::new(),
            publish: Vec::new(),
            public: Vec::new(),
            publish_rate: NonZeroU32::MIN,
        };
        Self { state: State::new(config, &[], &stats), stats }
    }

    /// The claims of a token. Waits a few seconds for keys that are being fetched.
    ///
    /// # Errors
    /// When it is not valid now. One that never expires is none (OpenID Connect Core 1.0, section 2).
    pub async fn verify(&self, token: &str) -> Result<Map<String, Value>, TokenError> {
        let verified = self.state.verified(token, Role::Publisher).await.and_then(|claims| match claims.get("exp") {
            Some(Value::Number(_)) => Ok(claims),
            _ => Err(TokenError::claim("exp", "expected seconds since 1970")),
        });
        self.stats.count(&verified);
        verified
    }
}
