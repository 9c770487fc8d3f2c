//! The engine through its public API, with readers that take batches when the test says so.

mod control;
mod history;
mod inbound;
mod probes;
mod rates;
mod relays;
mod restricted;
mod streams;
mod updates;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// A line for each message: `namespace payload`, `namespace#event@id payload`, `position id` or `skipped count`.
#[derive(Debug)]
struct Lines {
    /// The last line at shutdown.
    end: &'static str,
    interval: Option<Duration>,
}

static LINES: LazyLock<Arc<dyn Framing>> = LazyLock::new(other_lines);

/// The one framing that all readers of a test share.
pub(super) fn lines() -> Arc<dyn Framing> {
    Arc::clone(&LINES)
}

/// A framing of its own.
pub(super) fn other_lines() -> Arc<dyn Framing> {
    Arc::new(Lines { end: "end", interval: None })
}

impl Framing for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }
    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        let event = message.event.as_deref().map(|event| format!("#{event}")).unwrap_or_default();
        let id = message.id().map(|id| format!("@{id}")).unwrap_or_default();
        batch.extend_from_slice(format!("{}{event}{id} {}\n", message.namespace, message.payload()).as_bytes());
    }
    fn position(&self, id: &str, batch: &mut Vec<u8>) {
        batch.extend_from_slice(format!("position {id}\n").as_bytes());
    }
    fn skipped(&self, count: u64, batch: &mut Vec<u8>) {
        batch.extend_from_slice(format!("skipped {count}\n").as_bytes());
    }
    fn finish(&self, batch: Vec<u8>) -> Bytes {
        batch.into()
    }
    fn keep_alive(&self, position: Option<&str>) -> Bytes {
        position.map_or_else(|| Bytes::from_static(b"alive\n"), |id| format!("alive {id}\n").into())
    }
    fn keep_alive_interval(&self) -> Option<Duration> {
        self.interval
    }
    fn closing(&self, reason: &CloseReason) -> Bytes {
        match reason {
            CloseReason::Shutdown => format!("{}\n", self.end).into(),
            reason => format!("{reason:?}\n").into(),
        }
    }
}

/// An engine with a short inbox.
pub(super) fn start(config: Config) -> Fanout {
    Fanout::builder().config(config).inbox(16).build()
}

pub(super) fn ns(text: &str) -> Namespace {
    text.parse().unwrap()
}

/// Topics that are separated by commas.
pub(super) fn of(topics: &str) -> Topics {
    Topics::new(topics.split(',').map(|topic| topic.parse().unwrap()).collect()).unwrap()
}

/// The info of a reader of topics that are separated by commas.
pub(super) fn info(topics: &str) -> ConnectionInfo {
    ConnectionInfo {
        request_path: topics.into(),
        topics: of(topics),
        created_at: SystemTime::now(),
        client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        user_agent: "".into(),
    }
}

async fn subscribe(handle: &Handle, namespace: &str) -> BodyReceiver {
    subscribe_with(handle, namespace, false).await
}

/// Subscribes to topics that are separated by commas.
async fn subscribe_with(handle: &Handle, topics: &str, snapshot: bool) -> BodyReceiver {
    subscribe_at(handle, topics, snapshot, None).await
}

/// As [`subscribe_with`], with a rate.
async fn subscribe_at(handle: &Handle, topics: &str, snapshot: bool, rate: Option<Rate>) -> BodyReceiver {
    let (sender, receiver) = body();
    let mut subscriber = Subscriber::new(info(topics), lines(), Sink::Body(sender));
    subscriber.max_rate = rate;
    subscriber.snapshot = snapshot;
    handle.subscribe(subscriber).await.unwrap();
    receiver
}

