//! The contract of send-multiple: its paths, tokens and bytes, with clients that are not ours, and with Redis as its backend.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio_websockets::Message;

use crate::support::{
    EventSource, Keys, Library, NODE, PYTHON, Printer, Raw, RedisServer, Tallycast, WebSocket, eventually, get,
    libraries, read, upgrade,
};

const NEWS: &str = "v1/annoucement/news/asx";
/// PING messages that come while a test waits for another message, at most.
const MAX_PINGS: usize = 6;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn start(redis: &RedisServer, flags: &[&str]) -> Tallycast {
    Tallycast::start(redis, &[&["--send-multiple"], flags].concat())
}

fn is_ping(data: &str) -> bool {
    let Ok(message) = serde_json::from_str::<Value>(data) else { return false };
    message["type"] == "PING" && message["id"] == "PING" && message["data"]["ping"].is_u64()
}

/// The first of `messages` that is no PING message.
#[track_caller]
fn after_pings<T>(messages: impl FnMut() -> T, is_ping: impl Fn(&T) -> bool) -> T {
    let mut messages = std::iter::repeat_with(messages).take(MAX_PINGS);
    messages.find(|message| !is_ping(message)).expect("no message in time, besides PING")
}

/// An event stream, without the PING messages in it.
struct Events(EventSource);

impl Events {
    #[track_caller]
    fn open(tallycast: &Tallycast, path: &str) -> Self {
        let opened = tallycast.counter("/hub/connected");
        let stream = EventSource::open(tallycast, path);
        // It has no first bytes that would say so.
        tallycast.until_counter("/hub/connected", opened + 1);
        Self(stream)
    }

    #[track_caller]
    fn next(&self) -> String {
        let event = after_pings(|| self.0.next(), |event| is_ping(&event.data));
        assert_eq!(event.name.unwrap_or_default(), "");
        event.data
    }

    #[track_caller]
    fn expect(&self, all: &[&str]) {
        for expected in all {
            assert_eq!(self.next(), *expected);
        }
    }
}

/// A WebSocket, without the PING messages in it.
struct Socket(WebSocket);

impl Socket {
    #[track_caller]
    fn open(tallycast: &Tallycast, path: &str) -> Self {
        Self(WebSocket::open(tallycast, path))
    }

    #[track_caller]
    fn next(&mut self) -> Message {
        let is_ping = |message: &Message| message.is_ping() || message.as_text().is_some_and(is_ping);
        after_pings(|| self.0.next(), is_ping)
    }

    #[track_caller]
    fn text(&mut self) -> String {
        let message = self.next();
        message.as_text().unwrap_or_else(|| panic!("not text: {message:?}")).to_owned()
    }

    #[track_caller]
    fn closed(&mut self) -> (u16, String) {
        let message = self.next();
        let (code, reason) = message.as_close().unwrap_or_else(|| panic!("not a close frame: {message:?}"));
        (code.into(), reason.to_owned())
    }
}

/// Lines of a client of another project: its name, and the data of messages, PING messages left out and counted.
struct Client {
    name: &'static str,
    printer: Printer,
    pings: usize,
}

impl Client {
    #[track_caller]
    fn next(&mut self) -> Value {
        let mut read = 0;
        let next = || {
            read += 1;
            let line = self.printer.line();
            // That of an EventSource is no JSON: event name, no id, data.
            match line.strip_prefix("message  ") {
                Some(data) => json!(["text", data]),
                None => serde_json::from_str(&line).unwrap(),
            }
        };
        let line = after_pings(next, |line| line[1].as_str().is_some_and(is_ping));
        self.pings += read - 1;
        line
    }
}

