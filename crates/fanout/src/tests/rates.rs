//! Conflation as readers see it: rates, and the policy `latest`, compared with what a simple model gives.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::inbound::connect_with;
use super::{counts, ns, of, rest, settle, small_log, start, subscribe_at};
use crate::*;

async fn at(handle: &Handle, topics: &str, rate: &str) -> BodyReceiver {
    subscribe_at(handle, topics, false, Some(rate.parse().unwrap())).await
}

async fn batch(reader: &mut BodyReceiver) -> String {
    String::from_utf8(reader.recv().await.unwrap().unwrap().to_vec()).unwrap()
}

fn text(namespace: &str, text: &str) -> Message {
    Message::text(ns(namespace), text)
}

#[tokio::test]
async fn reader_with_a_rate_gets_the_first_message_at_once_and_the_newest_when_it_is_due() {
    let fanout = start(Config { shards: 1, log_batches: 2, ..Config::default() });
    let (messages, handle) = (fanout.publisher(), fanout.handle());
    let mut first = at(&handle, "/a,/b", "1/h").await;
    messages.send(text("/a", "1")).await.unwrap();
    assert_eq!(batch(&mut first).await, "/a 1\n");
    // More than the log keeps.
    for number in 2..7 {
        messages.send(text("/a", &number.to_string())).await.unwrap();
        messages.send(Message::tally(ns("/b"), counts(&[("k", number)]))).await.unwrap();
        settle().await;
    }
    // Readers that come later get nothing of what was sent before.
    let second = at(&handle, "/a,/b", "1/h").await;
    let mut other_rate = at(&handle, "/a,/b", "1000/s").await;
    messages.send(text("/a", "7")).await.unwrap();
    assert_eq!(batch(&mut other_rate).await, "/a 7\n");
    messages.send(Message::tally(ns("/b"), counts(&[("k", 100)]))).await.unwrap();
    assert_eq!(batch(&mut other_rate).await, "/b {\"k\":100}\n");
    settle().await;
    assert_eq!(handle.stats().feeds.get(), 1);
    let ended = tokio::spawn(fanout.shutdown());
    assert_eq!(rest(first).await, "/b {\"k\":120}\n/a 7\nend\n");
    assert_eq!(rest(second).await, "/a 7\n/b {\"k\":100}\nend\n");
    assert_eq!(rest(other_rate).await, "end\n");
    ended.await.unwrap();
    assert_eq!(handle.stats().conflated.get(), 5);
    assert_eq!((handle.stats().slow_merged.get(), handle.stats().slow_disconnected.get()), (0, 0));
}

#[tokio::test]
async fn reader_with_a_rate_takes_along_what_it_has_not_got() {
    let fanout = start(Config { shards: 1, ..Config::default() });
    let (messages, handle) = (fanout.publisher(), fanout.handle());
    let mut reader = at(&handle, "/a", "1/h").await;
    messages.send(text("/a", "1")).await.unwrap();
    assert_eq!(batch(&mut reader).await, "/a 1\n");
    let mut other = at(&handle, "/b", "1/h").await;
    messages.send(text("/b", "2")).await.unwrap();
    assert_eq!(batch(&mut other).await, "/b 2\n");
    messages.send(text("/b", "3")).await.unwrap();
    messages.send(text("/a", "4")).await.unwrap();
    settle().await;
    let id = handle.connections().await.unwrap().iter().find(|report| report.info.topics == of("/a")).unwrap().id;
    handle.set_topics(id, of("/b")).await.unwrap();
    assert_eq!(batch(&mut reader).await, "/a 4\n");
    messages.send(text("/b", "5")).await.unwrap();
    let ended = tokio::spawn(fanout.shutdown());
    assert_eq!((rest(reader).await, rest(other).await), ("/b 5\nend\n".to_owned(), "/b 5\nend\n".to_owned()));
    ended.await.unwrap();
}

