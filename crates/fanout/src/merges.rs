//! What is left, conflated, of the messages that readers missed: see [`Policy::Merge`](crate::Policy::Merge) and
//! [`Policy::Latest`](crate::Policy::Latest).
//!
//! Readers that are first overtaken by their log at the same time share what is left, for as long as they stay behind. So
//! memory and time grow with the number of such groups, not with the number of readers.

use std::sync::Arc;

use bytes::Bytes;

use crate::budget::{Budget, Charge};
use crate::conflation::{Conflation, Rules};
use crate::framing::Framing;
use crate::log::Log;

/// The number of a group, not used again while the feed has any.
pub(crate) type GroupId = u64;

/// The groups of one feed in one shard.
#[derive(Debug)]
pub(crate) struct Merges {
    /// `None` without groups: an idle feed costs no memory.
    groups: Option<Box<Groups>>,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Groups {
    groups: Vec<Group>,
    next: GroupId,
}

/// Readers that missed the same messages.
#[derive(Debug)]
struct Group {
    id: GroupId,
    readers: usize,
    /// All of them read on at this batch.
    position: u64,
    missed: Conflation,
    charge: Charge,
    /// These and everything in the log up to this batch, ready for the wire.
    framed: Option<(u64, Summary)>,
}

/// What readers get for messages that they are not sent one by one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Summary {
    /// Ready for the wire.
    pub(crate) bytes: Bytes,
    /// How many messages `bytes` holds.
    pub(crate) messages: u64,
    /// How many were left out.
    pub(crate) skipped: u64,
}

impl Merges {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { groups: None, budget }
    }

    /// Adds everything in the log to what the groups missed that read on at its beginning, and moves them to its end. Returns
    /// an empty new group there, for readers at the beginning that are in no group.
    pub(crate) fn overtake(&mut self, log: &Log, rules: Rules) -> GroupId {
        let missed = log.conflated(log.base(), log.head(), rules);
        let Groups { groups, next } = &mut **self.groups.get_or_insert_default();
        for group in groups.iter_mut().filter(|group| group.position == log.base()) {
            group.missed.append(&missed);
            group.charge.resize(group.missed.weight());
            group.position = log.head();
            group.framed = None;
        }
        let id = *next;
        *next += 1;
        let charge = self.budget.charge(missed.weight());
        groups.push(Group { id, readers: 0, position: log.head(), missed, charge, framed: None });
        id
    }

    /// Adds a reader to a group.
    pub(crate) fn join(&mut self, id: GroupId) {
        if let Some(group) = self.group(id) {
            group.readers += 1;
        }
    }

    /// Removes a reader from a group.
    pub(crate) fn leave(&mut self, id: GroupId) {
        if let Some(group) = self.group(id) {
            group.readers -= 1;
        }
        self.remove_empty();
    }

    /// Removes groups without readers.
    pub(crate) fn remove_empty(&mut self) {
        self.retain(|group| group.readers > 0);
    }

    fn group(&mut self, id: GroupId) -> Option<&mut Group> {
        self.groups.as_mut()?.groups.iter_mut().find(|group| group.id == id)
    }

    fn retain(&mut self, keep: impl Fn(&Group) -> bool) {
        let Some(groups) = &mut self.groups else { return };
        groups.groups.retain(keep);
        if groups.groups.is_empty() {
            self.groups = None;
        }
    }

    /// The group that takes the most memory, if those of all feeds together have outgrown their budget.
    pub(crate) fn excess(&self) -> Option<GroupId> {
        let groups = self.groups.iter().flat_map(|groups| &groups.groups);
        let largest = || groups.max_by_key(|group| group.missed.weight());
        self.budget.is_exceeded().then(largest).flatten().map(|group| group.id)
    }

    /// Removes a group whose readers have left it and are disconnected.
    pub(crate) fn remove(&mut self, id: GroupId) {
        self.retain(|group| group.id != id);
    }

    /// What the readers of a group missed, up to the end of the log. With a `note` of how many messages were left out.
    pub(crate) fn summary(
        &mut self,
        id: GroupId,
        log: &Log,
        framing: &dyn Framing,
        note: bool,
        budget: &Arc<Budget>,
    ) -> Summary {
        let Some(group) = self.group(id) else { return Summary::default() };
        match &group.framed {
            Some((head, summary)) if *head == log.head() => summary.clone(),
            _ => {
                let mut all = group.missed.clone();
                all.append(&log.conflated(group.position, log.head(), group.missed.rules()));
                let mut summary = Summary::new(&all, framing, note, budget);
                // Closing bytes, which are no messages.
                let control = log.since(group.position).filter(|batch| batch.sources.is_none());
                for batch in control {
                    summary.bytes = budget.charge_bytes([&summary.bytes[..], &batch.bytes[..]].concat().into());
                }
                group.framed = Some((log.head(), summary.clone()));
                summary
            }
        }
    }
}

