//! The JavaScript client: its package, packed and installed, in Node.js and in Chromium.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use redis::Commands;
use serde_json::{Value, json};

use crate::support::{
    Browser, NODE, Printer, RedisServer, SECRET, Tallycast, command, eventually, libraries, run, token,
};

const ROUTES: [&str; 6] = [
    "--route",
    "stream:orders=/orders/*,history=1h",
    "--route",
    "news=/news",
    "--route",
    "stream.score_updates=/raw,tally=/eps",
];
const SCORES: &str = "emojitrack_score";
const CRASHES: u64 = 2;
/// The reader with totals that adds a topic.
const MIXED: &str = "totals and orders";

fn source() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/js"))
}

/// Installs the package beside the libraries, once, from the file that would be published.
fn install() -> &'static Path {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    let directory = libraries();
    INSTALLED.get_or_init(|| {
        let packed = run(Command::new("npm")
            .args(["pack", "--silent", "--pack-destination"])
            .arg(directory)
            .current_dir(source()));
        assert!(packed.status.success(), "{packed:?}");
        let name = String::from_utf8(packed.stdout).unwrap();
        let package = directory.join("node_modules/tallycast");
        std::fs::create_dir_all(&package).unwrap();
        let file = name.lines().last().unwrap();
        let unpacked = run(Command::new("tar")
            .args(["--extract", "--strip-components=1", "--file", file, "--directory"])
            .arg(&package)
            .current_dir(directory));
        assert!(unpacked.status.success(), "{unpacked:?}");
    });
    directory
}

/// A reader of a topic with each transport. Their names are the topic and the transport.
fn readers(tallycast: &Tallycast, topics: &[&str], options: &Value) -> Value {
    let reader = |(topic, transport): (&&str, &str)| {
        let mut options = options.clone();
        options["url"] = json!(tallycast.url("/subscribe"));
        options["transport"] = json!(transport);
        options["snapshot"] = json!(*topic == "/eps");
        json!({"name": format!("{topic} {transport}"), "topics": [topic], "options": options})
    };
    topics.iter().flat_map(|topic| ["sse", "websocket"].map(|transport| reader((topic, transport)))).collect()
}

/// Readers in a process of Node.js, or in a page whose origin is another one than that of the server.
enum Readers {
    Node { printer: Printer, lines: Vec<Value> },
    Page { browser: Browser, _files: Printer },
}

impl Readers {
    fn in_node(readers: &Value) -> Self {
        install();
        Self::Node { printer: Printer::start(NODE, "tallycast.mjs", &[&readers.to_string()]), lines: Vec::new() }
    }

    fn in_page(readers: &Value) -> Self {
        let directory = install();
        let files = Printer::start(NODE, "serve.mjs", &[directory.to_str().unwrap()]);
        let origin = files.line();
        let browser = Browser::start();
        browser.open_url(&format!("{origin}/package.json"));
        browser.run(
            "window.lines = []; window.errors = []; addEventListener('error', ({message}) => errors.push(message));",
        );
        browser.eval(&format!(
            "Promise.all([import('/node_modules/tallycast/tallycast.js'), import('/readers.mjs')]).then(([client, readers]) => {{
                window.subscriptions = readers.start(client.subscribe, {readers}, (line) => lines.push(line));
            }})"
        ));
        Self::Page { browser, _files: files }
    }

    /// Calls a method of a reader.
    fn call(&mut self, number: usize, method: &str, argument: &Value) {
        match self {
            Self::Node { printer, .. } => printer.send(&json!([number, method, argument]).to_string()),
            Self::Page { browser, .. } => browser.run(&format!("subscriptions[{number}].{method}({argument})")),
        }
    }

    /// What a reader has printed of a kind, without its name and the kind, once this fulfils a condition.
    #[track_caller]
    fn until(&mut self, name: &str, kind: &str, condition: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let of = |lines: &[Value]| -> Vec<Value> {
            let lines = lines.iter().filter(|line| line[0] == name && line[1] == kind);
            lines.map(|line| Value::from(&line.as_array().unwrap()[2..])).collect()
        };
        let mut seen = Vec::new();
        match self {
            Self::Node { printer, lines } => loop {
                seen = of(lines);
                if condition(&seen) {
                    break;
                }
                lines.push(serde_json::from_str(&printer.line()).unwrap());
            },
            Self::Page { browser, .. } => eventually(&format!("{name} has printed a {kind}"), || {
                seen = of(browser.eval("lines").as_array().unwrap());
                condition(&seen)
            }),
        }
        seen
    }
}

