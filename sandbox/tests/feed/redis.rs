//! A real Redis on a free port, and what the tests ask of it.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::Connection;

/// How long anything may take before the test fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at whether something is so.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// Where free ports are looked for: under the range from which Linux takes the ports of outgoing connections.
const PORTS: std::ops::Range<u16> = 30_000..32_700;

/// A server that keeps nothing; dropping it kills it.
pub(crate) struct Redis {
    child: Child,
    port: u16,
    arguments: Vec<String>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        for _ in PORTS {
            let port = next_port();
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
                && let Some(child) = start_at(port, &arguments)
            {
                return Self { child, port, arguments };
            }
        }
        panic!("no port is free");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn connect(&self) -> Connection {
        let connection = redis::Client::open(self.url()).unwrap().get_connection_with_timeout(LIMIT).unwrap();
        connection.set_read_timeout(Some(LIMIT)).unwrap();
        connection
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, empty.
    pub(crate) fn restart(&mut self) {
        self.child = start_at(self.port, &self.arguments).expect("the port is free again");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("REDIS {} {:?}", self.port, self.child.try_wait());
            eprintln!("{}", std::fs::read_to_string(format!("/tmp/feedtest/{}.log", self.port)).unwrap_or_default());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn next_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    // Test runs side by side begin at different places.
    let first = (std::process::id() % u32::from(span)) as u16;
    PORTS.start + (first + TAKEN.fetch_add(1, Ordering::Relaxed)) % span
}

/// A server at `port` that answers, or nothing if it ended, because the port is taken.
fn start_at(port: u16, arguments: &[String]) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()])
        .args(arguments)
        .args(["--logfile", &format!("/tmp/feedtest/{port}.log")])
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        // A server that wants a password is as ready as any.
        let answer =
            client.get_connection_with_timeout(LIMIT).map(|mut connection| redis::cmd("PING").exec(&mut connection));
        if answer.is_ok_and(|answer| answer.is_ok() || answer.is_err_and(|error| error.code() == Some("NOAUTH"))) {
            return Some(child);
        }
        thread::sleep(POLL);
    }
    let _ = child.kill();
    panic!("redis-server does not answer");
}