#[test]
fn clients_of_other_projects_receive_what_backends_publish() {
    libraries();
    let redis = RedisServer::start();
    let tallycast = start(&redis, &[]);
    let url = |path: &str| tallycast.url(&format!("{path}/{NEWS}/ANZ.ASX,BHP.ASX"));
    let websocket = |path: &str| url(path).replace("http:", "ws:");
    let client = |name, program, script, arguments: &[&str]| {
        let printer = Printer::start(program, script, arguments);
        Client { name, printer, pings: 0 }
    };
    let mut clients = [
        client("eventsource", NODE, "reconnect.mjs", &[&url("")]),
        client("ws", NODE, "websockets.mjs", &[&websocket("/ws")]),
        client("websockets", PYTHON, "websockets_client.py", &[&websocket("/ws/"), "0"]),
    ];
    for client in &mut clients[1..] {
        assert_eq!(client.next(), json!(["open"]), "{}", client.name);
    }
    tallycast.until_counter("/hub/connections", 3);
    let text = "{\"symbol\": \"ANZ.ASX\", \"text\": \"é [1 2 3]\"}";
    let channel = |item: &str| format!("{}:{item}", NEWS.replace('/', ":"));
    redis.publish([
        (channel("CBA.ASX"), "another item"),
        (channel("ANZ.ASX:deeper"), "another channel that begins with its name"),
        (channel("ANZ.ASX"), text),
        (NEWS.replace('/', ":"), "the channel before it"),
        (channel("BHP.ASX"), "2"),
    ]);
    for client in &mut clients {
        assert_eq!([client.next(), client.next()], [json!(["text", text]), json!(["text", "2"])], "{}", client.name);
    }
    // PING comes although there is no silence.
    let mut number = 0;
    eventually("every client has a PING", || {
        redis.publish([(channel("ANZ.ASX"), number.to_string())]);
        for client in &mut clients {
            assert_eq!(client.next(), json!(["text", number.to_string()]), "{}", client.name);
        }
        number += 1;
        clients.iter().all(|client| client.pings > 0)
    });
}

#[test]
fn bytes_of_a_stream_are_exact() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &[]);
    let mut stream = Raw::request(&tallycast, "GET /a/b HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let head = stream.head();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    for header in ["content-type: text/event-stream", "access-control-allow-origin: *", "cache-control: no-cache"] {
        assert!(head.contains(&format!("\r\n{header}")), "{head}");
    }
    tallycast.until_counter("/hub/connections", 1);
    redis.publish([("a:b", "{\"a\": 1}"), ("a:b", "two\nlines")]);
    let mut events = String::new();
    while events.matches("event:").count() < 2 {
        events.push_str(&after_pings(|| stream.chunk(), |chunk| chunk.contains("PING")));
    }
    assert_eq!(events, "event:\ndata: {\"a\": 1}\n\nevent:\ndata: two\ndata: lines\n\n");
    // As a server of WebSocket writes text, in one frame.
    let mut socket = Raw::request(&tallycast, &upgrade("/ws/a/b"));
    assert!(socket.head().starts_with("HTTP/1.1 101 "));
    tallycast.until_counter("/hub/connections", 2);
    redis.publish([("a:b", "é")]);
    let frame = || {
        let head = socket.read_exactly(2);
        let payload = socket.read_exactly(head[1].into());
        [head, payload].concat()
    };
    let is_ping = |frame: &Vec<u8>| frame[0] == 0x89 || String::from_utf8_lossy(frame).contains("PING");
    assert_eq!(after_pings(frame, is_ping), [0x81, 2, 0xc3, 0xa9]);
}

#[test]
fn lists_of_the_query_are_channels() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &[]);
    let query = "organisation_code=1,2&branch_code=3&advisor_code=4&account=5,6&account_id=7";
    let stream = Events::open(&tallycast, &format!("/v1/order?{query}"));
    let mut socket = Socket::open(&tallycast, &format!("/ws/v1/order?{query}"));
    tallycast.until_counter("/hub/connections", 2);
    let wanted = ["org_1", "org_2", "branch_3", "advisor_4", "5", "6", "7"];
    let others = ["org_3", "1", "branch_1", "advisor_5", "account_5", "8"];
    let channel = |last: &&str| (format!("v1:order:{last}"), (*last).to_owned());
    redis.publish([("v1:order".to_owned(), "the path".to_owned())]);
    redis.publish(others.iter().map(channel));
    redis.publish(wanted.iter().map(channel));
    stream.expect(&wanted);
    for expected in wanted {
        assert_eq!(socket.text(), expected);
    }
}

