//! Once a second: keep-alives after silence, and the end of connections that have stalled, gone or expired.

use std::time::{Instant, SystemTime};

use super::{Shard, WRITES_PER_YIELD};
use crate::CloseReason;
use crate::moment::Moment;

impl Shard {
    pub(super) async fn tick(&mut self) {
        let (now, wall_clock) = (Instant::now(), SystemTime::now());
        let moment = Moment::from(now);
        let silence = self.config.keep_alive;
        let mut removed = Vec::new();
        let mut closed = Vec::new();
        let mut silent = Vec::new();
        while self.closing_sinks.try_join_next().is_some() {}
        for (key, connection) in &self.connections {
            let Some(feed) = self.feeds.get(connection.feed) else { continue };
            let stalled = connection.blocked.is_some()
                && !connection.is_waiting_for_piece()
                && moment.since(connection.last_progress) >= self.config.stall_timeout;
            if stalled {
                self.stats.stalled.add(1);
                connection.discard_unsent();
            }
            if stalled || !connection.is_open() {
                removed.push(key);
            } else if connection.is_expired(wall_clock) {
                self.stats.expired.add(1);
                closed.push((key, CloseReason::GrantExpired));
            } else if connection.blocked.is_none() && connection.is_ping_overdue(moment, self.config.pong_timeout) {
                self.stats.unanswered.add(1);
                closed.push((key, CloseReason::PingTimeout));
            } else if (feed.key.is_paced || now.duration_since(feed.last_batch) >= silence)
                && connection.is_silent(moment, silence)
            {
                silent.push(key);
            }
        }
        for key in removed {
            self.remove(key);
        }
        for (key, reason) in closed {
            self.close_connection(key, Some(&reason));
        }
        self.shed();
        for (served, key) in silent.into_iter().enumerate() {
            if served % WRITES_PER_YIELD == WRITES_PER_YIELD - 1 {
                tokio::task::yield_now().await;
            }
            self.send_keep_alive(key);
        }
    }

    fn send_keep_alive(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(feed) = self.feeds.get(connection.feed) else { return };
        // A reader with a rate may not have got everything.
        let is_current = !feed.key.is_paced || connection.position == feed.log.head();
        let position = self.position.as_deref().filter(|_| feed.has_history && is_current);
        connection.put_keep_alive(feed.key.framing.framing.keep_alive(position));
        self.write(key);
    }
}
