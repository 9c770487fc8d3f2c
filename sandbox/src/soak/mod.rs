//! `sandbox soak`: runs tallycast for a long time with clients that come and go, and fails if anything grows.
//!
//! A run consists of rounds. In a round, clients of every transport come and go while a feeder publishes and the broker is
//! killed from time to time. At the end of a round all clients leave and the feeder stops: what the server uses then, at
//! the quiet point, must not grow from round to round.

mod behavior;
mod checks;
mod client;
mod counters;
mod endpoint;
mod fleet;
mod report;
mod server;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum, builder::RangedU64ValueParser};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;

use self::{
    checks::QuietPoint,
    counters::Counters,
    server::{Kind, Sample, Server},
};
use crate::{
    process::{self, Process, Redis, Scratch},
    resource_usage, signals,
};

/// How long the broker is down after it was killed.
const BROKER_DOWNTIME: Duration = Duration::from_secs(1);

/// The time limit for everything to work again at the end of a round: broker, subscriptions, clients and events.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// The share of the clients that must be connected at the end of a round; others are just coming or going.
const CONNECTED_SHARE: f64 = 0.8;

/// The time limit for streams, feeds and descriptors to disappear after their clients.
const QUIET_LIMIT: Duration = Duration::from_secs(60);

/// The interval of process checks and progress updates.
const MONITOR_PERIOD: Duration = Duration::from_millis(200);

/// Descriptors of this program per client, and then some for connections that are being closed.
const FILES_PER_CLIENT: u64 = 2;

/// Run tallycast with clients that come and go, and fail if memory, descriptors, feeds or CPU use grow
///
/// Starts a private Redis, a feeder, and one tallycast server without and one with TLS. Clients use event streams (plain,
/// gzip, zstd), WebSocket (JSON, raw, changing topics) and HTTP/2 with several streams; some never read. The time is
/// divided into rounds. After each round all clients leave and the feeder stops; what each server uses then is compared
/// with the first round. All traffic stays on the loopback interface.
///
/// Exits with 1 if anything grew, if a server exited, if a client that reads was failed by the server, or if events were
/// lost or refused.
#[derive(Args, Clone, Debug)]
pub(crate) struct SoakArgs {
    /// Time with clients, such as 60s or 1h, divided into --rounds
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    time: Duration,

    /// Number of rounds; the first is the baseline
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=1_000))]
    rounds: u32,

    /// Number of clients, divided among the servers
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = RangedU64ValueParser::<usize>::new().range(2..=20_000))]
    connections: usize,

    /// Clients that leave and are replaced per second
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    churn: u32,

    /// Percentage of clients that never read
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=90))]
    stalled: u8,

    /// Updates published per second, each of which is two events
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,

    /// Kill the broker at this interval, and restart it empty after a second
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    kill_every: Duration,

    /// Print a line per server at this interval
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    report_every: Duration,

    /// Time without clients before memory and CPU use are compared
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    settle: Duration,

    /// Servers to run
    #[arg(long, value_enum, default_value_t = Servers::Both)]
    servers: Servers,

    /// Seed of clients and updates
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// The tallycast binary to run [default: the one next to this program]
    #[arg(long, value_name = "FILE")]
    server_bin: Option<PathBuf>,

    /// Additional arguments for tallycast
    #[arg(last = true, value_name = "TALLYCAST ARGUMENT")]
    server_args: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Servers {
    /// One without and one with TLS
    Both,
    /// Without TLS only
    Plain,
    /// With TLS only
    Tls,
}

impl Servers {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Both => &[Kind::Plain, Kind::Tls],
            Self::Plain => &[Kind::Plain],
            Self::Tls => &[Kind::Tls],
        }
    }
}

impl SoakArgs {
    fn clients_per_server(&self) -> usize {
        self.connections / self.servers.kinds().len()
    }

    /// How long a client stays on average, so that `churn` of all clients leave per second.
    fn mean_lifetime(&self) -> Duration {
        Duration::from_secs_f64(self.connections as f64 / f64::from(self.churn))
    }
}

