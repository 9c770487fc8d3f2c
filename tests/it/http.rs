//! General HTTP behaviour: errors for invalid requests, HTTP/1.0 and 1.1, connection reuse and limits.

use crate::support::{Raw, RedisServer, Tallycast, eventually};

fn without_broker(flags: &[&str]) -> Tallycast {
    Tallycast::start_unready("redis://127.0.0.1:1", flags)
}

/// Sends a request and reads the response to the end of the connection.
fn answer(tallycast: &Tallycast, request: &str) -> String {
    Raw::request(tallycast, request).read_to_end()
}

/// The body of a response, which must be one line of text.
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
fn unknown_path_returns_404_with_available_paths() {
    let tallycast = without_broker(&[]);
    for path in ["/subscribed/raw", "/Subscribe/raw", "/Admin"] {
        let answer =
            answer(&tallycast, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
        assert_eq!(
            one_line(&answer),
            format!(
                "no such path: {path}; there are /subscribe/<namespace>, /ws/<namespace>, /, /admin/, /v1/rankings, /v1/details/<ID>, /v1/status, \
                 /publish/<namespace>, /publish, /count/<namespace>, /healthz, /readyz, /admin/status.json, \
                 /admin/counters.json, /admin/cluster.json, /admin/history.json, /admin/events, /admin/namespaces.json, \
                 /admin/tail, /admin/sessions.json, /admin/config.json, /admin/log.json, /admin/publish, /admin/disconnect, \
                 /metrics"
            )
        );
    }
}

#[test]
fn invalid_namespace_returns_400() {
    let tallycast = without_broker(&[]);
    for (path, reason) in [
        ("/%zz", "invalid percent-encoding: expected '%' and two hexadecimal digits, decoded to UTF-8"),
        ("/%F", "invalid percent-encoding: expected '%' and two hexadecimal digits, decoded to UTF-8"),
        ("/%ff", "invalid percent-encoding: expected '%' and two hexadecimal digits, decoded to UTF-8"),
        ("/a%2Fb", "a namespace must not have control characters or an encoded '/'"),
        ("/a%0Ab", "a namespace must not have control characters or an encoded '/'"),
        ("/a//b", "a namespace must not have an empty segment ('//')"),
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
fn unknown_query_parameters_are_ignored() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut raw = Raw::subscribe(&tallycast, "/subscribe/raw?_=1234&lastEventId=1");
    redis.publish_scores(["26"]);
    assert_eq!(raw.chunk(), "data:26\n\n");
}

#[test]
fn near_misses_of_query_parameters_return_400() {
    let tallycast = without_broker(&[]);
    for (query, name, known) in [("topics=/raw", "topics", "topic"), ("a=b&Snapshot=1", "Snapshot", "snapshot")] {
        for path in ["/subscribe", "/subscribe/eps", "/ws"] {
            let more =
                if path == "/ws" { "upgrade: websocket\r\nconnection: upgrade, close" } else { "connection: close" };
            let request = format!("GET {path}?{query} HTTP/1.1\r\nhost: x\r\n{more}\r\n\r\n");
            let answer = answer(&tallycast, &request);
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
            assert_eq!(one_line(&answer), format!("bad query: unknown parameter \"{name}\"; did you mean {known}?"));
        }
    }
    assert_eq!(tallycast.get("/v1/status?topics=1").0, 503, "not a stream");
}

#[test]
fn http_1_1_request_without_exactly_one_host_returns_400() {
    let tallycast = without_broker(&[]);
    for path in ["/subscribe/raw", "/healthz", "/nowhere", "http://a/healthz"] {
        for hosts in ["", "host: a\r\nHost: a\r\n", "host: a b\r\n", "host: a/b\r\n", "host: a@b\r\n"] {
            let answer = answer(&tallycast, &format!("GET {path} HTTP/1.1\r\n{hosts}connection: close\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{path} {hosts:?}: {answer}");
            assert_eq!(one_line(&answer), "expected one valid host header");
        }
    }
    for (version, host) in [("1.0", ""), ("1.0", "host: a\r\n"), ("1.1", "host:\r\n"), ("1.1", "host: [::1]:80\r\n")] {
        let answer = answer(&tallycast, &format!("GET /healthz HTTP/{version}\r\n{host}connection: close\r\n\r\n"));
        assert!(answer.split_once(' ').unwrap().1.starts_with("200 OK\r\n"), "{version} {host:?}: {answer}");
    }
}

#[test]
fn long_request_target_returns_414() {
    let tallycast = without_broker(&[]);
    let target = format!("/subscribe/{}", "x".repeat(5000));
    let answer = answer(&tallycast, &format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 414 URI Too Long\r\n"), "{answer}");
    assert_eq!(one_line(&answer), "the request target has 5011 bytes; the limit is 4096");
}

#[test]
fn large_request_headers_return_431() {
    let tallycast = without_broker(&["--max-head-bytes", "8192"]);
    let filler = "x".repeat(20_000);
    let answer = answer(&tallycast, &format!("GET /subscribe/raw HTTP/1.1\r\nhost: x\r\nx-filler: {filler}\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{answer}");
    // Other connections still work.
    Raw::subscribe(&tallycast, "/subscribe/raw");
}

#[test]
fn late_request_headers_return_408() {
    let tallycast = without_broker(&["--head-timeout", "200ms"]);
    // Nothing, the beginning of a request, and the beginning of an HTTP/2 preface.
    let beginnings = ["", "GET /subscribe/raw HTTP/1.1\r\nhost: x\r\n", "PRI * HTTP/2.0\r\n"];
    for beginning in beginnings {
        let answer = answer(&tallycast, beginning);
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{beginning:?}: {answer:?}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert_eq!(one_line(&answer), "the request headers did not arrive in time.");
    }
    assert_eq!(tallycast.counter("/http/head_timeouts"), beginnings.len() as u64);
}

#[test]
fn idle_connection_is_closed_silently_but_partial_request_returns_408() {
    let tallycast = without_broker(&["--head-timeout", "200ms", "--idle-timeout", "200ms"]);
    for (further, end_of_answer) in [("", ""), ("GET /hea", "HTTP/1.1 408 Request Timeout\r\n")] {
        let mut raw = Raw::request(&tallycast, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        assert!(raw.head().starts_with("HTTP/1.1 200 OK\r\n"));
        raw.expect("alive\n");
        raw.send(further);
        let end = raw.read_to_end();
        assert!(end.starts_with(end_of_answer) && end.is_empty() == further.is_empty(), "{end}");
    }
    assert_eq!(tallycast.counter("/http/head_timeouts"), 1);
}

#[test]
fn header_timeout_does_not_end_idle_connections() {
    let tallycast = without_broker(&["--head-timeout", "200ms"]);
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut idle = Raw::request(&tallycast, request);
    idle.head();
    idle.expect("alive\n");
    // Connected later, and closed for its headers.
    assert!(answer(&tallycast, "").starts_with("HTTP/1.1 408 "));
    idle.send(request);
    assert!(idle.head().starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn header_timeout_does_not_end_streams() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--head-timeout", "200ms", "--keep-alive", "1s"]);
    let mut raw = Raw::subscribe(&tallycast, "/subscribe/raw");
    raw.expect("e\r\n: keep-alive\n\n\r\n");
    redis.publish_scores(["26"]);
    assert_eq!(raw.chunk(), "data:26\n\n");
}

#[test]
fn http_1_0_response_is_not_chunked() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    let mut raw = Raw::request(&tallycast, "GET /subscribe/raw HTTP/1.0\r\n\r\n");
    let head = raw.head();
    assert!(head.contains("\r\nconnection: close\r\n") && !head.contains("transfer-encoding"), "{head}");
    raw.expect(": tallycast\n\n");
    redis.publish_scores(["1F602"]);
    raw.expect("data:1F602\n\n");
    tallycast.terminate();
    assert_eq!(raw.read_to_end(), "");
}

#[test]
fn invalid_http_returns_400() {
    let tallycast = without_broker(&[]);
    let answer = answer(&tallycast, "\x16\x03\x01 this is no request\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer:?}");
}

#[test]
fn stream_can_follow_responses_on_the_same_connection() {
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
fn stream_request_can_be_pipelined() {
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
fn stream_follows_unread_pipelined_responses() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--send-buffer", "4096"]);
    for pages in [20, 21, 22, 23, 200] {
        let mut raw = Raw::connect_with_small_buffer(&tallycast);
        let page = "GET /admin/counters.json HTTP/1.1\r\nhost: localhost\r\n\r\n";
        raw.send(&(page.repeat(pages) + "GET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        // Once another request is answered, the responses on this connection wait for their reader.
        tallycast.get("/healthz");
        for _ in 0..pages {
            let head = raw.head();
            let (_, length) = head.split_once("\r\ncontent-length: ").expect("a response with a body");
            raw.read_exactly(length.split_once("\r\n").unwrap().0.parse().unwrap());
        }
        assert!(raw.head().contains("\r\ncontent-type: text/event-stream; charset=utf-8\r\n"));
        raw.expect("d\r\n: tallycast\n\n\r\n");
        redis.publish_scores(["1F602"]);
        assert_eq!(raw.chunk(), "data:1F602\n\n");
    }
}

#[test]
fn request_may_arrive_byte_by_byte() {
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
fn connections_over_the_limit_get_503_until_others_close() {
    let tallycast = without_broker(&["--max-connections", "2"]);
    let streams = [(); 2].map(|()| Raw::subscribe(&tallycast, "/subscribe/raw"));
    let refused = answer(&tallycast, "GET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{refused}");
    assert!(refused.contains("\r\nretry-after: "), "{refused}");
    assert_eq!(one_line(&refused), "too many connections; try again in a moment.");
    drop(streams);
    eventually("new connections are accepted again", || {
        let mut raw = Raw::request(&tallycast, "GET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\n\r\n");
        raw.head().starts_with("HTTP/1.1 200 OK\r\n")
    });
    eventually("requests are answered again", || tallycast.get("/healthz").0 == 200);
    assert!(tallycast.counter("/http/refused") >= 1);
}

#[test]
fn requests_are_logged_at_debug_level_without_query() {
    let tallycast = without_broker(&["--log", "info,tallycast_server=debug"]);
    let _stream = Raw::subscribe(&tallycast, "/subscribe/eps?token=secret");
    answer(&tallycast, "DELETE /subscribe/raw HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    tallycast.wait_for_log(r#"request client=127.0.0.1 method=GET path="/subscribe/eps" status=200"#);
    tallycast.wait_for_log(r#"request client=127.0.0.1 method=DELETE path="/subscribe/raw" status=405"#);
}
