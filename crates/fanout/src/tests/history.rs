//! Readers that lose their stream and come back: on the same node or another one, with the same topics or others.

use proptest::prelude::*;

use super::*;

const SEQUENCE: &str = "entries";

fn retention(sequence: Option<&str>, max_messages: Option<usize>) -> Arc<Retention> {
    Arc::new(Retention {
        name: "kept".into(),
        namespace: ns("/kept"),
        except: Box::default(),
        sequence: sequence.map(Into::into),
        partition: None,
        max_messages,
        max_bytes: None,
        max_age: None,
        last_values: false,
    })
}

fn node(retention: &Arc<Retention>, config: Config) -> Fanout {
    Fanout::builder().config(config).inbox(64).retentions(vec![Arc::clone(retention)]).build()
}

fn message(namespace: &str, text: &str, retention: &Arc<Retention>, entry: Option<u64>) -> Message {
    let position = entry.map(|entry| Position { sequence: SEQUENCE.into(), entry: EntryId::new(entry, 0) });
    let mut message = Message::text(ns(namespace), text);
    message.kept = Some(Box::new(Kept::new(Arc::clone(retention), position)));
    message
}

async fn event(fanout: &Fanout, kind: SequenceEventKind) {
    let event = SequenceEvent { sequence: SEQUENCE.into(), kind };
    fanout.publisher().send_sequence_event(event).await.unwrap();
}

async fn started(retention: &Arc<Retention>, config: Config) -> Fanout {
    let fanout = node(retention, config);
    event(&fanout, SequenceEventKind::Start { after: EntryId::ZERO }).await;
    event(&fanout, SequenceEventKind::Current).await;
    // Readers may overtake events of sequences.
    settle().await;
    fanout
}

/// A reader of topics that are separated by commas, from after `id` on.
async fn resume(fanout: &Fanout, topics: &str, id: Option<&str>) -> BodyReceiver {
    let (sender, receiver) = body();
    let mut subscriber = Subscriber::new(info(topics), lines(), Sink::Body(sender));
    if let Some(id) = id {
        let start = Start::After(id.into());
        let limit = Duration::from_secs(10);
        subscriber.resume = fanout.handle().resume(&of(topics), None, None, &start, limit).await.unwrap();
    }
    fanout.handle().subscribe(subscriber).await.unwrap();
    receiver
}

