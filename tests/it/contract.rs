//! The wire contract of the Emojitracker Streaming API. General HTTP behaviour is in `http.rs`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{Event, EventSource, Raw, RedisServer, Tallycast};

/// Sums the counts of `/eps` windows, each of which must be an object with at least one key and no zero.
pub(crate) fn sum_windows(windows: impl IntoIterator<Item = String>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for window in windows {
        let counts: BTreeMap<String, u64> = serde_json::from_str(&window).unwrap();
        assert!(!counts.is_empty(), "the window is empty");
        for (id, count) in counts {
            assert_ne!(count, 0, "{id} has a count of 0 in {window}");
            *sums.entry(id).or_default() += count;
        }
    }
    sums
}

#[test]
fn raw_event_bytes_are_the_id_only() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut raw = Raw::subscribe(&tallycast, "/subscribe/raw");
    redis.publish_scores(["1F602"]);
    raw.expect("c\r\ndata:1F602\n\n\r\n");
    redis.publish_scores(["1F1EF-1F1F5"]);
    raw.expect("12\r\ndata:1F1EF-1F1F5\n\n\r\n");
}

#[test]
fn raw_events_have_no_name_and_no_id() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    redis.publish_scores(["1F602", "2665"]);
    assert_eq!(raw.next(), Event::message("1F602"));
    assert_eq!(raw.next(), Event::message("2665"));
}

#[test]
fn eps_windows_count_every_event_and_are_never_empty() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let eps = EventSource::open(&tallycast, "/subscribe/eps");
    for id in ["1F602", "2665", "1F62D"] {
        redis.publish_scores(std::iter::repeat_n(id, 1000));
    }
    tallycast.until_counter("/tally/sent", 3000);
    // At least one period without events, which must not produce a window.
    redis.publish_scores(["2764"]);
    tallycast.until_counter("/tally/sent", 3001);
    let ended = tallycast.terminate();
    let windows: Vec<Event> = eps.rest();
    assert!(windows.iter().all(|window| window.name.is_none() && window.id.is_none()));
    assert_eq!(ended.counters()["tally"]["flushes"], windows.len());
    assert!(windows.len() < 1000, "{} windows for 3001 events", windows.len());
    let sums = sum_windows(windows.into_iter().map(|window| window.data));
    let expected = [("1F602", 1000), ("2665", 1000), ("1F62D", 1000), ("2764", 1)];
    assert_eq!(sums, expected.map(|(id, count)| (id.to_owned(), count)).into());
}

#[test]
fn eps_is_valid_json_for_any_key() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let eps = EventSource::open(&tallycast, "/subscribe/eps");
    let keys = ["\"", "\\", "a\nb", "\u{1}", "", "\u{1F602}", "{\"a\":1}"];
    redis.publish_scores(keys);
    tallycast.until_counter("/tally/sent", keys.len() as u64);
    tallycast.terminate();
    let sums = sum_windows(eps.rest().into_iter().map(|window| window.data));
    assert_eq!(sums, keys.map(|key| (key.to_owned(), 1)).into());
}

#[test]
fn details_event_bytes_are_channel_and_post() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut details = Raw::subscribe(&tallycast, "/subscribe/details/1F602");
    redis.publish_post("1F602", r#"{"id":"1","text":"ha \n ha"}"#);
    assert_eq!(details.chunk(), "event:stream.tweet_updates.1F602\ndata:{\"id\":\"1\",\"text\":\"ha \\n ha\"}\n\n");
}

