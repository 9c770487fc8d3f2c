//! WebSocket on the streams' paths, read by a client that is not ours and by a browser.

use std::collections::HashMap;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_websockets::Message;

use crate::snapshot::update;
use crate::support::{Browser, Certificate, Raw, RedisServer, Tallycast, WebSocket, eventually, get, upgrade};

fn raw_message(id: &str) -> Value {
    json!({"namespace": "/raw", "event": null, "data": id})
}

#[test]
fn messages_are_json_with_namespace_event_and_data() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut all = WebSocket::open(&tallycast, "/ws");
    assert_eq!(all.response.status(), 101);
    let mut alike = WebSocket::open(&tallycast, "/subscribe/details/26");
    redis.publish([("stream.tweet_updates.26", "a \"quoted\"\nline 😂")]);
    let expected = json!({
        "namespace": "/details/26", "event": "stream.tweet_updates.26", "data": "a \"quoted\"\nline 😂"
    });
    assert_eq!(all.json(), expected);
    assert_eq!(alike.json(), expected);
    redis.publish_scores(["1F602"]);
    let mut messages = [all.json(), all.json()];
    messages.sort_by_key(|message| message["namespace"].to_string());
    assert_eq!(messages, [json!({"namespace": "/eps", "event": null, "data": "{\"1F602\":1}"}), raw_message("1F602")]);
}

