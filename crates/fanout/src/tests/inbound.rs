//! Clients that send: changes of topics, replies, and graceful ends.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};

use super::{info, lines, ns, of, settle, start};
use crate::*;

/// Handles lines: `hello`, `bye`, `decide ...`, or topics to read.
#[derive(Debug, Default)]
struct LineHandler(Vec<u8>);

impl Inbound for LineHandler {
    fn receive(&mut self, bytes: &[u8], topics: &Topics, replies: &mut Vec<u8>) -> ClientAction {
        self.0.extend_from_slice(bytes);
        let Some(end) = self.0.iter().position(|byte| *byte == b'\n') else { return ClientAction::None };
        let line: Vec<u8> = self.0.drain(..=end).collect();
        match std::str::from_utf8(&line).unwrap().trim_end() {
            "hello" => {
                replies.extend_from_slice(format!("you read {topics}\n").as_bytes());
                ClientAction::None
            }
            "bye" => {
                replies.extend_from_slice(b"bye\n");
                ClientAction::Close
            }
            "decide yes" => ClientAction::Authorize(Box::pin(async {
                tokio::task::yield_now().await;
                let grant = Some(Arc::new(Grant::default().with_subject("alice")));
                Ok(Subscription { topics: of("/decided"), grant, resume: None })
            })),
            "decide no" => ClientAction::Authorize(Box::pin(async { Err("not yours".to_owned()) })),
            "decide fatal" => ClientAction::Authorize(Box::pin(async { Err("fatal".to_owned()) })),
            "decide badly" => ClientAction::Authorize(Box::pin(async { panic!("a bug in an authorizer") })),
            "perform" => ClientAction::Perform(Box::pin(async {
                tokio::task::yield_now().await;
                Ok(())
            })),
            "perform in vain" => ClientAction::Perform(Box::pin(async { Err("not now".to_owned()) })),
            topics => ClientAction::Subscribe(of(topics)),
        }
    }

    fn subscribed(&mut self, topics: &Topics, replies: &mut Vec<u8>) {
        replies.extend_from_slice(format!("now {topics}\n").as_bytes());
    }

    fn performed(&mut self, replies: &mut Vec<u8>) {
        replies.extend_from_slice(b"done\n");
    }

    fn refused(&mut self, reason: &str, replies: &mut Vec<u8>) -> ClientAction {
        replies.extend_from_slice(format!("refused: {reason}\n").as_bytes());
        if reason == "fatal" { ClientAction::Close } else { ClientAction::None }
    }
}

/// A client of `topics`, with room for `room` bytes between it and the engine.
async fn connect(handle: &Handle, topics: &str, room: usize) -> DuplexStream {
    connect_with(handle, topics, room, None).await
}

/// As [`connect`], with a rate.
pub(super) async fn connect_with(handle: &Handle, topics: &str, room: usize, rate: Option<Rate>) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(room);
    let mut subscriber = Subscriber::new(info(topics), lines(), Sink::Stream(Box::new(theirs)));
    subscriber.max_rate = rate;
    subscriber.inbound = Some(Box::<LineHandler>::default());
    handle.subscribe(subscriber).await.unwrap();
    ours
}

async fn line(client: &mut BufReader<DuplexStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).await.unwrap();
    line
}

#[tokio::test]
async fn client_changes_its_topics_and_closes_gracefully() {
    let fanout = start(Config::default());
    let messages = fanout.publisher();
    let handle = fanout.handle();
    let mut client = BufReader::new(connect(&handle, "/a", 1024).await);
    // All at once: each waits for the one before.
    client.write_all(b"/b\nhello\n/b,/a\n").await.unwrap();
    assert_eq!(line(&mut client).await, "now /b\n");
    assert_eq!(line(&mut client).await, "you read /b\n");
    assert_eq!(line(&mut client).await, "now /a,/b\n");
    assert_eq!(handle.connections().await.unwrap()[0].info.topics, of("/a,/b"));
    let feeds = handle.feeds().await.unwrap();
    assert_eq!((feeds.len(), feeds[0].readers, &feeds[0].topics), (1, 1, &of("/a,/b")));
    messages.send(Message::text(ns("/a"), "1")).await.unwrap();
    assert_eq!(line(&mut client).await, "/a 1\n");
    client.write_all(b"bye\n").await.unwrap();
    assert_eq!((line(&mut client).await, line(&mut client).await), ("bye\n".to_owned(), String::new()));
    while handle.stats().feeds.get() > 0 {
        messages.send(Message::text(ns("/a"), "2")).await.unwrap();
        settle().await;
    }
    assert_eq!(handle.stats().connections.get(), 0);
}

