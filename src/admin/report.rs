//! The status report: what `GET /admin/status.json` tells, put into a Redis hash now and then, for dashboards that
//! watch many nodes.

use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::StatusSource;
use crate::source::redis::Config;

/// The hash that nodes report to: node name -> status.
const HASH: &str = "admin_stream_status";

/// Why a report was not made.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    #[error(transparent)]
    Status(#[from] crate::fanout::Unavailable),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("no answer within the time limit")]
    TimedOut,
}

/// Reports every `period` until the task is dropped. A report that fails is logged, once for each outage, and the next
/// one tries again.
pub async fn run(broker: Config, period: Duration, status: StatusSource) {
    let mut connection = None;
    let mut failing = false;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let limit = broker.connect_timeout + broker.ping_timeout;
        let outcome = timeout(limit, report(&broker, &mut connection, &status)).await;
        match outcome.unwrap_or(Err(ReportError::TimedOut)) {
            Ok(()) => failing = false,
            Err(error) => {
                // A connection that failed once is not trusted again.
                connection = None;
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot report the status to Redis; trying on");
                }
            }
        }
    }
}

async fn report(
    broker: &Config,
    connection: &mut Option<MultiplexedConnection>,
    status: &StatusSource,
) -> Result<(), ReportError> {
    let text = serde_json::to_string(&status.status().await?)?;
    if connection.is_none() {
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(broker.connect_timeout))
            .set_response_timeout(Some(broker.ping_timeout));
        *connection = Some(broker.client.get_multiplexed_async_connection_with_config(&limits).await?);
    }
    if let Some(connection) = connection {
        let () = redis::cmd("HSET").arg(HASH).arg(&*status.node).arg(text).query_async(connection).await?;
    }
    Ok(())
}
