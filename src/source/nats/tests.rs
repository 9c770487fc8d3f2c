//! The sources with a `nats-server` that the test starts.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tallycast_fanout::inbox::{self, Receiver};
use tallycast_fanout::{SequenceEvent, SequenceEventKind};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::decode::Routes;
use crate::nats_client::tests::{PATIENCE, Server, add, api};
use crate::source::{BrokerState, SourceError, SourceEvent, SourceId, SourceStats, StreamKey, Supervisor};

/// A source that runs, and what it emits.
struct Running {
    selectors: watch::Sender<Vec<Selector>>,
    keys: watch::Sender<Vec<StreamKey>>,
    events: Receiver<SourceEvent>,
    states: watch::Receiver<BrokerState>,
    stats: Arc<SourceStats>,
    shutdown: CancellationToken,
    source: JoinHandle<Result<(), SourceError>>,
}

fn routes(routes: &[&str]) -> Routes {
    Routes::new(routes.iter().map(|route| route.parse().unwrap()).collect()).unwrap()
}

fn keys(texts: &[&str]) -> Vec<StreamKey> {
    routes(texts).streams(SourceId::DEFAULT)
}

/// Starts the source of subjects, or that of streams, as the first of the routes says.
fn start(server: &Server, texts: &[&str], room: usize) -> Running {
    let (selectors, selectors_now) = watch::channel(routes(texts).selectors(SourceId::DEFAULT));
    let (keys, keys_now) = watch::channel(keys(texts));
    let (inbox, events) = inbox::channel(room, usize::MAX);
    let (state, states) = watch::channel(BrokerState::Connecting);
    let (stats, shutdown) = (Arc::<SourceStats>::default(), CancellationToken::new());
    let supervisor = Supervisor::new(inbox).broker_state(state).stats(Arc::clone(&stats)).shutdown(shutdown.clone());
    let source = if texts[0].starts_with("stream:") {
        tokio::spawn(supervisor.run(JetStreamSource::new(server.url(), keys_now)))
    } else {
        tokio::spawn(supervisor.run(NatsSource::new(server.url_with("?timeout=2s"), selectors_now)))
    };
    Running { selectors, keys, events, states, stats, shutdown, source }
}

impl Running {
    /// The next event in words.
    async fn next(&mut self) -> String {
        match timeout(PATIENCE, self.events.recv()).await.expect("an event in time").unwrap() {
            SourceEvent::Published(event) => {
                let payload = String::from_utf8(event.payload).unwrap();
                match event.entry {
                    Some(entry) => {
                        let kind = if entry.is_backlog { "backlog" } else { "live" };
                        format!("{kind} {} {} {payload}", event.channel, entry.position.entry.major)
                    }
                    None => format!("{} {payload}", event.channel),
                }
            }
            SourceEvent::Sequence(SequenceEvent { sequence, kind }) => match kind {
                SequenceEventKind::Start { after } => format!("start {sequence} after {after}"),
                SequenceEventKind::Current => format!("current {sequence}"),
                SequenceEventKind::Interrupted => format!("interrupted {sequence}"),
                SequenceEventKind::Gap { after, reason } => format!("gap {sequence} after {after} {}", reason.as_str()),
                other => panic!("only relays have {other:?}"),
            },
            other => panic!("not from NATS: {other:?}"),
        }
    }

    async fn expect(&mut self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.next().await, *expected);
        }
    }

    async fn until(&mut self, expected: BrokerState) {
        timeout(PATIENCE, self.states.wait_for(|state| *state == expected)).await.unwrap().unwrap();
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.source.await.unwrap().unwrap();
    }
}

async fn publish(client: &async_nats::Client, messages: &[(&str, &str)]) {
    for (subject, payload) in messages {
        client.publish((*subject).to_owned(), payload.to_string().into()).await.unwrap();
    }
    client.flush().await.unwrap();
}

async fn create(client: &async_nats::Client, name: &str, subject: &str) {
    api(client, &format!("STREAM.CREATE.{name}"), json!({"name": name, "subjects": [subject], "storage": "file"}))
        .await;
}

