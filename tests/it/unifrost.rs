//! The wire contract of gochan and unifrost: byte-exact over sockets, with npm's `eventsource`, Chromium's EventSource, and PyPI's
//! `requests` and `redis` as the backend; on one node and on two.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Answer, Browser, NODE, PYTHON, Printer, Raw, RedisServer, SECRET, Tallycast, ask_script, command, eventually, get,
    libraries, post, run, token,
};

const UPDATE: &str = "/update_subscriptions";

fn start(redis: &RedisServer, flags: &[&str]) -> Tallycast {
    Tallycast::start(redis, &[&["--unifrost", "0.1"], flags].concat())
}

/// Publishes on the channels of topics.
fn publish(redis: &RedisServer, messages: &[(&str, &str)]) {
    redis.publish(messages.iter().map(|(topic, payload)| (format!("unifrost:{topic}"), *payload)));
}

/// Sends a change of subscriptions.
fn update(tallycast: &Tallycast, body: &Value) -> Answer {
    post(tallycast, UPDATE, &[], &body.to_string())
}

/// Adds topics, and checks the answer.
#[track_caller]
fn add(tallycast: &Tallycast, id: &str, topics: &[&str]) {
    let answer = update(tallycast, &json!({"consumer_id": id, "add": topics, "remove": []}));
    assert_eq!((answer.status, answer.body), (200, json!({"consumer_id": id}).to_string()));
}

/// A stream of events, each in the chunks of its own.
struct Consumer(Raw);

impl Consumer {
    /// Opens a stream, and returns it after its head, with the head.
    fn open(tallycast: &Tallycast, path: &str, headers: &str) -> (Self, String) {
        let mut raw = Raw::connect(tallycast);
        raw.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n"));
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        (Self(raw), head)
    }

    /// Opens the stream of a consumer of unifrost 0.1, and reads its first event, which must name these subscriptions.
    #[track_caller]
    fn start(tallycast: &Tallycast, id: &str, subscriptions: &[&str]) -> Self {
        let (mut consumer, _) = Self::open(tallycast, &format!("/events?id={id}"), "");
        consumer.expect_info(id, subscriptions);
        consumer
    }

    #[track_caller]
    fn expect_info(&mut self, id: &str, subscriptions: &[&str]) {
        let (topic, payload): (String, String) = serde_json::from_str(&self.data()).unwrap();
        assert_eq!(topic, "/unifrost/info");
        let info: Value = serde_json::from_str(&payload).unwrap();
        assert_eq!((&info["config"]["consumer_id"], &info["subscriptions"]), (&json!(id), &json!(subscriptions)));
    }

    /// The data of the next event, which has no other field.
    #[track_caller]
    fn data(&mut self) -> String {
        let mut event = self.0.chunk();
        while event == ": keep-alive\n\n" {
            event = self.0.chunk();
        }
        let data = event.strip_prefix("data: ").and_then(|data| data.strip_suffix("\n\n"));
        data.unwrap_or_else(|| panic!("expected an event with data alone, found {event:?}")).to_owned()
    }

    #[track_caller]
    fn expect(&mut self, topic: &str, payload: &str) {
        assert_eq!(self.data(), json!([topic, payload]).to_string());
    }
}

/// Waits until a consumer has no connections.
fn until_away(tallycast: &Tallycast, connections: u64) {
    eventually("the consumer is away", || tallycast.counter("/sessions/connections") == connections);
}