impl Summary {
    /// Frames conflated messages.
    pub(crate) fn new(conflation: &Conflation, framing: &dyn Framing, note: bool, budget: &Arc<Budget>) -> Self {
        let mut batch = Vec::new();
        if note && conflation.skipped > 0 {
            framing.skipped(conflation.skipped, &mut batch);
        }
        for message in conflation.messages() {
            framing.message(message, &mut batch);
        }
        let bytes = if batch.is_empty() { Bytes::new() } else { budget.charge_bytes(framing.finish(batch)) };
        Self { bytes, messages: conflation.len() as u64, skipped: conflation.skipped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Batch;
    use crate::tests::lines;
    use crate::{Message, Tally};

    /// A batch with one tally of `keys` keys, each counted once.
    fn batch(keys: usize) -> Batch {
        let tally: Tally = (0..keys).map(|key| (format!("k{key}"), 1)).collect();
        let mut batch = Batch::new(true);
        batch.add(&Arc::new(Message::tally("/eps".parse().unwrap(), tally)), None);
        Batch { bytes: Bytes::from_static(b"x"), weight: 1, ..batch }
    }

    #[test]
    fn readers_that_are_overtaken_together_share_one_sum() {
        let budget = Budget::new(1 << 20);
        let waiting = Budget::new(1 << 20);
        let (mut merges, mut log) = (Merges::new(Arc::clone(&budget)), Log::default());
        let mut groups = Vec::new();
        for _ in 0..3 {
            log.push(batch(100));
            let group = merges.overtake(&log, Rules::Sum);
            if groups.is_empty() {
                (0..1000).for_each(|_| merges.join(group));
                groups.push(group);
            }
            merges.remove_empty();
            log.release(log.head());
        }
        assert!(budget.used() < 2 * 100 * 80, "{} bytes", budget.used());
        let first = merges.summary(groups[0], &log, &*lines(), true, &waiting);
        let second = merges.summary(groups[0], &log, &*lines(), true, &waiting);
        assert_eq!((first.messages, first.bytes.as_ptr()), (1, second.bytes.as_ptr()), "framed once");
        assert!(first.bytes.starts_with(b"/eps {") && String::from_utf8_lossy(&first.bytes).contains("\"k7\":3"));
        (0..1000).for_each(|_| merges.leave(groups[0]));
        assert_eq!((merges.groups.is_none(), budget.used()), (true, 0));
    }

    #[test]
    fn only_groups_at_the_beginning_of_the_log_are_overtaken() {
        let (mut merges, mut log) = (Merges::new(Budget::new(1 << 20)), Log::default());
        log.push(batch(1));
        let early = merges.overtake(&log, Rules::Sum);
        merges.join(early);
        // Another reader is behind in the middle of the log.
        log.push(batch(1));
        let middle = merges.overtake(&log, Rules::Sum);
        merges.join(middle);
        log.release(1);
        log.push(batch(1));
        merges.overtake(&log, Rules::Sum);
        merges.remove_empty();
        let text = |group, merges: &mut Merges, log: &Log| {
            String::from_utf8(merges.summary(group, log, &*lines(), true, &Budget::new(1 << 20)).bytes.to_vec())
                .unwrap()
        };
        assert_eq!(text(early, &mut merges, &log), "/eps {\"k0\":3}\n");
        assert_eq!(text(middle, &mut merges, &log), "/eps {\"k0\":3}\n");
    }
}
