//! What any HTTP server owes its clients: clear answers to bad requests, every version of HTTP/1, connections that can
//! be used again.

use crate::support::{Raw, RedisServer, Tallycast, eventually};

fn without_broker(flags: &[&str]) -> Tallycast {
    Tallycast::start_unready("redis://127.0.0.1:1", flags)
}

/// The answer to a request after which the connection ends.
fn answer(tallycast: &Tallycast, request: &str) -> String {
    Raw::request(tallycast, request).read_to_the_end()
}

/// The body, which must be one line.
#[track_caller]
fn one_line(answer: &str) -> &str {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{answer}");
    assert!(head.contains("\r\ncontent-type: text/plain; charset=utf-8\r\n"), "{answer}");
    let line = body.strip_suffix('\n').unwrap();
    assert!(!line.contains(['\n', '\r']), "{answer}");
    line
}

#[test]
fn an_unknown_path_is_answered_with_the_paths_that_there_are() {
    let tallycast = without_broker(&[]);
    for path in ["/subscribed/raw", "/Subscribe/raw", "/Admin"] {
        let answer =
            answer(&tallycast, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
        assert_eq!(
            one_line(&answer),
            format!(
                "no such path: {path}; there are /subscribe/<namespace>, /ws/<namespace>, /, /admin/, /v1/rankings, /v1/details/<ID>, /v1/status, \
                 /healthz, /readyz, /admin/status.json, \
                 /admin/counters.json, /admin/history.json, /admin/events, /metrics"
            )
        );
    }
}

#[test]
fn a_path_that_is_no_namespace_is_answered_with_400() {
    let tallycast = without_broker(&[]);
    for (path, reason) in [
        ("/%zz", "percent-encoding must be '%' and two hexadecimal digits and decode to UTF-8"),
        ("/%F", "percent-encoding must be '%' and two hexadecimal digits and decode to UTF-8"),
        ("/%ff", "percent-encoding must be '%' and two hexadecimal digits and decode to UTF-8"),
        ("/a%2Fb", "a namespace has no control characters and no encoded '/'"),
        ("/a%0Ab", "a namespace has no control characters and no encoded '/'"),
        ("/a//b", "a namespace has no empty segment ('//')"),
    ] {
        let answer =
            answer(&tallycast, &format!("GET /subscribe{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert_eq!(one_line(&answer), format!("bad path after /subscribe: {reason}"));
    }
}

#[test]
fn percent_encoded_paths_are_decoded() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut raw = Raw::subscribe(&tallycast, "/subscribe/details/%F0%9F%98%82");
    redis.publish_post("😂", "found");
    assert_eq!(raw.chunk(), "event:stream.tweet_updates.😂\ndata:found\n\n");
}

#[test]
fn a_query_does_not_change_what_is_subscribed() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut raw = Raw::subscribe(&tallycast, "/subscribe/raw?_=1234");
    redis.publish_scores(["26"]);
    assert_eq!(raw.chunk(), "data:26\n\n");
}

#[test]
fn a_target_that_is_too_long_is_answered_with_414() {
    let tallycast = without_broker(&[]);
    let target = format!("/subscribe/{}", "x".repeat(5000));
    let answer = answer(&tallycast, &format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 414 URI Too Long\r\n"), "{answer}");
    assert_eq!(one_line(&answer), "the request's target has 5011 bytes, the limit is 4096");
}

#[test]
fn a_head_that_is_too_large_is_answered_with_431() {
    let tallycast = without_broker(&["--max-head-bytes", "8192"]);
    let filler = "x".repeat(20_000);
    let answer = answer(&tallycast, &format!("GET /subscribe/raw HTTP/1.1\r\nhost: x\r\nx-filler: {filler}\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{answer}");
    // Others are not disturbed.
    Raw::subscribe(&tallycast, "/subscribe/raw");
}

#[test]
fn a_head_that_does_not_come_is_answered_with_408() {
    let tallycast = without_broker(&["--head-timeout", "200ms"]);
    // Nothing at all, the beginning of a head, and what might become HTTP/2.
    let beginnings = ["", "GET /subscribe/raw HTTP/1.1\r\nhost: x\r\n", "PRI * HTTP/2.0\r\n"];
    for beginning in beginnings {
        let answer = answer(&tallycast, beginning);
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{beginning:?}: {answer:?}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert_eq!(one_line(&answer), "the request's head did not come in time.");
    }
    assert_eq!(tallycast.counter("/http/head_timeouts"), beginnings.len() as u64);
}

#[test]
fn a_connection_that_is_kept_for_later_is_closed_without_a_word_unless_a_request_has_begun() {
    let tallycast = without_broker(&["--head-timeout", "200ms"]);
    for (further, end_of_answer) in [("", ""), ("GET /hea", "HTTP/1.1 408 Request Timeout\r\n")] {
        let mut raw = Raw::request(&tallycast, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        assert!(raw.head().starts_with("HTTP/1.1 200 OK\r\n"));
        raw.expect("alive\n");
        raw.send(further);
        let end = raw.read_to_the_end();
        assert!(end.starts_with(end_of_answer) && end.is_empty() == further.is_empty(), "{end}");
    }
    assert_eq!(tallycast.counter("/http/head_timeouts"), 1);
}

#[test]
fn the_time_limit_for_heads_does_not_end_streams() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--head-timeout", "200ms", "--keep-alive", "1s"]);
    let mut raw = Raw::subscribe(&tallycast, "/subscribe/raw");
    raw.expect("e\r\n: keep-alive\n\n\r\n");
    redis.publish_scores(["26"]);
    assert_eq!(raw.chunk(), "data:26\n\n");
}

#[test]
fn a_client_of_http_1_0_gets_a_body_without_chunks() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut raw = Raw::request(&tallycast, "GET /subscribe/raw HTTP/1.0\r\n\r\n");
    let head = raw.head();
    assert!(head.contains("\r\nconnection: close\r\n") && !head.contains("transfer-encoding"), "{head}");
    raw.expect(": tallycast\n\n");
    redis.publish_scores(["1F602"]);
    raw.expect("data:1F602\n\n");
    tallycast.terminate();
    assert_eq!(raw.read_to_the_end(), "");
}

#[test]
fn what_is_no_http_is_answered_with_400() {
    let tallycast = without_broker(&[]);
    let answer = answer(&tallycast, "\x16\x03\x01 this is no request\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer:?}");
}

#[test]
fn a_stream_can_follow_a_page_on_the_same_connection() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut raw = Raw::connect(&tallycast);
    for _ in 0..3 {
        raw.send("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        assert!(raw.head().starts_with("HTTP/1.1 200 OK\r\n"));
        raw.expect("alive\n");
    }
    let mut raw = raw.subscribed("/subscribe/raw");
    redis.publish_scores(["1F602"]);
    assert_eq!(raw.chunk(), "data:1F602\n\n");
}

#[test]
fn a_stream_can_be_asked_for_before_the_page_was_answered() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    for _ in 0..20 {
        let mut raw = Raw::request(
            &tallycast,
            "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\n\r\n",
        );
        assert!(raw.head().starts_with("HTTP/1.1 200 OK\r\n"));
        raw.expect("alive\n");
        assert!(raw.head().contains("\r\ncontent-type: text/event-stream; charset=utf-8\r\n"));
        raw.expect("d\r\n: tallycast\n\n\r\n");
        redis.publish_scores(["1F602"]);
        assert_eq!(raw.chunk(), "data:1F602\n\n");
    }
}

#[test]
fn a_stream_does_not_overtake_pages_that_its_client_has_not_read() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--send-buffer", "4096"]);
    for pages in [20, 21, 22, 23, 200] {
        let mut raw = Raw::connect_with_small_buffer(&tallycast);
        let page = "GET /admin/counters.json HTTP/1.1\r\nhost: localhost\r\n\r\n";
        raw.send(&(page.repeat(pages) + "GET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        // By the time that another is answered, this one's answers wait for it to be read.
        tallycast.get("/healthz");
        for _ in 0..pages {
            let head = raw.head();
            let (_, length) = head.split_once("\r\ncontent-length: ").expect("the answer to a request for a page");
            raw.read_exactly(length.split_once("\r\n").unwrap().0.parse().unwrap());
        }
        assert!(raw.head().contains("\r\ncontent-type: text/event-stream; charset=utf-8\r\n"));
        raw.expect("d\r\n: tallycast\n\n\r\n");
        redis.publish_scores(["1F602"]);
        assert_eq!(raw.chunk(), "data:1F602\n\n");
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut raw = Raw::connect(&tallycast);
    for byte in "GET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\n\r\n".chars() {
        raw.send(&byte.to_string());
    }
    assert!(raw.head().starts_with("HTTP/1.1 200 OK\r\n"));
    raw.expect("d\r\n: tallycast\n\n\r\n");
    redis.publish_scores(["1F602"]);
    assert_eq!(raw.chunk(), "data:1F602\n\n");
}

#[test]
fn connections_over_the_limit_are_answered_with_503_until_others_leave() {
    let tallycast = without_broker(&["--max-connections", "2"]);
    let streams = [(); 2].map(|()| Raw::subscribe(&tallycast, "/subscribe/raw"));
    let refused = answer(&tallycast, "GET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{refused}");
    assert!(refused.contains("\r\nretry-after: "), "{refused}");
    assert_eq!(one_line(&refused), "too many connections; try again in a moment.");
    drop(streams);
    eventually("the places are free again", || {
        let mut raw = Raw::request(&tallycast, "GET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\n\r\n");
        raw.head().starts_with("HTTP/1.1 200 OK\r\n")
    });
    eventually("the refusal is counted", || tallycast.get("/healthz").0 == 200);
    assert!(tallycast.counter("/http/refused") >= 1);
}
