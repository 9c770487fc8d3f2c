//! The nodes that a node knows, as its admin routes show them.

use serde_json::Value;

use super::{Tallycast, eventually};

/// The names of the nodes that a node shows, without what all begin with.
pub(crate) fn names(view: &Value) -> Vec<&str> {
    let nodes = view["nodes"].as_array().unwrap().iter();
    nodes.map(|node| node["node"].as_str().unwrap().strip_prefix("rust-development-").unwrap()).collect()
}

#[track_caller]
pub(crate) fn until(tallycast: &Tallycast, expected: &[&str]) -> Value {
    let mut view = Value::Null;
    eventually(&format!("the nodes are {expected:?}"), || {
        view = tallycast.json("/admin/cluster.json");
        view["stale"] == false && names(&view) == expected
    });
    view
}

/// Checks that two nodes know each other, and that one that stops is known no more.
pub(crate) fn come_and_go(start: impl Fn(&str) -> Tallycast) {
    let [a, b] = ["a", "b"].map(start);
    for node in [&a, &b] {
        until(node, &["a", "b"]);
    }
    b.terminate();
    until(&a, &["a"]);
    // Their messages are no events.
    assert_eq!(a.counter("/decode/decoded"), 0);
}
