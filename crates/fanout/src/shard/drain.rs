//! Draining: a shard's streams end one by one, in random order, so that their clients do not come back all at once.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Shard, WRITES_PER_YIELD};
use crate::CloseReason;
use crate::connection::FlushOutcome;

/// The time between two groups of streams that end.
const STEP: Duration = Duration::from_millis(20);

/// The streams that are still to end.
#[derive(Debug)]
pub(super) struct Drain {
    reason: CloseReason,
    started: Instant,
    over: Duration,
    /// Key and generation, in random order.
    left: Vec<(usize, u64)>,
    total: usize,
    next_step: Instant,
}

impl Drain {
    /// How many streams may be left at `now`.
    fn due(&self, now: Instant) -> usize {
        let elapsed = now.duration_since(self.started);
        if elapsed >= self.over {
            return 0;
        }
        let left = self.over.saturating_sub(elapsed).as_secs_f64() / self.over.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the total")]
        let left = (self.total as f64 * left).ceil() as usize;
        left
    }
}

/// Waits for the next step of a drain; for ever without one.
pub(super) async fn next_step(drain: Option<&Drain>) {
    match drain {
        Some(drain) => sleep_until(drain.next_step).await,
        None => std::future::pending().await,
    }
}

impl Shard {
    /// Starts to end the streams that are open now, spread evenly over `over`.
    pub(super) fn start_drain(&mut self, over: Duration, reason: CloseReason) {
        let random = RandomState::new();
        let mut left: Vec<_> = self.connections.iter().map(|(key, connection)| (key, connection.generation)).collect();
        left.sort_by_cached_key(|id| random.hash_one(id));
        let now = Instant::now();
        self.drain = Some(Drain { reason, started: now, over, total: left.len(), left, next_step: now });
    }

    /// Ends all streams that are left, as [`drain_step`](Self::drain_step) does.
    pub(super) async fn finish_drain(&mut self) {
        if let Some(drain) = &mut self.drain {
            drain.over = Duration::ZERO;
        }
        self.drain_step().await;
    }

    /// Ends the streams whose time has come. A reader that has not got everything yet keeps its stream until the shutdown.
    pub(super) async fn drain_step(&mut self) {
        let Some(mut drain) = self.drain.take() else { return };
        let now = Instant::now();
        let mut ended = 0;
        while drain.left.len() > drain.due(now)
            && let Some((key, generation)) = drain.left.pop()
        {
            if self.connection(key, generation).is_none_or(|connection| connection.blocked.is_some()) {
                continue;
            }
            self.put_unread(key);
            if self.write(key) == FlushOutcome::Current {
                self.close_connection(key, Some(&drain.reason));
            }
            ended += 1;
            if ended % WRITES_PER_YIELD == 0 {
                tokio::task::yield_now().await;
            }
        }
        drain.next_step = now + STEP;
        self.drain = Some(drain).filter(|drain| !drain.left.is_empty());
    }
}
