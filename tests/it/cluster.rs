//! The nodes that share a Redis server, as each of them and its admin page shows them.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Browser, EventSource, RedisServer, Tallycast, command, eventually, get};

const LEASES: &str = "tallycast:cluster";

fn node(redis: &RedisServer, name: &str) -> Tallycast {
    Tallycast::start(redis, &["--cluster", "--instance", name])
}

/// The names of the nodes that a node shows, without what all begin with.
fn names(view: &Value) -> Vec<&str> {
    let nodes = view["nodes"].as_array().unwrap().iter();
    nodes.map(|node| node["node"].as_str().unwrap().strip_prefix("rust-development-").unwrap()).collect()
}

/// Waits until a node shows exactly these, and returns its view.
#[track_caller]
fn until_nodes(tallycast: &Tallycast, expected: &[&str]) -> Value {
    let mut view = Value::Null;
    eventually(&format!("the nodes are {expected:?}"), || {
        view = tallycast.json("/admin/cluster.json");
        view["stale"] == false && names(&view) == expected
    });
    view
}

#[test]
fn nodes_that_share_a_redis_server_show_each_other() {
    let redis = RedisServer::start();
    let (b, a) = (node(&redis, "b"), node(&redis, "a"));
    let _streams = [0, 1].map(|_| EventSource::open(&a, "/subscribe/raw"));
    redis.publish_scores(["26"]);
    let is_reported = |view: &Value| view["nodes"][0]["connections"] == 2 && view["nodes"][0]["msgs_broadcast"] == 2;
    eventually("b shows the streams of a", || is_reported(&b.json("/admin/cluster.json")));
    let view = until_nodes(&b, &["a", "b"]);
    assert_eq!(
        (&view["node"], &view["nodes_total"], &view["error"]),
        (&json!("rust-development-b"), &json!(2), &Value::Null)
    );
    assert_eq!(view["id"], view["nodes"][1]["id"]);
    assert!(view["id"].as_str().unwrap().starts_with("rust-development-b#"), "{view}");
    let shown = &view["nodes"][0];
    let status = a.json("/admin/status.json");
    for (field, expected) in [
        ("node", &status["node"]),
        ("startup_time", &status["startup_time"]),
        ("status", &json!("OK")),
        ("version", &json!(env!("CARGO_PKG_VERSION"))),
        ("draining", &json!(false)),
    ] {
        assert_eq!(&shown[field], expected, "{field}");
    }
    let seconds = |value: &Value| value.as_u64().unwrap();
    assert!(seconds(&shown["reported_at"]) <= seconds(&view["as_of"]), "{view}");
    assert!(seconds(&shown["reported_at"]) >= seconds(&shown["startup_time"]), "{view}");
    assert_eq!(names(&until_nodes(&a, &["a", "b"])), ["a", "b"]);
    assert_eq!(a.counter("/cluster/nodes"), 2);
    assert!(a.get("/metrics").1.contains("\ntallycast_cluster_nodes 2"));
    // Another process with the same name replaces nothing.
    let twin = node(&redis, "b");
    until_nodes(&a, &["a", "b", "b"]);
    let view = until_nodes(&twin, &["a", "b", "b"]);
    assert_ne!(view["nodes"][1]["id"], view["nodes"][2]["id"]);
}

#[test]
fn killed_node_vanishes_and_stopped_one_removes_its_record() {
    let redis = RedisServer::start();
    let (survivor, killed) = (node(&redis, "a"), node(&redis, "b"));
    let draining = Tallycast::start(&redis, &["--cluster", "--instance", "c", "--drain-delay", "1h"]);
    let stopped = node(&redis, "d");
    until_nodes(&survivor, &["a", "b", "c", "d"]);
    draining.signal(Signal::TERM);
    eventually("c is draining", || survivor.json("/admin/cluster.json")["nodes"][2]["draining"] == true);
    stopped.terminate();
    let of = |name: &str| -> usize {
        let all: Vec<String> =
            redis::cmd("HKEYS").arg("{tallycast:cluster}:records").query(&mut redis.connect()).unwrap();
        all.iter().filter(|id| id.starts_with(&format!("rust-development-{name}#"))).count()
    };
    // Before its lease ends.
    assert_eq!((of("a"), of("d")), (1, 0));
    until_nodes(&survivor, &["a", "b", "c"]);
    // SIGKILL.
    drop(killed);
    assert_eq!(of("b"), 1);
    until_nodes(&survivor, &["a", "c"]);
    assert_eq!(of("b"), 0);
}

