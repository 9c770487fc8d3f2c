//! `sandbox load`: tallycast under many readers, beside the plainest thing that does the same work.
//!
//! One run measures two subjects in turn, on the same machine, with the same readers, messages and Redis: the
//! write loop, which is a baseline, and tallycast; or tallycast's plain event streams, and tallycast read in another way. What counts is the ratio of the two, since absolute
//! figures belong to a machine.

mod client;
mod decoder;
mod figures;
mod head;
mod interrupt;
mod process;
mod publisher;
mod received;
mod report;
mod stamp;
mod stream;
mod subject;
mod transport;
mod usage;
mod websocket;
mod write_loop;

use std::{
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum, builder::RangedU64ValueParser};

pub(crate) use self::write_loop::{WriteLoopArgs, run_write_loop};
use self::{
    process::Scratch,
    stamp::{MAX_MESSAGES, STAMP_BYTES},
    subject::Subject,
    transport::{Coding, Subprotocol, Transport},
};

/// Where the default routes of tallycast listen for what goes to `/subscribe/raw`.
const DEFAULT_CHANNEL: &str = "stream.score_updates";

/// For connecting to Redis and for one answer of it.
const REDIS_LIMIT: Duration = Duration::from_secs(5);

/// Measure tallycast under many readers, beside a plain write(2) loop in the same run
///
/// Starts a Redis of its own, then for each subject in turn: starts it, opens the connections, lets them idle, publishes
/// at an even rate, and reads every event of every connection. Prints the time to connect, memory per idle connection,
/// deliveries, latency from publishing to reading, the server's CPU time per delivery, and the ratio of each to the same
/// figure of the write loop. Everything stays on this machine's loopback.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    /// Connections that read
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    connections: usize,

    /// Further connections that never read, on tallycast only: they would block the write loop for everybody
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1_000_000))]
    slow_readers: usize,

    /// Messages published a second
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,

    /// For how many seconds messages are published, or with --idle for how many the connections are held
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,

    /// How many seconds to wait after that for what has not been delivered
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    drain_seconds: u32,

    /// Bytes of each payload, of which the first 25 tell its number and time
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = RangedU64ValueParser::<usize>::new().range(STAMP_BYTES as u64..=65_536))]
    payload_bytes: usize,

    /// Publish nothing: measure only the time to connect and the memory of an idle connection
    #[arg(long)]
    idle: bool,

    /// What the readers subscribe to; each message must come there once, as it was published
    #[arg(long, default_value = "/subscribe/raw", value_parser = request_path)]
    path: String,

    /// Redis channel to publish on
    #[arg(long, default_value = DEFAULT_CHANNEL)]
    channel: String,

    /// Use this Redis (loopback only) instead of starting one
    #[arg(long, value_name = "URL", value_parser = loopback_redis)]
    redis: Option<String>,

    /// The tallycast to measure; by default the one that was built beside this program
    #[arg(long, value_name = "FILE")]
    server_bin: Option<PathBuf>,

    /// What to measure
    #[arg(long, value_enum, default_value_t = Subjects::Both)]
    subject: Subjects,

    /// Measure WebSocket beside event streams, instead of these beside the write loop: messages of JSON, or with =raw the
    /// payload alone
    #[arg(long, value_enum, value_name = "SUBPROTOCOL", num_args = 0..=1, require_equals = true, default_missing_value = "json")]
    #[arg(conflicts_with_all = ["subject", "compression"])]
    ws: Option<Subprotocol>,

    /// Measure compressed event streams beside plain ones, instead of these beside the write loop
    #[arg(long, value_enum, value_name = "CODING", conflicts_with = "subject")]
    compression: Option<Coding>,

    /// Print the figures as JSON
    #[arg(long)]
    json: bool,

    /// Further arguments for tallycast
    #[arg(last = true, value_name = "TALLYCAST ARGUMENT")]
    server_args: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subjects {
    /// The write loop, then tallycast, and the ratios
    Both,
    /// The baseline alone
    WriteLoop,
    /// tallycast alone
    Tallycast,
}

