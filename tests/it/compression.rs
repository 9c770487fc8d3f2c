//! Compressed streams: one block per batch, shared by all readers and decodable from any block on.

use crate::support::{Browser, Curl, EventSource, Raw, RedisServer, Tallycast, get};

#[test]
fn compressed_streams_decode_to_the_plain_stream() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let path = "/subscribe/raw";
    let early = Curl::open(&tallycast, path, &[]);
    let gzip = Curl::open(&tallycast, path, &["--compressed", "--header", "accept-encoding: gzip"]);
    let http2 =
        Curl::open(&tallycast, path, &["--compressed", "--header", "accept-encoding: gzip", "--http2-prior-knowledge"]);
    redis.publish_scores(["1", "2"]);
    tallycast.until_counter("/hub/delivered", 6);
    // Joins a stream that others have read from the beginning.
    let late = Curl::open(&tallycast, path, &["--compressed", "--header", "accept-encoding: gzip"]);
    redis.publish_scores(["3"]);
    tallycast.until_counter("/hub/delivered", 10);
    let bytes = tallycast.counter("/hub/bytes");
    tallycast.terminate();
    let all = ": tallycast\n\ndata:1\n\ndata:2\n\ndata:3\n\n".to_owned();
    assert_eq!(early.finish(), (all.clone(), Some(0)));
    assert_eq!(gzip.finish(), (all.clone(), Some(0)));
    assert_eq!(http2.finish(), (all, Some(0)));
    assert_eq!(late.finish(), (": tallycast\n\ndata:3\n\n".to_owned(), Some(0)));
    assert!(bytes > 0);
}

#[test]
fn zstd_streams_are_valid_frames() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut raw = Raw::request(&tallycast, "GET /subscribe/raw HTTP/1.0\r\naccept-encoding: zstd\r\n\r\n");
    let head = raw.head();
    assert!(
        head.contains("\r\ncontent-encoding: zstd\r\n") && head.contains("\r\nvary: accept-encoding\r\n"),
        "{head}"
    );
    tallycast.until_counter("/hub/connections", 1);
    redis.publish_scores(["1"]);
    tallycast.until_counter("/hub/delivered", 1);
    redis.publish_scores(["2"]);
    tallycast.until_counter("/hub/delivered", 2);
    tallycast.terminate();
    let text = zstd::stream::decode_all(&*raw.bytes_to_end()).unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), ": tallycast\n\ndata:1\n\ndata:2\n\n");
}

#[test]
fn compression_reduces_large_events() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let post = format!("{{\"text\":\"{}\"}}", "the same again, ".repeat(500));
    let curl = Curl::open(&tallycast, "/subscribe/details/26", &["--compressed"]);
    redis.publish_post("26", &post);
    tallycast.until_counter("/hub/delivered", 1);
    assert!(tallycast.counter("/hub/bytes") < post.len() as u64 / 10);
    tallycast.terminate();
    assert!(curl.finish().0.contains(&post));
}

#[test]
fn compression_depends_on_accept_encoding_and_proxies() {
    let redis = RedisServer::start();
    let coding = |tallycast: &Tallycast, headers: &str| {
        let mut raw = Raw::request(tallycast, &format!("HEAD /subscribe/raw HTTP/1.1\r\nhost: a\r\n{headers}\r\n"));
        let head = raw.head();
        head.split("\r\n").find_map(|line| line.strip_prefix("content-encoding: ")).unwrap_or("none").to_owned()
    };
    let browser = "accept-encoding: gzip, deflate, br, zstd\r\n";
    let proxied = format!("{browser}via: 1.1 vegur\r\n");
    let direct = Tallycast::start(&redis, &[]);
    assert_eq!(
        ["", "accept-encoding: br\r\n", "accept-encoding: gzip;q=0.1, zstd\r\n", browser, &proxied]
            .map(|headers| coding(&direct, headers)),
        ["none", "none", "zstd", "gzip", "none"]
    );
    let always = Tallycast::start(&redis, &["--compression", "always"]);
    assert_eq!(coding(&always, &proxied), "gzip");
    let off = Tallycast::start(&redis, &["--compression", "off"]);
    assert_eq!(coding(&off, browser), "none");
    let trusting = Tallycast::start(&redis, &["--trusted-proxy", "127.0.0.1"]);
    assert_eq!(coding(&trusting, browser), "none");
}

#[test]
fn browser_receives_compressed_events_immediately() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let browser = Browser::start();
    browser.open(&tallycast, "/v1/status");
    browser.eval(
        "(window.received = [], window.stream = new EventSource('/subscribe/raw'), \
         stream.onmessage = event => received.push(event.data), 0)",
    );
    browser.wait_until("stream.readyState", 1);
    tallycast.until_counter("/hub/connections", 1);
    assert_eq!(tallycast.get("/metrics").1.matches("transport=\"sse+gzip+chunked\"} 1").count(), 1);
    for (published, shown) in [("1", "1"), ("2", "1 2"), ("3", "1 2 3")] {
        redis.publish_scores([published]);
        browser.wait_until("received.join(' ')", shown);
    }
    // A later reader starts at another block of the same stream.
    let plain = EventSource::open(&tallycast, "/subscribe/raw");
    browser.eval(
        "(window.late = [], window.second = new EventSource('/subscribe/raw'), \
         second.onmessage = event => late.push(event.data), 0)",
    );
    tallycast.until_counter("/hub/connections", 3);
    redis.publish_scores(["4"]);
    browser.wait_until("late.join(' ') + received.join(' ')", "41 2 3 4");
    assert_eq!(plain.next().data, "4");
    assert_eq!(get(&tallycast, "/subscribe/raw?snapshot=1", &[]).status, 400);
}
