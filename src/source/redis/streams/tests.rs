//! The source with a `redis-server` that the test starts.

use redis::aio::MultiplexedConnection;
use tallycast_fanout::inbox::{self, Receiver};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::decode::Routes;
use crate::redis_client::tests::{PATIENCE, Server};
use crate::source::{SourceError, SourceEvent, SourceId, SourceStats, Supervisor};

/// A source that runs, and what it emits.
struct Running {
    keys: watch::Sender<Vec<StreamKey>>,
    events: Receiver<SourceEvent>,
    stats: Arc<SourceStats>,
    shutdown: CancellationToken,
    source: JoinHandle<Result<(), SourceError>>,
}

fn keys(routes: &[&str]) -> Vec<StreamKey> {
    Routes::new(routes.iter().map(|route| route.parse().unwrap()).collect()).unwrap().streams(SourceId::DEFAULT)
}

fn start(server: &Server, routes: &[&str]) -> Running {
    start_with(server, routes, 1024, Trim::default())
}

fn start_with(server: &Server, routes: &[&str], room: usize, trim: Trim) -> Running {
    let mut config = Config::new(server.url()).unwrap();
    config.trim = trim;
    let (keys, keys_now) = watch::channel(keys(routes));
    let (inbox, events) = inbox::channel(room, usize::MAX);
    let (stats, shutdown) = (Arc::<SourceStats>::default(), CancellationToken::new());
    let supervisor = Supervisor::new(inbox).stats(Arc::clone(&stats)).shutdown(shutdown.clone());
    let source = tokio::spawn(supervisor.run(StreamsSource::new(config, keys_now)));
    Running { keys, events, stats, shutdown, source }
}

impl Running {
    /// The next event in words.
    async fn next(&mut self) -> String {
        match timeout(PATIENCE, self.events.recv()).await.expect("an event in time").unwrap() {
            SourceEvent::Published(event) => {
                let entry = event.entry.unwrap();
                let kind = if entry.is_backlog { "backlog" } else { "live" };
                let payload = String::from_utf8(event.payload).unwrap();
                format!("{kind} {} {} {payload}", event.channel, entry.position.entry)
            }
            SourceEvent::Sequence(SequenceEvent { sequence, kind }) => match kind {
                SequenceEventKind::Start { after } => format!("start {sequence} after {after}"),
                SequenceEventKind::Current => format!("current {sequence}"),
                SequenceEventKind::Interrupted => format!("interrupted {sequence}"),
                SequenceEventKind::Gap { after, reason } => format!("gap {sequence} after {after} {}", reason.as_str()),
                other => panic!("only relays have {other:?}"),
            },
            other => panic!("not from a stream: {other:?}"),
        }
    }

    async fn expect(&mut self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.next().await, *expected);
        }
    }

    /// The next events without those about the state of the source.
    async fn expect_entries(&mut self, expected: &[&str]) {
        for expected in expected {
            let mut next = self.next().await;
            while ["current a", "interrupted a"].contains(&&*next) {
                next = self.next().await;
            }
            assert_eq!(next, *expected);
        }
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.source.await.unwrap().unwrap();
    }
}

async fn connect(server: &Server) -> MultiplexedConnection {
    let client = Config::new(server.url()).unwrap().commands();
    client.dedicated(&redis::AsyncConnectionConfig::new()).await.unwrap()
}

async fn command(redis: &mut MultiplexedConnection, text: &str) {
    let mut words = text.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    let _: redis::Value = command.query_async(redis).await.unwrap();
}

async fn add(redis: &mut MultiplexedConnection, key: &str, ids: impl IntoIterator<Item = u64>) {
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    for id in ids {
        pipeline.cmd("XADD").arg(key).arg(format!("{id}-0")).arg("data").arg(id).ignore();
    }
    let () = pipeline.query_async(redis).await.unwrap();
}

const MAX: u64 = u64::MAX;

