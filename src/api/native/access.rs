//! Who publishes, and what: a publishing key publishes everything, a token what its claims name.

use std::sync::Arc;

use axum::http::{HeaderMap, Method, Uri};
use tallycast_fanout::{Namespace, Topic};

use super::Publishing;
use super::keys::PublishKey;
use crate::api::refusal::Refusal;
use crate::auth::{AuthError, Role, SubjectRates, TokenError, credentials};

/// What one request may publish.
#[derive(Debug)]
pub(crate) enum PublishAccess {
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
    pub(crate) async fn access(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<PublishAccess, Refusal> {
        let key = {
            let keys = self.keys.borrow();
            if self.auth.is_none() && keys.is_empty() {
                return Err(Refusal::forbidden("publishing is off; --publish-key switches it on"));
            }
            credentials::bearer(headers).and_then(|candidate| keys.find(candidate))
        };
        if let Some(key) = key {
            return Ok(PublishAccess::Key(key));
        }
        let Some(auth) = &self.auth else {
            return Err(Refusal::unauthorized("a publishing key is required, as Bearer token"));
        };
        let authenticated = match auth.authenticate(method, uri, headers, Role::Publisher).await {
            Ok(authenticated) => {
                authenticated.ok_or(Refusal::unauthorized("a publishing key or a token is required"))?
            }
            // A key that is not known, where there are some.
            Err(AuthError::Token(TokenError::Malformed)) if !self.keys.borrow().is_empty() => {
                return Err(Refusal::unauthorized("a publishing key is required, as Bearer token"));
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
    pub(crate) fn check(&self, namespace: &Namespace) -> Result<(), Refusal> {
        match self {
            Self::Token { topics, .. } if !topics.iter().any(|topic| topic.contains(namespace)) => {
                Err(Refusal::forbidden(format!("not allowed to publish to {namespace}")))
            }
            Self::Token { .. } | Self::Key(_) => Ok(()),
        }
    }

    /// Takes `messages`, at least one, from what may be published now.
    pub(crate) fn take(&self, messages: usize) -> Result<(), Refusal> {
        match self {
            Self::Key(key) => key.take(messages),
            Self::Token { rates, subject, .. } => {
                rates.take(*subject, messages).map_err(|error| Refusal::of_rate(error, messages))
            }
        }
    }
}
