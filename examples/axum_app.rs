//! Streams inside an axum application: on the port of its own routes, behind its login, with topics that the application
//! chooses for each user.
//!
//! ```text
//! cargo run --example axum_app            # or with an address: cargo run --example axum_app 127.0.0.1:8003
//! curl -c cookies -X POST http://127.0.0.1:8003/login/ann
//! curl -b cookies -N http://127.0.0.1:8003/events
//! curl -b cookies -d 'hello' http://127.0.0.1:8003/messages/ann
//! ```

#![expect(clippy::print_stdout, reason = "prints the address for the user")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use ring::rand::{SystemRandom, generate};
use tallycast_fanout::{Fanout, Message, Namespace, NamespaceError, Publisher, Topics};
use tallycast_server::{Access, ClientAddress, Config, Grant, StreamService};
use tokio::net::TcpListener;

/// What the handlers share.
#[derive(Clone)]
struct App {
    streams: StreamService,
    publisher: Publisher,
    /// User names by session.
    sessions: Arc<Mutex<HashMap<String, User>>>,
}

/// The user who sent a request.
#[derive(Clone)]
struct User(String);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8003".to_owned());
    let listener = tallycast_server::listen(address.parse()?, 64 * 1024)?;
    println!("curl -c cookies -X POST http://{}/login/ann", listener.local_addr()?);
    serve(listener, async {
        // Without the signal, the process is ended from outside.
        let _ = tokio::signal::ctrl_c().await;
    })
    .await
}

/// Serves until `shutdown` completes, then ends all streams.
pub(crate) async fn serve(
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn std::error::Error>> {
    let fanout = Fanout::builder().build();
    let handle = fanout.handle();
    let mut config = Config::default();
    // Streams depend on a cookie, so pages of other origins must not open WebSockets.
    config.allowed_origins = Vec::new();
    let app = App {
        streams: StreamService::new(fanout.handle()).config(config),
        publisher: fanout.publisher(),
        sessions: Arc::default(),
    };
    let router = Router::new()
        .route("/events", get(events))
        .route("/messages/{user}", post(send))
        .layer(from_fn_with_state(app.clone(), require_login))
        .route("/login/{user}", post(login))
        .route("/", get("log in with POST /login/<user>, then read /events\n"))
        .with_state(app);
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(async move {
            shutdown.await;
            // axum waits for all responses, and streams end only with the engine.
            handle.shutdown();
        })
        .await?;
    // axum does not wait for WebSockets.
    fanout.shutdown().await;
    Ok(())
}

/// Starts a session. A real application would check a password.
async fn login(State(app): State<App>, Path(user): Path<String>) -> Result<impl IntoResponse, StatusCode> {
    let random: [u8; 16] = generate(&SystemRandom::new()).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?.expose();
    let session = format!("{:032x}", u128::from_be_bytes(random));
    app.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(session.clone(), User(user));
    Ok(([(SET_COOKIE, format!("session={session}; HttpOnly; SameSite=Strict; Path=/"))], "logged in\n"))
}

/// Rejects requests without a session, and adds the user to the others.
async fn require_login(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let user = session(request.headers())
        .and_then(|session| app.sessions.lock().unwrap_or_else(PoisonError::into_inner).get(session).cloned());
    let Some(user) = user else {
        return (StatusCode::UNAUTHORIZED, "log in with POST /login/<user>\n").into_response();
    };
    request.extensions_mut().insert(user);
    next.run(request).await
}

fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get(COOKIE)?.to_str().ok()?;
    cookies.split("; ").find_map(|cookie| cookie.strip_prefix("session="))
}

/// The stream of a user: their own messages and those for everyone. Server-Sent Events, or a WebSocket if the request is an
/// upgrade.
async fn events(
    State(app): State<App>,
    Extension(User(user)): Extension<User>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    mut request: Request,
) -> Result<Response, (StatusCode, String)> {
    let topics = [inbox(&user).map_err(bad_request)?, "/news".parse().map_err(bad_request)?];
    let topics = Topics::new(topics.map(Into::into).into()).map_err(bad_request)?;
    request.extensions_mut().insert(ClientAddress::new(address.ip()));
    // The name appears in the engine's reports. A WebSocket client may change its topics only within these.
    let grant = Grant::default().with_subject(user).with_readable(Access::Topics(topics.clone()));
    request.extensions_mut().insert(grant);
    Ok(app.streams.open(request, topics).await.into_response())
}

/// Publishes the request's body to one user.
async fn send(
    State(app): State<App>,
    Path(user): Path<String>,
    text: String,
) -> Result<StatusCode, (StatusCode, String)> {
    let message = Message::text(inbox(&user).map_err(bad_request)?, text);
    app.publisher.send(message).await.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")))?;
    Ok(StatusCode::ACCEPTED)
}

/// The namespace of a user's messages.
fn inbox(user: &str) -> Result<Namespace, NamespaceError> {
    format!("/users/{user}").parse()
}

fn bad_request(error: impl std::fmt::Display) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, format!("{error}\n"))
}