#[test]
fn view_is_stale_while_redis_is_away_and_recovers() {
    let mut redis = RedisServer::start();
    let (a, b) = (node(&redis, "a"), node(&redis, "b"));
    until_nodes(&a, &["a", "b"]);
    until_nodes(&b, &["a", "b"]);
    // It keeps its connections, and does not answer.
    redis.freeze();
    eventually("the view is stale", || b.json("/admin/cluster.json")["stale"] == true);
    redis.thaw();
    let before = until_nodes(&b, &["a", "b"]);
    redis.kill();
    let mut view = Value::Null;
    eventually("the view is stale, and older than a second", || {
        view = b.json("/admin/cluster.json");
        assert!(view["stale"] == true || view["error"].is_null(), "{view}");
        view["stale"] == true && view["age_seconds"].as_u64() > Some(1)
    });
    assert!(!view["error"].as_str().unwrap().is_empty(), "{view}");
    // The last nodes, as of then.
    assert_eq!(names(&view), ["a", "b"]);
    assert!(view["as_of"].as_u64() >= before["as_of"].as_u64(), "{view}");
    let failures = b.counter("/cluster/failures");
    b.until_counter("/cluster/failures", failures + 2);
    // Once for each outage.
    let log = b.log();
    assert_eq!(log.matches("cannot announce this node").count(), 2, "{log}");
    redis.run();
    let view = until_nodes(&b, &["a", "b"]);
    assert_eq!(view["error"], Value::Null);
    until_nodes(&a, &["a", "b"]);
}

#[test]
fn node_without_an_answer_of_redis_shows_itself() {
    let tallycast = Tallycast::start_unready("redis://127.0.0.1:1", &["--cluster", "--instance", "a"]);
    tallycast.until_counter("/cluster/failures", 1);
    let view = tallycast.json("/admin/cluster.json");
    assert_eq!((names(&view), &view["stale"]), (vec!["a"], &json!(true)));
    assert_eq!((&view["as_of"], &view["age_seconds"]), (&Value::Null, &Value::Null));
    assert!(!view["error"].as_str().unwrap().contains("127.0.0.1"), "{view}");
}

#[test]
fn demo_shows_itself() {
    let mut demo = command();
    demo.args(["demo", "--cluster", "--instance", "a"]);
    let demo = Tallycast::spawn(demo);
    let view = until_nodes(&demo, &["a"]);
    assert_eq!((&view["nodes"][0]["id"], &view["nodes_total"]), (&view["id"], &json!(1)));
}

