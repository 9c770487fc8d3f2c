//! What operators see and do on the admin page.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::config::File;
use crate::support::{Event, EventSource, LIMIT, RedisServer, Tallycast, block_on, command, eventually, get};

/// The next event of `/admin/events`.
fn next(events: &EventSource) -> Value {
    serde_json::from_str(&events.next().data).unwrap()
}

/// The first event for which `found` is true.
fn event_with(events: &EventSource, found: impl Fn(&Value) -> bool) -> Value {
    loop {
        let event = next(events);
        if found(&event) {
            return event;
        }
    }
}

fn alarm<'a>(event: &'a Value, id: &str) -> Option<&'a Value> {
    event["alarms"].as_array().unwrap().iter().find(|alarm| alarm["id"] == id)
}

#[test]
fn lost_broker_is_an_alarm_until_it_is_back() {
    let mut redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let events = EventSource::open(&tallycast, "/admin/events");
    // The start may have one.
    let event = event_with(&events, |event| event["alarms"] == json!([]));
    assert_eq!(event["sources"][0]["kind"], "redis");
    assert_eq!(event["sources"][0]["state"], "subscribed");
    redis.kill();
    let event = event_with(&events, |event| alarm(event, "source-down").is_some());
    let raised = alarm(&event, "source-down").unwrap().clone();
    assert_eq!((&raised["severity"], &raised["detail"]), (&"critical".into(), &"default: lost".into()));
    assert_eq!(raised["link"], "operations.md#source-down");
    assert_eq!(event["sources"][0]["state"], "lost");
    assert!(tallycast.get("/metrics").1.contains("tallycast_alarm{id=\"source-down\"} 1"));
    assert_eq!(alarm(&next(&events), "source-down").unwrap()["since"], raised["since"]);
    redis.run();
    let event = event_with(&events, |event| alarm(event, "source-down").is_none());
    // What was lost stays for longer, and comes after what is critical.
    assert_eq!(event["alarms"][0]["id"], "source-gap");
    assert_eq!(event["alarms"][0]["detail"], "Interruptions in the last 5 min: 1");
}