#[test]
fn the_subprotocol_raw_is_the_payload_alone() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut raw = WebSocket::open_raw(&tallycast, "/subscribe/raw,eps?topic=/none");
    assert_eq!(raw.response.headers()["sec-websocket-protocol"], "raw");
    redis.publish_scores(["1F602"]);
    let mut texts = [raw.text(), raw.text()];
    texts.sort();
    assert_eq!(texts, ["1F602", "{\"1F602\":1}"]);
    // Where there is no room to say what was wrong, the connection ends.
    raw.say("hello");
    let (code, reason) = raw.closed();
    assert_eq!(code, 1008);
    assert!(reason.starts_with(r#"expected {"subscribe": ["/topic", ...]}"#), "{reason}");
}

#[test]
fn a_client_chooses_its_topics_while_it_reads() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut client = WebSocket::open(&tallycast, "/ws/raw");
    redis.publish_scores(["1F602"]);
    assert_eq!(client.json(), raw_message("1F602"));
    client.say(r#"{"subscribe": ["/details/*"], "unsubscribe": ["/raw"]}"#);
    assert_eq!(client.json(), json!({"subscribed": ["/details/*"]}));
    redis.publish_scores(["2764"]);
    redis.publish([("stream.tweet_updates.26", "{}")]);
    assert_eq!(client.json()["namespace"], "/details/26");
    // Without a wait, and the last one asks for what there is.
    client.say(r#"{"subscribe": ["/raw"]}"#);
    client.say(r#"{"unsubscribe": ["/details/*"]}"#);
    client.say(r#"{"subscribe": ["/raw"]}"#);
    for expected in [json!(["/details/*", "/raw"]), json!(["/raw"]), json!(["/raw"])] {
        assert_eq!(client.json(), json!({ "subscribed": expected }));
    }
    assert_eq!(tallycast.json("/admin/status.json")["connections"][0]["namespace"], "/raw");
    redis.publish_scores(["2764"]);
    assert_eq!(client.json(), raw_message("2764"));
    client.say(r#"{"unsubscribe": ["/raw"]}"#);
    assert_eq!(client.json(), json!({"subscribed": []}));
    redis.publish_scores(["2764"]);
    client.say(r#"{"subscribe": ["/eps"]}"#);
    assert_eq!(client.json(), json!({"subscribed": ["/eps"]}));
}

#[test]
fn what_is_not_understood_is_refused_politely() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--namespace-limit", "/details=1"]);
    let _other = WebSocket::open(&tallycast, "/ws/details/26");
    let mut client = WebSocket::open(&tallycast, "/ws/raw");
    for (said, expected) in [
        ("hello", r#"expected {"subscribe": ["/topic", ...]} or {"unsubscribe": ["/topic", ...]}: expected value"#),
        (r#"{"publish": "x"}"#, "unknown field `publish`"),
        (r#"{"subscribe": ["/a", "b"]}"#, "bad topic \"b\": a namespace starts with '/'"),
        (r#"{"unsubscribe": ["/a"]}"#, "not subscribed to /a; subscribed to [/raw]"),
        (r#"{"subscribe": ["/details/27"]}"#, "too many streams of /details"),
    ] {
        client.say(said);
        let answer = client.json();
        assert!(answer["error"].as_str().unwrap().contains(expected), "{answer}");
    }
    client.send(Message::binary(&b"\x00"[..]));
    assert_eq!(client.json(), json!({"error": "expected a message of text, found bytes"}));
    redis.publish_scores(["1F602"]);
    assert_eq!(client.json(), raw_message("1F602"));
    assert_eq!(tallycast.counter("/websocket/refused_messages"), 6);
    assert_eq!(get(&tallycast, "/subscribe/details/27", &[]).status, 503);
}

#[test]
fn a_namespace_given_up_has_room_for_others() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--namespace-limit", "/details=1"]);
    let mut first = WebSocket::open(&tallycast, "/ws/details/26");
    first.say(r#"{"subscribe": ["/details/27"]}"#);
    assert_eq!(first.json(), json!({"subscribed": ["/details/26", "/details/27"]}));
    first.say(r#"{"subscribe": ["/raw"], "unsubscribe": ["/details/26", "/details/27"]}"#);
    assert_eq!(first.json(), json!({"subscribed": ["/raw"]}));
    let second = WebSocket::open(&tallycast, "/ws/details/26");
    drop(second);
    eventually("a connection that has ended holds no place", || {
        first.say(r#"{"subscribe": ["/details/26"]}"#);
        first.json()["error"].is_null()
    });
}

#[test]
fn a_snapshot_comes_first_and_changes_follow() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    update(&mut redis.connect(), &["1F602", "1F602"]).unwrap();
    let mut client = WebSocket::open(&tallycast, "/ws/eps?snapshot=1");
    let first = client.json();
    assert_eq!(first["event"], "snapshot");
    update(&mut redis.connect(), &["2764"]).unwrap();
    let mut sums: HashMap<String, i64> = serde_json::from_str(first["data"].as_str().unwrap()).unwrap();
    while sums.get("2764") != Some(&1) || sums.get("1F602") != Some(&2) {
        let change: HashMap<String, i64> = serde_json::from_str(client.json()["data"].as_str().unwrap()).unwrap();
        change.into_iter().for_each(|(key, count)| *sums.entry(key).or_default() += count);
    }
}

#[test]
fn a_shutdown_is_told_with_its_code() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut clients = [WebSocket::open(&tallycast, "/ws/raw"), WebSocket::open_raw(&tallycast, "/ws/raw")];
    redis.publish_scores(["1F602"]);
    tallycast.until_counter("/hub/delivered", 2);
    tallycast.signal(Signal::TERM);
    assert_eq!((clients[0].json(), clients[1].text()), (raw_message("1F602"), "1F602".to_owned()));
    for client in &mut clients {
        assert_eq!(client.closed(), (1001, "the server is shutting down".to_owned()));
    }
    assert!(tallycast.wait().status.success());
}

#[test]
fn a_client_closes_and_is_forgotten() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut client = WebSocket::open(&tallycast, "/ws/raw");
    let gone = WebSocket::open(&tallycast, "/ws/raw");
    assert_eq!(tallycast.counter("/hub/connections"), 2);
    client.send(Message::close(None, ""));
    drop(gone);
    eventually("both are gone", || tallycast.counter("/hub/connections") == 0 && tallycast.counter("/hub/feeds") == 0);
    assert_eq!((tallycast.counter("/websocket/opened"), tallycast.counter("/websocket/failed")), (2, 0));
}

#[test]
fn who_says_too_much_is_disconnected_with_the_reason() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--message-rate", "3", "--max-message-bytes", "100"]);
    let mut loud = WebSocket::open(&tallycast, "/ws/raw");
    // By far more than three in whatever time it takes.
    let said = (0..1000).map_while(|_| {
        loud.send(Message::pong(&b""[..]));
        (tallycast.counter("/websocket/over_rate") == 0).then_some(())
    });
    assert!(said.count() < 1000);
    assert_eq!(loud.closed(), (1008, "too many messages".to_owned()));
    let mut large = WebSocket::open(&tallycast, "/ws/raw");
    large.say(&"x".repeat(101));
    assert_eq!(large.closed(), (1009, "the message is larger than allowed here".to_owned()));
    assert_eq!(tallycast.counter("/websocket/failed"), 1);
}

#[test]
fn who_does_not_answer_a_ping_is_disconnected() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--keep-alive", "100ms", "--pong-limit", "3s"]);
    let mut mute = Raw::request(&tallycast, &upgrade("/ws/never"));
    assert!(mute.head().starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
    // One that answers stays, for longer than the limit.
    let mut polite = WebSocket::open(&tallycast, "/ws/never");
    for _ in 0..6 {
        assert!(polite.next().is_ping());
    }
    // Pings, then a close frame with 1008.
    let mut read = mute.read_exactly(2);
    while read == [0x89, 0] {
        read = mute.read_exactly(2);
    }
    assert_eq!((read, mute.read_exactly(2)), (vec![0x88, 22], vec![0x03, 0xf0]));
    mute.expect("no pong came in time");
    assert_eq!(tallycast.counter("/hub/unanswered"), 1);
}

#[test]
fn who_falls_behind_is_told_to_try_later() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--log-bytes", "65536"]);
    let mut told = b"\x88\x29\x03\xf5".to_vec();
    told.extend_from_slice(b"too slow; connect again to start afresh");
    // It has two seconds to read that, which may pass on a busy machine.
    eventually("one of them reads why", || {
        let before = tallycast.counter("/hub/slow_disconnected");
        let mut slow = Raw::connect_with_small_buffer(&tallycast);
        slow.send(&upgrade("/ws/details/1"));
        slow.head();
        while tallycast.counter("/hub/slow_disconnected") == before {
            redis.publish([("stream.tweet_updates.1", "x".repeat(60_000))]);
        }
        slow.bytes_while_open().ends_with(&told)
    });
}

#[test]
fn what_comes_with_the_request_is_heard() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    // A ping with a mask of zeros and without a payload.
    let mut eager = Raw::connect(&tallycast);
    eager.send_bytes(&[upgrade("/ws/raw").as_bytes(), &[0x89, 0x80, 0, 0, 0, 0]].concat());
    let head = eager.head();
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    assert_eq!(eager.read_exactly(2), [0x8a, 0]);
}

#[test]
fn requests_that_are_no_handshakes_are_told_so() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let plain = get(&tallycast, "/ws/raw", &[]);
    assert_eq!(
        (plain.status, plain.header("upgrade"), plain.header("sec-websocket-version")),
        (426, "websocket", "13")
    );
    let ask = |replaced: &str, with: &str| {
        let mut raw = Raw::request(&tallycast, &upgrade("/subscribe/raw").replace(replaced, with));
        raw.head()
    };
    let version = ask("sec-websocket-version: 13", "sec-websocket-version: 8");
    assert!(version.starts_with("HTTP/1.1 426 ") && version.contains("sec-websocket-version: 13\r\n"), "{version}");
    assert!(ask("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==").starts_with("HTTP/1.1 400 "));
    assert!(ask("GET", "POST").starts_with("HTTP/1.1 405 "));
    assert!(ask("/raw", "/a//b").starts_with("HTTP/1.1 400 "));
    // Whoever does not ask for a WebSocket gets an event stream.
    assert!(ask("upgrade: websocket", "upgrade: h2c").starts_with("HTTP/1.1 200 "));
    assert!(ask("Upgrade", "keep-alive").starts_with("HTTP/1.1 200 "));
}

#[test]
fn only_pages_of_allowed_origins_may_read() {
    let redis = RedisServer::start();
    let tallycast =
        Tallycast::start(&redis, &["--allowed-origin", "https://a.example", "--allowed-origin", "http://b"]);
    let open = |origin: &str| WebSocket::open_with(&tallycast, "/ws/raw", &[("origin", origin)]);
    let own = format!("http://{}", tallycast.address);
    assert!(open("https://a.example").is_ok() && open("http://b").is_ok() && open(&own).is_ok());
    assert!(WebSocket::open_with(&tallycast, "/ws/raw", &[]).is_ok());
    assert!(open("https://b").is_err() && open("null").is_err());
    assert_eq!(tallycast.counter("/websocket/refused_origin"), 2);
    let allowed = |path, origin| {
        let answer = get(&tallycast, path, &[("origin", origin)]);
        let varies = answer.headers.get_all("vary").iter().any(|value| value == "origin");
        (answer.header("access-control-allow-origin").to_owned(), varies)
    };
    for path in ["/subscribe/%", "/v1/status", "/nowhere"] {
        assert_eq!(allowed(path, "http://b"), ("http://b".to_owned(), true), "{path}");
        assert_eq!(allowed(path, "http://c"), (String::new(), true), "{path}");
    }
    let mut stream = Raw::request(&tallycast, "GET /subscribe/raw HTTP/1.1\r\nhost: x\r\norigin: http://b\r\n\r\n");
    let head = stream.head();
    assert!(head.contains("access-control-allow-origin: http://b\r\n") && head.contains("vary: origin\r\n"), "{head}");
}

#[test]
fn over_tls_it_is_the_same_and_counts_as_long_as_it_is_open() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let (file, key) = (certificate.certificate(), certificate.key());
    let tls = ["--tls-cert", &file, "--tls-key", &key, "--max-per-address", "1"];
    let tallycast = Tallycast::start_unready(&redis.url(), &tls);
    tallycast.wait_for_log("subscribed url");
    let open = |path| WebSocket::open_tls(&tallycast, path, &certificate);
    let mut client = open("/ws/details").unwrap();
    assert!(open("/ws/raw").is_err());
    client.say(r#"{"subscribe": ["/raw"], "unsubscribe": ["/details"]}"#);
    assert_eq!(client.json(), json!({"subscribed": ["/raw"]}));
    // More than a TLS record, a socket or a pipe within the process holds at once.
    let large: Vec<String> = (0..64).map(|number| number.to_string().repeat(30_000)).collect();
    client.say(r#"{"subscribe": ["/details/1"]}"#);
    assert_eq!(client.json(), json!({"subscribed": ["/details/1", "/raw"]}));
    redis.publish(large.iter().map(|payload| ("stream.tweet_updates.1", payload.as_str())));
    for payload in &large {
        assert_eq!(client.json()["data"], *payload);
    }
    client.send(Message::close(None, ""));
    assert!(client.next().is_close());
    drop(client);
    eventually("there is room again", || open("/ws/raw").is_ok());
    let mut last = None;
    eventually("and again", || {
        last = open("/ws/raw").ok();
        last.is_some()
    });
    tallycast.signal(Signal::TERM);
    assert_eq!(last.unwrap().closed().0, 1001);
}

#[test]
fn a_browser_reads_it_plain_and_over_tls() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tls = ["--tls-cert", &certificate.certificate(), "--tls-key", &certificate.key()];
    let secure = Tallycast::start_unready(&redis.url(), &tls);
    secure.wait_for_log("subscribed url");
    let plain = Tallycast::start(&redis, &[]);
    for (scheme, tallycast) in [("https", secure), ("http", plain)] {
        let browser = Browser::start();
        browser.open_url(&format!("{scheme}://localhost:{}/v1/status", tallycast.address.port()));
        browser.eval(
            "(window.heard = [], window.ended = null, window.socket = new WebSocket('/ws/raw'), \
                socket.onmessage = message => heard.push(JSON.parse(message.data)), \
                socket.onclose = close => { ended = [close.code, close.reason, close.wasClean] }, 0)",
        );
        browser.until("socket.readyState", 1);
        browser.eval("socket.send('{\"subscribe\": [\"/details\"]}')");
        browser.until("heard[0]?.subscribed?.join()", "/details,/raw");
        redis.publish_scores(["1F602"]);
        browser.until("heard[1]?.data", "1F602");
        tallycast.terminate();
        browser.until("ended", json!([1001, "the server is shutting down", true]));
        assert_eq!(browser.complaints(), [""; 0]);
    }
}
