//! Totals: snapshots on streams, consistent with the changes that follow, and the REST API.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::Commands;
use serde_json::{Value, json};

use crate::support::{Event, EventSource, RedisServer, Tallycast, command, eventually, get};

pub(crate) const SCORES: &str = "emojitrack_score";

/// A client that computes totals from snapshots and changes.
pub(crate) struct Reader {
    source: EventSource,
    totals: Option<BTreeMap<String, i64>>,
    /// The reason, if the server says that the totals are unavailable.
    pub(crate) unavailable: Option<String>,
}

impl Reader {
    pub(crate) fn open(tallycast: &Tallycast) -> Self {
        Self::open_at(tallycast, "/subscribe/eps?snapshot=1")
    }

    pub(crate) fn open_at(tallycast: &Tallycast, path: &str) -> Self {
        Self { source: EventSource::open(tallycast, path), totals: None, unavailable: None }
    }

    fn apply(&mut self, event: &Event) {
        let counts = || serde_json::from_str::<BTreeMap<String, i64>>(&event.data).unwrap();
        match (&mut self.totals, event.name.as_deref()) {
            (totals, Some("snapshot")) => *totals = Some(counts()),
            (Some(totals), None) => {
                counts().into_iter().for_each(|(id, count)| *totals.entry(id).or_default() += count);
            }
            (Some(_), Some("totals")) => {
                let state: Value = serde_json::from_str(&event.data).unwrap();
                assert!(state["known"].is_boolean(), "{state}");
                self.unavailable = state["reason"].as_str().map(str::to_owned);
                assert_eq!(state["known"] == true, self.unavailable.is_none(), "{state}");
            }
            _ => panic!("expected a snapshot and then changes, found {event:?}"),
        }
    }

    /// The current totals, without zeros.
    pub(crate) fn totals(&mut self) -> BTreeMap<String, i64> {
        for event in self.source.received() {
            self.apply(&event);
        }
        self.totals.clone().unwrap_or_default().into_iter().filter(|(_, total)| *total != 0).collect()
    }
}

/// The scores in the sorted set.
pub(crate) fn scores(redis: &RedisServer) -> BTreeMap<String, i64> {
    let scores: Vec<(String, f64)> = redis.connect().zrange_withscores(SCORES, 0, -1).unwrap();
    scores.into_iter().map(|(id, score)| (id, score as i64)).collect()
}

/// Increments and publishes the score of each of `ids` in one transaction, like a feeder.
pub(crate) fn update(connection: &mut redis::Connection, ids: &[&str]) -> redis::RedisResult<()> {
    let mut transaction = redis::pipe();
    transaction.atomic();
    for id in ids {
        transaction.zincr(SCORES, id, 1).ignore().publish("stream.score_updates", id).ignore();
    }
    transaction.query(connection)
}

