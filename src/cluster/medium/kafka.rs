//! Messages between nodes by Kafka: one topic, read from its end.

use std::time::Duration;

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::source::BoxError;
use crate::source::kafka::Config;

/// The topic. No `*` in the pattern of a route covers names that begin with `tallycast.`; Kafka allows no `:`.
const TOPIC: &str = "tallycast.cluster";

pub(in crate::cluster) struct KafkaLink {
    producer: FutureProducer,
    consumer: StreamConsumer,
    limit: Duration,
}

impl KafkaLink {
    /// Where the topic must exist, unless the cluster creates topics that are written to (`auto.create.topics.enable`).
    pub(super) async fn open(config: &Config) -> Result<Self, BoxError> {
        let limit = config.timeout();
        let producer: FutureProducer = config.producer().create()?;
        let consumer: StreamConsumer = config.consumer().create()?;
        // The questions block. The first one has the topic created, if that is allowed.
        let asking = producer.clone();
        let opened = tokio::task::spawn_blocking(move || -> Result<StreamConsumer, BoxError> {
            use rdkafka::producer::Producer;
            asking.client().fetch_metadata(Some(TOPIC), limit)?;
            let metadata = consumer.fetch_metadata(Some(TOPIC), limit)?;
            let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            let mut list = TopicPartitionList::new();
            for partition in partitions {
                // Not `Offset::End`, which is where the partition ends when the consumer gets there.
                let (_, end) = consumer.fetch_watermarks(TOPIC, partition.id(), limit)?;
                list.add_partition_offset(TOPIC, partition.id(), Offset::Offset(end))?;
            }
            if list.count() == 0 {
                return Err(format!("the topic {TOPIC} does not exist, and is not created").into());
            }
            consumer.assign(&list)?;
            Ok(consumer)
        });
        Ok(Self { producer, consumer: opened.await??, limit })
    }

    pub(super) async fn send(&self, message: Vec<u8>) -> Result<(), BoxError> {
        let record = FutureRecord::<(), _>::to(TOPIC).payload(&message);
        let sent = self.producer.send(record, self.limit).await;
        sent.map(drop).map_err(|(error, _)| error.into())
    }

    pub(super) async fn receive(&self) -> Result<Vec<u8>, BoxError> {
        Ok(self.consumer.recv().await?.payload().unwrap_or_default().to_vec())
    }
}
