//! `GET /subscriptions`: who reads a topic, and which topics have readers, on all nodes.

use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tallycast_fanout::{Namespace, NamespaceError, Topic};
use tokio::sync::watch;

use crate::admin::{self, Token};
use crate::api::refusal::Refusal;
use crate::auth::{Auth, Role, token_required};
use crate::presence::{Cursor, InvalidCursor, Presence, SubscriptionJson, TopicPage, Unavailable};
use crate::responses::{json, line, method_not_allowed};

/// The documented path.
pub(crate) const PATH: &str = "/subscriptions";

/// Entries of a page, and of a page for which no number is given.
const MAX_PAGE: usize = 1000;
const DEFAULT_PAGE: usize = 100;

/// The query of a request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    topic: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

/// Why there is no answer. Each is one line for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum QueryError {
    #[error("bad query: limit={0}; expected 1 to {MAX_PAGE}")]
    Limit(String),
    #[error("bad query: after: {0}")]
    After(#[from] InvalidCursor),
    #[error("bad query: after: the cursor is of another topic")]
    OtherTopic,
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl IntoResponse for QueryError {
    fn into_response(self) -> Response {
        match self {
            Self::Unavailable(error) => Refusal::from(error),
            error => Refusal::BadRequest(error.to_string()),
        }
        .into_response()
    }
}

/// The answer about a topic.
#[derive(Serialize)]
struct TopicAnswer<'a> {
    topic: &'a str,
    count: u64,
    /// Whether some subscriptions are counted, but not listed.
    truncated: bool,
    subscriptions: Vec<SubscriptionJson<'a>>,
    next: Option<String>,
}

/// The answer about all topics.
#[derive(Serialize)]
struct TopicsAnswer {
    topics: Vec<TopicEntry>,
    next: Option<String>,
}

#[derive(Serialize)]
struct TopicEntry {
    topic: String,
    count: u64,
}

/// Who may ask for subscriptions.
#[derive(Debug, Clone)]
pub struct SubscriptionsGuard {
    /// The admin token.
    pub token: watch::Receiver<Option<Token>>,
    /// What verifies tokens, if there are keys.
    pub auth: Option<Auth>,
}

/// The namespace of the private messages about the subscriptions to `topic`. A token that may read it may also ask for them.
pub(crate) fn namespace_of(topic: &str) -> Result<Namespace, NamespaceError> {
    let encoded: String = form_urlencoded::byte_serialize(topic.as_bytes()).collect();
    Namespace::from_topic(&format!("{PATH}/{encoded}"))
}

/// Answers 401 or 403 to requests that have neither the admin token nor one that may read the messages about the subscriptions. The
/// middleware of the route. Without keys of tokens, the admin token alone counts, and without that everyone may ask.
pub(crate) async fn guard_subscriptions(
    State(SubscriptionsGuard { token, auth }): State<SubscriptionsGuard>,
    request: Request,
    next: Next,
) -> Response {
    let is_operator = token.borrow().as_ref().is_some_and(|token| token.is_in(request.headers()));
    let Some(auth) = auth.filter(|_| !is_operator) else {
        return admin::require_token(State(token), request, next).await;
    };
    let query = Query::parse(request.uri().query().unwrap_or_default()).unwrap_or_default();
    let namespace = match query.topic.as_deref() {
        Some(topic) => namespace_of(topic),
        None => PATH.parse(),
    };
    let namespace = match namespace {
        Ok(namespace) => namespace,
        Err(error) => return line(StatusCode::BAD_REQUEST, format!("bad query: topic: {error}")),
    };
    let authenticated = auth.authenticate(request.method(), request.uri(), request.headers(), Role::Subscriber).await;
    match authenticated {
        Ok(Some(client)) if client.claims.readable().iter().any(|topic| topic.contains(&namespace)) => {
            next.run(request).await
        }
        Ok(Some(_)) => line(StatusCode::FORBIDDEN, format!("not allowed to read {namespace}")),
        Ok(None) => token_required("a token is required, or the admin token"),
        Err(error) => error.into_response(),
    }
}

/// The route.
pub(crate) fn router(presence: Presence) -> Router {
    Router::new().route(PATH, get(answer).fallback(method_not_allowed)).with_state(presence)
}

async fn answer(State(presence): State<Presence>, RawQuery(query): RawQuery) -> Response {
    let answer = async {
        let query = Query::parse(query.as_deref().unwrap_or_default())?;
        match &query.topic {
            Some(topic) => topic_answer(&presence, topic, &query).await,
            None => topics_answer(&presence, &query).await,
        }
    };
    let mut response = answer.await.unwrap_or_else(QueryError::into_response);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn topic_answer(presence: &Presence, topic: &str, query: &Query) -> Result<Response, QueryError> {
    let after: Option<Cursor> = query.after.as_deref().map(str::parse).transpose()?;
    if after.as_ref().is_some_and(|after| after.topic() != topic) {
        return Err(QueryError::OtherTopic);
    }
    let TopicPage { count, listed, page } = presence.of_topic(topic, after.as_ref(), query.limit()).await?;
    Ok(json(&TopicAnswer {
        topic,
        count,
        truncated: listed < count,
        subscriptions: page.subscriptions.iter().map(SubscriptionJson::from).collect(),
        next: page.next.map(|next| next.to_string()),
    }))
}

async fn topics_answer(presence: &Presence, query: &Query) -> Result<Response, QueryError> {
    let page = presence.topics(query.after.as_deref(), query.limit()).await?;
    let topics = page.topics.into_iter().map(|topic| TopicEntry { topic: topic.topic.to_string(), count: topic.count });
    Ok(json(&TopicsAnswer { topics: topics.collect(), next: page.next.map(|next| next.to_string()) }))
}

impl Query {
    fn parse(text: &str) -> Result<Self, QueryError> {
        let mut query = Self::default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*name {
                // As it is listed, if there are several spellings.
                "topic" => {
                    let topic = value.parse::<Topic>().map(|topic| topic.to_string());
                    query.topic = Some(topic.unwrap_or_else(|_| value.into_owned()));
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
                    query.limit = Some(limit.ok_or_else(|| QueryError::Limit(value.into_owned()))?);
                }
                "after" => query.after = Some(value.into_owned()),
                // Added by caches and proxies.
                _ => {}
            }
        }
        Ok(query)
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_PAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_names_topic_and_page() {
        let parse = |text: &str| Query::parse(text).map_err(|error| error.to_string());
        assert_eq!(parse(""), Ok(Query::default()));
        let query = parse("topic=%2Fa%2F**&limit=5&after=x%2Cy&_=1").unwrap();
        assert_eq!((query.topic.as_deref(), query.limit(), query.after.as_deref()), (Some("/a"), 5, Some("x,y")));
        assert_eq!(parse("topic=https://e.com/%7Bx%7D").unwrap().topic.as_deref(), Some("https://e.com/{x}"));
        for limit in ["0", "1001", "-1", "x", ""] {
            assert_eq!(parse(&format!("limit={limit}")), Err(format!("bad query: limit={limit}; expected 1 to 1000")));
        }
    }
}
