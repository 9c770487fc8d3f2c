//! The engine as its users see it, with readers that take batches when the test says so.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::*;

/// A line for each message: `namespace payload`, or `skipped count`.
#[derive(Debug)]
pub(super) struct Lines;

pub(super) static LINES: Lines = Lines;

impl Framing for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }
    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        batch.extend_from_slice(format!("{} {}\n", message.namespace, message.payload()).as_bytes());
    }
    fn skipped(&self, count: u64, batch: &mut Vec<u8>) {
        batch.extend_from_slice(format!("skipped {count}\n").as_bytes());
    }
    fn finish(&self, batch: Vec<u8>) -> Bytes {
        batch.into()
    }
    fn keep_alive(&self) -> Bytes {
        Bytes::from_static(b"alive\n")
    }
    fn closing(&self) -> Bytes {
        Bytes::from_static(b"end\n")
    }
}

pub(super) fn ns(text: &str) -> Namespace {
    text.parse().unwrap()
}

/// Topics that are separated by commas.
pub(super) fn of(topics: &str) -> Topics {
    Topics::new(topics.split(',').map(|topic| topic.parse().unwrap()).collect()).unwrap()
}

/// What is known of a reader of topics that are separated by commas.
pub(super) fn info(topics: &str) -> ConnectionInfo {
    ConnectionInfo {
        request_path: topics.into(),
        topics: of(topics),
        created_at: SystemTime::now(),
        client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        user_agent: "".into(),
    }
}

async fn subscribe(gateway: &Gateway, namespace: &str) -> mpsc::Receiver<Bytes> {
    subscribe_with(gateway, namespace, false).await
}

/// Subscribes to topics that are separated by commas.
async fn subscribe_with(gateway: &Gateway, topics: &str, snapshot: bool) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(1);
    let info = info(topics);
    let sink = Sink::Body(PollSender::new(sender));
    let preamble = Bytes::new();
    gateway
        .subscribe(Subscriber { info, framing: &LINES, sink, preamble, snapshot, inbound: None, held: None })
        .await
        .unwrap();
    receiver
}

async fn rest(mut reader: mpsc::Receiver<Bytes>) -> String {
    let mut all = Vec::new();
    while let Some(batch) = reader.recv().await {
        all.extend_from_slice(&batch);
    }
    String::from_utf8(all).unwrap()
}

fn small_log(policy: Policy) -> Config {
    Config {
        shards: 1,
        log_batches: 2,
        policies: vec![NamespacePolicy { namespace: Namespace::root(), policy }],
        ..Config::default()
    }
}

/// Lets all other tasks do what they can.
pub(super) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn readers_get_what_their_namespace_contains_and_an_end() {
    let (messages, inbox) = mpsc::channel(16);
    let fanout = Fanout::start(Config::default(), inbox);
    let gateway = fanout.gateway();
    let (root, details, one) = (
        subscribe(&gateway, "/").await,
        subscribe(&gateway, "/details").await,
        subscribe(&gateway, "/details/26").await,
    );
    let all = tokio::spawn(async { (rest(root).await, rest(details).await, rest(one).await) });
    for namespace in ["/details/26", "/details/2665", "/raw"] {
        messages.send(Message::text(ns(namespace), "x")).await.unwrap();
    }
    while gateway.stats().connected.get() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gateway.connections().await.unwrap().len(), 3);
    drop(messages);
    fanout.ended().await;
    let (root, details, one) = all.await.unwrap();
    assert_eq!(root, "/details/26 x\n/details/2665 x\n/raw x\nend\n");
    assert_eq!(details, "/details/26 x\n/details/2665 x\nend\n");
    assert_eq!(one, "/details/26 x\nend\n");
    assert_eq!((gateway.stats().connections.get(), gateway.stats().delivered.get()), (0, 6));
}

#[tokio::test]
async fn topics_that_overlap_bring_a_message_once_and_in_order() {
    let (messages, inbox) = mpsc::channel(16);
    let fanout = Fanout::start(Config::default(), inbox);
    let gateway = fanout.gateway();
    let reader = tokio::spawn(rest(subscribe(&gateway, "/a/*,/a,/*/b/**,/c").await));
    let other = tokio::spawn(rest(subscribe(&gateway, "/c,/*/b/**,/a/*,/a").await));
    for (number, namespace) in ["/a/b", "/c", "/x", "/c/d/e", "/a", "/x/b/y", "/x/c/b"].iter().enumerate() {
        messages.send(Message::text(ns(namespace), number.to_string())).await.unwrap();
    }
    while gateway.stats().connected.get() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gateway.feeds().await.unwrap().len(), 1);
    drop(messages);
    fanout.ended().await;
    let expected = "/a/b 0\n/c 1\n/c/d/e 3\n/a 4\n/x/b/y 5\nend\n";
    assert_eq!((reader.await.unwrap(), other.await.unwrap()), (expected.to_owned(), expected.to_owned()));
}

