//! The measurement of one subject: start the program, connect, idle, publish, drain.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use indicatif::{HumanCount, ProgressBar};

use super::{
    LoadArgs,
    client::Roles,
    measurement::{IdleMeasurement, LoadMeasurement, Measurement},
    publisher::{self, Plan},
    readers::Readers,
    workload::{SYMBOL_ROUTE, Workload},
};
use crate::{
    certificate::Certificate,
    process::{self, Process, Scratch},
    resource_usage::{self, KernelMemory},
    signals,
    streams::Transport,
};

/// The delay before memory is read: allocator and kernel need a moment to release the memory of a burst.
const SETTLE: Duration = Duration::from_secs(2);

/// The interval of process checks and progress updates.
const MONITOR_PERIOD: Duration = Duration::from_millis(100);

/// The bytes of topics that tallycast allows, so that readers on one address have room for their watch-lists.
const TOPIC_BYTES: &str = "4GiB";

/// A measured program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    WriteLoop,
    Tallycast(Stack),
}

/// The protocols of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stack {
    pub(super) transport: Transport,
    pub(super) tls: bool,
    /// The number of streams per connection, with HTTP/2.
    pub(super) http2: Option<usize>,
}

/// What all subjects of a run have in common.
pub(super) struct Setup<'a> {
    pub(super) args: &'a LoadArgs,
    pub(super) redis: &'a str,
    pub(super) scratch: &'a Scratch,
    pub(super) workload: Arc<Workload>,
    pub(super) certificate: Option<Certificate>,
}

impl Stack {
    /// Event streams without compression over HTTP/1.1, without TLS.
    pub(super) const PLAIN: Self = Self { transport: Transport::EventStream, tls: false, http2: None };
}

impl Subject {
    pub(super) fn name(self) -> String {
        match self {
            Self::WriteLoop => "write loop".to_owned(),
            Self::Tallycast(Stack { transport, tls, http2 }) => {
                let http2 = if http2.is_some() { " HTTP/2" } else { "" };
                let tls = if tls { " TLS" } else { "" };
                format!("{}{http2}{tls}", transport.name())
            }
        }
    }

    fn stack(self) -> Stack {
        match self {
            Self::WriteLoop => Stack::PLAIN,
            Self::Tallycast(stack) => stack,
        }
    }

    /// Checks that the program exists.
    ///
    /// # Errors
    /// If the program is missing.
    pub(super) fn check(self, args: &LoadArgs) -> Result<()> {
        match self {
            Self::WriteLoop => Ok(()),
            Self::Tallycast(_) => process::tallycast(args.server_bin.as_deref()).map(drop),
        }
    }

    /// Starts the program and measures it.
    ///
    /// # Errors
    /// If the program does not start, exits or refuses connections, if publishing fails, or if interrupted.
    pub(super) fn measure(self, setup: &Setup<'_>) -> Result<Measurement> {
        let args = setup.args;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, process::free_port()?));
        let mut server = self.start(setup, address)?;
        let mut monitor = Monitor::new(self.name());
        signals::sleep_until(Instant::now() + SETTLE)?;
        let memory_before = (server.memory()?, resource_usage::kernel_memory()?);

        let stack = self.stack();
        let protocol: &[u8] = if stack.http2.is_some() { b"h2" } else { b"http/1.1" };
        let certificate = setup.certificate.as_ref().filter(|_| stack.tls);
        let tls = certificate.map(|certificate| certificate.client(protocol)).transpose()?;
        let mut roles = args.roles();
        if self == Self::WriteLoop {
            roles.slow = 0;
        }
        let epoch = Instant::now();
        let workload = Arc::clone(&setup.workload);
        let mut readers = Readers::new(address, workload, stack, tls, epoch, args.payload_bytes)?;
        let connections = roles.total();
        let connect_time = readers.connect(roles, |open| {
            monitor.update(&mut server, || {
                format!("{} of {} connections", HumanCount(open as u64), HumanCount(connections as u64))
            })
        })?;

        let idle_period = if args.idle { Duration::from_secs(args.seconds.into()) } else { SETTLE };
        let idle_since = Instant::now();
        while idle_since.elapsed() < idle_period {
            readers.poll(idle_period.saturating_sub(idle_since.elapsed()), 0)?;
            monitor.update(&mut server, || format!("{} idle connections", HumanCount(connections as u64)))?;
        }
        let memory_idle = (server.memory()?, resource_usage::kernel_memory()?);

        let load =
            if args.idle { None } else { Some(publish(setup, epoch, roles, &mut readers, &mut server, &mut monitor)?) };
        let (lost, first_error) = readers.lost();
        Ok(Measurement {
            subject: self,
            idle: IdleMeasurement::new(connections, connect_time, memory_before, memory_idle),
            load,
            lost,
            first_error,
            peak_memory: server.memory()?.peak,
            churned: readers.churned(),
            slow: readers.drain_slow_readers(args.payload_bytes)?,
        })
    }

    /// Starts the program and waits until it is ready.
    fn start(self, setup: &Setup<'_>, address: SocketAddr) -> Result<Process> {
        let Setup { args, redis, scratch, workload, certificate } = setup;
        match self {
            Self::WriteLoop => {
                let mut command = Command::new(process::this_program()?);
                command
                    .args(["write-loop", "--redis", redis, "--channel", workload.subscription()])
                    .args(["--port", &address.port().to_string()]);
                let mut server = Process::start(self.name(), &mut command, scratch)?;
                server.wait_until_ready(|| process::accepts(address))?;
                Ok(server)
            }
            Self::Tallycast(stack) => {
                let mut command = Command::new(process::tallycast(args.server_bin.as_deref())?);
                command
                    .args(&args.server_args)
                    .env("TALLYCAST_ADDRESS", address.ip().to_string())
                    .env("PORT", address.port().to_string())
                    .env("REDIS_URL", redis);
                if workload.has_watch_lists() {
                    command
                        .env("TALLYCAST_ROUTES", SYMBOL_ROUTE)
                        .env("TALLYCAST_MAX_TOPIC_BYTES", TOPIC_BYTES)
                        .env("TALLYCAST_MAX_TOPIC_BYTES_PER_ADDRESS", TOPIC_BYTES);
                }
                if let Some(certificate) = certificate.as_ref().filter(|_| stack.tls) {
                    command
                        .env("TALLYCAST_TLS_CERT", &certificate.certificate)
                        .env("TALLYCAST_TLS_KEY", &certificate.key);
                }
                let mut server = Process::start(self.name(), &mut command, scratch)?;
                if stack.tls {
                    // Bound before Redis is subscribed to; the delay before memory is read is longer than that takes.
                    server.wait_until_ready(|| process::accepts(address))?;
                } else {
                    server.wait_until_ready(|| process::answers_ok(address, "/readyz"))?;
                }
                Ok(server)
            }
        }
    }
}

