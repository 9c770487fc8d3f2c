//! `POST /publish` and `POST /count`: what is published reaches readers, what is not is answered, and nothing is lost silently.

use std::collections::BTreeMap;

use reqwest::header::HeaderMap;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Event, EventSource, LIMIT, RedisServer, Tallycast, TempDir, block_on, command, eventually, run};

const FLAGS: [&str; 8] = [
    "--publish-key",
    "first-key",
    "--route",
    "news.*=/news/*,event=channel",
    "--route",
    "stream:orders=/orders/*,history=1h",
    "--route",
    "stream.score_updates=/raw,tally=/eps",
];

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }

    fn line(&self) -> (u16, &str) {
        (self.status, self.body.trim_end_matches('\n'))
    }
}

async fn send(url: String, headers: &[(&str, &str)], body: String) -> Answer {
    let client = reqwest::Client::builder().timeout(LIMIT).pool_max_idle_per_host(0).build().unwrap();
    let mut request = client.post(url).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, body: response.text().await.unwrap() }
}

fn post_with(tallycast: &Tallycast, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    block_on(send(tallycast.url(path), headers, body.to_owned()))
}

/// Posts with the key.
fn post(tallycast: &Tallycast, path: &str, body: &str) -> Answer {
    post_with(tallycast, path, &[("authorization", "Bearer first-key")], body)
}

#[test]
fn published_messages_reach_readers() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &FLAGS);
    let news = EventSource::open(&tallycast, "/subscribe/news");
    let orders = EventSource::open(&tallycast, "/subscribe/orders/A%20b");
    assert_eq!(post(&tallycast, "/publish/news/today", "hello\nworld").json(), json!({"id": null}));
    assert_eq!(news.next(), Event::named("news.today", "hello\nworld"));
    let answer = post(&tallycast, "/publish/orders/A%20b?event=created", r#"{"total": 1.50}"#).json();
    let id = answer["id"].as_str().unwrap().to_owned();
    let event = Event { id: Some(id.clone()), ..Event::named("created", r#"{"total": 1.50}"#) };
    assert_eq!(orders.next(), event);
    // The id is a position.
    let resumed = EventSource::open(&tallycast, &format!("/subscribe/orders?lastEventID={id}"));
    let body = r#"[{"namespace": "/orders/A b", "data": "text"}, {"namespace": "/news/x", "data": {"a": [1]}, "event": "news.x"},
        {"namespace": "/orders/C", "event": "e", "data": null}]"#;
    let answer = post_with(
        &tallycast,
        "/publish",
        &[("authorization", "Bearer first-key"), ("content-type", "application/json")],
        body,
    );
    let ids = answer.json()["ids"].clone();
    assert!(ids[0].is_string() && ids[1].is_null() && ids[2].is_string(), "{ids}");
    let id = |place: usize| ids[place].as_str().map(str::to_owned);
    assert_eq!(resumed.next(), Event { id: id(0), ..Event::message("text") });
    assert_eq!(resumed.next(), Event { id: id(2), ..Event::named("e", "null") });
    assert_eq!(news.next(), Event::named("news.x", r#"{"a": [1]}"#));
    let lines = "{\"namespace\":\"/news/y\",\"data\":\"1\"}\n\n{\"namespace\":\"/news/z\",\"data\":2}\n";
    assert_eq!(post(&tallycast, "/publish", lines).json(), json!({"ids": [null, null]}));
    assert_eq!([news.next(), news.next()], [Event::named("news.y", "1"), Event::named("news.z", "2")]);
    assert_eq!(tallycast.counter("/publishing/published"), 7);
}

#[test]
fn requests_that_publish_nothing_are_answered_with_the_reason() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[&FLAGS[..], &["--max-publish-bytes", "2KiB"]].concat());
    let all = EventSource::open(&tallycast, "/subscribe/");
    for (path, body, expected) in [
        ("/publish/other", "x", (404, "no route leads to /other")),
        ("/publish/eps", "x", (404, "no route leads to /eps")),
        ("/publish/news/*", "x", (400, "bad path after /publish: expected a namespace, found wildcards")),
        ("/publish/news/a?evnt=x", "x", (400, "unknown parameter \"evnt\"; expected event=NAME")),
        (
            "/publish/raw?event=x",
            "x",
            (
                400,
                "messages of /raw come from the route stream.score_updates, which gives them no \
            event name; only routes for streams carry event names",
            ),
        ),
        ("/publish", "", (400, "expected at least one message")),
        (
            "/publish",
            "{\"namespace\":\"/raw\",\"data\":1}\n{\"namespace\":\"/x\",\"data\":1}",
            (404, "message 1: no route leads to /x"),
        ),
        ("/publish/raw", &"x".repeat(2049), (413, "the request body is too large; the limit is 2048 bytes")),
        ("/count/raw", "{\"a\": 1}", (404, "/raw has no totals; --totals names those that have some")),
        ("/count/eps", "{\"a\": 0}", (400, "expected counts of at least 1, such as {\"1F602\": 3}")),
        ("/count/eps", "{\"a\": 10001}", (413, "1 keys with a sum of 10001; a request has at most 1000 and 10000")),
    ] {
        assert_eq!(post(&tallycast, path, body).line(), expected, "{path}");
    }
    let with = |headers: &[(&str, &str)], body: &str| {
        let headers = [&[("authorization", "Bearer first-key")], headers].concat();
        post_with(&tallycast, "/publish/raw", &headers, body).body
    };
    assert!(with(&[("content-type", "application/json")], "{").starts_with("the request body is not JSON: "));
    assert!(with(&[("content-type", "image/png")], "x").starts_with("content-type \"image/png\": expected text/plain"));
    assert!(with(&[("idempotency-key", "")], "x").starts_with("idempotency-key: expected 1 to 256"));
    for headers in [&[][..], &[("authorization", "Bearer other")], &[("authorization", "Basic Zmlyc3Qta2V5")]] {
        let answer = post_with(&tallycast, "/publish/raw", headers, "x");
        assert_eq!(answer.line(), (401, "a publishing key is required, as Bearer token"));
        assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"tallycast\"");
    }
    let (status, body) = tallycast.get("/publish/raw");
    assert_eq!((status, &*body), (405, "GET is not allowed for /publish/raw; use POST\n"));
    assert!(tallycast.counter("/publishing/refused") >= 17);
    post(&tallycast, "/publish/raw", "last").json();
    assert_eq!(all.next(), Event::message("last"));

    let off = Tallycast::start(&redis, &[]);
    let answer = post(&off, "/publish/raw", "x");
    assert_eq!(answer.line(), (403, "publishing is off; --publish-key switches it on"));
    assert!(!tallycast.log().contains("first-key"));
    let check = run(command().args(["check", "--publish-key", "first-key"]).env("TALLYCAST_PUBLISH_KEYS", "a-secret"));
    let check = String::from_utf8(check.stdout).unwrap();
    assert!(check.contains("publish-key = ***") && !check.contains("first-key"), "{check}");
}

