//! Requests to JetStream: its API is JSON in requests and answers
//! (<https://docs.nats.io/reference/reference-protocols/nats_api_reference>).
//!
//! The module of the client library for it hides what a source has to know: when a consumer was lost and made anew, and how much
//! waits in the process.

use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, Request};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Connection, NatsError};

/// How long a consumer lasts without a request for messages.
const INACTIVE: Duration = Duration::from_secs(60);

/// JetStream has refused a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(
        "JetStream does not answer: it is not enabled, in another domain, or without a leader; or no stream has the subject"
    )]
    NoResponders,
    #[error("JetStream: {description}")]
    Refused { code: u32, err_code: u32, description: String },
    #[error("an answer of JetStream is invalid: {0}")]
    Invalid(#[from] serde_json::Error),
}

impl ApiError {
    /// Whether there is no such stream. See `JSStreamNotFoundErr`.
    pub(crate) fn is_stream_missing(&self) -> bool {
        matches!(self, Self::Refused { err_code: 10059, .. })
    }
}

/// The subjects of the API.
#[derive(Debug, Clone)]
pub(crate) struct JetStream {
    prefix: String,
}

/// What is known of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct StreamInfo {
    config: StreamConfig,
    /// When it was created: another stream of this name has another time.
    pub(crate) created: String,
    state: StreamState,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct StreamConfig {
    #[serde(default)]
    subjects: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct StreamState {
    #[serde(default)]
    messages: u64,
    #[serde(default)]
    first_seq: u64,
    #[serde(default)]
    last_seq: u64,
}

impl StreamInfo {
    #[cfg(test)]
    pub(crate) fn new(created: &str, messages: u64, first: u64, last: u64) -> Self {
        let state = StreamState { messages, first_seq: first, last_seq: last };
        Self { config: StreamConfig::default(), created: created.to_owned(), state }
    }

    /// The subjects that it takes messages of, with wildcards. None if it takes them from other streams.
    pub(crate) fn subjects(&self) -> &[String] {
        &self.config.subjects
    }

    /// The number of its newest message, the newest one there ever was; zero if there was none.
    pub(crate) fn last(&self) -> u64 {
        self.state.last_seq
    }

    /// The number of the last message before the first one that is left.
    pub(crate) fn before_first(&self) -> u64 {
        // An empty stream begins after its last message.
        if self.state.messages == 0 { self.state.last_seq } else { self.state.first_seq.saturating_sub(1) }
    }

    /// Messages deleted from among those that are left.
    pub(crate) fn deleted(&self) -> u64 {
        self.last().saturating_sub(self.before_first()).saturating_sub(self.state.messages)
    }
}

/// A consumer, which sends the messages of a stream in their order.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Consumer {
    pub(crate) name: String,
    /// When it was created, by the clock of the server.
    created: String,
    /// Messages of the stream that it will send, so far.
    #[serde(default)]
    pub(crate) num_pending: u64,
    #[serde(default)]
    delivered: Delivered,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Delivered {
    #[serde(default)]
    stream_seq: u64,
}

impl Consumer {
    /// The number of the last message of the stream before those that it sends.
    pub(crate) fn after(&self) -> u64 {
        self.delivered.stream_seq
    }

    /// The time of the server when the consumer was made.
    pub(crate) fn created(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339_weak(&self.created).ok()
    }
}

#[derive(Serialize)]
struct CreateConsumer<'a> {
    stream_name: &'a str,
    config: ConsumerConfig,
}

#[derive(Serialize)]
struct ConsumerConfig {
    #[serde(flatten)]
    from: From,
    ack_policy: &'static str,
    replay_policy: &'static str,
    inactive_threshold: u64,
    mem_storage: bool,
    num_replicas: u8,
}

/// Which message a consumer begins with.
#[derive(Serialize)]
#[serde(tag = "deliver_policy", rename_all = "snake_case")]
enum From {
    ByStartSequence { opt_start_seq: u64 },
    ByStartTime { opt_start_time: String },
}

#[derive(Serialize)]
struct Pull {
    batch: usize,
    max_bytes: usize,
    expires: u64,
    idle_heartbeat: u64,
}

/// The answer to a publication.
#[derive(Debug, Deserialize)]
struct PublishAnswer {
    seq: u64,
}

/// Any answer.
#[derive(Deserialize)]
struct Answer<T> {
    error: Option<Refusal>,
    #[serde(flatten)]
    value: Option<T>,
}