/// The lines that arrive until there are none for a moment, or until `enough`.
async fn lines_of(reader: &mut BodyReceiver, enough: usize) -> Vec<String> {
    let mut bytes = Vec::new();
    let count = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
    while count(&bytes) < enough
        && let Ok(Some(Ok(piece))) = tokio::time::timeout(Duration::from_secs(5), reader.recv()).await
    {
        bytes.extend_from_slice(&piece);
    }
    let text = String::from_utf8(bytes).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

async fn all_lines(reader: &mut BodyReceiver, expected: usize) -> Vec<String> {
    let lines = lines_of(reader, expected).await;
    assert_eq!(lines.len(), expected, "{lines:?}");
    lines
}

#[tokio::test]
async fn reader_gets_what_followed_its_position_and_then_live() {
    let retention = retention(Some(SEQUENCE), None);
    let fanout = started(&retention, Config::default()).await;
    for entry in 1..=5 {
        fanout.publisher().send(message("/kept/a", "x", &retention, Some(entry))).await.unwrap();
    }
    let mut reader = resume(&fanout, "/kept", Some("3-0")).await;
    let replayed = ["position 3-0", "/kept/a@4-0 x", "/kept/a@5-0 x"];
    assert_eq!(all_lines(&mut reader, 3).await, replayed);
    fanout.publisher().send(message("/kept/a", "y", &retention, Some(6))).await.unwrap();
    assert_eq!(all_lines(&mut reader, 1).await, ["/kept/a@6-0 y"]);
    let mut reader = resume(&fanout, "/kept", Some("earliest")).await;
    assert_eq!(all_lines(&mut reader, 7).await[1], "/kept/a@1-0 x");
    assert_eq!(fanout.handle().stats().resumed.get(), 2);
}

#[tokio::test]
async fn live_reader_learns_where_it_is() {
    let retention = retention(Some(SEQUENCE), None);
    let fanout = started(&retention, Config { keep_alive: Duration::from_millis(1), ..Config::default() }).await;
    fanout.publisher().send(message("/kept/a", "x", &retention, Some(7))).await.unwrap();
    settle().await;
    let mut reader = resume(&fanout, "/kept/b", None).await;
    assert_eq!(all_lines(&mut reader, 2).await, ["position 7-0", "alive 7-0"]);
    let mut other = resume(&fanout, "/other", None).await;
    assert_eq!(all_lines(&mut other, 1).await, ["alive"]);
}

#[tokio::test]
async fn reader_is_reset_where_its_position_is_lost() {
    let retention = retention(Some(SEQUENCE), Some(2));
    let fanout = started(&retention, Config::default()).await;
    for entry in 1..=5 {
        fanout.publisher().send(message("/kept/a", "x", &retention, Some(entry))).await.unwrap();
    }
    settle().await;
    for (id, reason) in [("2-0", "trimmed"), ("no", "unknown")] {
        let mut reader = resume(&fanout, "/kept", Some(id)).await;
        let reset = format!("/#reset@5-0 {{\"reason\":\"{reason}\",\"earliest\":\"4-0\"}}");
        assert_eq!(all_lines(&mut reader, 1).await, [reset]);
    }
    assert_eq!(fanout.handle().stats().resets.get(), 2);
}

#[tokio::test]
async fn reader_after_an_update_that_is_ahead_gets_all_that_is_kept() {
    let retention = retention(Some(SEQUENCE), None);
    let fanout = started(&retention, Config::default()).await;
    for entry in 1..=2 {
        fanout.publisher().send(message("/kept/a", "x", &retention, Some(entry))).await.unwrap();
    }
    settle().await;
    for (id, position, count) in [("9-0", "earliest", 2), ("1-0", "1-0", 1)] {
        let (start, limit) = (Start::AfterUpdate(id.into()), Duration::from_millis(100));
        let resume = fanout.handle().resume(&of("/kept"), None, None, &start, limit).await.unwrap();
        assert_eq!(resume.as_ref().map(Resume::position), Some(position));
        let (sender, mut receiver) = body();
        let mut subscriber = Subscriber::new(info("/kept"), lines(), Sink::Body(sender));
        subscriber.resume = resume;
        fanout.handle().subscribe(subscriber).await.unwrap();
        let lines = all_lines(&mut receiver, count + 1).await;
        assert_eq!((&*lines[0], &*lines[count]), (&*format!("position {position}"), "/kept/a@2-0 x"));
    }
}

#[tokio::test]
async fn gap_resets_all_readers_of_the_sequence() {
    let retention = retention(Some(SEQUENCE), None);
    let fanout = started(&retention, Config::default()).await;
    let mut below = resume(&fanout, "/kept/a", None).await;
    let mut other = resume(&fanout, "/other", None).await;
    fanout.publisher().send(message("/kept/a", "x", &retention, Some(1))).await.unwrap();
    event(&fanout, SequenceEventKind::Gap { after: EntryId::new(9, 9), reason: ResetReason::Trimmed }).await;
    fanout.publisher().send(message("/kept/a", "y", &retention, Some(10))).await.unwrap();
    fanout.publisher().send(Message::text(ns("/other"), "z")).await.unwrap();
    let reset = "/kept#reset@9-9 {\"reason\":\"trimmed\",\"earliest\":\"9-9\"}";
    assert_eq!(all_lines(&mut below, 4).await, ["position 0-0", "/kept/a@1-0 x", reset, "/kept/a@10-0 y"]);
    assert_eq!(all_lines(&mut other, 1).await, ["/other z"]);
    let mut late = resume(&fanout, "/kept", Some("1-0")).await;
    assert!(all_lines(&mut late, 1).await[0].contains("trimmed"));
}

#[tokio::test]
async fn backlog_and_repeated_entries_are_not_sent_live() {
    let retention = retention(Some(SEQUENCE), None);
    let fanout = node(&retention, Config::default());
    let publisher = fanout.publisher();
    event(&fanout, SequenceEventKind::Start { after: EntryId::new(2, 0) }).await;
    let mut live = resume(&fanout, "/kept", None).await;
    let early = {
        let handle = fanout.handle();
        tokio::spawn(async move {
            handle.resume(&of("/kept"), None, None, &Start::After("2-0".into()), Duration::from_secs(10)).await
        })
    };
    for entry in [3, 4, 4, 3] {
        let mut backlog = message("/kept", "old", &retention, Some(entry));
        backlog.kept.as_mut().unwrap().is_backlog = true;
        publisher.send(backlog).await.unwrap();
    }
    settle().await;
    assert!(!early.is_finished(), "not everything has been reported");
    event(&fanout, SequenceEventKind::Current).await;
    assert_eq!(early.await.unwrap().unwrap().unwrap().position(), "2-0");
    for entry in [4, 5, 5] {
        publisher.send(message("/kept", "new", &retention, Some(entry))).await.unwrap();
    }
    assert_eq!(all_lines(&mut live, 1).await, ["/kept@5-0 new"]);
    let mut resumed = resume(&fanout, "/kept", Some("2-0")).await;
    assert_eq!(all_lines(&mut resumed, 4).await[1..], ["/kept@3-0 old", "/kept@4-0 old", "/kept@5-0 new"]);
    assert_eq!(fanout.handle().stats().repeated.get(), 4);
    let not_current = async {
        event(&fanout, SequenceEventKind::Interrupted).await;
        settle().await;
        let start = Start::After("2-0".into());
        fanout.handle().resume(&of("/kept"), None, None, &start, Duration::from_millis(1)).await
    };
    assert_eq!(not_current.await, Err(NotCurrent));
}

/// A reader that reads nothing while 500 messages of a kilobyte are published, which a log of two batches cannot keep.
async fn fallen_behind(fanout: &Fanout, retention: &Arc<Retention>) -> BodyReceiver {
    let publisher = fanout.publisher();
    let slow = resume(fanout, "/kept", None).await;
    let text = "x".repeat(1000);
    for number in 0..500 {
        publisher.send(message("/kept/a", &format!("{number} {text}"), retention, None)).await.unwrap();
        tokio::task::yield_now().await;
    }
    settle().await;
    slow
}

#[tokio::test]
async fn slow_reader_goes_on_from_the_history() {
    let retention = retention(None, None);
    let config = Config { shards: 1, log_batches: 2, ..Config::default() };
    let fanout = node(&retention, config);
    let mut slow = fallen_behind(&fanout, &retention).await;
    let lines = all_lines(&mut slow, 501).await;
    for (number, line) in lines[1..].iter().enumerate() {
        assert!(line.contains(&format!(" {number} x")), "{number}: {line:.40}");
    }
    let stats = fanout.handle();
    let stats = stats.stats();
    assert!(stats.slow_replayed.get() > 0 && stats.slow_disconnected.get() == 0 && stats.resets.get() == 0);
}

#[tokio::test]
async fn slow_reader_is_reset_when_its_messages_are_no_longer_kept() {
    let retention = retention(None, Some(2));
    let fanout = node(&retention, Config { shards: 1, log_batches: 2, ..Config::default() });
    let publisher = fanout.publisher();
    let mut slow = fallen_behind(&fanout, &retention).await;
    let mut all = Vec::new();
    while !all.iter().any(|line: &String| line.starts_with("/#reset")) {
        all.extend(all_lines(&mut slow, 1).await);
    }
    assert!(all.iter().any(|line| line.contains("\"lagged\"")));
    publisher.send(message("/kept/a", "after", &retention, None)).await.unwrap();
    while !all.last().unwrap().ends_with("after") {
        all.extend(all_lines(&mut slow, 1).await);
    }
}

/// What a test does.
#[derive(Debug, Clone)]
enum Step {
    /// Publishes messages; the nodes get them one after the other.
    Publish(Vec<usize>),
    /// A reader reads so many lines.
    Read(usize, usize),
    /// A reader loses its stream and comes back on a node, with these topics.
    Return(usize, usize, usize),
}

const LEAVES: [&str; 4] = ["/kept/a", "/kept/b", "/kept/b/c", "/kept/d"];
const TOPICS: [&str; 5] = ["/kept", "/kept/a,/kept/d", "/kept/*", "/kept/b", "/"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => proptest::collection::vec(0..LEAVES.len(), 1..12).prop_map(Step::Publish),
        2 => (0..4_usize, 1..6_usize).prop_map(|(reader, lines)| Step::Read(reader, lines)),
        2 => (0..4_usize, 0..2_usize, 0..TOPICS.len()).prop_map(|(reader, node, topics)| Step::Return(reader, node, topics)),
    ];
    proptest::collection::vec(step, 1..40)
}

