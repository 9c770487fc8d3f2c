//! Status: `/admin/status.json`, `/healthz`, `/readyz` and the reports to Redis.

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
fn status_has_the_documented_shape_and_values() {
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
    let additions = ["id", "subject"];
    fields.retain(|field| !additions.contains(field));
    assert_eq!(fields, ["client_ip", "created_at", "msgs_sent", "namespace", "request_path", "user_agent"]);
    assert!(connection["id"].is_string() && connection["subject"].is_null(), "{status}");
    assert_eq!(connection["request_path"], "/subscribe/details/1F602");
    assert_eq!(connection["client_ip"], "127.0.0.1");
    assert_eq!(connection["user_agent"], "a browser/1.0");
    assert_eq!(connection["msgs_sent"], 2);
    assert!((time(&status["startup_time"])..=now()).contains(&time(&connection["created_at"])), "{status}");
    assert_eq!(of("/raw")["msgs_sent"], 1);
}

#[test]
fn closed_connections_disappear_from_status() {
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
    // Nothing is published: a closed connection is detected without a write.
    drop(by_http1);
    eventually("two are connected", || count() == 2);
    drop(by_http2);
    eventually("one is connected", || count() == 1);
    assert_eq!(tallycast.counter("/hub/connections"), 1);
    assert_eq!(tallycast.counter("/hub/connected"), 3);
    drop(stays);
}

#[test]
fn long_user_agent_is_truncated_to_valid_utf8() {
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
fn process_without_broker_is_alive_but_not_ready() {
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
    eventually("/readyz returns 503", || tallycast.get("/readyz").0 == 503);
    assert_eq!(tallycast.get("/healthz").0, 200);
    assert_eq!(tallycast.json("/admin/status.json")["status"], "DEGRADED");
}

#[test]
fn admin_paths_accept_get_and_head_only() {
    let tallycast = Tallycast::start_unready("redis://127.0.0.1:1", &[]);
    let request = |method: &str, path: &str| {
        let text = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        Raw::request(&tallycast, &text).read_to_end()
    };
    for path in ["/healthz", "/admin/status.json", "/admin/counters.json"] {
        let answer = request("HEAD", path);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        let answer = request("DELETE", path);
        assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
        assert!(answer.contains("\r\nallow: GET, HEAD\r\n"), "{answer}");
    }
    assert!(request("GET", "/admin/status.json").contains("\r\ncontent-type: application/json; charset=utf-8\r\n"));
}

#[test]
fn staging_writes_status_reports_to_redis() {
    let redis = RedisServer::start();
    let tallycast =
        Tallycast::start(&redis, &["--app-env", "staging", "--instance", "web.1", "--status-interval", "50ms"]);
    let mut connection = redis.connect();
    let mut report = || -> Option<Value> {
        let text: Option<String> = connection.hget("admin_stream_status", "rust-staging-web.1").unwrap();
        text.map(|text| serde_json::from_str(&text).unwrap())
    };
    eventually("the hash contains a report", || report().is_some_and(|report| report["status"] == "OK"));
    let _stream = EventSource::open(&tallycast, "/subscribe/details/26");
    eventually("a later report lists the new connection", || {
        report().is_some_and(|report| report["connections"][0]["namespace"] == "/details/26")
    });
    let report = report().unwrap();
    assert_eq!(keys(&report), keys(&tallycast.json("/admin/status.json")));
    assert_eq!(report["node"], "rust-staging-web.1");
}

#[test]
fn status_reports_resume_after_redis_restart() {
    let mut redis = RedisServer::start();
    let _tallycast = Tallycast::start(&redis, &["--app-env", "production", "--status-interval", "50ms"]);
    let reported = |redis: &RedisServer| {
        let nodes: Vec<String> = redis.connect().hkeys("admin_stream_status").unwrap();
        nodes.iter().any(|node| node.starts_with("rust-production-"))
    };
    eventually("the hash contains a report", || reported(&redis));
    redis.kill();
    // Redis has no persistence, so the hash is empty now.
    redis.run();
    eventually("the restarted Redis contains a report", || reported(&redis));
}

#[test]
fn development_writes_no_status_reports() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--app-env", "development", "--status-interval", "1ms"]);
    // These requests take longer than many intervals.
    for _ in 0..50 {
        tallycast.get("/admin/status.json");
    }
    let exists: bool = redis.connect().exists("admin_stream_status").unwrap();
    assert!(!exists);
}

