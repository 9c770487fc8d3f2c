//! The contract of open-source-cloud/realtime, with clients of other projects: PyPI's `websockets`, npm's `eventsource`, and programs
//! that add to the Redis streams themselves.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    EventSource, NODE, PYTHON, Printer, Raw, RedisServer, Running, SECRET, Tallycast, WebSocket, command, eventually,
    get, post, token, upgrade,
};

const CHANNELS: &str = "/api/v1/channels";
const FLAGS: [&str; 4] = ["--realtime-channel", "chat,type=WS,max=3", "--realtime-channel", "news,type=SSE,max=3"];

fn path(channel: &str, client: &str) -> String {
    format!("{CHANNELS}/{channel}?clientId={client}&upgrade=1")
}

/// Two nodes of one Redis server.
fn nodes(redis: &RedisServer, flags: &[&str]) -> [Tallycast; 2] {
    ["a", "b"].map(|name| Tallycast::start(redis, &[&FLAGS[..], &["--instance", name], flags].concat()))
}

/// A client of a WebSocket channel that is not ours.
struct Client(Printer);

impl Client {
    #[track_caller]
    fn join(node: &Tallycast, channel: &str, name: &str) -> Self {
        let client =
            Self(Printer::start(PYTHON, "channel.py", &[&format!("ws://{}{}", node.address, path(channel, name))]));
        assert_eq!(client.next(), json!(["open"]));
        client
    }

    #[track_caller]
    fn next(&self) -> Value {
        serde_json::from_str(&self.0.line()).unwrap()
    }

    /// Waits for a message. Returns the sender and the text.
    #[track_caller]
    fn message(&self) -> (String, String) {
        let line = self.next();
        assert_eq!(line[0], "message", "{line}");
        let text = |name: &str| line[1][name].as_str().unwrap().to_owned();
        (text("clientId"), text("payload"))
    }

    #[track_caller]
    fn expect(&self, sender: &str, text: &str) {
        assert_eq!(self.message(), (sender.to_owned(), text.to_owned()));
    }
}

/// Adds an entry as a node of the other project does: the id is the name of the only field.
fn add(redis: &RedisServer, channel: &str, client: &str, payload: &str) {
    let id = format!("id of {payload}");
    let created = "2026-11-20T10:00:00.123456789Z";
    let message = json!({"id": id, "channelId": channel, "clientId": client, "payload": payload, "createdAt": created});
    let mut command = redis::cmd("XADD");
    let _: String = command.arg(channel).arg("*").arg(id).arg(message.to_string()).query(&mut redis.connect()).unwrap();
}

/// The status and the message of an answer to a question or to a request for a stream that is refused.
fn ask(node: &Tallycast, path: &str) -> (u16, String) {
    let response = get(node, path, &[]);
    assert_eq!(response.header("content-type"), "application/json; charset=utf-8");
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    (response.status, body["message"].as_str().unwrap().to_owned())
}

