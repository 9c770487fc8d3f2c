//! A feed as one shard sees it: its log, and the connections that read it.

use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use super::Budgets;
use crate::Config;
use crate::connection::{Connection, FeedView};
use crate::feed::FeedHandle;
use crate::log::Log;
use crate::merges::Merges;

/// A feed that has readers in this shard.
pub(super) struct LocalFeed {
    pub(super) handle: Arc<FeedHandle>,
    pub(super) log: Log,
    /// The sums of what readers missed.
    pub(super) merges: Merges,
    /// Keys of its connections.
    pub(super) readers: Vec<usize>,
    /// Keys of those that are behind.
    pub(super) blocked: Vec<usize>,
    /// When the last batch came: a feed that is not silent has no silent readers.
    pub(super) last_batch: Instant,
}

impl LocalFeed {
    pub(super) fn new(handle: Arc<FeedHandle>, budgets: &Budgets) -> Self {
        let merges = Merges::new(Arc::clone(&budgets.merged));
        Self {
            handle,
            log: Log::default(),
            merges,
            readers: Vec::new(),
            blocked: Vec::new(),
            last_batch: Instant::now(),
        }
    }

    /// What its connections read from.
    pub(super) fn view<'a>(&'a mut self, config: &Config, budgets: &'a Budgets) -> FeedView<'a> {
        FeedView {
            log: &self.log,
            framing: &*self.handle.framing,
            merges: &mut self.merges,
            budget: &budgets.waiting,
            max_carried: config.log_bytes,
        }
    }

    /// The position of the reader that is furthest behind; the log's head if none is.
    pub(super) fn slowest(&self, connections: &Slab<Connection>) -> u64 {
        self.blocked.iter().map(|&key| connections[key].position).min().unwrap_or(self.log.head())
    }

    /// Adds a connection to the readers.
    pub(super) fn add_reader(&mut self, key: usize, connection: &mut Connection) {
        connection.reader_slot = self.readers.len();
        self.readers.push(key);
    }

    /// Adds a connection to those that are behind.
    pub(super) fn add_blocked(&mut self, key: usize, connection: &mut Connection, since: Instant) {
        connection.blocked = Some((self.blocked.len(), since));
        self.blocked.push(key);
    }

    /// Removes the connection at `slot` from the readers.
    pub(super) fn remove_reader(&mut self, slot: usize, connections: &mut Slab<Connection>) {
        if let Some(moved) = swap_remove(&mut self.readers, slot, connections) {
            moved.reader_slot = slot;
        }
    }

    /// Removes the connection at `slot` from those that are behind.
    pub(super) fn remove_blocked(&mut self, slot: usize, connections: &mut Slab<Connection>) {
        if let Some((moved, _)) =
            swap_remove(&mut self.blocked, slot, connections).and_then(|moved| moved.blocked.as_mut())
        {
            *moved = slot;
        }
    }
}

/// Removes place `slot` from `list`; returns the connection that took the place.
fn swap_remove<'a>(
    list: &mut Vec<usize>,
    slot: usize,
    connections: &'a mut Slab<Connection>,
) -> Option<&'a mut Connection> {
    list.swap_remove(slot);
    list.get(slot).and_then(|&key| connections.get_mut(key))
}