#[tokio::test]
async fn operations_of_a_client_are_performed_one_after_another() {
    let fanout = start(Config::default());
    let handle = fanout.handle();
    let mut client = BufReader::new(connect(&handle, "/a", 1024).await);
    client.write_all(b"perform\nperform in vain\nhello\n").await.unwrap();
    assert_eq!(line(&mut client).await, "done\n");
    assert_eq!(line(&mut client).await, "refused: not now\n");
    assert_eq!(line(&mut client).await, "you read /a\n");
    assert_eq!(handle.connections().await.unwrap()[0].info.topics, of("/a"));
}

#[tokio::test]
async fn long_request_is_read_whole() {
    let fanout = start(Config::default());
    let _messages = fanout.publisher();
    let mut client = BufReader::new(connect(&fanout.handle(), "/a", 1 << 20).await);
    let request = format!("/a{}\n", ",/b".repeat(200_000));
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(line(&mut client).await, "now /a,/b\n");
}

#[tokio::test]
async fn slow_client_gets_the_reason_as_its_last_bytes() {
    let policies = vec![NamespacePolicy { namespace: ns("/"), policy: Policy::Disconnect }];
    let fanout = start(Config { shards: 1, log_batches: 2, policies, ..Config::default() });
    let messages = fanout.publisher();
    let handle = fanout.handle();
    let mut client = connect(&handle, "/a", 8).await;
    while handle.stats().slow_disconnected.get() == 0 {
        messages.send(Message::text(ns("/a"), "long enough")).await.unwrap();
        settle().await;
    }
    let mut read = String::new();
    client.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "/a long enough\nSlowReader\n");
}

#[tokio::test]
async fn client_that_does_not_answer_a_keep_alive_is_closed() {
    let (keep_alive, pong_timeout) = (Duration::from_millis(1), Duration::from_millis(1));
    let fanout = start(Config { keep_alive, pong_timeout, ..Config::default() });
    let _messages = fanout.publisher();
    let handle = fanout.handle();
    let mut client = connect(&handle, "/a", 1024).await;
    let mut read = String::new();
    client.read_to_string(&mut read).await.unwrap();
    assert_eq!((read.as_str(), handle.stats().unanswered.get()), ("alive\nPingTimeout\n", 1));
}

#[derive(Debug, Clone)]
enum Step {
    Send(usize),
    Subscribe(usize),
    Settle,
}

