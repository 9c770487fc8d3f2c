//! What a node knows of the others where the broker keeps nothing: each node sends its record to all, and each keeps what it has
//! received, with a lease by its own clock. Pure: no clock of another node matters, nor any broker.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::records::Reading;
use super::{ClusterNode, LEASE, MAX_NODES, MAX_RECORD_BYTES, NodeReport};
use crate::nodes::NodeId;

/// Nodes that are remembered; those in a view are fewer.
const MAX_MEMBERS: usize = 4 * MAX_NODES;
/// The longest id of a node, in bytes.
const MAX_ID_BYTES: usize = 512;
/// How long nodes have to announce themselves again after an outage of the broker.
const GRACE: Duration = Duration::from_secs(5);

/// What nodes send to all.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Message<'a> {
    /// The state of a node.
    Here {
        #[serde(borrow)]
        id: Cow<'a, str>,
        #[serde(flatten)]
        report: Cow<'a, NodeReport>,
    },
    /// A node has stopped.
    Gone {
        #[serde(borrow)]
        id: Cow<'a, str>,
    },
    /// A node has come, and asks the others to announce themselves.
    Ask {
        #[serde(borrow)]
        id: Cow<'a, str>,
    },
}

/// What follows from a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Nothing worth a new view at once.
    None,
    /// A node has come or gone, or its state has changed.
    Changed,
    /// This node has to announce itself.
    Announce,
    /// It came from this node: the broker passes on what it is sent.
    Own,
}

/// The nodes that this one has heard of, itself included.
#[derive(Debug)]
pub(super) struct Gossip {
    id: NodeId,
    members: HashMap<Box<str>, Member>,
    /// Messages that were not valid, since this was asked last.
    skipped: usize,
}

#[derive(Debug)]
struct Member {
    report: NodeReport,
    /// The time by this node's clock, in seconds since the Unix epoch.
    reported_at: u64,
    renewed_at: Instant,
}

impl Gossip {
    pub(super) fn new(id: NodeId) -> Self {
        Self { id, members: HashMap::new(), skipped: 0 }
    }

    fn own_id(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.id.as_str())
    }

    /// The message by which this node announces itself.
    pub(super) fn here(&self, report: &NodeReport) -> Vec<u8> {
        encode(&Message::Here { id: self.own_id(), report: Cow::Borrowed(report) })
    }

    /// The message by which this node takes its leave.
    pub(super) fn gone(&self) -> Vec<u8> {
        encode(&Message::Gone { id: self.own_id() })
    }

    /// The message by which this node asks for the others.
    pub(super) fn ask(&self) -> Vec<u8> {
        encode(&Message::Ask { id: self.own_id() })
    }

    /// Takes a message, which may have been sent by anything, at the time `now`, which is `unix` in seconds since the Unix epoch.
    pub(super) fn receive(&mut self, message: &[u8], now: Instant, unix: u64) -> Reaction {
        if message.len() > MAX_RECORD_BYTES {
            self.skipped += 1;
            return Reaction::None;
        }
        match serde_json::from_slice(message) {
            Ok(Message::Here { id, report }) if id.len() <= MAX_ID_BYTES => {
                self.renew(&id, report.into_owned(), now, unix)
            }
            Ok(Message::Gone { id }) if id != self.id.as_str() => match self.members.remove(&*id) {
                Some(_) => Reaction::Changed,
                None => Reaction::None,
            },
            Ok(Message::Ask { id }) if id != self.id.as_str() => Reaction::Announce,
            Ok(Message::Ask { .. } | Message::Gone { .. }) => Reaction::None,
            Ok(Message::Here { .. }) | Err(_) => {
                self.skipped += 1;
                Reaction::None
            }
        }
    }

    fn renew(&mut self, id: &str, report: NodeReport, now: Instant, unix: u64) -> Reaction {
        let is_own = id == self.id.as_str();
        let is_full = self.members.len() >= MAX_MEMBERS;
        let member = Member { report, reported_at: unix, renewed_at: now };
        let is_known = match self.members.get_mut(id) {
            Some(known) => {
                let state = |member: &Member| (member.report.status.clone(), member.report.draining);
                let is_same = state(known) == state(&member);
                *known = member;
                is_same
            }
            None if is_full && !is_own => {
                self.skipped += 1;
                true
            }
            None => {
                self.members.insert(id.into(), member);
                false
            }
        };
        match (is_own, is_known) {
            (true, _) => Reaction::Own,
            (false, true) => Reaction::None,
            (false, false) => Reaction::Changed,
        }
    }

    /// Forgets the nodes whose leases are over.
    pub(super) fn expire(&mut self, now: Instant) {
        self.members.retain(|_, member| now.saturating_duration_since(member.renewed_at) <= LEASE);
    }

    /// The broker is there again: nodes that could not be heard meanwhile have a moment to announce themselves.
    pub(super) fn resume(&mut self, now: Instant) {
        let Some(earliest) = now.checked_sub(LEASE.saturating_sub(GRACE)) else { return };
        for member in self.members.values_mut() {
            member.renewed_at = member.renewed_at.max(earliest);
        }
    }

    /// Messages that were not valid, since the last call.
    pub(super) fn take_skipped(&mut self) -> usize {
        std::mem::take(&mut self.skipped)
    }

    /// All nodes at the time `unix`, this one with its current `report`.
    pub(super) fn reading(&self, report: &NodeReport, unix: u64) -> Reading {
        let own = ClusterNode { report: report.clone(), reported_at: unix, id: self.id.as_str().to_owned() };
        let mut others: Vec<(&str, &Member)> =
            self.members.iter().map(|(id, member)| (&**id, member)).filter(|(id, _)| *id != self.id.as_str()).collect();
        let total = others.len() + 1;
        // Those that were heard of last.
        others.sort_unstable_by_key(|(_, member)| std::cmp::Reverse(member.renewed_at));
        let others = others.into_iter().take(MAX_NODES - 1).map(|(id, member)| {
            let Member { report, reported_at, .. } = member;
            ClusterNode { report: report.clone(), reported_at: *reported_at, id: id.to_owned() }
        });
        let mut nodes: Vec<ClusterNode> = std::iter::once(own).chain(others).collect();
        nodes.sort_unstable_by(|one, other| (&one.report.node, &one.id).cmp(&(&other.report.node, &other.id)));
        Reading { time: unix, nodes, total, skipped: 0 }
    }
}

