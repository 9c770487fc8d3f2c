//! The configuration file: precedence, errors and reloading with SIGHUP.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use crate::support::{
    Certificate, Event, EventSource, LIMIT, RedisServer, Tallycast, TempDir, command, eventually, get, run,
};

/// A temporary configuration file, removed on drop.
pub(crate) struct File {
    directory: TempDir,
}

impl File {
    pub(crate) fn new(text: &str) -> Self {
        let file = Self { directory: TempDir::new() };
        file.write(text);
        file
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("tallycast.toml")
    }

    pub(crate) fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }
}

/// The output of `tallycast check`: value and origin by key.
fn check(command: &mut Command) -> BTreeMap<String, (String, String)> {
    let output = run(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        // The sources, and what they can do.
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (key, rest) = line.split_once(" = ").unwrap();
            let (value, origin) = rest.rsplit_once(" # ").unwrap();
            (key.to_owned(), (value.trim_end().to_owned(), origin.to_owned()))
        })
        .collect()
}

/// Runs a command that must fail with a usage error, and returns its one line on standard error.
fn refused(command: &mut Command) -> String {
    let output = run(command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.trim_end().to_owned()
}

#[test]
fn flags_override_variables_and_variables_override_file() {
    let file = File::new("port = 1001\nkeep-alive = \"1s\"\ninbox = 7\nredis-url = \"redis://:hunter2@host\"\n");
    let path = file.path().display().to_string();
    let effective =
        check(command().args(["check", "--config", &path, "--port", "3"]).env("TALLYCAST_KEEP_ALIVE", "2s"));
    let of = |key: &str| {
        let (value, origin) = &effective[key];
        (value.as_str(), origin.as_str())
    };
    assert_eq!(of("port"), ("3", "flag"));
    assert_eq!(of("keep-alive"), ("2s", "TALLYCAST_KEEP_ALIVE"));
    assert_eq!(of("inbox"), ("7", path.as_str()));
    assert_eq!(of("stall-limit"), ("60s", "default"));
    assert_eq!(of("redis-url"), ("redis://:***@host", path.as_str()));
    // The file can also be named by a variable.
    assert_eq!(check(command().arg("check").env("TALLYCAST_CONFIG", &path))["inbox"].0, "7");
}

#[test]
fn file_errors_are_one_line_with_location() {
    let file = File::new("");
    let path = file.path().display().to_string();
    for (text, expected) in [
        ("# a\nprot = 80\n", "unknown key \"prot\": expected a flag name without the dashes; did you mean \"port\"?"),
        ("# a\nprot = 80\n", "line 2 column 1"),
        ("port = 99999\n", "invalid value \"99999\" for --port: expected a port number"),
        ("port = 99999\n", "line 1 column 1"),
        ("route = [\"a\"]\n", "expected PATTERN=NAMESPACE"),
        ("route = [\"a=/x,history=0\"]\n", "history=\"0\": expected a duration such as 10m, a number of messages"),
        ("route = [\"stream:a*=/x\"]\n", "the stream \"a*\" has a *; expected the exact key of a Redis stream"),
        ("route = [\"stream:a=/x\", \"stream:a=/y\"]\n", "several routes read the stream \"a\""),
        ("source = \"redis-stream\"\n", "invalid value for --source: expected redis, redis-streams, URL"),
        ("log = \"tallycast=loud\"\n", "--log"),
        ("log-bytes = \"4M\"\n", "invalid value \"4M\" for --log-bytes: expected bytes, such as 65536 or 64KiB"),
        ("port = \n", "invalid TOML for port: "),
        ("admin-token = 1.5\n", "invalid type for admin-token: expected a string"),
        ("admin-token = 1.5\n", "line 1 column 1"),
    ] {
        file.write(text);
        for arguments in [["check", "--config", &path], ["serve", "--config", &path]] {
            let line = refused(command().args(arguments));
            assert!(line.contains(expected), "{text}: {line}");
        }
    }
    file.write("redis-url = \"http://:hunter2@host\"\n");
    let line = refused(command().args(["check", "--config", &path]));
    assert!(!line.contains("hunter2") && line.contains("tallycast.toml line 1"), "{line}");
    // A typing error beside a secret.
    for text in [
        "redis-url = redis://:hunter2@host\n",
        "redis-ulr = \"redis://:hunter2@host\"\n",
        "admin-token = \"hunter2\n",
        "admin-token = [\"hunter2\"]\n",
        "admin-token = \"hunter2\"\nport = \"x\"\n",
        "hunter2 = \"\"\n",
        "admin-token = \"\"\n\"hunter2\" = \"\"\n",
        "[hunter2]\n",
        "port = \"\"\"8001\nadmin-token = 'hunter2'\n\"\"\"\n",
        "instance = \"\"\"a\nadmin-token = 'hunter2'\n\"\"\"\n",
    ] {
        file.write(text);
        let line = refused(command().args(["check", "--config", &path]));
        assert!(!line.contains("hunter2") && line.contains("tallycast.toml line "), "{line}");
    }
    file.write("admin-token = \"hunter2\"\nredis-url = \"redis://:hunter2@host\"\n");
    for arguments in [&["--help"][..], &["check", "-h"], &["check"]] {
        let output = run(command().args(arguments).env("TALLYCAST_CONFIG", &path));
        assert!(!String::from_utf8(output.stdout).unwrap().contains("hunter2"), "{arguments:?}");
    }
    let line = refused(command().args(["check", "--config", "/nowhere/t.toml"]));
    assert!(line.contains("cannot read the configuration file /nowhere/t.toml: No such file"), "{line}");
}

#[test]
fn annotated_example_lists_every_option_with_default() {
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tallycast.toml")).unwrap();
    let is_option = |line: &&str| {
        let key = line.strip_prefix("# ").and_then(|line| line.split_once(" = ")).map_or("", |(key, _)| key);
        !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    let options: Vec<&str> = example.lines().filter(is_option).map(|line| &line[2..]).collect();
    // Paths must name existing files.
    let certificate = Certificate::self_signed();
    let options = options.join("\n").replace("/etc/tallycast/cert.pem", &certificate.certificate());
    let options = options.replace("/etc/tallycast/ca.pem", &certificate.certificate());
    let file = File::new(&options.replace("/etc/tallycast/key.pem", &certificate.key()));
    let path = file.path().display().to_string();
    // The connect hook needs sessions.
    let defaults = check(command().arg("check").env("TALLYCAST_SESSIONS", "true"));
    let with_file = check(command().args(["check", "--config", &path]).env("TALLYCAST_SESSIONS", "true"));
    for (key, (value, _)) in &defaults {
        assert_eq!(with_file.get(key).map(|(value, _)| value), Some(value), "{key}");
    }
    // Options without a default.
    let without: Vec<&str> = with_file.keys().filter(|key| !defaults.contains_key(*key)).map(String::as_str).collect();
    assert_eq!(
        without,
        [
            "admin-token",
            "config",
            "connect-ca",
            "connect-secret",
            "connect-url",
            "handover",
            "instance",
            "max-per-address",
            "namespace-limit",
            "otlp-endpoint",
            "otlp-headers",
            "otlp-resource-attributes",
            "otlp-service-name",
            "public",
            "publish-key",
            "rate-per-address",
            "realtime-channel",
            "retry",
            "send-multiple-check-jwt",
            "send-multiple-prefix-channel",
            "shards",
            "stream-maxlen",
            "stream-minid",
            "tls-cert",
            "tls-key",
            "token-audience",
            "token-issuer",
            "token-jwks",
            "token-jwks-ca",
            "token-key",
            "token-publish",
            "token-read",
            "trusted-proxy",
            "unifrost",
        ]
    );
    let help = String::from_utf8(run(command().args(["serve", "--help"])).stdout).unwrap();
    for flag in help.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
        let flag = flag.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let other = ["config", "print-config", "help"].contains(&flag);
        assert!(other || with_file.contains_key(flag), "{flag} is missing in docs/tallycast.toml");
    }
}

#[test]
fn configuration_of_kubernetes_manifests_is_valid() {
    let manifest = include_str!("../../deploy/kubernetes/configmap.yaml");
    let (_, options) = manifest.split_once("  tallycast.toml: |\n").unwrap();
    let file = File::new(&options.replace("\n    ", "\n"));
    let checked = check(command().args(["check", "--config", &file.path().display().to_string()]));
    assert_eq!(checked["max-connections"].0, "20000");
}

#[test]
fn sighup_applies_routes_limits_and_log_level_without_disconnects() {
    let redis = RedisServer::start();
    let file = File::new("");
    let path = file.path().display().to_string();
    let tallycast = Tallycast::start(&redis, &["--config", &path]);
    let root = EventSource::open(&tallycast, "/subscribe/");
    redis.publish([("news.a", "lost")]);
    file.write("route = [\"news.*=/news/*\"]\nmax-connections = 2\nlog = \"debug\"\ninbox = 5\n");
    tallycast.signal(Signal::HUP);
    tallycast.wait_for_log("configuration reloaded options=\"log, max-connections, route\"");
    tallycast.wait_for_log("changed options need a restart options=\"inbox\"");
    let mut received = Vec::new();
    eventually("the new route is subscribed", || {
        redis.publish([("news.a", "one"), ("stream.score_updates", "26")]);
        received.extend(root.received());
        !received.is_empty()
    });
    assert!(received.iter().all(|event| *event == Event::message("one")), "{received:?}");
    // The limit applies to new connections: next to the open stream, one more is accepted.
    let mut crowd: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(tallycast.address).unwrap()).collect();
    let last = crowd.pop().unwrap();
    last.set_read_timeout(Some(LIMIT)).unwrap();
    let answer = std::io::read_to_string(last).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let counters = tallycast.terminate().counters();
    assert_eq!((&counters["source"]["subscriptions"], &counters["source"]["gaps"]), (&1.into(), &0.into()));
}

