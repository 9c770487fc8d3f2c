//! Slow readers: they do not delay others, and their memory use is bounded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::contract::sum_windows;
use crate::support::{EventSource, Raw, RedisServer, Tallycast, WebSocket, eventually};

const MIB: usize = 1 << 20;
/// The size of each message of [`flood`].
const MESSAGE_BYTES: usize = MIB / 16;

/// Publishes numbered messages of [`MESSAGE_BYTES`] each to `/details/1`.
fn flood(redis: &RedisServer, numbers: std::ops::Range<usize>) {
    let filler = "x".repeat(MESSAGE_BYTES);
    redis.publish(numbers.map(|number| ("stream.tweet_updates.1", format!("{number} {filler}"))));
}

/// The message numbers in a part of a stream.
fn numbers(text: &str) -> impl Iterator<Item = usize> {
    text.lines().filter_map(|line| line.strip_prefix("data:")?.split(' ').next()?.parse().ok())
}

/// A fast reader that expects every message up to `count` in order.
struct FastReader {
    read: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl FastReader {
    fn start(tallycast: &Tallycast, count: usize) -> Self {
        let mut stream = Raw::subscribe(tallycast, "/subscribe/details/1");
        let read = Arc::new(AtomicUsize::new(0));
        let thread = std::thread::spawn({
            let read = Arc::clone(&read);
            move || {
                let mut expected = 0;
                while expected < count {
                    for number in numbers(&stream.chunk()) {
                        assert_eq!(number, expected, "a message is missing");
                        expected += 1;
                    }
                    read.store(expected, Ordering::Release);
                }
            }
        });
        Self { read, thread }
    }

    fn read(&self) -> usize {
        assert!(!self.thread.is_finished() || self.read.load(Ordering::Acquire) > 0, "the reader failed");
        self.read.load(Ordering::Acquire)
    }
}

/// Sends `count` messages to a number of fast readers, always within the log's capacity, and returns the peak growth of
/// the server's memory in bytes.
fn flood_and_measure(redis: &RedisServer, tallycast: &Tallycast, readers: usize, count: usize) -> usize {
    const AT_ONCE: usize = 16;
    let readers: Vec<FastReader> = (0..readers).map(|_| FastReader::start(tallycast, count)).collect();
    let before = tallycast.resident_bytes();
    let mut peak = before;
    for first in (0..count).step_by(AT_ONCE) {
        flood(redis, first..first + AT_ONCE);
        eventually("all readers have received the previous messages", || {
            readers.iter().all(|reader| reader.read() >= first)
        });
        peak = peak.max(tallycast.resident_bytes());
    }
    for reader in readers {
        reader.thread.join().unwrap();
    }
    usize::try_from(peak - before).unwrap()
}

#[test]
fn slow_reader_is_disconnected_and_others_lose_nothing() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut never_reads = Raw::subscribe(&tallycast, "/subscribe/details/1");
    let count = 100 * MIB / MESSAGE_BYTES;
    let growth = flood_and_measure(&redis, &tallycast, 50, count);
    assert!(growth < 50 * MIB, "the server's memory grew by {} MiB", growth / MIB);
    assert_eq!(tallycast.counter("/hub/slow_disconnected"), 1);
    assert_eq!(tallycast.counter("/source/overflowed"), 0);
    // Only the data in kernel buffers is left, far less than was published.
    assert!(never_reads.ends_within(50 * MIB as u64));
}

#[test]
fn skipped_slow_reader_uses_bounded_memory() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--slow-reader", "/details=skip", "--stall-limit", "10m"]);
    let by_http1 = Raw::subscribe(&tallycast, "/subscribe/details/1");
    let count = 100 * MIB / MESSAGE_BYTES;
    let growth = flood_and_measure(&redis, &tallycast, 3, count);
    assert!(growth < 50 * MIB, "the server's memory grew by {} MiB", growth / MIB);
    assert!(tallycast.counter("/hub/slow_skipped") > 0);
    assert_eq!(tallycast.counter("/hub/slow_disconnected"), 0);
    drop(by_http1);
}

#[test]
fn stalled_reader_is_disconnected() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--stall-limit", "1ms", "--slow-reader", "/details=skip"]);
    let _never_reads = Raw::connect_with_small_buffer(&tallycast).subscribed("/subscribe/details/1");
    flood(&redis, 0..128);
    tallycast.until_counter("/hub/stalled", 1);
    eventually("the connection is closed", || tallycast.counter("/hub/connections") == 0);
}

