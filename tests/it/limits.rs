//! Limits per client, client addresses behind proxies, and exhausted file descriptors.

use std::io::Read;
use std::net::TcpStream;

use serde_json::Value;

use crate::support::{Event, EventSource, LIMIT, Raw, RedisServer, Tallycast, eventually, get};

/// Sends a request for `path` on a new connection and returns the response headers.
fn answer(tallycast: &Tallycast, path: &str, more: &str) -> String {
    let mut raw = Raw::connect(tallycast);
    raw.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n"));
    raw.head()
}

/// The value of the `retry-after` header in seconds.
fn retry_after(head: &str) -> u64 {
    let (_, rest) = head.split_once("\r\nretry-after: ").unwrap_or_else(|| panic!("no retry-after in {head}"));
    rest.split_once("\r\n").unwrap().0.parse().unwrap()
}

/// The addresses of the clients that have streams.
pub(crate) fn clients(tallycast: &Tallycast) -> Vec<String> {
    let status = tallycast.json("/admin/status.json?sort=oldest");
    let connections = status["connections"].as_array().unwrap();
    connections.iter().map(|connection| connection["client_ip"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn connections_per_address_are_limited() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--max-per-address", "3"]);
    let first = Raw::subscribe(&tallycast, "/subscribe/raw");
    let _others = [(); 2].map(|()| Raw::subscribe(&tallycast, "/subscribe/raw"));
    let head = answer(&tallycast, "/healthz", "");
    assert!(head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{head}");
    assert!((2..=10).contains(&retry_after(&head)));
    drop(first);
    eventually("a closed connection frees its permit", || {
        answer(&tallycast, "/healthz", "").starts_with("HTTP/1.1 200 ")
    });
    assert!(tallycast.terminate().counters()["http"]["refused_address"].as_u64() >= Some(1));
}

#[test]
fn connection_rate_per_address_is_limited() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start_unready(&redis.url(), &["--rate-per-address", "1"]);
    tallycast.wait_for_log("subscribed source");
    // Even on a slow machine, ten consecutive connections are less than a second apart.
    let heads: Vec<String> = (0..10).map(|_| answer(&tallycast, "/healthz", "")).collect();
    assert!(heads[0].starts_with("HTTP/1.1 200 "), "{}", heads[0]);
    let refused = heads.iter().filter(|head| head.starts_with("HTTP/1.1 429 ")).count();
    assert!(refused > 0, "{heads:?}");
    eventually("connections are accepted again", || {
        std::thread::sleep(std::time::Duration::from_millis(1100));
        answer(&tallycast, "/healthz", "").starts_with("HTTP/1.1 200 ")
    });
    assert!(tallycast.terminate().counters()["http"]["refused_rate"].as_u64().unwrap() >= refused as u64);
}

#[test]
fn streams_per_namespace_are_limited() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--namespace-limit", "/details=2"]);
    let first = EventSource::open(&tallycast, "/subscribe/details/26");
    let _second = EventSource::open_http2(&tallycast, "/subscribe/details/*");
    let refused = get(&tallycast, "/subscribe/raw?topic=/details/27", &[]);
    assert_eq!(refused.status, 503);
    assert_eq!(refused.body, b"too many streams of /details; try again in a moment.\n");
    assert!((2..=10).contains(&refused.header("retry-after").parse().unwrap()));
    // A parent or a wildcard reads the namespace too.
    for path in ["/subscribe", "/subscribe/*", "/subscribe/*/27", "/subscribe?topic=/**"] {
        assert_eq!(get(&tallycast, path, &[]).status, 503, "{path}");
    }
    let _raw = EventSource::open(&tallycast, "/subscribe/raw");
    drop(first);
    eventually("a closed connection frees its permit", || {
        answer(&tallycast, "/subscribe/details/27", "").starts_with("HTTP/1.1 200 ")
    });
    assert!(tallycast.counter("/http/refused_namespace") >= 1);
}

#[test]
fn client_address_header_is_accepted_from_trusted_proxies_only() {
    let redis = RedisServer::start();
    let trusting = Tallycast::start(&redis, &["--trusted-proxy", "127.0.0.0/8", "--max-per-address", "1"]);
    let forwarded = "x-forwarded-for: 6.6.6.6, 1.1.1.1, 127.0.0.2\r\n";
    let subscribe = |tallycast: &Tallycast, more: &str| {
        let mut raw = Raw::connect(tallycast);
        raw.send(&format!("GET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\n{more}\r\n"));
        let head = raw.head();
        (raw, head)
    };
    let (_first, head) = subscribe(&trusting, forwarded);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(clients(&trusting), ["1.1.1.1"]);
    let (_second, head) = subscribe(&trusting, forwarded);
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    let (_other, head) = subscribe(&trusting, "x-forwarded-for: 2.2.2.2\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");

    let by_rfc = Tallycast::start(&redis, &["--trusted-proxy", "127.0.0.1", "--client-address-header", "forwarded"]);
    let (_stream, _) = subscribe(&by_rfc, "forwarded: for=\"[2001:db8::1]:80\"\r\nx-forwarded-for: 6.6.6.6\r\n");
    assert_eq!(clients(&by_rfc), ["2001:db8::1"]);

    let untrusting = Tallycast::start(&redis, &[]);
    let (_stream, _) = subscribe(&untrusting, forwarded);
    assert_eq!(clients(&untrusting), ["127.0.0.1"]);
}

#[test]
fn proxy_protocol_is_accepted_from_trusted_proxies_only() {
    let redis = RedisServer::start();
    let trusting = Tallycast::start(&redis, &["--trusted-proxy", "127.0.0.1"]);
    let request = "GET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: 6.6.6.6\r\n\r\n";
    let mut version_1 = Raw::connect(&trusting);
    // In several pieces, as a network can deliver it.
    version_1.send("PROXY TCP6 2001:db8::1 2001:db8::2 ");
    version_1.send(&format!("1 2\r\n{request}"));
    assert!(version_1.head().starts_with("HTTP/1.1 200 "));
    let mut version_2 = Raw::connect(&trusting);
    version_2.send("\r\n\r\n\0\r\nQUIT\n\u{21}\u{11}\0\u{c}\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}\u{8}\0\u{1}\0\u{2}");
    version_2.send(request);
    assert!(version_2.head().starts_with("HTTP/1.1 200 "));
    assert_eq!(clients(&trusting), ["2001:db8::1", "1.2.3.4"]);
    redis.publish_scores(["26"]);
    for mut raw in [version_1, version_2] {
        raw.expect("d\r\n: tallycast\n\n\r\n");
        assert_eq!(raw.chunk(), "data:26\n\n");
    }
    // An invalid header, and a header from an untrusted address.
    assert_eq!(Raw::request(&trusting, "PROXY TCP4 nonsense\r\n").read_to_end(), "");
    let untrusting = Tallycast::start(&redis, &[]);
    let mut raw = Raw::request(&untrusting, &format!("PROXY TCP4 1.1.1.1 2.2.2.2 3 4\r\n{request}"));
    assert!(raw.read_to_end().starts_with("HTTP/1.1 400 "));
}

#[test]
fn running_out_of_file_descriptors_keeps_existing_streams() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &[]);
    // After the start, which lowers the limit of connections to that of files.
    tallycast.limit_files(48);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    let crowd: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect_timeout(&tallycast.address, LIMIT).unwrap()).collect();
    tallycast.wait_for_log("cannot accept a connection");
    redis.publish_scores(["26"]);
    assert_eq!(raw.next(), Event::message("26"));
    drop(crowd);
    let _late = EventSource::open(&tallycast, "/subscribe/raw");
    let counters: Value = tallycast.json("/admin/counters.json");
    assert!(counters["http"]["accept_errors"].as_u64().unwrap() > 0, "{counters}");
    redis.publish_scores(["27"]);
    assert_eq!(raw.next(), Event::message("27"));
}

#[test]
fn refused_connections_do_not_delay_streams() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--max-connections", "4"]);
    let raw = EventSource::open(&tallycast, "/subscribe/raw");
    let crowd: Vec<TcpStream> =
        (0..300).map(|_| TcpStream::connect_timeout(&tallycast.address, LIMIT).unwrap()).collect();
    redis.publish_scores(["26"]);
    assert_eq!(raw.next(), Event::message("26"));
    let mut refused = 0;
    for mut stream in crowd {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut answer = [0; 12];
        if matches!(stream.read(&mut answer), Ok(count) if answer[..count].starts_with(b"HTTP/1.1 503")) {
            refused += 1;
            if refused == 10 {
                break;
            }
        }
    }
    assert_eq!(refused, 10);
}
