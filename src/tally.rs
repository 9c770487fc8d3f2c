//! Stage 3: keys -> at most one message in each period. A count is never dropped: it is sent, or still pending.
//!
//! The totals of a source pass through this stage, because only it knows which of the counts in them are not sent yet.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use tallycast_fanout::inbox::{self, Weight};
use tallycast_fanout::{Counter, Data, Histogram, Message, Namespace, Publisher, Tally, TotalsState};

use crate::totals::TotalsSnapshot;
use crate::trace::{Trace, follow_tally};

/// Inputs taken from the inbox at once.
const BATCH: usize = 1024;

/// The memory of the keys between two flushes, in bytes, roughly. Counting then waits for the flush.
const MAX_PENDING_BYTES: usize = 8 * 1024 * 1024;

/// The pace and the bounds of the stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The shortest time between two flushes.
    pub period: Duration,
    /// The largest number of different keys between two flushes. Counting then waits for the flush.
    pub max_keys: usize,
}

impl Default for Config {
    /// About 60 flushes a second, of up to 65,536 keys.
    fn default() -> Self {
        Self { period: Duration::from_millis(17), max_keys: 65_536 }
    }
}

/// Traced keys between two flushes. Of more, the traces end without this stage.
const MAX_TRACED: usize = 64;

/// What the stage takes in.
#[derive(Debug)]
pub enum TallyInput {
    /// A key to count.
    Key(Key),
    /// A key to count, of an event that is traced.
    Traced(Key, Arc<Trace>),
    /// The sum of all keys before it.
    Totals(TotalsSnapshot),
    /// Whether the totals of a namespace are known from here on.
    TotalsState {
        /// The namespace.
        namespace: Namespace,
        /// Whether they are, or why not.
        state: TotalsState,
    },
}

impl Weight for TallyInput {
    fn weight(&self) -> usize {
        let owned = match self {
            Self::Key(key) | Self::Traced(key, _) => key.key.capacity(),
            Self::Totals(snapshot) => snapshot.totals.weight(),
            // A short reason.
            Self::TotalsState { .. } => 0,
        };
        size_of::<Self>() + owned
    }
}

/// A key to count, and the namespace whose tally it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The namespace that the tally is sent to.
    pub namespace: Namespace,
    /// The key to count.
    pub key: String,
    /// When the event was received.
    pub received_at: Instant,
}

/// What the stage counts. Counters only grow.
#[derive(Debug)]
pub struct Stats {
    /// Keys counted.
    pub counted: Counter,
    /// The sum of all counts in sent tallies.
    pub sent: Counter,
    /// Tallies sent.
    pub flushes: Counter,
    /// The number of different keys in each tally.
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

/// What the next flush sends.
#[derive(Debug, Default)]
struct Pending {
    /// The tally of each namespace that has counts, and when its oldest event was received.
    tallies: BTreeMap<Namespace, (Instant, Tally)>,
    /// The newest totals of each namespace, without the counts that `tallies` had when they arrived, because readers receive
    /// those as tallies; and its newest state after them.
    reports: Vec<Message>,
    /// The traces of events that are in the tallies.
    traces: Vec<(Namespace, Arc<Trace>)>,
}

impl Pending {
    fn add(&mut self, inputs: &mut Vec<TallyInput>, stats: &Stats) {
        for input in inputs.drain(..) {
            match input {
                TallyInput::Key(key) => self.count(key, stats),
                TallyInput::Traced(key, trace) => {
                    if self.traces.len() < MAX_TRACED {
                        self.traces.push((key.namespace.clone(), trace));
                    }
                    self.count(key, stats);
                }
                TallyInput::Totals(TotalsSnapshot { namespace, mut totals }) => {
                    if let Some((_, unsent)) = self.tallies.get(&namespace) {
                        totals.subtract(unsent);
                    }
                    self.reports.retain(|report| report.namespace != namespace);
                    self.reports.push(Message::totals(namespace, totals));
                }
                TallyInput::TotalsState { namespace, state } => {
                    let is_totals = |report: &Message| matches!(report.data, Data::Totals(_));
                    self.reports.retain(|report| report.namespace != namespace || is_totals(report));
                    self.reports.push(Message::totals_state(namespace, state));
                }
            }
        }
    }

