//! Stage 3: keys -> at most one message a period. What is counted is never dropped: it is sent, or still counted.
//!
//! Totals that a source tells pass through here, because only here it is known what they count that is not yet sent.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::mpsc;

use tallycast_fanout::{Counter, Histogram, Message, Namespace, Publisher, Tally};

/// Keys taken from the inbox at once.
const BATCH: usize = 1024;

/// What the stage may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// At most one flush in this time.
    pub period: Duration,
    /// Different keys counted between two flushes; at that number counting waits for the flush.
    pub max_keys: usize,
}

/// What the stage takes in.
#[derive(Debug)]
pub enum Item {
    /// Something to count.
    Key(Key),
    /// What all keys before this one, and none after it, add up to.
    Totals {
        /// Whose tallies.
        namespace: Namespace,
        /// The sums.
        totals: Tally,
    },
}

/// A key to count, and the namespace whose tally it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Where the tally is sent.
    pub namespace: Namespace,
    /// What is counted.
    pub key: String,
    /// When the event came in.
    pub received_at: Instant,
}

/// What the stage counts. All only grow.
#[derive(Debug)]
pub struct Stats {
    /// Keys counted.
    pub counted: Counter,
    /// The sum of all counts in the tallies sent.
    pub sent: Counter,
    /// Tallies sent.
    pub flushes: Counter,
    /// How many different keys the tallies had.
    pub flush_keys: Histogram,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            counted: Counter::default(),
            sent: Counter::default(),
            flushes: Counter::default(),
            flush_keys: Histogram::new(&[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 1e4, 1e5]),
        }
    }
}

/// What is to be sent at the next flush.
#[derive(Debug, Default)]
struct Pending {
    /// A tally for each namespace, and when its oldest event came in; those without counts are not there.
    tallies: BTreeMap<Namespace, (Instant, Tally)>,
    /// Totals without what `tallies` counted before they came, which readers get with the tallies.
    totals: BTreeMap<Namespace, Tally>,
}

impl Pending {
    fn take_in(&mut self, items: &mut Vec<Item>, stats: &Stats) {
        for item in items.drain(..) {
            match item {
                Item::Key(Key { namespace, key, received_at }) => {
                    stats.counted.add(1);
                    self.tallies.entry(namespace).or_insert_with(|| (received_at, Tally::default())).1.count(key);
                }
                Item::Totals { namespace, mut totals } => {
                    if let Some((_, unsent)) = self.tallies.get(&namespace) {
                        totals.subtract(unsent);
                    }
                    self.totals.insert(namespace, totals);
                }
            }
        }
    }

    fn keys(&self) -> usize {
        self.tallies.values().map(|(_, tally)| tally.len()).sum()
    }

    /// Sends all there is, totals first. `false`: the hub is gone.
    async fn flush(&mut self, hub: &Publisher, stats: &Stats) -> bool {
        for (namespace, totals) in std::mem::take(&mut self.totals) {
            if hub.send(Message::totals(namespace, totals)).await.is_err() {
                return false;
            }
        }
        for (namespace, (received_at, tally)) in std::mem::take(&mut self.tallies) {
            let (total, keys) = (tally.total(), tally.len());
            if hub.send(Message { received_at, ..Message::tally(namespace, tally) }).await.is_err() {
                return false;
            }
            stats.sent.add(total.unsigned_abs());
            stats.flushes.add(1);
            stats.flush_keys.observe(keys as f64);
        }
        true
    }
}

/// What happened while there was something to flush.
enum Happened {
    Items(usize),
    /// The period is over and the hub has room.
    Turn,
}

/// Counts what comes in `inbox` until that ends; then flushes what is left and ends.
pub async fn run(config: Config, mut inbox: mpsc::Receiver<Item>, hub: Publisher, stats: Arc<Stats>) {
    let pace = pace(config.period);
    let mut items = Vec::with_capacity(BATCH);
    let mut pending = Pending::default();
    // With nothing to send there is nothing to wait for but more.
    while inbox.recv_many(&mut items, BATCH).await > 0 {
        pending.take_in(&mut items, &stats);
        if !pending.tallies.is_empty() {
            wait_for_turn(&config, pace.as_ref(), &mut pending, &mut inbox, &hub, &stats).await;
        }
        if !pending.flush(&hub, &stats).await {
            return;
        }
    }
}