async fn rest(mut reader: BodyReceiver) -> String {
    let mut all = Vec::new();
    while let Some(piece) = reader.recv().await {
        all.extend_from_slice(&piece.unwrap_or_default());
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
async fn busy_reader_gets_keep_alives_of_a_framing_with_an_interval() {
    let fanout = start(Config { shards: 1, keep_alive: Duration::from_secs(3600), ..Config::default() });
    let messages = fanout.publisher();
    let mut readers = Vec::new();
    for interval in [None, Some(Duration::from_secs(1))] {
        let (sender, receiver) = body();
        let framing: Arc<dyn Framing> = Arc::new(Lines { end: "end", interval });
        let subscriber = Subscriber::new(info("/a"), framing, Sink::Body(sender));
        fanout.handle().subscribe(subscriber).await.unwrap();
        readers.push(receiver);
    }
    let mut received = [String::new(), String::new()];
    let mut sent = 0;
    while received[1].matches("alive\n").count() < 2 {
        messages.send(Message::text(ns("/a"), sent.to_string())).await.unwrap();
        let line = format!("/a {sent}\n");
        for (reader, received) in readers.iter_mut().zip(&mut received) {
            while !received.contains(&line) {
                received.push_str(std::str::from_utf8(&reader.recv().await.unwrap().unwrap()).unwrap());
            }
        }
        sent += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!received[0].contains("alive"));
    assert_eq!(received[1].replace("alive\n", ""), received[0]);
}

#[tokio::test]
async fn reader_gets_what_its_namespace_contains_and_a_graceful_end() {
    let fanout = start(Config::default());
    let messages = fanout.publisher();
    let handle = fanout.handle();
    let (root, details, one) =
        (subscribe(&handle, "/").await, subscribe(&handle, "/details").await, subscribe(&handle, "/details/26").await);
    let all = tokio::spawn(async { (rest(root).await, rest(details).await, rest(one).await) });
    for namespace in ["/details/26", "/details/2665", "/raw"] {
        messages.send(Message::text(ns(namespace), "x")).await.unwrap();
    }
    while handle.stats().connected.get() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.connections().await.unwrap().len(), 3);
    drop(messages);
    fanout.join().await;
    let (root, details, one) = all.await.unwrap();
    assert_eq!(root, "/details/26 x\n/details/2665 x\n/raw x\nend\n");
    assert_eq!(details, "/details/26 x\n/details/2665 x\nend\n");
    assert_eq!(one, "/details/26 x\nend\n");
    assert_eq!((handle.stats().connections.get(), handle.stats().delivered.get()), (0, 6));
}

#[tokio::test]
async fn overlapping_topics_deliver_a_message_once_and_in_order() {
    let fanout = start(Config::default());
    let messages = fanout.publisher();
    let handle = fanout.handle();
    let reader = tokio::spawn(rest(subscribe(&handle, "/a/*,/a,/*/b/**,/c").await));
    let other = tokio::spawn(rest(subscribe(&handle, "/c,/*/b/**,/a/*,/a").await));
    for (number, namespace) in ["/a/b", "/c", "/x", "/c/d/e", "/a", "/x/b/y", "/x/c/b"].iter().enumerate() {
        messages.send(Message::text(ns(namespace), number.to_string())).await.unwrap();
    }
    while handle.stats().connected.get() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.feeds().await.unwrap().len(), 1);
    drop(messages);
    fanout.join().await;
    let expected = "/a/b 0\n/c 1\n/c/d/e 3\n/a 4\n/x/b/y 5\nend\n";
    assert_eq!((reader.await.unwrap(), other.await.unwrap()), (expected.to_owned(), expected.to_owned()));
}