    fn count(&mut self, Key { namespace, key, received_at }: Key, stats: &Stats) {
        stats.counted.add(1);
        self.tallies.entry(namespace).or_insert_with(|| (received_at, Tally::default())).1.count(key);
    }

    fn keys(&self) -> usize {
        self.tallies.values().map(|(_, tally)| tally.len()).sum()
    }

    /// Whether more may be counted before the next flush.
    fn has_room(&self, max_keys: usize) -> bool {
        let bytes: usize = self.tallies.values().map(|(_, tally)| tally.weight()).sum();
        self.keys() < max_keys && bytes < MAX_PENDING_BYTES
    }

    /// Sends everything, reports first. Returns `false` if the hub is gone.
    async fn flush(&mut self, hub: &Publisher, stats: &Stats) -> bool {
        for report in std::mem::take(&mut self.reports) {
            if hub.send(report).await.is_err() {
                return false;
            }
        }
        for (namespace, (received_at, tally)) in std::mem::take(&mut self.tallies) {
            let (total, keys) = (tally.total(), tally.len());
            let traces: Vec<_> =
                self.traces.extract_if(.., |(of, _)| *of == namespace).map(|(_, trace)| trace).collect();
            let probe = (!traces.is_empty()).then(|| follow_tally(traces, &namespace));
            if hub.send(Message { received_at, probe, ..Message::tally(namespace, tally) }).await.is_err() {
                return false;
            }
            stats.sent.add(total.unsigned_abs());
            stats.flushes.add(1);
            stats.flush_keys.observe(keys as f64);
        }
        true
    }
}

/// Why the loop woke while a flush was pending.
enum LoopEvent {
    Inputs(usize),
    /// The period is over and the hub has room.
    FlushDue,
}

/// Counts the keys of `inbox` until it closes, then flushes the rest.
pub async fn run(config: Config, mut inbox: inbox::Receiver<TallyInput>, hub: Publisher, stats: Arc<Stats>) {
    let pace = pace(config.period);
    let mut inputs = Vec::with_capacity(BATCH);
    let mut pending = Pending::default();
    while inbox.recv_many(&mut inputs, BATCH).await > 0 {
        pending.add(&mut inputs, &stats);
        if !pending.tallies.is_empty() {
            wait_for_flush(&config, pace.as_ref(), &mut pending, &mut inbox, &hub, &stats).await;
        }
        if !pending.flush(&hub, &stats).await {
            return;
        }
    }
}

/// Keeps counting until the period is over and the hub has room, or until the inbox closes: the last flush need not wait.
async fn wait_for_flush(
    config: &Config,
    pace: Option<&DefaultDirectRateLimiter>,
    pending: &mut Pending,
    inbox: &mut inbox::Receiver<TallyInput>,
    hub: &Publisher,
    stats: &Stats,
) {
    let mut inputs = Vec::with_capacity(BATCH);
    // Dropped when this function returns: its place in the queue for room would otherwise block the flush itself.
    let mut flush_due = pin!(async {
        if let Some(pace) = pace {
            pace.until_ready().await;
        }
        hub.ready().await;
    });
    loop {
        let event = tokio::select! {
            () = &mut flush_due => LoopEvent::FlushDue,
            count = inbox.recv_many(&mut inputs, BATCH), if pending.has_room(config.max_keys) => LoopEvent::Inputs(count),
        };
        match event {
            LoopEvent::FlushDue | LoopEvent::Inputs(0) => return,
            LoopEvent::Inputs(_) => pending.add(&mut inputs, stats),
        }
    }
}

/// One flush in each period; `None` for a period of zero.
fn pace(period: Duration) -> Option<DefaultDirectRateLimiter> {
    Quota::with_period(period).map(RateLimiter::direct)
}

#[cfg(test)]
mod pace_tests;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use tallycast_fanout::Messages;

