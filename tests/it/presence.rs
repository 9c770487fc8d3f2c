//! Who is there: the subscriptions of two nodes that share a Redis server, by every transport.

use serde_json::{Value, json};

use crate::support::{EventSource, Http2, RedisServer, SECRET, Tallycast, WebSocket, command, eventually, get, jwt};

/// Of an HTTP/2 stream, in bytes.
const WINDOW: u32 = 65_535;

fn node<'a>(redis: &'a RedisServer, name: &'a str) -> Tallycast {
    Tallycast::start(redis, &["--subscriptions", "--instance", name])
}

fn count(tallycast: &Tallycast, topic: &str) -> u64 {
    tallycast.json(&format!("/subscriptions?topic={topic}&limit=1"))["count"].as_u64().unwrap()
}

#[track_caller]
fn until_count(tallycast: &Tallycast, topic: &str, expected: u64) {
    eventually(&format!("{topic} has {expected} subscriptions"), || count(tallycast, topic) == expected);
}

/// All subscriptions to a topic, by pages of `limit`.
fn pages(tallycast: &Tallycast, topic: &str, limit: usize) -> Vec<Value> {
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let page = tallycast.json(&format!("/subscriptions?topic={topic}&limit={limit}{after}"));
        let subscriptions = page["subscriptions"].as_array().unwrap();
        assert!(subscriptions.len() <= limit);
        found.extend(subscriptions.iter().cloned());
        let Some(next) = page["next"].as_str() else { return found };
        after = format!("&after={}", form_urlencoded::byte_serialize(next.as_bytes()).collect::<String>());
    }
}

