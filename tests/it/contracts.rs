//! Contracts, that is streams of an embedding program on its own paths and in its own framing, and the observer of all streams.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::json;
use tallycast_fanout::{
    CloseReason, ConnectionInfo, Fanout, Framing, Handle, Kept, Message, Publisher, Retention, Start, Topics,
};
use tallycast_server::{
    Access, Compression, Config, Contract, ContractStream, Grant, Server, Stats, StreamObserver, StreamService,
    StreamWatch, WholeResponse, text_response,
};

use crate::support::{LIMIT, Raw, Running, WebSocket, block_on, eventually, send};

/// Each message is a line with its id, its namespace and its payload.
#[derive(Debug)]
struct Lines;

impl Framing for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        let id = message.id().unwrap_or("-");
        batch.extend_from_slice(format!("{id} {} {}\n", message.namespace.as_str(), message.payload()).as_bytes());
    }

    fn skipped(&self, count: u64, batch: &mut Vec<u8>) {
        batch.extend_from_slice(format!("skipped {count}\n").as_bytes());
    }

    fn finish(&self, batch: Vec<u8>) -> Bytes {
        batch.into()
    }

    fn keep_alive(&self, _position: Option<&str>) -> Bytes {
        Bytes::from_static(b"alive\n")
    }

    fn closing(&self, reason: &CloseReason) -> Bytes {
        format!("end: {reason}\n").into()
    }
}

/// `/lines?<topic>,<topic>`, from the position in the header `after`. Clients in the header `user` have a grant.
struct LineContract {
    any_method: bool,
}

impl Contract for LineContract {
    fn matches(&self, request: &Parts) -> bool {
        request.uri.path() == "/lines" && (self.any_method || matches!(request.method, Method::GET | Method::HEAD))
    }

    fn allowed_methods(&self) -> &'static str {
        "GET, HEAD, OPTIONS, POST"
    }

    fn event_framing(&self) -> Option<Arc<dyn Framing>> {
        Some(Arc::new(Lines))
    }

    async fn open(&self, request: &Parts, client: IpAddr) -> Result<ContractStream, WholeResponse> {
        assert!(client.is_loopback());
        let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
        let query = request.uri.query().unwrap_or("/");
        let topics = query.split(',').map(str::parse).collect::<Result<Vec<_>, _>>();
        let topics = topics.map_err(|error| text_response(StatusCode::BAD_REQUEST, format!("{error}\n")))?;
        let mut stream = ContractStream::new(Topics::new(topics).unwrap());
        match header("user") {
            Some("nobody") => return Err(text_response(StatusCode::UNAUTHORIZED, "unknown user\n")),
            Some("slow") => std::future::pending().await,
            Some(user) => {
                let readable = Topics::new(vec![format!("/users/{user}").parse().unwrap()]).unwrap();
                let expiry = SystemTime::now() + Duration::from_secs(if user == "brief" { 3 } else { 3600 });
                let grant = Grant::default().with_readable(Access::Topics(readable)).with_expiry(expiry);
                stream.grant = Some(Arc::new(grant.with_subject(user)));
            }
            None => {}
        }
        stream.start = header("after").map(|id| Start::After(id.into()));
        stream.preamble = "hello\n".into();
        stream.headers.insert("content-type", HeaderValue::from_static("text/plain"));
        stream.position_header = header("position").is_some();
        Ok(stream)
    }
}

fn contract() -> LineContract {
    LineContract { any_method: false }
}

fn get(path: &str, version: &str, headers: &str) -> String {
    format!("GET {path} HTTP/{version}\r\nhost: x\r\n{headers}\r\n")
}

impl Running {
    /// Opens a stream over HTTP/1.1. Returns it after its headers and first line, and the headers.
    fn lines(&self, query: &str, headers: &str) -> (Raw, String) {
        let mut stream = Raw::connect_to(self.address);
        stream.send(&get(&format!("/lines?{query}"), "1.1", headers));
        let head = stream.head();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(stream.chunk(), "hello\n");
        (stream, head)
    }

    /// The response to a request for `/lines`, without a body that does not end.
    fn refused(&self, query: &str, headers: &str) -> String {
        self.response(&get(&format!("/lines?{query}"), "1.1", &format!("{headers}connection: close\r\n")))
    }
}

/// The response of `path` over HTTP/2, and what reads its body line by line.
struct Http2Lines {
    runtime: tokio::runtime::Runtime,
    response: reqwest::Response,
    read: String,
}

