//! What a transport tells the engine about clients that speak on their connections.

use super::Topics;

/// What a client wants of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Nothing, or nothing yet.
    Nothing,
    /// To read these topics from now on instead of those it reads.
    Subscribe(Topics),
    /// To part; what is to be sent before that is in the replies.
    Goodbye,
}

/// Why the engine parts with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It fell further behind than its feed's log goes back.
    TooSlow,
    /// It has not answered a keep-alive in time.
    Unanswered,
}

/// The engine's ear for one client that speaks: turns the bytes that come from it into what it wants, and into answers.
///
/// The engine puts answers between batches, reads nothing more from the client until they are written, and reads nothing
/// while the client's topics are being changed, so neither answers nor requests can pile up.
pub trait Inbound: Send + std::fmt::Debug {
    /// Takes in what came from a client that reads `topics`, and appends answers to `replies`, ready for the wire. Bytes
    /// after those that made the client want something are kept; a call with none goes on with them.
    fn receive(&mut self, bytes: &[u8], topics: &Topics, replies: &mut Vec<u8>) -> Said;

    /// Tells the client that it reads `topics` from here on; `replies` stand after the last message of what it read before,
    /// and before the first message that it reads now.
    fn subscribed(&mut self, topics: &Topics, replies: &mut Vec<u8>);

    /// Tells the client why the engine parts with it.
    fn ending(&mut self, ending: Ending, replies: &mut Vec<u8>);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::tests::{LINES, info, ns, of, settle};
    use crate::{Config, Fanout, Gateway, Message, NamespacePolicy, Policy, Sink, Subscriber};

    /// A client that speaks in lines: topics, `hello` or `bye`.
    #[derive(Debug, Default)]
    struct Ear(Vec<u8>);

    impl Inbound for Ear {
        fn receive(&mut self, bytes: &[u8], topics: &Topics, replies: &mut Vec<u8>) -> Said {
            self.0.extend_from_slice(bytes);
            let Some(end) = self.0.iter().position(|byte| *byte == b'\n') else { return Said::Nothing };
            let line: Vec<u8> = self.0.drain(..=end).collect();
            match std::str::from_utf8(&line).unwrap().trim_end() {
                "hello" => {
                    replies.extend_from_slice(format!("you read {topics}\n").as_bytes());
                    Said::Nothing
                }
                "bye" => {
                    replies.extend_from_slice(b"bye\n");
                    Said::Goodbye
                }
                topics => Said::Subscribe(of(topics)),
            }
        }

        fn subscribed(&mut self, topics: &Topics, replies: &mut Vec<u8>) {
            replies.extend_from_slice(format!("now {topics}\n").as_bytes());
        }

        fn ending(&mut self, ending: Ending, replies: &mut Vec<u8>) {
            replies.extend_from_slice(format!("{ending:?}\n").as_bytes());
        }
    }

