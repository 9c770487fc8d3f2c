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
    let event = next(&events);
    assert_eq!(event["alarms"], Value::Array(Vec::new()));
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
    // Without a token, clients elsewhere may only look; a proxy on this machine speaks for some of them.
    let forwarded = ("x-forwarded-for", "192.0.2.1");
    assert_eq!(post(&other, "/admin/publish", &[JSON, forwarded], &message).0, 403);
    assert_eq!(post(&other, "/admin/publish", &[JSON], &message).0, 200);

    let log = tallycast.log();
    assert!(log.contains("client=\"127.0.0.1\" operator=\"ann\" namespace=\"/news/a\" bytes=13"), "{log}");
    assert!(log.contains("an operator ended a connection") && !log.contains("private words"), "{log}");
    let counters = tallycast.terminate().counters();
    assert_eq!(counters["admin"], json!({"published": 1, "disconnected": 1, "refused": 8}));
}

#[test]
fn read_only_operators_see_the_options_and_the_log() {
    let redis = RedisServer::start_with_password("hunter2");
    let file = File::new("admin-read-only = true\nroute = [\"a=/a\"]\n");
    let mut serve = command();
    serve.args(["serve", "--config", &file.path().display().to_string(), "--log", "error"]);
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
    assert_eq!(option("log"), json!({"name": "log", "value": "error", "origin": "flag", "default": false}));
    assert_eq!(
        option("keep-alive"),
        json!({"name": "keep-alive", "value": "15s", "origin": "default", "default": true})
    );
    assert!(option("redis-url")["value"].as_str().unwrap().starts_with("redis://"), "{}", option("redis-url"));
    assert!(!text("/admin/config.json").contains("hunter2"));
    file.write("admin-read-only = true\nroute = [\"b=/b\"]\n");
    tallycast.signal(Signal::HUP);
    eventually("the new route is shown", || option("route")["value"] == "b=/b");

    // The warnings are kept although the log shows errors alone.
    redis.publish([("b", &b"\xff"[..])]);
    eventually("the warning is kept", || text("/admin/log.json").contains("\"level\":\"WARN\""));
    let log: Value = serde_json::from_str(&text("/admin/log.json")).unwrap();
    assert_eq!((&log["records"][0]["count"], &log["records"][0]["fields"]["channel"]), (&1.into(), &"b".into()));
    assert!(!tallycast.log().contains("WARN"), "{}", tallycast.log());

    let answer = get(&tallycast, "/admin/history.json?range=1h", &[]);
    let history: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&history["interval"], &history["samples"][0]["lost"]), (&6.0.into(), &0.into()));
    assert_eq!(get(&tallycast, "/admin/history.json?range=1y", &[]).status, 400);
}
