//! Where a stream of JetStream has been read to, and whether messages were lost before they were read. Pure.
//!
//! JetStream numbers the messages of a stream without gaps, and says which of them is the first one left. Messages before that
//! one that were not read are lost. Messages that were deleted between others are none that anyone waits for.

use crate::nats_client::StreamInfo;

/// Where a stream has been read to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    /// When the stream was created.
    created: String,
    /// The last message that was read or passed over.
    last: u64,
    /// Messages up to this one are for the history alone.
    backlog: u64,
    /// The last message that was there at the start or at the beginning of the session, as long as it has not been read.
    catch_up_until: Option<u64>,
    /// Everything that was there at the start has been read.
    has_started: bool,
}

/// What a look at a stream finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing was lost.
    Continuous,
    /// Messages were removed before they were read. This is the last of them.
    Lost {
        /// Everything after this one follows.
        after: u64,
        /// How many at most: some may have been deleted one by one.
        messages: u64,
    },
    /// The newest messages are gone, and their numbers are used again.
    Shortened {
        /// The newest one that is left.
        after: u64,
    },
    /// The stream is another one of the same name.
    Replaced {
        /// Everything after this one follows.
        after: u64,
    },
}

impl Progress {
    /// Starts to read after `after`. Messages up to `until` are for the history alone.
    pub(super) fn new(info: &StreamInfo, after: u64, until: u64) -> Self {
        let created = info.created.clone();
        Self { created, last: after, backlog: until, catch_up_until: Some(until), has_started: false }
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Whether everything that was there at the start or at the beginning of the session has been read.
    pub(super) fn is_current(&self) -> bool {
        self.catch_up_until.is_none()
    }

    /// The session has ended: messages may be added that are not received. Returns `true` if none were left to read.
    pub(super) fn interrupt(&mut self) -> bool {
        let is_current = self.is_current();
        if self.has_started {
            // It will be known at the next look.
            self.catch_up_until = Some(u64::MAX);
        }
        is_current
    }

    /// Whether a message is for the history alone.
    pub(super) fn is_backlog(&self, number: u64) -> bool {
        number <= self.backlog
    }

    /// Whether everything that was there before is read, now that the message `next` follows, or nothing is left to read. True once.
    pub(super) fn becomes_current(&mut self, next: Option<u64>) -> bool {
        let reached = |until: &mut u64| self.last >= *until || next.is_none_or(|next| next > *until);
        let becomes_current = self.catch_up_until.take_if(reached).is_some();
        self.has_started |= becomes_current;
        becomes_current
    }

    /// The message was read.
    pub(super) fn read(&mut self, number: u64) {
        self.last = number;
    }

    /// Whether it is about this stream, and not about another one of the same name.
    pub(super) fn is_of(&self, info: &StreamInfo) -> bool {
        self.created == info.created
    }

    /// There is no stream any more. The next one counts from the beginning. Returns `false` if that was known.
    pub(super) fn delete(&mut self) -> bool {
        let was_there = !self.created.is_empty();
        self.created.clear();
        (self.last, self.backlog) = (0, 0);
        self.catch_up_until = Some(0);
        was_there
    }

    /// Compares the stream with what was read of it, where the message `next` was received next, if there is one. After a loss,
    /// goes on where the stream does.
    pub(super) fn check(&mut self, info: &StreamInfo, next: Option<u64>) -> Finding {
        if self.created.is_empty() {
            self.created.clone_from(&info.created);
        }
        if !self.is_of(info) {
            // Nothing of it is known, so all of it is news, except before the first message was sent.
            let (after, has_started) = (info.before_first(), self.has_started);
            let backlog = if has_started { 0 } else { info.last() };
            *self = Self { backlog, has_started, ..Self::new(info, after, info.last()) };
            return Finding::Replaced { after };
        }
        if let Some(until) = &mut self.catch_up_until {
            *until = (*until).min(info.last());
        }
        if info.last() < self.last {
            self.last = info.last();
            self.backlog = self.backlog.min(self.last);
            return Finding::Shortened { after: self.last };
        }
        // What was received since may have been removed as well.
        let removed = info.before_first().min(next.map_or(u64::MAX, |next| next.saturating_sub(1)));
        let messages = removed.saturating_sub(self.last);
        if messages == 0 {
            return Finding::Continuous;
        }
        self.last = removed;
        Finding::Lost { after: self.last, messages }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info(first: u64, last: u64) -> StreamInfo {
        StreamInfo::new("today", (last + 1).saturating_sub(first), first, last)
    }

    #[test]
    fn messages_of_the_start_come_before_the_others() {
        let mut progress = Progress::new(&info(1, 3), 1, 3);
        assert!(progress.is_backlog(3) && !progress.is_backlog(4));
        assert!(!progress.becomes_current(Some(2)));
        progress.read(2);
        // The last one was deleted meanwhile.
        assert!(progress.becomes_current(Some(4)) && !progress.becomes_current(None) && progress.is_current());
        assert!(Progress::new(&info(1, 1), 1, 1).becomes_current(Some(2)));
        // A session that continues is current again when it has read what was there.
        assert!(progress.interrupt() && !progress.interrupt());
        assert_eq!(progress.check(&info(1, 5), None), Finding::Continuous);
        progress.read(4);
        assert!(!progress.becomes_current(Some(5)));
        progress.read(5);
        assert!(progress.becomes_current(Some(6)));
    }

    #[test]
    fn removed_and_replaced_messages_are_found() {
        let mut progress = Progress::new(&info(1, 5), 5, 5);
        assert!(progress.becomes_current(None));
        assert_eq!(progress.clone().check(&info(6, 5), None), Finding::Continuous);
        assert_eq!(progress.clone().check(&info(8, 9), None), Finding::Lost { after: 7, messages: 2 });
        // Purged.
        assert_eq!(progress.clone().check(&info(9, 8), None), Finding::Lost { after: 8, messages: 3 });
        assert_eq!(progress.clone().check(&info(1, 3), None), Finding::Shortened { after: 3 });
        let mut replaced = progress.clone();
        let other = StreamInfo::new("tomorrow", 7, 2, 8);
        assert_eq!(replaced.check(&other, None), Finding::Replaced { after: 1 });
        assert!(!replaced.is_backlog(2) && !replaced.is_current());
        // Readers have seen nothing of it yet.
        let mut early = Progress::new(&info(1, 5), 0, 5);
        assert_eq!(early.check(&other, None), Finding::Replaced { after: 1 });
        assert!(early.is_backlog(8) && !early.is_backlog(9));
        // A stream that comes after a deleted one is news, and no second loss.
        assert!(progress.delete() && !progress.delete());
        assert_eq!(progress.check(&info(1, 3), None), Finding::Continuous);
        assert!(progress.last() == 0 && !progress.is_backlog(1));
        // Of these, one was received before it was removed.
        assert_eq!(progress.check(&info(9, 9), Some(3)), Finding::Lost { after: 2, messages: 2 });
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(u64),
        /// Removes so many of the first messages.
        Trim(u64),
        Read(u64),
        Look,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1..6_u64).prop_map(Step::Add),
            (1..4_u64).prop_map(Step::Trim),
            (1..8_u64).prop_map(Step::Read),
            Just(Step::Look),
        ];
        proptest::collection::vec(step, 1..40)
    }

    proptest! {
        /// Every loss is found by the time that everything has been read, and nothing else is taken for one.
        #[test]
        fn losses_are_found_and_counted(steps in steps()) {
            let (mut first, mut last) = (1, 0);
            let mut progress = Progress::new(&info(1, 0), 0, 0);
            let (mut read, mut found) = (0, 0);
            for step in steps.into_iter().chain([Step::Look, Step::Read(u64::MAX)]) {
                match step {
                    Step::Add(count) => last += count,
                    Step::Trim(count) => first = (first + count).min(last + 1),
                    Step::Look => match progress.check(&info(first, last), None) {
                        Finding::Continuous => {}
                        Finding::Lost { messages, .. } => found += messages,
                        other => panic!("{other:?}"),
                    },
                    Step::Read(count) => {
                        for number in (progress.last() + 1..=last).skip_while(|&number| number < first).take(count.min(99) as usize) {
                            // As the source does.
                            if number != progress.last() + 1
                                && let Finding::Lost { messages, .. } = progress.check(&info(first, last), Some(number))
                            {
                                found += messages;
                            }
                            progress.read(number);
                            read += 1;
                        }
                    }
                }
            }
            prop_assert_eq!(read + found, last);
        }
    }
}
