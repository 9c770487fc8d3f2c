//! The measurement of one subject: start the program, connect, idle, publish, drain.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use indicatif::{HumanCount, ProgressBar};

use super::{
    LoadArgs,
    client::Client,
    measurement::{IdleMeasurement, LoadMeasurement, Measurement},
    publisher::{self, Plan},
};
use crate::{
    process::{self, Process, Scratch},
    resource_usage, signals,
    streams::Transport,
};

/// The delay before memory is read: allocator and kernel need a moment to release the memory of a burst.
const SETTLE: Duration = Duration::from_secs(2);

/// The interval of process checks and progress updates.
const MONITOR_PERIOD: Duration = Duration::from_millis(100);

/// A measured program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    WriteLoop,
    Tallycast(Transport),
}

impl Subject {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WriteLoop => "write loop",
            Self::Tallycast(transport) => transport.name(),
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
    pub(super) fn measure(self, args: &LoadArgs, redis: &str, scratch: &Scratch) -> Result<Measurement> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, process::free_port()?));
        let mut server = self.start(args, redis, scratch, address)?;
        let mut monitor = Monitor::new(self.name());
        signals::sleep_until(Instant::now() + SETTLE)?;
        let memory_before = server.memory()?;

        let (slow_readers, transport) = match self {
            Self::WriteLoop => (0, Transport::EventStream),
            Self::Tallycast(transport) => (args.slow_readers, transport),
        };
        let connections = args.connections + slow_readers;
        let epoch = Instant::now();
        let mut client = Client::new(address, &args.path, transport, epoch, args.payload_bytes)?;
        let connect_time = client.connect(args.connections, slow_readers, |open| {
            monitor.update(&mut server, || {
                format!("{} of {} connections", HumanCount(open as u64), HumanCount(connections as u64))
            })
        })?;

        let idle_period = if args.idle { Duration::from_secs(args.seconds.into()) } else { SETTLE };
        let idle_since = Instant::now();
        while idle_since.elapsed() < idle_period {
            client.poll_once(idle_period.saturating_sub(idle_since.elapsed()))?;
            monitor.update(&mut server, || format!("{} idle connections", HumanCount(connections as u64)))?;
        }
        let memory_idle = server.memory()?;

        let load =
            if args.idle { None } else { Some(publish(args, redis, epoch, &mut client, &mut server, &mut monitor)?) };
        let (lost, first_error) = client.lost();
        Ok(Measurement {
            subject: self,
            idle: IdleMeasurement::new(connections, connect_time, memory_before, memory_idle),
            load,
            lost,
            first_error: first_error.map(str::to_owned),
            peak_memory: server.memory()?.peak,
            slow: (slow_readers > 0).then(|| client.drain_slow_readers(args.payload_bytes)).transpose()?,
        })
    }

    /// Starts the program and waits until it is ready.
    fn start(self, args: &LoadArgs, redis: &str, scratch: &Scratch, address: SocketAddr) -> Result<Process> {
        match self {
            Self::WriteLoop => {
                let mut command = Command::new(process::this_program()?);
                command
                    .args(["write-loop", "--redis", redis, "--channel", &args.channel])
                    .args(["--port", &address.port().to_string()]);
                let mut server = Process::start(self.name(), &mut command, scratch)?;
                server.wait_until_ready(|| process::accepts(address))?;
                Ok(server)
            }
            Self::Tallycast(_) => {
                let mut command = Command::new(process::tallycast(args.server_bin.as_deref())?);
                command
                    .args(&args.server_args)
                    .env("TALLYCAST_ADDRESS", address.ip().to_string())
                    .env("PORT", address.port().to_string())
                    .env("REDIS_URL", redis);
                let mut server = Process::start(self.name(), &mut command, scratch)?;
                server.wait_until_ready(|| process::answers_ok(address, "/readyz"))?;
                Ok(server)
            }
        }
    }
}

/// Publishes, and reads until all messages are delivered or the time to drain is over.
fn publish(
    args: &LoadArgs,
    redis: &str,
    epoch: Instant,
    client: &mut Client,
    server: &mut Process,
    monitor: &mut Monitor,
) -> Result<LoadMeasurement> {
    let plan = Plan {
        redis: redis.to_owned(),
        channel: args.channel.clone(),
        rate: args.rate,
        duration: Duration::from_secs(args.seconds.into()),
        payload_bytes: args.payload_bytes,
    };
    let readers = args.connections as u64;
    let mut expected = plan.messages() * readers;
    let server_before = server.cpu_time()?;
    let bytes_before = client.bytes();
    let client_before = resource_usage::cpu_time(resource_usage::THIS_THREAD)?;
    let started = epoch.elapsed();

    let mut publisher = Some(publisher::start(plan, epoch)?);
    let mut published = None;
    let mut drain_until = None;
    while client.received().delivered < expected && drain_until.is_none_or(|limit| Instant::now() < limit) {
        client.poll_once(MONITOR_PERIOD)?;
        if let Some(finished) = publisher.take_if(|publisher| publisher.is_finished()) {
            let result = finished.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
            expected = result.messages * readers;
            published = Some(result);
            drain_until = Some(Instant::now() + Duration::from_secs(args.drain_seconds.into()));
        }
        monitor.update(server, || {
            let delivered = client.received().delivered;
            format!("{} of {} deliveries", HumanCount(delivered), HumanCount(expected))
        })?;
    }
    let server_cpu = server.cpu_time()? - server_before;
    let client_cpu = resource_usage::cpu_time(resource_usage::THIS_THREAD)? - client_before;
    let elapsed = epoch.elapsed() - started;
    // The last delivery can precede the last response to the publisher.
    if let Some(publisher) = publisher {
        published = Some(publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??);
    }
    Ok(LoadMeasurement {
        published: published.context("no message was published")?,
        expected,
        received: client.received().clone(),
        delivery_time: client.received().last.saturating_sub(started),
        elapsed,
        bytes: client.bytes() - bytes_before,
        server_cpu,
        client_cpu,
    })
}

/// Checks that the process is alive and shows progress on a terminal, at most every [`MONITOR_PERIOD`].
struct Monitor {
    bar: ProgressBar,
    next: Instant,
}

impl Monitor {
    fn new(name: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_prefix(name);
        bar.set_style(
            indicatif::ProgressStyle::with_template("{spinner} {prefix}: {msg}")
                .unwrap_or_else(|_| indicatif::ProgressStyle::default_spinner()),
        );
        Self { bar, next: Instant::now() }
    }

    fn update(&mut self, server: &mut Process, message: impl FnOnce() -> String) -> Result<()> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + MONITOR_PERIOD;
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