impl LoadArgs {
    /// What to measure, the baseline first.
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

/// Measures and prints the figures to the standard output.
///
/// # Errors
/// When the machine does not allow so many connections, a program is missing, a subject ends or refuses readers, Redis
/// cannot be used, or the run is interrupted. Messages that are not delivered are no error but a figure.
pub(crate) fn run(args: LoadArgs) -> Result<()> {
    ensure!(
        u64::from(args.rate) * u64::from(args.seconds) <= MAX_MESSAGES,
        "--rate times --seconds is more than the {MAX_MESSAGES} messages that one run can number"
    );
    usage::allow_open_files((args.connections + args.slow_readers) as u64)?;
    for subject in args.subjects() {
        subject.check(&args)?;
    }
    interrupt::install()?;

    // Dropped in reverse, also on an error: first the subject, then Redis, then the directory of their logs.
    let scratch = Scratch::create()?;
    let (_redis, url) = match &args.redis {
        Some(url) => (None, url.clone()),
        None => process::start_redis(&scratch).map(|(redis, url)| (Some(redis), url))?,
    };
    let figures = args
        .subjects()
        .iter()
        .map(|subject| subject.measure(&args, &url, &scratch).with_context(|| format!("measuring {}", subject.name())))
        .collect::<Result<Vec<_>>>()?;

    let text = if args.json { report::json(&args, &figures)? } else { report::table(&args, &figures) };
    io::stdout().write_all(text.as_bytes()).context("cannot print the figures")
}

/// A path as it stands in a request line.
fn request_path(path: &str) -> Result<String, String> {
    if path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(path.to_owned())
    } else {
        Err("expected a path that begins with '/' and has only visible ASCII characters".to_owned())
    }
}

/// The URL of a Redis on this machine.
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
        Err("load is only put on this machine: expected redis://127.0.0.1:<port>".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, thread, time::Instant};

    use super::{client::Client, process::Scratch, publisher::Plan, *};

    /// The parts of a run in one process: a real Redis, the write loop, the readers, the publisher.
    #[test]
    fn readers_of_the_write_loop_get_every_message_once() -> Result<()> {
        const READERS: usize = 40;
        const LIMIT: Duration = Duration::from_secs(20);
        let scratch = Scratch::create()?;
        let (redis, url) = process::start_redis(&scratch)?;
        let port = process::free_port()?;
        let channel = "some.channel".to_owned();
        let write_loop = WriteLoopArgs::new(port, url.clone(), channel.clone());
        let write_loop = thread::spawn(move || run_write_loop(write_loop));
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let epoch = Instant::now();
        while !process::accepts(address) {
            ensure!(epoch.elapsed() < LIMIT, "the write loop does not listen");
            thread::sleep(Duration::from_millis(10));
        }

        let mut client = Client::new(address, "/any", Transport::EventStream, epoch, 64)?;
        client.connect(READERS, 0, |_| Ok(()))?;
        let plan = Plan { redis: url, channel, rate: 500, duration: Duration::from_secs(1), payload_bytes: 64 };
        let expected = plan.messages() * READERS as u64;
        let publisher = publisher::start(plan, epoch)?;
        while client.received().delivered < expected && epoch.elapsed() < LIMIT {
            client.turn(Duration::from_millis(10))?;
        }
        let published = publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;

        let received = client.received();
        assert_eq!(published.messages, 500);
        assert_eq!((received.delivered, received.latency.len()), (expected, expected));
        assert_eq!((received.missing, received.duplicates, received.unexpected), (0, 0, 0));
        assert_eq!(client.lost(), (0, None));
        // Without its Redis the write loop ends.
        drop(redis);
        assert!(write_loop.join().is_ok_and(|result| result.is_err()));
        Ok(())
    }

    #[test]
    fn only_loopback_is_put_under_load() {
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
    fn a_path_cannot_break_the_request() {
        assert!(request_path("/subscribe/raw").is_ok());
        for path in ["subscribe", "/a b", "/a\r\nx: y", "/é"] {
            assert!(request_path(path).is_err(), "{path:?}");
        }
    }
}
