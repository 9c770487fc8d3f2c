//! One consumer of librdkafka, and questions to the cluster beside what it receives.
//!
//! librdkafka finds the leaders of partitions and follows them by itself. Its questions block, so each runs on a thread of its own, and
//! has a time limit. It also says, twice a second, which partitions have been received to their end: where transactions end, offsets
//! are passed over that no record has.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::task;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{Consumer as _, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::config::Config;
use super::progress::Bounds;
use super::topics::Wanted;

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ClientError {
    /// The library refuses the configuration. Without the value, which may be a secret.
    #[error("librdkafka refuses {key}: {reason}")]
    Config { key: String, reason: String },
    /// About one topic.
    #[error("the topic {0:?}: {1}")]
    Topic(String, KafkaError),
    /// About one partition.
    #[error("partition {1} of the topic {0:?}: {2}")]
    Partition(String, i32, KafkaError),
    /// About none.
    #[error("{0}")]
    Kafka(KafkaError),
    /// The thread that asked has ended.
    #[error("a question to the cluster was not answered")]
    Ended,
}

impl From<KafkaError> for ClientError {
    fn from(error: KafkaError) -> Self {
        match error {
            KafkaError::ClientConfig(_, reason, key, _) => Self::Config { key, reason },
            error => Self::Kafka(error),
        }
    }
}

/// A number for each partition of a topic, such as an offset, from partition 0 on.
pub(super) type Partitions<T> = BTreeMap<String, Vec<T>>;

/// What is asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Question {
    /// Which of these topics there are, and the number of their partitions.
    pub(super) wanted: Option<Wanted>,
    /// The bounds of these partitions, and of those that `wanted` finds.
    pub(super) partitions: BTreeMap<String, usize>,
    /// Topics whose partitions are asked for the first record that is no older than this.
    pub(super) ages: HashMap<String, Duration>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The number of partitions of each topic that exists, if it was asked for, and which were asked for.
    pub(super) topics: Option<(Wanted, BTreeMap<String, usize>)>,
    /// What each partition has.
    pub(super) bounds: Partitions<Bounds>,
    /// The first record that is young enough, or the end.
    pub(super) at_ages: Partitions<u64>,
    /// Why some topics have no bounds, if that is so: what was said of one of their partitions.
    pub(super) failed: Option<ClientError>,
}

/// A consumer, and its context.
pub(super) struct Client {
    /// Dropped on a thread of its own: that may take a while.
    consumer: Option<Arc<StreamConsumer<Context>>>,
    limit: Duration,
}

/// What librdkafka says beside messages.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// Why brokers are away, as it was last said.
    reason: Mutex<String>,
    /// The end of each partition of which everything was received.
    ends: Mutex<Vec<(String, i32, u64)>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters comes as an error, too, and ends a session.
        tracing::debug!(target: "librdkafka", ?level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason.chars().take(200).collect();
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) {
            *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = statistics.ends();
        }
    }
}

impl ConsumerContext for Context {}

/// The part of librdkafka's statistics that says where partitions end.
#[derive(Debug, Deserialize)]
struct Statistics {
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Debug, Deserialize)]
struct TopicStatistics {
    partitions: HashMap<String, PartitionStatistics>,
}

#[derive(Debug, Deserialize)]
struct PartitionStatistics {
    partition: i32,
    /// Records that are received and not taken, of all partitions.
    fetchq_cnt: u64,
    /// Where the partition was seen to end; negative if it was not.
    eof_offset: i64,
}

