//! Slow readers: what happens when a log's bounds overtake the readers that are behind, and when too many bytes wait for
//! readers.

use std::time::Duration;

use super::feed::Readers;
use super::{FeedId, Shard};
use crate::log::Log;
use crate::moment::Moment;
use crate::{CloseReason, Policy};

impl Shard {
    /// Releases what no reader needs, and keeps the log within its bounds by the feed's policy.
    pub(super) fn trim(&mut self, id: FeedId) {
        let Some(feed) = self.feeds.get_mut(id) else { return };
        feed.log.release(feed.slowest(&self.connections));
        let mut too_slow = Vec::new();
        let is_over = |log: &Log| {
            log.len() > self.config.log_batches
                || log.bytes() > self.config.log_bytes
                || (log.len() > 0 && self.budgets.waiting.is_exceeded())
        };
        while !self.closing && is_over(&feed.log) {
            let oldest = feed.log.base();
            let head = feed.log.head();
            let new_group = feed.rules().map(|rules| feed.merges.overtake(&feed.log, rules));
            // What is kept is not lost: readers get it from the history instead, in order.
            let not_kept = feed.log.not_kept_since(oldest);
            let can_replay = new_group.is_none() && feed.key.framing.framing.names_events();
            let first_kept = feed.log.first_kept(oldest).filter(|_| can_replay);
            let from_history = first_kept.filter(|_| not_kept == 0 || feed.policy == Policy::Skip);
            let resume = match feed.policy {
                _ if from_history.is_some() => head,
                // The newest batch can still be read, unless it alone exceeds the bounds.
                Policy::Skip if new_group.is_none() => (head - 1).max(oldest + 1),
                _ => head,
            };
            for key in feed.behind() {
                let connection = &mut self.connections[key as usize];
                if connection.position != oldest {
                    continue;
                }
                connection.position = resume;
                if let Some(next) = from_history {
                    connection.replay_instead(&feed.key.interest, next, self.history_end);
                    self.stats.slow_replayed.add(1);
                    if not_kept > 0 {
                        self.stats.slow_skipped.add(1);
                        connection.catch_up.get_or_insert_default().skipped += not_kept;
                    }
                } else if let Some(group) = new_group {
                    let catch_up = connection.catch_up.get_or_insert_default();
                    if catch_up.merged.is_none() {
                        feed.merges.join(group);
                        catch_up.merged = Some(group);
                    }
                    match feed.policy {
                        // Its client asked for conflation.
                        _ if feed.key.is_paced => {}
                        Policy::Latest => self.stats.slow_latest.add(1),
                        _ => self.stats.slow_merged.add(1),
                    }
                } else if feed.policy == Policy::Skip {
                    self.stats.slow_skipped.add(1);
                    let skipped = feed.log.messages_since(oldest) - feed.log.messages_since(resume);
                    connection.catch_up.get_or_insert_default().skipped += skipped;
                } else {
                    self.stats.slow_disconnected.add(1);
                    too_slow.push(key);
                }
            }
            feed.merges.remove_empty();
            if let Readers::Paced(paces) = &mut feed.readers {
                for pace in paces {
                    let positions = pace.readers.iter().map(|&key| self.connections[key as usize].position);
                    pace.position = positions.min().unwrap_or(head);
                }
            }
            feed.log.release(feed.slowest(&self.connections).max(oldest + 1));
        }
        while let Some(group) = feed.merges.excess() {
            for key in feed.behind() {
                let connection = &mut self.connections[key as usize];
                if connection.merge_group() == Some(group) {
                    // Its number may be used again before the connection is closed.
                    connection.leave_merge_group();
                    self.stats.slow_disconnected.add(1);
                    too_slow.push(key);
                }
            }
            feed.merges.remove(group);
        }
        for key in too_slow {
            self.close_connection(key as usize, Some(&CloseReason::SlowReader));
        }
    }

    /// Disconnects readers, those first that have taken nothing for longest, until no more bytes wait than may. Bytes that
    /// were begun stay with a reader that is overtaken, so cutting the logs back is not always enough.
    pub(super) fn shed(&mut self) {
        if self.closing || !self.budgets.waiting.is_exceeded() {
            return;
        }
        let blocked = self.connections.iter().filter(|(_, connection)| connection.blocked.is_some());
        let now = Moment::now();
        let mut behind: Vec<(Duration, usize)> =
            blocked.map(|(key, connection)| (now.since(connection.last_progress), key)).collect();
        behind.sort_unstable_by(|earlier, later| later.cmp(earlier));
        for (_, key) in behind {
            if !self.budgets.waiting.is_exceeded() {
                return;
            }
            if let Some(connection) = self.connections.get(key) {
                connection.discard_unsent();
                self.stats.shed.add(1);
                self.remove(key);
            }
        }
    }
}
