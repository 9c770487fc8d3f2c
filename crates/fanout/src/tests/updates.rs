//! Updates: messages with several topics, private ones, and ones with an id of their publisher. Live, replayed, and both.

use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::*;

/// Everything is kept, whatever its topic.
fn retention(max_messages: Option<usize>) -> Arc<Retention> {
    Arc::new(Retention {
        name: "all".into(),
        namespace: Namespace::root(),
        except: Box::default(),
        sequence: None,
        partition: None,
        max_messages,
        max_bytes: None,
        max_age: None,
        last_values: false,
    })
}

fn topic(text: &str) -> Namespace {
    Namespace::from_topic(text).unwrap()
}

/// Selectors that are separated by spaces; native topics after `=`.
fn selectors(texts: &str) -> Topics {
    let read = |text: &str| match text.strip_prefix('=') {
        Some(native) => native.parse().unwrap(),
        None => Topic::selector(text).unwrap(),
    };
    Topics::new(texts.split_whitespace().map(read).collect()).unwrap_or_default()
}

/// A message of these topics, which are separated by spaces.
fn update(topics: &str, text: &str, is_private: bool) -> Message {
    let mut topics = topics.split(' ').map(topic);
    let mut message = Message::text(topics.next().unwrap(), text);
    message.update = Some(Box::new(Update { alternates: topics.collect(), is_private, ..Update::default() }));
    message
}

fn kept(mut message: Message, retention: &Arc<Retention>) -> Message {
    message.kept = Some(Box::new(Kept::new(Arc::clone(retention), None)));
    message
}

fn with_id(mut message: Message, id: &str) -> Message {
    message.update.get_or_insert_default().id = Some(id.into());
    message
}

/// Subscribes to selectors, with private ones.
async fn read(fanout: &Fanout, topics: &str, private: &str, start: Option<Start>) -> (BodyReceiver, Option<Resume>) {
    let (sender, receiver) = body();
    let info = ConnectionInfo { topics: selectors(topics), ..info("/") };
    let mut subscriber = Subscriber::new(info, lines(), Sink::Body(sender));
    let grant = Grant::default().with_private(selectors(private));
    if let Some(start) = start {
        let limit = Duration::from_secs(1);
        let topics = &subscriber.info.topics;
        subscriber.resume = fanout.handle().resume(topics, None, Some(&grant), &start, limit).await.unwrap();
    }
    let resume = subscriber.resume.clone();
    subscriber.grant = Some(Arc::new(grant));
    fanout.handle().subscribe(subscriber).await.unwrap();
    (receiver, resume)
}

/// The payloads of what a reader was sent until the end.
async fn payloads(reader: BodyReceiver) -> Vec<String> {
    let lines = rest(reader).await;
    let is_message = |line: &&str| !line.starts_with("position") && *line != "end" && !line.starts_with("skipped");
    lines.lines().filter(is_message).map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
}

async fn publish(fanout: &Fanout, messages: impl IntoIterator<Item = Message>) {
    for message in messages {
        fanout.publisher().send(message).await.unwrap();
    }
}

#[tokio::test]
async fn message_of_several_topics_reaches_each_reader_once() {
    let fanout = start(Config::default());
    let reads = ["=/a", "x:1", "x:{id}", "* x:1 =/a", "/a", "y"];
    let mut readers = Vec::new();
    for topics in reads {
        readers.push(tokio::spawn(payloads(read(&fanout, topics, "", None).await.0)));
    }
    publish(&fanout, [update("/a/b x:1 x:2", "1", false), update("x:2 /a /a", "2", false)]).await;
    fanout.shutdown().await;
    let expected: [&[&str]; 6] = [&["1", "2"], &["1"], &["1", "2"], &["1", "2"], &["2"], &[]];
    for ((reader, expected), topics) in readers.into_iter().zip(expected).zip(reads) {
        assert_eq!(reader.await.unwrap(), expected, "{topics}");
    }
}

