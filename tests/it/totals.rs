//! Totals of any content, and when a reading fails: exact, or declared unavailable, and never at the expense of events.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::{Commands, Connection};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::config::File;
use crate::snapshot::{Reader, SCORES, scores, update};
use crate::support::{EventSource, Raw, RedisServer, Tallycast, WebSocket, eventually, get};

/// Sets a flag when it is dropped, so that the threads of a scope end also when the test fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Status and body of a request for totals; without the body if they are served.
fn snapshot(tallycast: &Tallycast, path: &str) -> (u16, String) {
    let mut raw =
        Raw::request(tallycast, &format!("GET {path}?snapshot=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"));
    let head = raw.head();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, if status == 200 { String::new() } else { raw.read_to_end() })
}

/// Waits until totals are unavailable, for new readers and for `reader`.
#[track_caller]
fn until_unavailable(tallycast: &Tallycast, reader: &mut Reader, reason: &str) {
    eventually("the reader is informed", || {
        reader.totals();
        reader.unavailable.as_deref() == Some(reason)
    });
    let expected = format!("the totals of /eps are unavailable: {reason}\n");
    assert_eq!(snapshot(tallycast, "/subscribe/eps"), (503, expected));
}

/// Waits until totals are known again, and `reader` has the current scores.
#[track_caller]
fn until_exact(redis: &RedisServer, tallycast: &Tallycast, reader: &mut Reader) {
    let expected = scores(redis);
    let mut last = BTreeMap::new();
    eventually("the reader has the current scores", || {
        last = reader.totals();
        last == expected && reader.unavailable.is_none()
    });
    assert_eq!(snapshot(tallycast, "/subscribe/eps").0, 200);
}

fn add(connection: &mut Connection, key: &str, members: std::ops::Range<u32>) {
    let members: Vec<(u32, String)> = members.map(|number| (number + 1, format!("ID-{number}"))).collect();
    let () = connection.zadd_multiple(key, &members).unwrap();
}

#[test]
fn totals_of_a_set_that_grows_too_large_are_unavailable_until_it_shrinks() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    add(&mut connection, SCORES, 0..3);
    let flags = ["--max-totals", "5", "--max-totals-bytes", "1KiB", "--totals-interval", "1s"];
    let tallycast = Tallycast::start(&redis, &flags);
    let mut reader = Reader::open(&tallycast);
    let plain = EventSource::open(&tallycast, "/subscribe/eps");
    until_exact(&redis, &tallycast, &mut reader);
    add(&mut connection, SCORES, 3..10);
    until_unavailable(&tallycast, &mut reader, "the sorted set has more than 5 members");
    let () = connection.zremrangebyrank(SCORES, 0, 6).unwrap();
    until_exact(&redis, &tallycast, &mut reader);
    let () = connection.zadd(SCORES, "long".repeat(400), 1).unwrap();
    until_unavailable(&tallycast, &mut reader, "the sorted set has more than 1024 bytes");
    let () = connection.del(SCORES).unwrap();
    let () = connection.set(SCORES, "text").unwrap();
    until_unavailable(&tallycast, &mut reader, "the key has a value that is not a sorted set");
    let () = connection.del(SCORES).unwrap();
    add(&mut connection, SCORES, 0..2);
    until_exact(&redis, &tallycast, &mut reader);
    // Readers that did not ask for totals receive changes and nothing else.
    let mut changes = BTreeMap::<String, i64>::new();
    for event in plain.received() {
        assert_eq!(event.name, None, "{event:?}");
        let counts: BTreeMap<String, i64> = serde_json::from_str(&event.data).unwrap();
        counts.into_iter().for_each(|(id, count)| *changes.entry(id).or_default() += count);
    }
    changes.retain(|_, count| *count != 0);
    // From three members to the first two of them.
    assert_eq!(changes, [("ID-2".to_owned(), -3)].into());
}

#[test]
fn keys_counted_beyond_the_maximum_leave_no_ghosts() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    update(&mut connection, &["kept"]).unwrap();
    let tallycast = Tallycast::start(&redis, &["--max-totals", "5"]);
    let mut reader = Reader::open(&tallycast);
    until_exact(&redis, &tallycast, &mut reader);
    update(&mut connection, &["a", "b", "c", "d", "e", "f"]).unwrap();
    eventually("the reader is informed", || {
        reader.totals();
        reader.unavailable.is_some()
    });
    let () = connection.zrem(SCORES, &["a", "b", "c"]).unwrap();
    // A lost subscription, so that the totals are read.
    let () = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).query(&mut connection).unwrap();
    until_exact(&redis, &tallycast, &mut reader);
}

