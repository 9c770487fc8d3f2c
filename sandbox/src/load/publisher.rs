//! Publishes stamped messages through Redis at an even rate on a separate thread.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    REDIS_LIMIT,
    schedule::{BATCH_PERIOD, Schedule},
    workload::Workload,
};
use crate::{signals, streams::stamp::Stamp};

/// The maximum number of messages per round trip to Redis.
const MAX_BATCH: u64 = 1_000;

/// The messages to publish.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) redis: String,
    pub(super) workload: Arc<Workload>,
    pub(super) schedule: Schedule,
    pub(super) payload_bytes: usize,
    /// Keep the time of each message.
    pub(super) keep_times: bool,
}

/// The published messages.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) messages: u64,
    /// From the first message to the last response of Redis.
    pub(super) elapsed: Duration,
    /// The time of each message since the epoch, if these are kept.
    pub(super) times: Vec<Duration>,
}

/// Starts publishing. Stamps count from `epoch`.
pub(super) fn start(plan: Plan, epoch: Instant) -> Result<JoinHandle<Result<Published>>> {
    thread::Builder::new()
        .name("publisher".to_owned())
        .spawn(move || publish(&plan, epoch))
        .context("cannot start the publisher")
}

fn publish(plan: &Plan, epoch: Instant) -> Result<Published> {
    let mut connection = redis::Client::open(plan.redis.as_str())?
        .get_connection_with_timeout(REDIS_LIMIT)
        .context("the publisher cannot reach Redis")?;
    connection.set_read_timeout(Some(REDIS_LIMIT))?;
    connection.set_write_timeout(Some(REDIS_LIMIT))?;

    let started = Instant::now();
    let mut sent = 0;
    let mut times = Vec::new();
    let mut payload = Vec::with_capacity(plan.payload_bytes);
    while !plan.schedule.is_over(sent, started.elapsed()) {
        let batch_started = Instant::now();
        let due = plan.schedule.due_count(started.elapsed()).min(sent + MAX_BATCH);
        let mut batch = redis::pipe();
        for sequence in sent..due {
            payload.clear();
            let stamp = Stamp { sequence, published: epoch.elapsed() };
            stamp.write_payload(plan.payload_bytes, &mut payload)?;
            if plan.keep_times {
                times.push(stamp.published);
            }
            batch.publish(&*plan.workload.channel(sequence), payload.as_slice());
        }
        let receivers: Vec<u64> = batch.query(&mut connection).context("cannot publish")?;
        ensure!(receivers.iter().all(|receivers| *receivers > 0), "no subscriber to {}", plan.workload.subscription());
        sent = due;
        signals::sleep_until((started + plan.schedule.due(sent)).max(batch_started + BATCH_PERIOD))?;
    }
    Ok(Published { messages: sent, elapsed: started.elapsed(), times })
}
