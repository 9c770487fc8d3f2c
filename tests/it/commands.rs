//! `tallycast publish`, `count` and `tail`, from the shell.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{EventSource, RedisServer, Tallycast, command, eventually, run};

const FLAGS: [&str; 6] = [
    "--publish-key",
    "the-key",
    "--route",
    "stream:orders=/orders/*,history=1h",
    "--route",
    "stream.score_updates=/raw,tally=/eps",
];

fn client(tallycast: &Tallycast, arguments: &[&str]) -> Command {
    let mut client = command();
    client.args(arguments).env("TALLYCAST_URL", tallycast.url("")).env("TALLYCAST_PUBLISH_KEY", "the-key");
    client
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a command with this standard input.
fn with_input(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // It may stop reading.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// A running `tallycast tail`, killed on drop.
struct Tail {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Tail {
    fn start(tallycast: &Tallycast, arguments: &[&str]) -> Self {
        let mut child = client(tallycast, &[&["tail"], arguments].concat());
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    #[track_caller]
    fn expect(&mut self, lines: &[&str]) {
        for expected in lines {
            assert_eq!(self.lines.next().expect("another line").unwrap(), *expected);
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn messages_are_published_and_counted_from_the_shell() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &FLAGS);
    let orders = EventSource::open(&tallycast, "/subscribe/orders?envelope=1");
    let next = || -> Value {
        let event = orders.next();
        let envelope: Value = serde_json::from_str(&event.data).unwrap();
        json!([envelope["namespace"], envelope["event"], envelope["data"]])
    };
    let one = run(&mut client(&tallycast, &["publish", "/orders/A b", "hello", "--event", "created"]));
    assert_eq!((one.status.code(), text(&one.stderr).as_str()), (Some(0), ""));
    assert_eq!(next(), json!(["/orders/A b", "created", "hello"]));
    assert!(text(&one.stdout).trim_end().contains('-'), "{one:?}");
    let many: String = (0..2345).map(|number| format!("line {number}\n")).collect();
    let output = with_input(client(&tallycast, &["publish", "/orders/B"]), &many);
    assert_eq!((output.status.code(), text(&output.stdout).lines().count()), (Some(0), 2345));
    for number in 0..2345 {
        assert_eq!(next(), json!(["/orders/B", null, format!("line {number}")]));
    }
    let lines = "{\"namespace\":\"/orders/C\",\"event\":\"e\",\"data\":{\"a\":1}}\n{\"namespace\":\"/orders/D\",\"data\":\"7\"}\n";
    assert_eq!(with_input(client(&tallycast, &["publish", "--ndjson"]), lines).status.code(), Some(0));
    assert_eq!([next(), next()], [json!(["/orders/C", "e", {"a": 1}]), json!(["/orders/D", null, 7])]);
    let count = run(&mut client(&tallycast, &["count", "/eps", "1F602=3", "2665", "1F602"]));
    assert_eq!((count.status.code(), text(&count.stdout).as_str()), (Some(0), "1F602 4\n2665 1\n"));
}

#[test]
fn failures_have_a_line_and_an_exit_code() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &FLAGS);
    let failure = |arguments: &[&str]| {
        let output = run(&mut client(&tallycast, arguments));
        assert!(output.stdout.is_empty(), "{output:?}");
        (output.status.code().unwrap(), text(&output.stderr))
    };
    let (code, error) = failure(&["publish", "/other", "x"]);
    assert_eq!((code, &*error), (1, "tallycast publish: message 0: no route leads to /other\n"));
    let (code, error) = failure(&["publish", "/orders/A", "{", "--json"]);
    assert!(code == 1 && error.starts_with("tallycast publish: expected JSON: "), "{error}");
    let (code, error) = failure(&["publish", "/orders/A", "x", "--key", "wrong"]);
    assert_eq!((code, &*error), (1, "tallycast publish: a publishing key is required, as Bearer token\n"));
    let (code, error) = failure(&["count", "/raw", "a"]);
    assert!(code == 1 && error.contains("/raw has no totals"), "{error}");
    let (code, error) = failure(&["count", "/eps", "a=0"]);
    assert!(code == 64 && error.contains("expected KEY or KEY=COUNT, such as 1F602 or 1F602=3"), "{error}");
    let (code, error) = failure(&["tail", "orders"]);
    assert!(code == 64 && error.contains("a namespace must start with '/'"), "{error}");
    let (code, error) = failure(&["tail", "/orders", "--last", "0"]);
    assert_eq!((code, &*error), (1, "tallycast tail: bad query: last=0; expected a number from 1 to 10000\n"));
    let (code, error) = failure(&["tail", "/orders", "--url", "http://127.0.0.1:1"]);
    assert!(code == 69 && error.starts_with("tallycast tail: cannot reach http://127.0.0.1:1: "), "{error}");
    let input = "{\"namespace\":\"/orders/A\",\"data\":1}\nnot JSON\n";
    let output = with_input(client(&tallycast, &["publish", "--ndjson"]), input);
    let error = text(&output.stderr);
    assert!(error.contains("line 2 was not: expected a JSON object: "), "{error}");
    for name in ["publish", "count", "tail"] {
        let help = text(&run(command().args([name, "--help"])).stdout);
        assert!(help.contains("Examples:") && !help.contains("the-key"), "{help}");
    }
}

#[test]
fn tail_prints_messages_and_resumes_after_a_restart() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &FLAGS);
    let publish = |tallycast: &Tallycast, data: &str| {
        let output = run(&mut client(tallycast, &["publish", "/orders/A", data, "--event", "e"]));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    };
    publish(&tallycast, "1");
    publish(&tallycast, "2\n3");
    let mut all = Tail::start(&tallycast, &["/orders/*", "--since", "earliest"]);
    all.expect(&["/orders/A e 1", "/orders/A e 2\\n3"]);
    let last = run(&mut client(&tallycast, &["tail", "/orders", "--last", "1", "--count", "1", "--json"]));
    let envelope: Value = serde_json::from_slice(&last.stdout).unwrap();
    assert_eq!(
        (&envelope["namespace"], &envelope["data"], last.status.code()),
        (&json!("/orders/A"), &json!("2\n3"), Some(0))
    );
    let since = run(&mut client(&tallycast, &["tail", "/orders", "--since", "1h", "--count", "2"]));
    assert_eq!(text(&since.stdout), "/orders/A e 1\n/orders/A e 2\\n3\n");
    let port = tallycast.address.port();
    drop(tallycast);
    let mut serve = command();
    serve.arg("serve").env("REDIS_URL", redis.url()).args(FLAGS);
    let tallycast = Tallycast::spawn_at(serve, port);
    tallycast.until_ready();
    publish(&tallycast, "4");
    all.expect(&["/orders/A e 4"]);
    kill_process(Pid::from_child(&all.child), Signal::INT).unwrap();
    assert_eq!(all.child.wait().unwrap().code(), Some(0));
    let mut notes = String::new();
    all.child.stderr.take().unwrap().read_to_string(&mut notes).unwrap();
    assert!(notes.contains("; connecting again\n"), "{notes}");
}

#[test]
fn tail_ends_when_its_output_is_closed() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &FLAGS);
    let mut tail = client(&tallycast, &["tail", "/raw"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    tallycast.until_counter("/hub/connections", 1);
    drop(tail.stdout.take());
    eventually("it ends", || {
        redis.publish_scores(["26"]);
        tail.try_wait().unwrap().is_some()
    });
    assert_eq!(tail.wait().unwrap().code(), Some(0));
}

#[test]
fn lines_before_an_invalid_one_are_published() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &FLAGS);
    let input = "{\"namespace\":\"/orders/A\",\"data\":1}\n\n{\"namespace\":\"/orders/A\",\"data\":2}\nnot JSON\n";
    let output = with_input(client(&tallycast, &["publish", "--ndjson"]), input);
    let (expected, error) = ("tallycast publish: published 2 messages; line 4 was not: ", text(&output.stderr));
    assert!(output.status.code() == Some(1) && error.starts_with(expected), "{error}");
    let all = run(&mut client(&tallycast, &["tail", "/orders", "--since", "earliest", "--count", "2"]));
    assert_eq!(text(&all.stdout), "/orders/A - 1\n/orders/A - 2\n");
}

