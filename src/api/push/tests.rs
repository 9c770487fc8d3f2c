//! Requests to a push source, with a pipeline that takes events when the test says so.

use axum::body::Body;
use axum::http::header::RETRY_AFTER;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use tallycast_fanout::inbox::{self, Receiver};
use tokio::sync::watch;
use tower::ServiceExt;

use super::*;
use crate::decode::Routes;
use crate::publishing::Publisher;
use crate::source::{PushSource, RawEvent, SourceEvent, SourceId, Supervisor};

/// A source, and the inbox that its events arrive in.
struct Pushed {
    router: Router,
    inbox: Receiver<SourceEvent>,
    stats: Arc<PushStats>,
}

impl Pushed {
    fn start(url: &str) -> Self {
        let (sender, inbox) = inbox::channel(64, 1 << 20);
        let (source, queue) = PushSource::new("s");
        tokio::spawn(Supervisor::new(sender).run(source));
        let routes = Routes::new(vec!["a.*=/a/*".parse().unwrap(), "b=/b".parse().unwrap()]).unwrap();
        let (_, routes) = watch::channel(routes);
        let (config, stats) = (Config::parse(url).unwrap(), Arc::<PushStats>::default());
        let shared = Shared {
            publisher: Publisher::new(Vec::new()),
            routes,
            max_body: 1000,
            key_servers: None,
            stats: Arc::clone(&stats),
            auth_stats: Arc::default(),
        };
        let started = Started { source: SourceId::DEFAULT, name: "s".into(), config, queue };
        Self { router: router(vec![Endpoint::start(started, &shared).unwrap()]), inbox, stats }
    }

    fn send(&self, path: &str, headers: &[(&str, &str)], body: &str) -> tokio::task::JoinHandle<Response> {
        let request = headers.iter().fold(Request::post(path), |request, (name, value)| request.header(*name, *value));
        let (router, request) = (self.router.clone(), request.body(Body::from(body.to_owned())).unwrap());
        tokio::spawn(async move { router.oneshot(request).await.unwrap() })
    }

