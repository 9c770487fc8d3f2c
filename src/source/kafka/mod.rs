//! Events from Kafka: topics as channels, and as streams with positions.
//!
//! Every node reads all partitions, from offsets that the source itself keeps: no group is joined and nothing is committed, so there is
//! nothing to rebalance. A record is passed on before its place is, and waits for room, so no receipts are needed: what is lost with
//! the process is read again by the next one.
//!
//! Every two seconds, and at the start of a session, a look asks the leader of each partition which records it has. That finds what
//! was deleted before it was read, topics that were created again, and leaders that are frozen; it also gives the lag. Every fifth look
//! asks for topics and partitions that are new.

mod client;
mod config;
mod progress;
mod record;
#[cfg(test)]
mod tests;
mod topics;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{BoxError, Capabilities, Emitter, PipelineClosed, Selector, SessionEnd, Source, StreamKey};
use crate::rate_limited_log::RateLimitedLog;
use client::{Answer, Client, ClientError};
use topics::{Followed, TooMany, Topics, Wanted};

pub use config::{Config, UrlError};
pub(crate) use progress::entry as entry_of;

/// The time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The time before a look that failed is repeated.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Records taken before anything else is looked at.
const BATCH: usize = 256;
/// Every look of this number asks for the names of all topics.
const NAMES_EVERY: u32 = 5;

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{error}: {reason}")]
    Brokers { error: Box<ClientError>, reason: String },
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error(transparent)]
    PipelineClosed(#[from] PipelineClosed),
}

/// Kafka as a [`Source`].
#[derive(Debug)]
pub struct KafkaSource {
    config: Config,
    selectors: watch::Receiver<Vec<Selector>>,
    streams: watch::Receiver<Vec<StreamKey>>,
    topics: Topics,
    /// The topics whose lag is known to others.
    with_lag: BTreeSet<Arc<str>>,
}

impl KafkaSource {
    /// A source of the records of topics that any of `selectors` matches, and of `streams`, which may change.
    pub fn new(
        config: Config,
        selectors: watch::Receiver<Vec<Selector>>,
        streams: watch::Receiver<Vec<StreamKey>>,
    ) -> Self {
        Self { config, selectors, streams, topics: Topics::default(), with_lag: BTreeSet::new() }
    }

    fn update_wanted(&mut self) {
        let wanted = Wanted::new(&self.selectors.borrow_and_update(), &self.streams.borrow_and_update());
        self.topics.want(wanted);
    }

    fn is_needless(&self) -> bool {
        self.selectors.borrow().is_empty() && self.streams.borrow().is_empty()
    }
}

impl Source for KafkaSource {
    fn address(&self) -> String {
        self.config.to_string()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::LOG
    }

    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        if self.is_needless() {
            let (mut selectors, mut streams) = (self.selectors.clone(), self.streams.clone());
            let is_needed = emitter.idle(async {
                tokio::select! {
                    Ok(_) = selectors.wait_for(|selectors| !selectors.is_empty()) => true,
                    Ok(_) = streams.wait_for(|streams| !streams.is_empty()) => true,
                    else => false,
                }
            });
            if !is_needed.await {
                return Ok(SessionEnd::Finished);
            }
        }
        self.update_wanted();
        self.topics.move_all();
        let session = Session {
            client: Client::open(&self.config)?,
            source: &mut *self,
            look: None,
            looks: 0,
            look_at: Instant::now(),
            is_connected: false,
            failing_since: None,
            log: RateLimitedLog::new(),
        };
        let error = session.run(emitter).await;
        for event in self.topics.interrupt() {
            emitter.send(event).await?;
        }
        // Not only those that are still read: others may have gone since the last look.
        for topic in std::mem::take(&mut self.with_lag) {
            emitter.stats().lag.forget(&topic);
        }
        Err(error.into())
    }
}

/// One client.
struct Session<'a> {
    source: &'a mut KafkaSource,
    client: Client,
    /// The look that is under way, and when it was begun.
    look: Option<(JoinHandle<Result<Answer, ClientError>>, Instant)>,
    /// The number of looks that have found something.
    looks: u32,
    /// When the next one is due.
    look_at: Instant,
    /// The cluster has answered.
    is_connected: bool,
    /// When the first one was begun of those that failed since the last one that did not.
    failing_since: Option<Instant>,
    log: RateLimitedLog,
}

/// Why a session's loop woke.
enum LoopEvent<'a> {
    Received(KafkaResult<BorrowedMessage<'a>>),
    Looked(Result<Answer, ClientError>, Instant),
    LookDue,
    RoutesChanged,
}