#[tokio::test]
async fn private_message_reaches_only_readers_that_are_granted_one_of_its_topics() {
    let fanout = start(Config::default());
    let reads = [
        ("x:1", "", &["public"][..]),
        ("x:1", "x:1", &["private", "public"]),
        // By any topic of the message.
        ("x:1", "user:7", &["private", "public"]),
        ("x:1", "x:2 user:8", &["public"]),
        ("x:{id}", "user:{id}", &["private", "public"]),
        // Granted, and not subscribed to.
        ("x:2", "*", &[]),
    ];
    let mut readers = Vec::new();
    for (topics, private, _) in reads {
        readers.push(tokio::spawn(payloads(read(&fanout, topics, private, None).await.0)));
    }
    let (sender, receiver) = body();
    let info = ConnectionInfo { topics: selectors("x:1 *"), ..info("/") };
    fanout.handle().subscribe(Subscriber::new(info, lines(), Sink::Body(sender))).await.unwrap();
    let without_grant = tokio::spawn(payloads(receiver));
    publish(&fanout, [update("x:1 user:7", "private", true), update("x:1", "public", false)]).await;
    fanout.shutdown().await;
    for (reader, (topics, private, expected)) in readers.into_iter().zip(reads) {
        assert_eq!(reader.await.unwrap(), expected, "{topics} {private}");
    }
    assert_eq!(without_grant.await.unwrap(), ["public"]);
}

#[tokio::test]
async fn counts_of_private_messages_are_not_in_the_totals() {
    let fanout = start(Config { totals: vec![ns("/eps")], ..Config::default() });
    let tally = |key: &str| [(key.to_owned(), 1)].into_iter().collect::<Tally>();
    let private = Update { is_private: true, ..Update::default() };
    publish(
        &fanout,
        [
            Message::totals(ns("/eps"), tally("a")),
            Message { update: Some(Box::new(private)), ..Message::tally(ns("/eps"), tally("secret")) },
            Message::tally(ns("/eps"), tally("a")),
        ],
    )
    .await;
    settle().await;
    let reader = tokio::spawn(rest(subscribe_with(&fanout.handle(), "/eps", true).await));
    fanout.shutdown().await;
    assert_eq!(reader.await.unwrap(), "/eps#snapshot {\"a\":2}\nend\n");
}

#[tokio::test]
async fn replay_finds_messages_by_their_alternates_and_respects_privacy() {
    let retention = retention(None);
    let fanout = Fanout::builder().retentions(vec![Arc::clone(&retention)]).build();
    let messages = [update("/a x:1", "1", false), update("/b x:1 x:2", "2", true), update("x:2 /a", "3", false)];
    publish(&fanout, messages.map(|message| kept(message, &retention))).await;
    settle().await;
    let mut readers = Vec::new();
    let reads = [
        ("x:1", "", &["1"][..]),
        ("x:1", "x:2", &["1", "2"]),
        ("x:{id} =/a", "/b", &["1", "2", "3"]),
        ("x:{id} =/a", "/c", &["1", "3"]),
        ("*", "", &["1", "3"]),
    ];
    for (topics, private, _) in reads {
        for start in [Start::AfterUpdate("earliest".into()), Start::Newest(3), Start::Since(Duration::from_secs(60))] {
            readers.push(tokio::spawn(payloads(read(&fanout, topics, private, Some(start)).await.0)));
        }
    }
    settle().await;
    fanout.shutdown().await;
    for (number, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.await.unwrap(), reads[number / 3].2, "{number}");
    }
}

#[tokio::test]
async fn newest_messages_are_those_that_the_reader_may_get() {
    let retention = retention(None);
    let fanout = Fanout::builder().retentions(vec![Arc::clone(&retention)]).build();
    let numbers = (0..20).map(|number| update("x:1", &number.to_string(), number % 4 != 0));
    publish(&fanout, numbers.map(|message| kept(message, &retention))).await;
    settle().await;
    for topics in ["x:1", "*"] {
        let (reader, _) = read(&fanout, topics, "", Some(Start::Newest(2))).await;
        let reader = tokio::spawn(payloads(reader));
        settle().await;
        let connections = fanout.handle().connections().await.unwrap();
        fanout.handle().close(connections[0].id, CloseReason::Requested("end".into())).await.unwrap();
        assert_eq!(reader.await.unwrap()[..2], ["12", "16"], "{topics}");
    }
}

