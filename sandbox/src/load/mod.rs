//! `sandbox load`: measures tallycast with many readers, compared with a minimal baseline.
//!
//! One run measures two or three subjects in turn, on the same machine with the same readers, messages and Redis: the write
//! loop (the baseline), tallycast with plain event streams, and tallycast with other protocols if some were given. Their
//! ratios matter, because absolute figures depend on the machine.

mod client;
mod client_process;
mod delivery;
mod http2;
mod link;
mod measurement;
mod publisher;
mod readers;
mod record;
mod report;
mod resume;
mod schedule;
mod sessions;
mod subject;
mod tokens;
mod topic_changes;
mod workload;
mod write_loop;

use std::{
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum, builder::RangedU64ValueParser};

pub(crate) use self::client_process::{LoadClientArgs, run_client};
pub(crate) use self::write_loop::{WriteLoopArgs, run_write_loop};
use self::{
    client::Roles,
    measurement::Measurement,
    schedule::Schedule,
    subject::{Setup, Stack, Subject},
    workload::Workload,
};
use crate::{
    certificate::Certificate,
    process::{Redis, Scratch},
    resource_usage::{self, OTHER_FILES},
    signals,
    streams::{
        Coding, Subprotocol, Transport,
        stamp::{MAX_MESSAGES, STAMP_BYTES},
    },
};

/// The Redis channel that tallycast's default routes map to `/subscribe/raw`.
const DEFAULT_CHANNEL: &str = "stream.score_updates";

/// The time limit for connecting to Redis and for each response.
const REDIS_LIMIT: Duration = Duration::from_secs(5);

/// The most changes of sessions in a run, so that those without an outcome fit into memory.
const MAX_SESSION_CHANGES: u64 = 10_000_000;

