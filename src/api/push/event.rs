//! What all formats of requests have in common: the events of a request, and why one is rejected for good.

use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header::HeaderName;

use super::seen::EventKey;
use super::signature::STANDARD_ID;
use crate::decode::string_field;

/// The headers that may have the id of a webhook, unless the configuration names one.
const ID_HEADERS: [HeaderName; 3] =
    [STANDARD_ID, HeaderName::from_static("x-github-delivery"), HeaderName::from_static("idempotency-key")];

/// An event of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// The channel that the request names, if the path names none.
    pub(super) channel: Option<String>,
    /// Its id: an event with the same one is the same.
    pub(super) id: Option<EventKey>,
    pub(super) payload: Vec<u8>,
}

/// Why an event would be rejected again however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Rejection {
    pub(super) status: StatusCode,
    pub(super) reason: String,
}

impl Rejection {
    pub(super) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    pub(super) fn bad_request(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }
}

/// Where the id of a webhook stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IdPlace {
    /// In one of the headers that senders commonly use.
    Usual,
    Header(HeaderName),
    /// In this field of the JSON object that is the body.
    Field(String),
}

/// The event of a webhook: the body.
pub(super) fn webhook(headers: &HeaderMap, body: &[u8], place: &IdPlace) -> Event {
    let header = |name: &HeaderName| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let id = match place {
        IdPlace::Usual => ID_HEADERS.iter().find_map(header),
        IdPlace::Header(name) => header(name),
        IdPlace::Field(name) => std::str::from_utf8(body).ok().and_then(|body| string_field(body, name)),
    };
    let id = id.filter(|id| !id.is_empty()).map(|id| EventKey::new(&[&id]));
    Event { channel: None, id, payload: body.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_of_a_webhook_is_where_the_configuration_says() {
        let headers = |names: &[&'static str]| -> HeaderMap {
            names.iter().map(|name| (HeaderName::from_static(name), name.parse().unwrap())).collect()
        };
        let id = |names: &[&'static str], place| webhook(&headers(names), br#"{"id": "evt_1", "n": 1}"#, &place).id;
        let key = |text: &str| Some(EventKey::new(&[text]));
        assert_eq!(id(&["idempotency-key", "webhook-id"], IdPlace::Usual), key("webhook-id"));
        assert_eq!(id(&["x-github-delivery"], IdPlace::Usual), key("x-github-delivery"));
        let own = || IdPlace::Header(HeaderName::from_static("x-id"));
        assert_eq!((id(&["x-id", "webhook-id"], own()), id(&["webhook-id"], own())), (key("x-id"), None));
        let field = |name: &str| id(&["webhook-id"], IdPlace::Field(name.to_owned()));
        assert_eq!((field("id"), field("n"), field("x")), (key("evt_1"), None, None));
    }
}
