//! Rates: readers that want no more than some batches in a time get what came in between conflated.
//!
//! All readers of a feed that have the same rate are due together, and those that read on at the same place share what they
//! get. The feed's log is that of all its rates.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use super::feed::{Pace, Readers};
use super::{FeedId, Shard, WRITES_PER_YIELD};
use crate::Rate;
use crate::connection::FlushOutcome;
use crate::merges::Summary;

/// Rates that have unread messages but are not due yet, the first one first.
pub(super) type Schedule = BTreeSet<(Instant, FeedId, Rate)>;

/// Waits until the first rate is due; for ever without one.
pub(super) async fn next_due(schedule: &Schedule) {
    match schedule.first() {
        Some((due, ..)) => tokio::time::sleep_until((*due).into()).await,
        None => std::future::pending().await,
    }
}

impl Shard {
    /// Writes to the readers of the rates that have become due.
    pub(super) async fn serve_due(&mut self) {
        let now = Instant::now();
        let mut served = 0;
        while let Some(&(due, id, rate)) = self.schedule.first()
            && due <= now
        {
            self.schedule.pop_first();
            if let Some(pace) = self.pace(id, rate) {
                pace.is_scheduled = false;
            }
            self.write_paced(id, &mut served).await;
        }
    }

    /// Writes to the readers of each rate of a feed that has unread messages and is due; schedules the others. `served` counts
    /// the readers, so that other tasks get a turn.
    pub(super) async fn write_paced(&mut self, id: FeedId, served: &mut usize) {
        let now = Instant::now();
        let Some(Readers::Paced(paces)) = self.feeds.get_mut(id).map(|feed| &mut feed.readers) else { return };
        let mut due = Vec::new();
        for pace in paces.iter_mut().filter(|pace| pace.has_unread) {
            if pace.due <= now {
                due.push(pace.rate);
            } else if !std::mem::replace(&mut pace.is_scheduled, true) {
                self.schedule.insert((pace.due, id, pace.rate));
            }
        }
        for rate in due {
            self.write_pace(id, rate, now, served).await;
        }
        self.trim(id);
    }

    /// Writes what is unread to all readers of one rate.
    async fn write_pace(&mut self, id: FeedId, rate: Rate, now: Instant, served: &mut usize) {
        let Some(pace) = self.pace(id, rate) else { return };
        let was_scheduled = std::mem::replace(&mut pace.is_scheduled, false).then_some(pace.due);
        (pace.due, pace.has_unread) = (now + rate.period(), false);
        let readers = pace.readers.clone();
        if let Some(due) = was_scheduled {
            self.schedule.remove(&(due, id, rate));
        }
        let mut summaries = self.summaries(id, &readers);
        let (mut disconnected, mut replaying) = (Vec::new(), Vec::new());
        for key in readers {
            let Some(feed) = self.feeds.get_mut(id) else { return };
            let connection = &mut self.connections[key as usize];
            if connection.blocked.is_some() {
                connection.is_overdue = true;
                continue;
            }
            let mut view = feed.view(&self.config, &self.budgets, &self.stats);
            let summary = match (connection.merge_group(), summaries.get(&connection.position)) {
                (None, Some(summary)) => summary.clone(),
                _ => connection.unread(&mut view),
            };
            self.stats.conflated.add(summary.skipped);
            connection.put_summary(summary, &mut view);
            match connection.flush(&mut view, &mut self.sent) {
                FlushOutcome::Current => connection.last_progress = now.into(),
                FlushOutcome::Blocked => feed.add_blocked(key, connection, now),
                FlushOutcome::Replaying => replaying.push(key),
                FlushOutcome::Disconnected => disconnected.push(key),
            }
            *served += 1;
            if *served >= WRITES_PER_YIELD {
                *served = 0;
                tokio::task::yield_now().await;
            }
        }
        summaries.clear();
        let head = self.feeds.get(id).map(|feed| feed.log.head());
        if let (Some(pace), Some(head)) = (self.pace(id, rate), head) {
            pace.position = head;
        }
        for key in disconnected {
            self.remove(key as usize);
        }
        for key in replaying {
            self.enqueue_replay(key as usize);
        }
    }

    /// What is unread from each place where one of `readers` reads on. The newest messages are conflated first, and are then
    /// a part of what is unread from the places before, so that each message is conflated once.
    fn summaries(&mut self, id: FeedId, readers: &[u32]) -> HashMap<u64, Summary> {
        let Some(feed) = self.feeds.get(id) else { return HashMap::new() };
        let Some(rules) = feed.rules() else { return HashMap::new() };
        let framing = &*feed.key.framing.framing;
        let positions: BTreeSet<u64> = readers
            .iter()
            .map(|key| &self.connections[*key as usize])
            .filter(|connection| connection.blocked.is_none() && connection.merge_group().is_none())
            .map(|connection| connection.position)
            .collect();
        let mut end = feed.log.head();
        let mut newer = feed.log.conflated(end, end, rules);
        let mut summaries = HashMap::new();
        for position in positions.into_iter().rev() {
            let mut all = feed.log.conflated(position, end, rules);
            all.append(&newer);
            summaries.insert(position, Summary::new(&all, framing, false, &self.budgets.waiting));
            (newer, end) = (all, position);
        }
        summaries
    }

    /// Gives a reader what it has not got, whether it is due or not; nothing if it has no rate.
    pub(super) fn put_unread(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(feed) = self.feeds.get_mut(connection.feed) else { return };
        if feed.key.is_paced && !connection.is_replaying() {
            let mut view = feed.view(&self.config, &self.budgets, &self.stats);
            let summary = connection.unread(&mut view);
            self.stats.conflated.add(summary.skipped);
            connection.put_summary(summary, &mut view);
        }
    }

    /// Has a reader that was blocked when it was due get what it has not got as soon as its rate is due again.
    pub(super) fn schedule_overdue(&mut self, id: FeedId, rate: Rate, position: u64) {
        let Some(pace) = self.pace(id, rate) else { return };
        pace.has_unread = true;
        pace.position = pace.position.min(position);
        if !std::mem::replace(&mut pace.is_scheduled, true) {
            let due = pace.due;
            self.schedule.insert((due, id, rate));
        }
    }

    /// No longer looks at a rate that has no readers.
    pub(super) fn unschedule(&mut self, id: FeedId, pace: &Pace) {
        if pace.is_scheduled {
            self.schedule.remove(&(pace.due, id, pace.rate));
        }
    }

    fn pace(&mut self, id: FeedId, rate: Rate) -> Option<&mut Pace> {
        match &mut self.feeds.get_mut(id)?.readers {
            Readers::Paced(paces) => paces.iter_mut().find(|pace| pace.rate == rate),
            Readers::All(_) => None,
        }
    }
}
