//! Publishing in this process, for `tallycast demo`: what is published joins the generated events.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tallycast_fanout::Acknowledgement;
use tokio::sync::mpsc;

use super::{Counts, IDEMPOTENCY_PERIOD, Publication, Unavailable};
use crate::api::emojitracker::MemoryStore;
use crate::decode::Target;
use crate::source::{RawEvent, SourceEvent};

/// Events that may wait for the source.
const INBOX: usize = 1024;
/// Idempotency keys that are kept, the newest ones.
const MAX_KEYS: usize = 10_000;
/// Time for the hub to take an event.
const LIMIT: Duration = Duration::from_secs(5);

/// The events that were published, for the source.
pub type PublishedEvents = mpsc::Receiver<SourceEvent>;

/// Publishes in this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryPublisher {
    events: mpsc::Sender<SourceEvent>,
    memory: Arc<MemoryStore>,
    known: Arc<Mutex<Known>>,
}

/// What was published lately, by its idempotency key.
#[derive(Debug, Default)]
struct Known {
    answers: HashMap<String, BTreeMap<String, i64>>,
    order: VecDeque<(Instant, String)>,
}

impl Known {
    fn get(&mut self, key: &str) -> Option<BTreeMap<String, i64>> {
        let is_old = |(at, _): &(Instant, String)| at.elapsed() > IDEMPOTENCY_PERIOD;
        while self.order.len() > MAX_KEYS || self.order.front().is_some_and(is_old) {
            let Some((_, oldest)) = self.order.pop_front() else { break };
            self.answers.remove(&oldest);
        }
        self.answers.get(key).cloned()
    }

    fn add(&mut self, key: &str, answer: BTreeMap<String, i64>) {
        self.order.push_back((Instant::now(), key.to_owned()));
        self.answers.insert(key.to_owned(), answer);
    }
}

impl MemoryPublisher {
    /// A publisher that also counts in `memory`, and what it publishes.
    pub fn new(memory: Arc<MemoryStore>) -> (Self, PublishedEvents) {
        let (events, published) = mpsc::channel(INBOX);
        (Self { events, memory, known: Arc::default() }, published)
    }

    pub(super) async fn publish(&self, messages: &[Publication]) -> Result<Vec<Option<String>>, Unavailable> {
        for message in messages {
            if self.is_known(message.idempotency_key.as_deref()).is_some() {
                continue;
            }
            let Target::Channel(channel) = &message.target else {
                return Err(Unavailable("there are no streams in the demo".to_owned()));
            };
            self.send(channel, &message.data).await?;
            self.remember(message.idempotency_key.as_deref(), BTreeMap::new());
        }
        Ok(vec![None; messages.len()])
    }

    pub(super) async fn count(&self, counts: &Counts) -> Result<BTreeMap<String, i64>, Unavailable> {
        if let Some(answer) = self.is_known(counts.idempotency_key.as_deref()) {
            return Ok(answer);
        }
        let mut totals = BTreeMap::new();
        for (key, count) in &counts.counts {
            for _ in 0..*count {
                self.send(&counts.channel, key).await?;
                totals.insert(key.clone(), self.memory.add(key, 1));
            }
        }
        self.remember(counts.idempotency_key.as_deref(), totals.clone());
        Ok(totals)
    }

    /// Passes an event to the source, and waits until the hub has its message.
    async fn send(&self, channel: &str, payload: &str) -> Result<(), Unavailable> {
        let (acknowledgement, receipt) = Acknowledgement::new();
        let event = RawEvent { acknowledgement: Some(acknowledgement), ..RawEvent::new(channel, payload) };
        let sent = async {
            self.events.send(event.into()).await.map_err(|_| ())?;
            receipt.await.map_err(|_| ())
        };
        match tokio::time::timeout(LIMIT, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(())) | Err(_) => Err(Unavailable("the demo is overloaded or shutting down".to_owned())),
        }
    }

    fn is_known(&self, key: Option<&str>) -> Option<BTreeMap<String, i64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(key?)
    }

    fn remember(&self, key: Option<&str>, answer: BTreeMap<String, i64>) {
        if let Some(key) = key {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).add(key, answer);
        }
    }
}