#[test]
fn totals_are_unavailable_during_a_long_outage_and_exact_after_it() {
    let mut redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--totals-interval", "1s"]);
    add(&mut redis.connect(), SCORES, 0..3);
    let mut reader = Reader::open(&tallycast);
    until_exact(&redis, &tallycast, &mut reader);
    redis.kill();
    until_unavailable(&tallycast, &mut reader, "the sorted set cannot be read");
    redis.run();
    add(&mut redis.connect(), SCORES, 2..5);
    until_exact(&redis, &tallycast, &mut reader);
}

#[test]
fn one_bad_set_does_not_affect_the_others() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    let () = connection.set("text", "x").unwrap();
    add(&mut connection, "large", 0..6);
    add(&mut connection, SCORES, 0..3);
    let totals = ["--totals", "/text=text", "--totals", "/large=large", "--totals", "/eps=emojitrack_score"];
    let tallycast = Tallycast::start(&redis, &[&totals[..], &["--max-totals", "5"]].concat());
    until_exact(&redis, &tallycast, &mut Reader::open(&tallycast));
    for (path, reason) in [
        ("/text", "the key has a value that is not a sorted set"),
        ("/large", "the sorted set has more than 5 members"),
    ] {
        let expected = format!("the totals of {path} are unavailable: {reason}\n");
        assert_eq!(snapshot(&tallycast, &format!("/subscribe{path}")), (503, expected));
    }
}

#[test]
fn first_reading_that_is_lost_to_a_full_inbox_is_repeated() {
    let redis = RedisServer::start();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publishing = SetOnDrop(&ended);
        for _ in 0..2 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    redis.publish_scores(std::iter::repeat_n("26", 2000));
                }
            });
        }
        let tallycast = Tallycast::start(&redis, &["--inbox", "1"]);
        tallycast.until_counter("/source/overflowed", 1000);
        drop(publishing);
        eventually("the totals are served", || snapshot(&tallycast, "/subscribe/eps").0 == 200);
    });
}

