//! The status report: a short `GET /admin/status.json`, written to a Redis hash at intervals, for dashboards that watch many
//! nodes.
//!
//! A sorted set beside the hash has the time at which each entry expires. Each report removes the entries of nodes that have
//! stopped without a word.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{Status, StatusQuery, StatusSource};
use crate::redis_client::RedisClient;

/// The hash of all reports: node name -> status.
const HASH: &str = "admin_stream_status";
/// The sorted set of expiry times in seconds since the Unix epoch: node name -> time. In a Redis Cluster it is where the hash is.
const EXPIRIES: &str = "{admin_stream_status}:expiries";

/// Connections in a report, the newest ones.
const MAX_CONNECTIONS: usize = 100;
/// Bytes of each text of a connection.
const MAX_TEXT_BYTES: usize = 256;
/// Bytes of the connections of a report, as JSON.
const MAX_CONNECTIONS_BYTES: usize = 64 * 1024;

/// An entry expires after this time without another report, or after [`MISSED_REPORTS`] periods if that is longer.
const MIN_AGE: Duration = Duration::from_secs(60);
/// Reports that may be late or lost before an entry expires.
const MISSED_REPORTS: u32 = 3;
/// Time for Redis to remove the entry at shutdown; then it expires.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes the report `ARGV[2]` of node `ARGV[1]`, which expires after `ARGV[3]` seconds, and removes at most 100 entries that
/// have expired. Both keys live as long as their newest entry.
const REPORT: &str = "
    local now = tonumber(redis.call('TIME')[1])
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[1])
    local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)
    if #expired > 0 then
        redis.call('HDEL', KEYS[1], unpack(expired))
        redis.call('ZREM', KEYS[2], unpack(expired))
    end
    local newest = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
    redis.call('EXPIREAT', KEYS[1], newest)
    redis.call('EXPIREAT', KEYS[2], newest)
";

/// Removes the entry of node `ARGV[1]`.
const REMOVE: &str = "
    redis.call('HDEL', KEYS[1], ARGV[1])
    redis.call('ZREM', KEYS[2], ARGV[1])
";

/// A failed report.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    #[error(transparent)]
    Status(#[from] tallycast_fanout::Unavailable),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Reports every `period` until `shutdown` is cancelled, then removes the entry of this node. A failure is logged once for each
/// outage.
pub async fn run(redis: RedisClient, period: Duration, status: StatusSource, shutdown: CancellationToken) {
    let age = (period * MISSED_REPORTS).max(MIN_AGE);
    let mut failing = false;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next_report = async {
            ticks.tick().await;
            report(&redis, age, &status).await
        };
        // A report that is under way at shutdown is not worth a wait.
        let reported = tokio::select! {
            reported = next_report => reported,
            () = shutdown.cancelled() => break,
        };
        match reported {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "cannot report the status to Redis; retrying");
            }
            Err(_) => {}
        }
    }
    let mut removal = script(REMOVE);
    removal.arg(&*status.node);
    if !matches!(timeout(REMOVAL_TIMEOUT, redis.query::<()>(&removal)).await, Ok(Ok(()))) {
        tracing::debug!("the status report could not be removed from Redis; it expires");
    }
}

async fn report(redis: &RedisClient, age: Duration, status: &StatusSource) -> Result<(), ReportError> {
    let mut status = status.status(&StatusQuery::newest(MAX_CONNECTIONS)).await?;
    shorten(&mut status)?;
    let mut report = script(REPORT);
    report.arg(&status.node).arg(serde_json::to_string(&status)?).arg(age.as_secs());
    Ok(redis.query(&report).await?)
}

/// Cuts the texts of connections, and leaves out those that would make the report too large.
fn shorten(status: &mut Status) -> Result<(), serde_json::Error> {
    let mut bytes = 0;
    let mut fitting = 0;
    for connection in &mut status.connections {
        connection.cut(MAX_TEXT_BYTES);
        bytes += serde_json::to_string(connection)?.len() + 1;
        if bytes > MAX_CONNECTIONS_BYTES {
            break;
        }
        fitting += 1;
    }
    status.connections.truncate(fitting);
    Ok(())
}

fn script(text: &str) -> redis::Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(2).arg(HASH).arg(EXPIRIES);
    command
}
