//! Reads the totals: runs the script when a reading is due, and decodes the messages that it publishes.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use redis::RedisError;
use serde_json::Value;
use tallycast_fanout::Tally;
use tokio::sync::Notify;

use super::{TotalsKey, TotalsSnapshot};
use crate::redis_client::RedisClient;

/// The channels of the messages, as a Redis access control list names them.
pub(crate) const CHANNELS: &str = "tallycast.cut.*";
/// The longest time between two readings while a sorted set does not exist, so that a new one is soon noticed.
const ABSENT_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest time between two readings: while events overflow, each would be outdated at once.
const PACE: Duration = Duration::from_secs(1);
/// Pauses after failed readings double from the first of these to the second; jitter at most doubles them again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

const SCRIPT: &str = include_str!("read.lua");

/// What to read, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The sorted sets.
    pub keys: Vec<TotalsKey>,
    /// The largest number of members of each. A larger set is not read.
    pub max_members: usize,
    /// The longest time between two readings, in addition to those after a lost event or subscription.
    pub interval: Duration,
}

impl Default for Config {
    /// No sorted sets.
    fn default() -> Self {
        let max_members = tallycast_fanout::Config::default().max_totals;
        Self { keys: Vec::new(), max_members, interval: Duration::from_secs(30) }
    }
}

/// Reads the totals. Clones share their state.
#[derive(Debug, Clone)]
pub(crate) struct TotalsReader {
    client: RedisClient,
    config: Arc<Config>,
    /// Random, so that no other process receives this one's totals.
    channel: Arc<str>,
    /// Notified when the totals may differ from what was counted.
    requested: Arc<Notify>,
    /// The state of each sorted set.
    states: Arc<Mutex<Vec<KeyState>>>,
}

/// What is known of a sorted set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyState {
    /// Not read yet.
    Unknown,
    /// Read, but never there.
    Absent,
    /// There, now or at an earlier reading.
    Present,
}

impl TotalsReader {
    pub(crate) fn new(config: Config, client: RedisClient) -> Self {
        // The keys of a hasher are random for each instance.
        let random = || RandomState::new().hash_one(std::process::id());
        let name = format!("{:016x}{:016x}", random(), random());
        Self {
            client,
            channel: CHANNELS.replace('*', &name).into(),
            requested: Arc::default(),
            states: Arc::new(Mutex::new(vec![KeyState::Unknown; config.keys.len()])),
            config: Arc::new(config),
        }
    }

    /// The channel that this process's totals are published on.
    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    /// Asks for a reading as soon as possible: after a new subscription, or a lost event.
    pub(crate) fn request(&self) {
        self.requested.notify_one();
    }

    /// Reads the totals when requested or due, and retries until it succeeds. The first reading waits for a request.
    pub(crate) async fn run(self) {
        self.requested.notified().await;
        loop {
            self.read_until_success().await;
            tokio::time::sleep(PACE).await;
            let any_absent = self.states().contains(&KeyState::Absent);
            let Config { interval, .. } = *self.config;
            let interval = if any_absent { interval.min(ABSENT_INTERVAL) } else { interval };
            // Due after the interval, unless requested before.
            let _ = tokio::time::timeout(interval.saturating_sub(PACE), self.requested.notified()).await;
        }
    }

    async fn read_until_success(&self) {
        let (first, longest) = BACKOFF;
        let backoff = ExponentialBuilder::new().with_min_delay(first).with_max_delay(longest).with_jitter();
        let mut last_logged = String::new();
        for pause in backoff.without_max_times().build() {
            let Err(error) = self.read().await else { return };
            let reason = error.to_string();
            if reason != last_logged {
                tracing::warn!(reason, "cannot read the totals; retrying");
                last_logged = reason;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Runs the script once. If its messages reach no subscriber, the subscription has ended, and the next one will
    /// request another reading.
    async fn read(&self) -> Result<u64, RedisError> {
        let Config { keys, max_members, .. } = &*self.config;
        let mut command = redis::cmd("EVAL");
        command.arg(SCRIPT).arg(keys.len());
        for totals in keys {
            command.arg(&totals.key);
        }
        command.arg(&*self.channel).arg(*max_members);
        self.client.query(&command).await
    }

    /// Decodes a message of the script; `None` if it says nothing new or is invalid.
    pub(crate) fn decode(&self, payload: &[u8]) -> Option<TotalsSnapshot> {
        // A member that is not UTF-8 cannot be the key of a tally, so its replacement harms no other.
        let (number, flat): (usize, Value) = serde_json::from_str(&String::from_utf8_lossy(payload)).ok()?;
        let index = number.checked_sub(1)?;
        let namespace = self.config.keys.get(index)?.namespace.clone();
        let totals = tally(&flat);
        let mut states = self.states();
        let state = states.get_mut(index)?;
        // Redis has no sorted sets without members.
        match (totals.is_empty(), *state) {
            (true, KeyState::Absent) => return None,
            (true, KeyState::Unknown) => *state = KeyState::Absent,
            (true, KeyState::Present) | (false, _) => *state = KeyState::Present,
        }
        Some(TotalsSnapshot { namespace, totals })
    }

    fn states(&self) -> MutexGuard<'_, Vec<KeyState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads members and scores in turn, as `ZRANGE ... WITHSCORES` returns them. Lua encodes an empty list as an empty
/// object, because it has only one kind of table.
fn tally(flat: &Value) -> Tally {
    let flat = flat.as_array().map(Vec::as_slice).unwrap_or_default();
    let pairs = flat.chunks_exact(2).filter_map(|pair| {
        let score: f64 = pair[1].as_str()?.parse().ok().filter(|score: &f64| score.is_finite())?;
        // Scores that count something are whole numbers; beyond 2^53 Redis itself rounds.
        Some((pair[0].as_str()?.to_owned(), score.round() as i64))
    });
    pairs.collect::<HashMap<_, _>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_client::open;

    #[test]
    fn scores_are_parsed_as_redis_writes_them() {
        let flat = serde_json::json!(["a", "3", "b", "-1", "c", "1e+17", "d", "inf", "e", "2.5"]);
        let expected = [("a", 3), ("b", -1), ("c", 100_000_000_000_000_000), ("e", 3)];
        assert_eq!(tally(&flat), expected.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect());
        assert_eq!(tally(&serde_json::json!({})), Tally::default());
    }

    #[test]
    fn an_absent_set_is_reported_once_and_a_deleted_one_as_empty() {
        let client = RedisClient::new(open(&"redis://localhost".parse().unwrap()).unwrap(), PACE);
        let config = Config { keys: vec!["/eps=scores".parse().unwrap()], ..Config::default() };
        let reader = TotalsReader::new(config, client);
        let counts = |payload: &str| reader.decode(payload.as_bytes()).map(|snapshot| snapshot.totals.total());
        assert_eq!([counts("[1,{}]"), counts("[1,{}]")], [Some(0), None]);
        assert_eq!([counts(r#"[1,["a","3"]]"#), counts("[1,{}]"), counts("[1,{}]")], [Some(3), Some(0), Some(0)]);
        assert_eq!([counts("[0,{}]"), counts("[2,{}]"), counts("{}")], [None; 3]);
    }
}
