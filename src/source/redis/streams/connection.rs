//! A connection, and the commands of the source. Each has a time limit.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Value};
use tallycast_fanout::{EntryId, Retention};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::progress::{StreamInfo, before};
use super::{BatchSize, SessionError, replies};
use crate::redis_client::Access;
use crate::source::redis::Config;

pub(super) struct StreamConnection {
    connection: MultiplexedConnection,
    limit: Duration,
    is_replica: bool,
    /// Why another server is the right one, as soon as it is.
    superseded: oneshot::Receiver<RedisError>,
    /// Checks that, until the connection is dropped.
    _check: JoinSet<()>,
}

impl StreamConnection {
    /// Connects to the server that has a slot, or to the only one.
    pub(super) async fn open(config: &Config, slot: Option<u16>, access: Access) -> Result<Self, SessionError> {
        let limit = config.timeout;
        // Responses have a limit of their own below.
        let settings = AsyncConnectionConfig::new().set_connection_timeout(Some(limit)).set_response_timeout(None);
        let opening = async {
            let server = config.servers.locate(slot, access).await?;
            let connection = server.connect(&settings).await?;
            Ok::<_, RedisError>((server, connection))
        };
        let (server, connection) = timeout(limit, opening).await.map_err(|_| SessionError::TimedOut(limit))??;
        let is_replica = server.is_replica();
        let (sender, superseded) = oneshot::channel();
        let mut check = JoinSet::new();
        let interval = config.ping_interval;
        check.spawn(async move {
            // Nothing waits after the session.
            let _ = sender.send(server.superseded(interval).await);
        });
        Ok(Self { connection, limit, is_replica, superseded, _check: check })
    }

    /// Whether another server is the right one by now.
    pub(super) fn check(&mut self) -> Result<(), SessionError> {
        self.superseded.try_recv().map_or(Ok(()), |reason| Err(reason.into()))
    }

    /// Whether the server may be behind its primary.
    pub(super) fn is_replica(&self) -> bool {
        self.is_replica
    }

    /// The replies to each command of a pipeline, errors included. Redis may wait for `block` before it answers.
    pub(super) async fn pipeline(
        &mut self,
        mut pipeline: Pipeline,
        block: Duration,
    ) -> Result<Vec<Value>, SessionError> {
        let limit = self.limit + block;
        let replies = pipeline.ignore_errors().query_async(&mut self.connection);
        Ok(timeout(limit, replies).await.map_err(|_| SessionError::TimedOut(limit))??)
    }

    /// The outer error is one of the connection or the time limit, the inner one is an answer of Redis.
    pub(super) async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<RedisResult<T>, SessionError> {
        let limit = self.limit;
        match timeout(limit, command.query_async(&mut self.connection)).await {
            Ok(Err(error)) if error.is_io_error() => Err(error.into()),
            Ok(result) => Ok(result),
            Err(_) => Err(SessionError::TimedOut(limit)),
        }
    }

    pub(super) async fn ping(&mut self) -> Result<(), SessionError> {
        Ok(self.query(&redis::cmd("PING")).await??)
    }

    /// What is known of a stream; `None` if there is none.
    pub(super) async fn info(&mut self, key: &Arc<str>) -> Result<Option<StreamInfo>, SessionError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("XINFO").arg("STREAM").arg(&**key);
        let reply = self.pipeline(pipeline, Duration::ZERO).await?.pop().unwrap_or(Value::Nil);
        info(key, reply)
    }

    /// Whether a stream has this entry.
    pub(super) async fn has_entry(&mut self, key: &str, id: EntryId) -> Result<bool, SessionError> {
        let id = id.to_string();
        let mut command = redis::cmd("XREVRANGE");
        command.arg(key).arg(&id).arg(&id).arg("COUNT").arg(1);
        Ok(!replies::range(self.query(&command).await??)?.is_empty())
    }

    /// The id of an entry that would have been added `age` ago, by the clock of Redis.
    pub(super) async fn id_of_age(&mut self, age: Duration) -> Result<EntryId, SessionError> {
        let (seconds, micros): (u64, u64) = self.query(&redis::cmd("TIME")).await??;
        let now = seconds.saturating_mul(1000).saturating_add(micros / 1000);
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Ok(EntryId::new(now.saturating_sub(age), 0))
    }

    /// The last entry of a stream that is too old for a retention, or that newer ones leave no room for; zero if there is none.
    /// Neither size nor last values say where the history begins.
    pub(super) async fn beginning(
        &mut self,
        key: &str,
        info: &StreamInfo,
        retention: &Retention,
        batch: &mut BatchSize,
    ) -> Result<EntryId, SessionError> {
        // The newest message of a namespace may be older than everything else.
        if retention.last_values {
            return Ok(EntryId::ZERO);
        }
        let by_age = match retention.max_age {
            Some(age) => before(self.id_of_age(age).await?),
            None => EntryId::ZERO,
        };
        let by_count = match retention.max_messages {
            Some(count) if (count as u64) < info.length => {
                self.nth_newest(key, info.last_generated, count, batch).await?
            }
            _ => EntryId::ZERO,
        };
        Ok(by_age.max(by_count))
    }

    /// The id before the `count` newest entries up to `newest`; zero if there are no more.
    async fn nth_newest(
        &mut self,
        key: &str,
        newest: EntryId,
        count: usize,
        batch: &mut BatchSize,
    ) -> Result<EntryId, SessionError> {
        let (mut end, mut left) = (newest, count);
        loop {
            let limit = left.min(batch.0);
            let mut command = redis::cmd("XREVRANGE");
            command.arg(key).arg(end.to_string()).arg("-").arg("COUNT").arg(limit);
            let entries = replies::range(self.query(&command).await??)?;
            batch.adapt(entries.iter().map(replies::StreamEntry::bytes).sum());
            let Some(oldest) = entries.last() else { return Ok(EntryId::ZERO) };
            end = before(oldest.id);
            if entries.len() >= left || end == EntryId::ZERO {
                return Ok(end);
            }
            left -= entries.len();
        }
    }
}

/// The reply to `XINFO STREAM`; `None` if there is no stream.
pub(super) fn info(key: &Arc<str>, reply: Value) -> Result<Option<StreamInfo>, SessionError> {
    match reply.extract_error() {
        Ok(reply) => Ok(Some(replies::info(reply)?)),
        Err(error) if error.detail() == Some("no such key") => Ok(None),
        Err(error) => Err(SessionError::Stream(Arc::clone(key), error)),
    }
}
