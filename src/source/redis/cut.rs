//! Exact cuts: at which place among the events the totals are what.
//!
//! A script, which Redis runs in one atomic step, reads the sorted sets and publishes what it read on a channel that the
//! subscription hears too. What was published before that message is in the totals, what is published after is not.
//!
//! A cut is made at each new subscription, after each loss, and now and then, should somebody change a sorted set by hand.
//! A sorted set that was never there is no authority: totals are then what was counted since the process started.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::RedisError;
use serde_json::Value;
use tokio::sync::Notify;

use super::super::Item;
use super::{Commands, Config, jittered};
use tallycast_fanout::{Namespace, NamespaceError, Tally};

/// The channels that cuts come on, as an access control list has them.
pub(super) const CHANNELS: &str = "tallycast.cut.*";
/// The longest time between two cuts while a sorted set is not there, so that one that is made is soon seen.
const ABSENT_INTERVAL: Duration = Duration::from_secs(2);
/// The least time between two cuts: while events overflow, each would be out of date as soon as it came.
const PACE: Duration = Duration::from_secs(1);
/// The longest pause after a cut that failed.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// KEYS: the sorted sets. ARGV: the channel, and how many members a set may have. Returns how many heard it.
const SCRIPT: &str = "
    local heard = 0
    for number, key in ipairs(KEYS) do
        if redis.call('ZCARD', key) > tonumber(ARGV[2]) then
            return redis.error_reply('more than ' .. ARGV[2] .. ' members in ' .. key)
        end
        local totals = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
        heard = redis.call('PUBLISH', ARGV[1], cjson.encode({number, totals}))
    end
    return heard
";

/// Which sorted set has the totals of a namespace: each member's score is what its tallies add up to. Written
/// `NAMESPACE=KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TotalsKey {
    /// The namespace.
    pub namespace: Namespace,
    /// The sorted set's key.
    pub key: String,
}

/// Why a text is not a [`TotalsKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TotalsKeyError {
    /// There is no key.
    #[error("expected NAMESPACE=KEY, such as /eps=emojitrack_score, found {0:?}")]
    NoKey(String),
    /// The namespace is not valid.
    #[error("{0:?} before '=': {1}")]
    Namespace(String, NamespaceError),
}

impl FromStr for TotalsKey {
    type Err = TotalsKeyError;

    fn from_str(text: &str) -> Result<Self, TotalsKeyError> {
        let (namespace, key) = text
            .split_once('=')
            .filter(|(_, key)| !key.is_empty())
            .ok_or_else(|| TotalsKeyError::NoKey(text.to_owned()))?;
        let parsed = namespace.parse().map_err(|error| TotalsKeyError::Namespace(namespace.to_owned(), error))?;
        Ok(Self { namespace: parsed, key: key.to_owned() })
    }
}

impl fmt::Display for TotalsKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.namespace, self.key)
    }
}

/// Makes cuts, and reads what comes of them.
#[derive(Debug, Clone)]
pub(super) struct Cutter {
    commands: Commands,
    totals: Arc<[TotalsKey]>,
    max_totals: usize,
    /// This process's own, so that no cut of another's comes here.
    channel: Arc<str>,
    interval: Duration,
    /// What is known of each sorted set.
    known: Arc<Mutex<Vec<Known>>>,
}

/// What is known of a sorted set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    /// It was never there.
    Absent,
    /// It is there, or was.
    Present,
}

impl Cutter {
    pub(super) fn new(config: &Config) -> Self {
        // The keys of a hasher are random for each instance.
        let random = || RandomState::new().hash_one(std::process::id());
        let name = format!("{:016x}{:016x}", random(), random());
        Self {
            commands: config.commands(),
            totals: config.totals.clone().into(),
            max_totals: config.max_totals,
            channel: CHANNELS.replace('*', &name).into(),
            interval: config.totals_interval,
            known: Arc::new(Mutex::new(vec![Known::Nothing; config.totals.len()])),
        }
    }

