//! Authorization: the embedding program decides which clients may read which topics.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::{Extensions, Uri};

use tallycast_fanout::{Access, Grant, Topic, Topics};

/// Decides which clients may read which topics. Every way to a stream asks it: Server-Sent Events, WebSocket before the
/// upgrade, HTTP/2, a mounted [`StreamService`](crate::StreamService), and each change of topics over WebSocket.
///
/// ```
/// use tallycast_fanout::Topics;
/// use tallycast_server::{AccessRequest, Authorizer, Denied, Grant};
///
/// struct Token;
///
/// impl Authorizer for Token {
///     async fn authorize(&self, access: &AccessRequest<'_>, _topics: &Topics) -> Result<Grant, Denied> {
///         match access.headers().get("authorization") {
///             Some(token) if token == "Bearer secret" => Ok(Grant::default().with_subject("ann")),
///             Some(_) => Err(Denied::forbidden("unknown token")),
///             None => Err(Denied::unauthorized("expected a bearer token")),
///         }
///     }
/// }
/// ```
pub trait Authorizer: Send + Sync + 'static {
    /// Decides what the client may read of `topics`. The stream reads what they have in common with [`Grant::readable`]: a
    /// topic with wildcards becomes what the grant contains of it. With a topic outside of the grant, the request is answered
    /// with 403.
    ///
    /// Takes at most [`Config::authorize_timeout`](crate::Config::authorize_timeout); then the request is answered with 503.
    ///
    /// # Errors
    /// When the client may not read one of them.
    fn authorize(
        &self,
        access: &AccessRequest<'_>,
        topics: &Topics,
    ) -> impl Future<Output = Result<Grant, Denied>> + Send;
}

/// What a client wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Start a stream.
    Subscribe,
    /// Read other topics on an open WebSocket. The request is the one that opened it.
    ChangeTopics,
    /// Go on with a new [token](AccessRequest::token) on an open WebSocket, for the topics that it reads or for others. The request
    /// is the one that opened it. The grant replaces the current one; if it is denied, the stream goes on as before.
    Renew,
}

/// The request that an [`Authorizer`] decides about.
#[derive(Clone, Copy)]
pub struct AccessRequest<'a> {
    parts: &'a Parts,
    client: IpAddr,
    action: Action,
    token: Option<&'a str>,
}

/// Without anything that may be a secret: headers, query and token.
impl fmt::Debug for AccessRequest<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parts, client, action, .. } = self;
        let mut debug = formatter.debug_struct("AccessRequest");
        debug.field("method", &parts.method).field("path", &parts.uri.path());
        debug.field("client", client).field("action", action).finish_non_exhaustive()
    }
}

impl<'a> AccessRequest<'a> {
    /// A request of the client at `client`.
    pub fn new(parts: &'a Parts, client: IpAddr, action: Action) -> Self {
        Self { parts, client, action, token: None }
    }

    /// Sets [`token`](Self::token).
    #[must_use]
    pub fn with_token(self, token: &'a str) -> Self {
        Self { token: Some(token), ..self }
    }

    /// The token that the client sent over WebSocket after the request: with [`Action::Renew`] a new one, and with
    /// [`Action::ChangeTopics`] the last one that was accepted. It goes before the credentials of the request, which are older.
    pub fn token(&self) -> Option<&'a str> {
        self.token
    }

    /// The request headers.
    pub fn headers(&self) -> &'a HeaderMap {
        &self.parts.headers
    }

    /// The request target: path and query.
    pub fn uri(&self) -> &'a Uri {
        &self.parts.uri
    }

    /// The request's extensions, such as those of a host's middleware.
    pub fn extensions(&self) -> &'a Extensions {
        &self.parts.extensions
    }

    /// The client address, as reported by a trusted proxy if there is one. `0.0.0.0` if it is not known.
    pub fn client_ip(&self) -> IpAddr {
        self.client
    }

    /// What the client wants to do.
    pub fn action(&self) -> Action {
        self.action
    }
}

/// Why a client may not read: a status, 401, 403 or 503, and a reason in one line that the client is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denied {
    status: StatusCode,
    reason: Cow<'static, str>,
    challenge: Option<HeaderValue>,
}

impl Denied {
    /// 401: the client has not proved who it is. The response asks for a bearer token.
    pub fn unauthorized(reason: impl Into<Cow<'static, str>>) -> Self {
        let challenge = Some(HeaderValue::from_static("Bearer"));
        Self { status: StatusCode::UNAUTHORIZED, reason: one_line(reason.into()), challenge }
    }

    /// 403: the client is known, but may not read the topics.
    pub fn forbidden(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status: StatusCode::FORBIDDEN, reason: one_line(reason.into()), challenge: None }
    }

    /// 503: it cannot be decided now. The response says when to try again.
    pub fn unavailable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, reason: one_line(reason.into()), challenge: None }
    }

    /// 403: the client may read nothing of `topic`.
    pub(crate) fn not_readable(topic: &Topic) -> Self {
        Self::forbidden(format!("not allowed to read {topic}"))
    }

    /// Sets the `www-authenticate` header of the response, such as `Basic realm="events"`.
    #[must_use]
    pub fn with_challenge(mut self, challenge: HeaderValue) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// 401, 403 or 503.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The reason.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    pub(crate) fn challenge(&self) -> Option<&HeaderValue> {
        self.challenge.as_ref()
    }
}

