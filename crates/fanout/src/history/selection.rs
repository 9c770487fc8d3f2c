//! Looks up what a reader gets from the history, in pieces: by the namespaces of its topics where there are few, and otherwise
//! message by message, of which each piece examines a bounded number.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::History;
use super::filter::Filter;
use super::store::{Numbers, Slot, Store};
use crate::Message;

/// Namespaces up to which each is looked up by itself.
const MAX_NAMESPACES: usize = 128;
/// Namespaces that are looked at for each topic to find those.
const MAX_NAMESPACES_EXAMINED: usize = 4096;
/// Messages that one piece examines, at most.
const MAX_EXAMINED: usize = 2048;
/// Messages that are examined to find the newest ones of a reader with more namespaces, at most.
const MAX_EXAMINED_FOR_NEWEST: usize = 100_000;

/// Where a reader starts in one store. In stores that are not named, it starts at the query's `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreStart {
    /// The [store](Store::id).
    pub(crate) store: u32,
    /// The number of the first message that it gets.
    pub(crate) number: u64,
    /// [`Store::trimmed_before`] when it started: what was dropped earlier is not lost to it.
    pub(crate) trimmed_before: u64,
}

/// Part of what a reader gets.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pub(crate) filter: &'a Filter,
    pub(crate) starts: &'a [StoreStart],
    /// The first number.
    pub(crate) next: u64,
    /// The number after the last one.
    pub(crate) end: u64,
    /// Whether only the newest message of each namespace is wanted, of retentions that keep it.
    pub(crate) last_values: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    pub(crate) messages: Vec<Arc<Message>>,
    /// The number to go on with; the query's end if nothing is left.
    pub(crate) next: u64,
}

impl Query<'_> {
    fn start(&self, store: &Store) -> u64 {
        self.start_in(store).map_or(0, |start| start.number).max(self.next)
    }

    /// Where it starts in a store, if that is named.
    fn start_in(&self, store: &Store) -> Option<&StoreStart> {
        self.starts.iter().find(|start| start.store == store.id)
    }

    /// Whether a message was dropped from a store that it had still to get.
    pub(super) fn has_lost_in(&self, store: &Store) -> bool {
        let dropped_before = self.start_in(store).map_or(0, |start| start.trimmed_before);
        store.trimmed_before > dropped_before.max(self.start(store))
    }

    /// Whether a message is one that it finds.
    fn wants(&self, store: &Store, slot: &Slot) -> bool {
        self.filter.contains(&slot.message) && (!self.last_values || store.is_newest(slot))
    }

    pub(super) fn is_about(&self, store: &Store) -> bool {
        (!self.last_values || store.retention.last_values) && store.may_have(&self.filter.topics)
    }
}

impl History {
    /// The next messages of a query, in order: at least one if there is one among those examined, and not more than
    /// `max_bytes` of memory otherwise.
    pub(crate) fn select(&self, query: &Query<'_>, max_bytes: usize) -> Selected {
        let stores: Vec<&Store> = self.stores.iter().filter(|store| query.is_about(store)).collect();
        match namespaces(&stores, query.filter) {
            Some(namespaces) => by_namespace(&namespaces, query, max_bytes),
            None => by_number(&stores, query, max_bytes),
        }
    }

    /// The number of the first of the newest `count` messages of a reader.
    pub(crate) fn newest(&self, filter: &Filter, count: usize) -> u64 {
        let stores: Vec<&Store> = self.stores.iter().filter(|store| store.may_have(&filter.topics)).collect();
        let mut numbers = Vec::new();
        if let Some(namespaces) = namespaces(&stores, filter) {
            for (store, of_namespace) in namespaces {
                let is_wanted = |number: &u64| store.get(*number).is_some_and(|slot| filter.contains(&slot.message));
                let examined = of_namespace.since(0).rev().take(MAX_EXAMINED_FOR_NEWEST);
                numbers.extend(examined.filter(is_wanted).take(count));
                let examined = of_namespace.alternates_since(0).rev().take(MAX_EXAMINED_FOR_NEWEST);
                numbers.extend(examined.filter(is_wanted).take(count));
            }
        } else {
            let mut all: Vec<_> = stores.iter().map(|store| store.since(0).rev().peekable()).collect();
            for _ in 0..MAX_EXAMINED_FOR_NEWEST {
                let newest = all.iter_mut().filter_map(|slots| Some((slots.peek()?.number, slots)));
                let Some((number, slots)) = newest.max_by_key(|(number, _)| *number) else { break };
                let is_wanted = slots.next().is_some_and(|slot| filter.contains(&slot.message));
                numbers.extend(is_wanted.then_some(number));
                if numbers.len() == count {
                    break;
                }
            }
        }
        numbers.sort_unstable_by_key(|number| Reverse(*number));
        // Those that have several of the namespaces.
        numbers.dedup();
        numbers.truncate(count);
        numbers.last().copied().unwrap_or(self.head)
    }
}