#[test]
fn snapshot_plus_changes_equal_scores_across_outages() {
    const WRITERS: usize = 4;
    let mut redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let url = redis.url();
    let (ended, mut readers) = (AtomicBool::new(false), Vec::new());
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (ended, url) = (&ended, url.as_str());
            scope.spawn(move || {
                let client = redis::Client::open(url).unwrap();
                let mut connection = None;
                let ids: Vec<String> = (0..40).map(|number| format!("ID-{}", number * (writer + 1))).collect();
                for number in 0.. {
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                    let batch: Vec<&str> =
                        (0..number % 5 + 1).map(|offset| &*ids[(number + offset) % ids.len()]).collect();
                    connection = connection.or_else(|| client.get_connection().ok());
                    if connection.as_mut().is_none_or(|connection| update(connection, &batch).is_err()) {
                        connection = None;
                    }
                    std::thread::sleep(std::time::Duration::from_micros(500));
                }
            });
        }
        for outage in 0..3 {
            for number in 0..8 {
                readers.push(Reader::open(&tallycast));
                // Keep reading, so that no reader lags.
                readers.iter_mut().for_each(|reader| drop(reader.totals()));
                let sent = tallycast.counter("/tally/sent");
                tallycast.until_counter("/tally/sent", sent + 100 + number);
            }
            if outage < 2 {
                redis.kill();
                readers.push(Reader::open(&tallycast));
                redis.run();
                tallycast.until_ready();
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    let expected = scores(&redis);
    assert!(expected.values().sum::<i64>() > 100);
    for (number, reader) in readers.iter_mut().enumerate() {
        let mut last = BTreeMap::new();
        eventually(&format!("reader {number} has the current scores"), || {
            last = reader.totals();
            last == expected
        });
    }
    assert!(tallycast.counter("/hub/corrections") > 0, "the outages lost no events, so the test proved nothing");
    // A new reader gets a snapshot as well.
    assert_eq!(
        EventSource::open_http2(&tallycast, "/subscribe/eps?snapshot=1").next().name.as_deref(),
        Some("snapshot")
    );
}

#[test]
fn external_changes_to_the_sorted_set_are_corrected() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--totals-interval", "1s"]);
    let mut reader = Reader::open(&tallycast);
    let plain = EventSource::open(&tallycast, "/subscribe/eps");
    let mut connection = redis.connect();
    let () = connection.zadd(SCORES, "2665", 1000).unwrap();
    eventually("the reader has the new score", || reader.totals() == [("2665".to_owned(), 1000)].into());
    assert_eq!(plain.next(), Event::message(r#"{"2665":1000}"#));
    let () = connection.zadd(SCORES, "2665", 900).unwrap();
    eventually("the reader has the new score", || reader.totals() == [("2665".to_owned(), 900)].into());
    let () = connection.del(SCORES).unwrap();
    eventually("the reader has the new score", || reader.totals().is_empty());
}

#[test]
fn corrections_can_be_disabled() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--totals-interval", "1s", "--no-corrections"]);
    let mut reader = Reader::open(&tallycast);
    let () = redis.connect().zadd(SCORES, "2665", 1000).unwrap();
    eventually("a new reader gets the score", || Reader::open(&tallycast).source.next().data == r#"{"2665":1000}"#);
    assert_eq!(reader.totals(), BTreeMap::new());
}

#[test]
fn totals_without_sorted_set_survive_an_outage() {
    let mut redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--totals-interval", "1s"]);
    let mut reader = Reader::open(&tallycast);
    redis.publish_scores(["26", "26"]);
    eventually("the events are counted", || reader.totals() == [("26".to_owned(), 2)].into());
    redis.kill();
    redis.run();
    tallycast.until_ready();
    redis.publish_scores(["26"]);
    eventually("the events are counted", || reader.totals() == [("26".to_owned(), 3)].into());
    let mut late = Reader::open(&tallycast);
    eventually("a new reader gets the total", || late.totals() == [("26".to_owned(), 3)].into());
    assert_eq!(tallycast.counter("/hub/corrections"), 0);
}

#[test]
fn unavailable_snapshot_is_refused_with_reason() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let answer = |path: &str| tallycast.get(path);
    assert_eq!(
        answer("/subscribe/raw?snapshot=1"),
        (400, "/raw has no totals; namespaces with totals: /eps\n".to_owned())
    );
    assert_eq!(
        answer("/subscribe/eps?a=b&snapshot=yes"),
        (400, "bad query: snapshot=yes; expected snapshot=1 or snapshot=0\n".to_owned())
    );
    let alone = Tallycast::start_unready("redis://127.0.0.1:1", &[]);
    let (status, body) = alone.get("/subscribe/eps?snapshot=1");
    assert_eq!((status, &*body), (503, "the totals of /eps are not known yet\n"));
}

#[test]
fn redis_user_without_script_permission_still_receives_events() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    let rights = [
        "SETUSER",
        "narrow",
        "on",
        ">secret",
        "~*",
        "&stream.score_updates",
        "&stream.tweet_updates.*",
        "+@all",
        "-eval",
    ];
    let () = redis::cmd("ACL").arg(&rights).query(&mut connection).unwrap();
    let url = redis.url().replace("redis://", "redis://narrow:secret@");
    let tallycast = Tallycast::start_unready(&url, &[]);
    tallycast.until_ready();
    tallycast.wait_for_log("the Redis user may not subscribe to their channel");
    tallycast.wait_for_log("cannot read the totals; retrying");
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    redis.publish_scores(["26"]);
    assert_eq!(raw.next(), Event::message("26"));
}