#[tokio::test]
async fn reader_resumes_after_an_update() {
    let retention = retention(Some(4));
    let fanout = Fanout::builder().retentions(vec![Arc::clone(&retention)]).build();
    // Numbers 3 to 6 are kept; two of them have the same id.
    let ids = ["one", "two", "three", "same", "same", "six"];
    let messages =
        ids.iter().enumerate().map(|(number, id)| with_id(update("x:1", &(number + 1).to_string(), false), id));
    publish(&fanout, messages.map(|message| kept(message, &retention))).await;
    publish(&fanout, [kept(update("x:2", "7", false), &retention)]).await;
    settle().await;
    let (_, newest) = read(&fanout, "x:1", "", Some(Start::Newest(1))).await;
    // The id on the wire of the message before the last one: the last two have numbers 6 and 7.
    let wire = newest.unwrap().position().to_owned();
    let cases = [
        ("six", "six", &[][..]),
        ("same", "same", &["6"]),
        ("earliest", "earliest", &["4", "5", "6"]),
        // No longer kept.
        ("one", "earliest", &["4", "5", "6"]),
        ("never", "earliest", &["4", "5", "6"]),
        (&wire, &wire, &["6"]),
    ];
    for (id, position, expected) in cases {
        let (reader, resume) = read(&fanout, "x:1", "", Some(Start::AfterUpdate(id.into()))).await;
        assert_eq!(resume.unwrap().position(), position, "{id}");
        let reader = tokio::spawn(rest(reader));
        settle().await;
        let mut lines = String::new();
        for connection in fanout.handle().connections().await.unwrap() {
            let _ = fanout.handle().close(connection.id, CloseReason::Requested("end".into())).await;
        }
        lines.push_str(&reader.await.unwrap());
        assert!(!lines.contains("reset"), "{id}: {lines}");
        let got: Vec<&str> =
            lines.lines().filter(|line| line.starts_with("x:")).map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(got, expected, "{id}");
    }
}

#[tokio::test]
async fn slow_reader_that_goes_on_from_the_history_gets_no_private_messages_of_others() {
    let retention = retention(None);
    let config = Config { shards: 1, log_batches: 2, ..Config::default() };
    let fanout = Fanout::builder().config(config).inbox(16).retentions(vec![Arc::clone(&retention)]).build();
    let (mine, _) = read(&fanout, "x:{id}", "user:1", None).await;
    let (other, _) = read(&fanout, "x:{id}", "user:2", None).await;
    let padding = "x".repeat(1000);
    for number in 0..300 {
        let topics = format!("x:{number} user:{}", number % 3);
        let message = update(&topics, &format!("{padding} {number}"), number % 2 == 0);
        publish(&fanout, [kept(message, &retention)]).await;
        tokio::task::yield_now().await;
    }
    settle().await;
    assert!(fanout.handle().stats().slow_replayed.get() > 0);
    let readers = [(mine, 1), (other, 2)].map(|(reader, user)| (tokio::spawn(payloads(reader)), user));
    settle().await;
    fanout.shutdown().await;
    for (reader, user) in readers {
        let expected: Vec<String> =
            (0..300).filter(|number| number % 2 == 1 || number % 3 == user).map(|number| number.to_string()).collect();
        assert_eq!(reader.await.unwrap(), expected);
    }
}

/// Handles lines: topics, private topics, and `now` or the id after which the new topics start, separated by `|`.
#[derive(Debug)]
struct GrantHandler(Handle);