/// Measure tallycast with many readers, compared with a plain write(2) loop
///
/// Starts a private Redis and then measures each subject in turn: starts it, opens the connections, lets them idle,
/// publishes at an even rate, and reads every event on every connection. Prints connect time, memory per idle
/// connection, deliveries, latency from publish to read, server CPU time per delivery, and the ratio of each figure to
/// the baseline. --ws, --compression, --tls, --http2 and --max-rate add a subject, which is also compared with plain event
/// streams; the subject of --tokens is compared with the same without tokens, and that of --sessions with plain streams of the
/// same topics. All traffic stays on the loopback interface, from as many addresses of 127.0.0.0/8 as the ports require. Kernel
/// memory and TCP segments are those of the whole machine.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    /// Number of connections that read
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    connections: usize,

    /// Number of additional connections that read and look at nothing, to spare the client's CPU. They are taken to receive what
    /// the others do
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1_000_000))]
    #[arg(conflicts_with_all = ["ws", "http2", "watch_lists"])]
    discarding: usize,

    /// Number of additional connections that never read (tallycast only: they would block the write loop)
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1_000_000))]
    slow_readers: usize,

    /// Number of additional connections that are each the stream of a session of its own, over Server-Sent Events, and look at
    /// nothing (tallycast only). The subject before has plain streams of the same topics instead. Redis is emptied before
    /// each subject
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    #[arg(conflicts_with_all = ["ws", "http2", "max_rate", "topic_changes", "resume", "tokens", "mercure", "redis"])]
    sessions: Option<usize>,

    /// Measure sessions whose topics a backend changes too, this many times per second, through the list of commands in Redis. Each
    /// change gives the next session in turn another topic, on which nothing is published. The subject before is the same
    /// without changes; CPU per change is what the run takes more
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    #[arg(requires = "sessions", conflicts_with = "idle")]
    session_changes: Option<u32>,

    /// Messages published per second
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,

    /// Seconds to publish messages, or to hold the connections with --idle
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,

    /// Seconds to wait for outstanding deliveries afterwards
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    drain_seconds: u32,

    /// Bytes per payload; the first 25 are the sequence number and the time
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = RangedU64ValueParser::<usize>::new().range(STAMP_BYTES as u64..=65_536))]
    payload_bytes: usize,

    /// Publish nothing: measure only connect time and memory per idle connection
    #[arg(long)]
    idle: bool,

    /// Path that the readers subscribe to; it must deliver each message once and unchanged
    #[arg(long, default_value = "/subscribe/raw", value_parser = request_path)]
    path: String,

    /// Redis channel to publish to
    #[arg(long, default_value = DEFAULT_CHANNEL)]
    channel: String,

    /// Watch-lists: each connection reads its own N symbols, chosen at random but alike in every run. Each message is for one
    /// of the M symbols of --of
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000))]
    #[arg(conflicts_with_all = ["path", "channel"])]
    watch_lists: Option<usize>,

    /// Symbols that watch-lists choose from
    #[arg(long, value_name = "M", default_value_t = 1_000, value_parser = RangedU64ValueParser::<usize>::new().range(1..=65_536))]
    #[arg(requires = "watch_lists")]
    of: usize,

    /// Give each connection another topic, too, that only it reads and on which nothing is published, so that no two connections
    /// have the same topics
    #[arg(long, conflicts_with = "watch_lists")]
    distinct_topics: bool,

    /// Measure readers with a maximum rate of batches too, such as 2/s. Older messages may be left out; delivered is the
    /// share of the readers and topics whose newest message arrived
    #[arg(long, value_name = "RATE", value_parser = max_rate)]
    max_rate: Option<String>,

    /// Measure watch-lists that change too: each connection replaces one of its symbols this many times per second. CPU per
    /// change is what the run takes more than the one before, which is the same without changes
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..=100))]
    #[arg(requires = "watch_lists", requires = "ws")]
    #[arg(conflicts_with_all = ["http2", "max_rate", "idle", "slow_readers", "churn"])]
    topic_changes: Option<u32>,

    /// Clients that come back: all connections connect at once when N messages have been published, and ask for these by
    /// Last-Event-ID, while others read live. Measures how long that takes, and what it does to those
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1000")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    #[arg(conflicts_with_all = ["discarding", "slow_readers", "idle", "path", "watch_lists", "distinct_topics", "max_rate"])]
    #[arg(conflicts_with_all = ["churn", "subject", "ws", "compression", "tls", "http2", "client_processes"])]
    resume: Option<u64>,

    /// Number of connections that read live meanwhile
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    #[arg(requires = "resume")]
    live_readers: usize,

    /// Number of processes that read [default: as few as the limit of open files allows]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    #[arg(conflicts_with = "topic_changes")]
    client_processes: Option<usize>,

    /// Number of additional connections that leave and come back once a second, one after another, while messages are
    /// published
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=100_000))]
    churn: usize,

    /// Use this Redis (loopback only) instead of starting one
    #[arg(long, value_name = "URL", value_parser = loopback_redis)]
    redis: Option<String>,

    /// The tallycast binary to measure [default: the one next to this program]
    #[arg(long, value_name = "FILE")]
    server_bin: Option<PathBuf>,

    /// Subjects to measure
    #[arg(long, value_enum, default_value_t = Subjects::All)]
    subject: Subjects,

    /// Measure WebSocket too. JSON messages, or with =raw the payload only
    #[arg(long, value_enum, value_name = "SUBPROTOCOL", num_args = 0..=1, require_equals = true, default_missing_value = "json")]
    #[arg(conflicts_with_all = ["compression", "http2"])]
    ws: Option<Subprotocol>,

    /// Measure compressed event streams too
    #[arg(long, value_enum, value_name = "CODING", conflicts_with = "http2")]
    compression: Option<Coding>,

    /// Measure TLS too, with a self-signed certificate that openssl makes
    #[arg(long)]
    tls: bool,

    /// Measure HTTP/2 too, with one stream per connection, or with =STREAMS several. Connections then means streams
    #[arg(long, value_name = "STREAMS", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=128), conflicts_with_all = ["slow_readers", "churn"])]
    http2: Option<usize>,

    /// Measure readers with a token each, too: a JWT (HS256) of a subject of its own, which may read /user/<number>/** and what the
    /// reader subscribes to. The subject before is the same without tokens
    #[arg(long, conflicts_with_all = ["topic_changes", "resume"])]
    tokens: bool,

    /// Measure readers of the Mercure protocol too, with tokens. The subject before is the same topics at --path, with tokens
    #[arg(long, requires = "tokens", conflicts_with_all = ["ws", "max_rate", "watch_lists"])]
    mercure: bool,

    /// Print the figures as JSON
    #[arg(long)]
    json: bool,

    /// Append the figures to this file, as a line of JSON
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Name of the workload in the record
    #[arg(long, value_name = "NAME", requires = "record")]
    workload: Option<String>,

    /// Additional arguments for tallycast
    #[arg(last = true, value_name = "TALLYCAST ARGUMENT")]
    server_args: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subjects {
    /// The write loop and tallycast, with ratios
    #[value(alias = "both")]
    All,
    /// The write loop only
    WriteLoop,
    /// tallycast only
    Tallycast,
    /// tallycast only, with the given protocols and rates, and not also with plain event streams
    Variant,
}

