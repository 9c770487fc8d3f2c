//! The admin paths and metrics, and access to them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{EventSource, Raw, RedisServer, Tallycast, eventually, get};

/// The samples of `/metrics`, keyed by name and labels as printed.
fn metrics(tallycast: &Tallycast) -> BTreeMap<String, f64> {
    let answer = get(tallycast, "/metrics", &[]);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = String::from_utf8(answer.body).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn metrics_report_the_pipeline_counters() {
    let mut redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    let _h2 = EventSource::open_http2(&tallycast, "/subscribe/eps");
    redis.publish_scores(["1F602", "2764"]);
    redis.publish_post("26", "x");
    redis.publish([("stream.score_updates", &b"\xff"[..])]);
    raw.next();
    raw.next();
    tallycast.until_counter("/decode/rejected", 1);
    tallycast.until_counter("/tally/sent", 2);
    redis.kill();
    eventually("the lost connection is detected", || tallycast.get("/readyz").0 == 503);
    assert_eq!(metrics(&tallycast)["tallycast_source_up"], 0.0);
    redis.run();
    tallycast.until_ready();
    let metrics = metrics(&tallycast);
    for (name, expected) in [
        ("tallycast_source_up", 1.0),
        ("tallycast_source_events_total", 4.0),
        ("tallycast_source_subscriptions_total", 2.0),
        ("tallycast_source_gaps_total", 1.0),
        ("tallycast_decode_events_total{route=\"stream.score_updates\"}", 2.0),
        ("tallycast_decode_events_total{route=\"stream.tweet_updates.*\"}", 1.0),
        ("tallycast_decode_rejected_total", 1.0),
        ("tallycast_tally_keys_total", 2.0),
        ("tallycast_hub_feeds", 2.0),
        ("tallycast_connections{transport=\"sse+chunked\"}", 1.0),
        ("tallycast_connections{transport=\"sse\"}", 1.0),
        ("tallycast_slow_readers_total{policy=\"merge\"}", 0.0),
        ("tallycast_inbox_depth{stage=\"hub\"}", 0.0),
        ("tallycast_inbox_capacity", 16384.0),
    ] {
        assert_eq!(metrics.get(name), Some(&expected), "{name} in {metrics:#?}");
    }
    assert_eq!(metrics["tallycast_lag_seconds_bucket{le=\"+Inf\"}"], metrics["tallycast_lag_seconds_count"]);
    assert!(metrics["tallycast_lag_seconds_count"] >= 2.0);
    assert!(metrics["tallycast_process_resident_memory_bytes"] > 1e6);
    assert!(metrics["tallycast_delivered_bytes_total"] > 20.0);
}

#[test]
fn metrics_are_valid_for_an_independent_parser() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--route", "a\"b\\c*=/x"]);
    let text = tallycast.get("/metrics").1;
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    let scrape = prometheus_parse::Scrape::parse(lines).unwrap();
    let names: Vec<&str> = scrape.samples.iter().map(|sample| &*sample.metric).collect();
    for name in ["tallycast_build_info", "tallycast_lag_seconds", "tallycast_tally_flush_keys", "tallycast_connections"]
    {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[test]
fn every_metric_is_documented() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let dashboard = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/grafana.json")).unwrap();
    let text = tallycast.get("/metrics").1;
    let families: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    for (family, kind) in &families {
        let name = if *kind == "counter" { format!("{family}_total") } else { (*family).to_owned() };
        assert!(guide.contains(&format!("`{name}`")), "{name} is missing in docs/operations.md");
    }
    // The dashboard uses existing metrics only.
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    for expression in expressions(&dashboard) {
        for name in expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if let Some(rest) = name.strip_prefix("tallycast_") {
                let family = ["_total", "_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                assert!(
                    families.contains_key(name) || family.is_some_and(|f| families.contains_key(f)),
                    "unknown metric tallycast_{rest}"
                );
            }
        }
    }
}

