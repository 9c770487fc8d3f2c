//! Once a second: keep-alives, and the end of connections that have stalled, gone or expired.

use std::time::{Duration, Instant, SystemTime};

use super::{Shard, TICK, WRITES_PER_YIELD};
use crate::CloseReason;
use crate::moment::Moment;

impl Shard {
    pub(super) async fn tick(&mut self) {
        let (now, wall_clock) = (Instant::now(), SystemTime::now());
        let moment = Moment::from(now);
        let silence = self.config.keep_alive;
        let ticked = [std::mem::replace(&mut self.ticked_at, now), now].map(|at| at.duration_since(self.started_at));
        let mut removed = Vec::new();
        let mut closed = Vec::new();
        let mut alive = Vec::new();
        while self.closing_sinks.try_join_next().is_some() {}
        for (key, connection) in &self.connections {
            let Some(feed) = self.feeds.get(connection.feed) else { continue };
            let stalled = connection.blocked.is_some()
                && !connection.is_waiting_for_piece()
                && moment.since(connection.last_progress) >= self.config.stall_timeout;
            let needs_keep_alive = match feed.key.framing.framing.keep_alive_interval() {
                Some(interval) => connection.blocked.is_none() && is_due(interval, key, ticked),
                None => {
                    (feed.key.is_paced || now.duration_since(feed.last_batch) >= silence)
                        && connection.is_silent(moment, silence)
                }
            };
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
            } else if needs_keep_alive {
                alive.push(key);
            }
        }
        for key in removed {
            self.remove(key);
        }
        for (key, reason) in closed {
            self.close_connection(key, Some(&reason));
        }
        self.shed();
        for (served, key) in alive.into_iter().enumerate() {
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
        // A relay waits for it before it says that a position is unknown.
        let is_confirmed = self.is_current || !feed.is_relay;
        let position = self.position.as_deref().filter(|_| feed.has_history && is_current && is_confirmed);
        connection.put_keep_alive(feed.key.framing.framing.keep_alive(position));
        self.write(key);
    }
}

/// Whether a keep-alive that comes at an `interval` is due between the last tick and this one, as times since the start. Connections
/// have different turns, so that not all are written to at once.
fn is_due(interval: Duration, key: usize, ticked: [Duration; 2]) -> bool {
    let interval = interval.max(TICK).as_millis();
    let turn = key as u128 * TICK.as_millis() % interval;
    let [before, now] = ticked.map(|since| (since.as_millis() + turn) / interval);
    before != now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_is_due_once_in_an_interval() {
        let interval = Duration::from_secs(10);
        // Ticks come late.
        let ticks: Vec<Duration> = (0..60).map(|tick| Duration::from_millis(tick * 1003)).collect();
        for key in 0..25 {
            let due: Vec<usize> =
                (1..ticks.len()).filter(|tick| is_due(interval, key, [ticks[tick - 1], ticks[*tick]])).collect();
            assert!(due.len() >= 5 && due.windows(2).all(|pair| pair[1] - pair[0] == 10), "{key}: {due:?}");
            assert_eq!(due[0], 10 - key % 10, "{key}");
        }
        assert!(is_due(Duration::ZERO, 7, [Duration::from_secs(1), Duration::from_secs(2)]));
    }
}