impl LoadArgs {
    /// The subjects to measure, the baseline first.
    fn subjects(&self) -> Vec<Subject> {
        let transport = match (self.ws, self.compression) {
            (Some(subprotocol), _) => Transport::WebSocket(subprotocol),
            (None, Some(coding)) => Transport::Compressed(coding),
            (None, None) => Transport::EventStream,
        };
        let max_rate = self.max_rate.is_some();
        let stack = Stack { transport, tls: self.tls, http2: self.http2, max_rate, ..Stack::PLAIN };
        let with_tokens = Stack { tokens: true, ..stack };
        let with_sessions = Stack { sessions: true, ..stack };
        let tallycast = match self.topic_changes {
            Some(_) => vec![stack, Stack { topic_changes: true, ..stack }],
            None if self.session_changes.is_some() => {
                vec![with_sessions, Stack { session_changes: true, ..with_sessions }]
            }
            None if self.sessions.is_some() => vec![stack, with_sessions],
            None if self.mercure => vec![with_tokens, Stack { mercure: true, ..with_tokens }],
            None if self.tokens => vec![stack, with_tokens],
            None if stack == Stack::PLAIN => vec![stack],
            None => vec![Stack::PLAIN, stack],
        };
        let tallycast: Vec<Subject> = tallycast.into_iter().map(Subject::Tallycast).collect();
        match self.subject {
            Subjects::All => [vec![Subject::WriteLoop], tallycast].concat(),
            Subjects::WriteLoop => vec![Subject::WriteLoop],
            Subjects::Tallycast => tallycast,
            // Changes of topics are compared with the same without changes.
            Subjects::Variant if self.topic_changes.is_some() || self.session_changes.is_some() => tallycast,
            Subjects::Variant => tallycast.into_iter().next_back().into_iter().collect(),
        }
    }

    /// The numbers of connections.
    fn roles(&self) -> Roles {
        Roles {
            readers: self.connections,
            discarding: self.discarding,
            slow: self.slow_readers,
            sessions: self.sessions.unwrap_or_default(),
            churning: self.churn,
        }
    }

    /// `rate` times per second, for the time of the run.
    fn schedule(&self, rate: u32) -> Schedule {
        Schedule { rate, duration: Duration::from_secs(self.seconds.into()) }
    }

    /// What is published, and who reads it.
    fn published_and_read(&self) -> Workload {
        match self.watch_lists {
            Some(length) => {
                let messages = if self.idle { 0 } else { u64::from(self.rate) * u64::from(self.seconds) };
                Workload::watch_lists(length, self.of, self.roles().total(), self.connections, messages)
            }
            None if self.distinct_topics => {
                Workload::one_channel(self.channel.clone(), self.path.clone()).with_distinct_topics()
            }
            None => Workload::one_channel(self.channel.clone(), self.path.clone()),
        }
    }

    /// A description of what connections read.
    fn target(&self) -> String {
        match self.watch_lists {
            Some(length) => format!("watch-lists of {length} of {} symbols", self.of),
            None if self.distinct_topics => format!("{} and a topic of its own each", self.path),
            None => self.path.clone(),
        }
    }

    /// The number of client processes, each of which may open `allowed` files.
    ///
    /// # Errors
    /// If the given number of processes is too small.
    fn client_processes(&self, allowed: Option<u64>) -> Result<usize> {
        let sockets = self.roles().total().div_ceil(self.http2.unwrap_or(1));
        let room = allowed
            .map_or(usize::MAX, |allowed| usize::try_from(allowed.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX));
        let required = sockets.div_ceil(room.max(1));
        ensure!(
            required == 1 || self.topic_changes.is_none(),
            "--topic-changes uses one process, which may open {room} connections (`ulimit -Hn`)"
        );
        let processes = self.client_processes.unwrap_or(required);
        ensure!(
            processes >= required,
            "{sockets} connections require --client-processes {required}: each may open {room} (`ulimit -Hn`)"
        );
        Ok(processes)
    }
}