#[test]
fn skip_comments_count_skipped_messages_exactly() {
    let redis = RedisServer::start();
    let flags =
        ["--slow-reader", "/details=skip", "--send-buffer", "4096", "--log-batches", "4", "--log-bytes", "200000"];
    let tallycast = Tallycast::start(&redis, &flags);
    let mut slow = Raw::connect_with_small_buffer(&tallycast).subscribed("/subscribe/details/1");
    let mut published = 0;
    let (mut received, mut skipped, mut comments) = (Vec::new(), 0, 0);
    let mut read_to = |last: usize, published: usize| {
        // The newest message is never skipped.
        while received.last() != Some(&last) {
            let chunk = slow.chunk();
            for line in chunk.lines() {
                if let Some(count) = line.strip_prefix(": skipped ") {
                    skipped += count.parse::<usize>().unwrap();
                    comments += 1;
                }
            }
            received.extend(numbers(&chunk));
        }
        assert_eq!(received.len() + skipped, published);
        assert!(received.is_sorted_by(|a, b| a < b), "out of order: {received:?}");
    };
    for _ in 0..3 {
        flood(&redis, published..published + 64);
        tallycast.until_counter("/hub/broadcast", (published + 64) as u64);
        flood(&redis, published + 64..published + 65);
        published += 65;
        read_to(published - 1, published);
    }
    assert!(comments >= 3 && skipped > 100, "{comments} comments, {skipped} skipped");
    assert!(tallycast.counter("/hub/slow_skipped") > 0);
    assert_eq!(tallycast.counter("/hub/slow_disconnected"), 0);
}

/// Publishes one window per round and returns the sums of all.
fn publish_windows(redis: &RedisServer, tallycast: &Tallycast, rounds: u64) -> BTreeMap<String, u64> {
    let sent_before = tallycast.counter("/tally/sent");
    let mut published = BTreeMap::new();
    for round in 0..rounds {
        let ids: Vec<String> = (0..100).map(|key| format!("emoji-{}", (key * (round + 1)) % 120)).collect();
        for id in &ids {
            *published.entry(id.clone()).or_default() += 1;
        }
        redis.publish_scores(&ids);
        tallycast.until_counter("/tally/sent", sent_before + (round + 1) * 100);
    }
    published
}

#[test]
fn merged_windows_have_exact_sums() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--send-buffer", "4096", "--log-batches", "4", "--tally-period", "1ms"]);
    let fast = EventSource::open(&tallycast, "/subscribe/eps");
    let mut slow = Raw::connect_with_small_buffer(&tallycast).subscribed("/subscribe/eps");
    let published = publish_windows(&redis, &tallycast, 100);
    let merges = tallycast.counter("/hub/slow_merged");
    assert!(merges > 0, "the reader was not slow enough to be merged");

    // Its stream ends while it still lags.
    tallycast.signal(rustix::process::Signal::TERM);
    let body = slow.chunks_to_end();
    let ended = tallycast.wait();
    assert_eq!(ended.counters()["hub"]["slow_disconnected"], 0);
    let slow_windows: Vec<String> =
        body.lines().filter_map(|line| line.strip_prefix("data:")).map(str::to_owned).collect();
    let fast_windows: Vec<String> = fast.rest().into_iter().map(|event| event.data).collect();
    assert!(slow_windows.len() < fast_windows.len(), "{} of {}", slow_windows.len(), fast_windows.len());
    let largest = |windows: &[String]| windows.iter().map(String::len).max();
    assert!(largest(&slow_windows) > largest(&fast_windows));
    assert!(!body.contains(": skipped"), "{body}");
    assert_eq!(sum_windows(fast_windows), published);
    assert_eq!(sum_windows(slow_windows), published);
}

#[test]
fn merged_windows_have_exact_sums_after_repeated_lag() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--send-buffer", "4096", "--log-batches", "2", "--tally-period", "1ms"]);
    let mut slow = Raw::connect_with_small_buffer(&tallycast).subscribed("/subscribe/eps");
    let mut windows = Vec::new();
    let mut published = BTreeMap::new();
    for _ in 0..4 {
        for (id, count) in publish_windows(&redis, &tallycast, 40) {
            *published.entry(id).or_insert(0) += count;
        }
        // Read a part of the backlog, so that the reader is within a batch when it lags again.
        for _ in 0..3 {
            windows.push(slow.chunk());
        }
    }
    assert!(tallycast.counter("/hub/slow_merged") > 0);
    tallycast.signal(rustix::process::Signal::TERM);
    windows.push(slow.chunks_to_end());
    let data = windows.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("data:"));
    assert_eq!(sum_windows(data.map(str::to_owned)), published);
}

