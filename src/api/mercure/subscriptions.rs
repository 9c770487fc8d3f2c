//! `GET /.well-known/mercure/subscriptions`: who is subscribed, on all nodes; and the updates that say when that changes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Serialize;
use serde_json::value::RawValue;
use tallycast_fanout::Namespace;

use super::{Hub, PATH};
use crate::api::refusal::Refusal;
use crate::presence::{Cursor, Presence, Subscription};

/// Where subscriptions are, below [`PATH`].
const SUBSCRIPTIONS: &str = "subscriptions";
const CONTEXT: &str = "https://mercure.rocks/";
const JSON_LD: &str = "application/ld+json";
/// Subscriptions in an answer; further ones are left out.
const MAX_LISTED: usize = 10_000;
/// Subscriptions that are read at once.
const PAGE: usize = 1000;
/// As a component of a query is encoded, except for spaces.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The selector of everything, and how the topic is shown elsewhere.
const EVERYTHING: (&str, &str) = ("*", "/");

/// A subscription as the protocol writes it.
#[derive(Debug, Serialize)]
struct Document<'a> {
    #[serde(rename = "@context", skip_serializing_if = "Option::is_none")]
    context: Option<&'static str>,
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    topic: &'a str,
    subscriber: String,
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(rename = "lastEventID", skip_serializing_if = "Option::is_none")]
    last_event_id: Option<&'a str>,
}

/// Subscriptions as the protocol writes them.
#[derive(Debug, Serialize)]
struct Collection<'a> {
    #[serde(rename = "@context")]
    context: &'static str,
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "lastEventID")]
    last_event_id: &'a str,
    subscriptions: Vec<Document<'a>>,
}

impl<'a> Document<'a> {
    fn new(subscription: &'a Subscription, active: bool) -> Self {
        let subscriber = subscription.subscriber.id.to_string();
        let selector = selector_of(&subscription.topic);
        Self {
            context: None,
            id: path(selector, &subscriber),
            kind: "Subscription",
            topic: selector,
            subscriber,
            active,
            payload: subscription.subscriber.payload.as_deref(),
            last_event_id: None,
        }
    }
}

/// The topic of the update about a change of `subscription`, and its data.
///
/// # Errors
/// Never: every document can be written.
pub(crate) fn update(subscription: &Subscription, active: bool) -> serde_json::Result<(String, String)> {
    let document = Document { context: Some(CONTEXT), ..Document::new(subscription, active) };
    let data = serde_json::to_string(&document)?;
    Ok((document.id, data))
}

/// Answers a request for subscriptions: all of them, those of a selector, or one.
pub(super) async fn answer(State(hub): State<Arc<Hub>>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    hub.subscriptions(&method, &uri, &headers).await.unwrap_or_else(Refusal::into_response)
}

impl Hub {
    async fn subscriptions(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Response, Refusal> {
        let not_found = || Refusal::NotFound(format!("no subscription at {}", uri.path()));
        let presence = self.presence.as_ref().ok_or_else(|| {
            Refusal::NotFound("subscriptions are not served; --subscriptions switches them on".to_owned())
        })?;
        let topic = Namespace::from_topic(uri.path()).map_err(|_| not_found())?;
        self.check_reader(method, uri, headers, &topic).await?;
        let last_event_id = self.engine.newest_update().unwrap_or_else(|| "earliest".into());
        let etag = format!("\"{last_event_id}\"");
        let is_known =
            |value: &HeaderValue| value.as_bytes() == etag.as_bytes() || value.as_bytes() == last_event_id.as_bytes();
        if headers.get(IF_NONE_MATCH).is_some_and(is_known) {
            return Ok(tagged(StatusCode::NOT_MODIFIED.into_response(), &etag));
        }
        let below = uri.path().strip_prefix(PATH).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
        let segments: Vec<&str> = below.split('/').skip(1).collect();
        let json = match segments[..] {
            [] | [""] => collection(uri.path(), &last_event_id, &listed(presence, None).await?),
            [selector] => {
                let selector = decoded(selector).ok_or_else(not_found)?;
                collection(uri.path(), &last_event_id, &listed(presence, Some(topic_of(&selector))).await?)
            }
            [selector, subscriber] => {
                let selector = decoded(selector).ok_or_else(not_found)?;
                let id = decoded(subscriber).and_then(|id| id.parse().ok()).ok_or_else(not_found)?;
                let found = presence.get(topic_of(&selector), id).await?;
                let found = found.ok_or_else(not_found)?;
                let document = Document::new(&found, true);
                serde_json::to_string(&Document {
                    context: Some(CONTEXT),
                    last_event_id: Some(&last_event_id),
                    ..document
                })
            }
            _ => return Err(not_found()),
        };
        let json = json.map_err(|error| Refusal::BadRequest(error.to_string()))?;
        let response = ([(CONTENT_TYPE, HeaderValue::from_static(JSON_LD))], json).into_response();
        Ok(tagged(response, &etag))
    }
}

fn tagged(mut response: Response, etag: &str) -> Response {
    // An id of a publisher may have characters that a header may not.
    if let Ok(etag) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}

/// The listed subscriptions of `topic`, or of all topics.
async fn listed(presence: &Presence, topic: Option<&str>) -> Result<Vec<Subscription>, Refusal> {
    let mut found = Vec::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = match topic {
            Some(topic) => presence.of_topic(topic, after.as_ref(), PAGE).await?.page,
            None => presence.all(after.as_ref(), PAGE).await?,
        };
        found.extend(page.subscriptions);
        match page.next {
            Some(next) if found.len() < MAX_LISTED => after = Some(next),
            _ => return Ok(found),
        }
    }
}

fn collection(path: &str, last_event_id: &str, subscriptions: &[Subscription]) -> serde_json::Result<String> {
    serde_json::to_string(&Collection {
        context: CONTEXT,
        id: path,
        kind: "Subscriptions",
        last_event_id,
        subscriptions: subscriptions.iter().map(|subscription| Document::new(subscription, true)).collect(),
    })
}

/// The path of a subscription.
fn path(selector: &str, subscriber: &str) -> String {
    format!("{PATH}/{SUBSCRIPTIONS}/{}/{}", encoded(selector), encoded(subscriber))
}

/// A text as a component of a query.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string().replace("%20", "+")
}

fn decoded(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8().ok().map(|text| text.into_owned())
}

/// The selector of a topic as it is registered.
fn selector_of(topic: &str) -> &str {
    if topic == EVERYTHING.1 { EVERYTHING.0 } else { topic }
}

/// The opposite of [`selector_of`].
fn topic_of(selector: &str) -> &str {
    if selector == EVERYTHING.0 { EVERYTHING.1 } else { selector }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_encoded_as_in_a_query() {
        assert_eq!(encoded("https://e.com/{x}"), "https%3A%2F%2Fe.com%2F%7Bx%7D");
        assert_eq!(encoded("* a~b+c"), "%2A+a~b%2Bc");
        for text in ["* a~b+c", "é/😂", "urn:uuid:1"] {
            assert_eq!(decoded(&encoded(text)).as_deref(), Some(text));
        }
        assert_eq!(decoded("%ff"), None);
        let id = "urn:uuid:bb3de268-05b0-4c65-b44e-8f9acefc29d6";
        assert_eq!(
            path("https://e.com/{x}", id),
            "/.well-known/mercure/subscriptions/https%3A%2F%2Fe.com%2F%7Bx%7D/urn%3Auuid%3Abb3de268-05b0-4c65-b44e-8f9acefc29d6"
        );
    }
}
