//! Stage 3: keys -> at most one message a period. What is counted is never dropped: it is sent, or still counted.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::mpsc;

use crate::fanout::{Counter, Message, Namespace, Tally};

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

/// A key to count, and the namespace whose tally it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Where the tally is sent.
    pub namespace: Namespace,
    /// What is counted.
    pub key: String,
}

/// What the stage counts. All only grow.
#[derive(Debug, Default)]
pub struct Stats {
    /// Keys counted.
    pub counted: Counter,
    /// The sum of all counts in the tallies sent.
    pub sent: Counter,
    /// Tallies sent.
    pub flushes: Counter,
}

/// A tally for each namespace; those without counts are not there.
#[derive(Debug, Default)]
struct Tallies(BTreeMap<Namespace, Tally>);

impl Tallies {
    fn take_in(&mut self, keys: &mut Vec<Key>, stats: &Stats) {
        stats.counted.add(keys.len() as u64);
        for Key { namespace, key } in keys.drain(..) {
            self.0.entry(namespace).or_default().count(key);
        }
    }

    fn keys(&self) -> usize {
        self.0.values().map(Tally::len).sum()
    }
}

/// What happened while there was something to flush.
enum Happened {
    Keys(usize),
    /// The period is over and the hub has room.
    Turn,
}

/// Counts what comes in `inbox` until that ends; then flushes what is left and ends.
pub async fn run(config: Config, mut inbox: mpsc::Receiver<Key>, hub: mpsc::Sender<Message>, stats: Arc<Stats>) {
    let pace = pace(config.period);
    let mut keys = Vec::with_capacity(BATCH);
    let mut tallies = Tallies::default();
    // With nothing counted there is nothing to wait for but keys.
    while inbox.recv_many(&mut keys, BATCH).await > 0 {
        tallies.take_in(&mut keys, &stats);
        wait_for_turn(&config, pace.as_ref(), &mut tallies, &mut inbox, &hub, &stats).await;
        for (namespace, tally) in std::mem::take(&mut tallies.0) {
            let total = tally.total();
            if hub.send(Message::tally(namespace, tally)).await.is_err() {
                return;
            }
            stats.sent.add(total);
            stats.flushes.add(1);
        }
    }
}

/// Goes on counting until the period is over and the hub has room, or until no more is coming: the last flush need not
/// wait for its turn.
async fn wait_for_turn(
    config: &Config,
    pace: Option<&DefaultDirectRateLimiter>,
    tallies: &mut Tallies,
    inbox: &mut mpsc::Receiver<Key>,
    hub: &mpsc::Sender<Message>,
    stats: &Stats,
) {
    let mut keys = Vec::with_capacity(BATCH);
    // Its place in the queue for room is given up when this returns; kept longer, it would keep out the flush itself.
    let mut turn = pin!(async {
        if let Some(pace) = pace {
            pace.until_ready().await;
        }
        // Only waited for: with several namespaces one place is not enough. A hub that is gone has room too.
        drop(hub.reserve().await);
    });
    loop {
        let happened = tokio::select! {
            () = &mut turn => Happened::Turn,
            count = inbox.recv_many(&mut keys, BATCH), if tallies.keys() < config.max_keys => Happened::Keys(count),
        };
        match happened {
            Happened::Turn | Happened::Keys(0) => return,
            Happened::Keys(_) => tallies.take_in(&mut keys, stats),
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
    use crate::fanout::Data;

    /// What a test does next.
    #[derive(Debug, Clone)]
    enum Step {
        Count(u8),
        /// Lets time pass and the hub take a message.
        Take,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        proptest::collection::vec(prop_oneof![4 => (0..6_u8).prop_map(Step::Count), 1 => Just(Step::Take)], 0..80)
    }

    fn key(number: u8) -> Key {
        // Two namespaces, so that a flush is more than one message.
        let namespace = if number < 4 { "/eps" } else { "/other" };
        Key { namespace: namespace.parse().unwrap(), key: format!("k{number}") }
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
                let (hub, mut messages) = mpsc::channel(1);
                let stats = Arc::<Stats>::default();
                let config = Config { period: Duration::from_millis(1), max_keys };
                let stage = tokio::spawn(run(config, inbox, hub, Arc::clone(&stats)));
                let (mut expected, mut received) = (HashMap::new(), Vec::new());
                for step in steps {
                    match step {
                        Step::Count(number) => {
                            let key = key(number);
                            *expected.entry((key.namespace.clone(), key.key.clone())).or_insert(0_u64) += 1;
                            let mut sending = pin!(keys.send(key));
                            // A stage that waits for the hub is helped by taking what the hub has.
                            loop {
                                tokio::select! {
                                    sent = &mut sending => break sent.unwrap(),
                                    message = messages.recv() => received.extend(message),
                                }
                            }
                        }
                        Step::Take => {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                            received.extend(messages.try_recv().ok());
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
                    let Data::Tally(tally) = &message.data else { panic!("not a tally: {message:?}") };
                    assert!(!tally.is_empty());
                    let counts: HashMap<String, u64> = serde_json::from_str(&tally.to_json()).unwrap();
                    for (key, count) in counts {
                        *sums.entry((message.namespace.clone(), key)).or_insert(0) += count;
                    }
                }
                assert_eq!(stats.counted.get(), stats.sent.get());
                assert_eq!(sums, expected);
            });
        }
    }
}
