//! The Redis commands, keys and channels of an Emojitracker feeder.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult, ServerErrorKind};
use sandbox::{Generator, Update};

use crate::target::Target;

/// The sorted set of all scores.
const SCORES: &str = "emojitrack_score";
/// The channel for IDs whose score has grown.
const SCORE_UPDATES: &str = "stream.score_updates";
/// The number of posts kept per emoji.
const KEPT_POSTS: u16 = 10;
/// The list index of the oldest kept post.
const LAST_POST: isize = KEPT_POSTS as isize - 1;

/// The time limit for connecting.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The time limit for a response. A signal is handled within this time.
const RESPONSE_LIMIT: Duration = Duration::from_secs(5);

/// A Redis server, and the initial data for an empty one.
#[derive(Debug, Clone)]
pub(super) struct Server {
    client: Client,
    name: String,
    outage_limit: Duration,
    initial: Generator,
}

impl Server {
    /// The server at `target`, which may be unavailable for `outage_limit`. If it has no scores, those before the first
    /// update of `initial` are written.
    pub(super) fn new(target: &Target, outage_limit: Duration, initial: Generator) -> RedisResult<Self> {
        let settings = TcpSettings::default().set_nodelay(true);
        let client = Client::open(target.connection_info().clone().set_tcp_settings(settings))?;
        Ok(Self { client, name: target.to_string(), outage_limit, initial })
    }

    /// The address without user and password.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The longest outage before the feeder exits.
    pub(super) fn outage_limit(&self) -> Duration {
        self.outage_limit
    }

    /// Connects, and writes the initial scores if there are none.
    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(RESPONSE_LIMIT));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let has_scores: bool = redis::cmd("EXISTS").arg(SCORES).query_async(&mut connection).await?;
        if !has_scores {
            self.seed(&mut connection).await?;
        }
        Ok(connection)
    }

    /// Writes the initial scores and posts.
    async fn seed(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut transaction = redis::pipe();
        // NX: another feeder may have written scores meanwhile.
        transaction.atomic().cmd("ZADD").arg(SCORES).arg("NX");
        for (emoji, score) in self.initial.standings() {
            transaction.arg(score).arg(&*emoji.id);
        }
        for Update { id, tweet } in self.initial.backlog(KEPT_POSTS) {
            transaction.lpush(posts(&id), tweet);
        }
        for (emoji, _) in self.initial.standings() {
            transaction.ltrim(posts(&emoji.id), 0, LAST_POST);
        }
        transaction.exec_async(connection).await
    }
}

/// Publishes `batch` as one transaction, with one write and one response.
///
/// One transaction per batch, not per update. Either way no client sees a score without its publishes. A transaction per
/// update would leave the number of executed updates unknown when the connection breaks, and cost two more commands
/// (147,000 updates/s at the limit instead of 159,000). Other clients wait for at most [`sandbox::MAX_BATCH`] updates at
/// once, some milliseconds.
pub(super) async fn publish(connection: &mut MultiplexedConnection, batch: &[Update]) -> RedisResult<()> {
    const COMMANDS: usize = 5;
    let mut transaction = redis::Pipeline::with_capacity(batch.len() * COMMANDS);
    transaction.atomic();
    for Update { id, tweet } in batch {
        let posts = posts(id);
        transaction
            .zincr(SCORES, &**id, 1)
            .publish(SCORE_UPDATES, &**id)
            .lpush(&posts, tweet)
            .ltrim(&posts, 0, LAST_POST)
            .publish(format!("stream.tweet_updates.{id}"), tweet);
    }
    transaction.exec_async(connection).await
}

/// The key of the list of the newest posts with an emoji.
fn posts(id: &str) -> String {
    format!("emojitrack_tweets_{id}")
}

/// Whether a retry can succeed: Redis is unavailable, loading or failing over.
pub(super) fn is_transient(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Io
            | ErrorKind::Parse
            | ErrorKind::Server(
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::ExecAbort
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::TryAgain
            )
    )
}

/// The error in one line. In a failed transaction every command can have an error; the first one has the reason.
pub(super) fn reason(error: &RedisError) -> String {
    match error.clone().into_server_errors().as_deref() {
        Some([(_, first), ..]) => first.to_string(),
        _ => error.to_string(),
    }
}
