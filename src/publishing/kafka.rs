//! Publishing in Kafka: a record for each message, which all replicas that are in sync have before it is confirmed.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::Delivery;
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use tallycast_fanout::{Partition, Position};
use tokio::time::timeout;

use super::{Publication, Unavailable};
use crate::decode::Target;
use crate::source::kafka::{Config, entry_of};

/// Publishes in one cluster. Cheap to clone.
///
/// The producer is opened with the first message. librdkafka numbers its records, so that one that it sends again is written once. A
/// fatal error, after which it could not promise that, closes it, and the next message opens another one.
#[derive(Clone)]
pub struct KafkaPublisher(Arc<Shared>);

struct Shared {
    config: Config,
    /// What sequences of positions start with: the name of the source and `:`, or nothing for the default source.
    prefix: String,
    producer: Mutex<Option<FutureProducer>>,
}

impl std::fmt::Debug for KafkaPublisher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("KafkaPublisher").field(&self.0.config).finish()
    }
}

impl KafkaPublisher {
    /// Publishes in the cluster of a source with this name, if it has one.
    pub fn new(config: Config, name: Option<&str>) -> Self {
        let prefix = name.map(|name| format!("{name}:")).unwrap_or_default();
        Self(Arc::new(Shared { config, prefix, producer: Mutex::new(None) }))
    }

    /// Publishes messages in their order. Returns the position of each that is in a stream: the place in its partition.
    ///
    /// Those of one request are not written all or none: after an error, some may be there.
    pub(super) async fn publish(&self, messages: &[Publication]) -> Result<Vec<Option<String>>, Unavailable> {
        if messages.iter().any(|message| message.idempotency_key.is_some()) {
            return Err(Unavailable::refused("Kafka keeps no idempotency keys; expected a message without one"));
        }
        let deliveries = self.send(messages.iter().map(record))?;
        let mut positions = Vec::with_capacity(messages.len());
        for (delivery, message) in deliveries.into_iter().zip(messages) {
            let delivery = self.confirmed(delivery).await?;
            positions.push(match &message.target {
                Target::Channel(_) => None,
                Target::Stream { key, .. } => Some(self.position(key, &delivery)),
            });
        }
        Ok(positions)
    }

    /// Adds a record to a topic. Its payload has no name.
    pub(super) async fn add_entry(&self, key: &str, _field: &str, data: &str) -> Result<(), Unavailable> {
        let record = Record { topic: key, key: None, data, headers: OwnedHeaders::new() };
        for delivery in self.send(std::iter::once(record))? {
            self.confirmed(delivery).await?;
        }
        Ok(())
    }

    fn send<'a>(&self, records: impl Iterator<Item = Record<'a>>) -> Result<Vec<DeliveryFuture>, Unavailable> {
        let producer = self.producer().map_err(|error| self.unavailable(&error))?;
        let send = |Record { topic, key, data, headers }: Record<'a>| {
            let record = FutureRecord {
                topic,
                partition: None,
                payload: Some(data),
                key,
                timestamp: None,
                headers: Some(headers),
            };
            producer.send_result(record).map_err(|(error, _)| self.unavailable(&error))
        };
        records.map(send).collect()
    }

    fn producer(&self) -> Result<FutureProducer, KafkaError> {
        let mut producer = self.0.producer.lock().unwrap_or_else(PoisonError::into_inner);
        match &*producer {
            Some(producer) => Ok(producer.clone()),
            None => Ok(producer.insert(self.0.config.producer().create()?).clone()),
        }
    }

    /// Waits until a record is written. librdkafka keeps the limit; here it is only so much longer that its answer comes first.
    async fn confirmed(&self, delivery: DeliveryFuture) -> Result<Delivery, Unavailable> {
        match timeout(self.0.config.timeout() * 2, delivery).await {
            Ok(Ok(Ok(delivery))) => Ok(delivery),
            Ok(Ok(Err((error, _)))) => Err(self.unavailable(&error)),
            Ok(Err(_)) | Err(_) => Err(Unavailable::temporary("no confirmation in time")),
        }
    }

    /// Clients see the kind of the error only, never an address.
    fn unavailable(&self, error: &KafkaError) -> Unavailable {
        tracing::debug!(%error, "cannot publish in Kafka");
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::Fatal) {
            *self.0.producer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        match code {
            Some(code @ (RDKafkaErrorCode::InvalidTopic | RDKafkaErrorCode::MessageSizeTooLarge)) => {
                Unavailable::refused(format!("Kafka: {code}"))
            }
            Some(code) => Unavailable::temporary(format!("Kafka: {code}")),
            None => Unavailable::temporary("Kafka: no producer could be opened"),
        }
    }

    fn position(&self, topic: &str, delivery: &Delivery) -> String {
        let topic = format!("{}{topic}", self.0.prefix).into();
        // What is written has a partition and an offset.
        let number = u32::try_from(delivery.partition).unwrap_or_default();
        let entry = entry_of(u64::try_from(delivery.offset).unwrap_or_default());
        Position { sequence: Partition { topic, number }.sequence().into(), entry }.to_string()
    }
}

/// What is written.
struct Record<'a> {
    topic: &'a str,
    key: Option<&'a str>,
    data: &'a str,
    headers: OwnedHeaders,
}

/// The record of a message: the same headers as the source reads. What a `*` stands for is the key, so that its messages stay in order.
fn record(message: &Publication) -> Record<'_> {
    let Publication { target, event, data, sender, update, .. } = message;
    let (topic, key) = match target {
        Target::Channel(channel) => (channel.as_str(), None),
        Target::Stream { key, topic } => (&**key, topic.as_deref()),
    };
    let mut headers = OwnedHeaders::new();
    let mut insert = |name: &str, value: &str| {
        headers = std::mem::take(&mut headers).insert(Header { key: name, value: Some(value) });
    };
    if let Some(sender) = sender {
        insert("sender", sender);
    }
    if let Target::Stream { .. } = target {
        if let Some(event) = event {
            insert("event", event);
        }
        if !update.alternates.is_empty() {
            key.into_iter()
                .chain(update.alternates.iter().map(String::as_str))
                .for_each(|topic| insert("topic", topic));
        }
        if let Some(id) = &update.id {
            insert("id", id);
        }
        if let Some(retry) = update.retry {
            insert("retry", &retry.to_string());
        }
        if update.is_private {
            insert("private", "on");
        }
    }
    Record { topic, key, data, headers }
}
