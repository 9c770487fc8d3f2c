//! Cost against size, up to a million readers: `cargo bench -p tallycast-fanout --bench million`.
//!
//! Readers have sinks in memory that discard what they are given, so that no limit of descriptors or ports applies; all else
//! is the engine as it serves sockets, with two shards. Every case runs in a process of its own, so that memory is that of
//! the case alone. Prints a table:
//!
//! | column | content |
//! |---|---|
//! | bytes/reader | growth of the resident memory while the readers attach, shared by them: with topics, path and user agent |
//! | attach, detach | time for each reader, with all of them arriving and leaving at once |
//! | deliveries | readers that one message reaches |
//! | message | time from sending a message until the last of its readers has it, one message at a time; the median |
//! | delivery | the same for each of these readers |
//! | peak | the most resident memory of the process |
//!
//! A million readers take some minutes and up to 4 GiB. Arguments choose sizes: `-- 10000 100000`.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and ends with a panic")]

mod support;

use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use tallycast_fanout::{ConnectionInfo, Fanout, Handle, Message, Sink, Stream, Subscriber, Topic, Topics};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use support::PLAIN;

const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];
const CASES: [Case; 3] = [Case::OneFeed, Case::ManyFeeds, Case::WatchLists];
/// The namespaces of [`Case::ManyFeeds`] and [`Case::WatchLists`].
const SYMBOLS: usize = 1_000;
/// The topics of a watch-list, and its readers.
const WATCHED: usize = 20;
const READERS_PER_LIST: usize = 10;
/// Messages that are measured, after one that is not.
const MESSAGES: usize = 21;
/// As browsers send it.
const USER_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
/// Time for one step of a case.
const LIMIT: Duration = Duration::from_secs(300);
const MIB: u64 = 1024 * 1024;

/// Whether readers leave: their next read is the end of the stream.
static LEAVING: AtomicBool = AtomicBool::new(false);
/// The wakers of readers that wait for their peer.
static WAKERS: Mutex<Vec<Waker>> = Mutex::new(Vec::new());
/// Deliveries of the current message that are outstanding.
static OUTSTANDING: AtomicU64 = AtomicU64::new(0);
/// Notified of the last delivery.
static DELIVERED: Notify = Notify::const_new();

/// What the readers read.
#[derive(Clone, Copy)]
enum Case {
    /// All read one namespace.
    OneFeed,
    /// Each reads one of [`SYMBOLS`] namespaces.
    ManyFeeds,
    /// [`READERS_PER_LIST`] each read the same [`WATCHED`] of [`SYMBOLS`] namespaces.
    WatchLists,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::OneFeed => "one-feed",
            Self::ManyFeeds => "1000-feeds",
            Self::WatchLists => "watch-lists",
        }
    }

    /// The request path of reader `number`.
    fn path(self, number: usize) -> String {
        match self {
            Self::OneFeed => "/quotes/S0000".to_owned(),
            Self::ManyFeeds => format!("/quotes/{}", symbol(number)),
            Self::WatchLists => {
                let symbols: Vec<String> = watch_list(number / READERS_PER_LIST).map(symbol).collect();
                format!("/quotes/{}", symbols.join(","))
            }
        }
    }

    /// The topics of reader `number`, made as transports make them: for each reader anew.
    fn topics(self, number: usize) -> Topics {
        let topic = |number| format!("/quotes/{}", symbol(number)).parse::<Topic>().unwrap();
        match self {
            Self::OneFeed => Topics::new(vec![topic(0)]).unwrap(),
            Self::ManyFeeds => Topics::new(vec![topic(number)]).unwrap(),
            Self::WatchLists => Topics::new(watch_list(number / READERS_PER_LIST).map(topic).collect()).unwrap(),
        }
    }

    /// How many of `readers` a message to symbol 0 reaches.
    fn deliveries(self, readers: usize) -> usize {
        match self {
            Self::OneFeed => readers,
            Self::ManyFeeds => readers.div_ceil(SYMBOLS),
            Self::WatchLists => {
                (0..readers).filter(|number| watch_list(number / READERS_PER_LIST).any(|symbol| symbol == 0)).count()
            }
        }
    }
}

fn symbol(number: usize) -> String {
    format!("S{:04}", number % SYMBOLS)
}

/// The symbols of list `number`: from a start in steps, which have no factor in common with the number of symbols, so that
/// no symbol is in a list twice. All lists of a million readers are different.
fn watch_list(number: usize) -> impl Iterator<Item = usize> {
    let (start, round) = (number % SYMBOLS, number / SYMBOLS);
    let step = [1, 3, 7, 9][round % 4] + round / 4 * 10;
    (0..WATCHED).map(move |place| (start + place * step) % SYMBOLS)
}

