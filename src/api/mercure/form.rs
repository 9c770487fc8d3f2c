//! The form by which an update is published.

use std::borrow::Cow;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use tallycast_fanout::Namespace;

use crate::api::refusal::Refusal;
use crate::decode::{MAX_PAYLOAD_BYTES, MAX_UPDATE_TOPICS};

const FORM: &str = "application/x-www-form-urlencoded";
/// The length of an id, and of an event name, in bytes.
const MAX_TEXT_BYTES: usize = 512;
/// The longest pause before a client connects again, in milliseconds: a day. Longer ones are as good as never.
const MAX_RETRY: u64 = 24 * 60 * 60 * 1000;

/// An update to publish.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// The topics, at least one; the first is the canonical one.
    pub(super) topics: Vec<Namespace>,
    pub(super) data: String,
    pub(super) is_private: bool,
    pub(super) id: Option<String>,
    pub(super) event: Option<String>,
    pub(super) retry: Option<u64>,
}

/// Checks that the body is a form.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(FORM) {
        return Ok(());
    }
    Err(Refusal::MediaType(format!("content-type {essence:?}: expected {FORM}")))
}

impl Form {
    /// Reads the body of a request.
    pub(super) fn parse(body: &str) -> Result<Self, Refusal> {
        let bad_request = |text: String| Refusal::BadRequest(text);
        let mut form =
            Self { topics: Vec::new(), data: String::new(), is_private: false, id: None, event: None, retry: None };
        for (name, value) in form_urlencoded::parse(body.as_bytes()) {
            match &*name {
                "topic" if form.topics.len() == MAX_UPDATE_TOPICS => {
                    return Err(bad_request(format!("topic: expected at most {MAX_UPDATE_TOPICS}")));
                }
                "topic" => form.topics.push(topic(&value)?),
                "data" => form.data = value.into_owned(),
                // Whatever its value.
                "private" => form.is_private = true,
                "id" if value.starts_with('#') => return Err(bad_request("id: must not begin with #".to_owned())),
                "id" => form.id = text("id", value)?,
                "type" => form.event = text("type", value)?,
                "retry" => {
                    let retry = value.parse().ok().filter(|retry| *retry <= MAX_RETRY);
                    let expected = || format!("retry: expected milliseconds, at most {MAX_RETRY}");
                    form.retry = Some(retry.ok_or_else(|| bad_request(expected()))?);
                }
                // As in any form, other fields may be there.
                _ => {}
            }
        }
        if form.topics.is_empty() {
            return Err(bad_request("Missing \"topic\" parameter.".to_owned()));
        }
        if form.data.len() > MAX_PAYLOAD_BYTES {
            return Err(Refusal::TooLarge(format!("data has at most {MAX_PAYLOAD_BYTES} bytes")));
        }
        Ok(form)
    }
}

fn topic(text: &str) -> Result<Namespace, Refusal> {
    let namespace = Namespace::from_topic(text);
    namespace.map_err(|error| Refusal::BadRequest(format!("topic {text:?}: {error}")))
}

/// A short text in one line; `None` if it is empty.
fn text(name: &str, value: Cow<'_, str>) -> Result<Option<String>, Refusal> {
    if value.len() > MAX_TEXT_BYTES || value.contains(char::is_control) {
        let expected = format!("{name}: expected at most {MAX_TEXT_BYTES} bytes without control characters");
        return Err(Refusal::BadRequest(expected));
    }
    Ok(Some(value.into_owned()).filter(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_field_is_read() {
        let body =
            "topic=https%3A%2F%2Fe.com%2Fbooks%2F1&topic=/chat/1&data=a%0Ab+c&private&id=urn:x&type=t&retry=7&x=y";
        let form = Form::parse(body).unwrap();
        assert_eq!(
            form,
            Form {
                topics: ["https://e.com/books/1", "/chat/1"].map(|text| Namespace::from_topic(text).unwrap()).to_vec(),
                data: "a\nb c".to_owned(),
                is_private: true,
                id: Some("urn:x".to_owned()),
                event: Some("t".to_owned()),
                retry: Some(7),
            }
        );
        let least = Form::parse("topic=a").unwrap();
        assert_eq!(
            (least.data.as_str(), least.is_private, least.id, least.event, least.retry),
            ("", false, None, None, None)
        );
    }

    #[test]
    fn invalid_fields_are_named() {
        let error = |body: &str| Form::parse(body).unwrap_err().to_string();
        assert_eq!(error("data=x"), "Missing \"topic\" parameter.");
        assert_eq!(error(&"topic=a&".repeat(1001)), "topic: expected at most 1000");
        assert_eq!(error("topic=a&id=%23x"), "id: must not begin with #");
        for id in ["a%0A", "a%0D", "a%00"] {
            assert!(error(&format!("topic=a&id={id}")).starts_with("id: expected at most 512 bytes"), "{id}");
            assert!(error(&format!("topic=a&type={id}")).starts_with("type: expected at most 512 bytes"), "{id}");
        }
        for retry in ["", "-1", "x", "1.5", "99999999999999999999"] {
            assert_eq!(error(&format!("topic=a&retry={retry}")), "retry: expected milliseconds, at most 86400000");
        }
        assert!(error("topic=a%0Ab").starts_with("topic \"a\\nb\": "));
    }

    #[test]
    fn content_type_may_name_a_charset() {
        let check = |value: &'static str| {
            check_content_type(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert!(check("application/x-www-form-urlencoded;charset=UTF-8").is_ok());
        assert!(check("Application/X-WWW-Form-Urlencoded").is_ok());
        assert!(check("application/json").is_err() && check_content_type(&HeaderMap::new()).is_err());
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in "(topic|data|id|type|retry|private|=|&|%[0-9A-Fa-f]{0,2}|.){0,40}") {
            let _ = Form::parse(&body);
        }
    }
}