#[test]
fn status_reports_are_bounded() {
    let redis = RedisServer::start();
    let tallycast =
        Tallycast::start(&redis, &["--app-env", "staging", "--instance", "web.1", "--status-interval", "50ms"]);
    // Many topics of characters that JSON and UTF-8 write with several bytes.
    let topics: Vec<String> = (0..60).map(|number| format!("%F0%9F%98%82\\\"{number}").repeat(2)).collect();
    let path = format!("/subscribe/{}", topics.join(",").replace('"', "%22").replace('\\', "%5C"));
    let _streams: Vec<Raw> = (0..150).map(|_| Raw::subscribe(&tallycast, &path)).collect();
    let newest = EventSource::open(&tallycast, "/subscribe/newest");
    let mut connection = redis.connect();
    let mut text = String::new();
    eventually("a report counts all connections", || {
        text = connection.hget("admin_stream_status", "rust-staging-web.1").unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["connections_total"] == 151
    });
    assert!(text.len() < 80 * 1024, "{} bytes", text.len());
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["connections_matched"], 151);
    let connections = report["connections"].as_array().unwrap();
    assert!((50..=100).contains(&connections.len()), "{}", connections.len());
    assert_eq!(connections[0]["namespace"], "/newest");
    for connection in connections {
        for text in ["request_path", "namespace", "user_agent"] {
            assert!(connection[text].as_str().unwrap().len() <= 256, "{connection}");
        }
    }
    // The page for operators has everything.
    assert_eq!(tallycast.json("/admin/status.json")["connections"].as_array().unwrap().len(), 151);
    drop(newest);
}

#[test]
fn status_reports_of_dead_nodes_expire_and_stopped_nodes_remove_theirs() {
    const HASH: &str = "admin_stream_status";
    const EXPIRIES: &str = "{admin_stream_status}:expiries";
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    // Nodes that died long ago, one that reports less often, and one that is not tallycast and has no expiry.
    let dead: Vec<(f64, String)> = (0..250).map(|number| (f64::from(number), format!("dead-{number}"))).collect();
    let () = connection.zadd_multiple(EXPIRIES, &dead).unwrap();
    let () = connection.zadd(EXPIRIES, "alive", now() + 1000).unwrap();
    for node in dead.iter().map(|(_, node)| &**node).chain(["alive", "other"]) {
        let () = connection.hset(HASH, node, "{}").unwrap();
    }
    let tallycast =
        Tallycast::start(&redis, &["--app-env", "staging", "--instance", "web.1", "--status-interval", "50ms"]);
    eventually("only the living are left", || {
        let mut nodes: Vec<String> = connection.hkeys(HASH).unwrap();
        nodes.sort();
        nodes == ["alive", "other", "rust-staging-web.1"]
    });
    let expiry: u64 = connection.zscore(EXPIRIES, "rust-staging-web.1").unwrap();
    assert!((now()..=now() + 61).contains(&expiry), "{expiry}");
    for key in [HASH, EXPIRIES] {
        let seconds: u64 = connection.ttl(key).unwrap();
        assert!((900..=1000).contains(&seconds), "{key}: {seconds}");
    }
    assert_eq!(tallycast.terminate().status.code(), Some(0));
    let mut nodes: Vec<String> = connection.hkeys(HASH).unwrap();
    nodes.sort();
    assert_eq!(nodes, ["alive", "other"]);
    assert_eq!(connection.zcard::<_, u64>(EXPIRIES).unwrap(), 1);
}
