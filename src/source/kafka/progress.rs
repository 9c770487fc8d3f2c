//! Where a partition has been read to, and whether records were lost before they were read. Pure.
//!
//! An offset is the number of a record; offsets of a partition have gaps where records were compacted or where transactions ended. All
//! places here are those of the *next* record, as consumers of Kafka commit them: zero is the beginning.

use tallycast_fanout::EntryId;

/// It will be known at the next look.
const NEXT_LOOK: u64 = u64::MAX;

/// The entry of the record at an offset. Its number is the offset after it, because zero comes before every entry.
pub(crate) fn entry(offset: u64) -> EntryId {
    EntryId::new(offset.saturating_add(1), 0)
}

/// The entry after which the record at `next` follows.
pub(super) fn before(next: u64) -> EntryId {
    EntryId::new(next, 0)
}

/// What a look at a partition has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The offset of the first record that is there.
    pub(super) low: u64,
    /// The offset after the last record that readers may get.
    pub(super) high: u64,
}

/// Where a partition has been read to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    /// The next record.
    next: u64,
    /// Records before it are for the history alone.
    backlog_until: u64,
    /// Where everything is read that was there at the start or at the beginning of the session, as long as it is not.
    catch_up_until: Option<u64>,
    /// Everything that was there at the start has been read.
    has_started: bool,
    /// The next record when the look was asked for that is under way.
    asked_at: u64,
    /// The last look found fewer records than were read.
    is_suspect: bool,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was read before.
    Repeated,
    /// It is for the history alone.
    Backlog,
    /// It is for readers.
    New,
}

/// What a look means for what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing was lost.
    Continuous,
    /// Records were deleted before they were read. Reading goes on with those that are left.
    Lost {
        /// The number of their offsets.
        offsets: u64,
    },
    /// The partition has fewer records than were read: its topic was created again, or it has lost its newest records. Reading starts
    /// over with the first one.
    Replaced,
}

impl Progress {
    /// Starts to read at `from`. What is there before `until` is for the history alone.
    pub(super) fn new(from: u64, until: u64) -> Self {
        Self {
            next: from,
            backlog_until: until,
            catch_up_until: Some(until),
            has_started: false,
            asked_at: from,
            is_suspect: false,
        }
    }

