//! Edges: servers whose source is another one. A tree of them sends what the origin sends, with its ids, and says so where it cannot.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Certificate, Event, EventSource, RedisServer, SECRET, Tallycast, TempDir, command, eventually, read, token,
};

const ROUTES: [&str; 4] = ["--route", "stream:orders=/orders/*,history=1h", "--route", "news.*=/news/*,history=10000"];

/// An edge of the origin at this URL, on this port or on a free one.
fn edge(source: &str, port: u16, flags: &[&str]) -> Tallycast {
    let mut command: Command = command();
    command.args(["serve", "--source", source]).args(flags);
    Tallycast::spawn_at(command, port)
}

fn ready_edge(source: &str, flags: &[&str]) -> Tallycast {
    let edge = edge(source, 0, flags);
    edge.until_ready();
    edge
}

fn url(scheme: &str, origin: &Tallycast) -> String {
    format!("{scheme}://{}", origin.address)
}

fn add(redis: &RedisServer, numbers: std::ops::Range<u32>) {
    let mut connection = redis.connect();
    let mut pipeline = redis::pipe();
    for number in numbers {
        pipeline.cmd("XADD").arg("orders").arg("*").arg("data").arg(number).arg("topic").arg("eu").ignore();
    }
    let () = pipeline.query(&mut connection).unwrap();
}

/// So many messages, as pairs of id and payload. There are no resets.
fn take(stream: &EventSource, count: usize) -> Vec<(String, String)> {
    let mut messages = Vec::with_capacity(count);
    while messages.len() < count {
        let Event { name, id, data } = stream.next();
        assert_ne!(name.as_deref(), Some("reset"));
        if name.is_none() {
            messages.push((id.unwrap(), data));
        }
    }
    messages
}

/// The messages up to the one with this payload, as pairs of id and payload; and resets.
fn until(stream: &EventSource, last: &str) -> (Vec<(String, String)>, Vec<String>) {
    let (mut messages, mut resets) = (Vec::new(), Vec::new());
    loop {
        let Event { name, id, data } = stream.next();
        match name.as_deref() {
            None => messages.push((id.unwrap(), data.clone())),
            Some("reset") => resets.push(data.clone()),
            Some(_) => {}
        }
        if data == last {
            return (messages, resets);
        }
    }
}

#[test]
fn tree_sends_what_the_origin_sends_while_an_edge_is_killed() {
    const MESSAGES: u32 = 900;
    let redis = RedisServer::start();
    let origin = Tallycast::start(&redis, &ROUTES);
    add(&redis, 0..10);
    let mut edges: Vec<Tallycast> = (0..3).map(|_| edge(&url("http", &origin), 0, &[])).collect();
    edges.iter().for_each(Tallycast::until_ready);
    let leaves: Vec<Tallycast> =
        (0..9).map(|leaf| edge(&url(["http", "ws"][leaf % 2], &edges[leaf / 3]), 0, &[])).collect();
    leaves.iter().for_each(Tallycast::until_ready);
    let path = "/subscribe?topic=/orders&topic=/news/*&lastEventID=earliest";
    let expected = EventSource::open(&origin, path);
    let readers: Vec<EventSource> = leaves.iter().map(|leaf| EventSource::open(leaf, path)).collect();

    for number in (10..MESSAGES).step_by(10) {
        add(&redis, number..number + 10);
        redis.publish([("news.a", format!("news {number}"))]);
        if number == 300 {
            let port = edges[0].address.port();
            drop(edges.remove(0));
            edges.insert(0, edge(&url("http", &origin), port, &[]));
        }
        sleep(Duration::from_millis(5));
    }
    redis.publish([("news.a", "last")]);
    // Channels and streams have no order between them, but one that all nodes share.
    let count = MESSAGES as usize + 90;
    let expected = take(&expected, count);
    for (number, reader) in readers.iter().enumerate() {
        assert!(take(reader, count) == expected, "leaf {number}");
    }
    // An id of the origin is good on each leaf, whichever way it has come, and one that a leaf has not heard of yet.
    add(&redis, 0..1);
    redis.publish([("news.a", "end")]);
    let newest = EventSource::open(&origin, "/subscribe/news?last=1").next().id.unwrap();
    for leaf in &leaves {
        let from = &expected[250].0;
        let reader = EventSource::open(leaf, &format!("/subscribe?topic=/orders&topic=/news/*&lastEventID={from}"));
        assert!(take(&reader, count - 251) == expected[251..]);
        let reader = EventSource::open(leaf, &format!("/subscribe/news?lastEventID={newest}"));
        assert_eq!(reader.headers["last-event-id"], newest);
    }
    assert_eq!(leaves[8].counter("/source/gaps"), 0);
    assert!(leaves[0].counter("/source/gaps") >= 1);
}

