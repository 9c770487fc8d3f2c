//! HTTPS: the same streams and pages, by HTTP/1.1 and HTTP/2, read by curl and a browser.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::Signal;

use crate::support::{Browser, Certificate, Raw, RedisServer, Tallycast, command, eventually, run};

fn start(redis: &RedisServer, certificate: &Certificate) -> Tallycast {
    let tallycast = Tallycast::start_unready(
        &redis.url(),
        &["--tls-cert", &certificate.certificate(), "--tls-key", &certificate.key()],
    );
    tallycast.wait_for_log("subscribed url");
    tallycast
}

/// `curl` of a path, which trusts only `certificate`.
fn curl(tallycast: &Tallycast, certificate: &Certificate, path: &str, flags: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--no-buffer", "--max-time", "60", "--cacert", &certificate.certificate()]);
    curl.args(flags).arg(format!("https://localhost:{}{path}", tallycast.address.port()));
    curl
}

/// A stream that curl reads; ended with its owner.
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
fn streams_over_tls_read_the_same_by_both_versions_and_end_in_good_order() {
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
        // curl tells of a body that was cut off.
        assert!(stream.child.wait().unwrap().success());
    }
}

#[test]
fn a_new_certificate_is_shown_after_a_hangup_and_open_streams_stay() {
    let redis = RedisServer::start();
    let (certificate, new) = (Certificate::self_signed(), Certificate::self_signed());
    let tallycast = start(&redis, &certificate);
    let mut stream = CurlStream::open(curl(&tallycast, &certificate, "/subscribe/raw", &[]));
    std::fs::copy(new.certificate(), certificate.certificate()).unwrap();
    // The old key does not go with it, so nothing changes.
    tallycast.signal(Signal::HUP);
    tallycast.wait_for_log("the configuration stays as it was");
    std::fs::copy(new.key(), certificate.key()).unwrap();
    tallycast.signal(Signal::HUP);
    eventually("the new certificate is shown", || run(&mut curl(&tallycast, &new, "/healthz", &[])).status.success());
    let other = Certificate::self_signed();
    assert_eq!(run(&mut curl(&tallycast, &other, "/healthz", &[])).status.code(), Some(60));
    redis.publish_scores(["1F602"]);
    assert_eq!(stream.line(), "data:1F602");
    let counters = run(&mut curl(&tallycast, &new, "/admin/counters.json", &[])).stdout;
    let counters: serde_json::Value = serde_json::from_slice(&counters).unwrap();
    assert!(counters["http"]["tls_failures"].as_u64() >= Some(1), "{counters}");
}

#[test]
fn plain_http_is_told_so_and_a_healthcheck_is_content_with_it() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate);
    let mut raw = Raw::request(&tallycast, "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(raw.read_to_the_end().starts_with("HTTP/1.1 421 Misdirected Request\r\n"));
    let port = tallycast.address.port().to_string();
    assert!(run(command().args(["healthcheck", "--port", &port])).status.success());
    // TLS where none is spoken.
    let plain = Tallycast::start(&redis, &[]);
    assert!(!run(&mut curl(&plain, &certificate, "/healthz", &[])).status.success());
    assert_eq!(plain.get("/healthz").0, 200);
}

#[test]
fn mistakes_with_files_are_told_in_one_line() {
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
fn a_browser_holds_twenty_streams_on_one_http2_connection() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate);
    let browser = Browser::start();
    browser.open_url(&format!("https://localhost:{}/v1/status", tallycast.address.port()));
    browser.eval(
        "(window.opened = 0, window.heard = 0, window.streams = Array.from({length: 20}, () => { \
            const stream = new EventSource('/subscribe/raw'); \
            stream.onopen = () => opened += 1; stream.onmessage = () => heard += 1; return stream.url; }), 0)",
    );
    // By HTTP/1.1 a browser opens no more than six.
    browser.until("window.opened", 20);
    let protocols =
        "[...new Set(performance.getEntriesByType('navigation').map(entry => entry.nextHopProtocol))].join()";
    browser.until(protocols, "h2");
    redis.publish_scores(["1F602"]);
    browser.until("window.heard", 20);
}
