//! Readers that are slower than what is published: they cost others nothing, and the server little.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::contract::sum_windows;
use crate::support::{EventSource, Raw, RedisServer, Tallycast, eventually};

const MIB: usize = 1 << 20;
/// One message of the floods below.
const MESSAGE_BYTES: usize = MIB / 16;

/// Numbered messages of [`MESSAGE_BYTES`] each, to `/details/1`.
fn flood(redis: &RedisServer, numbers: std::ops::Range<usize>) {
    let filler = "x".repeat(MESSAGE_BYTES);
    redis.publish(numbers.map(|number| ("stream.tweet_updates.1", format!("{number} {filler}"))));
}

/// The numbers of the messages in a part of a stream.
fn numbers(text: &str) -> impl Iterator<Item = usize> {
    text.lines().filter_map(|line| line.strip_prefix("data:")?.split(' ').next()?.parse().ok())
}

/// A reader that checks that it gets every message up to `count`, in order.
struct Diligent {
    read: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Diligent {
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
        assert!(!self.thread.is_finished() || self.read.load(Ordering::Acquire) > 0, "a reader failed");
        self.read.load(Ordering::Acquire)
    }
}

/// Sends `count` messages to `readers` diligent readers, never further ahead of them than the log goes back, and
/// returns by how many bytes the server's memory grew meanwhile at most.
fn flood_and_measure(redis: &RedisServer, tallycast: &Tallycast, readers: usize, count: usize) -> usize {
    const AT_ONCE: usize = 16;
    let readers: Vec<Diligent> = (0..readers).map(|_| Diligent::start(tallycast, count)).collect();
    let before = tallycast.resident_bytes();
    let mut most = before;
    for first in (0..count).step_by(AT_ONCE) {
        flood(redis, first..first + AT_ONCE);
        eventually("all readers are close behind", || readers.iter().all(|reader| reader.read() >= first));
        most = most.max(tallycast.resident_bytes());
    }
    for reader in readers {
        reader.thread.join().unwrap();
    }
    usize::try_from(most - before).unwrap()
}

#[test]
fn a_client_that_never_reads_is_disconnected_and_fifty_others_lose_nothing() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut never_reads = Raw::subscribe(&tallycast, "/subscribe/details/1");
    let count = 100 * MIB / MESSAGE_BYTES;
    let growth = flood_and_measure(&redis, &tallycast, 50, count);
    assert!(growth < 50 * MIB, "the server's memory grew by {} MiB", growth / MIB);
    assert_eq!(tallycast.counter("/hub/slow_disconnected"), 1);
    assert_eq!(tallycast.counter("/source/overflowed"), 0);
    // What the kernel held for it is far less than what was sent.
    assert!(never_reads.ends_within(50 * MIB as u64));
}

#[test]
fn a_client_that_never_reads_but_may_stay_costs_no_more() {
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
fn a_client_that_takes_nothing_for_too_long_is_disconnected() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--stall-limit", "1ms", "--slow-reader", "/details=skip"]);
    let _never_reads = Raw::connect_with_small_buffer(&tallycast).subscribed("/subscribe/details/1");
    flood(&redis, 0..128);
    tallycast.until_counter("/hub/stalled", 1);
    eventually("it is gone", || tallycast.counter("/hub/connections") == 0);
}

#[test]
fn skipping_tells_exactly_how_many_messages_were_left_out() {
    let redis = RedisServer::start();
    let flags =
        ["--slow-reader", "/details=skip", "--send-buffer", "4096", "--log-batches", "4", "--log-bytes", "200000"];
    let tallycast = Tallycast::start(&redis, &flags);
    let mut slow = Raw::connect_with_small_buffer(&tallycast).subscribed("/subscribe/details/1");
    let mut published = 0;
    let (mut received, mut skipped, mut comments) = (Vec::new(), 0, 0);
    let mut read_to = |last: usize, published: usize| {
        // The newest message is never left out.
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

/// Publishes in as many windows as there are rounds, and returns what was published.
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
fn merging_gives_a_slow_reader_of_tallies_fewer_windows_with_exact_sums() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--send-buffer", "4096", "--log-batches", "4", "--tally-period", "1ms"]);
    let fast = EventSource::open(&tallycast, "/subscribe/eps");
    let mut slow = Raw::connect_with_small_buffer(&tallycast).subscribed("/subscribe/eps");
    let published = publish_windows(&redis, &tallycast, 100);
    let merges = tallycast.counter("/hub/slow_merged");
    assert!(merges > 0, "the slow reader was not slow");

    // Its stream is ended while it is still behind.
    tallycast.signal(rustix::process::Signal::TERM);
    let body = slow.chunks_to_the_end();
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
fn merging_is_exact_also_when_a_reader_falls_behind_again_and_again() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--send-buffer", "4096", "--log-batches", "2", "--tally-period", "1ms"]);
    let mut slow = Raw::connect_with_small_buffer(&tallycast).subscribed("/subscribe/eps");
    let mut windows = Vec::new();
    let mut published = BTreeMap::new();
    for _ in 0..4 {
        for (id, count) in publish_windows(&redis, &tallycast, 40) {
            *published.entry(id).or_insert(0) += count;
        }
        // A little of what waits, so that it is in the middle of something when it falls behind again.
        for _ in 0..3 {
            windows.push(slow.chunk());
        }
    }
    assert!(tallycast.counter("/hub/slow_merged") > 0);
    tallycast.signal(rustix::process::Signal::TERM);
    windows.push(slow.chunks_to_the_end());
    let data = windows.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("data:"));
    assert_eq!(sum_windows(data.map(str::to_owned)), published);
}
