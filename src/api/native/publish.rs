//! `POST /publish`: one message, or several.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tallycast_fanout::{Namespace, Position, Topic, TopicError};

use super::Publishing;
use super::request::{Content, MAX_KEY_BYTES, content, idempotency_key, is_key, namespace};
use crate::api::refusal::Refusal;
use crate::api::request::text;
use crate::decode::{MAX_PAYLOAD_BYTES, Routes, Target};
use crate::publishing::{Publication, UpdateFields};
use crate::responses;
use crate::source::SourceId;

/// Messages in one request.
pub(crate) const MAX_MESSAGES: usize = 1000;
/// The length of an event name, in bytes.
const MAX_EVENT_BYTES: usize = 256;

/// A message of a request with several.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(default, borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: &'a RawValue,
    /// The idempotency key.
    #[serde(default, borrow)]
    id: Option<Cow<'a, str>>,
}

/// Publishes the body.
pub(super) async fn one(
    State(publishing): State<Arc<Publishing>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let outcome = async {
        let access = publishing.access(&method, &uri, &headers).await?;
        let namespace = namespace(&uri, "/publish")?;
        access.check(&namespace)?;
        let content = content(&headers)?;
        let idempotency_key = idempotency_key(&headers)?;
        let data = text(&headers, body, publishing.max_body).await?;
        if content != Content::Text {
            check_json(&data)?;
        }
        let event = query_event(uri.query().unwrap_or_default())?;
        let message = publication(&publishing.routes.borrow(), &namespace, event, data, idempotency_key)?;
        access.take(1)?;
        let ids = publishing.publisher.publish(std::slice::from_ref(&message)).await?;
        let id = ids.into_iter().next().flatten();
        Ok(responses::json(&json!({"id": wire_id(&publishing.routes.borrow(), message.source, &message.target, id)})))
    };
    publishing.counted(1, outcome.await).into_response()
}

/// Publishes the messages in the body: an array, or a line for each.
pub(super) async fn many(
    State(publishing): State<Arc<Publishing>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut count = 0;
    let outcome = async {
        let access = publishing.access(&method, &uri, &headers).await?;
        let content = content(&headers)?;
        let body = text(&headers, body, publishing.max_body).await?;
        let messages = parse(&publishing.routes.borrow(), &body, content, |namespace| access.check(namespace))?;
        count = messages.len();
        access.take(messages.len())?;
        let ids = publishing.publisher.publish(&messages).await?;
        let routes = publishing.routes.borrow();
        let ids =
            ids.into_iter().zip(&messages).map(|(id, message)| wire_id(&routes, message.source, &message.target, id));
        Ok(responses::json(&json!({"ids": ids.collect::<Vec<_>>()})))
    };
    let outcome = outcome.await;
    publishing.counted(count, outcome).into_response()
}

/// The messages of a body; an error names the first that is invalid, or for whose namespace `check` fails.
pub(super) fn parse(
    routes: &Routes,
    body: &str,
    content: Content,
    check: impl Fn(&Namespace) -> Result<(), Refusal>,
) -> Result<Vec<Publication>, Refusal> {
    let numbered = items(body, content)?.into_iter().enumerate();
    numbered.map(|(number, item)| of_item(routes, item, &check).map_err(|error| at(number, error))).collect()
}

/// What a body has for each message.
fn items(body: &str, content: Content) -> Result<Vec<Item<'_>>, Refusal> {
    let error = |error: serde_json::Error| {
        let expected =
            r#"expected messages such as {"namespace":"/news","data":"hello"}, with event and id where needed"#;
        Refusal::BadRequest(format!("{expected}: {error}"))
    };
    let is_array = content != Content::Lines && body.trim_start().starts_with('[');
    let items: Vec<Item<'_>> = if is_array {
        serde_json::from_str(body).map_err(error)?
    } else {
        let lines = body.lines().filter(|line| !line.trim().is_empty()).enumerate();
        lines
            .map(|(number, line)| serde_json::from_str(line).map_err(|found| at(number, error(found))))
            .collect::<Result<_, _>>()?
    };
    match items.len() {
        0 => Err(Refusal::BadRequest("expected at least one message".to_owned())),
        1..=MAX_MESSAGES => Ok(items),
        more => Err(Refusal::TooLarge(format!("{more} messages; a request has at most {MAX_MESSAGES}"))),
    }
}