/// A message as it is sent. Texts and numbers can always be written.
fn encode(message: &Message<'_>) -> Vec<u8> {
    serde_json::to_vec(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(node: &str) -> NodeReport {
        let (version, status) = ("1".to_owned(), "OK".to_owned());
        let [startup_time, connections, msgs_broadcast] = [1, 2, 3];
        NodeReport {
            node: node.to_owned(),
            version,
            status,
            draining: false,
            startup_time,
            connections,
            msgs_broadcast,
        }
    }

    fn names(gossip: &Gossip) -> Vec<String> {
        gossip.reading(&report("own"), 1).nodes.into_iter().map(|node| node.report.node).collect()
    }

    #[test]
    fn nodes_come_stay_and_go() {
        let [mut one, other] = ["own", "b\"\u{1}"].map(|name| Gossip::new(NodeId::new(name)));
        let start = Instant::now();
        let here = other.here(&report("b\"\u{1}"));
        assert_eq!(one.receive(&here, start, 100), Reaction::Changed);
        assert_eq!(one.receive(&here, start, 100), Reaction::None);
        assert_eq!(names(&one), ["b\"\u{1}", "own"]);
        let draining = NodeReport { draining: true, ..report("b\"\u{1}") };
        assert_eq!(one.receive(&other.here(&draining), start, 101), Reaction::Changed);
        let reading = one.reading(&report("own"), 105);
        assert_eq!((reading.time, reading.total, reading.nodes[0].reported_at), (105, 2, 101));
        assert!(reading.nodes[0].report.draining);
        assert_eq!(one.receive(&other.gone(), start, 102), Reaction::Changed);
        assert_eq!(one.receive(&other.gone(), start, 102), Reaction::None);
        assert_eq!(names(&one), ["own"]);
        assert_eq!(one.receive(&other.ask(), start, 102), Reaction::Announce);
        // What this node has sent comes back.
        let own = [one.here(&report("own")), one.ask(), one.gone()];
        let reactions = own.map(|message| one.receive(&message, start, 103));
        assert_eq!(reactions, [Reaction::Own, Reaction::None, Reaction::None]);
        assert_eq!(names(&one), ["own"]);
    }

    #[test]
    fn dead_nodes_are_forgotten_after_their_lease() {
        let [mut one, other] = ["own", "b"].map(|name| Gossip::new(NodeId::new(name)));
        let start = Instant::now();
        // Whatever the other node's clock says.
        let here = other.here(&NodeReport { startup_time: u64::MAX, ..report("b") });
        one.receive(&here, start, 100);
        one.expire(start + LEASE);
        assert_eq!(names(&one), ["b", "own"]);
        one.expire(start + LEASE + Duration::from_millis(1));
        assert_eq!(names(&one), ["own"]);
        // After an outage a node has a moment to announce itself.
        one.receive(&here, start, 100);
        let later = start + 10 * LEASE;
        one.resume(later);
        one.expire(later + GRACE);
        assert_eq!(names(&one), ["b", "own"]);
        one.expire(later + GRACE + Duration::from_millis(1));
        assert_eq!(names(&one), ["own"]);
    }

    #[test]
    fn invalid_messages_are_skipped_and_nodes_are_bounded() {
        let mut gossip = Gossip::new(NodeId::new("own"));
        let now = Instant::now();
        let large = Gossip::new(NodeId::new("c")).here(&report(&"x".repeat(MAX_RECORD_BYTES)));
        let long_id = format!(r#"{{"type":"here","id":"{}"}}"#, "x".repeat(MAX_ID_BYTES + 1));
        for invalid in [&b""[..], b"{}", b"\xff", br#"{"type":"here","id":"a"}"#, &large, long_id.as_bytes()] {
            assert_eq!(gossip.receive(invalid, now, 1), Reaction::None);
        }
        assert_eq!((gossip.take_skipped(), gossip.take_skipped()), (6, 0));
        for number in 0..MAX_MEMBERS + 5 {
            let other = Gossip::new(NodeId::new(&format!("n{number}")));
            gossip.receive(&other.here(&report("n")), now, 1);
        }
        let reading = gossip.reading(&report("own"), 1);
        assert_eq!((reading.nodes.len(), reading.total, gossip.take_skipped()), (MAX_NODES, MAX_MEMBERS + 1, 5));
        assert!(reading.nodes.iter().any(|node| node.report.node == "own"));
    }
}
