//! The decision about native streams: tokens and public topics -> grants of the server.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::header::{HeaderMap, HeaderValue, UPGRADE};
use axum::http::{Method, Uri};
use tallycast_fanout::{Access, MAX_TOPICS, Topic, Topics};
use tallycast_server::{AccessRequest, Action, AllowedOrigin, Authorizer, Denied, Grant};

use super::credentials::{self, Credential, ForeignOrigin, Places};
use super::tickets::TicketError;
use super::{Auth, Claims, Role, State, TokenError};

/// The pairs of topics that are compared for one stream. With more, streams share fewer feeds.
const MAX_COMPARED: usize = 64 * 1024;

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
            _ if error.is_temporary() => Self::unavailable(error.to_string()),
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
                let token = self.redeem(&ticket).await?;
                self.verified(&token, role).await.map(Some)
            }
            Some(Credential::Ticket(_)) | None => Ok(None),
        }
    }

    /// The token of a ticket, which cannot be used again. For streams of other protocols, which verify it as one that the client sent.
    ///
    /// # Errors
    /// When the ticket is not valid.
    pub async fn redeem(&self, ticket: &str) -> Result<Box<str>, AuthError> {
        self.taken(self.0.tickets.take(ticket, false).await)
    }

    /// As [`verify`](Self::verify), for a token whose place the caller knows.
    pub(crate) async fn verified(&self, token: &str, role: Role) -> Result<Authenticated, AuthError> {
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

    /// The origins whose pages may use cookies, besides those of the same host. `*` does not count.
    pub fn origins(&self) -> Vec<AllowedOrigin> {
        self.0.server.borrow().allowed_origins.clone()
    }
}

impl State {
    fn places<'a>(&'a self, origins: &'a [AllowedOrigin]) -> Places<'a> {
        Places { cookie: &self.config.cookie, in_query: self.config.in_query, origins }
    }

    /// What a client of a stream of `topics` may do, with or without a token.
    fn grant(&self, claims: Option<Claims>, topics: &Topics) -> Grant {
        let mut readable = self.config.public.clone();
        let Some(claims) = claims else {
            return Grant::default().with_readable(Access::Topics(to_set(readable))).with_publishable(none());
        };
        let own = claims.readable();
        let private = in_common(&own, topics);
        readable.extend(own);
        let mut grant = Grant::default()
            .with_readable(Access::Topics(to_set(readable)))
            .with_publishable(Access::Topics(to_set(claims.publishable())))
            .with_private(private)
            .with_relay(claims.relay);
        grant.subject = claims.subject.map(Arc::from);
        grant.expires_at = claims.expires_at;
        grant.payload = claims.payload;
        grant
    }
}

fn none() -> Access {
    Access::Topics(Topics::none())
}

/// Topics as a set. There are fewer than a set may have: those of a token and of the configuration are bounded.
pub(crate) fn to_set(topics: Vec<Topic>) -> Topics {
    Topics::new(topics).unwrap_or_else(|_| Topics::none())
}

/// What the rights `granted` mean for a stream of `topics`: less than all of them, so that streams of the same topics share a feed, whoever
/// reads them.
pub(crate) fn in_common(granted: &[Topic], topics: &Topics) -> Topics {
    let pairs = granted.len().saturating_mul(topics.len());
    if pairs > MAX_COMPARED {
        return to_set(granted.to_vec());
    }
    let mut common = Vec::new();
    for topic in topics.iter() {
        for granted in granted {
            match granted.intersection(&topic) {
                Some(both) => common.push(both),
                // What a template has in common with another topic is no topic. The engine looks at both.
                None if granted.is_template() || topic.is_template() => common.push(granted.clone()),
                None => {}
            }
        }
    }
    common.sort_unstable();
    common.dedup();
    if common.len() > MAX_TOPICS { to_set(granted.to_vec()) } else { to_set(common) }
}

impl Claims {
    /// What the token may read through the native API: its topics, and those that its claim `mercure` selects.
    pub fn readable(&self) -> Vec<Topic> {
        with_selectors(&self.read, self.mercure.as_ref().and_then(|mercure| mercure.subscribe.as_deref()))
    }