/// Goes on counting until the period is over and the hub has room, or until no more is coming: the last flush need not
/// wait for its turn.
async fn wait_for_turn(
    config: &Config,
    pace: Option<&DefaultDirectRateLimiter>,
    pending: &mut Pending,
    inbox: &mut mpsc::Receiver<Item>,
    hub: &Publisher,
    stats: &Stats,
) {
    let mut items = Vec::with_capacity(BATCH);
    // Its place in the queue for room is given up when this returns; kept longer, it would keep out the flush itself.
    let mut turn = pin!(async {
        if let Some(pace) = pace {
            pace.until_ready().await;
        }
        // Only waited for: with several namespaces one place is not enough. A hub that is gone has room too.
        hub.ready().await;
    });
    loop {
        let happened = tokio::select! {
            () = &mut turn => Happened::Turn,
            count = inbox.recv_many(&mut items, BATCH), if pending.keys() < config.max_keys => Happened::Items(count),
        };
        match happened {
            Happened::Turn | Happened::Items(0) => return,
            Happened::Items(_) => pending.take_in(&mut items, stats),
        }
    }
}

/// One flush a period.
fn pace(period: Duration) -> Option<DefaultDirectRateLimiter> {
    Quota::with_period(period).map(RateLimiter::direct)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use tallycast_fanout::{Data, Messages};

    /// What a test does next.
    #[derive(Debug, Clone)]
    enum Step {
        Count(u8),
        /// Tells what all counted so far adds up to.
        Tell,
        /// Lets time pass and the hub take a message.
        Take,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        proptest::collection::vec(
            prop_oneof![8 => (0..6_u8).prop_map(Step::Count), 1 => Just(Step::Tell), 2 => Just(Step::Take)],
            0..80,
        )
    }

    fn key(number: u8) -> Key {
        // Two namespaces, so that a flush is more than one message.
        let namespace = if number < 4 { "/eps" } else { "/other" };
        Key { namespace: namespace.parse().unwrap(), key: format!("k{number}"), received_at: Instant::now() }
    }

    /// Sends `item`. A stage that waits for the hub is helped by taking what the hub has.
    async fn send(keys: &mpsc::Sender<Item>, item: Item, messages: &mut Messages, received: &mut Vec<Message>) {
        let mut sending = pin!(keys.send(item));
        loop {
            tokio::select! {
                sent = &mut sending => break sent.unwrap(),
                message = messages.recv() => received.extend(message),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever the order of keys, ticks and a hub that is slow, and however few keys a tally may hold: what goes in
        /// comes out, and no tally is empty.
        #[test]
        fn sums_are_conserved(steps in steps(), max_keys in 1..5_usize) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (keys, inbox) = mpsc::channel(2);
                let (hub, mut messages) = Publisher::detached(1);
                let stats = Arc::<Stats>::default();
                let config = Config { period: Duration::from_millis(1), max_keys };
                let stage = tokio::spawn(run(config, inbox, hub, Arc::clone(&stats)));
                let (mut expected, mut received) = (HashMap::new(), Vec::new());
                for step in steps {
                    match step {
                        Step::Count(number) => {
                            let key = key(number);
                            *expected.entry((key.namespace.clone(), key.key.clone())).or_insert(0_i64) += 1;
                            send(&keys, Item::Key(key), &mut messages, &mut received).await;
                        }
                        Step::Tell => {
                            let namespace: Namespace = "/eps".parse().unwrap();
                            let of_namespace = expected.iter().filter(|((of, _), _)| *of == namespace);
                            let totals = of_namespace.map(|((_, key), count): (&(Namespace, String), &i64)| (key.clone(), *count)).collect();
                            send(&keys, Item::Totals { namespace, totals }, &mut messages, &mut received).await;
                        }

                        Step::Take => {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                            received.extend(messages.try_recv());
                        }
                    }
                }
                drop(keys);
                while let Some(message) = messages.recv().await {
                    received.push(message);
                }
                stage.await.unwrap();
                let mut sums = HashMap::new();
                for message in received {
                    let tally = match &message.data {
                        Data::Tally(tally) => tally,
                        // Exactly what was sent so far.
                        Data::Totals(totals) => {
                            let mut totals = Tally::clone(totals);
                            totals.drop_zeros();
                            let sent = sums.iter().filter(|((of, _), _)| *of == message.namespace);
                            assert_eq!(totals, sent.map(|((_, key), count): (&(Namespace, String), &i64)| (key.clone(), *count)).collect());
                            continue;
                        }
                        Data::Text(_) => panic!("neither tally nor totals: {message:?}"),
                    };
                    assert!(!tally.is_empty());
                    for (key, count) in tally.iter() {
                        *sums.entry((message.namespace.clone(), key.to_owned())).or_insert(0) += count;
                    }
                }
                assert_eq!(stats.counted.get(), stats.sent.get());
                assert_eq!(sums, expected);
            });
        }
    }
}