#[test]
fn sighup_applies_a_new_admin_token_and_names_a_new_redis_password() {
    let redis = RedisServer::start();
    let file = File::new("");
    let path = file.path().display().to_string();
    let tallycast = Tallycast::start(&redis, &["--config", &path]);
    let status = |token: &str| {
        let authorization = format!("Bearer {token}");
        get(&tallycast, "/admin/counters.json", &[("authorization", &authorization)]).status
    };
    let reload = |text: &str, logged: &str| {
        file.write(text);
        tallycast.signal(Signal::HUP);
        tallycast.wait_for_log(logged);
    };
    assert_eq!(status("any"), 200);
    reload("admin-token = \"first-secret\"\n", "configuration reloaded options=\"admin-token\"");
    assert_eq!((status("any"), status("first-secret")), (401, 200));
    reload("admin-token = \"other-secret\"\nport = 1\n", "configuration reloaded options=\"admin-token");
    eventually("the new token is required", || (status("first-secret"), status("other-secret")) == (401, 200));
    assert!(!tallycast.log().contains("-secret"), "{}", tallycast.log());

    let mut serve = command();
    let url = |password: &str| format!("redis-url = \"{}\"\n", redis.url_with_password(Some(password)));
    file.write(&url("first-secret"));
    serve.args(["serve", "--config", &path]);
    let tallycast = Tallycast::spawn(serve);
    file.write(&url("other-secret"));
    tallycast.signal(Signal::HUP);
    tallycast.wait_for_log("changed options need a restart options=\"redis-url\"");
    assert!(!tallycast.log().contains("-secret"), "{}", tallycast.log());
}

#[test]
fn sighup_with_invalid_file_keeps_configuration() {
    let redis = RedisServer::start();
    let file = File::new("");
    let path = file.path().display().to_string();
    let tallycast = Tallycast::start(&redis, &["--config", &path]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    file.write("rout = []\n");
    tallycast.signal(Signal::HUP);
    let line = tallycast.wait_for_log("invalid configuration, keeping the previous one");
    assert!(line.contains("did you mean"), "{line}");
    redis.publish_scores(["26"]);
    assert_eq!(raw.next(), Event::message("26"));
}
