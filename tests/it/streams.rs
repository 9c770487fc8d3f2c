//! Redis Streams as a source: beside pub/sub, through outages of Redis, and with streams that change under the process.

use redis::{Commands, Connection, ToRedisArgs};
use rustix::process::Signal;

use crate::config::File;
use crate::support::{Event, EventSource, RedisServer, Tallycast, command, eventually, run};

/// Adds an entry with an id that Redis chooses.
fn add<V: ToRedisArgs>(redis: &mut Connection, key: &str, fields: &[(&str, V)]) {
    let mut command = redis::cmd("XADD");
    command.arg(key).arg("*");
    for (field, value) in fields {
        command.arg(field).arg(value);
    }
    let _: String = command.query(redis).unwrap();
}

fn add_all(redis: &mut Connection, key: &str, numbers: impl IntoIterator<Item = u32>) {
    let mut pipeline = redis::pipe();
    for number in numbers {
        pipeline.cmd("XADD").arg(key).arg(format!("{number}-0")).arg("data").arg(number).ignore();
    }
    let () = pipeline.query(redis).unwrap();
}

/// The payloads of the next events.
fn payloads(stream: &EventSource, count: usize) -> Vec<String> {
    (0..count).map(|_| stream.next().data).collect()
}

fn numbers(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    numbers.into_iter().map(|number| number.to_string()).collect()
}

#[test]
fn entries_become_events_by_their_fields() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(
        &redis,
        &["--route", "stream:orders=/orders/**,event=order,tally=/count", "--route", "stream:news=/news"],
    );
    let root = EventSource::open(&tallycast, "/subscribe/orders/eu/1?topic=/news");
    let counts = EventSource::open(&tallycast, "/subscribe/count");
    let mut connection = redis.connect();
    let mut expect = |key: &str, fields: &[(&str, &str)], expected: &Event| {
        add(&mut connection, key, fields);
        let event = root.next();
        assert_eq!((&event.name, &event.data), (&expected.name, &expected.data));
    };
    expect("orders", &[("data", "one"), ("topic", "eu:1")], &Event::named("order", "one"));
    expect(
        "orders",
        &[("topic", "eu:1"), ("event", "paid"), ("data", "two\nlines")],
        &Event::named("paid", "two\nlines"),
    );
    expect("news", &[("anything", "three")], &Event::message("three"));
    // Rejected: no topic, no payload, not UTF-8.
    add(&mut connection, "orders", &[("data", "x")]);
    add(&mut connection, "news", &[("a", "x"), ("b", "y")]);
    add(&mut connection, "news", &[("data", &[0xff_u8][..])]);
    add(&mut connection, "news", &[("data", "four")]);
    assert_eq!(root.next().data, "four");
    tallycast.wait_for_log("the entry has no field \"topic\"");
    tallycast.until_counter("/decode/rejected", 3);
    assert_eq!(tallycast.counter("/source/received"), 7);
    eventually("both keys were counted", || tallycast.counter("/tally/sent") == 2);
    assert!(counts.next().data.contains("\"one\""));
}

#[test]
fn channels_and_streams_are_read_side_by_side() {
    let mut redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--route", "a=/channel", "--route", "stream:a=/stream"]);
    let (channel, stream) =
        (EventSource::open(&tallycast, "/subscribe/channel"), EventSource::open(&tallycast, "/subscribe/stream"));
    assert_eq!(tallycast.counter("/source/subscriptions"), 2);
    for round in 0..2 {
        let text = format!("{round}");
        redis.publish([("a", &text)]);
        add(&mut redis.connect(), "a", &[("data", &text)]);
        assert_eq!((channel.next().data, stream.next().data), (text.clone(), text));
        redis.kill();
        eventually("the lost connections are detected", || tallycast.get("/readyz").0 == 503);
        redis.run();
        tallycast.until_ready();
    }
    tallycast.wait_for_log("subscription lost; events are lost until it is restored");
    tallycast.wait_for_log("subscription lost; events are delayed until it is restored");
    assert_eq!(tallycast.terminate().status.code(), Some(0));
}

