//! The policy for what a client may change on an open WebSocket: its topics, and its token.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::http::request::Parts;
use tallycast_fanout::{Access, Decision, Grant, Handle, Resume, Start, Subscription, Topics};

use super::kept_request::KeptRequest;
use crate::access::StreamAccess;
use crate::authorizer::{AccessRequest, Action, AuthorizeError, DynAuthorizer, authorize, narrow};
use crate::limits::SubscriptionPermits;
use crate::streams::Streams;

/// The answer to a token where nothing asks for one.
const NO_TOKENS: &str = "this server has no tokens";

/// What a client asks for.
#[derive(Debug)]
pub(crate) struct Change {
    /// All topics that it wants to read.
    pub(crate) topics: Topics,
    /// A token in the place of the current one.
    pub(crate) token: Option<Token>,
    /// Where the topics start that it does not read yet; `None` for now.
    pub(crate) start: Option<ChangeStart>,
}

/// A client's token. Never written anywhere.
#[derive(Clone)]
pub(crate) struct Token(Arc<str>);

impl From<Box<str>> for Token {
    fn from(token: Box<str>) -> Self {
        Self(token.into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(..)")
    }
}

/// The engine, as far as positions in its history are looked up, and the time limit for that.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) handle: Handle,
    pub(crate) limit: Duration,
}

/// The place in the history where topics start that a client does not read yet.
#[derive(Debug)]
pub(crate) struct ChangeStart {
    /// Last values are left out if no topic has any.
    pub(crate) start: Start,
    /// The topics that the client reads.
    pub(crate) known: Topics,
    pub(crate) history: History,
}

impl ChangeStart {
    async fn find(self, topics: &Topics, grant: Option<&Grant>) -> Result<Option<Resume>, String> {
        let Self { start, known, history } = self;
        if matches!(start, Start::LastValues) && !history.handle.has_last_values(topics) {
            return Ok(None);
        }
        let resume = history.handle.resume(topics, Some(&known), grant, &start, history.limit).await;
        resume.map_err(|error| error.to_string())
    }
}

/// The outcome of a change.
pub(crate) enum TopicChange {
    /// The client may read these topics.
    Allowed(Topics),
    Refused(Refused),
    /// To be decided.
    Pending(Decision),
}

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The client may not do that.
    Denied(String),
    /// The topics have too many streams now.
    Full(String),
}

/// Decides about changes on one stream.
pub(crate) trait TopicPolicy: Send + fmt::Debug {
    fn change(&mut self, change: Change) -> TopicChange;

    /// The last [`TopicChange::Pending`] has taken effect, if there was one. Returns the client's grant.
    fn applied(&mut self) -> Option<Arc<Grant>> {
        None
    }

    /// Whether the last [`TopicChange::Pending`] was refused because the topics had too many streams.
    fn was_full(&self) -> bool {
        false
    }
}

/// Every change of topics is allowed.
#[derive(Debug)]
pub(crate) struct AllowAll;

impl TopicPolicy for AllowAll {
    fn change(&mut self, Change { topics, token, .. }: Change) -> TopicChange {
        match token {
            Some(_) => TopicChange::Refused(Refused::Denied(NO_TOKENS.to_owned())),
            None => TopicChange::Allowed(topics),
        }
    }
}

/// What decisions about one stream change.
#[derive(Debug)]
struct Decided {
    permits: SubscriptionPermits,
    was_full: bool,
    /// Of the newest decision, until it takes effect.
    accepted: Option<Box<Accepted>>,
}

/// What the client has once a change takes effect.
#[derive(Debug)]
struct Accepted {
    grant: Arc<Grant>,
    token: Option<Token>,
}

impl Decided {
    /// Acquires the permits of `topics` with `grant`.
    fn acquire(&mut self, topics: &Topics, grant: Option<&Grant>) -> Result<(), String> {
        let acquired = self.permits.acquire(topics, grant).map_err(|error| error.to_string());
        self.was_full = acquired.is_err();
        acquired
    }
}

fn lock(decided: &Mutex<Decided>) -> MutexGuard<'_, Decided> {
    decided.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changes within the topics that the stream may read, as far as namespaces have room.
