//! The measurement of one subject: start the program, connect, idle, publish, drain.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use indicatif::{HumanCount, ProgressBar};

use super::{
    LoadArgs,
    client_process::{ClientProcesses, connect_window},
    measurement::{IdleMeasurement, LoadMeasurement, Measurement},
    publisher::{self, Plan, Published},
    readers::{LocalReaders, ReaderResult, ReaderSetup, Readers},
    sessions::{self, SessionChanges},
    tokens,
    workload::{Newest, SYMBOL_ROUTE, Workload},
};
use crate::{
    certificate::Certificate,
    process::{self, Process, Scratch},
    resource_usage::{self, CpuTime, KernelMemory},
    signals,
    streams::Transport,
};

/// The delay before memory is read: allocator and kernel need a moment to release the memory of a burst.
const SETTLE: Duration = Duration::from_secs(2);

/// The interval of process checks and progress updates.
const MONITOR_PERIOD: Duration = Duration::from_millis(100);

/// The bytes of topics that tallycast allows, so that readers on one address have room for their watch-lists.
const TOPIC_BYTES: &str = "4GiB";

/// The number of topics that tallycast allows a reader by default.
const DEFAULT_TOPICS: usize = 64;

/// Fewer connections than tallycast allows by default.
const DEFAULT_CONNECTIONS: usize = 40_000;

/// How many changes of topics per second tallycast allows each client, for each that it makes: several may come at once.
const MESSAGE_RATE_PER_CHANGE: u32 = 10;

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
    /// The readers have a maximum rate.
    pub(super) max_rate: bool,
    /// The readers change their topics.
    pub(super) topic_changes: bool,
    /// The server verifies tokens, and each reader has one.
    pub(super) tokens: bool,
    /// The readers read by the Mercure protocol.
    pub(super) mercure: bool,
    /// The server has sessions, and the connections for these are their streams.
    pub(super) sessions: bool,
    /// A backend changes the topics of the sessions.
    pub(super) session_changes: bool,
}

/// What all subjects of a run have in common.
#[derive(Clone)]
pub(super) struct Setup<'a> {
    pub(super) args: &'a LoadArgs,
    pub(super) redis: &'a str,
    pub(super) scratch: &'a Scratch,
    pub(super) workload: Arc<Workload>,
    pub(super) certificate: Option<Certificate>,
    /// Processes that read.
    pub(super) client_processes: usize,
}

/// What was measured while messages were published.
struct Run {
    published: Published,
    /// Since the epoch.
    started: Duration,
    elapsed: Duration,
    server_cpu: CpuTime,
    segments: u64,
    session_changes: Option<SessionChanges>,
}

impl Stack {
    /// Event streams without compression over HTTP/1.1, without TLS.
    pub(super) const PLAIN: Self = Self {
        transport: Transport::EventStream,
        tls: false,
        http2: None,
        max_rate: false,
        topic_changes: false,
        tokens: false,
        mercure: false,
        sessions: false,
        session_changes: false,
    };
}

