//! The Mercure protocol with clients of other projects, on one node and on nodes that share a Redis server: npm's `eventsource` and
//! PyPI's `requests-sse` read; PyPI's `requests` and requests as the Symfony component sends them publish.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::{
    NODE, PYTHON, Printer, Raw, RedisServer, SECRET, Tallycast, ask_script, command, libraries, token,
};

const PATH: &str = "/.well-known/mercure";
const BOOK: &str = "https://example.com/books/1";
const ANN: &str = "https://example.com/users/ann";
const BOB: &str = "https://example.com/users/bob";

/// Fields of an update in the order in which the Symfony component sends them.
type Fields<'a> = &'a [(&'a str, &'a str)];

/// Starts a node on a port.
fn start_at(redis: &RedisServer, port: u16) -> Tallycast {
    let mut serve = command();
    serve.arg("serve").env("REDIS_URL", redis.url()).args(["--mercure", "--token-key", &format!("HS256={SECRET}")]);
    let tallycast = Tallycast::spawn_at(serve, port);
    tallycast.until_ready();
    tallycast
}

fn publisher() -> String {
    token(&["--mercure-publish", "*"])
}

/// Encodes as PHP's `urlencode` does.
fn php_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b' ' => encoded.push('+'),
            b'-' | b'_' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").unwrap(),
        }
        encoded
    })
}

/// A connection on which updates are published with the bytes that the Symfony component sends by its `CurlHttpClient`.
struct Symfony {
    connection: Raw,
    host: String,
    token: String,
}

impl Symfony {
    fn connect(tallycast: &Tallycast) -> Self {
        Self { connection: Raw::connect(tallycast), host: tallycast.address.to_string(), token: publisher() }
    }

