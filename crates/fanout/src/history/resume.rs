//! Where a reader starts in the history.

use std::time::{Duration, Instant};

use super::History;
use super::filter::Filter;
use super::selection::StoreStart;
use super::store::Store;
use crate::{Reset, ResetReason, Stats, Topics};

/// The id that stands for the beginning of the history.
pub(crate) const EARLIEST: &str = "earliest";

/// Where a reader wants to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// After the message with this id, as it was on the wire. `earliest` stands for the beginning of the history.
    After(Box<str>),
    /// After the kept message with this [`Update::id`](crate::Update::id), or, if there is none, as [`After`](Self::After). With an id that
    /// is unknown to both, or too old, the reader gets all that is kept, and [`Resume::position`] is `earliest`.
    AfterUpdate(Box<str>),
    /// With the newest messages of its topics, as many as this.
    Newest(usize),
    /// With the messages of this time.
    Since(Duration),
    /// With the newest message of each namespace, of those that are kept by [`Retention::last_values`].
    ///
    /// [`Retention::last_values`]: crate::Retention::last_values
    LastValues,
}

/// Where a reader starts in the history of one engine; see [`Handle::resume`](crate::Handle::resume).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    pub(crate) starts: Box<[StoreStart]>,
    pub(crate) next: u64,
    pub(crate) last_values: bool,
    /// Whether the reader was promised everything from there on.
    pub(crate) is_exact: bool,
    pub(crate) reset: Option<ResetReason>,
    /// The id of the message before the first one that it gets.
    pub(crate) position: Box<str>,
}

impl Resume {
    /// The id of the message before the first one that the reader gets, or `earliest`. If the reader asked for another one, what
    /// followed that is not available, and it will be sent a reset.
    pub fn position(&self) -> &str {
        &self.position
    }

    /// Whether it starts later than before number `end`.
    pub(crate) fn is_after(&self, end: u64) -> bool {
        self.starts.iter().any(|start| start.number > end)
    }

    /// Not in the past, because of `reason`.
    fn reset(history: &History, reason: ResetReason) -> Self {
        Self {
            starts: Box::default(),
            next: history.head,
            last_values: false,
            is_exact: false,
            reset: Some(reason),
            position: history.sequences.id().into(),
        }
    }
}

/// What a reader gets first.
#[derive(Debug)]
pub(crate) struct Beginning {
    /// The id of the message before the first one that it gets; empty if none is.
    pub(crate) position: Box<str>,
    pub(crate) reset: Option<Reset>,
    pub(crate) replay: Option<Span>,
}

impl Beginning {
    /// Counts a reader that wanted to start in the past.
    pub(crate) fn count(&self, stats: &Stats) {
        let counter = if self.reset.is_some() { &stats.resets } else { &stats.resumed };
        counter.add(1);
    }
}

/// A part of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// See [`Query`](super::Query).
    pub(crate) starts: Box<[StoreStart]>,
    pub(crate) next: u64,
    pub(crate) end: u64,
    pub(crate) last_values: bool,
}

/// The history does not reach up to a position yet, or its source has not reported everything yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotYet {
    /// The source is still starting, or has lost its broker.
    NotCurrent,
    /// The position is ahead of every message.
    Ahead,
    /// No message has this id of its publisher: it is not kept any more, or not known here yet.
    UnknownUpdate,
}

impl History {
    /// Where a reader starts; `None` if none of its messages are kept.
    pub(crate) fn resume(&self, filter: &Filter, start: &Start, now: Instant) -> Result<Option<Resume>, NotYet> {
        if self.undeclared > 0 {
            return Err(NotYet::NotCurrent);
        }
        let stores = || self.stores.iter().filter(|store| store.may_have(&filter.topics));
        if stores().next().is_none() {
            return Ok(None);
        }
        let is_current = |store: &Store| self.sequences.get(store.sequence).is_some_and(|of| of.is_current);
        if !stores().all(is_current) {
            return Err(NotYet::NotCurrent);
        }
        let start_in = |store: &Store, number: Option<u64>| StoreStart {
            store: store.id,
            number: number.unwrap_or(self.head),
            trimmed_before: store.trimmed_before,
        };
        let all = |number| stores().map(|store| start_in(store, Some(number))).collect::<Box<[_]>>();
        let from = |starts: Box<[StoreStart]>, is_exact, position: Box<str>| {
            let next = starts.iter().map(|start| start.number).min().unwrap_or(self.head);
            Resume { starts, next, last_values: false, is_exact, reset: None, position }
        };
        Ok(Some(match start {
            Start::After(id) if **id == *EARLIEST => from(all(0), false, EARLIEST.into()),
            Start::After(id) => {
                let entries = self.sequences.parse(id);
                let mut starts = Vec::new();
                for store in stores() {
                    let Some(sequence) = self.sequences.get(store.sequence) else { continue };
                    let Some(entry) = entries.get(store.sequence).copied().flatten() else {
                        // The engine that this one relays may have started again, which it has not heard of yet.
                        return if sequence.confirmed_at.is_some() && !self.sequences.is_past(id) {
                            Err(NotYet::Ahead)
                        } else {
                            Ok(Some(self.unknown()))
                        };
                    };
                    if entry > sequence.newest {
                        // Only other nodes can know entries that this one does not know yet.
                        return match sequence.name {
                            Some(_) => Err(NotYet::Ahead),
                            None => Ok(Some(self.unknown())),
                        };
                    }
                    if entry < store.trimmed {
                        return Ok(Some(Resume::reset(self, ResetReason::Trimmed)));
                    }
                    starts.push(start_in(store, store.number_after(entry)));
                }
                from(starts.into(), true, self.sequences.id_at(&entries).into())
            }
            Start::AfterUpdate(id) if **id == *EARLIEST => from(all(0), false, EARLIEST.into()),
            Start::AfterUpdate(id) => match self.number_of_update(id) {
                Some(number) => {
                    let is_lost = stores().any(|store| store.trimmed_before > number + 1);
                    let position = if is_lost { EARLIEST } else { id };
                    from(all(number + 1), !is_lost, position.into())
                }
                None => {
                    let resume = match self.resume(filter, &Start::After(id.clone()), now) {
                        Err(NotYet::Ahead) => return Err(NotYet::UnknownUpdate),
                        resume => resume?,
                    };
                    match resume.filter(|resume| resume.reset.is_none()) {
                        Some(resume) => Resume { position: id.clone(), ..resume },
                        // Another node may have it already.
                        None if stores().any(|store| self.sequences.is_shared(store.sequence)) => {
                            return Err(NotYet::UnknownUpdate);
                        }
                        None => from(all(0), false, EARLIEST.into()),
                    }
                }
            },
            Start::Newest(count) => {
                let number = self.newest(filter, *count);
                from(all(number), false, self.id_before(number))
            }
            Start::Since(time) => {
                // Longer than the process may have run.
                let at = now.checked_sub(*time);
                let starts: Box<[_]> =
                    stores().map(|store| start_in(store, at.map_or(Some(0), |at| store.number_at(at)))).collect();
                let resume = from(starts, false, "".into());
                Resume { position: self.id_before(resume.next), ..resume }
            }
            Start::LastValues => {
                // Not the newest one: a reader that loses its stream before it has got all values must not go on after them.
                Resume { last_values: true, ..from(all(0), false, "".into()) }
            }
        }))
    }