#[test]
fn large_members_are_not_read_and_end_no_subscription() {
    const MEMBERS: usize = 34;
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    for number in 0..MEMBERS {
        let member = char::from(b'A' + u8::try_from(number).unwrap()).to_string().repeat(1_000_000);
        let () = connection.zadd(SCORES, member, 1).unwrap();
    }
    let tallycast = Tallycast::start(&redis, &["--totals-interval", "1s"]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    eventually("the totals are refused", || {
        snapshot(&tallycast, "/subscribe/eps").1.contains("more than 8388608 bytes")
    });
    for number in 0..50 {
        redis.publish_scores([number.to_string()]);
        assert_eq!(raw.next().data, number.to_string());
    }
    assert_eq!(tallycast.counter("/source/gaps"), 0);
}

#[test]
fn readings_stop_when_redis_disconnects_the_subscriber_for_them() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    let limit = ["SET", "client-output-buffer-limit", "pubsub 500kb 500kb 1"];
    let () = redis::cmd("CONFIG").arg(&limit).query(&mut connection).unwrap();
    for member in ["a", "b", "c"] {
        let () = connection.zadd(SCORES, member.repeat(1_000_000), 1).unwrap();
    }
    let tallycast = Tallycast::start(&redis, &["--totals-interval", "1s"]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    tallycast.wait_for_log("Redis disconnects the subscriber when the totals are read");
    tallycast.until_ready();
    let expected = "the totals of /eps are unavailable: reading the sorted set ends the subscription\n";
    assert_eq!(snapshot(&tallycast, "/subscribe/eps"), (503, expected.to_owned()));
    // Events flow, undisturbed by further readings.
    let gaps = tallycast.counter("/source/gaps");
    assert!(gaps >= 2, "{gaps}");
    raw.received();
    for number in 0..20 {
        redis.publish_scores([number.to_string()]);
        assert_eq!(raw.next().data, number.to_string());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(tallycast.counter("/source/gaps"), gaps);
}

#[test]
fn change_of_overlapping_patterns_loses_and_repeats_nothing() {
    const ROUTES: [&str; 2] = ["stream.score_updates=/raw,tally=/eps", "stream.score_*=/raw,tally=/eps"];
    let redis = RedisServer::start();
    let routes = |route: &str| format!("route = [\"{route}\"]\n");
    let file = File::new(&routes(ROUTES[0]));
    let path = file.path().display().to_string();
    // Only the readings that the changes request.
    let tallycast = Tallycast::start(&redis, &["--config", &path, "--totals-interval", "1h"]);
    let mut reader = Reader::open(&tallycast);
    let ended = AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        let publishing = SetOnDrop(&ended);
        let publisher = scope.spawn(|| {
            let mut connection = redis.connect();
            let mut published = 0;
            while !ended.load(Ordering::Relaxed) {
                // Equal events in a row, and different ones.
                update(&mut connection, &["26", "26", "2665", "26"]).unwrap();
                published += 4;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            published
        });
        for change in 1..=20 {
            let counted = tallycast.counter("/tally/counted");
            tallycast.until_counter("/tally/counted", counted + 50);
            file.write(&routes(ROUTES[change % 2]));
            tallycast.signal(Signal::HUP);
            eventually("the subscription has changed", || {
                tallycast.log().matches("changed the subscription").count() == change
            });
        }
        drop(publishing);
        publisher.join().unwrap()
    });
    tallycast.until_counter("/tally/counted", published);
    until_exact(&redis, &tallycast, &mut reader);
    // The first is that of the subscription.
    tallycast.until_counter("/source/cuts", 2);
    let counters = tallycast.json("/admin/counters.json");
    let counts = ["/tally/counted", "/source/received", "/source/overflowed", "/hub/corrections"];
    let expected = [published, published, 0, 0].map(Value::from);
    assert_eq!(counts.map(|pointer| counters.pointer(pointer).unwrap().clone()), expected);
}

#[test]
fn totals_are_read_when_a_route_starts_to_count() {
    let redis = RedisServer::start();
    let file = File::new("route = [\"stream.score_updates=/raw\"]\n");
    let path = file.path().display().to_string();
    update(&mut redis.connect(), &["26"]).unwrap();
    let tallycast = Tallycast::start(&redis, &["--config", &path, "--totals-interval", "1h"]);
    let mut reader = Reader::open(&tallycast);
    until_exact(&redis, &tallycast, &mut reader);
    update(&mut redis.connect(), &["26", "2665"]).unwrap();
    tallycast.until_counter("/decode/decoded", 2);
    file.write("route = [\"stream.score_updates=/raw,tally=/eps\"]\n");
    tallycast.signal(Signal::HUP);
    until_exact(&redis, &tallycast, &mut reader);
    update(&mut redis.connect(), &["26"]).unwrap();
    until_exact(&redis, &tallycast, &mut reader);
}

#[test]
fn members_that_are_not_text_are_skipped_and_counted() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    let () = connection.zadd(SCORES, &b"\xff\xfe"[..], 5).unwrap();
    let () = connection.zadd(SCORES, "26", 3).unwrap();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut reader = Reader::open(&tallycast);
    eventually("the reader has a snapshot", || reader.totals() == [("26".to_owned(), 3)].into());
    let rankings = tallycast.json("/v1/rankings");
    assert_eq!(rankings, json!([{"char": "26", "id": "26", "name": "26", "score": 3}]));
    assert_eq!(tallycast.counter("/source/skipped_members"), tallycast.counter("/source/cuts"));
    assert_eq!(tallycast.counter("/store/skipped_members"), 1);
}

#[test]
fn totals_of_other_instances_are_no_events() {
    let redis = RedisServer::start();
    let all = ["--route", "*=/all,event=channel", "--totals-interval", "1s"];
    let tallycast = Tallycast::start(&redis, &all);
    let reader = EventSource::open(&tallycast, "/subscribe/");
    let other = Tallycast::start(&redis, &["--totals-interval", "1s"]);
    add(&mut redis.connect(), SCORES, 0..1);
    other.until_counter("/source/cuts", 3);
    tallycast.until_counter("/source/cuts", 3);
    redis.publish([("tallycast.cut.other", "1"), ("tallycast.cut", "2")]);
    let mut events = vec![reader.next()];
    if events[0].name.is_none() {
        // The correction of /eps.
        events = vec![reader.next()];
    }
    assert_eq!(events[0].data, "2", "{events:?}");
    assert_eq!(tallycast.counter("/source/received"), 1);
}

