//! Questions to real HTTP servers.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, HeaderMap};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::serve::{Listener, ListenerExt};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tallycast_fanout::Topics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;

/// More time than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Less time than an answer that never comes.
const SHORT: Duration = Duration::from_millis(100);

fn listen() -> (TcpListener, SocketAddr) {
    let listener = tallycast_server::listen((Ipv4Addr::LOCALHOST, 0).into(), 256 * 1024).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A request as the application has seen it.
#[derive(Debug)]
struct Seen {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    question: Value,
}

/// An application that answers the first question with `respond(0)`, the next one with `respond(1)`.
#[derive(Clone, Default)]
struct Application {
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Application {
    async fn start<F: Future<Output = Response> + Send>(
        respond: impl Fn(usize) -> F + Clone + Send + Sync + 'static,
    ) -> (Self, SocketAddr) {
        let application = Self::default();
        let (listener, address) = listen();
        let connections = Arc::clone(&application.connections);
        let counted = listener.tap_io(move |_| {
            connections.fetch_add(1, Ordering::Relaxed);
        });
        application.serve(counted, respond);
        (application, address)
    }

    fn serve<L: Listener<Addr: fmt::Debug>, F: Future<Output = Response> + Send>(
        &self,
        listener: L,
        respond: impl Fn(usize) -> F + Clone + Send + Sync + 'static,
    ) {
        let seen = Arc::clone(&self.seen);
        let router =
            Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
                let number = {
                    let question = serde_json::from_slice(&body).unwrap();
                    let mut seen = seen.lock().unwrap();
                    seen.push(Seen { method, uri, headers, question });
                    seen.len() - 1
                };
                respond(number).await
            });
        tokio::spawn(axum::serve(listener, router).into_future());
    }

    /// The number of questions and of connections so far.
    fn counts(&self) -> (usize, usize) {
        (self.seen.lock().unwrap().len(), self.connections.load(Ordering::Relaxed))
    }
}

/// A server that reads from each connection, writes these bytes, and hangs up.
fn raw_server(response: &'static str) -> SocketAddr {
    let (listener, address) = listen();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 16 * 1024];
                let _ = stream.read(&mut request).await;
                stream.write_all(response.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                // Data that is not read would reset the connection.
                while stream.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {}
            });
        }
    });
    address
}

fn config(address: SocketAddr) -> Config {
    config_of(&format!("http://{address}/connect"), None, None)
}

fn config_of(url: &str, secret: Option<&str>, authorities: Option<&[u8]>) -> Config {
    let mut config = Config::new(url.parse().unwrap(), secret.map(Secret::new).as_ref(), authorities).unwrap();
    config.timeout = PATIENCE;
    config
}

async fn ask(hook: &ConnectHook) -> Result<ConnectAnswer, ConnectError> {
    let request = Request::get("/subscribe/a?x=1").header("cookie", "id=7").body(()).unwrap();
    let (parts, ()) = request.into_parts();
    let topics = Topics::new(vec!["/a".parse().unwrap()]).unwrap();
    let client = Ipv4Addr::new(192, 0, 2, 1).into();
    let request = ConnectRequest { contract: "native", session: None, topics: &topics, parts: &parts, client };
    hook.ask(&request).await
}

/// The outcome of a question, and the counters `asked`, `refused`, `failed` and the number of times observed.
async fn ask_once(config: Config) -> (Result<ConnectAnswer, ConnectError>, [u64; 4]) {
    let stats = Arc::<ConnectHookStats>::default();
    let answer = ask(&ConnectHook::new(config, Arc::clone(&stats))).await;
    let times = stats.seconds.buckets().map(|(_, count)| count).sum();
    (answer, [stats.asked.get(), stats.refused.get(), stats.failed.get(), times])
}

/// Why there is no answer.
async fn failure(config: Config) -> String {
    let hook = ConnectHook::new(config, Arc::default());
    let deadline = Instant::now() + hook.0.config.timeout;
    hook.decision(Bytes::from_static(b"{}"), deadline).await.unwrap_err().to_string()
}

