//! The connect hook: an application that decides about the streams of sessions.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::support::{EventSource, RedisServer, SECRET, Tallycast, WebSocket, block_on, eventually, get, read, token};

/// An application that answers every question alike; ended on drop.
struct Application {
    url: String,
    shared: Arc<Mutex<Shared>>,
    _owner: oneshot::Sender<()>,
}

#[derive(Default)]
struct Shared {
    /// `None`: it never answers.
    answer: Option<(StatusCode, String)>,
    /// Each question with its header `authorization`.
    questions: Vec<(Value, String)>,
}

impl Application {
    fn start(status: u16, answer: &str) -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (owner, owner_gone) = oneshot::channel();
        let (started, address) = std::sync::mpsc::sync_channel(1);
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            block_on(async {
                let listener = tallycast_server::listen(([127, 0, 0, 1], 0).into(), 64 * 1024).unwrap();
                started.send(listener.local_addr().unwrap()).unwrap();
                let handler = move |headers: axum::http::HeaderMap, question: String| {
                    let state = Arc::clone(&state);
                    async move {
                        let authorization =
                            headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
                        let question = serde_json::from_str(&question).unwrap();
                        let answer = {
                            let mut state = state.lock().unwrap();
                            state.questions.push((question, authorization.unwrap_or_default()));
                            state.answer.clone()
                        };
                        match answer {
                            Some(answer) => answer,
                            None => std::future::pending().await,
                        }
                    }
                };
                let app = Router::new().fallback(handler);
                let ended = async {
                    let _ = owner_gone.await;
                };
                tokio::select! {
                    served = axum::serve(listener, app) => served.unwrap(),
                    () = ended => {}
                }
            });
        });
        let url = format!("http://{}/connect", address.recv().unwrap());
        let application = Self { url, shared, _owner: owner };
        application.answer(status, answer);
        application
    }

    fn answer(&self, status: u16, answer: &str) {
        self.shared.lock().unwrap().answer = Some((StatusCode::from_u16(status).unwrap(), answer.to_owned()));
    }

    fn question(&self) -> (Value, String) {
        self.shared.lock().unwrap().questions.last().cloned().expect("it was asked")
    }
}

fn node(redis: &RedisServer, application: &Application, flags: &[&str]) -> Tallycast {
    let common = ["--sessions", "--connect-url", &application.url, "--connect-secret", "who-asks"];
    Tallycast::start(redis, &[&common[..], flags].concat())
}

