//! A `rabbitmq-server` process, and a client of it.

use std::fs::Permissions;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{LazyLock, RwLock};

use async_rs::Runtime;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties, ExchangeKind};
use rustix::process::{Pid, Signal, kill_process};

use super::{TempDir, block_on, eventually};

/// Debian's. The one in `/usr/sbin` insists on certain users.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// As for Redis, and far from the ports of its servers.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const OFFSET: u32 = 6_000;
/// One scheduler that does not spin: tests have few cores, and it starts no slower.
const ERLANG_FLAGS: &str = "+S 1:1 +SDcpu 1:1 +SDio 1 +A 1 +sbwt none +sbwtdcpu none +sbwtdio none";
/// What makes the certificate for the server.
const LEAF: &str = "-keyout key.pem -out cert.pem -subj /CN=localhost -CA ca.pem -CAkey ca.key \
                    -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
/// The exchange, unless a URL names another one.
const EXCHANGE: &str = "tallycast";

/// The server of all tests, because its start takes seconds. Those that stop it take it for writing.
pub(crate) static RABBITMQ: LazyLock<RwLock<RabbitServer>> = LazyLock::new(|| RwLock::new(RabbitServer::start()));

/// A node of its own with all that belongs to it, killed on drop, and when the test process ends.
pub(crate) struct RabbitServer {
    ports: Ports,
    directory: TempDir,
    node: Option<Node>,
}

struct Ports {
    amqp: u16,
    amqps: u16,
    distribution: u16,
    epmd: u16,
}

struct Node {
    server: Child,
    /// Erlang's registry of nodes, which would outlive the server if the server started it.
    epmd: Child,
    /// Waits for the end of the test process, however that comes, and kills both.
    watcher: Child,
}

impl RabbitServer {
    pub(crate) fn start() -> Self {
        for _ in 0..10 {
            let ports = Ports { amqp: free_port(), amqps: free_port(), distribution: free_port(), epmd: free_port() };
            let mut server = Self { ports, directory: TempDir::new(), node: None };
            server.prepare();
            if server.try_run() {
                return server;
            }
        }
        panic!("no rabbitmq-server could be started");
    }

