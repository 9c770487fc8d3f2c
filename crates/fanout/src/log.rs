//! A feed's log: the newest batches, kept only as long as a reader still needs them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Data, Message};

/// Messages of one feed, framed for the wire and ready to be written to any number of connections.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Bytes,
    /// How many messages `bytes` holds.
    pub(crate) messages: u32,
    /// The same messages for merging; only for feeds whose policy is to merge.
    pub(crate) sources: Option<Vec<Arc<Message>>>,
    /// The memory of `bytes` and `sources`.
    pub(crate) weight: usize,
}

impl Batch {
    /// No messages yet. With `merging`, it keeps those that are added.
    pub(crate) fn new(merging: bool) -> Self {
        Self { sources: merging.then(Vec::new), ..Self::default() }
    }

    /// Counts a message, and keeps it for merging.
    pub(crate) fn add(&mut self, message: &Arc<Message>) {
        self.messages += 1;
        if let Some(sources) = &mut self.sources {
            sources.push(Arc::clone(message));
        }
    }

    /// The memory of what is kept for merging.
    pub(crate) fn sources_weight(&self) -> usize {
        self.sources.iter().flatten().map(|message| message.weight()).sum()
    }
}

/// Messages in a form that can be summed: tallies by namespace and event, totals and their state by namespace, and the
/// number of messages of text.
#[derive(Debug, Clone, Default)]
pub(crate) struct MergedTallies {
    pub(crate) tallies: Vec<Message>,
    pub(crate) skipped: u64,
}

impl MergedTallies {
    /// Adds one message: a tally to the tally or the totals of the same namespace and event; text is counted as skipped.
    /// New totals replace all tallies of their namespace, and only the last state of the totals is kept.
    pub(crate) fn absorb(&mut self, message: &Message) {
        let same_namespace = |kept: &Message| kept.namespace == message.namespace;
        match &message.data {
            Data::Text(_) => {
                self.skipped += 1;
                return;
            }
            Data::Tally(tally) => {
                let takes = |kept: &&mut Message| {
                    same_namespace(kept) && (kept.event == message.event || matches!(kept.data, Data::Totals(_)))
                };
                let sum = self.tallies.iter_mut().find(takes).map(|kept| &mut kept.data);
                if let Some(Data::Tally(sum) | Data::Totals(sum)) = sum {
                    Arc::make_mut(sum).merge(tally);
                    return;
                }
            }
            Data::Totals(_) => self.tallies.retain(|kept| !same_namespace(kept)),
            Data::TotalsState(_) => {
                self.tallies.retain(|kept| !(same_namespace(kept) && matches!(kept.data, Data::TotalsState(_))));
            }
        }
        self.tallies.push(message.clone());
    }

    /// Adds all of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.skipped += other.skipped;
        other.tallies.iter().for_each(|message| self.absorb(message));
    }

    /// The memory of all tallies, in bytes, roughly.
    pub(crate) fn weight(&self) -> usize {
        self.tallies.iter().map(Message::weight).sum()
    }
}

/// The newest batches of a feed, numbered without gaps. A reader's position is the number of the batch it reads next.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// The number of the oldest batch kept.
    base: u64,
    /// `None` without batches: an idle feed costs no memory.
    kept: Option<Box<Kept>>,
}

/// The batches of a log.
#[derive(Debug, Default)]
struct Kept {
    batches: VecDeque<Batch>,
    bytes: usize,
}

impl Log {
    /// The number that the next batch will have.
    pub(crate) fn head(&self) -> u64 {
        self.base + self.len() as u64
    }