#[test]
fn keys_have_a_rate_and_change_by_sighup() {
    let redis = RedisServer::start();
    let directory = TempDir::new();
    let file = directory.path().join("tallycast.toml");
    std::fs::write(&file, "publish-key = [\"first-key\", \"second-key\"]\npublish-rate = 2\n").unwrap();
    let tallycast = Tallycast::start(&redis, &["--config", &file.display().to_string()]);
    let status = |key: &str| {
        let authorization = format!("Bearer {key}");
        post_with(&tallycast, "/publish/raw", &[("authorization", &authorization)], "x")
    };
    assert_eq!([status("first-key").status, status("first-key").status], [200, 200]);
    let mut limited = status("first-key");
    while limited.status == 200 {
        limited = status("first-key");
    }
    assert_eq!(limited.line(), (429, "more messages than may be published now (--publish-rate); try again in 1 s"));
    assert_eq!(limited.headers["retry-after"], "1");
    assert_eq!(status("second-key").status, 200);
    std::fs::write(&file, "publish-key = [\"third-key\"]\n").unwrap();
    tallycast.signal(Signal::HUP);
    tallycast.wait_for_log("configuration reloaded options=\"publish-key, publish-rate\"");
    eventually("the new key is accepted", || status("third-key").status == 200);
    assert_eq!(status("first-key").status, 401);
    assert!(!tallycast.log().contains("-key\""), "{}", tallycast.log());
}