type InStore<'a> = (&'a Store, &'a Numbers);

/// The messages of each namespace that the topics of a filter contain; `None` if there are too many namespaces.
fn namespaces<'a>(stores: &[&'a Store], filter: &Filter) -> Option<Vec<InStore<'a>>> {
    // Each topic costs a lookup, even one that finds nothing.
    if filter.topics.len() * stores.len() > MAX_NAMESPACES {
        return None;
    }
    let mut found: Vec<InStore<'a>> = Vec::new();
    for &store in stores {
        let first = found.len();
        for topic in &filter.topics {
            let is_complete = store.visit_namespaces(topic, MAX_NAMESPACES_EXAMINED, |_, numbers| {
                // Topics may overlap.
                let is_new = || !found[first..].iter().any(|(_, known)| std::ptr::eq(*known, numbers));
                if found.len() <= MAX_NAMESPACES && is_new() {
                    found.push((store, numbers));
                }
            });
            if !is_complete || found.len() > MAX_NAMESPACES {
                return None;
            }
        }
    }
    Some(found)
}

fn by_namespace(namespaces: &[InStore<'_>], query: &Query<'_>, max_bytes: usize) -> Selected {
    let mut cursors: Vec<_> = namespaces
        .iter()
        .map(|(store, numbers)| {
            let newest = numbers.newest().filter(|newest| *newest >= query.next);
            let all = (!query.last_values).then(|| numbers.since(query.start(store)));
            (*store, all.into_iter().flatten().chain(newest.filter(|_| query.last_values)))
        })
        .collect();
    let mut of_alternates: Vec<_> =
        namespaces.iter().map(|(store, numbers)| (*store, numbers.alternates_since(query.start(store)))).collect();
    let mut numbers: Vec<(&Store, &mut dyn Iterator<Item = u64>)> = Vec::with_capacity(2 * namespaces.len());
    numbers.extend(cursors.iter_mut().map(|(store, numbers)| (*store, numbers as &mut dyn Iterator<Item = u64>)));
    numbers.extend(of_alternates.iter_mut().map(|(store, numbers)| (*store, numbers as &mut dyn Iterator<Item = u64>)));
    let mut heap: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::with_capacity(numbers.len());
    heap.extend(
        numbers.iter_mut().enumerate().filter_map(|(place, (_, numbers))| Some(Reverse((numbers.next()?, place)))),
    );
    let mut selected = Selected { messages: Vec::new(), next: query.end };
    let (mut bytes, mut examined, mut previous) = (0, 0, None);
    while let Some(Reverse((number, place))) = heap.pop()
        && number < query.end
    {
        let (store, numbers) = &mut numbers[place];
        heap.extend(numbers.next().map(|next| Reverse((next, place))));
        // A message that has several of the namespaces comes several times, in a row.
        if previous.replace(number) == Some(number) {
            continue;
        }
        if examined == MAX_EXAMINED {
            selected.next = number;
            break;
        }
        examined += 1;
        let Some(slot) = store.get(number) else { continue };
        if !query.wants(store, slot) {
            continue;
        }
        bytes += slot.message.weight();
        if bytes > max_bytes && !selected.messages.is_empty() {
            selected.next = number;
            break;
        }
        selected.messages.push(Arc::clone(&slot.message));
    }
    selected
}

fn by_number(stores: &[&Store], query: &Query<'_>, max_bytes: usize) -> Selected {
    let mut cursors: Vec<_> = stores.iter().map(|store| (store, store.since(query.start(store)).peekable())).collect();
    let mut selected = Selected { messages: Vec::new(), next: query.end };
    let (mut bytes, mut examined) = (0, 0);
    loop {
        let oldest = cursors.iter_mut().filter_map(|(store, slots)| Some((slots.peek()?.number, store, slots)));
        let Some((number, store, slots)) = oldest.min_by_key(|(number, ..)| *number) else { break };
        if number >= query.end {
            break;
        }
        if examined == MAX_EXAMINED {
            selected.next = number;
            break;
        }
        examined += 1;
        let Some(slot) = slots.next() else { continue };
        if !query.wants(store, slot) {
            continue;
        }
        bytes += slot.message.weight();
        if bytes > max_bytes && !selected.messages.is_empty() {
            selected.next = number;
            break;
        }
        selected.messages.push(Arc::clone(&slot.message));
    }
    selected
}
