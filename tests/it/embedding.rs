//! The examples that embed the server, and the parts of its public API that the application does not use.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use reqwest::header::{COOKIE, HeaderMap, SET_COOKIE};
use serde_json::json;
use tallycast_fanout::{Access, Fanout, Handle, Message, Publisher, Topics};
use tallycast_server::{AccessRequest, Action, Authorizer, Config, Denied, Grant, Stats, StreamService};

use crate::support::{Event, EventSource, LIMIT, Raw, Running, WebSocket, block_on, eventually, send};

#[expect(dead_code, reason = "the tests call its functions, not its main")]
#[path = "../../examples/axum_app.rs"]
mod axum_app;
#[expect(dead_code, reason = "the tests call its functions, not its main")]
#[path = "../../examples/clock.rs"]
mod clock;
#[expect(dead_code, reason = "the tests call its functions, not its main")]
#[path = "../../examples/unifrost_app.rs"]
mod unifrost_app;

#[test]
fn clock_example_serves_the_time_and_ends_its_streams() {
    let mut clock = Running::start(|listener, shutdown| async move { clock::serve(listener, shutdown).await.unwrap() });
    let reader = clock.open("/subscribe/clock");
    let mut websocket = WebSocket::open_at(clock.address, "/ws/clock", &[]).unwrap();
    httpdate::parse_http_date(&reader.next().data).unwrap();
    assert_eq!(websocket.json()["namespace"], "/clock");
    let unknown = clock.response("GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(unknown.starts_with("HTTP/1.1 404 "), "{unknown}");
    clock.signal();
    reader.rest();
    clock.stop();
}

#[test]
fn axum_example_streams_topics_of_the_logged_in_user() {
    let mut app =
        Running::start(|listener, shutdown| async move { axum_app::serve(listener, shutdown).await.unwrap() });
    let client = reqwest::Client::new();
    let get = |path: &str| block_on(client.get(app.url(path)).send()).unwrap();
    assert!(block_on(get("/").text()).unwrap().starts_with("log in"));
    assert_eq!(get("/events").status(), 401);
    assert_eq!(
        WebSocket::open_at(app.address, "/events", &[]).err().map(|error| error.to_string().is_empty()),
        Some(false)
    );

    let login = block_on(client.post(app.url("/login/ann")).send()).unwrap();
    let cookie = login.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let headers = HeaderMap::from_iter([(COOKIE, cookie.parse().unwrap())]);
    let logged_in = || reqwest::Client::builder().default_headers(headers.clone());
    let reader = EventSource::open_url(logged_in(), app.url("/events"));
    let http2 = EventSource::open_url(logged_in().http2_prior_knowledge(), app.url("/events"));
    assert_eq!(http2.version, reqwest::Version::HTTP_2);
    let mut websocket = WebSocket::open_at(app.address, "/events", &[("cookie", &cookie)]).unwrap();
    let post = |path: &str, text: &'static str| {
        let client = logged_in().build().unwrap();
        assert_eq!(block_on(client.post(app.url(path)).body(text).send()).unwrap().status(), 202);
    };
    post("/messages/bob", "not for ann");
    post("/messages/ann", "hello");
    assert_eq!([reader.next(), http2.next()], ["hello", "hello"].map(Event::message));
    assert_eq!(websocket.json(), json!({"namespace": "/users/ann", "event": null, "data": "hello"}));
    // A client may narrow its topics, but not widen them.
    websocket.send_text(r#"{"subscribe": ["/users/bob"]}"#);
    assert_eq!(websocket.json(), json!({"error": "not allowed to read /users/bob"}));
    websocket.send_text(r#"{"unsubscribe": ["/news"]}"#);
    assert_eq!(websocket.json(), json!({"subscribed": ["/users/ann"]}));
    let foreign = [("cookie", &*cookie), ("origin", "https://example.org")];
    assert!(WebSocket::open_at(app.address, "/events", &foreign).is_err());
    app.signal();
    assert_eq!((reader.rest(), http2.rest()), (Vec::new(), Vec::new()));
    assert_eq!(websocket.closed().0, 1001);
    app.stop();
}

#[test]
fn unifrost_example_changes_topics_of_the_users_own_consumers() {
    let mut app =
        Running::start(|listener, shutdown| async move { unifrost_app::serve(listener, shutdown).await.unwrap() });
    let client = reqwest::Client::new();
    assert_eq!(block_on(client.get(app.url("/events")).send()).unwrap().status(), 401);
    let post = |user: &str, path: &str, body: String| {
        let request = client.post(app.url(path)).header("x-user", user).body(body);
        block_on(async {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        })
    };
    let open = |user: &'static str| {
        let headers = HeaderMap::from_iter([("x-user".parse().unwrap(), user.parse().unwrap())]);
        let reader = EventSource::open_url(reqwest::Client::builder().default_headers(headers), app.url("/events"));
        let (topic, payload): (String, String) = serde_json::from_str(&reader.next().data).unwrap();
        assert_eq!(topic, "/unifrost/info");
        let info: serde_json::Value = serde_json::from_str(&payload).unwrap();
        (reader, info["config"]["consumer_id"].as_str().unwrap().to_owned())
    };
    let ((ann, ann_id), (bob, bob_id)) = (open("ann"), open("bob"));
    assert_ne!(ann_id, bob_id);
    let update = |user: &str, id: &str, add: &[&str], remove: &[&str]| {
        let body = json!({"consumer_id": id, "add": add, "remove": remove}).to_string();
        post(user, "/update_subscriptions", body)
    };
    let answer = |id: &str| (200, json!({"consumer_id": id}).to_string());
    assert_eq!(update("ann", &ann_id, &["news", "user:ann"], &[]), answer(&ann_id));
    assert_eq!(update("bob", &bob_id, &["news"], &[]), answer(&bob_id));
    // Neither the topics nor the consumers of others.
    assert_eq!(update("bob", &bob_id, &["user:ann"], &[]), (403, "not allowed to read user:ann\n".to_owned()));
    for (user, id) in [("bob", &*ann_id), ("bob", "unknown")] {
        assert_eq!(update(user, id, &[], &["news"]), (401, "invalid consumer id\n".to_owned()));
    }
    assert_eq!(post("ann", "/update_subscriptions", "{}".to_owned()).0, 400);
    assert_eq!(post("bob", "/messages/user:ann", "hello".to_owned()).0, 202);
    assert_eq!(update("bob", &bob_id, &[], &["news"]), answer(&bob_id));
    assert_eq!(post("bob", "/messages/news", "1".to_owned()).0, 202);
    assert_eq!([ann.next(), ann.next()], [r#"["user:ann","hello"]"#, r#"["news","1"]"#].map(Event::message));
    app.signal();
    assert_eq!((ann.rest(), bob.rest()), (Vec::new(), Vec::new()));
    app.stop();
}

#[test]
fn nested_service_reads_topics_from_the_path() {
    let (sender, publisher) = std::sync::mpsc::sync_channel(1);
    let app = Running::start(move |listener, shutdown| async move {
        let fanout = Fanout::builder().build();
        sender.send(fanout.publisher()).unwrap();
        let handle = fanout.handle();
        let router = Router::new().nest_service("/events", StreamService::new(fanout.handle()));
        let shutdown = async move {
            shutdown.await;
            handle.shutdown();
        };
        axum::serve(listener, router).with_graceful_shutdown(shutdown).await.unwrap();
    });
    let publisher = publisher.recv_timeout(LIMIT).unwrap();
    let reader = app.open("/events/a,b");
    let envelopes = app.open("/events/b?envelope=1");
    let mut websocket = WebSocket::open_at(app.address, "/events/a", &[]).unwrap();
    send(&publisher, "/b", "1");
    assert_eq!(envelopes.next(), Event::message(r#"{"namespace":"/b","event":null,"data":1}"#));
    send(&publisher, "/a", "2");
    assert_eq!([reader.next(), reader.next()], ["1", "2"].map(Event::message));
    assert_eq!(websocket.json()["data"], "2");
    websocket.send_text(r#"{"subscribe": ["/b"]}"#);
    assert_eq!(websocket.json(), json!({"subscribed": ["/a", "/b"]}));
    let bad = app.response("GET /events/a//b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(bad.ends_with("\r\n\r\nbad path: a namespace must not have an empty segment ('//')\n"), "{bad}");
    drop(envelopes);
    app.stop();
    assert_eq!(reader.rest(), []);
}

#[test]
fn fallback_receives_bodies_on_kept_connections() {
    let (server, publisher, _handle) = Running::server(|server, _| {
        let echo = post(|body: String| async move { body }).layer(DefaultBodyLimit::max(10));
        server.fallback(Router::new().route("/echo", echo))
    });
    let mut connection = Raw::connect_to(server.address);
    for text in ["hello", "again"] {
        // In two parts, so that the body arrives after the headers.
        connection.send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n");
        connection.send(text);
        assert!(connection.head().starts_with("HTTP/1.1 200 OK\r\n"));
        connection.expect(text);
    }
    connection.send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 11\r\n\r\nhello again");
    assert!(connection.head().starts_with("HTTP/1.1 413 "));
    // The connection of a page can still become a stream.
    let mut connection = Raw::connect_to(server.address);
    connection.send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello");
    connection.head();
    connection.expect("hello");
    let mut stream = connection.subscribed("/subscribe/a");
    send(&publisher, "/a", "1");
    assert_eq!(stream.chunk(), "data:1\n\n");
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let response = block_on(async { http2.post(server.url("/echo")).body("h2").send().await.unwrap().text().await });
    assert_eq!(response.unwrap(), "h2");
    server.stop();
}

#[test]
fn connection_is_closed_silently_when_idle_after_a_body() {
    let (server, _publisher, _handle) = Running::server(|server, _| {
        let mut config = Config::default();
        config.idle_timeout = Duration::from_millis(300);
        server.config(config).fallback(Router::new().route("/echo", post(|body: String| async move { body })))
    });
    let mut connection = Raw::connect_to(server.address);
    connection.send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n");
    connection.send("hello");
    connection.head();
    connection.expect("hello");
    assert_eq!(connection.read_to_end(), "", "no request was begun");
    server.stop();
}

#[test]
fn prefixes_and_greeting_can_be_set() {
    let (server, publisher, _handle) = Running::server(|server, _| {
        let mut config = Config::default();
        config.prefix = "/events".into();
        config.websocket_prefix = "/socket".into();
        config.greeting = "welcome".into();
        server.config(config)
    });
    let mut stream = Raw::connect_to(server.address);
    stream.send("GET /events/a HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(stream.head().starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(stream.chunk(), ": welcome\n\n");
    let mut websocket = WebSocket::open_at(server.address, "/socket/a", &[]).unwrap();
    send(&publisher, "/a", "1");
    assert_eq!((stream.chunk(), websocket.json()["data"].clone()), ("data:1\n\n".to_owned(), json!("1")));
    let get = |path: &str| server.response(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
    assert!(
        get("/events//")
            .ends_with("\r\n\r\nbad path after /events: a namespace must not have an empty segment ('//')\n")
    );
    assert!(get("/socket/a").ends_with("/socket is for WebSocket, over HTTP/1.1; event streams are at /events\n"));
    assert!(get("/subscribe/a").ends_with("; there are /events/<namespace>, /socket/<namespace>\n"));
    server.stop();
}

#[test]
fn graceful_shutdown_does_not_wait_for_publishers() {
    let (mut server, publisher, handle) = Running::server(|server, _| server);
    let reader = server.open("/subscribe/a");
    let mut websocket = WebSocket::open_at(server.address, "/ws/a", &[]).unwrap();
    send(&publisher, "/a", "last");
    server.signal();
    assert_eq!(reader.rest(), [Event::message("last")]);
    assert_eq!(websocket.json()["data"], "last");
    assert_eq!(websocket.closed().0, 1001);
    server.stop();
    assert!(block_on(publisher.send(Message::text("/a".parse().unwrap(), "late"))).is_err());
    block_on(handle.closed());
}

/// Grants a user, named in the header `user`, the topics below `/users/<name>`.
struct Users {
    expires_in: Duration,
}

impl Authorizer for Users {
    async fn authorize(&self, access: &AccessRequest<'_>, topics: &Topics) -> Result<Grant, Denied> {
        // Waits, as a question to another service would.
        tokio::task::yield_now().await;
        let name = access.headers().get("user").and_then(|name| name.to_str().ok());
        let Some(name) = name else { return Err(Denied::unauthorized("expected the header user")) };
        assert_eq!(access.client_ip(), std::net::Ipv4Addr::LOCALHOST);
        if access.action() == Action::ChangeTopics && topics.iter().any(|topic| topic.to_string().ends_with("/slow")) {
            std::future::pending::<Infallible>().await;
        }
        let readable = Topics::new(vec![format!("/users/{name}").parse().unwrap()]).unwrap();
        Ok(Grant::default()
            .with_subject(name)
            .with_readable(Access::Topics(readable))
            .with_expiry(SystemTime::now() + self.expires_in))
    }
}

fn with_users(expires_in: Duration) -> (Running, Publisher, Handle, Arc<Stats>) {
    let stats = Arc::<Stats>::default();
    let (server, publisher, handle) = Running::server({
        let stats = Arc::clone(&stats);
        move |server, _| {
            let mut config = Config::default();
            config.authorize_timeout = Duration::from_millis(500);
            server.config(config).stats(stats).authorizer(Users { expires_in })
        }
    });
    (server, publisher, handle, stats)
}

#[test]
fn authorizer_decides_about_every_way_in() {
    let (server, publisher, handle, stats) = with_users(Duration::from_secs(3600));
    let client = |http2: bool| {
        let client = reqwest::Client::builder();
        if http2 { client.http2_prior_knowledge() } else { client }
    };
    for (user, status, text) in
        [(None, 401, "expected the header user\n"), (Some("bob"), 403, "not allowed to read /users/ann\n")]
    {
        for http2 in [false, true] {
            let mut request = client(http2).build().unwrap().get(server.url("/subscribe/users/ann"));
            if let Some(user) = user {
                request = request.header("user", user);
            }
            let response = block_on(request.send()).unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers().contains_key("www-authenticate"), status == 401);
            assert_eq!(block_on(response.text()).unwrap(), text);
        }
        let headers: Vec<_> = user.map(|user| ("user", user)).into_iter().collect();
        let mut websocket = Raw::connect_to(server.address);
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        websocket.send(&crate::support::upgrade("/ws/users/ann").replace("\r\n\r\n", &format!("\r\n{lines}\r\n")));
        assert!(websocket.head().starts_with(&format!("HTTP/1.1 {status} ")));
    }
    assert_eq!(stats.denied.get(), 6);
    // Pages of every origin may send a token.
    let preflight = server.response("OPTIONS /subscribe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let headers =
        "\r\naccess-control-allow-headers: accept, authorization, cache-control, content-type, last-event-id\r\n";
    assert!(preflight.contains(headers) && !preflight.contains("credentials"), "{preflight}");

    let headers = HeaderMap::from_iter([("user".parse().unwrap(), "ann".parse().unwrap())]);
    let open = |http2| {
        EventSource::open_url(client(http2).default_headers(headers.clone()), server.url("/subscribe/users/ann"))
    };
    let (reader, http2) = (open(false), open(true));
    let mut websocket = WebSocket::open_at(server.address, "/ws/users/ann", &[("user", "ann")]).unwrap();
    let subjects = || {
        let connections = block_on(handle.report()).unwrap().connections;
        connections.into_iter().filter(|connection| connection.subject.as_deref() == Some("ann")).count()
    };
    eventually("all connections have a subject", || subjects() == 3);
    websocket.send_text(r#"{"subscribe": ["/users/bob"]}"#);
    assert_eq!(websocket.json(), json!({"error": "not allowed to read /users/bob"}));
    websocket.send_text(r#"{"subscribe": ["/users/ann/slow"], "id": 1}"#);
    assert_eq!(websocket.json(), json!({"error": "authorization took too long; try again in a moment.", "id": 1}));
    websocket.send_text(r#"{"unsubscribe": ["/users/ann"], "subscribe": ["/users/ann/inbox"], "id": 2}"#);
    assert_eq!(websocket.json(), json!({"subscribed": ["/users/ann/inbox"], "id": 2}));
    send(&publisher, "/users/ann/inbox", "1");
    assert_eq!([reader.next(), http2.next()], ["1", "1"].map(Event::message));
    assert_eq!(websocket.json()["data"], "1");
    server.stop();
}

#[test]
fn streams_end_when_their_grant_expires() {
    let (server, _publisher, _handle, _stats) = with_users(Duration::from_secs(2));
    let mut stream = Raw::connect_to(server.address);
    stream.send("GET /subscribe/users/ann HTTP/1.1\r\nhost: x\r\nuser: ann\r\n\r\n");
    stream.head();
    let mut websocket = WebSocket::open_at(server.address, "/ws/users/ann", &[("user", "ann")]).unwrap();
    let headers = HeaderMap::from_iter([("user".parse().unwrap(), "ann".parse().unwrap())]);
    let client = reqwest::Client::builder().default_headers(headers).http2_prior_knowledge();
    let page = EventSource::open_url(client, server.url("/subscribe/users/ann?notices=1"));
    assert_eq!(stream.chunks_to_end(), ": tallycast\n\n: the authorization has expired\n\n");
    assert_eq!(page.rest(), [Event::named("expired", r#"{"reason":"the authorization has expired"}"#)]);
    assert_eq!(websocket.closed(), (1008, "the authorization has expired".to_owned()));
    server.stop();
}
