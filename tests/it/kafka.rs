//! Kafka as a source: partitions as parts of positions, leaders that move, clusters that are away, and publishing.

use rustix::process::Signal;

use crate::ingest;
use crate::source_contract::{Broker, fulfils_the_contract};
use crate::support::kafka::{KafkaServer, Record};
use crate::support::{EventSource, Tallycast, command, eventually, nodes, post};

impl Broker for KafkaServer {
    const DURABLE: bool = true;

    fn source(&self) -> String {
        self.url()
    }

    fn route(&self) -> String {
        "stream:c=/c".to_owned()
    }

    fn publish(&self, payloads: &[&[u8]]) {
        self.write("c", payloads.iter().map(|payload| Record { value: Some(*payload), ..Record::default() }));
    }

    fn kill(&mut self) {
        Self::kill(self);
    }

    fn run(&mut self) {
        Self::run(self);
    }
}

/// A cluster with the topic of the contract.
fn contract() -> KafkaServer {
    let kafka = KafkaServer::start();
    kafka.create("c", 1);
    kafka
}

#[test]
fn kafka_fulfils_the_contract() {
    fulfils_the_contract(contract());
}

#[test]
#[ignore = "a measurement"]
fn ingest_of_kafka() {
    ingest::measure("Kafka", &contract());
}

/// A process whose source `k` is the cluster.
fn spawn(kafka: &KafkaServer, flags: &[&str]) -> Tallycast {
    let mut command = command();
    command.arg("serve").arg("--source").arg(format!("k={}?timeout=3s", kafka.url())).args(flags);
    // No route reads from Redis.
    command.env("REDIS_URL", "redis://127.0.0.1:1");
    let tallycast = Tallycast::spawn(command);
    tallycast.until_ready();
    tallycast
}

fn to(partition: i32, value: &str) -> Record<'_> {
    Record { partition, value: Some(value.as_bytes()), ..Record::default() }
}

/// The payloads of the next events, sorted, because partitions have no order among each other; and the id of the last of them.
fn events(stream: &EventSource, count: usize) -> (Vec<String>, String) {
    let events: Vec<_> = (0..count).map(|_| stream.next()).collect();
    let id = events.last().and_then(|event| event.id.clone()).unwrap_or_default();
    let mut payloads: Vec<_> = events.into_iter().map(|event| event.data).collect();
    payloads.sort();
    (payloads, id)
}

fn resume(tallycast: &Tallycast, path: &str, id: &str) -> EventSource {
    EventSource::open(tallycast, &format!("{path}?lastEventID={id}"))
}

#[test]
fn any_node_resumes_at_a_vector_of_offsets() {
    let kafka = KafkaServer::start();
    kafka.create("orders", 3);
    kafka.write("orders", [to(0, "old 0"), to(1, "old 1"), to(1, "old 2")]);
    let route = "k:stream:orders=/orders,history=100";
    let [one, other] = [(); 2].map(|()| spawn(&kafka, &["--route", route]));
    assert_eq!((one.counter("/source/backlog"), one.counter("/source/received")), (3, 0));
    let stream = EventSource::open(&one, "/subscribe/orders");
    kafka.write("orders", [to(2, "a"), to(0, "b")]);
    let (payloads, id) = events(&stream, 2);
    assert_eq!((payloads, &*id), (vec!["a".to_owned(), "b".to_owned()], "k%3Aorders@2.2.1"));
    drop(stream);
    kafka.write("orders", [to(0, "c"), to(1, "d"), to(2, "e")]);
    let expected = ["c", "d", "e"].map(str::to_owned).to_vec();
    // In the query, where an @ may be and a % may not.
    let id = id.replace('%', "%25");
    for tallycast in [&one, &other] {
        let resumed = resume(tallycast, "/subscribe/orders", &id);
        assert_eq!(events(&resumed, 3), (expected.clone(), "k%3Aorders@3.3.2".to_owned()));
    }
    let all = resume(&other, "/subscribe/orders", "earliest");
    assert_eq!(events(&all, 8).0, ["a", "b", "c", "d", "e", "old 0", "old 1", "old 2"]);
    let lag = "tallycast_source_lag{stream=\"k:orders\"} 0";
    eventually("the lag is exported", || one.get("/metrics").1.contains(lag));
}