#[tokio::test]
async fn history_of_the_route_is_read_before_what_follows() {
    let server = Server::start("streams-history");
    let redis = &mut connect(&server).await;
    add(redis, "a", 1..=40).await;
    let mut count = start(&server, &["stream:a=/x,history=2"]);
    count.expect(&[&format!("start a after 38-{MAX}"), "backlog a 39-0 39", "backlog a 40-0 40", "current a"]).await;
    let mut none = start(&server, &["stream:a=/x"]);
    none.expect(&["start a after 40-0", "current a"]).await;
    let mut whole = start(&server, &["stream:a=/x,history=40"]);
    whole.expect(&["start a after 0-0", "backlog a 1-0 1"]).await;
    let mut last = start(&server, &["stream:a=/x,history=last,history=2"]);
    last.expect(&["start a after 0-0", "backlog a 1-0 1"]).await;
    for id in 2..=40 {
        whole.expect(&[&format!("backlog a {id}-0 {id}")]).await;
    }
    whole.expect(&["current a"]).await;
    add(redis, "a", [41]).await;
    for mut source in [count, none, whole] {
        source.expect(&["live a 41-0 41"]).await;
        assert_eq!((source.stats.received.get(), source.stats.stream_gaps.get()), (1, 0));
        source.end().await;
    }
    // A part of the stream is gone.
    command(redis, "XTRIM a MAXLEN 1").await;
    let mut trimmed = start(&server, &["stream:a=/x,history=64MiB"]);
    trimmed.expect(&[&format!("start a after 40-{MAX}"), "backlog a 41-0 41", "current a"]).await;
    command(redis, "XTRIM a MAXLEN 0").await;
    let mut empty = start(&server, &["stream:a=/x,history=64MiB"]);
    empty.expect(&["start a after 41-0", "current a"]).await;
}

#[tokio::test]
async fn history_by_age_leaves_older_entries_out() {
    let server = Server::start("streams-age");
    let redis = &mut connect(&server).await;
    command(redis, "XADD a 5-0 data old").await;
    command(redis, "XADD a * data new").await;
    let mut source = start(&server, &["stream:a=/x,history=1h"]);
    let started = source.next().await;
    assert!(started.starts_with("start a after 1") && started.ends_with(&format!("-{MAX}")), "{started}");
    let entry = source.next().await;
    assert!(entry.starts_with("backlog a ") && entry.ends_with(" new"), "{entry}");
    source.expect(&["current a"]).await;
}

#[tokio::test]
async fn several_streams_are_read_and_others_can_be_added() {
    let server = Server::start("streams-several");
    let redis = &mut connect(&server).await;
    let mut source = start(&server, &["stream:a=/a", "stream:b=/b"]);
    source.expect(&["start a after 0-0", "start b after 0-0", "current a", "current b"]).await;
    add(redis, "b", [1]).await;
    source.expect(&["live b 1-0 1"]).await;
    add(redis, "a", [1]).await;
    source.expect(&["live a 1-0 1"]).await;
    add(redis, "c", [1, 2]).await;
    // The history of a stream that was read without one.
    source.keys.send_replace(keys(&["stream:a=/a,history=10", "stream:c=/c,history=1"]));
    source.expect(&["start a after 0-0", &format!("start c after 1-{MAX}")]).await;
    source.expect(&["backlog a 1-0 1", "current a", "backlog c 2-0 2", "current c"]).await;
    add(redis, "b", [2]).await;
    add(redis, "c", [3]).await;
    source.expect(&["live c 3-0 3"]).await;
    source.keys.send_replace(Vec::new());
    source.keys.send_replace(keys(&["stream:a=/a"]));
    add(redis, "a", [2]).await;
    let next = source.next().await;
    // If there were no streams in between, it is a new one.
    assert!(["live a 2-0 2", "start a after 1-0", "start a after 2-0"].contains(&&*next), "{next}");
    assert_eq!(source.stats.stream_gaps.get(), 0);
    source.end().await;
}

#[tokio::test]
async fn source_without_streams_waits_for_some() {
    let server = Server::start("streams-none");
    let mut source = start(&server, &["a=/a"]);
    source.keys.send_replace(keys(&["stream:a=/a"]));
    source.expect(&["start a after 0-0", "current a"]).await;
    source.end().await;
}

