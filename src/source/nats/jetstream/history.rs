//! Where the history of a route begins in its stream.

use std::time::{Duration, Instant, SystemTime};

use tallycast_fanout::Retention;

use crate::nats_client::{Connection, JetStream, NatsError, StreamInfo};

/// By how much the clock of the server may differ before it is taken into account.
const MAX_SKEW: Duration = Duration::from_millis(500);
/// How often the server is asked, should its clock be set meanwhile.
const MAX_ROUNDS: usize = 3;

/// The number of the last message of a stream that is too old for a retention, or that newer ones leave no room for; zero if there is
/// none. Neither size nor last values say where the history begins.
pub(super) async fn beginning(
    api: &JetStream,
    connection: &Connection,
    (key, info): (&str, &StreamInfo),
    retention: &Retention,
) -> Result<u64, NatsError> {
    // The newest message of a namespace may be older than everything else.
    if retention.last_values {
        return Ok(0);
    }
    let by_age = match retention.max_age {
        Some(age) => last_before(api, connection, key, age).await?,
        None => 0,
    };
    // More than enough, if some were deleted of those.
    let room = |count: usize| (count as u64).saturating_add(info.deleted());
    let by_count = retention.max_messages.map_or(0, |count| info.last().saturating_sub(room(count)));
    Ok(by_age.max(by_count))
}

/// The number of the last message of a stream that is older than `age`, by the clock of the server: a consumer says where it would
/// begin, and when it was made.
async fn last_before(api: &JetStream, connection: &Connection, key: &str, age: Duration) -> Result<u64, NatsError> {
    let (mut now, mut after) = (SystemTime::now(), 0);
    for _ in 0..MAX_ROUNDS {
        let asked_at = Instant::now();
        let since = now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let consumer = api.consumer_since(connection, key, since).await?;
        match api.remove_consumer(connection, key, &consumer.name).await {
            Ok(()) | Err(NatsError::Api(_)) => {}
            Err(error) => return Err(error),
        }
        after = consumer.after();
        let created = consumer.created().unwrap_or(now);
        let skew = created.duration_since(now).unwrap_or_else(|earlier| earlier.duration());
        if skew <= MAX_SKEW + asked_at.elapsed() {
            break;
        }
        now = created;
    }
    Ok(after)
}
