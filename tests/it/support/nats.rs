//! A `nats-server` process per test.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use super::redis::TempDir;
use super::{LIMIT, eventually};

/// Below the ephemeral port range, so that a port stays free while its server is down.
const PORTS: std::ops::Range<u16> = 8_000..12_000;

/// A `nats-server` with JetStream, killed on drop. It keeps its streams.
pub(crate) struct NatsServer {
    port: u16,
    flags: Vec<String>,
    child: Option<Child>,
    directory: TempDir,
}

impl NatsServer {
    pub(crate) fn start() -> Self {
        Self::start_with_flags(&[])
    }

    pub(crate) fn start_with_flags(flags: &[&str]) -> Self {
        // Concurrent test processes start at different ports.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut nats = Self { port: 0, flags, child: None, directory: TempDir::new() };
        for _ in 0..100 {
            let offset = std::process::id() * 101 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            nats.port = PORTS.start + u16::try_from(offset % PORTS.len() as u32).unwrap();
            // Skip occupied ports, where another server would answer instead.
            if TcpListener::bind((Ipv4Addr::LOCALHOST, nats.port)).is_ok() && nats.try_run() {
                return nats;
            }
        }
        panic!("no nats-server could be started");
    }

    /// Starts the server on its port. Returns `false` if the process exited.
    fn try_run(&mut self) -> bool {
        let mut child = Command::new("nats-server")
            .args(["--addr", "127.0.0.1", "--port", &self.port.to_string(), "--jetstream", "--store_dir"])
            .arg(self.directory.path())
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server must be installed");
        let mut is_running = false;
        eventually("nats-server answers or has exited", || {
            is_running = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok();
            is_running || child.try_wait().unwrap().is_some()
        });
        if is_running {
            self.child = Some(child);
        }
        is_running
    }

    /// Starts the server again on its port, with its data.
    pub(crate) fn run(&mut self) {
        assert!(self.try_run(), "nats-server did not start again on port {}", self.port);
    }

    /// Kills the process with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn url(&self) -> String {
        self.url_with("nats", "", "")
    }

    pub(crate) fn url_with(&self, scheme: &str, login: &str, options: &str) -> String {
        format!("{scheme}://{login}127.0.0.1:{}{options}", self.port)
    }

    /// A connection that speaks the protocol by itself, with these options of `CONNECT` as JSON.
    fn connect(&self, options: &str) -> NatsConnection {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("nats-server is running");
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connection = NatsConnection { stream, received: Vec::new() };
        connection.until("\r\n");
        connection.send(format!("CONNECT {{\"verbose\":false,\"headers\":true{options}}}\r\n").as_bytes());
        connection
    }

    /// Publishes on a subject, in order. Returns when the server has everything.
    pub(crate) fn publish(&self, subject: &str, payloads: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        self.publish_with_headers(subject, "", payloads);
    }

    /// The same with header lines, each with its line end.
    pub(crate) fn publish_with_headers(
        &self,
        subject: &str,
        headers: &str,
        payloads: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) {
        let mut connection = self.connect("");
        let mut text = Vec::new();
        for payload in payloads {
            let payload = payload.as_ref();
            let block = format!("NATS/1.0\r\n{headers}\r\n");
            let (verb, block, lengths) = if headers.is_empty() {
                ("PUB", "", payload.len().to_string())
            } else {
                ("HPUB", &*block, format!("{} {}", block.len(), block.len() + payload.len()))
            };
            text.extend_from_slice(format!("{verb} {subject} {lengths}\r\n{block}").as_bytes());
            text.extend_from_slice(payload);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"PING\r\n");
        connection.send(&text);
        connection.until("PONG\r\n");
    }

    /// Sends a request, and returns the text of the answer.
    pub(crate) fn request(&self, subject: &str, payload: &str) -> String {
        let mut connection = self.connect("");
        connection.send(
            format!("SUB answer.{subject} 1\r\nPUB {subject} answer.{subject} {}\r\n{payload}\r\n", payload.len())
                .as_bytes(),
        );
        let header = connection.until("\r\n");
        let length = header.rsplit(' ').next().unwrap().parse().unwrap();
        connection.exactly(length)
    }

    /// Creates a stream of a subject.
    pub(crate) fn create_stream(&self, name: &str, subject: &str) {
        let config = format!(r#"{{"name":"{name}","subjects":["{subject}"],"storage":"file"}}"#);
        let answer = self.request(&format!("$JS.API.STREAM.CREATE.{name}"), &config);
        assert!(!answer.contains("\"error\""), "{answer}");
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A plain connection.
struct NatsConnection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl NatsConnection {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer).expect("an answer in time");
        assert!(count > 0, "nats-server has closed the connection: {}", String::from_utf8_lossy(&self.received));
        self.received.extend_from_slice(&buffer[..count]);
    }

    /// What comes before the first `end`.
    fn until(&mut self, end: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.received).into_owned();
            if let Some((before, after)) = text.split_once(end) {
                self.received = after.as_bytes().to_vec();
                return before.to_owned();
            }
            self.read();
        }
    }

    fn exactly(&mut self, length: usize) -> String {
        while self.received.len() < length {
            self.read();
        }
        String::from_utf8_lossy(&self.received[..length]).into_owned()
    }
}