#[test]
fn details_events_are_named_after_the_channel() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let details = EventSource::open(&tallycast, "/subscribe/details/1F602");
    redis.publish_post("1F602", r#"{"text":"こんにちは 😂"}"#);
    assert_eq!(details.next(), Event::named("stream.tweet_updates.1F602", r#"{"text":"こんにちは 😂"}"#));
}

#[test]
fn namespaces_match_whole_segments() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let [short, long] = ["26", "2665"].map(|id| EventSource::open(&tallycast, &format!("/subscribe/details/{id}")));
    redis.publish_post("2665", "long");
    redis.publish_post("26", "short");
    tallycast.until_counter("/hub/broadcast", 2);
    tallycast.terminate();
    assert_eq!(short.rest(), [Event::named("stream.tweet_updates.26", "short")]);
    assert_eq!(long.rest(), [Event::named("stream.tweet_updates.2665", "long")]);
}

#[test]
fn parent_namespaces_receive_child_events() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let parents = ["/subscribe/details", "/subscribe/details/"].map(|path| EventSource::open(&tallycast, path));
    let roots = ["/subscribe/", "/subscribe"].map(|path| EventSource::open(&tallycast, path));
    redis.publish_post("26", "one");
    redis.publish_scores(["26"]);
    redis.publish_post("2665", "two");
    // Two posts, one score and its window.
    tallycast.until_counter("/hub/broadcast", 4);
    tallycast.terminate();
    let posts =
        [("26", "one"), ("2665", "two")].map(|(id, text)| Event::named(&format!("stream.tweet_updates.{id}"), text));
    for parent in parents {
        assert_eq!(parent.rest(), posts);
    }
    for root in roots {
        let mut events = root.rest();
        let window = events.iter().position(|event| *event == Event::message(r#"{"26":1}"#)).unwrap();
        events.remove(window);
        assert_eq!(events, [posts[0].clone(), Event::message("26"), posts[1].clone()]);
    }
}

#[test]
fn raw_and_eps_exclude_posts() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let [raw, eps] = ["/subscribe/raw", "/subscribe/eps"].map(|path| EventSource::open(&tallycast, path));
    redis.publish_post("26", "a post");
    redis.publish_scores(["26"]);
    tallycast.until_counter("/hub/broadcast", 3);
    tallycast.terminate();
    assert_eq!(raw.rest(), [Event::message("26")]);
    assert_eq!(eps.rest(), [Event::message(r#"{"26":1}"#)]);
}

#[test]
fn response_starts_with_exact_headers_and_comment() {
    // This works without a broker.
    let tallycast = Tallycast::start_unready("redis://127.0.0.1:1", &[]);
    let mut raw = Raw::request(&tallycast, "GET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let head = raw.head();
    let (before, date) = head.split_once("date: ").unwrap();
    assert_eq!(
        before,
        "HTTP/1.1 200 OK\r\n\
         content-type: text/event-stream; charset=utf-8\r\n\
         cache-control: no-cache\r\n\
         access-control-allow-origin: *\r\n\
         x-accel-buffering: no\r\n\
         connection: keep-alive\r\n\
         transfer-encoding: chunked\r\n"
    );
    let date = date.strip_suffix("\r\n\r\n").unwrap();
    assert_eq!(httpdate::fmt_http_date(httpdate::parse_http_date(date).unwrap()), date);
    raw.expect("d\r\n: tallycast\n\n\r\n");
}

#[test]
fn head_request_returns_stream_headers_without_body() {
    let tallycast = Tallycast::start_unready("redis://127.0.0.1:1", &[]);
    let mut raw = Raw::request(&tallycast, "HEAD /subscribe/eps HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let head = raw.head();
    let (before, _) = head.split_once("date: ").unwrap();
    assert_eq!(
        before,
        "HTTP/1.1 200 OK\r\n\
         content-type: text/event-stream; charset=utf-8\r\n\
         cache-control: no-cache\r\n\
         access-control-allow-origin: *\r\n\
         x-accel-buffering: no\r\n\
         connection: keep-alive\r\n"
    );
    // The response is complete and the connection can be reused.
    raw.send("GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(raw.read_to_end().starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn options_request_returns_cors_headers() {
    let tallycast = Tallycast::start_unready("redis://127.0.0.1:1", &[]);
    let mut raw = Raw::request(
        &tallycast,
        "OPTIONS /subscribe/details/26 HTTP/1.1\r\nhost: localhost\r\norigin: http://example.com\r\n\
         access-control-request-method: GET\r\naccess-control-request-headers: last-event-id\r\n\
         connection: close\r\n\r\n",
    );
    let answer = raw.read_to_end();
    assert!(answer.starts_with("HTTP/1.1 204 No Content\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    for line in [
        "allow: GET, HEAD, OPTIONS",
        "access-control-allow-origin: *",
        "access-control-allow-methods: GET, HEAD, OPTIONS",
        "access-control-allow-headers: accept, cache-control, last-event-id",
    ] {
        assert!(answer.contains(&format!("\r\n{line}\r\n")), "{line:?} is not in {answer}");
    }
}

#[test]
fn other_methods_return_405_with_allow_header() {
    let tallycast = Tallycast::start_unready("redis://127.0.0.1:1", &[]);
    for method in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
        let request =
            format!("{method} /subscribe/raw HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let answer = Raw::request(&tallycast, &request).read_to_end();
        assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
        assert!(answer.contains("\r\nallow: GET, HEAD, OPTIONS\r\n"), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{method} is not allowed for streams; use GET\n")));
    }
}

#[test]
fn payload_line_ends_become_data_lines() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut raw = Raw::subscribe(&tallycast, "/subscribe/raw");
    let client = EventSource::open(&tallycast, "/subscribe/raw");
    let payloads = [
        ("a\nb", "data:a\ndata:b\n\n"),
        ("a\rb", "data:a\ndata:b\n\n"),
        ("a\r\nb", "data:a\ndata:b\n\n"),
        ("a\n\rb", "data:a\ndata:\ndata:b\n\n"),
        ("a\n", "data:a\ndata:\n\n"),
        ("\n", "data:\ndata:\n\n"),
        ("", "data:\n\n"),
        (" a", "data:  a\n\n"),
        ("data:x\n\nevent:y", "data:data:x\ndata:\ndata:event:y\n\n"),
    ];
    for (payload, framed) in payloads {
        redis.publish_scores([payload]);
        assert_eq!(raw.chunk(), framed, "{payload:?}");
        let joined = payload.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(client.next(), Event::message(&joined));
    }
}

#[test]
fn channels_with_line_breaks_are_rejected() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let root = EventSource::open(&tallycast, "/subscribe/");
    redis.publish_post("x\ndata:forged\n\n", "text");
    redis.publish_post("x\rdata:forged\r\r", "text");
    redis.publish_post("26", "true");
    assert_eq!(root.next(), Event::named("stream.tweet_updates.26", "true"));
    assert_eq!(tallycast.counter("/decode/rejected"), 2);
}

#[test]
fn non_utf8_payloads_are_rejected_and_counted() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    let payloads: [&[u8]; 4] = [b"before", b"\xff\xfe", b"half \xf0\x9f\x98", b"after"];
    redis.publish_scores(payloads);
    assert_eq!(raw.next(), Event::message("before"));
    assert_eq!(raw.next(), Event::message("after"));
    let counters = tallycast.json("/admin/counters.json");
    assert_eq!(counters["source"]["received"], 4);
    assert_eq!(counters["decode"]["rejected"], 2);
    assert_eq!(counters["decode"]["decoded"], 2);
    tallycast.wait_for_log("is not UTF-8");
}

#[test]
fn keep_alive_comments_are_not_events() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--keep-alive", "1s"]);
    let client = EventSource::open(&tallycast, "/subscribe/details/26");
    let mut raw = Raw::subscribe(&tallycast, "/subscribe/details/26");
    raw.expect("e\r\n: keep-alive\n\n\r\n");
    raw.expect("e\r\n: keep-alive\n\n\r\n");
    redis.publish_post("26", "news");
    assert_eq!(raw.chunk(), "event:stream.tweet_updates.26\ndata:news\n\n");
    assert_eq!(client.next(), Event::named("stream.tweet_updates.26", "news"));
}

#[test]
fn http2_streams_have_the_same_events_and_headers() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let by_version = [EventSource::open(&tallycast, "/subscribe/"), EventSource::open_http2(&tallycast, "/subscribe/")];
    assert_eq!(
        by_version.each_ref().map(|client| client.version),
        [reqwest::Version::HTTP_11, reqwest::Version::HTTP_2]
    );
    for client in &by_version {
        for (name, value) in [
            ("content-type", "text/event-stream; charset=utf-8"),
            ("cache-control", "no-cache"),
            ("access-control-allow-origin", "*"),
            ("x-accel-buffering", "no"),
        ] {
            assert_eq!(client.headers[name], value);
        }
    }
    redis.publish_post("26", "a\nb");
    redis.publish_scores(["1F602"]);
    tallycast.until_counter("/hub/broadcast", 3);
    tallycast.terminate();
    let [first, second] = by_version.map(|client| client.rest());
    assert_eq!(first.len(), 3);
    assert_eq!(first, second);
}

#[test]
fn route_flags_replace_the_default_routes() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(
        &redis,
        &["--route", "v1:prices:*=/prices/**,event=price,split=:.", "--route", "clicks=/clicks,tally=/clicks/tally"],
    );
    let asx = EventSource::open(&tallycast, "/subscribe/prices/ASX");
    let tally = EventSource::open(&tallycast, "/subscribe/clicks/tally");
    redis.publish([("v1:prices:NYSE:IBM", "1"), ("v1:prices:ASX.ANZ", "2"), ("stream.score_updates", "x")]);
    redis.publish([("clicks", "red")]);
    assert_eq!(asx.next(), Event::named("price", "2"));
    let counts: Value = serde_json::from_str(&tally.next().data).unwrap();
    assert_eq!(counts, serde_json::json!({"red": 1}));
    assert_eq!(tallycast.counter("/source/received"), 3);
}
