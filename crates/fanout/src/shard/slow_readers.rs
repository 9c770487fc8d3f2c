//! Slow readers: what happens when a log's bounds overtake the readers that are behind.

use std::sync::Arc;

use super::Shard;
use crate::feed::FeedId;
use crate::log::{Log, MergedTallies};
use crate::{CloseReason, Policy};

impl Shard {
    /// Releases what no reader needs, and keeps the log within its bounds by the feed's policy.
    pub(super) fn trim(&mut self, id: FeedId) {
        let Some(feed) = self.feeds.get_mut(&id) else { return };
        let before = feed.log.bytes();
        feed.log.release(feed.slowest(&self.connections));
        let others = self.log_bytes - before;
        let mut too_slow = Vec::new();
        let is_over = |log: &Log| {
            log.len() > self.config.log_batches
                || log.bytes() > self.config.log_bytes
                || (log.len() > 0 && others + log.bytes() > self.config.total_log_bytes)
        };
        while !self.closing && is_over(&feed.log) {
            let oldest = feed.log.base();
            let head = feed.log.head();
            let resume = match feed.handle.policy {
                Policy::Disconnect | Policy::Merge => head,
                // The newest batch can still be read, unless it alone exceeds the bounds.
                Policy::Skip => (head - 1).max(oldest + 1),
            };
            let mut sum = None;
            for &key in &feed.blocked {
                let connection = &mut self.connections[key];
                if connection.position != oldest {
                    continue;
                }
                match feed.handle.policy {
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
                        let sum = sum.get_or_insert_with(|| merge_log(&feed.log));
                        if !connection.catch_up.get_or_insert_default().merge(sum, self.config.merged_keys) {
                            self.stats.slow_disconnected.add(1);
                            too_slow.push(key);
                        }
                    }
                }
                connection.position = resume;
            }
            feed.log.release(feed.slowest(&self.connections).max(oldest + 1));
        }
        self.log_bytes = others + feed.log.bytes();
        for key in too_slow {
            self.close_connection(key, Some(&CloseReason::SlowReader));
        }
    }
}

/// Everything that a log holds, for the readers at its very beginning.
fn merge_log(log: &Log) -> Arc<MergedTallies> {
    let mut sum = MergedTallies::default();
    for merged in log.since(log.base()).filter_map(|batch| batch.merged.as_ref()) {
        sum.merge(merged);
    }
    Arc::new(sum)
}
