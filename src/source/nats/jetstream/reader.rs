//! What reads one stream over one connection: a consumer of JetStream, which is asked for a bounded number of messages at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::{Message, Subscriber};
use tokio::time::Instant;
use tokio_stream::Stream as _;

use super::message::{self, Delivery, Incoming};
use crate::nats_client::{Connection, JetStream, NatsError};

/// The most messages that a consumer is asked for.
pub(super) const BATCH: usize = 256;
/// The size of the messages that a consumer is asked for, in bytes, if none is larger than that.
const BATCH_BYTES: usize = 4 << 20;
/// The largest that NATS allows a message to be, with room for its headers, in bytes.
const MAX_BATCH_BYTES: usize = 65 << 20;
/// How long a consumer waits for messages before it has to be asked again.
const EXPIRES: Duration = Duration::from_secs(10);
/// The time between two signs of life of a consumer without messages.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The silence after which a consumer counts as lost.
const MAX_SILENCE: Duration = Duration::from_secs(7);

/// What reads a stream.
pub(super) struct Reader {
    stream: Arc<str>,
    consumer: String,
    inbox: String,
    subscriber: Subscriber,
    /// Messages that the consumer has sent.
    delivered: u64,
    /// Messages that are left of the last request; zero if it is over.
    requested: usize,
    /// The size that a request allows for.
    max_bytes: usize,
    heard_at: Instant,
}

/// What was received of a stream.
pub(super) struct Received {
    /// Messages without gaps among those that the consumer has sent.
    pub(super) messages: Vec<(Delivery, Box<Message>)>,
    /// Nothing more was there.
    pub(super) is_idle: bool,
    /// The consumer is of no more use.
    pub(super) is_gone: bool,
}

impl Reader {
    /// Reads a stream from the message after `after`. Returns the number of messages that are there as well.
    pub(super) async fn open(
        api: &JetStream,
        connection: &Connection,
        stream: &Arc<str>,
        after: u64,
    ) -> Result<(Self, u64), NatsError> {
        let consumer = api.consumer_after(connection, stream, after).await?;
        let inbox = connection.client().new_inbox();
        let subscriber = connection.subscribe(&inbox).await?;
        // With room for the headers of the largest message.
        let max_bytes = BATCH_BYTES.max(connection.client().max_payload() + (1 << 16)).min(MAX_BATCH_BYTES);
        let mut reader = Self {
            stream: Arc::clone(stream),
            consumer: consumer.name,
            inbox,
            subscriber,
            delivered: 0,
            requested: 0,
            max_bytes,
            heard_at: Instant::now(),
        };
        reader.pull(api, connection).await?;
        Ok((reader, consumer.num_pending))
    }

    /// Asks for the next messages, if the last request is over. What came before is passed on.
    pub(super) async fn pull(&mut self, api: &JetStream, connection: &Connection) -> Result<(), NatsError> {
        self.heard_at = Instant::now();
        if self.requested > 0 {
            return Ok(());
        }
        self.requested = BATCH;
        let Self { stream, consumer, inbox, max_bytes, .. } = &*self;
        api.pull(connection, (stream, consumer), inbox, (BATCH, *max_bytes), (EXPIRES, HEARTBEAT)).await
    }

    /// Whether the consumer gives no sign of life.
    pub(super) fn is_silent(&self) -> bool {
        self.heard_at.elapsed() > MAX_SILENCE
    }

    /// What the consumer has sent; `None` if the connection is closed.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<Message>>> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            match Pin::new(&mut self.subscriber).poll_next(context) {
                Poll::Ready(Some(message)) => batch.push(message),
                Poll::Ready(None) if batch.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if batch.is_empty() { Poll::Pending } else { Poll::Ready(Some(batch)) }
    }

    /// Takes what the consumer has sent. Fails with a description of what is not known.
    pub(super) fn receive(&mut self, batch: Vec<Message>) -> Result<Received, String> {
        let mut received = Received { messages: Vec::new(), is_idle: false, is_gone: false };
        for message in batch {
            match message::read(message) {
                Incoming::Message(delivery, message) => {
                    if delivery.delivered != self.delivered + 1 {
                        tracing::debug!(stream = &*self.stream, ?delivery, "a consumer has left out messages");
                        received.is_gone = true;
                        break;
                    }
                    self.delivered = delivery.delivered;
                    self.requested = self.requested.saturating_sub(1);
                    received.messages.push((delivery, message));
                }
                Incoming::Idle => received.is_idle = true,
                Incoming::PullEnded => self.requested = 0,
                Incoming::BatchCompleted => {}
                Incoming::TooLarge => {
                    // Nothing else was sent for that request.
                    if self.requested == BATCH {
                        self.max_bytes = (self.max_bytes * 2).min(MAX_BATCH_BYTES);
                    }
                    self.requested = 0;
                }
                Incoming::ConsumerGone => received.is_gone = true,
                Incoming::Unknown(text) => return Err(text),
            }
        }
        Ok(received)
    }
}
