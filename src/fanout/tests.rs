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
struct Lines;

static LINES: Lines = Lines;

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

fn ns(text: &str) -> Namespace {
    text.parse().unwrap()
}

async fn subscribe(gateway: &Gateway, namespace: &str) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(1);
    let info = ConnectionInfo {
        request_path: namespace.into(),
        namespace: ns(namespace),
        created_at: SystemTime::now(),
        client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        user_agent: "".into(),
    };
    let sink = Sink::Body(PollSender::new(sender));
    gateway.subscribe(Subscriber { info, framing: &LINES, sink, preamble: Bytes::new(), permit: None }).await.unwrap();
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
async fn settle() {
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
        let mut sums = HashMap::<String, u64>::new();
        for line in received.strip_suffix("end\n").expect("an end").lines() {
            let counts: HashMap<String, u64> = serde_json::from_str(line.strip_prefix("/eps ").unwrap()).unwrap();
            counts.into_iter().for_each(|(key, count)| *sums.entry(key).or_default() += count);
        }
        let mut expected = HashMap::<String, u64>::new();
        (0..sent).for_each(|sent| *expected.entry(format!("k{}", sent % 3)).or_default() += 1);
        prop_assert_eq!(sums, expected);
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
