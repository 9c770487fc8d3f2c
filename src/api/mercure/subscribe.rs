//! `GET /.well-known/mercure`: a stream of updates.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::http::header::{CACHE_CONTROL, HeaderName, HeaderValue, PRAGMA};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use tallycast_fanout::{Framing, Start, Topic, Topics};
use tallycast_server::{Contract, ContractStream, WholeResponse};

use super::framing::{HEARTBEAT, MercureFraming};
use super::{Hub, PATH};
use crate::api::refusal::Refusal;
use crate::decode::MAX_UPDATE_TOPICS;

/// Selectors of one subscription.
const MAX_SELECTORS: usize = MAX_UPDATE_TOPICS;
/// The names of the query parameter with the id of the last update, the usual one first; polyfills of EventSource use the last.
const POSITION_PARAMETERS: [&str; 4] = ["lastEventID", "last_event_id", "Last-Event-ID", "lastEventId"];
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Streams live for at least this part of the limit, in percent, so that those that began together do not end together.
const SHORTEST_LIFETIME: u32 = 80;

/// The streams of the Mercure protocol.
#[derive(Debug)]
pub struct Subscriptions(pub Arc<Hub>);

impl Contract for Subscriptions {
    fn matches(&self, request: &Parts) -> bool {
        request.uri.path() == PATH && matches!(request.method, Method::GET | Method::HEAD)
    }

    fn allowed_methods(&self) -> &'static str {
        "GET, HEAD, POST, OPTIONS"
    }

    fn event_framing(&self) -> Option<Arc<dyn Framing>> {
        Some(Arc::new(MercureFraming))
    }

    async fn open(&self, request: &Parts, _client: IpAddr) -> Result<ContractStream, WholeResponse> {
        self.stream(request).await.map_err(|refusal| refusal.in_place_of_stream())
    }
}

impl Subscriptions {
    async fn stream(&self, request: &Parts) -> Result<ContractStream, Refusal> {
        let query = request.uri.query().unwrap_or_default();
        let selectors = selectors(query)?;
        let topics = Topics::new(selectors).map_err(|error| Refusal::BadRequest(format!("topic: {error}")))?;
        let mut grant = self.0.subscriber(request, &topics).await?;
        let lifetime = self.0.config.lifetime.map(|lifetime| SystemTime::now() + varied(lifetime));
        grant.expires_at = grant.expires_at.into_iter().chain(lifetime).min();
        let mut stream = ContractStream::new(topics);
        stream.grant = Some(Arc::new(grant));
        stream.start = position(&request.headers, query).map(Start::AfterUpdate);
        stream.position_header = stream.start.is_some();
        stream.preamble = Bytes::from_static(HEARTBEAT);
        stream.headers = HeaderMap::from_iter([
            (CACHE_CONTROL, HeaderValue::from_static("private, no-cache, no-store, must-revalidate, max-age=0")),
            (PRAGMA, HeaderValue::from_static("no-cache")),
            // As the protocol's clients know it.
            (HeaderName::from_static("expire"), HeaderValue::from_static("0")),
        ]);
        Ok(stream)
    }
}

/// The topic selectors of a query, in its order.
fn selectors(query: &str) -> Result<Vec<Topic>, Refusal> {
    let mut selectors = Vec::new();
    for (_, text) in form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "topic") {
        if selectors.len() == MAX_SELECTORS {
            return Err(Refusal::BadRequest(format!("topic: expected at most {MAX_SELECTORS}")));
        }
        let selector = Topic::selector(&text);
        selectors.push(selector.map_err(|error| Refusal::BadRequest(format!("topic {text:?}: {error}")))?);
    }
    if selectors.is_empty() {
        return Err(Refusal::BadRequest("Missing \"topic\" parameter.".to_owned()));
    }
    Ok(selectors)
}

/// The id of the last update that the client has. The header takes precedence: a browser sets it when it comes back.
fn position(headers: &HeaderMap, query: &str) -> Option<Box<str>> {
    let in_header = headers.get(LAST_EVENT_ID).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let in_query = || {
        let parameters = || form_urlencoded::parse(query.as_bytes());
        let value = |wanted: &str| parameters().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned());
        POSITION_PARAMETERS.into_iter().find_map(value)
    };
    in_header.or_else(in_query).filter(|id| !id.is_empty()).map(String::into_boxed_str)
}

/// A random time of 80 to 100 percent of `lifetime`.
fn varied(lifetime: Duration) -> Duration {
    // The keys of a hasher are random for each instance.
    let random = RandomState::new().hash_one(0) % u64::from(101 - SHORTEST_LIFETIME);
    lifetime / 100 * (SHORTEST_LIFETIME + u32::try_from(random).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_required_and_bounded() {
        let error = |query: &str| selectors(query).unwrap_err().to_string();
        assert_eq!(error("topics=a"), "Missing \"topic\" parameter.");
        assert_eq!(error(&"topic=a&".repeat(1001)), "topic: expected at most 1000");
        assert!(error("topic=a%0A").starts_with("topic \"a\\n\": "));
        let texts: Vec<String> =
            selectors("topic=%2A&a=b&topic=https%3A%2F%2Fe.com%2F%7Bid%7D&topic=/chat/1&topic=x+y")
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect();
        assert_eq!(texts[1..], ["https://e.com/{id}", "/chat/1", "x y"]);
    }

    #[test]
    fn header_wins_over_every_spelling_of_the_query() {
        let header = HeaderMap::from_iter([(LAST_EVENT_ID, HeaderValue::from_static("h"))]);
        let of = |headers: &HeaderMap, query: &str| position(headers, query).map(String::from);
        for name in POSITION_PARAMETERS {
            let query = format!("topic=a&{name}=urn%3Ax");
            assert_eq!(of(&HeaderMap::new(), &query).as_deref(), Some("urn:x"), "{name}");
            assert_eq!(of(&header, &query).as_deref(), Some("h"), "{name}");
        }
        assert_eq!(of(&HeaderMap::new(), "topic=a&lastEventID="), None);
    }

    #[test]
    fn lifetimes_vary() {
        let lifetimes: Vec<Duration> = (0..1000).map(|_| varied(Duration::from_secs(100))).collect();
        assert!(lifetimes.iter().all(|lifetime| (80..=100).contains(&lifetime.as_secs())));
        assert!(lifetimes.iter().any(|lifetime| lifetime.as_secs() != lifetimes[0].as_secs()));
    }
}
