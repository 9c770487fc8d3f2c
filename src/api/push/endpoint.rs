//! The endpoint of one push source: a request is checked, read, and answered within limits of number, size, rate and time.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{ALLOW, CONTENT_LENGTH, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http_body_util::LengthLimitError;
use percent_encoding::percent_decode_str;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::answer::Answer;
use super::cloudevents::{self, MAX_EVENTS};
use super::config::{Config, Kind, PublishTarget};
use super::credentials::Guard;
use super::delivery::Delivered;
use super::event::{self, Event, Rejection};
use super::options::UrlError;
use super::seen::Seen;
use super::{PushStats, pubsub};
use crate::api::refusal::short_line;
use crate::auth::{AuthStats, KeyServers};
use crate::decode::Routes;
use crate::publishing::Publisher;
use crate::rate_limited_log::RateLimitedLog;
use crate::responses::line;
use crate::source::{PushQueue, SourceId};
use crate::trace::TraceParent;

/// The requests of a source whose events are being delivered.
const MAX_REQUESTS: usize = 64;
/// The requests of a source whose bodies are arriving. More than are delivered at once: a signature is checked when the
/// body is there, so anyone may send one slowly.
const MAX_BODIES: usize = 1024;
/// Time for a body to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// Time for the events of a request to be taken. Less than the ten seconds after which Pub/Sub sends a message again.
const DELIVERY_LIMIT: Duration = Duration::from_secs(8);
/// The headers of a request for permission (CloudEvents web hooks, section 4), and of its answer.
const REQUEST_ORIGIN: &str = "webhook-request-origin";
const ALLOWED_ORIGIN: &str = "webhook-allowed-origin";
const ALLOWED_RATE: &str = "webhook-allowed-rate";

/// A source that has been started.
#[derive(Debug)]
pub struct Started {
    /// Its place among all.
    pub source: SourceId,
    /// Its name.
    pub name: Arc<str>,
    /// Its config, whose files have been read.
    pub config: Config,
    /// Where its events go, unless they are published.
    pub queue: PushQueue,
}

/// What the endpoints of all sources need.
#[derive(Debug)]
pub struct Shared {
    /// What publishes.
    pub publisher: Publisher,
    /// The routes.
    pub routes: watch::Receiver<Routes>,
    /// The size of a request body, in bytes.
    pub max_body: usize,
    /// How the servers of issuers are known, if some source needs them.
    pub key_servers: Option<KeyServers>,
    /// The counters.
    pub stats: Arc<PushStats>,
    /// The counters of tokens.
    pub auth_stats: Arc<AuthStats>,
}

/// The endpoint of a source.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) source: SourceId,
    name: Arc<str>,
    config: Config,
    guard: Guard,
    limiter: DefaultDirectRateLimiter,
    bodies: Semaphore,
    permits: Arc<Semaphore>,
    max_body: usize,
    /// Of requests that were refused, and of events that were rejected.
    logs: [Mutex<RateLimitedLog>; 2],
    stats: Arc<PushStats>,
    pub(super) seen: Seen,
    pub(super) routes: watch::Receiver<Routes>,
    pub(super) destination: Destination,
}

/// Where events go.
#[derive(Debug)]
pub(super) enum Destination {
    /// Into the pipeline of this process: only its readers receive them.
    Pipeline(PushQueue),
    /// To the broker, and from there to every node.
    Broker(Publisher, PublishTarget),
}

