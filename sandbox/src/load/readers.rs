//! The readers of a subject, over HTTP/1.1 or HTTP/2, in this process or in several of their own.

use std::{
    net::SocketAddr,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::ClientConfig;

use super::{
    client::{Churned, Client, Received, Roles, SlowReaders},
    client_process::ClientProcesses,
    http2::Http2Client,
    publisher::Published,
    sessions,
    subject::Stack,
    tokens,
    topic_changes::Changed,
    workload::{Newest, Workload},
};
use crate::resource_usage::{self, CpuTime};

/// The longest wait of a poll while topics change.
const CHANGE_POLL: Duration = Duration::from_millis(1);

/// The path of the Mercure protocol.
const MERCURE_PATH: &str = "/.well-known/mercure";

/// What the readers of a process read, and how.
#[derive(Clone, Debug)]
pub(super) struct ReaderSetup {
    pub(super) server: SocketAddr,
    pub(super) workload: Arc<Workload>,
    pub(super) stack: Stack,
    /// The connections are encrypted.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Stamps in messages count from here.
    pub(super) epoch: Instant,
    pub(super) payload_bytes: usize,
    /// A parameter for the query of each path.
    pub(super) parameter: Option<String>,
    /// Changes of topics per second and connection.
    pub(super) topic_changes: Option<u32>,
    /// Each reader has a token.
    pub(super) has_tokens: bool,
    /// They read by the Mercure protocol.
    pub(super) is_mercure: bool,
    /// The connections of all processes.
    pub(super) roles: Roles,
    /// Those of this process.
    pub(super) range: Range<usize>,
    /// How many connections may wait for their response headers at a time.
    pub(super) connect_window: usize,
}

impl ReaderSetup {
    /// The path and query that connection `index` requests.
    pub(super) fn path(&self, index: usize) -> String {
        if let Some(session) = self.roles.session(index) {
            return if self.stack.sessions { sessions::path(session) } else { sessions::plain_path(session) };
        }
        if self.is_mercure {
            let topics: Vec<String> =
                self.workload.topics(index).iter().map(|topic| format!("topic={topic}")).collect();
            return format!("{MERCURE_PATH}?{}", topics.join("&"));
        }
        let path = self.workload.path(index);
        match &self.parameter {
            Some(parameter) if path.contains('?') => format!("{path}&{parameter}"),
            Some(parameter) => format!("{path}?{parameter}"),
            None => path.into_owned(),
        }
    }

    /// The token that connection `index` sends, if readers have tokens.
    pub(super) fn token(&self, index: usize) -> Option<String> {
        self.has_tokens.then(|| tokens::token(index, &self.workload.readable(index), self.is_mercure))
    }
}

/// The readers of a subject.
pub(super) enum Readers {
    Local(LocalReaders),
    Processes(ClientProcesses),
}

/// The result of the readers of a process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReaderResult {
    /// What was read. Bytes are those since messages are published.
    pub(super) received: Received,
    /// Which of the newest messages were received.
    pub(super) newest: Newest,
    /// The CPU time of the thread that reads, since messages are published.
    pub(super) cpu: CpuTime,
    /// Connections that ended early, and the error of the first.
    pub(super) lost: usize,
    pub(super) first_error: Option<String>,
    pub(super) slow: Option<SlowReaders>,
    pub(super) churned: Option<Churned>,
    /// Only of readers in this process.
    #[serde(skip)]
    pub(super) changed: Option<Changed>,
}

impl Readers {
    /// Opens the connections and returns the time until all have received their response headers. `on_progress` is called from
    /// time to time with the number of these.
    ///
    /// # Errors
    /// If a connection fails, or if the time limit expires.
    pub(super) fn connect(&mut self, on_progress: impl FnMut(usize) -> Result<()>) -> Result<Duration> {
        match self {
            Self::Local(readers) => readers.connect(on_progress),
            Self::Processes(processes) => processes.connect(on_progress),
        }
    }

    /// Starts to measure, and to reconnect and to change topics.
    ///
    /// # Errors
    /// If a client process has exited.
    pub(super) fn begin(&mut self) -> Result<()> {
        match self {
            Self::Local(readers) => readers.begin(),
            Self::Processes(processes) => processes.begin(),
        }
    }

    /// Stops what [`begin`](Self::begin) started, because no messages follow.
    ///
    /// # Errors
    /// If a client process has exited.
    pub(super) fn published(&mut self, published: &Published) -> Result<()> {
        match self {
            Self::Local(readers) => {
                readers.end();
                Ok(())
            }
            Self::Processes(processes) => processes.published(published.messages),
        }
    }

    /// Reads for at most `limit`.
    ///
    /// # Errors
    /// If interrupted, if polling or reconnecting fails, or if a client process has exited. Failed connections are only
    /// counted.
    pub(super) fn poll(&mut self, limit: Duration) -> Result<()> {
        match self {
            Self::Local(readers) => readers.poll(limit),
            Self::Processes(processes) => processes.poll(limit),
        }
    }

    /// Messages delivered to the readers so far.
    pub(super) fn delivered(&self) -> u64 {
        match self {
            Self::Local(readers) => readers.delivered(),
            Self::Processes(processes) => processes.delivered(),
        }
    }

