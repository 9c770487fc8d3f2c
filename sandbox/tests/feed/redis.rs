//! A real Redis on a free port, and a client for what the tests ask of it.

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

/// How long anything may take before the test fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at whether something is so.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// Where free ports are looked for: under the range from which Linux takes the ports of outgoing connections, so that a
/// port stays free while its server is down.
const PORTS: std::ops::Range<u16> = 10_000..20_000;

/// A server that keeps nothing; dropping it kills it.
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
        panic!("no port is free");
    }

    pub(crate) fn url(&self) -> String {
        url(self.port, self.password)
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.url()).unwrap()
    }

    /// Subscribes to all streams, and gives the first `count` messages: channels and payloads.
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
                let message = timeout(LIMIT, incoming.next()).await.expect("a message comes in time").unwrap();
                messages.push((message.get_channel_name().to_owned(), message.get_payload().unwrap()));
            }
            messages
        };
        let listener = thread::spawn(|| new_runtime().block_on(listen));
        is_ready.recv_timeout(LIMIT).unwrap();
        listener
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, empty.
    pub(crate) fn restart(&mut self) {
        self.child = start_at(self.port, self.password).expect("the port is still free");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that waits for each answer, for as long as [`LIMIT`].
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

    pub(crate) fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> T {
        self.try_ask(command).unwrap()
    }

    fn try_ask<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
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
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    // Test runs side by side have process IDs side by side, and begin further apart than the servers of one are many.
    let first = (std::process::id() * 31 % u32::from(span)) as u16;
    PORTS.start + (first + TAKEN.fetch_add(1, Ordering::Relaxed)) % span
}

/// A server at `port` that answers, or nothing if it ended, because the port is taken.
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
        // What answers could be another's server at the same port.
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
    let info: redis::InfoDict = Client::connect(url)?.try_ask(redis::cmd("INFO").arg("server"))?;
    Ok(info.get("process_id").unwrap_or_default())
}
