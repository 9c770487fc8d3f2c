//! The proxy configurations of `deploy/proxy`: events and WebSockets pass through each proxy at once, tallycast sees the client, and
//! clients do not notice the restart of a node.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::limits::clients;
use crate::restart::{Connectors, connect};
use crate::support::{Certificate, EventSource, LIMIT, RedisServer, Tallycast, TempDir, WebSocket, eventually};

const FLAGS: [&str; 4] = ["--route", "stream:orders=/orders/**,history=1h", "--trusted-proxy", "127.0.0.1/32"];
/// Of a client, because the proxy itself connects from 127.0.0.1.
const CLIENT: &str = "127.0.0.5";

/// A running proxy in front of two nodes, killed on drop.
struct Proxy {
    child: Child,
    plain: SocketAddr,
    tls: SocketAddr,
    certificate: Certificate,
    redis: RedisServer,
    nodes: [Tallycast; 2],
    _directory: TempDir,
}

fn free_address() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

/// Puts `replacements` into a shipped file. Each must apply, so that the file and this test stay consistent.
fn render(name: &str, replacements: &[(&str, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/proxy").join(name);
    let mut text = std::fs::read_to_string(path).unwrap();
    for (from, to) in replacements {
        assert!(text.contains(from), "{name} has no {from:?}");
        text = text.replace(from, to);
    }
    text
}

impl Proxy {
    /// Starts the proxy that `command` makes from the directory of its files, with the shipped configuration `name`.
    fn start(name: &str, listeners: [&str; 2], more: &[(&str, &str)], command: impl Fn(&Path) -> Command) -> Self {
        let redis = RedisServer::start();
        let nodes = [(); 2].map(|()| Tallycast::start(&redis, &FLAGS));
        let directory = TempDir::new();
        let certificate = Certificate::self_signed();
        let both = directory.path().join("both.pem");
        let [pem, key] =
            [certificate.certificate(), certificate.key()].map(|path| std::fs::read_to_string(path).unwrap());
        std::fs::write(&both, pem + &key).unwrap();
        let mut attempt = 0;
        loop {
            let (plain, tls) = (free_address(), free_address());
            let ports = [plain, tls].map(|address| address.port().to_string());
            let listen =
                |place: usize| (listeners[place], listeners[place].replace(["80", "443"][place], &ports[place]));
            let mut replacements = vec![
                listen(0),
                listen(1),
                ("/etc/ssl/example.org.pem", both.display().to_string()),
                ("127.0.0.1:8001", nodes[0].address.to_string()),
                ("127.0.0.2:8001", nodes[1].address.to_string()),
            ];
            replacements.extend(more.iter().map(|(from, to)| (*from, to.replace("{key}", &certificate.key()))));
            std::fs::write(directory.path().join(name), render(name, &replacements)).unwrap();
            let mut child =
                command(directory.path()).current_dir(directory.path()).stdin(Stdio::null()).spawn().unwrap();
            let mut is_running = true;
            eventually("the proxy answers or has exited", || {
                is_running = child.try_wait().unwrap().is_none();
                let is_ready = || connect(plain, "/readyz").is_ok();
                !is_running || is_ready()
            });
            if is_running {
                return Self { child, plain, tls, certificate, redis, nodes, _directory: directory };
            }
            // Another process may have taken one of the ports.
            attempt += 1;
            assert!(attempt < 3, "{name}: the proxy does not start");
        }
    }

    /// The addresses of the clients that have streams of one of the nodes.
    fn clients(&self) -> Vec<String> {
        self.nodes.iter().flat_map(clients).collect()
    }

    /// Everything that a proxy must do.
    fn check(self) {
        let mut redis = self.redis.connect();
        let client = IpAddr::V4(CLIENT.parse().unwrap());
        let mut spoofed = reqwest::header::HeaderMap::new();
        spoofed.insert("x-forwarded-for", "192.0.2.1".parse().unwrap());
        let builder = reqwest::Client::builder().local_address(client).default_headers(spoofed);
        let events = EventSource::open_url(builder, format!("http://{}/subscribe/orders", self.plain));
        let mut websocket = WebSocket::open_at(self.plain, "/ws/orders", &[]).unwrap();
        websocket.send_text(r#"{"id":7,"subscribe":["/orders/a"]}"#);
        eventually("the command is answered", || websocket.json()["id"] == 7);
        let mut curl = self.curl();
        // Each is published when the one before has arrived everywhere, so none waits for more.
        for number in 0..10 {
            let text = number.to_string();
            let _: String =
                redis::cmd("XADD").arg(&["orders", "*", "topic", "a", "data", &text]).query(&mut redis).unwrap();
            assert_eq!(events.next().data, text);
            eventually("the WebSocket has it", || websocket.json()["data"] == text);
            curl.until(&format!("data:{text}"));
        }
        assert!(curl.lines[0].starts_with("HTTP/2 200"), "{:?}", curl.lines);
        eventually("the nodes know the client", || self.clients().iter().any(|address| address == CLIENT));
        assert!(!self.clients().iter().any(|address| address == "192.0.2.1"), "{:?}", self.clients());
        drop((events, websocket, curl));

        let connectors = Connectors::start(self.plain);
        eventually("the proxy serves", || connectors.answered() > 20);
        let [first, _second] = &self.nodes;
        first.signal(Signal::TERM);
        first.wait_for_log("stopped");
        let before = connectors.answered();
        eventually("the other node serves", || connectors.answered() > before + 50);
        connectors.stop();
    }

    /// An event stream over TLS and HTTP/2.
    fn curl(&self) -> Lines {
        let url = format!("https://localhost:{}/subscribe/orders", self.tls.port());
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--no-buffer", "--include", "--http2", "--ipv4", "--cacert"]);
        curl.arg(self.certificate.certificate()).args(["--max-time", &LIMIT.as_secs().to_string(), &url]);
        let mut child = curl.stdout(Stdio::piped()).spawn().expect("curl must be installed");
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = Lines { child, output, lines: Vec::new() };
        lines.until(": tallycast");
        lines
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx and HAProxy end their worker processes at SIGTERM.
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        let _ = kill_process(id, Signal::TERM);
        let _ = self.child.wait();
    }
}

/// A client that prints what it receives, killed on drop.
struct Lines {
    child: Child,
    output: BufReader<ChildStdout>,
    lines: Vec<String>,
}

impl Lines {
    /// Reads up to a line that starts with `start`.
    fn until(&mut self, start: &str) {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "no line {start:?} in {:?}", self.lines);
            self.lines.push(line);
            if self.lines.last().is_some_and(|line| line.starts_with(start)) {
                return;
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nginx_streams_and_fails_over() {
    // The directories of the package are for root.
    let directories =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {name};"));
    let http = format!("http {{\n{}", directories.join("\n"));
    let more =
        [("/etc/ssl/example.org.key", "{key}"), ("http {", &http), ("worker_processes auto", "worker_processes 1")];
    let listeners = ["listen 80;", "listen 443 ssl"];
    Proxy::start("nginx.conf", listeners, &more, |directory| {
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(directory).args(["-c", "nginx.conf", "-e", "stderr"]);
        nginx.args(["-g", "daemon off; pid nginx.pid;"]);
        nginx
    })
    .check();
}

#[test]
fn haproxy_streams_and_fails_over() {
    // More than the test may have open.
    let more = [("maxconn 50000", "maxconn 1000")];
    Proxy::start("haproxy.cfg", ["bind :80", "bind :443"], &more, |_| {
        let mut haproxy = Command::new("haproxy");
        haproxy.args(["-q", "-db", "-f", "haproxy.cfg"]);
        haproxy
    })
    .check();
}

#[test]
fn caddy_streams_and_fails_over() {
    // It would wait for the streams of clients that have left.
    let more = [("/etc/ssl/example.org.key", "{key}"), ("grace_period 10s", "grace_period 1ms")];
    Proxy::start("Caddyfile", [":80 {", ":443 {"], &more, |directory| {
        let mut caddy = Command::new("caddy");
        caddy.args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]).stderr(Stdio::null());
        // It keeps files there.
        caddy.env("HOME", directory).env("XDG_DATA_HOME", directory).env("XDG_CONFIG_HOME", directory);
        caddy
    })
    .check();
}