#[derive(Deserialize)]
struct Refusal {
    code: u32,
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl JetStream {
    /// JetStream in this domain.
    pub(crate) fn new(domain: Option<&str>) -> Self {
        Self { prefix: domain.map_or_else(|| "$JS.API".to_owned(), |domain| format!("$JS.{domain}.API")) }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        connection: &Connection,
        subject: &str,
        payload: Vec<u8>,
    ) -> Result<T, NatsError> {
        let request = Request::new().payload(payload.into());
        let answer = connection.request(format!("{}.{subject}", self.prefix), request).await?;
        Ok(read(&answer.payload)?)
    }

    pub(crate) async fn stream(&self, connection: &Connection, stream: &str) -> Result<StreamInfo, NatsError> {
        self.call(connection, &format!("STREAM.INFO.{stream}"), Vec::new()).await
    }

    async fn consumer(&self, connection: &Connection, stream: &str, from: From) -> Result<Consumer, NatsError> {
        let config = ConsumerConfig {
            from,
            ack_policy: "none",
            replay_policy: "instant",
            inactive_threshold: nanoseconds(INACTIVE),
            mem_storage: true,
            num_replicas: 1,
        };
        let request = serde_json::to_vec(&CreateConsumer { stream_name: stream, config }).map_err(ApiError::Invalid)?;
        self.call(connection, &format!("CONSUMER.CREATE.{stream}"), request).await
    }

    /// Makes a consumer of the messages after the one with this number.
    pub(crate) async fn consumer_after(
        &self,
        connection: &Connection,
        stream: &str,
        after: u64,
    ) -> Result<Consumer, NatsError> {
        self.consumer(connection, stream, From::ByStartSequence { opt_start_seq: after.saturating_add(1) }).await
    }

    /// Makes a consumer of the messages since this time by the clock of the server.
    pub(crate) async fn consumer_since(
        &self,
        connection: &Connection,
        stream: &str,
        since: SystemTime,
    ) -> Result<Consumer, NatsError> {
        let opt_start_time = humantime::format_rfc3339_millis(since).to_string();
        self.consumer(connection, stream, From::ByStartTime { opt_start_time }).await
    }

    /// Removes a consumer. Otherwise the server does, after a while.
    pub(crate) async fn remove_consumer(
        &self,
        connection: &Connection,
        stream: &str,
        consumer: &str,
    ) -> Result<(), NatsError> {
        let removed: Result<serde_json::Value, _> =
            self.call(connection, &format!("CONSUMER.DELETE.{stream}.{consumer}"), Vec::new()).await;
        removed.map(drop)
    }

    /// Asks a consumer for messages, which it sends to `inbox` as they come: up to `batch` of them and `max_bytes`, until `expires`
    /// is over. Meanwhile it gives a sign of life every `heartbeat`.
    pub(crate) async fn pull(
        &self,
        connection: &Connection,
        (stream, consumer): (&str, &str),
        inbox: &str,
        (batch, max_bytes): (usize, usize),
        (expires, heartbeat): (Duration, Duration),
    ) -> Result<(), NatsError> {
        let (expires, idle_heartbeat) = (nanoseconds(expires), nanoseconds(heartbeat));
        let pull = Pull { batch, max_bytes, expires, idle_heartbeat };
        let request = serde_json::to_vec(&pull).map_err(ApiError::Invalid)?;
        let subject = format!("{}.CONSUMER.MSG.NEXT.{stream}.{consumer}", self.prefix);
        let sending = connection.client().publish_with_reply(subject, inbox.to_owned(), request.into());
        match tokio::time::timeout(connection.limit(), sending).await {
            Ok(sent) => sent.map_err(|_| NatsError::Closed),
            Err(_) => Err(NatsError::TimedOut(connection.limit())),
        }
    }

    /// Publishes a message in the stream that takes those of `subject`. Returns its number there.
    pub(crate) async fn publish(
        connection: &Connection,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<u64, NatsError> {
        let request = Request::new().headers(headers).payload(payload);
        let answer = connection.request(subject, request).await?;
        Ok(read::<PublishAnswer>(&answer.payload)?.seq)
    }
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ApiError> {
    let answer: Answer<serde_json::Value> = serde_json::from_slice(payload)?;
    if let Some(Refusal { code, err_code, description }) = answer.error {
        return Err(ApiError::Refused { code, err_code, description });
    }
    Ok(serde_json::from_value(answer.value.unwrap_or_default())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let info = r#"{"type":"io.nats.jetstream.api.v1.stream_info_response","config":{"name":"A","subjects":["a.>"]},
            "created":"2026-01-01T00:00:00.123456789Z","state":{"messages":2,"bytes":9,"first_seq":3,"last_seq":5}}"#;
        let info: StreamInfo = read(info.as_bytes()).unwrap();
        assert_eq!((info.before_first(), info.last(), info.deleted()), (2, 5, 1));
        assert_eq!(info.subjects(), ["a.>"]);
        let missing = r#"{"type":"x","error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
        let error = read::<StreamInfo>(missing.as_bytes()).unwrap_err();
        assert!(error.is_stream_missing());
        assert_eq!(error.to_string(), "JetStream: stream not found");
        assert!(matches!(read::<StreamInfo>(b"{}"), Err(ApiError::Invalid(_))));
        assert!(matches!(read::<StreamInfo>(b"+OK"), Err(ApiError::Invalid(_))));
        let consumer = r#"{"name":"c","created":"2026-01-01T00:00:00.5Z","num_pending":4,"delivered":{"consumer_seq":0,"stream_seq":7}}"#;
        let consumer: Consumer = read(consumer.as_bytes()).unwrap();
        assert_eq!((consumer.after(), consumer.num_pending, consumer.created().is_some()), (7, 4, true));
    }

    #[test]
    fn empty_stream_begins_after_its_last_message() {
        assert_eq!(StreamInfo::new("t", 0, 0, 0).before_first(), 0);
        assert_eq!(StreamInfo::new("t", 0, 6, 5).before_first(), 5);
        assert_eq!(StreamInfo::new("t", 1, 1, 1).before_first(), 0);
    }
}
