//! Routes with `history=`: ids, resuming, resets, last values and notices, over every transport. Their channels are those of
//! pub/sub, so positions are valid for one process.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::support::{Curl, Event, EventSource, Raw, RedisServer, Tallycast, WebSocket, get, upgrade};

const ROUTES: [&str; 6] = [
    "--route",
    "order:*=/orders/*,history=1000",
    "--route",
    "price:*=/price/*,history=last",
    "--route",
    "stream.score_updates=/raw,tally=/eps",
];

fn publish(redis: &RedisServer, events: &[(&str, &str)]) {
    redis.publish(events.iter().copied());
}

/// A reader that comes back with an id.
fn resume(tallycast: &Tallycast, path: &str, id: &str) -> EventSource {
    let headers =
        HeaderMap::from_iter([(HeaderName::from_static("last-event-id"), HeaderValue::from_str(id).unwrap())]);
    EventSource::open_with(reqwest::Client::builder().default_headers(headers), tallycast, path)
}

/// Name and data of the next `count` events.
fn events(reader: &EventSource, count: usize) -> Vec<(Option<String>, String)> {
    (0..count).map(|_| reader.next()).map(|event| (event.name, event.data)).collect()
}

fn data(texts: &[&str]) -> Vec<(Option<String>, String)> {
    texts.iter().map(|text| (None, (*text).to_owned())).collect()
}

/// Waits until a server with [`ROUTES`] has kept `count` messages.
fn until_kept(tallycast: &Tallycast, count: u64) {
    tallycast.until_counter("/hub/history_messages", count);
}

#[test]
fn events_of_routes_with_history_have_ids_and_others_do_not() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let orders = EventSource::open(&tallycast, "/subscribe/orders");
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    let mut socket = WebSocket::open(&tallycast, "/ws/orders");
    let position = socket.json();
    let first = position["id"].as_str().unwrap();
    let (epoch, number) = first.rsplit_once('-').unwrap();
    assert_eq!((epoch.len(), number), (16, "0"), "{position}");
    publish(&redis, &[("order:A", "1"), ("stream.score_updates", "1F602"), ("order:B", "2")]);
    for (number, text) in ["1", "2"].into_iter().enumerate() {
        let id = format!("{epoch}-{}", number + 1);
        assert_eq!(orders.next(), Event { id: Some(id.clone()), ..Event::message(text) });
        let message = socket.json();
        assert_eq!((&message["id"], &message["data"]), (&json!(id), &json!(text)));
    }
    assert_eq!(raw.next(), Event::message("1F602"));
}

#[test]
fn client_resumes_with_header_or_query_on_any_transport() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let reader = EventSource::open(&tallycast, "/subscribe/orders");
    publish(&redis, &[("order:A", "1"), ("order:B", "2"), ("order:A", "3"), ("order:B", "4")]);
    let ids: Vec<String> = (0..4).map(|_| reader.next().id.unwrap()).collect();
    let resumed = resume(&tallycast, "/subscribe/orders", &ids[1]);
    assert_eq!(resumed.headers["last-event-id"], ids[1]);
    assert_eq!(resumed.headers["access-control-expose-headers"], "last-event-id");
    assert_eq!(events(&resumed, 2), data(&["3", "4"]));
    let live = |reader: &EventSource, text: &str| {
        publish(&redis, &[("order:A", text)]);
        assert_eq!(events(reader, 1), data(&[text]));
    };
    live(&resumed, "5");
    // With other topics than before, and wildcards.
    let other = resume(&tallycast, "/subscribe/orders/A?topic=/nothing/*", &ids[0]);
    assert_eq!(events(&other, 2), data(&["3", "5"]));
    for name in ["lastEventID", "last_event_id", "lastEventId", "Last-Event-ID"] {
        let path = format!("/subscribe/orders/*?{name}={}", ids[2]);
        for reader in [EventSource::open(&tallycast, &path), EventSource::open_http2(&tallycast, &path)] {
            assert_eq!(reader.headers["last-event-id"], ids[2]);
            assert_eq!(events(&reader, 2), data(&["4", "5"]), "{name}");
        }
    }
    let gzip = Curl::open(&tallycast, "/subscribe/orders?lastEventID=earliest", &["--compressed"]);
    let mut socket = WebSocket::open(&tallycast, &format!("/ws/orders?lastEventID={}", ids[2]));
    assert_eq!(socket.json(), json!({"id": ids[2]}));
    let read: Vec<Value> = (0..2).map(|_| socket.json()["data"].clone()).collect();
    assert_eq!(read, ["4", "5"]);
    // Topics without history have no positions.
    let raw = resume(&tallycast, "/subscribe/raw", &ids[2]);
    assert!(!raw.headers.contains_key("last-event-id"));
    publish(&redis, &[("stream.score_updates", "1F602")]);
    assert_eq!(raw.next(), Event::message("1F602"));
    tallycast.terminate();
    let (gzip, _) = gzip.finish();
    let texts: Vec<&str> = gzip.lines().filter_map(|line| line.strip_prefix("data:")).collect();
    assert_eq!(texts, ["1", "2", "3", "4", "5"]);
}

