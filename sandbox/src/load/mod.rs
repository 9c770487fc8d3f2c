//! `sandbox load`: measures tallycast with many readers, compared with a minimal baseline.
//!
//! One run measures two subjects in turn, on the same machine with the same readers, messages and Redis: either the write
//! loop (the baseline) and tallycast, or plain event streams and another transport of tallycast. The ratio of the two
//! matters, because absolute figures depend on the machine.

mod client;
mod delivery;
mod measurement;
mod publisher;
mod report;
mod subject;
mod write_loop;

use std::{
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum, builder::RangedU64ValueParser};

use self::subject::Subject;
pub(crate) use self::write_loop::{WriteLoopArgs, run_write_loop};
use crate::{
    process::{Redis, Scratch},
    resource_usage, signals,
    streams::{
        Coding, Subprotocol, Transport,
        stamp::{MAX_MESSAGES, STAMP_BYTES},
    },
};

/// The Redis channel that tallycast's default routes map to `/subscribe/raw`.
const DEFAULT_CHANNEL: &str = "stream.score_updates";

/// The time limit for connecting to Redis and for each response.
const REDIS_LIMIT: Duration = Duration::from_secs(5);

/// Measure tallycast with many readers, compared with a plain write(2) loop
///
/// Starts a private Redis and then measures each subject in turn: starts it, opens the connections, lets them idle,
/// publishes at an even rate, and reads every event on every connection. Prints connect time, memory per idle
/// connection, deliveries, latency from publish to read, server CPU time per delivery, and the ratio of each figure to
/// the baseline. All traffic stays on the loopback interface.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    /// Number of connections that read
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    connections: usize,

    /// Number of additional connections that never read (tallycast only: they would block the write loop)
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1_000_000))]
    slow_readers: usize,

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

    /// Use this Redis (loopback only) instead of starting one
    #[arg(long, value_name = "URL", value_parser = loopback_redis)]
    redis: Option<String>,

    /// The tallycast binary to measure [default: the one next to this program]
    #[arg(long, value_name = "FILE")]
    server_bin: Option<PathBuf>,

    /// Subjects to measure
    #[arg(long, value_enum, default_value_t = Subjects::Both)]
    subject: Subjects,

    /// Compare WebSocket with event streams, instead of event streams with the write loop. JSON messages, or with =raw the
    /// payload only
    #[arg(long, value_enum, value_name = "SUBPROTOCOL", num_args = 0..=1, require_equals = true, default_missing_value = "json")]
    #[arg(conflicts_with_all = ["subject", "compression"])]
    ws: Option<Subprotocol>,

    /// Compare compressed with plain event streams, instead of plain ones with the write loop
    #[arg(long, value_enum, value_name = "CODING", conflicts_with = "subject")]
    compression: Option<Coding>,

    /// Print the figures as JSON
    #[arg(long)]
    json: bool,

    /// Additional arguments for tallycast
    #[arg(last = true, value_name = "TALLYCAST ARGUMENT")]
    server_args: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subjects {
    /// The write loop and tallycast, with ratios
    Both,
    /// The write loop only
    WriteLoop,
    /// tallycast only
    Tallycast,
}

impl LoadArgs {
    /// The subjects to measure, the baseline first.
    fn subjects(&self) -> Vec<Subject> {
        const PLAIN: Subject = Subject::Tallycast(Transport::EventStream);
        match (self.ws, self.compression, self.subject) {
            (Some(subprotocol), ..) => vec![PLAIN, Subject::Tallycast(Transport::WebSocket(subprotocol))],
            (None, Some(coding), _) => vec![PLAIN, Subject::Tallycast(Transport::Compressed(coding))],
            (None, None, Subjects::Both) => vec![Subject::WriteLoop, PLAIN],
            (None, None, Subjects::WriteLoop) => vec![Subject::WriteLoop],
            (None, None, Subjects::Tallycast) => vec![PLAIN],
        }
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
    resource_usage::allow_open_files((args.connections + args.slow_readers) as u64)?;
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
    let figures = args
        .subjects()
        .iter()
        .map(|subject| subject.measure(&args, &url, &scratch).with_context(|| format!("measuring {}", subject.name())))
        .collect::<Result<Vec<_>>>()?;

    let text = if args.json { report::json(&args, &figures)? } else { report::table(&args, &figures) };
    io::stdout().write_all(text.as_bytes()).context("cannot print the figures")
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

    use super::{client::Client, publisher::Plan, *};
    use crate::process;

    /// All parts of a run in one process: a real Redis, the write loop, the readers and the publisher.
    #[test]
    fn write_loop_delivers_every_message_once() -> Result<()> {
        const READERS: usize = 40;
        const LIMIT: Duration = Duration::from_secs(20);
        let scratch = Scratch::create()?;
        let redis = Redis::start(&scratch)?;
        let url = redis.url();
        let port = process::free_port()?;
        let channel = "some.channel".to_owned();
        let write_loop = WriteLoopArgs::new(port, url.clone(), channel.clone());
        let write_loop = thread::spawn(move || run_write_loop(write_loop));
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let epoch = Instant::now();
        while !process::accepts(address) {
            ensure!(epoch.elapsed() < LIMIT, "the write loop did not start");
            thread::sleep(Duration::from_millis(10));
        }

        let mut client = Client::new(address, "/any", Transport::EventStream, epoch, 64)?;
        client.connect(READERS, 0, |_| Ok(()))?;
        let plan = Plan { redis: url, channel, rate: 500, duration: Duration::from_secs(1), payload_bytes: 64 };
        let expected = plan.messages() * READERS as u64;
        let publisher = publisher::start(plan, epoch)?;
        while client.received().delivered < expected && epoch.elapsed() < LIMIT {
            client.poll_once(Duration::from_millis(10))?;
        }
        let published = publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;

        let received = client.received();
        assert_eq!(published.messages, 500);
        assert_eq!((received.delivered, received.latency.len()), (expected, expected));
        assert_eq!((received.missing, received.duplicates, received.unexpected), (0, 0, 0));
        assert_eq!(client.lost(), (0, None));
        // Without Redis the write loop exits.
        drop(redis);
        assert!(write_loop.join().is_ok_and(|result| result.is_err()));
        Ok(())
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