/// Publishes a text in the stream and on the channel, and raises a score. Returns the line of readers of the stream.
fn publish(redis: &RedisServer, text: &str) -> Value {
    let mut connection = redis.connect();
    let mut transaction = redis::pipe();
    let (id, _, _, _): (String, i64, f64, i64) = transaction
        .atomic()
        .cmd("XADD")
        .arg(&["orders", "*", "topic", "eu", "data", text])
        .publish("news", text)
        .zincr(SCORES, "1F602", 1)
        .publish("stream.score_updates", "1F602")
        .query(&mut connection)
        .unwrap();
    json!([id, "/orders/eu", text])
}

fn serve(redis: &RedisServer, port: u16) -> Tallycast {
    let mut serve = command();
    serve.arg("serve").env("REDIS_URL", redis.url()).args(ROUTES);
    let tallycast = Tallycast::spawn_at(serve, port);
    tallycast.until_ready();
    tallycast
}

#[test]
fn messages_arrive_exactly_once_or_with_a_gap_and_totals_are_exact_through_crashes() {
    let mut redis = RedisServer::start_durable();
    let mut tallycast = serve(&redis, 0);
    let mut wanted = readers(&tallycast, &["/orders/*", "/news", "/eps"], &json!({}));
    let mixed = wanted.as_array().unwrap().len();
    let options = json!({"url": tallycast.url("/subscribe"), "transport": "websocket", "snapshot": true});
    wanted.as_array_mut().unwrap().push(json!({"name": MIXED, "topics": ["/eps"], "options": options}));
    let mut both = [Readers::in_node(&wanted), Readers::in_page(&wanted)];
    let connected = 2 * (mixed as u64 + 1);
    tallycast.until_counter("/hub/connections", connected);
    both.iter_mut().for_each(|readers| readers.call(mixed, "add", &json!("/orders/*")));
    let mut orders = vec![publish(&redis, "first")];
    for crash in 0..CRASHES {
        // The server, with readers in the middle of a stream.
        orders.extend((0..20).map(|number| publish(&redis, &format!("{crash} before {number}"))));
        let port = tallycast.address.port();
        drop(tallycast);
        orders.push(publish(&redis, &format!("{crash} away")));
        tallycast = serve(&redis, port);
        orders.push(publish(&redis, &format!("{crash} back")));
        tallycast.until_counter("/hub/connections", connected);
        orders.push(publish(&redis, &format!("{crash} live")));
        // Redis, below readers that stay connected.
        redis.kill();
        redis.run();
        orders.push(publish(&redis, &format!("{crash} restarted")));
        tallycast.until_ready();
    }
    orders.push(publish(&redis, "last"));
    let scores: BTreeMap<String, f64> = redis.connect().zrange_withscores(SCORES, 0, -1).unwrap();
    let scores = json!([true, {"1F602": scores["1F602"] as u64}]);
    for readers in &mut both {
        for transport in ["sse", "websocket"] {
            let name = format!("/orders/* {transport}");
            let messages = readers.until(&name, "message", |seen| seen.len() >= orders.len());
            assert_eq!(messages, orders, "{name}");
            assert!(readers.until(&name, "gap", |_| true).is_empty(), "{name}");

            let name = format!("/news {transport}");
            let messages = readers.until(&name, "message", |seen| seen.last().is_some_and(|last| last[2] == "last"));
            let texts: Vec<&Value> = orders.iter().map(|order| &order[2]).collect();
            let mut rest = texts.iter();
            assert!(messages.iter().all(|message| rest.any(|text| **text == message[2])), "{name}: {messages:?}");
            assert!(messages.len() < orders.len(), "{name}");
            let gaps = readers.until(&name, "gap", |_| true);
            assert_eq!(gaps, vec![json!(["disconnected"]); CRASHES as usize], "{name}");

            let name = format!("/eps {transport}");
            let totals = readers.until(&name, "totals", |seen| seen.last() == Some(&scores));
            let unknown = totals.iter().filter(|totals| totals[0] == false).count();
            assert!(unknown >= CRASHES as usize, "{name}: {totals:?}");
        }
        // From when its topic was added.
        readers.until(MIXED, "totals", |seen| seen.last() == Some(&scores));
        let messages = readers.until(MIXED, "message", |seen| seen.iter().any(|message| message[2] == "last"));
        let messages: Vec<Value> = messages.into_iter().filter(|message| message[1] == "/orders/eu").collect();
        assert!(orders.ends_with(&messages), "{messages:?}");
    }
    if let [_, Readers::Page { browser, .. }] = &both {
        assert_eq!(browser.eval("errors"), json!([]));
        assert_eq!(browser.console_messages(), [""; 0]);
    }
}

