//! NATS as the source of a server: streams of JetStream with their history, publishing, logins, and nodes that know each other.

use serde_json::{Value, json};

use crate::ingest;
use crate::source_contract::{Broker, fulfils_the_contract};
use crate::support::{Certificate, EventSource, NatsServer, Tallycast, TempDir, command, eventually, nodes, post};

/// Subjects, or a stream of JetStream.
struct Nats<const STREAM: bool>(NatsServer);

impl<const STREAM: bool> Broker for Nats<STREAM> {
    const DURABLE: bool = STREAM;

    fn source(&self) -> String {
        self.0.url()
    }

    fn route(&self) -> String {
        if STREAM { "stream:C=/c".to_owned() } else { "c=/c".to_owned() }
    }

    fn publish(&self, payloads: &[&[u8]]) {
        self.0.publish("c", payloads);
    }

    fn kill(&mut self) {
        self.0.kill();
    }

    fn run(&mut self) {
        self.0.run();
    }
}

#[test]
fn nats_subjects_fulfil_the_contract() {
    fulfils_the_contract(Nats::<false>(NatsServer::start()));
}

#[test]
fn jetstream_fulfils_the_contract() {
    let nats = NatsServer::start();
    nats.create_stream("C", "c");
    fulfils_the_contract(Nats::<true>(nats));
}

#[test]
#[ignore = "a measurement"]
fn ingest_of_nats() {
    ingest::measure("NATS subjects", &Nats::<false>(NatsServer::start()));
    let nats = NatsServer::start();
    nats.create_stream("C", "c");
    ingest::measure("JetStream", &Nats::<true>(nats));
}

fn serve(source: &str, flags: &[&str]) -> Tallycast {
    let mut command = command();
    command.args(["serve", "--source", source]).args(flags);
    Tallycast::spawn(command)
}

fn ready(source: &str, flags: &[&str]) -> Tallycast {
    let tallycast = serve(source, flags);
    tallycast.until_ready();
    tallycast
}

/// The ids and payloads of the next events.
fn next(stream: &EventSource, count: usize) -> Vec<(String, String)> {
    (0..count).map(|_| stream.next()).map(|event| (event.id.unwrap_or_default(), event.data)).collect()
}

#[test]
fn readers_resume_on_any_node_and_publish_in_streams() {
    const FLAGS: [&str; 8] = [
        "--route",
        "stream:ORDERS=/orders/**,split=.,history=1h",
        "--route",
        "news.*=/news/*",
        "--publish-key",
        "secret",
        "--keep-alive",
        "1s",
    ];
    const KEY: [(&str, &str); 1] = [("authorization", "Bearer secret")];
    let mut nats = NatsServer::start();
    nats.create_stream("ORDERS", "orders.>");
    nats.publish("orders.eu.1", ["one", "two"]);
    let (one, other) = (ready(&nats.url(), &FLAGS), ready(&nats.url(), &FLAGS));
    let stream = EventSource::open(&one, "/subscribe/orders?topic=/news/a");
    nats.publish_with_headers("orders.x", "topic: eu.2\r\nevent: paid\r\nsender: ann\r\n", ["three"]);
    let event = stream.next();
    assert_eq!((event.name.as_deref(), &*event.data), (Some("paid"), "three"));
    let answer = post(&one, "/publish/orders/us/7", &KEY, "four");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let found = next(&stream, 1);
    assert_eq!(found[0].1, "four");
    assert_eq!(post(&one, "/publish/news/a", &KEY, "five").status, 200);
    assert_eq!(stream.next().data, "five");
    // Both nodes give an entry the same id, and a restart of NATS changes nothing.
    nats.kill();
    nats.run();
    one.until_ready();
    other.until_ready();
    nats.publish("orders.eu.1", ["six"]);
    assert_eq!(stream.next().data, "six");
    let resumed = EventSource::open(&other, &format!("/subscribe/orders?lastEventID={}", event.id.unwrap()));
    let resumed = next(&resumed, 2);
    assert_eq!((&resumed[0], &*resumed[1].1), (&found[0], "six"));
    let only = EventSource::open(&other, "/subscribe/orders/eu/1?lastEventID=0-0");
    assert_eq!(next(&only, 3).into_iter().map(|(_, data)| data).collect::<Vec<_>>(), ["one", "two", "six"]);
}

#[test]
fn logins_and_certificates_are_checked_and_never_shown() {
    let certificate = Certificate::self_signed();
    let (file, key) = (certificate.certificate(), certificate.key());
    let directory = TempDir::new();
    let config = directory.path().join("nats.conf");
    let text = format!(
        r#"tls {{ cert_file: "{file}", key_file: "{key}" }}
        authorization {{ users: [
            {{ user: ann, password: "hunter2/@", permissions: {{ subscribe: ["a.*", "_INBOX.>"], publish: ["_INBOX.>"] }} }}
        ] }}"#
    );
    std::fs::write(&config, text).unwrap();
    let nats = NatsServer::start_with_flags(&["--config", config.to_str().unwrap()]);
    let ca = format!("?ca={file}");
    let url = |login: &str, options: &str| nats.url_with("tls", login, options);
    let good = ready(&url("ann:hunter2%2F%40@", &ca), &["--route", "a.*=/a/*"]);
    for (login, options, route, expected) in [
        ("ann:hunter3@", &*ca, "a.*=/a/*", "the server refuses: the login is invalid"),
        ("ann:hunter2%2F%40@", "", "a.*=/a/*", "invalid peer certificate"),
        ("ann:hunter2%2F%40@", &ca, "b=/b", "Permissions Violation for Subscription to"),
        ("", "?creds=/nowhere/ann.creds", "a.*=/a/*", "cannot read /nowhere/ann.creds"),
    ] {
        let refused = serve(&url(login, options), &["--route", route]);
        refused.wait_for_log(expected);
        assert_eq!(refused.get("/readyz").0, 503);
        let log = refused.log();
        assert!(!log.contains("hunter"), "{log}");
    }
    assert!(!good.log().contains("hunter"));
}

#[test]
fn nodes_know_each_other_by_nats() {
    let mut nats = NatsServer::start();
    let node = |name| ready(&nats.url(), &["--cluster", "--instance", name, "--route", "*=/*"]);
    let [a, b, c] = ["a", "b", "c"].map(node);
    for node in [&a, &b, &c] {
        let view = nodes::until(node, &["a", "b", "c"]);
        assert_eq!((&view["nodes_total"], &view["error"]), (&json!(3), &Value::Null));
    }
    assert_eq!(a.counter("/cluster/nodes"), 3);
    // Their messages are no events.
    assert_eq!(a.counter("/decode/decoded"), 0);
    b.terminate();
    let view = a.json("/admin/cluster.json");
    assert!(["a b c", "a c"].contains(&&*nodes::names(&view).join(" ")), "{view}");
    nodes::until(&a, &["a", "c"]);
    // SIGKILL: its lease ends.
    drop(c);
    assert_eq!(nodes::names(&a.json("/admin/cluster.json")), ["a", "c"]);
    nodes::until(&a, &["a"]);
    nats.kill();
    eventually("the view is stale", || a.json("/admin/cluster.json")["stale"] == true);
    nats.run();
    nodes::until(&a, &["a"]);
}