impl Statistics {
    fn ends(self) -> Vec<(String, i32, u64)> {
        let end = |topic: &str, of: PartitionStatistics| {
            let end = u64::try_from(of.eof_offset).ok().filter(|_| of.fetchq_cnt == 0 && of.partition >= 0)?;
            Some((topic.to_owned(), of.partition, end))
        };
        let topics = self.topics.into_iter();
        topics
            .flat_map(|(topic, of)| {
                of.partitions.into_values().filter_map(move |of| end(&topic, of)).collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Client {
    /// A consumer of nothing yet, which connects in the background.
    pub(super) fn open(config: &Config) -> Result<Self, ClientError> {
        let consumer = config.consumer().create_with_context(Context::default())?;
        Ok(Self { consumer: Some(Arc::new(consumer)), limit: config.look_limit() })
    }

    fn consumer(&self) -> Option<&Arc<StreamConsumer<Context>>> {
        self.consumer.as_ref()
    }

    /// The next record, or an error.
    pub(super) async fn receive(&self) -> KafkaResult<BorrowedMessage<'_>> {
        match self.consumer() {
            Some(consumer) => consumer.recv().await,
            // Only while it is dropped.
            None => Err(KafkaError::Canceled),
        }
    }

    /// The next record, if there is one already, or an error.
    pub(super) fn try_receive(&self) -> Option<KafkaResult<BorrowedMessage<'_>>> {
        let received = std::pin::pin!(self.receive()).poll(&mut task::Context::from_waker(task::Waker::noop()));
        match received {
            task::Poll::Ready(received) => Some(received),
            task::Poll::Pending => None,
        }
    }

    /// Reads each partition from this offset on, and no others.
    pub(super) fn assign(&self, partitions: &Partitions<Option<u64>>) -> Result<(), ClientError> {
        let mut list = TopicPartitionList::new();
        for (topic, offsets) in partitions {
            for (number, offset) in offsets.iter().enumerate() {
                if let Some(offset) = offset {
                    let offset = Offset::Offset(i64::try_from(*offset).unwrap_or(i64::MAX));
                    list.add_partition_offset(topic, index(number), offset)?;
                }
            }
        }
        Ok(self.consumer().map_or(Ok(()), |consumer| consumer.assign(&list))?)
    }

    /// Asks on a thread of its own.
    pub(super) fn ask(&self, question: Question) -> JoinHandle<Result<Answer, ClientError>> {
        let (consumer, limit) = (self.consumer.clone(), self.limit);
        tokio::task::spawn_blocking(move || match consumer {
            Some(consumer) => answer(&consumer, question, Instant::now() + limit),
            None => Err(ClientError::Ended),
        })
    }

    /// The ends of partitions of which everything was received, since the last time.
    pub(super) fn take_ends(&self) -> Vec<(String, i32, u64)> {
        let take = |consumer: &Arc<StreamConsumer<Context>>| {
            std::mem::take(&mut *consumer.context().ends.lock().unwrap_or_else(PoisonError::into_inner))
        };
        self.consumer().map(take).unwrap_or_default()
    }

    /// Why brokers are away, as it was last said.
    pub(super) fn reason(&self) -> String {
        let reason = |consumer: &Arc<StreamConsumer<Context>>| {
            consumer.context().reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        self.consumer().map(reason).unwrap_or_default()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let consumer = self.consumer.take();
        // If there is no thread, it is dropped here, which takes longer.
        let _ = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || drop(consumer));
    }
}

/// The number of a partition as librdkafka has it.
fn index(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn answer(consumer: &StreamConsumer<Context>, question: Question, until: Instant) -> Result<Answer, ClientError> {
    let Question { wanted, mut partitions, ages } = question;
    let mut answer = Answer::default();
    if let Some(wanted) = wanted {
        let topics = topics(consumer, &wanted, until)?;
        partitions.clone_from(&topics);
        answer.topics = Some((wanted, topics));
    }
    let (low, of_low) = offsets(consumer, &partitions, |_| Offset::Beginning, until)?;
    let (mut high, of_high) = offsets(consumer, &partitions, |_| Offset::End, until)?;
    for (topic, low) in low {
        let Some(high) = high.remove(&topic) else { continue };
        // Both have all partitions. Records may have been deleted in between.
        let bounds = low.into_iter().zip(high).map(|(low, high)| Bounds { low, high: high.max(low) });
        answer.bounds.insert(topic, bounds.collect());
    }
    partitions.retain(|topic, _| ages.contains_key(topic) && answer.bounds.contains_key(topic));
    let now = rdkafka::message::Timestamp::now().to_millis().unwrap_or_default();
    let at = |topic: &str| {
        let age = ages.get(topic).map_or(0, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        Offset::Offset(now.saturating_sub(age).max(0))
    };
    let (at_ages, of_ages) = offsets(consumer, &partitions, at, until)?;
    // Without this answer it is unknown where their histories begin.
    answer.bounds.retain(|topic, _| !partitions.contains_key(topic) || at_ages.contains_key(topic));
    answer.at_ages = at_ages;
    match of_low.or(of_high).or(of_ages) {
        Some(error) if answer.bounds.is_empty() => Err(error),
        failed => Ok(Answer { failed, ..answer }),
    }
}

/// The topics that exist of those that are wanted, with the number of their partitions.
fn topics(
    consumer: &StreamConsumer<Context>,
    wanted: &Wanted,
    until: Instant,
) -> Result<BTreeMap<String, usize>, ClientError> {
    let names = if wanted.has_prefixes() { vec![None] } else { wanted.names().map(Some).collect() };
    let mut topics = BTreeMap::new();
    for name in names {
        let left = until.saturating_duration_since(Instant::now());
        let metadata = consumer.fetch_metadata(name, left)?;
        for topic in metadata.topics().iter().filter(|topic| wanted.is_wanted(topic.name())) {
            match topic.error().map(RDKafkaErrorCode::from) {
                None => drop(topics.insert(topic.name().to_owned(), topic.partitions().len())),
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {}
                Some(error) => {
                    return Err(ClientError::Topic(topic.name().to_owned(), KafkaError::MetadataFetch(error)));
                }
            }
        }
    }
    Ok(topics)
}

/// An offset of each partition: of the beginning, of the end, or of the first record after a time, which is the end if there is none.
///
/// A topic of which a partition has no answer, such as one without a leader, is left out: the others are read meanwhile.
/// The first error is beside what was found.
fn offsets(
    consumer: &StreamConsumer<Context>,
    partitions: &BTreeMap<String, usize>,
    of: impl Fn(&str) -> Offset,
    until: Instant,
) -> Result<(Partitions<u64>, Option<ClientError>), ClientError> {
    let mut list = TopicPartitionList::new();
    for (topic, count) in partitions {
        for number in 0..*count {
            list.add_partition_offset(topic, index(number), of(topic))?;
        }
    }
    if list.count() == 0 {
        return Ok((BTreeMap::new(), None));
    }
    let left = until.saturating_duration_since(Instant::now());
    let list = consumer.offsets_for_times(list, left)?;
    let mut found: Partitions<u64> =
        partitions.iter().map(|(topic, count)| (topic.clone(), vec![u64::MAX; *count])).collect();
    let mut failed = None;
    for element in list.elements() {
        let (topic, number) = (element.topic(), element.partition());
        if let Err(error) = element.error() {
            found.remove(topic);
            failed.get_or_insert_with(|| ClientError::Partition(topic.to_owned(), number, error));
            continue;
        }
        let place = found.get_mut(topic).and_then(|offsets| offsets.get_mut(usize::try_from(number).ok()?));
        if let (Some(place), Offset::Offset(offset)) = (place, element.offset()) {
            *place = u64::try_from(offset).unwrap_or_default();
        }
    }
    Ok((found, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_say_which_partitions_were_received_to_their_end() {
        let text = r#"{"name":"x","topics":{"a":{"topic":"a","partitions":{
            "0":{"partition":0,"fetchq_cnt":0,"eof_offset":7,"hi_offset":7},
            "1":{"partition":1,"fetchq_cnt":2,"eof_offset":7},
            "2":{"partition":2,"fetchq_cnt":0,"eof_offset":-1001},
            "-1":{"partition":-1,"fetchq_cnt":0,"eof_offset":0}}}}}"#;
        let statistics: Statistics = serde_json::from_str(text).unwrap();
        assert_eq!(statistics.ends(), [("a".to_owned(), 0, 7)]);
    }

    #[test]
    fn refused_configuration_is_an_error_without_its_value() {
        let mut config = rdkafka::ClientConfig::new();
        config.set("sasl.mechanism.x", "secret");
        let error = config.create::<StreamConsumer>().err().map(ClientError::from).unwrap();
        assert!(error.to_string().starts_with("librdkafka refuses sasl.mechanism.x: "), "{error}");
        assert!(!error.to_string().contains("secret"));
    }
}
