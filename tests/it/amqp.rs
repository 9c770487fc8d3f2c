//! RabbitMQ as the broker: a real server, frozen, killed and restarted.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};

use reqwest::StatusCode;
use rustix::process::Signal;
use tallycast::source::amqp::{AmqpSource, Config};
use tallycast::source::{BrokerState, Selector, SourceEvent, Supervisor};
use tallycast_fanout::inbox;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::ingest;
use crate::source_contract::{Broker, fulfils_the_contract};
use crate::support::{
    Event, EventSource, LIMIT, RABBITMQ, RabbitServer, Tallycast, TempDir, block_on, command, eventually, nodes, run,
};

/// The server, which keeps running meanwhile.
fn server() -> RwLockReadGuard<'static, RabbitServer> {
    RABBITMQ.read().unwrap_or_else(PoisonError::into_inner)
}

/// The server, which may be killed.
fn server_alone() -> RwLockWriteGuard<'static, RabbitServer> {
    RABBITMQ.write().unwrap_or_else(PoisonError::into_inner)
}

/// Queues of connections, or durable ones.
struct Queues<const DURABLE: bool>(RwLockWriteGuard<'static, RabbitServer>);

impl<const DURABLE: bool> Broker for Queues<DURABLE> {
    const DURABLE: bool = DURABLE;

    fn source(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let url = self.0.url();
        // Each process with another one, because a queue sends again what the last one did not acknowledge.
        if DURABLE { format!("{url}?queue=contract-{}", NEXT.fetch_add(1, Ordering::Relaxed)) } else { url }
    }

    fn route(&self) -> String {
        "c=/c".to_owned()
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
fn queue_of_a_connection_fulfils_the_contract() {
    fulfils_the_contract(Queues::<false>(server_alone()));
}

#[test]
fn durable_queue_fulfils_the_contract() {
    fulfils_the_contract(Queues::<true>(server_alone()));
}

#[test]
#[ignore = "a measurement"]
fn ingest_of_rabbitmq() {
    ingest::measure("RabbitMQ", &Queues::<false>(server_alone()));
    ingest::measure("RabbitMQ, durable queue", &Queues::<true>(server_alone()));
}

/// Starts a server whose default source is `url`.
fn start_unready(url: &str, flags: &[&str]) -> Tallycast {
    let mut serve = command();
    serve.args(["serve", "--source", url]).args(flags);
    Tallycast::spawn(serve)
}

fn start(url: &str, flags: &[&str]) -> Tallycast {
    let tallycast = start_unready(url, flags);
    tallycast.until_ready();
    tallycast
}

/// Publishes over HTTP. Returns the status and the body.
fn publish(tallycast: &Tallycast, namespace: &str, text: &str, idempotency_key: Option<&str>) -> (StatusCode, String) {
    block_on(async {
        let url = tallycast.url(&format!("/publish{namespace}"));
        let mut request = reqwest::Client::new().post(url).bearer_auth("key").body(text.to_owned()).timeout(LIMIT);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    })
}

#[test]
fn events_arrive_once_and_in_order_by_their_routing_keys() {
    const EVENTS: usize = 3000;
    let server = server();
    let directory = TempDir::new();
    let file = directory.path().join("tallycast.toml");
    let routes = |routes: &str| std::fs::write(&file, format!("route = [{routes}]\n")).unwrap();
    routes("'orders.*=/orders/*', 'orders.eu=/eu', 'word*=/words/*'");
    let url = format!("{}?exchange=order&prefetch=100", server.url());
    let tallycast = start(&url, &["--publish-key", "key", "--config", &file.display().to_string()]);
    let orders = EventSource::open(&tallycast, "/subscribe/orders");
    let eu = EventSource::open(&tallycast, "/subscribe/eu");
    let words = EventSource::open(&tallycast, "/subscribe/words");
    let texts: Vec<String> = (0..EVENTS).map(|number| number.to_string()).collect();
    server.publish_to("order", texts.iter().map(|text| (format!("orders.us.{}", text.len()), text)));
    for text in &texts {
        assert_eq!(orders.next(), Event::message(text));
    }
    // Several bindings match, or a binding matches more than its route: "orders", by "orders.#".
    server
        .publish_to("order", [("orders.eu", "1"), ("orders", "no"), ("other", "no"), ("word.s", "2"), ("words", "3")]);
    assert_eq!((eu.next(), [words.next(), words.next()]), (Event::message("1"), ["2", "3"].map(Event::message)));
    // What is invalid is acknowledged, so that it does not return.
    server.publish_to("order", [("orders.x", &b"\xff"[..]), ("orders.x", b"4")]);
    assert_eq!(orders.next(), Event::message("4"));
    assert_eq!(publish(&tallycast, "/eu", "5", None), (StatusCode::OK, "{\"id\":null}".to_owned()));
    assert_eq!(eu.next(), Event::message("5"));
    let (status, refusal) = publish(&tallycast, "/orders/x", "6", Some("once"));
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(refusal.contains("RabbitMQ has no idempotency keys"), "{refusal}");
    routes("'orders.*=/orders/*', 'news=/news'");
    tallycast.signal(Signal::HUP);
    let news = EventSource::open(&tallycast, "/subscribe/news");
    tallycast.wait_for_log("changed the bindings of the queue");
    server.publish_to("order", [("words", "no"), ("news", "7")]);
    assert_eq!(news.next(), Event::message("7"));
    let counters = tallycast.terminate().counters();
    assert_eq!((&counters["decode"]["rejected"], &counters["source"]["gaps"]), (&1.into(), &0.into()));
    assert_eq!(counters["source"]["received"], EVENTS + 7);
}

#[test]
fn durable_queue_keeps_what_fits_while_its_node_is_away() {
    let server = server();
    let url = format!("{}?exchange=bounded&queue=bounded&max-length=5&expires=1h", server.url());
    let flags = ["--route", "a.*=/a/*"];
    let tallycast = start(&url, &flags);
    // A second consumer would take a part of the events.
    let other = start_unready(&url, &flags);
    let line = other.wait_for_log("cannot subscribe; retrying");
    assert!(line.contains("exclusive"), "{line}");
    drop(other);
    server.publish_to("bounded", [("a.b", "0")]);
    tallycast.until_counter("/hub/broadcast", 1);
    eventually("the event is acknowledged", || server.queue_length("bounded") == Some(0));
    tallycast.terminate();
    server.publish_to("bounded", (0..10).map(|number| ("a.b", number.to_string())));
    assert_eq!(server.queue_length("bounded"), Some(5));
    let tallycast = start(&url, &flags);
    tallycast.until_counter("/hub/broadcast", 5);
    tallycast.wait_for_log("consuming a durable queue");
    let counters = tallycast.terminate().counters();
    assert_eq!((&counters["source"]["received"], &counters["decode"]["rejected"]), (&5.into(), &0.into()));
}

#[test]
fn tls_authenticates_both_sides() {
    let server = server();
    let trusting = format!("{}?ca={}", server.tls_url(), server.file("ca.pem"));
    let url = format!("{trusting}&cert={}&key={}", server.file("cert.pem"), server.file("key.pem"));
    let tallycast = start(&url, &["--route", "a=/a"]);
    let reader = EventSource::open(&tallycast, "/subscribe/a");
    server.publish("a", &[b"1"]);
    assert_eq!(reader.next(), Event::message("1"));
    for (url, reason) in [(trusting, ""), (server.tls_url(), "certificate"), (format!("{url}x"), "cannot read")] {
        let line = start_unready(&url, &["--route", "a=/a"]).wait_for_log("cannot subscribe; retrying");
        assert!(line.contains(reason), "{line}");
    }
}

#[test]
fn wrong_password_is_reported_but_never_printed() {
    let server = server();
    let url = server.url().replace("amqp://", "amqp://guest:battery-staple@");
    let tallycast = start_unready(&url, &["--log", "trace", "--route", "a=/a"]);
    let line = tallycast.wait_for_log("cannot subscribe; retrying");
    assert!(line.contains("amqp://guest:***@127.0.0.1") && line.contains("ACCESS_REFUSED"), "{line}");
    let pages = ["/admin/status.json", "/admin/counters.json", "/readyz"].map(|path| tallycast.get(path).1);
    let ended = tallycast.terminate();
    for text in pages.iter().chain([&ended.log]) {
        assert!(!text.contains("battery-staple"), "{text}");
    }
}

#[test]
fn what_rabbitmq_cannot_do_is_refused_in_one_line() {
    let source = "mq=amqp://:battery@h";
    for (flags, expected) in [
        (["--source", "amqp://:battery@h?secret=1", "--route", "a=/a"], "unknown or repeated option"),
        (["--source", source, "--route", "mq:stream:orders=/orders/*"], "invalid stream \"orders\" for RabbitMQ"),
        (["--source", source, "--route", "mq:orders.#=/orders"], "invalid channel \"orders.#\" for RabbitMQ"),
    ] {
        let output = run(command().arg("check").args(flags));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{stderr}");
        assert!(stderr.contains(expected) && !stderr.contains("battery") && stderr.lines().count() == 1, "{stderr}");
    }
    let output = run(command().args(["check", "--source", "mq=amqp://:battery@h?queue=n", "--route", "mq:a.*=/a/*"]));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("source mq amqp://:***@h:5672/%2F?exchange=tallycast&queue=n: channels: "), "{stdout}");
    assert!(!stdout.contains("battery"), "{stdout}");
}

#[test]
fn sessions_survive_a_server_that_hangs_and_one_that_is_killed() {
    let mut server = server_alone();
    let address = server.url();
    let url = |options: &str| format!("{address}?exchange=restart&heartbeat=1s&timeout=1s{options}");
    let flags = ["--route", "a=/a", "--publish-key", "key"];
    let [passing, durable] = [start(&url(""), &flags), start(&url("&queue=durable"), &flags)];
    let readers = [&passing, &durable].map(|tallycast| EventSource::open(tallycast, "/subscribe/a"));
    let received = || readers.each_ref().map(|reader| reader.next().data);
    assert_eq!(publish(&passing, "/a", "1", None).0, StatusCode::OK);
    assert_eq!(received(), ["1", "1"]);
    let not_ready = |tallycast: &Tallycast| tallycast.get("/readyz").0 == 503;

    // The events of this queue are not taken by a hub while it is held.
    let held = Held::start(&url("&queue=held"));
    server.publish_to("restart", [("a", "2")]);
    assert_eq!((received(), held.next()), (["2", "2"].map(str::to_owned), "2".to_owned()));

    server.freeze();
    eventually("both notice that the server hangs", || [&passing, &durable].into_iter().all(not_ready));
    assert_eq!(publish(&passing, "/a", "x", None).0, StatusCode::SERVICE_UNAVAILABLE);
    server.thaw();
    held.until(BrokerState::Subscribed);
    [&passing, &durable].into_iter().for_each(Tallycast::until_ready);
    // What was published may have arrived nevertheless.
    readers.iter().for_each(|reader| drop(reader.received()));

    durable.terminate();
    server.publish_to("restart", [("a", "3"), ("a", "4")]);
    server.kill();
    eventually("the end of the server is noticed", || not_ready(&passing));
    server.run();
    passing.until_ready();
    let durable = start(&url("&queue=durable"), &flags);
    durable.until_counter("/hub/broadcast", 2);
    held.until(BrokerState::Subscribed);
    let reader = EventSource::open(&passing, "/subscribe/a");
    eventually("publishing works again", || publish(&passing, "/a", "5", None).0 == StatusCode::OK);
    assert_eq!(reader.next(), Event::message("5"));
    durable.until_counter("/hub/broadcast", 3);
    // A busy machine can cause more.
    assert!(passing.counter("/source/gaps") >= 2);
    passing.wait_for_log("subscription lost; events are lost until it is restored");

    // The server has sent again what was held, and this process recognised it.
    let rest = std::iter::from_fn(|| Some(held.next())).take_while(|text| text != "5");
    // The first may have been published while the server hung, for all that its publisher knows.
    assert_eq!(rest.filter(|text| text != "x").collect::<Vec<_>>(), ["3", "4"]);
    // To another process it is new.
    drop(held);
    let held = Held::start(&url("&queue=held"));
    assert_eq!(held.next(), "2");
}

/// A source in this process whose events nothing takes.
struct Held {
    /// Dropped, it ends the source.
    runtime: Runtime,
    events: std::sync::Mutex<(inbox::Receiver<SourceEvent>, Vec<SourceEvent>)>,
    states: watch::Receiver<BrokerState>,
}

impl Held {
    fn start(url: &str) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (inbox, events) = inbox::channel(64, usize::MAX);
        let (state, states) = watch::channel(BrokerState::Connecting);
        let config = Config::parse(url).unwrap();
        runtime.spawn(async move {
            let (_selectors, selectors) = watch::channel(vec![Selector::Exact("a".to_owned())]);
            Supervisor::new(inbox).broker_state(state).run(AmqpSource::new(config, selectors)).await
        });
        let held = Self { runtime, events: (events, Vec::new()).into(), states };
        held.until(BrokerState::Subscribed);
        held
    }

    fn until(&self, expected: BrokerState) {
        let mut states = self.states.clone();
        let reached = async { timeout(LIMIT, states.wait_for(|state| *state == expected)).await.unwrap().map(drop) };
        self.runtime.block_on(reached).unwrap();
    }

    /// The payload of the next event, which is held.
    fn next(&self) -> String {
        let (receiver, held) = &mut *self.events.lock().unwrap();
        let event = self.runtime.block_on(async { timeout(LIMIT, receiver.recv()).await.unwrap() }).unwrap();
        let SourceEvent::Published(published) = &event else { panic!("not published: {event:?}") };
        let text = String::from_utf8(published.payload.clone()).unwrap();
        held.push(event);
        text
    }
}

#[test]
fn nodes_know_each_other_by_a_fanout_exchange() {
    let server = server();
    let url = format!("{}?exchange=nodes", server.url());
    nodes::come_and_go(|name| start(&url, &["--cluster", "--instance", name, "--route", "*=/*"]));
}