/// Runs all rounds, and prints what the servers used to standard output.
///
/// # Errors
/// If a check fails, a program is missing, a process exits, or the run is interrupted.
pub(crate) fn run(args: &SoakArgs) -> Result<()> {
    let program = process::tallycast(args.server_bin.as_deref())?;
    resource_usage::allow_open_files(args.connections as u64 * FILES_PER_CLIENT)?;
    signals::install()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;

    // Dropped in reverse order, also on errors: the servers, Redis, the directory with their logs.
    let scratch = Scratch::create()?;
    let redis = Redis::start(&scratch).context("Redis is required: install redis-server")?;
    let servers = args
        .servers
        .kinds()
        .iter()
        .map(|kind| {
            let server = Server::start(*kind, args, &program, &redis.url(), &scratch, &runtime)?;
            Watched::new(server, &runtime)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut soak = Soak {
        args,
        runtime: &runtime,
        output: Output::new(args.time)?,
        redis,
        servers,
        busy: Duration::ZERO,
        kills: 0,
        scratch: &scratch,
    };
    soak.output.print(report::HEADING)?;
    for _ in 0..args.rounds {
        soak.round()?;
    }
    soak.verdict()
}

/// A run.
struct Soak<'a> {
    args: &'a SoakArgs,
    runtime: &'a Runtime,
    output: Output,
    redis: Redis,
    servers: Vec<Watched>,
    /// The time with clients in all completed rounds.
    busy: Duration,
    /// How often the broker was killed.
    kills: u32,
    scratch: &'a Scratch,
}

/// A server and what was measured of it.
struct Watched {
    server: Server,
    /// The last sample, and the events that the clients had received.
    last: (Sample, u64),
    /// Before the first client.
    fresh: QuietPoint,
    /// After each round.
    quiet: Vec<QuietPoint>,
}

impl Watched {
    fn new(mut server: Server, runtime: &Runtime) -> Result<Self> {
        let sample = server.sample(runtime)?;
        let fresh = QuietPoint::new(&sample, &sample)?;
        Ok(Self { server, last: (sample, 0), fresh, quiet: Vec::new() })
    }
}

impl Soak<'_> {
    /// Runs clients, feeder and outages for the time of a round, and then measures the quiet point after it.
    fn round(&mut self) -> Result<()> {
        let mut feeder = self.start_feeder()?;
        for watched in &mut self.servers {
            watched.server.resize(self.args.clients_per_server());
            watched.last = (watched.server.sample(self.runtime)?, watched.server.clients().events.get());
        }
        let length = self.args.time / self.args.rounds;
        let started = Instant::now();
        let mut next_report = self.args.report_every;
        while started.elapsed() < length {
            signals::sleep_until((started + length).min(Instant::now() + MONITOR_PERIOD))?;
            self.monitor(&mut feeder)?;
            self.output.advance(self.busy + started.elapsed());
            if self.busy + started.elapsed() >= self.args.kill_every * (self.kills + 1) {
                self.redis.kill_and_restart(BROKER_DOWNTIME, self.scratch)?;
                self.kills += 1;
            }
            if started.elapsed() >= next_report {
                self.report(self.busy + started.elapsed())?;
                next_report = started.elapsed() + self.args.report_every;
            }
        }
        self.busy += length;
        self.recover(&mut feeder)?;
        self.report(self.busy)?;
        for watched in &self.servers {
            watched.server.resize(0);
        }
        drop(feeder);
        self.quiet_point()
    }

    fn start_feeder(&self) -> Result<Process> {
        let mut command = Command::new(process::this_program()?);
        command.args(["feed", "--redis", &self.redis.url()]).args([
            "--rate",
            &self.args.rate.to_string(),
            "--seed",
            &self.args.seed.to_string(),
        ]);
        Process::start("feeder", &mut command, self.scratch)
    }

    /// Checks that all processes are running.
    fn monitor(&mut self, feeder: &mut Process) -> Result<()> {
        feeder.ensure_running()?;
        self.servers.iter_mut().try_for_each(|watched| watched.server.ensure_running())
    }

    /// Prints a line for each server.
    fn report(&mut self, time: Duration) -> Result<()> {
        for Watched { server, last, .. } in &mut self.servers {
            let sample = server.sample(self.runtime)?;
            let events = server.clients().events.get();
            let name = server.kind.name();
            self.output.print(&report::busy_line(time, name, &last.0, &sample, events - last.1, server.clients())?)?;
            *last = (sample, events);
        }
        Ok(())
    }

    /// Waits until every server is subscribed, its clients are connected, and they receive events.
    fn recover(&mut self, feeder: &mut Process) -> Result<()> {
        let deadline = Instant::now() + RECOVERY_LIMIT;
        let expected = (self.args.clients_per_server() as f64 * CONNECTED_SHARE) as u64;
        for number in 0..self.servers.len() {
            let mut events_when_ready = None;
            loop {
                let server = &self.servers[number].server;
                let (open, events) = (server.clients().open(), server.clients().events.get());
                if events_when_ready.is_none() && server.is_ready(self.runtime) {
                    events_when_ready = Some(events);
                }
                if open >= expected && events_when_ready.is_some_and(|before| events > before) {
                    break;
                }
                ensure!(
                    Instant::now() < deadline,
                    "{} did not recover within {} s: {}, {open} of {} clients are connected (first failure: {})",
                    server.kind.name(),
                    RECOVERY_LIMIT.as_secs(),
                    if events_when_ready.is_some() {
                        "subscribed to the broker"
                    } else {
                        "not subscribed to the broker"
                    },
                    self.args.clients_per_server(),
                    server.clients().first_failure().as_deref().unwrap_or("none"),
                );
                self.monitor(feeder)?;
                signals::sleep_until(Instant::now() + MONITOR_PERIOD)?;
            }
        }
        Ok(())
    }

    /// Waits until everything that belonged to clients is gone, and measures what is left.
    fn quiet_point(&mut self) -> Result<()> {
        let deadline = Instant::now() + QUIET_LIMIT;
        for watched in &mut self.servers {
            loop {
                let sample = watched.server.sample(self.runtime)?;
                let usage = QuietPoint::new(&sample, &sample)?;
                if usage.has_returned_to(&watched.fresh) || Instant::now() >= deadline {
                    break;
                }
                signals::sleep_until(Instant::now() + MONITOR_PERIOD)?;
            }
        }
        signals::sleep_until(Instant::now() + self.args.settle)?;
        for watched in &mut self.servers {
            watched.last.0 = watched.server.sample(self.runtime)?;
        }
        signals::sleep_until(Instant::now() + self.args.settle)?;
        for Watched { server, last, quiet, .. } in &mut self.servers {
            let usage = QuietPoint::new(&last.0, &server.sample(self.runtime)?)?;
            self.output.print(&report::quiet_line(self.busy, server.kind.name(), &usage))?;
            quiet.push(usage);
        }
        Ok(())
    }

    /// Prints the quiet points, and what has grown or was lost.
    fn verdict(mut self) -> Result<()> {
        let mut failures = Vec::new();
        self.output.print("\nwithout clients, at the start and after each round:")?;
        self.output.print(&report::HEADING[..report::QUIET_COLUMNS])?;
        let round = self.args.time / self.args.rounds;
        for Watched { server, fresh, quiet, .. } in &mut self.servers {
            let name = server.kind.name();
            for (number, usage) in (0_u32..).zip([&*fresh].into_iter().chain(&*quiet)) {
                self.output.print(&report::quiet_line(round * number, name, usage))?;
            }
            if let [first, .., last] = &quiet[..] {
                failures.extend(checks::growth(fresh, first, last).into_iter().map(|line| format!("{name}: {line}")));
            }
            let losses = checks::losses(&server.sample(self.runtime)?)?;
            failures.extend(losses.into_iter().map(|line| format!("{name}: {line}")));
            let failed = server.clients().failed.get();
            if let Some(first) = server.clients().first_failure() {
                failures.push(format!("{name}: {failed} clients failed; the first: {first}"));
            }
        }
        let sum = |counter: fn(&Counters) -> u64| -> u64 {
            self.servers.iter().map(|watched| counter(watched.server.clients())).sum()
        };
        let clients = sum(|clients| clients.opened.get());
        let unavailable = sum(|clients| clients.unavailable.get());
        let summary = format!(
            "\n{clients} clients came and went; the broker was killed {} times; {unavailable} streams were unavailable meanwhile",
            self.kills
        );
        self.output.print(&summary)?;
        for failure in &failures {
            self.output.print(&format!("FAILED {failure}"))?;
        }
        if failures.is_empty() {
            return Ok(());
        }
        bail!(
            "the soak failed: {}",
            if failures.len() == 1 { "1 check".to_owned() } else { format!("{} checks", failures.len()) }
        )
    }
}

/// Lines on standard output, above a progress bar on standard error if that is a terminal.
struct Output(ProgressBar);

impl Output {
    fn new(time: Duration) -> Result<Self> {
        let style = ProgressStyle::with_template("{bar:30} {elapsed} of {prefix}").context("cannot show progress")?;
        let bar = ProgressBar::new(time.as_secs()).with_style(style);
        Ok(Self(bar.with_prefix(humantime::format_duration(time).to_string())))
    }

    fn advance(&self, time: Duration) {
        self.0.set_position(time.as_secs());
    }

    fn print(&self, line: &str) -> Result<()> {
        self.0.suspend(|| writeln!(io::stdout(), "{line}")).context("cannot print")
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Parses a time of at least one second.
fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        _ => Err("expected a time of at least 1s, such as 90s or 1h".to_owned()),
    }
}
