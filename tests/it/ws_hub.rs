//! The contract of ws-hub, with listeners and clients of other projects, on one node and on nodes that share a Redis server: PyPI's
//! `redis` listens, and PyPI's `websockets` and npm's `ws` are clients.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, sync_channel};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_websockets::Message;

use crate::support::{
    EventSource, LIMIT, NODE, PYTHON, Printer, Raw, RedisServer, Tallycast, WebSocket, command, eventually, get,
    upgrade,
};

fn start(redis: &RedisServer, flags: &[&str]) -> Tallycast {
    Tallycast::start(redis, &[&["--ws-hub"], flags].concat())
}

/// Starts a node that is known to the others by its name.
fn start_as(redis: &RedisServer, instance: &str) -> Tallycast {
    let mut serve = command();
    serve.args(["serve", "--ws-hub", "--instance", instance]).env("REDIS_URL", redis.url());
    let tallycast = Tallycast::spawn(serve);
    tallycast.until_ready();
    tallycast
}

fn client(tallycast: &Tallycast, key: &str) -> WebSocket {
    WebSocket::open(tallycast, &format!("/ws?session_key={key}"))
}

/// What is published for applications: channels, without the prefix, and payloads.
struct Published(Receiver<(String, String)>);

impl Published {
    /// Everything from here on.
    fn follow(redis: &RedisServer) -> Self {
        let mut connection = redis.connect();
        connection.set_read_timeout(None).unwrap();
        let (sender, messages) = sync_channel(4096);
        let (subscribed, is_subscribed) = sync_channel(1);
        std::thread::spawn(move || {
            let mut subscription = connection.as_pubsub();
            subscription.psubscribe(&["ws-hub:client-*"]).unwrap();
            subscribed.send(()).unwrap();
            while let Ok(message) = subscription.get_message() {
                let channel = message.get_channel_name().trim_start_matches("ws-hub:").to_owned();
                let payload: String = message.get_payload().unwrap();
                if sender.send((channel, payload)).is_err() {
                    return;
                }
            }
        });
        is_subscribed.recv_timeout(LIMIT).unwrap();
        Self(messages)
    }

    #[track_caller]
    fn expect(&self, channel: &str, payload: &str) {
        let next = self.0.recv_timeout(LIMIT).expect("nothing was published");
        assert_eq!(next, (channel.to_owned(), payload.to_owned()));
    }

    /// Waits for a message. Returns those before it.
    #[track_caller]
    fn until(&self, channel: &str, payload: &str) -> Vec<(String, String)> {
        let mut before = Vec::new();
        loop {
            let next = self.0.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no {channel} {payload} after {before:?}"));
            if next == (channel.to_owned(), payload.to_owned()) {
                return before;
            }
            before.push(next);
        }
    }
}

/// Puts a client of `node` into groups, and waits until all its connections there read them.
#[track_caller]
fn join(redis: &RedisServer, node: &Tallycast, key: &str, groups: &str) {
    redis.publish([(format!("ws-hub:groups-new:{key}"), groups)]);
    until_joined(node, key, groups);
}

#[track_caller]
fn until_joined(node: &Tallycast, key: &str, groups: &str) {
    let topics: Vec<String> =
        groups.split(',').filter(|group| !group.is_empty()).map(|group| format!("/ws-hub/groups/{group}")).collect();
    eventually(&format!("{key} reads {topics:?}"), || {
        let status = node.json("/admin/status.json");
        let all = status["connections"].as_array().unwrap();
        let mut ours = all.iter().filter(|connection| connection["subject"] == format!("ws-hub:{key}")).peekable();
        let reads = |connection: &Value| {
            topics.iter().all(|topic| connection["namespace"].as_str().unwrap().contains(topic.as_str()))
        };
        ours.peek().is_some() && ours.all(reads)
    });
}

fn clients(node: &Tallycast) -> BTreeMap<String, Vec<String>> {
    serde_json::from_value(node.json("/ws-hub/clients")).unwrap()
}

