//! What was measured of one subject, and the figures that follow from it.

use std::time::Duration;

use super::{
    client::SlowReaders,
    publisher::Published,
    received::Received,
    subject::Subject,
    usage::{CpuTime, Memory},
};

/// All of one subject.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) subject: Subject,
    pub(super) idle: IdleFigures,
    /// Nothing when only idle connections were measured.
    pub(super) load: Option<LoadFigures>,
    /// Connections that ended before their time, and why the first of them did.
    pub(super) lost: usize,
    pub(super) first_loss: Option<String>,
    /// The most resident memory the process ever had, in bytes.
    pub(super) peak_memory: u64,
    pub(super) slow: Option<SlowReaders>,
}

/// Before anything was published.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleFigures {
    /// Until every connection had its response head.
    pub(super) connect_time: Duration,
    /// Memory of the process alone, in bytes a connection. What a process allocates once, on its first connections, is
    /// in it: the figure means something from some 10,000 connections on.
    pub(super) user_bytes: f64,
    /// All resident memory, in bytes a connection.
    pub(super) resident_bytes: f64,
}

/// From the first message published until all is delivered or given up.
#[derive(Clone, Debug)]
pub(super) struct LoadFigures {
    pub(super) published: Published,
    /// Messages times readers.
    pub(super) expected: u64,
    pub(super) received: Received,
    /// Until the last delivery.
    pub(super) delivering: Duration,
    /// Bytes read by all readers, with all that frames the messages.
    pub(super) bytes: u64,
    /// Until the CPU times were read.
    pub(super) took: Duration,
    pub(super) server_cpu: CpuTime,
    /// Of the thread that reads.
    pub(super) client_cpu: CpuTime,
}

impl IdleFigures {
    /// `before` and `after` `connections` were opened.
    pub(super) fn new(connections: usize, connect_time: Duration, before: Memory, after: Memory) -> Self {
        let per_connection = |before: u64, after: u64| (after as f64 - before as f64) / connections as f64;
        Self {
            connect_time,
            user_bytes: per_connection(before.user, after.user),
            resident_bytes: per_connection(before.resident, after.resident),
        }
    }
}

impl LoadFigures {
    /// 1 when nothing is missing.
    pub(super) fn delivered_fraction(&self) -> f64 {
        self.received.delivered as f64 / self.expected as f64
    }

    /// Deliveries a second.
    pub(super) fn delivery_rate(&self) -> f64 {
        self.received.delivered as f64 / self.delivering.as_secs_f64()
    }

    /// Bytes read for one delivery.
    pub(super) fn bytes_per_delivery(&self) -> f64 {
        self.bytes as f64 / self.received.delivered as f64
    }

    /// Messages a second.
    pub(super) fn publish_rate(&self) -> f64 {
        self.published.messages as f64 / self.published.took.as_secs_f64()
    }

    /// The latency that this share of the deliveries does not exceed, in microseconds.
    pub(super) fn latency_us(&self, quantile: f64) -> f64 {
        self.received.latency.value_at_quantile(quantile) as f64
    }

    /// The server's time for one delivery, in microseconds.
    pub(super) fn us_per_delivery(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.received.delivered as f64
    }

    /// How many cores a CPU time is.
    pub(super) fn cores(&self, time: CpuTime) -> f64 {
        time.total().as_secs_f64() / self.took.as_secs_f64()
    }
}