#[test]
fn scores_that_javascript_cannot_read_are_sent_as_the_largest_number_it_can() {
    const MAX: i64 = 9_007_199_254_740_991;
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    for (member, score) in [("a", "1e300"), ("b", "-inf"), ("c", "9007199254740990"), ("d", "9223372036854775807")] {
        let () = redis::cmd("ZADD").arg(&[SCORES, score, member]).query(&mut connection).unwrap();
    }
    let tallycast = Tallycast::start(&redis, &["--totals-interval", "1s"]);
    let mut reader = Reader::open(&tallycast);
    let expected = [("a", MAX), ("b", -MAX), ("c", MAX - 1), ("d", MAX)];
    let expected: BTreeMap<String, i64> = expected.map(|(id, score)| (id.to_owned(), score)).into();
    eventually("the reader has the scores", || reader.totals() == expected);
    let rankings = get(&tallycast, "/v1/rankings", &[]);
    let rankings: Vec<Value> = serde_json::from_slice(&rankings.body).unwrap();
    let ranked =
        rankings.iter().map(|entry| (entry["id"].as_str().unwrap().to_owned(), entry["score"].as_i64().unwrap()));
    assert_eq!(ranked.collect::<BTreeMap<_, _>>(), expected);
    // Events go on, and nothing wraps.
    redis.publish_scores(["a", "b", "d"]);
    tallycast.until_counter("/tally/sent", 3);
    eventually("the next reading corrects the counts", || reader.totals() == expected);
}

#[test]
fn websocket_without_event_names_is_closed_when_totals_become_unavailable() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    add(&mut connection, SCORES, 0..1);
    let tallycast = Tallycast::start(&redis, &["--max-totals", "2", "--totals-interval", "1s"]);
    let mut raw = WebSocket::open_raw(&tallycast, "/ws/eps?snapshot=1");
    let mut named = WebSocket::open(&tallycast, "/ws/eps?snapshot=1");
    let mut plain = WebSocket::open_raw(&tallycast, "/ws/eps");
    assert_eq!(raw.text(), r#"{"ID-0":1}"#);
    assert_eq!(named.json()["event"], "snapshot");
    add(&mut connection, SCORES, 1..5);
    assert_eq!(raw.closed(), (1013, "the totals are unavailable; connect again to start afresh".to_owned()));
    let state = named.json();
    assert_eq!((&state["namespace"], &state["event"]), (&json!("/eps"), &json!("totals")));
    let data: Value = serde_json::from_str(state["data"].as_str().unwrap()).unwrap();
    assert_eq!(data, json!({"known": false, "reason": "the sorted set has more than 2 members"}));
    redis.publish_scores(["26"]);
    assert_eq!((plain.text(), &*named.json()["data"].to_string()), (r#"{"26":1}"#.to_owned(), r#""{\"26\":1}""#));
}

#[test]
fn routes_change_although_the_user_may_not_use_the_channel_of_totals() {
    let redis = RedisServer::start();
    let user = [
        "SETUSER",
        "narrow",
        "on",
        ">secret",
        "~*",
        "+@all",
        "&stream.score_updates",
        "&stream.score_*",
        "&stream.tweet_updates.*",
    ];
    let () = redis::cmd("ACL").arg(&user).query(&mut redis.connect()).unwrap();
    let file = File::new("");
    let path = file.path().display().to_string();
    let url = redis.url().replace("redis://", "redis://narrow:secret@");
    let tallycast = Tallycast::start_unready(&url, &["--config", &path]);
    tallycast.until_ready();
    let stream = EventSource::open(&tallycast, "/subscribe/new");
    file.write("route = [\"stream.score_*=/new\"]\n");
    tallycast.signal(Signal::HUP);
    tallycast.until_counter("/source/subscriptions", 2);
    redis.publish_scores(["26"]);
    assert_eq!(stream.next().data, "26");
    assert_eq!(tallycast.counter("/source/gaps"), 1);
}