/// A Redis with scores and posts as a feeder writes them.
fn redis_with_scores() -> RedisServer {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    let scores = [(3, "2764"), (10, "1F602"), (1, "ANZ.ASX")];
    let () = connection.zadd_multiple(SCORES, &scores).unwrap();
    for post in [r#"{"id":"1","text":"<b>"}"#, "no json", r#"{"id":"3"}"#] {
        let () = connection.lpush("emojitrack_tweets_2764", post).unwrap();
    }
    redis
}

#[test]
fn rankings_are_sorted_and_have_names() {
    let redis = redis_with_scores();
    let tallycast = Tallycast::start(&redis, &[]);
    let expected = json!([
        {"char": "😂", "id": "1F602", "name": "FACE WITH TEARS OF JOY", "score": 10},
        {"char": "❤️", "id": "2764", "name": "RED HEART", "score": 3},
        {"char": "ANZ.ASX", "id": "ANZ.ASX", "name": "ANZ.ASX", "score": 1},
    ]);
    assert_eq!(tallycast.json("/v1/rankings"), expected);
    let response = get(&tallycast, "/v1/rankings", &[]);
    assert_eq!(response.header("content-type"), "application/json; charset=utf-8");
    assert_eq!(response.header("cache-control"), "public, max-age=1");
    assert_eq!(response.header("access-control-allow-origin"), "*");
}

#[test]
fn details_have_rank_and_newest_posts_first() {
    let redis = redis_with_scores();
    let tallycast = Tallycast::start(&redis, &[]);
    let expected = json!({
        "char": "❤️", "id": "2764", "name": "RED HEART", "score": 3, "popularity_rank": 2,
        "details": {"variations": ["2764-FE0F"], "short_name": "heart", "short_names": ["heart"], "text": null},
        "recent_tweets": [{"id": "3"}, "no json", {"id": "1", "text": "<b>"}],
    });
    assert_eq!(tallycast.json("/v1/details/2764"), expected);
    let unseen = tallycast.json("/v1/details/1F62D");
    assert_eq!((&unseen["score"], &unseen["popularity_rank"]), (&json!(0), &Value::Null));
    let (status, body) = tallycast.get("/v1/details/nothing");
    assert_eq!(status, 404);
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({"error": "no such emoji: nothing"}));
    let (status, body) = tallycast.get("/v1/ranking");
    assert_eq!(status, 404);
    assert!(body.contains("there are /v1/rankings"), "{body}");
}

#[test]
fn rest_responses_support_compression_and_etags() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    for number in 0..200 {
        let () = connection.zadd(SCORES, format!("ID-{number}"), number).unwrap();
    }
    let tallycast = Tallycast::start(&redis, &[]);
    let plain = get(&tallycast, "/v1/rankings", &[]);
    assert_eq!(plain.header("vary"), "accept-encoding");
    for coding in ["gzip", "zstd"] {
        let response = get(&tallycast, "/v1/rankings", &[("accept-encoding", coding)]);
        assert_eq!(response.header("content-encoding"), coding);
        assert!(response.body.len() < plain.body.len() / 2);
        let decoded = match coding {
            "gzip" => std::io::read_to_string(flate2::read::GzDecoder::new(&*response.body)).unwrap().into_bytes(),
            _ => zstd::stream::decode_all(&*response.body).unwrap(),
        };
        assert_eq!(decoded, plain.body);
        let validator = response.header("etag");
        let again = get(&tallycast, "/v1/rankings", &[("accept-encoding", coding), ("if-none-match", validator)]);
        assert_eq!((again.status, again.body.len()), (304, 0));
    }
}

