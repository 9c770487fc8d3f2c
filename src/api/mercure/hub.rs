//! What clients may do: their tokens, as the protocol reads them, and the topics that follow from these.

use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri};
use tallycast_fanout::{Access, Grant, Handle, Namespace, Topic, Topics};
use tokio::sync::watch;

use super::credentials::find;
use super::{Config, PATH};
use crate::api::refusal::Refusal;
use crate::auth::credentials::{TICKET, query_value};
use crate::auth::{Auth, Authenticated, Role, in_common, to_set};
use crate::decode::Routes;
use crate::presence::Presence;
use crate::publishing::{PublishStats, Publisher};

/// The hub of the protocol.
#[derive(Debug)]
pub struct Hub {
    /// What it allows.
    pub config: Config,
    /// What verifies tokens.
    pub auth: Auth,
    /// What publishes.
    pub publisher: Publisher,
    /// The routes, which say where updates are published, and which topics belong to others.
    pub routes: watch::Receiver<Routes>,
    /// The engine, which knows the newest update.
    pub engine: Handle,
    /// Who is subscribed, if that is served.
    pub presence: Option<Presence>,
    /// The counters.
    pub stats: Arc<PublishStats>,
}

/// A client that may publish.
pub(super) struct UpdatePublisher {
    authenticated: Authenticated,
    selectors: Vec<Topic>,
}

impl UpdatePublisher {
    pub(super) fn may_publish(&self, topic: &Namespace) -> bool {
        self.selectors.iter().any(|selector| selector.contains(topic))
    }
}

impl Hub {
    /// The grant of a client that subscribes to `topics`. Public updates are for everyone who selects them; messages of the
    /// namespaces of other routes need the same rights as for native streams.
    pub(super) async fn subscriber(&self, request: &Parts, topics: &Topics) -> Result<Grant, Refusal> {
        let token = match find(&request.method, &request.uri, &request.headers, &self.auth.origins())? {
            Some(token) => Some(token),
            None => self.token_of_ticket(request).await?,
        };
        let public = self.auth.public();
        let Some(token) = token else {
            if !self.config.anonymous {
                return Err(Refusal::unauthorized("a token is required"));
            }
            self.check(topics, &public)
                .map_err(|namespace| Refusal::unauthorized(format!("a token is required to read {namespace}")))?;
            return Ok(Grant::default().with_plain(plain(&public, topics)));
        };
        let Authenticated { claims, .. } = self.auth.verified(&token, Role::Subscriber).await?;
        let own = claims.readable();
        let readable: Vec<Topic> = public.into_iter().chain(own.iter().cloned()).collect();
        let refused = |namespace| Refusal::forbidden(format!("not allowed to read {namespace}"));
        self.check(topics, &readable).map_err(refused)?;
        // Those that are not in `topics` too: an update is private to the readers of any of its topics, alternates included.
        let mut grant = Grant::default().with_plain(plain(&readable, topics)).with_private(to_set(own));
        (grant.subject, grant.payload, grant.expires_at) =
            (claims.subject.map(Into::into), claims.payload, claims.expires_at);
        Ok(grant)
    }

    /// The token for which a ticket in the query stands, which is used up.
    async fn token_of_ticket(&self, request: &Parts) -> Result<Option<String>, Refusal> {
        let ticket = query_value(request.uri.query().unwrap_or_default(), TICKET);
        match ticket.filter(|_| request.method == Method::GET) {
            Some(ticket) => Ok(Some(self.auth.redeem(&ticket).await?.into())),
            None => Ok(None),
        }
    }

    /// Checks that a client may read the private updates of `topic`.
    pub(super) async fn check_reader(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        topic: &Namespace,
    ) -> Result<(), Refusal> {
        let token = find(method, uri, headers, &self.auth.origins())?;
        let token = token.ok_or_else(|| Refusal::unauthorized("a token is required"))?;
        let Authenticated { claims, .. } = self.auth.verified(&token, Role::Subscriber).await?;
        if claims.readable().iter().any(|selector| selector.contains(topic)) {
            return Ok(());
        }
        Err(Refusal::unauthorized(format!("the token does not allow reading {topic}")))
    }

    /// Checks that each single namespace of another route among `topics` is readable. Of wildcards and templates, the engine sends
    /// what is.
    fn check(&self, topics: &Topics, readable: &[Topic]) -> Result<(), Namespace> {
        let routes = self.routes.borrow();
        let is_refused = |namespace: &Namespace| {
            !namespace.is_root()
                && routes.owner(namespace).is_some()
                && !readable.iter().any(|topic| topic.contains(namespace))
        };
        let mut namespaces = topics.iter().filter_map(|topic| topic.as_namespace().cloned());
        namespaces.find(is_refused).map_or(Ok(()), Err)
    }

    /// The client of a request to publish.
    pub(super) async fn update_publisher(&self, uri: &Uri, headers: &HeaderMap) -> Result<UpdatePublisher, Refusal> {
        let token = find(&Method::POST, uri, headers, &self.auth.origins())?;
        let token = token.ok_or_else(|| Refusal::unauthorized("a token is required"))?;
        let authenticated = self.auth.verified(&token, Role::Publisher).await?;
        let selectors = authenticated.claims.publishable();
        Ok(UpdatePublisher { selectors, authenticated })
    }

    /// Takes an update from what a client may publish now.
    pub(super) fn take(&self, publisher: &UpdatePublisher) -> Result<(), Refusal> {
        let rates = self.auth.publish_rates();
        rates.take(rates.key(publisher.authenticated.rate_key()), 1).map_err(|error| Refusal::of_rate(error, 1))
    }
}

/// Whether a topic is one that the hub itself publishes.
pub(super) fn is_of_the_hub(topic: &Namespace) -> bool {
    topic.as_str().contains(PATH)
}

/// Of which topics a stream of `topics` receives messages that are no updates, for a client that may read `readable`.
fn plain(readable: &[Topic], topics: &Topics) -> Access {
    let is_readable = |topic: Topic| readable.iter().any(|readable| readable.covers(&topic));
    if topics.iter().all(is_readable) { Access::All } else { Access::Topics(in_common(readable, topics)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_to_other_topics_do_not_matter() {
        let parsed =
            |texts: &[&str]| -> Vec<Topic> { texts.iter().map(|text| Topic::selector(text).unwrap()).collect() };
        let plain =
            |readable: &[&str], topics: &[&str]| plain(&parsed(readable), &Topics::new(parsed(topics)).unwrap());
        assert_eq!(plain(&["/user/1", "/raw"], &["/raw"]), Access::All);
        assert_eq!(plain(&["/user/1", "*"], &["/raw", "https://a/1"]), Access::All);
        assert_eq!(plain(&["/user/1"], &["https://a/1"]), Access::Topics(Topics::none()));
        let Access::Topics(some) = plain(&["/user/1", "/raw"], &["https://a/1", "/raw"]) else {
            panic!("not all are readable")
        };
        assert_eq!(some.to_string(), "/raw");
    }
}
