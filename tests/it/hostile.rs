//! Clients that hold on to what they have: they request and do not read, open streams and stop them, or say nothing.

use h2::Reason;
use redis::Commands;

use crate::support::{Certificate, Event, EventSource, Http2, Raw, RedisServer, Tallycast, TlsClient, eventually};

/// Short, so that the tests are.
const STALL_LIMIT: [&str; 2] = ["--stall-limit", "300ms"];
/// The window of a client that takes one short event at a time.
const SMALL_WINDOW: u32 = 100;

/// Starts a server without a connection, which would take a slot.
fn start_unconnected(redis: &RedisServer, flags: &[&str]) -> Tallycast {
    let tallycast = Tallycast::start_unready(&redis.url(), flags);
    tallycast.wait_for_log("subscribed source");
    tallycast
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

#[test]
fn unread_pages_free_their_connections() {
    let redis = RedisServer::start();
    let flags = [&STALL_LIMIT[..], &["--max-connections", "3", "--send-buffer", "4096"]].concat();
    let tallycast = start_unconnected(&redis, &flags);
    let stalled: Vec<Raw> = (0..3)
        .map(|_| {
            let mut raw = Raw::connect_with_small_buffer(&tallycast);
            raw.send(&request("/admin/counters.json").repeat(200));
            raw
        })
        .collect();
    let mut stream = None;
    eventually("a stream can be opened", || {
        let mut raw = Raw::request(&tallycast, &request("/subscribe/raw"));
        let is_open = raw.head().starts_with("HTTP/1.1 200 ");
        stream = is_open.then_some(raw);
        is_open
    });
    tallycast.until_counter("/http/stalled", 3);
    eventually("the kernel keeps the open stream only", || tallycast.kernel_connections() == 1);
    drop(stalled);
}

/// Sends `request` over TLS, and reads nothing of the response.
fn request_over_tls(tallycast: &Tallycast, certificate: &Certificate, request: &str) -> TlsClient {
    TlsClient::request(tallycast, certificate, 4096, request)
}

#[test]
fn stalled_tls_readers_are_reset() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tls = ["--tls-cert", &certificate.certificate(), "--tls-key", &certificate.key()];
    let flags = [&STALL_LIMIT[..], &tls, &["--send-buffer", "4096", "--slow-reader", "/details=skip"]].concat();
    let tallycast = start_unconnected(&redis, &flags);
    let stream = request_over_tls(&tallycast, &certificate, &request("/subscribe/details/1"));
    let upgrade = crate::support::upgrade("/ws/details/1");
    let websocket = request_over_tls(&tallycast, &certificate, &upgrade);
    let pages = request_over_tls(&tallycast, &certificate, &request("/admin/counters.json").repeat(200));
    let post = "x".repeat(64 * 1024);
    eventually("the kernel keeps no connection", || {
        redis.publish((0..16).map(|_| ("stream.tweet_updates.1", &post)));
        tallycast.kernel_connections() == 0
    });
    drop((stream, websocket, pages));
    let counters = tallycast.terminate().counters();
    // The engine has both streams.
    assert_eq!((&counters["http"]["stalled"], &counters["hub"]["stalled"]), (&1.into(), &2.into()), "{counters}");
}

#[test]
fn http2_stream_without_window_is_reset_and_others_go_on() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &STALL_LIMIT);
    let client = Http2::connect(&tallycast, SMALL_WINDOW);
    let mut events = client.get("/subscribe/raw");
    assert_eq!(client.take(&mut events).unwrap().unwrap(), ": tallycast\n\n");
    let mut page = client.get("/");
    let mut stopped = client.get("/subscribe/details/1");
    redis.publish_post("1", &"x".repeat(1000));
    assert_eq!([client.reset(&mut page), client.reset(&mut stopped)], [Some(Reason::CANCEL); 2]);
    redis.publish_scores(["26"]);
    assert_eq!(client.take(&mut events).unwrap().unwrap(), "data:26\n\n");
    tallycast.until_counter("/http/stalled", 2);
    eventually("the engine has dropped the stopped stream", || tallycast.counter("/hub/connections") == 1);
}

/// Far longer than a test.
const LONG_STALL_LIMIT: [&str; 2] = ["--stall-limit", "1h"];