impl Http2Lines {
    fn open(server: &Running, path: &str, headers: HeaderMap) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = reqwest::Client::builder().http2_prior_knowledge().default_headers(headers).build().unwrap();
        let response = runtime.block_on(client.get(server.url(path)).send()).unwrap();
        assert_eq!((response.status(), response.version()), (StatusCode::OK, reqwest::Version::HTTP_2));
        Self { runtime, response, read: String::new() }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        while !self.read.contains('\n') {
            let chunk = self.runtime.block_on(async { tokio::time::timeout(LIMIT, self.response.chunk()).await });
            let chunk = chunk.expect("no bytes in time").unwrap().expect("the body ended");
            self.read.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        let end = self.read.find('\n').unwrap() + 1;
        self.read.drain(..end).collect()
    }

    #[track_caller]
    fn rest(self) -> String {
        let text = self.runtime.block_on(async { tokio::time::timeout(LIMIT, self.response.text()).await });
        self.read + &text.expect("the body did not end").unwrap()
    }
}

#[test]
fn contract_has_the_same_events_over_every_protocol() {
    let (mut server, publisher, _handle) = Running::server(|server, _| server.contract(contract()));
    let (mut http1, head) = server.lines("/a,/b", "");
    assert!(head.contains("\r\ncontent-type: text/plain\r\n") && !head.contains("event-stream"), "{head}");
    assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
    assert!(
        head.contains("\r\ncache-control: no-cache\r\n"),
        "the other headers are as those of native streams: {head}"
    );
    let mut http10 = Raw::connect_to(server.address);
    http10.send(&get("/lines?/a,/b", "1.0", ""));
    let head = http10.head();
    assert!(head.contains("\r\nconnection: close\r\n") && !head.contains("transfer-encoding"), "{head}");
    let mut http2 = Http2Lines::open(&server, "/lines?/a,/b", HeaderMap::new());
    assert_eq!(http2.response.headers()["content-type"], "text/plain");
    assert!(!http2.response.headers().contains_key("connection"));
    assert_eq!(http2.line(), "hello\n");
    http10.expect("hello\n");
    send(&publisher, "/c", "0");
    send(&publisher, "/a", "1");
    assert_eq!(http1.chunk(), "- /a 1\n");
    http10.expect("- /a 1\n");
    assert_eq!(http2.line(), "- /a 1\n");
    // Native streams are as they were.
    let mut native = Raw::connect_to(server.address).subscribed("/subscribe/b");
    send(&publisher, "/b", "2");
    assert_eq!((native.chunk(), http1.chunk()), ("data:2\n\n".to_owned(), "- /b 2\n".to_owned()));
    server.signal();
    let end = "end: the server is shutting down\n";
    assert_eq!(http1.chunks_to_end(), end);
    assert_eq!(http10.read_to_end(), format!("- /b 2\n{end}"));
    assert_eq!(http2.rest(), format!("- /b 2\n{end}"));
    server.stop();
}

#[test]
fn contract_is_compressed_where_native_streams_are() {
    let (mut server, publisher, handle) = Running::server(|server, _| server.contract(contract()));
    let mut gzip = Raw::connect_to(server.address);
    gzip.send(&get("/lines?/a", "1.0", "accept-encoding: gzip\r\n"));
    let head = gzip.head();
    assert!(
        head.contains("\r\ncontent-encoding: gzip\r\n") && head.contains("\r\nvary: accept-encoding\r\n"),
        "{head}"
    );
    let accept = HeaderMap::from_iter([("accept-encoding".parse().unwrap(), HeaderValue::from_static("zstd"))]);
    let zstd = Http2Lines::open(&server, "/lines?/a", accept);
    assert_eq!(zstd.response.headers()["content-encoding"], "zstd");
    // A proxy in front.
    let (_plain, head) = server.lines("/a", "accept-encoding: gzip\r\nvia: 1.1 proxy\r\n");
    assert!(!head.contains("content-encoding"), "{head}");
    eventually("all are connected", || block_on(handle.report()).unwrap().connections.len() == 3);
    send(&publisher, "/a", "1");
    server.signal();
    let expected = "hello\n- /a 1\nend: the server is shutting down\n";
    let compressed = gzip.bytes_to_end();
    let mut text = vec![0; expected.len()];
    std::io::Read::read_exact(&mut flate2::read::GzDecoder::new(&*compressed), &mut text).unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    let compressed = zstd.runtime.block_on(zstd.response.bytes()).unwrap();
    assert_eq!(zstd::stream::decode_all(&*compressed).unwrap(), expected.as_bytes());
    server.stop();
}

