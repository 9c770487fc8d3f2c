//! Consumers of the contract of unifrost 0.1 inside an axum application: behind its own authentication, with ids that it makes, and topics
//! that it allows. Both paths are its own, on the streams of the library.
//!
//! ```text
//! cargo run --example unifrost_app        # or with an address: cargo run --example unifrost_app 127.0.0.1:8004
//! curl -N -H 'x-user: ann' http://127.0.0.1:8004/events      # the first event has the id of a consumer
//! curl -H 'x-user: ann' -d '{"consumer_id": "…", "add": ["news"]}' http://127.0.0.1:8004/update_subscriptions
//! curl -H 'x-user: bob' -d 'hello' http://127.0.0.1:8004/messages/news
//! ```

#![expect(clippy::print_stdout, reason = "prints the address for the user")]

use std::collections::HashMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, request::Parts};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router, routing::post};
use serde_json::{Value, json};
use tallycast_fanout::{
    ConnectionId, Fanout, Framing, Handle, Message, Namespace, Publisher, StreamWatch, Topic, Topics,
};
use tallycast_server::{
    Coding, Contract, ContractStream, EventFormat, EventStream, Notices, StreamService, WholeResponse, text_response,
};
use tokio::net::TcpListener;
use uuid::Uuid;

/// What the handlers and the streams share.
struct App {
    publisher: Publisher,
    handle: Handle,
    /// Consumers with a stream, by id.
    consumers: Mutex<HashMap<String, Consumer>>,
    /// One change at a time: the engine must get them in the order in which they were made.
    changing: tokio::sync::Mutex<()>,
}

/// The stream of a user.
struct Consumer {
    user: User,
    topics: Vec<Topic>,
    /// Set when the engine serves the stream, before its client can know the id.
    connection: Option<ConnectionId>,
}

/// The user who sent a request.
#[derive(Clone, PartialEq, Eq)]
struct User(String);

type Failure = (StatusCode, String);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8004".to_owned());
    let listener = tallycast_server::listen(address.parse()?, 64 * 1024)?;
    println!("curl -N -H 'x-user: ann' http://{}/events", listener.local_addr()?);
    // Without the signal, the process is ended from outside.
    serve(listener, async { drop(tokio::signal::ctrl_c().await) }).await
}