/// Whether a reader has connected so often, and is live. On a busy machine, the first token may be refused rather than expire later.
fn is_live_again(states: &[Value], connections: usize) -> bool {
    let connecting = states.iter().filter(|state| state[0] == "connecting").count();
    connecting >= connections && states.last().is_some_and(|last| last[0] == "live")
}

/// A server that requires tokens.
fn serve_with_tokens(redis: &RedisServer) -> Tallycast {
    let key = format!("HS256={SECRET}");
    Tallycast::start(redis, &[&ROUTES[..], &["--token-key", &key, "--token-leeway", "0s"]].concat())
}

#[test]
fn expired_token_is_replaced_without_loss_and_refusals_say_why() {
    let redis = RedisServer::start();
    let tallycast = serve_with_tokens(&redis);
    let allowed = ["--read", "/orders/**", "--read", "/news"];
    let mut wanted = readers(&tallycast, &["/orders/*", "/raw"], &json!({}));
    let short = token(&[&allowed[..], &["--expires", "5s"]].concat());
    for reader in wanted.as_array_mut().unwrap() {
        reader["tokens"] = json!([short, token(&allowed)]);
    }
    let mut both = [Readers::in_node(&wanted), Readers::in_page(&wanted)];
    tallycast.until_counter("/hub/connections", 4);
    let mut orders = vec![publish(&redis, "first")];
    for readers in &mut both {
        for transport in ["sse", "websocket"] {
            let name = format!("/raw {transport}");
            let closed = readers.until(&name, "state", |seen| seen.iter().any(|state| state[0] == "closed"));
            let reason = closed.last().unwrap()[1].as_str().unwrap();
            assert!(reason.contains("/raw"), "{reason}");
            let refused = readers.until(&name, "refused", |_| true);
            assert_eq!(refused.last(), Some(&json!([403, reason, true])), "{name}");
        }
    }
    for readers in &mut both {
        for transport in ["sse", "websocket"] {
            let name = format!("/orders/* {transport}");
            readers.until(&name, "state", |seen| is_live_again(seen, 2));
        }
    }
    orders.push(publish(&redis, "second"));
    for readers in &mut both {
        for number in [0, 1] {
            readers.call(number, "add", &json!("/news"));
        }
        readers.until("/orders/* sse", "state", |seen| is_live_again(seen, 3));
        readers.call(1, "add", &json!("/raw"));
        // The change alone is refused, which has no status.
        let is_change = |refused: &&Value| refused[0] == 0;
        let refused = readers.until("/orders/* websocket", "refused", |seen| seen.iter().any(|line| is_change(&line)));
        let change = refused.iter().find(is_change).unwrap();
        assert!(change[1].as_str().unwrap().contains("/raw") && change[2] == false, "{change}");
    }
    orders.push(publish(&redis, "third"));
    let news = json!([null, "/news", "third"]);
    for readers in &mut both {
        for transport in ["sse", "websocket"] {
            let name = format!("/orders/* {transport}");
            let seen = readers.until(&name, "message", |seen| seen.len() > orders.len());
            let (news_seen, orders_seen): (Vec<Value>, Vec<Value>) =
                seen.into_iter().partition(|message| message[1] == "/news");
            assert_eq!(orders_seen, orders, "{name}");
            assert_eq!(news_seen, std::slice::from_ref(&news), "{name}");
            assert!(readers.until(&name, "gap", |_| true).is_empty(), "{name}");
        }
    }
}

