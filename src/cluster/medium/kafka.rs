//! Messages between nodes by Kafka: one topic, read from its end.

use std::time::Duration;

use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::source::BoxError;
use crate::source::kafka::Config;

/// The topic. No `*` in the pattern of a route covers names that begin with `tallycast.`; Kafka allows no `:`.
const TOPIC: &str = "tallycast.cluster";

pub(in crate::cluster) struct KafkaLink {
    // Both are dropped on a thread of their own: that may take a while.
    producer: Option<FutureProducer>,
    consumer: Option<StreamConsumer>,
    limit: Duration,
}

impl KafkaLink {
    /// Where the topic must exist, unless the cluster creates topics that are written to (`auto.create.topics.enable`).
    pub(super) async fn open(config: &Config) -> Result<Self, BoxError> {
        let limit = config.timeout();
        // Before anything can fail, so that the producer is not dropped here.
        let mut link = Self { producer: Some(config.producer().create()?), consumer: None, limit };
        let consumer: StreamConsumer = config.consumer().create()?;
        // The questions block. The first one has the topic created, if that is allowed.
        let asking = link.producer.clone().ok_or(KafkaError::Canceled)?;
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
        link.consumer = Some(opened.await??);
        Ok(link)
    }

    pub(super) async fn send(&self, message: Vec<u8>) -> Result<(), BoxError> {
        let record = FutureRecord::<(), _>::to(TOPIC).payload(&message);
        // There is none only while it is dropped.
        let producer = self.producer.as_ref().ok_or(KafkaError::Canceled)?;
        let sent = producer.send(record, self.limit).await;
        sent.map(drop).map_err(|(error, _)| error.into())
    }

    pub(super) async fn receive(&self) -> Result<Vec<u8>, BoxError> {
        let consumer = self.consumer.as_ref().ok_or(KafkaError::Canceled)?;
        Ok(consumer.recv().await?.payload().unwrap_or_default().to_vec())
    }
}

impl Drop for KafkaLink {
    fn drop(&mut self) {
        let both = (self.producer.take(), self.consumer.take());
        // If there is no thread, they are dropped here, which takes longer.
        let _ = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || drop(both));
    }
}
