//! Reads the totals: runs the script when a reading is due, and waits until its message has arrived among the events.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use redis::RedisError;
use tallycast_fanout::{TotalsState, inbox};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use super::message::{Members, ScriptMessage, Status};
use super::{TotalsKey, TotalsSnapshot};
use crate::redis_client::{RedisClient, slot};
use crate::source::SourceEvent;

/// The channels of the messages, as a Redis access control list names them.
pub(crate) const CHANNELS: &str = "tallycast.cut.*";
/// The longest time between two readings while a sorted set does not exist, so that a new one is soon noticed.
const ABSENT_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest time between two readings: while events overflow, each would be outdated at once.
const PACE: Duration = Duration::from_secs(1);
/// Pauses after failed readings double from the first of these to the second; jitter at most doubles them again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Time for the message of a reading to arrive.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(5);
/// Time without a reading although one is due, after which the totals are unavailable.
const STALE_AFTER: Duration = Duration::from_secs(10);
/// Readings, one after the other, that each ended the subscription. Then the totals are unavailable: Redis disconnects a
/// subscriber whose backlog exceeds `client-output-buffer-limit`, and every reconnection loses events.
const MAX_LOST_SUBSCRIPTIONS: u32 = 3;
/// The pause after so many.
const LOST_SUBSCRIPTIONS_PAUSE: Duration = Duration::from_secs(600);

const SCRIPT: &str = include_str!("read.lua");

/// What to read, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The sorted sets.
    pub keys: Vec<TotalsKey>,
    /// The largest number of members of each. A larger set is not read.
    pub max_members: usize,
    /// The largest size of a message with the members and scores of a sorted set, in bytes. A larger set is not read.
    pub max_bytes: usize,
    /// The longest time between two readings, in addition to those after a lost event or subscription.
    pub interval: Duration,
}

impl Default for Config {
    /// No sorted sets.
    fn default() -> Self {
        let tallycast_fanout::Config { max_totals, max_totals_bytes, .. } = tallycast_fanout::Config::default();
        Self {
            keys: Vec::new(),
            max_members: max_totals,
            max_bytes: max_totals_bytes,
            interval: Duration::from_secs(30),
        }
    }
}

/// Reads the totals. Clones share their state.
#[derive(Debug, Clone)]
pub(crate) struct TotalsReader(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: RedisClient,
    config: Config,
    /// Random, so that no other process receives this one's totals.
    channel: String,
    sets: Vec<SortedSet>,
    /// The number of the newest reading or marker.
    numbers: AtomicU64,
    /// Held by the reading that is under way, so that a subscription that it ends is not blamed on others.
    turn: tokio::sync::Mutex<()>,
}

/// What is known of a sorted set.
#[derive(Debug, Default)]
struct SortedSet {
    /// Notified when the totals may differ from what was counted.
    requested: Notify,
    state: Mutex<SetState>,
}

#[derive(Debug, Default)]
struct SetState {
    existence: Existence,
    /// The last report was that the totals are unavailable.
    unavailable: bool,
    /// The reading that is under way, and where its outcome is expected. Dropped when the subscription ends.
    pending: Option<(u64, oneshot::Sender<Outcome>)>,
}

/// Whether a sorted set exists. One that never did is no authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Existence {
    /// Not read yet.
    #[default]
    Unknown,
    /// Read, but never there.
    Absent,
    /// There, now or at an earlier reading.
    Present,
}

/// What became of the message of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is among the events.
    Emitted,
    /// There was no room for it.
    Dropped,
}

/// A message of the script, decoded.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The index of the sorted set.
    set: usize,
    number: u64,
    existence: Existence,
    /// What it says, if that is new.
    pub(crate) event: Option<SourceEvent>,
    /// Members that are left out because they are not UTF-8.
    pub(crate) skipped: u64,
    /// The totals could not be read.
    pub(crate) unavailable: bool,
}

/// Why a reading failed.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("the process is not subscribed to {CHANNELS}")]
    NotSubscribed,
    #[error("the subscription ended before the totals arrived")]
    SubscriptionLost,
    #[error("the totals did not arrive within {ARRIVAL_LIMIT:?}")]
    TimedOut,
    #[error("the totals arrived while the inbox was full")]
    Dropped,
}

