//! Redis beyond one server: what arrives, is published and is exact while primaries fail and slots move.

use std::collections::BTreeMap;

use redis::{Commands, Connection};

use crate::snapshot::{Reader, SCORES, scores, update};
use crate::support::{
    Event, EventSource, RedisCluster, RedisServer, Sentinels, Tallycast, eventually, post, publish, publish_sharded,
};

const KEY: [(&str, &str); 1] = [("authorization", "Bearer key")];
const CHECK: [&str; 4] = ["--redis-ping", "300ms", "--publish-key", "key"];

/// Adds entries with these numbers to a stream.
fn add(connection: &mut Connection, key: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let () = redis::cmd("XADD").arg(key).arg("*").arg("data").arg(number).query(connection).unwrap();
    }
}

/// The payload of the next event.
#[track_caller]
fn payload(stream: &EventSource) -> String {
    loop {
        let event = stream.next();
        if !is_heartbeat(&event) {
            assert_eq!(event.name, None, "{event:?}");
            return event.data;
        }
    }
}

fn is_heartbeat(event: &Event) -> bool {
    event.name.as_deref() == Some("heartbeat")
}

/// Checks that nothing else has arrived.
#[track_caller]
fn expect_no_more(stream: &EventSource) {
    let events: Vec<Event> = stream.received().into_iter().filter(|event| !is_heartbeat(event)).collect();
    assert_eq!(events, []);
}

#[track_caller]
fn payloads(stream: &EventSource, count: usize) -> Vec<String> {
    (0..count).map(|_| payload(stream)).collect()
}

