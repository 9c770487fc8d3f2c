//! Subscriptions that try to use up memory: what they can make the server hold is bounded and soon freed.

use crate::support::{LIMIT, Raw, RedisServer, Tallycast, WebSocket, block_on, eventually};

const MIB: u64 = 1 << 20;

/// A request target with 64 topics of 16 segments that no other stream has.
fn deep_topics(stream: usize) -> String {
    let topics: Vec<String> = (0..64).map(|topic| format!("topic=/{stream:x}.{topic:x}{}", "/a".repeat(15))).collect();
    format!("/subscribe?{}", topics.join("&"))
}

#[test]
fn streams_of_many_deep_topics_take_little_memory() {
    const STREAMS: usize = 300;
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let _warm_up = Raw::subscribe(&tallycast, &deep_topics(STREAMS));
    let before = tallycast.resident_bytes();
    let streams: Vec<Raw> = (0..STREAMS).map(|stream| Raw::subscribe(&tallycast, &deep_topics(stream))).collect();
    let growth = tallycast.resident_bytes().saturating_sub(before);
    assert!(
        growth < 30 * STREAMS as u64 * 1024,
        "{} KiB for each of {STREAMS} streams",
        growth / 1024 / STREAMS as u64
    );
    drop(streams);
    eventually("the feeds are removed", || tallycast.counter("/hub/feeds") == 1);
}

#[test]
fn topics_are_bounded_per_address() {
    let redis = RedisServer::start();
    let flags = ["--max-topic-bytes-per-address", "50KiB", "--trusted-proxy", "127.0.0.1"];
    let tallycast = Tallycast::start(&redis, &flags);
    let open = |stream: usize, client: &str| {
        let mut raw = Raw::connect(&tallycast);
        let target = deep_topics(stream);
        raw.send(&format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: {client}\r\n\r\n"));
        let head = raw.head();
        (raw, head)
    };
    // Each takes about 23 KiB.
    let (first, head) = open(1, "1.1.1.1");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (_second, head) = open(2, "1.1.1.1");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (mut refused, head) = open(3, "1.1.1.1");
    assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("\r\nretry-after: "), "{head}");
    let reason =
        "the open streams from your address have too many topics; try again in a moment, or subscribe to fewer.\n";
    refused.expect(reason);
    let (_other, head) = open(4, "2.2.2.2");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    drop(first);
    eventually("a closed stream gives its share back", || open(5, "1.1.1.1").1.starts_with("HTTP/1.1 200 "));
    assert!(tallycast.counter("/http/refused_topics_address") >= 1);
}

#[test]
fn paths_of_streams_are_bounded_like_their_topics() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--max-topic-bytes-per-address", "8KiB"]);
    // One topic, in a path of 4 KB.
    let path = format!("/subscribe/{}", vec!["%61".repeat(20); 64].join(","));
    let first = Raw::subscribe(&tallycast, &path);
    assert_eq!(tallycast.get(&path).0, 429);
    drop(first);
    eventually("a closed stream gives its share back", || {
        let mut raw = Raw::request(&tallycast, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        raw.head().starts_with("HTTP/1.1 200 ")
    });
}

#[test]
fn topics_of_a_websocket_are_bounded_too() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--max-topic-bytes", "10KiB"]);
    let mut socket = WebSocket::open(&tallycast, "/ws/raw");
    let topics =
        |count: usize| (0..count).map(|topic| format!("\"/some/topic/{topic}\"")).collect::<Vec<_>>().join(",");
    socket.send_text(&format!("{{\"subscribe\": [{}]}}", topics(60)));
    let error = "all open streams together have too many topics; try again in a moment, or subscribe to fewer.";
    assert_eq!(socket.json()["error"], error);
    socket.send_text(&format!("{{\"subscribe\": [{}]}}", topics(10)));
    assert_eq!(socket.json()["subscribed"].as_array().unwrap().len(), 11);
    // Its former topics count no longer.
    socket.send_text(&format!("{{\"subscribe\": [{}]}}", topics(20)));
    assert_eq!(socket.json()["subscribed"].as_array().unwrap().len(), 21);
}

#[test]
fn reset_streams_are_freed_at_once() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let before = tallycast.resident_bytes();
    let mut peak = before;
    block_on(async {
        let client = reqwest::Client::builder().http2_prior_knowledge().timeout(LIMIT).build().unwrap();
        for round in 0..40 {
            let mut streams = Vec::new();
            for stream in 0..50 {
                let response = client.get(tallycast.url(&deep_topics(round * 50 + stream))).send().await.unwrap();
                assert_eq!(response.status(), 200);
                streams.push(response);
            }
            // Dropping a response resets its stream.
            drop(streams);
            peak = peak.max(tallycast.resident_bytes());
        }
    });
    eventually("the streams are removed", || tallycast.counter("/hub/feeds") == 0);
    let growth = peak - before;
    assert!(growth < 64 * MIB, "the server's memory grew by {} MiB", growth / MIB);
}
