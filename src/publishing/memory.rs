//! Publishing in this process, for `tallycast demo`: what is published joins the generated events.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tallycast_fanout::{Acknowledgement, EntryId, Position};
use tokio::sync::mpsc;

use super::{Counts, IDEMPOTENCY_PERIOD, Publication, Unavailable, UpdateFields};
use crate::api::emojitracker::MemoryStore;
use crate::decode::{Target, channel_of_sender};
use crate::source::{Entry, RawEvent, SourceEvent, SourceId};

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
    known: Arc<Mutex<KnownAnswers>>,
    /// The newest entry of all streams.
    newest: Arc<tokio::sync::Mutex<EntryId>>,
}

/// The answer to a request with an idempotency key.
#[derive(Debug, Clone)]
enum Known {
    /// The id of the entry, if it is one.
    Published(Option<String>),
    Counted(BTreeMap<String, i64>),
}

/// What was published lately, by its idempotency key.
#[derive(Debug, Default)]
struct KnownAnswers {
    answers: HashMap<String, Known>,
    order: VecDeque<(Instant, String)>,
}

impl KnownAnswers {
    fn get(&mut self, key: &str) -> Option<Known> {
        let is_old = |(at, _): &(Instant, String)| at.elapsed() > IDEMPOTENCY_PERIOD;
        while self.order.len() > MAX_KEYS || self.order.front().is_some_and(is_old) {
            let Some((_, oldest)) = self.order.pop_front() else { break };
            self.answers.remove(&oldest);
        }
        self.answers.get(key).cloned()
    }

    fn add(&mut self, key: &str, answer: Known) {
        self.order.push_back((Instant::now(), key.to_owned()));
        self.answers.insert(key.to_owned(), answer);
    }
}

impl MemoryPublisher {
    /// A publisher that also counts in `memory`, and what it publishes.
    pub fn new(memory: Arc<MemoryStore>) -> (Self, PublishedEvents) {
        let (events, published) = mpsc::channel(INBOX);
        (
            Self { events, memory, known: Arc::default(), newest: Arc::new(tokio::sync::Mutex::new(EntryId::ZERO)) },
            published,
        )
    }

    /// Waits until nothing takes events any more.
    pub(crate) async fn closed(&self) {
        self.events.closed().await;
    }

    pub(crate) async fn publish(&self, messages: &[Publication]) -> Result<Vec<Option<String>>, Unavailable> {
        let mut ids = Vec::with_capacity(messages.len());
        for message in messages {
            if let Some(Known::Published(id)) = self.known_answer(message.idempotency_key.as_deref()) {
                ids.push(id);
                continue;
            }
            let id = match &message.target {
                Target::Channel(channel) => {
                    let channel = channel_of_sender(channel, message.sender.as_deref());
                    self.send(RawEvent::new(channel, message.data.as_str())).await?;
                    None
                }
                Target::Stream { key, topic } => Some(self.add(key, topic.as_deref(), message).await?.to_string()),
            };
            self.remember(message.idempotency_key.as_deref(), Known::Published(id.clone()));
            ids.push(id);
        }
        Ok(ids)
    }

    /// Adds an entry to a stream, which has no others than those published here.
    async fn add(&self, key: &Arc<str>, topic: Option<&str>, message: &Publication) -> Result<EntryId, Unavailable> {
        let Publication { event, data, sender, update, .. } = message;
        // Held until the entry is sent: entries are sent in the order of their ids.
        let mut newest = self.newest.lock().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        let now = EntryId::new(u64::try_from(now).unwrap_or(u64::MAX), 0);
        // The clock may be turned back.
        let id = if now > *newest { now } else { EntryId::new(newest.major, newest.minor + 1) };
        *newest = id;
        let topics = topic.into_iter().chain(update.alternates.iter().map(String::as_str));
        let entry = Entry {
            event: event.clone().map(String::into_bytes),
            topics: topics.map(|topic| topic.as_bytes().to_vec()).collect(),
            id: update.id.clone().map(String::into_bytes),
            retry: update.retry.map(|retry| retry.to_string().into_bytes()),
            sender: sender.clone().map(String::into_bytes),
            is_private: update.is_private,
            ..Entry::new(Position { sequence: Arc::clone(key), entry: id })
        };
        self.send(RawEvent::from_entry(data.as_str(), entry)).await?;
        Ok(id)
    }

    /// The name of the field is not kept: no other program could read it.
    pub(crate) async fn add_entry(&self, key: &Arc<str>, data: &str) -> Result<(), Unavailable> {
        let target = Target::Stream { key: Arc::clone(key), topic: None };
        let (data, update) = (data.to_owned(), UpdateFields::default());
        let message = Publication {
            source: SourceId::DEFAULT,
            target,
            event: None,
            data,
            sender: None,
            update,
            idempotency_key: None,
        };
        self.add(key, None, &message).await.map(drop)
    }

    pub(super) async fn count(&self, counts: &Counts) -> Result<BTreeMap<String, i64>, Unavailable> {
        if let Some(Known::Counted(totals)) = self.known_answer(counts.idempotency_key.as_deref()) {
            return Ok(totals);
        }
        let mut totals = BTreeMap::new();
        for (key, count) in &counts.counts {
            for _ in 0..*count {
                self.send(RawEvent::new(&counts.channel, key.as_str())).await?;
                totals.insert(key.clone(), self.memory.add(key, 1));
            }
        }
        self.remember(counts.idempotency_key.as_deref(), Known::Counted(totals.clone()));
        Ok(totals)
    }

    /// Passes an event to the source, and waits until the hub has its message.
    async fn send(&self, event: RawEvent) -> Result<(), Unavailable> {
        let (acknowledgement, receipt) = Acknowledgement::new();
        let event = RawEvent { acknowledgement: Some(acknowledgement), ..event };
        let sent = async {
            self.events.send(event.into()).await.map_err(|_| ())?;
            receipt.await.map_err(|_| ())
        };
        match tokio::time::timeout(LIMIT, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(())) | Err(_) => Err(Unavailable::temporary("the demo is overloaded or shutting down")),
        }
    }

    fn known_answer(&self, key: Option<&str>) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(key?)
    }

    fn remember(&self, key: Option<&str>, answer: Known) {
        if let Some(key) = key {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).add(key, answer);
        }
    }
}