#[test]
fn events_of_unifrost_01_are_exact() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--unifrost-ttl", "2s"]);
    let (mut consumer, head) = Consumer::open(&tallycast, "/events?id=c1", "");
    for header in [
        "cache-control: no-cache, no-store, must-revalidate, pre-check=0, post-check=0",
        "server: unifrost",
        "content-type: text/event-stream; charset=utf-8",
        "access-control-allow-origin: *",
    ] {
        assert!(head.contains(&format!("\r\n{header}\r\n")), "{header}: {head}");
    }
    assert_eq!(
        consumer.0.chunk(),
        "data: [\"/unifrost/info\",\"{\\\"config\\\":{\\\"consumer_id\\\":\\\"c1\\\",\\\"consumer_ttl_millis\\\":2000},\
         \\\"subscriptions\\\":[]}\"]\n\n"
    );
    let answer = update(&tallycast, &json!({"consumer_id": "c1", "add": ["a", "b"], "remove": []}));
    assert_eq!((answer.status, &*answer.body), (200, "{\"consumer_id\":\"c1\"}"));
    assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
    publish(&redis, &[("a", "1"), ("c", "not subscribed"), ("b", "{\"x\": \"\u{e9}\"}\r\nline"), ("a", "")]);
    assert_eq!(consumer.0.chunk(), "data: [\"a\",\"1\"]\n\n");
    assert_eq!(consumer.0.chunk(), "data: [\"b\",\"{\\\"x\\\": \\\"\u{e9}\\\"}\\r\\nline\"]\n\n");
    assert_eq!(consumer.0.chunk(), "data: [\"a\",\"\"]\n\n");
    let answer = update(&tallycast, &json!({"consumer_id": "c1", "remove": ["a"]}));
    assert_eq!(answer.status, 200);
    publish(&redis, &[("a", "removed"), ("b", "2")]);
    consumer.expect("b", "2");
    // What cannot be subscribed to is an event. The rest of the request counts.
    add(&tallycast, "c1", &["", "d"]);
    assert_eq!(
        consumer.0.chunk(),
        "data: [\"/unifrost/error\",\"{\\\"error\\\":{\\\"code\\\":\\\"subscription-failure\\\",\\\"message\\\":\
         \\\"a topic must not be empty, nor have an empty segment between /\\\",\\\"topic\\\":\\\"\\\"}}\"]\n\n"
    );
    publish(&redis, &[("d", "3")]);
    consumer.expect("d", "3");
    // Another stream of the same consumer knows what it reads.
    let (mut second, _) = Consumer::open(&tallycast, "/events?id=c1", "");
    second.expect_info("c1", &["b", "d"]);
    // Without an id, the server makes one.
    let (mut third, _) = Consumer::open(&tallycast, "/events", "");
    let info = third.data();
    let id = info.split("\\\"consumer_id\\\":\\\"").nth(1).unwrap().split('\\').next().unwrap();
    assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 4);
    let head = Raw::request(&tallycast, "HEAD /events HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").read_to_end();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nserver: unifrost\r\n"), "{head}");
    let paths = tallycast.get("/nothing").1;
    assert!(paths.contains("/events, /update_subscriptions"), "{paths}");
}

#[test]
fn events_of_unifrost_00_are_exact() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--unifrost", "0.0", "--unifrost-events-path", "/old/events"]);
    let (mut consumer, _) = Consumer::open(&tallycast, "/old/events?id=c1", "");
    let info = |topics: &str| {
        format!(
            "event: message\ndata: [\"/unifrost/info\",{{\"config\":{{\"client_id\":\"c1\",\"client_ttl_millis\":60000}},\
             \"subscriptions\":[{topics}]}}]\n\n"
        )
    };
    assert_eq!(consumer.0.chunk(), info(""));
    let answer = update(&tallycast, &json!({"client_id": "c1", "add": ["a"], "remove": []}));
    assert_eq!((answer.status, &*answer.body), (200, "{\"client_id\":\"c1\"}"));
    publish(&redis, &[("a", "payload")]);
    assert_eq!(consumer.0.chunk(), "data: [\"a\",\"payload\"]\n\n");
    assert_eq!(Consumer::open(&tallycast, "/old/events?id=c1", "").0.0.chunk(), info("\"a\""));
    for (body, expected) in [
        (json!({"add": ["a"]}), "missing client id; expected the member \"client_id\""),
        (json!({"client_id": "nobody", "add": ["a"]}), "invalid client id"),
        (json!({"client_id": "c1", "add": ["b", "a\nb"]}), "topic \"a\\nb\": a topic must not have control characters"),
    ] {
        assert_eq!(update(&tallycast, &body).line(), (400, expected));
    }
}

