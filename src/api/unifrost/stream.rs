//! `GET /events`: the stream of a consumer.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, SERVER};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use http_body_util::Full;
use tallycast_fanout::{Framing, Start, Topics};
use tallycast_server::{Contract, ContractStream, WholeResponse};
use uuid::Uuid;

use super::flavour::{Flavour, error_json};
use super::framing::UnifrostFraming;
use super::{PREFIX, Unifrost, topic};
use crate::api::refusal::Refusal;
use crate::api::session_streams::{SessionRequest, SessionStream, SessionStreams};
use crate::responses::JSON;
use crate::sessions::{SessionSpec, StreamOptions};

/// Names the consumer.
const ID: &str = "id";
/// The topics of a consumer of gochan, separated by commas.
const TOPICS: &str = "topics";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The streams of consumers.
#[derive(Debug)]
pub struct Consumers(pub Unifrost);

impl Contract for Consumers {
    fn matches(&self, request: &Parts) -> bool {
        request.uri.path() == self.0.config.events_path
    }

    fn event_framing(&self) -> Option<Arc<dyn Framing>> {
        Some(Arc::new(UnifrostFraming(self.0.config.flavour)))
    }

    async fn open(&self, request: &Parts, client: IpAddr) -> Result<ContractStream, WholeResponse> {
        let mut stream = self.0.stream(request, client).await.map_err(|refusal| self.0.in_place_of_stream(&refusal))?;
        stream.headers = HeaderMap::from_iter([
            (CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate, pre-check=0, post-check=0")),
            (SERVER, HeaderValue::from_static("unifrost")),
        ]);
        Ok(stream)
    }
}

impl Unifrost {
    async fn stream(&self, request: &Parts, client_ip: IpAddr) -> Result<ContractStream, Refusal> {
        let flavour = self.config.flavour;
        let query = request.uri.query().unwrap_or_default();
        let client = self.client(&request.method, &request.uri, &request.headers).await?;
        // A client of gochan has another id for each of its streams.
        let id = parameter(query, ID).filter(|id| flavour != Flavour::Gochan && !id.is_empty());
        let topics = match flavour {
            Flavour::Gochan => topics(&parameter(query, TOPICS).unwrap_or_default())?,
            Flavour::Unifrost00 | Flavour::Unifrost01 => Topics::none(),
        };
        if self.streams.hook.is_none() {
            client.check(&topics)?;
        }
        if request.method == Method::HEAD {
            return Ok(ContractStream::new(topics));
        }
        let mut spec = SessionSpec::new(topics.clone(), self.config.ttl);
        spec.grant = client.grant.clone();
        let create = id.is_none() || self.config.any_id;
        let name = client.name(&id.unwrap_or_else(|| Uuid::new_v4().to_string()));
        let options = StreamOptions { expires_at: client.expires_at, ..StreamOptions::default() };
        let name = Some(name.into());
        let mut asked =
            SessionRequest { contract: "unifrost", prefix: PREFIX, name, spec, create, arrived: None, options };
        let answer = self.streams.decide(request, client_ip, &mut asked).await?;
        match &answer {
            Some(answer) => SessionStreams::check_requested(answer, &topics)?,
            // Its token decides, in a session of the name that the application knows.
            None if self.streams.hook.is_some() => {
                let client = self.client_of_token(&request.method, &request.uri, &request.headers).await?;
                client.check(&topics)?;
                (asked.spec.grant, asked.options.expires_at) = (client.grant, client.expires_at);
            }
            None => {}
        }
        let opened = self.streams.open_decided(answer, asked).await;
        let SessionStream { name, session } = opened.map_err(|refusal| match refusal {
            Refusal::NotFound(_) => self.unknown_consumer(),
            refusal => refusal,
        })?;
        let mut subscriptions: Vec<String> =
            session.topics.iter().map(|topic| topic::text(&topic.to_string()).to_owned()).collect();
        subscriptions.dedup();
        let mut stream = ContractStream::new(session.topics);
        stream.grant = Some(session.grant);
        stream.start = position(&request.headers).or(session.position).map(Start::After);
        stream.preamble = flavour.first(client.id(&name), self.config.ttl, &subscriptions).into();
        stream.watch = Some(session.watch);
        Ok(stream)
    }

    /// The refusal of a consumer that does not exist.
    pub(super) fn unknown_consumer(&self) -> Refusal {
        let reason = format!("invalid {} id", self.config.flavour.consumer());
        match self.config.flavour {
            Flavour::Unifrost00 => Refusal::BadRequest(reason),
            Flavour::Gochan | Flavour::Unifrost01 => Refusal::unauthorized(reason),
        }
    }

    fn in_place_of_stream(&self, refusal: &Refusal) -> WholeResponse {
        let mut response = refusal.in_place_of_stream();
        if self.config.flavour == Flavour::Gochan {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
            *response.body_mut() = Full::new(error_json(&refusal.line(), None).into());
        }
        response
    }
}

/// A parameter of a query.
fn parameter(query: &str, wanted: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

/// Topics that are separated by commas.
fn topics(list: &str) -> Result<Topics, Refusal> {
    let parse =
        |text: &str| topic::topic(text).map_err(|error| Refusal::BadRequest(format!("topic {text:?}: {error}")));
    let topics: Vec<_> = list.split(',').filter(|text| !text.is_empty()).map(parse).collect::<Result<_, _>>()?;
    if topics.is_empty() {
        return Ok(Topics::none());
    }
    Topics::new(topics).map_err(|error| Refusal::BadRequest(format!("topics: {error}")))
}

/// The id of the last event that a client has, which it sends when it comes back.
fn position(headers: &HeaderMap) -> Option<Box<str>> {
    let id = headers.get(LAST_EVENT_ID)?;
    Some(String::from_utf8_lossy(id.as_bytes()).into_owned()).filter(|id| !id.is_empty()).map(String::into_boxed_str)
}