fn send(redis: &RedisServer, group: &str, text: &str) {
    redis.publish([(format!("ws-hub:group-data:{group}"), text)]);
}

/// The example of ws-hub: who connects is put into groups, and what it sends is sent to all.
#[test]
fn example_of_ws_hub_is_served_by_two_nodes() {
    let redis = RedisServer::start();
    let (one, other) = (start_as(&redis, "one"), start_as(&redis, "other"));
    let line = |parts: &[&str]| json!(parts).to_string();
    let parsed = |printer: &Printer| serde_json::from_str::<Value>(&printer.line()).unwrap().to_string();
    let listener = Printer::start(PYTHON, "ws_hub_listener.py", &[&redis.url(), "1,2,all,news", "all"]);
    assert_eq!(parsed(&listener), line(&["listening"]));
    let url = |node: &Tallycast, key: &str| format!("ws://{}/ws?session_key={key}", node.address);
    let npm = Printer::start(NODE, "ws_hub.mjs", &[&url(&other, "ann")]);
    assert_eq!(parsed(&npm), line(&["open"]));
    assert_eq!(parsed(&listener), line(&["client-new", "ann", "ann"]));
    // Its messages may be sent to the group before it is in it.
    assert_eq!(parsed(&listener), line(&["client-data", "ann", "hello"]));
    assert_eq!(parsed(&listener), line(&["client-data", "ann", "bytes"]));
    until_joined(&other, "ann", "1,2,all,news");
    assert_eq!(clients(&one)["ann"].len(), 4);
    let python = Printer::start(PYTHON, "ws_hub.py", &[&url(&one, "bob")]);
    assert_eq!(parsed(&python), line(&["open"]));
    assert_eq!(parsed(&listener), line(&["client-new", "bob", "bob"]));
    assert_eq!(parsed(&listener), line(&["client-data", "bob", "hello"]));
    let mut next = parsed(&npm);
    while next != line(&["text", "bob: hello"]) {
        assert!(next.contains("ann: "), "{next}");
        next = parsed(&npm);
    }
    until_joined(&one, "bob", "news");
    send(&redis, "news", "both");
    assert_eq!(parsed(&npm), line(&["text", "both"]));
    while parsed(&python) != line(&["text", "both"]) {}
    drop(npm);
    assert_eq!(parsed(&listener), line(&["client-gone", "ann", "ann"]));
}

#[test]
fn wscat_is_a_client() {
    let redis = RedisServer::start();
    let node = start(&redis, &[]);
    let listener = Printer::start(PYTHON, "ws_hub_listener.py", &[&redis.url(), "all", "all"]);
    let parsed = |printer: &Printer| serde_json::from_str::<Value>(&printer.line()).unwrap();
    assert_eq!(parsed(&listener), json!(["listening"]));
    let url = format!("ws://{}/ws?session_key=abc123", node.address);
    let mut wscat = Printer::start(NODE, "node_modules/.bin/wscat", &["--connect", &url]);
    assert_eq!(parsed(&listener), json!(["client-new", "abc123", "abc123"]));
    until_joined(&node, "abc123", "all");
    wscat.send("good day");
    assert_eq!(parsed(&listener), json!(["client-data", "abc123", "good day"]));
    // Its prompt stands before the first line.
    assert_eq!(wscat.line(), "> abc123: good day");
}