const NAMESPACES: [&str; 3] = ["/a", "/b", "/c"];
const TOPICS: [&str; 4] = ["/a", "/a,/b", "/a,/c", "/a,/b,/c"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Topics that a client reads before and after are never sent twice and never left out, and the change itself has a
    /// place: between the first and the last message of one choice of topics, every matching message is there.
    #[test]
    fn topic_change_leaves_no_gap_and_no_overlap(
        room in prop_oneof![Just(8_usize), Just(100), Just(4096)],
        steps in proptest::collection::vec(prop_oneof![
            8 => (0..NAMESPACES.len()).prop_map(Step::Send),
            1 => (0..TOPICS.len()).prop_map(Step::Subscribe),
            2 => Just(Step::Settle),
        ], 1..300),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (sent, received, witness) = runtime.block_on(async {
            let fanout = start(Config { shards: 1, log_batches: 10_000, ..Config::default() });
            let messages = fanout.publisher();
            let (mut theirs, mut ours) = tokio::io::split(connect(&fanout.handle(), "/a", room).await);
            let reader = tokio::spawn(async move {
                let mut received = String::new();
                theirs.read_to_string(&mut received).await.unwrap();
                received
            });
            // A reader that stays must not notice one that changes.
            let (mut witness, kept) = tokio::io::split(connect(&fanout.handle(), "/a", 1 << 20).await);
            // So that the last request is answered before the end.
            let mut others = BufReader::new(connect(&fanout.handle(), "/never", 100).await);
            let mut sent = Vec::new();
            for step in steps {
                match step {
                    Step::Send(place) => {
                        let message = Message::text(ns(NAMESPACES[place]), sent.len().to_string());
                        sent.push(NAMESPACES[place]);
                        messages.send(message).await.unwrap();
                    }
                    Step::Subscribe(place) => {
                        ours.write_all(format!("{}\n", TOPICS[place]).as_bytes()).await.unwrap();
                    }
                    Step::Settle => settle().await,
                }
            }
            others.write_all(b"hello\n").await.unwrap();
            line(&mut others).await;
            drop((messages, others, ours));
            let ended = tokio::spawn(fanout.join());
            let mut witnessed = String::new();
            witness.read_to_string(&mut witnessed).await.unwrap();
            drop((witness, kept));
            ended.await.unwrap();
            (sent, reader.await.unwrap(), witnessed)
        });
        let all_a = sent.iter().enumerate().filter(|(_, namespace)| **namespace == "/a");
        let all_a: String = all_a.map(|(number, _)| format!("/a {number}\n")).collect();
        prop_assert_eq!(witness, all_a + "end\n");
        let lines = received.strip_suffix("end\n").expect("an end");
        let mut topics = of("/a");
        let mut last = None;
        let mut alike = None;
        let mut first = true;
        for line in lines.lines() {
            if let Some(now) = line.strip_prefix("now ") {
                (topics, first) = (of(now), true);
                continue;
            }
            let (namespace, number) = line.split_once(' ').unwrap();
            let number: usize = number.parse().unwrap();
            prop_assert_eq!(sent[number], namespace);
            prop_assert!(last.is_none_or(|last| last < number), "{} comes twice or late", number);
            prop_assert!(topics.iter().any(|topic| topic.contains(&ns(namespace))));
            let between = last.map_or(0, |last| last + 1)..number;
            let fits = |place: &usize| topics.iter().any(|topic| topic.contains(&ns(sent[*place])));
            // All choices have `/a`; what else fits may be left out only around the change.
            let left_out = between.clone().filter(fits).find(|place| !first || sent[*place] == "/a");
            prop_assert_eq!(left_out, None, "left out before {}", number);
            (last, first) = (Some(number), false);
            if namespace == "/a" {
                alike = Some(number);
            }
        }
        prop_assert_eq!(alike, sent.iter().rposition(|namespace| *namespace == "/a"));
    }
}

#[tokio::test]
async fn decision_changes_topics_and_grant_or_is_refused() {
    let fanout = start(Config::default());
    let handle = fanout.handle();
    let mut client = BufReader::new(connect(&handle, "/a", 1024).await);
    client.write_all(b"decide no\ndecide yes\ndecide badly\nhello\n").await.unwrap();
    assert_eq!(line(&mut client).await, "refused: not yours\n");
    assert_eq!(line(&mut client).await, "now /decided\n");
    assert_eq!(line(&mut client).await, "refused: the authorization failed; try again\n");
    assert_eq!(line(&mut client).await, "you read /decided\n");
    let connections = handle.report().await.unwrap().connections;
    assert_eq!(connections[0].subject.as_deref(), Some("alice"));
    client.write_all(b"decide fatal\n").await.unwrap();
    assert_eq!((line(&mut client).await, line(&mut client).await), ("refused: fatal\n".to_owned(), String::new()));
}