    /// A client of `topics`, with room for `room` bytes between it and the engine.
    async fn connect(gateway: &Gateway, topics: &str, room: usize) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(room);
        let info = info(topics);
        let (sink, inbound) = (Sink::Stream(Box::new(theirs)), Some(Box::<Ear>::default() as Box<dyn Inbound>));
        let (preamble, held) = (Bytes::new(), None);
        let subscriber = Subscriber { info, framing: &LINES, sink, preamble, snapshot: false, inbound, held };
        gateway.subscribe(subscriber).await.unwrap();
        ours
    }

    async fn line(client: &mut BufReader<DuplexStream>) -> String {
        let mut line = String::new();
        client.read_line(&mut line).await.unwrap();
        line
    }

    #[tokio::test]
    async fn a_client_changes_its_topics_and_is_parted_with_in_good_order() {
        let (messages, inbox) = mpsc::channel(16);
        let fanout = Fanout::start(Config::default(), inbox);
        let gateway = fanout.gateway();
        let mut client = BufReader::new(connect(&gateway, "/a", 1024).await);
        // All at once: each waits for the one before.
        client.write_all(b"/b\nhello\n/b,/a\n").await.unwrap();
        assert_eq!(line(&mut client).await, "now /b\n");
        assert_eq!(line(&mut client).await, "you read /b\n");
        assert_eq!(line(&mut client).await, "now /a,/b\n");
        assert_eq!(gateway.connections().await.unwrap()[0].info.topics, of("/a,/b"));
        let feeds = gateway.feeds().await.unwrap();
        assert_eq!((feeds.len(), feeds[0].readers, &feeds[0].topics), (1, 1, &of("/a,/b")));
        messages.send(Message::text(ns("/a"), "1")).await.unwrap();
        assert_eq!(line(&mut client).await, "/a 1\n");
        client.write_all(b"bye\n").await.unwrap();
        assert_eq!((line(&mut client).await, line(&mut client).await), ("bye\n".to_owned(), String::new()));
        while gateway.stats().feeds.get() > 0 {
            messages.send(Message::text(ns("/a"), "2")).await.unwrap();
            settle().await;
        }
        assert_eq!(gateway.stats().connections.get(), 0);
    }

    #[tokio::test]
    async fn much_at_once_is_heard_whole() {
        let (_messages, inbox) = mpsc::channel(16);
        let fanout = Fanout::start(Config::default(), inbox);
        let mut client = BufReader::new(connect(&fanout.gateway(), "/a", 1 << 20).await);
        let wish = format!("/a{}\n", ",/b".repeat(200_000));
        client.write_all(wish.as_bytes()).await.unwrap();
        assert_eq!(line(&mut client).await, "now /a,/b\n");
    }

    #[tokio::test]
    async fn a_client_that_falls_behind_is_told_when_it_reads() {
        let (messages, inbox) = mpsc::channel(16);
        let policies = vec![NamespacePolicy { namespace: ns("/"), policy: Policy::Disconnect }];
        let fanout = Fanout::start(Config { shards: 1, log_batches: 2, policies, ..Config::default() }, inbox);
        let gateway = fanout.gateway();
        let mut client = connect(&gateway, "/a", 8).await;
        while gateway.stats().slow_disconnected.get() == 0 {
            messages.send(Message::text(ns("/a"), "long enough")).await.unwrap();
            settle().await;
        }
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "/a long enough\nTooSlow\n");
    }

    #[tokio::test]
    async fn a_client_that_leaves_a_keep_alive_unanswered_is_told() {
        let (_messages, inbox) = mpsc::channel(16);
        let (keep_alive, answer_limit) = (Duration::from_millis(1), Duration::from_millis(1));
        let fanout = Fanout::start(Config { keep_alive, answer_limit, ..Config::default() }, inbox);
        let gateway = fanout.gateway();
        let mut client = connect(&gateway, "/a", 1024).await;
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        assert_eq!((read.as_str(), gateway.stats().unanswered.get()), ("alive\nUnanswered\n", 1));
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

        /// What a client reads before and after is never sent twice and never left out, and the change itself has a place:
        /// between the first and the last message of one choice of topics, all that fit are there.
        #[test]
        fn a_change_leaves_no_gap_and_no_overlap(
            room in prop_oneof![Just(8_usize), Just(100), Just(4096)],
            steps in proptest::collection::vec(prop_oneof![
                8 => (0..NAMESPACES.len()).prop_map(Step::Send),
                1 => (0..TOPICS.len()).prop_map(Step::Subscribe),
                2 => Just(Step::Settle),
            ], 1..300),
        ) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let (sent, received, witness) = runtime.block_on(async {
                let (messages, inbox) = mpsc::channel(4);
                let fanout = Fanout::start(Config { shards: 1, log_batches: 10_000, ..Config::default() }, inbox);
                let (mut theirs, mut ours) = tokio::io::split(connect(&fanout.gateway(), "/a", room).await);
                let reader = tokio::spawn(async move {
                    let mut received = String::new();
                    theirs.read_to_string(&mut received).await.unwrap();
                    received
                });
                // One that stays must not be bothered by one that goes.
                let (mut witness, kept) = tokio::io::split(connect(&fanout.gateway(), "/a", 1 << 20).await);
                // So that what is asked for last is answered before the end.
                let mut others = BufReader::new(connect(&fanout.gateway(), "/never", 100).await);
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
                let ended = tokio::spawn(fanout.ended());
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
}