/// As [`ask`], for a handshake, and the answer to the question about the same.
#[track_caller]
fn refused(node: &Tallycast, channel: &str, client: &str) -> (u16, String) {
    let path = path(channel, client);
    let mut raw = Raw::connect(node);
    raw.send(&upgrade(&path));
    let head = raw.head();
    let status = head["HTTP/1.1 ".len()..][..3].parse().unwrap();
    assert!(status != 101 && head.contains("application/json"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let body: Value = serde_json::from_slice(&raw.read_exactly(length.parse().unwrap())).unwrap();
    let answer = (status, body["message"].as_str().unwrap().to_owned());
    assert_eq!(ask(node, &path.replace("upgrade=1", "upgrade=0")), answer);
    answer
}

fn ok() -> (u16, String) {
    (200, "OK".to_owned())
}

#[test]
fn clients_on_two_nodes_talk_and_do_not_hear_themselves() {
    let redis = RedisServer::start();
    let [first, second] = nodes(&redis, &[]);
    let mut ann = Client::join(&first, "chat", "ann");
    let mut bob = Client::join(&second, "chat", "bob");
    let cid = Client::join(&first, "chat", "cid%20%F0%9F%98%82");
    ann.0.send("hello 😂");
    for client in [&bob, &cid] {
        client.expect("ann", "hello 😂");
    }
    bob.0.send(r#"{"not": "parsed"}"#);
    // Its own message would have been first.
    for client in [&ann, &cid] {
        client.expect("bob", r#"{"not": "parsed"}"#);
    }
    let mut command = redis::cmd("XRANGE");
    let entries: Vec<(String, Vec<String>)> =
        command.arg("chat").arg("-").arg("+").query(&mut redis.connect()).unwrap();
    assert_eq!(entries.len(), 2);
    for (_, fields) in entries {
        let [field, value] = fields.try_into().unwrap();
        let message: Value = serde_json::from_str(&value).unwrap();
        let members: Vec<&String> = message.as_object().unwrap().keys().collect();
        assert_eq!(members, ["channelId", "clientId", "createdAt", "id", "payload"]);
        assert_eq!((message["id"].as_str().unwrap(), &message["channelId"]), (&*field, &json!("chat")));
        assert!(humantime::parse_rfc3339(message["createdAt"].as_str().unwrap()).is_ok(), "{message}");
        assert_eq!(field.len(), 36);
    }
}

#[test]
fn messages_of_other_programs_reach_all_but_their_senders() {
    let redis = RedisServer::start();
    let [first, second] = nodes(&redis, &[]);
    let ann = Client::join(&first, "chat", "ann");
    let bob = Client::join(&second, "chat", "bob");
    add(&redis, "chat", "ann", "by-ann-at-another-node");
    add(&redis, "chat", "zoe", "by-zoe");
    bob.expect("ann", "by-ann-at-another-node");
    for client in [&ann, &bob] {
        client.expect("zoe", "by-zoe");
    }
    // A program that reads the stream anew for each entry would lose some of these.
    for number in 0..300 {
        add(&redis, "chat", "zoe", &number.to_string());
    }
    for client in [&ann, &bob] {
        for number in 0..300 {
            client.expect("zoe", &number.to_string());
        }
    }
}

#[test]
fn events_are_data_and_an_id() {
    let redis = RedisServer::start();
    let node = Tallycast::start(&redis, &[&FLAGS[..], &["--realtime-push"]].concat());
    let mut raw = Raw::connect(&node);
    raw.send(&format!("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", path("news", "ann")));
    let head = raw.head();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("text/event-stream"), "{head}");
    let answer = post(&node, &format!("{CHANNELS}/news/messages"), &[], r#"{"payload":"one\ntwo"}"#);
    let message: Value = serde_json::from_str(&answer.body).unwrap();
    let text = message["message"].as_str().unwrap();
    let id = text.strip_prefix("message ").and_then(|text| text.strip_suffix(" has been sent to all clients")).unwrap();
    let mut event = raw.chunk();
    while event.starts_with("id: ") {
        event = raw.chunk();
    }
    let (data, rest) = event.strip_prefix("data: ").unwrap().split_once('\n').unwrap();
    assert!(rest.starts_with("id: ") && rest.ends_with("\n\n"), "{event:?}");
    let data: Value = serde_json::from_str(data).unwrap();
    let expected = json!([id, "news", "server-message", "one\ntwo"]);
    assert_eq!(json!([data["id"], data["channelId"], data["clientId"], data["payload"]]), expected);
}

#[test]
fn client_that_comes_back_misses_nothing() {
    let redis = RedisServer::start();
    let start = |port: u16| {
        let mut serve = command();
        serve.arg("serve").env("REDIS_URL", redis.url()).args(FLAGS);
        let node = Tallycast::spawn_at(serve, port);
        node.until_ready();
        node
    };
    let node = start(0);
    let address = node.address;
    let client = Printer::start(NODE, "channel.mjs", &[&node.url(&path("news", "ann"))]);
    let mut missing: Vec<String> = (0..5).map(|number| number.to_string()).collect();
    let next = || loop {
        let line: Value = serde_json::from_str(&client.line()).unwrap();
        if line[0] == "message" {
            break line[1]["payload"].as_str().unwrap().to_owned();
        }
    };
    eventually("the client is connected", || node.counter("/sessions/connections") == 1);
    add(&redis, "news", "server-message", &missing.remove(0));
    assert_eq!(next(), "0");
    assert_eq!(node.terminate().status.code(), Some(0));
    for payload in &missing {
        add(&redis, "news", "server-message", payload);
    }
    let node = start(address.port());
    for payload in missing {
        assert_eq!(next(), payload);
    }
    add(&redis, "news", "server-message", "last");
    assert_eq!(next(), "last");
    // A node that is killed has not said that its clients have gone: until the others know, the name is taken.
    node.signal(Signal::KILL);
    node.wait();
    let node = start(address.port());
    assert_eq!(ask(&node, &path("news", "ann")).0, 409);
    add(&redis, "news", "server-message", "after the crash");
    assert_eq!(next(), "after the crash");
    // A position in a query, for clients that cannot set a header; and as many as a client asks for.
    let late = EventSource::open(&node, &format!("{}&last=2", path("news", "bob")));
    for expected in ["last", "after the crash"] {
        let message: Value = serde_json::from_str(&late.next().data).unwrap();
        assert_eq!(message["payload"], expected);
    }
}

#[test]
fn names_and_limits_hold_on_all_nodes() {
    let redis = RedisServer::start();
    let [first, second] = nodes(&redis, &["--realtime-channel", "pair,type=WS,max=2"]);
    let _ann = WebSocket::open(&first, &path("pair", "ann"));
    let taken = (409, "clientId is already in use".to_owned());
    let full = (422, "there are 2 connections, which is the limit".to_owned());
    for node in [&first, &second] {
        assert_eq!(refused(node, "pair", "ann"), taken);
    }
    let bob = WebSocket::open(&second, &path("pair", "bob"));
    for node in [&first, &second] {
        assert_eq!(refused(node, "pair", "cid"), full);
        assert_eq!(refused(node, "pair", "bob"), taken);
    }
    // The same name in another channel is another client.
    let _other = WebSocket::open(&first, &path("chat", "ann"));
    drop(bob);
    eventually("there is a place", || ask(&first, &format!("{CHANNELS}/pair?clientId=bob&upgrade=0")) == ok());
    let _bob = WebSocket::open(&first, &path("pair", "bob"));
    assert_eq!(refused(&second, "pair", "cid"), full);
    let missing = (404, "Channel not found".to_owned());
    for channel in ["nix", "pair:ann", "tallycast%3Arealtime"] {
        assert_eq!(refused(&first, channel, "ann"), missing, "{channel}");
    }
    assert_eq!(refused(&first, "chat", "server-message"), taken);
    for client in ["", "%0a", &"x".repeat(129)] {
        let expected = "clientId: expected 1 to 128 bytes without control characters";
        assert_eq!(refused(&first, "chat", client), (400, expected.to_owned()));
    }
}

#[test]
fn question_registers_nothing() {
    let redis = RedisServer::start();
    let flags = ["--realtime-channel", "one,type=WS,max=1", "--session-events", "stream:events"];
    let node = Tallycast::start(&redis, &[&FLAGS[..], &flags].concat());
    // Also what is registered and removed again.
    let events = || redis::cmd("XLEN").arg("events").query::<usize>(&mut redis.connect()).unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&node, &format!("{CHANNELS}/one?clientId=ann&upgrade=0")), ok());
        let mut raw = Raw::connect(&node);
        raw.send(&format!("HEAD {} HTTP/1.1\r\nhost: localhost\r\n\r\n", path("one", "ann")));
        assert!(raw.head().starts_with("HTTP/1.1 200 OK\r\n"));
    }
    // The wrong way to connect is not a connection either.
    let needs = (400, "the channel chat needs a WebSocket".to_owned());
    assert_eq!(ask(&node, &path("chat", "bob")), needs);
    let handshake = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
    assert_eq!(get(&node, &path("news", "bob"), &handshake).status, 400);
    assert_eq!(events(), 0);
    let _ann = WebSocket::open(&node, &path("one", "ann"));
    assert_eq!(events(), 2);
    assert_eq!(refused(&node, "one", "bob").0, 422);
    assert_eq!(events(), 2);
}

#[test]
fn messages_of_the_server_are_sent_only_where_they_are_allowed() {
    const BODY: &str = r#"{"payload":"hi"}"#;
    let redis = RedisServer::start();
    let messages = format!("{CHANNELS}/news/messages");
    let push = |node: &Tallycast, bearer: &str, body: &str| {
        let header = format!("Bearer {bearer}");
        let headers = [("authorization", &*header), ("content-type", "application/json")];
        post(node, &messages, if bearer.is_empty() { &[] } else { &headers }, body).status
    };
    // Not even with a key.
    let off = Tallycast::start(&redis, &[&FLAGS[..], &["--publish-key", "key"]].concat());
    assert_eq!([push(&off, "", BODY), push(&off, "key", BODY)], [403, 403]);
    let open = Tallycast::start(&redis, &[&FLAGS[..], &["--realtime-push"]].concat());
    assert_eq!(push(&open, "", BODY), 200);
    for body in ["", "hi", r#"{"payload":7}"#, "{}"] {
        assert_eq!(push(&open, "", body), 400, "{body}");
    }
    assert_eq!(post(&open, &format!("{CHANNELS}/nix/messages"), &[], BODY).status, 404);
    let keyed = Tallycast::start(&redis, &[&FLAGS[..], &["--realtime-push", "--publish-key", "key"]].concat());
    assert_eq!([push(&keyed, "", BODY), push(&keyed, "wrong", BODY), push(&keyed, "key", BODY)], [401, 401, 200]);
    let entries: usize = redis::cmd("XLEN").arg("news").query(&mut redis.connect()).unwrap();
    assert_eq!(entries, 2);
}

#[test]
fn tokens_decide_who_reads_sends_and_pushes() {
    let redis = RedisServer::start();
    let key = format!("HS256={SECRET}");
    let node = Tallycast::start(
        &redis,
        &[&FLAGS[..], &["--realtime-push", "--realtime-create", "--token-key", &key]].concat(),
    );
    let (reader, writer) =
        (token(&["--read", "/realtime/chat"]), token(&["--read", "/realtime/**", "--publish", "/realtime/chat"]));
    let status = |channel: &str, token: &str| {
        let header = format!("Bearer {token}");
        let headers = [("authorization", &*header)];
        let path = path(channel, "x").replace("upgrade=1", "upgrade=0");
        get(&node, &path, if token.is_empty() { &[] } else { &headers }).status
    };
    assert_eq!([status("chat", ""), status("chat", "no.to.ken"), status("news", &reader)], [401, 401, 403]);
    assert_eq!([status("chat", &reader), status("news", &writer)], [200, 200]);
    let open = |client: &str, token: &str| {
        let header = format!("Bearer {token}");
        WebSocket::open_with(&node, &path("chat", client), &[("authorization", &header)])
    };
    assert!(open("nobody", "").is_err());
    let (mut ann, mut bob) = (open("ann", &reader).unwrap(), open("bob", &writer).unwrap());
    bob.send_text("hello");
    assert_eq!(ann.json()["payload"], "hello");
    ann.send_text("may I?");
    assert_eq!(ann.closed(), (1008, "not allowed to send to this channel".to_owned()));
    let push = |channel: &str, token: &str| {
        let header = format!("Bearer {token}");
        post(&node, &format!("{CHANNELS}/{channel}/messages"), &[("authorization", &header)], r#"{"payload":"p"}"#)
            .status
    };
    assert_eq!([push("chat", &reader), push("news", &writer), push("chat", &writer)], [403, 403, 200]);
    assert_eq!(bob.json()["clientId"], "server-message");
    let create = |id: &str, token: &str| {
        let (header, body) = (format!("Bearer {token}"), json!({"id": id, "type": "WS"}).to_string());
        post(&node, CHANNELS, &[("authorization", &header)], &body).status
    };
    assert_eq!([create("room", &writer), create("room", &token(&["--publish", "/realtime/*"]))], [403, 200]);
}

#[test]
fn created_channels_are_on_all_nodes() {
    let redis = RedisServer::start();
    let [first, second] = nodes(&redis, &["--realtime-create"]);
    let create = |node: &Tallycast, body: &str| {
        let answer = post(node, CHANNELS, &[], body);
        (answer.status, serde_json::from_str::<Value>(&answer.body).unwrap())
    };
    let room = r#"{"id":"room","type":"WS","maxOfChannelConnections":2}"#;
    let created = (200, json!({"id": "room", "config": {"maxOfChannelConnections": 2}, "type": "WS"}));
    assert_eq!(refused(&second, "room", "ann").0, 404);
    assert_eq!(create(&first, room), created);
    assert_eq!(create(&second, room), created);
    let mut ann = Client::join(&second, "room", "ann");
    let bob = Client::join(&first, "room", "bob");
    ann.0.send("hello");
    bob.expect("ann", "hello");
    assert_eq!(refused(&first, "room", "cid").0, 422);
    let (status, default) = create(&second, r#"{"id":"feed","type":"SSE"}"#);
    assert_eq!((status, &default["config"]["maxOfChannelConnections"]), (200, &json!(100)));
    assert_eq!(ask(&first, &format!("{CHANNELS}/feed?clientId=ann&upgrade=0")), ok());
    for body in [
        "",
        r#"{"id":"x"}"#,
        r#"{"id":"x","type":"ws"}"#,
        r#"{"id":"a:b","type":"WS"}"#,
        r#"{"id":"x","type":"WS","maxOfChannelConnections":0}"#,
        r#"{"id":"room","type":"SSE"}"#,
        r#"{"id":"chat","type":"SSE"}"#,
    ] {
        let (status, answer) = create(&first, body);
        assert!(status == 400 && answer["message"].is_string(), "{body}: {status} {answer}");
    }
    let off = Tallycast::start(&redis, &FLAGS);
    assert_eq!(create(&off, room).0, 403);
    assert_eq!(refused(&off, "room", "cid").0, 404);
}

#[test]
fn clients_stay_while_redis_restarts() {
    let mut redis = RedisServer::start_durable();
    let [first, second] = nodes(&redis, &[]);
    let ann = Client::join(&first, "chat", "ann");
    let mut bob = Client::join(&second, "chat", "bob");
    redis.kill();
    let unavailable = || ask(&first, &format!("{CHANNELS}/chat?clientId=cid&upgrade=0")).0;
    assert_eq!(unavailable(), 503);
    bob.0.send("lost");
    // It must not believe that the others have its message.
    let closed = bob.next();
    assert_eq!((&closed[0], &closed[1]), (&json!("closed"), &json!(1013)), "{closed}");
    redis.run();
    for node in [&first, &second] {
        node.until_ready();
    }
    add(&redis, "chat", "zoe", "after");
    ann.expect("zoe", "after");
    eventually("the name is free", || ask(&first, &format!("{CHANNELS}/chat?clientId=bob&upgrade=0")) == ok());
    let mut bob = Client::join(&first, "chat", "bob");
    bob.0.send("back");
    ann.expect("bob", "back");
    assert_eq!(refused(&second, "chat", "ann").0, 409);
}

#[test]
fn connect_hook_names_clients_and_limits_stay() {
    let hook = Running::start(|listener, stopped| async move {
        let answer = async |body: String| {
            let question: Value = serde_json::from_str(&body).unwrap();
            let client = question["session"].as_str().unwrap().to_owned();
            json!({"session": client.replace(":me", ":ann")}).to_string()
        };
        let app = axum::Router::new().route("/", axum::routing::post(answer));
        axum::serve(listener, app).with_graceful_shutdown(stopped).await.unwrap();
    });
    let redis = RedisServer::start();
    let url = format!("http://{}/", hook.address);
    let flags = ["--connect-url", &url, "--realtime-channel", "pair,type=WS,max=2"];
    let node = Tallycast::start(&redis, &[&FLAGS[..], &flags].concat());
    let mut ann = WebSocket::open(&node, &path("pair", "me"));
    let mut bob = WebSocket::open(&node, &path("pair", "bob"));
    ann.send_text("hello");
    assert_eq!(bob.json()["clientId"], "ann");
    bob.send_text("hi");
    assert_eq!(ann.json()["clientId"], "bob");
    assert!(WebSocket::open_with(&node, &path("pair", "me"), &[]).is_err());
    assert!(WebSocket::open_with(&node, &path("pair", "cid"), &[]).is_err());
}

#[test]
fn nothing_is_served_or_kept_without_the_options() {
    let redis = RedisServer::start();
    let node = Tallycast::start(&redis, &[]);
    assert_eq!(node.get(&path("chat", "ann")).0, 404);
    assert_eq!(node.get("/web/chat").0, 404);
    assert_eq!(post(&node, CHANNELS, &[], r#"{"id":"x","type":"WS"}"#).status, 404);
    let channel = Tallycast::start(&redis, &FLAGS);
    assert_eq!(channel.get("/web/chat").0, 404);
    let pages = Tallycast::start(&redis, &[&FLAGS[..], &["--realtime-pages"]].concat());
    assert_eq!((pages.get("/web/chat").0, pages.get("/web/notifications").0), (200, 200));
}
