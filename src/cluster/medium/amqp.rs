//! Messages between nodes by RabbitMQ: a fanout exchange, and a queue for each node that lasts as long as its connection.

use std::time::Duration;

use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer, ExchangeKind};
use tokio_stream::StreamExt;

use super::NAME;
use crate::amqp_client::{AmqpError, Config, Link, answer};
use crate::source::BoxError;

/// Messages that wait in the queue of a node that does not take them; the oldest are dropped.
const MAX_WAITING: i32 = 1000;

pub(in crate::cluster) struct AmqpLink {
    channel: Channel,
    consumer: Consumer,
    limit: Duration,
    /// Closes with it.
    _link: Link,
}

impl AmqpLink {
    pub(super) async fn open(config: &Config) -> Result<Self, BoxError> {
        let limit = config.timeout;
        let link = Link::open(config, "tallycast cluster").await?;
        let channel = link.channel().await?;
        // Gone with its last queue.
        let exchange = ExchangeDeclareOptions { auto_delete: true, ..ExchangeDeclareOptions::default() };
        let declared = channel.exchange_declare(NAME.into(), ExchangeKind::Fanout, exchange, FieldTable::default());
        answer(limit, declared).await?;
        let queue = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let mut bounds = FieldTable::default();
        bounds.insert("x-max-length".into(), AMQPValue::LongInt(MAX_WAITING));
        let queue = answer(limit, channel.queue_declare(ShortString::default(), queue, bounds)).await?.name().clone();
        let bind = QueueBindOptions::default();
        let bound = channel.queue_bind(queue.clone(), NAME.into(), ShortString::default(), bind, FieldTable::default());
        answer(limit, bound).await?;
        let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
        let consumed = channel.basic_consume(queue, ShortString::default(), options, FieldTable::default());
        let consumer = answer(limit, consumed).await?;
        answer(limit, channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { channel, consumer, limit, _link: link })
    }

    pub(super) async fn send(&self, message: Vec<u8>) -> Result<(), BoxError> {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let published = self.channel.basic_publish(NAME.into(), ShortString::default(), options, &message, properties);
        let confirmation = answer(self.limit, published).await?;
        match answer(self.limit, confirmation).await?.is_nack() {
            true => Err("RabbitMQ rejected the message".into()),
            false => Ok(()),
        }
    }

    pub(super) async fn receive(&mut self) -> Result<Vec<u8>, BoxError> {
        let delivery = self.consumer.next().await.ok_or("the connection was closed")?;
        Ok(delivery.map_err(AmqpError::from)?.data)
    }
}
