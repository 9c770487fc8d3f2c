//! A feed as its shard has it: what its readers read, its log, and the connections that read it.

use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use super::Budgets;
use crate::connection::{Connection, FeedView};
use crate::framing::Interned;
use crate::log::Log;
use crate::merges::Merges;
use crate::{Config, Namespace, Policy, Topics};

/// What a feed is. Readers of the same shard that agree in it share a feed.
#[derive(Debug, Clone)]
pub(super) struct FeedKey {
    pub(super) topics: Topics,
    pub(super) framing: Arc<Interned>,
    /// The namespace whose totals all readers started with, if they did.
    pub(super) totals: Option<Namespace>,
}

impl PartialEq for FeedKey {
    fn eq(&self, other: &Self) -> bool {
        (self.framing.slot, &self.topics, &self.totals) == (other.framing.slot, &other.topics, &other.totals)
    }
}

/// A feed that has readers in this shard.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) key: FeedKey,
    pub(super) policy: Policy,
    pub(super) log: Log,
    /// The sums of what readers missed.
    pub(super) merges: Merges,
    /// Keys of its connections.
    pub(super) readers: Vec<u32>,
    /// Keys of those that are behind.
    pub(super) blocked: Vec<u32>,
    /// When the last batch came: a feed that is not silent has no silent readers.
    pub(super) last_batch: Instant,
    /// Whether it waits to be written to its readers.
    pub(super) is_touched: bool,
    /// Its first and last match in the turn that is being matched, or [`NONE`](super::feeds::NONE).
    pub(super) matches: [u32; 2],
}

impl Feed {
    pub(super) fn new(key: FeedKey, policy: Policy, budgets: &Budgets) -> Self {
        Self {
            key,
            policy,
            log: Log::default(),
            merges: Merges::new(Arc::clone(&budgets.merged)),
            readers: Vec::with_capacity(1),
            blocked: Vec::new(),
            last_batch: Instant::now(),
            is_touched: false,
            matches: [super::feeds::NONE; 2],
        }
    }

    /// What its connections read from.
    pub(super) fn view<'a>(&'a mut self, config: &Config, budgets: &'a Budgets) -> FeedView<'a> {
        FeedView {
            log: &self.log,
            framing: &*self.key.framing.framing,
            merges: &mut self.merges,
            budget: &budgets.waiting,
            max_carried: config.log_bytes,
        }
    }

    /// The position of the reader that is furthest behind; the log's head if none is.
    pub(super) fn slowest(&self, connections: &Slab<Connection>) -> u64 {
        self.blocked.iter().map(|&key| connections[key as usize].position).min().unwrap_or(self.log.head())
    }

    /// Adds a connection to the readers.
    pub(super) fn add_reader(&mut self, key: u32, connection: &mut Connection) {
        connection.reader_slot = place(self.readers.len());
        self.readers.push(key);
    }

    /// Adds a connection to those that are behind.
    pub(super) fn add_blocked(&mut self, key: u32, connection: &mut Connection, since: Instant) {
        connection.blocked = Some(place(self.blocked.len()));
        connection.last_progress = since;
        self.blocked.push(key);
    }

    /// Removes the connection at `slot` from the readers.
    pub(super) fn remove_reader(&mut self, slot: u32, connections: &mut Slab<Connection>) {
        if let Some(moved) = swap_remove(&mut self.readers, slot, connections) {
            moved.reader_slot = slot;
        }
    }

    /// Removes the connection at `slot` from those that are behind.
    pub(super) fn remove_blocked(&mut self, slot: u32, connections: &mut Slab<Connection>) {
        if let Some(moved) = swap_remove(&mut self.blocked, slot, connections) {
            moved.blocked = Some(slot);
        }
        if self.blocked.is_empty() {
            // An idle feed costs no memory.
            self.blocked = Vec::new();
        }
    }
}

/// A number of connections or a place among them. Four billion need more memory than there is.
#[expect(clippy::cast_possible_truncation, reason = "see above")]
pub(super) fn place(number: usize) -> u32 {
    number as u32
}

/// Removes place `slot` from `list`; returns the connection that took the place.
fn swap_remove<'a>(
    list: &mut Vec<u32>,
    slot: u32,
    connections: &'a mut Slab<Connection>,
) -> Option<&'a mut Connection> {
    list.swap_remove(slot as usize);
    list.get(slot as usize).and_then(|&key| connections.get_mut(key as usize))
}
