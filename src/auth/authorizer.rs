//! The decision about native streams: tokens and public topics -> grants of the server.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::header::{HeaderMap, HeaderValue, UPGRADE};
use axum::http::{Method, Uri};
use serde_json::Value;
use tallycast_fanout::{Access, Topic, Topics};
use tallycast_server::{AccessRequest, Action, AllowedOrigin, Authorizer, Denied, Grant};

use super::credentials::{self, Credential, ForeignOrigin, Places};
use super::tickets::TicketError;
use super::{Auth, Claims, Role, State, TokenError};

/// Why a request is not authenticated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Its token is not valid.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Its ticket is not valid.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// Its cookie must not count.
    #[error(transparent)]
    Origin(#[from] ForeignOrigin),
}

impl AuthError {
    /// Whether the client may try again with the same credentials.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Token(TokenError::Unavailable) | Self::Ticket(TicketError::Unavailable))
    }

    /// The value of `www-authenticate` (RFC 6750, §3).
    pub fn challenge(&self) -> HeaderValue {
        challenge(Some(&self.to_string()))
    }
}

/// The value of `www-authenticate` where a token is missing, or is not valid for a reason.
pub fn challenge(reason: Option<&str>) -> HeaderValue {
    let Some(reason) = reason else { return HeaderValue::from_static("Bearer realm=\"tallycast\"") };
    // The characters that RFC 6750 allows there.
    let is_allowed = |character: &char| matches!(character, ' ' | '!' | '#'..='[' | ']'..='~');
    let reason: String =
        reason.chars().map(|character| if is_allowed(&character) { character } else { '\'' }).collect();
    let value = format!("Bearer realm=\"tallycast\", error=\"invalid_token\", error_description=\"{reason}\"");
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static("Bearer error=\"invalid_token\""))
}

impl From<AuthError> for Denied {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Origin(_) => Self::forbidden(error.to_string()),
            _ => Self::unauthorized(error.to_string()).with_challenge(error.challenge()),
        }
    }
}

/// A verified token.
#[derive(Clone)]
pub struct Authenticated {
    /// What it says.
    pub claims: Claims,
    /// The token itself, for a ticket.
    pub(super) token: Box<str>,
}

impl Authenticated {
    /// By what rates of this client are counted: issuer and subject, or the token where it has no subject.
    pub fn rate_key(&self) -> impl std::hash::Hash + '_ {
        let Claims { issuer, subject, .. } = &self.claims;
        (issuer.as_deref(), subject.as_deref(), subject.is_none().then_some(&*self.token))
    }
}

/// `Debug` leaves the token out.
impl std::fmt::Debug for Authenticated {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authenticated").field("claims", &self.claims).finish_non_exhaustive()
    }
}

impl Auth {
    /// Finds and verifies the token of a request that is not for a native stream. A ticket counts for reading only.
    ///
    /// # Errors
    /// When there is a credential that is not valid.
    pub async fn authenticate(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        role: Role,
    ) -> Result<Option<Authenticated>, AuthError> {
        let state = self.state();
        let origins = self.origins();
        match credentials::find(method, uri, headers, state.places(&origins))? {
            Some(Credential::Token(token)) => self.verified(&token, role).await.map(Some),
            Some(Credential::Ticket(ticket)) if role == Role::Subscriber && method.is_safe() => {
                let token = self.taken(self.0.tickets.take(&ticket, false).await)?;
                self.verified(&token, role).await.map(Some)
            }
            Some(Credential::Ticket(_)) | None => Ok(None),
        }
    }

    async fn verified(&self, token: &str, role: Role) -> Result<Authenticated, AuthError> {
        let claims = self.verify(token, role).await?;
        Ok(Authenticated { claims, token: token.into() })
    }

    fn taken(&self, taken: Result<Box<str>, TicketError>) -> Result<Box<str>, AuthError> {
        self.0.stats.refused_tickets.add(u64::from(taken == Err(TicketError::Unknown)));
        Ok(taken?)
    }

    /// The token by which an access to a native stream is judged, if there is one.
    async fn token<'a>(&self, access: &AccessRequest<'a>, state: &State) -> Result<Option<Cow<'a, str>>, AuthError> {
        let origins = self.origins();
        Ok(match credentials::find(&Method::GET, access.uri(), access.headers(), state.places(&origins))? {
            Some(Credential::Token(token)) => Some(token),
            Some(Credential::Ticket(ticket)) => {
                let is_upgrade = access.headers().contains_key(UPGRADE);
                let taken = match access.action() {
                    Action::Subscribe => self.0.tickets.take(&ticket, is_upgrade).await,
                    _ => self.0.tickets.recall(&ticket),
                };
                Some(Cow::Owned(self.taken(taken)?.into()))
            }
            None => None,
        })
    }

    fn origins(&self) -> Vec<AllowedOrigin> {
        self.0.server.borrow().allowed_origins.clone()
    }
}

impl State {
    fn places<'a>(&'a self, origins: &'a [AllowedOrigin]) -> Places<'a> {
        Places { cookie: &self.config.cookie, in_query: self.config.in_query, origins }
    }

    /// What a client may do with or without a token, beyond what is public.
    fn grant(&self, claims: Option<Claims>) -> Grant {
        let mut readable = self.config.public.clone();
        let Some(claims) = claims else {
            return Grant::default().with_readable(set(readable)).with_publishable(none());
        };
        readable.extend(claims.readable());
        let mut grant = Grant::default().with_readable(set(readable)).with_publishable(set(claims.publishable()));
        grant.subject = claims.subject.map(Arc::from);
        grant.expires_at = claims.expires_at;
        grant.payload = claims.payload;
        grant
    }
}

fn none() -> Access {
    Access::Topics(Topics::none())
}

/// Topics as a set. There are fewer than a set may have: see [`MAX_TOKEN_TOPICS`](super::MAX_TOKEN_TOPICS).
fn set(topics: Vec<Topic>) -> Access {
    Access::Topics(Topics::new(topics).unwrap_or_else(|_| Topics::none()))
}

impl Claims {
    /// What the token may read through the native API.
    pub fn readable(&self) -> Vec<Topic> {
        self.read.clone()
    }

    /// What the token may publish through the native API.
    pub fn publishable(&self) -> Vec<Topic> {
        self.publish.clone()
    }

    /// The payload, for who is shown beside the subject.
    pub fn payload(&self) -> Option<&Value> {
        self.payload.as_ref()
    }
}

impl Authorizer for Auth {
    async fn authorize(&self, access: &AccessRequest<'_>, topics: &Topics) -> Result<Grant, Denied> {
        let state = self.state();
        let token = self.token(access, &state).await?;
        let claims = match &token {
            Some(token) => Some(self.verify(token, Role::Subscriber).await.map_err(AuthError::from)?),
            None => None,
        };
        let is_anonymous = claims.is_none();
        let grant = state.grant(claims);
        if is_anonymous && let Some(topic) = topics.iter().find(|topic| !is_readable(&grant.readable, topic)) {
            let reason = format!("a token is required to read {topic}");
            return Err(Denied::unauthorized(reason).with_challenge(challenge(None)));
        }
        Ok(grant)
    }
}

fn is_readable(readable: &Access, topic: &Topic) -> bool {
    Topics::new(vec![topic.clone()]).is_ok_and(|topic| readable.covers(&topic))
}
