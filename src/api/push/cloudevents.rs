//! Requests with CloudEvents 1.0, in the three modes of the HTTP binding (section 3). No input or output.
//!
//! | mode | told by | event |
//! |---|---|---|
//! | structured | `content-type: application/cloudevents+json` | the JSON object in the body |
//! | batched | `content-type: application/cloudevents-batch+json` | each object of the list |
//! | binary | `ce-specversion` | the body, with attributes in headers |

use std::borrow::Cow;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::event::{Event, Rejection};
use super::seen::EventKey;

/// Events in a batch.
pub(super) const MAX_EVENTS: usize = 1000;
/// The length of an id, source or type, in bytes.
const MAX_ATTRIBUTE_BYTES: usize = 2048;

/// An event in the JSON format (section 3.1). Attributes that decide nothing here are left out.
#[derive(Debug, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default, borrow)]
    datacontenttype: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default, borrow)]
    data_base64: Option<Cow<'a, str>>,
}

/// The events of a request, in their order. Of a batch, each one is read or rejected by itself.
pub(super) fn events(headers: &HeaderMap, body: &[u8]) -> Result<Vec<Result<Event, Rejection>>, Rejection> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match &*essence(content_type) {
        "application/cloudevents+json" => Ok(vec![structured(body)]),
        "application/cloudevents-batch+json" => {
            let malformed =
                |error: serde_json::Error| Rejection::bad_request(format!("expected a list of events: {error}"));
            let events: Vec<&RawValue> = serde_json::from_slice(body).map_err(malformed)?;
            if events.len() > MAX_EVENTS {
                let reason = format!("{} events; a batch has at most {MAX_EVENTS}", events.len());
                return Err(Rejection::new(StatusCode::PAYLOAD_TOO_LARGE, reason));
            }
            Ok(events.into_iter().map(|event| structured(event.get().as_bytes())).collect())
        }
        _ if headers.contains_key("ce-specversion") => Ok(vec![binary(headers, body)]),
        other => Err(Rejection::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!(
                "content-type {other:?} without the header ce-specversion; expected application/cloudevents+json, \
                 application/cloudevents-batch+json, or attributes in headers"
            ),
        )),
    }
}

/// A media type without its parameters, in lower case.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn structured(body: &[u8]) -> Result<Event, Rejection> {
    let event: Envelope<'_> = serde_json::from_slice(body)
        .map_err(|error| Rejection::bad_request(format!("expected a CloudEvent in JSON: {error}")))?;
    let payload = match (&event.data, &event.data_base64) {
        (Some(_), Some(_)) => return Err(Rejection::bad_request("expected data or data_base64, found both")),
        (Some(data), None) => payload(data, event.datacontenttype.as_deref()),
        (None, Some(encoded)) => {
            STANDARD.decode(&**encoded).map_err(|_| Rejection::bad_request("data_base64 is not base64"))?
        }
        (None, None) => Vec::new(),
    };
    of(&event.specversion, &event.source, &event.id, event.kind.into_owned(), payload)
}

/// JSON as it is written, unless the data is text of another type.
fn payload(data: &RawValue, content_type: Option<&str>) -> Vec<u8> {
    let is_json = content_type.is_none_or(|content_type| {
        let essence = essence(content_type);
        essence.ends_with("/json") || essence.ends_with("+json")
    });
    let text = if is_json { None } else { serde_json::from_str::<String>(data.get()).ok() };
    text.unwrap_or_else(|| data.get().to_owned()).into_bytes()
}

fn binary(headers: &HeaderMap, body: &[u8]) -> Result<Event, Rejection> {
    let attribute = |name: &'static str| {
        let value = headers.get(name).ok_or_else(|| Rejection::bad_request(format!("the header {name} is missing")))?;
        let value = value.to_str().ok().and_then(|value| percent_decode_str(value.trim()).decode_utf8().ok());
        value.ok_or_else(|| Rejection::bad_request(format!("the header {name} is not UTF-8 in percent-encoding")))
    };
    let (version, source, id) = (attribute("ce-specversion")?, attribute("ce-source")?, attribute("ce-id")?);
    of(&version, &source, &id, attribute("ce-type")?.into_owned(), body.to_vec())
}

/// An event with these attributes. Source and id together name it.
fn of(version: &str, source: &str, id: &str, kind: String, payload: Vec<u8>) -> Result<Event, Rejection> {
    if !version.starts_with("1.") {
        return Err(Rejection::bad_request("the specversion is not 1.0"));
    }
    for (name, value) in [("source", source), ("id", id), ("type", &kind)] {
        if !(1..=MAX_ATTRIBUTE_BYTES).contains(&value.len()) {
            return Err(Rejection::bad_request(format!("{name}: expected 1 to {MAX_ATTRIBUTE_BYTES} bytes")));
        }
    }
    Ok(Event { channel: Some(kind), id: Some(EventKey::new(&[source, id])), payload })
}

#[cfg(test)]
mod tests {
    use axum::http::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn read(content_type: &str, body: &[u8]) -> Result<Vec<Result<Event, Rejection>>, Rejection> {
        events(&headers(&[("content-type", content_type)]), body)
    }