#[test]
fn http2_streams_over_the_byte_budget_are_reset_at_once() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[&LONG_STALL_LIMIT[..], &["--total-log-bytes", "250000"]].concat());
    let client = Http2::connect(&tallycast, SMALL_WINDOW);
    let mut stopped = client.get("/subscribe/details/1");
    let post = "x".repeat(200_000);
    redis.publish_post("1", &post);
    // h2 holds a part of the post, and so all of it.
    eventually("the post has begun", || tallycast.counter("/hub/bytes") > 100_000);
    redis.publish_post("1", &post);
    assert!(client.reset(&mut stopped).is_some());
    tallycast.until_counter("/hub/slow_disconnected", 1);
    // Both posts are free: another reader may fall behind as far.
    let behind = Http2::connect(&tallycast, SMALL_WINDOW);
    let mut events = behind.get("/subscribe/details/2");
    redis.publish_post("2", &post);
    let mut taken = 0;
    while taken < post.len() {
        taken += behind.take(&mut events).unwrap().unwrap().len();
    }
    assert_eq!((tallycast.counter("/hub/slow_disconnected"), tallycast.counter("/hub/shed")), (1, 0));
}

#[test]
fn tls_reader_over_the_byte_budget_is_reset_at_once() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tls = ["--tls-cert", &certificate.certificate(), "--tls-key", &certificate.key()];
    let flags = [&LONG_STALL_LIMIT[..], &tls, &["--send-buffer", "4096", "--total-log-bytes", "64KiB"]].concat();
    let tallycast = start_unconnected(&redis, &flags);
    let stream = request_over_tls(&tallycast, &certificate, &request("/subscribe/details/1"));
    let post = "x".repeat(1_000_000);
    eventually("the kernel keeps no connection", || {
        redis.publish_post("1", &post);
        tallycast.kernel_connections() == 0
    });
    drop(stream);
    let counters = tallycast.terminate().counters();
    let hub = |name: &str| counters["hub"][name].as_u64().unwrap();
    // The post alone outgrows the budget, and with the one before it the bounds of the log: whichever is seen first.
    assert_eq!(hub("shed") + hub("slow_disconnected"), 1, "{counters}");
    assert_eq!(counters["http"]["stalled"], 0, "{counters}");
}

#[test]
fn http2_connection_is_closed_gracefully_when_idle() {
    let redis = RedisServer::start();
    let flags = [&STALL_LIMIT[..], &["--idle-timeout", "200ms"]].concat();
    let tallycast = Tallycast::start(&redis, &flags);
    let reader = Http2::connect(&tallycast, SMALL_WINDOW);
    let mut events = reader.get("/subscribe/raw");
    assert!(Http2::connect(&tallycast, SMALL_WINDOW).closed(), "without a request");
    let answered = Http2::connect(&tallycast, SMALL_WINDOW);
    let mut page = answered.get("/healthz");
    while answered.take(&mut page).unwrap().is_some() {}
    assert!(answered.closed(), "after a response");
    let stalled = Http2::connect(&tallycast, 0);
    let unread = stalled.get_all("/subscribe/raw", 10);
    assert!(stalled.closed(), "with nothing but streams without a window");
    drop(unread);
    assert_eq!(reader.take(&mut events).unwrap().unwrap(), ": tallycast\n\n");
    redis.publish_scores(["26"]);
    assert_eq!(reader.take(&mut events).unwrap().unwrap(), "data:26\n\n");
}

#[test]
fn snapshots_on_one_http2_connection_are_limited() {
    const KEYS: usize = 2000;
    let redis = RedisServer::start();
    let scores: Vec<(u64, String)> = (0..KEYS).map(|key| (1, format!("{key:X}"))).collect();
    let _: () = redis.connect().zadd_multiple("emojitrack_score", &scores).unwrap();
    let tallycast = Tallycast::start(&redis, &[]);
    let client = Http2::connect(&tallycast, SMALL_WINDOW);
    let mut streams = client.get_all("/subscribe/eps?snapshot=1", 20);
    let statuses: Vec<u16> = streams.iter().map(|stream| stream.status).collect();
    let opened = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!((opened, statuses.iter().filter(|status| **status == 503).count()), (4, 16), "{statuses:?}");
    // One that has been taken makes room for another.
    let mut taken = streams.remove(statuses.iter().position(|status| *status == 200).unwrap());
    let mut text = Vec::new();
    while !text.ends_with(b"}\n\n") {
        text.extend_from_slice(&client.take(&mut taken).unwrap().unwrap());
    }
    assert!(text.starts_with(b": tallycast\n\nevent:snapshot\ndata:{"));
    assert_eq!(client.get("/subscribe/eps?snapshot=1").status, 200);
}

#[test]
fn http2_connection_receives_few_bytes_of_request_bodies() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let client = Http2::connect(&tallycast, SMALL_WINDOW);
    // The first response shows that the client has the server's settings.
    assert_eq!(client.get("/healthz").status, 200);
    assert_eq!(client.send_capacity("/subscribe/raw"), 65_535);
}