#[test]
fn groups_reach_a_client_at_any_node_and_are_only_added() {
    let redis = RedisServer::start();
    let (one, other) = (start_as(&redis, "one"), start_as(&redis, "other"));
    let published = Published::follow(&redis);
    let mut ann = client(&one, "ann");
    published.expect("client-new", "ann");
    join(&redis, &one, "ann", "1,2");
    join(&redis, &one, "ann", "news");
    let mut bob = client(&other, "b%20o+b%C3%A9");
    published.expect("client-new", "b o bé");
    join(&redis, &other, "b o bé", "news");
    for (group, text) in [("1", "a\nb"), ("3", "not for them"), ("2", ""), ("news", "{\"c\":  1}")] {
        send(&redis, group, text);
    }
    assert_eq!([ann.text(), ann.text(), ann.text()], ["a\nb", "", "{\"c\":  1}"]);
    assert_eq!(bob.text(), "{\"c\":  1}");
    ann.send_text("hello ");
    published.expect("client-data:ann", "hello ");
    bob.send(Message::binary("bytes"));
    published.expect("client-data:b o bé", "bytes");
    bob.send(Message::binary(vec![0xff]));
    assert_eq!(bob.closed().0, 1003);
    published.expect("client-gone", "b o bé");
    drop(ann);
    published.expect("client-gone", "ann");
}

#[test]
fn clients_need_a_key_and_other_paths_stay() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &[]);
    for path in ["/ws", "/ws?session_key=", "/ws?key=a", "/ws?session_key=a%0Ab"] {
        let mut raw = Raw::request(&tallycast, &upgrade(path));
        assert!(raw.head().starts_with("HTTP/1.1 400 "), "{path}");
    }
    assert_eq!(get(&tallycast, "/ws?session_key=a", &[]).status, 426);
    let mut native = WebSocket::open(&tallycast, "/ws/raw");
    redis.publish_scores(["1F602"]);
    assert_eq!(native.json()["data"], "1F602");
    let published = Published::follow(&redis);
    let moved = start(&redis, &["--ws-hub-path", "/hub/", "--ws-hub-key", "k", "--ws-hub-prefix", "ws-hub:client-"]);
    let _client = WebSocket::open(&moved, "/hub?k=ann");
    published.expect("client-client-new", "ann");
    let _native = WebSocket::open(&moved, "/ws");
}

/// The first fault: there, a second connection closes the first one, and belongs to no group.
#[test]
fn connections_of_one_key_are_one_client() {
    let redis = RedisServer::start();
    let (one, other) = (start_as(&redis, "one"), start_as(&redis, "other"));
    let published = Published::follow(&redis);
    let mut first = client(&one, "ann");
    join(&redis, &one, "ann", "1");
    let mut second = client(&other, "ann");
    let mut third = client(&one, "ann");
    send(&redis, "1", "a");
    assert_eq!([first.text(), second.text(), third.text()], ["a", "a", "a"]);
    third.send_text("from the third");
    drop(first);
    drop(second);
    eventually("the others are gone", || tallycast_connections(&one) == 1 && tallycast_connections(&other) == 0);
    join(&redis, &one, "ann", "2");
    send(&redis, "2", "b");
    assert_eq!(third.text(), "b");
    for _ in 0..3 {
        published.expect("client-new", "ann");
    }
    published.expect("client-data:ann", "from the third");
    drop(third);
    published.expect("client-gone", "ann");
}

fn tallycast_connections(tallycast: &Tallycast) -> u64 {
    tallycast.counter("/sessions/connections")
}

/// The second fault: there, one message that Redis does not take ends the process.
#[test]
fn message_is_lost_and_its_client_stays_while_redis_is_away() {
    let mut redis = RedisServer::start();
    let mut tallycast = start(&redis, &[]);
    let mut ann = client(&tallycast, "ann");
    join(&redis, &tallycast, "ann", "1");
    redis.kill();
    ann.send_text("lost");
    tallycast.until_counter("/ws_hub/lost", 1);
    redis.run();
    let published = Published::follow(&redis);
    eventually("the session is registered again", || clients_if_up(&tallycast).contains_key("ann"));
    ann.send_text("taken");
    assert_eq!(published.until("client-data:ann", "taken"), []);
    tallycast.until_ready();
    send(&redis, "1", "still here");
    assert_eq!(ann.text(), "still here");
    assert!(tallycast.is_running());
    // Redis had lost the session, and with it what is published at its end.
    drop(ann);
    published.expect("client-gone", "ann");
}

