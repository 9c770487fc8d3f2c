//! Shutdown: received events are delivered, streams end gracefully, and every wait has a limit.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;

use crate::contract::sum_windows;
use crate::support::{Event, EventSource, Raw, RedisServer, Tallycast, WebSocket, eventually};

/// Publishes score updates until it is dropped.
struct Publisher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    fn start(redis: &Arc<RedisServer>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (stop, redis) = (Arc::clone(&stop), Arc::clone(redis));
            move || {
                let mut round = 0_usize;
                while !stop.load(Ordering::Relaxed) {
                    redis.publish_scores((0..50).map(|key| format!("{:X}", 0x1F600 + (key * 7 + round) % 80)));
                    round += 1;
                    // Slow enough for a debug build on a busy machine.
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn data_lines(body: &str) -> Vec<String> {
    body.lines().filter_map(|line| line.strip_prefix("data:")).map(str::to_owned).collect()
}

#[test]
fn busy_shard_does_not_delay_the_exit() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--shutdown-limit", "1ms"]);
    let request = "GET /subscribe/details/1 HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\n\r\n";
    let readers = [Raw::request(&tallycast, request)];
    tallycast.until_counter("/hub/connections", 1);
    // Each is compressed, which takes far longer than the limit in all.
    let post: String = (0..100_000).map(|number| format!("{:07}", number * 7919 % 9_999_991)).collect();
    redis.publish((0..40).map(|_| ("stream.tweet_updates.1", &post)));
    tallycast.until_counter("/hub/broadcast", 1);
    let ended = tallycast.terminate();
    assert!(ended.log.contains("shut down at the time limit"), "{}", ended.log);
    drop(readers);
}

#[test]
fn sigterm_flushes_tallies_and_completes_every_body() {
    let redis = Arc::new(RedisServer::start());
    let tallycast = Tallycast::start(&redis, &["--log-bytes", "100000000", "--log-batches", "1000000"]);
    let [eps, raw] = ["/subscribe/eps", "/subscribe/raw"].map(|path| {
        let mut stream = Raw::subscribe(&tallycast, path);
        // Expects the last chunk and then the end of the connection.
        std::thread::spawn(move || data_lines(&stream.chunks_to_end()))
    });
    let [eps_by_http2, raw_by_http1] =
        [EventSource::open_http2(&tallycast, "/subscribe/eps"), EventSource::open(&tallycast, "/subscribe/raw")]
            .map(|client| std::thread::spawn(move || client.rest()));
    let publisher = Publisher::start(&redis);
    tallycast.until_counter("/tally/sent", 5000);
    let ended = tallycast.terminate();
    drop(publisher);

    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let counters = ended.counters();
    let received = counters["source"]["received"].as_u64().unwrap();
    assert!(received >= 5000, "{counters}");
    assert_eq!(counters["source"]["overflowed"], 0, "{counters}");
    assert_eq!(counters["decode"]["decoded"], received, "{counters}");
    assert_eq!(counters["tally"]["sent"], received, "{counters}");
    let sums = sum_windows(eps.join().unwrap());
    assert_eq!(sums.values().sum::<u64>(), received);
    let windows = eps_by_http2.join().unwrap().into_iter().map(|event| event.data);
    assert_eq!(sum_windows(windows), sums);
    let mut counted = BTreeMap::<String, u64>::new();
    for id in raw.join().unwrap() {
        *counted.entry(id).or_default() += 1;
    }
    assert_eq!(counted, sums);
    assert_eq!(raw_by_http1.join().unwrap().len() as u64, received);
}

#[test]
fn sigterm_flushes_an_unfinished_tally_period() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--tally-period", "10m"]);
    let eps = EventSource::open(&tallycast, "/subscribe/eps");
    redis.publish_scores(["first"]);
    tallycast.until_counter("/tally/sent", 1);
    // These wait for the end of the period or for the shutdown.
    redis.publish_scores(["second", "second"]);
    tallycast.until_counter("/tally/counted", 3);
    assert_eq!(tallycast.counter("/tally/sent"), 1);
    let ended = tallycast.terminate();
    assert_eq!(ended.status.code(), Some(0));
    let windows: Vec<String> = eps.rest().into_iter().map(|event| event.data).collect();
    assert_eq!(windows, [r#"{"first":1}"#, r#"{"second":2}"#]);
}

#[test]
fn idle_process_exits_with_code_0_on_both_signals() {
    for signal in [Signal::TERM, Signal::INT] {
        let tallycast = Tallycast::start_unready("redis://127.0.0.1:1", &[]);
        let mut stream = Raw::subscribe(&tallycast, "/subscribe/raw");
        let mut kept_alive = Raw::request(&tallycast, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        kept_alive.head();
        kept_alive.expect("alive\n");
        let silent = Raw::connect(&tallycast);
        tallycast.signal(signal);
        stream.expect("0\r\n\r\n");
        assert_eq!(stream.read_to_end(), "");
        assert_eq!(kept_alive.read_to_end(), "");
        let ended = tallycast.wait();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
        assert!(!ended.log.contains("cut off"), "{}", ended.log);
        drop(silent);
    }
}

/// Starts a server with a client that does not read, so that its stream cannot end gracefully.
fn start_with_blocked_client(redis: &RedisServer, flags: &[&str]) -> (Tallycast, Raw) {
    let tallycast = Tallycast::start(redis, &[&["--send-buffer", "4096"], flags].concat());
    let never_reads = Raw::connect_with_small_buffer(&tallycast).subscribed("/subscribe/details/1");
    let filler = "x".repeat(1 << 16);
    redis.publish((0..32).map(|_| ("stream.tweet_updates.1", &filler)));
    tallycast.until_counter("/hub/broadcast", 32);
    (tallycast, never_reads)
}

#[test]
fn shutdown_refuses_new_connections() {
    let redis = RedisServer::start();
    let (mut tallycast, never_reads) = start_with_blocked_client(&redis, &["--shutdown-limit", "10m"]);
    tallycast.signal(Signal::TERM);
    eventually("a new connection is refused", || {
        TcpStream::connect(tallycast.address).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    assert!(tallycast.is_running(), "{}", tallycast.log());
    // The shutdown waited only for this client.
    drop(never_reads);
    assert_eq!(tallycast.wait().status.code(), Some(0));
}

#[test]
fn shutdown_disconnects_blocked_client_at_the_limit() {
    let redis = RedisServer::start();
    let (tallycast, _never_reads) = start_with_blocked_client(&redis, &["--shutdown-limit", "100ms"]);
    let ended = tallycast.terminate();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(ended.log.contains("cut off"), "{}", ended.log);
}

#[test]
fn client_that_resumes_during_shutdown_gets_a_complete_body() {
    let redis = RedisServer::start();
    let (tallycast, mut late) = start_with_blocked_client(&redis, &["--shutdown-limit", "10m"]);
    tallycast.signal(Signal::TERM);
    tallycast.wait_for_log("shutting down");
    assert_eq!(data_lines(&late.chunks_to_end()).len(), 32);
    let ended = tallycast.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(!ended.log.contains("cut off"), "{}", ended.log);
}

#[test]
fn second_signal_exits_immediately() {
    let redis = RedisServer::start();
    let (mut tallycast, _never_reads) = start_with_blocked_client(&redis, &["--shutdown-limit", "10m"]);
    tallycast.signal(Signal::TERM);
    tallycast.wait_for_log("a second signal exits at once");
    assert!(tallycast.is_running());
    tallycast.signal(Signal::INT);
    let ended = tallycast.wait();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains("exiting at once"), "{}", ended.log);
}

#[test]
fn shutdown_does_not_wait_for_frozen_broker() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(
        &redis,
        &["--app-env", "staging", "--status-interval", "10ms", "--redis-timeout", "10m", "--shutdown-limit", "10m"],
    );
    redis.freeze();
    assert_eq!(tallycast.terminate().status.code(), Some(0));
}

#[test]
fn drain_delay_accepts_connections_while_not_ready() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--drain-delay", "10m"]);
    let early = EventSource::open(&tallycast, "/subscribe/raw");
    tallycast.signal(Signal::TERM);
    eventually("/readyz returns 503", || tallycast.get("/readyz") == (503, "shutting down\n".to_owned()));
    assert_eq!(tallycast.get("/healthz").0, 200);
    let late = EventSource::open(&tallycast, "/subscribe/raw");
    redis.publish_scores(["26"]);
    assert_eq!((early.next(), late.next()), (Event::message("26"), Event::message("26")));
    tallycast.signal(Signal::TERM);
    assert_eq!(tallycast.wait().status.code(), Some(1));

    let tallycast = Tallycast::start(&redis, &["--drain-delay", "100ms"]);
    assert_eq!(tallycast.terminate().status.code(), Some(0));
}

#[test]
fn drain_ends_streams_one_by_one_while_events_are_delivered() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--drain", "10m"]);
    let mut streams: Vec<Raw> = (0..200).map(|_| Raw::subscribe(&tallycast, "/subscribe/raw")).collect();
    tallycast.signal(Signal::TERM);
    eventually("a new connection is refused", || {
        TcpStream::connect(tallycast.address).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    // The first to end, out of the order in which they came.
    let mut ended = Vec::new();
    eventually("some streams have ended", || {
        ended = (0..streams.len()).filter(|place| streams[*place].has_input()).collect();
        ended.len() >= 2
    });
    assert!(ended.len() < streams.len() / 2, "{ended:?}");
    for place in &ended {
        let body = streams[*place].chunks_to_end();
        assert!((1500..=4500).contains(&retry(&body)), "{body}");
    }
    redis.publish_scores(["26"]);
    let open = streams.iter_mut().enumerate().filter(|(place, _)| !ended.contains(place)).map(|(_, stream)| stream);
    let mut received = 0;
    for stream in open {
        received += usize::from(stream.chunk() == "data:26\n\n");
    }
    assert!(received > streams.len() / 2, "{received}");
    tallycast.signal(Signal::TERM);
    assert_eq!(tallycast.wait().status.code(), Some(1));
}

#[test]
fn drained_streams_end_with_different_pauses_and_websockets_with_1001() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--drain", "500ms", "--retry", "2s"]);
    let mut streams: Vec<Raw> = (0..20)
        .map(|_| {
            let mut stream = Raw::subscribe(&tallycast, "/subscribe/raw");
            let connected = stream.chunk();
            assert!((1000..=3000).contains(&retry(&connected)), "{connected}");
            stream
        })
        .collect();
    let mut websocket = WebSocket::open(&tallycast, "/ws/raw");
    let http2 = EventSource::open_http2(&tallycast, "/subscribe/raw");
    redis.publish_scores(["26"]);
    assert_eq!(websocket.json()["data"], "26");
    tallycast.signal(Signal::TERM);
    let mut pauses = Vec::new();
    for stream in &mut streams {
        assert_eq!(stream.chunk(), "data:26\n\n");
        let end = stream.chunks_to_end();
        let pause = retry(&end);
        assert!((1000..=3000).contains(&pause), "{end}");
        pauses.push(pause);
    }
    pauses.dedup();
    assert!(pauses.len() > 1);
    assert_eq!(http2.rest(), [Event::message("26")]);
    assert_eq!(websocket.closed(), (1001, "the server is shutting down".to_owned()));
    let ended = tallycast.wait();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(!ended.log.contains("cut off"), "{}", ended.log);
}

/// The pause of a `retry` field, in milliseconds.
fn retry(text: &str) -> u64 {
    let field = text.strip_prefix("retry:").and_then(|rest| rest.strip_suffix("\n\n"));
    field.and_then(|pause| pause.parse().ok()).unwrap_or_else(|| panic!("not a retry field: {text:?}"))
}
