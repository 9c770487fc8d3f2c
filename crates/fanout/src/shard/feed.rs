//! A feed as its shard has it: what its readers read, its log, and the connections that read it.

use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use super::Budgets;
use super::topic_sets::TopicSetId;
use crate::conflation::Rules;
use crate::connection::{Connection, FeedView};
use crate::framing::Interned;
use crate::interest::Interest;
use crate::log::Log;
use crate::merges::Merges;
use crate::{Config, Namespace, Policy, Rate, Stats};

/// What a feed is. Readers of the same shard that agree in it share a feed.
#[derive(Debug, Clone)]
pub(super) struct FeedKey {
    pub(super) interest: Interest,
    pub(super) framing: Arc<Interned>,
    /// The namespace whose totals all readers started with, if they did.
    pub(super) totals: Option<Namespace>,
    /// Whether its readers have a rate. Its log is then not for the wire: they get it conflated.
    pub(super) is_paced: bool,
}

impl FeedKey {
    /// A framing keeps its slot for as long as a feed holds it.
    pub(super) fn parts(&self) -> (usize, bool, &Interest, &Option<Namespace>) {
        (self.framing.slot, self.is_paced, &self.interest, &self.totals)
    }
}

impl PartialEq for FeedKey {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

/// A feed that has readers in this shard.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) key: FeedKey,
    pub(super) policy: Policy,
    pub(super) log: Log,
    /// What readers missed.
    pub(super) merges: Merges,
    pub(super) readers: Readers,
    /// Keys of the connections that take no more for now.
    pub(super) blocked: Vec<u32>,
    /// When the last batch came: without rates, a feed that is not silent has no silent readers.
    pub(super) last_batch: Instant,
    /// Whether some of its messages are kept.
    pub(super) has_history: bool,
    /// Whether it waits to be written to its readers.
    pub(super) is_touched: bool,
    /// Whether its readers are other engines.
    pub(super) is_relay: bool,
    /// Its first and last match in the turns that are being matched, or [`NONE`](super::feeds::NONE).
    pub(super) matches: [u32; 2],
    /// Of which topics its readers get private messages.
    pub(super) private_set: TopicSetId,
    /// Of which topics they get messages that are no updates, if not of all.
    pub(super) plain_set: Option<TopicSetId>,
    /// They get no messages of this sender.
    pub(super) except_sender: Option<Arc<str>>,
}

/// Keys of the connections that read a feed.
#[derive(Debug)]
pub(super) enum Readers {
    All(Vec<u32>),
    /// By their rate.
    Paced(Vec<Pace>),
}

/// The readers of a feed that want the same rate.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) rate: Rate,
    pub(super) readers: Vec<u32>,
    /// Before, they get no batch.
    pub(super) due: Instant,
    /// None of them reads on before this position, but those that are blocked.
    pub(super) position: u64,
    /// Whether there are messages that they have not got.
    pub(super) has_unread: bool,
    /// Whether the shard will look at it when it is due.
    pub(super) is_scheduled: bool,
}

impl Readers {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::All(readers) => readers.len(),
            Self::Paced(paces) => paces.iter().map(|pace| pace.readers.len()).sum(),
        }
    }

    pub(super) fn to_vec(&self) -> Vec<u32> {
        match self {
            Self::All(readers) => readers.clone(),
            Self::Paced(paces) => paces.iter().flat_map(|pace| &pace.readers).copied().collect(),
        }
    }
}

impl Feed {
    pub(super) fn new(key: FeedKey, policy: Policy, budgets: &Budgets) -> Self {
        let readers =
            if key.is_paced { Readers::Paced(Vec::with_capacity(1)) } else { Readers::All(Vec::with_capacity(1)) };
        Self {
            is_relay: key.framing.framing.is_relay(),
            key,
            policy,
            readers,
            log: Log::default(),
            merges: Merges::new(Arc::clone(&budgets.merged)),
            blocked: Vec::new(),
            last_batch: Instant::now(),
            has_history: false,
            is_touched: false,
            matches: [super::feeds::NONE; 2],
            private_set: super::feeds::NONE,
            plain_set: None,
            except_sender: None,
        }
    }

