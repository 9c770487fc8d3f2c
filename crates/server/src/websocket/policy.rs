//! The policy for changes of topics on an open WebSocket.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use tallycast_fanout::{Access, Decision, Grant, Subscription, Topics};

use crate::access::StreamAccess;
use crate::authorizer::{AccessRequest, Action, AuthorizeError, Denied, DynAuthorizer, authorize};
use crate::limits::SubscriptionPermits;
use crate::streams::Streams;

/// The outcome of a change of topics.
pub(crate) enum TopicChange {
    Allowed,
    Refused(Refused),
    /// To be decided.
    Pending(Decision),
}

/// Why a change of topics is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The client may not read them.
    Denied(String),
    /// They have too many streams now.
    Full(String),
}

/// Decides about changes of topics on one stream.
pub(crate) trait TopicPolicy: Send + std::fmt::Debug {
    fn change(&mut self, topics: &Topics) -> TopicChange;

    /// The client's grant now.
    fn grant(&self) -> Option<Arc<Grant>> {
        None
    }

    /// Whether the last [`TopicChange::Pending`] was refused because the topics had too many streams.
    fn was_full(&self) -> bool {
        false
    }
}

/// Every change is allowed.
#[derive(Debug)]
pub(crate) struct AllowAll;

impl TopicPolicy for AllowAll {
    fn change(&mut self, _topics: &Topics) -> TopicChange {
        TopicChange::Allowed
    }
}

/// Changes within the topics that the stream may read, as far as namespaces have room.
#[derive(Debug)]
struct Within {
    readable: Access,
    permits: SubscriptionPermits,
}

impl TopicPolicy for Within {
    fn change(&mut self, topics: &Topics) -> TopicChange {
        if !self.readable.covers(topics) {
            return TopicChange::Refused(Refused::Denied(Denied::not_readable(topics).to_string()));
        }
        match self.permits.acquire(topics) {
            Ok(()) => TopicChange::Allowed,
            Err(error) => TopicChange::Refused(Refused::Full(error.to_string())),
        }
    }
}

/// Changes that the authorizer decides about, then as far as namespaces have room.
struct Authorized {
    authorizer: Arc<dyn DynAuthorizer>,
    /// The request that opened the stream.
    request: Arc<Parts>,
    client: IpAddr,
    streams: Arc<Streams>,
    permits: Arc<Mutex<DecidedPermits>>,
}

/// What a decision changes.
#[derive(Debug)]
struct DecidedPermits {
    permits: SubscriptionPermits,
    was_full: bool,
}

impl TopicPolicy for Authorized {
    fn change(&mut self, topics: &Topics) -> TopicChange {
        let (authorizer, request, streams) =
            (Arc::clone(&self.authorizer), Arc::clone(&self.request), Arc::clone(&self.streams));
        let (permits, client, topics) = (Arc::clone(&self.permits), self.client, topics.clone());
        TopicChange::Pending(Box::pin(async move {
            let access = AccessRequest::new(&request, client, Action::ChangeTopics);
            let limit = streams.config.borrow().authorize_timeout;
            let grant = authorize(&*authorizer, access, &topics, limit).await.map_err(|error| {
                streams.stats.denied.add(u64::from(matches!(error, AuthorizeError::Denied(_))));
                error.to_string()
            })?;
            let mut decided = permits.lock().unwrap_or_else(PoisonError::into_inner);
            let acquired = decided.permits.acquire(&topics).map_err(|error| error.to_string());
            decided.was_full = acquired.is_err();
            acquired?;
            Ok(Subscription { topics, grant: Some(grant), resume: None })
        }))
    }

    fn was_full(&self) -> bool {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner).was_full
    }
}

impl std::fmt::Debug for Authorized {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authorized").field("client", &self.client).finish_non_exhaustive()
    }
}

impl StreamAccess {
    /// What decides about later changes on the stream.
    pub(crate) fn into_policy(
        self,
        request: &Parts,
        client: IpAddr,
        permits: SubscriptionPermits,
        streams: &Arc<Streams>,
    ) -> Box<dyn TopicPolicy> {
        let Some(authorizer) = &streams.authorizer else {
            return Box::new(Within { readable: self.readable, permits });
        };
        let mut request = request.clone();
        // It belongs to the connection.
        request.extensions.remove::<OnUpgrade>();
        Box::new(Authorized {
            authorizer: Arc::clone(authorizer),
            request: Arc::new(request),
            client,
            streams: Arc::clone(streams),
            permits: Arc::new(Mutex::new(DecidedPermits { permits, was_full: false })),
        })
    }
}