#[test]
fn client_starts_with_the_newest_events_or_those_of_a_time() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let live = EventSource::open(&tallycast, "/subscribe/orders");
    publish(&redis, &[("order:A", "1"), ("order:B", "2"), ("order:A", "3"), ("order:B", "4")]);
    events(&live, 4);
    for (query, expected) in [
        ("orders?last=2", &["3", "4"][..]),
        ("orders/A?last=2", &["1", "3"]),
        ("orders?last=100", &["1", "2", "3", "4"]),
        ("orders?since=1h", &["1", "2", "3", "4"]),
    ] {
        let reader = EventSource::open(&tallycast, &format!("/subscribe/{query}"));
        assert_eq!(events(&reader, expected.len()), data(expected), "{query}");
    }
    for (query, error) in [
        ("last=0", "bad query: last=0; expected a number from 1 to 10000\n"),
        ("since=5", "bad query: since=5; expected a time, such as 30s, 5m or 2h\n"),
        ("last=1&since=1s", "bad query: last and since exclude each other\n"),
    ] {
        let response = get(&tallycast, &format!("/subscribe/orders?{query}"), &[]);
        assert_eq!((response.status, &*response.body), (400, error.as_bytes()));
    }
}

#[test]
fn reader_is_reset_in_band_where_its_position_is_lost() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--route", "order:*=/orders/*,history=2"]);
    let live = EventSource::open(&tallycast, "/subscribe/orders");
    publish(&redis, &[("order:A", "1"), ("order:B", "2"), ("order:A", "3"), ("order:B", "4")]);
    let ids: Vec<String> = (0..4).map(|_| live.next().id.unwrap()).collect();
    let path = "/subscribe/orders/A";
    let cases = [(&*ids[0], "trimmed"), ("0123456789abcdef-1", "unknown"), ("a,b:c", "unknown")];
    let readers = cases.map(|(id, reason)| {
        let reader = resume(&tallycast, path, id);
        assert_eq!(reader.headers["last-event-id"], ids[3]);
        let event = reader.next();
        assert_eq!((event.name.as_deref(), event.id.as_deref()), (Some("reset"), Some(&*ids[3])));
        assert_eq!(event.data, format!(r#"{{"reason":"{reason}","earliest":"{}"}}"#, ids[2]));
        let mut socket = WebSocket::open(&tallycast, &format!("{path}?envelope=1&lastEventID={id}"));
        assert_eq!(socket.json(), json!({"reset": {"reason": reason, "earliest": ids[2]}, "id": ids[3]}));
        (reader, socket)
    });
    publish(&redis, &[("order:A", "5")]);
    for (reader, mut socket) in readers {
        assert_eq!(events(&reader, 1), data(&["5"]));
        // The envelope keeps JSON as it is.
        assert_eq!(socket.json()["data"], 5);
    }
    assert_eq!(tallycast.counter("/hub/resets"), 6);
}

#[test]
fn positions_of_another_process_are_unknown() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let reader = EventSource::open(&tallycast, "/subscribe/orders");
    publish(&redis, &[("order:A", "1")]);
    let id = reader.next().id.unwrap();
    drop(tallycast);
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let reader = resume(&tallycast, "/subscribe/orders", &id);
    let event = reader.next();
    assert_eq!(event.name.as_deref(), Some("reset"));
    assert!(event.data.contains("\"unknown\""), "{event:?}");
}

#[test]
fn snapshot_has_the_last_value_of_each_namespace() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    publish(&redis, &[("price:A", "1"), ("price:B", "2"), ("price:A", "3"), ("order:A", "4"), ("price:C", "5")]);
    until_kept(&tallycast, 4);
    let all = EventSource::open(&tallycast, "/subscribe/price?snapshot=1");
    assert_eq!(events(&all, 3), data(&["2", "3", "5"]));
    let some = EventSource::open(&tallycast, "/subscribe?topic=/price/*&topic=/orders&snapshot=1");
    assert_eq!(events(&some, 3), data(&["2", "3", "5"]));
    let mut socket = WebSocket::open(&tallycast, "/ws/price/A,B?snapshot=1");
    assert_eq!([socket.json()["data"].clone(), socket.json()["data"].clone()], ["2", "3"]);
    publish(&redis, &[("price:A", "6")]);
    for reader in [&all, &some] {
        assert_eq!(events(reader, 1), data(&["6"]));
    }
    assert_eq!(socket.json()["data"], "6");
    // What came in between is lost to a reader that was away, so it is reset, and gets the last values again.
    let id = some.headers.get("last-event-id").map_or("earliest", |id| id.to_str().unwrap());
    assert_eq!(id, "earliest", "a snapshot has no position before it");
    let late = resume(&tallycast, "/subscribe/price", "x");
    assert_eq!(late.next().name.as_deref(), Some("reset"));
    assert_eq!(events(&late, 3), data(&["2", "5", "6"]));
    let response = get(&tallycast, "/subscribe/orders/*?snapshot=1", &[]);
    assert_eq!(
        (response.status, &*response.body),
        (400, &b"snapshot=1 requires exactly one namespace, without wildcards\n"[..])
    );
}

#[test]
fn notices_are_events_where_asked_for_or_with_history() {
    let redis = RedisServer::start();
    let flags = [&ROUTES[..], &["--keep-alive", "1s"]].concat();
    let tallycast = Tallycast::start(&redis, &flags);
    let heartbeat = |path: &str| {
        let event = EventSource::open(&tallycast, path).next();
        assert_eq!(event.name.as_deref(), Some("heartbeat"), "{path}");
        let time = serde_json::from_str::<Value>(&event.data).unwrap()["time"].as_u64().unwrap();
        assert!(time > 1_700_000_000_000, "{event:?}");
    };
    heartbeat("/subscribe/orders");
    heartbeat("/subscribe/raw?notices=1");
    let mut idle = Raw::subscribe(&tallycast, "/subscribe/orders");
    let position = idle.chunk();
    assert!(position.starts_with("id:") && position.ends_with("-0\n\n"), "{position}");
    let alive = idle.chunk();
    assert!(alive.starts_with(&position) && alive[position.len()..].starts_with("event:heartbeat\ndata:{"), "{alive}");
    let mut comments = Raw::subscribe(&tallycast, "/subscribe/raw");
    assert_eq!(comments.chunk(), ": keep-alive\n\n");
    let mut socket = WebSocket::open(&tallycast, "/ws/orders?notices=1");
    assert_eq!(socket.json(), json!({"id": position.trim_start_matches("id:").trim_end()}));
    assert!(socket.next().is_ping());
    let alive = socket.json();
    assert!(alive["heartbeat"]["time"].is_u64() && alive["id"].is_string(), "{alive}");
    let mut envelope = Raw::subscribe(&tallycast, "/subscribe/raw?notices=1&envelope=1");
    assert!(envelope.chunk().starts_with("data:{\"heartbeat\":{\"time\":"));
    let response = get(&tallycast, "/subscribe/raw?notice=1", &[]);
    assert_eq!(response.status, 400);
}

#[test]
fn websocket_client_adds_topics_from_a_position() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let all = EventSource::open(&tallycast, "/subscribe/orders");
    publish(&redis, &[("order:A", "1"), ("order:B", "2"), ("order:A", "3"), ("order:B", "4")]);
    let ids: Vec<String> = (0..4).map(|_| all.next().id.unwrap()).collect();
    let mut socket = WebSocket::open(&tallycast, "/ws/orders/A");
    assert_eq!(socket.json(), json!({"id": ids[3]}));
    // Only what it does not read already.
    socket.send_text(&format!(r#"{{"subscribe": ["/orders"], "after": "{}", "id": 7}}"#, ids[0]));
    assert_eq!(socket.json(), json!({"subscribed": ["/orders", "/orders/A"], "id": 7}));
    assert_eq!(socket.json(), json!({"id": ids[0]}));
    assert_eq!([socket.json()["data"].clone(), socket.json()["data"].clone()], ["2", "4"]);
    publish(&redis, &[("order:A", "5"), ("order:B", "6")]);
    assert_eq!([socket.json()["data"].clone(), socket.json()["data"].clone()], ["5", "6"]);
    socket.send_text(r#"{"subscribe": ["/price"], "after": "unknown"}"#);
    assert_eq!(socket.json()["subscribed"], json!(["/orders", "/orders/A", "/price"]));
    assert_eq!(socket.json()["reset"]["reason"], "unknown");
    for (command, error) in [
        (r#"{"subscribe": ["/x"], "after": 7}"#, "invalid type: integer"),
        (r#"{"subscribe": ["/x"], "after": "a", "after": "b"}"#, "duplicate field `after`"),
        (r#"{"subscribe": ["/x"], "snapshot": 1}"#, "invalid type: integer"),
    ] {
        socket.send_text(command);
        let answer = socket.json();
        assert!(answer["error"].as_str().unwrap().contains(error), "{answer}");
    }
}

#[test]
fn websocket_client_adds_topics_with_their_last_values() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    publish(&redis, &[("price:a", "1"), ("price:b", "2"), ("price:a", "3"), ("order:A", "4")]);
    tallycast.until_counter("/hub/broadcast", 4);
    let mut socket = WebSocket::open(&tallycast, "/ws/price/a?snapshot=1");
    assert_eq!(data_of(&mut socket), "3");
    // What it reads already does not come again, and a topic with history alone starts now.
    socket.send_text(r#"{"subscribe": ["/price/*", "/orders/A"], "snapshot": true}"#);
    assert_eq!(socket.json()["subscribed"], json!(["/orders/A", "/price/*", "/price/a"]));
    assert_eq!(data_of(&mut socket), "2");
    socket.send_text(r#"{"subscribe": ["/orders"], "snapshot": true}"#);
    assert_eq!(socket.json()["subscribed"].as_array().unwrap().len(), 4);
    publish(&redis, &[("price:b", "5"), ("order:A", "6")]);
    assert_eq!([data_of(&mut socket), data_of(&mut socket)], ["5", "6"]);
}

/// The payload of the next message, after positions alone.
fn data_of(socket: &mut WebSocket) -> Value {
    loop {
        let message = socket.json();
        if let Some(data) = message.get("data") {
            return data.clone();
        }
        assert!(message["id"].is_string(), "{message}");
    }
}

#[test]
fn websocket_of_payloads_alone_cannot_resume() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let request =
        upgrade("/ws/orders?lastEventID=earliest").replace("\r\n\r\n", "\r\nsec-websocket-protocol: raw\r\n\r\n");
    let mut raw = Raw::request(&tallycast, &request);
    assert!(raw.head().starts_with("HTTP/1.1 400 "));
    let mut live = WebSocket::open_raw(&tallycast, "/ws/orders");
    publish(&redis, &[("order:A", "1")]);
    assert_eq!(live.text(), "1");
}

#[test]
fn slow_reader_loses_nothing_that_is_kept() {
    let redis = RedisServer::start();
    let flags = ["--route", "order:*=/orders/*,history=100000", "--log-batches", "2", "--send-buffer", "4096"];
    let tallycast = Tallycast::start(&redis, &flags);
    let mut slow = Raw::connect_with_small_buffer(&tallycast).subscribed("/subscribe/orders");
    let live = EventSource::open(&tallycast, "/subscribe/orders");
    let text = "x".repeat(1000);
    for number in 0..3000 {
        publish(&redis, &[("order:A", &format!("{number} {text}"))]);
        if number % 100 == 99 {
            events(&live, 100);
        }
    }
    let mut received = String::new();
    while !received.contains("data:2999 ") {
        received.push_str(&slow.chunk());
    }
    let numbers: Vec<u32> =
        received.lines().filter_map(|line| line.strip_prefix("data:")?.split_once(" x")?.0.parse().ok()).collect();
    assert_eq!(numbers, (0..3000).collect::<Vec<_>>());
    let counters = tallycast.terminate().counters();
    assert!(counters["hub"]["slow_replayed"].as_u64().unwrap() > 0, "{counters}");
    assert_eq!((&counters["hub"]["slow_disconnected"], &counters["hub"]["resets"]), (&json!(0), &json!(0)));
}