#[derive(Debug)]
struct Within {
    readable: Access,
    grant: Option<Arc<Grant>>,
    decided: Arc<Mutex<Decided>>,
}

impl TopicPolicy for Within {
    fn change(&mut self, Change { topics, token, start }: Change) -> TopicChange {
        if token.is_some() {
            return TopicChange::Refused(Refused::Denied(NO_TOKENS.to_owned()));
        }
        let topics = match narrow(&self.readable, &topics) {
            Ok(topics) => topics,
            Err(denied) => return TopicChange::Refused(Refused::Denied(denied.to_string())),
        };
        let Some(start) = start else {
            return match lock(&self.decided).acquire(&topics, self.grant.as_deref()) {
                Ok(()) => TopicChange::Allowed(topics),
                Err(error) => TopicChange::Refused(Refused::Full(error)),
            };
        };
        let (decided, grant) = (Arc::clone(&self.decided), self.grant.clone());
        TopicChange::Pending(Box::pin(async move {
            let resume = start.find(&topics, grant.as_deref()).await?;
            lock(&decided).acquire(&topics, grant.as_deref())?;
            Ok(Subscription { topics, grant: None, resume })
        }))
    }

    fn applied(&mut self) -> Option<Arc<Grant>> {
        self.grant.clone()
    }

    fn was_full(&self) -> bool {
        lock(&self.decided).was_full
    }
}

/// Changes that the authorizer decides about, then as far as namespaces have room.
struct Authorized {
    authorizer: Arc<dyn DynAuthorizer>,
    /// The request that opened the stream.
    request: Arc<KeptRequest>,
    client: IpAddr,
    streams: Arc<Streams>,
    grant: Option<Arc<Grant>>,
    /// The last one that was accepted after the request.
    token: Option<Token>,
    decided: Arc<Mutex<Decided>>,
}

impl TopicPolicy for Authorized {
    fn change(&mut self, Change { topics, token, start }: Change) -> TopicChange {
        let action = if token.is_some() { Action::Renew } else { Action::ChangeTopics };
        let token = token.or_else(|| self.token.clone());
        let (authorizer, request, client, streams) =
            (Arc::clone(&self.authorizer), Arc::clone(&self.request), self.client, Arc::clone(&self.streams));
        let decided = Arc::clone(&self.decided);
        {
            let mut decided = lock(&decided);
            // Of a decision that was refused after all.
            (decided.was_full, decided.accepted) = (false, None);
        }
        TopicChange::Pending(Box::pin(async move {
            let request = request.parts();
            let mut access = AccessRequest::new(&request, client, action);
            if let Some(Token(token)) = &token {
                access = access.with_token(token);
            }
            let limit = streams.config.borrow().authorize_timeout;
            let authorized = authorize(&*authorizer, access, &topics, limit).await;
            let (grant, topics) = authorized.map_err(|error| {
                streams.stats.denied.add(u64::from(matches!(error, AuthorizeError::Denied(_))));
                error.to_string()
            })?;
            let resume = match start {
                Some(start) => start.find(&topics, Some(&grant)).await?,
                None => None,
            };
            let mut decided = lock(&decided);
            decided.acquire(&topics, Some(&grant))?;
            decided.accepted = Some(Box::new(Accepted { grant: Arc::clone(&grant), token }));
            Ok(Subscription { topics, grant: Some(grant), resume })
        }))
    }

    fn applied(&mut self) -> Option<Arc<Grant>> {
        if let Some(accepted) = lock(&self.decided).accepted.take() {
            (self.grant, self.token) = (Some(accepted.grant), accepted.token);
        }
        self.grant.clone()
    }

    fn was_full(&self) -> bool {
        lock(&self.decided).was_full
    }
}

impl fmt::Debug for Authorized {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        let Self { grant, readable, .. } = self;
        let decided = Arc::new(Mutex::new(Decided { permits, was_full: false, accepted: None }));
        let Some(authorizer) = &streams.authorizer else {
            return Box::new(Within { readable, grant, decided });
        };
        Box::new(Authorized {
            authorizer: Arc::clone(authorizer),
            request: Arc::new(KeptRequest::new(request)),
            client,
            streams: Arc::clone(streams),
            grant,
            token: None,
            decided,
        })
    }
}
