//! The streams: the channels of a request as topics, over Server-Sent Events and WebSocket.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::header::{ACCEPT, ACCESS_CONTROL_REQUEST_METHOD};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use tallycast_fanout::{Framing, Topic, Topics};
use tallycast_server::websocket::Subprotocol;
use tallycast_server::{Contract, ContractStream, WholeResponse};

use super::SendMultiple;
use super::channels::{Channel, channels, mapped};
use super::error::Refusal;
use super::framing;
use super::paths::Place;
use super::status::CHANNEL;

const EVENT_STREAM: &str = "text/event-stream";

/// The event streams.
#[derive(Debug)]
pub struct EventStreams(pub(super) Arc<SendMultiple>);

/// The WebSockets.
#[derive(Debug)]
pub struct WebSockets(pub(super) Arc<SendMultiple>);

impl Contract for EventStreams {
    fn matches(&self, request: &Parts) -> bool {
        let is_read = || matches!(request.method, Method::GET | Method::HEAD);
        match self.0.config.paths.place(request.uri.path()) {
            Some(Place::Events(_)) => is_read(),
            // A preflight request is for either.
            Some(Place::Status) => {
                is_read()
                    && (wants_events(&request.headers) || request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD))
            }
            Some(Place::WebSocket(_)) | None => false,
        }
    }

    fn event_framing(&self) -> Option<Arc<dyn Framing>> {
        Some(framing::events())
    }

    async fn open(&self, request: &Parts, _client: IpAddr) -> Result<ContractStream, WholeResponse> {
        self.0.open(request).await.map_err(|refusal| refusal.response())
    }
}

impl Contract for WebSockets {
    fn matches(&self, request: &Parts) -> bool {
        matches!(request.method, Method::GET | Method::HEAD)
            && matches!(self.0.config.paths.place(request.uri.path()), Some(Place::WebSocket(_)))
    }

    fn websocket_framing(&self, _subprotocol: Subprotocol) -> Option<Arc<dyn Framing>> {
        Some(framing::messages())
    }

    async fn open(&self, request: &Parts, _client: IpAddr) -> Result<ContractStream, WholeResponse> {
        self.0.open(request).await.map_err(|refusal| refusal.response())
    }
}

/// Whether a client asks for an event stream, as a browser's EventSource does.
fn wants_events(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let media_type =
        |range: &str| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(EVENT_STREAM);
    values.flat_map(|value| value.split(',')).any(media_type)
}

impl SendMultiple {
    async fn open(&self, request: &Parts) -> Result<ContractStream, Refusal> {
        let query = request.uri.query().unwrap_or_default();
        // Before anything is said about channels.
        let rights = self.rights(&request.headers, query).await?;
        let channels = self.channels(request.uri.path(), query)?;
        rights.check(&channels)?;
        // A channel alone, not those whose names begin with it.
        let topics = channels.into_iter().map(|channel| Topic::exact(channel.namespace)).collect();
        let mut stream = ContractStream::new(Topics::new(topics).unwrap_or_default());
        stream.grant = rights.into_grant(&stream.topics).map(Arc::new);
        Ok(stream)
    }

    /// The channels of a path that matches, at least one.
    fn channels(&self, path: &str, query: &str) -> Result<Vec<Channel>, Refusal> {
        let max = self.server.borrow().max_topics;
        let names = match self.config.paths.place(path) {
            Some(Place::Events(segments) | Place::WebSocket(segments)) => channels(segments, query, max)?,
            Some(Place::Status) | None => [CHANNEL.to_owned()].into(),
        };
        let routes = self.routes.borrow();
        let mapped = names.iter().map(|name| mapped(&routes, &self.config.channel_prefix, name));
        Ok(mapped.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn event_source_is_known_by_what_it_accepts() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.9", true),
            ("*/*", false),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wants_events(&headers), expected, "{accept}");
        }
        assert!(!wants_events(&HeaderMap::new()));
    }
}