    /// The channel that this process's cuts come on.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// Makes a cut whenever one is wanted or due, and tries again until it is made.
    pub(super) async fn run(self, wanted: Arc<Notify>) {
        wanted.notified().await;
        loop {
            let mut pause = PACE;
            let mut told = String::new();
            while let Err(error) = self.cut().await {
                let reason = error.to_string();
                if reason != told {
                    tracing::warn!(reason, "cannot read the totals; trying on");
                    told = reason;
                }
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(BACKOFF_MAX);
            }
            tokio::time::sleep(PACE).await;
            let absent = self.known().contains(&Known::Absent);
            let interval = if absent { self.interval.min(ABSENT_INTERVAL) } else { self.interval };
            // Either is a reason.
            let _ = tokio::time::timeout(interval.saturating_sub(PACE), wanted.notified()).await;
        }
    }

    fn known(&self) -> MutexGuard<'_, Vec<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One cut. When nobody heard it, the subscription has ended, and the next one will want another.
    async fn cut(&self) -> Result<u64, RedisError> {
        let mut call = redis::cmd("EVAL");
        call.arg(SCRIPT).arg(self.totals.len());
        for totals in &*self.totals {
            call.arg(&totals.key);
        }
        call.arg(&*self.channel).arg(self.max_totals);
        self.commands.query(&call).await
    }

    /// Reads what a cut published; nothing if there is nothing to learn from it.
    pub(super) fn read(&self, payload: &[u8]) -> Option<Item> {
        // A member that is not text can be no key of a tally, and harms none that is.
        let (number, flat): (usize, Value) = serde_json::from_str(&String::from_utf8_lossy(payload)).ok()?;
        let index = number.checked_sub(1)?;
        let namespace = self.totals.get(index)?.namespace.clone();
        let totals = tally(&flat);
        let mut known = self.known();
        let before = std::mem::replace(known.get_mut(index)?, Known::Present);
        // Redis has no sorted sets without members.
        if totals.is_empty() && before != Known::Present {
            *known.get_mut(index)? = Known::Absent;
            if before == Known::Absent {
                return None;
            }
        }
        Some(Item::Totals { namespace, totals })
    }
}

/// Members and scores in turn, as `ZRANGE ... WITHSCORES` has them. An empty list comes as an empty object: Lua knows
/// only one kind of table.
fn tally(flat: &Value) -> Tally {
    let flat = flat.as_array().map(Vec::as_slice).unwrap_or_default();
    let pairs = flat.chunks_exact(2).filter_map(|pair| {
        let score: f64 = pair[1].as_str()?.parse().ok().filter(|score: &f64| score.is_finite())?;
        // Scores are whole numbers where they count; beyond 2^53 Redis itself rounds.
        Some((pair[0].as_str()?.to_owned(), score.round() as i64))
    });
    pairs.collect::<HashMap<_, _>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| text.parse::<TotalsKey>().unwrap_err().to_string();
        assert_eq!(error("/eps"), "expected NAMESPACE=KEY, such as /eps=emojitrack_score, found \"/eps\"");
        assert_eq!(error("/eps="), "expected NAMESPACE=KEY, such as /eps=emojitrack_score, found \"/eps=\"");
        assert_eq!(error("eps=a"), "\"eps\" before '=': a namespace starts with '/'");
        assert_eq!("/eps=a=b".parse::<TotalsKey>().unwrap().to_string(), "/eps=a=b");
    }

    #[test]
    fn scores_are_read_as_redis_writes_them() {
        let flat = serde_json::json!(["a", "3", "b", "-1", "c", "1e+17", "d", "inf", "e", "2.5"]);
        let expected = [("a", 3), ("b", -1), ("c", 100_000_000_000_000_000), ("e", 3)];
        assert_eq!(tally(&flat), expected.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect());
        assert_eq!(tally(&serde_json::json!({})), Tally::default());
    }
}
