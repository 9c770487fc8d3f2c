//! Sessions: two nodes that share a Redis server, backends that control sessions by HTTP and through the broker, and clients that speak.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Event, EventSource, Http2, LIMIT, RedisServer, SECRET, Tallycast, WebSocket, block_on, eventually, read, token,
};

/// Of an HTTP/2 stream, in bytes.
const WINDOW: u32 = 65_535;
const KEY: &str = "backend-key";

fn node(redis: &RedisServer, name: &str, flags: &[&str]) -> Tallycast {
    let common = ["--sessions", "--publish-key", KEY, "--subscriptions", "--instance", name];
    Tallycast::start(redis, &[&common[..], flags].concat())
}

/// A request of a backend. Returns the status and the JSON, or the line.
fn ask_as(authorization: &str, node: &Tallycast, method: Method, path: &str, body: Value) -> (u16, Value) {
    block_on(async {
        let client = reqwest::Client::builder().timeout(LIMIT).pool_max_idle_per_host(0).build().unwrap();
        let request = client.request(method, node.url(path)).header("authorization", authorization);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response = request.body(body).send().await.unwrap();
        let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or_else(|_| text.trim_end().into()))
    })
}

fn ask(node: &Tallycast, method: Method, path: &str, body: Value) -> (u16, Value) {
    ask_as(&format!("Bearer {KEY}"), node, method, path, body)
}

