//! Requests of Google Cloud Pub/Sub push subscriptions, wrapped in JSON or not. No input or output.

use std::borrow::Cow;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::event::{Event, Rejection};
use super::seen::EventKey;

/// The headers of an unwrapped message, if its subscription writes metadata.
const UNWRAPPED_ID: &str = "x-goog-pubsub-message-id";
const UNWRAPPED_SUBSCRIPTION: &str = "x-goog-pubsub-subscription-name";

#[derive(Debug, Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    message: PubsubMessage<'a>,
    #[serde(default, borrow)]
    subscription: Cow<'a, str>,
}

/// A message. Some fields have two names, of which requests may have both.
#[derive(Debug, Deserialize)]
struct PubsubMessage<'a> {
    #[serde(default, borrow)]
    data: Cow<'a, str>,
    #[serde(default, borrow, rename = "messageId")]
    id: Option<Cow<'a, str>>,
    #[serde(default, borrow, rename = "message_id")]
    other_id: Option<Cow<'a, str>>,
}

/// The event of a request. Its channel is the last part of the name of the subscription, `projects/PROJECT/subscriptions/NAME`.
pub(super) fn event(headers: &HeaderMap, body: &[u8]) -> Result<Event, Rejection> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(id) = header(UNWRAPPED_ID) {
        return Ok(of(id, header(UNWRAPPED_SUBSCRIPTION).unwrap_or_default(), body.to_vec()));
    }
    let Request { message, subscription } = serde_json::from_slice(body)
        .map_err(|error| Rejection::bad_request(format!("expected a message of Pub/Sub in JSON: {error}")))?;
    let id = message.id.or(message.other_id).unwrap_or_default();
    let payload = STANDARD.decode(&*message.data).map_err(|_| Rejection::bad_request("the data is not base64"))?;
    Ok(of(&id, &subscription, payload))
}

fn of(id: &str, subscription: &str, payload: Vec<u8>) -> Event {
    let name = subscription.rsplit('/').next().filter(|name| !name.is_empty());
    let id = (!id.is_empty()).then(|| EventKey::new(&[id]));
    Event { channel: name.map(str::to_owned), id, payload }
}

#[cfg(test)]
mod tests {
    use axum::http::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn expected(payload: &[u8]) -> Event {
        let id = Some(EventKey::new(&["136969346945"]));
        Event { channel: Some("mysub".to_owned()), id, payload: payload.to_vec() }
    }

    #[test]
    fn message_is_read_with_its_id_and_its_subscription() {
        let body = json!({
            "message": {
                "attributes": {"key": "value"}, "data": "SGVsbG8gQ2xvdWQgUHViL1N1Yi4=", "messageId": "136969346945",
                "message_id": "136969346945", "orderingKey": "key", "publishTime": "2014-10-02T15:01:23Z"
            },
            "subscription": "projects/myproject/subscriptions/mysub", "deliveryAttempt": 5
        });
        assert_eq!(event(&HeaderMap::new(), body.to_string().as_bytes()), Ok(expected(b"Hello Cloud Pub/Sub.")));
        let body = r#"{"message": {"message_id": "136969346945"}, "subscription": "projects/p/subscriptions/mysub"}"#;
        assert_eq!(event(&HeaderMap::new(), body.as_bytes()), Ok(expected(b"")));
        let without = event(&HeaderMap::new(), br#"{"message": {"data": ""}}"#).unwrap();
        assert_eq!((without.channel, without.id), (None, None));
    }

    #[test]
    fn unwrapped_message_is_the_body() {
        let headers = [(UNWRAPPED_ID, "136969346945"), (UNWRAPPED_SUBSCRIPTION, "projects/p/subscriptions/mysub")];
        let headers = headers.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        assert_eq!(event(&HeaderMap::from_iter(headers), b"{\"a\": 1}"), Ok(expected(b"{\"a\": 1}")));
    }

    #[test]
    fn anything_else_is_rejected_with_the_reason() {
        let error = |body: &str| event(&HeaderMap::new(), body.as_bytes()).unwrap_err().reason;
        assert!(error("{}").starts_with("expected a message of Pub/Sub in JSON: missing field `message`"));
        assert_eq!(error(r#"{"message": {"data": "%"}}"#), "the data is not base64");
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_rejected(body in "([\\[\\]{}:, 1]|\"(message|data|messageId|subscription|aGk=)\"){0,30}") {
            let _ = event(&HeaderMap::new(), body.as_bytes());
        }
    }
}
