//! The parsers of pushed requests, for the fuzz target only: `cargo fuzz` sets `cfg(fuzzing)`.

use std::time::{Duration, UNIX_EPOCH};

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, HeaderValue};

use super::config::Config;
use super::event::{Event, IdPlace, webhook};
use super::signature::{Scheme, Signatures};
use super::{cloudevents, pubsub};

/// The channels and payloads of a request whose headers have these values, by all formats.
pub fn events(content_type: &str, attribute: &str, body: &[u8]) -> Vec<(Option<String>, Vec<u8>)> {
    let header = |name, value: &str| Some((HeaderName::from_static(name), HeaderValue::from_str(value).ok()?));
    let names = ["ce-specversion", "ce-id", "ce-source", "ce-type", "x-goog-pubsub-subscription-name", "webhook-id"];
    let mut headers: HeaderMap = names.into_iter().filter_map(|name| header(name, attribute)).collect();
    headers.extend(header("content-type", content_type));
    let mut events: Vec<Event> =
        cloudevents::events(&headers, body).unwrap_or_default().into_iter().flatten().collect();
    events.extend(pubsub::event(&headers, body));
    headers.extend(header("x-goog-pubsub-message-id", attribute));
    events.extend(pubsub::event(&headers, body));
    events.extend([IdPlace::Usual, IdPlace::Field("id".to_owned())].map(|place| webhook(&headers, body, &place)));
    events.into_iter().map(|event| (event.channel, event.payload)).collect()
}

/// Whether a signature counts that nobody can have made.
pub fn is_signed(header: &str, timestamp: &str, body: &[u8]) -> bool {
    let Ok(value) = HeaderValue::from_str(header) else { return false };
    let Ok(timestamp) = HeaderValue::from_str(timestamp) else { return false };
    [Scheme::Hex, Scheme::Base64, Scheme::Standard, Scheme::Stripe].into_iter().any(|scheme| {
        let name = scheme.default_header().unwrap_or(HeaderName::from_static("x-signature"));
        let secret = b"a secret of the fuzz target".to_vec();
        let signatures = Signatures::new(scheme, name.clone(), &[secret], Duration::from_secs(300));
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("webhook-id"), timestamp.clone()),
            (HeaderName::from_static("webhook-timestamp"), timestamp.clone()),
            (name, value.clone()),
        ]);
        let signed = signatures.read(&headers, UNIX_EPOCH + Duration::from_secs(1000));
        signed.is_ok_and(|signed| signatures.check(&signed, body).is_ok())
    })
}

/// Reads a URL of a source. Returns the line of the error, and the URL as it is shown.
pub fn url(text: &str) -> (Option<String>, String) {
    (Config::parse(text).err().map(|error| error.to_string()), Config::shown(text))
}