impl Subject {
    pub(super) fn name(self) -> String {
        match self {
            Self::WriteLoop => "write loop".to_owned(),
            Self::Tallycast(stack) => {
                let Stack { tls, max_rate, topic_changes, tokens, mercure, sessions, session_changes, .. } = stack;
                let parts = [
                    (stack.http2.is_some(), " HTTP/2"),
                    (tls, " TLS"),
                    (max_rate, " max-rate"),
                    (topic_changes, " topic changes"),
                    (tokens, " tokens"),
                    (mercure, " Mercure"),
                    (sessions, " sessions"),
                    (session_changes, " changes"),
                ];
                let parts = parts.iter().filter(|(is_used, _)| *is_used).map(|(_, name)| *name);
                [stack.transport.name()].into_iter().chain(parts).collect()
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

    /// The readers of this subject at `server`, all in this process. Stamps in messages count from `epoch`.
    ///
    /// # Errors
    /// If the certificate cannot be read.
    pub(super) fn reader_setup(
        self,
        args: &LoadArgs,
        server: SocketAddr,
        workload: Arc<Workload>,
        certificate: Option<&Certificate>,
        epoch: Instant,
    ) -> Result<ReaderSetup> {
        let stack = self.stack();
        let protocol: &[u8] = if stack.http2.is_some() { b"h2" } else { b"http/1.1" };
        let certificate = certificate.filter(|_| stack.tls);
        let mut roles = args.roles();
        if self == Self::WriteLoop {
            (roles.slow, roles.sessions) = (0, 0);
        }
        let max_rate = args.max_rate.as_ref().filter(|_| stack.max_rate);
        Ok(ReaderSetup {
            server,
            workload,
            stack,
            tls: certificate.map(|certificate| certificate.client(protocol)).transpose()?,
            epoch,
            payload_bytes: args.payload_bytes,
            parameter: max_rate.map(|rate| format!("max-rate={rate}")),
            topic_changes: args.topic_changes.filter(|_| stack.topic_changes),
            has_tokens: stack.tokens,
            is_mercure: stack.mercure,
            roles,
            range: 0..roles.total(),
            connect_window: connect_window(1),
        })
    }

    /// Starts the program and measures it. It is subject `place` of the run.
    ///
    /// # Errors
    /// If the program does not start, exits or refuses connections, if publishing fails, or if interrupted.
    pub(super) fn measure(self, setup: &Setup<'_>, place: usize) -> Result<Measurement> {
        let args = setup.args;
        if args.sessions.is_some() {
            sessions::forget(setup.redis)?;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, process::free_port()?));
        let mut server = self.start(setup, address)?;
        let epoch = Instant::now();
        let readers = self.reader_setup(args, address, setup.workload.clone(), setup.certificate.as_ref(), epoch)?;
        let roles = readers.roles;
        let connections = roles.total();
        let sockets = connections.div_ceil(readers.stack.http2.unwrap_or(1));
        resource_usage::check_open_files(&self.name(), sockets as u64, server.open_files_limit()?)?;

        let mut monitor = Monitor::new(self.name());
        signals::sleep_until(Instant::now() + SETTLE)?;
        let memory_before = (server.memory()?, resource_usage::kernel_memory()?);
        let cpu_before = server.cpu_time()?;
        let mut readers = match setup.client_processes {
            1 => Readers::Local(LocalReaders::new(readers)?),
            processes => Readers::Processes(ClientProcesses::start(processes, &readers, place, setup.scratch)?),
        };
        let connect_time = readers.connect(|open| {
            monitor.update(&mut server, || {
                format!("{} of {} connections", HumanCount(open as u64), HumanCount(connections as u64))
            })
        })?;

        let connect_cpu = server.cpu_time()? - cpu_before;
        let idle_period = if args.idle { Duration::from_secs(args.seconds.into()) } else { SETTLE };
        let idle_since = Instant::now();
        while idle_since.elapsed() < idle_period {
            readers.poll(MONITOR_PERIOD.min(idle_period.saturating_sub(idle_since.elapsed())))?;
            monitor.update(&mut server, || format!("{} idle connections", HumanCount(connections as u64)))?;
        }
        let idle = IdleMeasurement::new(
            connections,
            (connect_time, connect_cpu),
            memory_before,
            (server.memory()?, resource_usage::kernel_memory()?),
        );

        let mut run =
            if args.idle { None } else { Some(self.publish(setup, epoch, &mut readers, &mut server, &mut monitor)?) };
        let peak_memory = server.memory()?.peak;
        let ReaderResult { received, newest, cpu, lost, first_error, slow, churned, changed } =
            readers.finish(run.as_ref().map(|run| &run.published))?;
        let session_changes = run.as_mut().and_then(|run| run.session_changes.take());
        let load = run.map(|run| LoadMeasurement {
            expected: match &changed {
                // What is due depends on when topics change.
                Some(changed) => received.readers.delivered + received.readers.missing + changed.lost,
                None => setup.workload.due(run.published.messages, roles.readers),
            },
            delivery_time: received.readers.last.saturating_sub(run.started),
            conflated: self.stack().max_rate.then_some(newest),
            received,
            roles,
            client_processes: setup.client_processes,
            published: run.published,
            elapsed: run.elapsed,
            server_cpu: run.server_cpu,
            client_cpu: cpu,
            peak_tcp_buffers: monitor.peak_tcp_buffers,
            segments: run.segments,
        });
        Ok(Measurement {
            subject: self,
            idle,
            load,
            lost,
            first_error,
            peak_memory,
            slow,
            churned,
            changed,
            session_changes,
        })
    }

    /// Publishes, and reads until all messages are delivered or the time to drain is over.
    fn publish(
        self,
        setup: &Setup<'_>,
        epoch: Instant,
        readers: &mut Readers,
        server: &mut Process,
        monitor: &mut Monitor,
    ) -> Result<Run> {
        let Setup { args, redis, workload, .. } = setup;
        let stack = self.stack();
        let plan = Plan {
            redis: (*redis).to_owned(),
            workload: Arc::clone(workload),
            schedule: args.schedule(args.rate),
            payload_bytes: args.payload_bytes,
            keep_times: stack.topic_changes,
        };
        // Otherwise the readers are done when they have the newest messages.
        let counts_deliveries = !stack.max_rate && !stack.topic_changes;
        let mut expected = workload.due(plan.schedule.total(), args.roles().readers);
        let server_before = server.cpu_time()?;
        let segments_before = resource_usage::segments_sent()?;
        readers.begin()?;
        let started = epoch.elapsed();

        let changes = args.sessions.zip(args.session_changes).filter(|_| stack.session_changes);
        let backend = changes.map(|(sessions, rate)| {
            sessions::start(sessions::Plan {
                redis: (*redis).to_owned(),
                sessions,
                schedule: args.schedule(rate),
                drain: Duration::from_secs(args.drain_seconds.into()),
            })
        });
        let backend = backend.transpose()?;
        let mut publisher = Some(publisher::start(plan, epoch)?);
        let mut published = None;
        let mut drain_until = None;
        let mut is_complete = false;
        let mut next_check = Instant::now();
        while !is_complete && drain_until.is_none_or(|limit| Instant::now() < limit) {
            readers.poll(MONITOR_PERIOD)?;
            if let Some(finished) = publisher.take_if(|publisher| publisher.is_finished()) {
                let result = join(finished)?;
                readers.published(&result)?;
                expected = workload.due(result.messages, args.roles().readers);
                published = Some(result);
                drain_until = Some(Instant::now() + Duration::from_secs(args.drain_seconds.into()));
            }
            let delivered = readers.delivered();
            is_complete = if counts_deliveries {
                delivered >= expected
            } else if Instant::now() < next_check {
                false
            } else {
                next_check = Instant::now() + MONITOR_PERIOD;
                let newest = published.as_ref().map(|published| readers.newest(published));
                newest.is_some_and(|Newest { received, due }| due > 0 && received == due)
            };
            // It has a time limit of its own.
            is_complete &= backend.as_ref().is_none_or(JoinHandle::is_finished);
            monitor.update(server, || format!("{} of {} deliveries", HumanCount(delivered), HumanCount(expected)))?;
        }
        let server_cpu = server.cpu_time()? - server_before;
        let elapsed = epoch.elapsed() - started;
        let segments = resource_usage::segments_sent()? - segments_before;
        // The last delivery can precede the last response to the publisher.
        if let Some(publisher) = publisher {
            let result = join(publisher)?;
            readers.published(&result)?;
            published = Some(result);
        }
        let published = published.context("no message was published")?;
        let session_changes = backend.map(join).transpose()?;
        Ok(Run { published, started, elapsed, server_cpu, segments, session_changes })
    }

    /// Starts the program and waits until it is ready.
    pub(super) fn start(self, setup: &Setup<'_>, address: SocketAddr) -> Result<Process> {
        let Setup { args, redis, scratch, workload, certificate, .. } = setup;
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
                    command.env("TALLYCAST_ROUTES", SYMBOL_ROUTE);
                }
                if let Some(length) = args.watch_lists.filter(|length| *length > DEFAULT_TOPICS) {
                    command.env("TALLYCAST_MAX_TOPICS", length.to_string());
                }
                if workload.has_watch_lists() || args.distinct_topics || args.sessions.is_some() {
                    command
                        .env("TALLYCAST_MAX_TOPIC_BYTES", TOPIC_BYTES)
                        .env("TALLYCAST_MAX_TOPIC_BYTES_PER_ADDRESS", TOPIC_BYTES);
                }
                if let Some(rate) = args.topic_changes {
                    command.env("TALLYCAST_MESSAGE_RATE", (rate * MESSAGE_RATE_PER_CHANGE).to_string());
                }
                if args.roles().total() > DEFAULT_CONNECTIONS {
                    command.env("TALLYCAST_MAX_CONNECTIONS", (args.roles().total() + DEFAULT_CONNECTIONS).to_string());
                }
                if stack.tokens {
                    command.env("TALLYCAST_TOKEN_KEYS", tokens::key_option());
                }
                if stack.mercure {
                    command.env("TALLYCAST_MERCURE", "true");
                }
                if stack.sessions {
                    command.env("TALLYCAST_SESSIONS", "true");
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

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("the publisher or the backend panicked"))?
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