#[test]
fn application_decides_about_session_topics_and_rights() {
    let redis = RedisServer::start();
    let answer = json!({"session": "ann", "topics": ["/raw"], "read": ["/details"], "publish": ["/raw"], "ttl": 5, "policy": "newest"});
    let application = Application::start(200, &answer.to_string());
    let node = node(&redis, &application, &["--token-key", &format!("HS256={SECRET}"), "--publish-key", "key"]);
    // The application looks at the token, if it wants.
    let mut first = WebSocket::open_with(&node, "/session/x?topic=/eps", &[("cookie", "login=7")]).unwrap();
    let (question, authorization) = application.question();
    assert_eq!(authorization, "Bearer who-asks");
    assert_eq!(
        (&question["contract"], &question["session"], &question["topics"]),
        (&json!("native"), &json!("x"), &json!(["/eps"]))
    );
    assert_eq!((&question["headers"]["cookie"], &question["address"]), (&json!("login=7"), &json!("127.0.0.1")));
    redis.publish_scores(["26"]);
    assert_eq!(first.json()["data"], "26");
    first.send_text(r#"{"subscribe": ["/details"]}"#);
    assert_eq!(first.json(), json!({"subscribed": ["/details", "/raw"]}));
    first.send_text(r#"{"publish": {"namespace": "/raw", "data": "27"}}"#);
    let (one, other) = (first.json(), first.json());
    assert!([&one, &other].iter().any(|message| message["data"] == "27"), "{one} {other}");
    first.send_text(r#"{"subscribe": ["/eps"]}"#);
    assert_eq!(first.json()["error"], "not allowed to read /eps");
    // Its answer for the next connection counts for the session.
    application.answer(200, &json!({"session": "ann", "topics": ["/details"], "policy": "newest"}).to_string());
    let second = EventSource::open(&node, "/session");
    // The first may read the new topics before it ends.
    let end = std::iter::from_fn(|| Some(first.next())).find(|message| message.is_close()).unwrap();
    assert_eq!(end.as_close().unwrap().1, "replaced by a newer connection");
    redis.publish_post("26", "1");
    assert_eq!(second.next().data, "1");
    application.answer(200, &json!({"session": "ann", "expires": 1}).to_string());
    assert_eq!(get(&node, "/session", &[]).status, 401);
}

#[test]
fn application_refuses_clients_for_a_reason() {
    let redis = RedisServer::start();
    let application = Application::start(403, "not without a ticket\nand more");
    let node = node(&redis, &application, &[]);
    assert_eq!(read(&node, "/session/ann", "").0, 403);
    assert_eq!(read(&node, "/session/ann", &token(&["--sub", "ann"])).1, "not without a ticket");
    application.answer(401, "");
    assert_eq!(read(&node, "/session/ann", "").0, 401);
    // Other streams are not its business.
    let (status, _, _) = read(&node, "/subscribe/raw", "");
    assert_eq!(status, 200);
}

#[test]
fn application_that_is_down_refuses_or_lets_clients_pass() {
    let redis = RedisServer::start();
    let application = Application::start(500, "");
    let limits = ["--connect-timeout", "500ms", "--connect-retries", "1"];
    let refusing = node(&redis, &application, &limits);
    let allowing = node(&redis, &application, &[&limits[..], &["--connect-when-down", "allow"]].concat());
    let is_down = || {
        assert_eq!(get(&refusing, "/session/ann", &[]).status, 503);
        let stream = EventSource::open(&allowing, "/session/ann?topic=/raw");
        redis.publish_scores(["26"]);
        assert_eq!(stream.next().data, "26");
    };
    is_down();
    // It hangs.
    application.shared.lock().unwrap().answer = None;
    is_down();
    assert!(refusing.counter("/connect_hook/failed") >= 2);
    application.answer(200, r#"{"read": ["/raw"]}"#);
    let stream = EventSource::open(&refusing, "/session/bob?topic=/raw");
    redis.publish_scores(["27"]);
    assert_eq!(stream.next().data, "27");
    eventually("it was asked about all", || application.shared.lock().unwrap().questions.len() >= 5);
    // What it says nothing about is not for every client that asks.
    let refused = (403, "not allowed to read /eps".to_owned());
    let status = |path: &str| {
        let (status, line, _) = read(&refusing, path, "");
        (status, line)
    };
    assert_eq!(status("/session/eve?topic=/raw&topic=/eps"), refused);
    application.answer(200, "{}");
    assert_eq!(status("/session/eve?topic=/eps"), refused);
    assert_eq!(status("/session/eve").0, 200);
}

#[test]
fn tokens_decide_when_the_application_is_down_and_need_not_answer() {
    let redis = RedisServer::start();
    let application = Application::start(500, "");
    let (key, hook) = (format!("HS256={SECRET}"), ["--connect-when-down", "allow", "--connect-retries", "0"]);
    let contracts = ["--unifrost", "gochan", "--realtime-channel", "chat,type=SSE"];
    let node = node(&redis, &application, &[&hook[..], &contracts, &["--token-key", &key]].concat());
    let ann = token(&["--sub", "ann", "--read", "/raw", "--read", "/unifrost/news", "--read", "/realtime/chat"]);
    let eve = token(&["--sub", "eve", "--read", "/eps"]);
    let status = |path: &str, token: &str| read(&node, path, token).0;
    for (path, others) in
        [("/session/ann?topic=/raw", 403), ("/events?topics=news", 403), ("/api/v1/channels/chat?clientId=c", 403)]
    {
        assert_eq!(
            (status(path, ""), status(path, &eve)),
            (if path.contains("topics") { 403 } else { 401 }, others),
            "{path}"
        );
        assert_eq!(status(path, &ann), 200, "{path}");
    }
    assert_eq!(status("/session/ann?topic=/eps", &ann), 403);
}