    /// One step of a test.
    #[derive(Debug, Clone)]
    enum Step {
        Count(u8),
        /// Sends the totals of everything counted so far.
        Totals,
        /// Lets time pass, and lets the hub take a message.
        Receive,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        proptest::collection::vec(
            prop_oneof![8 => (0..6_u8).prop_map(Step::Count), 1 => Just(Step::Totals), 2 => Just(Step::Receive)],
            0..80,
        )
    }

    fn key(number: u8) -> Key {
        // Two namespaces, so that a flush sends more than one message.
        let namespace = if number < 4 { "/eps" } else { "/other" };
        Key { namespace: namespace.parse().unwrap(), key: format!("k{number}"), received_at: Instant::now() }
    }

    #[tokio::test]
    async fn newest_totals_and_the_state_after_them_are_sent() {
        let namespace: Namespace = "/eps".parse().unwrap();
        let totals = |count: i64| [("a".to_owned(), count)].into_iter().collect::<Tally>();
        let report = |count| TallyInput::Totals(TotalsSnapshot { namespace: namespace.clone(), totals: totals(count) });
        let state =
            |state: &TotalsState| TallyInput::TotalsState { namespace: namespace.clone(), state: state.clone() };
        let gone = TotalsState::Unavailable("gone".into());
        let other = TallyInput::TotalsState { namespace: "/other".parse().unwrap(), state: gone.clone() };
        let (hub, mut messages) = Publisher::detached(8);
        let (mut pending, stats) = (Pending::default(), Stats::default());
        let mut inputs =
            vec![report(1), state(&gone), other, report(2), state(&gone), state(&TotalsState::Known), state(&gone)];
        pending.add(&mut inputs, &stats);
        assert!(pending.flush(&hub, &stats).await);
        let sent: Vec<Message> = std::iter::from_fn(|| messages.try_recv()).collect();
        let expected = [
            Message::totals_state("/other".parse().unwrap(), gone.clone()),
            Message::totals(namespace.clone(), totals(2)),
            Message::totals_state(namespace.clone(), gone),
        ];
        assert_eq!(sent, expected);
    }

    /// Sends `input`, and receives meanwhile, because the stage may wait for the hub.
    async fn send(
        keys: &inbox::Sender<TallyInput>,
        input: TallyInput,
        messages: &mut Messages,
        received: &mut Vec<Message>,
    ) {
        let mut sending = pin!(keys.send(input));
        loop {
            tokio::select! {
                sent = &mut sending => break sent.unwrap(),
                message = messages.recv() => received.extend(message),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// For any order of keys, ticks and a slow hub, and any limit of keys: every count is sent, and no tally is empty.
        #[test]
        fn sums_are_conserved(steps in steps(), max_keys in 1..5_usize) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (keys, inbox) = inbox::channel(2, usize::MAX);
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
                            send(&keys, TallyInput::Key(key), &mut messages, &mut received).await;
                        }
                        Step::Totals => {
                            let namespace: Namespace = "/eps".parse().unwrap();
                            let of_namespace = expected.iter().filter(|((of, _), _)| *of == namespace);
                            let totals = of_namespace.map(|((_, key), count): (&(Namespace, String), &i64)| (key.clone(), *count)).collect();
                            let snapshot = TotalsSnapshot { namespace, totals };
                            send(&keys, TallyInput::Totals(snapshot), &mut messages, &mut received).await;
                        }
                        Step::Receive => {
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
                        // Exactly the counts sent so far.
                        Data::Totals(totals) => {
                            let mut totals = Tally::clone(totals);
                            totals.drop_zeros();
                            let sent = sums.iter().filter(|((of, _), _)| *of == message.namespace);
                            assert_eq!(totals, sent.map(|((_, key), count): (&(Namespace, String), &i64)| (key.clone(), *count)).collect());
                            continue;
                        }
                        Data::Text(_) | Data::TotalsState(_) | Data::Reset(_) => panic!("neither tally nor totals: {message:?}"),
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
