//! Trims streams to a length or an age, where the publisher does not.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use redis::Cmd;
use tokio::time::Instant;

use super::SessionError;
use super::connection::StreamConnection;
use crate::rate_limited_log::RateLimitedLog;
use crate::redis_client::RedisClient;
use crate::source::SourceStats;

/// The time between two rounds, varied by half, so that the nodes take turns.
const INTERVAL: Duration = Duration::from_secs(10);
/// The most calls for a stream in a round. By itself, Redis removes about 10,000 entries in a call.
const MAX_CALLS: usize = 100;

/// What to trim streams to. Redis removes whole blocks of entries, so a few more stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trim {
    /// The number of entries.
    pub max_length: Option<usize>,
    /// The age of entries.
    pub max_age: Option<Duration>,
    /// Streams that are trimmed to a number of entries even if there is no other bound, because this process fills them.
    pub own: Vec<(Arc<str>, usize)>,
}

/// Trims streams once in a while.
#[derive(Debug)]
pub(super) struct Trimmer {
    config: Trim,
    /// Sends commands to the primary, also where a replica is read.
    client: RedisClient,
    next: Instant,
    log: RateLimitedLog,
}

impl Trimmer {
    pub(super) fn new(config: Trim, client: RedisClient) -> Self {
        Self { config, client, next: Instant::now(), log: RateLimitedLog::new() }
    }

    pub(super) fn is_due(&self) -> bool {
        self.config != Trim::default() && Instant::now() >= self.next
    }

    /// Trims the streams with these keys. A refusal of Redis is logged, and the next round tries again.
    pub(super) async fn trim(
        &mut self,
        keys: &[Arc<str>],
        connection: &mut StreamConnection,
        stats: &SourceStats,
    ) -> Result<(), SessionError> {
        // The keys of a hasher are random for each instance.
        let random = RandomState::new().hash_one(0) % 1000;
        self.next = Instant::now() + INTERVAL / 2 + INTERVAL.mul_f64(random as f64 / 1000.0);
        let mut bounds = Vec::new();
        bounds.extend(self.config.max_length.map(|length| ("MAXLEN", length.to_string())));
        if let Some(age) = self.config.max_age {
            bounds.push(("MINID", connection.id_of_age(age).await?.to_string()));
        }
        for key in keys {
            let own = self.config.own.iter().find(|(own, _)| bounds.is_empty() && own == key);
            let own = own.map(|(_, length)| ("MAXLEN", length.to_string()));
            for (strategy, bound) in bounds.iter().chain(&own) {
                let mut command = redis::cmd("XTRIM");
                command.arg(&**key).arg(strategy).arg("~").arg(bound);
                self.repeat(&command, key, stats).await;
            }
        }
        Ok(())
    }

    async fn repeat(&mut self, command: &Cmd, key: &str, stats: &SourceStats) {
        for _ in 0..MAX_CALLS {
            match self.client.query::<u64>(command).await {
                Ok(0) => break,
                Ok(removed) => stats.trimmed.add(removed),
                Err(error) => {
                    self.log.log(|suppressed| tracing::warn!(%error, key, suppressed, "cannot trim a stream"));
                    break;
                }
            }
        }
    }
}