fn clients_if_up(node: &Tallycast) -> BTreeMap<String, Vec<String>> {
    let (status, body) = node.get("/ws-hub/clients");
    if status == 200 { serde_json::from_str(&body).unwrap() } else { BTreeMap::new() }
}

/// The third fault: there, the subscriptions end silently.
#[test]
fn groups_are_received_after_redis_has_ended_the_subscription() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &[]);
    let mut ann = client(&tallycast, "ann");
    join(&redis, &tallycast, "ann", "1");
    let patterns = || -> u32 { redis::cmd("PUBSUB").arg("NUMPAT").query(&mut redis.connect()).unwrap() };
    let before = patterns();
    let killed: u32 = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).query(&mut redis.connect()).unwrap();
    assert!(killed >= 2, "{killed}");
    tallycast.until_counter("/ws_hub/failures", 1);
    eventually("all patterns are subscribed to again", || patterns() == before);
    tallycast.until_ready();
    join(&redis, &tallycast, "ann", "2");
    send(&redis, "2", "b");
    assert_eq!(ann.text(), "b");
}

#[test]
fn client_is_announced_again_after_redis_and_the_listener_were_away() {
    let mut redis = RedisServer::start();
    let tallycast = start(&redis, &["--ws-hub-timeout", "0s"]);
    let mut ann = client(&tallycast, "ann");
    redis.kill();
    tallycast.until_counter("/ws_hub/failures", 1);
    redis.run();
    eventually("the session is registered again", || clients_if_up(&tallycast).contains_key("ann"));
    tallycast.until_ready();
    let mut bob = client(&tallycast, "bob");
    let listener = Printer::start(PYTHON, "ws_hub_listener.py", &[&redis.url(), "1", "1"]);
    assert_eq!(listener.line(), json!(["listening"]).to_string().replace(',', ", "));
    let mut announced = [listener.line(), listener.line()];
    announced.sort();
    assert!(announced[0].contains("\"ann\"") && announced[1].contains("\"bob\""), "{announced:?}");
    ["ann", "bob"].iter().for_each(|key| until_joined(&tallycast, key, "1"));
    send(&redis, "1", "a");
    assert_eq!([ann.text(), bob.text()], ["a", "a"]);
}

/// Whoever subscribes to all channels hears an announcement, and is no listener.
#[test]
fn client_is_announced_until_it_has_groups_although_a_monitor_hears_it() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--ws-hub-timeout", "0s"]);
    let mut connection = redis.connect();
    let mut monitor = connection.as_pubsub();
    monitor.psubscribe("*").unwrap();
    let published = Published::follow(&redis);
    let _ann = client(&tallycast, "ann");
    join(&redis, &tallycast, "ann", "1");
    let mut zoe = client(&tallycast, "zoe");
    redis.publish([("ws-hub:groups-new:zoe", "")]);
    assert_eq!(zoe.closed().0, 1008);
    let mut bob = client(&tallycast, "bob");
    let before = published.until("client-new", "bob");
    let expected = [("client-new", "ann"), ("client-new", "zoe"), ("client-gone", "zoe")];
    assert_eq!(before, expected.map(|(channel, key)| (channel.to_owned(), key.to_owned())));
    // Those with groups, and those refused, are not announced again.
    published.expect("client-new", "bob");
    let listener = Printer::start(PYTHON, "ws_hub_listener.py", &[&redis.url(), "1", "1"]);
    let parsed = |printer: &Printer| serde_json::from_str::<Value>(&printer.line()).unwrap();
    assert_eq!(parsed(&listener), json!(["listening"]));
    assert_eq!(parsed(&listener), json!(["client-new", "bob", "bob"]));
    until_joined(&tallycast, "bob", "1");
    send(&redis, "1", "a");
    assert_eq!(bob.text(), "a");
    // It was the last time.
    let _eve = client(&tallycast, "eve");
    assert_eq!(parsed(&listener), json!(["client-new", "eve", "eve"]));
}