impl Session<'_> {
    /// Reads until the cluster is away.
    async fn run(mut self, emitter: &mut Emitter) -> SessionError {
        loop {
            if let Err(error) = self.turn(emitter).await {
                return match error {
                    SessionError::Client(error) if !self.client.reason().is_empty() => {
                        SessionError::Brokers { error: Box::new(error), reason: self.client.reason() }
                    }
                    error => error,
                };
            }
        }
    }

    async fn turn(&mut self, emitter: &mut Emitter) -> Result<(), SessionError> {
        let Self { source, client, look, look_at, .. } = self;
        let event = tokio::select! {
            biased;
            // These fail when the sender is gone, which disables the branch.
            Ok(()) = source.selectors.changed() => LoopEvent::RoutesChanged,
            Ok(()) = source.streams.changed() => LoopEvent::RoutesChanged,
            (answer, begun_at) = async {
                match look {
                    Some((look, begun_at)) => (look.await.unwrap_or(Err(ClientError::Ended)), *begun_at),
                    None => std::future::pending().await,
                }
            } => LoopEvent::Looked(answer, begun_at),
            () = tokio::time::sleep_until(*look_at), if look.is_none() => LoopEvent::LookDue,
            received = client.receive() => LoopEvent::Received(received),
        };
        match event {
            LoopEvent::Received(received) => {
                let mut next = Some(received);
                let mut taken = 0;
                while let Some(received) = next {
                    match received {
                        Ok(record) => receive(&mut source.topics, &record, emitter).await?,
                        Err(error) => return self.fail(error),
                    }
                    taken += 1;
                    // One that is received has to be passed on.
                    next = if taken < BATCH { client.try_receive() } else { None };
                }
            }
            LoopEvent::RoutesChanged => {
                source.update_wanted();
                // With the names of all topics. A look that is under way does not know of the change.
                (self.looks, self.look_at, self.look) = (0, Instant::now(), None);
            }
            LoopEvent::LookDue => {
                let with_names = self.looks.is_multiple_of(NAMES_EVERY);
                self.look = Some((self.client.ask(self.source.topics.ask(with_names)), Instant::now()));
            }
            LoopEvent::Looked(answer, begun_at) => {
                self.look = None;
                match answer {
                    Ok(answer) => return self.follow(answer, emitter).await,
                    Err(error) => {
                        let since = *self.failing_since.get_or_insert(begun_at);
                        if since.elapsed() >= self.source.config.timeout() {
                            return Err(error.into());
                        }
                        tracing::debug!(%error, "a look at the topics failed");
                        // With the names of all topics: one may be gone.
                        (self.looks, self.look_at) = (0, Instant::now() + RETRY_INTERVAL);
                    }
                }
            }
        }
        Ok(())
    }

    /// Follows what a look has found.
    async fn follow(&mut self, mut answer: Answer, emitter: &mut Emitter) -> Result<(), SessionError> {
        (self.failing_since, self.is_connected) = (None, true);
        self.looks = self.looks.wrapping_add(1);
        self.look_at = Instant::now() + LOOK_INTERVAL;
        if let Some(error) = answer.failed.take() {
            // One whose start is still unknown keeps the source from being ready.
            self.log.log(|suppressed| tracing::warn!(%error, suppressed, "nothing new is known of some topics"));
        }
        let KafkaSource { topics, with_lag, .. } = &mut *self.source;
        let Followed { events, gaps, too_many } = topics.follow(answer, Instant::now());
        emitter.stats().stream_gaps.add(gaps);
        // Before anything can fail: the topics are taken to have them already, so no later look has them again.
        for event in events {
            emitter.send(event).await?;
        }
        if let Some(error) = too_many {
            return Err(error.into());
        }
        if let Some(assignment) = topics.take_assignment() {
            self.client.assign(&assignment)?;
            // They were those of the assignment before.
            drop(self.client.take_ends());
        }
        for (topic, partition, end) in self.client.take_ends() {
            if let Some(current) = topics.pass(&topic, partition, end) {
                emitter.send(current).await?;
            }
        }
        let mut gone = std::mem::take(with_lag);
        for (topic, lag) in topics.lags() {
            emitter.stats().lag.set(topic, lag);
            gone.remove(topic);
            with_lag.insert(Arc::clone(topic));
        }
        for topic in gone {
            emitter.stats().lag.forget(&topic);
        }
        if topics.is_current() {
            emitter.subscribed();
        }
        Ok(())
    }

    /// What follows from an error that came in place of a record. librdkafka connects again by itself.
    fn fail(&mut self, error: KafkaError) -> Result<(), SessionError> {
        let code = error.rdkafka_error_code();
        match code {
            // It goes on to connect, until the first look fails.
            Some(RDKafkaErrorCode::AllBrokersDown) if !self.is_connected => {}
            Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::Authentication | RDKafkaErrorCode::Fatal) => {
                return Err(ClientError::from(error).into());
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed) => {
                return Err(ClientError::from(error).into());
            }
            // The look finds out why, and librdkafka stops to read where it says so.
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                self.source.topics.move_all();
                self.look_at = self.look_at.min(Instant::now() + RETRY_INTERVAL);
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                self.looks = 0;
                self.look_at = self.look_at.min(Instant::now() + RETRY_INTERVAL);
            }
            _ => {
                self.log.log(|suppressed| tracing::debug!(%error, suppressed, "an error of a broker"));
            }
        }
        if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            return Err(ClientError::from(error).into());
        }
        Ok(())
    }
}

/// Passes on what a record is.
async fn receive(topics: &mut Topics, record: &BorrowedMessage<'_>, emitter: &mut Emitter) -> Result<(), SessionError> {
    let (topic, partition) = (record.topic(), record.partition());
    let Some(placed) = topics.take(topic, partition, record.offset()) else { return Ok(()) };
    let entry = placed
        .entry
        .and_then(|(stream, sequence, id, is_backlog)| record::of_stream(record, stream, sequence, id, is_backlog));
    let event = if placed.is_event { record::of_channel(record) } else { None };
    for event in entry.into_iter().chain(event) {
        emitter.send(event).await?;
    }
    let (is_settled, current) = topics.settle(topic, partition);
    if let Some(current) = current {
        emitter.send(current).await?;
    }
    if is_settled && topics.is_current() {
        emitter.subscribed();
    }
    Ok(())
}