#[tokio::test]
async fn replaced_stream_is_read_from_its_start() {
    let server = Server::start("streams-replaced");
    let redis = &mut connect(&server).await;
    add(redis, "a", [1, 2]).await;
    let mut source = start(&server, &["stream:a=/x,history=10"]);
    source.expect(&["start a after 0-0", "backlog a 1-0 1", "backlog a 2-0 2", "current a"]).await;
    // Lower ids, which a reader that waits for greater ones never receives.
    command(redis, "DEL a").await;
    add(redis, "a", [1]).await;
    source.expect(&["gap a after 0-0 unknown", "live a 1-0 1", "current a"]).await;
    // Nothing, and something later.
    command(redis, "DEL a").await;
    source.expect(&["gap a after 0-0 unknown", "current a"]).await;
    add(redis, "a", [3, 4]).await;
    source.expect(&["live a 3-0 3", "live a 4-0 4"]).await;
    // Greater ids, which are received before the next look. They are not sent twice.
    redis::pipe()
        .atomic()
        .del("a")
        .cmd("XADD")
        .arg("a")
        .arg("9-0")
        .arg("data")
        .arg("9")
        .exec_async(redis)
        .await
        .unwrap();
    let next = source.next().await;
    let is_found_first = next.starts_with("gap");
    let rest = if is_found_first { ["live a 9-0 9"] } else { ["gap a after 0-0 unknown"] };
    assert!(is_found_first || next == "live a 9-0 9", "{next}");
    source.expect_entries(&rest).await;
    if !is_found_first {
        source.expect_entries(&["backlog a 9-0 9"]).await;
    }
    assert_eq!(source.stats.stream_gaps.get(), 3);
    source.end().await;
}

#[tokio::test]
async fn entries_trimmed_before_they_were_read_are_reported() {
    let server = Server::start("streams-trimmed");
    let redis = &mut connect(&server).await;
    // The source waits for room while the stream is trimmed.
    let mut source = start_with(&server, &["stream:a=/x,history=10"], 2, Trim::default());
    source.expect(&["start a after 0-0", "current a"]).await;
    add(redis, "a", 1..=2000).await;
    source.expect(&["live a 1-0 1"]).await;
    command(redis, "XTRIM a MAXLEN 5").await;
    let (mut received, mut gaps, mut last) = (1, 0, 1);
    while last < 2000 {
        let next = source.next().await;
        match next.split_once(" a ").unwrap() {
            ("gap", rest) => {
                gaps += 1;
                assert_eq!(rest, format!("after 1995-{MAX} trimmed"));
            }
            (_, entry) => {
                received += 1;
                let id: u64 = entry.split_once('-').unwrap().0.parse().unwrap();
                assert!(id > last, "{id} after {last}");
                last = id;
            }
        }
    }
    assert_eq!((gaps, source.stats.stream_gaps.get()), (1, 1));
    assert!((6..=261).contains(&received), "{received}");
    // An entry that was deleted before it was read, and one that was deleted afterwards.
    redis::pipe()
        .atomic()
        .cmd("XADD")
        .arg("a")
        .arg("2001-0")
        .arg("data")
        .arg("1")
        .cmd("XDEL")
        .arg("a")
        .arg("2001-0")
        .exec_async(redis)
        .await
        .unwrap();
    command(redis, "XDEL a 2000-0").await;
    add(redis, "a", [2002]).await;
    // The loss shows with the next entry, which a look may receive or not.
    let live = "live a 2002-0 2002".to_owned();
    let next = [source.next().await, source.next().await];
    let expected =
        [[live.clone(), "gap a after 2002-0 trimmed".to_owned()], ["gap a after 2000-0 trimmed".to_owned(), live]];
    assert!(expected.contains(&next), "{next:?}");
    source.end().await;
}