impl TotalsReader {
    pub(crate) fn new(config: Config, client: RedisClient) -> Self {
        // The keys of a hasher are random for each instance.
        let random = || RandomState::new().hash_one(std::process::id());
        let name = format!("{:016x}{:016x}", random(), random());
        // In a cluster, what is published here goes through the node that has the sorted sets.
        let name = match config.keys.first().filter(|_| client.is_cluster()) {
            Some(TotalsKey { key, .. }) => format!("{{{}}}{name}", slot::tag_of(key)),
            None => name,
        };
        Self(Arc::new(Shared {
            client,
            channel: CHANNELS.replace('*', &name),
            sets: config.keys.iter().map(|_| SortedSet::default()).collect(),
            config,
            numbers: AtomicU64::new(0),
            turn: tokio::sync::Mutex::new(()),
        }))
    }

    /// The channel that this process's totals are published on.
    pub(crate) fn channel(&self) -> &str {
        &self.0.channel
    }

    /// Asks for readings as soon as possible: after a new or changed subscription, or a lost event.
    pub(crate) fn request(&self) {
        self.0.sets.iter().for_each(|set| set.requested.notify_one());
    }

    /// Reports that the subscription has ended: events are being lost, and the message of a reading that is under way is too.
    pub(crate) fn subscription_lost(&self) {
        // The sorted sets are read where the next subscription will be.
        self.0.client.give_up();
        self.0.sets.iter().for_each(|set| set.state().pending = None);
        self.request();
    }

    /// A new text, other than any message of the script, that the subscriber of [`channel`](Self::channel) recognises.
    pub(crate) fn marker(&self) -> String {
        format!("marker {}", self.0.numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// Publishes a marker on [`channel`](Self::channel). Returns the number of subscribers that it reached.
    ///
    /// # Errors
    /// As [`RedisClient::query`].
    pub(crate) async fn publish(&self, marker: &str) -> Result<u64, RedisError> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(&self.0.channel).arg(marker);
        self.0.client.query(&command).await
    }

    /// Tasks that read a sorted set each, when requested or due, until they are dropped. `inbox` receives what does not
    /// depend on a place among the events. The first reading waits for a request.
    pub(crate) fn tasks(
        &self,
        inbox: &inbox::Sender<SourceEvent>,
    ) -> impl Iterator<Item = impl Future<Output = ()> + use<>> {
        (0..self.0.sets.len()).map({
            let (shared, inbox) = (Arc::clone(&self.0), inbox.clone());
            move |set| Arc::clone(&shared).run(set, inbox.clone())
        })
    }

    /// Decodes a message of the script; `None` if it is invalid.
    pub(crate) fn decode(&self, payload: &[u8]) -> Option<Reading> {
        let ScriptMessage(number_of_set, number, status, Members { totals, skipped }) =
            serde_json::from_slice(payload).ok()?;
        let set = number_of_set.checked_sub(1)?;
        let Config { keys, max_members, max_bytes, .. } = &self.0.config;
        let namespace = keys.get(set)?.namespace.clone();
        let state = self.0.sets.get(set)?.state();
        let unavailable = match status {
            Status::Complete => None,
            Status::TooManyMembers => Some(format!("the sorted set has more than {max_members} members")),
            Status::TooManyBytes => Some(format!("the sorted set has more than {max_bytes} bytes")),
            Status::WrongType => Some("the key has a value that is not a sorted set".to_owned()),
        };
        // Redis has no sorted sets without members.
        let exists = unavailable.is_some() || !totals.is_empty() || state.existence == Existence::Present;
        let existence = if exists { Existence::Present } else { Existence::Absent };
        let is_unavailable = unavailable.is_some();
        let event = match (unavailable, state.existence) {
            (Some(reason), _) => {
                Some(SourceEvent::TotalsState { namespace, state: TotalsState::Unavailable(reason.into()) })
            }
            // The counts since the start of the process, as before.
            (None, Existence::Absent) if !exists => {
                state.unavailable.then_some(SourceEvent::TotalsState { namespace, state: TotalsState::Known })
            }
            (None, _) => Some(TotalsSnapshot { namespace, totals }.into()),
        };
        Some(Reading { set, number, existence, event, skipped, unavailable: is_unavailable })
    }

    /// Reports what became of a reading. Only one that was emitted counts.
    pub(crate) fn settle(&self, reading: &Reading, outcome: Outcome) {
        let Some(set) = self.0.sets.get(reading.set) else { return };
        let mut state = set.state();
        match outcome {
            Outcome::Emitted => {
                state.existence = reading.existence;
                state.unavailable = reading.unavailable;
            }
            Outcome::Dropped => set.requested.notify_one(),
        }
        if let Some((_, pending)) = state.pending.take_if(|(number, _)| *number == reading.number) {
            // Nothing waits for a reading that took too long.
            let _ = pending.send(outcome);
        }
    }
}

/// Whether a channel is one that an instance of tallycast publishes totals on. What comes there is never an event.
pub(crate) fn is_totals_channel(channel: &str) -> bool {
    channel.starts_with(CHANNELS.trim_end_matches('*'))
}

impl SortedSet {
    fn state(&self) -> MutexGuard<'_, SetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Reads a sorted set when requested or due.
    async fn run(self: Arc<Self>, number: usize, inbox: inbox::Sender<SourceEvent>) {
        let set = &self.sets[number];
        set.requested.notified().await;
        loop {
            self.read_until_success(number, &inbox).await;
            sleep(PACE).await;
            let is_absent = set.state().existence == Existence::Absent;
            let interval = self.config.interval;
            let interval = if is_absent { interval.min(ABSENT_INTERVAL) } else { interval };
            // Due after the interval, unless requested before.
            let _ = timeout(interval.saturating_sub(PACE), set.requested.notified()).await;
        }
    }