    /// Where a reader with an unknown position starts.
    fn unknown(&self) -> Resume {
        Resume::reset(self, ResetReason::Unknown)
    }

    /// Where a reader starts whose position is still ahead of every message, after it has waited long enough.
    pub(crate) fn resume_unknown(&self, filter: &Filter, start: &Start) -> Resume {
        let earliest = Start::AfterUpdate(EARLIEST.into());
        match start {
            Start::AfterUpdate(_) => self.resume(filter, &earliest, Instant::now()).ok().flatten(),
            _ => None,
        }
        .unwrap_or_else(|| self.unknown())
    }

    /// The number of the newest message whose publisher gave it this id.
    fn number_of_update(&self, id: &str) -> Option<u64> {
        self.stores.iter().filter_map(|store| store.number_of_update(id)).max()
    }

    /// The id that its publisher gave the newest update.
    pub(crate) fn newest_update(&self) -> Option<Box<str>> {
        let newest = self.stores.iter().filter_map(Store::newest_update).max_by_key(|(number, _)| *number);
        newest.map(|(_, id)| id.into())
    }

    /// What a reader of `topics` gets first: from where it starts, or from now on.
    pub(crate) fn begin(&self, topics: &Topics, resume: Option<Resume>) -> Beginning {
        let Some(resume) = resume else {
            return Beginning { position: self.sequences.position().unwrap_or_default(), reset: None, replay: None };
        };
        let Resume { mut starts, next, last_values, is_exact, reset, position } = resume;
        let trimmed_before =
            |id: u32| self.stores.iter().find(|store| store.id == id).map(|store| store.trimmed_before);
        let is_lost = |start: &StoreStart| trimmed_before(start.store).is_none_or(|trimmed| trimmed > start.number);
        let reset = reset.or((is_exact && starts.iter().any(is_lost)).then_some(ResetReason::Trimmed));
        if let Some(reason) = reset {
            return self.reset(topics, reason);
        }
        for start in &mut starts {
            start.trimmed_before = trimmed_before(start.store).unwrap_or_default();
        }
        let replay = (next < self.head).then_some(Span { starts, next, end: self.head, last_values });
        Beginning { position, reset: None, replay }
    }

    /// What a reader of `topics` gets first that cannot go on where it was: a reset, then the last values of its topics, if they
    /// are kept.
    pub(crate) fn reset(&self, topics: &Topics, reason: ResetReason) -> Beginning {
        let newest: Box<str> = self.sequences.id().into();
        let earliest = self.earliest(topics).unwrap_or_else(|| newest.clone());
        let last_values = Span { starts: Box::default(), next: 0, end: self.head, last_values: true };
        let replay = self.has_last_values(topics).then_some(last_values);
        // As for a reader that starts with the last values.
        let position = if replay.is_some() { "".into() } else { newest };
        Beginning { position: position.clone(), reset: Some(Reset { reason, earliest, position }), replay }
    }

    /// The id of the newest message before number `number` that is kept.
    fn id_before(&self, number: u64) -> Box<str> {
        let before = |store: &Store| store.before(number).map(|slot| (slot.number, slot.message.id().map(Box::from)));
        let newest = self.stores.iter().filter_map(before).max_by_key(|(number, _)| *number);
        newest.and_then(|(_, id)| id).unwrap_or_else(|| EARLIEST.into())
    }
}