/// A peer that takes everything. Has no size, so that a box of it is no allocation.
struct Discard;

impl fmt::Debug for Discard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Discard")
    }
}

impl Stream for Discard {}

impl AsyncRead for Discard {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if LEAVING.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        WAKERS.lock().unwrap().push(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Discard {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if OUTSTANDING.fetch_sub(1, Ordering::Relaxed) == 1 {
            DELIVERED.notify_one();
        }
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn subscriber(case: Case, number: usize) -> Subscriber {
    let info = ConnectionInfo {
        request_path: case.path(number).into(),
        topics: case.topics(number),
        created_at: SystemTime::now(),
        client_ip: Ipv4Addr::LOCALHOST.into(),
        user_agent: USER_AGENT.into(),
    };
    Subscriber::new(info, Arc::clone(&PLAIN), Sink::Stream(Box::new(Discard)))
}

/// A field of `/proc/self/status` in bytes.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Waits until the engine has `count` connections.
async fn connections(handle: &Handle, count: usize) {
    let started = Instant::now();
    while handle.stats().connections.get() != count as u64 {
        assert!(started.elapsed() < LIMIT, "{} of {count} connections", handle.stats().connections.get());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Measures one case and prints its row.
async fn measure(case: Case, readers: usize) {
    let hours = Duration::from_secs(24 * 3600);
    let fanout = Fanout::builder().shards(2).keep_alive(hours).stall_timeout(hours).build();
    let (publisher, handle) = (fanout.publisher(), fanout.handle());
    // Touched here, so that it is not measured with the readers. A reader may register more than once.
    *WAKERS.lock().unwrap() = vec![Waker::noop().clone(); 2 * readers];
    WAKERS.lock().unwrap().clear();

    let before = memory("VmRSS");
    let started = Instant::now();
    for number in 0..readers {
        handle.subscribe(subscriber(case, number)).await.unwrap();
    }
    connections(&handle, readers).await;
    let attach = started.elapsed();
    let bytes = memory("VmRSS").saturating_sub(before);
    let feeds = handle.stats().feeds.get();

    let deliveries = case.deliveries(readers);
    let mut times = Vec::new();
    for _ in 0..=MESSAGES {
        OUTSTANDING.store(deliveries as u64, Ordering::Relaxed);
        let started = Instant::now();
        publisher.send(Message::text("/quotes/S0000".parse().unwrap(), "x")).await.unwrap();
        tokio::time::timeout(LIMIT, DELIVERED.notified()).await.unwrap();
        times.push(started.elapsed());
    }
    times.remove(0);
    times.sort_unstable();
    let message = times[times.len() / 2];
    assert_eq!(OUTSTANDING.load(Ordering::Relaxed), 0, "more readers than expected");

    let started = Instant::now();
    LEAVING.store(true, Ordering::Release);
    std::mem::take(&mut *WAKERS.lock().unwrap()).into_iter().for_each(Waker::wake);
    connections(&handle, 0).await;
    let detach = started.elapsed();
    while handle.stats().feeds.get() > 0 {
        assert!(started.elapsed() < LIMIT, "feeds without readers remain");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fanout.shutdown().await;

    let each = |time: Duration, count: usize| time.as_secs_f64() * 1e6 / count as f64;
    println!(
        "| {} | {readers} | {feeds} | {} | {:.2} us | {:.2} us | {deliveries} | {:.3} ms | {:.3} us | {} MiB |",
        case.name(),
        bytes / readers as u64,
        each(attach, readers),
        each(detach, readers),
        message.as_secs_f64() * 1e3,
        each(message, deliveries),
        memory("VmHWM") / MIB,
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [name, readers] = arguments.as_slice()
        && let Some(case) = CASES.into_iter().find(|case| case.name() == name)
    {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(measure(case, readers.parse().unwrap()));
        return;
    }
    let given: Vec<usize> = arguments.iter().map(|size| size.parse().unwrap()).collect();
    let sizes = if given.is_empty() { SIZES.as_slice() } else { given.as_slice() };
    println!(
        "| readers of | readers | feeds | bytes/reader | attach | detach | deliveries | message | delivery | peak |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for case in CASES {
        for readers in sizes {
            let mut child = Command::new(std::env::current_exe().unwrap());
            assert!(child.args([case.name(), &readers.to_string()]).status().unwrap().success());
        }
    }
}