/// The events of sessions, of a stream with the key `events`: each with its session, and what else tells them apart.
fn events(redis: &RedisServer) -> Vec<String> {
    let entries: Vec<(String, Vec<String>)> =
        redis::cmd("XRANGE").arg("events").arg("-").arg("+").query(&mut redis.connect()).unwrap();
    let describe = |(_, fields): (String, Vec<String>)| {
        let event: Value = serde_json::from_str(&fields[1]).unwrap();
        let texts = ["event", "session", "node", "reason", "data"].map(|field| event[field].as_str());
        texts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    entries.into_iter().map(describe).collect()
}

const EVENTS: [&str; 2] = ["--session-events", "stream:events"];

#[test]
fn backend_moves_a_session_on_another_node_over_every_transport() {
    let redis = RedisServer::start();
    let (a, b) = (node(&redis, "a", &EVENTS), node(&redis, "b", &EVENTS));
    let sse = EventSource::open(&a, "/session/ann?topic=/raw");
    let http2 = Http2::connect(&a, WINDOW);
    let mut stream = http2.get("/session/ann");
    let mut websocket = WebSocket::open(&b, "/session/ann");
    let (status, changed) = ask(&b, Method::PATCH, "/sessions/ann", json!({"add": ["/details"], "remove": ["/raw"]}));
    assert_eq!((status, &changed["topics"], &changed["acted"]), (200, &json!(["/details"]), &json!(true)));
    assert_eq!((&changed["connections"], &changed["waiting"]), (&json!(3), &json!([])));
    assert_eq!(changed["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(websocket.json(), json!({"subscribed": ["/details"]}));
    redis.publish_scores(["1F602"]);
    redis.publish_post("26", "{}");
    let channel = "stream.tweet_updates.26";
    assert_eq!(sse.next(), Event::named(channel, "{}"));
    assert_eq!(websocket.json()["event"], channel);
    let expected = format!("event:{channel}\ndata:{{}}\n\n");
    let mut read = Vec::new();
    while !read.ends_with(expected.as_bytes()) {
        read.extend_from_slice(&http2.take(&mut stream).unwrap().expect("the stream goes on"));
    }
    // Whoever looks sees it.
    eventually("the subscriptions follow", || b.json("/subscriptions?topic=/details")["count"] == 3);
    assert_eq!(a.json("/subscriptions?topic=/raw")["count"], 0);
    // To this session alone.
    let other = EventSource::open(&a, "/session/bob?topic=/details");
    let message = json!({"data": "for you", "event": "note", "namespace": "/private"});
    let (status, sent) = ask(&a, Method::POST, "/sessions/ann/messages", message);
    assert_eq!((status, &sent["connections"]), (200, &json!(3)));
    assert_eq!(sse.next(), Event::named("note", "for you"));
    let message = websocket.json();
    assert_eq!(
        (&message["namespace"], &message["event"], &message["data"]),
        (&"/private".into(), &"note".into(), &"for you".into())
    );
    let (status, listed) = ask(&a, Method::GET, "/sessions?limit=1", Value::Null);
    assert_eq!((status, &listed["next"]), (200, &json!("ann")));
    assert_eq!(listed["sessions"][0]["connections"].as_array().unwrap().len(), 3);
    let (_, listed) = ask(&b, Method::GET, "/sessions?limit=1&after=ann", Value::Null);
    assert_eq!((&listed["sessions"][0]["session"], &listed["next"]), (&json!("bob"), &Value::Null));
    let (status, ended) = ask(&b, Method::DELETE, "/sessions/ann?reason=maintenance", Value::Null);
    assert_eq!((status, &ended["connections"]), (200, &json!(3)));
    assert_eq!(websocket.closed(), (1008, "maintenance".to_owned()));
    assert_eq!(sse.rest(), []);
    assert_eq!(other.received(), []);
    assert_eq!(ask(&a, Method::GET, "/sessions/ann", Value::Null), (404, "no session \"ann\"".into()));
    let first = "connected ann rust-development-a";
    let of_ann: Vec<String> = events(&redis).into_iter().filter(|event| event.contains(" ann")).collect();
    assert_eq!(of_ann[..2], ["created ann", first]);
    assert!(of_ann[2].starts_with("disconnected ann rust-development-") && of_ann[2].ends_with(" maintenance"));
    assert_eq!(of_ann[3..], ["ended ann maintenance"]);
}

#[test]
fn backend_commands_sessions_through_the_broker() {
    let redis = RedisServer::start();
    let (a, b) = (node(&redis, "a", &[]), node(&redis, "b", &[]));
    let sse = EventSource::open(&a, "/session/ann?topic=/raw");
    let mut connection = redis.connect();
    let mut outcomes = connection.as_pubsub();
    outcomes.subscribe("outcomes").unwrap();
    let mut backend = redis.connect();
    let mut command = |command: Value| -> Value {
        let _: u64 = redis::cmd("RPUSH")
            .arg("tallycast:sessions:commands")
            .arg(command.to_string())
            .query(&mut backend)
            .unwrap();
        serde_json::from_str(&outcomes.get_message().unwrap().get_payload::<String>().unwrap()).unwrap()
    };
    let outcome = command(json!({"session": "ann", "id": 7, "reply": "outcomes", "topics": ["/details"]}));
    let nodes = json!(["rust-development-a"]);
    assert_eq!(outcome, json!({"id": 7, "session": "ann", "ok": true, "connections": 1, "nodes": nodes}));
    redis.publish_post("26", "1");
    assert_eq!(sse.next().data, "1");
    let outcome = command(json!({"session": "bob", "reply": "outcomes", "topics": ["/details"]}));
    assert_eq!(outcome, json!({"session": "bob", "ok": false, "error": "no session \"bob\""}));
    // Also while the node that takes commands dies.
    let consumer: String = redis::cmd("GET").arg("tallycast:sessions:consumer").query(&mut redis.connect()).unwrap();
    let survivor = if consumer.starts_with("rust-development-a#") {
        drop(a);
        &b
    } else {
        drop(b);
        &a
    };
    let outcome = command(json!({"session": "bob", "reply": "outcomes", "topics": ["/raw"], "create": true}));
    assert_eq!(outcome, json!({"session": "bob", "ok": true, "connections": 0}));
    assert_eq!(ask(survivor, Method::GET, "/sessions/bob", Value::Null).1["topics"], json!(["/raw"]));
}

#[test]
fn clients_change_topics_publish_and_send_within_their_grant() {
    let redis = RedisServer::start();
    let routes = ["--route", "chat:*=/chat/*", "--route", "stream:room=/room/*"];
    let flags = [&routes[..], &EVENTS].concat();
    let (a, b) = (node(&redis, "a", &flags), node(&redis, "b", &flags));
    let grant = json!({"read": ["/chat/**"], "publish": ["/chat/1", "/room"], "payload": {"user": 1}});
    let topics = json!(["/chat/1", "/room"]);
    for name in ["ann", "bob"] {
        let (status, created) =
            ask(&a, Method::PUT, &format!("/sessions/{name}"), json!({"grant": grant, "topics": topics}));
        assert_eq!((status, &created["created"], &created["acted"]), (201, &json!(true), &json!(false)));
    }
    let mut ann = WebSocket::open(&a, "/session/ann?echo=0");
    let mut bob = WebSocket::open(&b, "/session/bob");
    // Reaches the others, but not its sender, whose next message is an answer.
    for (namespace, payload) in [("/chat/1", json!("hello")), ("/room/x", json!({"text": "hi"}))] {
        ann.send_text(&json!({"publish": {"namespace": namespace, "data": payload}, "id": 1}).to_string());
        assert_eq!(ann.json(), json!({"published": true, "id": 1}));
        let message = bob.json();
        let text = payload.as_str().map_or_else(|| payload.to_string(), str::to_owned);
        assert_eq!((&message["namespace"], &message["data"]), (&json!(namespace), &json!(text)));
    }
    bob.send_text(r#"{"publish": {"namespace": "/chat/1", "data": "echo"}, "id": "b"}"#);
    let (first, second) = (bob.json(), bob.json());
    let (echo, answer) = if first["published"] == true { (second, first) } else { (first, second) };
    assert_eq!((&echo["data"], &answer["id"]), (&json!("echo"), &json!("b")));
    assert_eq!(ann.json()["data"], "echo");
    ann.send_text(r#"{"subscribe": ["/chat/2"], "unsubscribe": ["/chat/1"], "id": 2}"#);
    assert_eq!(ann.json(), json!({"subscribed": ["/chat/2", "/room"], "id": 2}));
    redis.publish([("chat:1", "1"), ("chat:2", "2")]);
    assert_eq!(ann.json()["data"], "2");
    for (message, error) in [
        (r#"{"subscribe": ["/raw"], "id": 3}"#, "not allowed to read /raw"),
        (r#"{"publish": {"namespace": "/chat/2", "data": ""}, "id": 3}"#, "not allowed to publish to /chat/2"),
        (
            r#"{"publish": {"namespace": "/room/x", "data": "", "event": "e\n"}, "id": 3}"#,
            "event: expected at most 256 bytes without control characters",
        ),
        (
            r#"{"send": 1, "publish": {"namespace": "/room/x", "data": ""}, "id": 3}"#,
            "expected subscribe and unsubscribe, or publish, or send",
        ),
    ] {
        ann.send_text(message);
        assert_eq!(ann.json(), json!({"error": error, "id": 3}), "{message}");
    }
    ann.send_text("hello");
    assert!(ann.json()["error"].as_str().unwrap().starts_with(r#"expected {"subscribe": [...]}"#));
    // What a client sends is for the backend, in its order.
    for text in ["\"one\"", "{\"two\": 2}"] {
        ann.send_text(&format!("{{\"send\": {text}, \"id\": 4}}"));
        assert_eq!(ann.json(), json!({"sent": true, "id": 4}));
    }
    let sent: Vec<String> = events(&redis).into_iter().filter(|event| event.starts_with("message")).collect();
    assert_eq!(sent, ["message ann one", "message ann {\"two\": 2}"]);
    // The backend takes the right to publish away.
    ask(&b, Method::PATCH, "/sessions/ann", json!({"grant": {"read": []}}));
    assert_eq!(ann.json(), json!({"subscribed": ["/chat/2", "/room"]}));
    ann.send_text(r#"{"publish": {"namespace": "/room/x", "data": ""}}"#);
    assert_eq!(ann.json(), json!({"error": "not allowed to publish to /room/x"}));
    for _ in 0..100 {
        ann.send_text(r#"{"send": 1}"#);
    }
    let end = std::iter::from_fn(|| Some(ann.next())).find(|message| message.is_close()).unwrap();
    assert_eq!(end.as_close().unwrap().1, "too many messages");
}

#[test]
fn token_names_its_session_and_limits_it() {
    let redis = RedisServer::start();
    let flags = ["--token-key", &format!("HS256={SECRET}"), "--public", "/eps"];
    let node = node(&redis, "a", &flags);
    let ann = token(&["--sub", "ann", "--read", "/raw", "--publish", "/raw", "--expires", "1h"]);
    let nobody = token(&["--read", "/raw"]);
    assert_eq!(read(&node, "/session/ann?topic=/raw", "").0, 401);
    let status = |path: &str, token: &str| {
        let (status, line, _) = read(&node, path, token);
        (status, line)
    };
    assert_eq!(status("/session/bob?topic=/raw", &ann), (403, "the token is for the session \"ann\"".to_owned()));
    assert_eq!(status("/session?topic=/details", &ann), (403, "not allowed to read /details".to_owned()));
    assert_eq!(status("/session", &nobody).0, 403);
    assert_eq!(status("/session?topic=/raw&topic=/eps", &ann).0, 200);
    let mut websocket =
        WebSocket::open_with(&node, "/session/ann", &[("authorization", &format!("Bearer {ann}"))]).unwrap();
    websocket.send_text(r#"{"subscribe": ["/details"]}"#);
    assert_eq!(websocket.json(), json!({"error": "not allowed to read /details"}));
    // A token controls the sessions that it may publish to.
    let as_token = |token: &str, path: &str| {
        ask_as(&format!("Bearer {token}"), &node, Method::PATCH, path, json!({"topics": ["/details"]})).0
    };
    let backend = token(&["--sub", "backend", "--publish", "/sessions/ann"]);
    assert_eq!(as_token(&ann, "/sessions/ann"), 403);
    assert_eq!(as_token(&backend, "/sessions/bob"), 403);
    assert_eq!(as_token(&backend, "/sessions/ann"), 200);
    // The backend may have it read what its token may not.
    assert_eq!(websocket.json(), json!({"subscribed": ["/details"]}));
    let (status, _) = ask_as(&format!("Bearer {backend}"), &node, Method::GET, "/sessions", Value::Null);
    assert_eq!(status, 403);
}

#[test]
fn stream_of_a_session_ends_with_the_token_although_the_session_changes() {
    let redis = RedisServer::start();
    let flags = ["--token-key", &format!("HS256={SECRET}"), "--token-leeway", "0s"];
    let node = node(&redis, "a", &flags);
    let brief = token(&["--sub", "ann", "--read", "/raw", "--expires", "4s"]);
    let header = format!("Bearer {brief}");
    let mut websocket = WebSocket::open_with(&node, "/session?topic=/raw", &[("authorization", &header)]).unwrap();
    assert_eq!(ask(&node, Method::PATCH, "/sessions/ann", json!({"topics": ["/eps"]})).0, 200);
    assert_eq!(websocket.json(), json!({"subscribed": ["/eps"]}));
    assert_eq!(websocket.closed(), (1008, "the authorization has expired".to_owned()));
}

#[test]
fn newer_token_replaces_the_rights_of_the_older_one() {
    let redis = RedisServer::start();
    let node = node(&redis, "a", &["--token-key", &format!("HS256={SECRET}")]);
    let older = token(&["--sub", "ann", "--read", "/raw", "--read", "/eps", "--publish", "/raw"]);
    let newer = token(&["--sub", "ann", "--read", "/raw", "--read", "/details"]);
    let header = format!("Bearer {older}");
    let path = "/session?topic=/raw&topic=/eps";
    let mut websocket = WebSocket::open_with(&node, path, &[("authorization", &header)]).unwrap();
    assert_eq!(read(&node, "/session", &newer).0, 200);
    assert_eq!(websocket.json(), json!({"subscribed": ["/raw"]}));
    websocket.send_text(r#"{"publish": {"namespace": "/raw", "data": "1"}}"#);
    assert_eq!(websocket.json(), json!({"error": "not allowed to publish to /raw"}));
    websocket.send_text(r#"{"subscribe": ["/details"]}"#);
    assert_eq!(websocket.json(), json!({"subscribed": ["/details", "/raw"]}));
    // What a backend has decided stays.
    let decided = json!({"topics": ["/eps"], "grant": {"read": ["/raw"]}});
    assert_eq!(ask(&node, Method::PATCH, "/sessions/ann", decided).0, 200);
    assert_eq!(websocket.json(), json!({"subscribed": ["/eps"]}));
    assert_eq!(read(&node, "/session", &older).0, 200);
    websocket.send_text(r#"{"subscribe": ["/details"]}"#);
    assert_eq!(websocket.json(), json!({"error": "not allowed to read /details"}));
}

#[test]
fn client_that_comes_back_reads_on_on_any_node() {
    let redis = RedisServer::start();
    let routes = ["--route", "stream:orders=/orders,history=100", "--route", "stream.score_updates=/raw"];
    let (a, b) = (node(&redis, "a", &routes), node(&redis, "b", &routes));
    let add = |text: &str| {
        let _: String =
            redis::cmd("XADD").arg("orders").arg("*").arg("data").arg(text).query(&mut redis.connect()).unwrap();
    };
    let first = EventSource::open(&a, "/session/ann?topic=/orders");
    add("1");
    assert_eq!(first.next().data, "1");
    drop(first);
    let has_none = || ask(&b, Method::GET, "/sessions/ann", Value::Null).1["connections"] == json!([]);
    eventually("it has no connection", has_none);
    add("2");
    ask(&b, Method::PATCH, "/sessions/ann", json!({"add": ["/raw"]}));
    add("3");
    b.until_counter("/hub/history_messages", 3);
    let second = EventSource::open(&b, "/session/ann");
    assert_eq!([second.next().data, second.next().data], ["2", "3"]);
    redis.publish_scores(["26"]);
    assert_eq!(second.next().data, "26");
}

#[test]
fn connections_of_a_killed_node_end_once_and_its_session_moves() {
    let redis = RedisServer::start();
    let (killed, survivor) = (node(&redis, "a", &EVENTS), node(&redis, "b", &EVENTS));
    let _streams = ["ann", "bob"].map(|name| EventSource::open(&killed, &format!("/session/{name}?topic=/raw")));
    // SIGKILL.
    drop(killed);
    let moved = EventSource::open(&survivor, "/session/ann");
    redis.publish_scores(["26"]);
    assert_eq!(moved.next().data, "26");
    let gone = "disconnected bob rust-development-a the node has died";
    eventually("the heir has ended it", || events(&redis).iter().any(|event| event == gone));
    let (_, changed) = ask(&survivor, Method::PATCH, "/sessions/ann", json!({"topics": ["/eps"]}));
    assert_eq!(changed["nodes"], json!(["rust-development-b"]));
    let all = events(&redis);
    assert_eq!(all.iter().filter(|event| event.starts_with("disconnected")).count(), 1, "{all:?}");
    survivor.until_counter("/sessions/inherited", 1);
}

#[test]
fn streams_of_sessions_survive_the_loss_of_redis() {
    let mut redis = RedisServer::start();
    let node = node(&redis, "a", &[]);
    let stream = EventSource::open(&node, "/session/ann?topic=/raw");
    redis.kill();
    eventually("new connections are refused", || node.get("/session/bob").0 == 503);
    let (status, line) = ask(&node, Method::PATCH, "/sessions/ann", json!({"topics": ["/eps"]}));
    assert_eq!((status, line), (503, "sessions are unavailable; try again".into()));
    redis.run();
    let is_back =
        || ask(&node, Method::PATCH, "/sessions/ann", json!({"add": ["/details"]})).1["connections"] == json!(1);
    eventually("the session is registered again", is_back);
    node.until_ready();
    redis.publish_post("26", "1");
    assert_eq!(stream.next().data, "1");
}

#[test]
fn requests_that_are_not_valid_get_one_clear_line() {
    let redis = RedisServer::start();
    let node = node(&redis, "a", &["--max-topics", "2"]);
    let request = |method: Method, path: &str, body: &str| {
        block_on(async {
            let client = reqwest::Client::builder().timeout(LIMIT).build().unwrap();
            let request = client.request(method, node.url(path)).bearer_auth(KEY).body(body.to_owned());
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap().trim_end().to_owned())
        })
    };
    let long = "x".repeat(257);
    for (method, path, body, status, line) in [
        (Method::PUT, "/sessions/a", "{", 400, "bad request body: EOF while parsing an object"),
        (
            Method::PUT,
            "/sessions/a",
            r#"{"topics": ["a"]}"#,
            400,
            "bad request body: \"a\": a namespace must start with '/'",
        ),
        (Method::PUT, "/sessions/a", r#"{"topics": ["/1", "/2", "/3"]}"#, 400, "a session has at most 2 topics"),
        (
            Method::PUT,
            &format!("/sessions/{long}"),
            "",
            400,
            "bad path after /sessions/: expected the name of a session",
        ),
        (Method::PATCH, "/sessions/a", "{}", 404, "no session \"a\""),
        (Method::POST, "/sessions/a/messages", r#"{"data": "x"}"#, 404, "no session \"a\""),
        (Method::POST, "/sessions/a/messages", r#"{"text": "x"}"#, 400, "bad request body: unknown field `text`"),
        (Method::DELETE, "/sessions/a?because=x", "", 400, "bad query: unknown parameter \"because\"; expected reason"),
        (Method::GET, "/sessions?limit=0", "", 400, "bad query: limit=0; expected 1 to 1000"),
        (Method::POST, "/sessions/a", "", 405, "POST is not allowed for /sessions/a; use GET, PUT, PATCH or DELETE"),
        (Method::GET, "/session/a?topic=b", "", 400, "bad query: topic=b: a namespace must start with '/'"),
        (Method::GET, "/session/a?echo=yes", "", 400, "bad query: echo=yes; expected 1 or 0"),
        (Method::GET, "/session", "", 400, "expected a session"),
    ] {
        let (found, text) = request(method.clone(), path, body);
        assert!(found == status && text.starts_with(line), "{method} {path}: {found} {text}");
    }
    let (status, line) = ask_as("Bearer wrong", &node, Method::GET, "/sessions", Value::Null);
    assert_eq!((status, line), (401, "a publishing key is required, as Bearer token".into()));
}

/// The commands that a page of the documentation lists after a text, up to a full stop.
fn commands_after(page: &str, text: &str) -> Vec<String> {
    let (_, list) = page.split_once(text).unwrap();
    let (list, _) = list.split_once('.').unwrap();
    let is_command = |word: &&str| word.chars().all(|character| character.is_ascii_uppercase());
    list.split('`').filter(is_command).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

#[test]
fn documented_permissions_are_enough() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sessions.md")).unwrap();
    let redis = RedisServer::start();
    let mut rule = redis::cmd("ACL");
    rule.arg("SETUSER").arg("limited").arg("on").arg(">secret").arg("-@all");
    rule.arg("~tallycast:session:*")
        .arg("~tallycast:sessions*")
        .arg("~events")
        .arg("&tallycast:*")
        .arg("&tallycast:sent:*");
    rule.arg("&stream.score_updates").arg("&stream.tweet_updates.*");
    for name in commands_after(&page, "of the routes, and the commands ").iter().chain(&["psubscribe".to_owned()]) {
        rule.arg(format!("+{name}"));
    }
    let () = rule.query(&mut redis.connect()).unwrap();
    let url = redis.url().replace("redis://", "redis://limited:secret@");
    let flags = |name| [&["--sessions", "--publish-key", KEY, "--instance", name][..], &EVENTS].concat();
    let (a, b) = (Tallycast::start_unready(&url, &flags("a")), Tallycast::start_unready(&url, &flags("b")));
    eventually("sessions open", || a.get("/session/bob?last=0").0 == 400 && b.get("/session?x").0 == 400);
    let stream = EventSource::open(&a, "/session/ann?topic=/raw");
    let _other = EventSource::open(&b, "/session/bob?topic=/raw");
    let is_followed =
        || ask(&b, Method::PATCH, "/sessions/ann", json!({"topics": ["/eps"]})).1["connections"] == json!(1);
    eventually("the other node follows", is_followed);
    assert_eq!(ask(&b, Method::POST, "/sessions/ann/messages", json!({"data": "x"})).1["connections"], json!(1));
    assert_eq!(stream.next().data, "x");
    let command = json!({"session": "ann", "end": "over"}).to_string();
    let _: u64 =
        redis::cmd("RPUSH").arg("tallycast:sessions:commands").arg(command).query(&mut redis.connect()).unwrap();
    assert_eq!(stream.rest(), []);
    drop(b);
    let gone = "disconnected bob rust-development-b the node has died";
    eventually("the heir has ended it", || events(&redis).iter().any(|event| event == gone));
    assert!(!a.log().contains("NOPERM"), "{}", a.log());
}
