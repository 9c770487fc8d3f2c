//! The readers of a subject, over HTTP/1.1 or HTTP/2.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio_rustls::rustls::ClientConfig;

use super::{
    client::{Churned, Client, Received, Roles, SlowReaders},
    http2::Http2Client,
    subject::Stack,
    workload::Workload,
};

/// The readers of a subject.
pub(super) enum Readers {
    Http1(Box<Client>),
    Http2(Box<Http2Client>),
}

impl Readers {
    /// Readers that use `stack`, without connections. Stamps in messages count from `epoch`.
    pub(super) fn new(
        server: SocketAddr,
        workload: Arc<Workload>,
        stack: Stack,
        tls: Option<Arc<ClientConfig>>,
        epoch: Instant,
        payload_bytes: usize,
    ) -> Result<Self> {
        Ok(match stack.http2 {
            None => {
                let client = Client::new(server, workload, stack.transport, tls, epoch, payload_bytes)?;
                Self::Http1(Box::new(client))
            }
            Some(streams) => {
                Self::Http2(Box::new(Http2Client::new(server, workload, streams, tls, epoch, payload_bytes)?))
            }
        })
    }

    /// Opens the connections and returns the time until all have received their response headers.
    ///
    /// # Errors
    /// If a connection fails, or if the time limit expires.
    pub(super) fn connect(&mut self, roles: Roles, on_progress: impl FnMut(usize) -> Result<()>) -> Result<Duration> {
        match self {
            Self::Http1(client) => client.connect(roles, on_progress),
            // The command line allows no other roles.
            Self::Http2(client) => client.connect(roles.readers, on_progress),
        }
    }

    /// Reads for at most `limit`, and then reconnects what is due with `churn` connections per second.
    ///
    /// # Errors
    /// If interrupted, or if polling or reconnecting fails. Failed connections are only counted.
    pub(super) fn poll(&mut self, limit: Duration, churn: usize) -> Result<()> {
        match self {
            Self::Http1(client) => {
                client.poll_once(limit)?;
                if churn > 0 { client.churn(churn) } else { Ok(()) }
            }
            Self::Http2(client) => client.poll_once(limit),
        }
    }

    /// Calls `read` with what was read so far.
    pub(super) fn with_received<T>(&self, read: impl FnOnce(&Received) -> T) -> T {
        match self {
            Self::Http1(client) => read(client.received()),
            Self::Http2(client) => client.with_received(read),
        }
    }

    /// The number of connections that ended early, and the error of the first.
    pub(super) fn lost(&self) -> (usize, Option<String>) {
        match self {
            Self::Http1(client) => {
                let (lost, first_error) = client.lost();
                (lost, first_error.map(str::to_owned))
            }
            Self::Http2(client) => client.lost(),
        }
    }

    /// The result of the connections that left and came back, if there were some.
    pub(super) fn churned(&self) -> Option<Churned> {
        match self {
            Self::Http1(client) => client.churned(),
            Self::Http2(_) => None,
        }
    }

    /// Drains the sockets of the slow readers, if there are some.
    pub(super) fn drain_slow_readers(&mut self, payload_bytes: usize) -> Result<Option<SlowReaders>> {
        match self {
            Self::Http1(client) => {
                let slow = client.drain_slow_readers(payload_bytes)?;
                Ok((slow.count > 0).then_some(slow))
            }
            Self::Http2(_) => Ok(None),
        }
    }
}