#[tokio::test]
async fn subjects_are_received_once_while_routes_change_and_after_a_restart() {
    let mut server = Server::start("nats-subjects");
    let client = server.client().await;
    let mut source = start(&server, &["a.b=/x", "pri*=/p/*"], 1024);
    source.until(BrokerState::Subscribed).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("sender", "ann");
    client.publish_with_headers("a.b", headers, "0".into()).await.unwrap();
    publish(&client, &[("a.b", "1"), ("a.c", "2"), ("prices.eu", "3"), ("a", "4")]).await;
    source.expect(&["tallycast:sent:ann:a.b 0", "a.b 1", "prices.eu 3"]).await;
    // Wider than before, then narrower.
    for texts in [&["a.*=/x/*"][..], &["a.b=/x"], &["a.b=/x", "a.c*=/x"], &["b=/x", "a.b=/x"]] {
        source.selectors.send_replace(routes(texts).selectors(SourceId::DEFAULT));
        let mut received = String::new();
        for number in 0.. {
            // The first may be published before the source is subscribed.
            let number = number.to_string();
            publish(&client, &[("a.b", &number), ("a.cd", &number), ("b", &number)]).await;
            let expected =
                |subject| routes(texts).selectors(SourceId::DEFAULT).iter().any(|selector| selector.matches(subject));
            let expected = ["a.b", "a.cd", "b"].into_iter().filter(|subject| expected(subject));
            let expected: Vec<String> = expected.map(|subject| format!("{subject} {number}")).collect();
            let mut this_round = Vec::new();
            let quiet = Duration::from_millis(50);
            while let Ok(event) = timeout(quiet, source.next()).await {
                this_round.push(event);
            }
            this_round.sort();
            // None was received twice.
            assert!(this_round.windows(2).all(|pair| pair[0] != pair[1]), "{this_round:?}");
            received = this_round.join(",");
            if this_round == expected {
                break;
            }
            assert!(number != "40", "{received} instead of {expected:?}");
        }
        assert!(!received.is_empty());
    }
    server.kill();
    source.until(BrokerState::Lost).await;
    server.run();
    source.until(BrokerState::Subscribed).await;
    publish(&server.client().await, &[("a.b", "again")]).await;
    source.expect(&["a.b again"]).await;
    server.freeze();
    source.until(BrokerState::Lost).await;
    server.thaw();
    source.until(BrokerState::Subscribed).await;
    assert_eq!((source.stats.gaps.get(), source.stats.overflowed.get()), (2, 0));
    source.end().await;
}