fn numbers(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

/// Waits until a reader has the scores of a server.
#[track_caller]
fn until_exact(server: &RedisServer, reader: &mut Reader) {
    let expected = scores(server);
    let mut last = BTreeMap::new();
    eventually("the reader has the scores", || {
        last = reader.totals();
        last == expected && reader.unavailable.is_none()
    });
}

/// Publishes through tallycast until it is accepted, and says how often that failed.
#[track_caller]
fn until_published(tallycast: &Tallycast, path: &str, body: &str) {
    eventually("it is published", || post(tallycast, path, &KEY, body).status == 200);
}

/// The calls of a command that a server has counted.
fn calls(server: &RedisServer, command: &str) -> u64 {
    let info: String = redis::cmd("INFO").arg("commandstats").query(&mut server.connect()).unwrap();
    let name = format!("cmdstat_{command}:calls=");
    let calls = info.lines().find_map(|line| line.strip_prefix(&name)?.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}

#[test]
fn failovers_of_sentinels_are_followed() {
    let mut sentinels = Sentinels::start();
    let mut redis = sentinels.servers[0].connect();
    let () = update(&mut redis, &["A", "B"]).unwrap();
    let flags = ["--route", "news=/news", "--route", "stream:orders=/orders,history=1h"];
    let flags = [&CHECK[..], &flags, &["--route", "stream.score_updates=/raw,tally=/eps"]].concat();
    let tallycast = Tallycast::start_unready(&format!("{}&read=replica", sentinels.url()), &flags);
    tallycast.until_ready();
    assert!(!tallycast.log().contains("secret"), "{}", tallycast.log());
    let (news, orders) =
        (EventSource::open(&tallycast, "/subscribe/news"), EventSource::open(&tallycast, "/subscribe/orders"));
    let mut reader = Reader::open(&tallycast);
    until_exact(&sentinels.servers[0], &mut reader);
    // Rankings and streams are read from the replica.
    assert_eq!(tallycast.json("/v1/rankings").as_array().map(Vec::len), Some(2));
    assert_eq!(calls(&sentinels.servers[0], "zrevrange"), 0);
    assert!(calls(&sentinels.servers[1], "zrevrange") > 0 && calls(&sentinels.servers[1], "xread") > 0);
    let mut number = 0;
    // First the primary becomes a replica and goes on; then the new one is killed.
    for (primary, other) in [(0, 1), (1, 0)] {
        let mut redis = sentinels.servers[primary].connect();
        add(&mut redis, "orders", number..number + 50);
        let replicas: u32 = redis::cmd("WAIT").arg(1).arg(10_000).query(&mut redis).unwrap();
        assert_eq!((replicas, payloads(&orders, 50)), (1, numbers(number..number + 50)));
        publish(&sentinels.servers[primary], "news", "before");
        assert_eq!(payload(&news), "before");
        until_exact(&sentinels.servers[primary], &mut reader);
        let gaps = tallycast.counter("/source/gaps");
        if primary == 0 {
            sentinels.switch();
        } else {
            sentinels.servers[primary].kill();
        }
        sentinels.until_primary(other);
        tallycast.until_counter("/source/gaps", gaps + 1);
        tallycast.until_ready();
        number += 50;
        let mut redis = sentinels.servers[other].connect();
        add(&mut redis, "orders", number..number + 50);
        assert_eq!(payloads(&orders, 50), numbers(number..number + 50));
        number += 50;
        until_published(&tallycast, "/publish/news", "after");
        assert_eq!(payload(&news), "after");
        let () = update(&mut redis, &["A", "C", "A"]).unwrap();
        until_exact(&sentinels.servers[other], &mut reader);
        if primary == 0 {
            sentinels.until_replica(0);
        }
    }
    expect_no_more(&news);
    assert_eq!(tallycast.counter("/source/stream_gaps"), 0);
}

#[test]
fn everything_in_a_cluster_arrives_once_and_survives_the_loss_of_a_primary() {
    // What is named like the scores is where they are, on the node that dies. The other slot is on another node.
    const NEWS: &str = "{emojitrack_score}news";
    const ORDERS: &str = "{emojitrack_score}orders";
    let mut cluster = RedisCluster::start(SCORES);
    let owner_of = |key: &str| {
        let mut nodes = cluster.nodes[..3].iter();
        nodes.position(|node| node.connect().exists::<_, bool>(key).is_ok()).unwrap()
    };
    let elsewhere = (0..).map(|number| format!("other{number}")).find(|channel| owner_of(channel) == 1).unwrap();
    let other_route = format!("{elsewhere}=/other");
    let routes =
        ["{emojitrack_score}news=/news", "live.*=/live/*", "stream:{emojitrack_score}orders=/orders,history=1h"];
    let routes = [&routes[..], &[&*other_route, "stream.score_updates=/raw,tally=/eps"]].concat();
    let flags: Vec<&str> = CHECK.into_iter().chain(routes.into_iter().flat_map(|route| ["--route", route])).collect();
    let tallycast = Tallycast::start_unready(&format!("{}?read=replica", cluster.url()), &flags);
    tallycast.until_ready();
    let open = |path: &str| EventSource::open(&tallycast, path);
    let (news, live, orders, other) =
        (open("/subscribe/news"), open("/subscribe/live/*"), open("/subscribe/orders"), open("/subscribe/other"));
    let mut reader = Reader::open(&tallycast);

    // Classic events of any node and sharded ones.
    for (number, node) in cluster.nodes.iter().enumerate() {
        publish(node, "live.a", &number.to_string());
        assert_eq!(payload(&live), number.to_string());
        publish(node, NEWS, &number.to_string());
        assert_eq!(payload(&news), number.to_string());
    }
    assert_eq!(publish_sharded(&cluster.nodes[0], NEWS, "sharded"), 1);
    assert_eq!(payload(&news), "sharded");
    assert_eq!(publish_sharded(&cluster.nodes[1], &elsewhere, "sharded"), 1);
    assert_eq!(payload(&other), "sharded");

    // Publishing, with keys that must be in one slot.
    let once = |key: &'static str| [KEY[0], ("idempotency-key", key)];
    for (path, stream) in [("/publish/news", &news), ("/publish/orders", &orders), ("/publish/live/b", &live)] {
        for _ in 0..2 {
            let answer = post(&tallycast, path, &once(path), path);
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        assert_eq!(payload(stream), path);
        assert_eq!(post(&tallycast, path, &KEY, "again").status, 200);
        assert_eq!(payload(stream), "again");
    }
    for _ in 0..2 {
        assert_eq!(post(&tallycast, "/count/eps", &once("count"), r#"{"A": 3, "B": 1}"#).body, r#"{"A":3,"B":1}"#);
    }
    let () = update(&mut cluster.nodes[0].connect(), &["A", "C"]).unwrap();
    until_exact(&cluster.nodes[0], &mut reader);
    assert_eq!(tallycast.json("/v1/rankings").as_array().map(Vec::len), Some(3));
    assert!(calls(&cluster.nodes[3], "zrevrange") > 0 && calls(&cluster.nodes[3], "xread") > 0);

    // A slot moves: the subscription follows it.
    cluster.move_slot(&elsewhere, 1, 2);
    eventually("the channel is subscribed to where it is now", || {
        publish_sharded(&cluster.nodes[2], &elsewhere, "moved") == 1
    });
    assert_eq!(payload(&other), "moved");
    tallycast.until_ready();

    // The first primary dies. Others are not affected.
    add(&mut cluster.nodes[0].connect(), ORDERS, 0..50);
    cluster.until_replicated();
    let gaps = tallycast.counter("/source/gaps");
    cluster.nodes[0].kill();
    assert_eq!(publish_sharded(&cluster.nodes[2], &elsewhere, "meanwhile"), 1);
    assert_eq!(payload(&other), "meanwhile");
    cluster.until_promoted();
    add(&mut cluster.nodes[3].connect(), ORDERS, 50..100);
    assert_eq!(payloads(&orders, 100), numbers(0..100));
    tallycast.until_counter("/source/gaps", gaps + 2);
    tallycast.until_ready();
    eventually("the sharded channel is subscribed to", || publish_sharded(&cluster.nodes[3], NEWS, "promoted") == 1);
    assert_eq!(payload(&news), "promoted");
    until_published(&tallycast, "/publish/news", "after");
    assert_eq!(payload(&news), "after");
    publish(&cluster.nodes[1], "live.c", "after");
    assert_eq!(payload(&live), "after");
    let () = update(&mut cluster.nodes[3].connect(), &["A", "D"]).unwrap();
    until_exact(&cluster.nodes[3], &mut reader);
    assert_eq!(tallycast.counter("/source/stream_gaps"), 0);
    for stream in [&news, &live, &orders, &other] {
        expect_no_more(stream);
    }
}
