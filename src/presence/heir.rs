//! Clears up nodes that have died: sends the disconnect events of their subscriptions, and removes what they shared once these
//! are published.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::Snapshot;
use super::event::EventSender;
use super::{PresenceEvent, Subscription, shared};
use crate::nodes::{NodeId, Nodes, NodesError};

/// Topics of a dead node that are read together.
const PAGE_TOPICS: usize = 64;
/// Pages in one turn.
const MAX_PAGES: usize = 64;

/// The dead nodes that this one is the heir of.
#[derive(Debug, Default)]
pub(super) struct Heir {
    /// The first is being cleared up.
    dead: VecDeque<NodeId>,
    looked_at: Option<Instant>,
    /// Its last topic that was read.
    read: Option<String>,
    /// Events that wait for room.
    waiting: VecDeque<PresenceEvent>,
    /// Topics, to be removed once so many events are published.
    sent: VecDeque<(u64, Vec<String>)>,
}

impl Heir {
    /// Looks for dead nodes every `period`, and clears up as much as there is room for events. Returns how many nodes are
    /// finished.
    pub(super) async fn turn(
        &mut self,
        nodes: &Nodes,
        node: &NodeId,
        events: &EventSender,
        period: Duration,
    ) -> Result<u64, NodesError> {
        if self.dead.is_empty() && self.looked_at.is_none_or(|at| at.elapsed() >= period) {
            self.looked_at = Some(Instant::now());
            self.dead = nodes.claim(node).await?.into();
        }
        let mut finished = 0;
        while let Some(dead) = self.dead.front().cloned() {
            nodes.keep(&shared::keys(nodes, &dead)).await?;
            if !self.clear_up(nodes, &dead, events).await? {
                break;
            }
            nodes.finish(&dead, &shared::keys(nodes, &dead)).await?;
            tracing::info!(node = %dead, "a node has died; its subscriptions have ended");
            self.dead.pop_front();
            self.read = None;
            finished += 1;
        }
        Ok(finished)
    }

    /// Ends subscriptions of a dead node. Returns whether nothing is left to do.
    async fn clear_up(&mut self, nodes: &Nodes, dead: &NodeId, events: &EventSender) -> Result<bool, NodesError> {
        for _ in 0..MAX_PAGES {
            while let Some((_, topics)) = self.sent.front().filter(|(number, _)| *number <= events.published()) {
                shared::remove(nodes, dead, topics).await?;
                self.sent.pop_front();
            }
            while events.budget() != Some(0)
                && let Some(event) = self.waiting.pop_front()
            {
                events.send(event);
            }
            if !self.waiting.is_empty() {
                return Ok(false);
            }
            // They were the events of the last page.
            if let Some((number, _)) = self.sent.back_mut().filter(|(number, _)| *number == u64::MAX) {
                *number = events.sent();
            }
            if !self.read_page(nodes, dead).await? {
                return Ok(self.sent.is_empty());
            }
        }
        Ok(false)
    }

    /// Reads the next topics. Returns `false` if there are no more.
    async fn read_page(&mut self, nodes: &Nodes, dead: &NodeId) -> Result<bool, NodesError> {
        let start = self.read.as_ref().map_or_else(|| "-".to_owned(), |read| format!("({read}"));
        let topics: Vec<String> = nodes.ask(&shared::topics(nodes, dead, &start, PAGE_TOPICS)).await?;
        let Some(last) = topics.last() else { return Ok(false) };
        let values: Vec<Option<String>> =
            nodes.ask(&shared::values(nodes, dead, topics.iter().map(String::as_str))).await?;
        self.read = Some(last.clone());
        for (topic, value) in topics.iter().zip(values) {
            match shared::parse(value) {
                Ok(snapshot) => self.waiting.extend(ends(dead, topic, snapshot)),
                Err(error) => {
                    tracing::warn!(%error, topic, node = %dead, "cannot read the subscriptions of a dead node");
                }
            }
        }
        self.sent.push_back((u64::MAX, topics));
        Ok(true)
    }
}

/// The events that end what a dead node shared of a topic.
fn ends(dead: &NodeId, topic: &str, snapshot: Snapshot) -> impl Iterator<Item = PresenceEvent> {
    let (topic, node): (Arc<str>, Arc<str>) = (topic.into(), dead.name().into());
    let life: Arc<str> = dead.as_str().into();
    let announced = snapshot.listed.into_iter().filter(|(_, announced)| *announced).map(|(subscriber, _)| subscriber);
    let announced: Vec<_> = announced.collect();
    let count = (snapshot.count > announced.len() as u64).then(|| PresenceEvent::Count {
        topic: Arc::clone(&topic),
        node: Arc::clone(&node),
        count: 0,
    });
    let ended = announced.into_iter().chain(snapshot.leaving).map(move |subscriber| PresenceEvent::Subscription {
        subscription: Subscription { topic: Arc::clone(&topic), node: Arc::clone(&node), subscriber },
        active: false,
        life: Arc::clone(&life),
    });
    ended.chain(count)
}