    /// Publishes an update, and returns its id, which is the body of the response.
    #[track_caller]
    fn publish(&mut self, fields: Fields) -> String {
        let Self { connection, host, token } = self;
        let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", php_encoded(value))).collect();
        let body = pairs.join("&");
        connection.send(&format!(
            "POST {PATH} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Symfony HttpClient (Curl)\r\nAccept-Encoding: gzip\r\n\
             Accept: */*\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}",
            body.len()
        ));
        let head = connection.head().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 ok\r\n") && head.contains("\r\ncontent-type: text/plain\r\n"), "{head}");
        assert!(!head.contains("content-encoding"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        String::from_utf8(connection.read_exactly(length.parse().unwrap())).unwrap()
    }
}

/// Publishes updates by PyPI's `requests`, every second one by RFC 3986, and returns their ids.
#[track_caller]
fn publish_by_requests(tallycast: &Tallycast, updates: &[Fields]) -> Vec<String> {
    let (url, token) = (tallycast.url(PATH), publisher());
    let wanted = updates
        .iter()
        .enumerate()
        .map(|(number, fields)| json!({"url": url, "token": token, "fields": fields, "rfc3986": number % 2 == 1}));
    let answers = ask_script(PYTHON, "publish.py", &wanted.collect());
    let id = |answer: Value| {
        assert_eq!(answer["status"], 200, "{answer}");
        answer["body"].as_str().unwrap().to_owned()
    };
    answers.into_iter().map(id).collect()
}

/// Readers of all books, which may read what is private to Ann.
struct Readers(Vec<(&'static str, Printer, Option<String>)>);

impl Readers {
    /// Reads at the first of `nodes`, and at the next one when it does not answer; from the first update that is kept.
    fn start(nodes: &[&Tallycast]) -> Self {
        libraries();
        let template = php_encoded("https://example.com/books/{id}");
        let url = |node: &&Tallycast| node.url(&format!("{PATH}?topic={template}&lastEventID=earliest"));
        let mut arguments = vec![token(&["--mercure-subscribe", ANN])];
        arguments.extend(nodes.iter().map(url));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let clients = [("eventsource", NODE, "mercure.mjs"), ("requests-sse", PYTHON, "mercure.py")];
        Self(clients.map(|(name, program, script)| (name, Printer::start(program, script, &arguments), None)).into())
    }

    /// Waits for updates, names and ids and data, and fails on any others. Connections before and among them must resume at the
    /// last update that came.
    #[track_caller]
    fn expect(&mut self, updates: &[(&str, &str, &str)]) {
        for (reader, printer, last) in &mut self.0 {
            for (name, id, data) in updates {
                let mut line: Value = serde_json::from_str(&printer.line()).unwrap();
                while line[0] == "connected" {
                    let start = last.as_deref().unwrap_or("earliest");
                    assert_eq!(line, json!(["connected", last, start]), "{reader}");
                    line = serde_json::from_str(&printer.line()).unwrap();
                }
                assert_eq!(line, json!([name, id, data]), "{reader}");
                *last = Some((*id).to_owned());
            }
        }
    }
}

#[test]
fn clients_resume_at_a_node_that_restarts() {
    let redis = RedisServer::start();
    let tallycast = start_at(&redis, 0);
    let mut readers = Readers::start(&[&tallycast]);
    let mut symfony = Symfony::connect(&tallycast);
    // The pause before the clients connect again.
    let first = symfony.publish(&[("topic", BOOK), ("data", "1"), ("retry", "100")]);
    let second = symfony.publish(&[("topic", BOOK), ("data", "2"), ("type", "book")]);
    readers.expect(&[("message", &first, "1"), ("book", &second, "2")]);
    let port = tallycast.address.port();
    drop(tallycast);
    // As programs with a Redis client publish.
    let entry = ["mercure", "*", "topic", BOOK, "data", "3"];
    let third: String = redis::cmd("XADD").arg(&entry).query(&mut redis.connect()).unwrap();
    let tallycast = start_at(&redis, port);
    let fourth = Symfony::connect(&tallycast).publish(&[("topic", BOOK), ("data", "4")]);
    readers.expect(&[("message", &third, "3"), ("message", &fourth, "4")]);
}

#[test]
fn clients_resume_at_another_node() {
    let redis = RedisServer::start();
    let (one, other) = (start_at(&redis, 0), start_at(&redis, 0));
    let mut readers = Readers::start(&[&other, &one]);
    let mut symfony = Symfony::connect(&one);
    let text = "Hi from Symfony!\nÜber 日本語 \u{1f602} a+b=c&d;%41 *~";
    let private = &[("topic", BOOK), ("topic", ANN), ("data", text), ("private", "on"), ("id", "urn:x 1&+%é")];
    let foreign = &[("topic", BOOK), ("topic", BOB), ("data", "for Bob"), ("private", "on")];
    let public = &[("topic", BOOK), ("data", "{\"a\": 1}"), ("type", "book"), ("retry", "100")];
    assert_eq!(symfony.publish(private), "urn:x 1&+%é");
    symfony.publish(foreign);
    let id = symfony.publish(public);
    assert!(id.starts_with("urn:uuid:"), "{id}");
    let mut all = vec![("message", "urn:x 1&+%é", text), ("book", &*id, "{\"a\": 1}")];
    readers.expect(&all);

    // The node that they read at is killed. They resume at the other one, at which more is published.
    let port = other.address.port();
    drop(other);
    let private = |id| [("topic", ANN), ("topic", BOOK), ("data", text), ("private", "on"), ("id", id)];
    let ids = publish_by_requests(&one, &[&private("é/?"), &private("ü #"), foreign, public]);
    let missed = [("message", "é/?", text), ("message", "ü #", text), ("book", &*ids[3], "{\"a\": 1}")];
    readers.expect(&missed);

    // The other way round, at a node that starts with the history that Redis has.
    let other = start_at(&redis, port);
    drop(one);
    let mut symfony = Symfony::connect(&other);
    let ids = ["5", "6", "7"].map(|number| symfony.publish(&[("topic", BOOK), ("data", number)]));
    let live: Vec<_> = ids.iter().zip(["5", "6", "7"]).map(|(id, number)| ("message", &**id, number)).collect();
    readers.expect(&live);

    // Clients that come later get the same.
    all.extend(missed.into_iter().chain(live));
    Readers::start(&[&other]).expect(&all);
}
