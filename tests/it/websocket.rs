//! WebSocket on the stream paths, read by a third-party client and by Chromium.

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
    let mut same = WebSocket::open(&tallycast, "/subscribe/details/26");
    redis.publish([("stream.tweet_updates.26", "a \"quoted\"\nline 😂")]);
    let expected = json!({
        "namespace": "/details/26", "event": "stream.tweet_updates.26", "data": "a \"quoted\"\nline 😂"
    });
    assert_eq!(all.json(), expected);
    assert_eq!(same.json(), expected);
    redis.publish_scores(["1F602"]);
    let mut messages = [all.json(), all.json()];
    messages.sort_by_key(|message| message["namespace"].to_string());
    assert_eq!(messages, [json!({"namespace": "/eps", "event": null, "data": "{\"1F602\":1}"}), raw_message("1F602")]);
}

#[test]
fn raw_subprotocol_sends_payload_only() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut raw = WebSocket::open_raw(&tallycast, "/subscribe/raw,eps?topic=/none");
    assert_eq!(raw.response.headers()["sec-websocket-protocol"], "raw");
    redis.publish_scores(["1F602"]);
    let mut texts = [raw.text(), raw.text()];
    texts.sort();
    assert_eq!(texts, ["1F602", "{\"1F602\":1}"]);
    // This subprotocol has no error messages, so the connection is closed.
    raw.send_text("hello");
    let (code, reason) = raw.closed();
    assert_eq!(code, 1008);
    assert!(reason.starts_with(r#"expected {"subscribe": ["/topic", ...]}"#), "{reason}");
}

#[test]
fn client_changes_topics_while_connected() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut client = WebSocket::open(&tallycast, "/ws/raw");
    redis.publish_scores(["1F602"]);
    assert_eq!(client.json(), raw_message("1F602"));
    client.send_text(r#"{"subscribe": ["/details/*"], "unsubscribe": ["/raw"]}"#);
    assert_eq!(client.json(), json!({"subscribed": ["/details/*"]}));
    redis.publish_scores(["2764"]);
    redis.publish([("stream.tweet_updates.26", "{}")]);
    assert_eq!(client.json()["namespace"], "/details/26");
    // Several commands at once; the last one changes nothing.
    client.send_text(r#"{"subscribe": ["/raw"]}"#);
    client.send_text(r#"{"unsubscribe": ["/details/*"]}"#);
    client.send_text(r#"{"subscribe": ["/raw"]}"#);
    for expected in [json!(["/details/*", "/raw"]), json!(["/raw"]), json!(["/raw"])] {
        assert_eq!(client.json(), json!({ "subscribed": expected }));
    }
    assert_eq!(tallycast.json("/admin/status.json")["connections"][0]["namespace"], "/raw");
    redis.publish_scores(["2764"]);
    assert_eq!(client.json(), raw_message("2764"));
    client.send_text(r#"{"unsubscribe": ["/raw"]}"#);
    assert_eq!(client.json(), json!({"subscribed": []}));
    redis.publish_scores(["2764"]);
    client.send_text(r#"{"subscribe": ["/eps"]}"#);
    assert_eq!(client.json(), json!({"subscribed": ["/eps"]}));
}

#[test]
fn invalid_commands_are_answered_with_an_error() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--namespace-limit", "/details=1"]);
    let _other = WebSocket::open(&tallycast, "/ws/details/26");
    let mut client = WebSocket::open(&tallycast, "/ws/raw");
    for (command, expected) in [
        ("hello", r#"expected {"subscribe": ["/topic", ...]} or {"unsubscribe": ["/topic", ...]}: expected value"#),
        (r#"{"publish": "x"}"#, "unknown field `publish`"),
        (r#"{"subscribe": ["/a", "b"]}"#, "bad topic \"b\": a namespace must start with '/'"),
        (r#"{"unsubscribe": ["/a"]}"#, "not subscribed to /a; subscribed to [/raw]"),
        (r#"{"subscribe": ["/details/27"]}"#, "too many streams of /details"),
    ] {
        client.send_text(command);
        let answer = client.json();
        assert!(answer["error"].as_str().unwrap().contains(expected), "{answer}");
    }
    client.send(Message::binary(&b"\x00"[..]));
    assert_eq!(client.json(), json!({"error": "expected a text message, found a binary one"}));
    redis.publish_scores(["1F602"]);
    assert_eq!(client.json(), raw_message("1F602"));
    assert_eq!(tallycast.counter("/websocket/refused_messages"), 6);
    assert_eq!(get(&tallycast, "/subscribe/details/27", &[]).status, 503);
}

#[test]
fn answers_repeat_the_id_of_their_command() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--namespace-limit", "/details=1"]);
    let _other = WebSocket::open(&tallycast, "/ws/details/26");
    let mut client = WebSocket::open(&tallycast, "/ws/raw");
    // All at once, and with the id in any place.
    for command in [
        r#"{"id": 1, "subscribe": ["/eps"]}"#,
        r#"{"subscribe": ["/eps"], "id": "no change"}"#,
        r#"{"unsubscribe": ["/eps"]}"#,
        r#"{"subscribe": ["b", "/c"], "id": -2.50}"#,
        r#"{"subscribe": ["/details/27"], "id": "full"}"#,
        r#"{"id": {"a": 1}, "subscribe": ["/eps"]}"#,
        r#"{"id": "unknown", "publish": 1}"#,
        r#"{"id": "not JSON", "subscribe": ["/eps"}"#,
    ] {
        client.send_text(command);
    }
    assert_eq!(client.text(), r#"{"subscribed":["/eps","/raw"],"id":1}"#);
    assert_eq!(client.text(), r#"{"subscribed":["/eps","/raw"],"id":"no change"}"#);
    assert_eq!(client.text(), r#"{"subscribed":["/raw"]}"#);
    assert_eq!(client.text(), r#"{"error":"bad topic \"b\": a namespace must start with '/'","id":-2.50}"#);
    for (id, expected) in [
        (json!("full"), "too many streams of /details"),
        (json!(null), "expected an id that is a string or a number, of at most 64 bytes as JSON"),
        (json!("unknown"), "unknown field `publish`"),
        (json!(null), "expected"),
    ] {
        let answer = client.json();
        assert!(answer["id"] == id && answer["error"].as_str().unwrap().contains(expected), "{answer}");
    }
}

#[test]
fn unsubscribing_releases_the_namespace_limit() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--namespace-limit", "/details=1"]);
    let mut first = WebSocket::open(&tallycast, "/ws/details/26");
    first.send_text(r#"{"subscribe": ["/details/27"]}"#);
    assert_eq!(first.json(), json!({"subscribed": ["/details/26", "/details/27"]}));
    first.send_text(r#"{"subscribe": ["/raw"], "unsubscribe": ["/details/26", "/details/27"]}"#);
    assert_eq!(first.json(), json!({"subscribed": ["/raw"]}));
    let second = WebSocket::open(&tallycast, "/ws/details/26");
    drop(second);
    eventually("the closed connection frees its permit", || {
        first.send_text(r#"{"subscribe": ["/details/26"]}"#);
        first.json()["error"].is_null()
    });
}

#[test]
fn snapshot_precedes_changes() {
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
fn shutdown_sends_close_frame_1001() {
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
fn closed_client_is_removed() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut client = WebSocket::open(&tallycast, "/ws/raw");
    let gone = WebSocket::open(&tallycast, "/ws/raw");
    assert_eq!(tallycast.counter("/hub/connections"), 2);
    client.send(Message::close(None, ""));
    drop(gone);
    eventually("both connections are removed", || {
        tallycast.counter("/hub/connections") == 0 && tallycast.counter("/hub/feeds") == 0
    });
    assert_eq!((tallycast.counter("/websocket/opened"), tallycast.counter("/websocket/failed")), (2, 0));
}

#[test]
fn client_over_message_limits_is_closed_with_reason() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--message-rate", "3", "--max-message-bytes", "100"]);
    let mut flooding = WebSocket::open(&tallycast, "/ws/raw");
    // Far more than three per second, even on a slow machine.
    let sent = (0..1000).map_while(|_| {
        flooding.send(Message::pong(&b""[..]));
        (tallycast.counter("/websocket/over_rate") == 0).then_some(())
    });
    assert!(sent.count() < 1000);
    assert_eq!(flooding.closed(), (1008, "too many messages".to_owned()));
    let mut large = WebSocket::open(&tallycast, "/ws/raw");
    large.send_text(&"x".repeat(101));
    assert_eq!(large.closed(), (1009, "the message is too large".to_owned()));
    assert_eq!(tallycast.counter("/websocket/failed"), 1);
}

#[test]
fn endless_fragments_close_the_connection() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    // The start of a text, and continuations without an end, all empty, under a mask of zeros.
    let mut endless = Raw::request(&tallycast, &upgrade("/ws/raw"));
    endless.head();
    endless.send_bytes(&[0x01, 0x80, 0, 0, 0, 0]);
    let continuations = [0x00, 0x80, 0, 0, 0, 0].repeat(4096);
    // Far more than a server reads that only waits for the end of a closed connection.
    let accepted = (0..4096).take_while(|_| endless.try_send(&continuations)).count();
    assert!(accepted < 4096);
    assert!(endless.bytes_until_closed().starts_with(b"\x88\x21\x03\xf0the message has too many frames"));
    eventually("the connection is removed", || tallycast.counter("/hub/connections") == 0);
    assert_eq!(tallycast.counter("/websocket/failed"), 1);
}

#[test]
fn unanswered_ping_closes_the_connection() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--keep-alive", "100ms", "--pong-limit", "3s"]);
    let mut silent = Raw::request(&tallycast, &upgrade("/ws/never"));
    assert!(silent.head().starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
    // A client that answers stays connected beyond the limit.
    let mut answering = WebSocket::open(&tallycast, "/ws/never");
    for _ in 0..6 {
        assert!(answering.next().is_ping());
    }
    // Pings, and then a close frame with code 1008.
    let mut read = silent.read_exactly(2);
    while read == [0x89, 0] {
        read = silent.read_exactly(2);
    }
    assert_eq!((read, silent.read_exactly(2)), (vec![0x88, 22], vec![0x03, 0xf0]));
    silent.expect("no pong came in time");
    assert_eq!(tallycast.counter("/hub/unanswered"), 1);
}

#[test]
fn slow_reader_is_closed_with_1013() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--log-bytes", "65536"]);
    let mut close_frame = b"\x88\x29\x03\xf5".to_vec();
    close_frame.extend_from_slice(b"too slow; connect again to start afresh");
    // The client has two seconds to read the frame, which a busy machine can exceed; repeat until it succeeds.
    eventually("a client reads the close frame", || {
        let before = tallycast.counter("/hub/slow_disconnected");
        let mut slow = Raw::connect_with_small_buffer(&tallycast);
        slow.send(&upgrade("/ws/details/1"));
        slow.head();
        while tallycast.counter("/hub/slow_disconnected") == before {
            redis.publish([("stream.tweet_updates.1", "x".repeat(60_000))]);
        }
        slow.bytes_until_closed().ends_with(&close_frame)
    });
}

#[test]
fn frames_sent_with_the_handshake_are_processed() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    // A ping with a zero mask and no payload.
    let mut eager = Raw::connect(&tallycast);
    eager.send_bytes(&[upgrade("/ws/raw").as_bytes(), &[0x89, 0x80, 0, 0, 0, 0]].concat());
    let head = eager.head();
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    assert_eq!(eager.read_exactly(2), [0x8a, 0]);
}

#[test]
fn invalid_handshakes_are_refused() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let plain = get(&tallycast, "/ws/raw", &[]);
    assert_eq!(
        (plain.status, plain.header("upgrade"), plain.header("sec-websocket-version")),
        (426, "websocket", "13")
    );
    let handshake = |replaced: &str, with: &str| {
        let mut raw = Raw::request(&tallycast, &upgrade("/subscribe/raw").replace(replaced, with));
        raw.head()
    };
    let version = handshake("sec-websocket-version: 13", "sec-websocket-version: 8");
    assert!(version.starts_with("HTTP/1.1 426 ") && version.contains("sec-websocket-version: 13\r\n"), "{version}");
    assert!(handshake("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==").starts_with("HTTP/1.1 400 "));
    assert!(handshake("GET", "POST").starts_with("HTTP/1.1 405 "));
    assert!(handshake("/raw", "/a//b").starts_with("HTTP/1.1 400 "));
    // Requests without a WebSocket upgrade get an event stream.
    assert!(handshake("upgrade: websocket", "upgrade: h2c").starts_with("HTTP/1.1 200 "));
    assert!(handshake("Upgrade", "keep-alive").starts_with("HTTP/1.1 200 "));
}

#[test]
fn only_allowed_origins_may_connect() {
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
fn tls_connection_behaves_the_same_and_counts_until_closed() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let (file, key) = (certificate.certificate(), certificate.key());
    let tls = ["--tls-cert", &file, "--tls-key", &key, "--max-per-address", "1"];
    let tallycast = Tallycast::start_unready(&redis.url(), &tls);
    tallycast.wait_for_log("subscribed source");
    let open = |path| WebSocket::open_tls(&tallycast, path, &certificate);
    let mut client = open("/ws/details").unwrap();
    assert!(open("/ws/raw").is_err());
    client.send_text(r#"{"subscribe": ["/raw"], "unsubscribe": ["/details"]}"#);
    assert_eq!(client.json(), json!({"subscribed": ["/raw"]}));
    // More than a TLS record, a socket buffer or an in-process pipe holds.
    let large: Vec<String> = (0..64).map(|number| number.to_string().repeat(30_000)).collect();
    client.send_text(r#"{"subscribe": ["/details/1"]}"#);
    assert_eq!(client.json(), json!({"subscribed": ["/details/1", "/raw"]}));
    redis.publish(large.iter().map(|payload| ("stream.tweet_updates.1", payload.as_str())));
    for payload in &large {
        assert_eq!(client.json()["data"], *payload);
    }
    client.send(Message::close(None, ""));
    assert!(client.next().is_close());
    drop(client);
    eventually("a new connection is accepted", || open("/ws/raw").is_ok());
    let mut last = None;
    eventually("another connection is accepted", || {
        last = open("/ws/raw").ok();
        last.is_some()
    });
    tallycast.signal(Signal::TERM);
    assert_eq!(last.unwrap().closed().0, 1001);
}

#[test]
fn browser_reads_websocket_plain_and_over_tls() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tls = ["--tls-cert", &certificate.certificate(), "--tls-key", &certificate.key()];
    let secure = Tallycast::start_unready(&redis.url(), &tls);
    secure.wait_for_log("subscribed source");
    let plain = Tallycast::start(&redis, &[]);
    for (scheme, tallycast) in [("https", secure), ("http", plain)] {
        let browser = Browser::start();
        browser.open_url(&format!("{scheme}://localhost:{}/v1/status", tallycast.address.port()));
        browser.eval(
            "(window.received = [], window.ended = null, window.socket = new WebSocket('/ws/raw'), \
                socket.onmessage = message => received.push(JSON.parse(message.data)), \
                socket.onclose = close => { ended = [close.code, close.reason, close.wasClean] }, 0)",
        );
        browser.wait_until("socket.readyState", 1);
        browser.eval("socket.send('{\"subscribe\": [\"/details\"]}')");
        browser.wait_until("received[0]?.subscribed?.join()", "/details,/raw");
        redis.publish_scores(["1F602"]);
        browser.wait_until("received[1]?.data", "1F602");
        tallycast.terminate();
        browser.wait_until("ended", json!([1001, "the server is shutting down", true]));
        assert_eq!(browser.console_messages(), [""; 0]);
    }
}