#[test]
fn nodes_are_shown_behind_the_token_and_only_with_the_switch() {
    let redis = RedisServer::start();
    let tallycast = Tallycast::start(&redis, &["--admin-token", "secret"]);
    assert_eq!(get(&tallycast, "/admin/cluster.json", &[]).status, 401);
    let response = get(&tallycast, "/admin/cluster.json", &[("authorization", "Bearer secret")]);
    let line = b"the nodes are not known to each other; start each with --cluster\n";
    assert_eq!((response.status, &*response.body), (404, &line[..]));
    tallycast.terminate();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*tallycast:cluster*").query(&mut redis.connect()).unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[test]
fn documented_permissions_are_enough() {
    const COMMANDS: &str = "EVAL TIME ZADD ZREM ZCOUNT ZRANGEBYSCORE ZREVRANGEBYSCORE HSET HDEL HMGET PEXPIRE";
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md")).unwrap();
    let (_, section) = page.split_once("### cluster.json").unwrap();
    for name in COMMANDS.split_whitespace() {
        assert!(section.contains(&format!("`{name}`")), "{name} is missing in docs/api.md");
    }
    let redis = RedisServer::start();
    let mut rule = redis::cmd("ACL");
    rule.arg("SETUSER").arg("limited").arg("on").arg(">secret").arg("-@all");
    rule.arg("~tallycast:cluster").arg("~{tallycast:cluster}:records");
    for name in COMMANDS.split_whitespace() {
        rule.arg(format!("+{}", name.to_lowercase()));
    }
    let () = rule.query(&mut redis.connect()).unwrap();
    let _dead: () = redis::cmd("ZADD").arg(LEASES).arg(1).arg("dead").query(&mut redis.connect()).unwrap();
    let url = redis.url().replace("redis://", "redis://limited:secret@");
    let limited = Tallycast::start_unready(&url, &["--cluster", "--instance", "a"]);
    until_nodes(&limited, &["a"]);
    limited.terminate();
    let left: usize = redis::cmd("ZCARD").arg(LEASES).query(&mut redis.connect()).unwrap();
    assert_eq!(left, 0);
}

/// Saves screenshots of the table: current, and stale.
#[test]
fn admin_page_shows_all_nodes() {
    let mut redis = RedisServer::start();
    let (a, b) = (node(&redis, "web.1"), node(&redis, "web.2"));
    let draining = Tallycast::start(&redis, &["--cluster", "--instance", "web.3", "--drain-delay", "1h"]);
    draining.signal(Signal::TERM);
    let _streams = [0, 1, 2].map(|_| EventSource::open(&a, "/subscribe/raw"));
    let (desktop, phone) = (Browser::start(), Browser::start_with(360, true));
    let shown = "[...document.querySelectorAll('#nodes tbody tr')].map(row => row.dataset.node).join(' ')";
    let own = "document.querySelector('#nodes tbody tr[aria-current] th').textContent";
    for (browser, node) in [(&desktop, &a), (&phone, &b)] {
        browser.open(node, "/admin/");
        browser.wait_until("document.querySelector('#cluster').checkVisibility()", true);
        browser.wait_until(shown, "rust-development-web.1 rust-development-web.2 rust-development-web.3");
        browser.wait_until("document.querySelector('#cluster-state').textContent", "3 nodes");
        browser.wait_until("document.querySelector('#nodes tbody tr .number').textContent", "3");
        browser
            .wait_until("document.querySelector('#nodes tbody tr:last-child td .tag')?.textContent ?? ''", "draining");
    }
    assert_eq!(desktop.eval(own), "rust-development-web.1 this node");
    assert_eq!(phone.eval(own), "rust-development-web.2 this node");
    desktop.screenshot("nodes-light-1280");
    phone.run("document.querySelector('#cluster').scrollIntoView()");
    phone.screenshot("nodes-dark-360");
    redis.kill();
    for browser in [&desktop, &phone] {
        browser.wait_until("document.querySelector('#cluster').dataset.stale", "true");
        let text =
            "document.querySelector('#cluster-state').textContent.startsWith('Stale: the broker does not answer')";
        assert_eq!(browser.eval(text), true);
        assert_eq!(browser.eval("document.querySelectorAll('#nodes tbody tr').length"), 3);
        browser.wait_until("document.querySelector('#cluster-age').textContent.startsWith('last read ')", true);
        let overflow = browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert_eq!(overflow, 0);
    }
    desktop.screenshot("nodes-stale-light-1280");
    phone.run("document.querySelector('#cluster').scrollIntoView()");
    phone.screenshot("nodes-stale-dark-360");
    redis.run();
    for browser in [&desktop, &phone] {
        browser.wait_until("document.querySelector('#cluster').dataset.stale", "false");
        assert_eq!(browser.console_messages(), [""; 0]);
    }
    let mut demo = command();
    demo.arg("demo");
    let demo = Tallycast::spawn(demo);
    desktop.open(&demo, "/admin/");
    desktop.wait_until("document.documentElement.dataset.ready", "");
    assert_eq!(desktop.eval("document.querySelector('#cluster').checkVisibility()"), false);
}
