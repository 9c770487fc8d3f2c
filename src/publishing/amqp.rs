//! Publishing in RabbitMQ: to the topic exchange, each message confirmed by the broker.

use std::fmt;
use std::sync::Arc;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use tokio::sync::Mutex;
use tokio::time::timeout;
use uuid::Uuid;

use super::{Publication, Unavailable};
use crate::amqp_client::{AmqpError, Config, Link, MAX_NAME_BYTES, SENDER, answer};
use crate::decode::Target;

/// The delivery mode of messages that are kept on disk, and of others (AMQP 0-9-1, `basic`).
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// Publishes in one virtual host. Cheap to clone; all clones share a connection, which is opened when it is needed.
#[derive(Clone)]
pub struct AmqpPublisher(Arc<Shared>);

struct Shared {
    config: Config,
    open: Mutex<Option<Arc<Open>>>,
}

/// A connection, which confirms what it is sent.
struct Open {
    channel: Channel,
    _link: Link,
}

/// A message as it is sent.
struct Outgoing<'a> {
    routing_key: ShortString,
    properties: BasicProperties,
    data: &'a str,
}

/// Why a message is not published.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error(transparent)]
    Amqp(#[from] AmqpError),
    #[error("it rejected the message")]
    Rejected,
}

impl From<PublishError> for Unavailable {
    /// Clients see the category of the error only, never a name.
    fn from(error: PublishError) -> Self {
        tracing::debug!(%error, "cannot publish");
        Self::temporary(match error {
            PublishError::Amqp(AmqpError::TimedOut(_)) => "it did not answer in time".to_owned(),
            PublishError::Amqp(_) => "the connection failed".to_owned(),
            PublishError::Rejected => error.to_string(),
        })
    }
}

impl AmqpPublisher {
    /// Publishes to the exchange of `config`.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(Shared { config, open: Mutex::new(None) }))
    }

    /// Publishes in order, and waits until the broker has confirmed each. If it confirms only some, the others may be lost: AMQP
    /// has no transactions across queues.
    pub(super) async fn publish(&self, messages: &[Publication]) -> Result<Vec<Option<String>>, Unavailable> {
        let Shared { config, .. } = &*self.0;
        let outgoing: Vec<Outgoing<'_>> =
            messages.iter().map(|message| outgoing(message, config.is_persistent)).collect::<Result<_, _>>()?;
        let mut used = None;
        let limit = config.timeout;
        let sent = timeout(limit, self.send(outgoing, &mut used)).await;
        let sent = sent.unwrap_or_else(|_| Err(AmqpError::TimedOut(limit).into()));
        if let Err(PublishError::Amqp(_)) = sent {
            // What is not confirmed yet ends with the connection, instead of piling up in it.
            self.discard(used.as_ref()).await;
        }
        sent?;
        Ok(vec![None; messages.len()])
    }

    pub(super) async fn add_entry(&self, _key: &str, _field: &str, _data: &str) -> Result<(), Unavailable> {
        Err(no_streams())
    }

    /// Sends messages on the open connection, which is put into `used`.
    async fn send(&self, messages: Vec<Outgoing<'_>>, used: &mut Option<Arc<Open>>) -> Result<(), PublishError> {
        let open = used.insert(self.open().await?);
        let mut confirmations = Vec::with_capacity(messages.len());
        for Outgoing { routing_key, properties, data } in messages {
            let exchange = self.0.config.exchange.as_str().into();
            // Without `mandatory`: a message that no queue receives is published nevertheless.
            let options = BasicPublishOptions::default();
            let published = open.channel.basic_publish(exchange, routing_key, options, data.as_bytes(), properties);
            confirmations.push(published.await.map_err(AmqpError::from)?);
        }
        for confirmation in confirmations {
            if confirmation.await.map_err(AmqpError::from)?.is_nack() {
                return Err(PublishError::Rejected);
            }
        }
        Ok(())
    }

    /// The open connection, or a new one.
    async fn open(&self) -> Result<Arc<Open>, AmqpError> {
        let Shared { config, open } = &*self.0;
        let mut current = open.lock().await;
        if let Some(open) = current.as_ref().filter(|open| open.channel.status().connected()) {
            return Ok(Arc::clone(open));
        }
        let link = Link::open(config, "tallycast publisher").await?;
        let channel = link.channel_with_exchange(config).await?;
        answer(config.timeout, channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Arc::clone(current.insert(Arc::new(Open { channel, _link: link }))))
    }

    /// Has the next message use another connection than this one.
    async fn discard(&self, used: Option<&Arc<Open>>) {
        let mut open = self.0.open.lock().await;
        if let (Some(current), Some(used)) = (&*open, used)
            && Arc::ptr_eq(current, used)
        {
            *open = None;
        }
    }
}

fn outgoing(message: &Publication, is_persistent: bool) -> Result<Outgoing<'_>, Unavailable> {
    let Publication { target, data, sender, idempotency_key, .. } = message;
    let Target::Channel(channel) = target else { return Err(no_streams()) };
    if idempotency_key.is_some() {
        return Err(Unavailable::refused("RabbitMQ has no idempotency keys, so publish without one"));
    }
    let too_long = || Unavailable::refused(format!("a channel of RabbitMQ has at most {MAX_NAME_BYTES} bytes"));
    let routing_key = ShortString::try_new(channel.as_str()).map_err(|_| too_long())?;
    let mut headers = FieldTable::default();
    if let Some(sender) = sender.as_deref().filter(|sender| !sender.is_empty()) {
        headers.insert(SENDER.into(), AMQPValue::LongString(sender.into()));
    }
    let properties = BasicProperties::default()
        .with_delivery_mode(if is_persistent { PERSISTENT } else { TRANSIENT })
        // By it, a source recognises what the broker sends again.
        .with_message_id(Uuid::new_v4().to_string().into())
        .with_headers(headers);
    Ok(Outgoing { routing_key, properties, data })
}

fn no_streams() -> Unavailable {
    Unavailable::refused("RabbitMQ has no streams")
}

impl fmt::Debug for AmqpPublisher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("AmqpPublisher").field(&self.0.config).finish()
    }
}