#[test]
fn readers_of_an_edge_are_told_what_the_readers_of_a_restarted_origin_are_told() {
    let redis = RedisServer::start();
    let origin = Tallycast::start(&redis, &ROUTES);
    let edge = ready_edge(&url("http", &origin), &[]);
    let leaf = ready_edge(&url("ws", &edge), &[]);
    let [orders, news] = ["/subscribe/orders", "/subscribe/news"].map(|path| EventSource::open(&leaf, path));
    add(&redis, 0..5);
    redis.publish([("news.a", "before")]);
    let (messages, _) = until(&orders, "4");
    let (old, _) = until(&news, "before");
    let port = origin.address.port();
    drop(origin);
    // Readers who want to start in the past wait.
    eventually("the edge reports the loss", || leaf.get("/readyz").0 == 200 && edge.get("/readyz").0 == 503);
    add(&redis, 5..10);
    let mut command = command();
    command.args(["serve", "--redis-url", &redis.url()]).args(ROUTES);
    let origin = Tallycast::spawn_at(command, port);
    origin.until_ready();
    edge.until_ready();
    leaf.until_ready();
    add(&redis, 10..15);
    // A stream of Redis goes on. What the origin has numbered itself does not.
    let (more, resets) = until(&orders, "14");
    let data = |messages: &[(String, String)]| messages.iter().map(|(_, data)| data.clone()).collect::<Vec<_>>();
    assert_eq!(data(&[messages, more].concat()), (0..15).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(resets.len(), 0);
    let reset: Value = loop {
        let event = news.next();
        if event.name.as_deref() == Some("reset") {
            break serde_json::from_str(&event.data).unwrap();
        }
    };
    assert_eq!(reset["reason"], "unknown");
    redis.publish([("news.a", "after")]);
    let (new, _) = until(&news, "after");
    assert_eq!(new.last(), until(&EventSource::open(&origin, "/subscribe/news?last=1"), "after").0.last());
    let late = EventSource::open(&leaf, &format!("/subscribe/news?lastEventID={}", old[0].0));
    assert_eq!(late.next().name.as_deref(), Some("reset"));
}

#[test]
fn totals_are_exact_through_relays() {
    let redis = RedisServer::start();
    let count = |id: &str, times: u32| {
        let mut pipeline = redis::pipe();
        pipeline.atomic().cmd("ZINCRBY").arg("emojitrack_score").arg(times).arg(id).ignore();
        for _ in 0..times {
            pipeline.cmd("PUBLISH").arg("stream.score_updates").arg(id).ignore();
        }
        let () = pipeline.query(&mut redis.connect()).unwrap();
    };
    count("2665", 5);
    let origin = Tallycast::start(&redis, &[]);
    let edge = edge(&url("http", &origin), 0, &[]);
    edge.until_ready();
    let leaf = ready_edge(&url("http", &edge), &[]);
    let stream = EventSource::open(&leaf, "/subscribe/eps?snapshot=1");
    let mut sum = 0;
    let mut states = Vec::new();
    let mut until_sum = |expected: i64| {
        while sum != expected {
            let event = stream.next();
            let json: Value = serde_json::from_str(&event.data).unwrap();
            match event.name.as_deref() {
                Some("totals") => states.push(json["known"].as_bool().unwrap()),
                name => {
                    let counts: i64 = json.as_object().unwrap().values().map(|count| count.as_i64().unwrap()).sum();
                    sum = if name == Some("snapshot") { counts } else { sum + counts };
                }
            }
        }
        states.clone()
    };
    count("1F602", 7);
    assert!(until_sum(12).is_empty());
    let port = edge.address.port();
    drop(edge);
    count("2764", 11);
    let edge = self::edge(&url("http", &origin), port, &[]);
    assert_eq!(until_sum(23), [false]);
    count("1F602", 2);
    assert_eq!(until_sum(25), [false, true]);
    drop(edge);
    assert_eq!(leaf.get("/subscribe/eps?snapshot=1").0, 503);
}

#[test]
fn token_of_an_edge_is_read_again_when_it_has_expired_and_private_messages_stay_private() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let directory = TempDir::new();
    let file = directory.path().join("token");
    let write = |flags: &[&str]| std::fs::write(&file, token(flags)).unwrap();
    write(&["--read", "/**"]);
    let key = format!("HS256={SECRET}");
    let tls = ["--tls-cert", &certificate.certificate(), "--tls-key", &certificate.key()];
    let keys = ["--token-key", &key, "--token-leeway", "0s"];
    let routes = ["--route", "stream:orders=/orders/*,history=1h,private"];
    let origin = Tallycast::start_unready(&redis.url(), &[&tls[..], &keys, &routes].concat());
    let source = format!("https://localhost:{}?token=@{}#insecure", origin.address.port(), file.display());
    let edge = edge(&source, 0, &keys);
    edge.wait_for_log("403: not allowed to use relay=1");
    write(&["--read", "/**", "--relay", "--expires", "2s"]);
    edge.until_ready();
    write(&["--read", "/**", "--relay", "--no-expiry"]);
    add(&redis, 0..3);
    edge.wait_for_log("the authorization has expired");
    add(&redis, 3..6);
    edge.until_counter("/source/subscriptions", 2);
    assert!(!edge.log().contains(&std::fs::read_to_string(&file).unwrap()));

    assert_eq!(read(&edge, "/subscribe/orders", "").0, 401);
    let token = token(&["--read", "/orders/eu"]);
    let mut client = reqwest_client(&token);
    client = client.connect_timeout(Duration::from_secs(60));
    let stream = EventSource::open_with(client, &edge, "/subscribe/orders/eu?lastEventID=earliest");
    let (messages, resets) = until(&stream, "5");
    assert_eq!((messages.len(), resets.len()), (6, 0));
}

