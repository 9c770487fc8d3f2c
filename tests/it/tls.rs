//! HTTPS: streams and pages over HTTP/1.1 and HTTP/2, read by curl and Chromium.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::Signal;

use crate::support::{Browser, Certificate, Raw, RedisServer, Tallycast, command, eventually, run};

fn start(redis: &RedisServer, certificate: &Certificate) -> Tallycast {
    let tallycast = Tallycast::start_unready(
        &redis.url(),
        &["--tls-cert", &certificate.certificate(), "--tls-key", &certificate.key()],
    );
    tallycast.wait_for_log("subscribed source");
    tallycast
}

/// A `curl` command for `path` that trusts `certificate` only.
fn curl(tallycast: &Tallycast, certificate: &Certificate, path: &str, flags: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--no-buffer", "--max-time", "60", "--cacert", &certificate.certificate()]);
    curl.args(flags).arg(format!("https://localhost:{}{path}", tallycast.address.port()));
    curl
}

/// A stream read by curl, ended on drop.
struct CurlStream {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl CurlStream {
    fn open(mut curl: Command) -> Self {
        let mut child = curl.stdout(Stdio::piped()).spawn().expect("curl must be installed");
        let mut stream = Self { lines: BufReader::new(child.stdout.take().unwrap()), child };
        assert_eq!(stream.line(), ": tallycast");
        assert_eq!(stream.line(), "");
        stream
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        rest
    }
}

impl Drop for CurlStream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tls_streams_work_with_http1_and_http2_and_end_gracefully() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate);
    let mut streams = ["--http1.1", "--http2"]
        .map(|version| CurlStream::open(curl(&tallycast, &certificate, "/subscribe/raw", &[version])));
    let version = run(&mut curl(&tallycast, &certificate, "/healthz", &["--write-out", "%{http_version}"]));
    assert_eq!(String::from_utf8(version.stdout).unwrap(), "alive\n2");
    redis.publish_scores(["1F602", "2764"]);
    for stream in &mut streams {
        assert_eq!([stream.line(), stream.line(), stream.line()], ["data:1F602", "", "data:2764"]);
    }
    assert!(tallycast.terminate().status.success());
    for mut stream in streams {
        assert_eq!(stream.rest(), "\n");
        // curl fails if the body is incomplete.
        assert!(stream.child.wait().unwrap().success());
    }
}

#[test]
fn sighup_reloads_certificate_and_keeps_streams() {
    let redis = RedisServer::start();
    let (certificate, new) = (Certificate::self_signed(), Certificate::self_signed());
    let tallycast = start(&redis, &certificate);
    let mut stream = CurlStream::open(curl(&tallycast, &certificate, "/subscribe/raw", &[]));
    std::fs::copy(new.certificate(), certificate.certificate()).unwrap();
    // The old key does not match, so nothing changes.
    tallycast.signal(Signal::HUP);
    tallycast.wait_for_log("invalid configuration, keeping the previous one");
    std::fs::copy(new.key(), certificate.key()).unwrap();
    tallycast.signal(Signal::HUP);
    eventually("the new certificate is served", || run(&mut curl(&tallycast, &new, "/healthz", &[])).status.success());
    let other = Certificate::self_signed();
    assert_eq!(run(&mut curl(&tallycast, &other, "/healthz", &[])).status.code(), Some(60));
    redis.publish_scores(["1F602"]);
    assert_eq!(stream.line(), "data:1F602");
    let counters = run(&mut curl(&tallycast, &new, "/admin/counters.json", &[])).stdout;
    let counters: serde_json::Value = serde_json::from_slice(&counters).unwrap();
    assert!(counters["http"]["tls_failures"].as_u64() >= Some(1), "{counters}");
}

#[test]
fn plain_http_on_tls_port_returns_421_and_passes_healthcheck() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate);
    let mut raw = Raw::request(&tallycast, "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(raw.read_to_end().starts_with("HTTP/1.1 421 Misdirected Request\r\n"));
    let port = tallycast.address.port().to_string();
    assert!(run(command().args(["healthcheck", "--port", &port])).status.success());
    // TLS to a plain port.
    let plain = Tallycast::start(&redis, &[]);
    assert!(!run(&mut curl(&plain, &certificate, "/healthz", &[])).status.success());
    assert_eq!(plain.get("/healthz").0, 200);
}

#[test]
fn invalid_certificate_files_exit_with_one_line() {
    let certificate = Certificate::self_signed();
    let (file, key) = (certificate.certificate(), certificate.key());
    let other = Certificate::self_signed();
    for (arguments, expected) in [
        (vec!["--tls-cert", &file], "--tls-cert needs --tls-key"),
        (vec!["--tls-key", &key], "--tls-key needs --tls-cert"),
        (vec!["--tls-cert", "/nowhere", "--tls-key", &key], "/nowhere"),
        (vec!["--tls-cert", &key, "--tls-key", &key], "no certificate"),
        (vec!["--tls-cert", &file, "--tls-key", &file], "a private key"),
        (vec!["--tls-cert", &file, "--tls-key", &other.key()], "--tls-cert, --tls-key"),
    ] {
        let output = run(command().args(&arguments));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(64), 1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn browser_opens_twenty_streams_on_one_http2_connection() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate);
    let browser = Browser::start();
    browser.open_url(&format!("https://localhost:{}/v1/status", tallycast.address.port()));
    browser.eval(
        "(window.opened = 0, window.received = 0, window.streams = Array.from({length: 20}, () => { \
            const stream = new EventSource('/subscribe/raw'); \
            stream.onopen = () => opened += 1; stream.onmessage = () => received += 1; return stream.url; }), 0)",
    );
    // Over HTTP/1.1 a browser opens at most six.
    browser.wait_until("window.opened", 20);
    let protocols =
        "[...new Set(performance.getEntriesByType('navigation').map(entry => entry.nextHopProtocol))].join()";
    browser.wait_until(protocols, "h2");
    redis.publish_scores(["1F602"]);
    browser.wait_until("window.received", 20);
}