#[test]
fn records_become_events_by_their_headers_and_keys() {
    let kafka = KafkaServer::start();
    kafka.create("orders", 1);
    kafka.create("prices.eu", 1);
    let routes = ["k:stream:orders=/orders/*,history=10", "k:prices.*=/prices/*", "k:stream:later=/later,history=5"];
    let flags = ["--publish-key", "secret", "--route", routes[0], "--route", routes[1], "--route", routes[2]];
    let tallycast = spawn(&kafka, &flags);
    let stream = EventSource::open(&tallycast, "/subscribe/orders?topic=/prices/*");
    let expect = |topic: &str, record: Record<'_>, name: Option<&str>, data: &str| {
        kafka.write(topic, [record]);
        let event = stream.next();
        assert_eq!((event.name.as_deref(), event.data.as_str()), (name, data));
    };
    expect("orders", Record { key: Some("a"), ..to(0, "one") }, None, "one");
    let headers = [("event", "paid"), ("topic", "b"), ("other", "x")];
    expect("orders", Record { key: Some("a"), headers: &headers, ..to(0, "two\nlines") }, Some("paid"), "two\nlines");
    expect("prices.eu", to(0, "1.5"), None, "1.5");
    // Without a value, without a topic, and without text.
    let tombstone = Record { key: Some("a"), ..Record::default() };
    let binary = Record { key: Some("a"), value: Some(&[0xff]), ..Record::default() };
    kafka.write("orders", [tombstone, to(0, "no topic"), binary]);
    tallycast.until_counter("/decode/rejected", 2);
    let key = [("authorization", "Bearer secret")];
    let published = post(&tallycast, "/publish/orders/c?event=new", &key, "three");
    assert!(published.body.contains("\"k%3Aorders%230:6-0\""), "{}", published.body);
    let event = stream.next();
    assert_eq!((event.name.as_deref(), event.data.as_str()), (Some("new"), "three"));
    let again = [key[0], ("idempotency-key", "x")];
    let refused = post(&tallycast, "/publish/orders/c", &again, "three");
    assert!(refused.status == 400 && refused.body.contains("Kafka keeps no idempotency keys"), "{}", refused.body);
    let resumed = resume(&tallycast, "/subscribe/orders/c", "k%253Aorders%25230:5-0");
    assert_eq!(resumed.next().data, "three");
}

#[test]
fn nothing_is_lost_when_leaders_move_and_the_cluster_is_away() {
    let kafka = KafkaServer::start();
    kafka.create("orders", 3);
    let tallycast = spawn(&kafka, &["--route", "k:stream:orders=/orders,history=100", "--route", "k:orders=/events"]);
    let streams = ["/subscribe/orders", "/subscribe/events"].map(|path| EventSource::open(&tallycast, path));
    let mut number = 0;
    let mut round = |what: &str| {
        let texts = [0, 1, 2].map(|partition| (partition, format!("{what} {number:02} {partition}")));
        number += 1;
        kafka.write("orders", texts.iter().map(|(partition, text)| to(*partition, text)));
        for stream in &streams {
            assert_eq!(events(stream, 3).0, texts.clone().map(|(_, text)| text), "{what}");
        }
    };
    round("at first");
    (0..3).for_each(|partition| kafka.lead("orders", partition, 3 - partition));
    round("after a change of leaders");
    kafka.kill();
    eventually("the lost cluster is noticed", || tallycast.get("/readyz").0 == 503);
    kafka.run();
    tallycast.until_ready();
    round("after an outage");
    kafka.freeze();
    eventually("the frozen cluster is noticed", || tallycast.get("/readyz").0 == 503);
    kafka.thaw();
    tallycast.until_ready();
    round("after a freeze");
    assert_eq!(tallycast.counter("/source/stream_gaps"), 0);
    assert!(tallycast.counter("/source/gaps") >= 2);
    assert_eq!(tallycast.terminate().status.code(), Some(0));
}

#[test]
fn records_deleted_before_they_were_read_are_a_reset() {
    let kafka = KafkaServer::start();
    kafka.create("orders", 1);
    let tallycast = spawn(&kafka, &["--route", "k:stream:orders=/orders,history=10"]);
    let stream = EventSource::open(&tallycast, "/subscribe/orders");
    kafka.write("orders", [to(0, "before")]);
    assert_eq!(stream.next().data, "before");
    tallycast.signal(Signal::STOP);
    // More than the mock cluster keeps.
    let large = "x".repeat(900_000);
    kafka.write("orders", (0..10).map(|_| to(0, &large)));
    tallycast.signal(Signal::CONT);
    // Some may have been on their way.
    let mut reset = stream.next();
    while reset.name.is_none() {
        reset = stream.next();
    }
    assert_eq!(reset.name.as_deref(), Some("reset"));
    assert!(reset.data.contains("\"trimmed\""), "{}", reset.data);
    assert_eq!(stream.next().data, large);
    tallycast.wait_for_log("records of a topic are lost");
    assert_eq!(tallycast.counter("/source/stream_gaps"), 1);
}

#[test]
fn nodes_know_each_other_by_a_topic() {
    let kafka = KafkaServer::start();
    kafka.create("tallycast.cluster", 2);
    let start = |name: &str| {
        let mut command = command();
        command.args(["serve", "--source", &format!("{}?timeout=1s", kafka.url())]);
        command.args(["--cluster", "--instance", name, "--route", "*=/*"]);
        let tallycast = Tallycast::spawn(command);
        tallycast.until_ready();
        tallycast
    };
    nodes::come_and_go(start);
}
