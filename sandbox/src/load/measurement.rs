//! The measurements of one subject, and the figures derived from them.

use std::time::Duration;

use super::{
    client::{Churned, Received, SlowReaders},
    publisher::Published,
    subject::Subject,
};
use crate::resource_usage::{CpuTime, KernelMemory, Memory};

/// The measurements of one subject.
#[derive(Clone, Debug)]
pub(super) struct Measurement {
    pub(super) subject: Subject,
    pub(super) idle: IdleMeasurement,
    /// `None` if only idle connections were measured.
    pub(super) load: Option<LoadMeasurement>,
    /// Connections that ended early, and the error of the first.
    pub(super) lost: usize,
    pub(super) first_error: Option<String>,
    /// The peak resident memory of the process in bytes.
    pub(super) peak_memory: u64,
    pub(super) slow: Option<SlowReaders>,
    pub(super) churned: Option<Churned>,
}

/// Measurements before the first message.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleMeasurement {
    /// The time until every connection received its response headers.
    pub(super) connect_time: Duration,
    /// Private memory of the process in bytes per connection. It includes one-time allocations, so it is meaningful from
    /// about 10,000 connections on.
    pub(super) user_bytes: f64,
    /// Resident memory in bytes per connection.
    pub(super) resident_bytes: f64,
    /// Kernel memory of sockets and other objects in bytes per connection, for both of its ends.
    pub(super) kernel_bytes: f64,
    /// Kernel memory of TCP buffers in bytes per connection, for both of its ends.
    pub(super) tcp_buffer_bytes: f64,
}

/// Measurements from the first message until all messages are delivered or the time to drain is over.
#[derive(Clone, Debug)]
pub(super) struct LoadMeasurement {
    pub(super) published: Published,
    /// Deliveries that are due to the readers.
    pub(super) expected: u64,
    pub(super) received: Received,
    /// The time until the last delivery.
    pub(super) delivery_time: Duration,
    /// The period of the CPU times.
    pub(super) elapsed: Duration,
    pub(super) server_cpu: CpuTime,
    /// The CPU time of the thread that reads.
    pub(super) client_cpu: CpuTime,
    /// The most kernel memory of TCP buffers in bytes, of all programs on this machine.
    pub(super) peak_tcp_buffers: u64,
}

impl IdleMeasurement {
    /// Computes the figures from the memory `before` and `after` opening `connections`.
    pub(super) fn new(
        connections: usize,
        connect_time: Duration,
        (before, kernel_before): (Memory, KernelMemory),
        (after, kernel_after): (Memory, KernelMemory),
    ) -> Self {
        let per_connection = |before: u64, after: u64| (after as f64 - before as f64) / connections as f64;
        Self {
            connect_time,
            user_bytes: per_connection(before.user, after.user),
            resident_bytes: per_connection(before.resident, after.resident),
            kernel_bytes: per_connection(kernel_before.objects, kernel_after.objects),
            tcp_buffer_bytes: per_connection(kernel_before.tcp_buffers, kernel_after.tcp_buffers),
        }
    }
}

impl LoadMeasurement {
    /// The delivered share of the expected deliveries, at most 1.
    pub(super) fn delivered_fraction(&self) -> f64 {
        self.received.readers.delivered as f64 / self.expected as f64
    }

    /// Deliveries per second.
    pub(super) fn delivery_rate(&self) -> f64 {
        self.received.readers.delivered as f64 / self.delivery_time.as_secs_f64()
    }

    /// Bytes read per delivery.
    pub(super) fn bytes_per_delivery(&self) -> f64 {
        self.received.bytes as f64 / self.received.deliveries() as f64
    }

    /// Deliveries per read of a socket. The server has written at least as often, unless it wrote while the readers were busy.
    pub(super) fn deliveries_per_read(&self) -> f64 {
        self.received.deliveries() as f64 / self.received.reads as f64
    }

    /// Messages per second.
    pub(super) fn publish_rate(&self) -> f64 {
        self.published.messages as f64 / self.published.elapsed.as_secs_f64()
    }

    /// A latency quantile in microseconds.
    pub(super) fn latency_us(&self, quantile: f64) -> f64 {
        self.received.readers.latency.value_at_quantile(quantile) as f64
    }

    /// CPU time per delivery in microseconds.
    pub(super) fn us_per_delivery(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.received.deliveries() as f64
    }

    /// CPU time as the mean number of cores used.
    pub(super) fn cores(&self, time: CpuTime) -> f64 {
        time.total().as_secs_f64() / self.elapsed.as_secs_f64()
    }
}
