//! What operators are told: `/admin/status.json`, `/healthz`, `/readyz`, and the report that goes to Redis.

use std::time::{SystemTime, UNIX_EPOCH};

use redis::Commands;
use serde_json::Value;

use crate::support::{EventSource, Raw, RedisServer, Tallycast, eventually};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn status_has_the_shape_and_values_of_the_contract() {
    let before = now();
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--instance", "web.1"]);
    let client = reqwest::Client::builder().user_agent("a browser/1.0");
    let details = EventSource::open_with(client, &tallycast, "/subscribe/details/1F602");
    let raw = EventSource::open_http2(&tallycast, "/subscribe/raw");
    for post in ["one", "two"] {
        redis.publish_post("1F602", post);
        details.next();
    }
    redis.publish_scores(["26"]);
    raw.next();
    tallycast.until_counter("/hub/broadcast", 4);

    let status = tallycast.json("/admin/status.json");
    let mut fields = keys(&status);
    fields.sort_unstable();
    let totals = ["connections_matched", "connections_total"];
    fields.retain(|field| !totals.contains(&&**field));
    assert_eq!(fields, ["connections", "msgs_broadcast", "node", "reported_at", "startup_time", "status"]);
    assert_eq!(totals.map(|field| &status[field]), [2, 2]);
    assert_eq!(status["node"], "rust-development-web.1");
    assert_eq!(status["status"], "OK");
    assert_eq!(status["msgs_broadcast"], 4);
    let time = |value: &Value| value.as_u64().unwrap();
    assert!((before..=now()).contains(&time(&status["startup_time"])), "{status}");
    assert!((time(&status["startup_time"])..=now()).contains(&time(&status["reported_at"])), "{status}");

    let connections = status["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 2, "{status}");
    let of = |namespace: &str| connections.iter().find(|connection| connection["namespace"] == namespace).unwrap();
    let connection = of("/details/1F602");
    let mut fields = keys(connection);
    fields.sort_unstable();
    assert_eq!(fields, ["client_ip", "created_at", "msgs_sent", "namespace", "request_path", "user_agent"]);
    assert_eq!(connection["request_path"], "/subscribe/details/1F602");
    assert_eq!(connection["client_ip"], "127.0.0.1");
    assert_eq!(connection["user_agent"], "a browser/1.0");
    assert_eq!(connection["msgs_sent"], 2);
    assert!((time(&status["startup_time"])..=now()).contains(&time(&connection["created_at"])), "{status}");
    assert_eq!(of("/raw")["msgs_sent"], 1);
}

#[test]
fn a_client_that_leaves_leaves_the_status() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let count = || tallycast.json("/admin/status.json")["connections"].as_array().unwrap().len();
    let streams = [
        EventSource::open(&tallycast, "/subscribe/raw"),
        EventSource::open_http2(&tallycast, "/subscribe/eps"),
        EventSource::open(&tallycast, "/subscribe/details"),
    ];
    eventually("three are connected", || count() == 3);
    let [by_http1, by_http2, stays] = streams;
    // Nothing is published meanwhile: a connection that is gone is noticed without writing to it.
    drop(by_http1);
    eventually("two are connected", || count() == 2);
    drop(by_http2);
    eventually("one is connected", || count() == 1);
    assert_eq!(tallycast.counter("/hub/connections"), 1);
    assert_eq!(tallycast.counter("/hub/connected"), 3);
    drop(stays);
}

#[test]
fn an_overlong_user_agent_is_shortened_and_others_are_kept_valid() {
    let tallycast = Tallycast::start_unready("redis://127.0.0.1:1", &[]);
    let agent = "\u{1F602}".repeat(500);
    let mut raw = Raw::request(
        &tallycast,
        &format!("GET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\nuser-agent: {agent}\r\n\r\n"),
    );
    raw.head();
    raw.expect("d\r\n: tallycast\n\n\r\n");
    let status = tallycast.json("/admin/status.json");
    let kept = status["connections"][0]["user_agent"].as_str().unwrap();
    assert!(kept.len() <= 256 && agent.starts_with(kept) && !kept.is_empty(), "{kept}");
}

#[test]
fn without_a_broker_the_process_is_alive_but_degraded_and_not_ready() {
    let mut redis = RedisServer::absent();
    let tallycast = Tallycast::start_unready(&redis.url(), &[]);
    assert_eq!(tallycast.get("/healthz"), (200, "alive\n".to_owned()));
    assert_eq!(tallycast.get("/readyz"), (503, "the broker is not subscribed\n".to_owned()));
    assert_eq!(tallycast.json("/admin/status.json")["status"], "DEGRADED");
    redis.run();
    tallycast.until_ready();
    assert_eq!(tallycast.get("/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(tallycast.json("/admin/status.json")["status"], "OK");
    redis.kill();
    eventually("not ready any more", || tallycast.get("/readyz").0 == 503);
    assert_eq!(tallycast.get("/healthz").0, 200);
    assert_eq!(tallycast.json("/admin/status.json")["status"], "DEGRADED");
}

#[test]
fn pages_for_operators_are_read_with_get_and_head_only() {
    let tallycast = Tallycast::start_unready("redis://127.0.0.1:1", &[]);
    let ask = |method: &str, path: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        Raw::request(&tallycast, &request).read_to_the_end()
    };
    for path in ["/healthz", "/admin/status.json", "/admin/counters.json"] {
        let answer = ask("HEAD", path);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        let answer = ask("DELETE", path);
        assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
        assert!(answer.contains("\r\nallow: GET, HEAD\r\n"), "{answer}");
    }
    assert!(ask("GET", "/admin/status.json").contains("\r\ncontent-type: application/json; charset=utf-8\r\n"));
}

#[test]
fn staging_reports_its_status_to_redis_again_and_again() {
    let redis = RedisServer::start();
    let tallycast =
        Tallycast::start(&redis, &["--app-env", "staging", "--instance", "web.1", "--status-interval", "50ms"]);
    let mut connection = redis.connect();
    let mut report = || -> Option<Value> {
        let text: Option<String> = connection.hget("admin_stream_status", "rust-staging-web.1").unwrap();
        text.map(|text| serde_json::from_str(&text).unwrap())
    };
    eventually("there is a report", || report().is_some_and(|report| report["status"] == "OK"));
    let _stream = EventSource::open(&tallycast, "/subscribe/details/26");
    eventually("a later report has the new connection", || {
        report().is_some_and(|report| report["connections"][0]["namespace"] == "/details/26")
    });
    let report = report().unwrap();
    assert_eq!(keys(&report), keys(&tallycast.json("/admin/status.json")));
    assert_eq!(report["node"], "rust-staging-web.1");
}

#[test]
fn reports_go_on_after_redis_was_away() {
    let mut redis = RedisServer::start();
    let _tallycast = Tallycast::start(&redis, &["--app-env", "production", "--status-interval", "50ms"]);
    let reported = |redis: &RedisServer| {
        let nodes: Vec<String> = redis.connect().hkeys("admin_stream_status").unwrap();
        nodes.iter().any(|node| node.starts_with("rust-production-"))
    };
    eventually("a report", || reported(&redis));
    redis.kill();
    // Without persistence, so the hash is empty.
    redis.run();
    eventually("a report to the new server", || reported(&redis));
}

#[test]
fn development_reports_nothing() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--app-env", "development", "--status-interval", "1ms"]);
    // Many intervals, by the time that these requests have taken.
    for _ in 0..50 {
        tallycast.get("/admin/status.json");
    }
    let exists: bool = redis.connect().exists("admin_stream_status").unwrap();
    assert!(!exists);
}
