//! The status report: the answer of `GET /admin/status.json`, written to a Redis hash at intervals, for dashboards that
//! watch many nodes.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{StatusQuery, StatusSource};
use crate::redis_client::RedisClient;

/// The hash of all reports: node name -> status.
const HASH: &str = "admin_stream_status";

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

/// Reports every `period` until the task is dropped. A failure is logged once for each outage.
pub async fn run(redis: RedisClient, period: Duration, status: StatusSource) {
    let mut failing = false;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match report(&redis, &status).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "cannot report the status to Redis; retrying");
            }
            Err(_) => {}
        }
    }
}

async fn report(redis: &RedisClient, status: &StatusSource) -> Result<(), ReportError> {
    let text = serde_json::to_string(&status.status(&StatusQuery::default()).await?)?;
    Ok(redis.query(redis::cmd("HSET").arg(HASH).arg(&*status.node).arg(text)).await?)
}