#[test]
fn events_of_gochan_are_exact() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--unifrost", "gochan"]);
    let (mut consumer, _) = Consumer::open(&tallycast, "/events?topics=a,b", "");
    let first = consumer.0.chunk();
    let (before, after) = ("data: {\"topic\":\"/httpsub/config\",\"payload\":{\"session_id\":\"", "\"}}\n\n");
    let id = first.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).unwrap_or_else(|| panic!("{first}"));
    assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 4);
    publish(&redis, &[("a", "str"), ("c", "not subscribed"), ("b", "\"quoted\"")]);
    assert_eq!(consumer.0.chunk(), "data: {\"topic\":\"a\",\"payload\":\"str\"}\n\n");
    assert_eq!(consumer.0.chunk(), "data: {\"topic\":\"b\",\"payload\":\"\\\"quoted\\\"\"}\n\n");
    let answer = update(&tallycast, &json!({"session_id": id, "add": ["c"], "remove": ["a"]}));
    assert_eq!((answer.status, answer.body), (200, format!("{{\"session_id\":\"{id}\"}}")));
    publish(&redis, &[("a", "removed"), ("c", "1")]);
    assert_eq!(consumer.0.chunk(), "data: {\"topic\":\"c\",\"payload\":\"1\"}\n\n");
    let error =
        |message: &str| format!("{{\"error\":{{\"code\":\"subscription-failure\",\"message\":\"{message}\"}}}}");
    for (body, status, expected) in [
        (json!({"add": ["a"]}), 400, "missing session id; expected the member \\\"session_id\\\""),
        (json!({"session_id": "nobody", "add": ["a"]}), 401, "invalid session id"),
        (
            json!({"session_id": id, "add": ["a/"]}),
            400,
            "topic \\\"a/\\\": a topic must not be empty, nor have an empty segment between /",
        ),
    ] {
        let answer = update(&tallycast, &body);
        assert_eq!((answer.status, answer.body.clone()), (status, error(expected)));
        assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
    }
    let (status, body) = tallycast.get("/events?topics=a,b//c");
    let expected = "topic \\\"b//c\\\": a topic must not be empty, nor have an empty segment between /";
    assert_eq!((status, body), (400, error(expected)));
}

#[test]
fn requests_that_are_not_valid_are_refused() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &[]);
    let mut consumer = Consumer::start(&tallycast, "c1", &[]);
    for (body, status, expected) in [
        ("{\"add\":[\"a\"]}", 400, "missing consumer id; expected the member \"consumer_id\""),
        ("{\"consumer_id\":\"\"}", 400, "missing consumer id; expected the member \"consumer_id\""),
        ("{\"consumer_id\":7}", 400, "missing consumer id; expected the member \"consumer_id\""),
        ("{\"consumer_id\":\"nobody\",\"add\":[\"a\"]}", 401, "invalid consumer id"),
        ("{\"consumer_id\":\"a\\nb\"}", 401, "invalid consumer id"),
    ] {
        assert_eq!(post(&tallycast, UPDATE, &[], body).line(), (status, expected), "{body}");
    }
    for body in ["", "[]", "{\"consumer_id\":\"c1\",\"add\":\"a\"}", "{\"consumer_id\":\"c1\",\"add\":[1]}"] {
        let answer = post(&tallycast, UPDATE, &[], body);
        assert!(
            answer.status == 400 && answer.body.starts_with("bad request body: expected a JSON object: "),
            "{body}"
        );
    }
    let large = post(&tallycast, UPDATE, &[], &format!("{{\"consumer_id\":\"{}\"}}", "x".repeat(70_000)));
    assert_eq!(large.line(), (413, "the request body is too large; the limit is 65536 bytes"));
    let many = json!({"consumer_id": "c1", "add": vec!["a"; 5000]});
    assert_eq!(update(&tallycast, &many).status, 400);
    let response = Raw::request(&tallycast, &format!("GET {UPDATE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
    let response = { response }.read_to_end();
    assert!(response.starts_with("HTTP/1.1 405 ") && response.contains("\r\nallow: POST\r\n"), "{response}");
    assert_eq!(post(&tallycast, "/events", &[], "").status, 405);
    assert_eq!(tallycast.get(&format!("/events?id={}", "x".repeat(300))).0, 400);
    // The consumer is as it was. Lists may be missing or null.
    assert_eq!(update(&tallycast, &json!({"consumer_id": "c1", "add": ["a"], "remove": null, "x": 1})).status, 200);
    publish(&redis, &[("a", "1")]);
    consumer.expect("a", "1");
}

#[test]
fn topics_are_any_texts_and_have_none_below_them() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &[]);
    let texts = ["a", "a b", "news:de", "*", "**", "\u{1f602}\"\\", "a/b/c", "unifrost:a", "/", "a//b", "tallycast:x"];
    let valid = &texts[..8];
    let mut one = Consumer::start(&tallycast, "one", &[]);
    let mut all = Consumer::start(&tallycast, "all", &[]);
    add(&tallycast, "one", &["a"]);
    add(&tallycast, "all", &texts);
    for text in &texts[8..] {
        let (topic, payload): (String, String) = serde_json::from_str(&all.data()).unwrap();
        let error: Value = serde_json::from_str(&payload).unwrap();
        assert_eq!((&*topic, &error["error"]["topic"]), ("/unifrost/error", &json!(text)));
    }
    for text in valid {
        publish(&redis, &[(text, text)]);
        all.expect(text, text);
    }
    publish(&redis, &[("a", "last")]);
    one.expect("a", "a");
    one.expect("a", "last");
    // A wildcard is a text like others, and is removed like others.
    let removed = update(&tallycast, &json!({"consumer_id": "all", "remove": ["*", "**", "a/b/c", "nothing", "//"]}));
    assert_eq!(removed.status, 200);
    Consumer::start(&tallycast, "all", &["a", "a b", "news:de", "unifrost:a", "\u{1f602}\"\\"]);
}

