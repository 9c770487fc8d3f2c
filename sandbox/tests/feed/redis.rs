//! A real Redis on a free port, and a client for queries.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisResult};
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;
use tokio_stream::StreamExt;

/// The time limit of every wait.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The interval of polling.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// The range to search for free ports: below the ephemeral port range of Linux, so that a port stays free while its
/// server is down.
const PORTS: std::ops::Range<u16> = 10_000..20_000;

/// A server without persistence, killed on drop.
pub(crate) struct Redis {
    child: Child,
    port: u16,
    password: Option<&'static str>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    pub(crate) fn start_with_password(password: &'static str) -> Self {
        Self::start_with(Some(password))
    }

    fn start_with(password: Option<&'static str>) -> Self {
        for _ in PORTS {
            let port = next_port();
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
                && let Some(child) = start_at(port, password)
            {
                return Self { child, port, password };
            }
        }
        panic!("no free port");
    }

    pub(crate) fn url(&self) -> String {
        url(self.port, self.password)
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.url()).unwrap()
    }

    /// Subscribes to all channels and returns the first `count` messages: channels and payloads.
    pub(crate) fn listen(&self, count: usize) -> JoinHandle<Vec<(String, String)>> {
        let url = self.url();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let listen = async move {
            let mut subscription = redis::Client::open(url).unwrap().get_async_pubsub().await.unwrap();
            subscription.psubscribe("stream.*").await.unwrap();
            ready.send(()).unwrap();
            let mut incoming = subscription.on_message();
            let mut messages = Vec::with_capacity(count);
            while messages.len() < count {
                let message = timeout(LIMIT, incoming.next()).await.expect("no message in time").unwrap();
                messages.push((message.get_channel_name().to_owned(), message.get_payload().unwrap()));
            }
            messages
        };
        let listener = thread::spawn(|| new_runtime().block_on(listen));
        is_ready.recv_timeout(LIMIT).unwrap();
        listener
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server again, empty.
    pub(crate) fn restart(&mut self) {
        self.child = start_at(self.port, self.password).expect("the port is still free");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Both fail only if the process has exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A blocking connection with a response timeout of [`LIMIT`].
pub(crate) struct Client {
    runtime: Runtime,
    connection: MultiplexedConnection,
}

impl Client {
    fn connect(url: &str) -> RedisResult<Self> {
        let runtime = new_runtime();
        let client = redis::Client::open(url)?;
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(LIMIT)).set_response_timeout(Some(LIMIT));
        let connection = runtime.block_on(client.get_multiplexed_async_connection_with_config(&config))?;
        Ok(Self { runtime, connection })
    }

    pub(crate) fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> T {
        self.try_query(command).unwrap()
    }

    fn try_query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        self.runtime.block_on(command.query_async(&mut self.connection))
    }
}

fn new_runtime() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn url(port: u16, password: Option<&str>) -> String {
    let credentials = password.map(|password| format!(":{password}@")).unwrap_or_default();
    format!("redis://{credentials}127.0.0.1:{port}")
}

fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    // Concurrent test runs have adjacent process IDs and start at distant ports.
    let first = (std::process::id() * 31 % u32::from(span)) as u16;
    PORTS.start + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % span
}

/// Starts a server at `port` and waits until it answers. Returns `None` if it exited because the port is in use.
fn start_at(port: u16, password: Option<&str>) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()])
        .args(["--requirepass", password.unwrap_or_default()])
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        // Another server could answer on this port.
        if process_id(&url(port, password)).is_ok_and(|id| id == child.id()) {
            return Some(child);
        }
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        thread::sleep(POLL);
    }
    let _ = child.kill().and_then(|()| child.wait().map(drop));
    panic!("redis-server does not answer");
}

fn process_id(url: &str) -> RedisResult<u32> {
    let info: redis::InfoDict = Client::connect(url)?.try_query(redis::cmd("INFO").arg("server"))?;
    Ok(info.get("process_id").unwrap_or_default())
}
