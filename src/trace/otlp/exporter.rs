//! The task that sends traces to the collector: in batches, with repetitions, from a bounded queue.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::super::TraceStats;
use super::super::record::Record;
use super::{Config, encode};
use crate::http_client::pool::{Pool, pool};
use crate::rate_limited_log::RateLimitedLog;

/// Traces that wait for the collector.
const QUEUED: usize = 1024;
/// Traces in one request.
const BATCH: usize = 128;
/// The longest time that a trace waits for others before it is sent.
const DELAY: Duration = Duration::from_secs(1);
/// Time for the collector to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Time for everything that waits to be sent at the shutdown.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Attempts to send a batch, and the pause after the first, which doubles.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes of an answer that are read, so that its connection can be used again.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The queue in front of the collector.
#[derive(Debug)]
pub(in super::super) struct Exporter {
    queue: mpsc::Sender<Record>,
    task: JoinHandle<()>,
    /// Traces that were handed over, and are neither exported nor lost.
    pending: Arc<AtomicU64>,
    stats: Arc<TraceStats>,
}

/// Why the collector has not taken a batch.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("no answer within {ANSWER_LIMIT:?}")]
    Timeout,
    #[error("cannot connect, or the connection ended: {0}")]
    Connection(String),
    #[error("the collector answered {0}")]
    Status(StatusCode),
    #[error("the request cannot be built")]
    Request,
}

impl ExportError {
    /// The innermost error has the reason.
    fn connection(mut error: &dyn Error) -> Self {
        while let Some(source) = error.source() {
            error = source;
        }
        Self::Connection(error.to_string())
    }

    /// Whether another attempt may help, by the specification of OTLP.
    fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout | Self::Connection(_) => true,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Request => false,
        }
    }
}

impl Exporter {
    /// Starts the task. After `closing` there is one attempt for each batch.
    pub(in super::super) fn start(
        config: Config,
        node: &str,
        stats: Arc<TraceStats>,
        closing: CancellationToken,
    ) -> Self {
        let (queue, records) = mpsc::channel(QUEUED);
        let resource = encode::resource(&config, node);
        let pending = Arc::<AtomicU64>::default();
        let client = Client {
            pool: pool(config.tls.clone()),
            config,
            resource,
            pending: Arc::clone(&pending),
            stats: Arc::clone(&stats),
            closing,
        };
        Self { queue, task: tokio::spawn(client.run(records)), pending, stats }
    }

    /// Hands over a trace, or counts it as lost if too many wait.
    pub(in super::super) fn export(&self, record: Record) {
        // Before the task can have it.
        self.pending.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(record).is_err() {
            self.pending.fetch_sub(1, Ordering::Relaxed);
            self.stats.dropped.add(1);
        }
    }

    /// Sends what waits, within two seconds. What the collector does not take in that time is lost.
    pub(in super::super) async fn close(self) {
        let Self { queue, task, pending, stats } = self;
        drop(queue);
        let mut task = AbortOnDropHandle::new(task);
        if timeout(CLOSE_LIMIT, &mut task).await.is_err() {
            task.abort();
            // Until then it may count.
            let _ = task.await;
            stats.dropped.add(pending.load(Ordering::Relaxed));
            tracing::warn!("the collector did not take the last traces in time");
        }
    }
}

struct Client {
    config: Config,
    pool: Pool,
    resource: Value,
    pending: Arc<AtomicU64>,
    stats: Arc<TraceStats>,
    closing: CancellationToken,
}

impl Client {
    async fn run(self, mut records: mpsc::Receiver<Record>) {
        let mut log = RateLimitedLog::new();
        let mut batch = Vec::with_capacity(BATCH);
        while records.recv_many(&mut batch, BATCH).await > 0 {
            let due = Instant::now() + DELAY;
            while batch.len() < BATCH
                && !self.closing.is_cancelled()
                && let Ok(1..) = timeout_at(due, self.more(&mut records, &mut batch)).await
            {}
            let body = Bytes::from(encode::request(&self.resource, &batch));
            let count = batch.drain(..).count() as u64;
            let outcome = self.send(body).await;
            self.pending.fetch_sub(count, Ordering::Relaxed);
            match outcome {
                Ok(()) => self.stats.exported.add(count),
                Err(error) => {
                    self.stats.dropped.add(count);
                    log.log(|suppressed| {
                        tracing::warn!(%error, suppressed, "cannot export traces; events are not affected");
                    });
                }
            }
        }
    }

    /// Waits for more traces. Returns zero when there will be none, or when all are to be sent now.
    async fn more(&self, records: &mut mpsc::Receiver<Record>, batch: &mut Vec<Record>) -> usize {
        let room = BATCH - batch.len();
        tokio::select! {
            count = records.recv_many(batch, room) => count,
            () = self.closing.cancelled() => 0,
        }
    }

    async fn send(&self, body: Bytes) -> Result<(), ExportError> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            match self.attempt(body.clone()).await {
                Err(error) if error.is_retryable() && attempt < ATTEMPTS && !self.closing.is_cancelled() => {
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.closing.cancelled() => {}
                    }
                    pause *= 2;
                }
                outcome => return outcome,
            }
        }
        Ok(())
    }

    async fn attempt(&self, body: Bytes) -> Result<(), ExportError> {
        let mut request = Request::post(&self.config.url).body(Full::new(body)).map_err(|_| ExportError::Request)?;
        let headers = request.headers_mut();
        headers.extend(self.config.headers.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tallycast/", env!("CARGO_PKG_VERSION"))));
        let exchange = async {
            let response = self.pool.request(request).await.map_err(|error| ExportError::connection(&error))?;
            let status = response.status();
            // What it says of spans that it has rejected is for its own log.
            let _ = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            if status.is_success() { Ok(()) } else { Err(ExportError::Status(status)) }
        };
        timeout(ANSWER_LIMIT, exchange).await.unwrap_or(Err(ExportError::Timeout))
    }
}