    /// What its connections read from.
    pub(super) fn view<'a>(&'a mut self, config: &Config, budgets: &'a Budgets, stats: &'a Stats) -> FeedView<'a> {
        let rules = self.rules();
        FeedView {
            log: &self.log,
            framing: &*self.key.framing.framing,
            merges: &mut self.merges,
            is_paced: self.key.is_paced,
            rules,
            budget: &budgets.waiting,
            stats,
            max_carried: config.log_bytes,
            replay: None,
        }
    }

    /// How messages are conflated that its readers are not sent one by one; `None` if they are not conflated.
    pub(super) fn rules(&self) -> Option<Rules> {
        match self.policy {
            _ if self.key.is_paced => Some(Rules::SumAndNewest),
            Policy::Disconnect | Policy::Skip => None,
            Policy::Merge => Some(Rules::Sum),
            // The totals of a reader would be wrong without all tallies.
            Policy::Latest if self.key.totals.is_some() => Some(Rules::SumAndNewest),
            Policy::Latest => Some(Rules::Newest),
        }
    }

    /// The position of the reader that is furthest behind; the log's head if none is.
    pub(super) fn slowest(&self, connections: &Slab<Connection>) -> u64 {
        let blocked = self.blocked.iter().map(|&key| connections[key as usize].position);
        let paced = match &self.readers {
            Readers::All(_) => &[][..],
            Readers::Paced(paces) => paces,
        };
        blocked.chain(paced.iter().map(|pace| pace.position)).min().unwrap_or(self.log.head())
    }

    /// The connections that may not have everything.
    pub(super) fn behind(&self) -> Vec<u32> {
        if self.key.is_paced { self.readers.to_vec() } else { self.blocked.clone() }
    }

    /// Adds a connection to the readers.
    pub(super) fn add_reader(&mut self, key: u32, connection: &mut Connection) {
        let readers = match &mut self.readers {
            Readers::All(readers) => readers,
            Readers::Paced(paces) => {
                // Readers without a rate are never in a feed of readers that have one.
                let Some(rate) = connection.max_rate else { return };
                let place = paces.iter().position(|pace| pace.rate == rate).unwrap_or_else(|| {
                    paces.push(Pace {
                        rate,
                        readers: Vec::with_capacity(1),
                        due: Instant::now(),
                        position: self.log.head(),
                        has_unread: false,
                        is_scheduled: false,
                    });
                    paces.len() - 1
                });
                &mut paces[place].readers
            }
        };
        connection.reader_slot = place(readers.len());
        readers.push(key);
    }

    /// Removes a connection from the readers. Returns the pace that has no readers any more.
    pub(super) fn remove_reader(
        &mut self,
        slot: u32,
        rate: Option<Rate>,
        connections: &mut Slab<Connection>,
    ) -> Option<Pace> {
        let (pace, readers) = match &mut self.readers {
            Readers::All(readers) => (None, readers),
            Readers::Paced(paces) => {
                let place = paces.iter().position(|pace| Some(pace.rate) == rate)?;
                (Some(place), &mut paces[place].readers)
            }
        };
        if let Some(moved) = swap_remove(readers, slot, connections) {
            moved.reader_slot = slot;
        }
        match &mut self.readers {
            Readers::Paced(paces) => {
                pace.filter(|&pace| paces[pace].readers.is_empty()).map(|pace| paces.swap_remove(pace))
            }
            Readers::All(_) => None,
        }
    }

    /// Adds a connection to those that take no more for now.
    pub(super) fn add_blocked(&mut self, key: u32, connection: &mut Connection, since: Instant) {
        connection.blocked = Some(place(self.blocked.len()));
        connection.last_progress = since.into();
        self.blocked.push(key);
    }

    /// Removes the connection at `slot` from those that take no more for now.
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