    /// Reads until it succeeds, and reports when that takes too long.
    async fn read_until_success(&self, number: usize, inbox: &inbox::Sender<SourceEvent>) {
        let mut success = std::pin::pin!(self.retry(number, inbox));
        if timeout(STALE_AFTER, &mut success).await.is_ok() {
            return;
        }
        self.report_unavailable(number, "the sorted set cannot be read", inbox).await;
        // A reading that arrived at this very moment may have been overtaken by the report.
        self.sets[number].requested.notify_one();
        success.await;
    }

    async fn retry(&self, number: usize, inbox: &inbox::Sender<SourceEvent>) {
        let set = &self.sets[number];
        let key = &self.config.keys[number].key;
        let mut backoff = backoff();
        let mut last_logged = String::new();
        let mut lost_subscriptions = 0;
        loop {
            let Err(error) = self.read(number).await else { return };
            let reason = error.to_string();
            if reason != last_logged {
                tracing::warn!(key, reason, "cannot read the totals; retrying");
                last_logged = reason;
            }
            let pause = backoff.next().unwrap_or(BACKOFF.1);
            if !matches!(error, ReadError::SubscriptionLost) {
                sleep(pause.min(PACE)).await;
                // A new subscription is worth an attempt.
                let _ = timeout(pause.saturating_sub(PACE), set.requested.notified()).await;
                continue;
            }
            lost_subscriptions += 1;
            if lost_subscriptions < MAX_LOST_SUBSCRIPTIONS {
                sleep(pause).await;
                continue;
            }
            let pause = LOST_SUBSCRIPTIONS_PAUSE;
            tracing::error!(
                key,
                ?pause,
                "Redis disconnects the subscriber when the totals are read; check its client-output-buffer-limit for pubsub"
            );
            self.report_unavailable(number, "reading the sorted set ends the subscription", inbox).await;
            sleep(pause).await;
        }
    }

    /// Runs the script once, and waits until its message is among the events.
    async fn read(&self, number: usize) -> Result<(), ReadError> {
        let Config { keys, max_members, max_bytes, .. } = &self.config;
        let _turn = self.turn.lock().await;
        let reading = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let (pending, outcome) = oneshot::channel();
        self.sets[number].state().pending = Some((reading, pending));
        let mut command = redis::cmd("EVAL");
        command.arg(SCRIPT).arg(1).arg(&keys[number].key);
        command.arg(&self.channel).arg(number + 1).arg(reading).arg(*max_members).arg(*max_bytes);
        let subscribers: u64 = self.client.query(&command).await?;
        if subscribers == 0 {
            return Err(ReadError::NotSubscribed);
        }
        match timeout(ARRIVAL_LIMIT, outcome).await {
            Ok(Ok(Outcome::Emitted)) => Ok(()),
            Ok(Ok(Outcome::Dropped)) => Err(ReadError::Dropped),
            Ok(Err(_)) => Err(ReadError::SubscriptionLost),
            Err(_) => Err(ReadError::TimedOut),
        }
    }