#[test]
fn subscriptions_of_all_nodes_and_transports_are_listed() {
    let redis = RedisServer::start();
    let (a, b) = (node(&redis, "a"), node(&redis, "b"));
    let sse = EventSource::open(&a, "/subscribe?topic=/room/1&topic=/room/2");
    let http2 = Http2::connect(&b, WINDOW);
    let mut stream = http2.get("/subscribe?topic=/room/1");
    let mut websocket = WebSocket::open(&b, "/ws?topic=/room/1");
    for node in [&a, &b] {
        until_count(node, "/room/1", 3);
        until_count(node, "/room/2", 1);
        let all = pages(node, "/room/1", 2);
        let nodes: Vec<&str> = all.iter().map(|found| found["node"].as_str().unwrap()).collect();
        assert_eq!(nodes, ["rust-development-a", "rust-development-b", "rust-development-b"]);
        assert!(all.iter().all(|found| found["id"].as_str().unwrap().starts_with("urn:uuid:")));
        assert!(all.iter().all(|found| found["topic"] == "/room/1" && found["subject"] == Value::Null));
    }
    // A stream has one id for all its topics.
    let (first, second) = (pages(&b, "/room/1", 100), pages(&b, "/room/2", 100));
    assert_eq!(first[0]["id"], second[0]["id"]);
    let page = a.json("/subscriptions?limit=1");
    assert_eq!(page, json!({"topics": [{"topic": "/room/1", "count": 3}], "next": "/room/1"}));
    let page = a.json("/subscriptions?limit=1&after=/room/1");
    assert_eq!(page, json!({"topics": [{"topic": "/room/2", "count": 1}], "next": null}));

    websocket.send_text(r#"{"subscribe": ["/room/3"], "unsubscribe": ["/room/1"]}"#);
    websocket.json();
    until_count(&a, "/room/3", 1);
    until_count(&a, "/room/1", 2);
    drop(sse);
    until_count(&b, "/room/2", 0);
    drop(websocket);
    until_count(&a, "/room/3", 0);
    http2.take(&mut stream).unwrap();
    drop((stream, http2));
    until_count(&a, "/room/1", 0);
    assert_eq!(a.json("/subscriptions"), json!({"topics": [], "next": null}));
}

#[test]
fn subscriptions_of_a_killed_node_vanish_and_those_of_a_stopped_one_at_once() {
    let redis = RedisServer::start();
    let (survivor, killed, stopped) = (node(&redis, "a"), node(&redis, "b"), node(&redis, "c"));
    let _streams =
        [&survivor, &killed, &stopped].map(|node| [0, 1].map(|_| EventSource::open(node, "/subscribe?topic=/x")));
    until_count(&survivor, "/x", 6);
    stopped.terminate();
    until_count(&survivor, "/x", 4);
    let keys = || -> Vec<String> {
        let mut keys: Vec<String> =
            redis::cmd("KEYS").arg("tallycast:subscriptions:*").query(&mut redis.connect()).unwrap();
        keys.retain(|key| !key.ends_with(":topics"));
        keys
    };
    assert_eq!(keys().len(), 2);
    // SIGKILL.
    drop(killed);
    until_count(&survivor, "/x", 2);
    survivor.until_counter("/subscriptions/inherited", 1);
    assert_eq!(keys().len(), 1);
}

#[test]
fn documented_permissions_are_enough() {
    const COMMANDS: &str = "EVAL TIME ZADD ZREM ZSCORE ZRANGEBYSCORE ZREMRANGEBYSCORE ZRANGEBYLEX HSET HDEL HMGET HGETALL MULTI EXEC \
                            PEXPIRE UNLINK";
    let redis = RedisServer::start();
    let mut rule = redis::cmd("ACL");
    rule.arg("SETUSER").arg("limited").arg("on").arg(">secret").arg("-@all");
    rule.arg("~tallycast:nodes*").arg("~tallycast:subscriptions:*");
    for name in COMMANDS.split_whitespace() {
        rule.arg(format!("+{}", name.to_lowercase()));
    }
    let () = rule.query(&mut redis.connect()).unwrap();
    let url = redis.url().replace("redis://", "redis://limited:secret@");
    let limited = Tallycast::start_unready(&url, &["--subscriptions", "--instance", "a"]);
    let killed = Tallycast::start_unready(&url, &["--subscriptions", "--instance", "b"]);
    let _streams = [&limited, &killed].map(|node| EventSource::open(node, "/subscribe?topic=/x"));
    eventually("both are shared", || {
        let (status, body) = limited.get("/subscriptions?topic=/x");
        status == 200 && serde_json::from_str::<Value>(&body).unwrap()["count"] == 2
    });
    assert_eq!(limited.json("/subscriptions")["topics"], json!([{"topic": "/x", "count": 2}]));
    drop(killed);
    until_count(&limited, "/x", 1);
    limited.until_counter("/subscriptions/inherited", 1);
    limited.terminate();
    let keys: Vec<String> = redis::cmd("KEYS").arg("tallycast:subscriptions:*").query(&mut redis.connect()).unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[test]
fn streams_go_on_while_redis_is_away_and_are_shared_again() {
    let mut redis = RedisServer::start();
    let tallycast = node(&redis, "a");
    let _first = EventSource::open(&tallycast, "/subscribe?topic=/x");
    until_count(&tallycast, "/x", 1);
    redis.kill();
    let _second = EventSource::open(&tallycast, "/subscribe?topic=/x");
    let response = get(&tallycast, "/subscriptions?topic=/x", &[]);
    assert_eq!(response.status, 503);
    assert_eq!(response.body, b"the subscriptions cannot be read from Redis; try again\n");
    assert!(!response.header("retry-after").is_empty());
    assert_eq!(tallycast.get("/subscriptions").0, 503);
    tallycast.until_counter("/subscriptions/failures", 1);
    redis.run();
    eventually("both streams are shared", || {
        let (status, body) = tallycast.get("/subscriptions?topic=/x");
        status == 200 && serde_json::from_str::<Value>(&body).unwrap()["count"] == 2
    });
    assert_eq!(tallycast.counter("/subscriptions/open"), 2);
}

#[test]
fn popular_topic_is_counted_and_its_list_truncated() {
    let redis = RedisServer::start();
    let tallycast = node(&redis, "a");
    let http2 = Http2::connect(&tallycast, WINDOW);
    let _streams = http2.get_all("/subscribe?topic=/x", 120);
    until_count(&tallycast, "/x", 120);
    let page = tallycast.json("/subscriptions?topic=/x&limit=1000");
    assert_eq!((&page["truncated"], page["subscriptions"].as_array().unwrap().len()), (&json!(true), 100));
    assert_eq!(pages(&tallycast, "/x", 7).len(), 100);
}

#[test]
fn invalid_queries_and_requests_without_the_token_are_refused() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--subscriptions"]);
    for (query, reason) in [
        ("limit=0", "bad query: limit=0; expected 1 to 1000\n"),
        ("topic=/x&after=y", "bad query: after: invalid cursor: expected the next of a page\n"),
    ] {
        assert_eq!(tallycast.get(&format!("/subscriptions?{query}")), (400, reason.to_owned()));
    }
    let tallycast = Tallycast::start(&redis, &["--subscriptions", "--no-admin", "--admin-token", "secret"]);
    assert_eq!(tallycast.get("/subscriptions").0, 401);
    let response = get(&tallycast, "/subscriptions", &[("authorization", "Bearer secret")]);
    assert_eq!((response.status, response.header("cache-control")), (200, "no-store"));
    let tallycast = Tallycast::start(&redis, &[]);
    assert_eq!(tallycast.get("/subscriptions").0, 404);
}

#[test]
fn demo_lists_its_own_subscriptions() {
    let mut demo = command();
    demo.args(["demo", "--subscriptions"]);
    let tallycast = Tallycast::spawn(demo);
    let stream = EventSource::open(&tallycast, "/subscribe?topic=/none");
    let page = tallycast.json("/subscriptions?topic=/none");
    assert_eq!((&page["count"], &page["truncated"], &page["next"]), (&json!(1), &json!(false), &Value::Null));
    drop(stream);
    until_count(&tallycast, "/none", 0);
}

#[test]
fn connects_and_disconnects_are_private_messages() {
    let redis = RedisServer::start();
    let key = format!("HS256={SECRET}");
    let flags =
        ["--subscriptions", "--token-key", &key, "--public", "/room/**", "--token-in-query", "--route", "stream:any=*"];
    let flags = [&flags[..], &["--admin-token", "operator"]].concat();
    let (one, other) = (Tallycast::start(&redis, &flags), Tallycast::start(&redis, &flags));
    let may_read =
        |topics: &[&str]| jwt(&json!({"sub": "ann", "tallycast": {"read": topics, "payload": {"name": "Ann"}}}));
    let watcher = may_read(&["/subscriptions/**"]);
    let watched = EventSource::open(&one, &format!("/subscribe/subscriptions?envelope=1&token={watcher}"));
    let reader = EventSource::open(&other, &format!("/subscribe/room/1?token={}", may_read(&[])));
    let next = || loop {
        let event: Value = serde_json::from_str(&watched.next().data).unwrap();
        if event["data"]["topic"] == "/room/1" {
            return event;
        }
    };
    let begun = next();
    assert_eq!((&begun["namespace"], &begun["event"]), (&json!("/subscriptions/%2Froom%2F1"), &json!("subscribed")));
    let data = &begun["data"];
    assert_eq!(
        (&data["subject"], &data["payload"], &data["active"]),
        (&json!("ann"), &json!({"name": "Ann"}), &json!(true))
    );
    drop(reader);
    let ended = next();
    assert_eq!(
        (&ended["event"], &ended["data"]["id"], &ended["data"]["active"]),
        (&json!("unsubscribed"), &data["id"], &json!(false))
    );

    // The same right, or the admin token, lists them.
    let status = |query: &str, token: &str| {
        let path = format!("/subscriptions?{query}");
        get(&one, &path, &[("authorization", &format!("Bearer {token}"))]).status
    };
    assert_eq!((status("", &watcher), status("topic=/room/1", &watcher), status("", "operator")), (200, 200, 200));
    let of_room = may_read(&["/subscriptions/%2Froom%2F1"]);
    assert_eq!(
        (status("topic=/room/1", &of_room), status("topic=/room/2", &of_room), status("", &of_room)),
        (200, 403, 403)
    );
    assert_eq!((status("", &may_read(&["/room/**"])), status("", "wrong")), (403, 401));
    assert_eq!(get(&one, "/subscriptions", &[]).status, 401);
}