#[test]
fn waiting_events_are_bounded_in_bytes() {
    const EVENTS: usize = 256;
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--inbox-bytes", "4MiB"]);
    // Compressing takes longer than receiving, so that events wait in every inbox.
    let mut stream = Raw::connect(&tallycast);
    stream.send("GET /subscribe/details/1 HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip\r\n\r\n");
    assert!(stream.head().contains("content-encoding: gzip\r\n"));
    let reader = std::thread::spawn(move || stream.bytes_until_closed());
    let before = tallycast.resident_bytes();
    let payload = "x".repeat(MIB);
    let mut peak = before;
    for published in (8..=EVENTS).step_by(8) {
        redis.publish((0..8).map(|_| ("stream.tweet_updates.1", &payload)));
        // Redis disconnects a subscriber that is 32 MB behind.
        tallycast.until_counter("/source/received", published as u64);
        peak = peak.max(tallycast.resident_bytes());
    }
    let growth = usize::try_from(peak - before).unwrap();
    assert!(tallycast.counter("/source/overflowed") > 0, "the events were not fast enough to prove anything");
    assert!(growth < 128 * MIB, "the server's memory grew by {} MiB", growth / MIB);
    drop(tallycast);
    reader.join().unwrap();
}

/// Opens `/subscribe/eps` with a small receive buffer, and reads the response headers only.
fn stalled_reader(tallycast: &Tallycast) -> Raw {
    Raw::connect_with_small_buffer(tallycast).subscribed("/subscribe/eps")
}

#[test]
fn merged_sums_do_not_grow_with_the_number_of_readers() {
    const READERS: usize = 500;
    const KEYS: usize = 1000;
    let redis = RedisServer::start();
    let flags = ["--send-buffer", "4096", "--log-batches", "2", "--tally-period", "1ms", "--stall-limit", "10m"];
    let tallycast = Tallycast::start(&redis, &flags);
    let readers: Vec<Raw> = (0..READERS).map(|_| stalled_reader(&tallycast)).collect();
    let publish = || {
        let sent = tallycast.counter("/tally/sent");
        redis.publish_scores((0..KEYS).map(|key| format!("a-rather-long-key-{key:04}")));
        tallycast.until_counter("/tally/sent", sent + KEYS as u64);
    };
    let before = tallycast.resident_bytes();
    for _ in 0..50 {
        publish();
    }
    let growth = tallycast.resident_bytes().saturating_sub(before);
    assert!(tallycast.counter("/hub/slow_merged") >= READERS as u64, "the readers were not overtaken");
    assert_eq!(tallycast.counter("/hub/slow_disconnected"), 0);
    assert!(growth < 20 * MIB as u64, "the server's memory grew by {} KiB", growth / 1024);
    drop(readers);
}

/// A Redis with `members` members in the sorted set of totals.
fn redis_with_totals(members: usize) -> RedisServer {
    let redis = RedisServer::start();
    let mut pipeline = redis::pipe();
    for member in 0..members {
        pipeline.cmd("ZADD").arg("emojitrack_score").arg(1).arg(format!("member-{member:06}")).ignore();
    }
    let () = pipeline.query(&mut redis.connect()).unwrap();
    redis
}

#[test]
fn steady_slow_reader_of_a_large_snapshot_is_not_stalled() {
    let redis = redis_with_totals(100_000);
    let tallycast = Tallycast::start(&redis, &["--send-buffer", "4096", "--stall-limit", "2s"]);
    let mut slow = Raw::connect_with_small_buffer(&tallycast);
    slow.send("GET /subscribe/eps?snapshot=1 HTTP/1.0\r\n\r\n");
    assert!(slow.head().starts_with("HTTP/1.1 200 "));
    let mut snapshot = String::new();
    while !snapshot.ends_with("}\n\n") {
        // About 300 KB/s, so that it takes several times the limit.
        snapshot.push_str(std::str::from_utf8(&slow.read_exactly(16 * 1024)).unwrap_or_default());
        std::thread::sleep(std::time::Duration::from_millis(50));
        if snapshot.len() > MIB {
            break;
        }
    }
    assert_eq!(tallycast.counter("/hub/stalled"), 0);
    assert!(snapshot.contains("event:snapshot\ndata:{\"member-"));
}

#[test]
fn topics_may_change_during_a_large_snapshot() {
    let redis = redis_with_totals(50_000);
    let tallycast = Tallycast::start(&redis, &["--send-buffer", "4096"]);
    let mut socket = WebSocket::open(&tallycast, "/ws/eps?snapshot=1");
    socket.send_text(r#"{"subscribe": ["/raw"]}"#);
    redis.publish_scores(["26"]);
    tallycast.until_counter("/hub/broadcast", 1);
    let snapshot = socket.json();
    assert_eq!(snapshot["event"], "snapshot");
    let mut answered = false;
    while !answered {
        let next = socket.json();
        answered = next["subscribed"] == serde_json::json!(["/eps", "/raw"]);
        assert!(answered || next["namespace"] == "/eps", "{next}");
    }
    redis.publish_scores(["27"]);
    let mut raw = false;
    while !raw {
        raw = socket.json()["data"] == "27";
    }
    assert_eq!(tallycast.counter("/hub/slow_disconnected"), 0);
}
