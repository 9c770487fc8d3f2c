//! The Mercure protocol, line by line over raw sockets, on one node and on two.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{EventSource, LIMIT, Raw, RedisServer, SECRET, Tallycast, block_on, get, jwt};

const PATH: &str = "/.well-known/mercure";
const BOOK: &str = "https://example.com/books/1";

fn flags() -> Vec<String> {
    ["--mercure", "--token-key", &format!("HS256={SECRET}"), "--retry", "100ms"].map(str::to_owned).to_vec()
}

fn start_with(redis: &RedisServer, more: &[&str]) -> Tallycast {
    let flags = flags();
    Tallycast::start(redis, &[&flags.iter().map(String::as_str).collect::<Vec<_>>()[..], more].concat())
}

fn start(redis: &RedisServer) -> Tallycast {
    start_with(redis, &[])
}

/// A token that may publish everything.
fn publisher() -> String {
    jwt(&json!({"mercure": {"publish": ["*"]}}))
}

fn subscriber(selectors: &[&str]) -> String {
    jwt(&json!({"mercure": {"subscribe": selectors, "payload": {"user": "ann"}}}))
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

fn post(tallycast: &Tallycast, headers: &[(&str, &str)], body: String) -> Answer {
    post_to(tallycast, PATH, headers, body)
}

fn post_to(tallycast: &Tallycast, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
    block_on(async {
        let client = reqwest::Client::builder().timeout(LIMIT).pool_max_idle_per_host(0).build().unwrap();
        let mut request = client.post(tallycast.url(path)).body(body);
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let content_type = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        Answer { status, content_type: content_type.unwrap_or_default(), body: response.text().await.unwrap() }
    })
}

/// Publishes with a token that allows everything; returns the id.
#[track_caller]
fn publish(tallycast: &Tallycast, fields: &[(&str, &str)]) -> String {
    let answer = post(tallycast, &[("authorization", &format!("Bearer {}", publisher()))], form(fields));
    assert_eq!((answer.status, &*answer.content_type), (200, "text/plain"), "{}", answer.body);
    answer.body
}

fn request(query: &str, token: &str, headers: &str) -> String {
    format!("GET {PATH}?{query} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n{headers}\r\n")
}

/// Opens a stream, and reads its headers and first bytes. Returns the headers.
#[track_caller]
fn subscribe(tallycast: &Tallycast, query: &str, token: &str, headers: &str) -> (Raw, String) {
    let mut stream = Raw::request(tallycast, &request(query, token, headers));
    let head = stream.head();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(stream.chunk(), ":\n");
    (stream, head)
}

/// Reads chunks until `count` events are there.
#[track_caller]
fn events(stream: &mut Raw, count: usize) -> Vec<String> {
    let mut text = String::new();
    while text.matches("\n\n").count() < count {
        text.push_str(&stream.chunk().replace(":\n", ""));
    }
    assert_eq!(text.matches("\n\n").count(), count, "{text:?}");
    text.split_inclusive("\n\n").map(str::to_owned).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn stream_begins_as_the_protocol_says() {
    let redis = RedisServer::start();
    let tallycast = start(&redis);
    let token = subscriber(&[]);
    let (_stream, head) = subscribe(&tallycast, &form(&[("topic", BOOK)]), &token, "");
    for line in [
        "content-type: text/event-stream",
        "cache-control: private, no-cache, no-store, must-revalidate, max-age=0",
        "pragma: no-cache",
        "expire: 0",
        "x-accel-buffering: no",
        "connection: keep-alive",
    ] {
        assert!(head.contains(&format!("\r\n{line}")), "{line}: {head}");
    }
    // No position was asked for.
    assert!(!head.contains("last-event-id"), "{head}");
    let missing = get(&tallycast, PATH, &[("authorization", &format!("Bearer {token}"))]);
    assert_eq!((missing.status, missing.body), (400, b"Missing \"topic\" parameter.\n".to_vec()));
    let mut head = Raw::request(&tallycast, &request("topic=a", &token, "").replacen("GET", "HEAD", 1));
    let head = head.head();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("pragma: no-cache\r\n"), "{head}");
}

#[test]
fn every_field_of_an_update_arrives_in_its_place() {
    let redis = RedisServer::start();
    let tallycast = start(&redis);
    let (mut stream, _) = subscribe(&tallycast, &form(&[("topic", BOOK)]), &subscriber(&[]), "");
    let id = publish(&tallycast, &[("topic", BOOK), ("data", "a\r\nb\rc\n d")]);
    assert!(id.starts_with("urn:uuid:") && id.len() == 45, "{id}");
    assert_eq!(events(&mut stream, 1), [format!("id: {id}\ndata: a\ndata: b\ndata: c\ndata:  d\n\n")]);
    let fields = [("topic", BOOK), ("data", ""), ("id", "own id"), ("type", "book"), ("retry", "500")];
    assert_eq!(publish(&tallycast, &fields), "own id");
    assert_eq!(events(&mut stream, 1), ["event: book\nretry: 500\nid: own id\ndata: \n\n"]);
    publish(&tallycast, &[("topic", BOOK), ("id", "1"), ("retry", "0")]);
    assert_eq!(events(&mut stream, 1), ["id: 1\ndata: \n\n"]);
}

#[test]
fn invalid_requests_are_answered_with_the_reason() {
    let redis = RedisServer::start();
    let tallycast = start(&redis);
    let bearer = format!("Bearer {}", publisher());
    let authorized = [("authorization", &*bearer)];
    let refused = |body: &str, status: u16, expected: &str| {
        let answer = post(&tallycast, &authorized, body.to_owned());
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        assert!(answer.body.contains(expected), "{body}: {}", answer.body);
    };
    refused("data=x", 400, "Missing \"topic\" parameter.");
    refused(&"topic=a&".repeat(1001), 400, "at most 1000");
    refused("topic=https://e.com/.well-known/mercure/x", 403, "the topics of the hub itself");
    refused("topic=/.well-known/mercure", 403, "the topics of the hub itself");
    refused("topic=a&id=%23b", 400, "id: must not begin with #");
    refused("topic=a&id=b%0Ac", 400, "id: expected");
    refused("topic=a&type=b%0Dc", 400, "type: expected");
    refused("topic=a&type=b%00c", 400, "type: expected");
    refused("topic=a&retry=x", 400, "retry: expected milliseconds");
    // It belongs to the Emojitracker routes.
    refused("topic=/raw", 400, "topic /raw: another route leads there; publish it with POST /publish/raw");
    let json = [authorized[0], ("content-type", "application/json")];
    assert_eq!(post(&tallycast, &json, "{}".to_owned()).status, 415);
    let charset = [authorized[0], ("content-type", "application/x-www-form-urlencoded;charset=UTF-8")];
    assert_eq!(post(&tallycast, &charset, "topic=a".to_owned()).status, 200);
    let too_many = format!("{PATH}?{}", "topic=a&".repeat(1001));
    // Longer than a request target may be without --max-target-bytes.
    assert_eq!(get(&tallycast, &too_many, &authorized).status, 414);
}

#[test]
fn topics_are_matched_exactly_by_star_and_by_template() {
    let redis = RedisServer::start();
    let tallycast = start(&redis);
    let nobody = subscriber(&[]);
    let streams = [
        ("*", "abcd"),
        (BOOK, "a"),
        ("https://example.com/books/{id}", "ac"),
        ("https://example.com/{+path}", "abc"),
        ("https://example.com{/kind,id}", "abc"),
        ("other", ""),
        ("{", ""),
    ];
    let mut streams = streams.map(|(selector, expected)| {
        (subscribe(&tallycast, &form(&[("topic", selector), ("topic", "end")]), &nobody, "").0, selector, expected)
    });
    for (topic, data) in
        [(BOOK, "a"), ("https://example.com/books", "b"), ("https://example.com/books/", "c"), ("books", "d")]
    {
        publish(&tallycast, &[("topic", topic), ("data", data), ("id", data)]);
    }
    publish(&tallycast, &[("topic", "end"), ("id", "end")]);
    for (stream, selector, expected) in &mut streams {
        let mut received = String::new();
        loop {
            let event = events(stream, 1).remove(0);
            let id = event.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
            if id == "end" {
                break;
            }
            received.push_str(id);
        }
        assert_eq!(received, *expected, "{selector}");
    }
}

#[test]
fn update_with_alternates_arrives_once() {
    let redis = RedisServer::start();
    let tallycast = start(&redis);
    let query = form(&[("topic", BOOK), ("topic", "https://example.com/{+rest}"), ("topic", "alternate")]);
    let (mut both, _) = subscribe(&tallycast, &query, &subscriber(&[]), "");
    let (mut alternate, _) = subscribe(&tallycast, "topic=alternate", &subscriber(&[]), "");
    publish(&tallycast, &[("topic", BOOK), ("topic", "alternate"), ("id", "1")]);
    publish(&tallycast, &[("topic", "alternate"), ("id", "2")]);
    assert_eq!(events(&mut both, 2), ["id: 1\ndata: \n\n", "id: 2\ndata: \n\n"]);
    assert_eq!(events(&mut alternate, 2), ["id: 1\ndata: \n\n", "id: 2\ndata: \n\n"]);
}

#[test]
fn private_update_reaches_only_clients_that_were_granted_a_topic() {
    let redis = RedisServer::start();
    let tallycast = start_with(&redis, &["--mercure-anonymous"]);
    let query = form(&[("topic", BOOK)]);
    let (mut granted, _) = subscribe(&tallycast, &query, &subscriber(&[BOOK]), "");
    // By an alternate, as the protocol's users do it.
    let (mut by_alternate, _) = subscribe(&tallycast, &query, &subscriber(&["https://example.com/users/{id}"]), "");
    let (mut by_star, _) = subscribe(&tallycast, &query, &subscriber(&["*"]), "");
    let (mut other, _) = subscribe(&tallycast, &query, &subscriber(&["https://example.com/books/2"]), "");
    let mut anonymous = Raw::request(&tallycast, &format!("GET {PATH}?{query} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    assert!(anonymous.head().starts_with("HTTP/1.1 200 OK"));
    assert_eq!(anonymous.chunk(), ":\n");
    let private = [("topic", BOOK), ("topic", "https://example.com/users/7"), ("private", "on"), ("id", "private")];
    publish(&tallycast, &private);
    publish(&tallycast, &[("topic", BOOK), ("id", "public")]);
    for stream in [&mut granted, &mut by_alternate, &mut by_star] {
        assert_eq!(events(stream, 2), ["id: private\ndata: \n\n", "id: public\ndata: \n\n"]);
    }
    for stream in [&mut other, &mut anonymous] {
        assert_eq!(events(stream, 1), ["id: public\ndata: \n\n"]);
    }
    // The same holds for what is replayed.
    for (selector, expected) in [(BOOK, &["private", "public"][..]), ("x", &["public"])] {
        let (mut stream, head) =
            subscribe(&tallycast, &format!("{query}&lastEventID=earliest"), &subscriber(&[selector]), "");
        assert!(head.contains("last-event-id: earliest\r\n"), "{head}");
        let expected: Vec<String> = expected.iter().map(|id| format!("id: {id}\ndata: \n\n")).collect();
        assert_eq!(events(&mut stream, expected.len()), expected);
    }
}

#[test]
fn tokens_decide_who_subscribes_and_publishes() {
    let redis = RedisServer::start();
    let tallycast = start(&redis);
    let status = |query: &str, headers: &[(&str, &str)]| get(&tallycast, &format!("{PATH}?{query}"), headers).status;
    assert_eq!(status("topic=a", &[]), 401);
    assert_eq!(status("topic=a", &[("authorization", "Bearer short")]), 401);
    assert_eq!(status("topic=a&authorization=short", &[]), 401);
    let expired = jwt(&json!({"mercure": {"subscribe": ["*"]}, "exp": now() - 3600}));
    assert_eq!(status("topic=a", &[("authorization", &format!("Bearer {expired}"))]), 401);
    let open = |query: &str, header: &str| {
        let request = format!("GET {PATH}?{query} HTTP/1.1\r\nhost: localhost\r\n{header}\r\n");
        Raw::request(&tallycast, &request).line().trim_end().to_owned()
    };
    let ours = subscriber(&["a"]);
    assert_eq!(open(&format!("topic=a&authorization={ours}"), ""), "HTTP/1.1 200 OK");
    assert_eq!(open("topic=a", &format!("cookie: x=y; mercureAuthorization={ours}\r\n")), "HTTP/1.1 200 OK");
    let namespaced = jwt(&json!({"https://mercure.rocks/": {"subscribe": ["a"]}}));
    assert_eq!(open("topic=a", &format!("authorization: Bearer {namespaced}\r\n")), "HTTP/1.1 200 OK");

    let ticket = block_on(async {
        let request = reqwest::Client::new().post(tallycast.url("/tickets")).bearer_auth(&ours).send();
        let answer: Value = serde_json::from_str(&request.await.unwrap().text().await.unwrap()).unwrap();
        answer["ticket"].as_str().unwrap().to_owned()
    });
    let with_ticket = format!("topic=a&ticket={ticket}");
    assert_eq!([open(&with_ticket, ""), open(&with_ticket, "")], ["HTTP/1.1 200 OK", "HTTP/1.1 401 Unauthorized"]);

    let publish = |claims: Value, topics: &[&str]| {
        let fields: Vec<(&str, &str)> = topics.iter().map(|topic| ("topic", *topic)).collect();
        post(&tallycast, &[("authorization", &format!("Bearer {}", jwt(&claims)))], form(&fields)).status
    };
    assert_eq!(publish(json!({"mercure": {"publish": ["*"]}}), &["a", "b"]), 200);
    assert_eq!(publish(json!({"mercure": {"publish": ["a", "{+x}b"]}}), &["a", "/b"]), 200);
    assert_eq!(publish(json!({"mercure": {"publish": ["a"]}}), &["a", "b"]), 401);
    assert_eq!(publish(json!({"mercure": {"publish": []}}), &["a"]), 401);
    assert_eq!(publish(json!({"mercure": {"subscribe": ["*"]}}), &["a"]), 401);
    assert_eq!(publish(json!({"https://mercure.rocks/": {"publish": ["*"]}}), &["a"]), 200);
    assert_eq!(post(&tallycast, &[], form(&[("topic", "a")])).status, 401);
    let in_query = post_to(&tallycast, &format!("{PATH}?authorization={}", publisher()), &[], form(&[("topic", "a")]));
    assert_eq!(in_query.status, 200);
    assert!(!tallycast.log().contains(&publisher()) && !tallycast.log().contains(&ours));
}

#[test]
fn cookie_publishes_only_for_pages_of_listed_origins() {
    let redis = RedisServer::start();
    let tallycast = start_with(&redis, &["--allowed-origin", "https://app.example.com"]);
    let cookie = format!("mercureAuthorization={}", publisher());
    let status = |origin: &[(&str, &str)]| {
        post(&tallycast, &[&[("cookie", &*cookie)], origin].concat(), form(&[("topic", "a")])).status
    };
    assert_eq!(status(&[("origin", "https://app.example.com")]), 200);
    assert_eq!(status(&[("referer", "https://app.example.com/page?x=y")]), 200);
    assert_eq!(status(&[]), 403);
    assert_eq!(status(&[("origin", "https://evil.example.com")]), 403);
    assert_eq!(status(&[("origin", "null"), ("referer", "https://app.example.com/")]), 403);
    assert_eq!(status(&[("referer", "https://app.example.com.evil.com/")]), 403);
}

#[test]
fn pages_of_listed_origins_send_credentials() {
    let redis = RedisServer::start();
    let tallycast = start_with(&redis, &["--allowed-origin", "https://app.example.com"]);
    let origin = "origin: https://app.example.com\r\n";
    let (_stream, head) = subscribe(&tallycast, "topic=a", &subscriber(&[]), origin);
    for line in ["access-control-allow-origin: https://app.example.com", "access-control-allow-credentials: true"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
    }
    let preflight = format!(
        "OPTIONS {PATH} HTTP/1.1\r\nhost: localhost\r\n{origin}access-control-request-method: POST\r\n\
         access-control-request-headers: authorization, cache-control, last-event-id\r\n\r\n"
    );
    let head = Raw::request(&tallycast, &preflight).head().to_lowercase();
    assert!(head.contains("access-control-allow-credentials: true\r\n"), "{head}");
    for header in ["authorization", "cache-control", "last-event-id"] {
        assert!(head.contains(header), "{head}");
    }
    assert!(head.contains("post"), "{head}");
}

#[test]
fn client_resumes_by_every_spelling_on_any_node() {
    let redis = RedisServer::start();
    let (one, other) = (start(&redis), start(&redis));
    let ids: Vec<String> =
        (0..5).map(|number| publish(&one, &[("topic", "a"), ("data", &number.to_string())])).collect();
    let token = subscriber(&[]);
    let ahead = encoded(&ids[1]);
    let mut requests: Vec<(String, String)> = ["lastEventID", "last_event_id", "Last-Event-ID", "lastEventId"]
        .iter()
        .map(|name| (format!("topic=a&{name}={ahead}"), String::new()))
        .collect();
    requests.push(("topic=a&lastEventID=earliest".to_owned(), format!("last-event-id: {}\r\n", ids[1])));
    for (query, header) in requests {
        for node in [&one, &other] {
            let (mut stream, head) = subscribe(node, &query, &token, &header);
            assert!(head.contains(&format!("last-event-id: {}\r\n", ids[1])), "{head}");
            let expected: Vec<String> =
                (2..5).map(|number| format!("id: {}\ndata: {number}\n\n", ids[number])).collect();
            assert_eq!(events(&mut stream, 3), expected, "{query}");
        }
    }
    let (mut stream, head) = subscribe(&other, "topic=a&lastEventID=earliest", &token, "");
    assert!(head.contains("last-event-id: earliest\r\n"), "{head}");
    assert_eq!(events(&mut stream, 5).len(), 5);
    // A node that starts later has the same history.
    let late = start(&redis);
    let (mut stream, _) = subscribe(&late, &format!("topic=a&lastEventID={}", encoded(&ids[3])), &token, "");
    assert_eq!(events(&mut stream, 1), [format!("id: {}\ndata: 4\n\n", ids[4])]);
    // Live updates follow, published at another node.
    let id = publish(&one, &[("topic", "a"), ("data", "5")]);
    assert_eq!(events(&mut stream, 1), [format!("id: {id}\ndata: 5\n\n")]);
}

#[test]
fn unknown_position_gets_everything_that_is_kept_and_says_so() {
    let redis = RedisServer::start();
    let tallycast = start(&redis);
    publish(&tallycast, &[("topic", "a"), ("id", "1")]);
    let (mut stream, head) = subscribe(&tallycast, "topic=a&lastEventID=urn:gone", &subscriber(&[]), "");
    assert!(head.contains("last-event-id: earliest\r\n"), "{head}");
    assert_eq!(events(&mut stream, 1), ["id: 1\ndata: \n\n"]);
}

#[test]
fn streams_end_with_their_token_or_after_their_lifetime() {
    let redis = RedisServer::start();
    let tallycast = start_with(&redis, &["--mercure-lifetime", "2s"]);
    let (mut stream, _) = subscribe(&tallycast, "topic=a", &subscriber(&[]), "");
    stream.chunks_to_end();
    let short = jwt(&json!({"mercure": {"subscribe": ["*"]}, "exp": now() + 2}));
    let long_lived = start(&redis);
    let (mut stream, _) = subscribe(&long_lived, "topic=a", &short, "");
    stream.chunks_to_end();
}

#[test]
fn updates_and_messages_are_read_through_each_others_api() {
    let redis = RedisServer::start();
    let tallycast = start_with(&redis, &["--public", "/**"]);
    // What is published on channels, by the protocol's clients.
    let (mut raw, _) = subscribe(&tallycast, "topic=/raw", &subscriber(&[]), "");
    redis.publish([("stream.score_updates", "1F602")]);
    assert_eq!(events(&mut raw, 1), ["data: 1F602\n\n"]);
    // Updates, by native clients.
    let native = EventSource::open(&tallycast, &format!("/subscribe?topic={}&envelope=1", encoded(BOOK)));
    publish(&tallycast, &[("topic", BOOK), ("data", "{\"a\":1}"), ("type", "t")]);
    let event: Value = serde_json::from_str(&native.next().data).unwrap();
    assert_eq!((&event["namespace"], &event["event"], &event["data"]), (&json!(BOOK), &json!("t"), &json!({"a": 1})));
}

#[test]
fn selectors_do_not_reach_namespaces_that_need_a_token() {
    let redis = RedisServer::start();
    let tallycast = start_with(&redis, &["--public", "/eps", "--route", "secret=/secret", "--route", "open=/eps"]);
    let query = form(&[("topic", "*"), ("topic", "/{name}")]);
    let (mut stream, _) = subscribe(&tallycast, &query, &subscriber(&["x"]), "");
    redis.publish([("secret", "1"), ("open", "2")]);
    publish(&tallycast, &[("topic", "x"), ("id", "3")]);
    // The order of different channels and streams is not defined.
    let mut received = events(&mut stream, 2);
    received.sort();
    assert_eq!(received, ["data: 2\n\n", "id: 3\ndata: \n\n"]);
    let bearer = format!("Bearer {}", subscriber(&["x"]));
    let refused = get(&tallycast, &format!("{PATH}?topic=/secret"), &[("authorization", &bearer)]);
    assert_eq!(refused.status, 403);
    assert!(String::from_utf8_lossy(&refused.body).contains("/secret"));
}

/// Requests subscriptions with a token that may read what is at the path.
fn subscriptions(tallycast: &Tallycast, path: &str, headers: &[(&str, &str)]) -> (u16, String, Value) {
    let bearer = format!("Bearer {}", subscriber(&["/.well-known/mercure/subscriptions{/topic}{/subscriber}"]));
    let headers = [&[("authorization", &*bearer)], headers].concat();
    let response = get(tallycast, &format!("{PATH}/subscriptions{path}"), &headers);
    let etag = response.header("etag").to_owned();
    if response.status == 200 {
        assert_eq!(response.header("content-type"), "application/ld+json");
    }
    (response.status, etag, serde_json::from_slice(&response.body).unwrap_or_default())
}

#[test]
fn subscriptions_are_listed_and_announced_on_all_nodes() {
    let redis = RedisServer::start();
    let (one, other) = (start_with(&redis, &["--subscriptions"]), start_with(&redis, &["--subscriptions"]));
    let template = "/.well-known/mercure/subscriptions/{topic}/{subscriber}";
    let (mut watcher, _) = subscribe(&one, &form(&[("topic", template)]), &subscriber(&[template]), "");
    let (mut blind, _) = subscribe(&one, &form(&[("topic", template), ("topic", "end")]), &subscriber(&["x"]), "");
    let announced = |stream: &mut Raw, selector: &str| loop {
        let event = events(stream, 1).remove(0);
        let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        if data["topic"] == selector {
            return data;
        }
    };
    let selector = "https://example.com/{x}";
    let (reader, _) = subscribe(&other, &form(&[("topic", selector)]), &subscriber(&[]), "");
    let begun = announced(&mut watcher, selector);
    let id = begun["subscriber"].as_str().unwrap().to_owned();
    let path = format!("/.well-known/mercure/subscriptions/https%3A%2F%2Fexample.com%2F%7Bx%7D/{}", encoded(&id));
    assert_eq!(
        begun,
        json!({"@context": "https://mercure.rocks/", "id": path, "type": "Subscription", "topic": selector,
               "subscriber": id, "active": true, "payload": {"user": "ann"}})
    );
    let (status, etag, all) = subscriptions(&one, "", &[]);
    assert_eq!(
        (status, &all["type"], &all["id"]),
        (200, &json!("Subscriptions"), &json!(format!("{PATH}/subscriptions")))
    );
    assert_eq!(etag, format!("\"{}\"", all["lastEventID"].as_str().unwrap()));
    assert!(
        all["subscriptions"].as_array().unwrap().iter().any(|subscription| subscription["subscriber"] == *id),
        "{all}"
    );
    assert_eq!(subscriptions(&one, "", &[("if-none-match", &etag)]).0, 304);
    let (_, _, of_topic) = subscriptions(&one, "/https%3A%2F%2Fexample.com%2F%7Bx%7D", &[]);
    assert_eq!(of_topic["subscriptions"].as_array().unwrap().len(), 1);
    let (_, _, single) = subscriptions(&one, path.strip_prefix("/.well-known/mercure/subscriptions").unwrap(), &[]);
    assert_eq!(
        (&single["type"], &single["subscriber"], &single["active"]),
        (&json!("Subscription"), &json!(id), &json!(true))
    );
    assert!(single["lastEventID"].is_string());
    assert_eq!(subscriptions(&one, "/none/urn%3Auuid%3Abb3de268-05b0-4c65-b44e-8f9acefc29d6", &[]).0, 404);
    let unauthorized =
        get(&one, &format!("{PATH}/subscriptions"), &[("authorization", &format!("Bearer {}", subscriber(&["x"])))]);
    assert_eq!(unauthorized.status, 401);
    assert_eq!(get(&one, &format!("{PATH}/subscriptions"), &[]).status, 401);

    // The node is killed, and another one says so.
    other.signal(Signal::KILL);
    drop(reader);
    let ended = announced(&mut watcher, selector);
    assert_eq!((&ended["subscriber"], &ended["active"]), (&json!(id), &json!(false)));
    publish(&one, &[("topic", "end"), ("id", "end")]);
    assert_eq!(events(&mut blind, 1), ["id: end\ndata: \n\n"]);
}