#[tokio::test]
async fn a_feed_without_readers_is_forgotten() {
    let (messages, inbox) = mpsc::channel(16);
    let fanout = Fanout::start(small_log(Policy::Disconnect), inbox);
    let gateway = fanout.gateway();
    for round in 0..3 {
        let reader = subscribe(&gateway, "/a/b").await;
        messages.send(Message::text(ns("/a/b"), "x")).await.unwrap();
        while gateway.stats().connected.get() <= round {
            tokio::task::yield_now().await;
        }
        assert_eq!(gateway.stats().feeds.get(), 1);
        drop(reader);
        // Writing to it shows that the reader is gone.
        while gateway.stats().feeds.get() > 0 {
            messages.send(Message::text(ns("/a/b"), "x")).await.unwrap();
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_reader_past_the_log_is_disconnected_and_the_others_lose_nothing() {
    let (messages, inbox) = mpsc::channel(16);
    let fanout = Fanout::start(small_log(Policy::Disconnect), inbox);
    let gateway = fanout.gateway();
    let slow = subscribe(&gateway, "/raw").await;
    let quick = tokio::spawn(rest(subscribe(&gateway, "/raw").await));
    for number in 0..50 {
        messages.send(Message::text(ns("/raw"), number.to_string())).await.unwrap();
        settle().await;
    }
    assert_eq!((gateway.stats().slow_disconnected.get(), gateway.stats().connections.get()), (1, 1));
    drop(messages);
    fanout.ended().await;
    let expected: String = (0..50).map(|number| format!("/raw {number}\n")).collect();
    assert_eq!(quick.await.unwrap(), expected + "end\n");
    assert!(rest(slow).await.len() < 50);
}

fn counts(counts: &[(&str, i64)]) -> Tally {
    counts.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect()
}

fn with_totals() -> Config {
    Config { shards: 2, totals: vec![ns("/eps")], ..Config::default() }
}

#[tokio::test]
async fn a_reader_begins_with_the_totals_and_goes_on_with_changes() {
    let (messages, inbox) = mpsc::channel(16);
    let fanout = Fanout::start(with_totals(), inbox);
    let gateway = fanout.gateway();
    let plain = subscribe(&gateway, "/eps").await;
    messages.send(Message::tally(ns("/eps"), counts(&[("a", 1)]))).await.unwrap();
    messages.send(Message::totals(ns("/eps"), counts(&[("a", 10)]))).await.unwrap();
    messages.send(Message::tally(ns("/eps"), counts(&[("a", 1)]))).await.unwrap();
    gateway.totals_known(&ns("/eps"), Duration::from_secs(60)).await.unwrap();
    while gateway.stats().broadcast.get() < 2 {
        tokio::task::yield_now().await;
    }
    let late = subscribe_with(&gateway, "/eps", true).await;
    // Two were counted while nobody was told, and one that had been told is not there any more.
    while gateway.stats().connected.get() < 2 {
        tokio::task::yield_now().await;
    }
    messages.send(Message::totals(ns("/eps"), counts(&[("a", 10), ("b", 2)]))).await.unwrap();
    messages.send(Message::totals(ns("/eps"), counts(&[("a", 10), ("b", 2)]))).await.unwrap();
    drop(messages);
    let ended = tokio::spawn(fanout.ended());
    let lines = rest(late).await;
    let sums = sums(&lines);
    assert_eq!(sums, HashMap::from([("a".to_owned(), 10), ("b".to_owned(), 2)]), "{lines}");
    assert!(lines.starts_with("/eps {\"a\":11}\n"), "{lines}");
    assert_eq!(rest(plain).await.lines().count(), 4);
    ended.await.unwrap();
    assert_eq!(gateway.stats().corrections.get(), 1);
}

#[tokio::test]
async fn totals_that_are_not_there_are_named() {
    let (_messages, inbox) = mpsc::channel(16);
    let fanout = Fanout::start(with_totals(), inbox);
    let gateway = fanout.gateway();
    let error = gateway.totals_known(&ns("/raw"), Duration::ZERO).await.unwrap_err();
    assert_eq!(error.to_string(), "there are no totals of /raw; there are some of /eps");
    let error = gateway.totals_known(&ns("/eps"), Duration::ZERO).await.unwrap_err();
    assert_eq!(error.to_string(), "the totals of /eps are not known yet");
    assert_eq!(rest(subscribe_with(&gateway, "/eps", true).await).await, "");
    assert_eq!(gateway.stats().without_totals.get(), 1);
}

#[tokio::test]
async fn too_many_keys_are_not_summed_up() {
    let (messages, inbox) = mpsc::channel(16);
    let fanout = Fanout::start(Config { max_totals: 2, ..with_totals() }, inbox);
    let gateway = fanout.gateway();
    messages.send(Message::totals(ns("/eps"), counts(&[("a", 1), ("b", 1)]))).await.unwrap();
    gateway.totals_known(&ns("/eps"), Duration::from_secs(60)).await.unwrap();
    messages.send(Message::tally(ns("/eps"), counts(&[("c", 1)]))).await.unwrap();
    while gateway.stats().broadcast.get() < 1 {
        tokio::task::yield_now().await;
    }
    gateway.totals_known(&ns("/eps"), Duration::ZERO).await.unwrap_err();
}

/// What all tallies in `lines` add up to.
fn sums(lines: &str) -> HashMap<String, i64> {
    let mut sums = Tally::default();
    for line in lines.strip_suffix("end\n").expect("an end").lines() {
        let counts: HashMap<String, i64> = serde_json::from_str(line.strip_prefix("/eps ").unwrap()).unwrap();
        sums.merge(&counts.into_iter().collect());
    }
    sums.drop_zeros();
    sums.iter().map(|(key, count)| (key.to_owned(), count)).collect()
}

/// What the test does next: send so many messages, or let the slow reader take a batch.
#[derive(Debug, Clone)]
enum Step {
    Send(u8),
    Take,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(prop_oneof![(1..8_u8).prop_map(Step::Send), Just(Step::Take)], 1..60)
}

/// Runs `steps` with one slow reader of `/eps` and returns all that it received, and how many messages were sent.
fn run_steps(policy: Policy, steps: Vec<Step>, message: impl Fn(u64) -> Message) -> (String, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (messages, inbox) = mpsc::channel(16);
        let fanout = Fanout::start(small_log(policy), inbox);
        let mut reader = subscribe(&fanout.gateway(), "/eps").await;
        let mut received = String::new();
        let mut sent = 0;
        for step in steps {
            match step {
                Step::Send(count) => {
                    for _ in 0..count {
                        messages.send(message(sent)).await.unwrap();
                        sent += 1;
                        settle().await;
                    }
                }
                Step::Take => {
                    if let Ok(batch) = reader.try_recv() {
                        received.push_str(std::str::from_utf8(&batch).unwrap());
                    }
                    settle().await;
                }
            }
        }
        drop(messages);
        let ended = tokio::spawn(fanout.ended());
        received.push_str(&rest(reader).await);
        ended.await.unwrap();
        (received, sent)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merged_tallies_stay_exact(steps in steps()) {
        let tally = |sent| Message::tally(ns("/eps"), [(format!("k{}", sent % 3), 1)].into_iter().collect());
        let (received, sent) = run_steps(Policy::Merge, steps, tally);
        let mut expected = HashMap::<String, i64>::new();
        (0..sent).for_each(|sent| *expected.entry(format!("k{}", sent % 3)).or_default() += 1);
        prop_assert_eq!(sums(&received), expected);
    }

    /// Whenever a reader comes, and whatever is lost before: its totals are those of one that was there from the start.
    #[test]
    fn snapshot_and_changes_make_the_totals(steps in proptest::collection::vec(0..8_u8, 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (messages, inbox) = mpsc::channel(4);
            let fanout = Fanout::start(with_totals(), inbox);
            let gateway = fanout.gateway();
            let mut truth = counts(&[("k0", 5)]);
            messages.send(Message::totals(ns("/eps"), truth.clone())).await.unwrap();
            gateway.totals_known(&ns("/eps"), Duration::from_secs(60)).await.unwrap();
            let mut readers = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let change = counts(&[(["k0", "k1", "k2"][number % 3], 1)]);
                match step {
                    0 => readers.push(tokio::spawn(rest(subscribe_with(&gateway, "/eps", true).await))),
                    // Counted, but lost on the way.
                    1 => truth.merge(&change),
                    2 => truth.subtract(&change),
                    3 => messages.send(Message::totals(ns("/eps"), truth.clone())).await.unwrap(),
                    4 => settle().await,
                    _ => {
                        truth.merge(&change);
                        messages.send(Message::tally(ns("/eps"), change)).await.unwrap();
                    }
                }
            }
            messages.send(Message::totals(ns("/eps"), truth.clone())).await.unwrap();
            drop(messages);
            fanout.ended().await;
            truth.drop_zeros();
            let truth: HashMap<String, i64> = truth.iter().map(|(key, count)| (key.to_owned(), count)).collect();
            for reader in readers {
                assert_eq!(sums(&reader.await.unwrap()), truth);
            }
        });
    }

    #[test]
    fn what_is_skipped_is_told(steps in steps()) {
        let (received, sent) = run_steps(Policy::Skip, steps, |sent| Message::text(ns("/eps"), sent.to_string()));
        let mut next = 0;
        for line in received.strip_suffix("end\n").expect("an end").lines() {
            match line.split_once(' ').unwrap() {
                ("skipped", count) => next += count.parse::<u64>().unwrap(),
                (_, number) => {
                    prop_assert_eq!(number.parse::<u64>().unwrap(), next);
                    next += 1;
                }
            }
        }
        prop_assert_eq!(next, sent);
    }
}
