//! Who publishes, and what: a publishing key publishes everything, a token what its claims name.

use std::sync::Arc;

use axum::http::{HeaderMap, Method, Uri};
use tallycast_fanout::{Namespace, Topic};

use super::keys::PublishKey;
use super::{PublishError, Publishing};
use crate::auth::{AuthError, RateError, Role, SubjectRates, TokenError, credentials};

/// What one request may publish.
#[derive(Debug)]
pub(super) enum PublishAccess {
    /// A key of the configuration.
    Key(PublishKey),
    /// A token.
    Token {
        topics: Vec<Topic>,
        rates: Arc<SubjectRates>,
        /// The key of its subject in `rates`.
        subject: u64,
    },
}

impl Publishing {
    /// The access of a request, by publishing key or token.
    pub(super) async fn access(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<PublishAccess, PublishError> {
        let key = {
            let keys = self.keys.borrow();
            if self.auth.is_none() && keys.is_empty() {
                return Err(PublishError::Off);
            }
            credentials::bearer(headers).and_then(|candidate| keys.find(candidate))
        };
        if let Some(key) = key {
            return Ok(PublishAccess::Key(key));
        }
        let Some(auth) = &self.auth else { return Err(PublishError::Unauthorized) };
        let authenticated = match auth.authenticate(method, uri, headers, Role::Publisher).await {
            Ok(authenticated) => authenticated.ok_or(PublishError::TokenRequired)?,
            // A key that is not known, where there are some.
            Err(AuthError::Token(TokenError::Malformed)) if !self.keys.borrow().is_empty() => {
                return Err(PublishError::Unauthorized);
            }
            Err(error) => return Err(error.into()),
        };
        let rates = auth.publish_rates();
        let subject = rates.key(authenticated.rate_key());
        Ok(PublishAccess::Token { topics: authenticated.claims.publishable(), rates, subject })
    }
}

impl PublishAccess {
    /// Whether messages of `namespace` may be published.
    pub(super) fn check(&self, namespace: &Namespace) -> Result<(), PublishError> {
        match self {
            Self::Token { topics, .. } if !topics.iter().any(|topic| topic.contains(namespace)) => {
                Err(PublishError::Forbidden(format!("not allowed to publish to {namespace}")))
            }
            Self::Token { .. } | Self::Key(_) => Ok(()),
        }
    }

    /// Takes `messages`, at least one, from what may be published now.
    pub(super) fn take(&self, messages: usize) -> Result<(), PublishError> {
        match self {
            Self::Key(key) => key.take(messages),
            Self::Token { rates, subject, .. } => rates.take(*subject, messages).map_err(|error| match error {
                RateError::Wait(seconds) => PublishError::TooMany(seconds),
                RateError::Burst(rate) => PublishError::TooLarge(format!(
                    "{messages} messages; a token may publish {rate} at once (--publish-rate)"
                )),
            }),
        }
    }
}