    /// Which of the newest messages the readers have, once all of `published` are.
    pub(super) fn newest(&self, published: &Published) -> Newest {
        match self {
            Self::Local(readers) => readers.newest(published),
            Self::Processes(processes) => processes.newest(),
        }
    }

    /// The result at the end of the run.
    ///
    /// # Errors
    /// If interrupted, or if a client process has exited.
    pub(super) fn finish(self, published: Option<&Published>) -> Result<ReaderResult> {
        match self {
            Self::Local(readers) => readers.finish(published),
            Self::Processes(processes) => processes.finish(),
        }
    }
}

/// The readers in this process.
pub(super) struct LocalReaders {
    client: ProtocolClient,
    /// The CPU time of this thread when messages began.
    cpu_before: CpuTime,
    /// Whether connections reconnect and change topics.
    is_active: bool,
    changes_topics: bool,
}

enum ProtocolClient {
    Http1(Box<Client>),
    Http2(Box<Http2Client>),
}

impl LocalReaders {
    /// Readers without connections.
    ///
    /// # Errors
    /// If the client cannot be started.
    pub(super) fn new(setup: ReaderSetup) -> Result<Self> {
        let changes_topics = setup.topic_changes.is_some();
        let client = match setup.stack.http2 {
            None => ProtocolClient::Http1(Box::new(Client::new(setup)?)),
            Some(streams) => ProtocolClient::Http2(Box::new(Http2Client::new(setup, streams)?)),
        };
        Ok(Self { client, cpu_before: CpuTime::default(), is_active: false, changes_topics })
    }

    pub(super) fn connect(&mut self, on_progress: impl FnMut(usize) -> Result<()>) -> Result<Duration> {
        match &mut self.client {
            ProtocolClient::Http1(client) => client.connect(on_progress),
            ProtocolClient::Http2(client) => client.connect(on_progress),
        }
    }

    pub(super) fn begin(&mut self) -> Result<()> {
        match &mut self.client {
            ProtocolClient::Http1(client) => client.reset_bytes(),
            ProtocolClient::Http2(client) => client.reset_bytes(),
        }
        self.is_active = true;
        self.cpu_before = resource_usage::cpu_time(resource_usage::THIS_THREAD)?;
        Ok(())
    }

    pub(super) fn end(&mut self) {
        self.is_active = false;
    }

    pub(super) fn poll(&mut self, limit: Duration) -> Result<()> {
        match &mut self.client {
            ProtocolClient::Http1(client) if self.is_active => {
                client.poll_once(if self.changes_topics { limit.min(CHANGE_POLL) } else { limit })?;
                client.change_topics()?;
                client.churn()
            }
            ProtocolClient::Http1(client) => client.poll_once(limit),
            ProtocolClient::Http2(client) => client.poll_once(limit),
        }
    }

    pub(super) fn delivered(&self) -> u64 {
        self.with_received(|received| received.readers.delivered)
    }

    pub(super) fn newest(&self, published: &Published) -> Newest {
        match &self.client {
            ProtocolClient::Http1(client) => client.newest(published),
            ProtocolClient::Http2(client) => client.newest(published.messages),
        }
    }

    pub(super) fn finish(mut self, published: Option<&Published>) -> Result<ReaderResult> {
        let cpu = resource_usage::cpu_time(resource_usage::THIS_THREAD)? - self.cpu_before;
        let newest = published.map(|published| self.newest(published)).unwrap_or_default();
        let received = self.with_received(Clone::clone);
        Ok(match &mut self.client {
            ProtocolClient::Http1(client) => {
                let (lost, first_error) = client.lost();
                let first_error = first_error.map(str::to_owned);
                let (churned, changed) = (client.churned(), published.and_then(|published| client.changed(published)));
                let slow = client.drain_slow_readers()?;
                let slow = (slow.count > 0).then_some(slow);
                ReaderResult { received, newest, cpu, lost, first_error, slow, churned, changed }
            }
            ProtocolClient::Http2(client) => {
                let (lost, first_error) = client.lost();
                ReaderResult { received, newest, cpu, lost, first_error, slow: None, churned: None, changed: None }
            }
        })
    }

    fn with_received<T>(&self, read: impl FnOnce(&Received) -> T) -> T {
        match &self.client {
            ProtocolClient::Http1(client) => read(client.received()),
            ProtocolClient::Http2(client) => client.with_received(read),
        }
    }
}

impl ReaderResult {
    /// Adds the result of another process.
    ///
    /// # Errors
    /// If latencies cannot be added.
    pub(super) fn add(&mut self, other: Self) -> Result<()> {
        self.received.add(&other.received)?;
        self.newest += other.newest;
        self.cpu = self.cpu + other.cpu;
        self.lost += other.lost;
        self.first_error = self.first_error.take().or(other.first_error);
        match (&mut self.slow, other.slow) {
            (Some(slow), Some(other)) => slow.add(&other)?,
            (slow, other) => *slow = slow.take().or(other),
        }
        match (&mut self.churned, other.churned) {
            (Some(churned), Some(other)) => churned.add(&other),
            (churned, other) => {
                *churned = churned.take().or(other);
                Ok(())
            }
        }
    }
}