fn reqwest_client(token: &str) -> reqwest::ClientBuilder {
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    reqwest::Client::builder().default_headers(headers)
}

#[test]
fn edge_that_was_frozen_misses_nothing_that_is_kept_and_no_server_relays_itself() {
    let redis = RedisServer::start();
    let origin = Tallycast::start(&redis, &[&ROUTES[..], &["--log-bytes", "64KiB", "--send-buffer", "16KiB"]].concat());
    let edge = ready_edge(&format!("{}/subscribe/orders", url("http", &origin)), &[]);
    let stream = EventSource::open(&edge, "/subscribe/orders");
    edge.signal(Signal::STOP);
    let payload = "x".repeat(20_000);
    let mut connection = redis.connect();
    for number in 0..600 {
        let text = format!("{number} {payload}");
        let _: String = redis::cmd("XADD")
            .arg("orders")
            .arg("*")
            .arg("data")
            .arg(text)
            .arg("topic")
            .arg("eu")
            .query(&mut connection)
            .unwrap();
    }
    let slow = |name: &str| origin.counter(&format!("/hub/{name}"));
    eventually("the origin notices", || slow("slow_replayed") + slow("slow_disconnected") + slow("stalled") > 0);
    edge.signal(Signal::CONT);
    add(&redis, 0..1);
    let (messages, resets) = until(&stream, "0");
    let numbers: Vec<usize> =
        messages.iter().map(|(_, data)| data.split(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!((numbers, resets.len()), ((0..600).chain([0]).collect(), 0));

    let (port, source) = (origin.address.port(), url("http", &origin));
    drop(origin);
    self::edge(&source, port, &[]).wait_for_log("508: this server is its own origin");
}