    /// The number of the oldest batch kept; the head if none is.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// How many batches are kept.
    pub(crate) fn len(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.batches.len())
    }

    /// The memory of all batches kept, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.bytes)
    }

    pub(crate) fn push(&mut self, batch: Batch) {
        let kept = self.kept.get_or_insert_default();
        kept.bytes += batch.weight;
        kept.batches.push_back(batch);
    }

    /// The batches from number `position` on, oldest first.
    pub(crate) fn since(&self, position: u64) -> impl ExactSizeIterator<Item = &Batch> {
        static NONE: VecDeque<Batch> = VecDeque::new();
        debug_assert!(position >= self.base, "a reader must not be behind its log");
        let batches = self.kept.as_ref().map_or(&NONE, |kept| &kept.batches);
        let skipped = usize::try_from(position.saturating_sub(self.base)).unwrap_or(usize::MAX);
        batches.range(skipped.min(batches.len())..)
    }

    /// The number of messages in the batches from number `position` on.
    pub(crate) fn messages_since(&self, position: u64) -> u64 {
        self.since(position).map(|batch| u64::from(batch.messages)).sum()
    }

    /// Drops all batches before number `position`.
    pub(crate) fn release(&mut self, position: u64) {
        let Some(kept) = &mut self.kept else { return };
        while self.base < position
            && let Some(batch) = kept.batches.pop_front()
        {
            self.base += 1;
            kept.bytes -= batch.weight;
        }
        if kept.batches.is_empty() {
            self.kept = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Namespace, TotalsState};

    fn batch(text: &'static str) -> Batch {
        Batch { bytes: Bytes::from_static(text.as_bytes()), messages: 1, sources: None, weight: text.len() }
    }

    #[test]
    fn positions_stay_valid_when_old_batches_go() {
        let mut log = Log::default();
        for text in ["a", "bb", "ccc"] {
            log.push(batch(text));
        }
        log.release(1);
        assert_eq!((log.base(), log.head(), log.len(), log.bytes()), (1, 3, 2, 5));
        let left: Vec<_> = log.since(2).map(|batch| batch.bytes.clone()).collect();
        assert_eq!(left, ["ccc"]);
        log.release(3);
        assert_eq!((log.base(), log.head(), log.len(), log.bytes()), (3, 3, 0, 0));
        log.push(batch("d"));
        assert_eq!(log.since(3).count(), 1);
    }

    #[test]
    fn log_counts_messages_and_costs_nothing_when_empty() {
        let mut log = Log::default();
        for messages in [1, 20, 300] {
            log.push(Batch { messages, ..batch("a") });
        }
        assert_eq!([0, 1, 2, 3].map(|position| log.messages_since(position)), [321, 320, 300, 0]);
        assert_eq!(log.since(1).len(), 2);
        log.release(2);
        assert!(log.kept.is_some());
        log.release(3);
        assert_eq!((log.base(), log.bytes(), log.kept.is_none()), (3, 0, true));
    }

    #[test]
    fn merged_tallies_weigh_what_their_messages_do() {
        let tally =
            |namespace: &str| Message::tally(namespace.parse().unwrap(), [("key".to_owned(), 1)].into_iter().collect());
        let mut merged = MergedTallies::default();
        assert_eq!(merged.weight(), 0);
        for namespace in ["/a", "/b", "/b"] {
            merged.absorb(&tally(namespace));
        }
        assert_eq!(merged.weight(), tally("/a").weight() + tally("/b").weight());
    }

    #[test]
    fn tallies_of_different_events_are_not_mixed() {
        let tally = |event: Option<&str>| {
            let tally = [("k".to_owned(), 1)].into_iter().collect();
            Message { event: event.map(Arc::from), ..Message::tally(Namespace::root(), tally) }
        };
        let mut merged = MergedTallies::default();
        [tally(None), tally(Some("a")), tally(Some("b"))].iter().for_each(|message| merged.absorb(message));
        assert_eq!(merged.tallies, [tally(None), tally(Some("a")), tally(Some("b"))]);
    }

    #[test]
    fn tallies_of_different_namespaces_are_not_mixed() {
        let tally = |namespace: &str, count| {
            Message::tally(namespace.parse::<Namespace>().unwrap(), [("k".to_owned(), count)].into_iter().collect())
        };
        let mut merged = MergedTallies::default();
        merged.absorb(&tally("/eps", 1));
        merged.absorb(&tally("/other", 10));
        merged.absorb(&Message::text("/raw".parse().unwrap(), "x"));
        let mut all = merged.clone();
        all.merge(&merged);
        assert_eq!(all.tallies, [tally("/eps", 2), tally("/other", 20)]);
        assert_eq!((all.skipped, all.tallies.len()), (2, 2));
    }

    #[test]
    fn new_totals_replace_what_was_merged_before() {
        let eps: Namespace = "/eps".parse().unwrap();
        let counts = |count: i64| [("k".to_owned(), count)].into_iter().collect();
        let unavailable = || Message::totals_state(eps.clone(), TotalsState::Unavailable("too large".into()));
        let known = || Message::totals_state(eps.clone(), TotalsState::Known);
        let mut merged = MergedTallies::default();
        let tally = Message::tally(eps.clone(), counts(1));
        [&tally, &unavailable(), &tally].into_iter().for_each(|message| merged.absorb(message));
        assert_eq!(merged.tallies, [Message::tally(eps.clone(), counts(2)), unavailable()]);
        let mut later = MergedTallies::default();
        [&Message::totals(eps.clone(), counts(10)), &known(), &tally]
            .into_iter()
            .for_each(|message| later.absorb(message));
        merged.merge(&later);
        assert_eq!(merged.tallies, [Message::totals(eps.clone(), counts(11)), known()]);
        merged.absorb(&unavailable());
        assert_eq!(merged.tallies, [Message::totals(eps.clone(), counts(11)), unavailable()]);
    }
}
