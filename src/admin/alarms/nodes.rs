//! Nodes that have vanished without having been told to stop.

use std::collections::HashMap;

use super::WINDOW;
use crate::cluster::{ClusterNode, MAX_NODES};

/// For how many looks a node is missed, one each second. After that it has been removed.
const MISSED_FOR: u64 = WINDOW.as_secs();
/// The age of a record in seconds up to which it has been renewed as it should be. A node that ends removes such a record; that of one
/// that was killed grows older until its lease ends.
const RENEWED: u64 = 7;

/// What is remembered of the nodes, by the ids of their processes.
#[derive(Debug, Default)]
pub(in crate::admin) struct Nodes {
    seen: HashMap<String, Seen>,
    missing: Vec<Missing>,
    looks: u64,
}

#[derive(Debug)]
struct Seen {
    name: String,
    /// Whether it is about to stop, or could be.
    may_go: bool,
}

#[derive(Debug)]
struct Missing {
    name: String,
    since: u64,
}

impl Nodes {
    /// Looks at the nodes, once per second: those of `total` nodes that were known at the time `as_of`, in seconds since the Unix epoch.
    /// Returns the names of those that are missing, if any are.
    pub(in crate::admin) fn look(&mut self, as_of: u64, nodes: &[ClusterNode], total: usize) -> Option<String> {
        self.looks += 1;
        // A part of the nodes does not say which are gone.
        if total > nodes.len() {
            (self.seen, self.missing) = Default::default();
            return None;
        }
        let is_there = |name: &str| nodes.iter().any(|node| node.report.node == name);
        let mut before = std::mem::take(&mut self.seen);
        for node in nodes {
            before.remove(&node.id);
            let age = as_of.saturating_sub(node.reported_at);
            let seen = Seen { name: node.report.node.clone(), may_go: node.report.draining || age <= RENEWED };
            self.seen.insert(node.id.clone(), seen);
        }
        for Seen { name, .. } in before.into_values().filter(|seen| !seen.may_go) {
            if self.missing.len() < MAX_NODES {
                self.missing.push(Missing { name, since: self.looks });
            }
        }
        self.missing.retain(|missing| self.looks - missing.since < MISSED_FOR && !is_there(&missing.name));
        let mut names: Vec<&str> = self.missing.iter().map(|missing| &*missing.name).collect();
        names.sort_unstable();
        names.dedup();
        (!names.is_empty()).then(|| names.join(", "))
    }
}
