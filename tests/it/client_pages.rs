//! The code of the pages about clients in other languages, against a server that is killed and started again.

use std::sync::mpsc::sync_channel;

use serde_json::Value;

use crate::support::{LIMIT, PYTHON, Printer, RedisServer, Tallycast, block_on, command};

#[path = "../../examples/read_stream.rs"]
#[expect(dead_code, reason = "only its reader is used")]
mod read_stream;

/// The server to which the code connects.
const SERVER: &str = "http://localhost:8001";
const ROUTE: [&str; 2] = ["--route", "stream:orders=/orders/*,history=1h"];

/// The code of a page in a language.
fn code(page: &str, language: &str) -> String {
    let path = format!("{}/docs/clients/{page}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let (_, code) = text.split_once(&format!("```{language}\n")).unwrap();
    code.split_once("```").unwrap().0.to_owned()
}

fn add(redis: &RedisServer, text: &str) {
    let entry = ["orders", "*", "topic", "eu", "data", text];
    let _: String = redis::cmd("XADD").arg(&entry).query(&mut redis.connect()).unwrap();
}

/// Publishes before, during and after the absence of the server, and checks that a client has received all of it once.
/// `next` waits for what the client has received next.
#[track_caller]
fn check(start: impl FnOnce(&Tallycast) -> Box<dyn Fn() -> String>) {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTE);
    let next = start(&tallycast);
    tallycast.until_counter("/hub/connections", 1);
    add(&redis, "before");
    assert_eq!(next(), "/orders/eu before");
    let port = tallycast.address.port();
    drop(tallycast);
    add(&redis, "away");
    let mut serve = command();
    serve.arg("serve").env("REDIS_URL", redis.url()).args(ROUTE);
    let _tallycast = Tallycast::spawn_at(serve, port);
    assert_eq!(next(), "/orders/eu away");
    add(&redis, "after");
    assert_eq!(next(), "/orders/eu after");
}

#[test]
fn python_client_resumes() {
    check(|tallycast| {
        let code = code("python.md", "python").replace(SERVER, &tallycast.url(""));
        let client = Printer::start(PYTHON, "-c", &[&code]);
        Box::new(move || {
            loop {
                let line = client.line();
                if !line.starts_with("reconnecting: ") {
                    return line;
                }
            }
        })
    });
}

#[test]
fn rust_client_resumes() {
    let example = include_str!("../../examples/read_stream.rs").replace("pub(crate) ", "");
    let (_, function) = example.split_once("/// Reads until").unwrap();
    assert!(code("rust.md", "rust").ends_with(function), "docs/clients/rust.md is not examples/read_stream.rs");
    check(|tallycast| {
        let url = tallycast.url("/subscribe/orders/*?envelope=1");
        let (sender, received) = sync_channel(64);
        std::thread::spawn(move || {
            let handle = |data: &str| {
                let value: Value = serde_json::from_str(data).unwrap();
                let text = match &value["data"] {
                    Value::Null => value.to_string(),
                    data => format!("{} {}", value["namespace"].as_str().unwrap(), data.as_str().unwrap()),
                };
                // The test may be over.
                let _ = sender.send(text);
            };
            block_on(read_stream::read(&url, handle))
        });
        Box::new(move || received.recv_timeout(LIMIT).unwrap())
    });
}