/// Publishes, and reads until all messages are delivered or the time to drain is over.
fn publish(
    setup: &Setup<'_>,
    epoch: Instant,
    roles: Roles,
    readers: &mut Readers,
    server: &mut Process,
    monitor: &mut Monitor,
) -> Result<LoadMeasurement> {
    let Setup { args, redis, workload, .. } = setup;
    let plan = Plan {
        redis: (*redis).to_owned(),
        workload: Arc::clone(workload),
        rate: args.rate,
        duration: Duration::from_secs(args.seconds.into()),
        payload_bytes: args.payload_bytes,
    };
    let mut expected = workload.due(plan.messages(), roles.readers);
    let server_before = server.cpu_time()?;
    let bytes_before = readers.with_received(|received| received.bytes);
    let client_before = resource_usage::cpu_time(resource_usage::THIS_THREAD)?;
    let started = epoch.elapsed();

    let mut publisher = Some(publisher::start(plan, epoch)?);
    let mut published = None;
    let mut drain_until = None;
    let delivered = |readers: &Readers| readers.with_received(|received| received.readers.delivered);
    while delivered(readers) < expected && drain_until.is_none_or(|limit| Instant::now() < limit) {
        readers.poll(MONITOR_PERIOD, args.churn)?;
        if let Some(finished) = publisher.take_if(|publisher| publisher.is_finished()) {
            let result = finished.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
            expected = workload.due(result.messages, roles.readers);
            published = Some(result);
            drain_until = Some(Instant::now() + Duration::from_secs(args.drain_seconds.into()));
        }
        monitor
            .update(server, || format!("{} of {} deliveries", HumanCount(delivered(readers)), HumanCount(expected)))?;
    }
    let server_cpu = server.cpu_time()? - server_before;
    let client_cpu = resource_usage::cpu_time(resource_usage::THIS_THREAD)? - client_before;
    let elapsed = epoch.elapsed() - started;
    // The last delivery can precede the last response to the publisher.
    if let Some(publisher) = publisher {
        published = Some(publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??);
    }
    let mut received = readers.with_received(Clone::clone);
    received.bytes -= bytes_before;
    Ok(LoadMeasurement {
        published: published.context("no message was published")?,
        expected,
        delivery_time: received.readers.last.saturating_sub(started),
        received,
        elapsed,
        server_cpu,
        client_cpu,
        peak_tcp_buffers: monitor.peak_tcp_buffers,
    })
}

/// Checks that the process is alive and shows progress on a terminal, at most every [`MONITOR_PERIOD`].
struct Monitor {
    bar: ProgressBar,
    next: Instant,
    /// The most memory of socket buffers that was seen, in bytes.
    peak_tcp_buffers: u64,
}

impl Monitor {
    fn new(name: String) -> Self {
        let bar = ProgressBar::new_spinner().with_prefix(name);
        bar.set_style(
            indicatif::ProgressStyle::with_template("{spinner} {prefix}: {msg}")
                .unwrap_or_else(|_| indicatif::ProgressStyle::default_spinner()),
        );
        Self { bar, next: Instant::now(), peak_tcp_buffers: 0 }
    }

    fn update(&mut self, server: &mut Process, message: impl FnOnce() -> String) -> Result<()> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + MONITOR_PERIOD;
        let KernelMemory { tcp_buffers, .. } = resource_usage::kernel_memory()?;
        self.peak_tcp_buffers = self.peak_tcp_buffers.max(tcp_buffers);
        self.bar.set_message(message());
        self.bar.tick();
        server.ensure_running()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