    /// Reports that totals are unavailable, unless that was reported before.
    async fn report_unavailable(&self, number: usize, reason: &str, inbox: &inbox::Sender<SourceEvent>) {
        let set = &self.sets[number];
        if set.state().unavailable {
            return;
        }
        let namespace = self.config.keys[number].namespace.clone();
        let state = TotalsState::Unavailable(reason.into());
        // Fails at the end of the pipeline, with which this task ends too.
        let _ = inbox.send(SourceEvent::TotalsState { namespace, state }).await;
        set.state().unavailable = true;
    }
}

/// Pauses between failed readings, without end.
fn backoff() -> ExponentialBackoff {
    let (first, longest) = BACKOFF;
    ExponentialBuilder::new().with_min_delay(first).with_max_delay(longest).with_jitter().without_max_times().build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_client::open;

    fn reader() -> TotalsReader {
        let client = RedisClient::new(open(&"redis://localhost".parse().unwrap()).unwrap(), PACE);
        TotalsReader::new(Config { keys: vec!["/eps=scores".parse().unwrap()], ..Config::default() }, client)
    }

    /// What a message says, and what becomes of it.
    fn said(reader: &TotalsReader, payload: &str, outcome: Outcome) -> Option<String> {
        let reading = reader.decode(payload.as_bytes())?;
        reader.settle(&reading, outcome);
        reading.event.map(|event| match event {
            SourceEvent::Totals(snapshot) => snapshot.totals.total().to_string(),
            SourceEvent::TotalsState { state: TotalsState::Known, .. } => "known".to_owned(),
            SourceEvent::TotalsState { state: TotalsState::Unavailable(reason), .. } => reason.to_string(),
            other => panic!("not about totals: {other:?}"),
        })
    }

    #[test]
    fn an_absent_set_is_reported_once_and_a_deleted_one_as_empty() {
        let reader = reader();
        let said = |payload| said(&reader, payload, Outcome::Emitted);
        let (empty, three) = (r#"[1,1,"",{}]"#, r#"[1,1,"",["a","3"]]"#);
        assert_eq!([said(empty), said(empty)], [Some("0".to_owned()), None]);
        assert_eq!([said(three), said(empty), said(empty)], ["3", "0", "0"].map(|said| Some(said.to_owned())));
        assert_eq!([said(r#"[0,1,"",{}]"#), said(r#"[2,1,"",{}]"#), said("{}")], [None, None, None]);
    }

    #[test]
    fn a_dropped_reading_does_not_count() {
        let reader = reader();
        let empty = r#"[1,1,"",{}]"#;
        for outcome in [Outcome::Dropped, Outcome::Dropped, Outcome::Emitted] {
            assert_eq!(said(&reader, empty, outcome).as_deref(), Some("0"));
        }
        assert_eq!(said(&reader, empty, Outcome::Emitted), None);
    }

    #[test]
    fn totals_of_an_absent_set_are_known_again_when_it_can_be_read() {
        let reader = reader();
        let empty = r#"[1,1,"",{}]"#;
        assert_eq!(said(&reader, empty, Outcome::Emitted).as_deref(), Some("0"));
        reader.0.sets[0].state().unavailable = true;
        let known = [Outcome::Dropped, Outcome::Emitted].map(|outcome| said(&reader, empty, outcome));
        assert_eq!(known.map(|said| said.unwrap()), ["known", "known"]);
        assert_eq!(said(&reader, empty, Outcome::Emitted), None);
    }

    #[test]
    fn a_set_that_is_not_read_is_unavailable_for_a_reason() {
        let reader = reader();
        let said = |status| said(&reader, &format!(r#"[1,1,"{status}",{{}}]"#), Outcome::Emitted).unwrap();
        assert_eq!(said("members"), "the sorted set has more than 100000 members");
        assert_eq!(said("bytes"), "the sorted set has more than 8388608 bytes");
        assert_eq!(said("type"), "the key has a value that is not a sorted set");
        // It existed.
        assert_eq!(said(""), "0");
    }
}
