//! Streams over TLS with HTTP/1.1, which the engine owns: clients of other makes, hostile ones, and the ends of streams.

use std::io::{Read, Write};
use std::process::Command;

use rustix::process::Signal;
use tokio_websockets::Message;

use crate::support::{
    Browser, Certificate, OpenSsl, Raw, RedisServer, Tallycast, TempDir, TlsClient, WebSocket, eventually, run,
};

const SUBSCRIBE: &str = "GET /subscribe/raw HTTP/1.1\r\nhost: localhost\r\n\r\n";
const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

fn start(redis: &RedisServer, certificate: &Certificate, flags: &[&str]) -> Tallycast {
    let tls = ["--tls-cert", &certificate.certificate(), "--tls-key", &certificate.key()];
    let tallycast = Tallycast::start_unready(&redis.url(), &[&tls, flags].concat());
    tallycast.wait_for_log("subscribed source");
    tallycast
}

/// The counters of all stages, read over TLS.
fn counters(tallycast: &Tallycast, certificate: &Certificate) -> serde_json::Value {
    let request = "GET /admin/counters.json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut client = TlsClient::request(tallycast, certificate, 64 * 1024, request);
    let response = client.read_to_end().unwrap();
    serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn openssl_reads_streams_to_a_graceful_end() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate, &[]);
    let mut clients = VERSIONS.map(|version| {
        let mut client = OpenSsl::connect(&tallycast, &["-quiet", version]);
        client.send(SUBSCRIBE);
        client.read_until(": tallycast");
        client
    });
    redis.publish_scores(["1F602", "2764"]);
    for client in &mut clients {
        client.read_until("data:1F602");
        client.read_until("data:2764");
    }
    assert!(tallycast.terminate().status.success());
    for mut client in clients {
        let (rest, errors) = client.finish();
        assert_eq!(rest, "\n\r\n0\r\n\r\n");
        // OpenSSL complains of an end without close_notify.
        assert!(!errors.contains("unexpected eof"), "{errors}");
    }
}

#[test]
fn openssl_resumes_sessions() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate, &[]);
    let directory = TempDir::new();
    for version in VERSIONS {
        let session = directory.path().join(version).display().to_string();
        for (flag, expected) in [("-sess_out", "New, TLSv1."), ("-sess_in", "Reused, TLSv1.")] {
            let mut client = OpenSsl::connect(&tallycast, &[version, flag, &session]);
            client.send("GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            let (output, errors) = client.finish();
            assert!(output.contains(expected) && output.contains("alive\n"), "{version}: {output}{errors}");
        }
    }
}

#[test]
fn keys_are_updated_and_renegotiation_is_refused() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate, &[]);
    let [mut old, mut new] = VERSIONS.map(|version| {
        let mut client = OpenSsl::connect(&tallycast, &[version]);
        client.send(SUBSCRIBE);
        client.read_until(": tallycast");
        client
    });
    // Commands of s_client: new keys for both directions, and for its own.
    for command in ["K\n", "k\n"] {
        new.send(command);
        redis.publish_scores(["1F602"]);
        new.read_until("data:1F602");
        // Nothing may be on its way to it when it asks for a renegotiation: its library would end the connection.
        old.read_until("data:1F602");
    }
    old.send("R\n");
    let (_, errors) = old.finish();
    assert!(errors.contains("RENEGOTIATING") && errors.contains("no renegotiation"), "{errors}");
    redis.publish_scores(["2764"]);
    new.read_until("data:2764");
}

#[test]
fn bytes_that_are_not_tls_get_an_alert() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate, &[]);
    let mut other = TlsClient::subscribe(&tallycast, &certificate, "/subscribe/raw");
    // A ClientHello of one byte: an alert of level fatal in answer (RFC 8446, §6).
    let mut raw = Raw::connect(&tallycast);
    raw.send_bytes(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    let alert = raw.bytes_to_end();
    assert_eq!((alert.len(), alert[0], alert[5]), (7, 21, 2), "{alert:?}");
    // A record that nobody encrypted, on a stream of the engine.
    let mut client = TlsClient::subscribe(&tallycast, &certificate, "/subscribe/raw");
    client.0.sock.write_all(&[&[23, 3, 3, 0, 32][..], &[0; 32]].concat()).unwrap();
    let error = client.read_to_end().unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    let now = counters(&tallycast, &certificate);
    assert_eq!(now["http"]["tls_failures"], 1, "{now}");
    redis.publish_scores(["1F602"]);
    other.read_until("data:1F602\n\n");
}

#[test]
fn python_reads_a_stream_with_close_notify() {
    const READER: &str = "
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
sock = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 60)
# An end without close_notify is an error.
stream = context.wrap_socket(sock, server_hostname='localhost', suppress_ragged_eofs=False)
stream.sendall(b'GET /subscribe/raw HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n')
while data := stream.recv(65536):
    sys.stdout.write(data.decode())
print('end', stream.version())
";
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate, &[]);
    let (port, file) = (tallycast.address.port().to_string(), certificate.certificate());
    let python = std::thread::spawn(move || run(Command::new("python3").args(["-c", READER, &port, &file])));
    eventually("the stream is open", || counters(&tallycast, &certificate)["hub"]["connections"] == 1);
    redis.publish_scores(["1F602"]);
    assert!(tallycast.terminate().status.success());
    let output = python.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("0\r\n\r\nend TLSv1.3\n"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("data:1F602\n\n"), "{text}");
}

