//! The mock cluster of librdkafka: brokers in this process that keep records in memory.
//!
//! It is no Kafka. It deletes no topics, adds no partitions and finds no records by their time, and it has no transactions that readers
//! could see. What follows from those is tested without a cluster (`src/source/kafka/tests.rs`). It does move leaders, drop connections,
//! delay answers, and delete the oldest records of a partition with more than 5 MiB.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use super::LIMIT;

/// Brokers, stopped on drop.
pub(crate) struct KafkaServer {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

/// A record to write.
#[derive(Clone, Copy, Default)]
pub(crate) struct Record<'a> {
    pub(crate) partition: i32,
    pub(crate) key: Option<&'a str>,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// None is a tombstone.
    pub(crate) value: Option<&'a [u8]>,
}

impl KafkaServer {
    /// Three brokers.
    pub(crate) fn start() -> Self {
        Self { cluster: MockCluster::new(3).unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("kafka://{}", self.cluster.bootstrap_servers())
    }

    /// Creates a topic whose partition n is led by broker n + 1.
    pub(crate) fn create(&self, topic: &str, partitions: i32) {
        self.cluster.create_topic(topic, partitions, 1).unwrap();
        for partition in 0..partitions {
            self.lead(topic, partition, partition % 3 + 1);
        }
    }

    /// Makes a broker the leader of a partition.
    pub(crate) fn lead(&self, topic: &str, partition: i32, broker: i32) {
        self.cluster.partition_leader(topic, partition, Some(broker)).unwrap();
    }

    /// No broker has a connection, and none accepts one.
    pub(crate) fn kill(&self) {
        self.cluster.broker_down(-1).unwrap();
    }

    /// All brokers are back, with what they had.
    pub(crate) fn run(&self) {
        self.cluster.broker_up(-1).unwrap();
    }

    /// Brokers accept connections and answer nothing for longer than anyone waits.
    pub(crate) fn freeze(&self) {
        self.cluster.broker_round_trip_time(-1, LIMIT * 2).unwrap();
    }

    pub(crate) fn thaw(&self) {
        self.cluster.broker_round_trip_time(-1, Duration::ZERO).unwrap();
        // Answers that are under way stay so.
        self.kill();
        self.run();
    }

    /// Writes records to a topic, and returns when all are written. With new connections: processes that tests have started hold the
    /// brokers' side of old ones open, so that those do not end when brokers are killed.
    pub(crate) fn write<'a>(&self, topic: &str, records: impl IntoIterator<Item = Record<'a>>) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers()).set("linger.ms", "1");
        let producer: BaseProducer = config.create().unwrap();
        for Record { partition, key, headers, value } in records {
            let insert =
                |all: OwnedHeaders, (key, value): &(&str, &str)| all.insert(Header { key, value: Some(*value) });
            let headers = headers.iter().fold(OwnedHeaders::new(), insert);
            let mut record = BaseRecord::<str, [u8]>::to(topic).partition(partition).headers(headers);
            (record.key, record.payload) = (key, value);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(LIMIT).unwrap();
    }
}
