//! Follows single messages through the engine, to measure where their time goes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What the engine did with a followed message. Times of steps that it did not reach are missing.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Passage {
    /// When the hub took it from its inbox.
    pub hub_taken_at: Option<Instant>,
    /// When the hub had put it into order, and began to hand it to the shards.
    pub hub_sent_at: Option<Instant>,
    /// What each shard did, in no particular order.
    pub shards: Vec<ShardPassage>,
}

/// What a shard did with a followed message.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShardPassage {
    /// The number of the shard.
    pub shard: usize,
    /// When it took the message from its inbox.
    pub taken_at: Instant,
    /// When it began to write the message to its first reader; `None` without readers.
    pub first_write_at: Option<Instant>,
    /// When all readers that could take the message had it, or as much of it as their sockets took.
    pub last_write_at: Option<Instant>,
    /// Readers of the message. Readers with a rate are left out: they get it conflated, when they are due.
    pub readers: usize,
    /// Those of them that took no more at that moment.
    pub blocked: usize,
    /// Bytes written to these readers, with the messages that went with it.
    pub bytes: u64,
}

/// Follows one message: see [`Message::probe`](crate::Message::probe).
///
/// It reports once, when the last reference to it has gone: when each shard has written the message to its readers, or earlier if the
/// engine discards the message.
pub struct Probe {
    passage: Mutex<Passage>,
    report: Option<Report>,
}

type Report = Box<dyn FnOnce(Passage) + Send + Sync>;

impl Probe {
    /// A probe that calls `report` at its end, in a task of the engine, which it must not keep waiting.
    pub fn new(report: impl FnOnce(Passage) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { passage: Mutex::default(), report: Some(Box::new(report)) })
    }

    pub(crate) fn taken_by_hub(&self) {
        self.update(|passage| passage.hub_taken_at = Some(Instant::now()));
    }

    pub(crate) fn sent_by_hub(&self, at: Instant) {
        self.update(|passage| passage.hub_sent_at = Some(at));
    }

    pub(crate) fn passed_shard(&self, shard: ShardPassage) {
        self.update(|passage| passage.shards.push(shard));
    }

    fn update(&self, change: impl FnOnce(&mut Passage)) {
        change(&mut self.passage.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            report(std::mem::take(self.passage.get_mut().unwrap_or_else(PoisonError::into_inner)));
        }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Probe").field("passage", &self.passage).finish_non_exhaustive()
    }
}
