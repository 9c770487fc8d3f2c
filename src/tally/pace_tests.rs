//! Pace, limit of keys and times of the tally stage. They need no clock: a period of an hour never ends during a test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Config, Key, MAX_PENDING_BYTES, Stats, TallyInput, run};
use tallycast_fanout::inbox;
use tallycast_fanout::{Data, Message, Messages, Namespace, Publisher};

const NEVER: Duration = Duration::from_secs(3600);

/// A running stage, whose inbox has room for one input. The hub has room for all messages of a test.
struct Stage {
    keys: inbox::Sender<TallyInput>,
    messages: Messages,
    stats: Arc<Stats>,
}

impl Stage {
    fn start(config: Config) -> Self {
        let (keys, inbox) = inbox::channel(1, usize::MAX);
        let (hub, messages) = Publisher::detached(64);
        let stats = Arc::<Stats>::default();
        tokio::spawn(run(config, inbox, hub, Arc::clone(&stats)));
        Self { keys, messages, stats }
    }

    /// Lets the stage do everything that it can do without waiting: it is the only other task.
    async fn settle(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    /// Counts a key, and lets the stage take it.
    async fn count(&self, key: Key) {
        self.keys.try_send(TallyInput::Key(key)).unwrap();
        self.settle().await;
    }

    /// How many keys were counted, and how many wait in the inbox.
    fn counted_and_waiting(&self) -> (u64, usize) {
        (self.stats.counted.get(), self.keys.downgrade().depth().len)
    }

    /// Closes the inbox, and receives all messages.
    async fn finish(mut self) -> Vec<Message> {
        drop(self.keys);
        let mut received = Vec::new();
        while let Some(message) = self.messages.recv().await {
            received.push(message);
        }
        received
    }
}

fn key(number: usize) -> Key {
    Key { namespace: Namespace::root(), key: format!("k{number}"), received_at: Instant::now() }
}

/// The counts of the tallies in `messages`.
fn sums(messages: &[Message]) -> Vec<i64> {
    let tally = |message: &Message| match &message.data {
        Data::Tally(tally) => tally.total(),
        other => panic!("not a tally: {other:?}"),
    };
    messages.iter().map(tally).collect()
}

#[tokio::test]
async fn one_flush_is_sent_in_each_period() {
    let stage = Stage::start(Config { period: NEVER, max_keys: 100 });
    stage.count(key(0)).await;
    assert_eq!(stage.stats.flushes.get(), 1);
    for number in 1..=50 {
        stage.count(key(number % 10)).await;
    }
    assert_eq!((stage.stats.flushes.get(), stage.stats.counted.get(), stage.stats.sent.get()), (1, 51, 1));
    // The end of the input ends the period.
    assert_eq!(sums(&stage.finish().await), [1, 50]);
}

#[tokio::test]
async fn without_a_period_each_input_is_flushed() {
    let stage = Stage::start(Config { period: Duration::ZERO, max_keys: 100 });
    for number in 0..10 {
        stage.count(key(number)).await;
    }
    assert_eq!(stage.stats.flushes.get(), 10);
    assert_eq!(sums(&stage.finish().await), [1; 10]);
}

#[tokio::test]
async fn counting_waits_for_the_flush_at_the_limit_of_keys() {
    let stage = Stage::start(Config { period: NEVER, max_keys: 3 });
    stage.count(key(0)).await;
    for number in [1, 2, 2, 2, 3] {
        stage.count(key(number)).await;
    }
    assert_eq!(stage.counted_and_waiting(), (6, 0));
    // This one stays in the inbox, although it would not add a key.
    stage.count(key(3)).await;
    assert_eq!(stage.counted_and_waiting(), (6, 1));
    assert_eq!(stage.stats.flushes.get(), 1);
}

#[tokio::test]
async fn limit_of_keys_counts_all_namespaces() {
    let stage = Stage::start(Config { period: NEVER, max_keys: 3 });
    stage.count(key(0)).await;
    for namespace in ["/a", "/b", "/c"] {
        stage.count(Key { namespace: namespace.parse().unwrap(), ..key(1) }).await;
    }
    stage.count(key(1)).await;
    assert_eq!(stage.counted_and_waiting(), (4, 1));
}

#[tokio::test]
async fn counting_waits_for_the_flush_at_the_limit_of_bytes() {
    let stage = Stage::start(Config { period: NEVER, max_keys: 100 });
    stage.count(key(0)).await;
    for namespace in ["/a", "/b"] {
        let key = "k".repeat(MAX_PENDING_BYTES / 2);
        stage.count(Key { namespace: namespace.parse().unwrap(), key, ..self::key(0) }).await;
    }
    stage.count(key(1)).await;
    assert_eq!(stage.counted_and_waiting(), (3, 1));
}

#[tokio::test]
async fn tally_has_the_time_of_its_oldest_event() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let stage = Stage::start(Config { period: NEVER, max_keys: 100 });
    stage.count(Key { received_at: at(1), ..key(0) }).await;
    for millis in 2..=5 {
        stage.count(Key { received_at: at(millis), ..key(0) }).await;
    }
    stage.count(Key { namespace: "/other".parse().unwrap(), received_at: at(6), ..key(0) }).await;
    let received = stage.finish().await;
    let times: Vec<Instant> = received.iter().map(|message| message.received_at).collect();
    assert_eq!((times, sums(&received)), (vec![at(1), at(2), at(6)], vec![1, 4, 1]));
}

#[tokio::test]
async fn statistics_have_keys_and_counts_of_each_tally() {
    let stage = Stage::start(Config { period: NEVER, max_keys: 100 });
    stage.count(key(0)).await;
    for number in [1, 2, 2] {
        stage.count(key(number)).await;
    }
    let stats = Arc::clone(&stage.stats);
    stage.finish().await;
    let tallies: u64 = stats.flush_keys.buckets().map(|(_, tallies)| tallies).sum();
    assert_eq!((stats.flushes.get(), stats.sent.get(), tallies, stats.flush_keys.sum()), (2, 4, 2, 3.0));
}

#[test]
fn default_pace_is_one_flush_per_frame_of_a_display() {
    assert_eq!(Config::default(), Config { period: Duration::from_millis(17), max_keys: 65_536 });
}