/// Measures, and prints the figures to standard output.
///
/// # Errors
/// If the machine does not allow that many connections, a program is missing, a subject exits or refuses readers, Redis
/// cannot be used, or the run is interrupted. Undelivered messages are not an error but a figure.
pub(crate) fn run(args: LoadArgs) -> Result<()> {
    ensure!(
        u64::from(args.rate) * u64::from(args.seconds) <= MAX_MESSAGES,
        "--rate times --seconds exceeds the limit of {MAX_MESSAGES} messages per run"
    );
    ensure!(
        args.session_changes.is_none_or(|rate| args.schedule(rate).total() <= MAX_SESSION_CHANGES),
        "--session-changes times --seconds exceeds the limit of {MAX_SESSION_CHANGES} changes per run"
    );
    ensure!(
        args.watch_lists.is_none_or(|length| length <= args.of),
        "--watch-lists must not exceed --of, which is {}",
        args.of
    );
    ensure!(
        args.topic_changes.is_none() || args.ws != Some(Subprotocol::Raw),
        "--topic-changes requires --ws=json: without it changes are not answered"
    );
    let client_processes = args.client_processes(resource_usage::raise_open_files()?)?;
    for subject in args.subjects() {
        subject.check(&args)?;
    }
    signals::install()?;

    // Dropped in reverse order, also on errors: the subject, Redis, the directory with their logs.
    let scratch = Scratch::create()?;
    let (_redis, url) = match &args.redis {
        Some(url) => (None, url.clone()),
        None => {
            let redis = Redis::start(&scratch).context("Redis is required: install redis-server or set --redis")?;
            let url = redis.url();
            (Some(redis), url)
        }
    };
    let certificate = if args.tls { Some(Certificate::create(scratch.path())?) } else { None };
    let workload = Arc::new(args.published_and_read());
    let setup = Setup { args: &args, redis: &url, scratch: &scratch, workload, certificate, client_processes };
    if let Some(behind) = args.resume {
        return resume::run(&setup, behind);
    }
    let mut figures: Vec<Measurement> = Vec::new();
    for (place, subject) in args.subjects().iter().enumerate() {
        let mut measured = subject.measure(&setup, place).with_context(|| format!("measuring {}", subject.name()))?;
        measured.compare_changes(figures.last());
        figures.push(measured);
    }

    if let Some(file) = &args.record {
        record::append(file, &report::json(&args, &figures))?;
    }
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&report::json(&args, &figures))?)
    } else {
        report::table(&args, &figures)
    };
    io::stdout().write_all(text.as_bytes()).context("cannot print the figures")
}

/// Validates a maximum rate, which is sent unchanged: servers know which rates they allow.
fn max_rate(rate: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    if rate.starts_with(|first: char| first.is_ascii_digit()) && rate.bytes().all(is_part) {
        Ok(rate.to_owned())
    } else {
        Err("expected a number of batches and a period, such as 2/s".to_owned())
    }
}

/// Validates a request path.
fn request_path(path: &str) -> Result<String, String> {
    if path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(path.to_owned())
    } else {
        Err("expected a path that starts with '/' and contains only visible ASCII characters".to_owned())
    }
}