#[test]
fn history_is_read_at_start_and_not_sent_to_live_readers() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    add_all(&mut connection, "a", 1..=1000);
    let flags = ["--source", "redis-streams", "--route", "a=/a,history=700,tally=/count"];
    let tallycast = Tallycast::start(&redis, &flags);
    assert_eq!((tallycast.counter("/source/backlog"), tallycast.counter("/source/received")), (700, 0));
    let stream = EventSource::open(&tallycast, "/subscribe/a");
    add_all(&mut connection, "a", 1001..=1003);
    assert_eq!(payloads(&stream, 3), numbers(1001..=1003));
    tallycast.until_counter("/tally/sent", 3);
    assert_eq!((tallycast.counter("/source/backlog"), tallycast.counter("/source/stream_gaps")), (700, 0));
    // No route is for channels, so nothing is subscribed to.
    let clients: String = redis::cmd("CLIENT").arg(&["LIST", "TYPE", "pubsub"]).query(&mut connection).unwrap();
    assert_eq!(clients.trim(), "");
}

#[test]
fn new_process_resumes_readers_of_another_one() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    let flags = ["--route", "stream:a=/a/*,history=10m"];
    let first = Tallycast::start(&redis, &flags);
    let stream = EventSource::open(&first, "/subscribe/a");
    let mut ids = Vec::new();
    for number in ["1", "2", "3", "4"] {
        add(&mut connection, "a", &[("data", number), ("topic", number)]);
        let mut event = stream.next();
        while event.data != number {
            event = stream.next();
        }
        ids.push(event.id.unwrap());
    }
    assert_eq!(first.terminate().status.code(), Some(0));
    let second = Tallycast::start(&redis, &flags);
    let resumed = EventSource::open(&second, &format!("/subscribe/a?lastEventID={}", ids[1]));
    add(&mut connection, "a", &[("data", "5"), ("topic", "5")]);
    let mut received = Vec::new();
    while received.last().is_none_or(|data| data != "5") {
        received.push(resumed.next().data);
    }
    received.retain(|data| !data.is_empty());
    assert_eq!(received, ["3", "4", "5"]);
}

#[test]
fn no_entry_is_lost_while_redis_restarts() {
    let mut redis = RedisServer::start_with_flags(&["--appendonly", "yes", "--appendfsync", "always"]);
    let tallycast = Tallycast::start(&redis, &["--route", "stream:a=/a,history=100"]);
    let stream = EventSource::open(&tallycast, "/subscribe/a");
    let mut expected = Vec::new();
    for round in 0..3 {
        let first = round * 100 + 1;
        add_all(&mut redis.connect(), "a", first..first + 50);
        redis.kill();
        redis.run();
        add_all(&mut redis.connect(), "a", first + 50..first + 100);
        expected.extend(numbers(first..first + 100));
        assert_eq!(payloads(&stream, 100), expected[expected.len() - 100..]);
    }
    assert_eq!((tallycast.counter("/source/gaps"), tallycast.counter("/source/stream_gaps")), (3, 0));
}

#[test]
fn frozen_redis_is_detected_while_a_stream_is_read() {
    let redis = RedisServer::start();
    let flags = ["--route", "stream:a=/a", "--redis-ping", "100ms", "--redis-timeout", "300ms"];
    let tallycast = Tallycast::start(&redis, &flags);
    let stream = EventSource::open(&tallycast, "/subscribe/a");
    redis.freeze();
    eventually("the lost connection is detected", || tallycast.get("/readyz").0 == 503);
    redis.thaw();
    tallycast.until_ready();
    add_all(&mut redis.connect(), "a", [1]);
    assert_eq!(stream.next().data, "1");
}

#[test]
fn deleted_and_replaced_streams_are_logged_and_counted() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    let tallycast = Tallycast::start(&redis, &["--route", "stream:a=/a"]);
    let stream = EventSource::open(&tallycast, "/subscribe/a");
    add_all(&mut connection, "a", [7, 8]);
    assert_eq!(payloads(&stream, 2), numbers([7, 8]));
    let mut replaced = redis::pipe();
    replaced.atomic().del("a").cmd("XADD").arg("a").arg("1-0").arg("data").arg("1");
    let _: (u64, String) = replaced.query(&mut connection).unwrap();
    assert_eq!(stream.next().data, "1");
    let line = tallycast.wait_for_log("positions in a stream are void: it was replaced by another one");
    assert!(line.contains("key=\"a\" last_read=8-0"), "{line}");
    let () = connection.del("a").unwrap();
    tallycast.wait_for_log("positions in a stream are void: it was deleted");
    add_all(&mut connection, "a", [2]);
    assert_eq!(stream.next().data, "2");
    assert_eq!(tallycast.counter("/source/stream_gaps"), 2);
}