#[test]
fn cached_rankings_are_served_while_redis_is_down() {
    let mut redis = redis_with_scores();
    let tallycast = Tallycast::start(&redis, &[]);
    let fresh = get(&tallycast, "/v1/rankings", &[]);
    assert_eq!(fresh.header("age"), "");
    assert_eq!(tallycast.json("/v1/status"), json!({"ok": true}));
    redis.kill();
    eventually("the response has an age", || {
        let stale = get(&tallycast, "/v1/rankings", &[]);
        assert_eq!((stale.status, stale.body), (200, fresh.body.clone()));
        stale.headers.contains_key("age")
    });
    eventually("the status reports the outage", || tallycast.get("/v1/status").0 == 503);
    let nothing = get(&tallycast, "/v1/details/1F602", &[]);
    assert_eq!((nothing.status, nothing.header("retry-after")), (503, "2"));
    let error: Value = serde_json::from_slice(&nothing.body).unwrap();
    assert!(error["error"].as_str().unwrap().starts_with("the store cannot be read"), "{error}");
    redis.run();
    eventually("the status is ok again", || tallycast.get("/v1/status").0 == 200);
}

#[test]
fn demo_has_totals_and_posts() {
    let mut arguments = command();
    arguments.args(["demo", "--rate", "50"]);
    let demo = Tallycast::spawn(arguments);
    let mut reader = Reader::open(&demo);
    eventually("the reader has a snapshot", || reader.totals().len() > 800);
    let rankings = demo.json("/v1/rankings");
    assert_eq!(rankings.as_array().unwrap().len(), reader.totals().len());
    assert_eq!(rankings[0]["id"], "1F602");
    assert_eq!(demo.json("/v1/details/1F602")["recent_tweets"].as_array().unwrap().len(), 10);
}

#[test]
fn rankings_of_large_members_are_not_read() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    for member in 0..80 {
        let () = connection.zadd(SCORES, format!("{member}{}", "x".repeat(1 << 20)), 1000).unwrap();
    }
    // Large members are not hidden by small ones with lower scores.
    let small: Vec<(u32, String)> = (0..500).map(|score| (score, format!("small-{score}"))).collect();
    let () = connection.zadd_multiple(SCORES, &small).unwrap();
    let tallycast = Tallycast::start(&redis, &[]);
    let before = tallycast.resident_bytes();
    let (status, body) = tallycast.get("/v1/rankings");
    assert_eq!((status, &*body), (503, "{\"error\":\"the store cannot be read: the data take more than 64 MiB\"}\n"));
    let growth = tallycast.resident_bytes().saturating_sub(before);
    assert!(growth < 16 << 20, "the server's memory grew by {} KiB", growth / 1024);
    let () = connection.del(SCORES).unwrap();
    let () = connection.zadd(SCORES, "26", 1).unwrap();
    eventually("the rankings are read again", || tallycast.get("/v1/rankings").0 == 200);
}

#[test]
fn large_keys_of_which_little_is_read_are_served() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    let posts = vec!["{\"id\":\"1\"}".to_owned() + &" ".repeat(1 << 20); 80];
    let () = connection.lpush("emojitrack_tweets_26", &posts).unwrap();
    let members = ["26".to_owned(), "x".repeat(40 << 20), "y".repeat(40 << 20)];
    for (score, member) in [3, 2, 1].into_iter().zip(&members) {
        let () = connection.zadd(SCORES, member, score).unwrap();
    }
    let tallycast = Tallycast::start(&redis, &["--max-totals", "1"]);
    let rankings = tallycast.json("/v1/rankings");
    assert_eq!(rankings.as_array().unwrap().len(), 1, "{rankings}");
    assert_eq!(tallycast.get("/v1/details/26").0, 200);
}
