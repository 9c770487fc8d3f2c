//! Slow readers: what happens when a log's bounds overtake the readers that are behind, and when too many bytes wait for
//! readers.

use std::time::Instant;

use super::{FeedId, Shard};
use crate::log::Log;
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
            let resume = match feed.policy {
                Policy::Disconnect | Policy::Merge => head,
                // The newest batch can still be read, unless it alone exceeds the bounds.
                Policy::Skip => (head - 1).max(oldest + 1),
            };
            let mut new_group = None;
            if feed.policy == Policy::Merge {
                new_group = Some(feed.merges.overtake(&feed.log));
            }
            for &key in &feed.blocked {
                let connection = &mut self.connections[key as usize];
                if connection.position != oldest {
                    continue;
                }
                match feed.policy {
                    Policy::Disconnect => {
                        self.stats.slow_disconnected.add(1);
                        too_slow.push(key);
                    }
                    Policy::Skip => {
                        self.stats.slow_skipped.add(1);
                        let skipped = feed.log.messages_since(oldest) - feed.log.messages_since(resume);
                        connection.catch_up.get_or_insert_default().skipped += skipped;
                    }
                    Policy::Merge => {
                        self.stats.slow_merged.add(1);
                        let catch_up = connection.catch_up.get_or_insert_default();
                        if let (None, Some(group)) = (catch_up.merged, new_group) {
                            feed.merges.join(group);
                            catch_up.merged = Some(group);
                        }
                    }
                }
                connection.position = resume;
            }
            feed.merges.remove_empty();
            feed.log.release(feed.slowest(&self.connections).max(oldest + 1));
        }
        while let Some(group) = feed.merges.excess() {
            for &key in &feed.blocked {
                if self.connections[key as usize].merge_group() == Some(group) {
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
        let mut behind: Vec<(Instant, usize)> =
            blocked.map(|(key, connection)| (connection.last_progress, key)).collect();
        behind.sort_unstable();
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