fn of_item(
    routes: &Routes,
    item: Item<'_>,
    check: impl Fn(&Namespace) -> Result<(), Refusal>,
) -> Result<Publication, Refusal> {
    let Item { namespace, event, data, id } = item;
    let parsed = path_or_name(&namespace);
    let namespace = parsed.map_err(|error| Refusal::BadRequest(format!("namespace {namespace:?}: {error}")))?;
    check(&namespace)?;
    if id.as_ref().is_some_and(|id| !is_key(id)) {
        let expected = format!("id: expected 1 to {MAX_KEY_BYTES} visible ASCII characters");
        return Err(Refusal::BadRequest(expected));
    }
    // A string is text, and anything else is sent as it is written.
    let text = serde_json::from_str::<String>(data.get()).unwrap_or_else(|_| data.get().to_owned());
    publication(routes, &namespace, event.map(Cow::into_owned), text, id.map(Cow::into_owned))
}

/// A namespace as a message names it: a path, or an absolute IRI, which is the name of a topic.
fn path_or_name(text: &str) -> Result<Namespace, TopicError> {
    if text.starts_with('/') {
        return Ok(text.parse()?);
    }
    let topic: Topic = text.parse()?;
    topic.as_namespace().cloned().ok_or(TopicError::Wildcard)
}

impl Publishing {
    /// Publishes a message for an operator, who needs no key.
    pub(crate) async fn publish_unchecked(
        &self,
        namespace: &str,
        event: Option<String>,
        data: String,
    ) -> Result<(), Refusal> {
        let outcome = async {
            let parsed = path_or_name(namespace);
            let namespace = parsed.map_err(|error| Refusal::BadRequest(format!("namespace {namespace:?}: {error}")))?;
            let message = publication(&self.routes.borrow(), &namespace, event, data, None)?;
            self.publisher.publish(&[message]).await?;
            Ok(())
        };
        self.counted(1, outcome.await)
    }
}

/// A message of a namespace, as the broker takes it.
pub(in crate::api) fn publication(
    routes: &Routes,
    namespace: &Namespace,
    event: Option<String>,
    data: String,
    idempotency_key: Option<String>,
) -> Result<Publication, Refusal> {
    let event = event.filter(|event| !event.is_empty());
    if event.as_ref().is_some_and(|event| event.len() > MAX_EVENT_BYTES || event.contains(char::is_control)) {
        let expected = format!("event: expected at most {MAX_EVENT_BYTES} bytes without control characters");
        return Err(Refusal::BadRequest(expected));
    }
    if data.len() > MAX_PAYLOAD_BYTES {
        return Err(Refusal::TooLarge(format!("a message has at most {MAX_PAYLOAD_BYTES} bytes")));
    }
    let (source, target) = routes.target(namespace, event.as_deref()).map_err(|error| match error {
        crate::decode::TargetError::NoRoute(_) => Refusal::NotFound(error.to_string()),
        crate::decode::TargetError::Event { .. } => Refusal::BadRequest(error.to_string()),
    })?;
    Ok(Publication { source, target, event, data, sender: None, update: UpdateFields::default(), idempotency_key })
}

/// The event name in a query.
fn query_event(query: &str) -> Result<Option<String>, Refusal> {
    let mut event = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "event" {
            return Err(Refusal::BadRequest(format!("unknown parameter {name:?}; expected event=NAME")));
        }
        event = Some(value.into_owned());
    }
    Ok(event)
}

fn check_json(text: &str) -> Result<(), Refusal> {
    let checked: Result<&RawValue, _> = serde_json::from_str(text);
    checked.map(drop).map_err(|error| Refusal::BadRequest(format!("the request body is not JSON: {error}")))
}

/// An error of the message with this number, from zero.
fn at(number: usize, error: Refusal) -> Refusal {
    let named = |text: String| format!("message {number}: {text}");
    match error {
        Refusal::BadRequest(text) => Refusal::BadRequest(named(text)),
        Refusal::NotFound(text) => Refusal::NotFound(named(text)),
        Refusal::Forbidden(text) => Refusal::forbidden(named(text.into_owned())),
        Refusal::TooLarge(text) => Refusal::TooLarge(named(text)),
        error => error,
    }
}

