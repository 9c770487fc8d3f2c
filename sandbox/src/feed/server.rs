//! What is asked of Redis: keys, channels and commands are those of an Emojitracker feeder.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult, ServerErrorKind};
use sandbox::{Generator, Update};

use crate::target::Target;

/// The sorted set of all scores.
const SCORES: &str = "emojitrack_score";
/// The channel that tells whose score has grown.
const SCORE_UPDATES: &str = "stream.score_updates";
/// How many posts the list of each emoji keeps.
const KEPT_POSTS: u16 = 10;
/// The index of the last of them.
const LAST_POST: isize = KEPT_POSTS as isize - 1;

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long Redis may take to answer. This is also the longest that a signal waits.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A Redis server, and what it is given where it has nothing yet.
#[derive(Debug, Clone)]
pub(super) struct Server {
    client: Client,
    name: String,
    away_limit: Duration,
    beginning: Generator,
}

impl Server {
    /// The server at `target`, which may be away for `away_limit`. Where it has no scores, those before the first update of
    /// `beginning` are written.
    pub(super) fn new(target: &Target, away_limit: Duration, beginning: Generator) -> RedisResult<Self> {
        let settings = TcpSettings::default().set_nodelay(true);
        let client = Client::open(target.connection_info().clone().set_tcp_settings(settings))?;
        Ok(Self { client, name: target.to_string(), away_limit, beginning })
    }

    /// Where it is, without user and password.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How long it may take no updates, before there is no hope left.
    pub(super) fn away_limit(&self) -> Duration {
        self.away_limit
    }

    /// A connection to the server, which has scores by then.
    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let has_scores: bool = redis::cmd("EXISTS").arg(SCORES).query_async(&mut connection).await?;
        if !has_scores {
            self.seed(&mut connection).await?;
        }
        Ok(connection)
    }

    /// Gives every emoji its score, and its list the posts from before the first update.
    async fn seed(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut transaction = redis::pipe();
        // NX: another feeder may have been faster.
        transaction.atomic().cmd("ZADD").arg(SCORES).arg("NX");
        for (emoji, score) in self.beginning.standings() {
            transaction.arg(score).arg(&*emoji.id);
        }
        for Update { id, tweet } in self.beginning.backlog(KEPT_POSTS) {
            transaction.lpush(posts(&id), tweet);
        }
        for (emoji, _) in self.beginning.standings() {
            transaction.ltrim(posts(&emoji.id), 0, LAST_POST);
        }
        transaction.exec_async(connection).await
    }
}

/// Publishes `batch` as one transaction, in one write and one answer.
///
/// A transaction for each batch and not for each update: that nobody sees a score without its publishes holds for either, but
/// with one for each nobody could tell how many of a batch Redis had taken when the connection broke, and it costs two
/// commands more (measured at the limit: 147,000 updates/s instead of 159,000). Other clients wait for no more than
/// [`sandbox::MAX_BATCH`] updates at once, some milliseconds.
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

/// The list of the newest posts with an emoji.
fn posts(id: &str) -> String {
    format!("emojitrack_tweets_{id}")
}

/// Whether what went wrong can be over the next time: Redis is away, or busy with becoming what it shall be.
pub(super) fn may_pass(error: &RedisError) -> bool {
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

/// The error in a line. Of a transaction every command may have failed; the first tells why.
pub(super) fn reason(error: &RedisError) -> String {
    match error.clone().into_server_errors().as_deref() {
        Some([(_, first), ..]) => first.to_string(),
        _ => error.to_string(),
    }
}
