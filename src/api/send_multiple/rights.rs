//! What a client may read: everything of the contract without rights of its own, or what its token says.

use axum::http::HeaderMap;
use tallycast_fanout::{Grant, Topic, Topics};

use super::channels::Channel;
use super::error::Refusal;
use super::{SendMultiple, credentials};
use crate::auth::{Authenticated, Claims, Role, in_common};

/// What a client may read.
pub(super) struct Rights {
    /// Topics of its token, and those that are public; without a value, everything.
    readable: Option<Vec<Topic>>,
    /// Whether it may read all channels that no more specific route has.
    has_own: bool,
    claims: Option<Claims>,
}

impl SendMultiple {
    /// Verifies the token of a request, where one is needed.
    pub(super) async fn rights(&self, headers: &HeaderMap, query: &str) -> Result<Rights, Refusal> {
        let Some(auth) = &self.auth else { return Ok(Rights { readable: None, has_own: true, claims: None }) };
        let mut readable = auth.public();
        if !self.config.check_jwt {
            return Ok(Rights { readable: Some(readable), has_own: true, claims: None });
        }
        let token = credentials::find(headers, query).ok_or(Refusal::NoToken)?;
        let Authenticated { claims, .. } = auth.verified(&token, Role::Subscriber).await?;
        readable.extend(claims.readable());
        let has_own = claims.read.is_empty() && claims.publish.is_empty() && claims.mercure.is_none();
        Ok(Rights { readable: Some(readable), has_own, claims: Some(claims) })
    }
}

impl Rights {
    /// Checks that a client may read all of `channels`.
    pub(super) fn check(&self, channels: &[Channel]) -> Result<(), Refusal> {
        let Some(readable) = &self.readable else { return Ok(()) };
        let may_read = |channel: &&Channel| {
            (channel.is_own && self.has_own) || readable.iter().any(|topic| topic.contains(&channel.namespace))
        };
        match channels.iter().find(|channel| !may_read(channel)) {
            Some(channel) => Err(Refusal::Forbidden(channel.namespace.to_string())),
            None => Ok(()),
        }
    }

    /// The grant of a stream of `topics`, which ends with the token.
    pub(super) fn into_grant(self, topics: &Topics) -> Option<Grant> {
        let claims = self.claims?;
        // What is public is no right to private messages.
        let mut grant = Grant::default().with_private(in_common(&claims.readable(), topics));
        (grant.subject, grant.payload, grant.expires_at) =
            (claims.subject.map(Into::into), claims.payload, claims.expires_at);
        Some(grant)
    }
}
