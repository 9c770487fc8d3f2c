//! The client of a request: which consumers are its own, and which topics it may read.

use std::time::SystemTime;

use axum::http::{HeaderMap, Method, Uri};
use tallycast_fanout::{Topic, Topics};

use super::{PREFIX, Unifrost, topic};
use crate::api::refusal::Refusal;
use crate::auth::Role;
use crate::sessions::{SessionGrant, SessionName, TopicText};

/// A client.
pub(super) struct Client {
    /// What precedes its ids in the names of its sessions: with tokens, each subject has ids of its own, so that no client can use
    /// those of another.
    owner: String,
    /// What its consumers may subscribe to if it makes them.
    pub(super) grant: SessionGrant,
    /// When its streams end.
    pub(super) expires_at: Option<SystemTime>,
    /// Whether its own grant decides about its requests, instead of the grant of the consumer.
    pub(super) has_rights: bool,
}

impl Unifrost {
    /// The client of a request, by its token where there are tokens and no application decides. Without a token, it may read what is public.
    pub(super) async fn client(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Client, Refusal> {
        // The application decides about all clients, if there is one.
        if self.streams.hook.is_some() {
            let (owner, grant) = (String::new(), SessionGrant::default());
            return Ok(Client { owner, grant, expires_at: None, has_rights: false });
        }
        self.client_of_token(method, uri, headers).await
    }

    /// The client of a request, by its token where there are tokens.
    pub(super) async fn client_of_token(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Client, Refusal> {
        let mut client =
            Client { owner: String::new(), grant: SessionGrant::default(), expires_at: None, has_rights: false };
        let Some(auth) = &self.auth else {
            client.grant.read = None;
            return Ok(client);
        };
        client.has_rights = true;
        client.owner = "/".to_owned();
        let mut readable = auth.public();
        if let Some(authenticated) = auth.authenticate(method, uri, headers, Role::Subscriber).await? {
            let claims = authenticated.claims;
            let own = claims.readable();
            let list = |topics: &[Topic]| topics.iter().cloned().map(TopicText).collect();
            client.grant.private = list(&own);
            client.grant.publish = list(&claims.publishable());
            readable.extend(own);
            let subject = claims
                .subject
                .filter(|subject| !subject.is_empty())
                .ok_or_else(|| Refusal::forbidden("the token has no sub, to which the ids of its consumers belong"))?;
            // Without `/`, so that an owner is the text before the first one.
            client.owner = form_urlencoded::byte_serialize(subject.as_bytes()).chain(["/"]).collect();
            client.grant.payload = claims.payload;
            client.expires_at = claims.expires_at;
        }
        client.grant.token = true;
        client.grant.read = Some(readable.into_iter().map(TopicText).collect());
        Ok(client)
    }
}

impl Client {
    /// Refuses topics that it may not read.
    pub(super) fn check(&self, topics: &Topics) -> Result<(), Refusal> {
        let refused = topics.iter().find(|topic| !self.grant.may_read(topic));
        let reason = |topic: Topic| format!("not allowed to read {}", topic::text(&topic.to_string()));
        refused.map_or(Ok(()), |topic| Err(Refusal::forbidden(reason(topic))))
    }

    /// The name of the session of an id, without the prefix.
    pub(super) fn name(&self, id: &str) -> String {
        format!("{}{id}", self.owner)
    }

    /// The id of a session.
    pub(super) fn id<'a>(&self, name: &'a SessionName) -> &'a str {
        let name = name.as_str().strip_prefix(PREFIX).unwrap_or_default();
        name.strip_prefix(&*self.owner).unwrap_or(name)
    }
}
