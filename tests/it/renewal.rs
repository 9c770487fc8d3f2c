//! Tokens renewed over WebSocket, and grants that narrow topics.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{Extension, Router};
use reqwest::header::HeaderMap;
use serde_json::json;
use tallycast_fanout::{ConnectionInfo, Fanout, Handle, Message, Publisher, Topics, Update};
use tallycast_server::{
    Access, AccessRequest, Action, Authorizer, Denied, Grant, Stats, StreamObserver, StreamService, StreamWatch,
};

use crate::support::{EventSource, LIMIT, Running, WebSocket, block_on, eventually, send};

/// Action and token of a question.
type Question = (Action, Option<String>);

/// Knows tokens, in the header `token` or as sent later.
#[derive(Clone)]
struct Tokens {
    /// What each token allows, and the seconds for which it holds.
    known: Arc<HashMap<&'static str, (&'static str, u64)>>,
    started_at: SystemTime,
    questions: Arc<Mutex<Vec<Question>>>,
}

impl Authorizer for Tokens {
    async fn authorize(&self, access: &AccessRequest<'_>, _topics: &Topics) -> Result<Grant, Denied> {
        tokio::task::yield_now().await;
        self.questions.lock().unwrap().push((access.action(), access.token().map(str::to_owned)));
        let header = || access.headers().get("token").and_then(|token| token.to_str().ok());
        let token = access.token().or_else(header).ok_or_else(|| Denied::unauthorized("expected a token"))?;
        let (readable, seconds) = self.known.get(token).ok_or_else(|| Denied::unauthorized("unknown token"))?;
        let readable = readable.split(',').map(|topic| topic.parse().unwrap()).collect();
        let readable = Topics::new(readable).unwrap();
        let private = if token.starts_with("private") { readable.clone() } else { Topics::none() };
        Ok(Grant::default()
            .with_subject(token)
            .with_readable(Access::Topics(readable))
            .with_private(private)
            .with_expiry(self.started_at + Duration::from_secs(*seconds)))
    }
}

struct Fixture {
    server: Running,
    publisher: Publisher,
    handle: Handle,
    tokens: Tokens,
    stats: Arc<Stats>,
    /// Subjects and topics after each change.
    changes: Changes,
}

#[derive(Clone, Default)]
struct Changes(Arc<Mutex<Vec<String>>>);

impl StreamObserver for Changes {
    fn opened(&self, _stream: &ConnectionInfo, _grant: Option<&Grant>) -> Box<dyn StreamWatch> {
        Box::new(self.clone())
    }
}

impl StreamWatch for Changes {
    fn topics_changed(&mut self, topics: &Topics, grant: Option<&Grant>) {
        let subject = grant.and_then(|grant| grant.subject.as_deref()).unwrap_or("-");
        self.0.lock().unwrap().push(format!("{subject} {topics}"));
    }
}

fn start(known: &[(&'static str, (&'static str, u64))]) -> Fixture {
    let tokens = Tokens {
        known: Arc::new(known.iter().copied().collect()),
        started_at: SystemTime::now(),
        questions: Arc::default(),
    };
    let (stats, changes) = (Arc::<Stats>::default(), Changes::default());
    let (server, publisher, handle) = Running::server({
        let (tokens, stats, changes) = (tokens.clone(), Arc::clone(&stats), changes.clone());
        move |server, _| server.authorizer(tokens).stats(stats).observer(changes)
    });
    Fixture { server, publisher, handle, tokens, stats, changes }
}

impl Fixture {
    fn open(&self, path: &str, token: &str) -> WebSocket {
        WebSocket::open_at(self.server.address, path, &[("token", token)]).unwrap()
    }

    /// When a token of so many seconds expires, as clients see it.
    fn expiry(&self, seconds: u64) -> u64 {
        (self.tokens.started_at + Duration::from_secs(seconds)).duration_since(UNIX_EPOCH).unwrap().as_secs()
    }
}

