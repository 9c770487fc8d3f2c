//! Opening streams of sessions, whatever their contract: what the connect hook or a token says about the client, if there is one, and
//! what its messages may do.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::UNIX_EPOCH;

use axum::http::StatusCode;
use axum::http::request::Parts;
use tallycast_fanout::{Namespace, Topic, Topics};
use tokio::sync::watch;

use super::native::publication;
use super::refusal::Refusal;
use crate::connect_hook::{self, ConnectAnswer, ConnectHook, ConnectRequest, ConnectionPolicy};
use crate::decode::Routes;
use crate::publishing::{Publication, Publisher};
use crate::sessions::{
    self, Change, ConnectError, Listed, MAX_TTL, OpenSession, Opening, Policy, SessionError, SessionGrant, SessionName,
    SessionSpec, Sessions, StreamOptions, TopicText, TopicsChange,
};

/// Sessions for contracts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SessionStreams {
    /// The sessions.
    pub sessions: Sessions,
    /// The application that decides about connections, if there is one.
    pub hook: Option<ConnectHook>,
    /// What publishes what clients send.
    pub publisher: Publisher,
    /// Where it is published.
    pub routes: watch::Receiver<Routes>,
}

/// A stream that a client asks for.
#[derive(Debug, Clone)]
pub struct SessionRequest<'a> {
    /// The name of the contract, for the hook.
    pub contract: &'static str,
    /// What the names of the contract's sessions begin with: contracts share one space of names.
    pub prefix: &'static str,
    /// The name, without the prefix. Without one, the hook must name it.
    pub name: Option<Cow<'a, str>>,
    /// The session, if it does not exist yet.
    pub spec: SessionSpec,
    /// Whether it may be created.
    pub create: bool,
    /// What is published for this connection, beside the event of all sessions.
    pub arrived: Option<sessions::Publication>,
    /// What is special about the connection.
    pub options: StreamOptions,
}

/// A stream that may open.
#[derive(Debug)]
pub struct SessionStream {
    /// The name of its session, with the prefix.
    pub name: SessionName,
    /// The session.
    pub session: OpenSession,
}

/// A message of a client for other readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientPublication {
    /// Whose readers receive it.
    pub namespace: Namespace,
    /// The event name, where the route carries one.
    pub event: Option<String>,
    /// The payload.
    pub data: String,
    /// Who sent it, for those who are not to receive it.
    pub sender: Option<String>,
}

impl SessionStreams {
    /// What the application says about a client, if it is asked and answers. It may name the session of `request`. Without an answer,
    /// tokens decide, if there are any.
    ///
    /// # Errors
    /// When it refuses the client, or does not answer and has to.
    pub(crate) async fn decide(
        &self,
        parts: &Parts,
        client: IpAddr,
        request: &mut SessionRequest<'_>,
    ) -> Result<Option<ConnectAnswer>, Refusal> {
        let answer = self.ask(parts, client, request).await?;
        if let Some(name) = answer.as_ref().and_then(|answer| answer.session.clone()) {
            request.name = Some(name.into());
        }
        Ok(answer)
    }

