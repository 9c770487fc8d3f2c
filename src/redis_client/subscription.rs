//! What all subscriptions beside those of the source have in common: time limits, pings in their silences, and why they end.

use std::time::Duration;

use backon::ExponentialBuilder;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Msg, RedisError, RedisResult};
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::Server;

/// Time to connect, and for each answer.
const LIMIT: Duration = Duration::from_secs(5);
/// The silence after which the server is pinged.
const PING_PERIOD: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause before the next attempt to subscribe.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why a subscription has ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubscriptionEnd {
    /// By the server, or by a broken connection.
    #[error("the connection was closed")]
    Closed,
    /// The server is silent.
    #[error("no answer within {} s", LIMIT.as_secs())]
    TimedOut,
    /// Redis has refused something.
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// The pauses between attempts to subscribe, from the first one after each success.
pub(crate) fn pauses() -> ExponentialBuilder {
    let pauses = ExponentialBuilder::new().with_min_delay(FIRST_PAUSE).with_max_delay(LONGEST_PAUSE).with_jitter();
    pauses.without_max_times()
}

/// The answer of Redis, if it comes in time.
pub(crate) async fn in_time<T>(answer: impl Future<Output = RedisResult<T>>) -> Result<T, SubscriptionEnd> {
    Ok(timeout(LIMIT, answer).await.map_err(|_| SubscriptionEnd::TimedOut)??)
}

/// The next message. Pings a silent connection: otherwise a frozen server would look like one without news. Nor would one that is
/// no longer the primary have any. May be dropped at any time.
pub(crate) async fn next_message(
    server: &Server,
    sink: &mut PubSubSink,
    messages: &mut PubSubStream,
) -> Result<Msg, SubscriptionEnd> {
    loop {
        if let Ok(message) = timeout(PING_PERIOD, messages.next()).await {
            return message.ok_or(SubscriptionEnd::Closed);
        }
        tokio::select! {
            // A message proves as well as an answer that the server is there. The answer that then goes unread does no harm.
            biased;
            message = messages.next() => return message.ok_or(SubscriptionEnd::Closed),
            pong = in_time(async {
                sink.ping::<redis::Value>().await?;
                server.check().await
            }) => pong?,
        }
    }
}
