//! `?envelope=1`: messages as JSON objects that name their namespace, the same over every transport.

use serde_json::{Value, json};

use crate::snapshot::update;
use crate::support::{Browser, Curl, EventSource, Raw, RedisServer, Tallycast, WebSocket, upgrade};

/// A route for channels of any depth, and without event names.
const ROUTES: [&str; 4] = ["--route", "v1:streaming:**=/**", "--totals-interval", "1s"];

fn publish(redis: &RedisServer, events: &[(&str, &str)]) {
    redis.publish(events.iter().map(|(channel, payload)| (format!("v1:streaming:{channel}"), *payload)));
}

/// The envelope in the next event, which has no name.
fn next(source: &EventSource) -> Value {
    let event = source.next();
    assert_eq!(event.name, None);
    serde_json::from_str(&event.data).unwrap()
}

#[test]
fn every_transport_sends_the_same_envelopes() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let path = "/subscribe/price/*?topic=/news&envelope=1";
    let readers = [EventSource::open(&tallycast, path), EventSource::open_http2(&tallycast, path)];
    let mut sockets = ["", "json"].map(|protocol| {
        let headers = [("sec-websocket-protocol", protocol)];
        WebSocket::open_with(&tallycast, path, if protocol.is_empty() { &[] } else { &headers }).unwrap()
    });
    let without = EventSource::open(&tallycast, &path.replace("=1", "=0"));
    let pretty = "{\r\n  \"bid\": 1.50,\n  \"text\": \"a\\nb\"\n}";
    publish(&redis, &[("price:A", pretty), ("price:B", "12.5"), ("news", "up\r\nand down \"😂\""), ("news:x", "[1,")]);
    let expected = [
        json!({"namespace": "/price/A", "event": null, "data": {"bid": 1.5, "text": "a\nb"}}),
        json!({"namespace": "/price/B", "event": null, "data": 12.5}),
        json!({"namespace": "/news", "event": null, "data": "up\r\nand down \"😂\""}),
        json!({"namespace": "/news/x", "event": null, "data": "[1,"}),
    ];
    for expected in &expected {
        for reader in &readers {
            assert_eq!(next(reader), *expected);
        }
        for socket in &mut sockets {
            assert_eq!(socket.json(), *expected);
        }
    }
    assert_eq!(without.next().data, pretty.replace("\r\n", "\n"));
    assert_eq!(without.next().data, "12.5");
}

#[test]
fn compressed_envelopes_are_copied_unchanged() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let gzip = ["--compressed", "--header", "accept-encoding: gzip"];
    let zstd = "GET /subscribe/details?envelope=1 HTTP/1.0\r\naccept-encoding: zstd\r\n\r\n";
    let mut zstd = Raw::request(&tallycast, zstd);
    assert!(zstd.head().contains("\r\ncontent-encoding: zstd\r\n"));
    tallycast.until_counter("/hub/connections", 1);
    let gzip = Curl::open(&tallycast, "/subscribe/details?envelope=1", &gzip);
    redis.publish([("stream.tweet_updates.26", r#"{"b":1.50, "a":"\u00e9"}"#)]);
    tallycast.until_counter("/hub/delivered", 2);
    tallycast.terminate();
    let event = r#"data:{"namespace":"/details/26","event":"stream.tweet_updates.26","data":{"b":1.50, "a":"\u00e9"}}"#;
    let expected = format!(": tallycast\n\n{event}\n\n");
    assert_eq!(String::from_utf8(zstd::stream::decode_all(&*zstd.bytes_to_end()).unwrap()).unwrap(), expected);
    assert_eq!(gzip.finish(), (expected, Some(0)));
}

#[test]
fn snapshots_and_changes_come_in_envelopes() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    update(&mut redis.connect(), &["1F602"]).unwrap();
    let path = "/subscribe/eps?snapshot=1&envelope=1";
    let reader = EventSource::open(&tallycast, path);
    let mut socket = WebSocket::open(&tallycast, path);
    for first in [next(&reader), socket.json()] {
        assert_eq!((&first["namespace"], &first["event"]), (&json!("/eps"), &json!("snapshot")));
        assert!(first["data"].is_object(), "{first}");
    }
    update(&mut redis.connect(), &["2764"]).unwrap();
    let is_change = |message: &Value| message["event"].is_null() && message["data"]["2764"] == 1;
    while !is_change(&next(&reader)) {}
    while !is_change(&socket.json()) {}
}

#[test]
fn invalid_requests_for_envelopes_are_refused() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    for (query, reason) in [
        ("envelope=yes", "bad query: envelope=yes; expected envelope=1 or envelope=0\n"),
        ("Envelope=1", "bad query: unknown parameter \"Envelope\"; did you mean envelope?\n"),
    ] {
        assert_eq!(tallycast.get(&format!("/subscribe/raw?{query}")), (400, reason.to_owned()));
    }
    let raw = upgrade("/ws/raw?envelope=1")
        .replace("\r\n\r\n", "\r\nsec-websocket-protocol: raw\r\nconnection: close\r\n\r\n");
    let answer = Raw::request(&tallycast, &raw).head();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn browser_reads_wildcards_with_one_handler() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let browser = Browser::start();
    browser.open(&tallycast, "/v1/status");
    browser.eval(
        "(window.received = [], window.source = new EventSource('/subscribe/details/*?envelope=1'), \
            source.onmessage = ({ data }) => received.push(JSON.parse(data)), 0)",
    );
    browser.wait_until("source.readyState", 1);
    tallycast.until_counter("/hub/connections", 1);
    redis.publish([("stream.tweet_updates.26", r#"{"text": "a"}"#), ("stream.tweet_updates.27", "b")]);
    browser.wait_until("received.length", 2);
    assert_eq!(
        browser.eval("received"),
        json!([
            {"namespace": "/details/26", "event": "stream.tweet_updates.26", "data": {"text": "a"}},
            {"namespace": "/details/27", "event": "stream.tweet_updates.27", "data": "b"},
        ])
    );
}