/// The status and the text of the answer to a request that posts JSON.
fn post(tallycast: &Tallycast, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, String) {
    block_on(async {
        let client = reqwest::Client::builder().timeout(LIMIT).pool_max_idle_per_host(0).build().unwrap();
        let mut request = client.post(tallycast.url(path)).body(body.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    })
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn operator_publishes_through_the_broker_and_ends_connections() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--admin-token", "secret", "--route", "news.*=/news/*,event=channel"]);
    let other = Tallycast::start(&redis, &["--route", "news.*=/news/*"]);
    let reader = EventSource::open(&tallycast, "/subscribe/news");
    let elsewhere = EventSource::open(&other, "/subscribe/news");
    // As a browser sends the password of ann.
    let token = ("authorization", "Basic YW5uOnNlY3JldA==");
    let send = |path: &str, body: Value| post(&tallycast, path, &[JSON, token], &body);
    let message = json!({"namespace": "/news/a", "data": "private words"});
    assert_eq!(send("/admin/publish", message.clone()), (200, r#"{"published":1}"#.to_owned()));
    assert_eq!(reader.next(), Event::named("news.a", "private words"));
    assert_eq!(elsewhere.next(), Event::message("private words"));
    let (status, line) = send("/admin/publish", json!({"namespace": "/other", "data": ""}));
    assert_eq!((status, &*line), (404, "no route leads to /other\n"));
    assert_eq!(send("/admin/publish", json!({"namespace": "/news/a"})).0, 400);

    let status: Value = serde_json::from_slice(&get(&tallycast, "/admin/status.json", &[token]).body).unwrap();
    let connection = json!({"connection": status["connections"][0]["id"]});
    assert_eq!(send("/admin/disconnect", connection.clone()), (200, "{}".to_owned()));
    assert_eq!(reader.rest(), []);
    assert_eq!(send("/admin/disconnect", connection).0, 404);
    assert_eq!(send("/admin/disconnect", json!({"connection": "0-1"})).0, 400);

    // A browser sends the password with requests of any page, so foreign pages are refused.
    for (headers, expected) in [
        (&[("content-type", "text/plain"), token][..], 415),
        (&[JSON, token, ("origin", "https://evil.example")], 403),
        (&[JSON, token, ("sec-fetch-site", "cross-site")], 403),
        (&[JSON], 401),
    ] {
        assert_eq!(post(&tallycast, "/admin/publish", headers, &message).0, expected, "{headers:?}");
    }
    let too_large = json!({"namespace": "/news/a", "data": "x".repeat(70_000)});
    assert_eq!(send("/admin/publish", too_large).0, 413);
    assert_eq!(get(&tallycast, "/admin/publish", &[token]).status, 405);
    // Without a token, clients elsewhere only see what is no secret; a proxy on this machine speaks for some of them.
    let forwarded = ("x-forwarded-for", "192.0.2.1");
    assert_eq!(post(&other, "/admin/publish", &[JSON, forwarded], &message).0, 403);
    assert_eq!(post(&other, "/admin/publish", &[JSON], &message).0, 200);
    for path in ["/admin/tail?namespace=/", "/admin/config.json", "/admin/log.json", "/admin/sessions.json"] {
        let foreign = [forwarded, ("host", "evil.example")];
        assert!(foreign.iter().all(|header| get(&other, path, &[*header]).status == 403), "{path}");
    }
    assert_eq!(get(&other, "/admin/log.json", &[]).status, 200);
    assert_eq!(get(&tallycast, "/admin/log.json", &[token, forwarded]).status, 200);

    let log = tallycast.log();
    assert!(log.contains("client=\"127.0.0.1\" operator=\"ann\" namespace=\"/news/a\" bytes=13"), "{log}");
    assert!(log.contains("an operator ended a connection") && !log.contains("private words"), "{log}");
    let counters = tallycast.terminate().counters();
    assert_eq!(counters["admin"], json!({"published": 1, "disconnected": 1, "refused": 7}));
}

/// A warning of decode, and a log without those.
const DROPPED: &str = "dropped an invalid event";
const QUIET: &str = "error,tallycast=info,tallycast::decode=error";

#[test]
fn read_only_operators_see_the_options_and_the_log() {
    let redis = RedisServer::start_with_password("hunter2");
    let file = File::new("admin-read-only = true\nroute = [\"a=/a\"]\n");
    let mut serve = command();
    serve.args(["serve", "--config", &file.path().display().to_string(), "--log", QUIET]);
    serve.args(["--redis-url", &redis.url_with_password(Some("hunter2"))]);
    let tallycast = Tallycast::spawn(serve);
    let message = json!({"namespace": "/a", "data": "x"});
    let (status, line) = post(&tallycast, "/admin/publish", &[JSON], &message);
    assert_eq!((status, &*line), (403, "operators may only look here (--admin-read-only)\n"));
    assert_eq!(next(&EventSource::open(&tallycast, "/admin/events"))["read_only"], true);

    let text = |path: &str| String::from_utf8(get(&tallycast, path, &[]).body).unwrap();
    let option = |name: &str| {
        let config: Value = serde_json::from_str(&text("/admin/config.json")).unwrap();
        config["options"].as_array().unwrap().iter().find(|option| option["name"] == name).unwrap().clone()
    };
    assert_eq!(option("log"), json!({"name": "log", "value": QUIET, "origin": "flag", "default": false}));
    assert_eq!(
        option("keep-alive"),
        json!({"name": "keep-alive", "value": "15s", "origin": "default", "default": true})
    );
    assert!(option("redis-url")["value"].as_str().unwrap().starts_with("redis://"), "{}", option("redis-url"));
    assert!(!text("/admin/config.json").contains("hunter2"));
    file.write("admin-read-only = true\nroute = [\"b=/b\"]\n");
    tallycast.signal(Signal::HUP);
    eventually("the new route is shown", || option("route")["value"] == "b=/b");

    // The warnings are kept although the log does not show them.
    eventually("the warning is kept", || {
        redis.publish([("b", &b"\xff"[..])]);
        text("/admin/log.json").contains(DROPPED)
    });
    let log: Value = serde_json::from_str(&text("/admin/log.json")).unwrap();
    assert_eq!(
        (&log["records"][0]["message"], &log["records"][0]["fields"]["channel"]),
        (&DROPPED.into(), &"b".into())
    );
    assert!(!tallycast.log().contains(DROPPED), "{}", tallycast.log());

    let answer = get(&tallycast, "/admin/history.json?range=1h", &[]);
    let history: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&history["interval"], &history["samples"][0]["lost"]), (&6.0.into(), &0.into()));
    assert_eq!(get(&tallycast, "/admin/history.json?range=1y", &[]).status, 400);
}

/// The answer of a path with a query, as JSON.
fn json_of(tallycast: &Tallycast, path: &str) -> Value {
    let answer = get(tallycast, path, &[]);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn namespaces_have_readers_and_rates_while_someone_looks() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--route", "news.*=/news/*,history=10"]);
    let _one = EventSource::open(&tallycast, "/subscribe/news/a/b");
    let _all = EventSource::open(&tallycast, "/subscribe/news");
    let children = || json_of(&tallycast, "/admin/namespaces.json?prefix=/news");
    let listing = children();
    assert_eq!((&listing["prefix"], &listing["readers"], &listing["rate"]), (&"/news".into(), &2.into(), &0.0.into()));
    let expected = json!([{"segment": "a", "namespace": "/news/a", "readers": 1, "rate": 0.0, "has_children": true,
        "keeps_totals": false, "history": true}]);
    assert_eq!(listing["children"], expected);
    redis.publish([("news.c", "x"), ("news.c", "y")]);
    eventually("the messages are counted", || children()["children"][0]["namespace"] == "/news/c");
    let listing = children();
    assert!(
        listing["rate"].as_f64().unwrap() > 0.0 && listing["measured_seconds"].as_f64().unwrap() > 0.0,
        "{listing}"
    );
    let root = json_of(&tallycast, "/admin/namespaces.json");
    assert_eq!((&root["prefix"], &root["children"][0]["segment"]), (&"/".into(), &"news".into()));
    let answer = get(&tallycast, "/admin/namespaces.json?prefix=news", &[]);
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!((answer.status, &*text), (400, "bad query: prefix=news: a namespace must start with '/'\n"));
}

#[test]
fn tail_shows_messages_at_a_bounded_rate_and_is_no_connection() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(
        &redis,
        &["--route", "news.*=/news/*,event=channel", "--token-key", "HS256=0123456789abcdef0123456789abcdef"],
    );
    let tail = EventSource::open(&tallycast, "/admin/tail?namespace=/news/*");
    let _other = EventSource::open(&tallycast, "/admin/tail?namespace=/");
    assert_eq!(tallycast.json("/admin/status.json")["connections_total"], 0);
    redis.publish([("news.a", "x".repeat(5000))]);
    let event = tail.next();
    let message: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!((event.name, &message["namespace"], &message["event"]), (None, &"/news/a".into(), &"news.a".into()));
    assert_eq!((&message["bytes"], message["data"].as_str().unwrap().len()), (&5000.into(), 4096));
    assert!(message["at"].as_f64().unwrap() > 1.7e9);
    // Far more than the rate allows.
    redis.publish((0..1000).map(|number| ("news.b", number.to_string())));
    let (mut shown, mut skipped) = (0, 0);
    while shown + skipped < 1000 {
        let event = tail.next();
        let value: Value = serde_json::from_str(&event.data).unwrap();
        match event.name.as_deref() {
            Some("skipped") => skipped += value["skipped"].as_u64().unwrap(),
            _ => shown += 1,
        }
    }
    assert!(shown > 0 && skipped > 500, "{shown} shown, {skipped} skipped");
    assert_eq!(get(&tallycast, "/admin/tail", &[]).status, 400);
    tallycast.terminate();
    tail.rest();
}

#[test]
fn sessions_are_listed_with_their_connections_and_without_secrets() {
    let redis = RedisServer::start();
    let start =
        |flags: &[&str]| Tallycast::start(&redis, &[&["--sessions", "--route", "news.*=/news/*"], flags].concat());
    let tallycast = start(&["--instance", "one"]);
    let stream = EventSource::open(&tallycast, "/session/a-secret-name?topic=/news");
    let other = start(&["--instance", "two"]);
    let listing = json_of(&tallycast, "/admin/sessions.json?limit=10");
    assert_eq!(listing["total"], 1);
    let session = &listing["sessions"][0];
    assert_eq!((&session["id"], &session["topics"]), (&"a-secr…".into(), &json!(["/news"])));
    let status = &tallycast.json("/admin/status.json")["connections"][0];
    assert_eq!((&status["request_path"], &status["subject"]), (&"/session/a-secr…".into(), &"a-secr…".into()));
    let connection = status["id"].clone();
    assert_eq!((&session["connection"], &session["queued"]), (&connection, &0.into()));
    // The other node knows it, but has no connection of it.
    let listing = json_of(&other, "/admin/sessions.json?id=a-secret-name");
    assert_eq!((&listing["total"], &listing["sessions"][0]["connection"]), (&1.into(), &Value::Null));
    assert_eq!(listing["sessions"][0]["connections"].as_array().unwrap().len(), 1);
    assert_eq!(json_of(&other, "/admin/sessions.json?id=unknown")["sessions"], json!([]));
    assert_eq!(get(&other, "/admin/sessions.json?limit=0", &[]).status, 400);
    let body = json!({ "connection": connection });
    assert_eq!(post(&tallycast, "/admin/disconnect", &[JSON], &body).0, 200);
    assert_eq!(stream.rest(), []);
    let without = Tallycast::start(&redis, &[]);
    assert_eq!(get(&without, "/admin/sessions.json", &[]).status, 404);
}
