//! Messages with a probe on their way through a shard. Without one, none of this costs more than a look at an empty list.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::feed::{Readers, place};
use super::{FeedId, Shard};
use crate::probe::{Probe, ShardPassage};
use crate::turn::Turn;

/// A message with a probe, from when its turn is taken until it has been written.
#[derive(Debug)]
pub(super) struct Followed {
    probe: Arc<Probe>,
    /// Its number among the messages of the turns that are taken together.
    number: u32,
    /// The feeds with the message that have not been written yet.
    feeds: HashSet<FeedId>,
    passage: ShardPassage,
}

impl Followed {
    /// Adds a feed if message `number`, which it has, is this one.
    pub(super) fn found(&mut self, number: u32, feed: FeedId) {
        if self.number == number {
            self.feeds.insert(feed);
        }
    }
}

impl Shard {
    /// Adds the messages with probes of turns that are taken together. Returns the number of those before.
    pub(super) fn follow(&mut self, turns: &[Arc<Turn>]) -> usize {
        let before = self.followed.len();
        let mut first = 0;
        for turn in turns {
            self.followed.extend(turn.probes.iter().map(|(index, probe)| Followed {
                probe: Arc::clone(probe),
                number: place(first + index),
                feeds: HashSet::new(),
                passage: ShardPassage {
                    shard: self.number,
                    taken_at: Instant::now(),
                    first_write_at: None,
                    last_write_at: None,
                    readers: 0,
                    blocked: 0,
                    bytes: 0,
                },
            }));
            first += turn.messages.len();
        }
        before
    }

    /// Notes that a feed was written to its readers.
    pub(super) fn followed_written(&mut self, id: FeedId, started_at: Instant, bytes: u64) {
        let Some(feed) = self.feeds.get(id) else { return };
        if matches!(feed.readers, Readers::Paced(_)) {
            return;
        }
        let now = Instant::now();
        for Followed { feeds, passage, .. } in &mut self.followed {
            if !feeds.remove(&id) {
                continue;
            }
            passage.first_write_at.get_or_insert(started_at);
            passage.last_write_at = Some(now);
            passage.readers += feed.readers.len();
            passage.blocked += feed.blocked.len();
            passage.bytes += bytes;
        }
    }

    /// Reports what has been written.
    pub(super) fn report_followed(&mut self) {
        for Followed { probe, passage, .. } in self.followed.drain(..) {
            probe.passed_shard(passage);
        }
    }
}