fn one_line(reason: Cow<'static, str>) -> Cow<'static, str> {
    if reason.contains(char::is_control) { reason.replace(char::is_control, " ").into() } else { reason }
}

/// An [`Authorizer`] whose future is erased, so that the server need not be generic.
pub(crate) trait DynAuthorizer: Send + Sync {
    fn authorize_boxed<'a>(
        &'a self,
        access: &'a AccessRequest<'a>,
        topics: &'a Topics,
    ) -> Pin<Box<dyn Future<Output = Result<Grant, Denied>> + Send + 'a>>;
}

impl<A: Authorizer> DynAuthorizer for A {
    fn authorize_boxed<'a>(
        &'a self,
        access: &'a AccessRequest<'a>,
        topics: &'a Topics,
    ) -> Pin<Box<dyn Future<Output = Result<Grant, Denied>> + Send + 'a>> {
        Box::pin(self.authorize(access, topics))
    }
}

/// Why there is no grant.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorizeError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("authorization took too long; try again in a moment.")]
    TimedOut,
}

/// Asks `authorizer`. Returns its grant, and what the grant allows of `topics`.
pub(crate) async fn authorize(
    authorizer: &dyn DynAuthorizer,
    access: AccessRequest<'_>,
    topics: &Topics,
    limit: Duration,
) -> Result<(Arc<Grant>, Topics), AuthorizeError> {
    let decided = tokio::time::timeout(limit, authorizer.authorize_boxed(&access, topics)).await;
    let grant = decided.map_err(|_| AuthorizeError::TimedOut)??;
    let topics = check(&grant, topics)?;
    Ok((Arc::new(grant), topics))
}

/// What `grant` allows of `topics` now.
pub(crate) fn check(grant: &Grant, topics: &Topics) -> Result<Topics, Denied> {
    if grant.is_expired(SystemTime::now()) {
        return Err(Denied::unauthorized("the authorization has expired"));
    }
    narrow(&grant.readable, topics)
}

/// What `readable` contains of `topics`.
pub(crate) fn narrow(readable: &Access, topics: &Topics) -> Result<Topics, Denied> {
    readable.narrow(topics).map_err(|topic| Denied::not_readable(&topic))
}

#[cfg(test)]
mod tests {
    use tallycast_fanout::Access;

    use super::*;

    fn topics(text: &str) -> Topics {
        Topics::new(text.split(',').map(|topic| topic.parse().unwrap()).collect()).unwrap()
    }

    #[test]
    fn grant_narrows_topics_and_must_not_be_expired() {
        let grant = Grant::default().with_readable(Access::Topics(topics("/user/42,/news/*")));
        let allowed = |text: &str| check(&grant, &topics(text)).map(|topics| topics.to_string());
        let covered = "/news/*,/user/42/*,/user/42/inbox";
        assert_eq!(allowed(covered).unwrap(), covered);
        assert_eq!(allowed("/user/*").unwrap(), "/user/42");
        assert_eq!(allowed("/*/**").unwrap(), "/news/*,/user/42");
        assert_eq!(allowed("/**").unwrap_err().reason(), "not allowed to read /", "it has no wildcard but its end");
        let denied = allowed("/user/42,/user/4,/user/5").unwrap_err();
        assert_eq!((denied.status().as_u16(), denied.reason()), (403, "not allowed to read /user/4"));
        assert_eq!(allowed("/*/x/a,/user/*").unwrap_err().reason(), "not allowed to read /*/x/a");
        assert!(allowed("/news/a").is_err(), "it includes what is below /news/a");
        assert!(check(&Grant::default().with_readable(Access::Topics(Topics::none())), &topics("/*")).is_err());
        let expired = check(&Grant::default().with_expiry(SystemTime::now()), &topics("/a")).unwrap_err();
        assert_eq!(expired.status().as_u16(), 401);
    }

    #[test]
    fn debug_output_has_no_secrets() {
        let request = hyper::Request::get("/a?token=secret").header("authorization", "Bearer secret").body(()).unwrap();
        let (parts, ()) = request.into_parts();
        let access = AccessRequest::new(&parts, IpAddr::from([127, 0, 0, 1]), Action::Renew).with_token("secret");
        assert_eq!(access.token(), Some("secret"));
        let debug = format!("{access:?}");
        assert!(debug.contains("/a") && debug.contains("Renew") && !debug.contains("secret"), "{debug}");
    }

    #[test]
    fn reason_is_one_line() {
        assert_eq!(Denied::forbidden("a\r\nb").reason(), "a  b");
    }
}