#[test]
fn browser_reads_event_stream_and_websocket_over_http1() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate, &[]);
    let browser = Browser::start_without_http2();
    browser.open_url(&format!("https://localhost:{}/v1/status", tallycast.address.port()));
    browser.eval(
        "(window.opened = 0, window.events = '', window.messages = '', \
            window.stream = new EventSource('/subscribe/raw'), \
            stream.onopen = () => opened += 1, stream.onmessage = event => events += event.data + ' ', \
            window.socket = new WebSocket(location.origin.replace('https', 'wss') + '/ws/raw', 'raw'), \
            socket.onopen = () => opened += 1, socket.onmessage = event => messages += event.data + ' ', 0)",
    );
    browser.wait_until("window.opened", 2);
    let protocols =
        "[...new Set(performance.getEntriesByType('navigation').map(entry => entry.nextHopProtocol))].join()";
    browser.wait_until(protocols, "http/1.1");
    redis.publish_scores(["1F602", "2764"]);
    browser.wait_until("window.events", "1F602 2764 ");
    browser.wait_until("window.messages", "1F602 2764 ");
}

#[test]
fn large_messages_arrive_whole_at_readers_of_any_speed() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate, &["--send-buffer", "4096"]);
    let mut fast = TlsClient::subscribe(&tallycast, &certificate, "/subscribe/details/1");
    let request = SUBSCRIBE.replace("raw", "details/1");
    let mut slow = TlsClient::request(&tallycast, &certificate, 4096, &request);
    slow.read_until(": tallycast\n\n\r\n");
    let post: String = (0..1_000_000_u32).map(|index| char::from(b'a' + (index / 3 % 26) as u8)).collect();
    redis.publish_post("1", &post);
    let framed = format!("event:stream.tweet_updates.1\ndata:{post}\n\n");
    let chunk = format!("{:x}\r\n{framed}\r\n", framed.len());
    let read = |client: &mut TlsClient, size: usize| {
        let mut read = Vec::new();
        while read.len() < chunk.len() {
            let mut buffer = vec![0; size];
            let count = client.0.read(&mut buffer).unwrap();
            assert!(count > 0);
            read.extend_from_slice(&buffer[..count]);
        }
        read
    };
    for (client, size) in [(&mut slow, 1), (&mut fast, 64 * 1024)] {
        let read = read(client, size);
        // Not assert_eq, which would print both.
        assert!(read.eq_ignore_ascii_case(chunk.as_bytes()), "{:?}", String::from_utf8_lossy(&read[..100]));
    }
}

#[test]
fn large_commands_arrive_over_tls() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate, &[]);
    let mut websocket = WebSocket::open_tls(&tallycast, "/ws/raw", &certificate).unwrap();
    for topic in ["/details/1", "/details/2"] {
        // More than the engine reads at once.
        let command = format!("{{\"subscribe\": [{topic:?}], {}\"unsubscribe\": []}}", " ".repeat(16_000));
        websocket.send_text(&command);
        let subscribed = websocket.json()["subscribed"].as_array().unwrap().clone();
        assert!(subscribed.contains(&topic.into()), "{subscribed:?}");
    }
    websocket.send(Message::ping("x"));
    assert!(websocket.next().is_pong());
    tallycast.signal(Signal::TERM);
    assert_eq!(websocket.closed().0, 1001);
}

#[test]
fn certificate_changes_without_the_end_of_http1_streams() {
    let redis = RedisServer::start();
    let (certificate, new) = (Certificate::self_signed(), Certificate::self_signed());
    let tallycast = start(&redis, &certificate, &[]);
    let mut stream = TlsClient::subscribe(&tallycast, &certificate, "/subscribe/raw");
    let mut websocket = WebSocket::open_tls(&tallycast, "/ws/raw", &certificate).unwrap();
    std::fs::copy(new.certificate(), certificate.certificate()).unwrap();
    std::fs::copy(new.key(), certificate.key()).unwrap();
    tallycast.signal(Signal::HUP);
    tallycast.wait_for_log("configuration reloaded");
    TlsClient::subscribe(&tallycast, &new, "/subscribe/raw");
    redis.publish_scores(["1F602"]);
    stream.read_until("data:1F602\n\n");
    assert_eq!(websocket.json()["data"], "1F602");
}

#[test]
fn slow_request_headers_get_408() {
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate, &["--head-timeout", "500ms"]);
    let mut client = TlsClient::request(&tallycast, &certificate, 4096, "GET /subscribe/raw HTTP/1.1\r\n");
    assert!(client.read_to_end().unwrap().starts_with("HTTP/1.1 408 Request Timeout\r\n"));
}

#[test]
fn idle_streams_over_tls_take_little_memory() {
    const STREAMS: usize = 300;
    let redis = RedisServer::start();
    let certificate = Certificate::self_signed();
    let tallycast = start(&redis, &certificate, &[]);
    let open = |count: usize| -> Vec<TlsClient> {
        (0..count).map(|_| TlsClient::subscribe(&tallycast, &certificate, "/subscribe/raw")).collect()
    };
    let warm = open(STREAMS);
    let before = tallycast.resident_bytes();
    let streams = open(STREAMS);
    let growth = tallycast.resident_bytes().saturating_sub(before) / STREAMS as u64;
    assert!(growth < 16 * 1024, "{growth} bytes for each stream");
    drop((warm, streams));
}
