//! Publishes stamped messages through Redis at an even rate on a separate thread.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{REDIS_LIMIT, workload::Workload};
use crate::{signals, streams::stamp::Stamp};

/// The shortest time between two batches: at 5,000 messages/s each batch has five.
const BATCH_PERIOD: Duration = Duration::from_millis(1);

/// The maximum number of messages per round trip to Redis.
const MAX_BATCH: u64 = 1_000;

/// How much longer than planned publishing may take. The remaining messages are skipped.
const OVERRUN_LIMIT: Duration = Duration::from_secs(5);

/// The messages to publish.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) redis: String,
    pub(super) workload: Arc<Workload>,
    /// Messages per second.
    pub(super) rate: u32,
    pub(super) duration: Duration,
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

impl Plan {
    /// The total number of messages.
    pub(super) fn messages(&self) -> u64 {
        u64::from(self.rate) * self.duration.as_secs()
    }

    /// The time at which message `number` is due.
    fn due(&self, number: u64) -> Duration {
        Duration::from_nanos(number * 1_000_000_000 / u64::from(self.rate))
    }

    /// The number of messages due `elapsed` after the start.
    fn due_count(&self, elapsed: Duration) -> u64 {
        let whole = elapsed.as_nanos() * u128::from(self.rate) / 1_000_000_000;
        u64::try_from(whole).map_or(u64::MAX, |whole| whole + 1).min(self.messages())
    }
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
    while sent < plan.messages() && started.elapsed() < plan.duration + OVERRUN_LIMIT {
        let batch_started = Instant::now();
        let due = plan.due_count(started.elapsed()).min(sent + MAX_BATCH);
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
        signals::sleep_until((started + plan.due(sent)).max(batch_started + BATCH_PERIOD))?;
    }
    Ok(Published { messages: sent, elapsed: started.elapsed(), times })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn due_count_includes_a_message_from_its_due_time(rate in 1..2_000_000_u32, seconds in 1..1_000_u64, part in 0.0..1.0_f64) {
            let plan = Plan {
                redis: String::new(),
                workload: Arc::new(Workload::one_channel(String::new(), String::new())),
                rate,
                duration: Duration::from_secs(seconds),
                payload_bytes: 0,
                keep_times: false,
            };
            let number = ((plan.messages() - 1) as f64 * part) as u64;
            let due = plan.due(number);
            // Due times are rounded down to nanoseconds.
            prop_assert!(plan.due_count(due + Duration::from_nanos(1)) > number);
            prop_assert!(plan.due_count(due.saturating_sub(Duration::from_nanos(1))) <= number.max(1));
            prop_assert_eq!(plan.due_count(plan.duration * 2), plan.messages());
        }
    }
}
