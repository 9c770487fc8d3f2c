//! What every source does, whichever broker it reads: order, hostile payloads, bursts, a restart of the broker, and shutdown.

use std::ops::Range;

use crate::ingest;
use crate::support::{EventSource, RedisServer, Tallycast, command, eventually};

/// A broker that the test starts, and how it is a source.
pub(crate) trait Broker {
    /// Whether it keeps what is published while nothing is subscribed.
    const DURABLE: bool;

    /// The value of `--source`.
    fn source(&self) -> String;

    /// The option `--route` by which what is published comes to `/c`.
    fn route(&self) -> String;

    /// Publishes in order, and returns when the broker has everything.
    fn publish(&self, payloads: &[&[u8]]);

    /// Kills it.
    fn kill(&mut self);

    /// Starts it again at the same address.
    fn run(&mut self);
}

/// Channels, or a stream.
struct Redis<const STREAM: bool>(RedisServer);

impl<const STREAM: bool> Broker for Redis<STREAM> {
    const DURABLE: bool = STREAM;

    fn source(&self) -> String {
        self.0.url()
    }

    fn route(&self) -> String {
        if STREAM { "stream:c=/c".to_owned() } else { "c=/c".to_owned() }
    }

    fn publish(&self, payloads: &[&[u8]]) {
        if !STREAM {
            return self.0.publish(payloads.iter().map(|payload| ("c", payload)));
        }
        let mut pipeline = redis::pipe();
        for payload in payloads {
            pipeline.cmd("XADD").arg("c").arg("*").arg("data").arg(*payload).ignore();
        }
        let () = pipeline.query(&mut self.0.connect()).unwrap();
    }

    fn kill(&mut self) {
        self.0.kill();
    }

    fn run(&mut self) {
        self.0.run();
    }
}

#[test]
fn redis_pubsub_fulfils_the_contract() {
    fulfils_the_contract(Redis::<false>(RedisServer::start()));
}

#[test]
fn redis_streams_fulfil_the_contract() {
    fulfils_the_contract(Redis::<true>(RedisServer::start_durable()));
}

#[test]
#[ignore = "a measurement"]
fn ingest_of_redis() {
    ingest::measure("Redis pub/sub", &Redis::<false>(RedisServer::start()));
    ingest::measure("Redis streams", &Redis::<true>(RedisServer::start()));
}

/// Checks everything with one broker, because some take seconds to start.
pub(crate) fn fulfils_the_contract<B: Broker>(mut broker: B) {
    arrives_in_order(&broker);
    survives_hostile_payloads(&broker);
    counts_what_a_burst_loses(&broker);
    survives_a_restart_of_its_broker(&mut broker);
    sends_what_it_received_before_it_exits(&broker);
}

/// A server with the broker as its default source.
pub(crate) fn start<B: Broker>(broker: &B, flags: &[&str]) -> Tallycast {
    let (source, route) = (broker.source(), broker.route());
    let mut command = command();
    command.args(["serve", "--source", &source, "--route", &route]).args(flags);
    let tallycast = Tallycast::spawn(command);
    tallycast.until_ready();
    tallycast
}

fn publish<B: Broker>(broker: &B, numbers: Range<u32>) {
    let payloads: Vec<String> = numbers.map(|number| number.to_string()).collect();
    broker.publish(&payloads.iter().map(String::as_bytes).collect::<Vec<_>>());
}

#[track_caller]
fn expect(stream: &EventSource, numbers: Range<u32>) {
    for number in numbers {
        assert_eq!(stream.next().data, number.to_string());
    }
}

fn arrives_in_order<B: Broker>(broker: &B) {
    let tallycast = start(broker, &[]);
    let stream = EventSource::open(&tallycast, "/subscribe/c");
    for round in 0..4 {
        publish(broker, round * 250..(round + 1) * 250);
    }
    expect(&stream, 0..1000);
    let counters = ["/source/received", "/decode/decoded", "/decode/rejected", "/source/overflowed", "/source/gaps"];
    assert_eq!(counters.map(|counter| tallycast.counter(counter)), [1000, 1000, 0, 0, 0]);
}

fn survives_hostile_payloads<B: Broker>(broker: &B) {
    let tallycast = start(broker, &[]);
    let stream = EventSource::open(&tallycast, "/subscribe/c");
    broker.publish(&[b"\xff\xfe", b"a\xc3", b"two\nlines", b"{\"nul\":\"\0\"}", &vec![b'x'; 200_000], b"last"]);
    assert_eq!(stream.next().data, "two\nlines");
    assert_eq!(stream.next().data, "{\"nul\":\"\0\"}");
    assert_eq!(stream.next().data.len(), 200_000);
    assert_eq!(stream.next().data, "last");
    let counters = ["/source/received", "/decode/decoded", "/decode/rejected"];
    assert_eq!(counters.map(|counter| tallycast.counter(counter)), [6, 4, 2]);
}

/// The inboxes have room for a few events: a source that waits loses none of many, and one that cannot counts them.
fn counts_what_a_burst_loses<B: Broker>(broker: &B) {
    const BURST: u32 = 3000;
    let tallycast = start(broker, &["--inbox", "2"]);
    let stream = EventSource::open(&tallycast, "/subscribe/c");
    publish(broker, 0..BURST);
    let total = |counters: [&str; 2]| counters.map(|counter| tallycast.counter(counter)).iter().sum::<u64>();
    eventually("all events are decoded or counted", || {
        total(["/decode/decoded", "/source/overflowed"]) == u64::from(BURST)
    });
    let lost = u32::try_from(tallycast.counter("/source/overflowed")).unwrap();
    assert!(lost == 0 || !B::DURABLE, "{lost} events are lost");
    let received: Vec<u32> = (0..BURST - lost).map(|_| stream.next().data.parse().unwrap()).collect();
    assert!(received.is_sorted_by(|one, other| one < other), "{received:?}");
}

fn survives_a_restart_of_its_broker<B: Broker>(broker: &mut B) {
    let tallycast = start(broker, &[]);
    let stream = EventSource::open(&tallycast, "/subscribe/c");
    publish(broker, 0..50);
    if !B::DURABLE {
        expect(&stream, 0..50);
    }
    broker.kill();
    eventually("the loss is reported", || tallycast.get("/readyz").0 == 503);
    broker.run();
    if !B::DURABLE {
        tallycast.until_ready();
    }
    publish(broker, 50..100);
    expect(&stream, if B::DURABLE { 0..100 } else { 50..100 });
    tallycast.until_ready();
    assert_eq!(tallycast.counter("/source/gaps"), 1);
}

fn sends_what_it_received_before_it_exits<B: Broker>(broker: &B) {
    let tallycast = start(broker, &[]);
    let stream = EventSource::open(&tallycast, "/subscribe/c");
    publish(broker, 0..500);
    tallycast.until_counter("/source/received", 1);
    let ended = tallycast.terminate();
    assert!(ended.status.success(), "{}", ended.log);
    let received: Vec<u32> = stream.rest().iter().map(|event| event.data.parse().unwrap()).collect();
    // It stopped somewhere, and everything before was sent.
    assert_eq!(received, (0..received.len() as u32).collect::<Vec<_>>());
    let counters = ended.counters();
    assert_eq!(counters["source"]["received"], received.len());
    assert_eq!(counters["decode"]["decoded"], received.len());
}