/// The fourth fault: there, a client waits for ever if no listener answers.
#[test]
fn client_without_groups_is_closed_in_time() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--ws-hub-timeout", "1s"]);
    let published = Published::follow(&redis);
    let mut ann = client(&tallycast, "ann");
    join(&redis, &tallycast, "ann", "1");
    let mut bob = client(&tallycast, "bob");
    assert_eq!(bob.closed(), (1008, "no listener answered".to_owned()));
    published.until("client-gone", "bob");
    assert_eq!(tallycast.counter("/ws_hub/unanswered"), 1);
    // Ann has waited for longer.
    send(&redis, "1", "a");
    assert_eq!(ann.text(), "a");
}

/// The fifth fault: there, one client that does not read stalls all others.
#[test]
fn slow_client_does_not_stall_others() {
    const MESSAGES: usize = 3000;
    let redis = RedisServer::start();
    let flags = ["--log-bytes", "1MiB", "--send-buffer", "16KiB"];
    let tallycast = start(&redis, &flags);
    let published = Published::follow(&redis);
    let mut slow = Raw::connect_with_small_buffer(&tallycast);
    slow.send(&upgrade("/ws?session_key=slow"));
    slow.head();
    join(&redis, &tallycast, "slow", "1");
    let mut ann = client(&tallycast, "ann");
    join(&redis, &tallycast, "ann", "1");
    let filler = "x".repeat(16 * 1024);
    for number in 0..MESSAGES {
        send(&redis, "1", &format!("{number} {filler}"));
        assert!(ann.text().starts_with(&format!("{number} ")), "a message is missing");
    }
    tallycast.until_counter("/hub/slow_disconnected", 1);
    published.until("client-gone", "slow");
    ann.send_text("hello");
    published.until("client-data:ann", "hello");
}

/// The sixth fault: there, a refused client stays connected, and what it sends is published.
#[test]
fn refused_client_is_closed_and_nothing_of_it_is_published() {
    let redis = RedisServer::start();
    let (one, other) = (start_as(&redis, "one"), start_as(&redis, "other"));
    let published = Published::follow(&redis);
    let (mut first, mut second) = (client(&one, "ann"), client(&other, "ann"));
    join(&redis, &one, "ann", "1");
    join(&redis, &other, "ann", "1");
    first.send_text("before");
    published.until("client-data:ann", "before");
    redis.publish([("ws-hub:groups-new:ann", "")]);
    let refused = (1008, "refused by the application".to_owned());
    assert_eq!((first.closed(), second.closed()), (refused.clone(), refused));
    published.expect("client-gone", "ann");
    assert!(!clients(&one).contains_key("ann"));
    let refused = || one.counter("/ws_hub/refused") + other.counter("/ws_hub/refused");
    eventually("one node has ended the session", || refused() == 1);
    // Its groups are not those of a client that comes later.
    let mut again = client(&one, "ann");
    published.expect("client-new", "ann");
    assert_eq!(clients(&one)["ann"], [""; 0]);
    for number in ["1", "2", "3"] {
        again.send_text(number);
        published.expect("client-data:ann", number);
    }
    redis.publish([("ws-hub:groups-new:ann", "")]);
    assert_eq!(again.closed().0, 1008);
    published.expect("client-gone", "ann");
    let mut bob = client(&one, "bob");
    bob.send_text("last");
    published.expect("client-new", "bob");
    published.expect("client-data:bob", "last");
}

