//! Multiple topics on one connection, and wildcards.

use std::ops::Range;

use serde_json::{Value, json};

use crate::support::{Event, EventSource, Raw, RedisServer, Tallycast, WebSocket};

/// A route for channels of any depth.
const ROUTES: [&str; 4] = ["--route", "v1:streaming:**=/**", "--totals-interval", "1s"];

fn publish(redis: &RedisServer, events: &[(&str, &str)]) {
    redis.publish(events.iter().map(|(channel, payload)| (format!("v1:streaming:{channel}"), *payload)));
}

#[test]
fn multiple_topics_are_ordered_without_duplicates() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let paths = [
        "/subscribe/price/ANZ.ASX,BHP.ASX",
        "/subscribe/price/BHP.ASX,ANZ.ASX,BHP.ASX",
        "/subscribe?topic=/price/ANZ.ASX&topic=%2Fprice%2FBHP.ASX",
        "/subscribe/price/ANZ.ASX?topic=/price/*.none&topic=/price/BHP.ASX",
    ];
    assert_eq!(tallycast.get(paths[3]).0, 400);
    let mut readers: Vec<EventSource> = paths[..3].iter().map(|path| EventSource::open(&tallycast, path)).collect();
    readers.push(EventSource::open_http2(&tallycast, "/subscribe/price/ANZ.ASX?topic=/price/*"));
    readers.push(EventSource::open(&tallycast, "/subscribe/*/**"));
    publish(&redis, &[("price:BHP.ASX", "1"), ("price:ANZ.ASX", "2"), ("price:BHP.ASX", "3"), ("price:ANZ.ASX", "4")]);
    for reader in &readers {
        for number in 1..=4 {
            assert_eq!(reader.next(), Event::message(&number.to_string()));
        }
    }
    tallycast.terminate();
    for reader in readers {
        assert_eq!(reader.rest(), []);
    }
}

#[test]
fn wildcards_match_one_segment_or_the_rest() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let open = |path: &str| EventSource::open(&tallycast, path);
    let [one, rest, middle, deep] = [
        open("/subscribe/price/*"),
        open("/subscribe/price/**"),
        open("/subscribe/*/asx/*"),
        open("/subscribe/a/b/c/d/e"),
    ];
    publish(
        &redis,
        &[("price", "0"), ("price:A", "1"), ("price:asx:B", "2"), ("news:asx:C", "3"), ("a:b:c:d:e:f", "4")],
    );
    tallycast.until_counter("/hub/broadcast", 5);
    tallycast.terminate();
    let texts = |source: EventSource| source.rest().into_iter().map(|event| event.data).collect::<Vec<_>>().join(" ");
    assert_eq!([one, rest, middle, deep].map(texts), ["1", "0 1 2", "2 3", "4"]);
}

#[test]
fn query_topics_may_contain_commas_and_spaces() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let reader = EventSource::open(&tallycast, "/subscribe?topic=/a,b+c");
    publish(&redis, &[("a", "no"), ("a,b c", "yes")]);
    assert_eq!(reader.next(), Event::message("yes"));
}

#[test]
fn ambiguous_topics_are_refused_with_reason() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    // Sent over a raw socket, because an HTTP client would normalise some of them.
    for (path, reason) in [
        ("/subscribe/a%2Fb", "or an encoded '/'"),
        ("/subscribe/a%2Cb", "nor commas inside a topic"),
        ("/subscribe/%2A", "* must be a whole segment"),
        ("/subscribe/a/../b", "must not have the segments . or .."),
        ("/subscribe/a/%2e%2e", "must not have the segments . or .."),
        ("/subscribe/a,b/c", "nor commas inside a topic"),
        ("/subscribe/**/a", "* must be a whole segment"),
        ("/subscribe/a,", "must not have an empty segment"),
        ("/subscribe?topic=a", "bad query: topic=a: a namespace must start with '/'"),
        ("/subscribe/eps,raw?snapshot=1", "snapshot=1 requires exactly one namespace"),
        ("/subscribe/*?snapshot=1", "snapshot=1 requires exactly one namespace"),
    ] {
        let mut raw = Raw::request(&tallycast, &format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"));
        let answer = raw.read_to_end();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(reason), "{path}: {answer}");
    }
    let topics: Vec<String> = (0..65).map(|number| format!("topic=/{number}")).collect();
    let (status, body) = tallycast.get(&format!("/subscribe?{}", topics.join("&")));
    assert_eq!(status, 400);
    assert!(body.contains("expected at most 64 topics, found more"), "{body}");
}

#[test]
fn watch_lists_may_be_longer_by_configuration() {
    let redis = RedisServer::start();
    let flags = [&ROUTES[..], &["--max-topics", "500", "--max-target-bytes", "15KiB"]].concat();
    let tallycast = Tallycast::start(&redis, &flags);
    let topics = |numbers: Range<usize>| numbers.map(|number| format!("/price/{number:03}.ASX")).collect::<Vec<_>>();
    let names = topics(0..500).join(",").replace("/price/", "");
    let query = topics(0..499).join("&topic=");
    let in_path = EventSource::open(&tallycast, &format!("/subscribe/price/{names}?envelope=1"));
    let in_query = EventSource::open_http2(&tallycast, &format!("/subscribe/price/499.ASX?envelope=1&topic={query}"));
    let mut socket = WebSocket::open(&tallycast, "/ws/none?envelope=1");
    socket.send_text(&json!({"unsubscribe": ["/none"], "subscribe": topics(0..500)}).to_string());
    assert_eq!(socket.json(), json!({"subscribed": topics(0..500)}));
    publish(&redis, &[("price:000.ASX", "1"), ("price:500.ASX", "2"), ("price:499.ASX", "3")]);
    for (topic, price) in [("/price/000.ASX", 1), ("/price/499.ASX", 3)] {
        let expected = json!({"namespace": topic, "event": null, "data": price});
        for reader in [&in_path, &in_query] {
            assert_eq!(serde_json::from_str::<Value>(&reader.next().data).unwrap(), expected);
        }
        assert_eq!(socket.json(), expected);
    }
    let (status, body) = tallycast.get(&format!("/subscribe/price/{names},500.ASX"));
    assert_eq!((status, &*body), (400, "bad path after /subscribe: expected at most 500 topics, found more\n"));
    socket.send_text(r#"{"subscribe": ["/price/500.ASX"]}"#);
    assert_eq!(socket.json(), json!({"error": "expected at most 500 topics, found more"}));
    let (status, body) = tallycast.get(&format!("/subscribe?topic=/{}", "a".repeat(15 * 1024)));
    assert_eq!((status, &*body), (414, "the request target has 15378 bytes; the limit is 15360\n"));
}

#[test]
fn status_lists_all_topics_of_a_connection() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let _reader = Raw::subscribe(&tallycast, "/subscribe/details/*,26?topic=/raw");
    tallycast.until_counter("/hub/connections", 1);
    let status = tallycast.json("/admin/status.json?namespace=/raw");
    assert_eq!(status["connections"][0]["namespace"], "/details/*,/details/26,/raw");
    assert_eq!(tallycast.json("/admin/status.json?namespace=/eps")["connections_matched"], 0);
}