#[tokio::test]
async fn stream_with_a_rate_that_is_closed_ends_with_what_it_has_not_got() {
    let fanout = start(Config { shards: 1, ..Config::default() });
    let (messages, handle) = (fanout.publisher(), fanout.handle());
    let mut reader = at(&handle, "/a", "1/h").await;
    messages.send(text("/a", "1")).await.unwrap();
    assert_eq!(batch(&mut reader).await, "/a 1\n");
    messages.send(text("/a", "2")).await.unwrap();
    messages.send(text("/a", "3")).await.unwrap();
    settle().await;
    let id = handle.connections().await.unwrap()[0].id;
    handle.close(id, CloseReason::Requested("enough".into())).await.unwrap();
    assert_eq!(rest(reader).await, "/a 3\nRequested(\"enough\")\n");
}

const NAMESPACES: [&str; 3] = ["/a", "/b", "/c"];
const TOPICS: [&str; 3] = ["/a", "/a,/b", "/a,/b,/c"];

#[derive(Debug, Clone)]
enum Step {
    Text(usize),
    Tally(usize),
    Subscribe(usize, usize),
    Connect(usize),
    Wait,
}

/// What one reader received, by namespace: the texts as numbers, and the sum of the tallies; and the number in its notes about
/// skipped messages.
#[derive(Debug, Default)]
struct Received {
    texts: HashMap<String, Vec<usize>>,
    sums: HashMap<String, i64>,
    skipped: u64,
}

