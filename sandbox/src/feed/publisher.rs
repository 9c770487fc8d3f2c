//! Publishes as long as Redis is there, and finds it again when it was away.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use indicatif::HumanCount;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use sandbox::Update;
use tokio::task::{JoinError, JoinHandle};

use super::progress::Lines;
use super::server::{self, Server};

/// The first pause before connecting again. Short, because most outages are restarts that are over soon.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Why publishing ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    /// Redis stayed away.
    #[error("Redis at {server} was away for more than {} s: {reason}", .limit.as_secs())]
    Away { server: String, limit: Duration, reason: String },
    /// Redis does not let it happen, and would not the next time.
    #[error("Redis at {server} refuses: {reason}")]
    Refused { server: String, reason: String },
    /// The task that connects did not end as it should.
    #[error("connecting failed")]
    Connecting(#[from] JoinError),
}

/// Publishes to one server.
pub(super) struct Publisher {
    server: Server,
    lines: Lines,
    link: Link,
    outage: Option<Outage>,
}

enum Link {
    Up(MultiplexedConnection),
    Down(JoinHandle<Result<MultiplexedConnection, FeedError>>),
}

/// The time in which Redis takes no updates. It is over when Redis takes some again; that one can connect is not enough.
struct Outage {
    began: Instant,
    not_published: u64,
}

impl Publisher {
    /// Connects to `server`. What happens to it, now and later, goes to `lines`.
    pub(super) async fn start(server: Server, lines: Lines) -> Result<Self, FeedError> {
        let began = Instant::now();
        let mut outage = None;
        let connection = match server.connect().await {
            Ok(connection) => connection,
            Err(error) => {
                outage = Some(Outage::begin(began, &server, &error, &lines)?);
                reconnect(server.clone(), began).await?
            }
        };
        Ok(Self { server, lines, link: Link::Up(connection), outage })
    }

    /// Tells whether `batch` was published: all of it or nothing. Does not wait for a Redis that is away.
    ///
    /// When Redis goes away without an answer, its batch counts as not published, though it may have been.
    pub(super) async fn publish(&mut self, batch: &[Update]) -> Result<bool, FeedError> {
        if let Link::Down(connecting) = &mut self.link
            && connecting.is_finished()
        {
            self.link = Link::Up(connecting.await??);
        }
        let began = Instant::now();
        let published = match &mut self.link {
            Link::Up(connection) => match server::publish(connection, batch).await {
                Ok(()) => true,
                Err(error) => {
                    self.lost(began, &error)?;
                    false
                }
            },
            Link::Down(_) => false,
        };
        match &mut self.outage {
            Some(outage) if published => {
                self.lines.say(&format!(
                    "Redis at {} is back after {:.1} s; {} updates were not published",
                    self.server.name(),
                    outage.began.elapsed().as_secs_f64(),
                    HumanCount(outage.not_published)
                ));
                self.outage = None;
            }
            Some(outage) => outage.not_published += batch.len() as u64,
            None => {}
        }
        Ok(published)
    }

    /// Begins to connect again, since the publishing that `began` then has failed.
    fn lost(&mut self, began: Instant, error: &RedisError) -> Result<(), FeedError> {
        let began = match &self.outage {
            Some(outage) => outage.began,
            None => self.outage.insert(Outage::begin(began, &self.server, error, &self.lines)?).began,
        };
        check(&self.server, error, began)?;
        self.link = Link::Down(tokio::spawn(reconnect(self.server.clone(), began)));
        Ok(())
    }
}

impl Outage {
    fn begin(began: Instant, server: &Server, error: &RedisError, lines: &Lines) -> Result<Self, FeedError> {
        check(server, error, began)?;
        lines.say(&format!(
            "Redis at {} is away: {}; trying again for up to {} s",
            server.name(),
            server::reason(error),
            server.away_limit().as_secs()
        ));
        Ok(Self { began, not_published: 0 })
    }
}

/// Connects to a server that is away since `began`, however often it takes.
async fn reconnect(server: Server, began: Instant) -> Result<MultiplexedConnection, FeedError> {
    let mut pause = BACKOFF_MIN;
    loop {
        tokio::time::sleep(jittered(pause)).await;
        match server.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) => check(&server, &error, began)?,
        }
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// Fails if trying again makes no sense.
fn check(server: &Server, error: &RedisError, began: Instant) -> Result<(), FeedError> {
    let (name, limit, reason) = (server.name().to_owned(), server.away_limit(), server::reason(error));
    if !server::may_pass(error) {
        Err(FeedError::Refused { server: name, reason })
    } else if began.elapsed() >= limit {
        Err(FeedError::Away { server: name, limit, reason })
    } else {
        Ok(())
    }
}

/// Between half of `pause` and all of it, so that many feeders do not come back at the same moment.
fn jittered(pause: Duration) -> Duration {
    // The hasher's keys are random for each instance.
    let seed = RandomState::new().hash_one(0);
    ChaCha8Rng::seed_from_u64(seed).random_range(pause / 2..=pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_jittered_within_their_bounds() {
        let pauses: Vec<Duration> = (0..1_000).map(|_| jittered(BACKOFF_MAX)).collect();
        assert!(pauses.iter().all(|pause| (BACKOFF_MAX / 2..=BACKOFF_MAX).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