    /// The next event.
    async fn event(&mut self) -> RawEvent {
        let mut events = Vec::new();
        self.inbox.recv_many(&mut events, 1).await;
        match events.pop() {
            Some(SourceEvent::Published(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    /// Takes the next event, and returns its channel and its payload.
    async fn take(&mut self) -> (String, String) {
        let mut event = self.event().await;
        event.acknowledgement.take().unwrap().acknowledge();
        (event.channel, String::from_utf8(event.payload).unwrap())
    }

    fn counts(&self) -> [u64; 5] {
        let PushStats { received, duplicates, rejected, refused, retried } = &*self.stats;
        [received, duplicates, rejected, refused, retried].map(Counter::get)
    }
}

fn event(channel: &str, payload: &str) -> (String, String) {
    (channel.to_owned(), payload.to_owned())
}

async fn line_of(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap().trim_end().to_owned())
}

/// A CloudEvent of the type `b`.
fn cloud_event(id: &str, data: Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/s", "type": "b", "data": data})
}

const STRUCTURED: [(&str, &str); 1] = [("content-type", "application/cloudevents+json")];
const BATCHED: [(&str, &str); 1] = [("content-type", "application/cloudevents-batch+json")];

#[tokio::test]
async fn sender_has_its_answer_when_the_event_is_taken_and_each_event_is_taken_once() {
    let mut pushed = Pushed::start("webhook:?auth=none");
    let with_id = [("webhook-id", "1")];
    let first = pushed.send("/push/s/a.x%20y", &with_id, "hello");
    let mut arrived = pushed.event().await;
    assert!(!first.is_finished());
    // At the same time.
    let second = pushed.send("/push/s/a.x%20y", &with_id, "hello").await.unwrap();
    assert_eq!((second.status().as_u16(), &second.headers()[RETRY_AFTER]), (503, &HeaderValue::from_static("1")));
    assert_eq!((&*arrived.channel, &*arrived.payload), ("a.x y", &b"hello"[..]));
    // Lost before the hub has it: it is not taken, and may be sent again.
    drop(arrived.acknowledgement.take());
    assert_eq!(first.await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    let third = pushed.send("/push/s/a.x%20y", &with_id, "hello");
    assert_eq!(pushed.take().await, event("a.x y", "hello"));
    assert_eq!(third.await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(pushed.send("/push/s/a.x%20y", &with_id, "hello").await.unwrap().status(), StatusCode::NO_CONTENT);
    // The same id on another channel, and no id at all.
    for (path, headers) in [("/push/s/b", &with_id[..]), ("/push/s/b", &[]), ("/push/s/b", &[])] {
        let sent = pushed.send(path, headers, "hello");
        assert_eq!(pushed.take().await, event("b", "hello"));
        assert_eq!(sent.await.unwrap().status(), StatusCode::NO_CONTENT);
    }
    assert_eq!(pushed.counts(), [4, 1, 0, 0, 2]);
}

#[tokio::test]
async fn event_whose_sender_has_gone_is_known_to_be_taken() {
    let mut pushed = Pushed::start("webhook:?auth=none");
    let sent = pushed.send("/push/s/b", &[("webhook-id", "1")], "hello");
    let mut arrived = pushed.event().await;
    sent.abort();
    assert!(sent.await.is_err());
    arrived.acknowledgement.take().unwrap().acknowledge();
    while pushed.counts()[0] == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        pushed.send("/push/s/b", &[("webhook-id", "1")], "hello").await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(pushed.counts(), [1, 1, 0, 0, 0]);
}

#[tokio::test]
async fn what_can_never_be_taken_is_answered_with_the_reason() {
    let pushed = Pushed::start("webhook:?auth=none");
    let large = "x".repeat(1001);
    for (path, body, expected) in [
        ("/push/s/c", "x", (404, "no route matches the channel")),
        ("/push/s", "x", (404, "the request names no channel; expected /push/<source>/<channel>")),
        ("/push/s/", "x", (404, "the request names no channel; expected /push/<source>/<channel>")),
        ("/push/s/tallycast:sent:ann:b", "x", (404, "channels that start with tallycast: are reserved")),
        ("/push/s/a.%0A", "x", (400, "channel: expected at most 512 bytes without control characters")),
        ("/push/s/a.%ff", "x", (400, "the path is not UTF-8")),
        ("/push/s/b", &large, (413, "the request body is too large; the limit is 1000 bytes")),
    ] {
        let (status, line) = line_of(pushed.send(path, &[], body).await.unwrap()).await;
        assert_eq!((status, &*line), expected, "{path}");
    }
    let (status, line) = line_of(pushed.send("/push/s/a.", &[], "x").await.unwrap()).await;
    assert!(status == 422 && line.starts_with("the channel maps to an invalid namespace: "), "{status} {line}");
    assert_eq!(line_of(pushed.send("/push/other/b", &[], "x").await.unwrap()).await.0, 404);
    assert_eq!(pushed.counts(), [0, 0, 8, 0, 0]);
    // Senders that would repeat it have another answer.
    let pushed = Pushed::start("webhook:?auth=none&rejected=204");
    assert_eq!(line_of(pushed.send("/push/s/c", &[], "x").await.unwrap()).await, (204, String::new()));
    assert_eq!(pushed.counts(), [0, 0, 1, 0, 0]);
}

#[tokio::test]
async fn batch_is_taken_event_by_event() {
    let mut pushed = Pushed::start("cloudevents:?auth=none");
    let mut other = cloud_event("4", json!(4));
    other["type"] = json!("c");
    let batch =
        json!([cloud_event("1", json!(1)), cloud_event("1", json!(1)), other, {}, cloud_event("2", json!({"a": 2}))]);
    let sent = pushed.send("/push/s", &BATCHED, &batch.to_string());
    assert_eq!([pushed.take().await, pushed.take().await], [event("b", "1"), event("b", r#"{"a":2}"#)]);
    assert_eq!(sent.await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(pushed.counts(), [2, 1, 2, 0, 0]);
    let sent = pushed.send("/push/s", &STRUCTURED, &cloud_event("2", json!(0)).to_string()).await.unwrap();
    assert_eq!(sent.status(), StatusCode::NO_CONTENT);
    // If some were lost, the whole batch is sent again, and the rest of it is taken then.
    let batch = json!([cloud_event("5", json!(5)), cloud_event("6", json!(6))]).to_string();
    let sent = pushed.send("/push/s", &BATCHED, &batch);
    let (_, lost) = (pushed.take().await, pushed.event().await);
    drop(lost);
    assert_eq!(sent.await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    let sent = pushed.send("/push/s", &BATCHED, &batch);
    assert_eq!(pushed.take().await, event("b", "6"));
    assert_eq!(sent.await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(pushed.counts(), [4, 3, 2, 0, 1]);
    let (status, line) = line_of(pushed.send("/push/s", &[], "{}").await.unwrap()).await;
    assert!(
        status == 415 && line.starts_with("content-type \"\" without the header ce-specversion"),
        "{status} {line}"
    );
}

#[tokio::test]
async fn more_than_the_rate_allows_is_answered_with_a_pause() {
    let mut pushed = Pushed::start("cloudevents:?auth=none&rate=1");
    let batch: Vec<Value> = (0..9).map(|id| cloud_event(&id.to_string(), json!(0))).collect();
    let batch = json!(batch).to_string();
    let mut limited = None;
    while limited.is_none() {
        let sent = pushed.send("/push/s", &BATCHED, &batch);
        if pushed.counts()[0] < 9 {
            for _ in 0..9 {
                pushed.take().await;
            }
        }
        limited = Some(sent.await.unwrap()).filter(|response| response.status() != StatusCode::NO_CONTENT);
    }
    let limited = limited.unwrap();
    assert_eq!((limited.status().as_u16(), limited.headers().contains_key(RETRY_AFTER)), (429, true));
    assert_eq!(pushed.counts()[3..], [0, 1]);
}

#[tokio::test]
async fn requests_without_credentials_are_refused_before_their_body() {
    let token = "a token of some bytes";
    let mut pushed = Pushed::start("cloudevents:?token=a%20token%20of%20some%20bytes");
    let body = cloud_event("1", json!(1)).to_string();
    let refused = [("authorization", "Bearer another token of them")];
    for headers in [&[][..], &refused] {
        let response = pushed.send("/push/s", &[&STRUCTURED, headers].concat(), &body).await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers().contains_key("www-authenticate")), (401, true));
    }
    let sent = pushed.send("/push/s?access_token=a+token+of+some+bytes", &STRUCTURED, &body);
    assert_eq!(pushed.take().await, event("b", "1"));
    assert_eq!(sent.await.unwrap().status(), StatusCode::NO_CONTENT);
    let authorization = format!("Bearer {token}");
    let headers = [&STRUCTURED[..], &[("authorization", &*authorization)]].concat();
    assert_eq!(pushed.send("/push/s", &headers, &body).await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(pushed.counts(), [1, 1, 0, 2, 0]);
    let signed = Pushed::start("webhook:?secret=0123456789abcdef");
    let wrong = format!("sha256={}", "0".repeat(64));
    let response = signed.send("/push/s/b", &[("x-hub-signature-256", &wrong)], "x").await.unwrap();
    assert_eq!(line_of(response).await, (403, "wrong signature".to_owned()));
    let response = signed.send("/push/s/b", &[("webhook-id", "1")], "x").await.unwrap();
    assert_eq!(line_of(response).await, (403, "the header x-hub-signature-256 is missing".to_owned()));
}

#[tokio::test]
async fn senders_of_cloud_events_may_ask_for_permission() {
    let ask = async |url: &str, origin: Option<&str>| {
        let request = origin.iter().fold(Request::options("/push/s/b"), |request, origin| {
            request.header("webhook-request-origin", *origin).header("webhook-request-rate", "120")
        });
        let response = Pushed::start(url).router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), header("webhook-allowed-origin"), header("webhook-allowed-rate"), header("allow"))
    };
    let text = |text: &str| Some(text.to_owned());
    let open = "cloudevents:?auth=none&rate=2";
    assert_eq!(ask(open, Some("e.example.com")).await, (204, text("e.example.com"), text("120"), text("POST")));
    assert_eq!(ask(open, None).await, (204, None, None, text("POST")));
    let listed = "cloudevents:?auth=none&origin=e.example.com";
    assert_eq!(ask(listed, Some("e.example.com")).await.1, text("e.example.com"));
    assert_eq!(ask(listed, Some("f.example.com")).await, (403, None, None, None));
    assert_eq!(ask("webhook:?auth=none", Some("e.example.com")).await, (204, None, None, text("POST")));
}

#[tokio::test]
async fn events_are_answered_with_503_when_the_pipeline_has_ended() {
    let Pushed { router, inbox, stats } = Pushed::start("webhook:?auth=none");
    drop(inbox);
    let request = || Request::post("/push/s/b").header("webhook-id", "1").body(Body::from("x")).unwrap();
    for _ in 0..2 {
        let response = router.clone().oneshot(request()).await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers().contains_key(RETRY_AFTER)), (503, true));
    }
    assert_eq!((stats.retried.get(), stats.received.get()), (2, 0));
}

#[test]
fn id_token_counts_for_the_accounts_that_are_named() {
    let check = |url: &str, claims: Value| {
        let Ok(Config { credentials: config::Credentials::IdToken(rules), .. }) = Config::parse(url) else {
            panic!("{url}")
        };
        rules.check(&claims.as_object().cloned().unwrap_or_else(Map::new))
    };
    let pubsub = |claims| check("pubsub:?audience=a&email=x%40y&email=z%40y", claims);
    assert_eq!(pubsub(json!({"email": "z@y", "email_verified": true})), Ok(()));
    let other = Err("the token is of another account (email)");
    for claims in [
        json!({}),
        json!({"email": "z@y"}),
        json!({"email": "z@y", "email_verified": "true"}),
        json!({"email": "other@y", "email_verified": true}),
        json!({"email": ["z@y"], "email_verified": true}),
    ] {
        assert_eq!(pubsub(claims.clone()), other, "{claims}");
    }
    let subject = |claims| check("cloudevents:?audience=a&jwks=https://b&issuer=c&subject=me", claims);
    assert_eq!(
        (subject(json!({"sub": "me"})), subject(json!({"sub": "you"}))),
        (Ok(()), Err("the token is of another account (sub)"))
    );
}