#[test]
fn everything_is_published_when_nobody_reads_the_ids() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &FLAGS);
    let mut publish = client(&tallycast, &["publish", "/orders/A"]);
    let mut child = publish.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let lines: String = (0..2000).map(|number| format!("{number}\n")).collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(redis::cmd("XLEN").arg("orders").query(&mut redis.connect()), Ok(2000));
}

#[test]
fn large_lines_are_published_one_by_one_and_data_is_not_changed() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &FLAGS);
    let large = format!("{}\n", "x".repeat(400_000)) + &format!("{}\n", "y".repeat(900_000));
    let output = with_input(client(&tallycast, &["publish", "/orders/A"]), &large);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    let input = "{\"namespace\":\"/orders/B\",\"data\":{\"b\":1.50,\"a\":12345678901234567890123}}\n";
    let output = with_input(client(&tallycast, &["publish", "--ndjson"]), input);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let tail = run(&mut client(&tallycast, &["tail", "/orders/B", "--since", "earliest", "--count", "1"]));
    assert_eq!(text(&tail.stdout), "/orders/B - {\"b\":1.50,\"a\":12345678901234567890123}\n");
    let string = run(&mut client(&tallycast, &["publish", "/orders/C", "\"1\"", "--json"]));
    assert_eq!(string.status.code(), Some(0), "{string:?}");
    let stored: redis::Value = redis::cmd("XREVRANGE")
        .arg("orders")
        .arg("+")
        .arg("-")
        .arg("COUNT")
        .arg(1)
        .query(&mut redis.connect())
        .unwrap();
    assert!(format!("{stored:?}").contains("\\\"1\\\""), "{stored:?}");
}