#[test]
fn http2_streams_count_as_connections() {
    let redis = RedisServer::start();
    for (flag, status) in [("--max-connections", 503), ("--max-per-address", 429)] {
        let tallycast = start_unconnected(&redis, &[flag, "4"]);
        let client = Http2::connect(&tallycast, SMALL_WINDOW);
        // The first one is the connection itself.
        let mut streams = client.get_all("/subscribe/raw", 4);
        assert!(streams.iter().all(|stream| stream.status == 200));
        assert_eq!(client.get("/subscribe/raw").status, status);
        // Another connection is as much as another stream.
        let mut raw = Raw::request(&tallycast, &request("/subscribe/raw"));
        assert!(raw.head().starts_with(&format!("HTTP/1.1 {status} ")));
        streams.pop();
        eventually("a stream that was reset makes room", || client.get("/subscribe/raw").status == 200);
    }
}

#[test]
fn silent_connections_count_against_their_address() {
    let redis = RedisServer::start();
    let tallycast = start_unconnected(&redis, &["--max-connections", "4", "--max-per-address", "2"]);
    let silent: Vec<Raw> = (0..20).map(|_| Raw::connect(&tallycast)).collect();
    let mut other = Raw::connect_from(&tallycast, [127, 0, 0, 2]).subscribed("/subscribe/raw");
    redis.publish_scores(["26"]);
    assert_eq!(other.chunk(), "data:26\n\n");
    drop(silent);
    eventually("the silent connections have ended", || tallycast.kernel_connections() == 1);
    eventually("the address is admitted again", || {
        let mut raw = Raw::request(&tallycast, &request("/healthz"));
        raw.head().starts_with("HTTP/1.1 200 ")
    });
    assert!(tallycast.counter("/http/refused_address") >= 18);
}

#[test]
fn probes_and_admin_routes_answer_when_all_slots_are_taken() {
    let redis = RedisServer::start();
    let tallycast = start_unconnected(&redis, &["--max-connections", "2"]);
    let streams = [(); 2].map(|()| Raw::subscribe(&tallycast, "/subscribe/raw"));
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/admin/counters.json", 200),
        ("/metrics", 200),
        ("/healthzz", 503),
        ("/v1/status", 503),
        ("/subscribe/raw", 503),
        ("/", 503),
    ] {
        assert_eq!(tallycast.get(path).0, status, "{path}");
        assert_eq!(Http2::connect(&tallycast, SMALL_WINDOW).get(path).status, status, "{path}");
    }
    for beginning in ["", "GET /heal"] {
        let mut raw = Raw::request(&tallycast, beginning);
        assert!(raw.head().starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    }
    assert!(tallycast.counter("/http/refused") >= 10);
    // A reserved connection serves one request, and is not kept.
    let mut raw = Raw::request(&tallycast, &request("/healthz"));
    assert!(raw.read_to_end().ends_with("\r\n\r\nalive\n"));
    drop(streams);
}

#[test]
fn broker_is_reconnected_when_all_slots_are_taken() {
    let mut redis = RedisServer::start();
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 64; exec \"$0\" serve", env!("CARGO_BIN_EXE_tallycast")]);
    let tallycast = Tallycast::spawn_limited(limited, &redis);
    tallycast.wait_for_log("--max-connections lowered to what the limit on open files allows");
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    let mut crowd = Vec::new();
    eventually("all slots are taken", || {
        let mut raw = Raw::request(&tallycast, &request("/subscribe/raw"));
        let is_open = raw.head().starts_with("HTTP/1.1 200 ");
        crowd.push(raw);
        !is_open
    });
    crowd.pop();
    // More connections, as many as are kept for a moment.
    let more: Vec<Raw> = (0..100).map(|_| Raw::connect(&tallycast)).collect();
    redis.kill();
    tallycast.wait_for_log("subscription lost");
    redis.run();
    tallycast.wait_for_log("subscription restored");
    drop(more);
    redis.publish_scores(["26"]);
    assert_eq!(raw.next(), Event::message("26"));
    for mut raw in crowd {
        raw.expect("d\r\n: tallycast\n\n\r\n");
        assert_eq!(raw.chunk(), "data:26\n\n");
    }
    assert_eq!(tallycast.counter("/http/accept_errors"), 0);
    tallycast.signal(rustix::process::Signal::HUP);
    tallycast.wait_for_log("configuration reloaded");
    assert_eq!(tallycast.log().matches("--max-connections lowered").count(), 2);
}