/// A certificate for 127.0.0.1 and its key, in one PEM text.
fn certificate() -> Vec<u8> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"])
        // Otherwise openssl creates a CA certificate, which clients reject for a server.
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-days", "2", "-keyout", "-", "-out", "-"])
        .output()
        .expect("openssl must be installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

struct TlsListener(TcpListener, TlsAcceptor);

impl TlsListener {
    fn new(listener: TcpListener, pem: &[u8]) -> Self {
        let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(pem).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self(listener, Arc::new(config).into())
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.0.accept().await.unwrap();
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[tokio::test]
async fn application_is_asked_about_the_request() {
    let (application, address) =
        Application::start(|_| async { r#"{"session": "ann", "ttl": 5}"#.into_response() }).await;
    let url = format!("http://{address}/connect?key=x");
    let (answer, counts) = ask_once(config_of(&url, Some("hunter2"), None)).await;
    let expected = ConnectAnswer {
        session: Some("ann".to_owned()),
        ttl: Some(Duration::from_secs(5)),
        ..ConnectAnswer::default()
    };
    assert_eq!((answer, counts), (Ok(expected), [1, 0, 0, 1]));
    let seen = application.seen.lock().unwrap().pop().unwrap();
    assert_eq!((seen.method, seen.uri.to_string().as_str()), (Method::POST, "/connect?key=x"));
    let header = |name| seen.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header(AUTHORIZATION), Some("Bearer hunter2"));
    assert_eq!(header(CONTENT_TYPE), Some("application/json"));
    assert_eq!(header(hyper::header::HOST), Some(address.to_string().as_str()));
    let question = json!({
        "contract": "native", "session": null, "topics": ["/a"], "path": "/subscribe/a", "query": "x=1",
        "address": "192.0.2.1", "headers": {"cookie": "id=7"},
    });
    assert_eq!(seen.question, question);
}

#[tokio::test]
async fn user_of_the_url_is_sent_and_not_in_the_target() {
    let (application, address) = Application::start(|_| async { "{}".into_response() }).await;
    let (answer, _) = ask_once(config_of(&format!("http://ann:hunter2@{address}"), None, None)).await;
    assert_eq!(answer, Ok(ConnectAnswer::default()));
    let seen = application.seen.lock().unwrap().pop().unwrap();
    assert_eq!((seen.uri.path(), seen.headers[AUTHORIZATION].to_str().unwrap()), ("/", "Basic YW5uOmh1bnRlcjI="));
}

#[tokio::test]
async fn question_is_repeated_after_a_failure() {
    let fail_first = |number| async move {
        if number == 0 { StatusCode::INTERNAL_SERVER_ERROR.into_response() } else { "{}".into_response() }
    };
    let (application, address) = Application::start(fail_first).await;
    assert_eq!(ask_once(config(address)).await, (Ok(ConnectAnswer::default()), [1, 0, 0, 1]));
    assert_eq!(application.counts().0, 2);
    let (application, address) = Application::start(fail_first).await;
    let mut once = config(address);
    once.retries = 0;
    assert_eq!(ask_once(once).await, (Err(ConnectError::Unavailable), [1, 0, 1, 1]));
    assert_eq!(application.counts().0, 1);
}

#[tokio::test]
async fn refusal_is_final() {
    let forbid = |_| async { (StatusCode::FORBIDDEN, "banned until Monday\nsecond line").into_response() };
    let (application, address) = Application::start(forbid).await;
    let refused = |status, reason: &str| Err(ConnectError::Refused { status, reason: reason.to_owned() });
    let (answer, counts) = ask_once(config(address)).await;
    assert_eq!((answer, counts), (refused(StatusCode::FORBIDDEN, "banned until Monday"), [1, 1, 0, 1]));
    assert_eq!(application.counts().0, 1);

    let (_, address) = Application::start(|_| async { StatusCode::UNAUTHORIZED.into_response() }).await;
    let (answer, _) = ask_once(config(address)).await;
    assert_eq!(answer, refused(StatusCode::UNAUTHORIZED, "the application requires valid credentials"));

    // Its reason never comes: it is a refusal all the same, even where failures let clients pass.
    let mut allow = config(raw_server("HTTP/1.1 403 Forbidden\r\ncontent-length: 9\r\n\r\nb"));
    allow.when_down = WhenDown::Allow;
    let (answer, _) = ask_once(allow).await;
    assert_eq!(answer, refused(StatusCode::FORBIDDEN, "the application does not allow this connection"));
}

#[tokio::test]
async fn other_answers_are_failures() {
    for (response, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "invalid answer: expected a JSON object"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"read\": [\"a\"]}",
            "invalid answer: read[0]: a namespace must start with '/'",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", "answered with 204 No Content"),
        ("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", "answered with 302 Found"),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}", "answered with 404 Not Found"),
        ("hello\r\n\r\n", "invalid HTTP version parsed"),
        ("", "connection closed before message completed"),
        ("HTTP/1.1 200 OK\r\n", "connection closed before message completed"),
    ] {
        assert_eq!(failure(config(raw_server(response))).await, expected, "{response:?}");
    }
    // It breaks off.
    let broken = failure(config(raw_server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"))).await;
    assert!(broken.contains("end of file"), "{broken}");
    let (_, address) = Application::start(|_| async { vec![b' '; MAX_ANSWER_BYTES + 1].into_response() }).await;
    assert_eq!(failure(config(address)).await, "the answer is larger than 64 KiB");
    let (listener, nobody) = listen();
    drop(listener);
    let refused = failure(config(nobody)).await;
    assert!(refused.contains("refused"), "{refused}");
}

#[tokio::test]
async fn answer_may_have_the_largest_size() {
    let (_, address) =
        Application::start(|_| async { format!("{{}}{:1$}", "", MAX_ANSWER_BYTES - 2).into_response() }).await;
    assert_eq!(ask_once(config(address)).await.0, Ok(ConnectAnswer::default()));
}

#[tokio::test]
async fn config_decides_about_clients_without_answer() {
    let headers_only = |_| async {
        let body = Body::from_stream(tokio_stream::pending::<Result<Bytes, std::io::Error>>());
        ([(CONTENT_LENGTH, "2")], body).into_response()
    };
    let (_, slow) = Application::start(|_| std::future::pending()).await;
    let (_, slow_body) = Application::start(headers_only).await;
    for address in [slow, slow_body] {
        let mut config = config(address);
        config.timeout = SHORT;
        assert_eq!(failure(config.clone()).await, "no answer in time");
        assert_eq!(ask_once(config.clone()).await, (Err(ConnectError::Unavailable), [1, 0, 1, 1]));
        config.when_down = WhenDown::Allow;
        let fallback = ConnectAnswer { is_fallback: true, ..ConnectAnswer::default() };
        assert_eq!(ask_once(config).await, (Ok(fallback), [1, 0, 1, 1]));
    }
}

#[tokio::test]
async fn large_request_is_refused_without_a_question() {
    let (application, address) = Application::start(|_| async { "{}".into_response() }).await;
    let mut config = config(address);
    config.when_down = WhenDown::Allow;
    let stats = Arc::<ConnectHookStats>::default();
    let hook = ConnectHook::new(config, Arc::clone(&stats));
    let request = Request::get("/").header("cookie", "a".repeat(MAX_HEADER_BYTES)).body(()).unwrap();
    let (parts, ()) = request.into_parts();
    let client = Ipv4Addr::LOCALHOST.into();
    let request = ConnectRequest { contract: "native", session: None, topics: &Topics::none(), parts: &parts, client };
    assert_eq!(hook.ask(&request).await, Err(ConnectError::too_large()));
    assert_eq!((application.counts(), stats.refused.get()), ((0, 0), 1));
}

#[tokio::test]
async fn connections_are_used_again() {
    const QUESTIONS: usize = 20;
    let (application, address) = Application::start(|_| async { "{}".into_response() }).await;
    let hook = ConnectHook::new(config(address), Arc::default());
    for _ in 0..QUESTIONS {
        ask(&hook.clone()).await.unwrap();
    }
    let (questions, connections) = application.counts();
    // A question may come before the connection of the last one is free.
    assert!(questions == QUESTIONS && connections < QUESTIONS / 2, "{questions} {connections}");
}

#[tokio::test]
async fn questions_in_flight_are_bounded() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let full = Arc::new(Semaphore::new(0));
    let (count, max) = (Arc::clone(&now), Arc::clone(&most));
    let (_, address) = Application::start(move |_| {
        let (now, most, full) = (Arc::clone(&count), Arc::clone(&max), Arc::clone(&full));
        async move {
            let before = now.fetch_add(1, Ordering::SeqCst);
            most.fetch_max(before + 1, Ordering::SeqCst);
            if before + 1 == MAX_IN_FLIGHT {
                // One more would come in this time.
                sleep(SHORT).await;
                full.add_permits(MAX_IN_FLIGHT * 2);
            }
            full.acquire().await.unwrap().forget();
            now.fetch_sub(1, Ordering::SeqCst);
            "{}".into_response()
        }
    })
    .await;
    let hook = ConnectHook::new(config(address), Arc::default());
    let mut questions = tokio::task::JoinSet::new();
    for _ in 0..MAX_IN_FLIGHT + 64 {
        let hook = hook.clone();
        questions.spawn(async move { ask(&hook).await.unwrap() });
    }
    assert_eq!(questions.join_all().await.len(), MAX_IN_FLIGHT + 64);
    assert_eq!((now.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (0, MAX_IN_FLIGHT));
}

#[tokio::test]
async fn questions_wait_for_others_within_the_time_limit() {
    let (application, address) = Application::start(|_| async { "{}".into_response() }).await;
    let mut config = config(address);
    config.timeout = SHORT;
    let hook = ConnectHook::new(config, Arc::default());
    let _permits = hook.0.in_flight.acquire_many(MAX_IN_FLIGHT.try_into().unwrap()).await.unwrap();
    assert_eq!(ask(&hook).await, Err(ConnectError::Unavailable));
    assert_eq!(application.counts(), (0, 0));
}

#[tokio::test]
async fn certificate_of_the_application_is_verified() {
    let (pem, (listener, address)) = (certificate(), listen());
    let application = Application::default();
    application.serve(TlsListener::new(listener, &pem), |_| async { "{}".into_response() });
    let url = format!("https://{address}");
    assert_eq!(ask_once(config_of(&url, None, Some(&pem))).await.0, Ok(ConnectAnswer::default()));
    let error = failure(config_of(&url, None, None)).await;
    assert!(error.contains("invalid peer certificate"), "{error}");
    assert_eq!(application.counts().0, 1);
    let no_certificate = Config::new(url.parse().unwrap(), None, Some(b"hunter2")).unwrap_err().to_string();
    assert_eq!(no_certificate, "expected at least one certificate in PEM");
}

#[test]
fn debug_output_shows_no_secret() {
    let config = Config::new("http://a/?hunter2".parse().unwrap(), Some(&Secret::new("hunter2")), None).unwrap();
    let hook = format!("{config:?} {:?}", ConnectHook::new(config.clone(), Arc::default()));
    assert!(hook.contains("http://a/?***") && !hook.contains("hunter2"), "{hook}");
    let config = Config::new("https://ann:hunter2@a".parse().unwrap(), None, None).unwrap();
    let config = format!("{config:?}");
    assert!(!config.contains("hunter2") && !config.contains("Basic"), "{config}");
    let both = Config::new("http://ann@a".parse().unwrap(), Some(&Secret::new("x")), None);
    assert!(matches!(both, Err(ConfigError::SecretAndUser)));
    let spaces = Config::new("http://a".parse().unwrap(), Some(&Secret::new("a\nb")), None);
    assert!(matches!(spaces, Err(ConfigError::Secret)));
}