#[test]
fn client_moves_when_its_node_is_killed_and_another_one_is_gone() {
    let redis = RedisServer::start();
    let (one, other) = (start_as(&redis, "one"), start_as(&redis, "other"));
    let listener = Printer::start(PYTHON, "ws_hub_listener.py", &[&redis.url(), "1", "2"]);
    let next = || serde_json::from_str::<Value>(&listener.line()).unwrap();
    assert_eq!(next(), json!(["listening"]));
    let published = Published::follow(&redis);
    let url = |node: &Tallycast| format!("ws://{}/ws?session_key=ann", node.address);
    let ann = Printer::start(PYTHON, "ws_hub.py", &[&url(&one), &url(&other)]);
    let ann_next = || serde_json::from_str::<Value>(&ann.line()).unwrap();
    assert_eq!(ann_next(), json!(["open"]));
    published.until("client-data:ann", "hello");
    let _bob = client(&one, "bob");
    published.expect("client-new", "bob");
    ["ann", "bob"].iter().for_each(|key| until_joined(&one, key, "1"));
    one.signal(Signal::KILL);
    assert_eq!(ann_next()[0], "closed");
    assert_eq!(ann_next(), json!(["open"]));
    published.expect("client-new", "ann");
    published.expect("client-data:ann", "hello");
    send(&redis, "1", "moved");
    assert_eq!(ann_next(), json!(["text", "moved"]));
    // Bob is gone once, after the lease of the node, and Ann is not.
    published.expect("client-gone", "bob");
    eventually("only ann is there", || clients(&other).keys().collect::<Vec<_>>() == ["ann"]);
    drop(ann);
    published.expect("client-gone", "ann");
}

#[test]
fn groups_outlive_connections_for_a_time_if_they_are_to() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--ws-hub-ttl", "10m"]);
    let published = Published::follow(&redis);
    drop({
        let ann = client(&tallycast, "ann");
        join(&redis, &tallycast, "ann", "1");
        ann
    });
    published.until("client-gone", "ann");
    assert_eq!(tallycast.get("/ws-hub/status"), (200, "0".to_owned()));
    let mut ann = client(&tallycast, "ann");
    published.expect("client-new", "ann");
    send(&redis, "1", "a");
    assert_eq!(ann.text(), "a");
}

#[test]
fn pages_show_the_clients_of_all_nodes_to_operators() {
    let redis = RedisServer::start();
    let one = start(&redis, &["--admin-token", "secret", "--publish-key", "0123456789abcdef"]);
    let flags = ["--ws-hub-pages", "/", "--sessions", "--publish-key", "0123456789abcdef"];
    let other = start(&redis, &flags);
    let published = Published::follow(&redis);
    let (_ann, _bob) = (client(&one, "ann"), client(&other, "bob"));
    let _native = WebSocket::open(&other, "/session/zoe");
    redis.publish([("ws-hub:groups-new:ann", "g1,g2"), ("ws-hub:groups-new:bob", "g1")]);
    published.until("client-new", "bob");
    let pages = ["status", "clients", "groups", "sessions"];
    eventually("both are in their groups", || {
        pages.map(|page| other.get(&format!("/{page}")).1)
            == ["2", r#"{"ann":["g1","g2"],"bob":["g1"]}"#, r#"{"g1":["ann","bob"],"g2":["ann"]}"#, r#"["ann","bob"]"#]
    });
    for page in pages {
        let path = format!("/ws-hub/{page}");
        assert_eq!(get(&one, &path, &[]).status, 401, "{page}");
        let answer = get(&one, &path, &[("authorization", "Bearer secret")]);
        assert_eq!((answer.status, answer.body), (200, get(&other, &format!("/{page}"), &[]).body));
        assert_eq!(answer.headers.get("access-control-allow-origin"), None);
    }
    let key = [("authorization", "Bearer 0123456789abcdef")];
    let listed: Value = serde_json::from_slice(&get(&one, "/sessions", &key).body).unwrap();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 3);
    assert_eq!(get(&other, "/sessions/ws-hub:bob", &key).status, 200);
    // Without --sessions there are no native streams.
    assert_eq!(get(&one, "/session/ann", &[]).status, 404);
    let closed = start(&redis, &["--no-admin"]);
    assert_eq!(closed.get("/ws-hub/clients").0, 404);
}