fn read(received: &str) -> Received {
    let mut read = Received::default();
    for line in received.strip_suffix("end\n").expect("an end").lines() {
        let (namespace, payload) = line.split_once(' ').unwrap();
        match namespace {
            "now" => {}
            "skipped" => read.skipped += payload.parse::<u64>().unwrap(),
            _ => match payload.strip_prefix("{\"k\":") {
                Some(count) => {
                    let count: i64 = count.strip_suffix('}').unwrap().parse().unwrap();
                    *read.sums.entry(namespace.to_owned()).or_default() += count;
                }
                None => read.texts.entry(namespace.to_owned()).or_default().push(payload.parse().unwrap()),
            },
        }
    }
    read
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the rates and the policy, however slowly readers read, whenever they come and change their topics: of `/a`, which
    /// all read all the time, each gets texts in order and none twice. Readers with a rate get the last one, and tallies that add
    /// up to what was sent since they came; others as far as the policy promises it.
    #[test]
    fn readers_get_what_rates_and_policies_promise(
        policy in prop_oneof![Just(Policy::Merge), Just(Policy::Latest), Just(Policy::Skip)],
        rooms in proptest::collection::vec(prop_oneof![Just(8_usize), Just(100), Just(1 << 16)], 8),
        shards in 1..3_usize,
        steps in proptest::collection::vec(prop_oneof![
            6 => (0..NAMESPACES.len()).prop_map(Step::Text),
            6 => (0..NAMESPACES.len()).prop_map(Step::Tally),
            1 => (0..8_usize, 0..TOPICS.len()).prop_map(|(reader, topics)| Step::Subscribe(reader, topics)),
            1 => (0..TOPICS.len()).prop_map(Step::Connect),
            2 => Just(Step::Wait),
        ], 1..200),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (expected, received, ends_with_text) = runtime.block_on(async {
            let fanout = start(Config { shards, ..small_log(policy) });
            let (messages, handle) = (fanout.publisher(), fanout.handle());
            let (mut readers, mut received) = (Vec::new(), Vec::new());
            let (mut sent, mut sum, mut sent_in_all, mut ends_with_text) = (Vec::new(), 0, 0, false);
            let mut expected = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                sent_in_all += u64::from(matches!(step, Step::Text(_) | Step::Tally(_)));
                match step {
                    Step::Text(place) => {
                        messages.send(text(NAMESPACES[place], &number.to_string())).await.unwrap();
                        if place == 0 {
                            sent.push(number);
                            ends_with_text = true;
                        }
                    }
                    Step::Tally(place) => {
                        messages.send(Message::tally(ns(NAMESPACES[place]), counts(&[("k", 1)]))).await.unwrap();
                        sum += i64::from(place == 0);
                        ends_with_text &= place != 0;
                    }
                    Step::Subscribe(reader, topics) if !readers.is_empty() => {
                        let place = reader % readers.len();
                        let writer: &mut tokio::io::WriteHalf<_> = &mut readers[place];
                        writer.write_all(format!("{}\n", TOPICS[topics]).as_bytes()).await.unwrap();
                    }
                    Step::Connect(topics) if readers.len() < rooms.len() => {
                        let rate = ["1000/s", "", "100/s", "1/h"][readers.len() % 4].parse().ok();
                        let room = rooms[readers.len()];
                        // A reader may get what waits for the hub when it comes.
                        while handle.stats().broadcast.get() < sent_in_all {
                            tokio::task::yield_now().await;
                        }
                        let client = connect_with(&handle, TOPICS[topics], room, rate).await;
                        let (mut theirs, ours) = tokio::io::split(client);
                        readers.push(ours);
                        received.push(tokio::spawn(async move {
                            let mut received = String::new();
                            theirs.read_to_string(&mut received).await.unwrap();
                            received
                        }));
                        expected.push((sent.len(), sum, rate));
                    }
                    Step::Wait => tokio::time::sleep(Duration::from_millis(1)).await,
                    Step::Subscribe(..) | Step::Connect(_) => {}
                }
            }
            drop(messages);
            let ended = tokio::spawn(fanout.join());
            let mut all = Vec::new();
            for reader in received {
                all.push(read(&reader.await.unwrap()));
            }
            drop(readers);
            ended.await.unwrap();
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(from, before, rate): (usize, i64, Option<Rate>)| (sent[from..].to_vec(), sum - before, rate))
                .collect();
            (expected, all, ends_with_text)
        });
        for ((sent, sum, rate), received) in expected.into_iter().zip(received) {
            let texts = received.texts.get("/a").cloned().unwrap_or_default();
            prop_assert!(texts.is_sorted_by(|earlier, later| earlier < later), "{:?}", texts);
            prop_assert!(texts.iter().all(|text| sent.contains(text)), "{:?} of {:?}", texts, sent);
            // The policy keeps the newest message, whatever it is.
            if rate.is_some() || policy == Policy::Latest && ends_with_text {
                prop_assert_eq!(texts.last(), sent.last());
            }
            if rate.is_some() || policy == Policy::Merge {
                prop_assert_eq!(received.sums.get("/a").copied().unwrap_or_default(), sum);
            }
            prop_assert!(rate.is_none() || received.skipped == 0, "readers with a rate get no note");
            for texts in received.texts.values() {
                prop_assert!(texts.is_sorted_by(|earlier, later| earlier < later), "{:?}", texts);
            }
        }
    }

    /// By the policy `latest`, a slow reader gets the newest message of each namespace, and a count of all others.
    #[test]
    fn latest_gives_the_newest_and_counts_the_others(
        places in proptest::collection::vec(proptest::option::of(0..NAMESPACES.len()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (received, sent) = runtime.block_on(async {
            let fanout = start(small_log(Policy::Latest));
            let messages = fanout.publisher();
            let mut reader = super::subscribe_with(&fanout.handle(), "/a,/b,/c", false).await;
            let (mut received, mut sent) = (String::new(), HashMap::<String, Vec<usize>>::new());
            for (number, place) in places.into_iter().enumerate() {
                let Some(place) = place else {
                    received.extend(reader.try_recv().map(|batch| String::from_utf8(batch.to_vec()).unwrap()));
                    settle().await;
                    continue;
                };
                messages.send(text(NAMESPACES[place], &number.to_string())).await.unwrap();
                sent.entry(NAMESPACES[place].to_owned()).or_default().push(number);
                settle().await;
            }
            drop(messages);
            let ended = tokio::spawn(fanout.join());
            received.push_str(&rest(reader).await);
            ended.await.unwrap();
            (read(&received), sent)
        });
        let count = |texts: &HashMap<String, Vec<usize>>| texts.values().map(Vec::len).sum::<usize>();
        prop_assert_eq!(count(&received.texts) + received.skipped as usize, count(&sent));
        for (namespace, sent) in &sent {
            let texts = &received.texts[namespace];
            prop_assert!(texts.is_sorted_by(|earlier, later| earlier < later) && texts.iter().all(|text| sent.contains(text)));
            prop_assert_eq!(texts.last(), sent.last());
        }
    }
}
