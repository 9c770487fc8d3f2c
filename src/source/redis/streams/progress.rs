//! Where a stream has been read to, and whether entries were lost before they were read. Pure.
//!
//! Redis numbers no entries, so losses are found by counting: a stream says how many entries were ever added to it
//! (`entries-added`, since Redis 7.0), and what was neither read nor is there to read is lost. Where that number is missing, a
//! stream that begins after the place where reading was is taken to have lost entries.

use std::collections::VecDeque;

use tallycast_fanout::EntryId;

/// How many confirmed entries are remembered. They are as far apart as looks at the stream.
const MAX_CONFIRMED: usize = 64;

/// What `XINFO STREAM` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamInfo {
    /// Entries in the stream.
    pub(super) length: u64,
    /// The id of the newest entry there ever was.
    pub(super) last_generated: EntryId,
    /// Entries ever added, those included that are no longer there; unknown before Redis 7.0.
    pub(super) added: Option<u64>,
    /// The first entry in the stream.
    pub(super) first: Option<EntryId>,
}

impl StreamInfo {
    /// What is known of a stream that does not exist.
    pub(super) const ABSENT: Self = Self { length: 0, last_generated: EntryId::ZERO, added: Some(0), first: None };

    /// The last entry that is not available; zero if every entry there ever was is.
    pub(super) fn start(&self) -> EntryId {
        match self.first {
            _ if self.added == Some(self.length) => EntryId::ZERO,
            Some(first) => before(first),
            None => self.last_generated,
        }
    }

    /// The number of entries ever added up to [`start`](Self::start).
    pub(super) fn added_at_start(&self) -> Option<u64> {
        self.added.map(|added| added.saturating_sub(self.length))
    }
}

/// The greatest id before `id`.
pub(super) fn before(id: EntryId) -> EntryId {
    match (id.major, id.minor) {
        (0, 0) => EntryId::ZERO,
        (major, 0) => EntryId::new(major - 1, u64::MAX),
        (major, minor) => EntryId::new(major, minor - 1),
    }
}

/// Where a stream has been read to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    /// The last entry that was read or passed over.
    last: EntryId,
    /// The number of entries ever added up to `last`, if it is known.
    added: Option<u64>,
    /// The first entry of the stream when it was last looked at.
    first: Option<EntryId>,
    /// Entries that were the last ones read when the stream was found to be the one that it was, the newest at the end.
    confirmed: VecDeque<EntryId>,
    /// Entries after the first of these, up to the second, are for the history alone.
    backlog: (EntryId, EntryId),
    /// The last entry that was there at the start or at the beginning of the session, as long as it has not been read.
    catch_up_until: Option<EntryId>,
    /// Everything that was there at the start has been read.
    has_started: bool,
}

/// It will be known at the next look.
const NEXT_LOOK: EntryId = EntryId::new(u64::MAX, u64::MAX);

/// What a look at a stream finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing was lost.
    Continuous,
    /// Entries were trimmed or deleted before they were read.
    Lost {
        /// Everything after this entry follows.
        after: EntryId,
        /// How many, if it is known.
        entries: Option<u64>,
    },
    /// The stream was deleted or is another one, or its newest entries are gone.
    Replaced,
}

impl Progress {
    /// Starts to read after `after`, up to which `added` entries were ever added. Those up to `until` are for the history alone.
    pub(super) fn new(after: EntryId, added: Option<u64>, info: &StreamInfo, until: EntryId) -> Self {
        let first = info.first;
        let backlog = (EntryId::ZERO, until);
        Self {
            last: after,
            added,
            first,
            confirmed: [after].into(),
            backlog,
            catch_up_until: Some(until),
            has_started: false,
        }
    }

    /// Starts over after `after` in a stream that was replaced. Readers have received the entries after the first of `sent`, up
    /// to the second.
    pub(super) fn restarted(after: EntryId, added: Option<u64>, info: &StreamInfo, sent: (EntryId, EntryId)) -> Self {
        Self { backlog: sent, has_started: true, ..Self::new(after, added, info, info.last_generated) }
    }

    pub(super) fn last(&self) -> EntryId {
        self.last
    }

    pub(super) fn added(&self) -> Option<u64> {
        self.added
    }

    /// Entries that were the last ones read when the stream was found to be the one that it was, the newest first.
    pub(super) fn confirmed(&self) -> impl Iterator<Item = EntryId> {
        self.confirmed.iter().rev().copied()
    }

    /// Whether everything that was there at the start or at the beginning of the session has been read.
    pub(super) fn is_current(&self) -> bool {
        self.catch_up_until.is_none()
    }

    /// Whether everything that was there at the start has been read.
    pub(super) fn has_started(&self) -> bool {
        self.has_started
    }