    fn one(body: &str) -> Result<Event, String> {
        let events = read("application/cloudevents+json; charset=utf-8", body.as_bytes()).unwrap();
        events.into_iter().next().unwrap().map_err(|rejection| rejection.reason)
    }

    fn event(kind: &str, payload: &[u8]) -> Event {
        Event { channel: Some(kind.to_owned()), id: Some(EventKey::new(&["/s", "1"])), payload: payload.to_vec() }
    }

    #[test]
    fn data_of_a_structured_event_is_sent_as_it_is_written() {
        let with =
            |rest: &str| one(&format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","x":[1]{rest}}}"#));
        for (rest, payload) in [
            (r#","data":{"a": 1.50}"#, r#"{"a": 1.50}"#),
            (r#","data":"text""#, r#""text""#),
            (r#","data":"text","datacontenttype":"application/vnd.x+json; a=b""#, r#""text""#),
            (r#","data":"a\nb","datacontenttype":"text/plain""#, "a\nb"),
            (r#","data":{"a":1},"datacontenttype":"text/plain""#, r#"{"a":1}"#),
            (r#","data_base64":"aGVsbG8=","datacontenttype":"text/plain""#, "hello"),
            ("", ""),
        ] {
            assert_eq!(with(rest), Ok(event("t", payload.as_bytes())), "{rest}");
        }
        assert_eq!(with(r#","data":1,"data_base64":"""#), Err("expected data or data_base64, found both".to_owned()));
        assert_eq!(with(r#","data_base64":"?""#), Err("data_base64 is not base64".to_owned()));
    }

    #[test]
    fn attributes_of_a_binary_event_are_in_headers() {
        let all = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "caf%C3%A9")];
        let read = |headers: HeaderMap| events(&headers, b"\xff").map(|mut events| events.remove(0));
        assert_eq!(read(headers(&all)), Ok(Ok(event("café", b"\xff"))));
        for missing in 1..4 {
            let name = all[missing].0;
            let others: Vec<_> = all.iter().filter(|(other, _)| *other != name).copied().collect();
            let expected = Rejection::bad_request(format!("the header {name} is missing"));
            assert_eq!(read(headers(&others)), Ok(Err(expected)));
        }
        let mut wrong = headers(&all);
        wrong.insert("ce-type", HeaderValue::from_static("%ff"));
        assert!(read(wrong).unwrap().is_err());
        assert_eq!(events(&headers(&all[1..]), b"").unwrap_err().status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[test]
    fn each_event_of_a_batch_is_read_by_itself() {
        let good = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": 1});
        let bad = json!({"specversion": "0.3", "id": "1", "source": "/s", "type": "t"});
        let batch = "application/cloudevents-batch+json";
        let events = read(batch, json!([good, bad, 7, good]).to_string().as_bytes()).unwrap();
        let is_read: Vec<bool> = events.iter().map(Result::is_ok).collect();
        assert_eq!(is_read, [true, false, false, true]);
        assert_eq!(events[1].as_ref().unwrap_err().reason, "the specversion is not 1.0");
        assert_eq!(read(batch, b"[]"), Ok(vec![]));
        assert_eq!(read(batch, b"{}").unwrap_err().status, StatusCode::BAD_REQUEST);
        let many = json!(vec![0; MAX_EVENTS + 1]).to_string();
        assert_eq!(read(batch, many.as_bytes()).unwrap_err().reason, "1001 events; a batch has at most 1000");
    }

    #[test]
    fn events_without_their_attributes_are_rejected_with_the_reason() {
        let error = |id: &str, source: &str, kind: &str| {
            one(&json!({"specversion": "1.0", "id": id, "source": source, "type": kind}).to_string()).unwrap_err()
        };
        assert_eq!(error("", "/s", "t"), "id: expected 1 to 2048 bytes");
        assert_eq!(error("1", "", "t"), "source: expected 1 to 2048 bytes");
        assert_eq!(error("1", "/s", &"t".repeat(2049)), "type: expected 1 to 2048 bytes");
        assert!(one("{}").unwrap_err().starts_with("expected a CloudEvent in JSON: missing field `specversion`"));
        assert!(one("\u{feff}{}").is_err() && one("").is_err());
    }

    proptest! {
        #[test]
        fn any_request_is_read_or_rejected(
            content_type in "application/cloudevents(-batch)?\\+json|[ -~]{0,20}",
            attribute in "[ -~]{0,10}",
            body in "([\\[\\]{}:, \n1]|\"(specversion|1.0|id|source|type|data|data_base64)\"){0,40}",
        ) {
            let names = ["ce-specversion", "ce-id", "ce-source", "ce-type", "content-type"];
            let mut all: HeaderMap = names.iter().map(|name| (HeaderName::from_static(name), attribute.parse().unwrap())).collect();
            all.insert(CONTENT_TYPE, content_type.parse().unwrap());
            if let Ok(events) = events(&all, body.as_bytes()) {
                prop_assert!(events.into_iter().flatten().all(|event| event.id.is_some() && event.channel.is_some()));
            }
        }

        #[test]
        fn bytes_in_base64_are_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let event = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data_base64": STANDARD.encode(&bytes)});
            prop_assert_eq!(one(&event.to_string()).unwrap().payload, bytes);
        }
    }
}