#[test]
fn channels_and_paths_may_have_prefixes() {
    let redis = RedisServer::start();
    let flags = ["--send-multiple-prefix-channel", "dev", "--send-multiple-path", "/streaming"];
    let tallycast = start(&redis, &flags);
    let stream = Events::open(&tallycast, "/streaming/admin/x");
    let mut socket = Socket::open(&tallycast, "/streaming/ws/admin/x");
    tallycast.until_counter("/hub/connections", 2);
    redis.publish([("admin:x", "without the prefix"), ("dev:admin:x", "1")]);
    stream.expect(&["1"]);
    assert_eq!(socket.text(), "1");
    assert_eq!(tallycast.get("/admin/x").0, 404);
    assert_eq!(tallycast.get("/a/b").0, 404);
    // The other APIs have the same messages.
    let native = EventSource::open(&tallycast, "/subscribe/send-multiple/admin");
    redis.publish([("dev:admin:x", "2")]);
    assert_eq!(native.next().data, "2");
}

/// The routes that the operator gives decide about namespaces, and the one of all channels is then not added.
#[test]
fn routes_of_other_features_keep_their_channels() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--route", "prices:*=/price/*,history=10", "--route", "*=/all/**"]);
    let stream = Events::open(&tallycast, "/prices/ANZ");
    let other = Events::open(&tallycast, "/a/b");
    let native = EventSource::open(&tallycast, "/subscribe?topic=/price/ANZ&topic=/all/a/b");
    redis.publish([("prices:ANZ", "1"), ("a:b", "2")]);
    stream.expect(&["1"]);
    other.expect(&["2"]);
    assert_eq!([native.next().data, native.next().data], ["1", "2"]);
}

#[test]
fn paths_of_other_features_are_theirs() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--publish-key", "secret", "--subscriptions"]);
    for (path, content_type) in [
        ("/", "text/html"),
        ("/admin/", "text/html"),
        ("/admin/status.json", "application/json"),
        ("/metrics", "application/openmetrics-text"),
        ("/healthz", "text/plain"),
        ("/assets/board.js", "text/javascript"),
        ("/v1/rankings", "application/json"),
        ("/v1/status", "application/json"),
        ("/v1/details/1F602", "application/json"),
        ("/subscriptions", "application/json"),
        ("/status", "application/json"),
    ] {
        let response = get(&tallycast, path, &[]);
        let found = response.header("content-type");
        assert!(response.status == 200 && found.starts_with(content_type), "{path}: {} {found}", response.status);
    }
    for path in ["/admin/nothing", "/subscriptions/a", "/publish/a/b", "/.well-known/a", "/one", "/a/b/c/d/e/f/g"] {
        let response = get(&tallycast, path, &[]);
        assert!(!response.header("content-type").starts_with("text/event-stream"), "{path}");
        assert!([404, 405].contains(&response.status), "{path}: {}", response.status);
    }
    let eps = EventSource::open(&tallycast, "/subscribe/raw");
    redis.publish_scores(["1F602"]);
    assert_eq!(eps.next().data, "1F602");
    // One segment after /ws is a native WebSocket, and so is an upgrade at /subscribe; more are a channel.
    let mut native =
        [WebSocket::open(&tallycast, "/ws/details"), WebSocket::open(&tallycast, "/subscribe/details/a:b")];
    let mut channel = Socket::open(&tallycast, "/ws/stream.tweet_updates.a/b");
    tallycast.until_counter("/hub/connections", 4);
    redis.publish_post("a:b", "1");
    for native in &mut native {
        assert_eq!(native.json()["data"], "1");
    }
    assert_eq!(channel.text(), "1");
}

#[test]
fn nothing_is_different_without_it() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    for path in ["/a/b", "/status"] {
        assert_eq!(tallycast.get(path).0, 404, "{path}");
    }
    let mut native = WebSocket::open(&tallycast, "/ws/details/1");
    redis.publish_post("1", "{}");
    assert_eq!(native.json()["namespace"], "/details/1");
}

#[test]
fn invalid_requests_are_refused_with_a_reason() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--max-topics", "3", "--route", "news:*=/news", "--route", "x=/x"]);
    for (path, message) in [
        ("/a//b", "the path has an empty segment; expected /p1/p2/.../items with 2 to 6 segments"),
        ("/a/b,,c", "the last segment of the path has an empty item; expected a list such as A,B"),
        ("/a/%ff", "the path has invalid percent-encoding; expected UTF-8"),
        ("/a/1,2,3,4", "expected at most 3 channels, found more (--max-topics)"),
        ("/a/b?account=1,2,3,4", "expected at most 3 channels, found more (--max-topics)"),
        ("/a/b:", "no messages of the channel \"a:b:\" can be read: a namespace must not have an empty segment ('//')"),
        (
            "/a/b%2Fc",
            "no messages of the channel \"a:b/c\" can be read: a namespace must not have control characters or an encoded '/'",
        ),
        (
            "/news/a",
            "no messages of the channel \"news:a\" can be read: the route news:* sends several channels to /news",
        ),
    ] {
        let response = get(&tallycast, path, &[]);
        let body: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!((response.status, body), (400, json!({"code": 400, "message": message})), "{path}");
        assert_eq!(response.header("access-control-allow-origin"), "*");
        let mut socket = Raw::request(&tallycast, &upgrade(&format!("/ws{path}")));
        assert!(socket.head().starts_with("HTTP/1.1 400 "), "{path}");
    }
    let response = get(&tallycast, "/ws/a/b", &[]);
    assert_eq!(response.status, 426);
    // Three are not too many.
    let stream = Events::open(&tallycast, "/a/1,2,3,1");
    redis.publish([("a:3", "3")]);
    stream.expect(&["3"]);
}

#[test]
fn preflight_requests_are_answered_with_204() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &[]);
    for path in ["/a/b", "/ws/a/b", "/ws//a/b", "/status"] {
        let mut raw = Raw::connect(&tallycast);
        raw.send(&format!(
            "OPTIONS {path} HTTP/1.1\r\nhost: localhost\r\norigin: https://app.example\r\n\
             access-control-request-method: GET\r\naccess-control-request-headers: authorization\r\n\r\n"
        ));
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 204 "), "{path}: {head}");
        assert!(head.contains("\r\naccess-control-allow-headers: accept, authorization,"), "{head}");
    }
}

/// A key, and what signs with it.
struct Issuer {
    keys: Keys,
    option: String,
}

impl Issuer {
    fn new() -> Self {
        let keys = Keys::new();
        let option = keys.option("RS256", "rsa");
        Self { keys, option }
    }

    fn sign(&self, claims: Value) -> String {
        Library::PyJwt.sign("RS256", &self.keys.private("rsa"), claims)
    }
}

/// The status, the body and the challenge of the answer to a request, which is a stream if the status is 200.
fn answer(tallycast: &Tallycast, path: &str, authorization: &str) -> (u16, String, String) {
    let header = match authorization {
        "" => String::new(),
        value => format!("authorization: {value}\r\n"),
    };
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\r\n");
    let mut raw = Raw::request(tallycast, &request);
    let head = raw.head();
    let status = head["HTTP/1.1 ".len()..][..3].parse().unwrap();
    let challenge = head.lines().find_map(|line| line.strip_prefix("www-authenticate: ")).unwrap_or_default();
    let is_stream = head.contains("content-type: text/event-stream");
    assert_eq!(is_stream, status == 200, "{head}");
    (status, if is_stream { String::new() } else { raw.read_to_end() }, challenge.to_owned())
}

#[test]
fn last_place_of_a_token_counts() {
    let (issuer, redis) = (Issuer::new(), RedisServer::start());
    let tallycast = start(&redis, &["--token-key", &issuer.option]);
    let valid = issuer.sign(json!({"sub": "ann", "exp": now() + 600}));
    let status = |query: &str, authorization: &str| answer(&tallycast, &format!("/a/b?{query}"), authorization).0;
    for authorization in [valid.clone(), format!("Bearer {valid}"), format!("bearer {valid}")] {
        assert_eq!(status("", &authorization), 200);
        assert_eq!(status("token=wrong", &authorization), 401);
        assert_eq!(status("access_token=wrong", &authorization), 401);
    }
    for query in [format!("token={valid}"), format!("token=Bearer%20{valid}"), format!("access_token={valid}")] {
        assert_eq!(status(&query, ""), 200, "{query}");
        assert_eq!(status(&query, "Bearer wrong"), 200, "{query}");
    }
    assert_eq!(status(&format!("access_token={valid}&token=wrong"), ""), 200);
    assert_eq!(status(&format!("token={valid}&access_token=wrong"), ""), 401);
    let mut socket = Socket::open(&tallycast, &format!("/ws/a/b?access_token={valid}"));
    tallycast.until_counter("/hub/connections", 1);
    redis.publish([("a:b", "1")]);
    assert_eq!(socket.text(), "1");
}

#[test]
fn refused_tokens_have_the_body_that_clients_know() {
    let (issuer, redis) = (Issuer::new(), RedisServer::start());
    let tallycast = start(&redis, &["--token-key", &issuer.option, "--public", "/public/**"]);
    let expired = issuer.sign(json!({"exp": now() - 60}));
    let foreign = Issuer::new().sign(json!({}));
    for (token, message) in [
        ("", "validate: a token is required"),
        ("wrong", "validate: the token is not a JWT: expected three parts in base64url, separated by dots"),
        (&expired, "validate: the token has expired"),
        (&foreign, "validate: wrong signature"),
    ] {
        for path in ["/a/b", "/status"] {
            let (status, body, challenge) = answer(&tallycast, path, token);
            assert_eq!((status, body), (401, format!("{{\"code\":401,\"message\":\"{message}\"}}")), "{path}");
            assert!(challenge.starts_with("Bearer realm=\"tallycast\""), "{challenge}");
        }
        let mut socket = Raw::request(&tallycast, &upgrade(&format!("/ws/a/b?token={token}")));
        assert!(socket.head().starts_with("HTTP/1.1 401 "), "{token}");
    }
    assert!(tallycast.counter("/auth/expired") > 0);
}

#[test]
fn token_with_topics_reads_these_and_one_without_reads_every_channel() {
    let (issuer, redis) = (Issuer::new(), RedisServer::start());
    let flags = ["--token-key", &issuer.option, "--route", "private:*=/private/*"];
    let tallycast = start(&redis, &[&flags[..], &["--public", "/send-multiple/public/*"]].concat());
    let of = |claims: Value| issuer.sign(claims);
    let any = of(json!({"sub": "ann"}));
    let limited = of(json!({"tallycast": {"read": ["/send-multiple/v1/*", "/private/*"]}}));
    let publisher = of(json!({"tallycast": {"publish": ["/send-multiple/**"]}}));
    let by_mercure = of(json!({"mercure": {"subscribe": ["/send-multiple/v1/a"]}}));
    for (token, path, expected) in [
        (&any, "/v1/a", 200),
        (&any, "/v2/a/b", 200),
        // A route of its own has its own rights.
        (&any, "/private/a", 403),
        (&limited, "/v1/a,b", 200),
        (&limited, "/private/a", 200),
        (&limited, "/public/a", 200),
        (&limited, "/v1/a/b", 403),
        (&limited, "/v2/a", 403),
        (&limited, "/v1/a?account=1", 403),
        (&publisher, "/v1/a", 403),
        (&publisher, "/public/a", 200),
        (&by_mercure, "/v1/a", 200),
        (&by_mercure, "/v1/a,b", 403),
    ] {
        let (status, body, _) = answer(&tallycast, path, token);
        assert_eq!(status, expected, "{path} {body}");
    }
    let refused = answer(&tallycast, "/v1/a,b", &by_mercure).1;
    assert_eq!(refused, "{\"code\":403,\"message\":\"not allowed to read /send-multiple/v1/b\"}");
    // Without the check, only what other routes have needs rights, and tokens are not looked at.
    let open = start(&redis, &[&flags[..], &["--send-multiple-check-jwt", "off"]].concat());
    for (path, token, expected) in [("/v1/a", "", 200), ("/v1/a", "wrong", 200), ("/private/a", "", 403)] {
        assert_eq!(answer(&open, path, token).0, expected, "{path}");
    }
    assert_eq!(answer(&open, "/subscribe/send-multiple/v1/a", "").0, 401);
}

#[test]
fn private_messages_are_for_those_whose_token_names_their_topic() {
    let (issuer, redis) = (Issuer::new(), RedisServer::start());
    let flags = ["--token-key", &issuer.option, "--route", "private:*=/private/*,private", "--public", "/private/*"];
    let tallycast = start(&redis, &flags);
    let named = issuer.sign(json!({"tallycast": {"read": ["/private/a", "/send-multiple/v1/*"]}}));
    let other = issuer.sign(json!({"sub": "bob"}));
    let mut streams = [&named, &other].map(|token| Socket::open(&tallycast, &format!("/ws/private/a,b?token={token}")));
    let events = Events::open(&tallycast, &format!("/private/a?token={named}"));
    let mut public = Socket::open(&tallycast, &format!("/ws/v1/a?token={named}"));
    tallycast.until_counter("/hub/connections", 4);
    redis.publish([("private:b", "not of the token"), ("private:a", "1"), ("v1:a", "2"), ("private:a", "3")]);
    assert_eq!([streams[0].text(), streams[0].text()], ["1", "3"]);
    events.expect(&["1", "3"]);
    assert_eq!(public.text(), "2");
    // What is public may be read by everyone, without the private messages: only a PING message comes.
    let next = streams[1].0.next();
    assert!(next.is_ping() || next.as_text().is_some_and(is_ping), "{next:?}");
}

#[test]
fn stream_ends_with_its_token() {
    let (issuer, redis) = (Issuer::new(), RedisServer::start());
    let tallycast = start(&redis, &["--token-key", &issuer.option, "--token-leeway", "0s"]);
    let token = issuer.sign(json!({"sub": "ann", "exp": now() + 3}));
    let mut stream = Raw::request(&tallycast, &format!("GET /a/b?token={token} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    assert!(stream.head().starts_with("HTTP/1.1 200 "));
    let mut socket = Socket::open(&tallycast, &format!("/ws/a/b?token={token}"));
    tallycast.until_counter("/hub/connections", 2);
    let status = tallycast.json("/admin/status.json");
    assert_eq!(status["connections"][0]["subject"], "ann");
    assert_eq!(socket.closed(), (1008, "the authorization has expired".to_owned()));
    assert!(stream.chunks_to_end().ends_with(": the authorization has expired\n\n"));
}

#[test]
fn status_has_the_connections_of_every_node() {
    let redis = RedisServer::start();
    let flags = |name| ["--send-multiple-prefix-channel", "dev", "--instance", name];
    let one = start(&redis, &flags("one"));
    let headers = [("accept".parse().unwrap(), "text/event-stream".parse().unwrap())].into_iter().collect();
    let opened = EventSource::open_with(reqwest::Client::builder().default_headers(headers), &one, "/status");
    let stream = Events(opened);
    one.until_counter("/hub/connections", 1);
    let other = start(&redis, &flags("two"));
    eventually("both nodes know both", || {
        [&one, &other].into_iter().all(|node| {
            let status = node.json("/status");
            let nodes = status["nodes"].as_array().unwrap();
            let names: Vec<&str> = nodes.iter().map(|node| node["node"].as_str().unwrap()).collect();
            names == ["rust-development-one", "rust-development-two"] && status["connections"] == 1
        })
    });
    let status = other.json("/status");
    assert_eq!((&status["node"], &status["stale"]), (&json!("rust-development-two"), &json!(false)));
    // The first node may have published before its stream was open; it does so again.
    let mut found = BTreeSet::new();
    for _ in 0..4 {
        found.insert(stream.next());
        if found.len() == 2 {
            break;
        }
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["0", "1"]);
}

/// Numbered messages of about 500 bytes.
fn numbered(numbers: std::ops::Range<usize>) -> impl Iterator<Item = (&'static str, String)> {
    let filler = "x".repeat(500);
    numbers.map(move |number| ("a:b", format!("{number} {filler}")))
}

#[test]
fn client_that_is_slow_for_a_moment_loses_nothing() {
    const MESSAGES: usize = 2000;
    libraries();
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--send-buffer", "4096"]);
    let mut stream = Raw::connect_with_small_buffer(&tallycast);
    stream.send("GET /a/b HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.head();
    let url = tallycast.url("/ws/a/b").replace("http:", "ws:");
    let mut slow =
        Client { name: "websockets", printer: Printer::start(PYTHON, "websockets_client.py", &[&url, "2"]), pings: 0 };
    assert_eq!(slow.next(), json!(["open"]));
    tallycast.until_counter("/hub/connections", 2);
    let before = tallycast.counter("/hub/broadcast");
    redis.publish(numbered(0..MESSAGES));
    // Meanwhile it reads nothing.
    tallycast.until_counter("/hub/broadcast", before + MESSAGES as u64);
    let mut body = String::new();
    let is_last = |body: &str| body.contains(&format!("data: {} ", MESSAGES - 1));
    while !is_last(&body) {
        body.push_str(&stream.chunk());
    }
    let received: Vec<&str> =
        body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| !is_ping(data)).collect();
    let expected: Vec<String> = numbered(0..MESSAGES).map(|(_, text)| text).collect();
    assert_eq!(received, expected);
    for expected in expected {
        assert_eq!(slow.next(), json!(["text", expected]));
    }
    assert_eq!(tallycast.counter("/hub/slow_disconnected"), 0);
}

#[test]
fn client_that_is_too_slow_is_told() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--send-buffer", "4096", "--log-batches", "4", "--log-bytes", "100000"]);
    let mut stream = Raw::connect_with_small_buffer(&tallycast);
    stream.send("GET /a/b HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.head();
    let mut socket = Socket::open(&tallycast, "/ws/a/b");
    tallycast.until_counter("/hub/connections", 2);
    let mut sent = 0;
    eventually("both are disconnected", || {
        redis.publish(numbered(sent..sent + 1000));
        sent += 1000;
        tallycast.counter("/hub/slow_disconnected") == 2
    });
    // What came before the end has no gap.
    let mut number = 0;
    let end = loop {
        let message = socket.next();
        let Some(text) = message.as_text() else { break message };
        assert!(text.starts_with(&format!("{number} x")), "{text} in the place of {number}");
        number += 1;
    };
    let (code, reason) = end.as_close().unwrap();
    assert_eq!((u16::from(code), reason), (1013, "too slow; connect again to start afresh"));
    let body = stream.chunks_to_end();
    assert!(body.ends_with(": too slow; connect again to start afresh\n\n"), "{}", &body[body.len() - 100..]);
}

#[test]
fn channels_of_sessions_are_no_channels_of_clients() {
    let redis = RedisServer::start();
    let tallycast = start(&redis, &["--sessions", "--ws-hub", "--ws-hub-timeout", "0s", "--publish-key", "key"]);
    for path in ["/tallycast/sessions/events", "/ws%2Dhub/client-new", "/ws-hub:client-data/ann"] {
        let (status, line, _) = read(&tallycast, path, "");
        assert!(status == 400 && line.contains("no route matches it"), "{path}: {status} {line}");
    }
    // By the path of the native API neither.
    let native = EventSource::open(&tallycast, "/subscribe/send-multiple/**");
    let _session = EventSource::open(&tallycast, "/session/ann?topic=/send-multiple/a/b");
    let _client = WebSocket::open(&tallycast, "/ws?session_key=secret");
    redis.publish([("a:b".to_owned(), "1")]);
    assert_eq!(native.next().data, "1");
    assert_eq!(tallycast.counter("/decode/rejected"), 0);
}