    /// The session has ended: entries may be added that are not received. Returns `true` if none were left to read.
    pub(super) fn interrupt(&mut self) -> bool {
        let is_current = self.is_current();
        if self.has_started {
            self.catch_up_until = Some(NEXT_LOOK);
        }
        is_current
    }

    /// Whether an entry is for the history alone.
    pub(super) fn is_backlog(&self, id: EntryId) -> bool {
        self.backlog.0 < id && id <= self.backlog.1
    }

    /// Whether everything that was there before is read, now that the entry `next` follows, or nothing is left to read. True once.
    pub(super) fn becomes_current(&mut self, next: Option<EntryId>) -> bool {
        let reached = |until: &mut EntryId| self.last >= *until || next.is_none_or(|next| next > *until);
        let becomes_current = self.catch_up_until.take_if(reached).is_some();
        self.has_started |= becomes_current;
        becomes_current
    }

    /// The entry was read.
    pub(super) fn read(&mut self, id: EntryId) {
        self.last = id;
        self.added = self.added.map(|added| added + 1);
    }

    /// The stream was found continuous, and everything read from it up to now is of this stream.
    pub(super) fn confirm(&mut self) {
        if self.confirmed.back() == Some(&self.last) {
            return;
        }
        if self.confirmed.len() == MAX_CONFIRMED {
            self.confirmed.pop_front();
        }
        self.confirmed.push_back(self.last);
    }