impl Inbound for GrantHandler {
    fn receive(&mut self, bytes: &[u8], known: &Topics, _: &mut Vec<u8>) -> ClientAction {
        let Some(line) = std::str::from_utf8(bytes).unwrap().strip_suffix('\n') else { return ClientAction::None };
        let [topics, private, after] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (topics, known, handle) = (selectors(topics), known.clone(), self.0.clone());
        let grant = Grant::default().with_private(selectors(private));
        let start = (after != "now").then(|| Start::AfterUpdate(after.into()));
        ClientAction::Authorize(Box::pin(async move {
            let mut resume = None;
            if let Some(start) = start {
                let limit = Duration::from_secs(1);
                resume = handle.resume(&topics, Some(&known), Some(&grant), &start, limit).await.unwrap();
            }
            Ok(Subscription { topics, grant: Some(Arc::new(grant)), resume })
        }))
    }

    fn subscribed(&mut self, _: &Topics, replies: &mut Vec<u8>) {
        replies.extend_from_slice(b"subscribed\n");
    }

    fn refused(&mut self, reason: &str, _: &mut Vec<u8>) -> ClientAction {
        panic!("{reason}");
    }
}

#[tokio::test]
async fn change_of_topics_follows_the_new_grant_live_and_in_the_past() {
    let retention = retention(None);
    let fanout = Fanout::builder().retentions(vec![Arc::clone(&retention)]).build();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let info = ConnectionInfo { topics: selectors("x:1"), ..info("/") };
    let mut subscriber = Subscriber::new(info, lines(), Sink::Stream(Box::new(theirs)));
    subscriber.inbound = Some(Box::new(GrantHandler(fanout.handle())));
    subscriber.grant = Some(Arc::new(Grant::default().with_private(selectors("x:1"))));
    fanout.handle().subscribe(subscriber).await.unwrap();
    let mut client = BufReader::new(ours);
    let mut texts = async |request: &str, count: usize| {
        client.write_all(request.as_bytes()).await.unwrap();
        let mut texts = Vec::new();
        while texts.len() < count {
            let mut line = String::new();
            client.read_line(&mut line).await.unwrap();
            if !line.starts_with("position") {
                texts.push(line.trim_end().rsplit(' ').next().unwrap().to_owned());
            }
        }
        texts
    };
    let send = async |number: usize, topics: &str, is_private: bool| {
        let number = number.to_string();
        publish(&fanout, [kept(with_id(update(topics, &number, is_private), &number), &retention)]).await;
        settle().await;
    };
    send(1, "x:1", true).await;
    send(2, "x:2", true).await;
    send(3, "x:2", false).await;
    send(4, "x:1 x:2", true).await;
    // The granted topics change, the topics do not.
    assert_eq!(texts("x:1|user:1|now\n", 3).await, ["1", "4", "subscribed"]);
    send(5, "x:1", true).await;
    send(6, "x:1 user:1", true).await;
    assert_eq!(texts("", 1).await, ["6"]);
    // Of the new topic everything that the new grant contains, but for what the reader got by the old one.
    assert_eq!(texts("x:1 x:2|user:1|earliest\n", 2).await, ["subscribed", "3"]);
    send(7, "x:2", true).await;
    send(8, "x:2 user:1", true).await;
    assert_eq!(texts("", 1).await, ["8"]);
    assert_eq!(texts("x:1 x:2 x:3|x:2|now\n", 1).await, ["subscribed"]);
    send(9, "x:2", true).await;
    assert_eq!(texts("", 1).await, ["9"]);
    assert_eq!(texts("x:3||now\n", 1).await, ["subscribed"]);
    // Its topics and its grant are new.
    assert_eq!(texts("x:3 x:2|x:2|earliest\n", 7).await, ["subscribed", "2", "3", "4", "7", "8", "9"]);
}

const TOPICS: [&str; 7] = ["/a", "/a/b", "/b", "x:1", "x:2", "x:1/b", "y"];
const SELECTORS: [&str; 12] =
    ["*", "=/a", "=/*", "=/b", "/a", "x:1", "x:{id}", "x:{+id}", "x:{id}/b", "/{a}", "y", "{x}"];