/// All query expressions of a Grafana dashboard.
fn expressions(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("expr").and_then(Value::as_str);
            own.into_iter().chain(fields.values().flat_map(expressions)).collect()
        }
        Value::Array(items) => items.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn live_statistics_stream_is_separate_from_public_streams() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let public = EventSource::open(&tallycast, "/subscribe/");
    let _details = EventSource::open(&tallycast, "/subscribe/details/26");
    let live = EventSource::open(&tallycast, "/admin/events");
    let event: Value = loop {
        let event: Value = serde_json::from_str(&live.next().data).unwrap();
        if event["feeds"].as_array().unwrap().len() == 2 {
            break event;
        }
    };
    assert_eq!(event["status"], "OK");
    assert_eq!(event["broker"]["state"], "subscribed");
    assert_eq!(event["feeds"][0]["readers"], 1);
    assert_eq!(event["counters"]["hub"]["connections"], 2);
    assert!(event["process"]["memory_bytes"].as_u64().unwrap() > 1_000_000);
    let history = tallycast.json("/admin/history.json");
    assert!(history["samples"][0]["at"].as_f64().unwrap() > 1e9);
    // Over HTTP/2 as well.
    EventSource::open_http2(&tallycast, "/admin/events").next();
    tallycast.terminate();
    assert_eq!(public.rest(), []);
    live.rest();
}

#[test]
fn connections_are_paginated() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let _streams: Vec<Raw> = ["/subscribe/details/26", "/subscribe/eps", "/subscribe/details/27"]
        .iter()
        .map(|path| Raw::subscribe(&tallycast, path))
        .collect();
    tallycast.until_counter("/hub/connections", 3);
    let status = tallycast.json("/admin/status.json?namespace=/details&sort=oldest&limit=1&offset=1");
    assert_eq!((&status["connections_total"], &status["connections_matched"]), (&3.into(), &2.into()));
    let page = status["connections"].as_array().unwrap();
    assert_eq!((page.len(), &page[0]["namespace"]), (1, &"/details/27".into()));
    assert_eq!(tallycast.json("/admin/status.json")["connections"].as_array().unwrap().len(), 3);
    let (status, body) = tallycast.get("/admin/status.json?limit=many");
    assert_eq!((status, &*body), (400, "bad query: limit=many; expected a whole number\n"));
}

#[test]
fn token_protects_everything_except_probes() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--admin-token", "secret"]);
    for path in ["/admin/", "/admin", "/admin/status.json", "/admin/events", "/admin/nothing", "/metrics"] {
        let answer = get(&tallycast, path, &[]);
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.header("www-authenticate").starts_with("Basic "), "{path}");
    }
    for path in ["/admin/status.json", "/metrics", "/admin/history.json"] {
        assert_eq!(get(&tallycast, path, &[("authorization", "Bearer secret")]).status, 200, "{path}");
        assert_eq!(get(&tallycast, path, &[("authorization", "Basic dTpzZWNyZXQ=")]).status, 200, "{path}");
        assert_eq!(get(&tallycast, path, &[("authorization", "Bearer secreT")]).status, 401, "{path}");
    }
    let deletion = "DELETE /admin/status.json HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    assert!(Raw::request(&tallycast, deletion).read_to_end().starts_with("HTTP/1.1 401 "));
    for path in ["/healthz", "/readyz", "/v1/status"] {
        assert_eq!(tallycast.get(path).0, 200, "{path}");
    }
}

#[test]
fn pages_of_other_origins_cannot_read_admin_routes() {
    let redis = RedisServer::start();
    for flags in [&[][..], &["--admin-token", "secret"]] {
        let tallycast = Tallycast::start(&redis, flags);
        let origin = ("origin", "https://example.org");
        for path in ["/admin/", "/admin", "/admin/status.json", "/admin/events?limit=x", "/admin/nothing", "/metrics"] {
            for method in ["GET", "OPTIONS", "DELETE"] {
                let mut raw = Raw::connect(&tallycast);
                raw.send(&format!(
                    "{method} {path} HTTP/1.1\r\nhost: x\r\norigin: https://example.org\r\n\
                    authorization: Bearer secret\r\naccess-control-request-method: GET\r\n\r\n"
                ));
                let head = raw.head();
                assert!(!head.contains("access-control-"), "{method} {path}: {head}");
                assert!(!head.contains("HTTP/1.1 401 "), "{head}");
            }
            assert_eq!(get(&tallycast, "/healthz", &[origin]).header("access-control-allow-origin"), "*");
        }
        assert!(!tallycast.log().contains("open to everyone"), "a loopback address is not exposed");
    }
}

#[test]
fn no_admin_removes_admin_paths() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--no-admin"]);
    for path in ["/admin/", "/admin/status.json", "/admin/events", "/metrics"] {
        assert_eq!(tallycast.get(path).0, 404, "{path}");
    }
    assert!(!tallycast.get("/nothing").1.contains("/admin"));
    assert_eq!(tallycast.get("/readyz").0, 200);
}