/// A reader, what it reads, and what it has got since it came.
struct Reader {
    stream: BodyReceiver,
    topics: usize,
    /// How many messages there were when it came, as far as it knows.
    from: usize,
    /// The newest id that it was sent.
    position: usize,
    got: Vec<usize>,
}

impl Reader {
    fn take(&mut self, lines: &[String]) {
        for line in lines {
            assert!(!line.contains("reset") && !line.contains("skipped"), "{line}");
            let id =
                line.strip_prefix("position ").or_else(|| line.split_once('@')?.1.split_once(' ').map(|(id, _)| id));
            let Some((id, _)) = id.and_then(|id| id.split_once('-')) else { continue };
            self.position = id.parse().unwrap();
            if !line.starts_with("position") {
                self.got.push(self.position);
            }
        }
    }

    fn expected(&self, published: &[usize]) -> Vec<usize> {
        let topics = of(TOPICS[self.topics]);
        let contains = |leaf: usize| topics.iter().any(|topic| topic.contains(&ns(LEAVES[leaf])));
        (self.from..published.len()).filter(|at| contains(published[*at])).map(|at| at + 1).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_reader_gets_each_entry_once_and_in_order_on_any_node(steps in steps(), log_batches in 1..4_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let retention = retention(Some(SEQUENCE), None);
            let config = Config { shards: 2, log_batches, ..Config::default() };
            let nodes = [started(&retention, config.clone()).await, started(&retention, config).await];
            let mut published: Vec<usize> = Vec::new();
            let mut readers = Vec::new();
            for number in 0..4_usize {
                let stream = resume(&nodes[number % 2], TOPICS[number], None).await;
                readers.push(Reader { stream, topics: number, from: 0, position: 0, got: Vec::new() });
            }
            for step in steps {
                match step {
                    Step::Publish(leaves) => {
                        for node in &nodes {
                            for (more, leaf) in leaves.iter().enumerate() {
                                let entry = (published.len() + more + 1) as u64;
                                let message = message(LEAVES[*leaf], "x", &retention, Some(entry));
                                node.publisher().send(message).await.unwrap();
                            }
                        }
                        published.extend(leaves);
                    }
                    Step::Read(reader, lines) => {
                        let reader = &mut readers[reader];
                        let mut bytes = Vec::new();
                        for _ in 0..lines {
                            tokio::task::yield_now().await;
                            bytes.extend(reader.stream.try_recv().into_iter().flatten());
                        }
                        let lines: Vec<String> = String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect();
                        reader.take(&lines);
                    }
                    Step::Return(reader, node, topics) => {
                        let reader = &mut readers[reader];
                        let expected = reader.expected(&published);
                        assert_eq!(reader.got, expected[..reader.got.len()]);
                        // A position that the reader has not been sent is that of the next one.
                        let id = format!("{}-0", reader.position);
                        let stream = resume(&nodes[node], TOPICS[topics], Some(&id)).await;
                        *reader = Reader { stream, topics, from: reader.position, position: reader.position, got: Vec::new() };
                    }
                }
            }
            for reader in &mut readers {
                let expected = reader.expected(&published);
                while reader.got.len() < expected.len() {
                    let lines = lines_of(&mut reader.stream, 1).await;
                    assert!(!lines.is_empty(), "{:?} is not all of {expected:?}", reader.got);
                    reader.take(&lines);
                }
                assert_eq!(reader.got, expected);
            }
        });
    }
}
