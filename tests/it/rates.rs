//! `?max-rate=`: no more batches than a stream asks for, with the newest events and exact sums.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Event, EventSource, Raw, RedisServer, Tallycast, WebSocket};

const ROUTES: [&str; 2] = ["--route", "price:*=/price/*"];

fn publish(redis: &RedisServer, prices: &[(&str, &str)]) {
    redis.publish(prices.iter().map(|(name, price)| (format!("price:{name}"), *price)));
}

#[test]
fn every_transport_gets_the_first_event_at_once_and_the_newest_when_it_ends() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let path = "/subscribe/price/*?max-rate=1/h";
    let readers = [EventSource::open(&tallycast, path), EventSource::open_http2(&tallycast, path)];
    let mut socket = WebSocket::open(&tallycast, path);
    let all = EventSource::open(&tallycast, "/subscribe/price/*");
    let namespace =
        |name: &str, data: &str| json!({"namespace": format!("/price/{name}"), "event": null, "data": data});
    publish(&redis, &[("A", "1")]);
    for reader in &readers {
        assert_eq!(reader.next(), Event::message("1"));
    }
    assert_eq!(socket.json(), namespace("A", "1"));
    publish(&redis, &[("A", "2"), ("B", "3"), ("A", "4"), ("C", "5"), ("B", "6")]);
    for data in ["1", "2", "3", "4", "5", "6"] {
        assert_eq!(all.next(), Event::message(data));
    }
    assert!(readers.iter().all(|reader| reader.received().is_empty()));
    let late = EventSource::open(&tallycast, path);
    publish(&redis, &[("A", "7")]);
    assert_eq!(all.next(), Event::message("7"));
    let counters = tallycast.terminate().counters();
    for reader in &readers {
        assert_eq!(reader.rest(), ["5", "6", "7"].map(Event::message));
    }
    for (name, data) in [("C", "5"), ("B", "6"), ("A", "7")] {
        assert_eq!(socket.json(), namespace(name, data));
    }
    assert_eq!(late.rest(), [Event::message("7")]);
    // Of each of three readers two events of A and one of B.
    assert_eq!(counters["hub"]["conflated"], 9, "{counters}");
}

#[test]
fn totals_stay_exact_at_any_rate() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--totals-interval", "1s"]);
    let counts = |text: &str| -> BTreeMap<String, u64> { serde_json::from_str(text).unwrap() };
    let readers = ["1000/s", "7/s", "60/min", "1/h"].map(|rate| {
        let reader = EventSource::open(&tallycast, &format!("/subscribe/eps?snapshot=1&max-rate={rate}"));
        let snapshot = reader.next();
        assert_eq!(snapshot.name.as_deref(), Some("snapshot"));
        (reader, counts(&snapshot.data))
    });
    let mut published = BTreeMap::new();
    for round in 0..200_u64 {
        let id = format!("emoji-{}", round % 7);
        *published.entry(id.clone()).or_default() += 1;
        redis.publish_scores([&id]);
        if round % 10 == 0 {
            tallycast.until_counter("/tally/sent", round + 1);
        }
    }
    tallycast.until_counter("/tally/sent", 200);
    tallycast.terminate();
    for (reader, mut sums) in readers {
        for event in reader.rest() {
            for (id, count) in counts(&event.data) {
                *sums.entry(id).or_default() += count;
            }
        }
        assert_eq!(sums, published);
    }
}

#[test]
fn change_of_topics_brings_what_was_not_sent_yet() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let mut socket = WebSocket::open(&tallycast, "/ws/price/A?max-rate=1/h");
    publish(&redis, &[("A", "1")]);
    assert_eq!(socket.json()["data"], "1");
    publish(&redis, &[("A", "2"), ("A", "3"), ("B", "4")]);
    tallycast.until_counter("/hub/broadcast", 4);
    socket.send_text(r#"{"subscribe":["/price/B"]}"#);
    assert_eq!(socket.json()["data"], "3");
    let confirmed: Value = socket.json();
    assert!(confirmed.get("subscribed").is_some(), "{confirmed}");
    publish(&redis, &[("B", "5")]);
    assert_eq!(socket.json()["data"], "5");
}

#[test]
fn invalid_rates_are_refused() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let expected = "expected a number from 1 to 1000 and a time, such as 2/s, 30/min or 10/h";
    for rate in ["2", "0/s", "1001/s", "1.5/s", "2/day", ""] {
        let answer = (400, format!("bad query: max-rate={rate}; {expected}\n"));
        assert_eq!(tallycast.get(&format!("/subscribe/raw?max-rate={rate}")), answer);
    }
    let near = "bad query: unknown parameter \"max_rate\"; did you mean max-rate?\n";
    assert_eq!(tallycast.get("/subscribe/raw?max_rate=2/s"), (400, near.to_owned()));
}

#[test]
fn slow_reader_goes_on_with_the_newest_by_the_policy_latest() {
    let redis = RedisServer::start();
    let limits = ["--slow-reader", "/price=latest", "--send-buffer", "4096", "--log-batches", "4"];
    let tallycast = Tallycast::start(&redis, &[&ROUTES[..], &limits].concat());
    let mut slow = Raw::connect_with_small_buffer(&tallycast).subscribed("/subscribe/price/*");
    let filler = "x".repeat(50_000);
    let published = 200;
    for number in 0..published {
        publish(&redis, &[(["A", "B", "C"][number % 3], &format!("{number} {filler}"))]);
    }
    tallycast.until_counter("/hub/broadcast", published as u64);
    let (mut received, mut skipped) = (Vec::<usize>::new(), 0);
    while received.last() != Some(&(published - 1)) {
        let chunk = slow.chunk();
        skipped +=
            chunk.lines().filter_map(|line| line.strip_prefix(": skipped ")?.parse::<usize>().ok()).sum::<usize>();
        received.extend(
            chunk.lines().filter_map(|line| line.strip_prefix("data:")?.split(' ').next()?.parse::<usize>().ok()),
        );
    }
    assert_eq!(received[received.len() - 3..], [published - 3, published - 2, published - 1]);
    assert_eq!(received.len() + skipped, published);
    assert!(tallycast.counter("/hub/slow_latest") > 0 && skipped > 0);
    assert_eq!(tallycast.counter("/hub/slow_disconnected"), 0);
}
