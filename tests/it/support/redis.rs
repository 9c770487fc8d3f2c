//! A `redis-server` process per test.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use redis::{Client, Connection, IntoConnectionInfo};
use rustix::process::{Pid, Signal, kill_process};

use super::{LIMIT, eventually};

/// Below the ephemeral port range, so that a port stays free while its server is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A temporary directory, removed on drop.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tallycast-it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A self-signed certificate for `localhost`, and its key.
pub(crate) struct Certificate {
    directory: TempDir,
}

impl Certificate {
    pub(crate) fn self_signed() -> Self {
        let directory = TempDir::new();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            // Otherwise openssl creates a CA certificate, which clients reject for a server.
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-days", "2", "-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(directory.path())
            .output()
            .expect("openssl must be installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { directory }
    }

    /// The path of the certificate file.
    pub(crate) fn certificate(&self) -> String {
        self.directory.path().join("cert.pem").display().to_string()
    }

    /// The path of the key file.
    pub(crate) fn key(&self) -> String {
        self.directory.path().join("key.pem").display().to_string()
    }

    fn flags(&self) -> Vec<String> {
        ["--tls-cert-file", &self.certificate(), "--tls-key-file", &self.key(), "--tls-auth-clients", "no"]
            .map(str::to_owned)
            .to_vec()
    }
}

/// A `redis-server` without persistence, killed on drop.
pub(crate) struct RedisServer {
    port: u16,
    flags: Vec<String>,
    /// Together with password and fragment, the parts of the URL besides the address.
    scheme: &'static str,
    password: Option<&'static str>,
    fragment: &'static str,
    child: Option<Child>,
    directory: TempDir,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::with(Vec::new(), None, false)
    }

    pub(crate) fn start_with_password(password: &'static str) -> Self {
        Self::start_with_password_and_flags(password, &[])
    }

    pub(crate) fn start_with_password_and_flags(password: &'static str, flags: &[&str]) -> Self {
        let flags = ["--requirepass", password].iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
        Self::with(flags, Some(password), false)
    }

    pub(crate) fn start_with_tls(certificate: &Certificate) -> Self {
        Self::with(certificate.flags(), None, true)
    }

    /// A server that keeps everything that it has acknowledged, also when it is killed.
    pub(crate) fn start_durable() -> Self {
        Self::start_with_flags(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// A server with other flags, which override those of all servers.
    pub(crate) fn start_with_flags(flags: &[&str]) -> Self {
        Self::with(flags.iter().map(|flag| (*flag).to_owned()).collect(), None, false)
    }

    /// A server that is not running yet; [`RedisServer::run`] starts it.
    pub(crate) fn absent() -> Self {
        let mut redis = Self::start();
        redis.kill();
        redis
    }

    fn with(flags: Vec<String>, password: Option<&'static str>, tls: bool) -> Self {
        // Concurrent test processes start at different ports.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let first = std::process::id() * 101;
        let (scheme, fragment) = if tls { ("rediss", "#insecure") } else { ("redis", "") };
        let mut redis = Self { port: 0, flags, scheme, password, fragment, child: None, directory: TempDir::new() };
        for _ in 0..100 {
            let offset = (first + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % PORTS.len() as u32;
            redis.port = PORTS.start + u16::try_from(offset).unwrap();
            // Skip occupied ports, where another server would answer instead.
            if std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, redis.port)).is_ok() && redis.try_run() {
                return redis;
            }
        }
        panic!("no redis-server could be started");
    }

    /// Starts the server on its port. Returns `false` if the process exited.
    fn try_run(&mut self) -> bool {
        assert!(self.child.is_none(), "redis-server is already running");
        let port = self.port.to_string();
        let ports = if self.scheme == "rediss" { ["0", &port] } else { [&*port, "0"] };
        let mut child = Command::new("redis-server")
            .args(["--port", ports[0], "--tls-port", ports[1], "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--loglevel", "warning", "--dir"])
            .arg(self.directory.path())
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed");
        let mut running = false;
        eventually("redis-server answers or has exited", || {
            // Another server could answer on this port.
            running = self.try_connect().is_some_and(|mut connection| {
                process_id(&mut connection) == Some(child.id()) && has_loaded(&mut connection)
            });
            running || child.try_wait().unwrap().is_some()
        });
        if running {
            self.child = Some(child);
        }
        running
    }

    /// Starts the server again on its port.
    pub(crate) fn run(&mut self) {
        assert!(self.try_run(), "redis-server did not start again on port {}", self.port);
    }

    /// Requires `password` from the next start on.
    pub(crate) fn require_password(&mut self, password: &'static str) {
        self.flags.extend(["--requirepass".to_owned(), password.to_owned()]);
        self.password = Some(password);
    }

    /// Kills the process with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the process without closing its connections, like a host that hangs.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().expect("redis-server is running").id();
        kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        self.url_with_password(self.password)
    }

    pub(crate) fn url_with_password(&self, password: Option<&str>) -> String {
        let Self { scheme, port, fragment, .. } = self;
        let credentials = password.map(|password| format!(":{password}@")).unwrap_or_default();
        format!("{scheme}://{credentials}127.0.0.1:{port}/{fragment}")
    }

    pub(super) fn try_connect(&self) -> Option<Connection> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let info = self.url().into_connection_info().unwrap();
        let connection = Client::open(info).unwrap().get_connection_with_timeout(LIMIT).ok()?;
        connection.set_read_timeout(Some(LIMIT)).unwrap();
        connection.set_write_timeout(Some(LIMIT)).unwrap();
        Some(connection)
    }

    pub(crate) fn connect(&self) -> Connection {
        self.try_connect().expect("redis-server is running")
    }

    /// Publishes `events`, pairs of channel and payload, in order and in one pipeline.
    pub(crate) fn publish<C: AsRef<[u8]>, P: AsRef<[u8]>>(&self, events: impl IntoIterator<Item = (C, P)>) {
        let mut pipeline = redis::pipe();
        for (channel, payload) in events {
            pipeline.cmd("PUBLISH").arg(channel.as_ref()).arg(payload.as_ref()).ignore();
        }
        let () = pipeline.query(&mut self.connect()).unwrap();
    }

    /// Publishes a score update for each of `ids`.
    pub(crate) fn publish_scores<I: AsRef<[u8]>>(&self, ids: impl IntoIterator<Item = I>) {
        self.publish(ids.into_iter().map(|id| ("stream.score_updates", id)));
    }

    /// Publishes a post for the emoji `id`.
    pub(crate) fn publish_post(&self, id: &str, json: &str) {
        self.publish([(format!("stream.tweet_updates.{id}"), json)]);
    }
}

/// A port for something beside a server, free now, and in no range that other ports are taken from.
pub(super) fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 12_000..20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() * 101;
    for _ in 0..1000 {
        let offset = (first + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % PORTS.len() as u32;
        let port = PORTS.start + u16::try_from(offset).unwrap();
        if std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// Whether the server has read its append-only file: until then it answers `INFO`, and refuses all commands that use data.
fn has_loaded(connection: &mut Connection) -> bool {
    redis::cmd("PING").query::<String>(connection).is_ok()
}

/// The process id of the server that answers, if any.
fn process_id(connection: &mut Connection) -> Option<u32> {
    let info: String = redis::cmd("INFO").arg("server").query(connection).ok()?;
    info.lines().find_map(|line| line.strip_prefix("process_id:"))?.parse().ok()
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