#[tokio::test]
async fn messages_that_arrive_too_fast_are_dropped_and_counted() {
    const MESSAGES: u64 = 50_000;
    let server = Server::start("nats-overflow");
    let client = server.client().await;
    // Nobody takes what is in the inbox.
    let mut source = start(&server, &["a.*=/x/*"], 10);
    source.until(BrokerState::Subscribed).await;
    for _ in 0..MESSAGES {
        client.publish("a.b", "x".into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while source.stats.overflowed.get() + 10 < MESSAGES {
        assert!(std::time::Instant::now() < deadline, "{} are counted", source.stats.overflowed.get());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((source.stats.received.get(), source.stats.overflowed.get()), (MESSAGES, MESSAGES - 10));
    source.end().await;
}

#[tokio::test]
async fn history_of_the_route_is_read_before_what_follows() {
    let server = Server::start("nats-history");
    let client = server.client().await;
    create(&client, "A", "a.>").await;
    let all: Vec<(String, String)> = (1..=600).map(|number| ("a.x".to_owned(), number.to_string())).collect();
    let all: Vec<(&str, &str)> = all.iter().map(|(subject, payload)| (subject.as_str(), payload.as_str())).collect();
    add(&client, &all).await;
    let mut count = start(&server, &["stream:A=/x,history=2"], 1024);
    count.expect(&["start A after 598-0", "backlog A 599 599", "backlog A 600 600", "current A"]).await;
    let mut none = start(&server, &["stream:A=/x"], 1024);
    none.expect(&["start A after 600-0", "current A"]).await;
    // The inbox has room for one, so the source waits; it needs several requests.
    let mut whole = start(&server, &["stream:A=/x,history=64MiB"], 1);
    whole.expect(&["start A after 0-0"]).await;
    for number in 1..=600 {
        whole.expect(&[&format!("backlog A {number} {number}")]).await;
    }
    whole.expect(&["current A"]).await;
    // A part of the stream is gone, from its beginning and from within.
    api(&client, "STREAM.PURGE.A", json!({"seq": 597})).await;
    api(&client, "STREAM.MSG.DELETE.A", json!({"seq": 599})).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    add(&client, &[("a.x", "601")]).await;
    let mut recent = start(&server, &["stream:A=/x,history=1s"], 1024);
    recent.expect(&["start A after 600-0", "backlog A 601 601", "current A"]).await;
    let mut rest = start(&server, &["stream:A=/x,history=last"], 1024);
    rest.expect(&["start A after 596-0", "backlog A 597 597", "backlog A 598 598", "backlog A 600 600"]).await;
    for mut source in [count, none, whole] {
        source.expect(&["live A 601 601"]).await;
        assert_eq!((source.stats.received.get(), source.stats.stream_gaps.get()), (1, 0));
        source.end().await;
    }
}

#[tokio::test]
async fn losses_and_replacements_of_a_stream_are_reported() {
    let server = Server::start("nats-losses");
    let client = server.client().await;
    create(&client, "A", "a").await;
    let mut source = start(&server, &["stream:A=/x,history=10"], 1);
    source.expect(&["start A after 0-0", "current A"]).await;
    source.until(BrokerState::Subscribed).await;
    // The source waits for room while messages are removed that it has not asked for yet.
    let all: Vec<(String, String)> = (1..=900).map(|number| ("a".to_owned(), number.to_string())).collect();
    let all: Vec<(&str, &str)> = all.iter().map(|(subject, payload)| (subject.as_str(), payload.as_str())).collect();
    add(&client, &all).await;
    api(&client, "STREAM.PURGE.A", json!({"keep": 5})).await;
    let (mut gaps, mut last) = (0, 0);
    while last < 900 {
        let next = source.next().await;
        match next.strip_prefix("live A ") {
            Some(entry) => {
                let number: u64 = entry.split(' ').next().unwrap().parse().unwrap();
                assert!(number > last, "{number} after {last}");
                last = number;
            }
            None => {
                assert_eq!(next, "gap A after 895-0 trimmed");
                gaps += 1;
            }
        }
    }
    assert_eq!((gaps, source.stats.stream_gaps.get()), (1, 1));
    // Messages that were deleted in between are none that anyone misses.
    add(&client, &[("a", "901")]).await;
    source.expect(&["live A 901 901"]).await;
    // Deleted, then created again.
    api(&client, "STREAM.DELETE.A", json!({})).await;
    source.expect(&["gap A after 0-0 unknown", "current A"]).await;
    create(&client, "A", "a").await;
    add(&client, &[("a", "new")]).await;
    source.expect(&["live A 1 new"]).await;
    // At once, so that it is never missed.
    api(&client, "STREAM.DELETE.A", json!({})).await;
    create(&client, "A", "a").await;
    add(&client, &[("a", "newer")]).await;
    let next = source.next().await;
    assert_eq!(next, "gap A after 0-0 unknown");
    while source.next().await != "live A 1 newer" {}
    assert_eq!(source.stats.gaps.get(), 0);
    source.end().await;
}

#[tokio::test]
async fn reading_continues_after_restarts_and_with_other_streams() {
    let mut server = Server::start("nats-restart");
    let client = server.client().await;
    create(&client, "A", "a").await;
    add(&client, &[("a", "1")]).await;
    let mut source = start(&server, &["stream:A=/x,history=10"], 1024);
    source.expect(&["start A after 0-0", "backlog A 1 1", "current A"]).await;
    for round in ["2", "3"] {
        server.kill();
        source.expect(&["interrupted A"]).await;
        server.run();
        let client = server.client().await;
        add(&client, &[("a", round)]).await;
        let next = [source.next().await, source.next().await];
        let (current, live) = ("current A".to_owned(), format!("live A {round} {round}"));
        assert!(next == [current.clone(), live.clone()] || next == [live, current], "{next:?}");
    }
    let client = server.client().await;
    create(&client, "B", "b").await;
    add(&client, &[("b", "1"), ("b", "2")]).await;
    source.keys.send_replace(keys(&["stream:A=/a,history=10", "stream:B=/b,history=1", "stream:C=/c"]));
    source.expect(&["start B after 1-0", "backlog B 2 2", "current B"]).await;
    // One stream that is missing stops no other.
    add(&client, &[("a", "4")]).await;
    source.expect(&["live A 4 4"]).await;
    create(&client, "C", "c").await;
    source.expect(&["start C after 0-0", "current C"]).await;
    add(&client, &[("c", "1")]).await;
    source.expect(&["live C 1 1"]).await;
    assert_eq!((source.stats.gaps.get(), source.stats.stream_gaps.get()), (2, 0));
    source.end().await;
}

#[tokio::test]
async fn stream_that_does_not_exist_is_named() {
    let server = Server::start("nats-missing");
    for (route, expected) in [
        ("stream:A=/x", "the stream \"A\": JetStream: stream not found"),
        ("stream:a.b=/x", "\"a.b\" is not the name of a JetStream stream"),
    ] {
        let (_keys, keys) = watch::channel(keys(&[route]));
        let (inbox, _events) = inbox::channel(8, usize::MAX);
        let supervisor = Supervisor::new(inbox).require_broker(true);
        let source = JetStreamSource::new(server.url(), keys);
        let error = timeout(PATIENCE, supervisor.run(source)).await.unwrap().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