#[tokio::test]
async fn feed_without_readers_is_removed() {
    let fanout = start(small_log(Policy::Disconnect));
    let messages = fanout.publisher();
    let handle = fanout.handle();
    for round in 0..3 {
        let reader = subscribe(&handle, "/a/b").await;
        messages.send(Message::text(ns("/a/b"), "x")).await.unwrap();
        while handle.stats().connected.get() <= round {
            tokio::task::yield_now().await;
        }
        assert_eq!(handle.stats().feeds.get(), 1);
        drop(reader);
        // Only a write shows that the reader has gone.
        while handle.stats().feeds.get() > 0 {
            messages.send(Message::text(ns("/a/b"), "x")).await.unwrap();
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn slow_reader_is_disconnected_and_the_others_lose_nothing() {
    let fanout = start(small_log(Policy::Disconnect));
    let messages = fanout.publisher();
    let handle = fanout.handle();
    let slow = subscribe(&handle, "/raw").await;
    let quick = tokio::spawn(rest(subscribe(&handle, "/raw").await));
    for number in 0..50 {
        messages.send(Message::text(ns("/raw"), number.to_string())).await.unwrap();
        settle().await;
    }
    assert_eq!((handle.stats().slow_disconnected.get(), handle.stats().connections.get()), (1, 1));
    drop(messages);
    fanout.join().await;
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
async fn reader_starts_with_the_totals_and_goes_on_with_changes() {
    let fanout = start(with_totals());
    let messages = fanout.publisher();
    let handle = fanout.handle();
    let plain = subscribe(&handle, "/eps").await;
    messages.send(Message::tally(ns("/eps"), counts(&[("a", 1)]))).await.unwrap();
    messages.send(Message::totals(ns("/eps"), counts(&[("a", 10)]))).await.unwrap();
    messages.send(Message::tally(ns("/eps"), counts(&[("a", 1)]))).await.unwrap();
    handle.totals_known(&ns("/eps"), Duration::from_secs(60)).await.unwrap();
    while handle.stats().broadcast.get() < 2 {
        tokio::task::yield_now().await;
    }
    let late = subscribe_with(&handle, "/eps", true).await;
    // The source counted two that were never sent, and lost one that was sent.
    while handle.stats().connected.get() < 2 {
        tokio::task::yield_now().await;
    }
    messages.send(Message::totals(ns("/eps"), counts(&[("a", 10), ("b", 2)]))).await.unwrap();
    messages.send(Message::totals(ns("/eps"), counts(&[("a", 10), ("b", 2)]))).await.unwrap();
    drop(messages);
    let ended = tokio::spawn(fanout.join());
    let lines = rest(late).await;
    assert!(lines.starts_with("/eps#snapshot {\"a\":11}\n"), "{lines}");
    assert_eq!(read_totals(&lines), (counts(&[("a", 10), ("b", 2)]), true), "{lines}");
    assert_eq!(rest(plain).await.lines().count(), 4);
    ended.await.unwrap();
    assert_eq!(handle.stats().corrections.get(), 1);
}

#[tokio::test]
async fn missing_totals_are_an_error_that_names_the_namespace() {
    let fanout = start(with_totals());
    let _messages = fanout.publisher();
    let handle = fanout.handle();
    let error = handle.totals_known(&ns("/raw"), Duration::ZERO).await.unwrap_err();
    assert_eq!(error.to_string(), "/raw has no totals; namespaces with totals: /eps");
    let error = handle.totals_known(&ns("/eps"), Duration::ZERO).await.unwrap_err();
    assert_eq!(error.to_string(), "the totals of /eps are not known yet");
    assert_eq!(rest(subscribe_with(&handle, "/eps", true).await).await, "");
    assert_eq!(handle.stats().without_totals.get(), 2);
}

#[tokio::test]
async fn totals_that_outgrow_their_limits_are_unavailable_until_a_source_reports_others() {
    for config in [Config { max_totals: 2, ..with_totals() }, Config { max_totals_bytes: 2, ..with_totals() }] {
        let fanout = start(config);
        let messages = fanout.publisher();
        let handle = fanout.handle();
        let plain = tokio::spawn(rest(subscribe(&handle, "/eps").await));
        messages.send(Message::totals(ns("/eps"), counts(&[("a", 1), ("b", 1)]))).await.unwrap();
        handle.totals_known(&ns("/eps"), Duration::from_secs(60)).await.unwrap();
        let reader = tokio::spawn(rest(subscribe_with(&handle, "/eps", true).await));
        messages.send(Message::tally(ns("/eps"), counts(&[("c", 1)]))).await.unwrap();
        while handle.totals_known(&ns("/eps"), Duration::ZERO).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let error = handle.totals_known(&ns("/eps"), Duration::from_secs(60)).await.unwrap_err();
        assert!(error.to_string().starts_with("the totals of /eps are unavailable: more than 2 "), "{error}");
        assert_eq!(rest(subscribe_with(&handle, "/eps", true).await).await, "");
        messages.send(Message::totals(ns("/eps"), counts(&[("b", 5)]))).await.unwrap();
        handle.totals_known(&ns("/eps"), Duration::from_secs(60)).await.unwrap_err();
        drop(messages);
        fanout.join().await;
        let lines = reader.await.unwrap();
        assert_eq!(read_totals(&lines), (counts(&[("b", 5)]), true), "{lines}");
        assert_eq!(lines.matches("#totals {\"known\":false,").count(), 1, "{lines}");
        assert_eq!(plain.await.unwrap(), "/eps {\"c\":1}\nend\n");
    }
}

#[tokio::test]
async fn reader_keeps_its_totals_while_it_reads_their_namespace() {
    let fanout = start(with_totals());
    let messages = fanout.publisher();
    let handle = fanout.handle();
    messages.send(Message::totals(ns("/eps"), counts(&[("a", 1)]))).await.unwrap();
    handle.totals_known(&ns("/eps"), Duration::from_secs(60)).await.unwrap();
    let reader = tokio::spawn(rest(subscribe_with(&handle, "/eps", true).await));
    while handle.stats().connected.get() < 1 {
        tokio::task::yield_now().await;
    }
    let id = handle.connections().await.unwrap()[0].id;
    let state = |state| messages.send(Message::totals_state(ns("/eps"), state));
    for topics in ["/eps,/raw", "/*", "/raw", "/eps"] {
        handle.set_topics(id, of(topics)).await.unwrap();
        state(TotalsState::Unavailable("gone".into())).await.unwrap();
        state(TotalsState::Known).await.unwrap();
        settle().await;
    }
    drop(messages);
    fanout.join().await;
    let notes = "/eps#totals {\"known\":false,\"reason\":\"gone\"}\n/eps#totals {\"known\":true}\n";
    assert_eq!(reader.await.unwrap(), format!("/eps#snapshot {{\"a\":1}}\n{}end\n", notes.repeat(2)));
}

/// The sums of all tallies in `lines`.
fn sums(lines: &str) -> HashMap<String, i64> {
    let mut sums = Tally::default();
    for line in lines.strip_suffix("end\n").expect("an end").lines() {
        let counts: HashMap<String, i64> = serde_json::from_str(line.strip_prefix("/eps ").unwrap()).unwrap();
        sums.merge(&counts.into_iter().collect());
    }
    sums.drop_zeros();
    sums.iter().map(|(key, count)| (key.to_owned(), count)).collect()
}

/// What a reader of `/eps` computes from `lines` that start with totals, and whether it regards that as exact.
fn read_totals(lines: &str) -> (Tally, bool) {
    let (mut totals, mut known) = (None::<Tally>, true);
    for line in lines.strip_suffix("end\n").expect("an end").lines() {
        let (kind, json) = line.split_once(' ').unwrap();
        let counts = || serde_json::from_str::<HashMap<String, i64>>(json).unwrap().into_iter().collect();
        match kind {
            "/eps" => totals.as_mut().expect("totals first").merge(&counts()),
            "/eps#snapshot" => totals = Some(counts()),
            "/eps#totals" => known = serde_json::from_str::<serde_json::Value>(json).unwrap()["known"] == true,
            _ => panic!("unexpected: {line}"),
        }
    }
    let mut totals = totals.unwrap_or_default();
    totals.drop_zeros();
    (totals, known)
}

/// The next step of a test: send so many messages, or let the slow reader take a batch.
#[derive(Debug, Clone)]
enum Step {
    Send(u8),
    Take,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(prop_oneof![(1..8_u8).prop_map(Step::Send), Just(Step::Take)], 1..60)
}

/// Runs `steps` with one slow reader of `/eps`; returns everything it received, and how many messages were sent.
fn run_steps(policy: Policy, steps: Vec<Step>, message: impl Fn(u64) -> Message) -> (String, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let fanout = start(small_log(policy));
        let messages = fanout.publisher();
        let mut reader = subscribe(&fanout.handle(), "/eps").await;
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
                    if let Some(batch) = reader.try_recv() {
                        received.push_str(std::str::from_utf8(&batch).unwrap());
                    }
                    settle().await;
                }
            }
        }
        drop(messages);
        let ended = tokio::spawn(fanout.join());
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

    /// Whenever a reader comes, however slowly it reads, whatever was lost before, and whenever the totals were unavailable:
    /// once they are known, it has them. Readers that did not ask for totals receive changes only; with the totals from the
    /// start these add up to the same, unless the totals outgrew the limits.
    #[test]
    fn snapshot_plus_changes_equals_the_totals(
        steps in proptest::collection::vec(0..14_u8, 1..60),
        corrections: bool,
        slow_policy in prop_oneof![
            Just(None), Just(Some(Policy::Merge)), Just(Some(Policy::Skip)), Just(Some(Policy::Latest)),
        ],
    ) {
        const MAX_KEYS: usize = 4;
        let mut config = Config { max_totals: MAX_KEYS, corrections, ..with_totals() };
        if let Some(policy) = slow_policy {
            config = Config { totals: config.totals, max_totals: MAX_KEYS, corrections, ..small_log(policy) };
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fanout = start(config);
            let messages = fanout.publisher();
            let handle = fanout.handle();
            let start = counts(&[("k0", 5)]);
            let mut truth = start.clone();
            messages.send(Message::totals(ns("/eps"), truth.clone())).await.unwrap();
            handle.totals_known(&ns("/eps"), Duration::from_secs(60)).await.unwrap();
            let plain = tokio::spawn(rest(subscribe(&handle, "/eps").await));
            let (mut readers, mut slow_readers) = (Vec::new(), Vec::new());
            let is_known = async || handle.totals_known(&ns("/eps"), Duration::ZERO).await.is_ok();
            let mut outgrown = false;
            for (number, step) in steps.into_iter().enumerate() {
                let change = counts(&[(["k0", "k1", "k2"][number % 3], 1)]);
                match step {
                    // Dropped by the engine while the totals are unavailable.
                    0 if is_known().await => {
                        let rate = ["", "1000/s", "300/s", "1/h"][number % 4].parse().ok();
                        let reader = subscribe_at(&handle, "/eps", true, rate).await;
                        readers.push(tokio::spawn(rest(reader)));
                    }
                    1 if is_known().await && slow_policy.is_some() => slow_readers.push(subscribe_with(&handle, "/eps", true).await),
                    // Counted, but lost on the way.
                    2 => truth.merge(&change),
                    3 => truth.subtract(&change),
                    4 => messages.send(Message::totals(ns("/eps"), truth.clone())).await.unwrap(),
                    5 => settle().await,
                    6 => {
                        let state = TotalsState::Unavailable(format!("reason {}", number % 2).into());
                        messages.send(Message::totals_state(ns("/eps"), state)).await.unwrap();
                    }
                    // More keys than allowed, by counting or by a reading; most are gone before the next reading.
                    7 => {
                        outgrown = true;
                        let many = (0..MAX_KEYS + 1).map(|key| (format!("many{key}"), 1)).collect();
                        messages.send(Message::tally(ns("/eps"), many)).await.unwrap();
                        truth.merge(&counts(&[("many0", 1)]));
                    }
                    8 => {
                        outgrown = true;
                        let many = (0..MAX_KEYS + 1).map(|key| (format!("many{key}"), 1)).collect();
                        messages.send(Message::totals(ns("/eps"), many)).await.unwrap();
                    }
                    _ => {
                        truth.merge(&change);
                        messages.send(Message::tally(ns("/eps"), change)).await.unwrap();
                    }
                }
                if step < 2 {
                    settle().await;
                }
            }
            // Without corrections, only readers that come after an interruption are sure to be exact.
            let interruption = TotalsState::Unavailable("the end".into());
            messages.send(Message::totals_state(ns("/eps"), interruption)).await.unwrap();
            messages.send(Message::totals(ns("/eps"), truth.clone())).await.unwrap();
            drop(messages);
            let ended = tokio::spawn(fanout.join());
            truth.drop_zeros();
            for reader in readers {
                assert_eq!(read_totals(&reader.await.unwrap()), (truth.clone(), true));
            }
            for reader in slow_readers {
                assert_eq!(read_totals(&rest(reader).await), (truth.clone(), true));
            }
            ended.await.unwrap();
            let changes = sums(&plain.await.unwrap());
            if corrections && !outgrown {
                truth.subtract(&start);
                truth.drop_zeros();
                assert_eq!(changes.into_iter().collect::<Tally>(), truth);
            }
        });
    }

    #[test]
    fn skipped_messages_are_counted_in_a_note(steps in steps()) {
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

#[tokio::test]
async fn stream_whose_reader_goes_is_freed_at_once() {
    let fanout = start(Config::default());
    let _messages = fanout.publisher();
    let handle = fanout.handle();
    let reader = subscribe(&handle, "/a/b").await;
    while handle.stats().connections.get() == 0 {
        tokio::task::yield_now().await;
    }
    drop(reader);
    // Far less than a second, after which connections are looked at in any case.
    settle().await;
    assert_eq!((handle.stats().connections.get(), handle.stats().feeds.get()), (0, 0));
}

#[tokio::test]
async fn large_batch_reaches_a_body_in_pieces() {
    let fanout = start(Config::default());
    let messages = fanout.publisher();
    let mut reader = subscribe(&fanout.handle(), "/a").await;
    messages.send(Message::text(ns("/a"), "x".repeat(1 << 20))).await.unwrap();
    drop(messages);
    let ended = tokio::spawn(fanout.join());
    let mut lengths = Vec::new();
    while let Some(piece) = reader.recv().await {
        lengths.push(piece.unwrap().len());
    }
    ended.await.unwrap();
    assert_eq!(lengths.iter().sum::<usize>(), "/a \nend\n".len() + (1 << 20));
    assert!(lengths.iter().all(|length| *length <= 64 * 1024), "{lengths:?}");
}

#[tokio::test]
async fn merged_sums_have_a_budget() {
    let mut config = small_log(Policy::Merge);
    config.merged_bytes = 1000;
    let fanout = start(config);
    let messages = fanout.publisher();
    let handle = fanout.handle();
    let slow = subscribe(&handle, "/eps").await;
    let fast = tokio::spawn(rest(subscribe(&handle, "/eps").await));
    let mut number = 0;
    while handle.stats().slow_disconnected.get() == 0 {
        messages.send(Message::tally(ns("/eps"), counts(&[(&format!("k{number}"), 1)]))).await.unwrap();
        number += 1;
        settle().await;
    }
    assert!(handle.stats().slow_merged.get() > 1 && number > 3);
    drop(messages);
    fanout.join().await;
    assert_eq!(sums(&fast.await.unwrap()).len(), number);
    assert!(!rest(slow).await.contains("end"));
}

#[tokio::test]
async fn bytes_that_wait_for_readers_have_a_budget() {
    const MESSAGE: usize = 10_000;
    let mut config = small_log(Policy::Skip);
    config.total_log_bytes = 20 * MESSAGE;
    let fanout = start(config);
    let messages = fanout.publisher();
    let handle = fanout.handle();
    let fast = tokio::spawn(rest(subscribe(&handle, "/raw").await));
    // Each stops in another message, which it keeps although the log has dropped it.
    let mut slow = Vec::new();
    for number in 0..100 {
        slow.push(subscribe(&handle, "/raw").await);
        for part in 0..3 {
            messages.send(Message::text(ns("/raw"), format!("{number} {part} {}", "x".repeat(MESSAGE)))).await.unwrap();
            settle().await;
        }
    }
    let shed = handle.stats().shed.get();
    assert!((75..100).contains(&shed), "{shed} of 100");
    assert_eq!(handle.stats().connections.get(), 101 - shed);
    drop(messages);
    let ended = tokio::spawn(fanout.join());
    assert_eq!(fast.await.unwrap().lines().count(), 301);
    drop(slow);
    ended.await.unwrap();
}
