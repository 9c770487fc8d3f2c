//! A real `nats-server`, which unit tests of other modules start too.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU16;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// Long enough for a busy machine; only a failure takes that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Below the ephemeral port range and apart from those of other tests, so that a port stays free while its server is down.
const PORTS: std::ops::Range<u16> = 12_000..20_000;

/// A `nats-server` with JetStream in a directory of its own. Ends with its owner.
pub(crate) struct Server {
    port: u16,
    directory: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// `name` is unique among the tests.
    pub(crate) fn start(name: &str) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let directory = std::env::temp_dir().join(format!("tallycast-unit-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut server = Self { port: 0, directory, child: None };
        for _ in 0..100 {
            let offset = std::process::id() * 101 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            server.port = PORTS.start + u16::try_from(offset % PORTS.len() as u32).unwrap();
            if std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, server.port)).is_ok() && server.try_run(&[]) {
                return server;
            }
        }
        panic!("no nats-server could be started");
    }

    /// Starts the server. Returns `false` if the process exited.
    fn try_run(&mut self, flags: &[&str]) -> bool {
        let mut command = Command::new("nats-server");
        command.args(["--addr", "127.0.0.1", "--port", &self.port.to_string(), "--jetstream", "--store_dir"]);
        command.arg(&self.directory).args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("nats-server must be installed");
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "nats-server does not accept connections");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
        true
    }

    /// Starts the server again on its port, with its data.
    pub(crate) fn run(&mut self) {
        assert!(self.try_run(&[]), "nats-server did not start again");
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the process without closing its connections, as a machine that hangs would.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a stopped process go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().expect("it runs").id();
        kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
    }

    pub(crate) fn url(&self) -> NatsUrl {
        self.url_with("")
    }

    pub(crate) fn url_with(&self, options: &str) -> NatsUrl {
        NatsUrl::parse(&format!("nats://127.0.0.1:{}{options}", self.port)).unwrap()
    }

    /// Another client than those of the program.
    pub(crate) async fn client(&self) -> Client {
        async_nats::connect(format!("127.0.0.1:{}", self.port)).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Sends a request to the API of JetStream, such as `STREAM.CREATE.A`.
pub(crate) async fn api(client: &Client, subject: &str, request: serde_json::Value) -> serde_json::Value {
    let answer = client.request(format!("$JS.API.{subject}"), request.to_string().into()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer.get("error").is_none(), "{subject}: {answer}");
    answer
}

/// Publishes messages in a stream, in this order.
pub(crate) async fn add(client: &Client, messages: &[(&str, &str)]) {
    for (subject, payload) in messages {
        let answer = client.request((*subject).to_owned(), Bytes::copy_from_slice(payload.as_bytes())).await.unwrap();
        assert!(answer.payload.starts_with(b"{\"stream\""), "{answer:?}");
    }
}

#[tokio::test]
async fn frozen_and_lost_servers_are_noticed() {
    let mut server = Server::start("nats-connection");
    let connection = Connection::open(&server.url_with("?timeout=1s"), "test").await.unwrap();
    server.freeze();
    // The signal may take a moment.
    let error = loop {
        if let Err(error) = connection.ping().await {
            break error;
        }
    };
    assert!(matches!(error, NatsError::TimedOut(_) | NatsError::Closed), "{error}");
    server.thaw();
    let connection = Connection::open(&server.url(), "test").await.unwrap();
    server.kill();
    assert!(matches!(timeout(PATIENCE, connection.failed()).await, Ok(NatsError::Closed)));
    assert!(matches!(Connection::open(&server.url(), "test").await, Err(NatsError::Connect(_))));
    // A server that comes back is another connection.
    server.run();
    assert!(matches!(connection.ping().await, Err(NatsError::Closed)));
    Connection::open(&server.url(), "test").await.unwrap();
}
