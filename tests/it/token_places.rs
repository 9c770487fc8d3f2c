//! Where a token may stand: cookie, query, WebSocket subprotocol and ticket; and CORS for pages that publish.

use serde_json::Value;

use crate::support::{
    EventSource, Raw, RedisServer, SECRET, Tallycast, WebSocket, command, eventually, get, post, token,
};

fn flags<'a>(key: &'a str, others: &[&'a str]) -> Vec<&'a str> {
    [&["--token-key", key, "--log", "debug"], others].concat()
}

fn key() -> String {
    format!("HS256={SECRET}")
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn ticket(tallycast: &Tallycast, token: &str) -> String {
    let answer = post(tallycast, "/tickets", &[("authorization", &bearer(token))], "");
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"), "{}", answer.body);
    let answer: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(answer["expires_in"], 30);
    answer["ticket"].as_str().unwrap().to_owned()
}

/// The first line of the response to a request for a stream.
fn status(tallycast: &Tallycast, path: &str, headers: &[(&str, &str)]) -> u16 {
    let mut raw = Raw::connect(tallycast);
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    raw.send(&format!("GET {path} HTTP/1.1\r\nhost: live.example\r\n{headers}\r\n"));
    raw.line()["HTTP/1.1 ".len()..][..3].parse().unwrap()
}

#[test]
fn tickets_are_for_one_use_on_any_node() {
    let redis = RedisServer::start();
    let key = key();
    let nodes = [Tallycast::start(&redis, &flags(&key, &[])), Tallycast::start(&redis, &flags(&key, &[]))];
    let token = token(&["--sub", "ann", "--read", "/raw", "--read", "/details"]);
    let ticket = ticket(&nodes[0], &token);
    let path = format!("/subscribe/raw?ticket={ticket}");
    let stream = EventSource::open(&nodes[1], &path);
    redis.publish([("stream.score_updates", "1F602")]);
    assert_eq!(stream.next().data, "1F602");
    for node in &nodes {
        let again = get(node, &path, &[]);
        assert_eq!(again.status, 401);
        assert_eq!(again.body, b"the ticket is unknown, used or older than 30 s\n");
        assert!(again.header("www-authenticate").contains("error=\"invalid_token\""));
    }
    assert_eq!(nodes[1].counter("/auth/refused_tickets"), 1);
    // The commands of a WebSocket are judged by the token that its ticket stood for.
    let ticket = self::ticket(&nodes[1], &token);
    let mut socket = WebSocket::open(&nodes[0], &format!("/ws/raw?ticket={ticket}"));
    for (topic, error) in [("/details", Value::Null), ("/other", "not allowed to read /other".into())] {
        socket.send_text(&serde_json::json!({"subscribe": [topic]}).to_string());
        assert_eq!(socket.json()["error"], error);
    }
    let refused = post(&nodes[0], "/tickets", &[], "");
    assert_eq!(refused.line(), (401, "a token is required"));
    let refused = post(&nodes[0], "/tickets", &[("authorization", "Bearer a.b.c")], "");
    assert_eq!(refused.status, 401);
    // A ticket does not publish, and makes no ticket.
    let ticket = self::ticket(&nodes[0], &token);
    assert_eq!(post(&nodes[0], &format!("/tickets?ticket={ticket}"), &[], "").status, 401);
    assert_eq!(post(&nodes[0], &format!("/publish/raw?ticket={ticket}"), &[], "x").status, 401);
    // Redis forgets it, or the token itself expires.
    let mut connection = redis.connect();
    let keys: Vec<String> = redis::cmd("KEYS").arg("tallycast:ticket:*").query(&mut connection).unwrap();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let _: i64 = redis::cmd("PEXPIRE").arg(&keys[0]).arg(1).query(&mut connection).unwrap();
    eventually("the ticket has expired", || {
        redis::cmd("EXISTS").arg(&keys[0]).query::<i64>(&mut connection).unwrap() == 0
    });
    assert_eq!(status(&nodes[0], &format!("/subscribe/raw?ticket={ticket}"), &[]), 401);
    for node in nodes {
        let log = node.terminate().log;
        assert!(log.contains("/subscribe/raw"), "{log}");
        assert!(!log.contains(&ticket) && !log.contains("ticket=") && !log.contains(&token), "{log}");
    }
}

#[test]
fn demo_keeps_tickets_in_memory() {
    let mut demo = command();
    demo.args(["demo", "--rate", "100", "--token-key", &key()]);
    let demo = Tallycast::spawn(demo);
    let path = format!("/subscribe/raw?ticket={}", ticket(&demo, &token(&["--read", "/raw"])));
    drop(EventSource::open(&demo, &path));
    assert_eq!(status(&demo, &path, &[]), 401);
}

#[test]
fn cookies_count_for_reading_and_for_own_pages() {
    let redis = RedisServer::start();
    let key = key();
    let others = ["--allowed-origin", "https://app.example", "--token-cookie", "session", "--route", "m.*=/**"];
    let tallycast = Tallycast::start(&redis, &flags(&key, &others));
    let token = token(&["--read", "/raw", "--publish", "/raw"]);
    let cookie = format!("a=b; session={token}");
    let cookie = ("cookie", cookie.as_str());
    assert_eq!(status(&tallycast, "/subscribe/raw", &[cookie]), 200);
    assert_eq!(status(&tallycast, "/subscribe/raw", &[("cookie", &format!("tallycast={token}"))]), 401);
    let host = ("host", "live.example");
    for (headers, is_own) in [
        (vec![("origin", "https://app.example")], true),
        (vec![("origin", "https://live.example"), host], true),
        (vec![("referer", "https://app.example/page")], true),
        (vec![("origin", "https://evil.example")], false),
        (vec![("origin", "null")], false),
        (vec![], false),
    ] {
        let headers = [&[cookie], &headers[..]].concat();
        let published = post(&tallycast, "/publish/raw", &headers, "x");
        let made = post(&tallycast, "/tickets", &headers, "");
        let expected = if is_own { (200, 200) } else { (403, 403) };
        assert_eq!((published.status, made.status), expected, "{headers:?}: {}", published.body);
        if !is_own {
            assert!(published.body.starts_with("a cookie counts only for pages of this server and of the origins"));
        }
    }
    // A page of a listed origin publishes and reads what the answer says.
    let origin = ("origin", "https://app.example");
    let answer = post(&tallycast, "/publish/raw", &[cookie, origin], "x");
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    let mut raw = Raw::connect(&tallycast);
    raw.send(
        "OPTIONS /tickets HTTP/1.1\r\nhost: a\r\norigin: https://app.example\r\naccess-control-request-method: POST\r\n\
         access-control-request-headers: authorization\r\nconnection: close\r\n\r\n",
    );
    let preflight = raw.read_to_end().to_ascii_lowercase();
    for line in [
        "http/1.1 204",
        "access-control-allow-origin: https://app.example",
        "access-control-allow-credentials: true",
        "access-control-allow-methods: post",
        "access-control-allow-headers: authorization, content-type, idempotency-key",
    ] {
        assert!(preflight.contains(line), "{line}: {preflight}");
    }
}

#[test]
fn cookie_of_another_page_opens_no_websocket() {
    let redis = RedisServer::start();
    let key = key();
    // Every origin is allowed.
    let tallycast = Tallycast::start(&redis, &flags(&key, &[]));
    let cookie = format!("tallycast={}", token(&["--read", "/raw"]));
    let open = |origin: Option<&str>| {
        let mut headers = vec![("cookie", cookie.as_str())];
        headers.extend(origin.map(|origin| ("origin", origin)));
        WebSocket::open_with(&tallycast, "/ws/raw", &headers).is_ok()
    };
    assert!(open(None) && open(Some(&format!("http://{}", tallycast.address))));
    assert!(!open(Some("https://evil.example")));
}

#[test]
fn query_counts_only_with_the_flag() {
    let redis = RedisServer::start();
    let key = key();
    let token = token(&["--read", "/raw"]);
    for (others, expected) in [(&[][..], 401), (&["--token-in-query"], 200)] {
        let tallycast = Tallycast::start(&redis, &flags(&key, others));
        for name in ["authorization", "token", "access_token"] {
            assert_eq!(status(&tallycast, &format!("/subscribe/raw?{name}={token}"), &[]), expected, "{name}");
        }
        let stream = (expected == 200).then(|| EventSource::open(&tallycast, &format!("/subscribe/raw?token={token}")));
        let report = tallycast.get("/admin/status.json").1;
        assert!(!report.contains(&token) && report.contains("/subscribe/raw") == stream.is_some(), "{report}");
        drop(stream);
        let log = tallycast.terminate().log;
        assert!(log.contains("/subscribe/raw") && !log.contains(&token), "{log}");
    }
}

#[test]
fn subprotocol_may_be_a_token_and_is_not_repeated() {
    let redis = RedisServer::start();
    let key = key();
    let tallycast = Tallycast::start(&redis, &flags(&key, &[]));
    let token = token(&["--read", "/raw"]);
    for (offered, chosen) in [("json, bearer.", "json"), ("raw,bearer.", "raw")] {
        let offered = format!("{offered}{token}");
        let headers = [("sec-websocket-protocol", offered.as_str())];
        let socket = WebSocket::open_with(&tallycast, "/ws/raw", &headers).unwrap();
        assert_eq!(socket.response.headers()["sec-websocket-protocol"], chosen);
    }
    let wrong = format!("json, bearer.{}", &token[..token.len() - 3]);
    assert!(WebSocket::open_with(&tallycast, "/ws/raw", &[("sec-websocket-protocol", &wrong)]).is_err());
    let log = tallycast.terminate().log;
    assert!(!log.contains(&token) && !log.contains("bearer."), "{log}");
}