/// The id by which a reader resumes after an entry: with one sequence that of the entry, with several a position in its stream.
fn wire_id(routes: &Routes, source: SourceId, target: &Target, id: Option<String>) -> Option<String> {
    let Target::Stream { key, .. } = target else { return None };
    let id = id?;
    let sequences: BTreeSet<_> = routes.retentions().iter().map(|retention| retention.sequence.clone()).collect();
    if sequences.len() <= 1 {
        return Some(id);
    }
    let stream = routes.streams(source).into_iter().find(|stream| stream.key == *key)?;
    match id.parse() {
        Ok(entry) => Some(Position { sequence: stream.sequence, entry }.to_string()),
        // Of a stream with partitions: it says in which.
        Err(_) => Some(id),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routes(texts: &[&str]) -> Routes {
        Routes::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    /// The payloads of a body, or why it is refused.
    fn payloads(body: &str, content: Content) -> Result<Vec<String>, String> {
        let messages =
            parse(&routes(&["stream:a=/a/**"]), body, content, |_| Ok(())).map_err(|error| error.to_string())?;
        Ok(messages.into_iter().map(|message| message.data).collect())
    }

    #[test]
    fn arrays_and_lines_have_the_same_messages() {
        let expected = Ok(["hello", "{\"b\": 1.50}", "7", ""].map(str::to_owned).to_vec());
        let items = [r#""hello""#, r#"{"b": 1.50}"#, "7", r#""""#]
            .map(|data| format!(r#"{{"namespace":"/a/b","data":{data}}}"#));
        assert_eq!(payloads(&format!(" [{}]", items.join(",\n")), Content::Json), expected);
        assert_eq!(payloads(&items.join("\n"), Content::Lines), expected);
        assert_eq!(payloads(&items.join("\r\n\n"), Content::Text), expected);
    }

    #[test]
    fn messages_of_names_go_to_the_stream_of_any_topics() {
        let routes = routes(&["a=/a", "stream:any=*"]);
        let body = r#"[{"namespace":"https://e.com/1","data":"x"},{"namespace":"/a","data":"y"},{"namespace":"/b","data":"z"}]"#;
        let targets =
            parse(&routes, body, Content::Json, |_| Ok(())).unwrap().into_iter().map(|message| message.target);
        let stream = |topic: &str| Target::Stream { key: "any".into(), topic: Some(topic.to_owned()) };
        assert_eq!(
            targets.collect::<Vec<_>>(),
            [stream("https://e.com/1"), Target::Channel("a".to_owned()), stream("/b")]
        );
    }

    #[test]
    fn errors_name_the_message() {
        let error = |body: &str| payloads(body, Content::Lines).unwrap_err();
        assert_eq!(error(""), "expected at least one message");
        assert!(error("{\"namespace\":\"/a\",\"data\":1}\n{}").starts_with("message 1: expected messages such as"));
        assert!(error("{\"namespace\":\"/a\",\"data\":1,\"dta\":2}").contains("unknown field `dta`"));
        assert_eq!(
            error("{\"namespace\":\"a\",\"data\":1}"),
            "message 0: namespace \"a\": a namespace must start with '/'"
        );
        assert_eq!(error("{\"namespace\":\"/x\",\"data\":1}"), "message 0: no route leads to /x");
        assert!(
            error("{\"namespace\":\"/a/b\",\"data\":1,\"id\":\"\"}").starts_with("message 0: id: expected 1 to 256")
        );
        assert!(
            error("{\"namespace\":\"/a/b\",\"data\":1,\"event\":\"a\\nb\"}")
                .starts_with("message 0: event: expected at most")
        );
        let many = "{\"namespace\":\"/a/b\",\"data\":1}\n".repeat(MAX_MESSAGES + 1);
        assert_eq!(error(&many), "1001 messages; a request has at most 1000");
        assert!(query_event("event=a&evnt=b").unwrap_err().to_string().starts_with("unknown parameter \"evnt\""));
    }

    #[test]
    fn error_is_one_short_line_whatever_the_request_has() {
        let body = format!(r#"{{"namespace":"/a/b","data":1,"a\nb{}":2}}"#, "x".repeat(1000));
        let line = parse(&routes(&["stream:a=/a/**"]), &body, Content::Json, |_| Ok(())).unwrap_err().line();
        assert!(line.contains("unknown field `a\u{fffd}bxxx") && line.len() <= 512, "{line}");
    }

    #[test]
    fn id_is_a_position_that_readers_can_use() {
        let id = |texts: &[&str]| {
            let target = Target::Stream { key: "a:b".into(), topic: None };
            wire_id(&routes(texts), SourceId::DEFAULT, &target, Some("17-2".to_owned()))
        };
        assert_eq!(id(&["stream:a:b=/a,history=1"]).as_deref(), Some("17-2"));
        assert_eq!(id(&["stream:a:b=/a"]).as_deref(), Some("17-2"));
        assert_eq!(id(&["stream:a:b=/a,history=1", "c=/c,history=1"]).as_deref(), Some("a%3Ab:17-2"));
        assert_eq!(wire_id(&routes(&["a=/a"]), SourceId::DEFAULT, &Target::Channel("a".to_owned()), None), None);
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in "(.|\n){0,60}|[\\[{\"namespacedt:/,}\\] \n1]{0,60}") {
            for content in [Content::Text, Content::Json, Content::Lines] {
                let _ = payloads(&body, content);
            }
        }
    }
}
