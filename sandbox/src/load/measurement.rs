//! The measurements of one subject, and the figures derived from them.

use std::time::Duration;

use super::{
    client::{Churned, Received, Roles, SlowReaders},
    publisher::Published,
    sessions::SessionChanges,
    subject::Subject,
    topic_changes::Changed,
    workload::Newest,
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
    pub(super) changed: Option<Changed>,
    pub(super) session_changes: Option<SessionChanges>,
}

/// Measurements before the first message.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleMeasurement {
    /// The time until every connection received its response headers.
    pub(super) connect_time: Duration,
    /// Connections per second of that time.
    pub(super) connect_rate: f64,
    /// CPU time of the process per connection in microseconds, until then.
    pub(super) connect_cpu_us: f64,
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
    /// Deliveries that are due to the readers: all messages of their topics.
    pub(super) expected: u64,
    pub(super) received: Received,
    /// Which of the newest messages the readers have, if older ones may be left out.
    pub(super) conflated: Option<Newest>,
    pub(super) roles: Roles,
    /// Processes that read.
    pub(super) client_processes: usize,
    /// The time until the last delivery.
    pub(super) delivery_time: Duration,
    /// The period of the CPU times.
    pub(super) elapsed: Duration,
    pub(super) server_cpu: CpuTime,
    /// The CPU time of the threads that read.
    pub(super) client_cpu: CpuTime,
    /// The most kernel memory of TCP buffers in bytes, of all programs on this machine.
    pub(super) peak_tcp_buffers: u64,
    /// TCP segments with data that all programs on this machine sent.
    pub(super) segments: u64,
}

impl Measurement {
    /// Computes the CPU time of topic changes from the run `before`, which had none.
    pub(super) fn compare_changes(&mut self, before: Option<&Self>) {
        let (Some(load), Some(before)) = (&self.load, before.and_then(|before| before.load.as_ref())) else { return };
        let (total, without) = (load.server_cpu.total(), before.server_cpu.total());
        if let Some(changed) = &mut self.changed {
            changed.set_cpu(total, without);
        }
        if let Some(changes) = &mut self.session_changes {
            changes.set_cpu(total, without);
        }
    }
}

impl IdleMeasurement {
    /// Computes the figures from the time and CPU time of opening `connections`, and the memory `before` and `after`.
    pub(super) fn new(
        connections: usize,
        (connect_time, cpu): (Duration, CpuTime),
        (before, kernel_before): (Memory, KernelMemory),
        (after, kernel_after): (Memory, KernelMemory),
    ) -> Self {
        let per_connection = |before: u64, after: u64| (after as f64 - before as f64) / connections as f64;
        Self {
            connect_time,
            connect_rate: connections as f64 / connect_time.as_secs_f64(),
            connect_cpu_us: cpu.total().as_secs_f64() * 1e6 / connections as f64,
            user_bytes: per_connection(before.user, after.user),
            resident_bytes: per_connection(before.resident, after.resident),
            kernel_bytes: per_connection(kernel_before.objects, kernel_after.objects),
            tcp_buffer_bytes: per_connection(kernel_before.tcp_buffers, kernel_after.tcp_buffers),
        }
    }
}

impl LoadMeasurement {
    /// The delivered share of the expected deliveries, at most 1. If older messages may be left out: the share of the newest.
    pub(super) fn delivered_fraction(&self) -> f64 {
        match self.conflated {
            Some(newest) => newest.received as f64 / newest.due as f64,
            None => self.received.readers.delivered as f64 / self.expected as f64,
        }
    }

    /// All deliveries. Connections that look at nothing are taken to receive as much as those that do.
    fn deliveries(&self) -> f64 {
        let readers = self.received.readers.delivered as f64;
        let discarding = readers / self.roles.readers as f64 * self.roles.discarding as f64;
        readers + discarding + self.received.churning.delivered as f64
    }

    /// Deliveries per second.
    pub(super) fn delivery_rate(&self) -> f64 {
        let share = (self.roles.readers + self.roles.discarding) as f64 / self.roles.readers as f64;
        self.received.readers.delivered as f64 * share / self.delivery_time.as_secs_f64()
    }

    /// Batches per second and reader: reads of a socket that completed an event. The first comes at once, so that the time is
    /// that of the others.
    pub(super) fn batch_rate(&self) -> f64 {
        (self.received.reads as f64 / self.roles.readers as f64 - 1.0) / self.delivery_time.as_secs_f64()
    }

    /// Bytes read per delivery.
    pub(super) fn bytes_per_delivery(&self) -> f64 {
        self.received.bytes as f64 / self.deliveries()
    }

    /// Deliveries per TCP segment with data. On the loopback interface a write is a segment, unless it is larger than 64 KB or
    /// waits for an earlier one.
    pub(super) fn deliveries_per_segment(&self) -> f64 {
        self.deliveries() / self.segments as f64
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
        time.as_secs_f64() * 1e6 / self.deliveries()
    }

    /// CPU time as the mean number of cores used.
    pub(super) fn cores(&self, time: CpuTime) -> f64 {
        time.total().as_secs_f64() / self.elapsed.as_secs_f64()
    }
}