    /// Compares the stream, as it was right after `batch` was received from it, with what was read before; `None` if there is
    /// no stream. After a loss, goes on where the stream does.
    pub(super) fn check(&mut self, info: Option<&StreamInfo>, batch: &[EntryId]) -> Finding {
        let Some(info) = info else {
            return if self.last == EntryId::ZERO { Finding::Continuous } else { Finding::Replaced };
        };
        let received = batch.len() as u64;
        let newest = batch.last().copied().unwrap_or(self.last);
        let too_few = |(now, before): (u64, u64)| now < before + received;
        if info.last_generated < newest || info.added.zip(self.added).is_some_and(too_few) {
            return Finding::Replaced;
        }
        self.catch_up_until =
            self.catch_up_until.map(|until| if until == NEXT_LOOK { info.last_generated } else { until });
        let starts_after = match info.first {
            Some(first) => first > self.last,
            None => info.last_generated > self.last,
        };
        // What follows `last`.
        let unread = if starts_after || info.length == 0 {
            Some(info.length)
        } else {
            (newest == info.last_generated).then_some(received)
        };
        let lost = match (info.added, self.added) {
            (Some(now), Some(before)) => unread.map_or(0, |unread| now.saturating_sub(before + unread)),
            // At least one, as far as anyone can say: where the stream begins has passed by where reading was.
            _ => u64::from(starts_after && (info.first.is_none() || info.first != self.first)),
        };
        let is_counted = info.added.is_some() && self.added.is_some();
        if let Some((now, unread)) = info.added.zip(unread) {
            self.added = Some(now.saturating_sub(unread));
        }
        self.first = info.first;
        if lost == 0 {
            return Finding::Continuous;
        }
        if starts_after {
            self.last = info.first.map_or(info.last_generated, before);
        }
        Finding::Lost { after: self.last, entries: is_counted.then_some(lost) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(major: u64) -> EntryId {
        EntryId::new(major, 0)
    }

    /// A stream as Redis keeps it, with ids `1-0`, `2-0` and so on.
    #[derive(Debug, Default)]
    struct Stream {
        entries: Vec<u64>,
        last: u64,
        added: u64,
    }

    impl Stream {
        fn add(&mut self, count: u64) {
            for _ in 0..count {
                self.last += 1;
                self.added += 1;
                self.entries.push(self.last);
            }
        }

        fn info(&self, counts: bool) -> StreamInfo {
            StreamInfo {
                length: self.entries.len() as u64,
                last_generated: id(self.last),
                added: counts.then_some(self.added),
                first: self.entries.first().copied().map(id),
            }
        }

        fn batch(&self, after: EntryId, count: usize) -> Vec<EntryId> {
            self.entries.iter().map(|&major| id(major)).filter(|&id| id > after).take(count).collect()
        }
    }

    fn look(stream: &Stream, progress: &mut Progress, counts: bool, count: usize) -> Finding {
        let batch = stream.batch(progress.last(), count);
        let finding = progress.check(Some(&stream.info(counts)), &batch);
        if finding != Finding::Replaced {
            batch.into_iter().for_each(|id| progress.read(id));
            progress.confirm();
        }
        finding
    }

    #[test]
    fn start_is_zero_only_if_every_entry_is_there() {
        let mut stream = Stream::default();
        stream.add(3);
        assert_eq!(stream.info(true).start(), EntryId::ZERO);
        assert_eq!(stream.info(false).start(), before(id(1)));
        stream.entries.remove(0);
        assert_eq!(
            (stream.info(true).start(), stream.info(true).added_at_start()),
            (EntryId::new(1, u64::MAX), Some(1))
        );
        stream.entries.clear();
        assert_eq!((stream.info(true).start(), stream.info(false).start()), (id(3), id(3)));
        assert_eq!(Stream::default().info(true).start(), EntryId::ZERO);
    }

    #[test]
    fn replaced_streams_are_noticed() {
        let mut stream = Stream::default();
        stream.add(5);
        let progress = Progress::new(id(5), Some(5), &stream.info(true), id(5));
        let finding = |stream: &Stream| progress.clone().check(Some(&stream.info(true)), &stream.batch(id(5), 9));
        assert_eq!(finding(&stream), Finding::Continuous);
        assert_eq!(progress.clone().check(None, &[]), Finding::Replaced);
        // Fewer and older entries, as on a replica; then newer ones, but fewer.
        let mut other = Stream::default();
        other.add(4);
        assert_eq!(finding(&other), Finding::Replaced);
        assert_eq!(finding(&Stream { entries: vec![8, 9], last: 9, added: 2 }), Finding::Replaced);
        let nothing = Progress::new(EntryId::ZERO, Some(0), &StreamInfo::ABSENT, EntryId::ZERO);
        assert_eq!(nothing.clone().check(None, &[]), Finding::Continuous);
        assert_eq!(
            nothing.clone().check(Some(&stream.info(true)), &stream.batch(EntryId::ZERO, 9)),
            Finding::Continuous
        );
    }

    #[test]
    fn entries_of_the_start_come_before_the_others() {
        let mut progress = Progress::new(id(1), None, &StreamInfo::ABSENT, id(3));
        assert!(progress.is_backlog(id(3)) && !progress.is_backlog(id(4)));
        assert!(!progress.becomes_current(Some(id(2))));
        progress.read(id(2));
        // The last one was deleted meanwhile.
        assert!(progress.becomes_current(Some(id(4))) && !progress.becomes_current(None) && progress.is_current());
        let mut empty = Progress::new(id(1), None, &StreamInfo::ABSENT, id(1));
        assert!(empty.becomes_current(Some(id(1))));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(u64),
        /// Trims the stream to this length.
        Trim(usize),
        Look(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (1..6_u64).prop_map(Step::Add),
            1 => (0..4_usize).prop_map(Step::Trim),
            3 => (1..8_usize).prop_map(Step::Look),
        ];
        proptest::collection::vec(step, 1..40)
    }

    proptest! {
        /// Every loss is found by the time that everything has been read, and nothing else is taken for one.
        #[test]
        fn losses_by_trimming_are_found_and_counted(steps in steps(), begins_with in 0..5_u64) {
            let mut stream = Stream::default();
            stream.add(begins_with);
            let until = id(stream.last);
            let mut progress = Progress::new(EntryId::ZERO, Some(0), &stream.info(true), until);
            let (mut lost, mut found, mut read) = (0, 0, 0);
            for step in steps.into_iter().chain([Step::Look(usize::MAX)]) {
                match step {
                    Step::Add(count) => stream.add(count),
                    Step::Trim(length) => {
                        let removed = stream.entries.len().saturating_sub(length);
                        lost += stream.entries.drain(..removed).filter(|&major| id(major) > progress.last()).count() as u64;
                    }
                    Step::Look(count) => {
                        read += stream.batch(progress.last(), count).len() as u64;
                        match look(&stream, &mut progress, true, count) {
                            Finding::Continuous => {}
                            Finding::Lost { entries, .. } => found += entries.unwrap(),
                            Finding::Replaced => panic!("the same stream"),
                        }
                    }
                }
            }
            prop_assert_eq!(found, lost);
            prop_assert_eq!(read + lost, stream.added);
        }

        /// Without numbers from Redis, no loss goes unnoticed, though one may be reported that was none.
        #[test]
        fn losses_are_found_without_counts(steps in steps()) {
            let mut stream = Stream::default();
            stream.add(1);
            let mut progress = Progress::new(EntryId::ZERO, None, &stream.info(false), id(1));
            let mut lost = false;
            for step in steps.into_iter().chain([Step::Look(usize::MAX)]) {
                match step {
                    Step::Add(count) => stream.add(count),
                    Step::Trim(length) => {
                        let removed = stream.entries.len().saturating_sub(length);
                        lost |= stream.entries.drain(..removed).any(|major| id(major) > progress.last());
                    }
                    Step::Look(count) => {
                        let finding = look(&stream, &mut progress, false, count);
                        prop_assert!(!lost || matches!(finding, Finding::Lost { entries: None, .. }), "{:?}", finding);
                        lost = false;
                    }
                }
            }
        }
    }
}