    /// Starts to read at `from`, where everything is new for readers, up to `high` and after it.
    pub(super) fn all_new(from: u64, high: u64) -> Self {
        Self { backlog_until: 0, ..Self::new(from, high) }
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether everything that was there at the start or at the beginning of the session has been read.
    pub(super) fn is_current(&self) -> bool {
        self.catch_up_until.is_none()
    }

    /// A record was received.
    pub(super) fn take(&mut self, offset: u64) -> Taken {
        if offset < self.next {
            return Taken::Repeated;
        }
        self.next = offset.saturating_add(1);
        if offset < self.backlog_until { Taken::Backlog } else { Taken::New }
    }

    /// Nothing is there before `end` that is still to be received.
    pub(super) fn skip_to(&mut self, end: u64) {
        self.next = self.next.max(end);
    }

    /// Whether everything that was there before is read. True once.
    pub(super) fn becomes_current(&mut self) -> bool {
        let next = self.next;
        let becomes_current = self.catch_up_until.take_if(|until| next >= *until).is_some();
        self.has_started |= becomes_current;
        becomes_current
    }

    /// The session has ended: records may be added that are not received. Returns `true` if none were left to read.
    pub(super) fn interrupt(&mut self) -> bool {
        let is_current = self.is_current();
        if self.has_started {
            self.catch_up_until = Some(NEXT_LOOK);
        }
        is_current
    }

    /// A look is asked for: what is read from now on may be newer than what it finds.
    pub(super) fn ask(&mut self) {
        self.asked_at = self.next;
    }

    /// Compares the partition with what was read. A new leader may know of fewer records than there are for a moment, so only the second
    /// look that finds too few of them counts.
    pub(super) fn look(&mut self, bounds: Bounds) -> Finding {
        let Bounds { low, high } = bounds;
        if high < self.asked_at {
            if !std::mem::replace(&mut self.is_suspect, true) {
                return Finding::Continuous;
            }
            *self = Self { has_started: self.has_started, ..Self::all_new(low, high) };
            return Finding::Replaced;
        }
        self.is_suspect = false;
        self.catch_up_until = self.catch_up_until.map(|until| if until == NEXT_LOOK { high } else { until });
        if low > self.next {
            let offsets = low - self.next;
            self.next = low;
            return Finding::Lost { offsets };
        }
        Finding::Continuous
    }
}

/// The first record of a history that has at most `max_records` and begins no earlier than `at_age`, the first record that is young
/// enough; `bounds` are those of the partition, which has been read up to `until` by readers.
pub(super) fn beginning(bounds: Bounds, until: u64, max_records: Option<usize>, at_age: Option<u64>) -> u64 {
    let by_number = max_records.map(|number| until.saturating_sub(number as u64));
    by_number.max(at_age).unwrap_or(0).clamp(bounds.low.min(until), until)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounds(low: u64, high: u64) -> Bounds {
        Bounds { low, high }
    }

    #[test]
    fn records_before_the_start_are_backlog_and_later_ones_new() {
        let mut progress = Progress::new(5, 7);
        let taken: Vec<Taken> = [4, 5, 5, 6].map(|offset| progress.take(offset)).to_vec();
        assert_eq!(taken, [Taken::Repeated, Taken::Backlog, Taken::Repeated, Taken::Backlog]);
        assert!(progress.becomes_current() && !progress.becomes_current() && progress.is_current());
        assert_eq!(progress.take(9), Taken::New);
        assert_eq!((entry(9), before(progress.next())), (EntryId::new(10, 0), EntryId::new(10, 0)));
    }

    #[test]
    fn end_of_a_transaction_is_passed_over() {
        let mut progress = Progress::new(0, 3);
        assert_eq!(progress.take(1), Taken::Backlog);
        assert!(!progress.becomes_current());
        progress.skip_to(3);
        assert!(progress.becomes_current());
    }

    #[test]
    fn next_session_catches_up_to_what_its_first_look_finds() {
        let mut progress = Progress::new(0, 0);
        assert!(progress.becomes_current() && progress.interrupt());
        assert!(!progress.becomes_current());
        assert_eq!(progress.look(bounds(0, 2)), Finding::Continuous);
        assert_eq!((progress.take(0), progress.becomes_current()), (Taken::New, false));
        assert_eq!((progress.take(1), progress.becomes_current()), (Taken::New, true));
    }

    #[test]
    fn deleted_records_are_a_loss_only_if_they_were_not_read() {
        let mut progress = Progress::new(0, 4);
        (0..4).for_each(|offset| assert_eq!(progress.take(offset), Taken::Backlog));
        assert_eq!(progress.look(bounds(4, 6)), Finding::Continuous);
        assert_eq!(progress.look(bounds(9, 12)), Finding::Lost { offsets: 5 });
        assert_eq!(progress.next(), 9);
    }

    #[test]
    fn partition_with_fewer_records_is_another_one_when_two_looks_say_so() {
        let mut progress = Progress::new(8, 8);
        assert!(progress.becomes_current());
        progress.ask();
        // A look that was asked for before the last record came.
        assert_eq!(progress.take(8), Taken::New);
        assert_eq!(progress.look(bounds(0, 8)), Finding::Continuous);
        progress.ask();
        assert_eq!(progress.look(bounds(0, 3)), Finding::Continuous);
        assert_eq!(progress.look(bounds(0, 9)), Finding::Continuous);
        assert_eq!(progress.look(bounds(0, 3)), Finding::Continuous);
        assert_eq!(progress.look(bounds(1, 3)), Finding::Replaced);
        assert_eq!((progress.next(), progress.is_current()), (1, false));
        assert_eq!(progress.take(1), Taken::New);
        assert_eq!(progress.look(bounds(1, 3)), Finding::Continuous);
        assert_eq!((progress.take(2), progress.becomes_current()), (Taken::New, true));
    }

    #[test]
    fn history_begins_at_the_later_of_its_bounds() {
        let of = |max, at_age| beginning(bounds(10, 100), 100, max, at_age);
        assert_eq!((of(None, None), of(Some(20), None), of(Some(1000), None)), (10, 80, 10));
        assert_eq!((of(None, Some(90)), of(Some(20), Some(90)), of(Some(5), Some(90))), (90, 90, 95));
        assert_eq!(beginning(bounds(100, 120), 90, Some(5), None), 90);
    }

    proptest! {
        /// Whatever a broker says, reading never goes back without saying so, and every record is read at most once in between.
        #[test]
        fn records_are_taken_once(
            steps in proptest::collection::vec((0..3u8, 0..20u64, 0..20u64), 0..60),
        ) {
            let mut progress = Progress::new(0, 5);
            let mut newest = None;
            for (kind, a, b) in steps {
                match kind {
                    0 => {
                        if progress.take(a) != Taken::Repeated {
                            prop_assert!(newest < Some(a));
                            newest = Some(a);
                        }
                    }
                    1 => progress.ask(),
                    _ => {
                        let before = progress.next();
                        match progress.look(bounds(a.min(b), a.max(b))) {
                            Finding::Continuous => prop_assert_eq!(progress.next(), before),
                            Finding::Lost { offsets } => prop_assert_eq!(progress.next(), before + offsets),
                            Finding::Replaced => newest = None,
                        }
                    }
                }
            }
        }
    }
}