#[tokio::test]
async fn reading_continues_after_a_restart_of_redis() {
    const FLAGS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = Server::absent("streams-restart");
    server.run(&FLAGS);
    let redis = &mut connect(&server).await;
    add(redis, "a", [1]).await;
    let mut source = start(&server, &["stream:a=/x,history=10"]);
    source.expect(&["start a after 0-0", "backlog a 1-0 1", "current a"]).await;
    add(redis, "a", [2]).await;
    source.expect(&["live a 2-0 2"]).await;
    for id in [3, 4] {
        server.kill();
        source.expect(&["interrupted a"]).await;
        server.run(&FLAGS);
        source.expect(&["current a"]).await;
        add(&mut connect(&server).await, "a", [id]).await;
        source.expect(&[&format!("live a {id}-0 {id}")]).await;
    }
    assert_eq!((source.stats.gaps.get(), source.stats.stream_gaps.get()), (2, 0));
    source.end().await;
}

#[tokio::test]
async fn newest_entries_that_a_server_lacks_are_reported() {
    let mut server = Server::start("streams-failover");
    let redis = &mut connect(&server).await;
    add(redis, "a", 1..=3).await;
    let mut source = start(&server, &["stream:a=/x,history=10"]);
    source.expect(&["start a after 0-0", "backlog a 1-0 1", "backlog a 2-0 2", "backlog a 3-0 3", "current a"]).await;
    command(redis, "SAVE").await;
    add(redis, "a", [4, 5]).await;
    source.expect(&["live a 4-0 4", "live a 5-0 5"]).await;
    // It starts from the snapshot, as a replica does that is behind.
    server.kill();
    server.run(&[]);
    source.expect(&["interrupted a", "gap a after 3-0 unknown", "current a"]).await;
    add(&mut connect(&server).await, "a", [4, 6]).await;
    // Readers have an entry of this number, but not this one.
    source.expect(&["live a 4-0 4", "live a 6-0 6"]).await;
    // A server without the stream.
    server.kill();
    server.run(&["--dbfilename", "other.rdb"]);
    source.expect(&["interrupted a", "gap a after 0-0 unknown", "current a"]).await;
    assert_eq!(source.stats.stream_gaps.get(), 2);
    source.end().await;
}

#[tokio::test]
async fn streams_are_trimmed_to_length_and_age() {
    for (name, trim) in [
        ("streams-maxlen", Trim { max_length: Some(10), ..Trim::default() }),
        ("streams-minid", Trim { max_age: Some(Duration::from_secs(60)), ..Trim::default() }),
        ("streams-own", Trim { own: vec![("a".into(), 10)], ..Trim::default() }),
    ] {
        let server = Server::start(name);
        let redis = &mut connect(&server).await;
        add(redis, "a", 1..=1000).await;
        let mut source = start_with(&server, &["stream:a=/x,history=1000"], 4096, trim);
        source.expect(&["start a after 0-0", "backlog a 1-0 1"]).await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let length: usize = redis::cmd("XLEN").arg("a").query_async(redis).await.unwrap();
            if length <= 110 {
                break;
            }
            assert!(Instant::now() < deadline, "{length} entries");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        add(redis, "a", [1001]).await;
        while source.next().await != "live a 1001-0 1001" {}
        assert!(source.stats.trimmed.get() >= 890);
        // Nothing was lost.
        tokio::time::sleep(LOOK_INTERVAL).await;
        assert_eq!(source.stats.stream_gaps.get(), 0);
        source.end().await;
    }
}

#[tokio::test]
async fn key_of_another_type_is_named() {
    let server = Server::start("streams-type");
    let redis = &mut connect(&server).await;
    command(redis, "SET b text").await;
    let config = Config::new(server.url()).unwrap();
    let (_keys, keys) = watch::channel(keys(&["stream:b=/b"]));
    let (inbox, _events) = inbox::channel(8, usize::MAX);
    let supervisor = Supervisor::new(inbox).require_broker(true);
    let error = timeout(PATIENCE, supervisor.run(StreamsSource::new(config, keys))).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("the stream \"b\": ") && error.to_string().contains("WRONGTYPE"), "{error}");
}
