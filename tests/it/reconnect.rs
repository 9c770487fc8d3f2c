//! Clients of other projects that reconnect by themselves: a browser's EventSource, npm's `eventsource` and PyPI's `requests-sse`.

use crate::support::{Browser, NODE, PYTHON, Printer, RedisServer, Tallycast, command, libraries};

const ROUTE: [&str; 4] = ["--route", "stream:orders=/orders,history=1h", "--retry", "100ms"];

fn start(redis: &RedisServer, port: u16) -> Tallycast {
    let mut serve = command();
    serve.arg("serve").env("REDIS_URL", redis.url()).args(ROUTE);
    let tallycast = Tallycast::spawn_at(serve, port);
    tallycast.until_ready();
    tallycast
}

/// Adds entries to the stream, and returns the lines that clients print for them.
fn add(redis: &RedisServer, texts: &[&str]) -> Vec<String> {
    let mut connection = redis.connect();
    let add = |text: &&str| {
        let id: String =
            redis::cmd("XADD").arg("orders").arg("*").arg("data").arg(*text).query(&mut connection).unwrap();
        format!("message {id} {text}")
    };
    texts.iter().map(add).collect()
}

#[test]
fn clients_of_other_projects_resume_after_a_restart() {
    libraries();
    let redis = RedisServer::start();
    let tallycast = start(&redis, 0);
    let url = tallycast.url("/subscribe/orders");
    let node = Printer::start(NODE, "reconnect.mjs", &[&url]);
    let python = Printer::start(PYTHON, "reconnect.py", &[&url]);
    let browser = Browser::start();
    browser.open(&tallycast, "/assets/board.css");
    browser.eval(&format!(
        "(window.lines = [], window.source = new EventSource('{url}'), window.source.onmessage = \
         (event) => lines.push(['message', event.lastEventId, event.data].join(' ')), \
         window.source.addEventListener('reset', () => lines.push('reset')), 1)"
    ));
    tallycast.until_counter("/hub/connections", 3);
    let mut all = add(&redis, &["1", "2", "3"]);
    node.expect(&all);
    python.expect(&all);
    browser.wait_until("lines.length", 3);
    let port = tallycast.address.port();
    drop(tallycast);
    let missed = add(&redis, &["4", "5"]);
    let tallycast = start(&redis, port);
    node.expect(&missed);
    python.expect(&missed);
    let live = add(&redis, &["6"]);
    node.expect(&live);
    python.expect(&live);
    all.extend(missed.into_iter().chain(live));
    browser.wait_until("lines.length", 6);
    assert_eq!(browser.eval("lines"), serde_json::json!(all));
    assert_eq!(tallycast.counter("/hub/resets"), 0);
}
