//! Publishes to Redis and reconnects after an outage.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use indicatif::HumanCount;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use sandbox::Update;
use tokio::task::{JoinError, JoinHandle};

use super::progress::Console;
use super::server::{self, Server};

/// The first delay before a reconnect. Short, because most outages are brief restarts.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest delay before a reconnect.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Why publishing ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    /// Redis stayed unavailable.
    #[error("Redis at {server} was unavailable for more than {} s: {reason}", .limit.as_secs())]
    Unavailable { server: String, limit: Duration, reason: String },
    /// Redis rejected a command permanently.
    #[error("Redis at {server} rejected a command: {reason}")]
    Rejected { server: String, reason: String },
    /// The task that connects failed.
    #[error("the task that connects to Redis failed")]
    Connecting(#[from] JoinError),
}

/// Publishes to one server.
pub(super) struct Publisher {
    server: Server,
    console: Console,
    link: Link,
    outage: Option<Outage>,
}

enum Link {
    Up(MultiplexedConnection),
    Down(JoinHandle<Result<MultiplexedConnection, FeedError>>),
}

/// A period without successful publishes. It ends with the next publish; a successful connection is not enough.
struct Outage {
    started_at: Instant,
    not_published: u64,
}

impl Publisher {
    /// Connects to `server`. Outages are reported on `console`.
    pub(super) async fn start(server: Server, console: Console) -> Result<Self, FeedError> {
        let started_at = Instant::now();
        let mut outage = None;
        let connection = match server.connect().await {
            Ok(connection) => connection,
            Err(error) => {
                outage = Some(Outage::begin(started_at, &server, &error, &console)?);
                reconnect(server.clone(), started_at).await?
            }
        };
        Ok(Self { server, console, link: Link::Up(connection), outage })
    }

    /// Publishes `batch` atomically and returns whether that succeeded. Does not wait while Redis is unavailable.
    ///
    /// A batch without a response counts as not published, although Redis may have executed it.
    pub(super) async fn publish(&mut self, batch: &[Update]) -> Result<bool, FeedError> {
        if let Link::Down(connecting) = &mut self.link
            && connecting.is_finished()
        {
            self.link = Link::Up(connecting.await??);
        }
        let started_at = Instant::now();
        let published = match &mut self.link {
            Link::Up(connection) => match server::publish(connection, batch).await {
                Ok(()) => true,
                Err(error) => {
                    self.connection_lost(started_at, &error)?;
                    false
                }
            },
            Link::Down(_) => false,
        };
        match &mut self.outage {
            Some(outage) if published => {
                self.console.print(&format!(
                    "Redis at {} is available again after {:.1} s; {} updates were not published",
                    self.server.name(),
                    outage.started_at.elapsed().as_secs_f64(),
                    HumanCount(outage.not_published)
                ));
                self.outage = None;
            }
            Some(outage) => outage.not_published += batch.len() as u64,
            None => {}
        }
        Ok(published)
    }

    /// Starts to reconnect after a publish that started at `started_at` has failed.
    fn connection_lost(&mut self, started_at: Instant, error: &RedisError) -> Result<(), FeedError> {
        let started_at = match &self.outage {
            Some(outage) => outage.started_at,
            None => self.outage.insert(Outage::begin(started_at, &self.server, error, &self.console)?).started_at,
        };
        check(&self.server, error, started_at)?;
        self.link = Link::Down(tokio::spawn(reconnect(self.server.clone(), started_at)));
        Ok(())
    }
}

impl Outage {
    fn begin(started_at: Instant, server: &Server, error: &RedisError, console: &Console) -> Result<Self, FeedError> {
        check(server, error, started_at)?;
        console.print(&format!(
            "Redis at {} is unavailable: {}; retrying for up to {} s",
            server.name(),
            server::reason(error),
            server.outage_limit().as_secs()
        ));
        Ok(Self { started_at, not_published: 0 })
    }
}

/// Reconnects to a server that has been unavailable since `started_at`.
async fn reconnect(server: Server, started_at: Instant) -> Result<MultiplexedConnection, FeedError> {
    let mut pause = BACKOFF_MIN;
    loop {
        tokio::time::sleep(jittered(pause)).await;
        match server.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) => check(&server, &error, started_at)?,
        }
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// Fails if the error is permanent or the outage limit is exceeded.
fn check(server: &Server, error: &RedisError, started_at: Instant) -> Result<(), FeedError> {
    let (name, limit, reason) = (server.name().to_owned(), server.outage_limit(), server::reason(error));
    if !server::is_transient(error) {
        Err(FeedError::Rejected { server: name, reason })
    } else if started_at.elapsed() >= limit {
        Err(FeedError::Unavailable { server: name, limit, reason })
    } else {
        Ok(())
    }
}

/// A random delay between half of `pause` and `pause`, so that many feeders do not reconnect at the same moment.
fn jittered(pause: Duration) -> Duration {
    // The keys of the hasher are random for each instance.
    let seed = RandomState::new().hash_one(0);
    ChaCha8Rng::seed_from_u64(seed).random_range(pause / 2..=pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_bounds() {
        let pauses: Vec<Duration> = (0..1_000).map(|_| jittered(BACKOFF_MAX)).collect();
        assert!(pauses.iter().all(|pause| (BACKOFF_MAX / 2..=BACKOFF_MAX).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