    fn prepare(&self) {
        let home = self.directory.path();
        let cookie = home.join(".erlang.cookie");
        std::fs::write(&cookie, "tallycast").unwrap();
        std::fs::set_permissions(cookie, Permissions::from_mode(0o400)).unwrap();
        std::fs::write(home.join("plugins"), "[].").unwrap();
        std::fs::write(home.join("rabbitmq.conf"), configuration(&self.ports, home)).unwrap();
        // An authority, and a certificate that it has issued, for the server and for clients.
        for command in ["-keyout ca.key -out ca.pem -subj /CN=authority", LEAF] {
            let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
            let arguments = arguments.split(' ').chain(command.split(' '));
            let made = Command::new("openssl").args(arguments).current_dir(home).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
    }

    /// Starts the server on its ports. Returns `false` if the process exited.
    fn try_run(&mut self) -> bool {
        assert!(self.node.is_none(), "rabbitmq-server is already running");
        let home = self.directory.path();
        let epmd_port = self.ports.epmd.to_string();
        let epmd = quiet(Command::new("epmd").args(["-port", &epmd_port, "-address", "127.0.0.1"]));
        let mut server = quiet(
            Command::new(SERVER)
                // An Erlang shell would read standard input.
                .arg("-noinput")
                .env("RABBITMQ_ALLOW_INPUT", "1")
                .env("HOME", home)
                .env("ERL_EPMD_PORT", &epmd_port)
                .env("ERL_EPMD_ADDRESS", "127.0.0.1")
                .env("RABBITMQ_NODENAME", format!("tallycast-{}@localhost", self.ports.amqp))
                .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
                .env("RABBITMQ_MNESIA_BASE", home.join("mnesia"))
                .env("RABBITMQ_LOG_BASE", home.join("log"))
                .env("RABBITMQ_PID_FILE", home.join("pid"))
                .env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq"))
                .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
                .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("plugins"))
                .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG_FLAGS),
        );
        let watcher = Command::new("sh")
            .args(["-c", r#"read -r _; kill -KILL "$1" "$2"; rm -rf "$3""#, "watcher"])
            .args([server.id().to_string(), epmd.id().to_string()])
            .arg(home)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut running = false;
        eventually("rabbitmq-server answers or has exited", || {
            running = block_on(self.connect()).is_ok();
            running || server.try_wait().unwrap().is_some()
        });
        self.node = Some(Node { server, epmd, watcher });
        if !running {
            self.kill();
        }
        running
    }

    /// Starts the server again on its ports, with what it has kept.
    pub(crate) fn run(&mut self) {
        assert!(self.try_run(), "rabbitmq-server did not start again on port {}", self.ports.amqp);
    }

    /// Kills the process with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(Node { server, epmd, watcher }) = self.node.take() {
            // The watcher first, while the ids that it knows are those of the others.
            for mut child in [watcher, server, epmd] {
                let _ = child.kill();
                let _ = child.wait();
            }
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
        let id = self.node.as_ref().expect("rabbitmq-server is running").server.id();
        kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.ports.amqp)
    }

    /// The URL of the same server with TLS.
    pub(crate) fn tls_url(&self) -> String {
        format!("amqps://localhost:{}", self.ports.amqps)
    }

    /// The path of a file in PEM: `ca.pem`, and `cert.pem` and `key.pem`, which the server has, and clients may have.
    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    async fn connect(&self) -> lapin::Result<Connection> {
        let properties = ConnectionProperties::default();
        let url = format!("{}/%2f", self.url());
        Connection::connect_with_runtime(&url, properties, Runtime::tokio_current()).await
    }

    /// Publishes payloads with a routing key, in order.
    pub(crate) fn publish(&self, channel: &str, payloads: &[&[u8]]) {
        self.publish_to(EXCHANGE, payloads.iter().map(|payload| (channel, payload)));
    }

    /// Publishes to an exchange, in order, and waits until the server has taken everything.
    pub(crate) fn publish_to<C: AsRef<str>, P: AsRef<[u8]>>(
        &self,
        exchange: &str,
        events: impl IntoIterator<Item = (C, P)>,
    ) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        block_on(async {
            let connection = self.connect().await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let declared =
                channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default());
            declared.await.unwrap();
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            let mut confirmations = Vec::new();
            for (key, payload) in events {
                // Persistent, and with an id, by which tallycast recognises it.
                let id = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
                let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(id.into());
                let options = BasicPublishOptions::default();
                let (key, payload) = (key.as_ref().into(), payload.as_ref());
                let published = channel.basic_publish(exchange.into(), key, options, payload, properties);
                confirmations.push(published.await.unwrap());
            }
            for confirmation in confirmations {
                assert!(confirmation.await.unwrap().is_ack());
            }
            connection.close(200, "OK".into()).await.unwrap();
        });
    }

    /// How many events a queue holds that are not sent to a consumer, if it exists.
    pub(crate) fn queue_length(&self, queue: &str) -> Option<u32> {
        block_on(async {
            let connection = self.connect().await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
            let length = declared.ok().map(|queue| queue.message_count());
            connection.close(200, "OK".into()).await.unwrap();
            length
        })
    }
}

impl Drop for RabbitServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn quiet(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("rabbitmq-server must be installed")
}

fn free_port() -> u16 {
    // Concurrent test processes start at different ports.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() * 101 + OFFSET;
    loop {
        let offset = (first + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % PORTS.len() as u32;
        let port = PORTS.start + u16::try_from(offset).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn configuration(ports: &Ports, home: &Path) -> String {
    let (Ports { amqp, amqps, .. }, home) = (ports, home.display());
    format!(
        "listeners.tcp.1 = 127.0.0.1:{amqp}\n\
         listeners.ssl.1 = 127.0.0.1:{amqps}\n\
         ssl_options.cacertfile = {home}/ca.pem\n\
         ssl_options.certfile = {home}/cert.pem\n\
         ssl_options.keyfile = {home}/key.pem\n\
         ssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = true\n\
         log.console = false\n\
         log.file = false\n\
         disk_free_limit.absolute = 1MB\n"
    )
}