#[test]
fn messages_are_published_once_for_an_idempotency_key_and_none_while_redis_is_away() {
    let mut redis = RedisServer::start_durable();
    let tallycast = Tallycast::start(&redis, &FLAGS);
    let orders = EventSource::open(&tallycast, "/subscribe/orders");
    let idempotent = |text: &str| {
        let headers = [("authorization", "Bearer first-key"), ("idempotency-key", "key 1")];
        post_with(&tallycast, "/publish/orders/A", &headers, text)
    };
    let id = idempotent("1").json();
    // At the same time, too.
    let url = tallycast.url("/publish");
    let body = r#"{"namespace":"/orders/A","data":"2","id":"key 2"}"#;
    let together = block_on(async {
        let headers = [("authorization", "Bearer first-key")];
        let requests = (0..20).map(|_| send(url.clone(), &headers, body.to_owned()));
        futures_util::future::join_all(requests).await
    });
    let ids: Vec<Value> = together.iter().map(|answer| answer.json()["ids"][0].clone()).collect();
    assert!(ids[0].is_string() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    redis.kill();
    let answer = idempotent("1");
    assert_eq!(answer.status, 503);
    assert!(answer.body.starts_with("the broker did not take it: "), "{}", answer.body);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(post(&tallycast, "/count/eps", "{\"a\": 1}").status, 503);
    redis.run();
    eventually("publishing works again", || idempotent("1").status == 200);
    assert_eq!(idempotent("1").json(), id);
    post(&tallycast, "/publish/orders/A", "3").json();
    let texts: Vec<String> = (0..3).map(|_| orders.next().data).collect();
    assert_eq!(texts, ["1", "2", "3"]);
    assert!(tallycast.counter("/publishing/failed") >= 2);
}

#[test]
fn counts_are_exact_while_many_count() {
    const WRITERS: u64 = 8;
    const REQUESTS: u64 = 25;
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[&FLAGS[..], &["--totals-interval", "1s"]].concat());
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    let reader = EventSource::open(&tallycast, "/subscribe/eps?snapshot=1");
    let url = tallycast.url("/count/eps");
    let count = |body: &'static str| {
        let url = url.clone();
        async move {
            for _ in 0..REQUESTS {
                send(url.clone(), &[("authorization", "Bearer first-key")], body.to_owned()).await.json();
            }
        }
    };
    block_on(async { futures_util::future::join_all((0..WRITERS).map(|_| count(r#"{"1F602": 3, "2665": 1}"#))).await });
    let last = post(&tallycast, "/count/eps", r#"{"1F602": 1}"#).json();
    let total = WRITERS * REQUESTS * 3 + 1;
    assert_eq!(last, json!({"1F602": total}));
    let expected = BTreeMap::from([("1F602".to_owned(), total), ("2665".to_owned(), WRITERS * REQUESTS)]);
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    while sums != expected {
        let counts: BTreeMap<String, u64> = serde_json::from_str(&reader.next().data).unwrap();
        counts.into_iter().for_each(|(key, count)| *sums.entry(key).or_default() += count);
    }
    let late = EventSource::open(&tallycast, "/subscribe/eps?snapshot=1");
    assert_eq!(serde_json::from_str::<BTreeMap<String, u64>>(&late.next().data).unwrap(), expected);
    // Each count is an event.
    for _ in 0..total + WRITERS * REQUESTS {
        raw.next();
    }
    assert!(raw.received().is_empty());
    assert_eq!(tallycast.terminate().counters()["hub"]["corrections"], 0);
}

#[test]
fn demo_publishes_and_counts_in_memory() {
    let mut demo = command();
    demo.args(["demo", "--rate", "1", "--publish-key", "first-key", "--route", "news=/news"]);
    demo.args(["--route", "stream.score_updates=/raw,tally=/eps"]);
    let tallycast = Tallycast::spawn(demo);
    tallycast.until_ready();
    let news = EventSource::open(&tallycast, "/subscribe/news");
    assert_eq!(post(&tallycast, "/publish/news", "hello").json(), json!({"id": null}));
    assert_eq!(news.next(), Event::message("hello"));
    let reader = EventSource::open(&tallycast, "/subscribe/eps?snapshot=1");
    let snapshot: BTreeMap<String, u64> = serde_json::from_str(&reader.next().data).unwrap();
    let totals = post(&tallycast, "/count/eps", r#"{"never-seen": 5}"#).json();
    assert_eq!((snapshot.get("never-seen"), totals), (None, json!({"never-seen": 5})));
    let mut counted = 0;
    while counted < 5 {
        let counts: BTreeMap<String, u64> = serde_json::from_str(&reader.next().data).unwrap();
        counted += counts.get("never-seen").copied().unwrap_or_default();
    }
    assert_eq!(counted, 5);
}

#[test]
fn demo_has_streams_in_memory() {
    let mut demo = command();
    demo.args([
        "demo",
        "--publish-key",
        "first-key",
        "--realtime-channel",
        "chat,type=WS",
        "--route",
        "stream:orders=/orders/*,history=1h",
        "--route",
        "a=/a",
    ]);
    let tallycast = Tallycast::spawn(demo);
    let live = EventSource::open(&tallycast, "/subscribe/orders");
    let ids: Vec<String> = ["1", "2", "3"]
        .iter()
        .map(|text| post(&tallycast, "/publish/orders/eu", text).json()["id"].as_str().unwrap().to_owned())
        .collect();
    let expected = |place: usize| {
        // A channel is a stream too.
        let id = format!("chat:0-0,{}", ids[place]);
        Event { id: Some(id), ..Event::message(&(place + 1).to_string()) }
    };
    assert_eq!([live.next(), live.next(), live.next()], [expected(0), expected(1), expected(2)]);
    let resumed = EventSource::open(&tallycast, &format!("/subscribe/orders?lastEventID={}", ids[0]));
    assert_eq!([resumed.next(), resumed.next()], [expected(1), expected(2)]);
}