#[test]
fn hidden_or_offline_page_disconnects_and_resumes() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    let mut wanted = readers(&tallycast, &["/orders/*", "/news"], &json!({"pauseHidden": 10}));
    // A reader that does not mind being hidden.
    wanted[2]["options"].as_object_mut().unwrap().remove("pauseHidden");
    let mut readers = Readers::in_page(&wanted);
    let mut orders = Vec::new();
    let names = ["/orders/* sse", "/orders/* websocket", "/news sse", "/news websocket"];
    let connections = || tallycast.json("/admin/status.json")["connections_total"].clone();
    let (hide, show) = ("hidden", "visible");
    for (away, back, left) in
        [("dispatchEvent(new Event('offline'))", "dispatchEvent(new Event('online'))", 0), (hide, show, 1)]
    {
        let switch = |to: &str| match to {
            "hidden" | "visible" => format!(
                "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}}); \
                 document.dispatchEvent(new Event('visibilitychange'))",
                to == "hidden"
            ),
            other => other.to_owned(),
        };
        eventually("all read", || connections() == 4);
        orders.push(publish(&redis, "seen"));
        for name in &names[..2] {
            readers.until(name, "message", |seen| seen.len() == orders.len());
        }
        let Readers::Page { browser, .. } = &readers else { unreachable!() };
        browser.run(&switch(away));
        eventually("readers have left", || connections() == left);
        orders.push(publish(&redis, "missed"));
        browser.run(&switch(back));
    }
    eventually("all read", || connections() == 4);
    orders.push(publish(&redis, "last"));
    for name in &names[..2] {
        let messages = readers.until(name, "message", |seen| seen.len() >= orders.len());
        assert_eq!(messages, orders, "{name}");
        assert!(readers.until(name, "gap", |_| true).is_empty(), "{name}");
    }
    for (name, gaps) in [("/news sse", 1), ("/news websocket", 2)] {
        readers.until(name, "message", |seen| seen.last().is_some_and(|last| last[2] == "last"));
        assert_eq!(readers.until(name, "gap", |_| true).len(), gaps, "{name}");
        let reasons = readers.until(name, "state", |_| true);
        assert!(reasons.contains(&json!(["paused", "offline"])), "{reasons:?}");
        assert_eq!(reasons.contains(&json!(["paused", "hidden"])), gaps == 2, "{reasons:?}");
    }
}

#[test]
fn added_topics_start_with_their_last_values() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--route", "prices.*=/prices/*,history=1h,history=last"]);
    let publish = |name: &str, price: &str| redis.publish([(format!("prices.{name}"), price)]);
    // Only the last value of each comes.
    for (name, price) in [("b", "1"), ("b", "2"), ("a", "3")] {
        publish(name, price);
    }
    tallycast.until_counter("/hub/broadcast", 3);
    let options = json!({"url": tallycast.url("/subscribe"), "transport": "websocket", "snapshot": true});
    let mut readers = Readers::in_node(&json!([{"name": "prices", "topics": ["/prices/a"], "options": options}]));
    let of = |seen: &[Value], topic: &str| -> Vec<Value> {
        seen.iter().filter(|message| message[1] == topic).map(|message| message[2].clone()).collect()
    };
    readers.until("prices", "message", |seen| of(seen, "/prices/a") == [3]);
    publish("a", "4");
    readers.call(0, "add", &json!("/prices/b"));
    publish("a", "5");
    readers.until("prices", "message", |seen| !of(seen, "/prices/b").is_empty());
    publish("b", "6");
    publish("a", "7");
    let seen = readers.until("prices", "message", |seen| of(seen, "/prices/a").contains(&json!(7)));
    assert_eq!(of(&seen, "/prices/a"), [3, 4, 5, 7]);
    assert_eq!(of(&seen, "/prices/b"), [2, 6]);
    assert!(readers.until("prices", "gap", |_| true).is_empty());
}

#[test]
fn plain_example_shows_totals_and_the_binary_serves_the_same_module() {
    let redis = RedisServer::start();
    let () = redis.connect().zadd_multiple(SCORES, &[(3, "1F602"), (2, "2764")]).unwrap();
    let tallycast = Tallycast::start(&redis, &ROUTES);
    install();
    let files = Printer::start(NODE, "serve.mjs", &[source().to_str().unwrap()]);
    let browser = Browser::start();
    browser.open_url(&format!("{}/examples/plain.html?server={}", files.line(), tallycast.url("")));
    let shown = "[...document.querySelectorAll('#top li')].map((item) => item.textContent)";
    browser.wait_until(shown, json!(["1F602: 3", "2764: 2"]));
    publish(&redis, "one");
    browser.wait_until(shown, json!(["1F602: 4", "2764: 2"]));
    tallycast.terminate();
    browser.wait_until("document.querySelector('#notice').checkVisibility()", true);
    assert_eq!(browser.console_messages(), [""; 0]);
    let tallycast = Tallycast::start(&redis, &[]);
    let (status, served) = tallycast.get("/assets/tallycast.js");
    assert_eq!(status, 200);
    assert!(served == std::fs::read_to_string(source().join("tallycast.js")).unwrap(), "another module is served");
}