#[test]
fn other_methods_of_a_contract_path_are_answered() {
    let (server, _publisher, handle) = Running::server(|server, _| {
        server.contract(contract()).fallback(Router::new().route("/lines", post(|body: String| async move { body })))
    });
    let head = server.response("HEAD /lines?/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\ncontent-type: text/plain\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(block_on(handle.report()).unwrap().connections.len(), 0);
    let body = "POST /lines HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    assert!(server.response(body).ends_with("\r\n\r\nhello"));
    let options = server.response("OPTIONS /lines HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(options.starts_with("HTTP/1.1 204 "), "{options}");
    assert!(options.contains("\r\naccess-control-allow-methods: GET, HEAD, OPTIONS, POST\r\n"), "{options}");
    assert!(options.contains(
        "\r\naccess-control-allow-headers: accept, authorization, cache-control, content-type, last-event-id\r\n"
    ));
    // The native preflight is as it was.
    let options = server.response("OPTIONS /subscribe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(
        options.contains("\r\naccess-control-allow-headers: accept, cache-control, last-event-id\r\n"),
        "{options}"
    );
    assert!(!options.contains("credentials"), "{options}");
    server.stop();
    let (server, _publisher, _handle) = Running::server(|server, _| server.contract(LineContract { any_method: true }));
    let delete = server.response("DELETE /lines HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(
        delete.starts_with("HTTP/1.1 405 ") && delete.contains("\r\nallow: GET, HEAD, OPTIONS, POST\r\n"),
        "{delete}"
    );
    server.stop();
}

#[test]
fn limits_apply_to_contracts() {
    let stats = Arc::<Stats>::default();
    let (server, _publisher, _handle) = Running::server({
        let stats = Arc::clone(&stats);
        move |server, _| {
            let mut config = Config::default();
            config.namespace_limits = vec!["/small=1".parse().unwrap()];
            config.authorize_timeout = Duration::from_millis(200);
            config.max_topics = 2;
            config.max_target_bytes = 100;
            config.max_topic_bytes = 100_000;
            server.config(config).stats(stats).contract(contract())
        }
    });
    let status = |query: &str, headers: &str| server.refused(query, headers)[9..12].to_owned();
    let (_stream, _) = server.lines("/small", "");
    assert_eq!(status("/small", ""), "503");
    assert_eq!(stats.refused_namespace.get(), 1);
    assert!(server.refused("/a,/b,/c", "").ends_with("\r\n\r\nexpected at most 2 topics, found more\n"));
    assert_eq!(status(&format!("/{}", "a".repeat(100)), ""), "414");
    assert_eq!(status("a", ""), "400");
    let denied = server.refused("/a", "user: nobody\r\n");
    assert!(denied.starts_with("HTTP/1.1 401 ") && denied.ends_with("\r\n\r\nunknown user\n"), "{denied}");
    let denied = server.refused("/users/ann,/users/bob", "user: ann\r\n");
    assert!(denied.starts_with("HTTP/1.1 403 "), "{denied}");
    assert!(denied.ends_with("\r\n\r\nnot allowed to read /users/bob\n"), "{denied}");
    assert_eq!(stats.denied.get(), 2);
    let slow = server.refused("/a", "user: slow\r\n");
    assert!(slow.starts_with("HTTP/1.1 503 ") && slow.contains("\r\nretry-after: "), "{slow}");
    server.stop();
}

#[test]
fn contract_stream_ends_when_its_grant_expires() {
    let (server, publisher, handle) = Running::server(|server, _| server.contract(contract()));
    let (mut brief, _) = server.lines("/users/brief", "user: brief\r\n");
    let subject = || block_on(handle.report()).unwrap().connections.into_iter().find_map(|stream| stream.subject);
    eventually("the stream has a subject", || subject().as_deref() == Some("brief"));
    send(&publisher, "/users/brief", "1");
    assert_eq!(brief.chunks_to_end(), "- /users/brief 1\nend: the authorization has expired\n");
    server.stop();
}

#[test]
fn contract_starts_in_the_history() {
    let kept = |namespace: &str, sequence: Option<&str>| {
        Arc::new(Retention {
            name: namespace.into(),
            namespace: namespace.parse().unwrap(),
            except: Box::default(),
            sequence: sequence.map(Into::into),
            partition: None,
            max_messages: Some(10),
            max_bytes: None,
            max_age: None,
            last_values: false,
        })
    };
    let (news, log) = (kept("/news", None), kept("/log", Some("log")));
    let engine = Fanout::builder().retentions(vec![Arc::clone(&news), log]);
    let (server, publisher, _handle) = Running::server_on(engine, |server, _| {
        let mut config = Config::default();
        config.resume_limit = Duration::from_millis(100);
        config.retry = Some(Duration::from_secs(1));
        server.config(config).contract(contract())
    });
    let (mut live, _) = server.lines("/news", "");
    for text in ["1", "2"] {
        let mut message = Message::text("/news".parse().unwrap(), text);
        message.kept = Some(Box::new(Kept::new(Arc::clone(&news), None)));
        block_on(publisher.send(message)).unwrap();
    }
    let first = live.chunk();
    let (id, _) = first.split_once(' ').unwrap();
    let (mut resumed, head) = server.lines("/news", &format!("after: {id}\r\nposition: 1\r\n"));
    assert!(head.contains(&format!("\r\nlast-event-id: {id}\r\n")), "{head}");
    assert!(resumed.chunk().ends_with(" /news 2\n"));
    let (_resumed, head) = server.lines("/news", &format!("after: {id}\r\n"));
    assert!(!head.contains("last-event-id"), "{head}");
    // The source of this one has not reported yet.
    let not_current = server.response(&get("/lines?/log", "1.1", "after: 1-0\r\nconnection: close\r\n"));
    assert!(not_current.starts_with("HTTP/1.1 200 OK\r\n"), "{not_current}");
    assert!(not_current.contains(": the source is not connected yet\n\nretry:"), "{not_current}");
    server.stop();
}

#[test]
fn listed_origins_may_use_credentials() {
    let (server, _publisher, _handle) = Running::server(|server, _| {
        let mut config = Config::default();
        config.allowed_origins = vec!["https://a.example".parse().unwrap(), "https://b.example".parse().unwrap()];
        config.compression = Compression::Off;
        server.config(config).contract(contract())
    });
    let cors = |method: &str, path: &str, origin: &str| {
        let request = format!("{method} {path} HTTP/1.0\r\norigin: {origin}\r\n\r\n");
        let mut raw = Raw::connect_to(server.address);
        raw.send(&request);
        let head = raw.head();
        let value =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).map(str::to_owned);
        let allowed = (value("access-control-allow-origin"), value("access-control-allow-credentials"));
        assert!(head.contains("\r\nvary: origin\r\n"), "{head}");
        (allowed, value("access-control-allow-headers"))
    };
    let allowed = (Some("https://b.example".to_owned()), Some("true".to_owned()));
    for path in ["/subscribe/a", "/lines?/a"] {
        for (method, path) in [("GET", path.to_owned()), ("HEAD", path.to_owned()), ("GET", format!("{path}//"))] {
            assert_eq!(cors(method, &path, "https://b.example"), (allowed.clone(), None), "{method} {path}");
            assert_eq!(cors(method, &path, "https://c.example"), ((None, None), None), "{method} {path}");
        }
        let headers = "accept, authorization, cache-control, content-type, last-event-id".to_owned();
        assert_eq!(cors("OPTIONS", path, "https://b.example"), (allowed.clone(), Some(headers)), "{path}");
    }
    server.stop();
}

/// What an observer has seen.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

struct Watch {
    seen: Seen,
    name: String,
}

impl Seen {
    fn push(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    /// Waits until exactly the events `expected` were seen since the last call, in any order.
    #[track_caller]
    fn expect(&self, expected: &[&str]) {
        let mut expected: Vec<_> = expected.iter().map(|text| (*text).to_owned()).collect();
        expected.sort();
        let mut seen = Vec::new();
        let deadline = std::time::Instant::now() + LIMIT;
        while seen.len() < expected.len() && std::time::Instant::now() < deadline {
            seen.append(&mut self.0.lock().unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
        seen.sort();
        assert_eq!(seen, expected);
    }
}

impl StreamObserver for Seen {
    fn opened(&self, stream: &ConnectionInfo, grant: Option<&Grant>) -> Box<dyn StreamWatch> {
        let subject = grant.and_then(|grant| grant.subject.as_deref()).unwrap_or("-");
        let name = format!("{} {}", stream.user_agent, stream.topics);
        self.push(format!("{name}: opened by {subject}"));
        Box::new(Watch { seen: self.clone(), name })
    }
}

impl StreamWatch for Watch {
    fn topics_changed(&mut self, topics: &Topics, _grant: Option<&Grant>) {
        self.seen.push(format!("{}: {topics}", self.name));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.seen.push(format!("{}: closed", self.name));
    }
}

fn observed() -> (Running, Publisher, Handle, Seen) {
    let seen = Seen::default();
    let (server, publisher, handle) = Running::server({
        let seen = seen.clone();
        move |server: Server, _| server.contract(contract()).observer(seen)
    });
    (server, publisher, handle, seen)
}

#[test]
fn observer_sees_each_stream_once_over_every_transport() {
    let (server, _publisher, handle, seen) = observed();
    let agent =
        |name: &'static str| HeaderMap::from_iter([(hyper::header::USER_AGENT, HeaderValue::from_static(name))]);
    let mut sse = Raw::connect_to(server.address);
    sse.send(&get("/subscribe/a", "1.1", "user-agent: sse\r\n"));
    sse.head();
    let contract = server.lines("/users/ann", "user: ann\r\nuser-agent: contract\r\n");
    let http2 = Http2Lines::open(&server, "/subscribe/b", agent("http2"));
    let contract2 = Http2Lines::open(&server, "/lines?/c", agent("contract2"));
    let mut websocket = WebSocket::open_at(server.address, "/ws/d", &[("user-agent", "ws")]).unwrap();
    // Neither is a stream.
    let head = "HEAD /lines?/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(server.response(head).starts_with("HTTP/1.1 200 "));
    assert!(server.refused("/users/bob", "user: ann\r\n").starts_with("HTTP/1.1 403 "));
    seen.expect(&[
        "sse /a: opened by -",
        "contract /users/ann: opened by ann",
        "http2 /b: opened by -",
        "contract2 /c: opened by -",
        "ws /d: opened by -",
    ]);
    websocket.send_text(r#"{"subscribe": ["/d"]}"#);
    assert_eq!(websocket.json(), json!({"subscribed": ["/d"]}));
    websocket.send_text(r#"{"subscribe": ["d"]}"#);
    assert!(websocket.json()["error"].is_string());
    websocket.send_text(r#"{"subscribe": ["/e"]}"#);
    assert_eq!(websocket.json(), json!({"subscribed": ["/d", "/e"]}));
    seen.expect(&["ws /d: /d,/e"]);
    let connections = block_on(handle.report()).unwrap().connections;
    let of_websocket = connections.iter().find(|connection| &*connection.info.user_agent == "ws").unwrap().id;
    block_on(handle.close(of_websocket, CloseReason::Requested("bye".into()))).unwrap();
    assert_eq!(websocket.closed().1, "bye");
    drop((sse, contract, http2, contract2, websocket));
    seen.expect(&[
        "sse /a: closed",
        "contract /users/ann: closed",
        "http2 /b: closed",
        "contract2 /c: closed",
        "ws /d: closed",
    ]);
    server.stop();
    seen.expect(&[]);
}

#[test]
fn observer_sees_the_end_of_streams_at_shutdown() {
    let (server, _publisher, _handle, seen) = observed();
    let (_stream, _) = server.lines("/a", "user-agent: contract\r\n");
    let websocket = WebSocket::open_at(server.address, "/ws/b", &[("user-agent", "ws")]).unwrap();
    seen.expect(&["contract /a: opened by -", "ws /b: opened by -"]);
    // It does not wait for the clients.
    let stopped = std::thread::spawn(move || server.stop());
    drop(websocket);
    stopped.join().unwrap();
    seen.expect(&["contract /a: closed", "ws /b: closed"]);
}

#[test]
fn observer_sees_mounted_streams() {
    let seen = Seen::default();
    let server = Running::start({
        let seen = seen.clone();
        move |listener, shutdown| async move {
            let fanout = Fanout::builder().build();
            let handle = fanout.handle();
            let router = Router::new().nest_service("/events", StreamService::new(fanout.handle()).observer(seen));
            let shutdown = async move {
                shutdown.await;
                handle.shutdown();
            };
            axum::serve(listener, router).with_graceful_shutdown(shutdown).await.unwrap();
        }
    });
    let mut sse = Raw::connect_to(server.address);
    sse.send(&get("/events/a", "1.1", "user-agent: sse\r\n"));
    sse.head();
    let mut websocket = WebSocket::open_at(server.address, "/events/b", &[("user-agent", "ws")]).unwrap();
    seen.expect(&["sse /a: opened by -", "ws /b: opened by -"]);
    websocket.send_text(r#"{"subscribe": ["/c"]}"#);
    assert_eq!(websocket.json(), json!({"subscribed": ["/b", "/c"]}));
    seen.expect(&["ws /b: /b,/c"]);
    drop((sse, websocket));
    seen.expect(&["sse /a: closed", "ws /b: closed"]);
    server.stop();
    seen.expect(&[]);
}