/// Validates the URL of a Redis on this machine.
fn loopback_redis(url: &str) -> Result<String, String> {
    let client = redis::Client::open(url).map_err(|error| format!("expected redis://127.0.0.1:<port>: {error}"))?;
    let is_loopback = match client.get_connection_info().addr() {
        redis::ConnectionAddr::Tcp(host, _) => {
            host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
        redis::ConnectionAddr::Unix(_) => true,
        _ => false,
    };
    if is_loopback {
        Ok(url.to_owned())
    } else {
        Err("load tests run on this machine only: expected redis://127.0.0.1:<port>".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, thread, time::Instant};

    use super::{client::Client, publisher::Plan, readers::ReaderSetup, *};
    use crate::process;

    /// All parts of a run in one process: a real Redis, the write loop, the readers and the publisher.
    fn run_write_loop_with(readers: usize, workload: Workload, rate: u32) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(20);
        let scratch = Scratch::create()?;
        let redis = Redis::start(&scratch)?;
        let url = redis.url();
        let port = process::free_port()?;
        let workload = Arc::new(workload);
        let write_loop = WriteLoopArgs::new(port, url.clone(), workload.subscription().to_owned());
        let write_loop = thread::spawn(move || run_write_loop(write_loop));
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let epoch = Instant::now();
        while !process::accepts(address) {
            ensure!(epoch.elapsed() < LIMIT, "the write loop did not start");
            thread::sleep(Duration::from_millis(10));
        }

        let roles = Roles { readers, ..Roles::default() };
        let mut client = Client::new(ReaderSetup {
            server: address,
            workload: Arc::clone(&workload),
            stack: Stack::PLAIN,
            tls: None,
            epoch,
            payload_bytes: 64,
            parameter: None,
            topic_changes: None,
            has_tokens: false,
            is_mercure: false,
            roles,
            range: 0..readers,
            connect_window: readers,
        })?;
        client.connect(|_| Ok(()))?;
        let plan = Plan {
            redis: url,
            workload: Arc::clone(&workload),
            schedule: Schedule { rate, duration: Duration::from_secs(1) },
            payload_bytes: 64,
            keep_times: false,
        };
        let expected = workload.due(plan.schedule.total(), readers);
        let publisher = publisher::start(plan, epoch)?;
        while client.received().readers.delivered < expected && epoch.elapsed() < LIMIT {
            client.poll_once(Duration::from_millis(10))?;
        }
        let published = publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;

        let received = &client.received().readers;
        assert_eq!(published.messages, u64::from(rate));
        assert_eq!((received.delivered, received.latency.len()), (expected, expected));
        assert_eq!((received.missing, received.duplicates, received.out_of_order, received.unexpected), (0, 0, 0, 0));
        assert_eq!(client.lost(), (0, None));
        // Without Redis the write loop exits.
        drop(redis);
        assert!(write_loop.join().is_ok_and(|result| result.is_err()));
        Ok(())
    }

    #[test]
    fn write_loop_delivers_every_message_once() -> Result<()> {
        run_write_loop_with(40, Workload::one_channel("some.channel".to_owned(), "/any".to_owned()), 500)
    }

    #[test]
    fn write_loop_delivers_every_message_of_a_watch_list_once() -> Result<()> {
        run_write_loop_with(40, Workload::watch_lists(4, 20, 40, 40, 500), 500)
    }

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn arguments(arguments: &[&str]) -> LoadArgs {
        <Cli as clap::Parser>::parse_from([&["load"], arguments].concat()).load
    }

    #[test]
    fn client_processes_follow_the_limit_of_open_files() -> Result<()> {
        let processes = |given: &[&str], allowed| arguments(given).client_processes(allowed);
        assert_eq!(processes(&["--connections", "924"], Some(1_024))?, 1);
        assert_eq!(processes(&["--connections", "925"], Some(1_024))?, 2);
        assert_eq!(processes(&["--connections", "1000000"], None)?, 1);
        assert_eq!(processes(&["--connections", "9240", "--http2=10"], Some(1_024))?, 1);
        assert_eq!(processes(&["--connections", "10", "--client-processes", "3"], None)?, 3);
        let few = processes(&["--connections", "2000", "--client-processes", "2"], Some(1_024));
        let expected = "2000 connections require --client-processes 3: each may open 924 (`ulimit -Hn`)";
        assert_eq!(few.map_err(|error| error.to_string()), Err(expected.to_owned()));
        Ok(())
    }

    #[test]
    fn subjects_follow_the_options() {
        let names =
            |given: &[&str]| -> Vec<String> { arguments(given).subjects().into_iter().map(Subject::name).collect() };
        assert_eq!(names(&[]), ["write loop", "tallycast"]);
        assert_eq!(names(&["--max-rate", "2/s", "--tls"]), ["write loop", "tallycast", "tallycast TLS max-rate"]);
        assert_eq!(
            names(&["--watch-lists", "64", "--ws", "--topic-changes", "10"]),
            ["write loop", "tallycast WebSocket", "tallycast WebSocket topic changes"]
        );
        assert_eq!(
            names(&["--ws", "--tokens", "--subject", "tallycast"]),
            ["tallycast WebSocket", "tallycast WebSocket tokens"]
        );
        assert_eq!(
            names(&["--tokens", "--mercure", "--subject", "tallycast"]),
            ["tallycast tokens", "tallycast tokens Mercure"]
        );
        assert_eq!(names(&["--sessions", "5", "--subject", "tallycast"]), ["tallycast", "tallycast sessions"]);
        let with_changes = ["--sessions", "5", "--session-changes", "9", "--subject"];
        for subject in ["tallycast", "variant"] {
            let given = [&with_changes[..], &[subject]].concat();
            assert_eq!(names(&given), ["tallycast sessions", "tallycast sessions changes"]);
        }
        assert_eq!(names(&["--tls", "--subject", "variant"]), ["tallycast TLS"]);
        assert_eq!(names(&["--subject", "variant"]), ["tallycast"]);
    }

    #[test]
    fn maximum_rate_is_a_parameter_of_every_path() -> Result<()> {
        for (path, expected) in
            [("/subscribe/raw", "/subscribe/raw?max-rate=2/s"), ("/s?topic=/raw", "/s?topic=/raw&max-rate=2/s")]
        {
            let args = arguments(&["--path", path, "--max-rate", "2/s"]);
            let paths: Vec<String> = args
                .subjects()
                .into_iter()
                .map(|subject| {
                    let address = (Ipv4Addr::LOCALHOST, 1).into();
                    let workload = Arc::new(args.published_and_read());
                    Ok(subject.reader_setup(&args, address, workload, None, Instant::now())?.path(0))
                })
                .collect::<Result<_>>()?;
            // Neither the write loop nor the plain stream has a rate.
            assert_eq!(paths, [path, path, expected]);
        }
        Ok(())
    }

    #[test]
    fn connections_of_sessions_follow_those_that_read() -> Result<()> {
        let args = arguments(&[
            "--connections",
            "2",
            "--discarding",
            "1",
            "--slow-readers",
            "1",
            "--sessions",
            "2",
            "--churn",
            "1",
        ]);
        let paths = |subject: Subject| -> Result<Vec<String>> {
            let address = (Ipv4Addr::LOCALHOST, 1).into();
            let readers =
                subject.reader_setup(&args, address, Arc::new(args.published_and_read()), None, Instant::now())?;
            Ok(readers.range.clone().map(|index| readers.path(index)).collect())
        };
        let subjects = args.subjects();
        let raw = "/subscribe/raw";
        // The write loop has neither slow readers nor sessions.
        assert_eq!(paths(subjects[0])?, [raw; 4]);
        assert_eq!(paths(subjects[1])?, [raw, raw, raw, raw, "/subscribe/view/0/0", "/subscribe/view/1/0", raw]);
        let sessions = ["/session/s0?topic=/view/0/0", "/session/s1?topic=/view/1/0"];
        assert_eq!(paths(subjects[2])?, [raw, raw, raw, raw, sessions[0], sessions[1], raw]);
        Ok(())
    }

    #[test]
    fn rates_are_sent_as_they_are() {
        for rate in ["2/s", "0.5/s", "30/min", "1/100ms"] {
            assert_eq!(max_rate(rate).as_deref(), Ok(rate));
        }
        for rate in ["", "fast", "2/s&topic=/x", "2 /s"] {
            assert!(max_rate(rate).is_err(), "{rate:?}");
        }
    }

    #[test]
    fn only_loopback_redis_is_accepted() {
        for url in [
            "redis://127.0.0.1:6379",
            "redis://localhost",
            "redis://user:word@[::1]:7000/2",
            "redis://127.8.8.8",
            "unix:///tmp/redis.sock",
        ] {
            assert!(loopback_redis(url).is_ok(), "{url}");
        }
        for url in ["redis://10.0.0.1", "redis://example.org", "redis://localhost.example.org", "http://localhost"] {
            assert!(loopback_redis(url).is_err(), "{url}");
        }
    }

    #[test]
    fn invalid_request_paths_are_rejected() {
        assert!(request_path("/subscribe/raw").is_ok());
        for path in ["subscribe", "/a b", "/a\r\nx: y", "/é"] {
            assert!(request_path(path).is_err(), "{path:?}");
        }
    }
}