    /// Opens a stream of a session, after [`decide`](Self::decide).
    ///
    /// # Errors
    /// When the session takes no more connections, or is unavailable.
    pub(crate) async fn open_decided(
        &self,
        answer: Option<ConnectAnswer>,
        mut request: SessionRequest<'_>,
    ) -> Result<SessionStream, Refusal> {
        let name = request.name.as_deref().ok_or_else(|| Refusal::BadRequest("expected a session".to_owned()))?;
        let name = format!("{}{name}", request.prefix).parse::<SessionName>();
        let name = name.map_err(|error| Refusal::BadRequest(error.to_string()))?;
        if let Some(answer) = answer {
            let change = apply_answer(&mut request.spec, &answer);
            request.create = true;
            // One that takes no second connection and ends with the first is another client's while it exists.
            let is_exclusive = request.spec.policy == Policy::First && request.spec.ttl.is_zero();
            if !is_exclusive {
                match self.sessions.begin(&name, &change).await {
                    // It is created below, as the application has decided.
                    Ok(_) | Err(SessionError::Unknown(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        } else if request.spec.grant.token {
            self.renew(&name, &request.spec.grant).await?;
        }
        let SessionRequest { spec, create, arrived, options, .. } = request;
        let opening = Opening { name: &name, spec: &spec, create, arrived, options };
        let session = self.sessions.connect(&opening).await?;
        Ok(SessionStream { name, session })
    }

    /// Checks the topics that a client asks for: the application has decided about those that it names, and about others by what the
    /// client may read.
    pub(crate) fn check_requested(answer: &ConnectAnswer, requested: &Topics) -> Result<(), Refusal> {
        let may_read = |topic: &Topic| answer.read.iter().flat_map(Topics::iter).any(|readable| readable.covers(topic));
        let refused = requested.iter().find(|topic| answer.topics.is_none() && !may_read(topic));
        refused.map_or(Ok(()), |topic| Err(Refusal::forbidden(format!("not allowed to read {topic}"))))
    }

    /// Gives a session with the rights of a token those of a newer one, and takes away the topics that only the older one allowed.
    ///
    /// # Errors
    /// When it is unavailable.
    async fn renew(&self, name: &SessionName, grant: &SessionGrant) -> Result<(), Refusal> {
        let Some(Listed { grant: old, topics, .. }) = self.sessions.get(name).await? else { return Ok(()) };
        if !old.token || old == *grant {
            return Ok(());
        }
        let is_lost = |topic: &Topic| old.may_read(topic) && !grant.may_read(topic);
        let remove = topics.iter().filter(is_lost).collect();
        let topics = TopicsChange::Change { add: Vec::new(), remove };
        match self.sessions.begin(name, &Change { topics, grant: Some(grant.clone()), ..Change::default() }).await {
            Ok(_) | Err(SessionError::Unknown(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What the application says about a client, if it is asked and answers.
    async fn ask(
        &self,
        parts: &Parts,
        client: IpAddr,
        request: &SessionRequest<'_>,
    ) -> Result<Option<ConnectAnswer>, Refusal> {
        let Some(hook) = &self.hook else { return Ok(None) };
        let SessionRequest { contract, name, spec, .. } = request;
        let question = ConnectRequest { contract, session: name.as_deref(), topics: &spec.topics, parts, client };
        match hook.ask(&question).await {
            Ok(answer) => Ok(Some(answer).filter(|answer| !answer.is_fallback)),
            Err(connect_hook::ConnectError::Refused { status, reason }) => Err(match status {
                StatusCode::UNAUTHORIZED => Refusal::unauthorized(reason),
                _ => Refusal::forbidden(reason),
            }),
            Err(error @ connect_hook::ConnectError::Unavailable) => Err(Refusal::Unavailable(error.to_string())),
        }
    }

    /// Publishes a message of a client of a session, as far as its grant allows. The error is a reason for the client.
    ///
    /// # Errors
    /// When it may not publish there, no route leads there, or the broker does not take it.
    pub async fn publish_as(&self, name: &SessionName, publication: ClientPublication) -> Result<(), String> {
        let grant = self.grant_of(name).await?;
        if !grant.may_publish(&publication.namespace) {
            return Err(format!("not allowed to publish to {}", publication.namespace));
        }
        self.publish(publication).await
    }

    /// The grant of a session, as it is now.
    ///
    /// # Errors
    /// When the session has ended, or is unavailable.
    pub async fn grant_of(&self, name: &SessionName) -> Result<SessionGrant, String> {
        let session = self.sessions.get(name).await.map_err(|error| error.to_string())?;
        let grant = session.ok_or_else(|| "the session has ended".to_owned())?.grant;
        if grant.is_expired() { Err("the grant of the session has expired".to_owned()) } else { Ok(grant) }
    }

    /// Publishes a message of a client that may publish there. The error is a reason for the client.
    ///
    /// # Errors
    /// When no route leads there, or the broker does not take it.
    pub async fn publish(&self, message: ClientPublication) -> Result<(), String> {
        let ClientPublication { namespace, event, data, sender } = message;
        let message = publication(&self.routes.borrow(), &namespace, event, data, None);
        let message = Publication { sender, ..message.map_err(|refusal| refusal.to_string())? };
        let published = self.publisher.publish(std::slice::from_ref(&message)).await;
        // The reason is in the log; its text is about HTTP.
        published.map(drop).map_err(|_| "the broker did not take it; try again".to_owned())
    }
}

/// Puts an answer into the session that is created; what it leaves out stays. Returns the change for one that exists.
fn apply_answer(spec: &mut SessionSpec, answer: &ConnectAnswer) -> Change {
    let list = |topics: &Topics| topics.iter().map(TopicText).collect::<Vec<_>>();
    let grant = &mut spec.grant;
    if let Some(read) = &answer.read {
        grant.read = Some(list(read));
        // Those of the contract stay: its sessions could not read their topics without them.
        grant.private.extend(list(read));
    }
    if let Some(publish) = &answer.publish {
        grant.publish = list(publish);
    }
    if let Some(expires) = answer.expires_at {
        grant.expires = Some(expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    }
    if let Some(payload) = &answer.payload {
        grant.payload = Some(payload.clone());
    }
    let (policy, ttl) = (answer.policy.map(policy), answer.ttl.map(|ttl| ttl.min(MAX_TTL)));
    spec.policy = policy.unwrap_or(spec.policy);
    spec.ttl = ttl.unwrap_or(spec.ttl);
    let mut topics = TopicsChange::Keep;
    if let Some(decided) = &answer.topics {
        spec.topics = decided.clone();
        topics = TopicsChange::Set(decided.iter().collect());
    }
    Change { create: false, topics, grant: Some(spec.grant.clone()), policy, ttl }
}

fn policy(policy: ConnectionPolicy) -> Policy {
    match policy {
        ConnectionPolicy::Many => Policy::Many,
        ConnectionPolicy::Newest => Policy::Newest,
        ConnectionPolicy::First => Policy::First,
    }
}

impl From<ConnectError> for Refusal {
    fn from(error: ConnectError) -> Self {
        let reason = error.to_string();
        match error {
            ConnectError::Unknown(_) => Self::NotFound(reason),
            ConnectError::Taken(_) => Self::Conflict(reason),
            ConnectError::Group(_) => Self::Group(reason),
            ConnectError::Connections(_) | ConnectError::Sessions(_) => Self::Full(reason),
            ConnectError::Expired(_) => Self::unauthorized(reason),
            ConnectError::NoLease | ConnectError::Unavailable(_) => Self::Unavailable(reason),
        }
    }
}

impl From<SessionError> for Refusal {
    fn from(error: SessionError) -> Self {
        let reason = error.to_string();
        match error {
            SessionError::Unknown(_) => Self::NotFound(reason),
            SessionError::Topics { .. } => Self::BadRequest(reason),
            SessionError::Sessions(_) => Self::Full(reason),
            SessionError::Busy(_) | SessionError::Unavailable(_) => Self::Unavailable(reason),
        }
    }
}