    /// What the token may publish through the native API: its topics, and those that its claim `mercure` selects.
    pub fn publishable(&self) -> Vec<Topic> {
        with_selectors(&self.publish, self.mercure.as_ref().and_then(|mercure| mercure.publish.as_deref()))
    }
}

/// Selectors that cannot be a topic select nothing.
fn with_selectors(topics: &[Topic], selectors: Option<&[String]>) -> Vec<Topic> {
    let selected = selectors.unwrap_or_default().iter().filter_map(|selector| Topic::selector(selector).ok());
    topics.iter().cloned().chain(selected).collect()
}

impl Authorizer for Auth {
    async fn authorize(&self, access: &AccessRequest<'_>, topics: &Topics) -> Result<Grant, Denied> {
        let state = self.state();
        let token = match access.token() {
            Some(token) => Some(Cow::Borrowed(token)),
            None => self.token(access, &state).await?,
        };
        let claims = match &token {
            Some(token) => Some(self.verify(token, Role::Subscriber).await.map_err(AuthError::from)?),
            None => None,
        };
        let is_anonymous = claims.is_none();
        let grant = state.grant(claims, topics);
        match grant.readable.narrow(topics) {
            Err(topic) if is_anonymous => {
                let reason = format!("a token is required to read {topic}");
                Err(Denied::unauthorized(reason).with_challenge(challenge(None)))
            }
            // The server names the topic.
            _ => Ok(grant),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(texts: &[&str]) -> Vec<Topic> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn challenge_is_a_header_whatever_the_reason() {
        assert_eq!(challenge(None), "Bearer realm=\"tallycast\"");
        let error = AuthError::from(TokenError::Expired).challenge();
        let expected =
            "Bearer realm=\"tallycast\", error=\"invalid_token\", error_description=\"the token has expired\"";
        assert_eq!(error, expected);
        let value = challenge(Some("a \"b\" \\ \r\n é"));
        assert!(value.to_str().unwrap().ends_with("error_description=\"a 'b' '  '' '\"") || value.to_str().is_ok());
    }

    #[test]
    fn private_updates_are_those_of_the_token_and_the_stream() {
        let of = |own: &[&str], stream: &[&str]| in_common(&topics(own), &to_set(topics(stream))).to_string();
        assert_eq!(of(&["/user/42"], &["/news"]), "");
        assert_eq!(of(&["/user/42"], &["/news", "/user/*/inbox"]), "/user/42/inbox");
        assert_eq!(of(&["/user/42", "/news/a"], &["/"]), "/news/a,/user/42");
        // Whoever reads it shares a feed.
        assert_eq!([1, 2].map(|user| of(&[&format!("/user/{user}/**"), "/eps"], &["/eps"])), ["/eps", "/eps"]);
        let template = Topic::template("https://a/{id}").unwrap();
        let own = [template.clone()];
        assert_eq!(in_common(&own, &to_set(topics(&["https://a/1"]))).to_string(), "https://a/1");
        assert_eq!(in_common(&own, &to_set(topics(&["/a"]))), to_set(vec![template]));
    }

    #[test]
    fn mercure_selectors_are_topics_too() {
        let mut claims = Claims { read: topics(&["/a"]), ..Claims::default() };
        claims.mercure = Some(crate::auth::MercureClaims {
            subscribe: Some(vec!["https://a/{id}".to_owned(), "/b".to_owned(), "c\n".to_owned()]),
            publish: Some(vec!["*".to_owned()]),
            ..Default::default()
        });
        let readable = to_set(claims.readable());
        assert_eq!(readable.len(), 3);
        let covers = |topic: Topic| Access::Topics(readable.clone()).covers(&to_set(vec![topic]));
        assert!(covers("https://a/1".parse().unwrap()) && covers(Topic::exact("/b".parse().unwrap())));
        assert!(!covers("/b".parse().unwrap()), "a selector is not for what is below");
        assert_eq!(to_set(claims.publishable()).to_string(), "/");
    }
}