#[test]
fn channels_may_be_named_as_topics_are() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--unifrost-channels", "*"]);
    let mut consumer = Consumer::start(&tallycast, "c1", &[]);
    add(&tallycast, "c1", &["news"]);
    redis.publish([("news", "1")]);
    consumer.expect("news", "1");
}

#[test]
fn consumer_stays_for_its_time_to_live() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--unifrost-ttl", "3s"]);
    let consumer = Consumer::start(&tallycast, "c1", &[]);
    add(&tallycast, "c1", &["a"]);
    drop(consumer);
    until_away(&tallycast, 0);
    // A change while it is away counts.
    add(&tallycast, "c1", &["b"]);
    let mut consumer = Consumer::start(&tallycast, "c1", &["a", "b"]);
    publish(&redis, &[("b", "1")]);
    consumer.expect("b", "1");
    drop(consumer);
    eventually("the consumer is gone", || update(&tallycast, &json!({"consumer_id": "c1"})).status == 401);
    Consumer::start(&tallycast, "c1", &[]);
}

#[test]
fn consumer_that_comes_back_reads_what_it_missed() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--route", "stream:chat=/unifrost/*,history=100"]);
    let publish = |topic: &str, text: &str| {
        let entry = ["chat", "*", "topic", topic, "data", text];
        redis::cmd("XADD").arg(&entry).query::<String>(&mut redis.connect()).unwrap()
    };
    let event = |id: &str, topic: &str, text: &str| format!("id: {id}\ndata: {}\n\n", json!([topic, text]));
    let mut consumer = Consumer::start(&tallycast, "c1", &[]);
    add(&tallycast, "c1", &["a"]);
    let first = publish("a", "1");
    assert_eq!(consumer.0.chunk(), event(&first, "a", "1"));
    drop(consumer);
    until_away(&tallycast, 0);
    let missed = [("a", "2"), ("b", "other"), ("a", "3")].map(|(topic, text)| publish(topic, text));
    let expected = event(&missed[0], "a", "2") + &event(&missed[2], "a", "3");
    // By the place that its last stream had come to, which is an id without an event at first.
    let expected = format!("id: {first}\n\n{expected}");
    let mut consumer = Consumer::start(&tallycast, "c1", &["a"]);
    let mut read = consumer.0.chunk();
    while read.len() < expected.len() {
        read += &consumer.0.chunk();
    }
    assert_eq!(read, expected);
    // By the id that a client sends.
    let (mut again, _) = Consumer::open(&tallycast, "/events?id=c1", &format!("last-event-id: {first}\r\n"));
    again.expect_info("c1", &["a"]);
    let mut read = again.0.chunk();
    while read.len() < expected.len() {
        read += &again.0.chunk();
    }
    assert_eq!(read, expected);
}

#[test]
fn backend_controls_consumers_and_sends_to_one() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--publish-key", "key", "--unifrost-create", "issued"]);
    let key = [("authorization", "Bearer key")];
    let ask = |method: &str, path: &str, body: &str| {
        let (head, body) = (format!("{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer key\r\n"), body);
        let length = body.len();
        Raw::request(&tallycast, &format!("{head}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"))
            .read_to_end()
    };
    // Of ids, the clients' own do not count.
    assert_eq!(tallycast.get("/events?id=mine"), (401, "invalid consumer id\n".to_owned()));
    let created = ask("PUT", "/sessions/unifrost:mine", "{\"topics\":[\"/unifrost/a\"],\"ttl\":60}");
    assert!(created.starts_with("HTTP/1.1 201 "), "{created}");
    let mut consumer = Consumer::start(&tallycast, "mine", &["a"]);
    let sent = post(&tallycast, "/sessions/unifrost:mine/messages", &key, "{\"event\":\"hello\",\"data\":\"1\"}");
    assert_eq!(sent.status, 200, "{}", sent.body);
    consumer.expect("hello", "1");
    let sent =
        post(&tallycast, "/sessions/unifrost:mine/messages", &key, "{\"namespace\":\"/unifrost/b\",\"data\":\"2\"}");
    assert_eq!(sent.status, 200, "{}", sent.body);
    consumer.expect("b", "2");
    // Also topics that a backend has added are the client's to remove.
    assert_eq!(update(&tallycast, &json!({"consumer_id": "mine", "remove": ["a"]})).status, 200);
    publish(&redis, &[("a", "removed")]);
    let ended = ask("DELETE", "/sessions/unifrost:mine?reason=bye", "");
    assert!(ended.starts_with("HTTP/1.1 200 "), "{ended}");
    assert_eq!(consumer.0.chunks_to_end(), "data: [\"/unifrost/closed\",\"consumer closed\"]\n\n");
    assert_eq!(update(&tallycast, &json!({"consumer_id": "mine"})).line(), (401, "invalid consumer id"));
    // The ids of the server do.
    let (mut consumer, _) = Consumer::open(&tallycast, "/events?id=", "");
    let (_, payload): (String, String) = serde_json::from_str(&consumer.data()).unwrap();
    let info: Value = serde_json::from_str(&payload).unwrap();
    Consumer::start(&tallycast, info["config"]["consumer_id"].as_str().unwrap(), &[]);
}

#[test]
fn tokens_decide_about_topics_and_ids() {
    let redis = RedisServer::start();
    let key = format!("HS256={SECRET}");
    let tallycast = start(&redis, &["--token-key", &key, "--public", "/unifrost/news"]);
    let bearer = |flags: &[&str]| format!("Bearer {}", token(flags));
    let ann = bearer(&["--sub", "ann", "--read", "/unifrost/ann"]);
    let bob = bearer(&["--sub", "bob", "--read", "/unifrost/ann", "--read", "/unifrost/bob"]);
    let open = |token: &str| {
        let (mut consumer, _) = Consumer::open(&tallycast, "/events?id=c1", &format!("authorization: {token}\r\n"));
        consumer.expect_info("c1", &[]);
        consumer
    };
    let change = |token: &str, topics: &[&str]| {
        let body = json!({"consumer_id": "c1", "add": topics}).to_string();
        post(&tallycast, UPDATE, &[("authorization", token)], &body)
    };
    let mut of_ann = open(&ann);
    assert_eq!(change(&ann, &["ann", "bob", "news"]).status, 200);
    let (topic, payload): (String, String) = serde_json::from_str(&of_ann.data()).unwrap();
    let error = json!({"error": {"code": "subscription-failure", "message": "not allowed to read it", "topic": "bob"}});
    assert_eq!((&*topic, serde_json::from_str::<Value>(&payload).unwrap()), ("/unifrost/error", error));
    // The same id is another consumer for another subject, and for clients without a token.
    assert_eq!(change(&bob, &["ann"]).line(), (401, "invalid consumer id"));
    assert_eq!(update(&tallycast, &json!({"consumer_id": "c1", "add": ["news"]})).line(), (401, "invalid consumer id"));
    let mut of_bob = open(&bob);
    assert_eq!(change(&bob, &["bob"]).status, 200);
    let mut anonymous = Consumer::start(&tallycast, "c1", &[]);
    add(&tallycast, "c1", &["news", "ann"]);
    assert!(anonymous.data().contains("not allowed to read it"));
    publish(&redis, &[("ann", "1"), ("bob", "2"), ("news", "3")]);
    of_ann.expect("ann", "1");
    of_ann.expect("news", "3");
    of_bob.expect("bob", "2");
    anonymous.expect("news", "3");
    assert_eq!(change("Bearer x.y.z", &["news"]).status, 401);
    let nameless = bearer(&["--read", "/unifrost/ann"]);
    assert_eq!(change(&nameless, &["ann"]).status, 403);
}

#[test]
fn slow_consumer_does_not_stall_others() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &[]);
    let mut slow = Raw::connect_with_small_buffer(&tallycast);
    slow.send("GET /events?id=slow HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(slow.head().starts_with("HTTP/1.1 200 "));
    let mut fast = Consumer::start(&tallycast, "fast", &[]);
    add(&tallycast, "slow", &["a"]);
    add(&tallycast, "fast", &["a"]);
    let filler = "x".repeat(1 << 16);
    for number in 0..400 {
        let payload = format!("{number} {filler}");
        publish(&redis, &[("a", &payload)]);
        fast.expect("a", &payload);
    }
    // Its stream has ended, and the consumer stays.
    tallycast.until_counter("/hub/slow_disconnected", 1);
    until_away(&tallycast, 1);
    add(&tallycast, "slow", &["b"]);
    let mut slow = Consumer::start(&tallycast, "slow", &["a", "b"]);
    add(&tallycast, "fast", &["b"]);
    publish(&redis, &[("b", "last")]);
    fast.expect("b", "last");
    slow.expect("b", "last");
}

#[test]
fn changes_at_another_node_count_when_they_are_answered() {
    libraries();
    let redis = RedisServer::start();
    let nodes = [0, 1].map(|_| start(&redis, &["--publish-key", "key"]));
    let mut consumer = Consumer::start(&nodes[0], "c1", &[]);
    // A node with streams is waited for.
    nodes[0].signal(Signal::STOP);
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| add(&nodes[1], "c1", &["slowly"]));
        let session = || get(&nodes[1], "/sessions/unifrost:c1", &[("authorization", "Bearer key")]).body;
        eventually("the change is stored", || String::from_utf8(session()).unwrap().contains("/unifrost/slowly"));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!adding.is_finished(), "the node that does not run has the change");
        nodes[0].signal(Signal::CONT);
    });
    publish(&redis, &[("slowly", "1")]);
    consumer.expect("slowly", "1");
    for number in 0..20 {
        let topic = format!("topic-{number}");
        add(&nodes[1], "c1", &[&topic]);
        publish(&redis, &[(&topic, "1")]);
        consumer.expect(&topic, "1");
    }
    // As a backend in Python does it.
    let url = nodes[1].url(UPDATE);
    let answers = ask_script(
        PYTHON,
        "unifrost.py",
        &json!([
            {"url": url, "update": {"consumer_id": "c1", "add": ["py"], "remove": ["topic-1"]}},
            {"redis": redis.url(), "channel": "unifrost:topic-1", "payload": "removed"},
            {"redis": redis.url(), "channel": "unifrost:py", "payload": "\u{fc}ber"},
            {"url": url, "update": {"consumer_id": "nobody", "add": [], "remove": []}},
        ]),
    );
    assert_eq!(json!(answers), json!([[200, {"consumer_id": "c1"}], 2, 2, [401, "invalid consumer id\n"]]));
    consumer.expect("py", "\u{fc}ber");
}

#[test]
fn client_comes_back_to_another_node_when_its_node_is_killed() {
    libraries();
    let redis = RedisServer::start();
    let flags = ["--retry", "100ms"];
    let (one, other) = (start(&redis, &flags), start(&redis, &flags));
    let urls = [&one, &other].map(|node| node.url("/events"));
    let client = Printer::start(NODE, "unifrost.mjs", &[&urls[0], &urls[1]]);
    let (_, payload): (String, String) = serde_json::from_str(&client.line()).unwrap();
    let info: Value = serde_json::from_str(&payload).unwrap();
    let id = info["config"]["consumer_id"].as_str().unwrap();
    add(&other, id, &["a", "b"]);
    publish(&redis, &[("a", "1")]);
    assert_eq!(client.line(), json!(["a", "1"]).to_string());
    // Killed with SIGKILL.
    drop(one);
    let (_, payload): (String, String) = serde_json::from_str(&client.line()).unwrap();
    let again: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!((&again["config"], &again["subscriptions"]), (&info["config"], &json!(["a", "b"])));
    publish(&redis, &[("b", "2")]);
    assert_eq!(client.line(), json!(["b", "2"]).to_string());
    add(&other, id, &["c"]);
    publish(&redis, &[("c", "3")]);
    assert_eq!(client.line(), json!(["c", "3"]).to_string());
}

#[test]
fn consumers_outlive_a_restart_of_redis() {
    let mut redis = RedisServer::start();
    let tallycast = start(&redis, &[]);
    let mut consumer = Consumer::start(&tallycast, "c1", &[]);
    add(&tallycast, "c1", &["a"]);
    redis.kill();
    // The stream stays open; changes are refused, not lost.
    eventually("a change is refused", || update(&tallycast, &json!({"consumer_id": "c1", "add": ["b"]})).status == 503);
    redis.run();
    tallycast.until_ready();
    // It is registered again, with its topics.
    eventually("a change is possible", || {
        update(&tallycast, &json!({"consumer_id": "c1", "add": ["b"], "remove": []})).status == 200
    });
    publish(&redis, &[("a", "1"), ("b", "2")]);
    consumer.expect("a", "1");
    consumer.expect("b", "2");
    Consumer::start(&tallycast, "c1", &["a", "b"]);
}

#[test]
fn page_of_another_origin_reads_and_changes_topics() {
    let redis = RedisServer::start();
    let (tallycast, other) = (start(&redis, &[]), Tallycast::start(&redis, &[]));
    let browser = Browser::start();
    browser.open(&other, "/healthz");
    browser.run(&format!(
        "window.seen = [];
        window.source = new EventSource('{}');
        source.onmessage = (event) => seen.push(JSON.parse(event.data));",
        tallycast.url("/events?id=page")
    ));
    browser.wait_until("seen.length", 1);
    let status = browser.eval(&format!(
        "fetch('{}', {{method: 'POST', headers: {{'content-type': 'application/json'}},
            body: JSON.stringify({{consumer_id: 'page', add: ['a'], remove: []}})}})
            .then(async (response) => [response.status, await response.json()])",
        tallycast.url(UPDATE)
    ));
    assert_eq!(status, json!([200, {"consumer_id": "page"}]));
    publish(&redis, &[("a", "1\n2")]);
    browser.wait_until("seen.slice(1)", json!([["a", "1\n2"]]));
}

#[test]
fn paths_of_the_server_itself_are_refused() {
    let redis = RedisServer::start();
    let key = format!("HS256={SECRET}");
    let everything = ["--mercure", "--token-key", &key, "--subscriptions", "--sessions"];
    let tallycast = Tallycast::start(&redis, &everything);
    let (_, answer) = tallycast.get("/nothing");
    let (_, paths) = answer.trim_end().split_once("; there are ").unwrap();
    let paths: Vec<&str> = paths.split(", ").chain(["/assets/x", "/ws"]).filter(|path| *path != "/").collect();
    assert!(paths.len() > 15, "{paths:?}");
    for path in paths {
        let path = path.split('<').next().unwrap().trim_end_matches('/');
        let output = run(command().args(["check", "--unifrost", "0.1", "--unifrost-update-path", path]));
        assert_eq!(output.status.code(), Some(64), "{path}");
    }
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let error = |flags: &[&str]| {
        let output = run(command().args(["check", "--unifrost", "0.1"]).args(flags));
        assert_eq!(output.status.code(), Some(64));
        String::from_utf8(output.stderr).unwrap()
    };
    for (flags, expected) in [
        (["--unifrost-events-path", "/publish/x"], "the server itself has paths below /publish"),
        (["--unifrost-events-path", "events"], "expected a path of letters, digits"),
        (["--unifrost-update-path", "/events"], "expected another path than --unifrost-events-path"),
        (["--unifrost-channels", "a"], "expected a prefix and *"),
        (["--unifrost-channels", "tallycast:sent:*"], "which is reserved"),
        (["--unifrost-ttl", "8d"], "invalid value for --unifrost-ttl: expected at most 7days"),
        (["--unifrost", "0.2"], "expected gochan, 0.0 or 0.1"),
    ] {
        let error = error(&flags);
        assert!(error.contains(expected), "{flags:?}: {error}");
    }
}