#[test]
fn renewed_token_prolongs_the_stream() {
    let fixture = start(&[("old", ("/a", 6)), ("new", ("/a", 3600))]);
    let mut renewed = fixture.open("/ws/a", "old");
    let mut expired = fixture.open("/ws/a", "old");
    renewed.send_text(r#"{"token": "new", "id": 7}"#);
    assert_eq!(renewed.json(), json!({"token": "accepted", "expires": fixture.expiry(3600), "id": 7}));
    assert_eq!(expired.closed(), (1008, "the authorization has expired".to_owned()));
    send(&fixture.publisher, "/a", "1");
    assert_eq!(renewed.json()["data"], "1");
    let questions = fixture.tokens.questions.lock().unwrap().clone();
    assert_eq!(questions[2..], [(Action::Renew, Some("new".to_owned()))]);
    assert_eq!(*fixture.changes.0.lock().unwrap(), ["new /a"]);
    fixture.server.stop();
}

#[test]
fn refused_token_leaves_the_stream_as_it_was() {
    let fixture = start(&[("old", ("/a,/b", 6)), ("other", ("/c", 3600)), ("expired", ("/a", 0))]);
    let mut websocket = fixture.open("/ws/a", "old");
    for (token, error) in [
        ("unknown", "unknown token"),
        ("other", "not allowed to read /a"),
        ("expired", "the authorization has expired"),
    ] {
        websocket.send_text(&json!({"token": token, "id": token}).to_string());
        assert_eq!(websocket.json(), json!({"error": error, "id": token}));
    }
    assert_eq!((fixture.stats.denied.get(), fixture.stats.websocket.refused.get()), (3, 3));
    // The old token still holds.
    websocket.send_text(r#"{"subscribe": ["/b"]}"#);
    assert_eq!(websocket.json(), json!({"subscribed": ["/a", "/b"]}));
    assert_eq!(fixture.tokens.questions.lock().unwrap().last(), Some(&(Action::ChangeTopics, None)));
    send(&fixture.publisher, "/b", "1");
    assert_eq!(websocket.json()["data"], "1");
    assert_eq!(websocket.closed(), (1008, "the authorization has expired".to_owned()));
    fixture.server.stop();
}

#[test]
fn later_changes_of_topics_are_decided_with_the_renewed_token() {
    let fixture = start(&[("old", ("/a", 3600)), ("new", ("/a,/b", 7200)), ("newer", ("/a,/b,/c", 9000))]);
    let mut websocket = fixture.open("/ws/a", "old");
    websocket.send_text(r#"{"subscribe": ["/b"]}"#);
    assert_eq!(websocket.json(), json!({"error": "not allowed to read /b"}));
    websocket.send_text(r#"{"token": "new"}"#);
    assert_eq!(websocket.json(), json!({"token": "accepted", "expires": fixture.expiry(7200)}));
    websocket.send_text(r#"{"subscribe": ["/b"]}"#);
    assert_eq!(websocket.json(), json!({"subscribed": ["/a", "/b"]}));
    assert_eq!(fixture.tokens.questions.lock().unwrap().last(), Some(&(Action::ChangeTopics, Some("new".to_owned()))));
    // In one message.
    websocket.send_text(r#"{"token": "newer", "subscribe": ["/c"], "unsubscribe": ["/a"], "id": 1}"#);
    assert_eq!(
        websocket.json(),
        json!({"token": "accepted", "expires": fixture.expiry(9000), "subscribed": ["/b", "/c"], "id": 1})
    );
    assert_eq!(*fixture.changes.0.lock().unwrap(), ["new /a", "new /a,/b", "newer /b,/c"]);
    fixture.server.stop();
}

#[test]
fn renewed_token_opens_private_updates() {
    let fixture = start(&[("old", ("/a", 3600)), ("private", ("/a", 7200))]);
    let private = |text: &str| {
        let mut message = Message::text("/a".parse().unwrap(), text);
        message.update = Some(Box::new(Update { is_private: true, ..Update::default() }));
        block_on(fixture.publisher.send(message)).unwrap();
    };
    let mut websocket = fixture.open("/ws/a", "old");
    let mut other = fixture.open("/ws/a", "old");
    private("1");
    websocket.send_text(r#"{"token": "private"}"#);
    assert_eq!(websocket.json()["token"], "accepted");
    private("2");
    send(&fixture.publisher, "/a", "3");
    assert_eq!([websocket.json()["data"].clone(), websocket.json()["data"].clone()], ["2", "3"]);
    assert_eq!(other.json()["data"], "3");
    websocket.send_text(r#"{"token": "old"}"#);
    assert_eq!(websocket.json()["token"], "accepted");
    private("4");
    send(&fixture.publisher, "/a", "5");
    assert_eq!(websocket.json()["data"], "5");
    fixture.server.stop();
}

#[test]
fn tokens_are_refused_where_nothing_asks_for_them() {
    let (server, _publisher, _handle) = Running::server(|server, _| server);
    let mut websocket = WebSocket::open_at(server.address, "/ws/a", &[]).unwrap();
    websocket.send_text(r#"{"token": "secret", "subscribe": ["/b"], "id": 1}"#);
    assert_eq!(websocket.json(), json!({"error": "this server has no tokens", "id": 1}));
    websocket.send_text(r#"{"subscribe": ["/b"]}"#);
    assert_eq!(websocket.json(), json!({"subscribed": ["/a", "/b"]}));
    server.stop();
}

#[test]
fn raw_clients_renew_silently_and_are_closed_when_refused() {
    let fixture = start(&[("old", ("/a", 3600)), ("new", ("/a", 7200))]);
    let headers = [("token", "old"), ("sec-websocket-protocol", "raw")];
    let mut websocket = WebSocket::open_at(fixture.server.address, "/ws/a", &headers).unwrap();
    websocket.send_text(r#"{"token": "new"}"#);
    websocket.send_text(r#"{"token": "unknown"}"#);
    assert_eq!(websocket.closed(), (1008, "unknown token".to_owned()));
    assert_eq!(*fixture.changes.0.lock().unwrap(), ["new /a"]);
    fixture.server.stop();
}

#[test]
fn grant_narrows_the_topics_of_every_stream() {
    let fixture = start(&[("old", ("/a/1,/b", 3600)), ("new", ("/a/2", 3600))]);
    let headers = HeaderMap::from_iter([("token".parse().unwrap(), "old".parse().unwrap())]);
    let open = |http2: bool| {
        let client = reqwest::Client::builder().default_headers(headers.clone());
        let client = if http2 { client.http2_prior_knowledge() } else { client };
        EventSource::open_url(client, fixture.server.url("/subscribe/a/*"))
    };
    let readers = [open(false), open(true)];
    let mut websocket = fixture.open("/ws/a/*", "old");
    let topics = || {
        let connections = block_on(fixture.handle.report()).unwrap().connections;
        connections.iter().map(|connection| connection.info.topics.to_string()).collect::<Vec<_>>()
    };
    eventually("all streams are open", || topics().len() == 3);
    assert_eq!(topics(), ["/a/1", "/a/1", "/a/1"]);
    send(&fixture.publisher, "/a/2", "not for them");
    send(&fixture.publisher, "/a/1", "1");
    assert_eq!(readers.map(|reader| reader.next().data), ["1", "1"]);
    assert_eq!(websocket.json()["data"], "1");
    websocket.send_text(r#"{"subscribe": ["/*"]}"#);
    assert_eq!(websocket.json(), json!({"subscribed": ["/a/1", "/b"]}));
    // Outside of the grant.
    websocket.send_text(r#"{"subscribe": ["/c/*"]}"#);
    assert_eq!(websocket.json(), json!({"error": "not allowed to read /c/*"}));
    let denied =
        fixture.server.response("GET /subscribe/c/* HTTP/1.1\r\nhost: x\r\ntoken: old\r\nconnection: close\r\n\r\n");
    assert!(denied.starts_with("HTTP/1.1 403 ") && denied.ends_with("\r\n\r\nnot allowed to read /c/*\n"), "{denied}");
    fixture.server.stop();
}

#[test]
fn renewed_token_narrows_the_topics() {
    let fixture = start(&[("old", ("/a/*", 3600)), ("new", ("/a/2", 7200))]);
    let mut websocket = fixture.open("/ws/a/*", "old");
    websocket.send_text(r#"{"token": "new"}"#);
    let answer = json!({"token": "accepted", "expires": fixture.expiry(7200), "subscribed": ["/a/2"]});
    assert_eq!(websocket.json(), answer);
    send(&fixture.publisher, "/a/1", "not for it");
    send(&fixture.publisher, "/a/2", "1");
    assert_eq!(websocket.json()["data"], "1");
    assert_eq!(*fixture.changes.0.lock().unwrap(), ["new /a/2"]);
    fixture.server.stop();
}

#[test]
fn grant_of_a_host_narrows_mounted_streams() {
    let (sender, started) = std::sync::mpsc::sync_channel(1);
    let server = Running::start(move |listener, shutdown| async move {
        let fanout = Fanout::builder().build();
        sender.send(fanout.publisher()).unwrap();
        let handle = fanout.handle();
        let readable = Topics::new(vec!["/a/1".parse().unwrap()]).unwrap();
        let grant = Grant::default().with_readable(Access::Topics(readable));
        let router = Router::new().nest_service("/events", StreamService::new(fanout.handle())).layer(Extension(grant));
        let shutdown = async move {
            shutdown.await;
            handle.shutdown();
        };
        axum::serve(listener, router).with_graceful_shutdown(shutdown).await.unwrap();
    });
    let publisher = started.recv_timeout(LIMIT).unwrap();
    let reader = server.open("/events/a/*");
    let mut websocket = WebSocket::open_at(server.address, "/events/a/*", &[]).unwrap();
    send(&publisher, "/a/2", "not for them");
    send(&publisher, "/a/1", "1");
    assert_eq!((reader.next().data, websocket.json()["data"].clone()), ("1".to_owned(), json!("1")));
    let denied = server.response("GET /events/b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(denied.starts_with("HTTP/1.1 403 ") && denied.ends_with("\r\n\r\nnot allowed to read /b\n"), "{denied}");
    drop((reader, websocket));
    server.stop();
}