/// Some of these texts, separated by spaces; maybe none.
fn some(
    of: &'static [&'static str],
    count: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(of), count).prop_map(|texts| texts.join(" "))
}

/// What a test does.
#[derive(Debug, Clone)]
enum Step {
    /// Publishes messages: their topics, and whether they are private.
    Publish(Vec<(String, bool)>),
    /// A reader comes: its topics, its private ones, and the number of the message after whose update it starts, from the newest.
    Come(String, String, Option<usize>),
    /// A reader takes so many pieces.
    Take(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let message = || (some(&TOPICS, 1..4), any::<bool>());
    let come = (some(&SELECTORS, 1..4), some(&SELECTORS, 0..3), proptest::option::of(0..12_usize));
    let step = prop_oneof![
        4 => proptest::collection::vec(message(), 1..10).prop_map(Step::Publish),
        2 => come.prop_map(|(topics, private, start)| Step::Come(topics, private, start)),
        1 => (0..6_usize, 1..4_usize).prop_map(|(reader, pieces)| Step::Take(reader, pieces)),
    ];
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Live, from an update on, and when it has fallen behind, a reader gets each message once that it reads and may read.
    #[test]
    fn every_reader_gets_what_its_topics_and_its_grant_contain(steps in steps(), shards in 1..3_usize, log_batches in 1..4_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let retention = retention(None);
            let config = Config { shards, log_batches, ..Config::default() };
            let fanout = Fanout::builder().config(config).inbox(16).retentions(vec![Arc::clone(&retention)]).build();
            let mut published: Vec<(String, bool)> = Vec::new();
            let mut readers = Vec::new();
            for step in steps {
                match step {
                    Step::Publish(messages) => {
                        for (topics, is_private) in messages {
                            let number = published.len().to_string();
                            let message = with_id(update(&topics, &number, is_private), &number);
                            publish(&fanout, [kept(message, &retention)]).await;
                            published.push((topics, is_private));
                        }
                        settle().await;
                    }
                    Step::Come(topics, private, back) => {
                        let after = back.map(|back| published.len().saturating_sub(back + 1)).filter(|_| !published.is_empty());
                        let id = after.map(|after| Start::AfterUpdate(after.to_string().into()));
                        let (stream, _) = read(&fanout, &topics, &private, id).await;
                        settle().await;
                        let from = after.map_or(published.len(), |after| after + 1);
                        readers.push((stream, topics, private, from, Vec::new()));
                    }
                    Step::Take(reader, pieces) => {
                        let Some((stream, .., bytes)) = readers.get_mut(reader) else { continue };
                        for _ in 0..pieces {
                            settle().await;
                            bytes.extend(stream.try_recv().into_iter().flatten());
                        }
                    }
                }
            }
            let tasks: Vec<_> = readers
                .into_iter()
                .map(|(stream, topics, private, from, bytes)| (tokio::spawn(rest(stream)), topics, private, from, bytes))
                .collect();
            fanout.shutdown().await;
            for (task, topics, private, from, bytes) in tasks {
                let lines = String::from_utf8(bytes).unwrap() + &task.await.unwrap();
                let is_message = |line: &&str| !line.starts_with("position") && *line != "end";
                let got: Vec<&str> = lines.lines().filter(is_message).map(|line| line.rsplit(' ').next().unwrap()).collect();
                let (wanted, granted) = (selectors(&topics), selectors(&private));
                let is_in = |set: &Topics, message: &str| {
                    message.split(' ').any(|text| set.iter().any(|selector| selector.contains(&topic(text))))
                };
                let expected: Vec<String> = (from..published.len())
                    .filter(|number| is_in(&wanted, &published[*number].0))
                    .filter(|number| !published[*number].1 || is_in(&granted, &published[*number].0))
                    .map(|number| number.to_string())
                    .collect();
                assert_eq!(got, expected, "{topics} {private} from {from}");
            }
        });
    }
}