/// Serves until `shutdown` completes, then ends all streams.
pub(crate) async fn serve(
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn std::error::Error>> {
    let fanout = Fanout::builder().build();
    let (publisher, handle) = (fanout.publisher(), fanout.handle());
    let app = Arc::new(App { publisher, handle, consumers: Mutex::default(), changing: tokio::sync::Mutex::default() });
    let streams = StreamService::new(fanout.handle()).contract(Events(Arc::clone(&app)));
    let router = Router::new()
        .route_service("/events", streams)
        .route("/update_subscriptions", post(update))
        .route("/messages/{topic}", post(send))
        .layer(from_fn(authenticate))
        .with_state(app);
    let handle = fanout.handle();
    // axum waits for all responses, and streams end only with the engine.
    let ending = async move {
        shutdown.await;
        handle.shutdown();
    };
    axum::serve(listener, router).with_graceful_shutdown(ending).await?;
    fanout.shutdown().await;
    Ok(())
}

/// Adds the user to a request. A real application would verify a session or a token.
async fn authenticate(mut request: Request, next: Next) -> Response {
    let user = request.headers().get("x-user").and_then(|user| user.to_str().ok()).map(str::to_owned);
    let Some(user) = user else { return (StatusCode::UNAUTHORIZED, "expected x-user\n").into_response() };
    request.extensions_mut().insert(User(user));
    next.run(request).await
}

impl App {
    fn consumers(&self) -> MutexGuard<'_, HashMap<String, Consumer>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The streams of consumers.
struct Events(Arc<App>);

impl Contract for Events {
    fn matches(&self, request: &Parts) -> bool {
        request.uri.path() == "/events"
    }

    fn event_framing(&self) -> Option<Arc<dyn Framing>> {
        // The texts of messages already are what clients expect as data.
        Some(EventStream::shared(EventFormat::Fields, Notices::Comments, Coding::Identity, false))
    }

    async fn open(&self, request: &Parts, _client: IpAddr) -> Result<ContractStream, WholeResponse> {
        // What the middleware has inserted.
        let user = request.extensions.get::<User>().cloned();
        let user = user.ok_or_else(|| text_response(StatusCode::UNAUTHORIZED, "expected x-user\n"))?;
        let id = Uuid::new_v4().to_string();
        let info = json!({"config": {"consumer_id": id, "consumer_ttl_millis": 0}, "subscriptions": []});
        let mut stream = ContractStream::new(Topics::none());
        stream.preamble = format!("data: {}\n\n", data("/unifrost/info", &info.to_string())).into();
        self.0.consumers().insert(id.clone(), Consumer { user, topics: Vec::new(), connection: None });
        stream.watch = Some(Box::new(Watch { app: Arc::clone(&self.0), id }));
        Ok(stream)
    }
}

/// Lives as long as a stream.
struct Watch {
    app: Arc<App>,
    id: String,
}

impl StreamWatch for Watch {
    fn attached(&mut self, connection: ConnectionId) {
        self.app.consumers().entry(self.id.clone()).and_modify(|consumer| consumer.connection = Some(connection));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.app.consumers().remove(&self.id);
    }
}

/// Changes the topics of one of the user's consumers.
async fn update(State(app): State<Arc<App>>, user: Extension<User>, body: String) -> Result<String, Failure> {
    let body: Value = serde_json::from_str(&body).map_err(bad_request)?;
    let id = body["consumer_id"].as_str().ok_or_else(|| bad_request("missing consumer id"))?;
    let texts = |list: &str| body[list].as_array().into_iter().flatten().filter_map(Value::as_str);
    let allowed = |text: &str| !text.starts_with("user:") || text[5..] == *user.0.0;
    if let Some(text) = texts("add").into_iter().find(|text| !allowed(text)) {
        return Err((StatusCode::FORBIDDEN, format!("not allowed to read {text}\n")));
    }
    let added = texts("add").map(topic).collect::<Result<Vec<_>, _>>()?;
    let removed = texts("remove").map(topic).collect::<Result<Vec<_>, _>>()?;
    let _changing = app.changing.lock().await;
    let (topics, connection) = {
        let mut consumers = app.consumers();
        let consumer = consumers.get_mut(id).filter(|consumer| consumer.user == *user);
        let consumer = consumer.ok_or((StatusCode::UNAUTHORIZED, "invalid consumer id\n".to_owned()))?;
        consumer.topics.extend(added);
        consumer.topics.retain(|topic| !removed.contains(topic));
        (consumer.topics.clone(), consumer.connection.ok_or_else(|| unavailable("the stream is opening"))?)
    };
    let topics = if topics.is_empty() { Topics::none() } else { Topics::new(topics).map_err(bad_request)? };
    app.handle.set_topics(connection, topics).await.map_err(unavailable)?;
    Ok(json!({"consumer_id": id}).to_string())
}

/// Publishes the request's body to a topic.
async fn send(State(app): State<Arc<App>>, Path(topic): Path<String>, text: String) -> Result<StatusCode, Failure> {
    let namespace = Namespace::from_segments([&*topic]).map_err(bad_request)?;
    let message = Message::text(namespace, data(&topic, &text));
    app.publisher.send(message).await.map_err(unavailable)?;
    Ok(StatusCode::ACCEPTED)
}

fn topic(text: &str) -> Result<Topic, Failure> {
    Namespace::from_segments([text]).map(Topic::exact).map_err(bad_request)
}

/// The data of an event.
fn data(topic: &str, payload: &str) -> String {
    json!([topic, payload]).to_string()
}

fn bad_request(error: impl Display) -> Failure {
    (StatusCode::BAD_REQUEST, format!("{error}\n"))
}

fn unavailable(error: impl Display) -> Failure {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
}