impl Endpoint {
    /// The endpoint of a source. In a runtime, because the keys of an issuer are fetched.
    ///
    /// # Errors
    /// A secret is none, or nothing is known of the servers of issuers.
    pub fn start(started: Started, shared: &Shared) -> Result<Self, UrlError> {
        let Started { source, name, config, queue } = started;
        // A batch fits, whatever the rate.
        let burst = u32::try_from(MAX_EVENTS).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
        let destination = match &config.publish {
            None => Destination::Pipeline(queue),
            Some(target) => Destination::Broker(shared.publisher.clone(), target.clone()),
        };
        Ok(Self {
            source,
            name,
            guard: Guard::start(&config, shared.key_servers.as_ref(), &shared.auth_stats)?,
            limiter: RateLimiter::direct(Quota::per_second(config.rate).allow_burst(burst.max(config.rate))),
            bodies: Semaphore::new(MAX_BODIES),
            permits: Arc::new(Semaphore::new(MAX_REQUESTS)),
            max_body: shared.max_body,
            logs: [(); 2].map(|()| Mutex::new(RateLimitedLog::new())),
            stats: Arc::clone(&shared.stats),
            seen: Seen::default(),
            routes: shared.routes.clone(),
            destination,
            config,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Answers a request with events. `channel` is what the path has, percent-encoded.
    pub(super) async fn receive(
        self: &Arc<Self>,
        channel: Option<&str>,
        query: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Response {
        let answer = self.answer(channel, query, headers, body).await.unwrap_or_else(|answer| answer);
        let answer = match answer {
            Answer::Rejected(Rejection { status, reason }) => {
                Answer::Rejected(Rejection { status: self.config.rejected.unwrap_or(status), reason })
            }
            other => other,
        };
        match &answer {
            Answer::Done | Answer::Rejected(_) => {}
            Answer::Refused { reason, .. } => {
                self.stats.refused.add(1);
                let reason = short_line(reason);
                let write =
                    |source: &str, suppressed| tracing::warn!(source, reason, suppressed, "refused a pushed request");
                self.log(&self.logs[0], write);
            }
            Answer::Retry(_) | Answer::TooMany(_) => self.stats.retried.add(1),
        }
        answer.into_response()
    }

    async fn answer(
        self: &Arc<Self>,
        channel: Option<&str>,
        query: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Answer, Answer> {
        let busy = || Answer::Retry("too many requests are under way; try again".to_owned());
        let arriving = self.bodies.try_acquire().map_err(|_| busy())?;
        let checked = self.guard.check(query, headers).await?;
        let body = self.body(headers, body).await?;
        self.guard.check_body(&checked, &body)?;
        // Only now: senders without a valid signature take no place from those that have one.
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| busy())?;
        drop(arriving);
        let decoded = channel.map(|channel| percent_decode_str(channel).decode_utf8()).transpose();
        let decoded = decoded.map_err(|_| Rejection::bad_request("the path is not UTF-8"));
        let (channel, events) =
            decoded.and_then(|channel| Ok((channel, self.events(headers, &body)?))).map_err(|error| {
                self.rejected(1, &error);
                Answer::Rejected(error)
            })?;
        self.take(events.len())?;
        let channel = channel.map(std::borrow::Cow::into_owned);
        let endpoint = Arc::clone(self);
        let trace = headers.get("traceparent").and_then(|parent| TraceParent::sampled(parent.as_bytes()));
        // A task of its own: what was sent on is known to be seen even if the sender does not wait for it.
        let delivery = tokio::spawn(async move {
            let delivered = endpoint.deliver(channel.as_deref(), events, trace).await;
            endpoint.count(&delivered);
            drop(permit);
            delivered
        });
        let delivered = match timeout(DELIVERY_LIMIT, delivery).await {
            Ok(Ok(delivered)) => delivered,
            Ok(Err(_)) | Err(_) => return Err(Answer::Retry("not taken in time; try again".to_owned())),
        };
        Ok(match delivered {
            Delivered { retry: Some(reason), .. } => Answer::Retry(reason),
            // Of a batch that was taken in part, the rest would be rejected again.
            Delivered { taken: 0, duplicates: 0, rejection: Some(rejection), .. } => Answer::Rejected(rejection),
            _ => Answer::Done,
        })
    }

    /// The body, within its limits.
    async fn body(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Answer> {
        let too_large = || {
            let reason = format!("the request body is too large; the limit is {} bytes", self.max_body);
            let rejection = Rejection::new(StatusCode::PAYLOAD_TOO_LARGE, reason);
            self.rejected(1, &rejection);
            Answer::Rejected(rejection)
        };
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|announced| announced > self.max_body) {
            return Err(too_large());
        }
        match timeout(BODY_LIMIT, to_bytes(body, self.max_body)).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(error)) if is_too_large(&error) => Err(too_large()),
            Ok(Err(_)) | Err(_) => Err(Answer::Retry("the request body did not arrive in time".to_owned())),
        }
    }

    /// What a body has.
    fn events(&self, headers: &HeaderMap, body: &[u8]) -> Result<Vec<Result<Event, Rejection>>, Rejection> {
        match self.config.kind {
            Kind::Webhook => Ok(vec![Ok(event::webhook(headers, body, &self.config.id))]),
            Kind::CloudEvents => cloudevents::events(headers, body),
            Kind::PubSub => pubsub::event(headers, body).map(|event| vec![Ok(event)]),
        }
    }

    /// Takes events from what may be pushed now.
    fn take(&self, events: usize) -> Result<(), Answer> {
        let Some(count) = u32::try_from(events).ok().and_then(NonZeroU32::new) else { return Ok(()) };
        match self.limiter.check_n(count) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                Err(Answer::TooMany(not_until.wait_time_from(DefaultClock::default().now()).as_secs() + 1))
            }
            // Impossible: a batch is no larger than the burst.
            Err(_) => Err(Answer::TooMany(1)),
        }
    }

    fn count(&self, delivered: &Delivered) {
        self.stats.received.add(delivered.taken as u64);
        self.stats.duplicates.add(delivered.duplicates as u64);
        if let Some(rejection) = &delivered.rejection {
            self.rejected(delivered.rejected as u64, rejection);
        }
    }

    fn rejected(&self, events: u64, rejection: &Rejection) {
        self.stats.rejected.add(events);
        let reason = short_line(&rejection.reason);
        let write = |source: &str, suppressed| tracing::warn!(source, reason, suppressed, "rejected a pushed event");
        self.log(&self.logs[1], write);
    }

    fn log(&self, log: &Mutex<RateLimitedLog>, write: impl FnOnce(&str, u64)) {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.log(|suppressed| write(&self.name, suppressed));
    }

    /// Answers a request for permission to send. It decides nothing about who may send: it keeps a sender from being used against
    /// servers that expect nothing of it.
    pub(super) fn permission(&self, headers: &HeaderMap) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        if self.config.kind == Kind::CloudEvents
            && let Some(origin) = headers.get(REQUEST_ORIGIN)
        {
            let origins = &self.config.origins;
            if !origins.is_empty() && !origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
                return line(
                    StatusCode::FORBIDDEN,
                    "this origin may not send; origin= of the source names those that may",
                );
            }
            let per_minute = u64::from(self.config.rate.get()) * 60;
            response.headers_mut().insert(ALLOWED_ORIGIN, origin.clone());
            response.headers_mut().insert(ALLOWED_RATE, per_minute.into());
        }
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        response
    }
}

/// Whether a body is too large, and not one that has not arrived.
fn is_too_large(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<LengthLimitError>())
}