#[test]
fn entries_trimmed_during_an_outage_are_logged_and_counted() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    let flags = ["--route", "stream:a=/a", "--redis-timeout", "300ms"];
    let tallycast = Tallycast::start(&redis, &flags);
    let stream = EventSource::open(&tallycast, "/subscribe/a");
    add_all(&mut connection, "a", [1]);
    assert_eq!(stream.next().data, "1");
    // In one step, so that no read comes in between.
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    for number in 2..=10 {
        pipeline.cmd("XADD").arg("a").arg(format!("{number}-0")).arg("data").arg(number).ignore();
    }
    let () = pipeline.cmd("XTRIM").arg("a").arg("MAXLEN").arg(2).ignore().query(&mut connection).unwrap();
    assert_eq!(payloads(&stream, 2), numbers([9, 10]));
    let line = tallycast.wait_for_log("entries of a stream are lost");
    assert!(line.contains("entries=Some(7)"), "{line}");
    assert_eq!(tallycast.counter("/source/stream_gaps"), 1);
}

#[test]
fn streams_are_trimmed_by_the_process() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    add_all(&mut connection, "a", 1..=1000);
    let tallycast = Tallycast::start(&redis, &["--route", "stream:a=/a", "--stream-maxlen", "100"]);
    eventually("the stream is short", || redis::cmd("XLEN").arg("a").query::<u64>(&mut connection).unwrap() <= 200);
    tallycast.until_counter("/source/trimmed", 800);
    let stream = EventSource::open(&tallycast, "/subscribe/a");
    add_all(&mut connection, "a", [1001]);
    assert_eq!(stream.next().data, "1001");
    assert_eq!(tallycast.counter("/source/stream_gaps"), 0);
}

#[test]
fn reload_adds_and_removes_streams() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    let file = File::new("route = [\"a=/channel\"]\n");
    let path = file.path().display().to_string();
    let tallycast = Tallycast::start(&redis, &["--config", &path]);
    let root = EventSource::open(&tallycast, "/subscribe/");
    assert_eq!(tallycast.counter("/source/subscriptions"), 1);
    add_all(&mut connection, "b", [1, 2]);
    let reload = |text: &str, logged: &str| {
        file.write(text);
        tallycast.signal(Signal::HUP);
        tallycast.wait_for_log(logged);
    };
    reload("route = [\"a=/channel\", \"stream:b=/b,history=1\"]\n", "added=[\"b\"] removed=[]");
    tallycast.until_counter("/source/backlog", 1);
    add_all(&mut connection, "b", [3]);
    assert_eq!(root.next().data, "3");
    reload("route = [\"a=/channel\", \"stream:c=/c\"]\n", "added=[\"c\"] removed=[\"b\"]");
    add_all(&mut connection, "b", [4]);
    // It may come before the stream is read.
    eventually("the new stream is read", || {
        add(&mut connection, "c", &[("data", "c")]);
        root.received().iter().any(|event| event.data == "c")
    });
    redis.publish([("a", "channel")]);
    eventually("the channel is still subscribed", || root.received().iter().any(|event| event.data == "channel"));
    assert_eq!(tallycast.counter("/decode/rejected"), 0);
}

#[test]
fn required_broker_is_required_for_streams() {
    let redis = RedisServer::start();
    let () = redis.connect().set("a", "no stream").unwrap();
    let output = run(command()
        .args(["--require-broker", "--port", "0", "--address", "127.0.0.1", "--log", "error"])
        .args(["--route", "stream:a=/a", "--redis-url", &redis.url()]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(69), 1), "{stderr}");
    assert!(stderr.contains("the stream \"a\": ") && stderr.contains("WRONGTYPE"), "{stderr}");
}