#[test]
fn messages_of_groups_are_for_their_members() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--route", "public=/public"]);
    let mut ann = client(&tallycast, "ann");
    join(&redis, &tallycast, "ann", "1");
    let mut bob = client(&tallycast, "bob");
    let reader = EventSource::open(&tallycast, "/subscribe?topic=/ws-hub/groups/1&topic=/public");
    // Not groups: they would be wildcards, or several segments.
    for groups in ["*", "**", "1/2", "a\nb"] {
        redis.publish([("ws-hub:groups-new:bob", groups)]);
    }
    tallycast.until_counter("/ws_hub/rejected", 4);
    let many: Vec<String> = (0..65).map(|number| number.to_string()).collect();
    redis.publish([("ws-hub:groups-new:bob", many.join(","))]);
    tallycast.until_counter("/ws_hub/rejected", 5);
    assert_eq!(clients(&tallycast)["bob"], [""; 0]);
    let rejected = tallycast.counter("/decode/rejected");
    redis.publish([
        ("ws-hub:group-data:1", &b"\xff"[..]),
        ("ws-hub:group-data:a/b", b"x"),
        ("ws-hub:group-data:", b"x"),
    ]);
    tallycast.until_counter("/decode/rejected", rejected + 3);
    join(&redis, &tallycast, "bob", "2,");
    send(&redis, "1", "secret");
    redis.publish([("public", "open")]);
    send(&redis, "2", "b");
    assert_eq!((ann.text(), bob.text()), ("secret".to_owned(), "b".to_owned()));
    assert_eq!(reader.next().data, "open");
}

#[test]
fn backend_and_connect_hook_decide_about_clients_too() {
    let redis = RedisServer::start();
    let hook = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", hook.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in hook.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            // A request has the headers, and then the body of the length that they name.
            let head: Vec<String> =
                stream.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            let length =
                head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut question = vec![0; length.unwrap_or(0)];
            stream.read_exact(&mut question).unwrap();
            let answer = if String::from_utf8_lossy(&question).contains("\"ann\"") {
                r#"{"session": "user-7", "topics": ["/ws-hub/groups/1"], "read": ["/news"]}"#
            } else {
                "{}"
            };
            let length = answer.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}");
            write!(stream.get_mut(), "{head}\r\nconnection: close\r\n\r\n{answer}").unwrap();
        }
    });
    let key = "0123456789abcdef";
    let tallycast = start(&redis, &["--connect-url", &url, "--ws-hub-timeout", "0s", "--publish-key", key]);
    let published = Published::follow(&redis);
    let mut ann = client(&tallycast, "ann");
    published.expect("client-new", "user-7");
    send(&redis, "1", "a");
    assert_eq!(ann.text(), "a");
    ann.send_text("hello");
    published.expect("client-data:user-7", "hello");
    drop(ann);
    published.expect("client-gone", "user-7");
    // The hook has created the session; its time is that of the contract.
    let bob = client(&tallycast, "bob");
    published.expect("client-new", "bob");
    drop(bob);
    published.expect("client-gone", "bob");
    eventually("the session of bob has ended with it", || {
        get(&tallycast, "/sessions/ws-hub:bob", &[("authorization", &format!("Bearer {key}"))]).status == 404
    });
}

#[test]
fn many_clients_at_once_are_all_put_into_groups() {
    const CLIENTS: usize = 300;
    let redis = RedisServer::start();
    let tallycast = start(&redis, &[]);
    let listener = Printer::start(PYTHON, "ws_hub_listener.py", &[&redis.url(), "1", "1"]);
    listener.line();
    let mut all: Vec<WebSocket> = (0..CLIENTS)
        .map(|number| {
            let socket = client(&tallycast, &format!("client-{number}"));
            // So that its pipe does not fill.
            listener.line();
            socket
        })
        .collect();
    tallycast.until_counter("/sessions/applied", CLIENTS as u64);
    send(&redis, "1", "a");
    assert!(all.iter_mut().all(|client| client.text() == "a"));
}
